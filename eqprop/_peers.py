"""Who takes part in a run of several processes, and what became of one that is missed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GRACE_SECONDS = 3.0  # in which the living answer


@dataclass(frozen=True)
class Peer:
    """A process: where it runs, and its number there."""

    host: str
    space: str  # machine and process namespace: only within one do process numbers compare
    pid: int

    @classmethod
    def here(cls) -> Peer:
        """This process."""
        try:
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:  # not Linux
            namespace = ""
        return cls(socket.gethostname(), f"{socket.gethostname()} {namespace}", os.getpid())

    def __str__(self) -> str:
        return f"process number {self.pid} on {self.host}"

    def gone(self) -> bool:
        """Whether it has certainly ended; False where that cannot be seen from here."""
        if self.space != Peer.here().space or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)  # sends nothing
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except ProcessLookupError:
            return True
        except OSError:  # another user's, or no /proc
            return False
        return state in ("Z", "X")  # ended, and its parent has not looked yet


class Peers:
    """A notice board in the store that processes meet at.

    Args:
        store: a ``torch.distributed`` store.
        rank, size: number of this process, and how many there are.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._known: dict[int, Peer] = {}
        self._lost = False  # the board itself, with the launcher or the process that held it
        me = Peer.here()
        self.say("peer", f"{me.pid}\n{me.host}\n{me.space}")

    def meet(self) -> None:
        """Read who the others are, once all have come."""
        for rank in range(self._size):
            pid, host, space = self._store.get(_key("peer", rank)).decode().split("\n")
            self._known[rank] = Peer(host, space, int(pid))

    def say(self, word: str, text: str = "") -> None:
        """Leave a word of this process; nothing where the board itself is gone."""
        try:
            self._store.set(_key(word, self._rank), text)
        except RuntimeError:
            self._lost = True

    def read(self, word: str, rank: int) -> str | None:
        """The word that a process left; None where it did not, or the board is gone."""
        try:
            key = _key(word, rank)
            return str(self._store.get(key).decode()) if self._store.check([key]) else None
        except RuntimeError:
            self._lost = True
            return None

    def wait_for(self, words: Sequence[str], rank: int, limit_s: float) -> str | None:
        """The first of its words, up to the limit; None where the process has ended without one.

        A loop in Python, so that signals are served while it waits.
        """
        deadline = time.monotonic() + limit_s
        while True:
            gone = self._gone(rank)  # before the look: its last word comes before its end
            text = next((text for word in words if (text := self.read(word, rank)) is not None), None)
            if text is not None or gone or time.monotonic() > deadline:
                return text
            time.sleep(0.02)

    def missing(self) -> str:
        """Who is missed and why, after a call that some process did not answer; empty where all are there."""
        self.say("here")
        deadline = time.monotonic() + _GRACE_SECONDS
        others = [rank for rank in range(self._size) if rank != self._rank]
        while True:
            stopped = {rank: text for rank in others if (text := self.read("stopped", rank)) is not None}
            rest = [rank for rank in others if rank not in stopped and self.read("here", rank) is None]
            gone = [rank for rank in rest if self._gone(rank)]
            if stopped or gone or not rest or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        found = [f"process {rank} of {self._size} stopped ({text})" for rank, text in stopped.items()]
        found += [
            f"process {rank} of {self._size} ({self._known[rank]}) is gone: it was killed, ran out of memory or crashed"
            for rank in gone
        ]
        if not found and not self._lost:  # some may only be slow to notice
            found = [f"process {rank} of {self._size} ({self._known.get(rank)}) cannot be reached" for rank in rest]
        return "; ".join(found)

    def _gone(self, rank: int) -> bool:
        peer = self._known.get(rank)
        return peer is not None and peer.gone()


def _key(word: str, rank: int) -> str:
    return f"eqprop/{word}/{rank}"


def first_line(error: BaseException) -> str:
    """Of its text."""
    return str(error).strip().partition("\n")[0]


def described(error: BaseException) -> str:
    """Its kind and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
