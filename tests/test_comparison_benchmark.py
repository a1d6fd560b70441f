"""The comparison: the same data and noise for all, equal parameters, runs that go on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import snn
from benchmarks import _common, _comparison_machines, _liquid_data, comparison
from benchmarks._common import run_main
from benchmarks._comparison_data import View, _binned, _coarser, _pooled
from benchmarks._comparison_ep import EpMachine, hidden_within
from benchmarks._comparison_liquid import LiquidMachine
from benchmarks._comparison_machines import (
    BUDGET,
    FACTORS,
    Clock,
    Linear,
    Machine,
    RandomRelu,
    accuracy,
    best_trial,
    noisy,
    right_answers,
)
from benchmarks._comparison_report import gap_table, gaps, summarise, table
from benchmarks._comparison_spiking import SpikingMachine, recurrent_within
from benchmarks._liquid_data import Part, Task
from eqprop._errors import ConfigError

CLASSES, CHANNELS, STEPS = 3, 30, 80


def accuracies(machine: Machine, noises: Sequence[float], batch: int, clock: Clock) -> dict[str, float]:
    return {noise: accuracy(right) for noise, right in right_answers(machine, noises, batch, clock).items()}


def part(count: int, seed: int, *, speakers: bool = False) -> Part:
    """Synthetic trains: each class has channels of its own that spike more."""
    labels = torch.arange(count) % CLASSES

    def trains(at: torch.Tensor, _: int) -> torch.Tensor:
        made = []
        for i in at.tolist():
            p = torch.full((CHANNELS,), 0.05)
            p[int(labels[i]) * 10 : int(labels[i]) * 10 + 10] = 0.3
            made.append(torch.rand(STEPS, CHANNELS, generator=torch.Generator().manual_seed(1000 * seed + i)) < p)
        return torch.stack(made)

    return Part(labels, trains, speakers=torch.arange(count) % 2 if speakers else None)


def task(name: str = "toy", *, speakers: bool = False) -> Task:
    parts = part(120, 1, speakers=speakers), part(30, 2, speakers=speakers)
    return Task(name, "made here", *parts, CHANNELS, STEPS, 1e-3, {"kind": "toy"}, ())


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


class Given(Linear):
    """A readout of these features."""

    def __init__(self, view: View, features: dict[str, torch.Tensor], test: torch.Tensor) -> None:
        super().__init__(view, 0)
        self._features, self._test = features, test

    def training_features(self, clock: Clock) -> dict[str, torch.Tensor]:
        return self._features

    def given(self, at: slice) -> torch.Tensor:
        return self._test[at]


def test_the_readout_that_validates_best_is_kept_whatever_its_scale(view: View) -> None:
    """Classes are angles here, and lengths vary a hundredfold: only the readout of shares sees them alike."""
    g = torch.Generator().manual_seed(0)
    y, y_test = view.labels
    angles = torch.stack([torch.nn.functional.one_hot(torch.arange(3), 3).float() + 1.2]).squeeze(0)

    def features(labels: torch.Tensor) -> torch.Tensor:
        return angles[labels] * 10 ** (4 * torch.rand(len(labels), 1, generator=g) - 2)

    made = Given(view, {"angles": features(y)}, features(y_test))
    made.train(Clock())
    assert made.settings["readout"] == "softmax" and made.settings["scale"] == "share"
    found = accuracies(made, (0.0, 0.001, 3.0), 30, Clock())
    x = made.given(slice(0, 30))
    assert found["0"] == 100 * made.readout.score(x, y_test) > 90
    assert found["0.001"] > 80 and found["3"] < 80


def test_readouts_learn_from_training_samples_alone(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation samples choose the feature; what they are is not learned, as by ridge regression that is refitted."""
    monkeypatch.setattr(_comparison_machines, "READOUTS", ("ridge",))
    y, sides = view.labels[0], view.sides
    g = torch.Generator().manual_seed(0)
    good = torch.nn.functional.one_hot(y, 3) + 0.5 * torch.randn(120, 3, generator=g)
    made = Given(view, {"bad": torch.randn(120, 3, generator=g), "good": good}, good[:30])
    made.train(Clock())
    assert made.feature == made.settings["feature"] == "good"
    elsewhere = good.clone()
    elsewhere[sides[1]] += 1e-3 * torch.randn(len(sides[1]), 3, generator=g)  # refitted, it would change
    again = Given(view, {"good": elsewhere}, good[:30])
    again.train(Clock())
    assert torch.equal(again.readout.coef_, made.readout.coef_)


def test_the_best_factor_on_the_rates_is_kept_and_the_first_of_equals() -> None:
    tried: list[float] = []

    def trial(factor: float) -> tuple[float, int, dict[str, torch.Tensor]]:
        tried.append(factor)
        return (0.5 if factor == 1.0 else 0.8), 3, {"w": torch.tensor(factor)}

    kept, chosen = best_trial(trial)
    assert tuple(tried) == FACTORS and float(kept["w"]) == pytest.approx(0.3)
    assert chosen == {"factor": 0.3, "epoch": 3, "validation": 0.8}


def test_spiking_networks_have_as_many_trials_as_ep(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("norse")
    tried: dict[str, list[tuple[Any, Any, Any]]] = {"ep": [], "spiking": []}
    for kind, name in ((EpMachine, "ep"), (SpikingMachine, "spiking")):
        real = kind._trained

        def watched(self: Any, *words: Any, real: Any = real, name: str = name) -> Any:
            started = {key: value.clone() for key, value in self.network.state_dict().items()}
            found = real(self, *words)
            tried[name].append((words[-2], started, found[0]))
            return found

        monkeypatch.setattr(kind, "_trained", watched)
    for name, made in (
        ("ep", EpMachine(view, 0, hidden=8, epochs=2)),
        ("spiking", SpikingMachine(view, 0, hidden=8, epochs=2)),
    ):
        made.train(Clock())
        factors, starts, rights = zip(*tried[name], strict=True)
        assert factors == FACTORS
        assert all(torch.equal(one[key], starts[0][key]) for one in starts for key in one)
        assert made.settings["validation"] == max(rights)


@pytest.mark.parametrize("speakers", [False, True])
def test_liquids_choose_between_counts_and_filtered_spikes_of_sounds_alone(
    speakers: bool, toy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_liquid_data.DATASETS, "toy", lambda *_: task(speakers=speakers))
    view = View(task(speakers=speakers), 120, 30)
    row = comparison.Row("toy", "liquid")
    made = comparison.machine(row, view, 0, comparison.options().parse_args(["--quiet"]))
    assert isinstance(made, LiquidMachine)
    found = made.training_features(Clock())
    assert list(found) == (["counts", "filter"] if speakers else ["counts"])
    assert len({x.shape for x in found.values()}) == 1
    trains = view.task.train.trains(torch.arange(120), 0)
    spikes = made.liquid.run(trains, record=snn.Record(spikes=True), health="ignore").recorded("spikes")
    assert torch.equal(found["counts"], spikes.sum(1).float())
    if speakers:
        torch.testing.assert_close(found["filter"], snn.ExponentialFilter(0.03)(spikes), rtol=1e-4, atol=1e-6)
        made.train(Clock())
        assert made.settings["feature"] in found
        x = made.features(trains[:5], 0.0, torch.Generator())
        torch.testing.assert_close(x, found[made.settings["feature"]][:5])


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
    said = capsys.readouterr().out
    assert "| toy | liquid | 1 |" in said and "| toy | ep | input | 1 |" in said
    assert {gap["row"]: gap["against"] for gap in summary["gaps"]} == {"ep": "input", "liquid": "recurrence-off"}
    assert all(gap["paired"] and gap["error_seeds"] is None for gap in summary["gaps"])
    assert " of counts" in rows["liquid"]["chosen"] and "x rates" in rows["ep"]["chosen"]
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


def test_only_rows_of_another_protocol_are_computed_anew(
    tmp_path: Path, toy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records without a protocol are of the first, in which EP has stayed."""
    out = tmp_path / "run"
    script(out, "--rows", "*/ep", "*/input", "*/random-relu")
    files = {path.parts[-3]: path for path in out.glob("*/*/seed0/result.json")}
    for path in (files["ep"], files["input"]):
        record = json.loads(path.read_text())
        del record["protocol"], record["right"]
        path.write_text(json.dumps(record | {"accuracy_percent": 12.0, "accuracies": {"0": 12, "0.1": 12, "0.3": 12}}))
    script(out, "--report")
    shown = json.loads((out / "report" / "summary.json").read_text())["rows"]
    assert [row["row"] for row in shown] == ["ep", "random-relu"] and shown[0]["accuracy_percent"]["0"] == 12
    before = {name: path.read_bytes() for name, path in files.items()}
    script(out, "--rows", "*/ep", "*/input", "*/random-relu")
    changed = [name for name, path in files.items() if path.read_bytes() != before[name]]
    assert changed == ["input"] and json.loads(files["input"].read_text())["accuracy_percent"] > 80
    (gap,) = json.loads((out / "report" / "summary.json").read_text())["gaps"]
    assert gap["row"] == "ep" and not gap["paired"]
    script(out, "--rows", "*/random-relu", "--overwrite")
    assert [path.parts[-3] for path in out.glob("*/*/seed0/result.json")] == ["random-relu"]


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
        numbers
        | {
            "dataset": "d",
            "label": "a",
            "accuracies": {"0": v, "0.5": 1.0},
            "epochs": 1,
            "kind": "MAC",
            "settings": {"factor": 0.3 if v < 85 else 1.0},
        }
        for v in (80.0, 90.0)
    ]
    (line,) = summarise(records, [("d", "b"), ("d", "a")])
    assert line["accuracy_percent"] == {"0": 85.0, "0.5": 1.0} and line["seeds"] == 2
    assert line["accuracy_deviation"]["0"] == pytest.approx(50**0.5)
    assert "| d | a | 2 | 85.00 +- 7.07 | 1.00 |" in table([line])
    assert line["chosen"] == "0.3 x rates (1 of 2), 1 x rates (1 of 2)"
    head, rule, row = table([line]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")


def test_gaps_are_of_the_same_seeds_and_test_samples() -> None:
    def record(label: str, seed: int, right: str) -> dict[str, Any]:
        found = {"dataset": "d", "label": label, "seed": seed, "right": right, "key": {"tests": len(right)}}
        return found | {"accuracy_percent": accuracy(right)}

    liquids = [record("liquid", 0, "1101"), record("liquid", 1, "1111"), record("liquid", 2, "0000")]
    offs = [record("recurrence-off", 0, "1001"), record("recurrence-off", 1, "1001")]
    (gap,) = gaps([*liquids, *offs], ["d"])
    assert gap["seeds"] == 2 and gap["more_percent"] == 37.5 and gap["paired"]
    assert gap["error_seeds"] == pytest.approx(12.5)  # of 25 and 50
    gain = torch.tensor([0.0, 1.0, 0.5, 0.0])  # of a sample, the mean of both seeds
    assert gap["error_test"] == pytest.approx(100 * float(gain.std(correction=0)) / 2)
    del offs[0]["right"]
    (gap,) = gaps([*liquids, *offs], ["d"])
    assert not gap["paired"] and gap["error_test"] == pytest.approx(100 * ((0.875 * 0.125 + 0.5 * 0.5) / 4) ** 0.5)
    assert "| d | liquid | recurrence-off | 2 | +37.50 | 12.50 |" in gap_table([gap])
    assert gaps(liquids, ["d"]) == []


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
