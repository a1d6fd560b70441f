"""The data of the comparison: one set of samples, as spike trains, as still vectors, and as events in coarser steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._liquid_data import Part, Task, split

SOUND_BINS = 5  # parts of time that networks without time see of a recording
COARSE_STEPS = 50  # of a sample, for networks that are trained through time
_CHUNK = 250  # samples that are encoded at once


@dataclass(frozen=True, eq=False)
class View:
    """Training and test samples of a task: the same for everything that is compared.

    Attributes:
        task: the data.
        samples, tests: the first so many training samples (validation included) and test samples.
    """

    task: Task
    samples: int
    tests: int

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Of the training and the test samples."""
        return self.task.train.labels[: self.samples], self.task.test.labels[: self.tests]

    @property
    def sides(self) -> tuple[Tensor, Tensor]:
        """Positions to train on, and to validate on."""
        return split(self.samples)

    @functools.cached_property
    def still(self) -> tuple[Tensor, Tensor]:
        """Training and test samples as vectors between 0 and 1, float32.

        Pixels of images; of event files the counts of 2 x 2 pixels, of both polarities; of recordings the counts of
        every channel in equal parts of time. Counts are over the largest of the training samples.
        """
        if self.task.still:
            parts = [(self.task.train, self.samples), (self.task.test, self.tests)]
            train, test = (p.values(torch.arange(n)) for p, n in parts if p.values is not None)
            return train, test
        bins = SOUND_BINS if self.task.train.speakers is not None else 1
        train, test = (
            torch.cat([_binned(_pooled(self.task, x), bins).flatten(1) for x in _trains(part, count, 0)])
            for part, count in ((self.task.train, self.samples), (self.task.test, self.tests))
        )
        scale = train.max().clamp(min=1.0)
        return train / scale, (test / scale).clamp(max=1.0)

    def coarse(self, seed: int) -> tuple[Tensor, Tensor]:
        """Events in coarser steps, uint8 ``[samples, steps, channels]``; event files in 2 x 2 pixels, as in `still`."""
        train, test = (
            torch.cat([_coarser(_pooled(self.task, x)).to(torch.uint8) for x in _trains(part, count, seed)])
            for part, count in ((self.task.train, self.samples), (self.task.test, self.tests))
        )
        return train, test

    @property
    def coarse_seconds(self) -> float:
        """A coarse step."""
        return self.task.dt_seconds * _together(self.task.steps)


def _trains(part: Part, count: int, seed: int) -> Iterator[Tensor]:
    """Trains a chunk at a time, without keeping them."""
    starts = range(0, count, _CHUNK)
    return (part.trains(torch.arange(start, min(start + _CHUNK, count)), seed) for start in starts)


def _pooled(task: Task, x: Tensor) -> Tensor:
    """Counts ``[batch, steps, channels]``; those of event files in 2 x 2 pixels, polarities added."""
    if task.name != "nmnist":
        return x
    batch, steps, channels = x.shape
    side = int((channels / 2) ** 0.5)
    return x.view(batch, steps, 2, side // 2, 2, side // 2, 2).sum((2, 4, 6)).flatten(2)


def _binned(x: Tensor, parts: int) -> Tensor:
    """Counts in equal parts of time, float32 ``[batch, parts, channels]``."""
    bounds = [i * x.shape[1] // parts for i in range(parts + 1)]
    return torch.stack([x[:, a:b].sum(1, dtype=torch.float32) for a, b in zip(bounds, bounds[1:], strict=False)], 1)


def _together(steps: int) -> int:
    return max(1, steps // COARSE_STEPS)


def _coarser(x: Tensor) -> Tensor:
    """Sums of so many steps that about `COARSE_STEPS` are left; what does not fill the last is left out."""
    width = _together(x.shape[1])
    kept = x.shape[1] // width * width
    return x[:, :kept].reshape(len(x), -1, width, x.shape[2]).sum(2)
