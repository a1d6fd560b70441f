"""Trains a convolutional attractor network on ImageNet 32x32: `python -m benchmarks.imagenet32 --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import _images
from benchmarks._common import run_main
from benchmarks._image_run import Config
from eqprop._data import DataSplits
from eqprop._imagenet32 import load_imagenet32

MODULE = "benchmarks.imagenet32"


def _add_data_options(group: Any) -> None:
    group.add_argument("--data", metavar="DIR", help="the official files, either form, or their cache (or EQPROP_DATA)")
    group.add_argument("--cache", metavar="DIR", help="folder of the cache (default: in ~/.cache/eqprop)")
    group.add_argument("--resident", action="store_true", help="keep all images (4 GB) in the memory of the device")
    group.add_argument("--verify", action="store_true", help="compare the checksums of the cache first")


def _load(config: Config, arguments: argparse.Namespace, device: torch.device) -> DataSplits:
    return load_imagenet32(
        arguments.data,
        arguments.cache,
        device=device,
        validation=config.validation,
        seed=config.seed,
        resident=arguments.resident,
        verify=arguments.verify,
        progress=not arguments.quiet,
    )


SCRIPT = _images.Script(
    module=MODULE,
    description="Train a convolutional attractor network on ImageNet 32x32.",
    out=Path("runs/imagenet32"),
    datasets=("imagenet32",),
    add_data_options=_add_data_options,
    load=_load,
    examples=(
        f"python -m {MODULE} --preset holomorphic-2022 --plan h100",
        f"python -m {MODULE} --data data/imagenet32 --preset holomorphic-2022 --checkpoint-every 500",
        f"torchrun --nproc-per-node=8 -m {MODULE} --data data/imagenet32 --preset generalized-2024",
        "python -m benchmarks.imagenet32_data generate data/generated    # to try it without the data",
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
