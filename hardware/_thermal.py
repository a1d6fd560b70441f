"""Noise within the relaxation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eqprop._errors import ConfigError
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed
from hardware._units import BOLTZMANN_JOULES_PER_KELVIN


@dataclass(frozen=True, repr=False)
class ThermalNoise(Printed):
    """White noise on every node's input, drawn anew in each sweep: ``z <- z + std N(0, 1)``.

    A sweep stands for a time that is long against the node's RC, so that the noise of two sweeps is independent, and a
    node that nothing drives has ``<v^2> = kT / C`` (equipartition), ``std = sqrt(kT / C) / volts_per_unit``. Under
    noise no relaxation reaches a tolerance: end phases with ``Sweeps(n)``.

    Attributes:
        capacitance_farads: of a node; or None with
        std: the standard deviation itself, in units of the state.
        volts_per_unit: volts that stand for a state of 1.
        window_sweeps: the state is read as the mean over that many further sweeps at the end of a phase.

    Raises:
        ConfigError: both or neither of ``capacitance_farads`` and ``std``.
    """

    capacitance_farads: float | None = None
    std: float | None = None
    volts_per_unit: float = 1.0
    window_sweeps: int = 1

    def __post_init__(self) -> None:
        if (self.capacitance_farads is None) == (self.std is None):
            raise ConfigError(
                f"ThermalNoise: got capacitance_farads={self.capacitance_farads!r} and std={self.std!r}, needed one of "
                "them; write ThermalNoise(capacitance_farads=1e-12), or ThermalNoise(std=1e-4)"
            )
        if self.capacitance_farads is not None:
            require_number("ThermalNoise.capacitance_farads", self.capacitance_farads, above=0.0)
        if self.std is not None:
            require_number("ThermalNoise.std", self.std, least=0.0)
        require_number("ThermalNoise.volts_per_unit", self.volts_per_unit, above=0.0)
        require_whole("ThermalNoise.window_sweeps", self.window_sweeps, 1)

    def std_at(self, kelvin: float) -> float:
        """Standard deviation in units of the state."""
        if self.capacitance_farads is None:
            return self.std or 0.0
        return math.sqrt(BOLTZMANN_JOULES_PER_KELVIN * kelvin / self.capacitance_farads) / self.volts_per_unit
