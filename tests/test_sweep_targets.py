"""Benchmarks as functions of a config: they train what the benchmark trains; what they return, and what they refuse."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import eqprop
import hardware
from benchmarks import _asymmetry_diagnosis, _sweep_asymmetry, _sweep_substrate
from benchmarks._asymmetry_rows import FREE, NUDGED, Row, make_network, make_optimizer, make_rule, rows
from benchmarks._substrate_rows import rows as substrate_rows
from benchmarks._sweep_targets import target
from eqprop import ConfigError, DataError
from eqprop._data import load_dataset

_load = functools.cache(load_dataset)
DIGITS: dict[str, Any] = {"data.dataset": "digits", "data.train": 64, "training.epochs": 1}
SMALL = DIGITS | {"network.layers": "784-12-12-10"}


@pytest.fixture(autouse=True)
def _data_read_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(eqprop, "load_dataset", _load)
    yield


def config(name: str, **fields: Any) -> Any:
    """One point, as a sweep makes it."""
    what = target(name)
    (made,) = eqprop.grid(what.config, **{field: [value] for field, value in fields.items()})
    return what.completed(made)


# -- asymmetry -------------------------------------------------------------------------------------------------------


def of_row(row: Row) -> Any:
    """The config of a row of the benchmark."""
    fields: dict[str, Any] = {"network.angle_degrees": row.angle, "network.loop": row.loop, "rule.name": row.rule}
    fields |= {f"rule.{name}": value for name, value in row.settings.items()}
    fields |= {"training.optimizer": "adamw" if row.adam else "sgd", "training.epochs": row.epochs}
    kind, settings = row.regulariser or ("", {})
    if kind == "KolenPollack":
        fields["homeostasis.kolen_pollack"] = settings["decay"]
    elif kind:
        fields |= {f"homeostasis.{name}": value for name, value in settings.items() if name != "per"}
    return config("asymmetry", **fields)


@pytest.mark.parametrize("row", [r for r in rows() if r.budget is None], ids=lambda row: row.name)
def test_every_row_of_the_asymmetry_benchmark_is_a_point_of_a_sweep(row: Row) -> None:
    made = _sweep_asymmetry.row_of(of_row(row))
    assert make_rule(made, 0, 1e-6).spec() == make_rule(row, 0, 1e-6).spec()
    same, network = make_network(made, 0), make_network(row, 0)
    weights = network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in same.state_dict().items())
    ours, theirs = make_optimizer(made, same), make_optimizer(row, network)
    assert type(ours) is type(theirs) and ours.defaults == theirs.defaults


def test_settings_of_a_point_reach_its_network_rule_and_optimiser() -> None:
    made = config(
        "asymmetry", **{"rule.free_sweeps": 7, "rule.nudged_sweeps": 3, "rule.tol": 1e-4, "training.lr": 0.5}, **SMALL
    )
    row = _sweep_asymmetry.row_of(made)
    rule = make_rule(row, 0, made.rule.tol)
    assert isinstance(rule, eqprop.EquilibriumPropagation)
    assert rule.free == eqprop.Stop(1e-4, 7, block=10) and rule.nudged == eqprop.Sweeps(3)
    network = make_network(row, 0)
    assert network.shapes == ((12,), (12,), (10,)) and make_optimizer(row, network).defaults["lr"] == 0.5
    assert (Row("", "").free, Row("", "").nudged) == (FREE, NUDGED)


def test_homeostasis_undoes_an_asymmetry_in_a_point_of_the_sweep() -> None:
    fields = SMALL | {"training.lr": 0.02, "training.batch_size": 8}
    off, on = (
        _sweep_asymmetry.run(config("asymmetry", **fields, **{"homeostasis.coefficient": c})) for c in (0.0, 10.0)
    )
    assert set(off["error_vector_cosine_after"]) == {"hidden1", "hidden2", "output"}
    assert off["error_vector_cosine_before"] == on["error_vector_cosine_before"]  # of one seed
    assert set(off["weight_angle_degrees_before"]) <= set(off["error_vector_cosine_before"])  # columns by layer
    assert on["asymmetry_activation_after"] < 0.8 * off["asymmetry_activation_after"]
    assert on["epochs_trained"] == 1 and on["stopped"] == "" and 0 <= on["test_error_percent"] <= 100


def test_backprop_of_the_twin_has_no_error_vectors() -> None:
    found = _sweep_asymmetry.run(config("asymmetry", **SMALL, **{"rule.name": "backprop"}))
    assert not any("cosine" in name for name in found) and found["epochs_trained"] == 1


def test_a_point_looks_at_what_the_benchmark_looks_at() -> None:
    made = config("asymmetry", **SMALL, seed=3)
    row = _sweep_asymmetry.row_of(made)
    data = load_dataset("digits", seed=3)
    found = _asymmetry_diagnosis.diagnose(row, 3, make_network(row, 3), data, made.rule.tol)
    point = _sweep_asymmetry.run(made)
    for layer, match in found["error_vector"].items():
        assert point["error_vector_cosine_before"][layer] == match["cosine"]
    assert point["asymmetry_membrane_before"] == found["asymmetry_membrane"]


# -- substrate -------------------------------------------------------------------------------------------------------


def of_substrate_row(label: str) -> Any:
    fields: dict[str, dict[str, Any]] = {
        "devices/ideal": {},
        "devices/ecram": {"substrate.device": "ecram"},
        "devices/reram-array-om": {"substrate.device": "reram-array-om"},
        "devices/pcm": {
            "substrate.device": "pcm", "substrate.cell_scope": "sample", "substrate.verified_seconds": 1e-6,
        },
        "mismatch/AsymEP-20": {
            "network.layers": "784-256-256-10", "rule.beta": 0.2, "rule.readout": "tangent",
            "rule.correction": "asymep", "substrate.mismatch": 0.2,
        },
        "mismatch/homeostasis-two-arrays-50": {
            "network.layers": "784-256-256-10", "network.directed": True, "rule.beta": 0.2, "rule.readout": "tangent",
            "rule.homeostasis": 1.0, "substrate.mismatch": 0.5,
        },
        "mitigations/4-passes-averaged": {
            "rule.beta": 0.05, "rule.passes": 4, "substrate.read_noise": 0.01, "substrate.adc_bits": 8,
        },
        "mitigations/16-dithered-reads": {
            "rule.beta": 0.05, "substrate.read_noise": 0.01, "substrate.adc_bits": 8, "substrate.adc_dither": True,
            "substrate.adc_reads": 16,
        },
    }  # fmt: skip
    return config("substrate", **fields[label])


ROWS = {row.name: row for row in substrate_rows()}


@pytest.mark.parametrize(
    "label",
    [
        "devices/ideal",
        "devices/ecram",
        "devices/reram-array-om",
        "devices/pcm",
        "mismatch/AsymEP-20",
        "mismatch/homeostasis-two-arrays-50",
        "mitigations/4-passes-averaged",
        "mitigations/16-dithered-reads",
    ],
)
def test_rows_of_the_substrate_benchmark_are_points_of_a_sweep(label: str) -> None:
    def parts(record: dict[str, Any]) -> dict[str, Any]:
        # the ideal chip of a sweep and the network itself are one thing
        return {name: record[name] for name in ("sizes", "rule", "directed", "write", "rates", "substrate")}

    assert parts(_sweep_substrate.row_of(of_substrate_row(label)).record()) == parts(ROWS[label].record())


def test_noise_that_the_phases_share_harms_a_gradient_less() -> None:
    found = {}
    for scope in ("phase", "sample"):
        fields = DIGITS | {"rule.beta": 0.05, "substrate.read_noise": 0.01, "substrate.noise_scope": scope}
        found[scope] = _sweep_substrate.run(config("substrate", **fields))
    fresh, shared = (found[scope]["same_rule_cosine_before"]["hidden1"] for scope in ("phase", "sample"))
    assert fresh < 0.7 < 0.9 < shared
    for point in found.values():
        assert set(point["effective_bits_after"]) == {"hidden1", "output"} and point["pulses"] == 0


def test_a_device_by_its_name_is_trained_through_its_pulses() -> None:
    point = _sweep_substrate.run(config("substrate", **DIGITS, **{"substrate.device": "ecram"}))
    assert point["pulses"] > 0 and math.isfinite(point["test_error_percent"])


def test_what_a_device_needs_is_filled_in() -> None:
    one_way = config("substrate", **{"substrate.device": "pcm"})
    assert (one_way.substrate.mapping, one_way.training.write) == ("one-sided", "stochastic")
    assert one_way.training.rate == ROWS["devices/pcm"].rate  # searched for, by validation images
    closed = config("substrate", **{"substrate.device": "hermes-pcm"})
    assert (closed.substrate.mapping, closed.training.write) == ("balanced", "programmed")
    digital = config("substrate", **{"substrate.device": "ecram", "training.write": "digital", "training.rate": 0.5})
    row = _sweep_substrate.row_of(digital)
    assert row.write is None and row.rate == 0.5 and row.substrate is not None
    for made in (one_way, closed, digital):
        assert target("substrate").completed(made) == made
    assert config("substrate", **{"substrate.adc_bits": 8}).substrate == _sweep_substrate.Chip(adc_bits=8)
    assert isinstance(_sweep_substrate.substrate_of(one_way), hardware.Substrate)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "text"),
    [
        ("mnist", {"data.dataset": "digts"}, "data.dataset: got 'digts'.*did you mean 'digits'"),
        ("mnist", {"substrate.adc_bits": -3}, "OutputAdc.bits: got -3"),
        ("mnist", {"substrate.dac_bits": 0}, "InputDac.bits: got 0"),
        ("mnist", {"substrate.read_noise": -0.1}, "Fluctuation.relative_std: got -0.1"),
        ("mnist", {"substrate.adc_bits": 8, "rule.name": "backprop"}, "substrate: got one for the feed-forward twin"),
        ("mnist", {"rule.name": "bppt"}, "rule.name: got 'bppt'.*did you mean 'bptt'"),
        ("mnist", {"rule.beta": 0.0}, r"^rule.beta: got 0.0, .* as in rule.beta=0.2"),
        (
            "mnist",
            {"rule.contour": "random-sign", "rule.points": 4},
            "rule.points: got 4 with rule.contour=random-sign",
        ),
        ("mnist", {"network.layers": "784"}, "^network.layers: got '784'"),
        ("mnist", {"network.layers": "100-10-10", "data.dataset": "digits"}, "digits needs 784-...-10"),
        ("mnist", {"network.activation": "sigmiod"}, "did you mean 'sigmoid'"),
        ("mnist", {"network.initializer": "xavier"}, "xavier_uniform"),
        ("mnist", {"training.lr": (0.1, 0.1, 0.1)}, "learning rates: got 3, needed 1 or 2"),
        ("mnist", {"training.schedule": "cosin"}, "did you mean 'cosine'"),
        ("mnist", {"data.validation": -1}, "data.validation: got -1"),
        ("mnist", {"device": "warp"}, "device: got 'warp'"),
        ("asymmetry", {"data.dataset": "cifar10"}, "data.dataset: got 'cifar10', needed one of mnist"),
        ("substrate", {"data.dataset": "fashion"}, "did you mean 'fashion-mnist'"),
        ("asymmetry", {"network.angel_degrees": 0}, "did you mean 'angle_degrees'"),
        ("asymmetry", {"rule.name": "diadic"}, "did you mean 'dyadic'"),
        ("asymmetry", {"rule.contour": "centered"}, "did you mean 'centred'"),
        ("asymmetry", {"training.optimizer": "adam"}, "did you mean 'adamw'"),
        ("asymmetry", {"training.epochs": 0}, "training.epochs: got 0"),
        ("asymmetry", {"data.train": 0}, "data.train: got 0"),
        ("asymmetry", {"homeostasis.coefficient": -1.0}, "needed a finite number from 0 on"),
        ("asymmetry", {"homeostasis.coefficient": 1.0, "homeostasis.kolen_pollack": 0.1}, "needed one of the two"),
        ("asymmetry", {"homeostasis.coefficient": 1.0, "network.angle_degrees": None}, "network.angle_degrees=0"),
        ("asymmetry", {"network.loop": True, "network.layers": "784-12-10"}, "two hidden layers"),
        ("substrate", {"substrate.devise": "pcm"}, "did you mean 'device'"),
        ("substrate", {"substrate.device": "pmc"}, "did you mean 'pcm'"),
        ("substrate", {"substrate.noise_scope": "phases", "substrate.read_noise": 0.1}, "phase"),
        ("substrate", {"substrate.adc_bits": 0}, "OutputAdc.bits"),
        ("substrate", {"network.layers": "784-100-10"}, "needed one of 784-256-10, 784-256-256-10"),
        ("substrate", {"training.write": "stochastic"}, "without cells"),
        ("substrate", {"training.rate": 0.0}, "training.rate: got 0.0"),
        ("substrate", {"rule.beta": 2.0}, "needed above -1"),
    ],
)
def test_mistakes_in_a_config_are_named_before_anything_runs(name: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        config(name, **fields)


def test_data_that_stand_in_for_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eqprop, "load_dataset", lambda name, **options: _load("digits"))
    with pytest.raises(DataError, match="write data.dataset=digits"):
        _sweep_substrate.run(config("substrate"))
    monkeypatch.setattr(eqprop, "load_dataset", _load)
    with pytest.raises(ConfigError, match="data.train: got 5000, needed at most"):
        _sweep_substrate.run(config("substrate", **DIGITS | {"data.train": 5000}))
