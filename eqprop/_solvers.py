"""Solvers: one step of a relaxation each. The loop is in ``eqprop.relax``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, State, System


class Problem(NamedTuple):
    """What stays fixed during a relaxation."""

    system: System
    drive: Drive
    nudge: Any
    cache: Cache


class Step(NamedTuple):
    """Result of one step: the new state, the image of the old state under the update, and the solver's memory.

    The residual is ``max |image - old state|``. For plain sweeps the image is the new state itself.
    """

    state: State
    image: State
    memory: Any


class Solver(Protocol):
    """One step of a relaxation."""

    def step(self, problem: Problem, state: State, memory: Any) -> Step:
        """The step from ``state``; ``memory`` is None at first, then what the last step returned."""
        ...


def require_solver(what: str, solver: object) -> None:
    """Raises ``ConfigError`` unless ``solver`` makes steps."""
    if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
        raise ConfigError(f"{what}: got {solver!r}, needed a solver, as eqprop.Alternating()")


def fitted(solver: Solver, stop: object) -> Solver:
    """The solver of a relaxation that ends so; one that must know beforehand has a method ``fitted(stop)``."""
    made: Solver = getattr(solver, "fitted", lambda _: solver)(stop)
    return made


@dataclass(frozen=True)
class Alternating:
    """Colour classes of the graph of layers, one after another, each from the newest values (block Gauss-Seidel).

    Same cost as a synchronous sweep, about half as many, and no period-2 oscillation: with tied weights and monotone
    activations every block is an exact minimisation, so that the energy never rises.

    Args:
        reverse: last block first, the order in which a nudged phase matches truncated backpropagation through time.
    """

    reverse: bool = False

    def step(self, problem: Problem, state: State, memory: Any) -> Step:
        system, drive, nudge, cache = problem
        layers = list(state)
        for block in reversed(system.blocks) if self.reverse else system.blocks:
            new = system.update(tuple(layers), drive, nudge, block, cache)
            for l, s in zip(block, new, strict=True):
                layers[l] = s
        result = tuple(layers)
        return Step(result, result, None)


@dataclass(frozen=True)
class Synchronous:
    """All layers at once from the same old state: physical time, and what most papers iterate."""

    def step(self, problem: Problem, state: State, memory: Any) -> Step:
        result = _synchronous(problem, state)
        return Step(result, result, None)


@dataclass(frozen=True)
class GradientFlow:
    """Explicit Euler of the leaky dynamics ``ds/dt = rho(input(s)) - s``: ``s <- s + dt (rho(input(s)) - s)``.

    For a projected (box) activation this is projected gradient descent of the energy with step ``dt``.

    Args:
        dt: step in units of the neurons' time constant, ``0 < dt <= 1``; 1 is ``Synchronous``.
    """

    dt: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.dt <= 1.0:
            raise ConfigError(f"GradientFlow: got dt={self.dt}, needed 0 < dt <= 1; write GradientFlow(dt=0.5)")

    def step(self, problem: Problem, state: State, memory: Any) -> Step:
        image = _synchronous(problem, state)
        return Step(tuple(torch.lerp(s, i, self.dt) for s, i in zip(state, image, strict=True)), image, None)


def _synchronous(problem: Problem, state: State) -> State:
    system, drive, nudge, cache = problem
    return system.update(state, drive, nudge, range(len(state)), cache)


class _Mixing(NamedTuple):
    """Memory of ``Anderson``: ring buffers of states and residual vectors, and the best iterate so far, a sample."""

    states: Tensor  # [batch, window, units]
    residuals: Tensor  # [batch, window, units]
    filled: Tensor  # [batch, window], 1 where the slot holds an iterate of this sample's current history
    best_image: Tensor  # [batch, units]
    best: Tensor  # [batch], residual of the best iterate
    age: Tensor  # [batch], steps since the best iterate
    plain: Tensor  # [batch], plain sweeps still to do before mixing is tried again
    penalty: Tensor  # [batch], plain sweeps after the next fall-back
    slot: int  # the next to be written; no count of steps, which would make every block another one


@dataclass(frozen=True)
class Anderson:
    """Safeguarded Anderson mixing on top of a sweep, a sample at a time, projected on the range of the activations.

    From the last ``window`` iterates ``s_i`` with residual vectors ``r_i = g(s_i) - s_i`` it takes the combination
    ``sum_i a_i g(s_i)``, ``sum_i a_i = 1``, whose residual is least in the linear approximation (Walker & Ni 2011).
    Where the residual of a mixed iterate is more than ``patience`` times the best one, or has not improved on it for
    ``2 * window`` steps, the sample goes back to its best iterate, drops its history and sweeps plainly for a while:
    ``window`` sweeps, then twice as many at each further fall-back. It therefore converges wherever plain sweeps do.

    Helps where contraction is slow; beyond contraction it may find another equilibrium than plain sweeps. Start nudged
    phases from the free state with plain sweeps.

    Args:
        window: iterates remembered.
        regularisation: relative to the trace of the Gram matrix, which is formed in float64.
        patience: factor by which a residual may exceed the best before the sample falls back.
        sweep: the plain solver underneath, ``Alternating()`` or ``Synchronous()``.
    """

    window: int = 5
    regularisation: float = 1e-10
    patience: float = 2.0
    sweep: Alternating | Synchronous = Alternating()

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"Anderson: got window={self.window}, needed at least 1")

    def step(self, problem: Problem, state: State, memory: _Mixing | None) -> Step:
        image = self.sweep.step(problem, state, None).state
        flat, flat_image = _flatten(problem, state), _flatten(problem, image)
        residual = flat_image - flat
        size = torch.linalg.vector_norm(residual, torch.inf, dim=-1)
        if memory is None:
            shape = (*flat.shape[:-1], self.window, flat.shape[-1])
            zero = torch.zeros_like(size)
            memory = _Mixing(
                flat.new_zeros(shape),
                flat.new_zeros(shape),
                flat.new_zeros(shape[:-1]),
                flat_image,
                torch.full_like(size, torch.inf),
                age=zero,
                plain=zero,
                penalty=torch.full_like(size, self.window),
                slot=0,
            )
        plain = memory.plain > 0
        stuck = (size > self.patience * memory.best) | (memory.age >= 2 * self.window)
        worse = (stuck & ~plain) | ~torch.isfinite(size)
        # plain sweeps may raise the residual on their way: each sets the bar anew
        better = (size < memory.best) | (plain & ~worse)
        best = torch.where(better, size, memory.best)
        best_image = torch.where(better[..., None], flat_image, memory.best_image)
        slot = memory.slot
        # a sample that fell back starts a new history; its bad iterate is not part of it, for 0 * NaN is NaN
        filled = memory.filled * (~worse)[..., None]
        states, residuals = memory.states.clone(), memory.residuals.clone()
        states[..., slot, :] = torch.where(worse[..., None], best_image, flat)
        residuals[..., slot, :] = torch.where(worse[..., None], torch.zeros_like(residual), residual)
        filled[..., slot] = (~worse).to(filled.dtype)
        mixed, usable = self._mix(states, residuals, filled)
        mixed = torch.where((usable & ~plain)[..., None], mixed, flat_image)
        new = _project(problem, _unflatten(problem, torch.where(worse[..., None], best_image, mixed)))
        memory = _Mixing(
            states,
            residuals,
            filled,
            best_image,
            # after a fall-back the bar is lifted, so that the plain sweep is accepted
            torch.where(worse, torch.full_like(best, torch.inf), best),
            age=torch.where(better | worse, 0, memory.age + 1),
            plain=torch.where(worse, memory.penalty, (memory.plain - 1).clamp(min=0)),
            penalty=torch.where(worse, 2 * memory.penalty, memory.penalty),
            slot=(slot + 1) % self.window,
        )
        return Step(new, image, memory)

    def _mix(self, states: Tensor, residuals: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """The combination of least residual, and where its coefficients are numbers that sum to 1."""
        wide = residuals.double() * filled[..., None]
        gram = wide @ wide.mT
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None]
        # empty slots get a unit diagonal and no right-hand side: their coefficient is exactly zero
        diagonal = self.regularisation * trace + torch.finfo(gram.dtype).tiny + (1 - filled.double()) * (trace + 1)
        system = gram + torch.diag_embed(diagonal)
        solution, _ = torch.linalg.solve_ex(system, filled.double()[..., None])
        weights = solution[..., 0] * filled
        weights = weights / weights.sum(-1, keepdim=True)
        usable = (weights.sum(-1) - 1).abs() < 1e-3  # not where all residuals are zero, say
        return (weights.to(states.dtype)[..., None] * (states + residuals)).sum(-2), usable


def _flatten(problem: Problem, state: State) -> Tensor:
    return torch.cat([s.flatten(-len(h)) for s, h in zip(state, problem.system.shapes, strict=True)], -1)


def _unflatten(problem: Problem, flat: Tensor) -> State:
    sizes = [torch.Size(h).numel() for h in problem.system.shapes]
    return tuple(part.unflatten(-1, h) for part, h in zip(flat.split(sizes, -1), problem.system.shapes, strict=True))


def _project(problem: Problem, state: State) -> State:
    return tuple(
        s if rho.bounds is None else s.clamp(*rho.bounds)
        for s, rho in zip(state, problem.system.activations, strict=True)
    )
