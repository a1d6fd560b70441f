"""The arrays of a chip: what the weights of a connection really are at a moment."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from eqprop._connections import Connection
from eqprop._errors import ConfigError
from hardware._cell_array import CellArray
from hardware._device_noise import ReadNoise
from hardware._mixing import Mixin
from hardware._paths import mixed
from hardware._step_laws import Cells
from hardware._streams import Streams
from hardware._substrate import Substrate
from hardware._units import ROOM_TEMPERATURE_KELVIN

_COUNTS = ("writes", "pulses", "clipped")


@dataclass
class Moment:
    """The counters of a chip: which pass, which relaxation in it, and what its clock shows.

    Attributes:
        passes: drives so far.
        phase: relaxations since the drive; 0 for the first.
        samples: samples so far.
        clock: nanoseconds since fabrication.
        phase_time: nanoseconds of a phase.
    """

    passes: int = 0
    phase: int = 0
    samples: int = 0
    clock: int = 0
    phase_time: int = 0

    def counters(self, scope: str, write: int) -> tuple[int, ...]:
        """What a draw of that scope depends on."""
        return {"chip": (), "write": (write,), "sample": (self.passes,), "phase": (self.passes, self.phase)}[scope]


class Array(nn.Module):
    """What acts in the place of a weight ``[heads, tails, ...]``: its cells, their fluctuations, the gains of its ways.

    Attributes:
        conductance: of both cells of every weight as they were written, ``[2, *weight]`` siemens.
        requested: the weight that the cells were last asked to hold.
        written: nanoseconds on the chip's clock of the last write of every cell.
        counts: writes and pulses of single cells, and weights that a write clipped; so far.
        scale: siemens a unit of weight.
    """

    _ahead: Tensor | None
    _back: Tensor | None
    _cells_normal: Tensor
    conductance: Tensor
    _hidden: Tensor | None
    requested: Tensor
    written: Tensor
    counts: Tensor

    def __init__(self, key: str, weight: Tensor, substrate: Substrate, streams: Streams, moment: Moment) -> None:
        super().__init__()
        self.key, self._substrate, self._streams, self._moment = key, substrate, streams, moment
        self._seen: tuple[int, int] | None = None
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._write = 0
        self._moving = any(f.scope == "phase" for f in substrate.fluctuations)
        self._moving |= substrate.cells is not None and substrate.cells.changes_between_phases
        gains = None if substrate.paths is None else substrate.paths.draw(key, streams, weight)
        self.register_buffer("_ahead", None if gains is None else gains[0], persistent=False)
        self.register_buffer("_back", None if gains is None else gains[1], persistent=False)
        self.layout = substrate.cells
        if self.layout is not None:
            self._fabricate(self.layout, weight)

    def _fabricate(self, layout: CellArray, weight: Tensor) -> None:
        made = self.device = layout.resolved()
        shape = (2, *weight.shape)
        cells = made.fabricate_cells(shape, self._streams.generator(f"cells/{self.key}"), weight.dtype)
        if layout.stuck_share is not None:
            draws = [self._streams.uniform(f"cells.{name}/{self.key}", (), shape, weight) for name in ("stuck", "at")]
            stuck = draws[0] < layout.stuck_share
            at = made.g_min_siemens + draws[1] * (made.g_max_siemens - made.g_min_siemens)
            low, high = torch.where(stuck, at, cells.low_siemens), torch.where(stuck, at, cells.high_siemens)
            steps = [torch.where(stuck, 0.0, s) for s in (cells.step_up_siemens, cells.step_down_siemens)]
            cells = cells._replace(
                step_up_siemens=steps[0], step_down_siemens=steps[1], low_siemens=low, high_siemens=high, stuck=stuck
            )
        for name, value in cells._asdict().items():
            self.register_buffer(f"_cells_{name}", value.to(weight.device), persistent=False)
        most = float(weight.abs().max())
        self.weight_range = layout.weight_range or layout.headroom * most
        if not self.weight_range > 0.0:
            raise ConfigError(
                f"connection {self.key}: got weights that are all 0, needed a range for its cells; write "
                "CellArray(weight_range=1.0)"
            )
        self.scale = (made.g_max_siemens - made.g_min_siemens) / self.weight_range
        share = float((weight.abs() > self.weight_range).double().mean())
        if share > 0.5:
            warnings.warn(
                f"connection {self.key}: {100 * share:.0f} % of the weights lie outside the range of its cells, "
                f"+-{self.weight_range:g}, and are clipped (the largest is {most:.3g}); write "
                f"CellArray(weight_range={most:.2g}), or weight_range=None",
                RuntimeWarning,
                stacklevel=6,
            )
        self.register_buffer("conductance", weight.new_zeros(shape))
        has_write_noise = made.pulses is not None and made.pulses.write_noise > 0
        self.register_buffer("_hidden", weight.new_zeros(shape) if has_write_noise else None)
        self.register_buffer("requested", torch.full_like(weight, torch.nan))
        self.register_buffer("written", torch.zeros(shape, dtype=torch.int64, device=weight.device))
        self.register_buffer("counts", torch.zeros(len(_COUNTS), dtype=torch.int64, device=weight.device))
        self.write(weight)

    @property
    def cells(self) -> Cells:
        """What chance decided for each cell, ``[2, *weight]``."""
        return Cells(*(getattr(self, f"_cells_{name}") for name in Cells._fields))

    @property
    def moving(self) -> bool:
        """Whether two phases of a pass see different conductances."""
        return self._moving

    # -- weights and conductances --------------------------------------------------------------------------------------

    def targets(self, weight: Tensor) -> Tensor:
        """The conductances that a weight asks of its two cells, on a level, clipped to the range."""
        layout, made = self.layout, self.device
        low, span = made.g_min_siemens, made.g_max_siemens - made.g_min_siemens
        share = weight / self.weight_range
        if layout is not None and layout.mapping == "balanced":
            both = torch.stack([0.5 + 0.5 * share, 0.5 - 0.5 * share])
        else:
            both = torch.stack([share, -share])
        return made.nearest_level(both.clamp_(0.0, 1.0) * span + low)

    def decoded(self, conductance: Tensor) -> Tensor:
        """The weight that two conductances stand for."""
        return (conductance[0] - conductance[1]) / self.scale

    @torch.no_grad()
    def write(self, weight: Tensor) -> None:
        """Program the cells whose target changed."""
        fresh = torch.isnan(self.requested)
        changed = (weight != self.requested) | fresh
        now = self.targets(weight)
        touched = changed & ((now != self.targets(self.requested)) | fresh)
        self.next_write()
        g = self.device.program(now, self._streams.generator(f"write/{self.key}", self._write), self.cells)
        self.settled(torch.where(touched, g, self.conductance), touched, weight)
        self.counts[0] += touched.sum()
        self.counts[2] += (changed & (weight.abs() > self.weight_range)).sum()

    @property
    def write_number(self) -> int:
        """Writes of the array so far."""
        return self._write

    def next_write(self) -> None:
        """Count a write; what is of scope ``write`` will be drawn anew."""
        self._write += 1

    @property
    def hidden(self) -> Tensor:
        """Conductances on which pulses act: those that are seen, less the noise of a write where the device has it."""
        return self.conductance if self._hidden is None else self._hidden

    @torch.no_grad()
    def settled(self, conductance: Tensor, touched: Tensor, weight: Tensor, hidden: Tensor | None = None) -> None:
        """Take conductances over as written now: cells that were touched restart their clocks."""
        self.conductance.copy_(conductance)
        if self._hidden is not None:
            self._hidden.copy_(conductance if hidden is None else hidden)
        self.written.masked_fill_(touched, self._moment.clock)
        self.requested.copy_(weight)

    def follow(self, weight: Tensor) -> bool:
        """Write what changed since the last look; returns whether the cells were written."""
        if self.layout is None:
            return False
        seen = (weight._version, weight.data_ptr())
        if seen == self._seen:
            return False
        self._seen = seen
        if torch.equal(weight, self.requested):  # as after a checkpoint, or another precision
            return False
        self.write(weight.detach())
        return True

    # -- what acts -----------------------------------------------------------------------------------------------------

    def effective(self, weight: Tensor, back: bool) -> Tensor:
        """What acts as the weight in this phase, on the way there or back."""
        gain, acting = self._back if back else self._ahead, self._acting(weight)
        if gain is None:
            return acting
        return self._remembered(f"gained{back}", acting, lambda: acting * gain)

    def _acting(self, weight: Tensor) -> Tensor:
        at = (self._moment.passes, self._moment.phase if self.moving else 0, self._write)
        stamp = (at, weight.dtype, weight.device, weight._version if self.layout is None else 0)
        return self._remembered("acting", stamp, lambda: self._now(weight.detach()))

    def _remembered(self, name: str, stamp: Any, make: Any) -> Tensor:
        kept = self._kept.get(name)
        same = kept is not None and (kept[0] is stamp if isinstance(stamp, Tensor) else kept[0] == stamp)
        if kept is None or not same:
            with torch.no_grad():
                kept = self._kept[name] = (stamp, make())
        value: Tensor = kept[1]
        return value

    def _now(self, weight: Tensor) -> Tensor:
        if self.layout is None:
            return self._fluctuating(weight)
        return self.decoded(self.conductance_now())

    @torch.no_grad()
    def conductance_now(self) -> Tensor:
        """The conductances that act in this phase, ``[2, *weight]`` siemens."""
        layout, made = self.layout, self.device
        g = self.conductance
        if layout is None:
            raise ConfigError(f"connection {self.key}: got no cells, needed Substrate(cells=CellArray(...))")
        seconds: Tensor | float = 0.0
        if made.ageing is not None or made.reading is not None:
            seconds = ((self._moment.clock - self.written).to(torch.float64) * 1e-9).to(g.dtype)
        if made.ageing is not None:
            coefficient = self._remembered(
                "drift", self._write, lambda: made.drift_coefficient(self.conductance, self._cells_normal)
            )
            g = made.drifted(g, coefficient, seconds)
        if self._substrate.temperature_kelvin != ROOM_TEMPERATURE_KELVIN:
            g = made.at_temperature(g, self._substrate.temperature_kelvin)
        if made.reading is not None:
            g = self._read(made.reading, layout, g, seconds)
        g = self._fluctuating(g)
        if layout.wire_ohms:
            g = g / (1 + g * layout.wire_ohms * self._wires())
        return g

    def _read(self, noise: ReadNoise, layout: CellArray, g: Tensor, seconds: float | Tensor) -> Tensor:
        """``Device.read`` with noise of a scope, and its strength kept between writes: see ``ReadNoise``."""
        made = self.device
        strength = self._remembered(
            "strength", self._write, lambda: noise.q(self.conductance / made.g_max_siemens).clamp(min=0.0)
        )
        std = strength * (g if noise.relative else made.g_max_siemens)
        std = std * noise.growth(seconds + made.first_read_seconds)
        g = torch.addcmul(g, std, self._noise("read", layout.read_scope, layout.read_correlation, g))
        return g.clamp_(made.g_min_siemens if made.hard_range else 0.0, made.g_max_siemens if made.hard_range else None)

    def _fluctuating(self, g: Tensor) -> Tensor:
        for n, f in enumerate(self._substrate.fluctuations):
            if f.relative_std:
                factor = 1 + f.relative_std * self._noise(f"fluctuation{n}", f.scope, f.correlation, g)
                g = g * factor.clamp_(min=0.0)
        return g

    def _noise(self, source: str, scope: str, correlation: float, like: Tensor) -> Tensor:
        """Normal numbers of that scope; those that a longer scope holds are kept."""
        moment, name = self._moment, f"{source}/{self.key}"

        def drawn(at: str) -> Tensor:
            counters = moment.counters(at, self._write)
            make = lambda: self._streams.normal(f"{name}.{at}", counters, like.shape, like)  # noqa: E731
            if at == "phase":
                return make()
            return self._remembered(f"{name}.{at}", (counters, like.dtype, like.device), make)

        if scope != "phase" or correlation == 0.0:
            return drawn(scope)
        return drawn("sample") if correlation == 1.0 else mixed(drawn("sample"), drawn("phase"), correlation)

    def _wires(self) -> Tensor:
        """Wires between a cell and its two drivers: along its row and along its column."""
        heads, tails = self.requested.shape[0], self.requested[0].numel()
        rows = torch.arange(heads, device=self.requested.device)[:, None]
        columns = torch.arange(tails, device=self.requested.device)[None]
        return (rows + columns + 2).to(self.requested.dtype).reshape(self.requested.shape)

    def _apply(self, fn: Any, recurse: bool = True) -> Array:
        self._kept.clear()  # of another device or precision
        self._seen = None
        made: Array = super()._apply(fn, recurse)
        return made

    def extra_repr(self) -> str:
        return "" if self.layout is None else f"{self.device.name}, weights to +-{self.weight_range:.3g}"


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
