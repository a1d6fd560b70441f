"""The true gradient of an equilibrium, by its adjoint system: implicit differentiation and recurrent backprop.

With ``s = rho(inputs(s))``, ``H = d inputs/ds`` and ``D = diag(rho'(inputs))`` at the free state, the loss gradient
reaches every layer through ``lambda = dC/ds + H^T D lambda``, and ``dL/dtheta = (d inputs/dtheta)^T D lambda``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._activations import activation
from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, Network, State, System
from eqprop._relax import Solution, Stop, Sweeps, relax
from eqprop._rule import Rule, RuleStep, add_readout_gradient, at_equilibrium, loss_gradient
from eqprop._solvers import Synchronous


class AdjointSystem(System):
    """The adjoint as a linear attractor network, relaxed by the same engine: ``lambda <- dC/ds + H^T D lambda``."""

    def __init__(self, network: Network, state: State, drive: Drive) -> None:
        self.shapes = network.shapes
        self.activations = (activation("linear"),) * len(self.shapes)
        self.blocks = (tuple(range(len(self.shapes))),)
        self._network, self._state, self._drive = network, state, drive
        z = network.inputs(state, drive)
        self.slopes = tuple(rho.derivative(v) for rho, v in zip(network.activations, z, strict=True))

    def apply(self, vector: State) -> State:
        """``H^T D lambda``."""
        scaled = tuple(d * v for d, v in zip(self.slopes, vector, strict=True))
        return self._network.vjp_inputs(self._state, scaled, self._drive)

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        image = self.apply(state)
        return tuple(drive.terms[l] + image[l] for l in block)

    def delta(self, vector: State) -> State:
        """``D lambda``: the error of each layer's input, the delta of backpropagation."""
        return tuple(d * v for d, v in zip(self.slopes, vector, strict=True))


@dataclass(frozen=True, kw_only=True)
class _AdjointRule(Rule):
    @torch.no_grad()
    def backward(self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None) -> RuleStep:
        drive = network.drive(x)
        free = self.settle(network, drive, start)
        sample = at_equilibrium(network, self.loss_function, free.state, y)
        source = tuple(torch.zeros_like(s) for s in free.state[:-1])
        source += (loss_gradient(network, self.loss_function, sample, free.state),)
        system = AdjointSystem(network, free.state, drive)
        adjoint, residual, nudged = self._solve(system, source, drive)
        weight = 1 / len(sample.loss)
        direction = tuple(d * weight for d in system.delta(adjoint))
        network.add_tangent_gradient(free.state, direction, drive.x)
        weights = torch.full_like(sample.loss, weight)
        add_readout_gradient(network, self.loss_function, sample, free.state, weights)
        return RuleStep(sample.loss.mean(), sample.output, free, nudged, None, residual)

    def _solve(self, system: AdjointSystem, source: State, drive: Drive) -> tuple[State, Tensor, tuple[Solution, ...]]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ImplicitGradient(_AdjointRule):
    """The exact gradient of the equilibrium, by the implicit function theorem: the ground truth of every other rule.

    Solves ``(I - H^T D) lambda = dC/ds`` by GMRES, a system a sample, all at once; it also holds where the plain
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

    def _solve(self, system: AdjointSystem, source: State, drive: Drive) -> tuple[State, Tensor, tuple[Solution, ...]]:
        shapes = system.shapes
        sizes = [torch.Size(h).numel() for h in shapes]

        def flat(state: State) -> Tensor:
            return torch.cat([s.flatten(1) for s in state], 1)

        def unflat(vector: Tensor) -> State:
            return tuple(p.reshape(-1, *h) for p, h in zip(vector.split(sizes, 1), shapes, strict=True))

        b = flat(source)
        tol = 100 * torch.finfo(b.dtype).eps if self.tol is None else self.tol
        solution, residual = gmres(
            lambda v: v - flat(system.apply(unflat(v))), b, tol, self.max_iterations, min(self.restart, b.shape[1])
        )
        return unflat(solution), residual, ()


@dataclass(frozen=True, kw_only=True)
class RecurrentBackprop(_AdjointRule):
    """Recurrent backpropagation: the adjoint system iterated, ``lambda <- dC/ds + H^T D lambda``, from 0.

    Converges where the synchronous relaxation does; after ``n`` sweeps it equals truncated backpropagation through the
    last ``n`` sweeps at the fixed point.

    Args:
        adjoint: when the iteration ends.

    Source: Almeida 1987; Pineda 1987.
    """

    adjoint: Stop | Sweeps = Stop(tol=1e-6, max_sweeps=500)

    def _solve(self, system: AdjointSystem, source: State, drive: Drive) -> tuple[State, Tensor, tuple[Solution, ...]]:
        zero = tuple(torch.zeros_like(s) for s in source)
        solution = relax(system, zero, Drive(source, drive.x), solver=Synchronous(), stop=self.adjoint)
        scale = system.distance(source, zero).clamp(min=torch.finfo(source[-1].dtype).tiny)
        return solution.state, solution.residual / scale, (solution,)


def gmres(
    matvec: Callable[[Tensor], Tensor], b: Tensor, tol: float, max_iterations: int, restart: int
) -> tuple[Tensor, Tensor]:
    """Restarted GMRES on a batch of systems: ``matvec`` and ``b`` are ``[batch, n]``, each row a system of its own.

    Returns:
        The solutions, and ``|b - A x| / |b|`` a system. Looks at the device once a restart.

    Raises:
        ConfigError: not a positive number of iterations.
    """
    if max_iterations < 1 or restart < 1:
        raise ConfigError(f"gmres: got {max_iterations} iterations, restart {restart}; needed at least 1 of each")
    tiny = torch.finfo(b.dtype).tiny
    norm = b.norm(dim=1).clamp(min=tiny)
    x = torch.zeros_like(b)
    best, best_relative = x, torch.ones_like(norm)
    done = 0
    while done < max_iterations:
        r = b - matvec(x) if done else b
        relative = r.norm(dim=1) / norm
        better = relative < best_relative
        best, best_relative = torch.where(better[:, None], x, best), torch.where(better, relative, best_relative)
        if done and (bool((best_relative <= tol).all()) or not bool(better.any())):
            break
        x = best + _gmres_cycle(matvec, torch.where(better[:, None], r, b - matvec(best)), restart, tiny)
        done += restart
    relative = (b - matvec(x)).norm(dim=1) / norm
    better = relative < best_relative
    return torch.where(better[:, None], x, best), torch.where(better, relative, best_relative)


def _gmres_cycle(matvec: Callable[[Tensor], Tensor], r: Tensor, m: int, tiny: float) -> Tensor:
    """The correction of least residual in the Krylov space of dimension ``m`` of each system."""
    size = r.norm(dim=1, keepdim=True)
    basis = [r / size.clamp(min=tiny)]
    h = r.new_zeros(len(r), m + 1, m)
    for j in range(m):
        w = matvec(basis[j])
        stacked = torch.stack(basis, 1)
        for _ in range(2):  # the second pass restores the orthogonality that rounding costs the first
            c = (stacked @ w[:, :, None])[..., 0]
            w = w - (c[:, None, :] @ stacked)[:, 0]
            h[:, : j + 1, j] += c
        length = w.norm(dim=1, keepdim=True)
        h[:, j + 1, j] = length[:, 0]
        # a system that is solved leaves only rounding: no new direction, rather than noise of unit length
        spent = length <= 10 * torch.finfo(r.dtype).eps * h[:, :, j].norm(dim=1, keepdim=True)
        basis.append(torch.where(spent, torch.zeros_like(w), w / length.clamp(min=tiny)))
    rhs = r.new_zeros(len(r), m + 1, 1)
    rhs[:, 0] = size
    y = torch.linalg.pinv(h, rtol=1e-14 if r.dtype == torch.float64 else 1e-6) @ rhs
    return (y.mT @ torch.stack(basis[:m], 1))[:, 0]
