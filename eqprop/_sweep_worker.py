"""What a process does for a sweep: compute the points of a job within its limits, and not outlive its parent."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback as tracebacks
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

import torch

from eqprop._errors import ConfigError
from eqprop._sweep_group import end_worker, resident_bytes
from eqprop._sweep_lock import WORKERS, join_workers
from eqprop._sweep_point import Job, Limits, Outcome, plain_result

LOGS = "logs"
_POLL_SECONDS = 0.05
_keep: list[Any] = []  # files that stay open as long as the process


def compute(job: Job) -> list[Outcome]:
    """The outcomes of a job's points, in their order; what they raise is an outcome too."""
    torch.set_num_threads(job.threads)
    begin = time.perf_counter()
    try:
        found = list(job.run_many(list(job.configs)) if job.run_many else [job.run(job.configs[0])])
        if len(found) != len(job.keys):
            raise ConfigError(f"run_many: got {len(found)} results for {len(job.keys)} configs, needed one each")
    except BaseException as error:  # also SystemExit: it ends a point, not a sweep
        return job.failed(*described(error), time.perf_counter() - begin)
    n, seconds, peak = len(found), time.perf_counter() - begin, peak_bytes()
    made = []
    for key, result in zip(job.keys, found, strict=True):
        try:
            if isinstance(result, BaseException):
                raise result
            made.append(
                Outcome(key, result=_mapping(result), wall_seconds=seconds / n, peak_memory_bytes=peak, members=n)
            )
        except Exception as error:
            status, message, text = described(error)
            made.append(Outcome(key, status, {}, message, text, seconds / n, peak, n))
    return made


def _mapping(result: Any) -> dict[str, Any]:
    plain = plain_result(result)
    if not isinstance(plain, dict):
        raise ConfigError(
            f"run: got a result of type {type(result).__name__}, needed a dict, as {{'error_percent': 2.0}}"
        )
    return plain


def described(error: BaseException) -> tuple[str, str, str]:
    """Status, message and traceback of what a point raised."""
    text = str(error).strip()
    # the allocator of the CPU raises a plain RuntimeError
    allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text
    memory = allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)
    lines = tracebacks.format_exception(error)
    return ("memory" if memory else "error"), f"{type(error).__name__}: {text}".rstrip(": "), "".join(lines)


def in_own_process(job: Job) -> list[Outcome]:
    """``compute`` in a process made for this job on the machine of the sweep; prints into a log in its folder.

    It leads a group of processes, which is ended with it (``_sweep_group``).
    """
    os.setsid()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if job.folder is not None:
        _keep.append(join_workers(Path(job.folder) / WORKERS))
        _keep.append(_print_into(log_path(job)))
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    for name in THREAD_VARIABLES:  # for programs that the point starts
        os.environ[name] = str(job.threads)
    with contextlib.suppress(OSError, ValueError):  # if the machine runs out of memory, this process goes first
        Path("/proc/self/oom_score_adj").write_text("500")
    outcomes = compute(job)
    if hasattr(faulthandler, "unregister"):
        faulthandler.unregister(signal.SIGTERM)
    # pebble sends one as soon as it has the outcomes; in the midst of a proper end it would leave semaphores behind
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return outcomes


THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def ready(run: Callable[..., Any], configs: tuple[Any, ...]) -> bool:
    """Reached where a process could be started, and found ``run`` and the config's class."""
    return callable(run) and bool(configs)


def log_path(job: Job) -> Path:
    """Where a job's process prints."""
    return Path(job.folder or ".") / LOGS / f"{job.name}.txt"


def _print_into(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "w")
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(file.fileno(), number)
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(file)
    if hasattr(faulthandler, "register"):  # a point that hangs is ended by SIGTERM: where was it?
        faulthandler.register(signal.SIGTERM, file, chain=True)
    return file


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        end_worker(os.getpid())


def peak_bytes() -> int | None:
    """The most memory that this process has had."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Watch:
    """Ends its own process when a job outstays its limits: for workers that others started and nobody here can end.

    Args:
        tell: called with status and message before that.
    """

    def __init__(self, limits: Limits, tell: Callable[[str, str], None]) -> None:
        self._limits, self._tell, self._over = limits, tell, threading.Event()

    def __enter__(self) -> None:
        if self._limits.timeout_seconds is not None or self._limits.memory_bytes is not None:
            threading.Thread(target=self._look, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _look(self) -> None:
        begin, limits = time.monotonic(), self._limits
        while not self._over.wait(_POLL_SECONDS):
            used = resident_bytes(os.getpid()) if limits.memory_bytes is not None else None
            if limits.timeout_seconds is not None and time.monotonic() - begin > limits.timeout_seconds:
                self._end("timeout", timeout_text(limits.timeout_seconds))
            if used is not None and limits.memory_bytes is not None and used > limits.memory_bytes:
                self._end("memory", memory_text(used, limits.memory_bytes))

    def _end(self, status: str, message: str) -> None:
        self._tell(status, message)
        time.sleep(1.0)  # until the message has left
        if not self._over.is_set():
            os._exit(1)


def timeout_text(seconds: float) -> str:
    """Of a point that took too long."""
    return f"not finished after {seconds:g} s (timeout_seconds)"


def memory_text(used: int, limit: int) -> str:
    """Of a point that took too much memory."""
    return f"it held {used / 2**20:.0f} MiB, more than {limit / 2**20:.0f} MiB (memory_bytes)"
