"""One sweep a folder: a lock for the process that writes, and one that its workers share for as long as they live.

Both are locks of the kernel (``flock``), which end with their process however it ends: nothing stale is left behind,
and no process number can be mistaken for another's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from eqprop._errors import ConfigError, RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK, WORKERS = ".sweep.lock", ".workers.lock"
_ORPHAN_SECONDS = 20.0


@contextlib.contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Holds the folder. Waits a moment for workers that a killed sweep left behind: they end when they notice.

    Raises:
        RunFolderError: another process sweeps in this folder, workers of a killed one do not end, or the file system
            has no locks.
    """
    if fcntl is None:
        raise ConfigError(
            "sweep: this system has no file locks (flock), which keep two sweeps apart; on Windows, use WSL"
        )
    with open(folder / LOCK, "a+") as file:
        if not _taken(file, fcntl.LOCK_EX):
            raise RunFolderError(
                f"{folder}: another sweep is running in this folder ({_holder(file)}). Wait for it, end it, or choose "
                "another folder (out=..., --out)."
            )
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        file.flush()
        with open(folder / WORKERS, "a") as workers:
            until = time.monotonic() + _ORPHAN_SECONDS
            while not _taken(workers, fcntl.LOCK_EX):
                if time.monotonic() > until:
                    raise RunFolderError(
                        f"{folder}: workers of a sweep that was killed are still alive; `fuser {folder / WORKERS}` "
                        "names them. End them and start again."
                    )
                time.sleep(0.05)
        yield


def join_workers(path: Path) -> IO[Any] | None:
    """The share of a worker, not of its children, in the lock; it ends with the worker, or when the file is closed."""
    if fcntl is None:
        return None
    file = open(path, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:  # the sweep itself has found that the file system has locks, so this is another machine's view
        file.close()
        return None
    os.register_at_fork(after_in_child=file.close)  # or the lock would be theirs too
    return file


def _taken(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise RunFolderError(
            f"{file.name}: this file system has no locks ({error.strerror}), without which two sweeps could write one "
            "folder. Choose a folder on another one (out=..., --out)."
        ) from error
    return True


def _holder(file: IO[Any]) -> str:
    try:
        file.seek(0)
        held = json.loads(file.read())
        return f"process {held['pid']} on {held['host']}"
    except (ValueError, KeyError, TypeError):
        return "it has only just started"
