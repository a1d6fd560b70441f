"""A split whose images stay in a memory-mapped file: for data sets too large for the device, or for memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eqprop._errors import DataError
from eqprop._split import Split, check_images, check_labels, unchecked


@dataclass(frozen=True, eq=False, repr=False)
class MappedSplit(Split):
    """Labelled images of a file; a batch is gathered on the host and copied to `target`.

    The copy starts from pinned memory and is not waited for where the target is a CUDA device. Augmentation and
    normalisation happen there, on the batch. Image i of the split is `images[rows[i]]`, with label `labels[i]`.

    Args:
        images: uint8 [M, C, H, W] on the CPU: the whole file, as `torch.from_numpy(numpy.load(..., mmap_mode="c"))`.
        labels: int64 [N] on the CPU, of the images of this split.
        classes: number of classes.
        rows: int64 [N] on the CPU, positions in the file; None for all of it (N = M).
        target: device of the batches.
        moments: mean and std of each channel, as `statistics` returns them; None counts them when asked.

    Raises:
        DataError: wrong dtype, shape, length or device, a label or a row out of range.
    """

    rows: Tensor | None = field(default=None, kw_only=True)
    target: torch.device = field(default=torch.device("cpu"), kw_only=True)
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_images(self.images)
        rows = self.rows
        check_labels(self.labels, len(self.images) if rows is None else len(rows), self.classes)
        for name, value in (("images", self.images), ("labels", self.labels), ("rows", rows)):
            if value is not None and value.device.type != "cpu":
                raise DataError(f"{name}: got a tensor on {value.device}, needed the CPU; for the batches write target")
        if rows is not None and len(rows):
            low, high = (int(v) for v in torch.aminmax(rows))
            if rows.dtype != torch.int64 or low < 0 or high >= len(self.images):
                raise DataError(
                    f"rows: got {rows.dtype} from {low} to {high}, needed torch.int64 from 0 to {len(self.images) - 1}"
                )
        self._check_steps()

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.target

    def _pixels(self, index: Tensor | slice) -> Tensor:
        rows = index if self.rows is None else self.rows[index]
        if isinstance(rows, slice):
            return self._send(self.images[rows])
        # Into pinned memory at once, which the allocator gives out again only after the copy has ended.
        buffer = torch.empty(
            len(rows), *self.images.shape[1:], dtype=torch.uint8, pin_memory=self.target.type == "cuda"
        )
        torch.index_select(self.images, 0, rows, out=buffer)
        return buffer.to(self.target, non_blocking=True)

    def _targets(self, index: Tensor | slice) -> Tensor:
        return self._send(self.labels[index])

    def _send(self, values: Tensor) -> Tensor:
        if self.target.type == "cuda":
            values = values.pin_memory()
        return values.to(self.target, non_blocking=True)

    def to(self, device: str | torch.device) -> MappedSplit:
        """The same split with its batches on another device; the images stay in the file."""
        return unchecked(self, target=torch.device(device))

    def resident(self) -> Split:
        """The same split with its images in the memory of `target`, where that has room: no copy a batch."""
        images = self.images if self.rows is None else self.images.index_select(0, self.rows)
        return Split(
            images.to(self.target), self.labels.to(self.target), self.classes,
            normalise=self.normalise, augment=self.augment,
        )  # fmt: skip

    def _chosen(self, index: Tensor) -> MappedSplit:
        rows = index if self.rows is None else self.rows[index]
        return unchecked(self, rows=rows, labels=self.labels[index])

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each channel: those of the whole file where they are known (`moments`)."""
        return super().statistics() if self.moments is None else self.moments
