"""Normal numbers of the cells of an array, drawn as often as their scope says and kept until then."""

from __future__ import annotations

import torch
from torch import Tensor

from hardware._moment import Kept, Moment
from hardware._streams import Streams

#: Normal numbers, each with its weight in a sum of variance 1.
Weighted = list[tuple[Tensor, float | Tensor]]


class ScopedDraws:
    """The draws of one array.

    Args:
        key: of its connection.
        streams, moment: of the chip.
    """

    def __init__(self, key: str, streams: Streams, moment: Moment) -> None:
        self._key, self._streams, self._moment, self._kept = key, streams, moment, Kept()

    def __call__(self, source: str, scope: str, correlation: float | Tensor, write: int, like: Tensor) -> Weighted:
        """Numbers in the shape of ``like``; those that a longer scope holds are the same objects.

        Args:
            source: name of the stream.
            scope: ``"chip"``, ``"write"``, ``"sample"`` or ``"phase"``.
            correlation: of scope ``"phase"``, between the phases of a pass; one for all cells, or a tensor.
            write: number of the last write.
            like: gives shape, dtype and device.
        """

        def drawn(at: str) -> Tensor:
            counters = self._moment.counters(at, write)
            name = f"{source}/{self._key}.{at}"
            make = lambda: self._streams.normal(name, counters, like.shape, like)  # noqa: E731
            held: Tensor = self._kept(name, (counters, like.dtype, like.device), make)
            return held

        if scope != "phase":
            return [(drawn(scope), 1.0)]
        if not isinstance(correlation, Tensor) and correlation in (0.0, 1.0):
            return [(drawn("sample" if correlation else "phase"), 1.0)]
        return [(drawn("sample"), correlation**0.5), (drawn("phase"), (1 - correlation) ** 0.5)]

    def forget(self) -> None:
        """Drop what is kept."""
        self._kept.clear()


def mixed(draws: Weighted) -> Tensor:
    """The sum of normal numbers times their weights; the numbers themselves stay as they are."""
    (first, weight), *rest = draws
    total = first if not isinstance(weight, Tensor) and weight == 1.0 else first * weight
    for numbers, weight in rest:
        if isinstance(weight, Tensor):
            total = torch.addcmul(total, numbers, weight)
        else:
            total = total.add(numbers, alpha=weight)
    return total
