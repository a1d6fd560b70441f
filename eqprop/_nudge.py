"""Nudges: forces that pull a relaxing network towards a target."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._costs import Cost, SquaredError
from eqprop._network import Network


class Nudge(Protocol):
    """Acts on the layers that it names: it takes their total input and gives their new state."""

    layers: Set[int]

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        """New state of ``layer``, whose total input is ``z`` (may be overwritten) and whose state is ``s``."""
        ...


class CostNudge:
    """The force ``-beta dC/ds`` on the output layer: the dynamics of the total energy ``E + beta C``.

    For a squared error on an output with ``rho* = s^2/2`` (linear, hard sigmoid, ReLU6) and no readout, the exact block
    minimum replaces the force: ``s <- rho((z + beta y) / (1 + beta))``. The fixed point is the same; the energy never
    rises and no step is too long.

    Args:
        network: gives the output layer and its readout.
        cost: the cost ``C(output, target)``.
        target: ``[batch, outputs]``, from ``cost.target``.
        beta: nudge strength a sample, ``[batch, 1]``, positive values lower the cost.
    """

    def __init__(self, network: Network, cost: Cost, target: Tensor, beta: Tensor) -> None:
        last = len(network.shapes) - 1
        self.layers: Set[int] = frozenset((last,))
        self.cost, self.target, self.beta = cost, target, beta
        self.readout = network.readout
        self._dims = len(network.shapes[last])
        rho = network.activations[last]
        self._exact = isinstance(cost, SquaredError) and self.readout is None and rho.quadratic
        if self._exact:
            shape = target.shape[:-1] + network.shapes[last]
            self._scale = (1 / (1 + beta)).reshape(beta.shape[:-1] + (1,) * len(network.shapes[last]))
            self._offset = (beta * self._scale.reshape(beta.shape) * target).reshape(shape)

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        if self._exact:
            return rho.inplace(torch.addcmul(self._offset, z, self._scale))
        return rho.inplace(z + self.force(s))

    def force(self, s: Tensor) -> Tensor:
        """``-beta dC/ds`` at the output layer's state ``s [batch, *shape]``, or ``[members, batch, units]``."""
        flat = s.flatten(-self._dims) if self._dims > 1 else s
        if self.readout is None:
            gradient = self.cost.gradient(flat, self.target)
        else:
            gradient = torch.matmul(self.cost.gradient(self.readout(flat), self.target), self.readout.weight)
        return (-self.beta * gradient).reshape(s.shape)
