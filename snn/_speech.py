"""Spoken digits: the Free Spoken Digit Dataset in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eqprop import _idx
from eqprop._data_splits import stratified
from eqprop._errors import ConfigError, DataError
from eqprop._npz import load_npz
from eqprop._split import check_labels

FILE = "fsdd.npz"
_ARRAYS = {"audio": "i", "ptr": "iu", "label": "iu", "speaker": "iu", "index": "iu", "rate": "iu"}  # kinds of dtype
_TEST = 5  # recordings 0 to 4 of each speaker and digit are the official test part


@dataclass(frozen=True, eq=False, repr=False)
class SoundSplit:
    """Labelled recordings of different lengths.

    Args:
        audio: int16 ``[samples]``, all recordings one after another.
        starts, stops: int64 ``[N]``, where each begins and ends.
        labels: int64 ``[N]``.
        speakers: int64 ``[N]``, who speaks.
        rate_hz: sampling rate.
        classes: number of classes.

    Raises:
        DataError: labels that do not fit.
    """

    audio: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    labels: Tensor
    speakers: Tensor
    rate_hz: int
    classes: int = 10

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.starts), self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        seconds = self.seconds()
        return (
            f"SoundSplit({len(self):,} recordings at {self.rate_hz} Hz, {seconds.min():.2f} to {seconds.max():.2f} s, "
            f"{self.classes} classes)"
        )

    def seconds(self) -> np.ndarray:
        """Duration of each recording, ``[N]``."""
        lengths: np.ndarray = (self.stops - self.starts) / self.rate_hz
        return lengths

    def recordings(self, index: Tensor | slice | None = None) -> list[np.ndarray]:
        """The recordings, int16, as views; ``index`` is int64 positions, a slice, or None for all."""
        chosen = np.arange(len(self))[slice(None) if index is None else _numpy(index)]
        return [self.audio[self.starts[i] : self.stops[i]] for i in chosen]

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None
    ) -> Iterator[tuple[list[np.ndarray], Tensor]]:
        """Batches (recordings, labels) that cover the split once, in an order drawn by ``generator``, if there is one.

        Raises:
            ConfigError: batch_size below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, needed at least 1")
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        return ((self.recordings(part), self.labels[part]) for part in order.split(batch_size))

    def chosen(self, index: Tensor) -> SoundSplit:
        """Those recordings, by a mask or positions."""
        at = index.numpy()
        return SoundSplit(
            self.audio,
            self.starts[at],
            self.stops[at],
            self.labels[index],
            self.speakers[index],
            self.rate_hz,
            self.classes,
        )


@dataclass(frozen=True, eq=False)
class SoundSplits:
    """A set of recordings in three parts; the validation part comes out of the training part."""

    name: str
    source: str
    train: SoundSplit
    validation: SoundSplit
    test: SoundSplit
    classes: tuple[str, ...]


def load_spoken_digits(
    folder: str | os.PathLike[str] | None = None, *, validation: int = 270, seed: int = 0
) -> SoundSplits:
    """The Free Spoken Digit Dataset: 3,000 recordings of 10 digits by 6 speakers, 8 kHz, from ``fsdd.npz``.

    The file holds ``audio`` (int16, all recordings one after another), ``ptr`` (int64, N + 1 offsets into it),
    ``label``, ``speaker`` and ``index`` (whole numbers, N each) and ``rate``. Recordings 0 to 4 of each speaker and
    digit are the test part, as its authors say (https://github.com/Jakobovski/free-spoken-digit-dataset): the same
    speakers as in the training part.

    Args:
        folder: holds the file; None for the environment variable EQPROP_DATA. Nothing is downloaded.
        validation: recordings set aside for validation, an equal share of every digit, drawn by ``seed``.
        seed: of that draw.

    Raises:
        ConfigError: a ``validation`` that leaves no training recording.
        DataError: a file that is missing, damaged or of another form, with its name and the number.
    """
    named = _idx.named_folder(folder)
    if named is None:
        raise DataError(f"got no folder with {FILE}, needed one; write folder=DIR or set EQPROP_DATA")
    path = named[0] / FILE
    if not os.path.isfile(path):
        raise DataError(f"got no {FILE} in {named[0]} ({named[1]}), needed it there; write another folder")
    arrays = _checked(path)
    ptr, labels = arrays["ptr"].astype(np.int64), torch.from_numpy(arrays["label"].astype(np.int64))
    whole = SoundSplit(
        arrays["audio"],
        ptr[:-1],
        ptr[1:],
        labels,
        torch.from_numpy(arrays["speaker"].astype(np.int64)),
        int(arrays["rate"]),
    )
    test = torch.from_numpy(arrays["index"] < _TEST)
    if not 0 <= validation < int((~test).sum()):
        raise ConfigError(
            f"validation: got {validation}, needed 0 to {int((~test).sum()) - 1}, the training recordings"
        )
    train = whole.chosen(~test)
    aside = torch.from_numpy(stratified(train.labels.numpy(), validation, torch.Generator().manual_seed(seed)))
    source = f"{FILE}, {len(whole):,} recordings of the Free Spoken Digit Dataset, from {named[1]}"
    names = tuple("0123456789")
    return SoundSplits("spoken-digits", source, train.chosen(~aside), train.chosen(aside), whole.chosen(test), names)


def _checked(path: Path) -> dict[str, np.ndarray]:
    arrays = load_npz(path, _ARRAYS)
    if lacking := [key for key in _ARRAYS if key not in arrays]:
        raise DataError(f"{path}: got no {', '.join(lacking)}, needed {', '.join(_ARRAYS)}; write another file")
    for key, kinds in _ARRAYS.items():
        if arrays[key].dtype.kind not in kinds or arrays[key].ndim != (key != "rate"):
            raise DataError(
                f"{path}: got {key} of {arrays[key].dtype} and shape {list(arrays[key].shape)}, needed whole numbers "
                f"in {int(key != 'rate')} dimensions"
            )
    ptr, samples = arrays["ptr"].astype(np.int64), len(arrays["audio"])
    if not len(ptr) or ptr[0] != 0 or ptr[-1] != samples:
        ends = f"{ptr[0]} to {ptr[-1]}" if len(ptr) else "nothing"
        raise DataError(f"{path}: got ptr from {ends}, needed 0 to {samples}, the samples in audio (truncated?)")
    if (np.diff(ptr) <= 0).any():
        at = int(np.argmax(np.diff(ptr) <= 0))
        raise DataError(f"{path}: got recording {at} from sample {ptr[at]} to {ptr[at + 1]}, needed a positive length")
    for key in ("label", "speaker", "index"):
        if len(arrays[key]) != len(ptr) - 1:
            raise DataError(
                f"{path}: got {len(arrays[key])} values in {key}, needed {len(ptr) - 1}, one a recording of ptr"
            )
    if int(arrays["label"].max()) > 9:
        at = int(np.argmax(arrays["label"] > 9))
        raise DataError(f"{path}: got label {arrays['label'][at]} for recording {at}, needed 0 to 9")
    if int(arrays["rate"]) < 1:
        raise DataError(f"{path}: got a rate of {int(arrays['rate'])} Hz, needed a positive one")
    return arrays


def _numpy(index: Tensor | slice) -> np.ndarray | slice:
    return index.numpy() if isinstance(index, Tensor) else index
