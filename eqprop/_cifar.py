"""The files of CIFAR-10 and CIFAR-100: where they are looked for, how they are checked and read, through torchvision.

Source: Krizhevsky 2009, *Learning Multiple Layers of Features from Tiny Images*; https://www.cs.toronto.edu/~kriz/.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from eqprop import _idx
from eqprop._errors import DataError
from eqprop._npz import load_npz

SUBSET = "cifar10_subset.npz"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # "train" and "test": uint8 [N, 3, 32, 32], int64 [N]


def _official(name: str) -> Any:
    """torchvision's class, with the names of the files and their md5."""
    from torchvision import datasets  # takes a second to import: only when files are wanted

    return datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100


def _md5s(official: Any) -> dict[str, str]:
    return dict([*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])])


# ---- finding -------------------------------------------------------------------------------------------------------


def find_official(name: str, data: str | os.PathLike[str] | None, download: bool) -> tuple[Path, str]:
    """The folder with the official python batches and how it was found; downloads them where they are nowhere.

    Raises:
        DataError: a folder that the user named lacks the files, or they cannot be downloaded.
    """
    official = _official(name)
    named = _idx.named_folder(data)
    if named is not None:
        root, how = named
        for folder in (root / official.base_folder, root):
            if not _missing(folder, official):
                return folder, f"from {how}"
        hint = ""
        if name == "cifar10" and os.path.isfile(root / SUBSET):
            hint = f' It holds {SUBSET}: for that write "cifar10-subset".'
        raise DataError(
            f"{how} names {root}, which lacks {official.__name__}: got no "
            f"{', '.join(_missing(root / official.base_folder, official))} in {root / official.base_folder}, needed "
            f"all official python files there or in {root} itself. Write another folder, or leave it out to search "
            f"the cache and download.{hint}"
        )
    cached = _idx.cache_folder() / official.base_folder
    if not _missing(cached, official):
        return cached, "from the cache"
    try:
        if not download:
            raise _idx.DownloadError("download=False")
        return _download(official), "downloaded"
    except _idx.DownloadError as error:
        raise DataError(
            f"{official.__name__} was not found and could not be downloaded ({error}). Write --data DIR (data=DIR) for "
            f"a folder that holds {official.base_folder}/, unpacked from {official.filename}."
        ) from error


def _missing(folder: Path, official: Any) -> list[str]:
    return [name for name in _md5s(official) if not os.path.isfile(folder / name)]


def find_subset(data: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """The file cifar10_subset.npz and how it was found. Raises DataError where it is not."""
    named = _idx.named_folder(data)
    folder, how = (_idx.cache_folder(), "the cache") if named is None else named
    if os.path.isfile(folder / SUBSET):
        return folder / SUBSET, f"from {how}"
    raise DataError(
        f"got no {SUBSET} in {folder} ({how}), needed it there; write --data DIR (data=DIR) for the folder that holds "
        f'it, or the data set "cifar10" for all of CIFAR-10'
    )


# ---- reading -------------------------------------------------------------------------------------------------------


def read_official(name: str, folder: Path) -> tuple[Parts, tuple[str, ...]]:
    """Images and labels of "train" and "test", and the names of the classes.

    The files are pickles, which can run code when loaded: each must have its official md5 before any is opened.

    Raises:
        DataError: a file that differs from the official one.
    """
    official = _official(name)
    for stem, md5 in _md5s(official).items():
        path = folder / stem
        try:
            with path.open("rb") as file:
                got = hashlib.file_digest(file, _md5).hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
        if got != md5:
            raise DataError(
                f"{path}: got content with md5 {got}, needed the official {official.__name__} file, md5 {md5}. Delete "
                f"or replace this file, or write --data DIR (data=DIR) to read from another folder."
            )
    # torchvision looks in base_folder under its root; the files may also lie directly in a folder
    reader = type(official.__name__, (official,), {"base_folder": ""})
    parts: Parts = {}
    for part, train in (("train", True), ("test", False)):
        read = reader(folder, train=train)  # checks the md5 again before it opens
        images = np.ascontiguousarray(read.data.transpose(0, 3, 1, 2))
        parts[part] = images, np.asarray(read.targets, dtype=np.int64)
    return parts, tuple(read.classes)


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def read_subset(path: Path) -> Parts:
    """Images and labels of "train" and "test".

    Raises:
        DataError: a file that is not such an archive, or arrays of another kind, shape or range.
    """
    keys = ("x_train", "y_train", "x_test", "y_test")
    arrays = load_npz(path, keys)
    if lacking := [key for key in keys if key not in arrays]:
        raise DataError(f"{path}: got no {', '.join(lacking)}, needed {', '.join(keys)}; write another file")
    parts: Parts = {}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
            raise DataError(
                f"{path}: got x_{part} of {images.dtype} and shape {list(images.shape)}, needed uint8 [N, 32, 32, 3]"
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise DataError(
                f"{path}: got y_{part} of {labels.dtype} and shape {list(labels.shape)}, needed whole numbers "
                f"[{len(images)}]"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(CLASSES):
            raise DataError(f"{path}: got y_{part} from {labels.min()} to {labels.max()}, needed 0 to 9")
        parts[part] = np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64)
    return parts


# ---- downloading ---------------------------------------------------------------------------------------------------


def _download(official: Any) -> Path:
    """Bring the official archive into the cache, checked and unpacked by torchvision; returns the folder.

    As `_idx.download`: the address is asked first, reads are bounded, and complete files are moved one by one.
    """
    if not any(_idx.answering([official.url])):
        raise _idx.DownloadError("no mirror answered")
    target = _idx.cache_folder() / official.base_folder
    print(f"Downloading {official.__name__} into {target}", file=sys.stderr, flush=True)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_idx.cache_folder(), prefix=".download-") as scratch:
            with _idx.stall_limit(_idx.STALL_SECONDS), contextlib.redirect_stdout(sys.stderr):
                official(scratch, download=True)
            for name in _md5s(official):
                arrived = Path(scratch) / official.base_folder / name
                with arrived.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(arrived, target / name)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise _idx.DownloadError(" ".join(str(error).split())) from error
    return target
