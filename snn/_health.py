"""Whether a liquid is alive: rates, silent and saturated neurons."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._printed import Printed
from snn._neurons import Value

#: What may happen when a liquid is dead or saturated at the end of a run.
ACTIONS = ("raise", "warn", "ignore")


@dataclass(frozen=True, repr=False)
class Health(Printed):
    """Rates of a run and what is wrong with them.

    Attributes:
        mean_rate_hz: over neurons and samples.
        silent_share: of the neurons: no spike in any sample.
        silent_samples: share of the samples in which no neuron fired: a readout cannot tell them apart.
        saturated_share: of the neurons: on average at more than ``SATURATED`` of the highest rate that the refractory
            period of each allows.
        highest_rate_hz: that rate, of the neuron with the shortest period.
        steps, batch: of the run.
    """

    mean_rate_hz: float
    silent_share: float
    silent_samples: float
    saturated_share: float
    highest_rate_hz: float
    steps: int
    batch: int

    DEAD: ClassVar[float] = 0.99  # share of silent neurons from which a liquid counts as dead
    QUIET: ClassVar[tuple[float, float]] = (
        0.1,
        0.5,
    )  # all but dead: shares of silent samples and neurons, both reached
    MUTE: ClassVar[float] = 0.5  # share of silent samples beyond which it is all but dead whatever its neurons do
    FULL: ClassVar[float] = 0.5  # share of saturated neurons from which a liquid counts as saturated
    SATURATED: ClassVar[float] = 0.8

    @staticmethod
    def of(counts: Tensor, steps: int, dt_seconds: float, interval_steps: Value = 1.0) -> Health:
        """From spike counts ``[batch, neurons]`` of ``steps`` steps.

        Args:
            counts: spikes.
            steps, dt_seconds: number and length of the steps.
            interval_steps: fewest between two spikes, of all neurons or ``[neurons]``.

        Raises:
            DataError: no counts of at least one sample, neuron and step.
        """
        if counts.dim() != 2 or not counts.numel() or steps < 1:
            raise DataError(
                f"counts: got shape {tuple(counts.shape)} over {steps} steps, needed [batch, neurons] and a step"
            )
        counts = counts.to(torch.float64)
        rates = counts.mean(0) / (steps * dt_seconds)
        highest = 1.0 / (torch.as_tensor(interval_steps).to(rates).expand_as(rates) * dt_seconds)
        figures = torch.stack(
            [
                rates.mean(),
                (counts.amax(0) == 0).double().mean(),
                (counts.amax(1) == 0).double().mean(),
                (rates > Health.SATURATED * highest).double().mean(),
                highest.max(),
            ]
        ).tolist()  # one look at the device
        mean, silent, samples, saturated, most = figures
        return Health(mean, silent, samples, saturated, most, steps, len(counts))

    @property
    def quiet(self) -> bool:
        """Whether it is dead or all but dead: more drive would help."""
        samples, neurons = self.QUIET
        few = self.silent_samples >= samples and self.silent_share >= neurons
        return self.silent_share >= self.DEAD or few or self.silent_samples > self.MUTE

    @property
    def fault(self) -> str | None:
        """What is wrong, with the numbers and a remedy, or None."""
        over = f"{self.batch} samples of {self.steps} steps"
        if self.silent_share >= self.DEAD:
            return (
                f"the liquid is dead: {self.silent_share:.1%} of its neurons never fired in {over} (mean rate "
                f"{self.mean_rate_hz:.3g} Hz); write snn.calibrate(liquid, inputs, branching=1.0), a larger weight, or "
                "a stronger input"
            )
        if self.quiet:
            return (
                f"the liquid is all but dead: it never fired in {self.silent_samples:.1%} of {over}, and "
                f"{self.silent_share:.1%} of its neurons in none (mean rate {self.mean_rate_hz:.3g} Hz); write "
                "snn.calibrate(liquid, inputs, branching=1.0), a larger weight, or a stronger input"
            )
        if self.saturated_share >= self.FULL:
            return (
                f"the liquid is saturated: {self.saturated_share:.1%} of its neurons fire at more than "
                f"{self.SATURATED:.0%} of what their refractory periods allow (up to {self.highest_rate_hz:.4g} Hz) in "
                f"{over} (mean rate {self.mean_rate_hz:.4g} Hz); write snn.calibrate(liquid, inputs, branching=1.0), "
                "or a smaller weight"
            )
        return None

    def check(self, action: str = "raise") -> Health:
        """Itself, if the liquid is well or ``action`` is ``"ignore"``.

        Raises:
            DataError: a dead or saturated liquid; a warning instead for ``"warn"``.
            ConfigError: an unknown action.
        """
        if require_action(action) != "ignore" and self.fault is not None:
            if action == "raise":
                raise DataError(self.fault + "; or health='warn' to go on")
            warnings.warn(self.fault, RuntimeWarning, stacklevel=3)
        return self


def require_action(action: str) -> str:
    """The action itself.

    Raises:
        ConfigError: unknown.
    """
    if action not in ACTIONS:
        raise ConfigError(f"health: got {action!r}, needed one of {', '.join(ACTIONS)}")
    return action
