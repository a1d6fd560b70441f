"""A device: what one kind of memory cell does when it is written, left alone and read, as data.

A device holds parameters only. What belongs to single cells (their bounds, steps, drift) is in ``Cells``; what belongs
to a moment (conductances, the time of the last write) stays with the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware import _ageing, _curves, _device_noise, _pulse_response, _step_laws
from hardware._ageing import Ageing, Span
from hardware._cell_draws import CellDraws
from hardware._curves import constant
from hardware._device_checks import normal, require_conductance, require_generator, require_seconds, uniform
from hardware._device_noise import Activation, ProgrammingNoise, RandomFormation, ReadNoise
from hardware._device_text import describe
from hardware._device_validation import check_device, check_targets
from hardware._json import from_spec, to_spec
from hardware._pulse_response import PulseResponse
from hardware._pulsing import Pulsed
from hardware._step_laws import Cells


@dataclass(frozen=True)
class Device(Pulsed):
    """A memory cell whose conductance is a weight.

    All parts are optional: a device without a part does not suffer from it. Curves are functions of ``x = g / g_max``
    and give shares of g_max, so that ``rescaled`` takes the noise along.

    Attributes:
        name: short name.
        g_min_siemens, g_max_siemens: range onto which weights are mapped.
        programming: error of a closed-loop write.
        ageing: drift, relaxation or leakage after a write.
        reading: noise of a read.
        activation: dependence on temperature.
        pulses: response to open-loop pulses.
        formation: cells that are made at random and cannot be written.
        levels: number of equally spaced targets of a closed-loop write, or None for any.
        first_read_seconds: from the write pulse to the read that decides what the written value is called; drift and
            accumulated noise are counted from the pulse. A chip that verifies at once has a smaller one than the
            published 20 s and more; write ``dataclasses.replace(device, first_read_seconds=1e-6)``.
        hard_range: whether a conductance can leave the range (no, for True) by noise or ageing.
        note: where the numbers come from, and what was assumed.

    Raises:
        ConfigError: an impossible range, fewer than 2 levels, a standard deviation below 0 somewhere in the range.
    """

    name: str
    g_min_siemens: float
    g_max_siemens: float
    programming: ProgrammingNoise | None = None
    ageing: Ageing | None = None
    reading: ReadNoise | None = None
    activation: Activation | None = None
    pulses: PulseResponse | None = None
    formation: RandomFormation | None = None
    levels: int | None = None
    first_read_seconds: float = 0.0
    hard_range: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        check_device(self)

    # -- writing -------------------------------------------------------------------------------------------------------

    def programming_std_siemens(self, g: Tensor) -> Tensor:
        """Standard deviation of a closed-loop write at target ``g``; any shape."""
        x = self._relative(require_conductance("g", g))
        if self.programming is None:
            return torch.zeros_like(g)
        return self.programming.std(x).clamp(min=0.0) * self.g_max_siemens

    def program(
        self,
        g_target: Tensor,
        generator: torch.Generator | CellDraws,
        cells: Cells | None = None,
        *,
        checked: bool = True,
    ) -> Tensor:
        """What a closed-loop write of ``g_target`` leaves: rounded to a level, with bias and noise, within bounds.

        Args:
            g_target: in siemens, any shape.
            generator: source of the noise.
            cells: where given, bounds a cell, so that stuck cells stay stuck.
            checked: whether to look at the targets, which costs a pass over them; not where they are in range for sure.

        Raises:
            DataError: targets outside the range (looked at on the CPU), NaN.
            ConfigError: a device that cannot be written, no generator.
        """
        require_generator(generator)
        if checked:
            check_targets(self, require_conductance("g_target", g_target))
        if self.formation is not None:
            raise ConfigError(
                f"{self.name}: got a write, needed a device that can be written: its cells are made at random once; "
                "write device.form(shape, generator)"
            )
        g = self.nearest_level(g_target)
        if self.programming is not None:
            unit, bias = self.g_max_siemens, self.programming.bias
            std, drawn = self.programming.std(g, unit).clamp_(min=0.0), normal(g.shape, generator, g)
            if bias == constant(0.0):
                g = torch.addcmul(g, std, drawn, value=unit, out=std)
            else:
                g = torch.add(g, std.mul_(drawn).add_(bias(g, unit)), alpha=unit)
        return self._bounded(g, cells, owned=g is not g_target)

    def nearest_level(self, g: Tensor) -> Tensor:
        """The nearest of the levels, or ``g`` itself where there are none."""
        if self.levels is None:
            return g
        step = (self.g_max_siemens - self.g_min_siemens) / (self.levels - 1)
        return self.g_min_siemens + step * ((g - self.g_min_siemens) / step).round()

    def form(self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
        """Conductances of cells that were formed at random, on the CPU.

        Raises:
            ConfigError: a device whose cells are written, no generator.
        """
        require_generator(generator)
        if self.formation is None:
            raise ConfigError(
                f"{self.name}: got form(), needed a device with a random formation, as 'random-switching'; "
                "write device.program(g_target, generator)"
            )
        like = torch.empty((), dtype=dtype or torch.get_default_dtype())
        law = self.formation
        size = (law.mean_siemens + law.std_siemens * normal(tuple(shape), generator, like)).clamp(
            min=law.pristine_siemens
        )
        return torch.where(uniform(tuple(shape), generator, like) < law.share, size, law.pristine_siemens)

    # -- ageing and reading --------------------------------------------------------------------------------------------

    def drift_coefficient(self, g: Tensor, normals: Tensor) -> Tensor:
        """What decides how a cell written to ``g`` moves: an exponent nu, a rate per second, or a normal number.

        Args:
            g: as written.
            normals: standard normal numbers a cell, ``cells.normal``: one cell keeps its own over all its writes.
        """
        require_conductance("g", g)
        return torch.zeros_like(g) if self.ageing is None else self.ageing.coefficient(self._relative(g), normals)

    def draw_drift(self, g: Tensor, generator: torch.Generator) -> Tensor:
        """``drift_coefficient`` with fresh normal numbers."""
        return self.drift_coefficient(g, normal(g.shape, require_generator(generator), g))

    def drifted(self, g: Tensor, coefficient: Tensor, seconds_since_write: float | Tensor) -> Tensor:
        """Conductance at that time after the write was finished and verified.

        Args:
            g: as written.
            coefficient: ``drift_coefficient(g, ...)``.
            seconds_since_write: a number, or a tensor that broadcasts: a clock a cell, restarted at each write.

        Raises:
            DataError: a time before the write.
        """
        seconds = require_seconds("seconds_since_write", seconds_since_write)
        require_conductance("g", g)
        if self.ageing is None:
            return g
        aged = self.ageing.after(
            g, coefficient, seconds, Span(self.g_min_siemens, self.g_max_siemens, self.first_read_seconds)
        )
        return self._bounded(aged, None)

    def read_noise_std_siemens(
        self, g: Tensor, seconds_since_write: float | Tensor = 0.0, programmed: Tensor | None = None
    ) -> Tensor:
        """Standard deviation of one read of ``g``.

        Args:
            g: the conductance now.
            seconds_since_write: a number or a tensor that broadcasts.
            programmed: the conductance as written, on which the strength of the noise depends; ``g`` where None.

        Raises:
            DataError: a time before the write.
        """
        seconds = require_seconds("seconds_since_write", seconds_since_write)
        require_conductance("g", g)
        if self.reading is None:
            return torch.zeros_like(g)
        q = self.reading.q(self._relative(g if programmed is None else programmed)).clamp(min=0.0)
        scale = g if self.reading.relative else self.g_max_siemens
        return q * scale * self.reading.growth(seconds + self.first_read_seconds)

    def read(
        self,
        g: Tensor,
        generator: torch.Generator,
        seconds_since_write: float | Tensor = 0.0,
        programmed: Tensor | None = None,
    ) -> Tensor:
        """``g`` with read noise drawn once, never below 0 S."""
        std = self.read_noise_std_siemens(g, seconds_since_write, programmed)
        if self.reading is None:
            return g
        return self._bounded(torch.addcmul(g, std, normal(g.shape, require_generator(generator), g)), None)

    def at_temperature(self, g: Tensor, kelvin: float) -> Tensor:
        """``g``, meant at the reference temperature, at another one.

        Raises:
            ConfigError: not above 0 K, or a device for which no dependence on temperature is known.
        """
        x = self._relative(require_conductance("g", g))
        if self.activation is None:
            raise ConfigError(
                f"{self.name}: got temperature {kelvin!r} K, needed a device whose dependence on temperature is known, "
                "as 'pcm'; write dataclasses.replace(device, activation=hardware.Activation(...)), or with "
                "hardware.Activation(hardware.Polynomial((0.0,))) for conductances that do not depend on it, where the "
                "noise of nodes alone is of interest"
            )
        return g * self.activation.factor(x, kelvin)

    # -- data ----------------------------------------------------------------------------------------------------------

    def rescaled(self, g_min_siemens: float, g_max_siemens: float) -> Device:
        """The same device on another range; all noise in proportion to g_max, steps in proportion to the range."""
        made = replace(self, g_min_siemens=g_min_siemens, g_max_siemens=g_max_siemens)
        if self.formation is None:
            return made
        return replace(made, formation=self.formation.scaled(g_max_siemens / self.g_max_siemens))

    def describe(self) -> str:
        """What a cell suffers, in words and numbers, a line a part."""
        return describe(self)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description."""
        described: dict[str, Any] = to_spec(self)
        return described

    @staticmethod
    def from_spec(spec: dict[str, Any]) -> Device:
        """The device that ``spec`` described.

        Raises:
            ConfigError: an unknown part or field, or values that a device refuses.
        """
        return from_spec(spec, Device, _PARTS)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _relative(self, g: Tensor) -> Tensor:
        return g / self.g_max_siemens

    def _bounded(self, g: Tensor, cells: Cells | None, owned: bool = False) -> Tensor:
        """``g`` within the bounds of the range and of its cells; in its place where it is ``owned``."""
        if self.hard_range:
            g = g.clamp(self.g_min_siemens, self.g_max_siemens)
        elif cells is None:  # the lower bounds of cells are at least 0 S
            g = g.clamp(min=0.0)
        if cells is None:
            return g
        return torch.clamp(g, cells.low_siemens, cells.high_siemens, out=g if owned else None)


_PARTS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Device,
        *(_curves.Polynomial, _curves.ClippedLog, _curves.InversePower, _curves.Split, _curves.Table),
        *(_ageing.PowerLawDrift, _ageing.LogRelaxation, _ageing.TabulatedRelaxation, _ageing.Leak),
        *(_device_noise.ProgrammingNoise, _device_noise.ReadNoise, _device_noise.Activation),
        *(_device_noise.RandomFormation, _pulse_response.PulseResponse, _step_laws.ConstantStep),
        *(_step_laws.LinearStep, _step_laws.SoftBounds, _step_laws.ExponentialStep, _step_laws.PowerStep),
        _step_laws.PiecewiseStep,
    )
}
