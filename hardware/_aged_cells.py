"""What cells are at a moment after their write: aged, at a temperature, and read with noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hardware._ageing import PowerLawDrift
from hardware._cell_array import CellArray
from hardware._clipping import FAR, clipped_moments
from hardware._curves import InversePower
from hardware._device_noise import ReadNoise
from hardware._held_cells import HeldCells
from hardware._moment import Moment
from hardware._scoped_draws import ScopedDraws, mixed
from hardware._streams import Streams
from hardware._units import ROOM_TEMPERATURE_KELVIN


class AgedCells(HeldCells):
    """Cells of a parameter ``[...]`` as time, temperature and reads find them; base of ``Array``."""

    def __init__(
        self,
        key: str,
        weight: Tensor,
        layout: CellArray | None,
        streams: Streams,
        moment: Moment,
        temperature_kelvin: float,
    ) -> None:
        super().__init__(key, weight, layout, streams, moment)
        self._kelvin = temperature_kelvin
        self._draws = ScopedDraws(key, streams, moment)

    # -- ageing and temperature ----------------------------------------------------------------------------------------

    def undisturbed(self) -> Tensor:
        """Conductances now, before a read disturbs them: one object for as long as they are the same."""
        made, kelvin = self.device, self._kelvin
        g = self._aged()
        if kelvin == ROOM_TEMPERATURE_KELVIN:
            return g
        warm: Tensor = self._kept("warm", (g,), lambda: made.at_temperature(g, kelvin))
        return warm

    def _aged(self) -> Tensor:
        made, law = self.device, self.device.ageing
        written = self._as_written
        if law is None:
            return written
        at = self._looked_at()
        youngest, oldest = self.ages(at)
        if oldest == 0.0:
            return written
        kept = self._kept.last("aged")
        touched = self.touched_since(kept[0][0]) if kept is not None and kept[0][1] == at else None

        def aged() -> Tensor:
            if kept is not None and touched is not None:
                return _replaced(kept[1], touched, written)
            coefficient = made.drift_coefficient(written, self._cells_normal)
            moved = made.drifted(written, coefficient, oldest if youngest == oldest else self.age_of_each(at))
            return torch.where(self._cells_stuck, written, moved) if self._has_stuck else moved

        result: Tensor = self._kept("aged", (self._write, at), aged)
        return result

    @property
    def _as_written(self) -> Tensor:
        """The conductances that the last write left: a new object a write."""
        written: Tensor = self._kept("conductance", (self._write,), self.conductance.detach)
        return written

    def _looked_at(self) -> int:
        """The time for which ageing is worked out: the last tick of a clock within whose period nothing moves by more
        than 1e-5 of itself; a function of the time alone, so that a resumed run agrees."""
        ticks: int = self._kept("ticks", (), self._ticks)
        return self._moment.clock - self._moment.clock % ticks

    def _ticks(self) -> int:
        """That period in nanoseconds, a power of two."""
        made, law, noise = self.device, self.device.ageing, self.device.reading
        seconds = 1.0
        if law is not None:
            seconds = 0.0
            if isinstance(law, PowerLawDrift):
                largest = law.largest(float(self._cells_normal.abs().max()))
                seconds = min(1.0, 1e-5 * made.first_read_seconds / max(largest, 1e-9))
        if noise is not None and noise.t_read_seconds is not None:
            growth = float(noise.growth(made.first_read_seconds))
            seconds = min(seconds, 2e-5 * growth**2 * (made.first_read_seconds + noise.t_read_seconds))
        return int(2 ** math.floor(math.log2(max(seconds * 1e9, 1.0))))

    # -- read noise ----------------------------------------------------------------------------------------------------

    def _read_std(self, noise: ReadNoise, g: Tensor) -> tuple[Tensor, float | Tensor]:
        """Standard deviation of a read in two factors: one that a write decides, ``[cells, ...]``, and its growth."""

        def made() -> Tensor:
            strength = self._strength(noise)
            return strength.mul_(g) if noise.relative else strength

        unit: Tensor = self._kept("unit", (self._write, g), made)
        return unit, self._growth(noise)

    def _strength(self, noise: ReadNoise) -> Tensor:
        """That factor of absolute noise; of relative noise, over the conductance; ``[cells, ...]``."""
        q = noise.q(self.conductance, self.device.g_max_siemens)
        q = q if isinstance(noise.q, InversePower) else q.clamp_(min=0.0)
        return q if noise.relative else q.mul_(self.device.g_max_siemens)

    def _correlation(self, noise: ReadNoise) -> float | Tensor:
        """Of the read noise of two phases; of cells whose ages differ, one each, ``[cells, ...]``."""
        layout = self.layout
        if layout is None or layout.read_scope != "phase":
            return 1.0
        if layout.read_correlation is not None:
            return layout.read_correlation
        growth, seconds = self._growth(noise), 1e-9 * self._moment.phase_time
        if not isinstance(growth, Tensor):
            return noise.correlation(growth, seconds)
        each: Tensor = self._kept("correlation", (growth,), lambda: noise.correlation(growth, seconds))
        return each

    def _growth(self, noise: ReadNoise) -> float | Tensor:
        """Of the noise since the last write: one for all cells, or one each."""
        if noise.t_read_seconds is None:
            return 1.0
        at, first = self._looked_at(), self.device.first_read_seconds

        def made() -> float | Tensor:
            least, most = (float(noise.growth(t + first)) for t in self.ages(at))
            # the strength of a noise need not be known better
            return most if most - least <= 1e-3 * most else noise.growth(self.age_of_each(at) + first)

        growth: float | Tensor = self._kept("growth", (self._write, at), made)
        return growth

    def _read(self, noise: ReadNoise, g: Tensor) -> Tensor:
        """``Device.read`` with noise of a scope, and its strength kept between writes: see ``ReadNoise``."""
        layout = self.layout
        if layout is None:
            return g
        unit, growth = self._read_std(noise, g)
        draws = self._draws("read", layout.read_scope, self._correlation(noise), self._write, g)

        def read() -> Tensor:
            seen = torch.addcmul(g, unit * growth, mixed(draws))
            low, high = self._read_bounds
            return seen.clamp_(low, high)

        result: Tensor = self._kept("read", (g, unit, growth, *(d for d, _ in draws)), read)
        return result

    def _clipped(self, noise: ReadNoise, g: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of a read of every cell, exact also where noise meets a bound; None where none cuts off
        anything, so that the mean is ``g`` and the variance that of the noise."""
        if self._far_variance(noise, g) is not None:
            return None
        unit, growth = self._read_std(noise, g)
        moments = lambda: clipped_moments(g, unit * growth, *self._read_bounds)  # noqa: E731
        result: tuple[Tensor, Tensor] = self._kept("moments", (g, unit, growth), moments)
        return result

    def _variance_of_each(self, noise: ReadNoise, g: Tensor) -> Tensor:
        """Of a read of every cell."""
        moments = self._clipped(noise, g)
        if moments is not None:
            return moments[1]
        unit, growth = self._read_std(noise, g)
        return (unit * growth).square_()

    def _far_variance(self, noise: ReadNoise, g: Tensor) -> Tensor | None:
        """Variance of a read, summed over the cells of a parameter, before it grows; None where a bound is so near that
        it cuts off something, or each cell's noise grows by itself."""
        growth = self._growth(noise)
        if isinstance(growth, Tensor):
            return None
        most = FAR * growth

        def made() -> tuple[Tensor | None, float]:
            strength = self._strength(noise)
            if (distance := self._distance(noise, strength, g)) <= most:
                return None, distance
            std = strength.mul_(g) if noise.relative else strength
            return sum_of_squares(std), distance

        variance, distance = self._kept("far", (self._write, g), made)
        return variance if distance > most else None

    @property
    def _read_bounds(self) -> tuple[float, float | None]:
        made = self.device
        return (made.g_min_siemens, made.g_max_siemens) if made.hard_range else (0.0, None)

    def _distance(self, noise: ReadNoise, strength: Tensor, g: Tensor) -> float:
        """The least distance of a conductance from the bounds of a read, in standard deviations before they grow."""
        low, high = self._read_bounds
        if noise.relative and low == 0.0 and high is None:
            return 1.0 / max(float(strength.amax()), 1e-30)
        unit = strength * g if noise.relative else strength
        room = g - low if high is None else torch.minimum(g - low, high - g)
        return float((room / unit).nan_to_num_(nan=torch.inf).min())  # nothing to cut off where there is no noise


def sum_of_squares(parts: Tensor) -> Tensor:
    """Over the first dimension; overwrites ``parts``."""
    first, *more = parts
    first.square_()
    for part in more:
        first.addcmul_(part, part)
    return first


def _replaced(old: Tensor, cells: Tensor, new: Tensor) -> Tensor:
    """``new`` in those cells, 1.0 or 0.0 each or numbers, and ``old`` elsewhere."""
    if cells.is_floating_point():
        return torch.lerp(old, new, cells)
    return old.view(-1).index_copy(0, cells, new.reshape(-1).index_select(0, cells)).view_as(old)
