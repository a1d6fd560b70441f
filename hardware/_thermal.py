"""Noise within the relaxation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._langevin import Langevin
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed
from hardware._units import BOLTZMANN_JOULES_PER_KELVIN

_Draw = Callable[[int, Tensor, int], Tensor]


@dataclass(frozen=True, repr=False)
class ThermalNoise(Printed):
    """Johnson noise of the nodes: one that nothing drives has ``<v^2> = kT / C`` (equipartition).

    How large it is the substrate says, ``std = sqrt(kT / C) / volts_per_unit``; how it acts the solver of the rule:

    - block minimisers (``eqprop.Alternating()``, ``Synchronous()``): white noise on every node's input, drawn anew in
      each sweep, ``z <- z + std N(0, 1)``. A sweep stands for a time that is long against the node's RC, so that the
      noise of two sweeps is independent.
    - ``eqprop.Langevin(dt)``: the dynamics in time, ``C dv = -dE/dv dt + sqrt(2 k T G) dW``, with this temperature and
      from the chip's streams. ``langevin(step_seconds, window_seconds)`` gives the solver in physical time.

    Under noise no relaxation reaches a tolerance: end phases with ``Sweeps(n)``.

    Attributes:
        capacitance_farads: of a node; or None with
        std: the standard deviation itself, in units of the state.
        volts_per_unit: volts that stand for a state of 1.
        window_sweeps: the state is read as the mean over that many further sweeps at the end of a phase; for block
            minimisers (``Langevin`` has a window of its own).
        conductance_siemens: leak of a node, for its time constant ``C / G``; None where time is in units of that.

    Raises:
        ConfigError: both or neither of ``capacitance_farads`` and ``std``.
    """

    capacitance_farads: float | None = None
    std: float | None = None
    volts_per_unit: float = 1.0
    window_sweeps: int = 1
    conductance_siemens: float | None = None

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
        if self.conductance_siemens is not None:
            require_number("ThermalNoise.conductance_siemens", self.conductance_siemens, above=0.0)

    def std_at(self, kelvin: float) -> float:
        """Standard deviation in units of the state."""
        if self.capacitance_farads is None:
            return self.std or 0.0
        return math.sqrt(BOLTZMANN_JOULES_PER_KELVIN * kelvin / self.capacitance_farads) / self.volts_per_unit

    @property
    def time_constant_seconds(self) -> float | None:
        """``C / G`` of a node; None where one of them is not known."""
        if self.capacitance_farads is None or self.conductance_siemens is None:
            return None
        return self.capacitance_farads / self.conductance_siemens

    def langevin(self, step_seconds: float, window_seconds: float = 0.0) -> Langevin:
        """The solver that takes such steps on a chip, and averages its state over such a time.

        Raises:
            ConfigError: a node's time constant that is not known, or that is shorter than a step.
        """
        tau = self.time_constant_seconds
        if tau is None:
            raise ConfigError(
                f"ThermalNoise: got capacitance_farads={self.capacitance_farads!r} and conductance_siemens="
                f"{self.conductance_siemens!r}, needed both for steps in seconds; write eqprop.Langevin(dt=0.1) for "
                "steps in units of the time constant"
            )
        require_number("langevin: step_seconds", step_seconds, above=0.0)
        require_number("langevin: window_seconds", window_seconds, least=0.0)
        if step_seconds > tau:
            raise ConfigError(
                f"langevin: got steps of {step_seconds:g} s, needed at most one time constant of a node, {tau:g} s; "
                f"write step_seconds={0.1 * tau:.3g}"
            )
        # a ratio of decimals is not quite that of what they stand for
        return Langevin(dt=float(f"{step_seconds / tau:.12g}"), window=max(1, round(window_seconds / step_seconds)))


class ThermalBath:
    """What ``eqprop.Langevin`` asks of a chip: its temperature, and the noise of its streams."""

    def __init__(self, noise: ThermalNoise, kelvin: float, begin: Callable[[], None], normal: _Draw) -> None:
        self.temperature = noise.std_at(kelvin) ** 2
        self._window, self._begin, self.normal = noise.window_sweeps, begin, normal

    def begin(self) -> None:
        """See ``eqprop._network.Bath``."""
        if self._window > 1:
            raise ConfigError(
                f"ThermalNoise: got window_sweeps={self._window} and a Langevin solver, which averages by itself; "
                f"write ThermalNoise(window_sweeps=1) and Langevin(window={self._window})"
            )
        self._begin()
