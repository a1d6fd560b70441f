"""What a training run watches: sums over its steps and samples of its layers, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._distributed import Workers
from eqprop._share import Share

_PENALTY = "penalty:"  # marks the rows of what regularisers say of themselves
_FLUSH = 16  # steps kept before they are summed: one reduction for many steps costs a fraction of one each


class StepTotals:
    """Sums over the steps of an epoch, on the device; only `read` waits for it.

    A step writes its loss, predictions, residuals, sweeps and statuses into the next row of small buffers; every 16
    steps the rows are reduced into float64 sums. A batch of which no sample entered the gradient (``counted``) has no
    loss: it is left out of loss, error and the samples that both are means over. With several workers each sums what it
    has of the joint batches; what `read`, `metrics` and `state_dict` give is the sum over all, which call them
    together.
    """

    # the first three are what `peek` reads
    _NAMES = (
        "samples",
        "loss",
        "wrong",
        "relaxed",
        "unconverged",
        "residual",
        "free_sweeps",
        "phases",
        "nudged_sweeps",
        "unconverged_any",
        "masked",
        "excluded",
    )

    def __init__(self, device: torch.device, converged: int, workers: Workers | None = None) -> None:
        self._device = device
        self._converged = converged
        self._workers = Workers.alone(device) if workers is None else workers
        self._key: tuple[object, ...] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._rows: list[dict[str, Tensor]] = []
        self._fill = 0
        self.reset()

    def reset(self) -> None:
        dtype = torch.float32 if self._device.type == "mps" else torch.float64  # mps has no float64
        self._sums = torch.zeros(len(self._NAMES), dtype=dtype, device=self._device)
        self._largest = torch.zeros((), dtype=dtype, device=self._device)
        self._penalties: dict[str, Tensor] = {}  # sum and number of samples, by name
        self._fill = 0

    def add(self, step: Any, y: Tensor) -> None:
        """Take in one step: `step` is what `rule.backward` returned, `y` the batch's labels or targets."""
        batch = step.output.shape[0]
        free = getattr(step, "free", None)
        nudged = getattr(step, "nudged", None) or ()
        counted = getattr(step, "counted", None)
        penalties = getattr(step, "penalties", None) or {}
        judged = free is not None and all(hasattr(solution, "status") for solution in nudged)
        key = (batch, free is not None, len(nudged), judged, counted is not None, *penalties)
        if key != self._key:
            self.flush()
            self._allocate(batch, free is not None, len(nudged), judged, counted is not None, list(penalties))
            self._key = key
        row = self._rows[self._fill]
        with torch.no_grad():
            row["loss"].copy_(step.loss)
            torch.argmax(step.output, 1, out=row["guess"])
            if y.dim() == 1:
                row["label"].copy_(y)
            else:
                torch.argmax(y, 1, out=row["label"])
            if free is not None:
                row["residual"].copy_(free.residual)
                row["status"].copy_(free.status)
                row["sweeps"].copy_(free.sweeps)
            for index, solution in enumerate(nudged):
                row[f"nudged{index}"].copy_(solution.sweeps)
                if judged:
                    row[f"end{index}"].copy_(solution.status)
            if counted is not None:
                row["counted"].copy_(counted)
            for name, value in penalties.items():
                row[_PENALTY + name].copy_(value)
        self._fill += 1
        if self._fill == _FLUSH:
            self.flush()

    def _allocate(self, batch: int, free: bool, phases: int, judged: bool, counted: bool, penalties: list[str]) -> None:
        kinds: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "loss": ((), torch.float32),
            "guess": ((batch,), torch.int64),
            "label": ((batch,), torch.int64),
        }
        if free:
            kinds |= {
                "residual": ((batch,), torch.float32),
                "status": ((batch,), torch.int8),
                "sweeps": ((batch,), torch.int32),
            }
        kinds |= {f"nudged{index}": ((batch,), torch.int32) for index in range(phases)}
        if judged:
            kinds |= {f"end{index}": ((batch,), torch.int8) for index in range(phases)}
        if counted:
            kinds["counted"] = ((batch,), torch.bool)
        kinds |= {_PENALTY + name: ((), torch.float32) for name in penalties}
        self._buffers = {
            name: torch.zeros((_FLUSH, *shape), dtype=dtype, device=self._device)
            for name, (shape, dtype) in kinds.items()
        }
        self._rows = [{name: buffer[index] for name, buffer in self._buffers.items()} for index in range(_FLUSH)]

    def flush(self) -> None:
        """Reduce the rows that are waiting."""
        if not self._fill:
            return
        rows = {name: buffer[: self._fill] for name, buffer in self._buffers.items()}
        samples = rows["guess"].numel()
        zero = self._sums.new_zeros(())
        batch = rows["guess"].shape[1]
        parts = dict.fromkeys(self._NAMES, zero)
        heard = torch.ones_like(rows["loss"], dtype=torch.bool)
        if "counted" in rows:  # of a joint batch another process may have found a loss
            heard = rows["counted"].any(1) | ~torch.isnan(rows["loss"])
        parts["samples"] = heard.sum() * batch
        parts["loss"] = rows["loss"].where(heard, 0.0).sum(dtype=self._sums.dtype) * batch
        parts["wrong"] = ((rows["guess"] != rows["label"]) & heard[:, None]).sum()
        if "residual" in rows:
            parts["relaxed"] = zero + samples
            lost = rows["status"] != self._converged
            parts["unconverged"] = lost.sum()
            for name in rows:
                if name.startswith("end"):
                    lost = lost | (rows[name] != self._converged)
            parts["unconverged_any"] = lost.sum()
            parts["residual"] = rows["residual"].sum(dtype=self._sums.dtype)
            parts["free_sweeps"] = rows["sweeps"].sum()
            self._largest = torch.maximum(self._largest, rows["residual"].max().to(self._largest.dtype))
        phases = [rows[name] for name in rows if name.startswith("nudged")]
        if phases:
            parts["phases"] = zero + samples * len(phases)
            parts["nudged_sweeps"] = torch.stack([phase.sum() for phase in phases]).sum()
        if "counted" in rows:
            parts["masked"] = zero + samples
            parts["excluded"] = rows["counted"].logical_not().sum()
        for name in rows:
            if name.startswith(_PENALTY):
                total = rows[name].sum(dtype=self._sums.dtype) * batch
                before = self._penalties.get(name.removeprefix(_PENALTY), 0.0)
                self._penalties[name.removeprefix(_PENALTY)] = before + torch.stack([total, zero + samples])
        self._sums = self._sums + torch.stack([parts[name].to(self._sums.dtype) for name in self._NAMES])
        self._fill = 0

    def peek(self) -> tuple[float, float]:
        """Mean loss and error of this process so far (up to 16 steps late); waits for the device."""
        samples, loss, wrong = self._sums[:3].tolist()
        return (loss / samples, wrong / samples) if samples else (math.nan, math.nan)

    def read(self) -> dict[str, float]:
        """The sums so far; waits for the device."""
        return self._named(self.state_dict())

    def _named(self, state: Mapping[str, Any]) -> dict[str, float]:
        sums = dict(zip(self._NAMES, state["sums"].tolist(), strict=True))
        return sums | {"residual_max": float(state["largest"])}

    def metrics(self) -> dict[str, float]:
        """Means by the names that `History` records."""
        state = self.state_dict()
        sums = self._named(state)

        def mean(total: str, count: str) -> float:
            return sums[total] / sums[count] if sums[count] else math.nan

        return {
            "train_loss": mean("loss", "samples"),
            "train_error": mean("wrong", "samples"),
            "free_sweeps": mean("free_sweeps", "relaxed"),
            "nudged_sweeps": mean("nudged_sweeps", "phases"),
            "unconverged_share": mean("unconverged", "relaxed"),
            "unconverged_any_share": mean("unconverged_any", "relaxed"),
            "residual_mean": mean("residual", "relaxed"),
            "residual_max": sums["residual_max"] if sums["relaxed"] else math.nan,
            **({"excluded_share": mean("excluded", "masked")} if sums["masked"] else {}),
            **{name: total / number for name, (total, number) in state["penalties"].items()},
        }

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        gather = self._workers.gather
        penalties: dict[str, list[float]] = {}
        for found in self._workers.gather_objects({name: pair.tolist() for name, pair in self._penalties.items()}):
            for name, pair in found.items():
                penalties[name] = [a + b for a, b in zip(penalties.get(name, [0.0, 0.0]), pair, strict=True)]
        return {"sums": gather(self._sums).sum(0), "largest": gather(self._largest).max(), "penalties": penalties}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reset()
        self._largest = state["largest"].to(self._largest)
        if self._workers.first:  # the sum over all is one process's to go on with
            self._sums = state["sums"].to(self._sums)
            self._penalties = {name: self._sums.new_tensor(pair) for name, pair in state["penalties"].items()}


class LayerSamples:
    """Norms of parameters and shares of units at their bounds, looked at in some steps of an epoch.

    With several workers each looks at its part of the joint batches, and `read` and `state_dict` give what one process
    would have seen; all call them together.
    """

    def __init__(self, network: nn.Module, workers: Workers | None = None) -> None:
        self._workers = Workers.alone() if workers is None else workers
        self.parameters = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        layers = list(getattr(network, "layers", {}).items())[1:]
        bounds = [(name, getattr(layer.activation, "bounds", None)) for name, layer in layers]
        self.bounds = [(index, name, pair) for index, (name, pair) in enumerate(bounds) if pair is not None]
        self.names = [name for name, _ in layers]
        self.reset()

    def reset(self) -> None:
        self.steps = 0
        self.samples = 0
        self._sums: dict[str, Tensor] = {}
        self._silent: dict[str, Tensor] = {}
        self._before: list[Tensor] = []

    @torch.no_grad()
    def before_update(self) -> None:
        """Keep the parameters, to see how far the optimiser moves them."""
        self._before = [p.detach().clone() for _, p in self.parameters]

    @torch.no_grad()
    def after_update(self, step: Any, share: Share | None = None) -> None:
        """Take in the step that has just been applied; `share` is the part of the joint batch, None for all of it."""
        values: dict[str, Tensor] = {}
        for (name, p), old in zip(self.parameters, self._before, strict=True):
            norm = torch.linalg.vector_norm(p)
            values[f"parameters/{name}/norm"] = norm
            if p.grad is not None:
                values[f"parameters/{name}/gradient_norm"] = torch.linalg.vector_norm(p.grad)
            values[f"parameters/{name}/update_ratio"] = torch.linalg.vector_norm(p - old) / norm.clamp_min(1e-12)
        self._before = []
        free = getattr(step, "free", None)
        if free is not None:
            self.samples += step.output.shape[0] if share is None else share.total
            for index, name, (low, high) in self.bounds:
                state = free.state[index]
                margin = 1e-3 * (high - low) if math.isfinite(high - low) else 1e-6
                at_low = state <= low + margin
                saturated = (at_low | (state >= high - margin)).float().mean()
                silent = at_low.all(0)
                if share is not None:  # of none of them for a borrowed sample, which another process looks at too
                    saturated = saturated * (share.samples / share.total)
                values[f"layers/{name}/saturated_share"] = saturated
                self._silent[name] = self._silent[name] & silent if name in self._silent else silent
        for path, value in values.items():
            self._sums[path] = self._sums[path] + value if path in self._sums else value
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means over the steps looked at, by the names that `History` records; waits for the device once."""
        if not self.steps:
            return {}
        state = self.state_dict()
        names = [*state["sums"], *(f"layers/{name}/dead_share" for name in state["silent"])]
        parts = [s / self.steps for s in state["sums"].values()] + [s.float().mean() for s in state["silent"].values()]
        return dict(zip(names, torch.stack([part.float() for part in parts]).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        sums, silent = dict(self._sums), dict(self._silent)
        if self._workers.size > 1:
            for path in sums:
                if path.startswith("layers/"):  # parameters are the same everywhere
                    sums[path] = self._workers.gather(sums[path]).sum(0)
            for name in silent:
                silent[name] = self._workers.gather(silent[name]).all(0)
        return {"steps": self.steps, "samples": self.samples, "sums": sums, "silent": silent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = next((p.device for _, p in self.parameters), torch.device("cpu"))
        self.steps, self.samples = state["steps"], state["samples"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        if not self._workers.first:  # a sum over all is one process's to go on with
            self._sums = {name: s * (not name.startswith("layers/")) for name, s in self._sums.items()}
        self._silent = {name: value.to(device) for name, value in state["silent"].items()}
