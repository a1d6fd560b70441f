"""Where the pass and the relaxation of a chip stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eqprop._network import Drive, System


@dataclass
class Course:
    """What a chip keeps from one call to the next; not as its attributes, which a module is slow to set.

    Attributes:
        given: numbers of the samples of the next pass, ``[batch]``; None for their running numbers.
        driven: the last two drives, as they were made.
        keys: of the samples of this pass, ``[batch]`` int64.
        rest: the output layer at the free equilibrium, as read.
        shifts, shifted: what the clamped input gives at the conductances of this phase, and for what it was worked out.
        fresh: whether no relaxation has begun since the drive.
        nudged: whether a phase after the free one runs.
        joined: whether phases that see different conductances relax together.
        in_time: whether the relaxation takes its noise from the bath, instead of a sweep at a time.
        conversions: readings of this relaxation.
        sourced: a nudge, and what the source makes of it.
        last: what relaxed last: system, drive and nudge.
        steps: sweeps of each layer so far.
    """

    given: Tensor | None = None
    driven: list[Drive] = field(default_factory=list)
    keys: Tensor | None = None
    rest: Tensor | None = None
    shifts: tuple[Any, tuple[Tensor | None, ...]] = (None, ())
    shifted: tuple[Any, Drive | None, Drive | None] = (None, None, None)
    fresh: bool = True
    nudged: bool = False
    joined: bool = False
    in_time: bool = False
    conversions: int = 0
    sourced: tuple[Any, Any] = (None, None)
    last: tuple[System, Drive, Any] | None = None
    steps: dict[int, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and files: without graphs, which drives have where gradients are on and torch does not copy."""
        last = None if self.last is None else (self.last[0], _without_graph(self.last[1]), self.last[2])
        driven = [_without_graph(d) for d in self.driven]
        rest = None if self.rest is None else self.rest.detach()
        return self.__dict__ | {"driven": driven, "last": last, "rest": rest, "shifted": (None, None, None)}

    def begin_pass(self, keys: Tensor) -> None:
        """Of samples with these keys."""
        self.keys, self.given, self.rest = keys, None, None
        self.fresh, self.nudged = True, False

    def begin_relaxation(self) -> None:
        """Nothing of the one before holds."""
        self.in_time, self.conversions, self.sourced, self.last = False, 0, (None, None), None
        self.steps.clear()


def _without_graph(drive: Drive) -> Drive:
    x = drive.x.detach() if drive.x.requires_grad else drive.x  # the same object for all that came from it
    return Drive(tuple(t.detach() for t in drive.terms), x)
