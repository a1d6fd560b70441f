"""Run folders: atomic writes, checkpoints that survive a kill, other runs and foreign files left alone."""

from __future__ import annotations

import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import matplotlib.figure
import pytest
import torch
from torch import nn

from eqprop._checkpoints import CheckpointFolder, atomic_write, load_weights, pack, unpack
from eqprop._errors import ConfigError, RunFolderError
from eqprop._history import History
from eqprop._runs import Run, load, system_record

CONFIG = {"rule": "ep", "epochs": 3, "lr": [0.1, 0.05]}


def _full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    atomic_write(path, b"one")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"two")

    atomic_write(path, write)
    assert path.read_bytes() == b"two"
    assert _names(tmp_path) == {"deep/file"}


def test_atomic_write_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"one")
    monkeypatch.setattr("os.fsync", _full_disk)
    with pytest.raises(RunFolderError, match=r"Could not write the metrics to .*No space left.*--resume"):
        atomic_write(path, b"two", "the metrics")
    assert path.read_bytes() == b"one"
    assert _names(tmp_path) == {"file"}


def test_pack_returns_the_same_nested_state() -> None:
    state = {
        "a": {0: {"momentum": torch.arange(3.0)}, 1: {"step": 7}},
        "t": (1, 0.1, None, "x", True),
        "counter": Counter({2: 1}),
        "$odd": [torch.tensor(3, dtype=torch.int64)],
        "inf": float("inf"),
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(state, "", tensors)))
    back = unpack(packed, tensors)
    assert torch.equal(back["a"][0]["momentum"], state["a"][0]["momentum"])  # type: ignore[index]
    assert back["t"] == state["t"] and back["counter"] == state["counter"] and isinstance(back["counter"], Counter)
    assert back["$odd"][0].dtype == torch.int64 and back["inf"] == float("inf") and back["a"][1] == {"step": 7}
    with pytest.raises(ConfigError, match="object"):
        pack({"x": object()}, "", {})


def test_checkpoints_keep_only_the_newest_pair(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.load() is None
    for step in range(3):
        folder.save({"step": step, "w": torch.full((2,), float(step))})
    assert _names(tmp_path) == {"checkpoint-000003.json", "checkpoint-000003.safetensors"}
    state = folder.load()
    assert state is not None and state["step"] == 2 and state["w"].tolist() == [2.0, 2.0]


def test_checkpoints_are_counted_beyond_six_digits(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save({"step": 1})
    for suffix in ("json", "safetensors"):
        (tmp_path / f"checkpoint-000001.{suffix}").rename(tmp_path / f"checkpoint-999999.{suffix}")
    for step in (2, 3):
        folder.save({"step": step})
    assert _names(tmp_path) == {"checkpoint-1000001.json", "checkpoint-1000001.safetensors"}
    assert folder.load() == {"step": 3}


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_between_the_two_renames_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    class Killed(BaseException):
        pass

    folder = CheckpointFolder(tmp_path)
    folder.save({"step": 1, "w": torch.ones(2)})
    import os

    real, left = os.replace, [renames]

    def replace(a: Any, b: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        real(a, b)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("os.replace", replace)
        folder.save({"step": 2, "w": torch.zeros(2)})
    state = folder.load()
    assert state is not None and state["step"] == 1 and state["w"].tolist() == [1.0, 1.0]
    folder.save({"step": 3, "w": torch.zeros(2)})
    assert len(_names(tmp_path)) == 2  # what the interrupted write left is gone as well
    after = folder.load()
    assert after is not None and after["step"] == 3


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _full_disk)
        with pytest.raises(
            RunFolderError, match=r"write a checkpoint to .*No space left"
        ):  # no earlier one to speak of
            folder.save({"step": 1, "w": torch.ones(2)})
    folder.save({"step": 1, "w": torch.ones(2)})
    before = _names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _full_disk)
        with pytest.raises(RunFolderError, match=r"a checkpoint \(the earlier one is intact\).*No space left"):
            folder.save({"step": 2, "w": torch.zeros(2)})
    assert _names(tmp_path) == before
    state = folder.load()
    assert state is not None and state["step"] == 1


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    folder = CheckpointFolder(tmp_path)
    path = folder.save({"step": 1, "w": torch.ones(50)}).with_suffix("." + suffix)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
        if suffix == "json":  # tensors without their sidecar are an interrupted write, not a checkpoint
            assert folder.load() is None
            return
    else:
        path.write_bytes(content[:-9] if damage == "truncated" else content[:-1] + b"\xff")
    with pytest.raises(RunFolderError, match=rf"Damaged checkpoint .*{path.name}.*--overwrite"):
        folder.load()


def test_weights_of_another_architecture_name_the_parameter() -> None:
    saved = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).state_dict()
    with pytest.raises(RunFolderError, match=r"'0.weight' has shape \[8, 4\], needed \[6, 4\]"):
        load_weights(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), saved, "run")
    with pytest.raises(RunFolderError, match=r"lacks '2.weight', needed \[3, 2\]"):
        load_weights(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 3)), saved, "run")
    with pytest.raises(RunFolderError, match="holds '1.weight', which this network does not have"):
        load_weights(nn.Sequential(nn.Linear(4, 8)), saved, "run")


def test_create_refuses_a_folder_with_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", CONFIG)
    run.checkpoints.save({"step": 1})
    before = _names(tmp_path)
    with pytest.raises(RunFolderError, match=r"the same run\. Write resume=True \(--resume\)"):
        Run.create(tmp_path / "r", CONFIG)
    other = CONFIG | {"rule": "bptt"}
    with pytest.raises(RunFolderError, match=r'another run \(rule: "ep" there, "bptt" asked\)\. Write overwrite=True'):
        Run.create(tmp_path / "r", other)
    with pytest.raises(RunFolderError, match=r"cannot be resumed.*lr: \[0.1, 0.05\] there, \[0.1, 0.1\] asked"):
        Run.create(tmp_path / "r", CONFIG | {"lr": [0.1, 0.1]}, resume=True)
    with pytest.raises(ConfigError, match="exclude"):
        Run.create(tmp_path / "r", CONFIG, resume=True, overwrite=True)
    assert _names(tmp_path) == before


def test_epochs_may_grow_on_resume_and_not_shrink(tmp_path: Path) -> None:
    Run.create(tmp_path, CONFIG).checkpoints.save({"step": 1})
    assert Run.create(tmp_path, CONFIG | {"epochs": 9}, resume=True).config["epochs"] == 9
    assert Run.open(tmp_path).config["epochs"] == 9
    with pytest.raises(RunFolderError, match="epochs: 9 there, 3 asked"):
        Run.create(tmp_path, CONFIG, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_failed_leaves_the_folder_free(tmp_path: Path, resume: bool) -> None:
    other = CONFIG | {"rule": "bptt"}
    Run.create(tmp_path, CONFIG)
    (tmp_path / "notes.txt").write_bytes(b"precious")
    assert Run.create(tmp_path, other, resume=resume).config["rule"] == "bptt"
    assert _names(tmp_path) == {"config.json", "notes.txt"} and Run.open(tmp_path).config == other


@pytest.mark.parametrize("made", ["metrics", "checkpoint", "best", "summary", "figure", "run below"])
def test_a_folder_with_anything_made_is_not_free(tmp_path: Path, made: str) -> None:
    run = Run.create(tmp_path, CONFIG)
    below = Run.create(tmp_path / "seed-0", CONFIG)
    if made == "metrics":
        run.write_history(History({"epoch": [1.0]}))
    elif made == "summary":
        run.write_summary({})
    elif made == "figure":
        run.save_figure("curves", matplotlib.figure.Figure(figsize=(1, 1)))
    else:
        {"checkpoint": run.checkpoints, "best": run.best, "run below": below.checkpoints}[made].save({"step": 1})
    with pytest.raises(RunFolderError, match="another run"):
        Run.create(tmp_path, CONFIG | {"rule": "bptt"})


def test_overwrite_removes_only_what_a_run_writes(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG)
    run.checkpoints.save({"step": 1})
    run.best.save({"step": 1})
    run.write_history(History({"epoch": [1.0]}))
    run.write_summary({"a": 1})
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    run.save_figure("curves", figure)
    foreign = ["notes.txt", "figures/mine.png", "checkpoint/mine.safetensors", "checkpoint/checkpoint-1.json"]
    for name in foreign:
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / ".eqprop-config.json-1.tmp").write_bytes(b"left by a killed run")
    Run.create(tmp_path, {"other": 1}, overwrite=True)
    assert _names(tmp_path) == {"config.json", *foreign}


@pytest.mark.parametrize("name", ["config.json", "summary.json", "figures/a.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_in_the_way_are_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(RunFolderError, match="not written by a run"):
        Run.create(tmp_path, CONFIG, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "{}"


def test_out_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(RunFolderError, match="is a file"):
        Run.create(tmp_path / "f", CONFIG)


def test_config_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plain JSON"):
        Run.create(tmp_path, {"x": torch.ones(1)})


def test_metrics_file_comes_back_with_units(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG)
    history = History()
    history.append({"train_error": 0.5, "layers/hidden1/dead_share": 0.25})
    history.append({"train_error": 0.1, "layers/hidden1/dead_share": 0.5, "learning_rate/0": 0.1})
    run.write_history(history)
    back = run.read_history()
    assert back["train_error"].tolist() == [0.5, 0.1] and len(back) == 2
    assert str(back["learning_rate/0"].tolist()) == "[nan, 0.1]"
    assert {name: column.tolist() for name, column in back.matching("layers", "dead_share").items()} == {
        "hidden1": [0.25, 0.5]
    }
    with h5py.File(tmp_path / "metrics.h5") as file:
        assert file["layers/hidden1/dead_share"].attrs["unit"] == "fraction"
        assert "learning rate" in file["learning_rate/0"].attrs["meaning"]
    back.truncate(1)
    assert back.last()["train_error"] == 0.5
    with pytest.raises(KeyError, match="train_error"):
        back["no such"]


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG)
    run.write_history(History({"epoch": [1.0]}))
    path = tmp_path / "metrics.h5"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFolderError, match=r"metrics.h5 is damaged"):
        run.read_history()


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        load(tmp_path)
    run = Run.create(tmp_path, CONFIG)
    with pytest.raises(RunFolderError, match="no 'checkpoint' checkpoint"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="which='best'"):
        load(tmp_path, which="newest")
    run.checkpoints.save({"spec": None, "network": {}})
    with pytest.raises(RunFolderError, match=r"no spec\(\).*eqprop.load\(.*, network=network\)"):
        load(tmp_path)
    with pytest.raises(RunFolderError, match="no 'best' checkpoint.*keep_best=True"):
        load(tmp_path, which="best")


def test_a_network_of_ones_own_takes_its_weights_back(tmp_path: Path) -> None:
    trained, fresh = nn.Linear(4, 2), nn.Linear(4, 2)
    Run.create(tmp_path, CONFIG).checkpoints.save(
        {"spec": None, "spec_error": "it holds your own code", "network": trained.state_dict()}
    )
    with pytest.raises(RunFolderError, match="it holds your own code"):
        load(tmp_path)
    assert load(tmp_path, network=fresh) is fresh and torch.equal(fresh.weight, trained.weight)
    with pytest.raises(RunFolderError, match=r"'weight' has shape \[2, 4\], needed \[3, 4\]"):
        load(tmp_path, network=nn.Linear(4, 3))


def test_summary_comes_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path, CONFIG)
    with pytest.raises(RunFolderError, match="has not finished"):
        run.read_summary()
    run.write_summary({"headline": [{"name": "error", "value": 0.02}]})
    assert run.read_summary()["headline"][0]["value"] == 0.02


def test_system_record_names_versions_and_no_paths() -> None:
    record = system_record()
    text = json.dumps(record)
    assert record["versions"]["torch"] and record["machine"]["cores"] >= 1 and record["machine"]["device"] == "cpu"
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    assert "/" not in text.replace(record["machine"]["cpu"], "")
