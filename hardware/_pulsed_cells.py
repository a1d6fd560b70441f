"""Cells and their conductances, as arrays of every kind hold them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardware._devices import Device
from hardware._step_laws import Cells


class PulsedCells(nn.Module):
    """Base of what holds cells: what chance decided for each, what they show, and what pulses act on.

    Attributes:
        device: what the cells are.
        conductance: what they show, ``[cells, ...]`` siemens.
    """

    device: Device
    conductance: Tensor
    _cells_normal: Tensor
    _cells_stuck: Tensor
    _hidden: Tensor | None

    def _hold_cells(self, cells: Cells, where: torch.device) -> None:
        """Chance's decisions, which follow from the seed and are in no file."""
        for name, value in cells._asdict().items():
            alike = value.numel() > 0 and bool((value == value.flatten()[0]).all())  # one for all is faster to read
            kept = value.flatten()[0].clone() if alike and name != "normal" else value
            self.register_buffer(f"_cells_{name}", kept.to(where), persistent=False)

    def _hold_conductance(self, start: Tensor) -> None:
        """Conductances, which then belong to this module; hidden ones too where the device has noise of a write."""
        self.register_buffer("conductance", start)
        has_write_noise = self.device.pulses is not None and self.device.pulses.write_noise > 0
        self.register_buffer("_hidden", start.clone() if has_write_noise else None)

    @property
    def cells(self) -> Cells:
        """What chance decided for each cell, ``[cells, ...]``."""
        return Cells(*(getattr(self, f"_cells_{name}") for name in Cells._fields))

    @property
    def hidden(self) -> Tensor:
        """Conductances on which pulses act: those that are seen, less the noise of a write where the device has it."""
        return self.conductance if self._hidden is None else self._hidden
