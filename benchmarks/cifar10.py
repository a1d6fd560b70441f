"""Trains a convolutional attractor network on CIFAR-10 or CIFAR-100: `python -m benchmarks.cifar10 --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import _images
from benchmarks._common import run_main
from benchmarks._image_run import Config
from eqprop._data import DataSplits, load_dataset

MODULE = "benchmarks.cifar10"
DATASETS = ("cifar10", "cifar100", "cifar10-subset")


def _add_data_options(group: Any) -> None:
    group.add_argument("--data", metavar="DIR", help="folder with the data set's files (default: cache, or download)")


def _load(config: Config, arguments: argparse.Namespace, device: torch.device) -> DataSplits:
    return load_dataset(config.dataset, arguments.data, device=device, validation=config.validation, seed=config.seed)


SCRIPT = _images.Script(
    module=MODULE,
    description="Train a convolutional attractor network on CIFAR-10 or CIFAR-100.",
    out=Path("runs/cifar10"),
    datasets=DATASETS,
    add_data_options=_add_data_options,
    load=_load,
    examples=(
        f"python -m {MODULE} --preset small --out runs/small",
        f"python -m {MODULE} --preset small --rule backprop --seeds 3 --out runs/twin",
        f"python -m {MODULE} --preset small-untied --homeostasis 0 --out runs/plain",
    ),
)


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    return _images.options(SCRIPT)


def main(arguments: argparse.Namespace) -> None:
    """Train every seed and report."""
    _images.run(SCRIPT, arguments)


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False, several=True))
