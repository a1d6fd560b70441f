"""Rails that all units share: a finite impedance of supply and ground couples each to the activity of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._network import State
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed
from hardware._streams import Streams

_SCOPES = {"chip": None, "layer": None}


@dataclass(frozen=True, repr=False)
class SharedRail(Printed):
    """Supply and ground of finite impedance: what all units draw shifts what each of them gets.

        z_i <- z_i - k_i (share m(s) + nudge_shift [a nudge is on])        inside the relaxation
        s_i <- s_i - k_i read_share m(s)                                   as read, before the converters

    ``m`` is the mean of the present states over all units on the rail, so that a share of 0.01 moves every input by 1 %
    of a unit of state where all states are 1: ``N`` units of conductance ``G`` on a rail of ``R`` ohm have a share of
    ``N R G`` (``from_ohms``). ``k_i = 1 + spread N(0, 1)``, drawn once a chip, is how much of it unit ``i`` feels.

    **What it does to a contrast.** A shift that all units feel alike is a reciprocal coupling, with the energy ``share
    N m^2 / 2``: equilibrium propagation on the chip still gives the gradient of the chip's own loss. ``spread`` breaks
    reciprocity, ``read_share`` mixes what is read: both leave an error in every contour. ``nudge_shift`` is the same
    for both signs of a nudge: a centred contrast loses it to first order, a one-sided one has it divided by ``beta``.

    Attributes:
        share: of the mean activity, 0 or more and below 1.
        read_share: the same for what is read.
        spread: relative standard deviation of what units feel.
        nudge_shift: of every input in the phases after the free one: what the nudge source draws from the supply.
        scope: units on one rail: ``"chip"``, all that move; or ``"layer"``, those of a layer.

    Raises:
        ConfigError: numbers out of range, or a rail that does nothing.
    """

    share: float = 0.0
    read_share: float = 0.0
    spread: float = 0.0
    nudge_shift: float = 0.0
    scope: str = "chip"

    def __post_init__(self) -> None:
        for name in ("share", "read_share", "spread"):
            require_number(f"SharedRail.{name}", getattr(self, name), least=0.0)
        for name in ("share", "read_share"):
            if not getattr(self, name) < 1.0:
                raise ConfigError(
                    f"SharedRail.{name}: got {getattr(self, name)!r}, needed below 1: from there on the rail moves by "
                    "more than the states that move it, and no relaxation settles; write 0.01, say"
                )
        require_number("SharedRail.nudge_shift", self.nudge_shift)
        lookup("SharedRail.scope", self.scope, _SCOPES)
        if not (self.share or self.read_share or self.nudge_shift):
            raise ConfigError("SharedRail: got a rail that does nothing; write SharedRail(share=0.01), or rail=None")

    @classmethod
    def from_ohms(cls, ohms: float, node_siemens: float, units: int, **options: Any) -> SharedRail:
        """The rail of so many ohms from which so many units draw ``node_siemens`` times their state.

        Raises:
            ConfigError: as the class; ``ohms * node_siemens * units`` is its share.
        """
        require_number("SharedRail.from_ohms: ohms", ohms, least=0.0)
        require_number("SharedRail.from_ohms: node_siemens", node_siemens, above=0.0)
        require_whole("SharedRail.from_ohms: units", units, 1)
        return cls(ohms * node_siemens * units, **options)


class Rail:
    """The rails of one chip.

    Args:
        settings: of all chips.
        shapes, names: of the layers that move.
        streams: of the chip.
    """

    def __init__(
        self, settings: SharedRail, shapes: Sequence[tuple[int, ...]], names: Sequence[str], streams: Streams
    ) -> None:
        self.settings, self._shapes, self._names, self._streams = settings, shapes, names, streams
        self._kept: dict[int, Tensor] = {}
        self._units = sum(math.prod(shape) for shape in shapes)

    def shift(self, state: State, layer: int, nudged: bool, paired: bool) -> Tensor | None:
        """What is added to the inputs of a layer, ``[rows, *shape]``; of a stacked pair, with a constant in the real
        part."""
        made = self.nudge_shift(state[layer], layer, paired) if nudged else None
        if self.settings.share:
            sag = self._mean(state, layer) * (-self.settings.share * self._felt(layer, state[layer]))
            made = sag if made is None else made + sag
        return made

    def nudge_shift(self, s: Tensor, layer: int, paired: bool) -> Tensor | None:
        """The part of ``shift`` that comes with a nudge."""
        if not self.settings.nudge_shift:
            return None
        constant = s.new_full((len(s), *[1] * (s.dim() - 1)), -self.settings.nudge_shift)
        if paired:
            constant[len(s) // 2 :] = 0.0
        return constant * self._felt(layer, s)

    def read(self, state: State) -> State:
        """The state as it reaches the converters."""
        r = self.settings.read_share
        if not r:
            return state
        return tuple(s - r * self._mean(state, l) * self._felt(l, s) for l, s in enumerate(state))

    def tangent(self, plain: Callable[[State], State], transpose: bool) -> Callable[[State], State]:
        """``H v`` or ``H^T v`` with the coupling by the rail."""
        if not self.settings.share:
            return plain

        def product(vector: State) -> State:
            result = plain(vector)
            felt = tuple(self._felt(l, v) * v for l, v in enumerate(vector)) if transpose else vector
            shifts = [-self.settings.share * self._mean(felt, l) for l in range(len(vector))]
            if not transpose:
                shifts = [shift * self._felt(l, v) for l, (shift, v) in enumerate(zip(shifts, vector, strict=True))]
            return tuple(r + shift for r, shift in zip(result, shifts, strict=True))

        return product

    def phi(self, state: State, nudged: bool) -> Tensor:
        """What a rail without spread adds to the primitive function, ``[batch]``."""
        share, shift = self.settings.share, self.settings.nudge_shift * nudged
        totals = [s.flatten(1).sum(1) for s in state]
        if self.settings.scope == "chip":
            total = torch.stack(totals).sum(0)
            return -0.5 * share / self._units * total**2 - shift * total
        sizes = [math.prod(shape) for shape in self._shapes]
        each = [-0.5 * share / n * t**2 - shift * t for n, t in zip(sizes, totals, strict=True)]
        return torch.stack(each).sum(0)

    def _mean(self, state: State, layer: int) -> Tensor:
        """Mean activity on the rail of a layer, ``[rows, 1, ...]``."""
        if self.settings.scope == "layer":
            mean = state[layer].flatten(1).mean(1)
        else:
            mean = torch.stack([s.flatten(1).sum(1) for s in state]).sum(0) / self._units
        return mean.reshape(-1, *[1] * len(self._shapes[layer]))

    def _felt(self, layer: int, like: Tensor) -> Tensor | float:
        """How much of the rail's shift the units feel, ``[*shape]``."""
        if not self.settings.spread:
            return 1.0
        kept = self._kept.get(layer)
        if kept is None or (kept.dtype, kept.device) != (like.dtype, like.device):
            drawn = self._streams.normal(f"rail/{self._names[layer]}", (), self._shapes[layer], like)
            kept = self._kept[layer] = 1.0 + self.settings.spread * drawn
        return kept
