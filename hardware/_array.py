"""The arrays of a chip: what the weights of a connection really are at a moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from eqprop._connections import Connection
from eqprop._errors import ConfigError
from hardware._ageing import PowerLawDrift
from hardware._clipping import FAR, clipped_moments
from hardware._curves import InversePower
from hardware._device_noise import ReadNoise
from hardware._fluctuations import Fluctuations
from hardware._held_cells import HeldCells
from hardware._mixing import Mixin
from hardware._moment import Moment as Moment
from hardware._scoped_draws import ScopedDraws, mixed
from hardware._streams import Streams
from hardware._units import ROOM_TEMPERATURE_KELVIN

if TYPE_CHECKING:
    from hardware._substrate import Substrate


class Array(HeldCells):
    """What acts in the place of a weight ``[heads, tails, ...]``: its cells, their fluctuations, the gains of its ways.

    Attributes:
        noisy_inputs: whether read noise is left to the signals that the array makes of clamped inputs, see
            ``input_variances``; what acts is then the mean.
        twin: an array like this one with cells of its own, which acts in its place in nudged phases; or None.
    """

    _ahead: Tensor | None
    _back: Tensor | None

    def __init__(self, key: str, weight: Tensor, substrate: Substrate, streams: Streams, moment: Moment) -> None:
        super().__init__(key, weight, substrate.cells, streams, moment)
        self._substrate = substrate
        self.noisy_inputs = False
        self.twin: Array | None = None
        if substrate.twin:
            self.twin = Array(f"{key}/twin", weight, replace(substrate, twin=False), streams, moment)
        self._draws = ScopedDraws(key, streams, moment)
        like = weight if self.layout is None else self.conductance
        self.fluctuations = Fluctuations(substrate.fluctuations, key, like, streams, moment, self._draws)
        self._moving = self.fluctuations.moving
        self._moving |= substrate.cells is not None and substrate.cells.changes_between_phases
        gains = None if substrate.paths is None else substrate.paths.draw(key, streams, weight)
        self.register_buffer("_ahead", None if gains is None else gains[0], persistent=False)
        self.register_buffer("_back", None if gains is None else gains[1], persistent=False)

    def set_write_number(self, write: int) -> None:
        super().set_write_number(write)
        if self.twin is not None:
            self.twin.set_write_number(write)

    def forget(self) -> None:
        super().forget()
        for part in (getattr(self, "fluctuations", None), getattr(self, "twin", None)):
            if part is not None:
                part.forget()

    @property
    def moving(self) -> bool:
        """Whether two phases of a pass see different conductances."""
        return self._moving or self.twin is not None

    @property
    def now(self) -> Array:
        """The array that acts in this phase: itself, or its twin."""
        return self if self.twin is None or self._moment.phase == 0 else self.twin

    def follow(self, weight: Tensor, lasts: int = 0) -> bool:
        """Write what changed since the last look, to the twin too; returns whether cells were written."""
        written = super().follow(weight, lasts)
        return written if self.twin is None else self.twin.follow(weight, lasts) or written

    # -- what acts -----------------------------------------------------------------------------------------------------

    def effective(self, weight: Tensor, back: bool) -> Tensor:
        """What acts as the weight in this phase, on the way there or back."""
        if self.now is not self:
            return self.now.effective(weight, back)
        gain, acting = self._back if back else self._ahead, self._acting(weight)
        if gain is None:
            return acting
        gained: Tensor = self._kept(f"gained{back}", (acting,), lambda: acting * gain)
        return gained

    def input_variances(self) -> list[tuple[Tensor, dict[str, float]]]:
        """Variances of what acts on the way there, ``[heads, tails]``: read noise that was left to the signals. Each
        with the share of it that phases have in common, ``"sample"``, and that they have not, ``"phase"``, but 0."""
        if self.now is not self:
            return self.now.input_variances()
        if self.layout is None or self.device.reading is None:
            raise ConfigError(f"connection {self.key}: got no read noise, needed CellArray(read_noise=True)")
        noise, g = self.device.reading, self.undisturbed()
        strength, growth, rho = self._strength(noise), self._growth(noise), self._correlation(noise)
        factors = self.fluctuations.factors(self._write, self.conductance)

        def made(share: Tensor | None) -> Tensor:
            moments = self._clipped(noise, g)
            if moments is None:
                v = _sum_of_squares([strength, *([g] if noise.relative else []), *factors])
                v = v.mul_((float(growth) / self.scale) ** 2)
            else:
                each = moments[1] if share is None else moments[1] * share
                for f in factors:
                    each = each * f * f
                v = each.sum(0).mul_(1.0 / self.scale**2)
            return v if self._ahead is None else v.mul_(self._ahead).mul_(self._ahead)

        stamp = (g, strength, growth, *factors)
        if not isinstance(rho, Tensor):
            v = self._kept("input variance", stamp, partial(made, None))
            return [(v, {scope: share for scope, share in (("sample", rho), ("phase", 1.0 - rho)) if share > 0.0})]
        return [
            (self._kept(f"input variance {scope}", (*stamp, rho), partial(made, share)), {scope: 1.0})
            for scope, share in (("sample", rho), ("phase", 1.0 - rho))
        ]

    def _acting(self, weight: Tensor) -> Tensor:
        if self.layout is None:
            factors = self.fluctuations.factors(self._write, weight)
            stamp = (weight._version, weight.data_ptr(), weight.dtype, *factors)
            applied = lambda: self.fluctuations.applied(weight.detach(), self._write)  # noqa: E731
            fluctuating: Tensor = self._kept("acting", stamp, applied)
            return fluctuating
        # asked for many times in a phase, in which nothing moves
        moment = (self._write, self._moment.passes, self._moment.phase, self._moment.clock)
        found: Tensor = self._kept("acting now", moment, self._decoded_now)
        return found

    def _decoded_now(self) -> Tensor:
        g = self.conductance_now()
        decoded: Tensor = self._kept("acting", (g,), lambda: self.decoded(g))
        return decoded

    @torch.no_grad()
    def conductance_now(self) -> Tensor:
        """The conductances that act in this phase, ``[cells, *weight]`` siemens; see ``noisy_inputs``."""
        if self.now is not self:
            return self.now.conductance_now()
        layout, made = self.layout, self.device if self.layout is not None else None
        if layout is None or made is None:
            raise ConfigError(f"connection {self.key}: got no cells, needed Substrate(cells=CellArray(...))")
        g = self.undisturbed()
        if made.reading is not None:
            if self.noisy_inputs:
                moments = self._clipped(made.reading, g)
                g = g if moments is None else moments[0]
            else:
                g = self._read(made.reading, g)
        factors = self.fluctuations.factors(self._write, g)
        if not factors and not layout.wire_ohms:
            return g

        def disturbed() -> Tensor:
            h = self.fluctuations.applied(g, self._write)
            return h / (1 + h * layout.wire_ohms * self._wires()) if layout.wire_ohms else h

        result: Tensor = self._kept("disturbed", (g, *factors), disturbed)
        return result

    # -- ageing and temperature ----------------------------------------------------------------------------------------

    def undisturbed(self) -> Tensor:
        """Conductances now, before a read disturbs them: one object for as long as they are the same."""
        made, kelvin = self.device, self._substrate.temperature_kelvin
        g = self._aged()
        if kelvin == ROOM_TEMPERATURE_KELVIN:
            return g
        warm: Tensor = self._kept("warm", (g,), lambda: made.at_temperature(g, kelvin))
        return warm

    def _aged(self) -> Tensor:
        made, law = self.device, self.device.ageing
        written: Tensor = self._kept("conductance", (self._write,), self.conductance.detach)  # a new object a write
        at = self._looked_at()
        youngest, oldest = self.ages(at)
        if law is None or oldest == 0.0:
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

    def _looked_at(self) -> int:
        """The time for which ageing is worked out: the last tick of a clock within whose period nothing moves by more
        than a millionth of itself; a function of the time alone, so that a resumed run agrees."""
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
                seconds = min(1.0, 1e-6 * made.first_read_seconds / max(largest, 1e-9))
        if noise is not None and noise.t_read_seconds is not None:
            growth = float(noise.growth(made.first_read_seconds))
            seconds = min(seconds, 2e-6 * growth**2 * (made.first_read_seconds + noise.t_read_seconds))
        return int(2 ** math.floor(math.log2(max(seconds * 1e9, 1.0))))

    # -- read noise ----------------------------------------------------------------------------------------------------

    def _read_std(self, noise: ReadNoise, g: Tensor) -> tuple[Tensor, float | Tensor]:
        """Standard deviation of a read in two factors: one that a write decides, ``[cells, ...]``, and its growth."""
        strength = self._strength(noise)
        unit: Tensor = strength
        if noise.relative:
            unit = self._kept("unit", (strength, g), lambda: strength * g)
        return unit, self._growth(noise)

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

    def _strength(self, noise: ReadNoise) -> Tensor:
        made, kept = self.device, self._kept.last("strength")
        touched = None if kept is None else self.touched_since(kept[0][0])

        def strength(g: Tensor) -> Tensor:
            q = noise.q(g, made.g_max_siemens)
            q = q if isinstance(noise.q, InversePower) else q.clamp_(min=0.0)
            return q if noise.relative else q.mul_(made.g_max_siemens)

        def anew() -> Tensor:
            if kept is None or touched is None or touched.dtype != torch.int64:
                return strength(self.conductance)
            few = strength(self.conductance.view(-1).index_select(0, touched))
            return kept[1].view(-1).index_copy(0, touched, few).view_as(kept[1])

        result: Tensor = self._kept("strength", (self._write,), anew)
        return result

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
        strength, growth = self._strength(noise), self._growth(noise)
        if not isinstance(growth, Tensor):
            bound = noise.relative and self._read_bounds == (0.0, None)
            stamp = (strength,) if bound else (strength, g)
            if self._kept("far", stamp, lambda: self._distance(noise, g)) > FAR * growth:
                return None
        unit, growth = self._read_std(noise, g)
        moments = lambda: clipped_moments(g, unit * growth, *self._read_bounds)  # noqa: E731
        result: tuple[Tensor, Tensor] = self._kept("moments", (g, unit, growth), moments)
        return result

    @property
    def _read_bounds(self) -> tuple[float, float | None]:
        made = self.device
        return (made.g_min_siemens, made.g_max_siemens) if made.hard_range else (0.0, None)

    def _distance(self, noise: ReadNoise, g: Tensor) -> float:
        """The least distance of a conductance from the bounds of a read, in standard deviations before they grow."""
        low, high = self._read_bounds
        if noise.relative and low == 0.0 and high is None:
            return 1.0 / max(float(self._strength(noise).max()), 1e-30)
        unit = self._read_std(noise, g)[0]
        room = g - low if high is None else torch.minimum(g - low, high - g)
        return float((room / unit).nan_to_num_(nan=torch.inf).min())  # nothing to cut off where there is no noise

    # -- inside --------------------------------------------------------------------------------------------------------

    def _wires(self) -> Tensor:
        """Wires between a cell and its two drivers: along its row and along its column."""
        heads, tails = self.requested.shape[0], self.requested[0].numel()
        rows = torch.arange(heads, device=self.requested.device)[:, None]
        columns = torch.arange(tails, device=self.requested.device)[None]
        return (rows + columns + 2).to(self.requested.dtype).reshape(self.requested.shape)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: Any) -> None:
        if strict and not hasattr(self, "auxiliary") and any(k.startswith(f"{prefix}auxiliary.") for k in state_dict):
            raise ConfigError(
                f"connection {self.key}: got a state with auxiliary cells, needed them on this chip first; write "
                "chip.write_path(optimizer, auxiliary=hardware.Auxiliary(...)), then chip.load_state_dict(...)"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)

    def extra_repr(self) -> str:
        if self.layout is None:
            return ""
        return f"{self.device.name}, {self.layout.mapping}, weights to {self.weight_range:.3g}"


def _sum_of_squares(factors: Sequence[Tensor]) -> Tensor:
    """Of a product ``[cells, ...]``, over the cells of each parameter."""
    # a cell at a time: half of a pair stays in a cache
    first, *rest = (reduce(torch.mul, parts) for parts in zip(*factors, strict=True))
    total: Tensor = first * first
    for other in rest:
        total.addcmul_(other, other)
    return total


def _replaced(old: Tensor, cells: Tensor, new: Tensor) -> Tensor:
    """``new`` in those cells, 1.0 or 0.0 each or numbers, and ``old`` elsewhere."""
    if cells.is_floating_point():
        return torch.lerp(old, new, cells)
    return old.view(-1).index_copy(0, cells, new.reshape(-1).index_select(0, cells)).view_as(old)


class OnChip(Mixin, Connection):
    """Mixed into a connection's own class: it acts with what its array really does."""

    array: Array

    def operand(self, back: bool) -> Tensor:
        acting = self.array.effective(self.weight, back)
        if torch.is_grad_enabled() and self.weight.requires_grad:
            through: Tensor = _StraightThrough.apply(self.weight, acting)
            return through
        return acting


class _StraightThrough(Function):
    """The acting weight, with the gradient going to the parameter as if it were that."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, acting: Tensor) -> Tensor:
        return acting.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
