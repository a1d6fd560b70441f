"""Where a chip stands in its passes, phases and time, and what it keeps from one moment to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Moment:
    """The counters of a chip: which pass, which relaxation in it, and what its clock shows.

    Attributes:
        passes: drives so far.
        phase: relaxations since the drive; 0 for the first.
        samples: samples so far.
        clock: nanoseconds since fabrication.
        phase_time: nanoseconds of a phase.
    """

    passes: int = 0
    phase: int = 0
    samples: int = 0
    clock: int = 0
    phase_time: int = 0

    def counters(self, scope: str, write: int) -> tuple[int, ...]:
        """What a draw of that scope depends on."""
        return {"chip": (), "write": (write,), "sample": (self.passes,), "phase": (self.passes, self.phase)}[scope]


class Kept:
    """Values by name, each with the stamp that it is good for: numbers, which must be equal, and tensors, which must be
    the same objects."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def __call__(self, name: str, stamp: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The value of that name, made anew where its stamp is another."""
        kept = self._values.get(name)
        if kept is None or not _same(kept[0], stamp):
            with torch.no_grad():
                kept = self._values[name] = (stamp, make())
        return kept[1]

    def last(self, name: str) -> tuple[tuple[Any, ...], Any] | None:
        """The value of that name with its stamp, or None."""
        return self._values.get(name)

    def drop(self, name: str) -> None:
        """Forget the value of that name."""
        self._values.pop(name, None)

    def clear(self) -> None:
        """Forget everything, as for another device or precision."""
        self._values.clear()


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    if len(a) != len(b):
        return False
    for p, q in zip(a, b, strict=True):  # a loop: this runs often
        if p is not q and (isinstance(p, Tensor) or isinstance(q, Tensor) or p != q):
            return False
    return True
