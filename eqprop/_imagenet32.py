"""ImageNet 32x32, the official release: read from pickles or npz files, kept as memory-mapped uint8.

Format (Chrabaszcz, Loshchilov, Hutter 2017, *A Downsampled Variant of ImageNet*): `train_data_batch_1` to `_10` and
`val_data`, each a dict with `data`, uint8 [N, 3072], planes R, G, B of 32 rows of 32 pixels, and `labels`, 1 to 1000 in
the order of map_clsloc.txt (1 = n02119789, kit fox).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop import _idx
from eqprop._data_splits import DataSplits, stratified
from eqprop._errors import ConfigError, DataError
from eqprop._image_cache import SIDECAR, ImageCache, open_cache
from eqprop._image_cache_writer import Chunk, write_cache
from eqprop._mapped import MappedSplit
from eqprop._npz import load_npz
from eqprop._safe_pickle import load_plain
from eqprop._split import Split

BATCHES = 10
OFFICIAL = {"train": 1_281_167, "test": 50_000}
SHAPE = (3, 32, 32)
MAP = "map_clsloc.txt"
_FORMS = {"npz": ".npz", "pickle": ""}  # in this order: npz files hold nothing but arrays
FOLDERS = {
    "npz": {"train": "Imagenet32_train_npz", "test": "Imagenet32_val_npz"},
    "pickle": {"train": "Imagenet32_train", "test": "Imagenet32_val"},
}


@dataclass(frozen=True)
class OfficialFiles:
    """The files of the release, all present: ten of "train" in their order, one of "test"."""

    form: str
    batches: tuple[tuple[str, Path], ...]  # part and file
    map_clsloc: Path | None


def load_imagenet32(
    folder: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    validation: int | None = None,
    seed: int = 0,
    resident: bool = False,
    verify: bool = False,
    progress: bool = True,
) -> DataSplits:
    """ImageNet 32x32, its images in a memory-mapped file.

    The first call converts the files, one at a time, into a cache of 4 GB; a killed one is taken up again. Later calls
    open the cache in a second. Files that have changed since are converted again. The official validation set is the
    test part; labels are the official ones minus 1.

    Batches are [B, 3, 32, 32] in 0..1, gathered on the host and copied to `device` (see `MappedSplit`); add
    `.normalised()` and `.augmented()`. The mean and std are those of the whole official training set.

    Args:
        folder: the official files, in pickle form (train_data_batch_1 ..., or in Imagenet32_train/ and Imagenet32_val/)
            or npz form (train_data_batch_1.npz ..., or in Imagenet32_train_npz/ and Imagenet32_val_npz/); or a cache
            (see also `convert_imagenet_folder`). None for the environment variable EQPROP_DATA. Classes have the names
            of a map_clsloc.txt beside the files, or else numbers.
        cache: folder of the cache; None for one in the user's cache (~/.cache/eqprop/ImageNet32).
        device: where batches are made.
        validation: images set aside for validation, an equal share of every class, drawn from the training set by
            `seed`; by default 10,000, or a twentieth of the training set where that is less.
        seed: of the draw of the validation part.
        resident: keep the images (4 GB of uint8) in the memory of the device, for one that has room.
        verify: also compare the checksums of the cache (seconds).
        progress: show a bar while converting, where standard error is a terminal.

    Raises:
        ConfigError: a `validation` that leaves no training image.
        DataError: files that are missing, truncated, of another width or with labels out of range; a pickle that asks
            for more than arrays and plain containers, of which nothing is run; a damaged cache.
    """
    where = cached_imagenet32(folder, cache, progress=progress)
    opened = open_cache(where, verify=verify)
    return _splits(opened, device, validation, seed, resident)


def cached_imagenet32(
    folder: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> Path:
    """The folder of the cache of these official files, converted where it is not there yet or they have changed."""
    root = _root(folder)
    if os.path.isfile(root / SIDECAR):
        return root
    files = find_official(root)
    if cache is None:
        key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
        where = _idx.cache_folder() / "ImageNet32" / key
    else:
        where = Path(cache).expanduser()
    convert_official(files, where, progress=progress)
    return where


def _root(folder: str | os.PathLike[str] | None) -> Path:
    named = _idx.named_folder(folder)
    if named is None:
        raise DataError(
            "ImageNet 32x32: got no folder, needed the official files or their cache, which nobody may pass on; "
            "register at https://image-net.org/download-images, unpack the 32x32 release (either form) into one "
            "folder, and write --data DIR (folder=DIR)"
        )
    root, how = named
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{how} names {root}, which {state}; needed the folder of the ImageNet 32x32 files")
    return root


# ---- the official files --------------------------------------------------------------------------------------------


def find_official(root: Path) -> OfficialFiles:
    """The files of the release in a folder. Raises DataError that lists those which are missing."""
    lacking: dict[str, list[str]] = {}
    for form, ending in _FORMS.items():
        found: list[tuple[str, Path]] = []
        lacking[form] = []
        for part, stem in _stems():
            places = (root / FOLDERS[form][part], root)
            path = next((p for place in places if os.path.isfile(p := place / f"{stem}{ending}")), None)
            if path is None:
                lacking[form].append(f"{stem}{ending}")
            else:
                found.append((part, path))
        if not lacking[form]:
            folders = dict.fromkeys((root, *(path.parent for _, path in found)))
            names = next((p for place in folders if os.path.isfile(p := place / MAP)), None)
            return OfficialFiles(form, tuple(found), names)
    form = min(lacking, key=lambda form: len(lacking[form]))  # the one that was probably meant
    if len(lacking[form]) > BATCHES:
        raise DataError(
            f"{root}: got no file of ImageNet 32x32, needed train_data_batch_1 to train_data_batch_{BATCHES} and "
            "val_data (or .npz files of these names) there or in the folders of the official archives, "
            f"{FOLDERS['pickle']['train']}/ and {FOLDERS['pickle']['test']}/ (with _npz for that form); write "
            "another folder"
        )
    raise DataError(
        f"{root}: got no {', '.join(lacking[form])}, needed all {BATCHES} training files and the validation file of "
        f"ImageNet 32x32 in {form} form; put the missing files there"
    )


def _stems() -> Iterator[tuple[str, str]]:
    for i in range(1, BATCHES + 1):
        yield "train", f"train_data_batch_{i}"
    yield "test", "val_data"


def convert_official(files: OfficialFiles, out: Path, *, progress: bool = True) -> None:
    """Convert the official files into a cache: one file in memory at a time, nothing to do where that is done."""
    classes = read_classes(files.map_clsloc)
    paths = [path for _, path in files.batches] + ([files.map_clsloc] if files.map_clsloc else [])
    sources = [
        {"name": path.name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        for path, status in ((path, path.stat()) for path in paths)
    ]

    def describe(counts: dict[str, int]) -> str:
        if counts == OFFICIAL:
            return f"official files, {files.form} form"
        n = " + ".join(f"{counts[part]:,}" for part in ("train", "test"))
        return f"files in the official layout ({files.form} form) with {n} images, not the official number"

    chunks = [Chunk(part, _reader(path, len(classes))) for part, path in files.batches]
    write_cache(out, chunks, sources=sources, describe=describe, classes=classes, progress=progress)


def _reader(path: Path, classes: int) -> Any:
    return lambda: read_batch(path, classes)


def read_batch(path: Path, classes: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """One official file: images uint8 [N, 3, 32, 32] and labels int64 [N], 0 to `classes` - 1.

    Raises:
        DataError: a file that is truncated, is no such batch, or is not of 32x32 images; labels out of range.
    """
    batch = load_npz(path, ("data", "labels")) if path.suffix == ".npz" else load_plain(path)
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        keys = f"the keys {sorted(map(str, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
        raise _bad(path, f"got {keys}", "a dict with data and labels")
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
        got = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise _bad(path, f"got data of {got}", "uint8 [N, 3072]")
    if data.shape[1] != 3072:
        side = round((data.shape[1] / 3) ** 0.5)
        what = f", as of {side}x{side} images" if 3 * side * side == data.shape[1] else ""
        raise _bad(path, f"got rows of {data.shape[1]} values{what}", "3072 = 3 x 32 x 32, those of the 32x32 release")
    try:
        labels = np.asarray(batch["labels"])
    except ValueError:  # lists of several lengths
        labels = np.zeros(0, object)
    if labels.dtype.kind not in "iu" or labels.shape != (len(data),):
        raise _bad(
            path,
            f"got labels of {labels.dtype} and shape {list(labels.shape)}",
            f"{len(data)} whole numbers, one an image",
        )
    if not len(data):
        raise _bad(path, "got no image", "at least one")
    if labels.min() < 1 or labels.max() > classes:
        at = int(np.argmax((labels < 1) | (labels > classes)))
        raise _bad(path, f"got label {labels[at]} at position {at}", f"1 to {classes}, as in {MAP}")
    return data.reshape(-1, *SHAPE), labels.astype(np.int64) - 1


def _bad(path: Path, got: str, needed: str) -> DataError:
    return DataError(f"{path}: {got}, needed {needed}. Replace this file by the official one.")


def read_classes(path: Path | None) -> list[tuple[str, str]]:
    """Synset and name of each class in the order of the labels, from map_clsloc.txt (`n02119789 1 kit_fox`).

    Without a file, 1,000 classes by their numbers from 1.

    Raises:
        DataError: a line of another form, or numbers that are not 1, 2, 3, ... once each.
    """
    if path is None:
        return [(str(i), str(i)) for i in range(1, 1001)]
    found: dict[int, tuple[str, str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.split(maxsplit=2)
        if len(words) < 2 or not words[1].isdecimal() or int(words[1]) in found:
            raise DataError(f"{path}: got line {number} {line!r}, needed one a class, as n02119789 1 kit_fox")
        found[int(words[1])] = words[0], words[-1].replace("_", " ") if len(words) == 3 else words[0]
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise DataError(f"{path}: got the numbers of {len(found)} classes, needed 1, 2, 3, ... without gaps")
    return [found[i] for i in sorted(found)]


# ---- splits --------------------------------------------------------------------------------------------------------


def _splits(
    cache: ImageCache, device: str | torch.device, validation: int | None, seed: int, resident: bool
) -> DataSplits:
    images, labels = cache.images["train"], cache.labels["train"]
    held = min(10_000, len(labels) // 20) if validation is None else validation
    if not 0 <= held < len(labels):
        raise ConfigError(
            f"validation: got {held}, needed 0 to {len(labels) - 1}: the set has {len(labels):,} training images"
        )
    mask = np.zeros(len(labels), dtype=bool)
    if held:
        mask = stratified(labels.numpy(), held, torch.Generator().manual_seed(seed))
    aside = torch.from_numpy(mask)

    def split(part: str, rows: Tensor | None) -> Split:
        chosen = cache.labels[part] if rows is None else cache.labels[part][rows]
        mapped = MappedSplit(
            cache.images[part], chosen, len(cache.classes),
            rows=rows, target=torch.device(device), moments=cache.moments,
        )  # fmt: skip
        return mapped.resident() if resident else mapped

    train = split("train", (~aside).nonzero().flatten() if held else None)
    valid, test = split("train", aside.nonzero().flatten()), split("test", None)
    return DataSplits("imagenet32", cache.source, train, valid, test, cache.classes, tuple(images.shape[1:]))
