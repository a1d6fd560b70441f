"""The engine of one machine: a process a job, started, timed and ended by pebble.

A process of its own for every job, forked from a server that has imported this package (about 0.1 s), costs little and
leaves nothing behind: no memory, no threads, no GPU context, and no lock that a killed neighbour held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing.context import BaseContext
from typing import Any

from eqprop._errors import ConfigError
from eqprop._sweep_group import end_group, end_worker, groups, has_ended, held_bytes
from eqprop._sweep_point import Job, Outcome
from eqprop._sweep_worker import (
    THREAD_VARIABLES,
    in_own_process,
    log_path,
    memory_text,
    ready,
    timeout_text,
)

_POLL_SECONDS = 0.05
_GROUPS_SECONDS = 0.25  # between looks at all processes of the machine
_LOG_CHARACTERS = 6000
_GUARD = 'if __name__ == "__main__":'


class Processes:
    """Computes jobs in processes of this machine.

    Args:
        n_jobs: processes at a time.
        gpus: ids that are handed out, one a process.

    Attributes:
        n_jobs: as given.
        running: points that are being computed.
    """

    def __init__(self, n_jobs: int, gpus: Sequence[str] = ()) -> None:
        self.running, self.n_jobs, self._gpus = 0, n_jobs, deque(gpus)
        self._uses_gpus = bool(gpus)
        self._looked = -math.inf

    def results(self, jobs: deque[Job]) -> Generator[tuple[Job, list[Outcome]] | None, None, None]:
        """The outcomes of jobs as they end; None now and then while there are none. ``jobs`` may grow meanwhile."""
        if not jobs:
            return
        context = process_context(jobs[0].threads)
        _require_start(context, jobs[0])
        active: dict[Future[Any], _Started] = {}
        names: set[str] = set()  # of all that were begun, known to be so or not
        try:
            while jobs or active:
                while jobs and len(active) < self.n_jobs:
                    names.add(jobs[0].name)
                    with _interrupts_later():
                        started = self._start(context, jobs.popleft())
                        active[started.future] = started
                self.running = sum(len(s.job.keys) for s in active.values())
                done, _ = wait(active, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                _end_what_is_left(active.values())
                self._end_the_large(active.values())
                for future in done:
                    started = active.pop(future)
                    started.end_group()
                    if started.job.gpu is not None:
                        self._gpus.append(started.job.gpu)
                    yield started.job, started.outcomes()
                if not done:
                    yield None
        finally:
            self.running = 0
            _end(names)

    def _start(self, context: BaseContext, job: Job) -> _Started:
        if self._uses_gpus:
            job = dataclasses.replace(job, gpu=self._gpus.popleft())
        log_path(job).unlink(missing_ok=True)
        return _Started(job, _process(context, job.name, job.limits.timeout_seconds)(in_own_process)(job))

    def _end_the_large(self, active: Iterable[_Started]) -> None:
        limited = [s for s in active if s.job.limits.memory_bytes is not None and s.pid is not None and not s.used]
        if not limited:
            return
        look = time.monotonic() - self._looked >= _GROUPS_SECONDS
        found = groups() if look else {}
        if look:
            self._looked = time.monotonic()
        for started in limited:
            used, limit = held_bytes(started.pid, found.get(started.pid, ())), started.job.limits.memory_bytes
            if used is not None and limit is not None and used > limit:
                started.used = used
                end_worker(started.pid)


class _Started:
    """A job and its process."""

    def __init__(self, job: Job, future: Future[Any]) -> None:
        self.job, self.future, self.begin = job, future, time.monotonic()
        self.pid: Any = next((p.pid for p in multiprocessing.active_children() if p.name == job.name), None)
        self.used = 0  # bytes, where that was too much

    def end_group(self) -> None:
        """End what the process, which has ended, has left behind."""
        if self.pid is not None:
            end_group(self.pid)

    def outcomes(self) -> list[Outcome]:
        """What became of it."""
        seconds = time.monotonic() - self.begin
        error = self.future.exception()
        if error is None:
            _remove_log(self.job)
            found: list[Outcome] = self.future.result()
            return found
        printed = _printed(self.job)
        limits = self.job.limits
        if self.used and limits.memory_bytes is not None:
            return self.job.failed("memory", memory_text(self.used, limits.memory_bytes), printed, seconds)
        if isinstance(error, TimeoutError) and limits.timeout_seconds is not None:
            return self.job.failed("timeout", timeout_text(limits.timeout_seconds), printed, seconds)
        code = getattr(error, "exitcode", None)
        if code is None:  # what came back could not be read
            return self.job.failed("error", f"{type(error).__name__}: {error}", printed, seconds)
        return self.job.failed("killed", _ended_text(code), printed, seconds)


def _ended_text(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code} before it returned"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        out_of_memory = ", perhaps by the system, which was out of memory" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{out_of_memory}"
    return f"its process was killed by signal {-code}"


def _end_what_is_left(active: Iterable[_Started]) -> None:
    """Of workers that died: a child that they forked would hold their end of the pipe open."""
    for started in active:
        if started.pid is not None and has_ended(started.pid):
            started.end_group()


def _end(names: set[str]) -> None:
    """End what still runs, and wait until it has ended: the folder is not given back before.

    By name, for a process that was only just launched may be in no list of ours. Their futures are not cancelled: they
    fail by themselves as the processes end, where pebble would stumble over one that is cancelled as it does.
    """
    ended: set[int] = set()
    while left := [p.pid for p in multiprocessing.active_children() if p.name in names and p.pid is not None]:
        for pid in left:
            end_worker(pid)
        ended.update(left)
        time.sleep(_POLL_SECONDS)
    for pid in ended:
        end_group(pid)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits until a process that is being started is known; a second one does not.

    One between the order to the server of forks and its answer would leave a process that nobody can find.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[tuple[int, Any]] = []

    def note(number: int, frame: Any) -> None:
        came.append((number, frame))
        if len(came) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


def _printed(job: Job) -> str:
    try:
        return log_path(job).read_text(errors="replace")[-_LOG_CHARACTERS:]
    except OSError:
        return ""


def _remove_log(job: Job) -> None:
    """Of a job that went well and printed nothing."""
    path = log_path(job)
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _process(context: BaseContext, name: str, timeout: float | None) -> Callable[..., Any]:
    try:
        from pebble import concurrent
    except ImportError as error:
        raise ConfigError("sweep: needs pebble, which is not installed; write pip install pebble") from error
    # its documentation has the one name of the context and its code the other
    contexts: dict[str, Any] = {"context": context, "mp_context": context}
    made: Callable[..., Any] = concurrent.process(name=name, daemon=False, timeout=timeout, **contexts)
    return made


def process_context(threads: int) -> BaseContext:
    """Processes that share no memory with this one: torch's threads and CUDA do not survive a fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    # not the module of `run`: in a notebook it may have changed since the server was started
    # dynamo: torch imports it with the first optimiser, which takes seconds
    context.set_forkserver_preload(["eqprop._sweep_worker", "torch._dynamo"])
    kept = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))  # libraries read them when they are loaded
    try:
        forkserver.ensure_running()
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _require_start(context: BaseContext, job: Job) -> None:
    """Start one process that does nothing, so that what stops every process is told once, and is no point's fault."""
    try:
        pickle.dumps((job.run, job.run_many, job.configs))
        _process(context, "eqprop-sweep-start", None)(ready)(job.run, job.configs).result()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"run: other processes cannot be given it, or a config ({error}); write both at the top level of a module"
        ) from error
    except OSError as error:  # pebble's ProcessExpired
        raise ConfigError(
            "sweep: a process that was to compute points ended before it reached one; what it printed is above. A "
            f"script that sweeps needs {_GUARD} above the call, and `run` and the config's class above that; in a "
            "notebook, put them into a module."
        ) from error
