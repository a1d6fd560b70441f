"""The true gradient of an equilibrium, by its adjoint system: implicit differentiation and recurrent backprop.

With ``s = rho(inputs(s))``, ``H = d inputs/ds`` and ``D = diag(rho'(inputs))`` at the free state, the error of every
layer's input is ``delta = D (dC/ds + H^T delta)``, and ``dL/dtheta = (d inputs/dtheta)^T delta``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._linear_response import LinearResponse
from eqprop._network import Drive, Network, State
from eqprop._phases import settle_in_full
from eqprop._relax import relax
from eqprop._rule import Rule, RuleStep, add_readout_gradient, at_equilibrium, loss_gradient
from eqprop._solution import Solution
from eqprop._solvers import Synchronous
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True, kw_only=True)
class _AdjointRule(Rule):
    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        drive = network.drive(x)
        free = settle_in_full(self, network, drive, start)
        sample = at_equilibrium(network, self.loss_function, free.state, y)
        source = tuple(torch.zeros_like(s) for s in free.state[:-1])
        source += (loss_gradient(network, self.loss_function, sample, free.state),)
        response = LinearResponse(network, free.state, drive, adjoint=True)
        delta, residual, nudged = self._solve(response, source, drive)
        weight = 1 / len(sample.loss)
        direction = tuple(d * weight for d in delta)
        network.add_tangent_gradient(free.state, direction, drive.x)
        weights = torch.full_like(sample.loss, weight)
        add_readout_gradient(network, self.loss_function, sample, free.state, weights)
        return RuleStep(sample.loss.mean(), sample.output, free, drive, nudged, None, residual)

    def _solve(
        self, response: LinearResponse, source: State, drive: Drive
    ) -> tuple[State, Tensor, tuple[Solution, ...]]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ImplicitGradient(_AdjointRule):
    """The exact gradient of the equilibrium, by the implicit function theorem: the ground truth of every other rule.

    Solves ``(I - D H^T) delta = D dC/ds`` by GMRES, a system a sample, all at once; it also holds where the plain
    iteration of ``RecurrentBackprop`` diverges. Exact as far as the free phase is at equilibrium: ask for a small
    ``free.tol``.

    Args:
        tol: bound on the relative residual of the adjoint system; None for 100 roundings of the dtype.
        max_iterations: of GMRES, all restarts together.
        restart: iterations between restarts.

    Source: Almeida 1987; Pineda 1987; Bai et al. 2019 (as implicit differentiation). GMRES: Saad & Schultz 1986.
    """

    free: Stop | Sweeps = Stop(tol=1e-6, max_sweeps=1000)
    tol: float | None = None
    max_iterations: int = 400
    restart: int = 40

    def _solve(
        self, response: LinearResponse, source: State, drive: Drive
    ) -> tuple[State, Tensor, tuple[Solution, ...]]:
        options: dict[str, Any] = {"tol": self.tol, "max_iterations": self.max_iterations, "restart": self.restart}
        return *response.solve(source, **options), ()


@dataclass(frozen=True, kw_only=True)
class RecurrentBackprop(_AdjointRule):
    """Recurrent backpropagation: the adjoint system iterated, ``delta <- D (dC/ds + H^T delta)``, from 0.

    Converges where the synchronous relaxation does; after ``n`` sweeps it equals truncated backpropagation through the
    last ``n`` sweeps at the fixed point.

    Args:
        adjoint: when the iteration ends.

    Source: Almeida 1987; Pineda 1987.
    """

    adjoint: Stop | Sweeps = Stop(tol=1e-6, max_sweeps=500)

    def _solve(
        self, response: LinearResponse, source: State, drive: Drive
    ) -> tuple[State, Tensor, tuple[Solution, ...]]:
        zero = tuple(torch.zeros_like(s) for s in source)
        solution = relax(
            response, zero, Drive(source, drive.x), solver=Synchronous(), stop=self.adjoint, graphs=self.graphs
        )
        scale = response.distance(solution.state, zero).clamp(min=torch.finfo(source[-1].dtype).tiny)
        return solution.state, solution.residual / scale, (solution,)
