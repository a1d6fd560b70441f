"""`benchmarks.imagenet32` as a function of a config: that of all images of 32x32 pixels, with its data set."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import _sweep_images
from benchmarks._sweep_images import Data
from benchmarks._sweep_images import completed as completed
from benchmarks._sweep_images import run as run


@dataclass(frozen=True)
class Config(_sweep_images.Config):
    """One training."""

    data: Data = Data("imagenet32")
