"""When a training run is given up: NaN, dead or saturated layers, accuracy stuck at chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eqprop._errors import ConfigError
from eqprop._monitor import LayerSamples

NOTHING_COUNTED = "no sample's phases converged"  # how a reason begins for which MORE_SWEEPS is the advice
MORE_SWEEPS = (
    "Allow more sweeps in free=/nudged=, a smaller beta, or exclude_unconverged=False; where samples converged at "
    "first, a smaller learning rate."
)


@dataclass(frozen=True)
class Guard:
    """When a run is stopped because it cannot succeed any more.

    Args:
        check_every: most steps between two looks at the run; each waits for the device once. Small data sets are looked
            at more often: at least 5 times an epoch, and often enough to see `min_samples`.
        dead_share: a layer with more than this share of its units at their lower bound for every sample looked
            at in the epoch is dead: no gradient reaches it.
        dead_outputs: the same for the output layer, after at least one epoch and while the error is worse than half of
            chance: classes whose outputs are stuck are never chosen.
        saturated_share: a hidden layer with more than this share of its states at a bound is saturated; a failure only
            while the error is also worse than half of chance (a network may work with saturated units).
        chance_margin: the error counts as chance from `1 - chance_margin / classes`.
        chance_after_steps: steps (and at least one epoch) at that error, without a falling loss, that end the run.
            A learning rate far too high shows like this, with no NaN at all.
        min_samples: samples to look at before a layer is called dead or saturated.
    """

    check_every: int = 100
    dead_share: float = 0.99
    dead_outputs: float = 0.4
    saturated_share: float = 0.99
    chance_margin: float = 1.2
    chance_after_steps: int = 1000
    min_samples: int = 32

    def __post_init__(self) -> None:
        for name in ("check_every", "chance_after_steps", "min_samples"):
            if int(getattr(self, name)) < 1:
                raise ConfigError(f"Guard({name}={getattr(self, name)!r}): needed a whole number of at least 1.")

    def interval(self, steps_per_epoch: int, batch_size: int) -> int:
        """Steps between two looks."""
        looks = max(5, math.ceil(self.min_samples / batch_size) + 1)
        return min(self.check_every, max(1, steps_per_epoch // looks))


@dataclass
class Watch:
    """Applies a `Guard` to the figures of one run; `classes` sets the chance level."""

    guard: Guard
    classes: int
    # [steps, samples, loss, wrong]: of each look, newest last; and of the epoch up to the newest look
    records: list[list[float]] = field(default_factory=list)
    seen: list[float] = field(default_factory=lambda: [0.0] * 4)

    def start_epoch(self) -> None:
        self.seen = [0.0] * 4

    def look(self, steps: int, sums: Mapping[str, float], layers: LayerSamples, steps_per_epoch: int) -> str | None:
        """Why the run should stop, or None. `steps` and `sums` (see `StepTotals.read`) count from the epoch's start."""
        now = [float(steps), sums["samples"], sums["loss"], sums["wrong"]]
        shares = layers.read()
        if not math.isfinite(sums["loss"]):
            return "the loss is not finite (NaN or infinity)"
        for name, _ in layers.parameters:
            if not math.isfinite(shares.get(f"parameters/{name}/norm", 0.0)):
                return f"the parameter {name!r} is not finite (NaN or infinity)"
        if now[0] > self.seen[0]:
            self.records.append([a - b for a, b in zip(now, self.seen, strict=True)])
        self.seen = now
        needed = max(self.guard.chance_after_steps, steps_per_epoch)
        while len(self.records) > 2 and sum(r[0] for r in self.records[1:]) >= needed:
            del self.records[0]
        silent = self._silent_steps()
        # one batch that is lost is no failure, unless it is all there is
        if silent >= min(self.guard.check_every, steps_per_epoch):
            return f"{NOTHING_COUNTED} in the last {silent:.0f} steps, so that nothing was learned from them"
        error = sum(r[3] for r in self.records) / max(sum(r[1] for r in self.records), 1)
        taken = sum(r[0] for r in self.records)
        if layers.samples >= self.guard.min_samples:
            reason = self._layers(shares, layers, error, whole_epoch=taken >= steps_per_epoch)
            if reason is not None:
                return reason
        if taken >= needed and len(self.records) > 1 and error >= 1 - self.guard.chance_margin / self.classes:
            middle = len(self.records) // 2
            early, late = self._mean_loss(self.records[:middle]), self._mean_loss(self.records[middle:])
            if late > 0.98 * early:
                return (
                    f"the training error is {error:.1%} over the last {taken:.0f} steps (chance for {self.classes} "
                    f"classes is {1 - 1 / self.classes:.1%}) and the loss does not fall ({early:.4g}, then {late:.4g})"
                )
        return None

    def _layers(
        self, shares: Mapping[str, float], layers: LayerSamples, error: float, *, whole_epoch: bool
    ) -> str | None:
        bad = error > 0.5 * (1 - 1 / self.classes)
        for name in layers.names:
            hidden = name != layers.names[-1]
            dead = shares.get(f"layers/{name}/dead_share", 0.0)
            stuck_outputs = not hidden and whole_epoch and bad and dead > self.guard.dead_outputs
            if dead > self.guard.dead_share or stuck_outputs:
                return (
                    f"layer {name!r} is dead: {dead:.1%} of its units stayed at their lower bound for all "
                    f"{layers.samples} samples looked at, so no gradient reaches them"
                )
            saturated = shares.get(f"layers/{name}/saturated_share", 0.0)
            # the targets of an output layer may be its bounds
            if hidden and bad and saturated > self.guard.saturated_share:
                return (
                    f"layer {name!r} is saturated: {saturated:.1%} of its states are at a bound of the activation, "
                    f"and the training error is {error:.1%}"
                )
        return None

    def _silent_steps(self) -> float:
        """Newest steps of which no sample counted."""
        steps = 0.0
        for record in reversed(self.records):
            if record[1]:
                break
            steps += record[0]
        return steps

    @staticmethod
    def _mean_loss(records: list[list[float]]) -> float:
        return sum(r[2] for r in records) / max(sum(r[1] for r in records), 1)

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records, self.seen = [list(r) for r in state["records"]], list(state["seen"])
