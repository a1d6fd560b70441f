"""Gradients, noise inside the relaxation and liquids as functions of a config: they give what the scripts give."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop
import snn
from benchmarks import (
    _liquid_data,
    _noise_points,
    _rram_points,
    _sweep_exactness,
    _sweep_liquid,
    _sweep_theory,
    exactness,
    liquid,
    noise,
    theory,
)
from benchmarks._common import run_main
from benchmarks._sweep_targets import MODULES, target
from eqprop import ConfigError, DataError
from eqprop._data import load_dataset

_load = functools.cache(load_dataset)
DIGITS: dict[str, Any] = {"data.dataset": "digits", "data.samples": 60, "data.test": 30}


@pytest.fixture(autouse=True)
def _data_read_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(eqprop, "load_dataset", _load)
    monkeypatch.setattr(_liquid_data, "load_dataset", _load)
    yield


def config(name: str, **fields: Any) -> Any:
    """One point, as a sweep makes it."""
    what = target(name)
    (made,) = eqprop.grid(what.config, **{field: [value] for field, value in fields.items()})
    return what.completed(made)


@pytest.mark.parametrize("name", MODULES)
def test_a_completed_point_is_complete_and_its_defaults_are_none_that_are_refused(name: str) -> None:
    what = target(name)
    made = what.completed(what.config())
    assert what.completed(made) == made and hash(made) == hash(what.completed(what.config()))


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "correction"), [("tied", None), ("loop", "asymep")])
def test_an_exactness_point_has_the_error_that_the_benchmark_measures(kind: str, correction: str | None) -> None:
    measured = exactness.measure(kind, "cross-entropy", 2, correction)
    for n in (1, 4):
        fields = {"rule.cost": "cross-entropy", "rule.correction": correction, "rule.points": n}
        found = _sweep_exactness.run(config("exactness", network=kind, seed=2, **fields))
        assert found["relative_error"] == measured["points"][exactness.POINTS.index(n)]
        assert set(found["layer_relative_error"]) == set(found["layer_gradient_cosine"]) != set()


def test_without_symmetry_the_error_stalls_and_the_correction_removes_it() -> None:
    plain, corrected = (
        _sweep_exactness.run(config("exactness", **{"rule.points": 16, "rule.correction": c})) for c in (None, "asymep")
    )
    assert plain["relative_error"] > 0.1 and corrected["relative_error"] < 1e-10


def test_a_theory_point_has_the_error_and_the_cosine_that_the_benchmark_measures() -> None:
    table = theory.errors(1, "squared-error")
    for contour in ("one-sided", "centred"):
        for readout in ("contrast", "tangent"):
            found = _sweep_theory.run(config("theory", seed=1, **{"rule.contour": contour, "rule.readout": readout}))
            assert found["relative_error"] == table[f"{contour}, {readout}"][0] and "bptt_cosine" not in found
    for alternating in (True, False):
        fields = {"rule.beta": 1e-3, "rule.alternating": alternating}
        cosines = [
            _sweep_theory.run(config("theory", seed=1, **fields, **{"rule.nudged_sweeps": k}))["bptt_cosine"]
            for k in (3, 5, 10)
        ]
        assert min(cosines) == theory.worst_bptt_cosine(1, alternating=alternating) > 1 - 1e-4


# -- noise -----------------------------------------------------------------------------------------------------------


def test_a_noise_point_trains_what_the_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, folder: str | None = None, *, seed: int = 0, **_: Any) -> eqprop.DataSplits:
        found, draw = _load("digits", seed=seed), torch.Generator().manual_seed(0)
        return dataclasses.replace(found, train=found.train.subset(60, draw), test=found.test.subset(50, draw))

    monkeypatch.setattr(eqprop, "load_dataset", small)
    words = ["--epochs", "1", "--seeds", "1", "--free-sweeps", "8", "--nudged-sweeps", "4", "--out", str(tmp_path)]
    run_main(noise.main, noise.options(), words, make_run=False)
    results = json.loads((tmp_path / "summary.json").read_text())["results"]
    assert len(results) == 3
    fields = {"rule.free_sweeps": 8, "rule.nudged_sweeps": 4, "training.epochs": 1, "data.dataset": "digits"}
    cauchy = config("noise", **fields, **{"rule.contour": "cauchy"})
    assert cauchy.rule.points == 10
    found = _noise_points.run(cauchy)
    (kept,) = results["noise 0.04, Cauchy N = 10, beta = 0.4"]
    assert kept["accuracy_percent"] == 100 - found["test_error_percent"]
    assert kept["first_layer_cosine"] == found["weight_gradient_cosine_before"]["hidden1"]
    assert set(found["weight_gradient_cosine_after"]) == {"hidden1", "hidden2", "output", "readout"}


def test_noise_harms_the_gradient_of_a_small_nudge_more() -> None:
    fields = {"data.dataset": "digits", "data.train": 20, "training.epochs": 1, "network.layers": "784-12-10"}
    fields |= {"rule.free_sweeps": 20, "rule.nudged_sweeps": 10}
    quiet, small, large = (
        _noise_points.run(config("noise", **fields, **{"network.noise_level": level, "rule.beta": beta}))
        for level, beta in ((0.0, 0.02), (0.04, 0.02), (0.04, 0.5))
    )
    first = [point["weight_gradient_cosine_before"]["hidden1"] for point in (small, large, quiet)]
    assert first[0] < first[1] - 0.1 and first[2] > 0.95
    assert quiet["epochs_trained"] == 1 and quiet["stopped"] == ""


# -- liquids ---------------------------------------------------------------------------------------------------------


def test_a_liquid_point_has_the_figures_of_the_script(tmp_path: Path) -> None:
    words = "--dataset digits --samples 60 --test 30 --readout ridge --seed 3 --seeds 1 --quiet --out".split()
    run_main(liquid.main, liquid.options(), [*words, str(tmp_path)], make_run=False)
    summary = json.loads((tmp_path / "summary.json").read_text())
    made = config("liquid", seed=3, **DIGITS, **{"readout.name": "ridge"})
    assert made.liquid.weight == 0.8  # of NALSM on images
    found = _sweep_liquid.run(made)
    arms = {"liquid": "liquid", "recurrence off": "recurrence_off", "random ReLU": "random_relu", "pixels": "input"}
    assert {v["arm"] for v in summary["lines"]} == set(arms)
    for line in summary["lines"]:
        assert found[f"{arms[line['arm']]}_accuracy_percent"] == line["accuracy_percent"]
    assert {name: found[name] for name in summary["health"]} == summary["results"]["3"]["health"]


def test_a_plastic_liquid_is_a_point_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def plastic(rule: str, preset: str, task: Any, seed: int, samples: int, *_: Any, **__: Any) -> Any:
        asked.append((rule, preset, seed, samples))
        return snn.preset(preset, seed=seed, weight=0.8, inputs=task.channels)

    made = config("liquid", **DIGITS, **{"liquid.plasticity": "stdp", "readout.name": "ridge"})
    assert made.liquid.initial_samples == 50_000 and config("liquid", **DIGITS).liquid.initial_samples is None
    monkeypatch.setattr(_sweep_liquid, "plastic_liquid", plastic)
    found = _sweep_liquid.run(made)
    assert asked == [("stdp", "nalsm1000", 0, 50_000)]
    assert found["plastic_accuracy_percent"] == found["liquid_accuracy_percent"]  # of the same liquid
    assert found["plastic_mean_rate_hz"] == found["mean_rate_hz"]


def test_a_dead_liquid_is_told_by_the_field() -> None:
    with pytest.raises(DataError, match="liquid.weight=0.0001: the liquid is dead.* larger liquid.weight"):
        _sweep_liquid.run(config("liquid", **DIGITS, **{"liquid.weight": 1e-4}))


def test_a_resistive_liquid_gets_the_weight_of_its_data() -> None:
    assert [config("rram", dataset=name).weight for name in ("nmnist", "spoken-digits", "digits")] == [0.3, 1.2, 0.6]
    made = config("rram", dataset="digits", samples=60, test=30)
    found = _rram_points.run(made)
    assert found["input_percent"] > 20 and found == _rram_points.run_many([made])[0]
    with pytest.raises(ConfigError, match="^samples: got 5000, needed 60 to 4000"):
        _rram_points.run(config("rram", dataset="digits", samples=5000))


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("exactness", {"network": "untide"}, "did you mean 'untied'"),
        ("exactness", {"rule.cost": "entropy"}, "did you mean 'cross-entropy'"),
        ("exactness", {"rule.readout": "contrast"}, "rule.readout: got 'contrast' with network=untied"),
        ("exactness", {"rule.points": 0}, "points"),
        ("exactness", {"rule.contour": "centred", "rule.points": 4}, "points: got 4"),
        ("exactness", {"rule.correction": "asymp"}, "did you mean 'asymep'"),
        ("theory", {"rule.nudged_sweeps": 0}, "rule.nudged_sweeps: got 0"),
        ("theory", {"rule.contour": "center"}, "contour: got 'center'"),
        ("theory", {"rule.cost": "square-error"}, "did you mean 'squared-error'"),
        ("noise", {"network.noise_level": -0.1}, "network.noise_level: got -0.1"),
        ("noise", {"network.layers": "784-10"}, "^network.layers: got '784-10'"),
        ("noise", {"data.dataset": "digts"}, "did you mean 'digits'"),
        ("noise", {"rule.contour": "centered"}, "did you mean 'centred'"),
        ("noise", {"rule.points": 4}, "points: got 4"),
        ("noise", {"rule.free_sweeps": 0}, "rule.free_sweeps: got 0"),
        ("noise", {"training.lr": 0.0}, "training.lr: got 0.0"),
        ("liquid", {"liquid.preset": "nalsm100"}, "did you mean 'nalsm1000'"),
        ("liquid", {"liquid.weight": -1.0}, "^liquid.weight: got -1.0.* as in liquid.weight=0.8"),
        ("liquid", {"liquid.plasticity": "nalmm"}, "liquid.plasticity: got 'nalmm'.* did you mean 'nalsm'"),
        ("liquid", {"liquid.initial_samples": 9}, "liquid.initial_samples: got 9.* write liquid.plasticity=nalsm"),
        ("liquid", {"liquid.plasticity": "stdp", "liquid.preset": "rram200"}, "write liquid.preset=nalsm1000"),
        ("liquid", {"readout.name": "rigde"}, "readout.name: got 'rigde'.* did you mean 'ridge'"),
        ("liquid", {"readout.feature": "count"}, "readout.feature: got 'count'.* did you mean 'counts'"),
        ("liquid", {"readout.tau_seconds": 0.0}, "readout.tau_seconds: got 0.0"),
        ("liquid", {"readout.bins": 0}, "readout.bins: got 0"),
        ("liquid", {"data.dataset": "nminst"}, "did you mean 'nmnist'"),
        ("liquid", {"data.samples": 7}, "data.samples: got 7"),
        ("liquid", {"batch_size": 0}, "batch_size: got 0"),
        ("liquid", {"device": "warp"}, "device: got 'warp'"),
        ("rram", {"dataset": "nminst"}, "did you mean 'nmnist'"),
        ("rram", {"scope": "steps"}, "did you mean 'step'"),
        ("rram", {"read_noise": -0.1}, "read_noise: got -0.1"),
        ("rram", {"variability": float("nan")}, "variability: got nan"),
        ("rram", {"weight": 0.0}, "weight: got 0.0"),
        ("rram", {"samples": 5}, "samples: got 5"),
        ("rram", {"test": 0}, "test: got 0"),
    ],
)
def test_mistakes_in_a_config_are_named_before_anything_runs(name: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config(name, **fields)
