"""N-MNIST: labelled recordings of an event camera, read when they are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from eqprop import _idx
from eqprop._data_splits import stratified
from eqprop._errors import ConfigError, DataError
from eqprop._split import check_labels
from snn._events import NMNIST_SENSOR, EventFrames, Events, checked_events, read_events


class EventSource(Protocol):
    """Recordings by number."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, i: int, /) -> Events:
        """One of them, checked."""


@dataclass(frozen=True)
class EventFiles:
    """Recordings in files of N-MNIST's format; a file is read when its recording is asked for."""

    paths: tuple[Path, ...]
    sensor: tuple[int, int] = NMNIST_SENSOR

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Events:
        return read_events(self.paths[i], self.sensor)


class TonicEvents:
    """Recordings of a data set of ``tonic`` (or anything like one), which stays optional.

    Args:
        dataset: ``dataset[i]`` is ``(events, label)``, the events a structured array with the fields x, y, p and t in
            microseconds; made without a transform.
        sensor: height and width; None for those of ``dataset.sensor_size`` (width first), or N-MNIST's without one.
    """

    def __init__(self, dataset: Any, sensor: tuple[int, int] | None = None) -> None:
        self.dataset = dataset
        width, height = tuple(getattr(dataset, "sensor_size", None) or NMNIST_SENSOR[::-1])[:2]
        self.sensor = (int(height), int(width)) if sensor is None else sensor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Events:
        events = self.dataset[i][0]
        names = getattr(getattr(events, "dtype", None), "names", None) or ()
        if not {"x", "y", "p", "t"} <= set(names):
            raise DataError(
                f"sample {i} of {type(self.dataset).__name__}: got {type(events).__name__} with the fields "
                f"{list(names)}, needed x, y, p and t; make the data set without a transform"
            )
        x, y, p, t = (events[name].astype(np.int64) for name in "xypt")
        order = np.argsort(t, kind="stable")
        return checked_events(
            Events(x[order], y[order], p[order], t[order]),
            self.sensor,
            f"sample {i} of {type(self.dataset).__name__}",
            lambda at: f"event {order[at]}",
            "make the data set again, or write TonicEvents(dataset, sensor=(height, width))",
        )

    def labels(self) -> Tensor:
        """int64 ``[N]``; from ``dataset.targets`` where there are any, else each sample is loaded once."""
        targets = getattr(self.dataset, "targets", None)
        if targets is None or len(targets) != len(self):
            targets = [self.dataset[i][1] for i in range(len(self))]
        return torch.as_tensor([int(label) for label in targets])


@dataclass(frozen=True, eq=False, repr=False)
class EventSplit:
    """Labelled recordings, made into frames when they are wanted: nothing is kept in memory but the labels.

    Args:
        source: recordings by number.
        labels: int64 ``[N]``, on the CPU.
        frames: how events become frames.
        index: which recordings of the source, int64 ``[N]``; None for all in their order.
        classes: number of classes.
        device: where batches are made.

    Raises:
        DataError: labels of another number, dtype or range.
        ConfigError: frames of another sensor than that of the recordings.
    """

    source: EventSource
    labels: Tensor
    frames: EventFrames = EventFrames()
    index: Tensor | None = None
    classes: int = 10
    device: torch.device = torch.device("cpu")

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.source) if self.index is None else len(self.index), self.classes)
        sensor = tuple(getattr(self.source, "sensor", self.frames.sensor))
        if sensor != tuple(self.frames.sensor):
            raise ConfigError(
                f"frames: got a sensor of {tuple(self.frames.sensor)} for recordings of {sensor}, needed the same; "
                f"write EventFrames(sensor={sensor})"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"EventSplit({len(self):,} recordings, {self.frames!r}, {self.classes} classes, {self.device})"

    def events(self, i: int) -> Events:
        """The events of recording i of this split."""
        return self.source[i if self.index is None else int(self.index[i])]

    def inputs(self, index: Tensor | slice | None = None) -> Tensor:
        """Frames ``[n, steps, channels]``, bool, on ``device``; ``index`` as of ``chunks``."""
        return next(self.chunks(index))

    def chunks(self, index: Tensor | slice | None = None, *, chunk_steps: int | None = None) -> Iterator[Tensor]:
        """The frames, ``[n, chunk_steps, channels]`` at a time, so that memory does not grow with duration.

        Args:
            index: which recordings: int64 positions, a slice, or None for all.
            chunk_steps: steps in a chunk; None for all at once.

        Raises:
            DataError: a file that is damaged, by its name.
        """
        positions = torch.arange(len(self))
        chosen = positions if index is None else positions[index]
        recordings = [self.events(i) for i in chosen.tolist()]
        steps = self.frames.steps if chunk_steps is None else chunk_steps
        return (torch.from_numpy(part).to(self.device) for part in self.frames.chunks(recordings, steps))

    def batches(self, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (frames, labels) that cover the split once, on ``device``.

        Args:
            batch_size: recordings in a batch; the last may be smaller.
            generator: CPU generator that draws the order; None keeps the order of the split.

        Raises:
            ConfigError: batch_size below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, needed at least 1")
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        return ((self.inputs(part), self.labels[part].to(self.device)) for part in order.split(batch_size))

    def to(self, device: str | torch.device) -> EventSplit:
        """The same split with batches on another device."""
        return replace(self, device=torch.device(device))

    def chosen(self, index: Tensor) -> EventSplit:
        """Those recordings, by a mask or int64 positions."""
        own = torch.arange(len(self)) if self.index is None else self.index
        return replace(self, index=own[index], labels=self.labels[index])

    def subset(self, n: int, generator: torch.Generator) -> EventSplit:
        """n recordings drawn without replacement.

        Raises:
            ConfigError: n is not within 0 and the length of the split.
        """
        if not 0 <= n <= len(self):
            raise ConfigError(f"subset: got n = {n}, needed 0 to {len(self)}, the length of the split")
        return self.chosen(torch.randperm(len(self), generator=generator)[:n])


@dataclass(frozen=True, eq=False)
class EventSplits:
    """A set of recordings in three parts; the validation part comes out of the training part."""

    name: str
    source: str
    train: EventSplit
    validation: EventSplit
    test: EventSplit
    classes: tuple[str, ...]


def load_nmnist(
    folder: str | os.PathLike[str] | None = None,
    *,
    frames: EventFrames | None = None,
    validation: int | None = None,
    seed: int = 0,
    expected: tuple[Tensor, Tensor] | None = None,
) -> EventSplits:
    """N-MNIST (Orchard, Jayawant, Cohen & Thakor 2015) from ``Train/<label>/NNNNN.bin`` and ``Test/<label>/NNNNN.bin``.

    File NNNNN is the recording of image NNNNN of MNIST, counted from 1; both parts are in that order, whatever share
    of the files is there. Only the names are read here; a file is read, and checked, when its frames are asked for.

    Args:
        folder: holds Train and Test, or a folder NMNIST or N-MNIST with them; None for the environment variable
            EQPROP_DATA. Nothing is downloaded.
        frames: how events become frames; None for those of NALSM.
        validation: training recordings set aside, an equal share of every digit; None for a tenth.
        seed: of the draw of the validation part.
        expected: MNIST's labels of the training and test images, to check the folders' names against.

    Raises:
        ConfigError: a ``validation`` that leaves no training recording.
        DataError: a folder that is missing or holds no recording, a label that is no digit, one recording under two
            labels, or a label that is not the expected one, by file.
    """
    root, how = _root(folder)
    frames = EventFrames() if frames is None else frames
    parts = []
    for number, part in enumerate(("Train", "Test")):
        paths, labels = _listed(root / part)
        if expected is not None:
            _compare(paths, labels, expected[number])
        parts.append(EventSplit(EventFiles(tuple(paths), frames.sensor), torch.tensor(labels), frames))
    train, test = parts
    held = len(train) // 10 if validation is None else validation
    if not 0 <= held < len(train):
        raise ConfigError(f"validation: got {held}, needed 0 to {len(train) - 1}, the training recordings")
    aside = torch.from_numpy(stratified(train.labels.numpy(), held, torch.Generator().manual_seed(seed)))
    source = f"{len(train):,} and {len(test):,} recordings of N-MNIST, from {how}"
    names = tuple("0123456789")
    return EventSplits("n-mnist", source, train.chosen(~aside), train.chosen(aside), test, names)


def _root(folder: str | os.PathLike[str] | None) -> tuple[Path, str]:
    named = _idx.named_folder(folder)
    if named is None:
        raise DataError("got no folder with N-MNIST, needed one; write folder=DIR or set EQPROP_DATA")
    for root in (named[0], named[0] / "NMNIST", named[0] / "N-MNIST"):
        if os.path.isdir(root / "Train") and os.path.isdir(root / "Test"):
            return root, named[1]
    raise DataError(
        f"got no Train and Test in {named[0]} ({named[1]}), nor in NMNIST or N-MNIST there, needed both folders of "
        "N-MNIST, unpacked; write another folder"
    )


def _listed(folder: Path) -> tuple[list[Path], list[int]]:
    """The files of one part in the order of their numbers, and the labels that their folders name."""
    found: dict[int, Path] = {}
    for label in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if len(label.name) != 1 or label.name not in "0123456789":
            raise DataError(f"{label}: got a folder for the label {label.name!r}, needed 0 to 9; move it away")
        for path in label.glob("*.bin"):
            if not path.stem.isdecimal():
                raise DataError(f"{path}: got a file without a number, needed NNNNN.bin; move it away")
            other = found.setdefault(int(path.stem), path)
            if other != path:
                raise DataError(
                    f"{path}: got recording {int(path.stem)} under the labels {other.parent.name} and {label.name} "
                    f"({other}), needed one label a recording; remove one of the two"
                )
    if not found:
        raise DataError(f"{folder}: got no recording, needed <label>/NNNNN.bin there, labels 0 to 9")
    paths = [found[number] for number in sorted(found)]
    return paths, [int(path.parent.name) for path in paths]


def _compare(paths: Sequence[Path], labels: Sequence[int], expected: Tensor) -> None:
    for path, label in zip(paths, labels, strict=True):
        number = int(path.stem)
        if not 1 <= number <= len(expected):
            raise DataError(f"{path}: got recording {number}, needed 1 to {len(expected)}, those with expected labels")
        if int(expected[number - 1]) != label:
            raise DataError(
                f"{path}: got the label {label} from the folder, needed {int(expected[number - 1])}, the label of "
                f"image {number}; the files do not belong to these labels"
            )
