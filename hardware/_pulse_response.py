"""The response of cells to programming pulses: their fabrication, and trains of pulses on them.

Parameters are in units of weight, as published: a weight ``w`` in ``[w_low, w_high]`` stands for the conductance
``g_min + (w - w_low) / (w_high - w_low) (g_max - g_min)``. Everything per cell is in siemens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._cell_draws import CellDraws
from hardware._device_checks import normal, require_number, uniform
from hardware._few import numbers_of
from hardware._step_laws import Cells, ConstantStep, Frame, LinearStep, SoftBounds, StepLaw, directed


@dataclass(frozen=True)
class PulseResponse:
    """What one pulse does, and how it differs from cell to cell and from pulse to pulse.

    With s the step, xi standard normal numbers of the cell and f the factor of the law at the present weight:

        gain      = 1 + step_spread xi1, or exp(step_spread xi1)
        step_up   = s |gain + min(asymmetry, 0) + asymmetry_spread xi2|
        step_down = s |gain - max(asymmetry, 0) - asymmetry_spread xi2|
        bounds    = w_high |1 + high_spread xi|,  w_low |1 + low_spread xi|, nothing below 0 S
        one pulse:  w <- clip(w +- (step f + std N(0, 1)), bounds)
        std       = noise (step or step f, + noise_floor + noise_slope |w|)

    Attributes:
        law: how the step depends on the conductance.
        step: s, in units of weight.
        w_low, w_high: mean bounds; weight zero lies between them.
        step_spread, log_normal: of the gain.
        asymmetry: share by which down steps (> 0) or up steps (< 0) are smaller.
        asymmetry_spread: xi2 makes one direction stronger at the cost of the other.
        low_spread, high_spread: relative.
        noise: from pulse to pulse, relative to the step.
        noise_follows_step: to ``step f`` (the noise shrinks with the step), else to ``step``.
        noise_floor, noise_slope: in units of weight, and per unit of |w|.
        write_noise: of the visible conductance around the hidden one, drawn at each touch, relative to s.
        stuck_share: probability that a cell never moves, at a uniform place in stuck_low .. stuck_high (weights).
        reference_spread: where given, each cell has a reference cell at its symmetry point, off by that (weights).
        one_way: only up pulses move the cell; only a reset takes it down.
        reset, reset_spread, reset_noise: weight after a reset, its spread from cell to cell and from reset to reset.
        note: where the numbers come from.

    Raises:
        ConfigError: a bound on the wrong side of zero, a negative spread, a share outside 0..1.
    """

    law: StepLaw
    step: float
    w_low: float = -1.0
    w_high: float = 1.0
    step_spread: float = 0.0
    log_normal: bool = False
    asymmetry: float = 0.0
    asymmetry_spread: float = 0.0
    low_spread: float = 0.0
    high_spread: float = 0.0
    noise: float = 0.0
    noise_follows_step: bool = False
    noise_floor: float = 0.0
    noise_slope: float = 0.0
    write_noise: float = 0.0
    stuck_share: float = 0.0
    stuck_low: float | None = None
    stuck_high: float | None = None
    reference_spread: float | None = None
    one_way: bool = False
    reset: float = 0.0
    reset_spread: float = 0.0
    reset_noise: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        require_number("PulseResponse.step", self.step, above=0.0)
        require_number("PulseResponse.w_low", self.w_low, most=0.0)
        require_number("PulseResponse.w_high", self.w_high, above=0.0)
        require_number("PulseResponse.asymmetry", self.asymmetry, least=-1.0, most=1.0)
        spreads = ("step_spread", "asymmetry_spread", "low_spread", "high_spread", "reset_spread")
        for name in (*spreads, "noise", "noise_floor", "noise_slope", "write_noise", "reset_noise"):
            require_number(f"PulseResponse.{name}", getattr(self, name), least=0.0)
        require_number("PulseResponse.stuck_share", self.stuck_share, least=0.0, most=1.0)
        require_number("PulseResponse.reset", self.reset, least=self.w_low, most=self.w_high)
        if self.reference_spread is not None:
            require_number("PulseResponse.reference_spread", self.reference_spread, least=0.0)
        low, high = self.stuck_range
        require_number("PulseResponse.stuck_low", low, least=self.w_low)
        require_number("PulseResponse.stuck_high", high, least=low, most=self.w_high)
        if isinstance(self.law, SoftBounds | LinearStep) and self.w_low == 0:
            raise ConfigError(
                f"PulseResponse: got w_low=0 with {type(self.law).__name__}, whose steps are those at weight zero and "
                "shrink to a bound below it; needed w_low < 0; write w_low=-1.0"
            )

    @property
    def stuck_range(self) -> tuple[float, float]:
        """Weights between which stuck cells are stuck."""
        return (
            self.w_low if self.stuck_low is None else self.stuck_low,
            self.w_high if self.stuck_high is None else self.stuck_high,
        )

    def at_once(self, exact: bool) -> bool:
        """Whether the pulses of a train have a closed form; without ``exact``, also where their noise is one draw."""
        extra = self.noise_floor > 0 or self.noise_slope > 0
        affine = isinstance(self.law, ConstantStep | LinearStep | SoftBounds)
        return affine and (self.noise == 0 or not (exact or extra))

    @property
    def states(self) -> float:
        """Number of steps that fit between the mean bounds."""
        return (self.w_high - self.w_low) / self.step

    def frame(self, g_min: float, g_max: float) -> Frame:
        """Where the weights lie on that range of conductances."""
        unit = (g_max - g_min) / (self.w_high - self.w_low)
        return Frame(g_min - self.w_low * unit, g_min, g_max, unit)

    def fabricate(self, shape: tuple[int, ...], frame: Frame, generator: torch.Generator, like: Tensor) -> Cells:
        """Cells of that shape; always as many draws, whatever the parameters, so that chips can be compared."""
        draws = [normal(shape, generator, like) for _ in range(9)]
        gain, tilt, low, high, shape_up, shape_down, reference, reset, own = draws
        chance, place = uniform(shape, generator, like), uniform(shape, generator, like)
        size = torch.exp(self.step_spread * gain) if self.log_normal else 1 + self.step_spread * gain
        up = (size + min(self.asymmetry, 0.0) + self.asymmetry_spread * tilt).abs() * (self.step * frame.unit)
        down = (size - max(self.asymmetry, 0.0) - self.asymmetry_spread * tilt).abs() * (self.step * frame.unit)
        top = frame.zero + (1 + self.high_spread * high).abs() * (self.w_high * frame.unit)
        bottom = (frame.zero + (1 + self.low_spread * low).abs() * (self.w_low * frame.unit)).clamp(min=0.0)
        stuck = chance < self.stuck_share
        at = frame.zero + frame.unit * (self.stuck_range[0] + place * (self.stuck_range[1] - self.stuck_range[0]))
        at = at.minimum(top).maximum(bottom)
        cells = Cells(
            up.masked_fill(stuck, 0.0),
            down.masked_fill(stuck, 0.0),
            torch.where(stuck, at, bottom),
            torch.where(stuck, at, top),
            *self.law.shapes(shape_up, shape_down),
            reference_siemens=torch.full_like(up, frame.zero),
            reset_siemens=frame.zero + frame.unit * (self.reset + self.reset_spread * reset),
            stuck=stuck,
            normal=own,
        )
        if self.reference_spread is None:
            return cells
        ideal = torch.where(stuck, frame.zero, self.symmetry_point(cells, frame))
        return cells._replace(reference_siemens=ideal + self.reference_spread * frame.unit * reference)

    def step_siemens(self, up: bool, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """Mean size of one pulse at ``g``, at least 0."""
        step = cells.step_up_siemens if up else cells.step_down_siemens
        return torch.where(cells.stuck, 0.0, step * self.law.factor(up, g, cells, frame))

    def symmetry_point(self, cells: Cells, frame: Frame) -> Tensor:
        """Conductance where up and down pulses are of equal size, by bisection (the bound where there is none)."""
        low, high = cells.low_siemens, cells.high_siemens
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.step_siemens(True, middle, cells, frame) < self.step_siemens(False, middle, cells, frame)
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return 0.5 * (low + high)

    def train(
        self,
        up: bool | Tensor,
        g: Tensor,
        counts: Tensor,
        cells: Cells,
        frame: Frame,
        generator: torch.Generator | CellDraws,
        exact: bool,
        sizes: Sequence[int] | None,
    ) -> Tensor:
        """``g`` after ``counts`` pulses, a whole number a cell, all of one direction or each cell of its own.

        Args:
            up: the direction, or a bool a cell.
            sizes: where pulses are applied one by one, how many cells, the first ones, each of them touches; as many as
                the longest train has pulses, None to look for it.
        """
        if self.at_once(exact):
            return self._affine(up, g, counts, cells, frame, generator)
        for k, m in enumerate([len(g) if g.dim() else 1] * int(counts.max()) if sizes is None else sizes):
            if g.dim() == 0 or m == len(g):
                g = torch.where(counts > k, self._one(up, g, cells, frame, generator), g)
                continue
            moved = self._one(up if isinstance(up, bool) else up[:m], g[:m], cells.first(m), frame, generator)
            g = torch.cat([torch.where(counts[:m] > k, moved, g[:m]), g[m:]])
        return g

    def _one(
        self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame, generator: torch.Generator | CellDraws
    ) -> Tensor:
        step, factor = self._directed(up, g, cells, frame)
        change = torch.where(cells.stuck, 0.0, step * factor)
        if self.noise > 0:
            extra = self.noise_floor * frame.unit + self.noise_slope * (g - frame.zero).abs()
            size = (change if self.noise_follows_step else step) + extra
            change = change + self.noise * size * normal(g.shape, generator, g)
        return (g + _signed(up, change)).minimum(cells.high_siemens).maximum(cells.low_siemens)

    def _directed(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> tuple[Tensor, Tensor]:
        """Step at weight zero, and factor at ``g``."""
        return directed(up, cells.step_up_siemens, cells.step_down_siemens), self.law.factor(up, g, cells, frame)

    def _affine(
        self,
        up: bool | Tensor,
        g: Tensor,
        counts: Tensor,
        cells: Cells,
        frame: Frame,
        generator: torch.Generator | CellDraws,
    ) -> Tensor:
        """All pulses at once: each takes the same share of the distance to where steps vanish."""
        step, factor = self._directed(up, g, cells, frame)
        reach = self.law.reach(up, cells, frame)
        if reach is None:
            raise ConfigError(f"{type(self.law).__name__}: got a train at once, needed a law that is affine")
        lengths, stds = self._trains(counts.to(g.dtype), step, reach, cells.stuck)
        one = (step * factor).masked_fill_(cells.stuck, 0.0)
        change = one * lengths
        if self.noise > 0:
            std = (one if self.noise_follows_step else step) * stds
            change = change.addcmul_(std, normal(g.shape, generator, g), value=self.noise)
        moved = torch.clamp(g + _signed(up, change), cells.low_siemens, cells.high_siemens)
        return torch.where(counts > 0, moved, g)

    def _trains(self, n: Tensor, step: Tensor, reach: Tensor, stuck: Tensor) -> tuple[Tensor, Tensor]:
        """What trains of ``n`` pulses change, and the standard deviation of it, in units of those of one pulse."""
        if n.device.type != "cpu" or n.dim() != 1:
            return self._long_trains(n, step, reach, stuck)
        many = numbers_of(n > 1)  # where steps are small, few of many
        if 2 * len(many) > len(n):
            return self._long_trains(n, step, reach, stuck)
        lengths, stds = torch.ones_like(n), torch.ones_like(n)
        if len(many):
            parts = (t.index_select(0, many) if t.dim() else t for t in (n, step, reach, stuck))
            for every, few in zip((lengths, stds), self._long_trains(*parts), strict=True):
                every.index_copy_(0, many, few)
        return lengths, stds

    def _long_trains(self, n: Tensor, step: Tensor, reach: Tensor, stuck: Tensor) -> tuple[Tensor, Tensor]:
        share = (step / reach.abs()).clamp_(max=1.0 - torch.finfo(n.dtype).eps)
        share = share.masked_fill(stuck, 0.0)  # a stuck cell may sit at weight zero, where the reach is 0 / 0
        log, some = torch.log1p(-share), share > 0
        # (1 - (1 - share)^n) / share, which tends to n where the reach is infinite
        lengths = torch.where(some, torch.expm1(n * log) / -share.clamp(min=torch.finfo(n.dtype).tiny), n)
        # errors made earlier shrink with the distance that is left: a sum of independent normal numbers is one
        if self.noise_follows_step:
            return lengths, n.sqrt() * torch.exp((n - 1).clamp_(min=0.0) * log)
        squares = torch.expm1(2 * n * log) / torch.expm1(2 * log).clamp_(max=-torch.finfo(n.dtype).tiny)
        return lengths, torch.where(some, squares, n).sqrt_()


def _signed(up: bool | Tensor, change: Tensor) -> Tensor:
    """Up is plus."""
    if isinstance(up, bool):
        return change if up else -change
    return torch.where(up, change, -change)
