"""The astrocyte of NALSM: a leaky integrator of activity that sets how fast synapses are depressed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardware._device_checks import require_number
from hardware._printed import Printed


@dataclass(frozen=True, repr=False)
class Astrocyte(Printed):
    """One astrocyte for a liquid (Ivanov & Michmizos, NeurIPS 2021, equation 7).

    ``A <- A + dt / tau (gain (spikes of the liquid - spikes of the input) + bias - A)``: a liquid that is more active
    than its input is depressed faster. A is the rate of depression and is not kept from becoming negative.

    Attributes:
        gain: what a spike adds, 0.015 for 1,000 neurons and 0.0075 for 8,000.
        start: A at the start of a sample.
        bias: where A rests.
        tau_seconds: of the leak.

    Raises:
        ConfigError: values that are not finite, or a time that is not positive.
    """

    gain: float = 0.015
    start: float = 0.15
    bias: float = 0.15
    tau_seconds: float = 0.1

    def __post_init__(self) -> None:
        for name in ("gain", "start", "bias"):
            require_number(f"Astrocyte.{name}", getattr(self, name))
        require_number("Astrocyte.tau_seconds", self.tau_seconds, above=0.0)

    def initial(self, like: Tensor) -> Tensor:
        """A of every sample, ``[batch]``, for ``like [neurons, batch]``."""
        return like.new_full((like.shape[1],), self.start)

    def step(self, level: Tensor, spikes: Tensor, input_spikes: Tensor, scale: float, dt_seconds: float) -> None:
        """One step of A, in place; ``scale`` is that of gain and bias, which fade with the other rates."""
        wanted = (spikes.sum(0) - input_spikes.sum(0)).mul_(self.gain * scale).add_(self.bias * scale)
        level.add_(wanted.sub_(level).mul_(dt_seconds / self.tau_seconds))  # rounded twice: as compiled loops do
