"""Sweeps that are killed at random moments: cheap points, what kills, and what is found in the folder after it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import eqprop
from eqprop._checkpoints import TEMPORARY
from eqprop._sweep_folder import SweepFolder
from eqprop._sweep_group import processes

MARKS = "EQPROP_KILLS_MARKS"  # a file that is told which process computes which point
_POLL_SECONDS = 0.005
_START_SECONDS = 600.0  # a sweep that has recorded nothing for so long does not go on


@dataclass(frozen=True)
class Config:
    """A point."""

    beta: float = 0.1
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """0.1 s of work, and figures of the whole, by layer and as a series."""
    if MARKS in os.environ:
        file = os.open(os.environ[MARKS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{os.getpid()}\n".encode())  # one write of one line: whole, whoever is killed
        os.close(file)
    time.sleep(0.1)
    cosine = {"hidden1": 1 - config.beta / 3, "output": 0.5 + config.seed / 100}
    return {"error_percent": 10 * config.beta + config.seed / 7, "cosine": cosine, "losses": [0.5, config.beta]}


def points(n: int) -> list[Config]:
    """As many configs, of up to ten seeds."""
    return [Config(beta=round(0.1 * (1 + i // 10), 3), seed=i % 10) for i in range(n)]


def marked(path: Path) -> list[int]:
    """The processes that computed a point, one a point and try."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


# -- processes -------------------------------------------------------------------------------------------------------


class Sweeping(Protocol):
    """A process that sweeps."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""

    def join(self) -> None:
        """Wait until it has."""


class Script:
    """``sweep_alone`` as a program of its own, with a server of forks and helpers of its own."""

    def __init__(self, n: int, out: Path, engine: str, marks: Path | None) -> None:
        code = "import sys; from benchmarks._kills import sweep_alone; sweep_alone(*sys.argv[1:])"
        environment = os.environ | ({} if marks is None else {MARKS: str(marks)})
        command = [sys.executable, "-c", code, str(n), str(out), engine]
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.pid: int | None = self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def join(self) -> None:
        """Wait until it has."""
        self._process.wait()


def sweep_alone(n: str, out: str, engine: str) -> None:
    """What ``Script`` runs."""
    eqprop.sweep(run, points(int(n)), out=out, engine=engine, n_jobs=2, progress=False)


def descendants(pid: int) -> set[int]:
    """A process of this machine and all that it has started, directly or not, as far as their parents live."""
    children: dict[int, list[int]] = {}
    for one, parent, _ in processes():
        children.setdefault(parent, []).append(one)
    found, new = {pid}, [pid]
    while new:
        new = [child for one in new for child in children.get(one, []) if child not in found]
        found.update(new)
    return found


def kill_tree(pid: int, family: Callable[[int], set[int]] = descendants) -> int:
    """End a process and what it has started, all at one moment: none sees another end. How many they were."""
    stopped: set[int] = set()
    while new := family(pid) - stopped:  # those that one started before it was stopped are found by the next look
        for one in new:
            _send(one, signal.SIGSTOP)
        stopped |= new
    for one in stopped:
        _send(one, signal.SIGKILL)
    return len(stopped)


def kill_parent(pid: int) -> int:
    """End that process alone."""
    _send(pid, signal.SIGKILL)
    return 1


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# -- a sweep with kills ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a sweep that was killed has come to.

    Attributes:
        kills: that met a living sweep.
        killed: processes that were ended.
        at: points recorded at each kill.
        lost: points that are not in the folder as done.
        twice: files of points that were replaced, or points with several files.
        torn: files of points that could not be read after a kill, or are left half written.
        tables: of table.csv and table.h5, those that are not the undisturbed sweep's, byte for byte.
    """

    kills: int
    killed: int
    at: list[int]
    lost: int
    twice: int
    torn: int
    tables: int


def killed_sweep(
    start: Callable[[], Sweeping],
    n: int,
    kills: int,
    kill: Callable[[int], int],
    *,
    out: Path,
    calm: Path,
    rng: random.Random,
    delay_seconds: float = 0.2,
) -> Found:
    """Begin a sweep of ``n`` points in ``out`` again and again, kill it ``kills`` times, and let it end.

    Kill ``k`` comes up to ``delay_seconds`` after ``k n / (kills + 1)`` points were recorded: from the first to the
    last of them.

    Args:
        start: begins the sweep.
        kill: what is done to its process; returns how many it ended.
        out, calm: folders of this sweep, and of an undisturbed one.
    """
    folder = _Folder(out)
    for k in range(1, kills + 1):
        one = start()
        await_points(out, round(k * n / (kills + 1)), one)
        time.sleep(rng.uniform(0.0, delay_seconds))
        if one.is_alive() and one.pid is not None:
            folder.killed(kill(one.pid))
        one.join()
        folder.look()
    one = start()
    one.join()
    return folder.found(n, calm)


def sweep_without_worker(
    one: Sweeping, n: int, *, out: Path, calm: Path, marks: Path, rng: random.Random, delay_seconds: float = 0.2
) -> Found:
    """What comes of a sweep that has begun, one of whose workers is killed when half of ``n`` points are recorded.

    Args:
        one: the sweep.
        out, calm: see ``killed_sweep``.
        marks: see ``MARKS``; the worker that has begun the latest point is killed.
    """
    folder = _Folder(out)
    await_points(out, n // 2, one)
    time.sleep(rng.uniform(0.0, delay_seconds))
    if one.is_alive():
        folder.killed(kill_parent(marked(marks)[-1]))
    folder.look()
    one.join()
    return folder.found(n, calm)


class _Folder:
    """What is seen of a sweep's folder while it is killed."""

    def __init__(self, out: Path) -> None:
        self._out, self._seen = out, dict[str, tuple[int, int]]()
        self._at: list[int] = []
        self._ended = self._torn = self._twice = 0

    def killed(self, processes: int) -> None:
        """So many, now."""
        self._ended += processes
        self._at.append(len(files(self._out)))

    def look(self) -> None:
        """For files that are torn, or not what they were at the last look."""
        folder = SweepFolder.open(self._out)
        folder.read()
        self._torn += len(folder.damaged)
        now = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files(self._out)}
        self._twice += sum(now.get(name, was) != was for name, was in self._seen.items())
        self._seen |= now

    def found(self, n: int, calm: Path) -> Found:
        """Of a sweep of so many points that has ended."""
        self.look()
        records = SweepFolder.open(self._out).read().values()
        configs = Counter(str(record.config) for record in records)
        left = [path for place in (self._out, self._out / "points") for path in place.glob(f"{TEMPORARY}*")]
        return Found(
            kills=len(self._at),
            killed=self._ended,
            at=self._at,
            lost=n - sum(record.outcome.status == "done" for record in records),
            twice=self._twice + sum(count - 1 for count in configs.values()),
            torn=self._torn + len(left),
            tables=differing(self._out, calm),
        )


def await_points(out: Path, n: int, one: Sweeping) -> None:
    """Wait until that many are recorded, or it has ended."""
    until, count = time.monotonic() + _START_SECONDS, -1
    while one.is_alive() and (found := len(files(out))) < n:
        if found > count:
            until, count = time.monotonic() + _START_SECONDS, found
        if time.monotonic() > until:
            raise TimeoutError(f"{out}: {found} of {n} points after {_START_SECONDS:g} s without another")
        time.sleep(_POLL_SECONDS)


def files(out: Path) -> list[Path]:
    """Of points."""
    return sorted((out / "points").glob("*.json"))


def differing(out: Path, calm: Path) -> int:
    """Tables that are not the same, byte for byte."""
    return sum((out / name).read_bytes() != (calm / name).read_bytes() for name in ("table.csv", "table.h5"))
