"""Random numbers of single cells, for devices that work on a few cells of an array."""

from __future__ import annotations

from torch import Tensor

from eqprop._counter_noise import normal_pairs_of, row_keys, signed
from hardware._streams import Streams


class CellDraws:
    """Normal numbers by counter, in the place of a generator: what a cell draws does not depend on who else draws.

    Every call is one number a cell, from the seed of the chip, the source, its counters, the number of the call and the
    number of the cell; computed where the cells are. So that the same cells meet the same noise whichever others are
    pulsed along with them, on every device (to rounding).

    Args:
        streams: of the chip.
        source: name of the stream.
        counters: of the moment, as the number of the write.
        cells: numbers of the cells in their array, ``[n]`` int64.
    """

    def __init__(self, streams: Streams, source: str, counters: tuple[int, ...], cells: Tensor) -> None:
        self._streams, self._source, self._counters, self._cells = streams, source, counters, cells
        self._calls = 0
        self._second: Tensor | None = None  # of the pairs in which numbers come

    def normal(self, like: Tensor) -> Tensor:
        """Numbers of the first ``len(like)`` cells, ``[n]``, with the dtype of ``like``; never of more than before."""
        number, odd = divmod(self._calls, 2)
        self._calls += 1
        if odd and self._second is not None:
            return self._second[: len(like)].to(like.dtype)
        self._streams.drawn[self._source] += 1
        key = signed(self._streams.key(self._source, *self._counters, number))
        first, self._second = normal_pairs_of(row_keys(self._cells[: len(like)], key))
        return first.to(like.dtype)
