"""The data sets of the liquid benchmark, each as spike trains in a fixed order, with the encoder that makes them."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import snn
from eqprop import _idx
from eqprop._data import load_dataset
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup

# seconds of a step and steps where they are not those of NALSM, 1 ms and 250
_STEP_SECONDS = {"maass2002": 1e-4}
_SOUND_SECONDS = 0.7  # longer than 97 % of the recordings
_VALIDATION = 6  # one in so many training samples is held out, as in NALSM
_TEST_NUMBER = 10**6  # first number of a test sample, for the encoders' draws
_HOW = {
    "nmnist": "unpack N-MNIST's Train and Test (https://www.garrickorchard.com/datasets/n-mnist) into a folder DIR",
    "spoken-digits": "put fsdd.npz, the recordings of https://github.com/Jakobovski/free-spoken-digit-dataset in one "
    "file as snn.load_spoken_digits describes it, into a folder DIR",
}


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled samples in the order in which the benchmark takes them.

    Attributes:
        labels: int64 ``[N]``.
        trains: positions and seed to spikes ``[n, steps, channels]``, bool.
        values: positions to pixels ``[n, pixels]``, of still images.
        speakers: int64 ``[N]``, of recordings.
    """

    labels: Tensor
    trains: Callable[[Tensor, int], Tensor]
    values: Callable[[Tensor], Tensor] | None = None
    speakers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Task:
    """A data set for a liquid. Any first n samples of the training part hold every class in its share.

    Attributes:
        name, source: what was loaded, and from where.
        train, test: training samples (validation data come out of them) and official test samples.
        channels, steps, dt_seconds: of the trains.
        encoder: description of what made them.
        curve: numbers of training samples of the learning curve, beside all of them.
    """

    name: str
    source: str
    train: Part
    test: Part
    channels: int
    steps: int
    dt_seconds: float
    encoder: Mapping[str, Any]
    curve: tuple[int, ...]
    still: bool = field(default=False)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records."""
        return {
            "name": self.name, "source": self.source, "train": len(self.train), "test": len(self.test),
            "channels": self.channels, "steps": self.steps, "encoder": dict(self.encoder),
        }  # fmt: skip


def add_task_options(parser: argparse.ArgumentParser, dataset: str) -> None:
    """The options that choose a data set, and how much of it."""
    task = parser.add_argument_group("task")
    task.add_argument("--dataset", default=dataset, metavar="NAME", help=", ".join(DATASETS))
    task.add_argument("--data", metavar="DIR", help="folder with the data set's files (default: $EQPROP_DATA)")
    task.add_argument("--samples", type=int, metavar="N", help="training samples, validation included (default: all)")
    task.add_argument("--test", type=int, metavar="N", help="the first N test samples only (default: all)")


def split(count: int) -> tuple[Tensor, Tensor]:
    """Positions of the first `count` training samples to train on, and to validate on."""
    aside = torch.arange(count) % _VALIDATION == _VALIDATION - 1
    return (~aside).nonzero()[:, 0], aside.nonzero()[:, 0]


def load_task(name: str, folder: str | None, preset: str) -> Task:
    """The data set of that name for a liquid of that preset.

    Raises:
        ConfigError: an unknown name.
        DataError: data that are missing, with the way to get them, or damaged.
    """
    load = lookup("--dataset", name, DATASETS)
    try:
        return load(name, folder, preset)
    except DataError as error:
        if name not in _HOW or not str(error).startswith("got no"):
            raise
        raise DataError(f"--dataset {name}: {error}. To get it, {_HOW[name]}, and write --data DIR") from error


@functools.lru_cache(maxsize=1)
def task_of(name: str, preset: str) -> Task:
    """``load_task`` from the folder EQPROP_DATA or the cache, once a process."""
    return load_task(name, None, preset)


def nested_order(labels: Tensor, seed: int = 0) -> Tensor:
    """A random order in which every stretch from the start holds each class in about its share."""
    generator = np.random.Generator(np.random.PCG64(seed))
    key = np.empty(len(labels))
    for label in np.unique(labels.numpy()):
        own = np.flatnonzero(labels.numpy() == label)
        key[own] = (generator.permutation(len(own)) + generator.random(len(own))) / len(own)
    return torch.from_numpy(np.argsort(key, kind="stable"))


def _images(name: str, folder: str | None, preset: str) -> Task:
    data = load_dataset(name, folder, validation=0)
    dt = _STEP_SECONDS.get(preset, 1e-3)
    # the scale is that of all training images, so that a smaller run has the same trains
    scale = snn.RateEncoder.nalsm(data.train.inputs()).full_scale

    def encoder(seed: int) -> snn.RateEncoder:
        steps = round(0.25 / dt)
        return snn.RateEncoder(steps=steps, dt_seconds=dt, peak_rate_hz=1000.0, share=True, full_scale=scale, seed=seed)

    def part(images: Any, order: Tensor, first: int) -> Part:
        return Part(
            images.labels[order],
            lambda at, seed: encoder(seed).encode(images.inputs(order[at]), order[at] + first),
            lambda at: images.inputs(order[at]),
        )

    return Task(
        data.name,
        data.source,
        part(data.train, nested_order(data.train.labels), 0),
        part(data.test, torch.arange(len(data.test)), _TEST_NUMBER),
        data.train.inputs(slice(0, 1)).shape[1],
        encoder(0).steps,
        dt,
        {k: v for k, v in encoder(0).spec().items() if k != "seed"},
        (1000, 5000, 20000) if len(data.train) > 20000 else (500, 1000, 2000),
        still=True,
    )


def _nmnist(name: str, folder: str | None, preset: str) -> Task:
    dt = _STEP_SECONDS.get(preset, 1e-3)
    frames = snn.EventFrames(steps=round(0.25 / dt), dt_seconds=dt)
    if preset == "rram200":  # 16 x 16, one polarity, 50 steps: of 6 ms, which is ours, for all three saccades
        frames = snn.EventFrames(steps=50, dt_seconds=6e-3, crop=(16, 16), polarity="on")
    data = snn.load_nmnist(folder, frames=frames, validation=0, expected=_mnist_labels(folder))

    def part(recordings: snn.EventSplit, order: Tensor) -> Part:
        return Part(recordings.labels[order], lambda at, seed: recordings.inputs(order[at]))

    return Task(
        "nmnist",
        data.source,
        part(data.train, nested_order(data.train.labels)),
        part(data.test, torch.arange(len(data.test))),
        frames.channels,
        frames.steps,
        frames.dt_seconds,
        frames.spec(),
        (100, 300, 1000, 5000, 20000),
    )


def _mnist_labels(folder: str | None) -> tuple[Tensor, Tensor] | None:
    """MNIST's labels, to check the names of N-MNIST's folders against, where its files lie beside them."""
    files = _idx.archive("mnist")
    try:
        found = _idx.find_files(files, folder)
    except DataError:
        return None
    if found is None:
        return None
    train, test = _idx.read_labels(found[0], files)
    return torch.from_numpy(train), torch.from_numpy(test)


def _spoken(name: str, folder: str | None, preset: str) -> Task:
    dt = _STEP_SECONDS.get(preset, 1e-3)
    if dt < 1e-3:
        raise ConfigError(f"--preset: got {preset!r} with steps of {dt:g} s, needed 1 ms for 8 kHz recordings")
    encoder = snn.CochleaEncoder(steps=round(_SOUND_SECONDS / dt), dt_seconds=dt)
    data = snn.load_spoken_digits(folder, validation=0)

    def part(sounds: snn.SoundSplit, order: Tensor) -> Part:
        def trains(at: Tensor, seed: int) -> Tensor:
            recordings = sounds.recordings(order[at])
            return aligned(encoder.encode(recordings), [-(-len(r) // encoder.samples_per_step) for r in recordings])

        return Part(sounds.labels[order], trains, speakers=sounds.speakers[order])

    return Task(
        name,
        data.source,
        part(data.train, nested_order(data.train.labels)),
        part(data.test, torch.arange(len(data.test))),
        encoder.channels,
        encoder.steps,
        dt,
        encoder.spec() | {"aligned": "end"},
        (300, 900),
    )


def aligned(trains: Tensor, lengths: list[int]) -> Tensor:
    """The trains moved so that each recording ends with the last step: the liquid's last state is that of its end."""
    steps = trains.shape[1]
    moved = torch.zeros_like(trains)
    for row, length in enumerate(lengths):
        length = min(length, steps)
        moved[row, steps - length :] = trains[row, :length]
    return moved


DATASETS: dict[str, Callable[[str, str | None, str], Task]] = {
    "mnist": _images,
    "fashion-mnist": _images,
    "digits": _images,
    "nmnist": _nmnist,
    "spoken-digits": _spoken,
}
