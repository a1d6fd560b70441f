"""Labelled images of one size in memory-mapped files: the format, and how a folder of them is opened and checked.

A folder holds `train_images.npy` (uint8 [N, C, H, W]), `train_labels.npy` (int64 [N]), the same for `test`, and a JSON
sidecar that names them with their sizes and SHA-256, and is written last: a folder without one is no cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import DataError

FORMAT = "eqprop-images/1"
SIDECAR = "images.json"
PARTS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageCache:
    """An opened cache. Images are mapped: reading them reads the file, changing them changes nothing in it.

    Attributes:
        images, labels: of "train" and "test": uint8 [N, C, H, W], int64 [N].
        classes: names, in the order of the labels.
        moments: mean and std of each channel of the training images, in 0..1.
        source: where the images came from, in words.
        record: the sidecar.
    """

    folder: Path
    images: dict[str, Tensor]
    labels: dict[str, Tensor]
    classes: tuple[str, ...]
    moments: tuple[tuple[float, ...], tuple[float, ...]]
    source: str
    record: dict[str, Any]


def read_sidecar(folder: Path) -> dict[str, Any]:
    """The sidecar; empty where there is none. Raises DataError for one that is damaged or of another version."""
    path = folder / SIDECAR
    try:
        record = json.loads(path.read_bytes())
        found = record["format"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"got no whole JSON sidecar ({error})") from error
    if found != FORMAT:
        raise _damaged(path, f"got format {found!r}, needed {FORMAT!r}")
    return dict(record)


def open_cache(folder: Path, *, verify: bool = False) -> ImageCache:
    """Open a cache. The sizes of its files are always compared with the sidecar, their checksums with `verify`.

    Raises:
        DataError: no cache, files that are missing, of another size or (with `verify`) changed.
    """
    record = read_sidecar(folder)
    if not record:
        raise DataError(f"{folder}: got no {SIDECAR}, needed a folder of converted images; convert the data set again")
    images, labels = {}, {}
    try:
        shape = tuple(int(n) for n in record["shape"])
        for name, known in record["files"].items():
            path = folder / Path(name).name
            size = path.stat().st_size if os.path.isfile(path) else None
            if size != known["bytes"]:
                got = "no file" if size is None else f"{size:,} bytes"
                raise _damaged(path, f"got {got}, needed {known['bytes']:,} bytes")
            if verify and sha256(path) != known["sha256"]:
                raise _damaged(path, "got content that does not match its checksum")
        for part in PARTS:
            n = int(record["counts"][part])
            images[part], labels[part] = (_mapped(folder / f"{part}_{kind}.npy") for kind in ("images", "labels"))
            if tuple(images[part].shape) != (n, *shape) or tuple(labels[part].shape) != (n,):
                raise _damaged(folder / f"{part}_images.npy", f"got shape {list(images[part].shape)}")
        classes = tuple(str(name) for _, name in record["classes"])
        moments = tuple(map(float, record["mean"])), tuple(map(float, record["std"]))
        return ImageCache(folder, images, labels, classes, moments, str(record["source"]), record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(folder / SIDECAR, f"got a sidecar that does not describe the files ({error!r})") from error


def _mapped(path: Path) -> Tensor:
    # "c", copy on write: torch wants memory that it may write to, and what it writes does not reach the file
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, got: str) -> DataError:
    return DataError(
        f"{path}: {got}. The cache was changed after it was written, or by another version; delete {path.parent} and "
        "convert the data set again."
    )
