"""ImageNet 32x32: official files in both forms, the cache and what can befall it, full-size images, generated files."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import _common, imagenet32_data
from eqprop import _image_cache_writer, _imagenet32
from eqprop._errors import ConfigError, DataError, RunFolderError
from eqprop._image_cache import open_cache
from eqprop._imagenet32 import cached_imagenet32, find_official, load_imagenet32, read_batch, read_classes
from eqprop._imagenet_folder import convert_imagenet_folder, small
from eqprop._imagenet_sample import generate_imagenet32
from eqprop._mapped import MappedSplit
from eqprop._split import Split

ROOT = Path(__file__).parent.parent
PER_BATCH, VALIDATION, CLASSES = 12, 15, 5


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EQPROP_DATA", raising=False)


def generate(folder: Path, form: str = "pickle", **changes: Any) -> Path:
    return generate_imagenet32(
        folder, form, **{"classes": CLASSES, "per_batch": PER_BATCH, "validation": VALIDATION, **changes}
    )


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return generate(tmp_path / "official")


def batch(n: int = 4, **changes: Any) -> dict[str, Any]:
    """One batch as the official files hold it."""
    data = np.arange(n * 3072, dtype=np.int64).reshape(n, 3072).astype(np.uint8)
    return {"data": data, "labels": list(range(1, n + 1)), "mean": np.zeros(3072)} | changes


def rewrite(path: Path, content: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_bytes(pickle.dumps(content, 4))
    return path


# ---- the official files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train_data_batch_1", "train_data_batch_1.npz"])
def test_planes_and_labels_are_where_the_layout_says(tmp_path: Path, name: str) -> None:
    data = np.zeros((2, 3072), np.uint8)
    data[1, 1024 * 2 + 32 * 5 + 7] = 9  # blue, row 5, column 7
    images, labels = read_batch(rewrite(tmp_path / name, batch(data=data, labels=[1, 1000])))
    assert images.shape == (2, 3, 32, 32) and images.dtype == np.uint8
    assert images[1, 2, 5, 7] == 9 and images.sum() == 9
    assert labels.dtype == np.int64 and labels.tolist() == [0, 999]


def test_both_forms_give_the_same_splits(tmp_path: Path) -> None:
    loaded = [load_imagenet32(generate(tmp_path / form, form), seed=3) for form in ("pickle", "npz")]
    for part in ("train", "validation", "test"):
        a, b = (getattr(splits, part) for splits in loaded)
        assert torch.equal(a.inputs(), b.inputs()) and torch.equal(a.labels, b.labels)
    assert loaded[0].train.statistics() == loaded[1].train.statistics()
    assert "pickle form" in loaded[0].source and "npz form" in loaded[1].source


@pytest.mark.parametrize("form", ["pickle", "npz"])
@pytest.mark.parametrize("nested", [True, False])
def test_files_lie_in_the_folders_of_the_archives_or_directly(tmp_path: Path, form: str, nested: bool) -> None:
    generate(tmp_path, form)
    suffix = "_npz" if form == "npz" else ""
    for path in [*tmp_path.rglob("train_data_batch_*"), *tmp_path.rglob("val_data*")]:
        part = "val" if path.name.startswith("val") else "train"
        target = tmp_path / f"Imagenet32_{part}{suffix}" if nested else tmp_path
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    files = find_official(tmp_path)
    assert files.form == form and files.map_clsloc == tmp_path / "map_clsloc.txt"
    assert [path.stem for _, path in files.batches] == [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]
    assert [part for part, _ in files.batches] == ["train"] * 10 + ["test"]


def test_images_keep_the_order_of_the_files(official: Path) -> None:
    cache = open_cache(cached_imagenet32(official))
    read = [read_batch(path, CLASSES) for _, path in find_official(official).batches]
    assert torch.equal(cache.images["train"], torch.from_numpy(np.concatenate([images for images, _ in read[:10]])))
    assert torch.equal(cache.labels["train"], torch.from_numpy(np.concatenate([labels for _, labels in read[:10]])))
    assert torch.equal(cache.images["test"], torch.from_numpy(read[10][0].copy()))
    assert torch.equal(cache.labels["test"], torch.from_numpy(read[10][1]))


def test_classes_are_named_by_the_map_and_else_by_numbers(tmp_path: Path) -> None:
    path = tmp_path / "map_clsloc.txt"
    path.write_text("n02100735 2 English_setter\nn02119789 1 kit_fox\n\n")
    assert read_classes(path) == [("n02119789", "kit fox"), ("n02100735", "English setter")]
    assert read_classes(None)[0] == ("1", "1") and len(read_classes(None)) == 1000
    generate(tmp_path / "official", classes=1000)
    (tmp_path / "official" / "map_clsloc.txt").unlink()
    assert load_imagenet32(tmp_path / "official").classes[999] == "1000"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n02119789 kit_fox\n", "got line 1 'n02119789 kit_fox', needed one a class"),
        ("n02119789 1 kit_fox\nn02100735 1 English_setter\n", "got line 2"),
        ("n02119789 1 kit_fox\nn02100735 3 English_setter\n", "needed 1, 2, 3, ... without gaps"),
        ("", "got the numbers of 0 classes"),
    ],
)
def test_a_map_of_another_form_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "map_clsloc.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_classes(path)


@pytest.mark.parametrize("name", ["val_data", "val_data.npz"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": [1, 2, 3, 0]}, "got label 0 at position 3, needed 1 to 1000"),
        ({"labels": [1, 1001, 3, 4]}, "got label 1001 at position 1"),
        ({"labels": [1, 2, 3]}, r"shape \[3\], needed 4 whole numbers"),
        ({"labels": [1.0, 2.0, 3.0, 4.0]}, "got labels of float64"),
        ({"data": np.zeros((4, 12288), np.uint8)}, "got rows of 12288 values, as of 64x64 images, needed 3072"),
        ({"data": np.zeros((4, 100), np.uint8)}, "got rows of 100 values, needed 3072"),
        ({"data": np.zeros((4, 3072), np.float32)}, r"got data of float32 \[4, 3072\]"),
        ({"data": np.zeros((4, 3, 32, 32), np.uint8)}, r"got data of uint8 \[4, 3, 32, 32\]"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": np.zeros(0, np.int64)}, "got no image"),
    ],
)
def test_a_batch_of_another_kind_is_named(tmp_path: Path, name: str, changes: dict[str, Any], words: str) -> None:
    path = rewrite(tmp_path / name, batch(**changes))
    with pytest.raises(DataError, match=words) as caught:
        read_batch(path)
    assert str(path) in str(caught.value) and "needed" in str(caught.value)


@pytest.mark.parametrize("name", ["val_data", "val_data.npz"])
def test_a_batch_without_its_keys_is_named(tmp_path: Path, name: str) -> None:
    content = batch()
    del content["labels"]
    with pytest.raises(DataError, match="got the keys .*'data'.*, needed a dict with data and labels"):
        read_batch(rewrite(tmp_path / name, content))


def test_labels_of_several_lengths_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got labels of object"):
        read_batch(rewrite(tmp_path / "val_data", batch(labels=[[1], [2, 3], 4, 5])))
    with pytest.raises(DataError, match="got a list"):
        read_batch(rewrite(tmp_path / "val_data", [1, 2]))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["pickle", "npz"])
@pytest.mark.parametrize("keep", [0, 100, 20_000, -1])
def test_a_truncated_batch_is_named(tmp_path: Path, form: str, keep: int) -> None:
    generate(tmp_path, form)
    path = next(path for _, path in find_official(tmp_path).batches if path.stem == "train_data_batch_7")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{path.name}: got a truncated or damaged"):
        load_imagenet32(tmp_path)


def test_a_poisoned_batch_is_refused_without_running_it(official: Path, tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"

    class Poison:
        def __reduce__(self) -> Any:
            return Path.mkdir, (made,)

    rewrite(official / "train_data_batch_3", batch(labels=Poison()))
    with pytest.raises(
        DataError, match="train_data_batch_3: got a pickle that asks for pathlib.*not looked up nor run"
    ):
        load_imagenet32(official)
    assert not made.exists()


def test_objects_in_an_npz_file_are_refused_without_running_them(tmp_path: Path) -> None:
    made = tmp_path / "made by the pickle"

    class Poison:
        def __reduce__(self) -> Any:
            return Path.mkdir, (made,)

    path = tmp_path / "val_data.npz"
    np.savez(path, **batch(labels=np.array([Poison()], dtype=object)))
    with pytest.raises(DataError, match="val_data.npz: got .*one with objects .*needed a whole one of plain arrays"):
        read_batch(path)
    assert not made.exists()


@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_missing_files_are_listed(tmp_path: Path, form: str) -> None:
    generate(tmp_path, form)
    ending = ".npz" if form == "npz" else ""
    for stem in ("train_data_batch_2", "train_data_batch_10", "val_data"):
        next(tmp_path.rglob(f"{stem}{ending}")).unlink()
    lacking = (
        f"got no train_data_batch_2{ending}, train_data_batch_10{ending}, val_data{ending}, needed all 10 training"
    )
    with pytest.raises(DataError, match=lacking):
        load_imagenet32(tmp_path)


def test_a_folder_without_the_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="got no folder, needed the official files.*register at"):
        load_imagenet32()
    with pytest.raises(DataError, match="got no file of ImageNet 32x32, needed train_data_batch_1"):
        load_imagenet32(tmp_path)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="EQPROP_DATA names .*nowhere, which does not exist"):
        load_imagenet32()


# ---- the splits ----------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_mapped_and_drawn_by_the_seed(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQPROP_DATA", str(official))
    splits = load_imagenet32(validation=30, seed=1)
    train, validation = splits.train, splits.validation
    assert isinstance(train, MappedSplit) and isinstance(validation, MappedSplit)
    assert train.rows is not None and validation.rows is not None
    assert (len(train), len(validation), len(splits.test)) == (90, 30, VALIDATION)
    assert sorted(torch.cat([train.rows, validation.rows]).tolist()) == list(range(120))
    assert train.images.data_ptr() == validation.images.data_ptr()  # no copy
    counts = torch.bincount(torch.cat([train.labels, validation.labels]), minlength=CLASSES)
    assert (torch.bincount(validation.labels, minlength=CLASSES) - counts * 30 / 120).abs().max() < 1
    other, again = (load_imagenet32(validation=30, seed=seed).validation for seed in (2, 1))
    assert not torch.equal(other.inputs(), validation.inputs()) and torch.equal(again.inputs(), validation.inputs())
    assert splits.name == "imagenet32" and splits.input_shape == (3, 32, 32) and len(splits.classes) == CLASSES
    assert splits.classes[0] == "generated class 1" and train.classes == CLASSES
    assert str(official) not in json.dumps(splits.spec()) and "not the official number" in splits.source
    with pytest.raises(ConfigError, match="validation: got 120, needed 0 to 119"):
        load_imagenet32(validation=120)


def test_no_validation_part_leaves_the_whole_training_set(official: Path) -> None:
    splits = load_imagenet32(official, validation=0)
    assert len(splits.train) == 120 and len(splits.validation) == 0 and list(splits.validation.batches(4)) == []
    assert len(load_imagenet32(official).validation) == 6  # a twentieth


def test_the_device_may_hold_the_images(official: Path, device: torch.device) -> None:
    mapped, held = (load_imagenet32(official, device=device, resident=r) for r in (False, True))
    for a, b in ((mapped.train, held.train), (mapped.validation, held.validation), (mapped.test, held.test)):
        assert type(b) is Split and b.images.device.type == device.type
        assert torch.equal(a.inputs(), b.inputs()) and torch.equal(a.labels.to(device), b.labels)


def test_normalisation_is_that_of_all_training_images(official: Path) -> None:
    splits = load_imagenet32(official).normalised()
    images = open_cache(cached_imagenet32(official)).images["train"].double() / 255
    assert splits.train.normalise is not None
    assert splits.train.normalise.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert splits.train.normalise.std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), rel=1e-12)


# ---- the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the official files, as they are read."""
    seen: list[str] = []
    read = _imagenet32.read_batch

    def counting(path: Path, classes: int = 1000) -> Any:
        seen.append(path.name)
        return read(path, classes)

    monkeypatch.setattr(_imagenet32, "read_batch", counting)
    return seen


class Killed(BaseException):
    """What nothing catches."""


def kill(*_: object) -> None:
    raise Killed


def test_files_are_converted_once(official: Path, tmp_path: Path, reads: list[str]) -> None:
    load_imagenet32(official, tmp_path / "here")
    assert len(reads) == 11
    (tmp_path / "here" / ".lock").unlink()
    load_imagenet32(official, tmp_path / "here")
    assert len(reads) == 11 and not (tmp_path / "here" / ".lock").exists()  # an old cache may be read-only
    for path in official.iterdir():
        path.unlink()
    splits = load_imagenet32(tmp_path / "here")  # a cache is enough
    assert len(reads) == 11 and len(splits.test) == VALIDATION
    names = {f"{part}_{kind}.npy" for part in ("train", "test") for kind in ("images", "labels")}
    assert {path.name for path in (tmp_path / "here").iterdir()} == names | {"images.json"}


def test_the_cache_is_read_by_numpy_and_says_what_it_holds(official: Path) -> None:
    folder = cached_imagenet32(official)
    images = np.load(folder / "train_images.npy", mmap_mode="r")
    assert images.shape == (120, 3, 32, 32) and images.dtype == np.uint8
    record = json.loads((folder / "images.json").read_text())
    assert record["counts"] == {"train": 120, "test": VALIDATION}
    assert record["classes"][4] == ["n00000005", "generated class 5"]
    names = [source["name"] for source in record["sources"]]
    assert names == [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data", "map_clsloc.txt"]
    assert all(source["bytes"] > 0 and source["mtime_ns"] > 0 for source in record["sources"])


def test_changed_files_are_converted_again(official: Path, reads: list[str]) -> None:
    path = rewrite(official / "val_data", batch(labels=[1, 1, 1, 1]))
    assert load_imagenet32(official).test.labels.tolist() == [0, 0, 0, 0]
    size = path.stat().st_size
    os.utime(rewrite(path, batch(labels=[2, 2, 2, 2])), ns=(1, 1))
    assert path.stat().st_size == size
    assert load_imagenet32(official).test.labels.tolist() == [1, 1, 1, 1]
    assert len(reads) == 22


def test_while_a_cache_is_replaced_the_old_description_never_speaks_for_new_images(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_imagenet32(official, tmp_path / "here")
    generate(official, seed=9)  # other images in files of the same size
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_image_cache_writer, "_finish", kill)
        cached_imagenet32(official, tmp_path / "here")
    with pytest.raises(DataError, match="needed a folder of converted images"):
        open_cache(tmp_path / "here")


@pytest.mark.parametrize("when", ["between files", "when all is written"])
def test_a_conversion_that_ends_anywhere_is_taken_up_again(
    official: Path, tmp_path: Path, when: str, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_cache(cached_imagenet32(official, tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if when == "between files":
            read = _imagenet32.read_batch
            patch.setattr(
                _imagenet32, "read_batch", lambda path, n: kill() if path.name.endswith("_5") else read(path, n)
            )
        else:  # the files have their names, but no sidecar speaks for them
            patch.setattr(_image_cache_writer, "_finish", kill)
        cached_imagenet32(official, tmp_path / "cut")
    reads.clear()
    with pytest.raises(DataError, match="needed a folder of converted images"):
        open_cache(tmp_path / "cut")
    found = open_cache(cached_imagenet32(official, tmp_path / "cut"), verify=True)
    assert len(reads) == (7 if when == "between files" else 11)
    assert found.record == whole.record
    assert not [p for p in found.folder.iterdir() if p.suffix in (".part", ".tmp") or p.name == "progress.json"]


KILLED = """
import os, sys
from eqprop import _image_cache_writer, _imagenet32
read = _imagenet32.read_batch
def reading(path, classes=1000):
    if path.name == "train_data_batch_5":  # its images will be written, but no record of them
        _image_cache_writer.atomic_write = lambda *_: os._exit(9)
    return read(path, classes)
_imagenet32.read_batch = reading
_imagenet32.cached_imagenet32(sys.argv[1], sys.argv[2])
"""


def test_a_process_killed_within_a_file_loses_that_file_only(official: Path, tmp_path: Path, reads: list[str]) -> None:
    whole = open_cache(cached_imagenet32(official, tmp_path / "whole"))
    reads.clear()
    cut = tmp_path / "cut"
    assert subprocess.run([sys.executable, "-c", KILLED, official, cut], cwd=ROOT).returncode == 9
    assert (cut / "train_images.npy.part").stat().st_size == 128 + 5 * PER_BATCH * 3072
    assert json.loads((cut / "progress.json").read_bytes())["counts"] == [["train", PER_BATCH]] * 4
    assert open_cache(cached_imagenet32(official, cut), verify=True).record == whole.record
    assert reads[0] == "train_data_batch_5" and len(reads) == 7


def test_progress_of_other_files_does_not_count(official: Path, tmp_path: Path, reads: list[str]) -> None:
    whole = (official / "train_data_batch_5").read_bytes()
    (official / "train_data_batch_5").write_bytes(b"")
    with pytest.raises(DataError, match="train_data_batch_5"):
        cached_imagenet32(official, tmp_path / "cut")
    (official / "train_data_batch_5").write_bytes(whole)
    rewrite(official / "train_data_batch_1", batch())
    reads.clear()
    found = open_cache(cached_imagenet32(official, tmp_path / "cut"), verify=True)
    assert len(found.labels["train"]) == 4 + 9 * PER_BATCH and len(reads) == 11


@pytest.mark.parametrize("content", [b"", b"[]", b'{"sources": 1, "counts": [["train"]]}'])
def test_damaged_progress_starts_anew(official: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "progress.json").write_bytes(content)
    assert len(load_imagenet32(official, tmp_path / "cut").test) == VALIDATION


def test_those_who_convert_at_once_share_one_cache(official: Path, tmp_path: Path, reads: list[str]) -> None:
    def load(_: int) -> int:
        return len(load_imagenet32(official, tmp_path / "here", verify=True).train)

    with ThreadPoolExecutor(4) as pool:  # a lock of a file keeps threads apart as it does processes
        assert list(pool.map(load, range(4))) == [114] * 4
    assert len(reads) == 11


def change(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
def test_a_changed_byte_is_seen_when_asked_for(official: Path, name: str) -> None:
    folder = cached_imagenet32(official)
    load_imagenet32(official, verify=True)
    (folder / name).write_bytes(change(200)((folder / name).read_bytes()))
    with pytest.raises(DataError, match=f"{name}: got content that does not match its checksum.*convert .* again"):
        load_imagenet32(official, verify=True)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("train_images.npy", lambda c: c[:-1], r"got 368,767 bytes, needed 368,768 bytes"),
        ("test_labels.npy", lambda c: c + b"x", r"got 249 bytes, needed 248 bytes"),
        ("test_images.npy", None, "got no file, needed 46,208 bytes"),
        ("images.json", lambda c: c[:50], "got no whole JSON sidecar"),
        ("images.json", lambda c: b"[1]", "got no whole JSON sidecar"),
        ("images.json", lambda c: c.replace(b"images/1", b"images/9"), "got format 'eqprop-images/9'"),
        ("images.json", lambda c: c.replace(b'"mean"', b'"men"'), "does not describe the files"),
        ("images.json", lambda c: c.replace(b'"train": 120', b'"train": 60'), r"got shape \[120, 3, 32, 32\]"),
    ],
)
def test_a_damaged_cache_is_always_named(
    official: Path, name: str, damage: Callable[[bytes], bytes] | None, words: str
) -> None:
    folder = cached_imagenet32(official)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(DataError, match=words) as caught:
        load_imagenet32(official)
    assert str(folder) in str(caught.value) and "convert the data set again" in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(official: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="the images could not be written .*cache=DIR"):
        load_imagenet32(official, tmp_path / "file" / "cache")


def test_one_file_at_a_time_is_in_memory(tmp_path: Path) -> None:
    official = generate(tmp_path / "official", per_batch=300)
    size = 300 * 3072
    tracemalloc.start()
    try:
        cached_imagenet32(official)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size < peak < 3 * size


def test_the_header_has_room_for_any_number_of_images() -> None:
    for n in (0, 1, 1_281_167, 10**12):
        header = _image_cache_writer._header("|u1", (n, 3, 32, 32))
        assert len(header) == 128 and header.endswith(b"\n")


# ---- generated files -----------------------------------------------------------------------------------------------


def test_generated_files_depend_on_the_seed_alone(tmp_path: Path) -> None:
    folders = [generate(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2))]
    same, other = ([(f / name).read_bytes() for f in folders] for name in ("train_data_batch_4", "val_data"))
    assert same[0] == same[1] != same[2] and other[0] == other[1] != other[2]
    batches = [read_batch(folders[0] / f"train_data_batch_{i}")[0].tobytes() for i in range(1, 11)]
    assert len(set(batches)) == 10


def test_generated_batches_hold_the_official_keys(official: Path) -> None:
    content = [pickle.loads((official / f"train_data_batch_{i}").read_bytes()) for i in range(1, 11)]
    assert all(list(c) == ["data", "labels", "mean"] and type(c["labels"]) is list for c in content)
    assert list(pickle.loads((official / "val_data").read_bytes())) == ["data", "labels"]
    data = np.concatenate([c["data"] for c in content])
    assert np.allclose(content[0]["mean"], data.mean(0)) and content[0]["mean"].shape == (3072,)
    labels = np.concatenate([c["labels"] for c in content])
    assert set(labels.tolist()) == set(range(1, CLASSES + 1))


def test_generated_classes_can_be_learnt(tmp_path: Path) -> None:
    splits = load_imagenet32(generate(tmp_path / "official", classes=10, per_batch=40, validation=200))
    x, y = splits.train.inputs().flatten(1), splits.train.labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    guess = torch.cdist(splits.test.inputs().flatten(1), means).argmin(1)
    assert (guess == splits.test.labels).float().mean() > 0.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"form": "hdf5"}, "form: got 'hdf5', needed one of pickle, npz"),
        ({"classes": 1001}, "classes: got 1001, needed a whole number from 1 to 1000"),
        ({"per_batch": 0}, "per_batch: got 0, needed a whole number from 1"),
        ({"validation": True}, "validation: got True"),
        ({"noise": float("nan")}, "noise: got nan"),
    ],
)
def test_bad_settings_of_generated_files_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        generate(tmp_path, **changes)


@pytest.mark.parametrize("name", ["val_data", "train_data_batch_3", "val_data.npz", "map_clsloc.txt"])
@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_files_that_were_not_generated_are_never_replaced(tmp_path: Path, name: str, form: str) -> None:
    (tmp_path / name).write_text("n02119789 1 kit_fox")
    with pytest.raises(RunFolderError, match=f"got {name}, which was not generated"):
        generate(tmp_path, form)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_generated_files_are_replaced_by_others(tmp_path: Path) -> None:
    generate(tmp_path, seed=1)
    before = (tmp_path / "val_data").read_bytes()
    assert (generate(tmp_path, seed=2) / "val_data").read_bytes() != before


# ---- full-size images ----------------------------------------------------------------------------------------------


def picture(path: Path, colour: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (64, 96)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Two classes whose numbers are not in the order of their synsets; the images are told apart by their red."""
    root = tmp_path / "full"
    root.mkdir()
    (root / "map_clsloc.txt").write_text("n02119789 1 kit_fox\nn01440764 2 tench\n")
    for red, (synset, name) in enumerate(
        [("n01440764", "b.JPEG"), ("n01440764", "a.JPEG"), ("n02119789", "d.JPEG"), ("n02119789", "c.png")]
    ):
        picture(root / "train" / synset / name, (40 * red, 100, 200))
    picture(root / "val" / "n01440764" / "v1.JPEG", (200, 0, 0))
    return root


def test_full_size_images_become_a_cache_in_the_order_of_the_map(full: Path, tmp_path: Path) -> None:
    out = convert_imagenet_folder(full, tmp_path / "cache", jobs=2)
    cache = open_cache(out, verify=True)
    assert cache.labels["train"].tolist() == [0, 0, 1, 1] and cache.labels["test"].tolist() == [1]
    red = cache.images["train"][:, 0].flatten(1).double().mean(1)
    assert red.tolist() == pytest.approx([120, 80, 40, 0], abs=3)  # c, d of the fox; a, b of the tench
    splits = load_imagenet32(out, validation=0)
    assert splits.classes == ("kit fox", "tench") and len(splits.train) == 4


def test_an_image_is_resized_as_a_whole_with_the_box_filter(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    expected = pixels.reshape(32, 4, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(small(tmp_path / "image.png").astype(float) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK", "P"])
def test_images_of_other_modes_become_colour(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.png" if mode == "P" else "image.JPEG")
    Image.new("RGB", (50, 40), (128, 128, 128)).convert(mode).save(path)
    image = small(path)
    assert image.shape == (3, 32, 32) and np.abs(image.mean((1, 2)) - 128).max() < 12  # a palette dithers


def test_a_killed_conversion_of_images_is_taken_up_again(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eqprop import _imagenet_folder

    monkeypatch.setattr(_imagenet_folder, "_AT_ONCE", 1)
    whole = open_cache(convert_imagenet_folder(full, tmp_path / "whole"))
    seen: list[str] = []
    resize = _imagenet_folder.small

    def interrupted(path: Path) -> np.ndarray:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(path.name)
        return resize(path)

    monkeypatch.setattr(_imagenet_folder, "small", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_imagenet_folder(full, tmp_path / "cut", jobs=1)
    assert seen == ["c.png", "d.JPEG"]

    def counting(path: Path) -> np.ndarray:
        seen.append(path.name)
        return resize(path)

    monkeypatch.setattr(_imagenet_folder, "small", counting)
    found = open_cache(convert_imagenet_folder(full, tmp_path / "cut", jobs=1))
    assert seen == ["c.png", "d.JPEG", "a.JPEG", "b.JPEG", "v1.JPEG"]
    assert found.record["files"] == whole.record["files"]


@pytest.mark.parametrize(
    "text",
    [
        "ImageId,PredictionString\nILSVRC2012_val_2,n01440764 1 2 3 4\nILSVRC2012_val_1,n02119789 5 6 7 8\n",
        "ILSVRC2012_val_1.JPEG 1\nILSVRC2012_val_2.JPEG 2\n",
        "1\n2\n",
        "n02119789\nn01440764\n",
    ],
)
def test_a_flat_validation_folder_takes_its_classes_from_a_file(full: Path, tmp_path: Path, text: str) -> None:
    (full / "val").rename(tmp_path / "old")
    for i, red in ((1, 50), (2, 150)):
        picture(full / "val" / f"ILSVRC2012_val_{i}.JPEG", (red, 0, 0))
    (tmp_path / "labels").write_text(text)
    cache = open_cache(convert_imagenet_folder(full, tmp_path / "cache", val_labels=tmp_path / "labels"))
    assert cache.labels["test"].tolist() == [0, 1]
    assert cache.images["test"][:, 0, 16, 16].tolist() == pytest.approx([50, 150], abs=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "got 1 images in one folder, needed their classes; write val_labels=FILE"),
        ("1\n2\n", "got 2 classes for 1 images"),
        ("other.JPEG 1\n", "got no class for 1 images, as v1.JPEG"),
        ("v1.JPEG n99999999\n", "got class 'n99999999', needed a synset"),
        ("3\n", "got class '3', needed a synset of map_clsloc.txt or a number from 1 to 2"),
    ],
)
def test_bad_classes_of_a_flat_folder_are_named(full: Path, tmp_path: Path, text: str | None, words: str) -> None:
    (full / "val" / "n01440764" / "v1.JPEG").rename(full / "val" / "v1.JPEG")
    (tmp_path / "labels").write_text(text or "")
    with pytest.raises(DataError, match=words):
        convert_imagenet_folder(full, tmp_path / "cache", val_labels=None if text is None else tmp_path / "labels")


def _no_map(root: Path) -> None:
    (root / "map_clsloc.txt").unlink()


def _strange_folder(root: Path) -> None:
    (root / "train" / "cats").mkdir()


def _empty_class(root: Path) -> None:
    for path in (root / "train" / "n02119789").iterdir():
        path.unlink()


def _cut_image(root: Path) -> None:
    path = root / "train" / "n01440764" / "a.JPEG"
    path.write_bytes(path.read_bytes()[:300])


def _no_validation(root: Path) -> None:
    (root / "val").rename(root / "valid")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_no_map, "got no map_clsloc.txt at .*needed it for the numbers.*development kit.*write map_clsloc=FILE"),
        (_strange_folder, "got the folders cats, needed folders named by the synsets"),
        (_empty_class, "n02119789: got no image"),
        (_cut_image, "a.JPEG: got a damaged image or none"),
        (_no_validation, "val: cannot be read"),
    ],
)
def test_a_bad_folder_of_images_is_named(
    full: Path, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(full)
    with pytest.raises(DataError, match=words):
        convert_imagenet_folder(full, tmp_path / "cache")


# ---- the script ----------------------------------------------------------------------------------------------------


def script(*words: str | Path) -> int:
    return _common.run_main(imagenet32_data.main, imagenet32_data.options(), [str(w) for w in words], make_run=False)


def test_the_script_generates_converts_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, cache = tmp_path / "official", tmp_path / "converted"
    script("generate", source, "--form", "npz", "--classes", "3", "--per-batch", "2", "--validation", "4")
    script("check", source)
    script("convert", source, "--cache", cache)
    script("check", cache)
    lines = capsys.readouterr().out.splitlines()
    assert "20 training and 4 validation images, 3 classes, npz form (generated)" in lines[0]
    assert lines[1].startswith("train_data_batch_1.npz: 2 images, labels ")
    assert "20 training and 4 validation images, npz form: not the official numbers" in lines[12]
    assert "20 training and 4 test images, 3 classes, 0.1 MB" in lines[13] and lines[14].endswith("checksums agree")
    (cache / "train_images.npy").write_bytes(change(500)((cache / "train_images.npy").read_bytes()))
    with pytest.raises(SystemExit) as exit_:
        script("check", cache)
    assert exit_.value.code == 2 and "does not match its checksum" in capsys.readouterr().err


def test_the_script_converts_full_size_images(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("convert", full, "--cache", tmp_path / "converted", "--jobs", "1")
    assert "4 training and 1 test images, 2 classes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script("convert", full)
    assert "write --cache DIR" in capsys.readouterr().err
