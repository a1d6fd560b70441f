"""Labelled images as uint8 tensors that stay on one device, and the batches that are made of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from eqprop._augment import Augmentation, Draws, Normalise
from eqprop._errors import ConfigError, DataError

S = TypeVar("S", bound="Split")
T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled images on one device, checked when made.

    Args:
        images: uint8 [N, H, W] or [N, C, H, W], 0 to 255.
        labels: int64 [N], 0 to `classes` - 1, on the same device.
        classes: number of classes.
        normalise: of every channel; None leaves the values in 0..1.
        augment: of the shuffled batches; None for splits that are evaluated on.

    Raises:
        DataError: wrong dtype, shape, length or device, or a label out of range.
        ConfigError: a normalisation of another number of channels, or an augmentation too wide for the images.
    """

    images: Tensor
    labels: Tensor
    classes: int = 10
    normalise: Normalise | None = field(default=None, kw_only=True)
    augment: Augmentation | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_images(self.images)
        check_labels(self.labels, len(self.images), self.classes)
        if self.images.device != self.labels.device:
            raise DataError(
                f"got images on {self.images.device} and labels on {self.labels.device}, needed one device; "
                f"write labels.to(images.device)"
            )
        self._check_steps()

    def _check_steps(self) -> None:
        if self.normalise is not None and len(self.normalise.mean) != self.channels:
            raise ConfigError(
                f"normalise: got values for {len(self.normalise.mean)} channels, needed {self.channels}, those of "
                "the images; write DataSplits.normalised()"
            )
        if self.augment is not None:
            self.augment.check(self.images.shape[-2], self.images.shape[-1])

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.images.shape[1:])
        return f"{type(self).__name__}({len(self):,} images of {size}, {self.classes} classes, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.images.device

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for [N, H, W]."""
        return self.images.shape[1] if self.images.dim() == 4 else 1

    def inputs(self, index: Tensor | slice | None = None) -> Tensor:
        """Images as network inputs, float32, normalised and never augmented.

        [n, pixels] for images [N, H, W], [n, C, H, W] for images with channels. Without a normalisation the values are
        in 0..1: each is uint8 / 255, correctly rounded.

        Args:
            index: which images: int64 positions on the device of the images, a slice, or None for all.
        """
        return self._floats(self._pixels(slice(None) if index is None else index), self._constants(), None)

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x as `inputs` gives them, y int64 [B]) that cover the split once, on `device`.

        The order is drawn when this is called, on the CPU and for the whole pass, so that it depends neither on the
        device nor on when the batches are consumed; the same holds for the draws of the augmentation. The iterator has
        `skip(n)`, which passes over n batches without making them.

        Args:
            batch_size: images in a batch; the last batch may be smaller.
            generator: CPU generator that draws the order, and then the augmentation; None keeps the order of the split
                and augments nothing.
            drop_last: leave out a last batch that is smaller.

        Raises:
            ConfigError: batch_size below 1, or a generator of another device.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, needed at least 1")
        order = draws = None
        if generator is not None:
            order = drawn(len(self), len(self), generator).to(self.images.device)
            if self.augment is not None:
                draws = self.augment.draw(len(self), generator, self.device)
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        return _Pass(self, batch_size, stop, order, draws)

    def _pixels(self, index: Tensor | slice) -> Tensor:
        """Those images, uint8, on `device`."""
        if isinstance(index, Tensor):
            return self.images.index_select(0, index)  # a fifth of the time of images[index]
        return self.images[index]

    def _targets(self, index: Tensor | slice) -> Tensor:
        """Their labels, on `device`."""
        return self.labels[index]

    def _constants(self) -> tuple[Tensor, ...]:
        # A tensor, not a number: CUDA multiplies by the reciprocal of a number, which differs in the last bit.
        whole = torch.full((), 255.0, dtype=torch.float32, device=self.device)
        return (whole,) if self.normalise is None else (whole, *self.normalise.constants(self.device))

    def _floats(self, pixels: Tensor, constants: tuple[Tensor, ...], draws: Draws | None) -> Tensor:
        outside = None
        if draws is not None and self.augment is not None:
            pixels, outside = self.augment.move(pixels, draws)
        flat = pixels.dim() == 3
        x = pixels / constants[0]
        if self.normalise is not None:
            mean, std = constants[1:]
            x = x.sub_(mean).div_(std)
        if outside is not None:
            x.masked_fill_(outside, 0.0)
        return x.flatten(1) if flat else x

    def to(self: S, device: str | torch.device) -> S:
        """The same images and labels on another device."""
        return unchecked(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self: S, n: int, generator: torch.Generator) -> S:
        """n images drawn without replacement by a CPU generator.

        Raises:
            ConfigError: n is not within 0 and the length of the split, or a generator of another device.
        """
        return self._chosen(drawn(len(self), n, generator).to(self.images.device))

    def _chosen(self: S, index: Tensor) -> S:
        return unchecked(self, images=self.images[index], labels=self.labels[index])

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std of each channel over all images and pixels, of values in 0..1.

        Counted in whole numbers, so that they are the same on every device and in every order.
        """
        starts = range(0, len(self), 8192)
        counts = [histogram(self._pixels(slice(start, start + 8192))) for start in starts]
        return from_histogram(torch.stack(counts).sum(0) if counts else torch.zeros(1, 256))


class _Pass(Iterator[tuple[Tensor, Tensor]]):
    """One pass over a split."""

    def __init__(self, split: Split, batch_size: int, stop: int, order: Tensor | None, draws: Draws | None) -> None:
        self._split, self._batch_size, self._stop = split, batch_size, stop
        self._order, self._draws = order, draws
        self._start = 0
        self._constants: tuple[Tensor, ...] | None = None

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._start >= self._stop:
            raise StopIteration
        rows = slice(self._start, min(self._start + self._batch_size, self._stop))
        self._start = rows.stop
        if self._constants is None:
            self._constants = self._split._constants()
        index = rows if self._order is None else self._order[rows]
        draws = None if self._draws is None else self._draws[rows]
        return self._split._floats(self._split._pixels(index), self._constants, draws), self._split._targets(index)

    def skip(self, n: int) -> None:
        """Pass over n batches; those after them are what they would have been."""
        self._start += n * self._batch_size


def after(batches: Iterator[T], n: int) -> Iterator[T]:
    """The batches after the first n, which are not made where the iterator has `skip`."""
    skip = getattr(batches, "skip", None)
    if skip is None:
        return itertools.islice(batches, n, None)
    skip(n)
    return batches


def drawn(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Positions of n of so many images, drawn without replacement, int64 [n] on the CPU.

    Raises:
        ConfigError: n is not within 0 and their number, or a generator of another device.
    """
    if not 0 <= n <= count:
        raise ConfigError(f"subset: got n = {n}, needed 0 to {count}, the length of the split")
    if generator.device.type != "cpu":
        raise ConfigError(
            f"generator: got one of {generator.device}, needed a CPU generator, so that the order is the same on "
            f"every device; write torch.Generator().manual_seed(0)"
        )
    return torch.randperm(count, generator=generator)[:n]


def unchecked(split: S, **changes: Any) -> S:
    """A split made of parts of a checked one: looking at the labels again would wait for the device."""
    changed = copy.copy(split)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


def check_images(images: Any) -> None:
    """Raises DataError unless these are images of a split."""
    if not isinstance(images, Tensor):
        raise DataError(f"images: got {type(images).__name__}, needed a tensor; write torch.as_tensor(images)")
    if images.dtype != torch.uint8:
        raise DataError(
            f"images: got {images.dtype}, needed torch.uint8 (0 to 255); for values in 0..1 write "
            f"(255 * images).round().to(torch.uint8)"
        )
    if images.dim() not in (3, 4):
        raise DataError(
            f"images: got shape {list(images.shape)}, needed [N, height, width] or [N, channels, height, width]; "
            f"write images.reshape(-1, 28, 28) for rows of 784 pixels"
        )


def check_labels(labels: Any, n: int, classes: int) -> None:
    """Raises DataError unless these are n labels from 0 to classes - 1."""
    if not isinstance(labels, Tensor):
        raise DataError(f"labels: got {type(labels).__name__}, needed a tensor; write torch.as_tensor(labels)")
    if labels.dtype != torch.int64:
        raise DataError(f"labels: got {labels.dtype}, needed torch.int64; write labels.long()")
    if labels.dim() != 1 or len(labels) != n:
        raise DataError(f"labels: got shape {list(labels.shape)}, needed [{n}], one label an image")
    # Values are looked at in plain tensors only: fake and meta tensors have none.
    if type(labels) is Tensor and not labels.is_meta and n:
        wrong = (labels < 0) | (labels >= classes)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise DataError(
                f"labels: got {int(labels[at])} at position {at}, needed 0 to {classes - 1} ({classes} classes)"
            )


def histogram(images: Tensor) -> Tensor:
    """How often each value 0..255 occurs in each channel of uint8 [N, C, H, W] or [N, H, W]: int64 [C, 256], CPU."""
    planes = images.cpu().reshape(len(images), images.shape[1] if images.dim() == 4 else 1, -1)
    return torch.stack([torch.bincount(planes[:, c].reshape(-1), minlength=256) for c in range(planes.shape[1])])


def from_histogram(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, of values in 0..1, from `histogram`. Raises DataError where there is no pixel."""
    values = np.arange(256, dtype=np.float64) / 255
    mean: list[float] = []
    std: list[float] = []
    for row in counts.numpy():
        if row.sum() == 0:
            raise DataError("statistics: got no pixels, needed at least one image")
        share = row / row.sum()
        mean.append(float(share @ values))
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
    return tuple(mean), tuple(std)
