"""What a training run watches: sums over its steps and samples of its layers, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_FLUSH = 16  # steps kept before they are summed: one reduction for many steps costs a fraction of one each


class StepTotals:
    """Sums over the steps of an epoch, on the device; only `read` waits for it.

    A step writes its loss, predictions, residuals, sweeps and statuses into the next row of small buffers; every 16
    steps the rows are reduced into float64 sums.
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
    )

    def __init__(self, device: torch.device, converged: int) -> None:
        self._device = device
        self._converged = converged
        self._key: tuple[int, ...] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._rows: list[dict[str, Tensor]] = []
        self._fill = 0
        self.reset()

    def reset(self) -> None:
        dtype = torch.float32 if self._device.type == "mps" else torch.float64  # mps has no float64
        self._sums = torch.zeros(len(self._NAMES), dtype=dtype, device=self._device)
        self._largest = torch.zeros((), dtype=dtype, device=self._device)
        self._fill = 0

    def add(self, step: Any, y: Tensor) -> None:
        """Take in one step: `step` is what `rule.backward` returned, `y` the batch's labels or targets."""
        batch = step.output.shape[0]
        free = getattr(step, "free", None)
        nudged = getattr(step, "nudged", None) or ()
        key = (batch, free is not None, len(nudged))
        if key != self._key:
            self.flush()
            self._allocate(batch, free is not None, len(nudged))
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
        self._fill += 1
        if self._fill == _FLUSH:
            self.flush()

    def _allocate(self, batch: int, free: bool, phases: int) -> None:
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
        parts["samples"] = zero + samples
        parts["loss"] = rows["loss"].sum(dtype=self._sums.dtype) * batch
        parts["wrong"] = (rows["guess"] != rows["label"]).sum()
        if "residual" in rows:
            parts["relaxed"] = zero + samples
            parts["unconverged"] = (rows["status"] != self._converged).sum()
            parts["residual"] = rows["residual"].sum(dtype=self._sums.dtype)
            parts["free_sweeps"] = rows["sweeps"].sum()
            self._largest = torch.maximum(self._largest, rows["residual"].max().to(self._largest.dtype))
        phases = [rows[name] for name in rows if name.startswith("nudged")]
        if phases:
            parts["phases"] = zero + samples * len(phases)
            parts["nudged_sweeps"] = torch.stack([phase.sum() for phase in phases]).sum()
        self._sums = self._sums + torch.stack([parts[name].to(self._sums.dtype) for name in self._NAMES])
        self._fill = 0

    def peek(self) -> tuple[float, float]:
        """Mean loss and error so far (up to 16 steps late); waits for the device."""
        samples, loss, wrong = self._sums[:3].tolist()
        return (loss / samples, wrong / samples) if samples else (math.nan, math.nan)

    def read(self) -> dict[str, float]:
        """The sums so far; waits for the device."""
        self.flush()
        return dict(zip(self._NAMES, self._sums.tolist(), strict=True)) | {"residual_max": float(self._largest)}

    def metrics(self) -> dict[str, float]:
        """Means by the names that `History` records."""
        sums = self.read()

        def mean(total: str, count: str) -> float:
            return sums[total] / sums[count] if sums[count] else math.nan

        return {
            "train_loss": mean("loss", "samples"),
            "train_error": mean("wrong", "samples"),
            "free_sweeps": mean("free_sweeps", "relaxed"),
            "nudged_sweeps": mean("nudged_sweeps", "phases"),
            "unconverged_share": mean("unconverged", "relaxed"),
            "residual_mean": mean("residual", "relaxed"),
            "residual_max": sums["residual_max"] if sums["relaxed"] else math.nan,
        }

    def state_dict(self) -> dict[str, Any]:
        self.flush()
        return {"sums": self._sums, "largest": self._largest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = state["sums"].to(self._sums)
        self._largest = state["largest"].to(self._largest)
        self._fill = 0


class LayerSamples:
    """Norms of parameters and shares of units at their bounds, looked at in some steps of an epoch."""

    def __init__(self, network: nn.Module) -> None:
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
    def after_update(self, step: Any) -> None:
        """Take in the step that has just been applied."""
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
            self.samples += step.output.shape[0]
            for index, name, (low, high) in self.bounds:
                state = free.state[index]
                margin = 1e-3 * (high - low) if math.isfinite(high - low) else 1e-6
                at_low = state <= low + margin
                values[f"layers/{name}/saturated_share"] = (at_low | (state >= high - margin)).float().mean()
                silent = at_low.all(0)
                self._silent[name] = self._silent[name] & silent if name in self._silent else silent
        for path, value in values.items():
            self._sums[path] = self._sums[path] + value if path in self._sums else value
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means over the steps looked at, by the names that `History` records; waits for the device once."""
        if not self.steps:
            return {}
        names = [*self._sums, *(f"layers/{name}/dead_share" for name in self._silent)]
        parts = [s / self.steps for s in self._sums.values()] + [s.float().mean() for s in self._silent.values()]
        return dict(zip(names, torch.stack([part.float() for part in parts]).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "samples": self.samples, "sums": self._sums, "silent": self._silent}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device = next((p.device for _, p in self.parameters), torch.device("cpu"))
        self.steps, self.samples = state["steps"], state["samples"]
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._silent = {name: value.to(device) for name, value in state["silent"].items()}
