"""The one relaxation loop of the project."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError, ConvergenceError
from eqprop._names import lookup
from eqprop._network import Drive, State, System
from eqprop._solvers import Alternating, Problem, Solver

# called after every sweep with (sweeps done, state); must not wait for the device
Observer = Callable[[int, State], None]


class Status:
    """Outcome of a relaxation, a sample each (``Solution.status``, int8); the same under ``Stop`` and ``Sweeps``.

    ``OSCILLATING``: after 3 sweeps or more the state is that of two sweeps ago, within ``tol`` and within a thousandth
    of the last step, so that steps do not shrink (not for a solver with a memory). ``DIVERGED``: the residual is more
    than 1e4 times ``1 +`` that of the first sweep.
    """

    CONVERGED: ClassVar[int] = 0
    MAX_SWEEPS: ClassVar[int] = 1
    OSCILLATING: ClassVar[int] = 2
    DIVERGED: ClassVar[int] = 3
    NONFINITE: ClassVar[int] = 4

    TEXT: ClassVar[dict[int, str]] = {
        0: "converged",
        1: "ran out of sweeps: allow more (max_sweeps), or loosen tol",
        2: "oscillates with period 2: use Alternating() instead of Synchronous(), or GradientFlow(dt=0.5) or smaller",
        3: "diverges: use smaller weights, a bounded activation, or GradientFlow with a smaller dt",
        4: "became NaN or infinite: use smaller weights or learning rates; check the data",
    }


@dataclass(frozen=True)
class Stop:
    """Sweep until the residual of a sample is at most ``tol``, at most ``max_sweeps`` times.

    The residual, the mask of running samples and the contraction rate are computed once a ``block`` of sweeps; inside a
    block nothing waits for the device, and the boundaries of blocks do not depend on the batch.

    Args:
        tol: bound on ``max over units |update(s) - s|``.
        max_sweeps: then the sample is ``MAX_SWEEPS``.
        block: sweeps between two looks.

    Raises:
        ConfigError: a bound that is negative or not finite, or a number of sweeps that is not whole and positive.
    """

    tol: float = 1e-4
    max_sweeps: int = 500
    block: int = 10

    def __post_init__(self) -> None:
        if not _is_bound(self.tol) or not _is_count(self.max_sweeps) or not _is_count(self.block):
            raise ConfigError(
                f"Stop: got {self}, needed tol >= 0, max_sweeps >= 1, block >= 1: tol finite, the others whole numbers"
            )


@dataclass(frozen=True)
class Sweeps:
    """Exactly ``n`` sweeps, as papers do, for every sample; ``tol`` only decides what ``status`` says.

    The first and the last residual, and the last step back over two sweeps, are computed once, at the end.

    Raises:
        ConfigError: ``n`` is no whole number of at least 1, or ``tol`` is negative or not finite.
    """

    n: int
    tol: float = 1e-3

    def __post_init__(self) -> None:
        if not _is_count(self.n):
            raise ConfigError(f"Sweeps: got n={self.n}, needed a whole number of at least 1")
        if not _is_bound(self.tol):
            raise ConfigError(f"Sweeps: got tol={self.tol}, needed a finite number of at least 0")


def _is_bound(tol: object) -> bool:
    return isinstance(tol, int | float) and math.isfinite(tol) and tol >= 0.0


def _is_count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


@dataclass(frozen=True)
class Solution:
    """An equilibrium and how it was reached; one value a sample (``[batch]`` or ``[model, batch]``).

    Attributes:
        state: the equilibrium, a tuple of ``[batch, *shape]``.
        residual: ``max |update(s) - s|`` over the units at the last sweep, in block order.
        sweeps: sweeps that the sample took (int32).
        status: one of ``Status`` (int8).
        rate: contraction of the residual a sweep, over the last block or (``Sweeps``, first block) from the first to
            the last sweep; 0 where the residual is 0, else NaN after a single sweep.
    """

    state: State
    residual: Tensor
    sweeps: Tensor
    status: Tensor
    rate: Tensor

    @property
    def error_estimate(self) -> Tensor:
        """``residual / (1 - rate)``: the distance to the fixed point, where a small step is not a small error.

        Infinite where the residual does not fall, NaN where the rate is. After few sweeps the rate is a mean over the
        transient, and under ``Sweeps`` always: there it is the order of the error, not a bound.
        """
        return self.residual / (1 - self.rate.clamp(0.0, 1.0))

    @property
    def converged(self) -> Tensor:
        """Mask of converged samples."""
        return self.status == Status.CONVERGED

    def split(self, parts: int, system: System) -> tuple[Solution, ...]:
        """The solutions of ``parts`` phases that relaxed as one batch."""
        if parts == 1:
            return (self,)
        states = [s.chunk(parts, dim=-len(h) - 1) for s, h in zip(self.state, system.shapes, strict=True)]
        rest = [t.chunk(parts, dim=-1) for t in (self.residual, self.sweeps, self.status, self.rate)]
        return tuple(Solution(tuple(s[k] for s in states), *(t[k] for t in rest)) for k in range(parts))

    def raise_for_status(self) -> Solution:
        """Itself, if every sample converged.

        Raises:
            ConvergenceError: names the samples, their residual and the remedy. Waits for the device.
        """
        failed = torch.nonzero(self.status.flatten() != Status.CONVERGED).flatten().tolist()
        if failed:
            first = failed[0]
            status = int(self.status.flatten()[first])
            raise ConvergenceError(
                f"{len(failed)} of {self.status.numel()} samples did not converge, batch indices {failed[:8]}; "
                f"sample {first} has residual {float(self.residual.flatten()[first]):.3g} after "
                f"{int(self.sweeps.flatten()[first])} sweeps and {Status.TEXT[status]}"
            )
        return self


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def relax(
    network: System,
    state: State,
    drive: Drive,
    nudge: Any = None,
    *,
    solver: Solver | None = None,
    stop: Stop | Sweeps | None = None,
    products: str | None = None,
    observer: Observer | None = None,
    throw: bool = False,
    unroll: bool = False,
) -> Solution:
    """Relax ``state`` to an equilibrium ``s = rho(inputs(s))`` of the network under ``drive`` and ``nudge``.

    Args:
        network: any ``System``, as a ``HopfieldNetwork``.
        state: where to start, ``network.initial_state(batch)`` or an earlier equilibrium (a warm start).
        drive: ``network.drive(x)``.
        nudge: force towards a target, or None for the free phase.
        solver: ``Alternating()`` by default.
        stop: ``Stop(tol, max_sweeps, block)`` by default, or ``Sweeps(n)``.
        products: precision of matrix products (``"bfloat16"``), with states and sums in the dtype of the network; None
            for the same precision everywhere.
        observer: called with ``(sweeps done, state)`` after every sweep.
        throw: raise ``ConvergenceError`` where a sample did not converge (waits for the device).
        unroll: record the sweeps for automatic differentiation; by default nothing is recorded.

    Returns:
        A ``Solution``; failures are data in ``status``, a sample each. Samples that have converged are frozen. A sample
        that became NaN keeps the last finite state that was seen at a block's end.

    Raises:
        ConfigError: a state whose shape or dtype does not fit, or an unknown precision.
        ConvergenceError: only with ``throw``.
    """
    solver = Alternating() if solver is None else solver
    stop = Stop() if stop is None else stop
    require_stop("stop", stop)
    require_solver("solver", solver)
    _check_state(network, state, drive)
    low = None if products is None else lookup("products", products, PRECISIONS)
    with torch.set_grad_enabled(unroll and torch.is_grad_enabled()):
        problem = Problem(network, drive, nudge, network.new_cache(low))
        if isinstance(stop, Sweeps):
            solution = _fixed(problem, state, solver, stop, observer)
        else:
            solution = _to_tolerance(problem, state, solver, stop, observer)
    return solution.raise_for_status() if throw else solution


def residual(network: System, state: State, drive: Drive, nudge: Any = None) -> Tensor:
    """``max over units |update(s) - s|`` a sample, all layers from the same state: one more evaluation of the field."""
    with torch.no_grad():
        image = network.update(state, drive, nudge, range(len(state)), network.new_cache(None))
        return network.distance(image, state)


def require_stop(what: str, stop: object) -> None:
    """Raises ``ConfigError`` unless ``stop`` says when a relaxation ends."""
    if not isinstance(stop, Stop | Sweeps):
        raise ConfigError(f"{what}: got {stop!r}, needed eqprop.Stop(tol=1e-4) or eqprop.Sweeps(20)")


def require_solver(what: str, solver: object) -> None:
    """Raises ``ConfigError`` unless ``solver`` makes steps."""
    if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
        raise ConfigError(f"{what}: got {solver!r}, needed a solver, as eqprop.Alternating()")


def _check_state(network: System, state: State, drive: Drive) -> None:
    shapes = network.shapes
    fits = len(state) == len(shapes)
    if not fits or any(s.shape[-len(h) :] != h or s.dim() <= len(h) for s, h in zip(state, shapes, strict=True)):
        got = ", ".join(str(tuple(s.shape)) for s in state)
        raise ConfigError(
            f"state: got shapes {got}, needed [batch, *shape] for {', '.join(map(str, shapes))}; "
            "write network.initial_state(batch)"
        )
    leads = {tuple(s.shape[: s.dim() - len(h)]) for s, h in zip(state, shapes, strict=True)}
    samples = len(drive.x)
    if len(leads) > 1 or any(len(lead) == 1 and lead[0] != samples for lead in leads):
        got = ", ".join(map(str, sorted(leads)))
        raise ConfigError(
            f"state: got batches {got} for {samples} samples of input, needed the same in all layers; "
            f"write network.initial_state({samples})"
        )
    needed = (drive.terms[0] if drive.terms else drive.x).dtype
    if any(s.dtype != needed for s in state):
        got = ", ".join(str(s.dtype) for s in state)
        raise ConfigError(
            f"state: got {got} under a drive of {needed}, needed the same; write tuple(s.to({needed}) for s in state)"
        )


class _Block(NamedTuple):
    """What a block of sweeps leaves: (image, argument) of its first and last step, and the last state but two."""

    state: State
    memory: Any
    head: tuple[State, State]
    tail: tuple[State, State]
    before: State


def _sweep_block(
    problem: Problem, state: State, memory: Any, solver: Solver, n: int, done: int, observer: Observer | None
) -> _Block:
    """``n`` steps without a look at the device."""
    before = old = image = state
    head = (state, state)
    for k in range(n):
        before, old = old, state
        state, image, memory = solver.step(problem, state, memory)
        if k == 0:
            head = (image, old)
        if observer is not None:
            observer(done + k + 1, state)
    return _Block(state, memory, head, (image, old), before)


def _fixed(problem: Problem, state: State, solver: Solver, stop: Sweeps, observer: Observer | None) -> Solution:
    block = _sweep_block(problem, state, None, solver, stop.n, 0, observer)
    with torch.no_grad():
        size = problem.system.distance(*block.tail)
        first = problem.system.distance(*block.head) if stop.n > 1 else size
        rate = _rate(size, first, stop.n - 1)
        swings = stop.n > 2
        status = _outcome(problem.system, block, size, first, stop.tol, swings)
        sweeps = torch.full_like(size, stop.n, dtype=torch.int32)
    return Solution(block.state, size, sweeps, status, rate)


def _to_tolerance(problem: Problem, state: State, solver: Solver, stop: Stop, observer: Observer | None) -> Solution:
    solution: Solution | None = None
    memory: Any = None
    look: _Look | None = None
    first = torch.empty(0)
    done = 0
    while done < stop.max_sweeps:
        n = min(stop.block, stop.max_sweeps - done)
        block = _sweep_block(problem, state, memory, solver, n, done, observer)
        done += n
        with torch.no_grad():
            if solution is None:
                first = problem.system.distance(*block.head)
            swings = n > (2 if solution is None else 1)
            solution = _assess(problem.system, block, state, solution, first, n, stop.tol, swings)
        state, memory = solution.state, block.memory
        previous, look = look, _Look(solution.status == Status.MAX_SWEEPS)
        # on an accelerator the answer is one block old, so that its queue never runs dry: frozen samples do not mind
        asked = look if look.immediate else previous
        if asked is not None and not asked.any():
            break
    if solution is None:
        raise ConfigError("Stop: got no sweep to do, needed max_sweeps >= 1")
    return solution


def _assess(
    system: System,
    block: _Block,
    start: State,
    last: Solution | None,
    first: Tensor,
    n: int,
    tol: float,
    swings: bool,
) -> Solution:
    """The solution after a block of ``n`` sweeps from ``start``: residuals, statuses, frozen samples; on the device."""
    size = system.distance(*block.tail)
    finite = torch.isfinite(size)
    if last is None:
        running = torch.ones_like(finite)
        rate = _rate(size, first, n - 1)
    else:
        running = last.status == Status.MAX_SWEEPS
        rate = _rate(size, last.residual, n)
    outcome = _outcome(system, block, size, first, tol, swings)
    # frozen samples keep their state; one that broke in this block goes back to where the block began
    state = block.state
    if block.memory is not None:
        # the residual is that of the last argument: its plain image is as good, a mixture with others may not be
        state = system.select(outcome == Status.CONVERGED, block.tail[0], state)
    state = system.select(running & finite, state, start)
    if last is None:
        return Solution(state, size, torch.full_like(size, n, dtype=torch.int32), outcome, rate)
    return Solution(
        state,
        torch.where(running, size, last.residual),
        last.sweeps + n * running.to(torch.int32),
        torch.where(running, outcome, last.status),
        torch.where(running, rate, last.rate),
    )


def _rate(size: Tensor, earlier: Tensor, sweeps: int) -> Tensor:
    """Contraction a sweep between two residuals that are ``sweeps`` apart; 0 where nothing is left to contract."""
    if sweeps == 0:
        return torch.where(size == 0, 0.0, torch.nan).to(size.dtype)
    return (size / earlier.clamp(min=torch.finfo(size.dtype).tiny)) ** (1.0 / sweeps)


def _outcome(system: System, block: _Block, size: Tensor, first: Tensor, tol: float, swings: bool) -> Tensor:
    """Statuses after a block, later ones over earlier ones; in place, for a sweep of a small network costs as much.

    ``swings``: look for period 2.
    """
    outcome = torch.full_like(size, Status.MAX_SWEEPS, dtype=torch.int8)
    outcome.masked_fill_(torch.sub(size, first, alpha=1e4) > 1e4, Status.DIVERGED)
    if swings and block.memory is None:  # a solver with a memory may pass twice through one state and still go on
        swing = system.distance(block.state, block.before)
        # the residual of a flow is not its step; a slow decay, of whatever sign, moves by more than this share of one
        plain = block.tail[0] is block.state
        step = size if plain else system.distance(block.state, block.tail[1])
        outcome.masked_fill_(swing <= (1e-3 * step).clamp(max=tol), Status.OSCILLATING)
    outcome.masked_fill_(size <= tol, Status.CONVERGED)
    return outcome.masked_fill_((size < torch.inf).logical_not_(), Status.NONFINITE)


class _Look:
    """Whether any sample still runs: at once on the CPU, by a copy that does not block on an accelerator."""

    def __init__(self, running: Tensor) -> None:
        self._flag = running.any()
        self._event: Any = None
        self.immediate = running.device.type != "cuda"
        if not self.immediate:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(self._flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
            self._flag = host

    def any(self) -> bool:
        """Waits for the copy, if there was one."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)
