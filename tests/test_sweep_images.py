"""`benchmarks.cifar10` and `benchmarks.imagenet32` as functions of a config, on generated files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import eqprop
from benchmarks import _common, _sweep_images, cifar10, imagenet32
from benchmarks._sweep_targets import target
from eqprop import ConfigError
from tests.cifar_files import write_subset

TINY: dict[str, Any] = {
    "training.epochs": 1, "rule.free_sweeps": 4, "rule.nudged_sweeps": 3, "training.batch_size": 16,
    "training.lr": 0.05, "data.validation": 20,
}  # fmt: skip
WORDS = "--epochs 1 --free-sweeps 4 --nudged-sweeps 3 --batch-size 16 --lr 0.05 --validation 20 --device cpu --quiet"
SUBSET = {"data.dataset": "cifar10-subset"}


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a generated cifar10_subset.npz, in which data are looked for: the mean colour tells the class."""
    monkeypatch.setenv("EQPROP_DATA", str(write_subset(tmp_path)))


def config(name: str, **fields: Any) -> Any:
    """One point, as a sweep makes it."""
    what = target(name)
    (made,) = eqprop.grid(what.config, **{field: [value] for field, value in fields.items()})
    return what.completed(made)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ""),
        ({"rule.name": "backprop"}, "--rule backprop"),
        (
            {"rule.beta": 0.5, "rule.points": 1, "rule.tol": 0.0, "data.limit": 20},
            "--beta .5 --points 1 --tol 0 --limit 20",
        ),
        (
            {"network.preset": "small-untied", "network.feedback_angle_degrees": 45.0, "rule.homeostasis": 2.0},
            "--preset small-untied --feedback-angle 45 --homeostasis 2",
        ),
    ],
)
def test_a_point_trains_what_the_script_trains(cifar: None, tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    out = tmp_path / "run"
    argv = [*WORDS.split(), *words.split(), "--dataset", "cifar10-subset", "--seed", "3", "--out", str(out)]
    _common.run_main(cifar10.main, cifar10.options(), argv, make_run=False, several=True)
    result = json.loads((out / "summary.json").read_text())["results"]["3"]
    found = _sweep_images.run(config("cifar10", seed=3, **TINY, **SUBSET, **fields))
    assert found["test_loss"] == result["test_loss"] and found["test_error_percent"] == result["test_error_percent"]
    assert found["test_top5_error_percent"] == pytest.approx(100 - result["test_top5_percent"])
    assert found["train_error_percent_by_epoch"] == [result["train_error_percent"]] and found["stopped"] == ""
    for when in ("before", "after"):
        assert found.get(f"error_vector_cosine_{when}") == result.get("error_vector_cosine", {}).get(when)
        assert (f"gradient_cosine_{when}" in found) == (fields.get("rule.name") != "backprop")


def test_imagenet32_goes_through_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = eqprop.generate_imagenet32(tmp_path / "files", "npz", classes=7, per_batch=6, validation=12)
    words = [*WORDS.split(), "--rule", "backprop", "--data", str(folder), "--cache", str(tmp_path / "cache")]
    out = tmp_path / "run"
    _common.run_main(imagenet32.main, imagenet32.options(), [*words, "--out", str(out)], make_run=False, several=True)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path / "cache"))
    made = config("imagenet32", **TINY, **{"rule.name": "backprop"})
    assert made.data.dataset == "imagenet32"
    found = target("imagenet32").run(made)
    assert found["test_loss"] == json.loads((out / "summary.json").read_text())["results"]["0"]["test_loss"]


def test_settings_of_the_preset_are_filled_in_where_the_rule_reads_them() -> None:
    made = config("cifar10", **{"network.preset": "generalized-2024", "training.lr": 0.1})
    assert made.training == _sweep_images.Training(150, 256, (0.1,), 1e-4)
    assert made.rule == _sweep_images.Rule("ep", 1.0, 0, 250, 40, 0.0, 15.0, False)
    assert made.network.feedback_angle_degrees == 0.0
    assert config("imagenet32", **{"network.preset": "generalized-2024"}).rule.homeostasis == 10.0  # of that data set
    twin = config("cifar10", **{"rule.name": "backprop"})
    assert twin.rule.beta is twin.rule.points is twin.rule.homeostasis is twin.rule.bf16 is None
    gpu = config("cifar10", **{"network.preset": "comparative-2023", "device": "cuda:0"})
    assert gpu.rule.bf16 is True and _sweep_images.image_run(gpu).products == "bfloat16"
    for whole in (made, twin, gpu):
        assert target("cifar10").completed(whole) == whole


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"network.preset": "smal"}, "^network.preset: got 'smal'.* did you mean 'small'"),
        ({"data.dataset": "cifar"}, "data.dataset: got 'cifar'.* did you mean 'cifar10'"),
        ({"data.limit": 0}, "^data.limit: got 0"),
        ({"data.validation": -1}, "data.validation: got -1"),
        ({"rule.name": "bppt"}, "rule.name: got 'bppt'.* did you mean 'bptt'"),
        ({"rule.beta": 0.0}, "^rule.beta: got 0.0.* as in rule.beta=0.5"),
        ({"rule.points": 0}, "^rule.points: got 0 on tied weights"),
        ({"rule.homeostasis": 4.0}, "^rule.homeostasis: got 4.0 with tied weights"),
        ({"rule.tol": -1.0}, "tol"),
        ({"rule.name": "bptt", "rule.beta": 0.1}, "^rule.beta: got it with rule.name=bptt"),
        ({"rule.name": "backprop", "rule.bf16": True}, "^rule.bf16: got it with rule.name=backprop"),
        ({"network.feedback_angle_degrees": 90.0}, "^network.feedback_angle_degrees: got it with tied weights"),
        ({"training.lr": (0.1,) * 4}, "learning rates: got 4, needed 1 or 3"),
        ({"training.lr": 0.0}, r"^training.lr: got \(0.0,\)"),
        ({"training.epochs": 0}, "^training.epochs: got 0"),
        ({"training.weight_decay": -1.0}, "^training.weight_decay: got -1.0"),
        ({"device": "warp"}, "device: got 'warp'"),
    ],
)
def test_mistakes_in_a_config_are_named_before_anything_runs(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config("cifar10", **fields)
