"""The linear response of an equilibrium: forwards (tangent) and backwards (adjoint), relaxed or solved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eqprop._activations import activation
from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, Network, State, System


class LinearResponse(System):
    """A linear attractor network around a free equilibrium, relaxed by the same engine: ``u <- D (c + M u)``.

    ``D = diag(rho'(z))`` at the free state and ``H = d inputs/ds``. With ``M = H`` (tangent) and ``c = -dC/ds`` the
    fixed point is ``ds/dbeta``, the exact response to a nudge. With ``M = H^T`` (adjoint) and ``c = dC/ds`` it is the
    error of every layer's input, the delta of backpropagation, and ``dL/dtheta = (d inputs/dtheta)^T u``.

    Its drive has the source ``c`` as terms.
    """

    def __init__(self, network: Network, state: State, drive: Drive, *, adjoint: bool) -> None:
        self.shapes = network.shapes
        self.activations = (activation("linear"),) * len(self.shapes)
        self.blocks = (tuple(range(len(self.shapes))),)
        self._network, self._state, self._drive, self._adjoint = network, state, drive, adjoint
        z = network.inputs(state, drive)
        self.slopes = tuple(rho.derivative(v) for rho, v in zip(network.activations, z, strict=True))

    def tangent(self) -> Callable[[State], State]:
        """``u -> M u``, prepared for many vectors."""
        return self._network.tangent(self._state, self._drive, transpose=self._adjoint)

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache(self.tangent())

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        image = cache.content(state)
        return tuple(self.slopes[l] * (drive.terms[l] + image[l]) for l in block)

    def solve(self, source: State, *, tol: float | None, max_iterations: int, restart: int) -> tuple[State, Tensor]:
        """``(I - D M) u = D c`` by GMRES: also where the relaxation diverges. Returns ``u`` and relative residuals."""
        sizes = [torch.Size(h).numel() for h in self.shapes]
        tangent = self.tangent()

        def flat(state: State) -> Tensor:
            return torch.cat([d.flatten(1) for d in state], 1)

        def matvec(vector: Tensor) -> Tensor:
            parts = vector.split(sizes, 1)
            image = tangent(tuple(p.reshape(-1, *h) for p, h in zip(parts, self.shapes, strict=True)))
            return vector - flat(self._scaled(image))

        b = flat(self._scaled(source))
        tol = 100 * torch.finfo(b.dtype).eps if tol is None else tol
        solution, residual = gmres(matvec, b, tol, max_iterations, min(restart, b.shape[1]))
        parts = solution.split(sizes, 1)
        return tuple(p.reshape(-1, *h) for p, h in zip(parts, self.shapes, strict=True)), residual

    def _scaled(self, state: State) -> State:
        return tuple(d * s for d, s in zip(self.slopes, state, strict=True))


def gmres(
    matvec: Callable[[Tensor], Tensor], b: Tensor, tol: float, max_iterations: int, restart: int
) -> tuple[Tensor, Tensor]:
    """Restarted GMRES on a batch of systems: ``matvec`` and ``b`` are ``[batch, n]``, each row a system of its own.

    Returns:
        The solutions, and ``|b - A x| / |b|`` a system; of a system that is not finite zeros, and 1. Looks at the
        device once a restart.

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
    finite = h.isfinite().all(2, keepdim=True).all(1, keepdim=True)  # pinv refuses all systems for one that is not
    y = torch.linalg.pinv(torch.where(finite, h, 0.0), rtol=1e-14 if r.dtype == torch.float64 else 1e-6) @ rhs
    return (y.mT @ torch.stack(basis[:m], 1))[:, 0]
