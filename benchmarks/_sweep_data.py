"""The data of sweeps: a data set by its name, or some images of it."""

from __future__ import annotations

from dataclasses import dataclass

import eqprop
from benchmarks._common import sizes
from benchmarks._fewer_images import fewer
from benchmarks._sweep_fields import require_held_out
from benchmarks.mnist import DATASETS
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup

PIXELS, CLASSES = 784, 10  # of the data sets of benchmarks.mnist


@dataclass(frozen=True)
class Data:
    """Data set (in the cache or EQPROP_DATA); ``train`` images, None for all, and ``validation`` images held out."""

    dataset: str = "mnist"
    train: int | None = None
    validation: int | None = None


def require_data(data: Data, layers: str) -> None:
    """Raises ConfigError for another data set, numbers of images that cannot be, and units ("784-256-10") that do not
    fit its images, before anything is read."""
    lookup("data.dataset", data.dataset, dict.fromkeys(DATASETS))
    if data.train is not None and data.train < 1:
        raise ConfigError(f"data.train: got {data.train}, needed at least 1, or none for all")
    require_held_out(data.validation)
    units = sizes(layers)
    if (units[0], units[-1]) != (PIXELS, CLASSES):
        raise ConfigError(f"network.layers: got {layers!r}, but {data.dataset} needs {PIXELS}-...-{CLASSES}")


def require_found(found: eqprop.DataSplits, wanted: str) -> None:
    """Raises DataError where another data set stands in for the one that was asked for."""
    if found.name != wanted:
        raise DataError(f"{wanted} is not here, only {found.name}; write data.dataset={found.name}")


def load(data: Data, seed: int) -> eqprop.DataSplits:
    """The images; which ones, where not all are wanted, is drawn by the seed.

    Raises:
        ConfigError: more images than there are.
        DataError: another data set stands in for the one that was asked for.
    """
    found = eqprop.load_dataset(data.dataset, validation=data.validation, seed=seed)
    require_found(found, data.dataset)
    return fewer(found, data.train, seed, "data.train")


def load_whole(data: eqprop.DataSplits) -> eqprop.DataSplits:
    """The same data set with nothing held out: the images of all members of an ensemble, of which each has its own."""
    return eqprop.load_dataset(data.name, device=data.train.device, validation=0)
