"""What a training run costs before it starts: operations, memory and time, as the table that `--plan` prints.

Operations are counted by torch in the code that will run, on tensors without values, so that they hold for every preset
and option: tied or untied weights, average pooling as one strided convolution, stacked phases, homeostasis. The work of
a step is affine in the numbers of sweeps; three counts give its parts. Nothing is trained and no data are read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

import eqprop
from benchmarks._counting import Counts, count_step, step_memory
from benchmarks._presets import SHAPE, Preset
from benchmarks._rates import GPUS, HERE, Rates, rates_of
from eqprop._graph import GraphNetwork
from eqprop._names import lookup

# training images, classes, images held out for validation by default
IMAGES = {
    "cifar10": (50_000, 10, 5_000),
    "cifar100": (50_000, 100, 5_000),
    "cifar10-subset": (15_000, 10, 1_000),
    "imagenet32": (1_281_167, 1_000, 10_000),
}
_LAUNCHES = 2e-4  # seconds; on a GPU a sweep of less is mostly the launch of its kernels, a few microseconds each


def memory(network: GraphNetwork, preset: Preset, rule: eqprop.Rule, batch: int, images: int) -> dict[str, int]:
    """Bytes on the device, by what holds them, but for what the device's libraries take.

    Args:
        batch: samples of one process.
        images: kept on the device as uint8; 0 where they stay in a file.
    """
    parameters = 4 * sum(p.numel() for p in network.parameters())
    found = {"parameters": parameters, "gradients": parameters, "momentum": parameters if preset.momentum else 0}
    found |= step_memory(network, rule, batch, preset.nudged_sweeps)
    found["images, uint8"] = images * math.prod(SHAPE)
    return {name: size for name, size in found.items() if size}


# ---- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        counts: multiply-accumulates a sample.
        free, nudged: sweeps, at most.
        batch, epochs, train, validation: of the run; images.
        processes: that share a batch.
        rates, bytes: see `rates_of`, `memory`.
    """

    title: str
    counts: Counts
    free: int
    nudged: int
    phases: int
    adaptive: bool
    twin: bool
    batch: int
    epochs: int
    train: int
    validation: int
    processes: int
    parameters: int
    rates: Rates
    bytes: dict[str, int]
    note: str = ""

    @property
    def step_parts(self) -> dict[str, tuple[int, bool]]:
        """Multiply-accumulates a sample of a training step, and whether the free phase's precision does them."""
        c = self.counts
        if self.twin:
            return {
                "forward pass of the twin": (c.drive + c.sweep, False),
                "backward pass": (c.rest, False),
            }
        bound = "at most " if self.adaptive else ""
        parts = {"drive of the input, once a sample": (c.drive, False)}
        if c.sweep:
            parts[f"free phase, {bound}{self.free} sweeps of {_big(c.sweep)}"] = (self.free * c.sweep, True)
        if c.nudged_sweep:
            per = c.nudged_sweep // self.phases
            parts[f"{self.phases} x {self.nudged} sweeps of {_big(per)} after it"] = (
                self.nudged * c.nudged_sweep,
                False,
            )
        parts["gradients and the rest" if c.sweep else "the twin, forwards and backwards"] = (c.rest, False)
        return parts

    @property
    def per_sample(self) -> int:
        """Multiply-accumulates of a training step, a sample."""
        return sum(work for work, _ in self.step_parts.values())

    @property
    def validation_per_sample(self) -> int:
        """The same of an evaluation."""
        return self.counts.drive + self.free * self.counts.sweep + self.counts.once

    @property
    def epoch(self) -> int:
        """Multiply-accumulates of an epoch with its validation."""
        return self.train * self.per_sample + self.validation * self.validation_per_sample

    @property
    def seconds_a_sample(self) -> float:
        """Time of a training step, a sample, on all processes together."""
        return self._seconds(self.step_parts.values())

    @property
    def seconds_an_epoch(self) -> float:
        """Time of an epoch with its validation."""
        check = self._seconds(
            [(self.counts.drive + self.counts.once, False), (self.free * self.counts.sweep, not self.twin)]
        )
        return self.train * self.seconds_a_sample + self.validation * check

    @property
    def seconds_a_sweep(self) -> float:
        """Time of a sweep of the free phase on the batch of a process."""
        return self.batch * self._seconds([(self.counts.sweep, not self.twin)])

    def _seconds(self, parts: Iterable[tuple[int, bool]]) -> float:
        return sum(work / (self.rates.free if low else self.rates.full) for work, low in parts) / self.processes

    def table(self) -> str:
        """The plan as text."""
        rows = [("multiply-accumulates", "a sample", "a step", "an epoch", "the run")]
        for name, (work, _) in self.step_parts.items():
            rows.append(self._row(f"  {name}", work))
        if self.validation:
            work = self.validation * self.validation_per_sample
            one = _big(self.validation_per_sample)
            rows.append((f"  validation of {self.validation:,} images", one, "", _big(work), _big(self.epochs * work)))
        total = self.epoch
        rows.append(
            (
                "  in all",
                _big(self.per_sample),
                _big(self.batch * self.per_sample),
                _big(total),
                _big(self.epochs * total),
            )
        )
        first, rest = max(len(name) for name in [*(row[0] for row in rows), *(f"  {b}" for b in self.bytes)]), 10
        lines = [self.title, self._size(), ""]
        lines += [f"{row[0]:<{first}}" + "".join(f"{cell:>{rest}}" for cell in row[1:]) for row in rows]
        lines += ["", "memory of a process, counted" if self.processes > 1 else "memory, counted"]
        shown = {**self.bytes, "in all": sum(self.bytes.values())}
        lines += [f"  {name:<{first - 2}}{_bytes(size):>{rest}}" for name, size in shown.items()]
        step = self.batch * self.seconds_a_sample
        lines += ["", f"time on {self.rates.text}" + (f"; {self.processes} processes" if self.processes > 1 else "")]
        for name, seconds in (
            ("a step", step), ("an epoch", self.seconds_an_epoch), ("the run", self.epochs * self.seconds_an_epoch),
        ):  # fmt: skip
            lines.append(f"  {name:<{first - 2}}{_time(seconds):>{rest}}")
        return "\n".join(lines + ([self.note] if self.note else []))

    def _row(self, name: str, work: int) -> tuple[str, str, str, str, str]:
        epoch = self.train * work
        return name, _big(work), _big(self.batch * work), _big(epoch), _big(self.epochs * epoch)

    def _size(self) -> str:
        steps = math.ceil(self.train / self.batch)
        return (
            f"{self.parameters:,} parameters; {self.epochs} epoch{'s' * (self.epochs != 1)} of {self.train:,} images, "
            f"{steps:,} steps of {self.batch}"
        )


def make_plan(
    preset: Preset,
    rule: eqprop.Rule,
    *,
    title: str,
    dataset: str,
    where: str,
    products: str | None,
    device: torch.device,
    validation: int | None = None,
    limit: int | None = None,
    processes: int = 1,
) -> Plan:
    """The cost of training a preset with a rule on a data set of the official size.

    Raises:
        ConfigError: settings that fit no network, or a GPU that is not in the table.
    """
    images, classes, held = IMAGES[dataset]
    held = held if validation is None else validation
    most = images if limit is None else limit
    train, held = min(images - held, most), min(held, most)
    if where != HERE:
        lookup("--plan", where, GPUS)
    network = preset.build(classes, torch.Generator().manual_seed(0))
    counts, twin = count_step(network, rule, preset.nudged_sweeps), isinstance(rule, eqprop.Backprop)
    batch = math.ceil(preset.batch_size / processes)
    ep = isinstance(rule, eqprop.EquilibriumPropagation)
    note = ""
    if products and not (ep and preset.contour == "centred" and preset.readout == "contrast"):
        note = "Not counted: the free phase ends with sweeps in float32, to tolerance, for its state is read itself."
    plan = Plan(
        title=title,
        counts=counts,
        free=1 if twin else preset.free_sweeps,
        nudged=preset.nudged_sweeps,
        phases=preset.phases if ep else 1,
        adaptive=preset.tol is not None,
        twin=twin,
        batch=preset.batch_size,
        epochs=preset.epochs,
        train=train,
        validation=held,
        processes=processes,
        parameters=sum(p.numel() for p in network.parameters()),
        rates=rates_of(where, network.to(device) if where == HERE else network, batch, products),
        bytes=memory(network, preset, rule, batch, 0 if dataset == "imagenet32" else images),
        note=note,
    )
    if where == HERE or plan.seconds_a_sweep >= _LAUNCHES:
        return plan
    short = "So short a sweep is bound by the launch of its kernels: it will take several times this."
    return dataclasses.replace(plan, note="\n".join(filter(None, (note, short))))


def _big(n: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n < 999.5 * size else f"{n / size:.0f} {unit}"
    return f"{n:.0f}"


def _bytes(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (2 * size if size > 1 else 1):
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"
