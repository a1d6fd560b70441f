"""Hopfield networks: tied weights over any graph of layers, with an energy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import Drive, Phase, State


class HopfieldNetwork(GraphNetwork):
    """Tied (reciprocal) weights: an energy exists, and block minimisation never raises it.

    ``E(s; x) = sum_l rho*_l(s_l) - Phi(s, x)``, ``Phi = sum_(pre, post) s_post . W s_pre + sum_l b_l . s_l``; the
    update of a layer, the others fixed, is the exact minimum of ``E`` over it: ``s_l <- rho_l(dPhi/ds_l)``.

    Source: Hopfield 1984; Scellier & Bengio 2017, Eq. 1-3; energies by convex conjugates: Scellier et al. 2024.

    Args, Raises: see ``GraphNetwork``.
    """

    tied = True
    has_energy = True

    def phi(self, state: State, drive: Drive) -> Tensor:
        total: Tensor | None = None
        for s, term, shape in zip(state, drive.terms, self.shapes, strict=True):
            value = (s * term).sum(dim=tuple(range(-len(shape), 0)))
            total = value if total is None else total + value
        for key, tail, head, *_ in self._edges:
            if tail != -1:
                value = self.connection(key).phi(state[tail], state[head])
                total = value if total is None else total + value
        if total is None:
            raise ConfigError("network: got no layer that moves")
        return total

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        # dE/dtheta = -dPhi/dtheta, linear in the head of a connection; where one end is the same in all phases
        # (the clamped input, the constant of a bias) the other is summed over them first
        negative = [phase._replace(weights=-phase.weights) for phase in phases]
        summed = self.response(negative)
        weighted = [phase.weighted(self.shapes) for phase in negative]
        for key, tail, head, *_ in self._edges:
            if tail == -1:
                self.connection(key).add_gradient(x, summed[head])
                continue
            for phase, scaled in zip(phases, weighted, strict=True):
                self.connection(key).add_gradient(phase.points[tail], scaled[head], phase.paired)
        self._add_bias_gradient(summed)
