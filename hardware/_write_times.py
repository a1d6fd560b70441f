"""When each cell of an array was last written."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ROOM = 4096  # for moments, before those are dropped that no cell needs


class WriteTimes:
    """A number of a moment a cell, and what the clock showed at each moment.

    The numbers are floating point, so that a write leaves them in cells as it leaves conductances, with a mask of 1.0
    and 0.0: on a CPU at a fraction of the cost of a mask on int64. They rise with time: the least is of the oldest.

    Args:
        at: nanoseconds, int64, one a cell.
    """

    def __init__(self, at: Tensor) -> None:
        self.put(at)

    def put(self, at: Tensor) -> None:
        """Set all times, as after a checkpoint."""
        moments, numbers = torch.unique(at, return_inverse=True)
        self._count = len(moments)
        room = max(_ROOM, 2 * self._count)
        self._clock = np.zeros(room, dtype=np.int64)  # at each moment, rising; faster to ask than a tensor
        self._clock[: self._count] = moments.cpu().numpy()
        self._numbers = numbers.to(torch.float32 if room <= 1 << 24 else torch.float64)

    @property
    def of_each(self) -> Tensor:
        """Nanoseconds, int64, one a cell."""
        return self._of_each(torch.from_numpy(self._clock))

    def seconds_since(self, clock: int, dtype: torch.dtype) -> Tensor:
        """From the last write of each cell to that time, or 0."""
        ages = clock - torch.from_numpy(self._clock)
        return self._of_each(ages.clamp_(min=0).to(torch.float64).mul_(1e-9).to(dtype))

    def span(self) -> tuple[int, int]:
        """Nanoseconds of the cell written first, and of that written last."""
        return int(self._clock[int(self._numbers.amin())]), int(self._clock[self._count - 1])

    def restart(self, touched: Tensor | None, over: int) -> None:
        """Cells were written.

        Args:
            touched: 1.0 (at least once) or 0.0 in the shape of all, or numbers of cells ``[n]``, int64; None for all.
            over: when the write was over, nanoseconds; not before that of another write.
        """
        if touched is not None and not touched.numel():
            return  # so that the last moment is that of a cell
        number = self._moment(over)
        if touched is None:
            self._numbers.fill_(number)
        elif touched.is_floating_point():
            self._numbers.lerp_(self._numbers.new_tensor(number), touched.to(self._numbers.dtype))
        else:
            self._numbers.view(-1).index_fill_(0, touched, number)

    def _moment(self, over: int) -> float:
        """The number of that moment."""
        if over > int(self._clock[self._count - 1]):
            if self._count == len(self._clock):
                self.put(self.of_each)
            self._clock[self._count] = over
            self._count += 1
        return float(self._count - 1)

    def _of_each(self, values: Tensor) -> Tensor:
        """Values of moments, one a cell."""
        numbers = self._numbers.to(torch.int64)
        return values.to(numbers.device).index_select(0, numbers.view(-1)).view_as(numbers)
