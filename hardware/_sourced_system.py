"""A system that a network makes of itself, on a chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqprop._network import Cache, Drive, State, System

if TYPE_CHECKING:
    from hardware._chip_phases import ChipPhases


class Sourced(System):
    """A system that a network made of itself, nudged by the chip's source."""

    def __init__(self, system: System, chip: ChipPhases) -> None:
        self.shapes, self.activations, self.blocks = system.shapes, system.activations, system.blocks
        self.affine, self.holomorphic, self.bath = system.affine, system.holomorphic, system.bath
        self._system, self._chip = system, chip

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return self._system.new_cache(products, paired)

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z, rail = self._system.block_inputs(state, drive, block, cache), self._chip._supply
        if rail is not None and self._chip._course.nudged:
            for i, l in enumerate(block):
                if (shift := rail.nudge_shift(state[l], l, drive.x.numel() == 0)) is not None:
                    z[i] = z[i] + shift
        return z

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        self._chip._course.last = (self, drive, nudge)
        return super().update(state, drive, self.sourced(nudge), block, cache)

    def sourced(self, nudge: Any) -> Any:
        return self._chip.sourced(nudge)
