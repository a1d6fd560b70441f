"""The process group of a worker: it and what its point starts, measured and ended as one.

A worker leads a session of its own (``os.setsid``), so that the group has its number for as long as anything of it
lives, and so that Ctrl-C in a terminal reaches the sweep alone, which then ends its workers. What a point puts into a
session of its own, as daemons do, is out of reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from eqprop._errors import ConfigError


def end_group(leader: int) -> None:
    """End what is left of a worker's group; nothing where there is none, or none yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_worker(pid: int) -> None:
    """End a worker that lives, and its group."""
    end_group(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def has_ended(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # another user's has got its number
        return True
    return False


def processes() -> Iterator[tuple[int, int, int]]:
    """Number, parent and leader of the group of each process of this machine; none without /proc.

    About 1 ms a hundred.
    """
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdecimal():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
                yield int(name), int(fields[1]), int(fields[2])


def groups() -> dict[int, list[int]]:
    """The processes of this machine by the leader of their group."""
    found: dict[int, list[int]] = {}
    for pid, _, leader in processes():
        found.setdefault(leader, []).append(pid)
    return found


def held_bytes(pid: int, group: Sequence[int] = ()) -> int | None:
    """Memory of a worker and of the others of its group, in which a page that several share counts once.

    None if the worker has ended.
    """
    own = resident_bytes(pid)
    if own is None or not set(group) - {pid}:
        return own
    return max(own, sum(_share_bytes(one) for one in {pid, *group}))


def _share_bytes(pid: int) -> int:
    """Proportional set size: of a page that n processes share, an n-th."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return 0  # it has ended, or is not ours to see


def resident_bytes(pid: int) -> int | None:
    """Memory of a process of this machine; None if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/statm").exists():
        return None
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "memory_bytes: this system has no /proc; write pip install psutil, or memory_bytes=None"
        ) from error
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
