"""Relaxation with a complex nudge: any network with holomorphic activations, seen as one on stacked real pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eqprop._convolution import ConvConnection
from eqprop._costs import Cost
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import Cache, Drive, Network, State, System
from eqprop._pairs import halves, times
from eqprop._solution import Solution


class ComplexSystem(System):
    """A system whose states are stacked pairs ``[2 * batch, *shape]``: real parts, then imaginary parts.

    Residual and status are those of a sample: both its halves together.

    Raises:
        ConfigError: an activation or inputs that are not holomorphic; names the layer and what to use instead.
    """

    holomorphic = True

    def __init__(self, system: System) -> None:
        for number, rho in enumerate(system.activations, start=1):
            if rho.pair is None:
                raise ConfigError(
                    f"complex nudge: activation {rho.name!r} of moving layer {number} is not holomorphic; use "
                    "'sigmoid', 'tanh', 'dsilu' or 'linear', or contour='centred'"
                )
        if not system.holomorphic:
            if isinstance(system, GraphNetwork):
                _require_holomorphic(system)
            raise ConfigError(
                f"complex nudge: the inputs of {type(system).__name__} are not known to be holomorphic; use a "
                "HopfieldNetwork or DirectedNetwork (with pooling='soft' or 'average' in place of 'max'), or "
                "contour='centred'"
            )
        self.shapes, self.blocks = system.shapes, system.blocks
        # the bounds of an activation hold on the real line only: a solver must not project a complex state on them
        self.activations = tuple(replace(rho, bounds=None) for rho in system.activations)
        self.bath = system.bath
        self._system = system

    def new_cache(self, products: torch.dtype | None = None, paired: bool = True) -> Cache:
        return self._system.new_cache(products, paired=True)

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        return self._system.block_inputs(state, drive, block, cache)

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        new = []
        nudge = self._system.sourced(nudge)
        for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True):
            rho = self.activations[l]
            if nudge is not None and l in nudge.layers:
                z = z + nudge.force(state[l])
            new.append(rho.on_pair(z))
        return tuple(new)

    def distance(self, a: State, b: State) -> Tensor:
        return torch.maximum(*halves(super().distance(a, b)))

    def select(self, mask: Tensor, a: State, b: State) -> State:
        return super().select(mask.repeat(2), a, b)

    def split_solution(self, solution: Solution, parts: int) -> list[Solution]:
        """The solutions of ``parts`` phases that relaxed as one batch, each a stacked pair."""
        pairs = [self.split_state(solution.state, 2 * parts)[k::parts] for k in range(parts)]
        rest = [t.chunk(parts) for t in (solution.residual, solution.sweeps, solution.status, solution.rate)]
        return [Solution(self.join_states(pairs[k]), *(t[k] for t in rest)) for k in range(parts)]

    def lift_drive(self, drive: Drive) -> Drive:
        """The drive of a real batch as one of stacked pairs: its imaginary half is zero."""
        batch = len(drive.x)
        terms = []
        for term, shape in zip(drive.terms, self.shapes, strict=True):
            full = term.expand(batch, *shape)
            terms.append(torch.cat([full, torch.zeros_like(full)]))
        return Drive(tuple(terms), drive.x.new_empty(2 * batch, 0))

    def lift_state(self, state: State) -> State:
        """A real state as a stacked pair."""
        return tuple(torch.cat([s, torch.zeros_like(s)]) for s in state)


class ComplexCostNudge:
    """The force ``-beta dC/ds`` with complex ``beta``, on a stacked pair.

    Args:
        network: gives the output layer and its readout.
        cost: a holomorphic cost.
        target: ``[batch, outputs]``.
        beta: real and imaginary part, ``[2 * batch, 1]``.

    Raises:
        ConfigError: a cost without a holomorphic extension.
    """

    def __init__(self, network: Network, cost: Cost, target: Tensor, beta: Tensor) -> None:
        if not cost.holomorphic:
            raise ConfigError(
                f"complex nudge: cost {cost.name!r} has no holomorphic extension here; use 'squared-error' or "
                "'cross-entropy', or contour='centred'"
            )
        self.layers: Set[int] = frozenset((len(network.shapes) - 1,))
        self.cost, self.target, self.readout = cost, target, network.readout
        self.beta = halves(beta)

    def unit_force(self, s: Tensor) -> Tensor:
        """``-dC/ds`` at the real output state ``s [batch, *shape]``."""
        unit = copy.copy(self)
        unit.beta = torch.ones_like(self.beta[0]), torch.zeros_like(self.beta[0])
        return halves(unit.force(torch.cat([s, torch.zeros_like(s)])))[0]

    def force(self, s: Tensor) -> Tensor:
        """``-beta dC/ds`` at the stacked output state ``s [2 * batch, *shape]``."""
        flat = s.flatten(1)
        if self.readout is None:
            output = halves(flat)
        else:
            re, im = halves(flat @ self.readout.weight.mT)
            output = re + self.readout.bias, im
        gradient = torch.cat(times(self.beta, self.cost.pair_gradient(*output, self.target)))
        if self.readout is not None:
            gradient = gradient @ self.readout.weight
        return gradient.neg_().reshape(s.shape)


def _require_holomorphic(network: GraphNetwork) -> None:
    """Raises ``ConfigError`` that names the first connection between moving layers that is not holomorphic."""
    for edge in network._edges:
        connection = network.connection(edge.key)
        if edge.tail == -1 or connection.holomorphic:
            continue
        if isinstance(connection, ConvConnection):
            raise ConfigError(
                f"complex nudge: connection {edge.key!r} has pooling={connection.geometry.pooling!r}, which is not "
                "holomorphic; write pooling='soft' or 'average', or contour='centred'"
            )
        raise ConfigError(
            f"complex nudge: connection {edge.key!r} is a {type(connection).__name__}, which is not holomorphic; write "
            "contour='centred'"
        )
