"""Circuits in time: currents charge the nodes' capacitances, and every resistor has Johnson noise of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Normals = Callable[[int, int, Tensor], Tensor]


class CircuitHeat:
    """Johnson noise of a circuit whose nodes have one capacitance ``C`` each, for one relaxation:

        C dv = i dt + sqrt(2 k T) dW,   <dW dW^T> = L dt        i: net currents, L: matrix of nodal analysis

    The noise of a resistor enters one of its nodes and leaves the other, so that ``<v v^T> = k T / C`` times the unit
    matrix in a linear circuit: nodes are independent of each other, whatever lies between them (Nyquist 1928; in steps,
    ``(1 - dt L / 2 unit)^-1`` times that). Time is in units of ``C / unit``.

    Args:
        totals: ``G`` of every node, ``[units]`` a layer, siemens.
        incoming: per layer, the layers at the other end and their conductances ``[its units, units]``.
        unit: siemens; the largest ``G`` where None.
        normals: standard normal numbers ``(layer, step, like) -> [batch, units]``.
    """

    def __init__(
        self,
        totals: Sequence[Tensor],
        incoming: Sequence[Sequence[tuple[int, Tensor]]],
        unit: float | None,
        normals: Normals,
    ) -> None:
        self._sizes = [len(g) for g in totals]
        self._normals = normals
        self._steps = [0] * len(totals)
        self._drawn: tuple[int, tuple[Tensor, ...]] = (0, ())
        first = [sum(self._sizes[:l]) for l in range(len(totals))]
        matrix = torch.diag(torch.cat(list(totals)))
        for l, sources in enumerate(incoming):
            for source, g in sources:
                rows = slice(first[source], first[source] + self._sizes[source])
                matrix[rows, first[l] : first[l] + self._sizes[l]] -= g
        self.totals = tuple(totals)
        self.unit = torch.cat(list(totals)).max() if unit is None else totals[0].new_tensor(unit)
        self._root = torch.linalg.cholesky(matrix / self.unit)

    def pull(self, layer: int, voltages: Tensor, currents: Tensor) -> Tensor:
        """Where the flow pulls nodes into which the others send so much, ``[batch, units]``: ``dv/dt = pull - v``."""
        return voltages + (currents - self.totals[layer] * voltages) / self.unit

    def normal(self, layer: int, like: Tensor) -> Tensor:
        """Numbers with the covariance ``L / unit``, the part of one layer; those of all layers belong together."""
        self._steps[layer] += 1
        step = self._steps[layer]
        if self._drawn[0] != step:
            alone = [self._normals(l, step, like.new_empty(len(like), n)) for l, n in enumerate(self._sizes)]
            self._drawn = (step, (torch.cat(alone, 1) @ self._root.mT).split(self._sizes, 1))
        return self._drawn[1][layer]
