"""The sweep of resistive liquids over their faults, on trains made here; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _common, _rram_points, rram
from benchmarks._common import run_main
from benchmarks._liquid_data import Part, Task
from benchmarks._rram_figures import robustness
from benchmarks._rram_points import Config, chip, run, run_many, without_recurrence
from benchmarks._rram_report import ARMS
from eqprop._errors import ConfigError

CLASSES, CHANNELS, STEPS = 3, 30, 60
SMALL = Config(dataset="toy", samples=90, test=24, weight=0.6, batch_size=50)


def part(count: int, seed: int, rate: float = 0.5) -> Part:
    """Each class has channels of its own that spike more."""
    labels = torch.arange(count) % CLASSES

    def trains(at: torch.Tensor, _: int) -> torch.Tensor:
        made = []
        for i in at.tolist():
            p = torch.full((CHANNELS,), rate / 5)
            p[int(labels[i]) * 10 : int(labels[i]) * 10 + 10] = rate
            made.append(torch.rand(STEPS, CHANNELS, generator=torch.Generator().manual_seed(1000 * seed + i)) < p)
        return torch.stack(made)

    return Part(labels, trains)


def task(rate: float = 0.5) -> Task:
    parts = part(90, 1, rate), part(24, 2, rate)
    return Task("toy", "made here", *parts, CHANNELS, STEPS, 1e-3, {"kind": "toy"}, ())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    made = task()
    monkeypatch.setattr(_rram_points, "task_of", lambda _: made)


def test_points_of_a_chip_are_those_of_it_alone(toy: None) -> None:
    configs = rram.points_of(SMALL, (0.0, 0.5), 1, curves=True)
    assert [(c.variability, c.read_noise) for c in configs] == [(None, 0.02), (0.0, 0.0), (0.0, 0.5), (0.5, 0.0)]
    found = run_many(configs)
    assert found[2] == run(configs[2]) and found[2] != found[1]
    assert all(result["accuracy_percent"] > 60 and result["mean_rate_hz"] > 0 for result in found)
    assert len({result["input_percent"] for result in found}) == 1
    with pytest.raises(ConfigError, match="several chips"):
        run_many([SMALL, rram.points_of(SMALL, (0.0,), 2, curves=True)[1]])


def test_without_recurrence_a_chip_has_the_same_input_and_no_other_noise(toy: None) -> None:
    noisy = chip(Config(weight=0.6, read_noise=0.3), task())
    off = without_recurrence(noisy)
    assert noisy.weight.abs().sum() > 0 and off.weight.abs().sum() == off.scale.abs().sum() == 0
    assert torch.equal(off.input_scale, noisy.input_scale) and off.read_noise == 0.3


def test_noise_that_is_drawn_for_all_steps_at_once_costs_accuracy(toy: None) -> None:
    """Noise of every access averages out over a sample; at 300 % of a whole sample little of the weights is left."""
    weak, strong = (
        run(Config(dataset="toy", samples=90, test=24, weight=0.6, read_noise=noise, scope="sample"))
        for noise in (0.0, 3.0)
    )
    assert strong["accuracy_percent"] < weak["accuracy_percent"]


def test_every_pair_of_levels_is_asked_once_a_chip() -> None:
    points = rram.points_of(SMALL, (0.0, 0.2, 0.4), 2, curves=False)
    assert len(points) == len(set(points)) == 2 * (1 + 9)
    assert len(rram.points_of(SMALL, (0.0, 0.2, 0.4), 2, curves=True)) == 2 * (1 + 5)


def test_means_and_deviations_are_over_chips() -> None:
    result = {**dict.fromkeys(ARMS, 50.0), "mean_rate_hz": 1.0, "silent_share": 0.0}
    points = rram.points_of(SMALL, (0.0, 0.5), 2, curves=True)
    values = [80.0 + 10 * p.seed - 100 * (p.read_noise if p.variability is not None else 0) for p in points]
    lines = rram.lines_of([(p, result | {"accuracy_percent": v}) for p, v in zip(points, values, strict=True)])
    noise = rram.axis(lines, "read_noise")
    assert [line["level"] for line in noise] == [0.0, 0.5]
    assert [line["accuracy_percent"] for line in noise] == [85.0, 35.0]
    assert noise[0]["accuracy_percent_deviation"] == pytest.approx(50**0.5)
    names = {figure["name"]: figure["value"] for figure in rram.headline(lines)}
    assert names["liquid, device as measured, mean of 2 chips"] == 85.0
    assert names["liquid, read noise 50 %, the other fault 0"] == 35.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--dataset mnits", "--dataset"),
        ("--dataset digits --seeds 0", "--seeds: got 0"),
        ("--dataset digits --levels 0.1 0.2", "--levels"),
        ("--dataset digits --levels 0 nan", "--levels"),
        ("--dataset digits --scope sometimes", "--scope"),
        ("--dataset digits --samples 5", "--samples: got 5"),
        ("--dataset nmnist --data /nowhere", "--dataset nmnist"),
        ("--dataset digits --weight 0.01", "--weight 0.01"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("EQPROP_DATA", "")
    with pytest.raises(SystemExit) as exit_:
        run_main(rram.main, rram.options(), [*words.split(), "--out", str(tmp_path / "run")], make_run=False)
    text = capsys.readouterr().err
    assert exit_.value.code == 2 and text.count("\n") == 1 and said in text
    assert not (tmp_path / "run").exists()


def test_a_sweep_goes_on_and_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("mlxtend")
    monkeypatch.setattr(_common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    argv = "--dataset digits --samples 80 --test 20 --levels 0 0.5 --curves --seeds".split()
    last = ["--quiet", "--threads", "1", "--out", str(tmp_path / "run"), "--record", "rram"]
    run_main(rram.main, rram.options(), [*argv, "1", *last], make_run=False)
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "points").iterdir()}
    assert len(written) == 4
    run_main(rram.main, rram.options(), [*argv, "1", *last], make_run=False)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "points").iterdir()}
    again = json.loads((tmp_path / "results" / "rram.json").read_text())
    assert again["lines"] == first["lines"] and len(again["lines"]) == 4
    assert (tmp_path / "results" / "rram-robustness.png").exists()
    assert "recurrence off" in capsys.readouterr().out


def test_curves_that_share_an_axis_are_drawn_whole() -> None:
    keys = ("accuracy_percent", "recurrence_off_percent", "random_relu_percent", "input_percent")

    def line(level: float, value: float) -> dict[str, float]:
        return {"level": level} | {key: value for key in keys} | {f"{key}_deviation": 1.0 for key in keys}

    curves = {"variability": [line(0.0, 90.0), line(0.5, 88.0)], "read_noise": [line(0.0, 90.0), line(0.5, 40.0)]}
    figure = robustness(curves, [], "made up", 100)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low < 39.0 and high > 91.0


@pytest.mark.parametrize(("spread", "wide"), [(0.5, 4 * 3.0), (30.0, 30.0)])
def test_the_map_spans_four_standard_errors_of_its_test_samples_at_least(spread: float, wide: float) -> None:
    """Of 100 samples at 90 %, a standard error of 3 %; a larger range is shown as it is."""
    low = 90.0 - spread if spread < 1 else 90.0 - 30.0
    pairs = [(v, n) for v in (0.0, 0.5) for n in (0.0, 0.5)]
    lines = [
        {"variability": v, "read_noise": n, "accuracy_percent": low if (v, n) == (0.5, 0.5) else 90.0} for v, n in pairs
    ]
    tests = 100 if spread < 1 else 10**6
    keys = [*ARMS, *(f"{key}_deviation" for key in ARMS)]
    curve = [dict.fromkeys(keys, 90.0) | {"level": level} for level in (0.0, 0.5)]
    figure = robustness({"read_noise": curve}, lines, "made up", tests)
    (image,) = (image for axes in figure.axes for image in axes.get_images())
    least, most = image.get_clim()
    assert most - least == pytest.approx(wide, rel=0.05) and least <= low <= 90.0 <= most
    error = "3.1" if spread < 1 else "0.0"
    said = figure.get_supxlabel().replace("\n", " ")
    assert f"the same {tests:,} test samples" in said and f"a standard error of up to {error} %" in said
