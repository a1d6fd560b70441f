"""The liquid suite of ``benchmarks.speed``, on small liquids; what it calls the same liquid is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import snn
from benchmarks import _common, _speed_liquid, speed
from benchmarks._counting import operations
from benchmarks._speed_liquid import (
    compared,
    densely,
    liquid_of,
    measured,
    products,
    scaled,
    with_norse_neurons,
)
from eqprop._errors import ConfigError

SMALL = {1000: (5, 5, 5)}  # 125 neurons under the name of 1,000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small liquids, and brian2 without a compiler."""
    monkeypatch.setattr(_speed_liquid, "GRIDS", SMALL)
    monkeypatch.setattr(_speed_liquid, "BATCHES", (1, 4))
    monkeypatch.setattr(_speed_liquid, "DURATIONS", (20, 60))
    monkeypatch.setattr(_speed_liquid, "SCALED_BATCH", 2)
    monkeypatch.setattr(_speed_liquid, "CHECKED", 1)
    to_brian2 = snn.to_brian2
    monkeypatch.setattr(snn, "to_brian2", lambda liquid, target: to_brian2(liquid, target="numpy"))


def trains(batch: int, steps: int) -> torch.Tensor:
    return torch.rand(batch, steps, 784, generator=torch.Generator().manual_seed(0)) < 0.05


def test_a_grid_of_1000_is_the_preset() -> None:
    made, preset = liquid_of(1000), snn.preset("nalsm1000", seed=0)
    assert made.input_weight is not None and preset.input_weight is not None
    assert torch.equal(made.weight, preset.weight) and torch.equal(made.input_weight, preset.input_weight)
    assert made.neuron == preset.neuron and made.relay == preset.relay


def test_every_grid_has_the_neurons_of_its_name() -> None:
    assert all(torch.tensor(edges).prod() == neurons for neurons, edges in _speed_liquid.GRIDS.items())


def test_the_liquid_of_norses_neuron_is_about_as_active(small: None) -> None:
    """Time constants and charges are about the same: a rate that is not would time other sparse sums."""
    liquid = liquid_of(1000)
    x = trains(4, 200)
    rates = [one.run(x, health="ignore").health.mean_rate_hz for one in (liquid, with_norse_neurons(liquid))]
    assert 0.5 < rates[1] / rates[0] < 2.0
    with pytest.raises(ConfigError, match="NALSM"):
        with_norse_neurons(with_norse_neurons(liquid))


def test_multiplying_whole_matrices_changes_no_spike(small: None) -> None:
    liquid = liquid_of(1000, torch.float64)
    x = trains(4, 100)
    found = [one.run(x, health="ignore").counts for one in (liquid, densely(liquid))]
    assert found[0].sum() > 0 and torch.equal(found[0], found[1])


def test_products_are_those_of_a_run(small: None) -> None:
    liquid, batch, steps = densely(liquid_of(1000)), 3, 40
    assert operations(products(liquid, batch, steps)) == steps * batch * 125 * (125 + 784)
    liquid.chunk_bytes = 125 * batch * 4 * 16  # 16 steps at once, which does not divide 40
    assert operations(products(liquid, batch, steps)) == steps * batch * 125 * (125 + 784)


def test_memory_does_not_grow_with_duration_but_with_the_batch(small: None) -> None:
    found = scaled(trains(4, 20), torch.device("cpu"), rounds=1)
    assert set(found) == {"neurons", "batch", "steps"} and set(found["steps"]) == {20, 60}
    assert found["steps"][60]["bytes"] == pytest.approx(found["steps"][20]["bytes"], rel=0.3)
    assert found["batch"][4]["bytes"] > 2 * found["batch"][1]["bytes"]
    assert found["neurons"][1000]["weight_bytes"] == 4 * 125 * (125 + 784)
    assert measured(liquid_of(1000), trains(2, 20), 1, 1)["seconds"] > 0


def test_what_is_missing_is_said_and_the_rest_measured(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("command 'gcc' failed\nmore")

    def absent(*_: Any, **__: Any) -> None:
        raise ConfigError("norse: needed norse")

    monkeypatch.setattr(snn, "to_brian2", broken)
    monkeypatch.setattr(snn, "to_norse", absent)
    made = compared(trains(3, 60), 1000, torch.device("cpu"))
    assert [figure[1] for figure in made.figures] == ["liquid", "liquid, dense"]
    assert any("command 'gcc' failed" in note and "more" not in note for note in made.notes)
    assert any("needed norse" in note for note in made.notes) and not made.mismatches


def test_a_silent_liquid_cannot_be_compared(small: None) -> None:
    made = compared(torch.zeros(2, 10, 784, dtype=torch.bool), 1000, torch.device("cpu"))
    assert all("got no spike" in note for note in made.notes) and len(made.notes) == 3


def test_the_suite_reports_ratios_and_equal_spikes(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("brian2")
    pytest.importorskip("norse")
    out = tmp_path / "run"
    words = "--suite liquid --batch-size 4 --sweeps 40 --rounds 1 --device cpu --out".split()
    _common.run_main(speed.main, speed.options(), [*words, str(out)])
    summary = json.loads((out / "summary.json").read_text())
    targets = [f["target"] for f in summary["headline"] if f.get("target")]
    assert targets == ["<= 1.5", ">= 20", ">= 3", ">= 1.3", "<= 0", "<= 0", "<= 0"]
    different = [f["value"] for f in summary["headline"] if f["name"].startswith("spikes of")]
    assert different == [0, 0, 0] and summary["not_measured"] == []
    assert all(f["value"] > 0 for f in summary["headline"] if not f["name"].startswith("spikes of"))
    times, samples = summary["median_seconds"], summary["samples_a_call"]
    first = summary["headline"][0]
    assert first["value"] == pytest.approx(times["liquid"] / times["dense products"])
    faster = next(f for f in summary["headline"] if "brian2, cython" in f["name"])
    assert faster["value"] == pytest.approx(times["brian2"] / (times["liquid, float64"] / samples["liquid, float64"]))
    assert (out / "figures" / "scaling.png").stat().st_size > 10_000
    assert "ms a sample" in capsys.readouterr().out
