"""Pulses on the few cells of an array that a step touches: all work is in proportion to their number."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from hardware._cell_draws import CellDraws
from hardware._devices import Device
from hardware._few import numbers_of
from hardware._mapping import Mapping
from hardware._step_laws import Cells
from hardware._streams import Streams

_MOST = 1 << 31  # pulses that are counted


class Bank(Protocol):
    """Cells that take pulses: those of an array, or of its auxiliary.

    Attributes:
        device: of the cells.
        mapping: of parameters to cells.
        cells: what chance decided for each, ``[cells, *parameter]``.
        hidden: conductances on which pulses act, changed in place.
        conductance: what is seen of them, changed in place; the same tensor for devices without write noise.
    """

    device: Device
    mapping: Mapping
    conductance: Tensor

    @property
    def cells(self) -> Cells: ...

    @property
    def hidden(self) -> Tensor: ...


class Pulses(NamedTuple):
    """Pulses on parameters, ``[n]`` each.

    Attributes:
        where: numbers of the parameters in their tensor, ascending, int64.
        counts: pulses on each of its cells, from 1 on, int64.
        rises: whether the parameter is to rise, bool.
    """

    where: Tensor
    counts: Tensor
    rises: Tensor


def pulses_of(change: Tensor, counts: Tensor) -> Pulses:
    """The pulses among ``counts``, whole numbers as floating point, of any shape; on an accelerator this waits for how
    many there are."""
    # NaN gives no pulses on an accelerator, and does not come here on a CPU, where comparisons are slow
    where = numbers_of(counts.flatten().to(torch.bool) if counts.device.type == "cpu" else counts.flatten() > 0)
    return Pulses(where, counts.take(where).clamp_(max=_MOST).to(torch.int64), change.take(where) > 0)


class Touched(NamedTuple):
    """Cells after their pulses.

    Attributes:
        numbers: of the cells in their array, ``[m]``, int64.
        seen: their conductances, ``[cells, n]``, where all cells of a parameter were pulsed; else None.
    """

    numbers: Tensor
    seen: Tensor | None


def apply_pulses(bank: Bank, pulses: Pulses, streams: Streams, key: str, at: tuple[int, ...]) -> Touched:
    """Pulse the cells, in place.

    Args:
        bank: whose cells.
        pulses: on its parameters.
        streams: of the chip.
        key: of the connection.
        at: counters of the moment.
    """
    device, law = bank.device, bank.device.pulses
    if law is None:
        return Touched(pulses.where[:0], None)
    numbers, up, counts = _trains(bank, pulses, one_way=law.one_way)
    sizes: list[int] = []
    if not law.at_once(exact=False):  # one pulse after another, on ever fewer cells
        order = counts.argsort(descending=True, stable=True)
        numbers, up, counts = (t.index_select(0, order) for t in (numbers, up, counts))
        sizes = (len(counts) - counts.bincount().cumsum(0))[:-1].tolist()
    cells = bank.cells.of_pulses(numbers)
    draws = CellDraws(streams, f"pulses/{key}", at, numbers)
    g = bank.hidden.view(-1).index_select(0, numbers)
    g = law.train(True if law.one_way else up, g, counts, cells, device.frame, draws, False, sizes)
    bank.hidden.view(-1).index_copy_(0, numbers, g)
    if law.write_noise > 0:
        if sizes:  # other trains may have been longer: what this cell draws next does not depend on that
            draws = CellDraws(streams, f"pulses.seen/{key}", at, numbers)
        g = torch.where(cells.stuck, g, device.apparent(g, draws))
        bank.conductance.view(-1).index_copy_(0, numbers, g)
    return Touched(numbers, None if sizes or law.one_way else g.view(bank.mapping.cells, len(pulses.where)))


def _trains(bank: Bank, pulses: Pulses, *, one_way: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the cells that are pulsed, whether up, and how often: all of a parameter, or the one to go up."""
    where, counts, rises = pulses
    if bank.mapping.cells == 1:
        return where, rises, counts
    second = where + bank.hidden[0].numel()
    if one_way:
        return torch.where(rises, where, second), rises, counts
    return torch.cat([where, second]), torch.cat([rises, ~rises]), torch.cat([counts, counts])
