"""The files of MNIST and Fashion-MNIST: where they are looked for, how they are checked, how they are downloaded.

Format: IDX, http://yann.lecun.com/exdb/mnist/: two zero bytes, the type of an element (8 = uint8), the number of
dimensions, each dimension as four bytes, most significant first, then the elements.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import socket
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eqprop._errors import DataError

_STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# md5 of the files without their compression. torchvision lists those of the official .gz files only, which say nothing
# about an unpacked file or about Debian's, which are the same data compressed again.
_IDX_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
_TITLES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}  # package dataset-fashion-mnist
_KINDS = {0x801: "labels", 0x803: "images"}

PROBE_SECONDS = 6.0  # how long a mirror may take to answer before it counts as out of reach
STALL_SECONDS = 20.0  # how long a download may stand still


@dataclass(frozen=True)
class Archive:
    """One official data set: four IDX files under the names that torchvision uses."""

    name: str
    title: str  # torchvision's class, and the folder it reads
    classes: tuple[str, ...]
    counts: Mapping[str, int]  # images in "train" and "test"
    gz_md5: Mapping[str, str]  # of the official compressed files
    idx_md5: Mapping[str, str]  # of their content
    mirrors: tuple[str, ...]


def archive(name: str) -> Archive:
    """The official files behind "mnist" or "fashion-mnist", with torchvision's checksums and mirrors."""
    from torchvision import datasets  # takes a second to import: only when files are wanted

    title = _TITLES[name]
    source = getattr(datasets, title)
    classes = tuple("0123456789") if name == "mnist" else tuple(source.classes)
    counts = {"train": 60_000, "test": 10_000}
    return Archive(name, title, classes, counts, dict(source.resources), _IDX_MD5[title], tuple(source.mirrors))


# ---- reading -------------------------------------------------------------------------------------------------------


def read_archive(folder: Path, files: Archive) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (uint8 [N, 28, 28]) and labels (int64 [N]) of "train" and "test", every file checked.

    Raises:
        DataError: a file is truncated, is not what its name says, or differs from the official one.
    """
    read = {}
    for part, (images, labels) in _STEMS.items():
        count = files.counts[part]
        read[part] = (
            _read_idx(folder, images, (count, 28, 28), files),
            _read_idx(folder, labels, (count,), files).astype(np.int64),
        )
    return read


def read_labels(folder: Path, files: Archive) -> tuple[np.ndarray, np.ndarray]:
    """Labels (int64 [N]) of "train" and "test" alone; the errors are those of ``read_archive``."""
    train, test = (
        _read_idx(folder, _STEMS[part][1], (files.counts[part],), files).astype(np.int64) for part in ("train", "test")
    )
    return train, test


def _read_idx(folder: Path, stem: str, shape: tuple[int, ...], files: Archive) -> np.ndarray:
    path = folder / f"{stem}.gz"
    packed = path.is_file()  # the official form first: an interrupted unpacking leaves a short file beside it
    if not packed:
        path = folder / stem
    kind = "images" if len(shape) == 3 else "labels"
    header = 4 + 4 * len(shape)
    size = header + int(np.prod(shape))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    content = _unpack(path, raw, size) if packed else raw

    if len(content) < 4 or content[:2] != b"\0\0":
        raise _bad(path, f"got a file that starts with {content[:4]!r}", f"an IDX file of {kind}")
    magic = int.from_bytes(content[:4], "big")
    if magic != 0x800 + len(shape):
        what = f" ({_KINDS[magic]})" if magic in _KINDS else ""
        raise _bad(path, f"got magic number {magic:#06x}{what}", f"{0x800 + len(shape):#06x} ({kind})")
    if len(content) < header:
        raise _bad(path, f"got {len(content):,} bytes (the header is cut off)", f"{size:,} bytes")
    got = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(len(shape)))
    if got != shape:
        raise _bad(path, f"got {kind} of shape {list(got)}", f"shape {list(shape)}")
    if len(content) != size:
        cut = "truncated" if len(content) < size else "too long"
        raise _bad(path, f"got {_bytes(content, size)} ({cut})", f"{size:,} bytes")
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    if kind == "labels" and values.size and values.max() >= len(files.classes):
        at = int(np.argmax(values >= len(files.classes)))
        raise _bad(path, f"got label {values[at]} at position {at}", f"labels 0 to {len(files.classes) - 1}")

    if packed and _md5(raw) == files.gz_md5.get(path.name):
        return values
    digest = _md5(content)
    if digest != files.idx_md5[stem]:
        owner = next((title for title, known in _IDX_MD5.items() if digest in known.values()), None)
        what = f"the file of {owner}" if owner else f"content with md5 {digest}"
        raise _bad(path, f"got {what}", f"the official {files.title} file, md5 {files.idx_md5[stem]} unpacked")
    return values


def _unpack(path: Path, raw: bytes, size: int) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            return stream.read(size + 1)  # one more than needed shows a file that is too long, and bounds the memory
    except EOFError as error:
        raise _bad(path, f"got a gzip file cut off after {len(raw):,} bytes", "the whole file") from error
    except (OSError, zlib.error) as error:
        raise _bad(path, f"got a file that does not unpack ({error})", "a gzip file") from error


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _bytes(content: bytes, size: int) -> str:
    return f"{len(content):,} bytes" if len(content) < size else f"more than {size:,} bytes"


def _bad(path: Path, got: str, needed: str) -> DataError:
    return DataError(
        f"{path}: {got}, needed {needed}. Delete or replace this file, or write --data DIR (data=DIR) to read from "
        f"another folder."
    )


# ---- finding -------------------------------------------------------------------------------------------------------


def find_files(files: Archive, data: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """The folder that holds the four files and how it was found, or None where they are nowhere.

    A folder that the user names (`data`, then EQPROP_DATA) is the only one looked at; without one, the user's cache and
    Debian's package.

    Raises:
        DataError: a folder that the user named lacks the files.
    """
    named = named_folder(data)
    if named is not None:
        root, how = named
        nested = root / files.title / "raw"
        for folder in (nested, root):
            if not _missing(folder):
                return folder, f"from {how}"
        if not root.is_dir():
            state = "is a file" if root.exists() else "does not exist"
            raise DataError(f"{how} names {root}, which {state}; needed a folder that holds {files.title}/raw/*.gz")
        raise DataError(
            f"{how} names {root}, which lacks {files.title}: got no {', '.join(_missing(nested))} (.gz or unpacked) in "
            f"{nested}, needed all four official files there or in {root} itself. Write another folder, or leave it "
            f"out to search the cache and download."
        )
    cached = cache_folder() / files.title / "raw"
    if not _missing(cached):
        return cached, "from the cache"
    packaged = _DEBIAN.get(files.name)
    if packaged is not None and not _missing(packaged):
        return packaged, "from Debian's package dataset-fashion-mnist"
    return None


def named_folder(data: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """The folder that the user names, by the data argument or else by EQPROP_DATA, and which of the two it was."""
    for given, how in ((data, "the data argument"), (os.environ.get("EQPROP_DATA") or None, "EQPROP_DATA")):
        if given is not None:
            return Path(given).expanduser(), how
    return None


def _missing(folder: Path) -> list[str]:
    stems = [stem for pair in _STEMS.values() for stem in pair]
    # os.path.isfile answers False where a folder may not be looked into; Path.is_file raises
    return [s for s in stems if not (os.path.isfile(folder / f"{s}.gz") or os.path.isfile(folder / s))]


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/eqprop, or ~/.cache/eqprop; a relative value of the variable is void (XDG standard)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "eqprop"


# ---- downloading ---------------------------------------------------------------------------------------------------


class DownloadError(DataError):
    """The files could not be brought into the cache."""


def download(files: Archive) -> Path:
    """Bring the four files into the cache with torchvision and return their folder.

    torchvision waits for ever on a network that swallows packets, so that its mirrors are asked first, for
    PROBE_SECONDS, and reads are bounded by STALL_SECONDS. The files arrive in a folder of their own and are moved one
    by one once all are complete: several processes may do this at once, and a killed one leaves no half a file.

    Raises:
        DownloadError: no mirror answers, a transfer fails or is damaged, or the cache cannot be written.
    """
    from torchvision import datasets

    mirrors = answering([f"{mirror}{next(iter(files.gz_md5))}" for mirror in files.mirrors])
    alive = [mirror for mirror, answers in zip(files.mirrors, mirrors, strict=True) if answers]
    if not alive:
        raise DownloadError("no mirror answered")
    target = cache_folder() / files.title / "raw"
    print(f"Downloading {files.title} into {target}", file=sys.stderr, flush=True)
    # torchvision names its folder after the class, so that this one carries the same name
    base = getattr(datasets, files.title)
    dataset = type(files.title, (base,), {"mirrors": alive, "resources": list(files.gz_md5.items())})
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-") as scratch:
            with stall_limit(STALL_SECONDS):
                dataset(scratch, download=True)
            for name in files.gz_md5:
                arrived = Path(scratch) / files.title / "raw" / name
                with arrived.open("rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(arrived, target / name)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise DownloadError(" ".join(str(error).split())) from error
    return target


def answering(urls: list[str]) -> list[bool]:
    """Which addresses answer within PROBE_SECONDS; all are asked at once."""
    answers = [False] * len(urls)

    def ask(i: int, url: str) -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "eqprop"})
        with contextlib.suppress(OSError, http.client.HTTPException):
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answers[i] = True

    # Daemon threads, since looking up a name takes no time-out and may hang for much longer than a connection.
    threads = [threading.Thread(target=ask, args=pair, daemon=True) for pair in enumerate(urls)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)


@contextlib.contextmanager
def stall_limit(seconds: float) -> Iterator[None]:
    """torchvision passes no time-out to urllib; the default of new sockets is the only handle on it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
