"""A block of sweeps: what runs between two looks at the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from eqprop._network import State
from eqprop._solvers import Problem, Solver

# called after every sweep with (sweeps done, state); must not wait for the device
Observer = Callable[[int, State], None]


class Block(NamedTuple):
    """What a block of sweeps leaves: (image, argument) of its first and last step, and the last state but two."""

    state: State
    memory: Any
    head: tuple[State, State]
    tail: tuple[State, State]
    before: State


class Sweeper(Protocol):
    """Runs the blocks of one relaxation."""

    def __call__(self, state: State, memory: Any, n: int, done: int) -> Block:
        """``n`` steps without a look at the device, after ``done`` earlier ones; what it returns may be overwritten by
        the next call."""
        ...

    def own(self, state: State) -> State:
        """The state of a block as tensors that nothing overwrites."""
        ...


def sweep_block(
    problem: Problem, solver: Solver, state: State, memory: Any, n: int, done: int = 0, observer: Observer | None = None
) -> Block:
    """``n`` steps of the solver, one after another."""
    before = old = image = state
    head = (state, state)
    for k in range(n):
        before, old = old, state
        state, image, memory = solver.step(problem, state, memory)
        if k == 0:
            head = (image, old)
        if observer is not None:
            observer(done + k + 1, state)
    return Block(state, memory, head, (image, old), before)


class EagerSweeps:
    """The plain way: every sweep is queued as its operations come."""

    def __init__(self, problem: Problem, solver: Solver, observer: Observer | None = None) -> None:
        self._problem, self._solver, self._observer = problem, solver, observer

    def __call__(self, state: State, memory: Any, n: int, done: int) -> Block:
        return sweep_block(self._problem, self._solver, state, memory, n, done, self._observer)

    def own(self, state: State) -> State:
        return state
