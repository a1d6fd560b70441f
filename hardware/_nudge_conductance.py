"""The nudge of a squared error in a circuit: a conductance from every output node to a source at its target."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._nudge import CostNudge
from hardware._amplifiers import output_resistance


class NudgeConductance:
    """``CostNudge`` of a squared error, solved exactly together with the output layer's own resistors.

        i = beta R^T (y - o),   o = R v        amperes into output nodes at voltages v; R: sense amplifiers

    The exact block minimum, so that no step is too long. Outputs share no node: each sees one resistance ``r`` (that of
    Thevenin), and draws ``beta (o - y) / (1 + beta r)``.

    Args:
        nudge: with ``beta`` in siemens.
    """

    def __init__(self, nudge: CostNudge) -> None:
        self.layers: Set[int] = nudge.layers
        self.beta, self.target, self.readout = nudge.beta, nudge.target, nudge.readout

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        """New voltages of the output layer, whose nodes are linear."""
        return self.settle(z, rho.derivative(z))

    def settle(self, z: Tensor, resistance: Tensor) -> Tensor:
        """Voltages at the inputs ``z`` (A, may be overwritten) of nodes with that resistance (ohms)."""
        return self._loaded(z.mul_(resistance), resistance)

    def force(self, s: Tensor) -> Tensor:
        """The current into every output node at the voltages ``s``, A."""
        return self._back(self.beta * (self.target - self._output(s)))

    def _loaded(self, v: Tensor, resistance: Tensor) -> Tensor:
        """Unloaded voltages ``v`` under the load of the nudge."""
        load = 1 + self.beta * output_resistance(resistance, self.readout)
        # a negative conductance above that of the node itself: no voltage is a minimum
        load = load.where(load > 0, torch.nan)
        return v - resistance * self._back(self.beta * (self._output(v) - self.target) / load)

    def _output(self, v: Tensor) -> Tensor:
        return v if self.readout is None else self.readout(v)

    def _back(self, current: Tensor) -> Tensor:
        return current if self.readout is None else torch.mm(current, self.readout.weight)
