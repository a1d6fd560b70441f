"""Writes the folder of `_image_cache`: a chunk of images at a time, taken up again when killed.

While it is written, the files are called `.part` and `progress.json` says how much of them counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eqprop._checkpoints import atomic_write
from eqprop._errors import DataError
from eqprop._image_cache import FORMAT, PARTS, SIDECAR, read_sidecar, sha256
from eqprop._split import from_histogram, histogram

PROGRESS = "progress.json"
_HEADER = 128  # bytes; room for any number of images, so that it can be written when their number is known
_AT_ONCE = 256  # images


@dataclass(frozen=True)
class Chunk:
    """Some images of one part: what is written, and written again after a kill, as a whole."""

    part: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]]  # uint8 [n, C, H, W], int64 [n]


def write_cache(
    folder: Path,
    chunks: Sequence[Chunk],
    *,
    sources: Any,
    describe: Callable[[dict[str, int]], str],
    classes: Sequence[tuple[str, str]],
    shape: tuple[int, ...] = (3, 32, 32),
    progress: bool = True,
) -> None:
    """Write all chunks into a cache. One that holds these sources already is left as it is.

    Chunks that an earlier, killed call with the same sources has written are not read again. Several processes may
    call this at once: one writes, the others wait for it.

    Args:
        folder: of the cache; made where it is missing. Files of other names in it are left alone.
        chunks: in the order of the images, at most one in memory at a time.
        sources: JSON that changes when the images do.
        describe: gives the source in words for the number of images in each part.
        classes: identifier and name of each class, in the order of the labels.
        shape: of one image.
        progress: show a bar on standard error where that is a terminal.

    Raises:
        DataError: the folder cannot be written; whatever reading a chunk raises.
    """
    if read_sidecar(folder).get("sources") == sources:  # without the lock: the folder may be read-only
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if read_sidecar(folder).get("sources") == sources:
                return
            counts = _resumable(folder, sources, shape)
            with _Files(folder, counts, shape) as files:
                bar = tqdm(
                    total=len(chunks),
                    initial=len(counts),
                    desc=f"writing {folder.name}",
                    unit="file",
                    disable=None if progress else True,
                    file=sys.stderr,
                )
                with contextlib.closing(bar):
                    for chunk in chunks[len(counts) :]:
                        images, labels = chunk.read()
                        files.append(chunk.part, images, labels)
                        counts.append((chunk.part, len(labels)))
                        record = {"sources": sources, "counts": counts}
                        atomic_write(folder / PROGRESS, json.dumps(record).encode(), "the progress of the cache")
                        bar.update()
                totals = files.close()
            _finish(folder, totals, sources, describe(totals), classes, shape)
    except OSError as error:
        raise DataError(
            f"{folder}: the images could not be written ({error.strerror or error}); what is there is kept and taken "
            "up again. Free some space, or name another folder for the cache (cache=DIR, --cache DIR)."
        ) from error


def _resumable(folder: Path, sources: Any, shape: tuple[int, ...]) -> list[tuple[str, int]]:
    """Chunks that a killed call has written whole; none where it had other sources, or its files are too short."""
    try:
        record = json.loads((folder / PROGRESS).read_bytes())
        counts = [(str(part), int(n)) for part, n in record["counts"]]
        if record["sources"] != sources:
            return []
        for part in PARTS:
            n = sum(count for name, count in counts if name == part)
            for kind, size in (("images", math.prod(shape)), ("labels", 8)):
                if _partial(folder, part, kind).stat().st_size < _HEADER + n * size:
                    return []
    except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours
        return []
    return counts


def _partial(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}_{kind}.npy.part"


class _Files:
    """The four files while they grow; what is beyond `counts` in them, from a chunk that was cut off, is dropped."""

    def __init__(self, folder: Path, counts: Sequence[tuple[str, int]], shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        self.totals = {part: sum(n for name, n in counts if name == part) for part in PARTS}
        self._files = {
            (part, kind): open(_partial(folder, part, kind), "r+b" if counts else "w+b")
            for part in PARTS
            for kind in ("images", "labels")
        }
        for (part, kind), file in self._files.items():
            file.truncate(_HEADER + self.totals[part] * (math.prod(shape) if kind == "images" else 8))
            file.seek(0, os.SEEK_END)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, part: str, images: np.ndarray, labels: np.ndarray) -> None:
        for kind, values, dtype in (("images", images, np.uint8), ("labels", labels, "<i8")):
            file = self._files[part, kind]
            file.write(np.ascontiguousarray(values, dtype=dtype).data)
            file.flush()
            os.fsync(file.fileno())
        self.totals[part] += len(labels)

    def close(self) -> dict[str, int]:
        """Write the headers, close the files and give them their names; the number of images in each part."""
        for (part, kind), file in self._files.items():
            n = self.totals[part]
            file.seek(0)
            file.write(_header("|u1", (n, *self.shape)) if kind == "images" else _header("<i8", (n,)))
            file.flush()
            os.fsync(file.fileno())
            file.close()
        (self.folder / SIDECAR).unlink(missing_ok=True)  # of other images: from here on there is no cache
        for part, kind in self._files:
            os.replace(_partial(self.folder, part, kind), self.folder / f"{part}_{kind}.npy")
        return self.totals


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Header of a .npy file, version 1.0, padded to a fixed length (numpy.lib.format)."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11) + b"\n"


def _finish(
    folder: Path,
    totals: dict[str, int],
    sources: Any,
    source: str,
    classes: Sequence[tuple[str, str]],
    shape: tuple[int, ...],
) -> None:
    files = {}
    for part in PARTS:
        for kind in ("images", "labels"):
            path = folder / f"{part}_{kind}.npy"
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    counts = torch.zeros(shape[0], 256, dtype=torch.int64)
    with (folder / "train_images.npy").open("rb") as file:
        file.seek(_HEADER)
        while block := file.read(_AT_ONCE * math.prod(shape)):
            counts += histogram(torch.frombuffer(bytearray(block), dtype=torch.uint8).reshape(-1, *shape))
    mean, std = from_histogram(counts)
    record = {
        "format": FORMAT,
        "source": source,
        "counts": totals,
        "shape": list(shape),
        "mean": list(mean),
        "std": list(std),
        "files": files,
        "sources": sources,
        "classes": [list(pair) for pair in classes],
    }
    atomic_write(folder / SIDECAR, json.dumps(record, indent=1).encode(), "the sidecar of the cache")
    (folder / PROGRESS).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, as far as the system has locks; a killed process holds none."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / ".lock", "w") as handle:
        with contextlib.suppress(OSError):  # some network file systems have none
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
