"""The cells behind a parameter: what was asked of them, what writes left in them, and when."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hardware._cell_array import CellArray
from hardware._fabrication import fabricated_cells, mapping_of, require_finite, warn_where_clipped
from hardware._mapping import Mapping
from hardware._moment import Kept, Moment
from hardware._pulsed_cells import PulsedCells
from hardware._streams import Streams
from hardware._write_times import WriteTimes

_COUNTS = ("writes", "pulses", "clipped")


class HeldCells(PulsedCells):
    """Cells of a parameter ``[...]``, and writes to them; base of ``Array``.

    Attributes:
        key: of the connection.
        layout: settings, or None where there are no cells; none of the following is there then.
        device: of the cells.
        mapping: how parameters become cells.
        conductance: of the cells as they were written, ``[cells, ...]`` siemens; a pair of cells a parameter, or one.
        requested: the parameter that the cells were last asked to hold.
        counts: writes and pulses of single cells, and parameters that a write clipped; so far.
    """

    requested: Tensor
    counts: Tensor
    mapping: Mapping

    def __init__(self, key: str, weight: Tensor, layout: CellArray | None, streams: Streams, moment: Moment) -> None:
        super().__init__()
        self.key, self.layout, self._streams, self._moment = key, layout, streams, moment
        self._seen: tuple[int, int] | None = None
        self._kept = Kept()
        self._write = 0
        self._holds_requested = False  # whether the cells hold, as they are seen, exactly what was asked for
        self._warned = False  # of weights that are clipped
        self._has_stuck = False
        self._touched: tuple[int, Tensor | None] | None = None
        if layout is not None:
            self._fabricate(layout, weight)

    def _fabricate(self, layout: CellArray, weight: Tensor) -> None:
        made = self.device = layout.resolved()
        self.mapping = mapping_of(self.key, layout, made, weight)
        self._warned = warn_where_clipped(self.key, self.mapping, weight, self.mapping.outside(weight), 6)
        shape = (self.mapping.cells, *weight.shape)
        cells = fabricated_cells(self.key, layout, made, self._streams, shape, weight)
        self._has_stuck = bool(cells.stuck.any())
        self._hold_cells(cells, weight.device)
        self._hold_conductance(weight.new_zeros(shape))
        self.register_buffer("requested", torch.full_like(weight, torch.nan))
        self._written = WriteTimes(torch.zeros(shape, dtype=torch.int64, device=weight.device))
        self.register_buffer("counts", torch.zeros(len(_COUNTS), dtype=torch.int64, device=weight.device))
        self.write(weight)

    @property
    def scale(self) -> float:
        """Siemens a unit of the parameter."""
        return self.mapping.scale

    @property
    def weight_range(self) -> float:
        """The largest parameter."""
        return self.mapping.bounds[1]

    def targets(self, weight: Tensor) -> Tensor:
        """The conductances that a parameter asks of its cells, on a level, clipped to the range."""
        return self.device.nearest_level(self.mapping.targets(weight))

    def decoded(self, conductance: Tensor) -> Tensor:
        """The parameter that conductances stand for."""
        return self.mapping.decoded(conductance)

    # -- writes --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def write(self, weight: Tensor, lasts: int = 0) -> bool:
        """Program the cells whose target changed; returns whether there were any.

        Where the device has noise of a write (``PulseResponse.write_noise``), and errors of programming take part,
        pulses will act on what the loop left, and what is seen scatters around it; stuck cells are seen as they are.

        Args:
            weight: the parameter.
            lasts: nanoseconds that the write takes, after which the clocks of its cells start; the caller moves the
                chip's clock.

        Raises:
            DataError: parameters that are not finite; nothing is written then.

        Warns:
            RuntimeWarning: once, where more than half of the parameters lie outside the range.
        """
        low, high = float(weight.amin()), float(weight.amax())  # on a CPU faster than both at once
        if not (math.isfinite(low) and math.isfinite(high)):
            require_finite(self.key, weight)
        before = self._kept("targets", (self._write,), lambda: self.targets(self.requested))
        now = self.targets(weight)
        self._kept.drop("targets")
        touched = torch.sub(now, before, out=before).ne_(0.0)  # NaN, as at first, differs from everything
        least, most = self.mapping.bounds
        rows = touched.sum(-1, dtype=torch.promote_types(touched.dtype, torch.float32))  # exact, and fast
        count = int(rows.sum(dtype=torch.float64))
        if count == 0:  # as after a checkpoint, or another precision
            self.requested.copy_(weight)
            self._kept("targets", (self._write,), lambda: now)
            self._holds_requested = False
            for name in ("acting", "acting now"):  # may have been what was asked for until now
                self._kept.drop(name)
            return False
        if low < least or high > most:
            outside = self.mapping.outside(weight)
            self._warned = self._warned or warn_where_clipped(self.key, self.mapping, weight, outside, 5)
            self.counts[2] += (outside & (weight != self.requested)).sum()
        self.next_write()
        self._holds_requested = False
        draws, cells = self._streams.generator(f"write/{self.key}", self._write), self.cells
        g = self.device.program(now, draws, cells, checked=False)
        seen = g
        if self._hidden is not None and self.layout is not None and self.layout.programming:
            seen = torch.where(cells.stuck, g, self.device.apparent(g, draws))
        self.counts[0] += count
        self._settle(g, seen, touched, count / touched.numel(), self._moment.clock + lasts)
        self.requested.copy_(weight)
        self._kept("targets", (self._write,), lambda: now)
        return True

    @property
    def write_number(self) -> int:
        """Writes of the array so far."""
        return self._write

    def set_write_number(self, write: int) -> None:
        """Go on after that write, as after a checkpoint."""
        self._write, self._holds_requested = write, False

    def next_write(self) -> None:
        """Count a write, before its conductances are put in place; what is of scope ``write`` will be drawn anew."""
        self._write += 1

    @torch.no_grad()
    def read_back(self, where: Tensor | None = None, seen: Tensor | None = None) -> None:
        """Ask of the cells what they hold: all parameters, or those of the numbers ``where``, ``[n]``.

        Args:
            seen: conductances of these, ``[cells, n]``, where they are known.
        """
        if where is None:
            self.requested.copy_(self.decoded(self.conductance))
            self._holds_requested = True
        else:
            g = self.conductance.view(self.mapping.cells, -1).index_select(1, where) if seen is None else seen
            self.requested.put_(where, self.decoded(g))

    @torch.no_grad()
    def _settle(self, hidden: Tensor, seen: Tensor, touched: Tensor, share: float, over: int) -> None:
        """Take conductances over where cells were ``touched``, 1.0 or 0.0 each, a share of all; their clocks restart at
        the time ``over``."""
        held = [(self.conductance, seen)] + ([] if self._hidden is None else [(self._hidden, hidden)])
        for own, new in held:
            own.copy_(new) if share == 1.0 else own.lerp_(new, touched)  # one or the other, bit for bit
        self.restart(None if share == 1.0 else touched, over)

    def restart(self, touched: Tensor | None, over: int) -> None:
        """Let the clocks of cells start at the time ``over``; what is kept of the others need not be made anew.

        Args:
            touched: 1.0 or 0.0 in the shape of the conductances, or numbers of cells ``[n]``, int64; None for all.
            over: nanoseconds on the chip's clock.
        """
        self._written.restart(touched, over)
        self._touched = (self._write, touched)

    def touched_since(self, write: int) -> Tensor | None:
        """The cells touched since that write, where it was the last but one; None for all, or where it is not known."""
        last = self._touched  # of one write only: where nobody looks, as at devices that hold still, they would pile up
        return last[1] if last is not None and last[0] == self._write == write + 1 else None

    def follow(self, weight: Tensor, lasts: int = 0) -> bool:
        """Write what changed since the last look, see ``write``; returns whether the cells were written."""
        if self.layout is None:
            return False
        if self.agrees(weight):
            return False
        written = self.write(weight.detach(), lasts)
        self.agree(weight)  # only now: what was refused will be looked at again
        return written

    def agree(self, weight: Tensor) -> None:
        """Say that the parameter is what the cells were asked for, so that nobody looks before it changes again."""
        self._seen = (weight._version, weight.data_ptr())

    def agrees(self, weight: Tensor) -> bool:
        """Whether the parameter is still what the cells were asked for."""
        return self._seen == (weight._version, weight.data_ptr())

    # -- time ----------------------------------------------------------------------------------------------------------

    @property
    def written(self) -> Tensor:
        """Nanoseconds on the chip's clock of the last write of every cell, ``[cells, ...]`` int64; a copy."""
        return self._written.of_each

    @written.setter
    def written(self, at: Tensor) -> None:
        self._written.put(at)
        self._kept.drop("written")

    def ages(self, clock: int) -> tuple[float, float]:
        """Seconds from the last write of a cell to that time on the chip's clock: the least and the greatest, or 0."""
        first, last = self._kept("written", (self._write,), self._written.span)
        return max(clock - last, 0) * 1e-9, max(clock - first, 0) * 1e-9

    def age_of_each(self, clock: int) -> Tensor:
        """The same of every cell, ``[cells, ...]``."""
        return self._written.seconds_since(clock, self.conductance.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.forget()  # of another device or precision
        if self.layout is not None:
            self.written = fn(self.written)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.layout is not None:
            destination[f"{prefix}written"] = self.written

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        key = f"{prefix}written"
        given = state_dict.pop(key, None) if self.layout is not None else None  # of the copy that torch makes
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if given is not None and given.shape != self.conductance.shape:
            errors.append(
                f"{key}: got {tuple(given.shape)}, needed {tuple(self.conductance.shape)}, a time of each cell"
            )
        elif given is not None:
            self.written = given.to(self.conductance.device, torch.int64)
        elif self.layout is not None:
            missing.append(key)

    def forget(self) -> None:
        """Drop all that is kept between moments; it will be made again."""
        self._kept.clear()
        self._touched = self._seen = None
        self._holds_requested = False
