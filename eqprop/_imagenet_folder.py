"""Full-size ImageNet images, made into the cache that ImageNet 32x32 is kept in."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from eqprop._errors import ConfigError, DataError
from eqprop._image_cache_writer import Chunk, write_cache
from eqprop._imagenet32 import MAP, read_classes

SIDE = 32
_AT_ONCE = 2000  # images of a chunk: what a kill can cost
_ENDINGS = (".jpeg", ".jpg", ".png")
_Image = tuple[Path, int]  # file and label from 0


def convert_imagenet_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    map_clsloc: str | os.PathLike[str] | None = None,
    *,
    val_labels: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> Path:
    """Convert a folder of ImageNet images of any size into a cache that `load_imagenet32` opens.

    Each image is resized as a whole to 32x32 with Pillow's box filter, no crop, as in the official release. Classes
    have the numbers of map_clsloc.txt (not the sorted order of the synsets); images of a class are in the order of
    their names. Work is split over threads, since decoding releases the interpreter; a killed call is taken up again.

    Args:
        source: holds `train/<synset>/*.JPEG`, and `val/<synset>/*.JPEG` or `val/*.JPEG` with `val_labels`.
        out: folder of the cache.
        map_clsloc: the file of that name (from the development kit, with a line `n02119789 1 kit_fox` a class); None
            looks for it in `source` and beside it.
        val_labels: of a flat val/: one class a line, in the order of the file names, or lines of a file name and its
            class (LOC_val_solution.csv); a class is a synset or a number of map_clsloc.txt.
        jobs: threads; None for one a core.
        progress: show a bar where standard error is a terminal.

    Returns:
        the folder of the cache.

    Raises:
        DataError: folders, files or labels that are missing, unknown or damaged.
    """
    root, where = Path(source).expanduser(), Path(out).expanduser()
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: got {jobs}, needed at least 1")
    names = _find_map(root, map_clsloc)
    classes = read_classes(names)
    numbers = {synset: i for i, (synset, _) in enumerate(classes)}
    parts = {"train": _in_classes(root / "train", numbers), "test": _validation(root / "val", numbers, val_labels)}
    digest = hashlib.sha256()
    for part, images in parts.items():
        for path, label in images:
            digest.update(f"{part}/{path.relative_to(root).as_posix()}={label}\n".encode())
    sources = {"images": {part: len(images) for part, images in parts.items()}, "sha256 of names": digest.hexdigest()}
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        chunks = [
            Chunk(part, _reader(images[start : start + _AT_ONCE], pool))
            for part, images in parts.items()
            for start in range(0, len(images), _AT_ONCE)
        ]
        write_cache(
            where, chunks, sources=sources, classes=classes, progress=progress,
            describe=lambda counts: "full-size images, each resized as a whole with the box filter",
        )  # fmt: skip
    return where


def _find_map(root: Path, given: str | os.PathLike[str] | None) -> Path:
    places = [Path(given).expanduser()] if given is not None else [root / MAP, root.parent / MAP]
    for path in places:
        if os.path.isfile(path):
            return path
    raise DataError(
        f"got no {MAP} at {' or '.join(map(str, places))}, needed it for the numbers of the classes, which are not the "
        f"sorted order of the synsets; it is in ImageNet's development kit (ILSVRC/devkit/data/): write "
        f"map_clsloc=FILE (--map-clsloc FILE)"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror or error}), needed train/<synset>/*.JPEG and val/ in the source"
        ) from error


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder) if name.lower().endswith(_ENDINGS)]


def _in_classes(folder: Path, numbers: dict[str, int]) -> list[_Image]:
    """The images of folder/<synset>/, classes by number, images by name."""
    found = [name for name in _names(folder) if (folder / name).is_dir()]
    unknown = [name for name in found if name not in numbers]
    if unknown or not found:
        got = f"the folders {', '.join(unknown[:5])}" if unknown else "no folder"
        raise DataError(f"{folder}: got {got}, needed folders named by the synsets of {MAP}, as n02119789")
    images = []
    for synset in sorted(found, key=numbers.__getitem__):
        files = _files(folder / synset)
        if not files:
            raise DataError(f"{folder / synset}: got no image, needed *.JPEG")
        images += [(path, numbers[synset]) for path in files]
    return images


def _validation(folder: Path, numbers: dict[str, int], labels: str | os.PathLike[str] | None) -> list[_Image]:
    files = _files(folder)
    if not files:
        return _in_classes(folder, numbers)
    if labels is None:
        raise DataError(
            f"{folder}: got {len(files):,} images in one folder, needed their classes; write val_labels=FILE "
            "(--val-labels FILE), as LOC_val_solution.csv, or sort them into folders named by synset"
        )
    path = Path(labels).expanduser()
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    rows = [re.split(r"[\s,]+", line.strip()) for line in lines]
    if rows and rows[0][0] == "ImageId":  # the head of a csv file
        del rows[0]
    if all(len(row) == 1 for row in rows):
        if len(rows) != len(files):
            raise DataError(f"{path}: got {len(rows):,} classes for {len(files):,} images in {folder}, needed one each")
        return [(file, _number(row[0], numbers, path)) for file, row in zip(files, rows, strict=True)]
    by_name = {Path(row[0]).stem: _number(row[1], numbers, path) for row in rows if len(row) > 1}
    lacking = [file.name for file in files if file.stem not in by_name]
    if lacking:
        raise DataError(f"{path}: got no class for {len(lacking):,} images, as {lacking[0]}, needed one for each")
    return [(file, by_name[file.stem]) for file in files]


def _number(word: str, numbers: dict[str, int], path: Path) -> int:
    if word in numbers:
        return numbers[word]
    if word.isdecimal() and 1 <= int(word) <= len(numbers):
        return int(word) - 1
    raise DataError(f"{path}: got class {word!r}, needed a synset of {MAP} or a number from 1 to {len(numbers)}")


def _reader(images: Sequence[_Image], pool: ThreadPoolExecutor) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def read() -> tuple[np.ndarray, np.ndarray]:
        resized: Iterator[np.ndarray] = pool.map(small, [path for path, _ in images])
        return np.stack(list(resized)), np.array([label for _, label in images], dtype=np.int64)

    return read


def small(path: Path) -> np.ndarray:
    """One image file as uint8 [3, 32, 32]: all of it, resized with the box filter.

    Raises:
        DataError: a file that is damaged or is no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: got a damaged image or none ({error}), needed a whole one; replace it") from error
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
