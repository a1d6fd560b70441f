"""The one relaxation loop of the project."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eqprop._blocks import Block, EagerSweeps, Observer, Sweeper
from eqprop._cuda_graphs import CudaGraphs
from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._network import Drive, State, System
from eqprop._solution import Solution, Status
from eqprop._solvers import Alternating, Problem, Solver, fitted, require_solver
from eqprop._stop import Stop, Sweeps, require_stop

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
    graphs: CudaGraphs | None = None,
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
        graphs: replays each block of sweeps as a CUDA graph, captured at its first use (tensors on CUDA; neither
            ``observer`` nor ``unroll``); None queues every sweep.

    Returns:
        A ``Solution``; failures are data in ``status``, a sample each. Samples that have converged are frozen. A sample
        that became NaN keeps the last finite state that was seen at a block's end.

    Raises:
        ConfigError: a state whose shape or dtype does not fit, an unknown precision, or graphs where there can be none.
        ConvergenceError: only with ``throw``.
    """
    solver = Alternating() if solver is None else solver
    stop = Stop() if stop is None else stop
    require_stop("stop", stop)
    require_solver("solver", solver)
    solver = fitted(solver, stop)
    _check_state(network, state, drive)
    low = None if products is None else lookup("products", products, PRECISIONS)
    with torch.set_grad_enabled(unroll and torch.is_grad_enabled()):
        sweep: Sweeper
        if graphs is None:
            sweep = EagerSweeps(Problem(network, drive, nudge, network.new_cache(low)), solver, observer)
        else:
            _check_graphs(graphs, observer, unroll)
            sweep = graphs.sweeps(network, drive, nudge, solver, low)
        if isinstance(stop, Sweeps):
            solution = _fixed(network, state, sweep, stop)
        else:
            solution = _to_tolerance(network, state, sweep, stop)
    return solution.raise_for_status() if throw else solution


def residual(network: System, state: State, drive: Drive, nudge: Any = None) -> Tensor:
    """``max over units |update(s) - s|`` a sample, all layers from the same state: one more evaluation of the field."""
    with torch.no_grad():
        image = network.update(state, drive, nudge, range(len(state)), network.new_cache(None))
        return network.distance(image, state)


def _check_graphs(graphs: object, observer: Observer | None, unroll: bool) -> None:
    if not isinstance(graphs, CudaGraphs):
        raise ConfigError(f"graphs: got {graphs!r}, needed eqprop.CudaGraphs(), or None for eager sweeps")
    if observer is not None or unroll:
        got = "an observer" if observer is not None else "unroll=True"
        raise ConfigError(f"graphs: got {got} too, but a replay calls no Python and records nothing; write graphs=None")


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


def _fixed(system: System, state: State, sweep: Sweeper, stop: Sweeps) -> Solution:
    block = sweep(state, None, stop.n, 0)
    with torch.no_grad():
        size = system.distance(*block.tail)
        first = system.distance(*block.head) if stop.n > 1 else size
        rate = _rate(size, first, stop.n - 1)
        swings = stop.n > 2
        status = _outcome(system, block, size, first, stop.tol, swings)
        sweeps = torch.full_like(size, stop.n, dtype=torch.int32)
    return Solution(sweep.own(block.state), size, sweeps, status, rate)


def _to_tolerance(system: System, state: State, sweep: Sweeper, stop: Stop) -> Solution:
    solution: Solution | None = None
    memory: Any = None
    look: _Look | None = None
    first = torch.empty(0)
    done = 0
    while done < stop.max_sweeps:
        n = min(stop.block, stop.max_sweeps - done)
        block = sweep(state, memory, n, done)
        done += n
        with torch.no_grad():
            if solution is None:
                first = system.distance(*block.head)
            swings = n > (2 if solution is None else 1)
            solution = _assess(system, block, state, solution, first, n, stop.tol, swings)
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
    block: Block,
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


def _outcome(system: System, block: Block, size: Tensor, first: Tensor, tol: float, swings: bool) -> Tensor:
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
