"""A data set in three parts, and the draw of the validation part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from eqprop._augment import Augmentation, Normalise
from eqprop._split import Split, unchecked


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
        steps = {"normalise": self.train.normalise, "augment": self.train.augment}
        described = {name: step.spec() for name, step in steps.items() if step is not None}
        return {"name": self.name, "source": self.source, **counts, "input_shape": list(self.input_shape), **described}

    def to(self, device: str | torch.device) -> DataSplits:
        """The same data set on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )

    def normalised(self, normalise: Normalise | None = None, *, scale: float = 1.0) -> DataSplits:
        """The same data set, every part normalised: (x - mean) / (scale std), a channel.

        Args:
            normalise: mean and std; None for those of the training part.
            scale: factor of every std.

        Raises:
            ConfigError: a normalisation of another number of channels, or a scale that is not positive.
        """
        used = (Normalise(*self.train.statistics()) if normalise is None else normalise).scaled(scale)
        parts = {part: unchecked(getattr(self, part), normalise=used) for part in ("train", "validation", "test")}
        for part in parts.values():
            part._check_steps()
        return replace(self, **parts)

    def augmented(self, augment: Augmentation | None = None) -> DataSplits:
        """The same data set, the shuffled batches of its training part augmented; None for `Augmentation()`.

        Raises:
            ConfigError: an augmentation too wide for the images.
        """
        train = unchecked(self.train, augment=Augmentation() if augment is None else augment)
        train._check_steps()
        return replace(self, train=train)


def stratified(labels: np.ndarray, n: int, generator: torch.Generator) -> np.ndarray:
    """Mask of n positions drawn at random, each class in its share of the whole (largest remainders rounded up)."""
    counts = np.bincount(labels)
    shares = n * counts / len(labels)
    quota = np.floor(shares).astype(int)
    quota[np.argsort(quota - shares, kind="stable")[: n - quota.sum()]] += 1
    order = torch.randperm(len(labels), generator=generator).numpy()
    by_class = order[np.argsort(labels[order], kind="stable")]
    mask = np.zeros(len(labels), dtype=bool)
    for start, wanted in zip(np.cumsum(counts) - counts, quota, strict=True):
        mask[by_class[start : start + wanted]] = True
    return mask
