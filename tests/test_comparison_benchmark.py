"""The comparison: the same data and noise for all, equal parameters, runs that go on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import snn
from benchmarks import _common, _liquid_data, comparison
from benchmarks._common import run_main
from benchmarks._comparison_data import View, _binned, _coarser, _pooled
from benchmarks._comparison_ep import EpMachine, hidden_within
from benchmarks._comparison_machines import BUDGET, Clock, Linear, Machine, RandomRelu, accuracies, noisy
from benchmarks._comparison_report import summarise, table
from benchmarks._comparison_spiking import SpikingMachine, recurrent_within
from benchmarks._liquid_data import Part, Task
from eqprop._errors import ConfigError

CLASSES, CHANNELS, STEPS = 3, 30, 80


def part(count: int, seed: int) -> Part:
    """Synthetic trains: each class has channels of its own that spike more."""
    labels = torch.arange(count) % CLASSES

    def trains(at: torch.Tensor, _: int) -> torch.Tensor:
        made = []
        for i in at.tolist():
            p = torch.full((CHANNELS,), 0.05)
            p[int(labels[i]) * 10 : int(labels[i]) * 10 + 10] = 0.3
            made.append(torch.rand(STEPS, CHANNELS, generator=torch.Generator().manual_seed(1000 * seed + i)) < p)
        return torch.stack(made)

    return Part(labels, trains)


def task(name: str = "toy") -> Task:
    return Task(name, "made here", part(120, 1), part(30, 2), CHANNELS, STEPS, 1e-3, {"kind": "toy"}, ())


@pytest.fixture
def view() -> View:
    return View(task(), 120, 30)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small data set, and a small liquid in place of the preset."""
    preset = snn.preset

    def small(name: str, *, seed: int = 0, weight: float | None = None, inputs: int | None = None) -> snn.Liquid:
        return preset("rram200", seed=seed, weight=weight, inputs=inputs)

    monkeypatch.setattr(snn, "preset", small)
    monkeypatch.setitem(_liquid_data.DATASETS, "toy", lambda *_: task())


def script(out: Path, *words: str) -> None:
    argv = ["--datasets", "toy", "--seeds", "1", "--quiet", "--epochs", "2", "--out", str(out), *words]
    run_main(comparison.main, comparison.options(), argv, make_run=False)


# -- data --------------------------------------------------------------------------------------------------------------


def test_every_view_counts_the_same_events(view: View) -> None:
    trains = view.task.test.trains(torch.arange(30), 0)
    still, coarse = view.still[1], view.coarse(0)[1]
    scale = view.task.train.trains(torch.arange(120), 0).sum(1).max()
    torch.testing.assert_close(still * scale, trains.sum(1).float().clamp(max=float(scale)))
    assert coarse.shape == (30, 80, CHANNELS) and torch.equal(coarse.bool(), trains)
    assert float(view.still[0].max()) == 1.0
    assert torch.equal(_coarser(torch.ones(2, 103, 4))[0], torch.full((51, 4), 2.0))
    assert _binned(torch.ones(1, 7, 2), 3)[0, :, 0].tolist() == [2, 2, 3]


def test_event_files_are_pooled_by_pixels_and_polarities() -> None:
    x = torch.zeros(1, 1, 2, 34, 34, dtype=torch.bool)
    x[0, 0, 0, 4, 6] = x[0, 0, 1, 5, 7] = x[0, 0, 1, 33, 33] = True
    pooled = _pooled(task("nmnist"), x.flatten(2)).view(17, 17)
    assert pooled.sum() == 3 and pooled[2, 3] == 2 and pooled[16, 16] == 1


# -- machines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [200, 289, 784])
def test_parameters_are_equal_as_far_as_whole_neurons_allow(inputs: int) -> None:
    def of_ep(h: int) -> int:
        return inputs * h + h + 10 * h + 10

    def of_spiking(h: int) -> int:
        return inputs * h + h * h + 10 * h + 10

    for count, hidden in ((of_ep, hidden_within(inputs)), (of_spiking, recurrent_within(inputs))):
        assert count(hidden) <= BUDGET < count(hidden + 1)


def test_read_noise_is_relative_and_drawn_anew() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.full((400, 400), -2.0)
    first, second = (noisy(weight, 0.3, generator) for _ in range(2))
    assert first.mean() == pytest.approx(-2.0, abs=0.01) and first.std() == pytest.approx(0.6, rel=0.02)
    assert not torch.equal(first, second) and noisy(weight, 0.0, generator) is weight


@pytest.mark.parametrize("kind", ["linear", "relu", "ep", "chip", "spiking"])
def test_what_learns_learns_and_noise_takes_it_away(kind: str, view: View) -> None:
    if kind == "spiking":
        pytest.importorskip("norse")
    makers: dict[str, Any] = {
        "linear": lambda: Linear(view, 0),
        "relu": lambda: RandomRelu(view, 0),
        "ep": lambda: EpMachine(view, 0, hidden=16, epochs=12),
        "chip": lambda: EpMachine(view, 0, hidden=16, epochs=12, training_noise=0.1),
        "spiking": lambda: SpikingMachine(view, 0, hidden=16, epochs=20),
    }
    made: Machine = makers[kind]()
    training, inference = Clock(), Clock()
    made.train(training)
    found = accuracies(made, (0.0, 0.1, 5.0), 10, inference)
    assert found["0"] > 85 and found["0.1"] > 60 and found["5"] < found["0"]
    assert training.seconds > 0 and inference.seconds > 0 and made.operations() > 0
    assert accuracies(made, (0.0,), 30, Clock())["0"] == found["0"]


def test_operations_and_parameters_are_those_of_the_shapes(view: View) -> None:
    ep = EpMachine(view, 0, hidden=16, epochs=1)
    assert ep.trained_parameters() == 30 * 16 + 16 + 16 * 3 + 3
    assert ep.operations() == 30 * 16 + 10 * 2 * 16 * 3  # the input once, both ways in every sweep
    relu = RandomRelu(view, 0)
    relu.train(Clock())
    assert relu.operations() == 1000 * CHANNELS + 1000 * CLASSES and relu.fixed_parameters() == 1000 * CHANNELS
    assert relu.trained_parameters() == 1000 * CLASSES + CLASSES


def test_a_chip_is_read_anew_in_every_pass_and_alike_by_all_of_its_samples(view: View) -> None:
    made = EpMachine(view, 0, hidden=16, epochs=1)
    x = view.still[1][:1].repeat(4, 1)
    chip = made._on_chip(0.3)
    first, second = (made.rule.predict(chip, x) for _ in range(2))
    assert not torch.allclose(first, second) and not torch.allclose(first, made.rule.predict(made.network, x))
    torch.testing.assert_close(first, first[:1].expand_as(first))


def test_test_labels_change_nothing_that_is_learned(view: View) -> None:
    turned = task()
    turned.test.labels.copy_((turned.test.labels + 1) % CLASSES)
    machines = [EpMachine(v, 0, hidden=8, epochs=3) for v in (view, View(turned, 120, 30))]
    for made in machines:
        made.train(Clock())
    own, other = (made.network.state_dict() for made in machines)
    assert all(torch.equal(own[name], other[name]) for name in own) and machines[0].settings == machines[1].settings


# -- the script --------------------------------------------------------------------------------------------------------


def test_runs_are_kept_reported_and_recorded(
    tmp_path: Path, toy: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    out = tmp_path / "run"
    script(out, "--rows", "*/ep", "*/liquid", "*/recurrence-off", "*/input", "--record", "comparison")
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*/seed0/result.json")}
    assert {path.parts[-3] for path in files} == {"ep", "liquid", "recurrence-off", "input"}
    summary = json.loads((tmp_path / "results" / "comparison.json").read_text())
    rows = {row["row"]: row for row in summary["rows"]}
    assert list(rows) == ["ep", "liquid", "recurrence-off", "input"]
    assert rows["liquid"]["accuracy_percent"]["0"] > 85 and rows["liquid"]["trained_parameters"] == 603
    assert rows["recurrence-off"]["fixed_parameters"] < rows["liquid"]["fixed_parameters"]
    assert rows["liquid"]["operations"] > rows["recurrence-off"]["operations"]
    assert (tmp_path / "results" / "comparison-comparison.png").exists()
    assert "| toy | liquid | 1 |" in capsys.readouterr().out
    script(out, "--rows", "*/random-relu", "--seeds", "2")  # the others are there
    assert all(path.stat().st_mtime_ns == files[path] for path in files)
    again = json.loads((out / "report" / "summary.json").read_text())
    assert len(again["rows"]) == 5 and again["rows"][0] == rows["ep"]
    with pytest.raises(SystemExit):
        script(out, "--rows", "*/input", "--samples", "90")
    assert "samples 120" in capsys.readouterr().err
    script(out, "--rows", "*/input", "--samples", "90", "--overwrite")
    again = json.loads((out / "report" / "summary.json").read_text())
    assert [row["row"] for row in again["rows"]] == ["input"] and again["samples"]["toy"]["samples"] == 90


def test_without_norse_the_other_rows_run(
    tmp_path: Path, toy: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise ConfigError("norse: needed norse")

    monkeypatch.setattr(comparison, "norse_lif", absent)
    script(tmp_path / "run", "--rows", "*/input", "*/spiking*")
    assert capsys.readouterr().out.count("not run: toy/spiking") == 2
    assert json.loads((tmp_path / "run" / "report" / "summary.json").read_text())["not_run"]


def test_means_are_over_seeds() -> None:
    numbers = dict.fromkeys(
        ("trained_parameters", "fixed_parameters", "operations", "training_cpu_seconds", "inference_cpu_milliseconds"),
        1.0,
    )
    records = [
        numbers | {"dataset": "d", "label": "a", "accuracies": {"0": v, "0.5": 1.0}, "epochs": 1, "kind": "MAC"}
        for v in (80.0, 90.0)
    ]
    (line,) = summarise(records, [("d", "b"), ("d", "a")])
    assert line["accuracy_percent"] == {"0": 85.0, "0.5": 1.0} and line["seeds"] == 2
    assert line["accuracy_deviation"]["0"] == pytest.approx(50**0.5)
    assert "| d | a | 2 | 85.00 +- 7.07 | 1.00 |" in table([line])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--datasets mnits", "mnits"),
        ("--rows */nothing", "--rows"),
        ("--seeds 0", "--seeds: got 0"),
        ("--samples 10", "--samples: got 10"),
        ("--test 0", "--test: got 0"),
        ("--noise 0.1", "--noise"),
        ("--noise 0 nan", "--noise"),
        ("--noise 0 0.1 0.1", "--noise"),
        ("--epochs 0", "--epochs: got 0"),
        ("--report", "found no finished run"),
        ("--datasets nmnist --data /nowhere", "--dataset nmnist"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: str, said: str, tmp_path: Path, toy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        script(tmp_path / "run", *words.split())
    text = capsys.readouterr().err
    assert exit_.value.code == 2 and text.count("\n") == 1 and said in text


def test_runs_at_other_noises_are_not_mixed(tmp_path: Path, toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    script(tmp_path / "run", "--rows", "*/input")
    with pytest.raises(SystemExit):
        script(tmp_path / "run", "--rows", "*/random-relu", "--noise", "0", "0.5")
    assert "noise [0.0, 0.1, 0.3], got" in capsys.readouterr().err
    assert not (tmp_path / "run" / "toy" / "random-relu").exists()
