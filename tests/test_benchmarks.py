"""The scripts of `benchmarks/`, end to end on a few embedded digits, and the figures they draw."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks import _common, mnist, table
from eqprop._data import load_dataset
from eqprop._diagnostics import match
from eqprop._errors import ConfigError
from eqprop._figures import gradient_alignment, learning_curves, receptive_fields, relaxation
from eqprop._history import History
from eqprop._runs import Run, load

TINY = "--dataset digits --network 784-12-10 --train 64 --epochs 2 --free-sweeps 4 --nudged-sweeps 4 --quiet".split()
TINY += ["--lr", "0.05", "--beta", "0.2"]


@pytest.fixture(autouse=True)
def _read_the_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "load_dataset", _load)


_load = functools.cache(load_dataset)


def script(*words: str) -> int:
    return _common.run_main(mnist.main, mnist.options(), [*TINY, *words], make_run=False, several=True)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        script(*words)
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("rule", mnist.RULES)
def test_every_rule_trains_writes_its_folder_and_reports(
    tmp_path: Path, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    script("--rule", rule, "--out", str(out))
    printed = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    error = summary["headline"][0]
    assert error["name"] == "test error" and f"{error['value']:.2f} %" in printed
    assert summary["command"].startswith("python -m benchmarks.mnist --dataset digits")
    assert summary["results"]["0"]["steps"] == 8 and summary["seeds"] == [0] and summary["data"]["name"] == "digits"
    assert str(tmp_path) not in json.dumps(summary)
    figures = {"learning_curves", "receptive_fields"}
    if rule != "backprop":
        figures |= {"relaxation", "gradient_alignment"}
    assert {path.stem for path in (out / "figures").iterdir()} == figures
    assert len(Run.open(out).read_history()) == 2
    network: Any = load(out)
    assert network.output(network.initial_state(3)).shape == (3, 10)


def test_no_figure_is_drawn_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    save = Run.save_figure

    def counting(run: Run, name: str, figure: Any) -> Path:
        drawn.append(name)
        return save(run, name, figure)

    monkeypatch.setattr(Run, "save_figure", counting)
    script("--out", str(tmp_path / "run"))
    assert sorted(drawn) == ["gradient_alignment", "learning_curves", "receptive_fields", "relaxation"]


def test_a_folder_in_the_way_resume_and_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    script(*out)
    assert "already holds the same run" in refused(capsys, *out)
    assert "another run (beta: 0.2 there, 0.3 asked)" in refused(capsys, *out, "--beta", "0.3")
    assert "lr: " in refused(capsys, *out, "--lr", "0.3", "--resume")
    before = {name: value.clone() for name, value in load(tmp_path / "run").state_dict().items()}
    script(*out, "--resume")
    after = load(tmp_path / "run").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    script(*out, "--beta", "0.3", "--overwrite")
    assert Run.open(tmp_path / "run").config["beta"] == 0.3


def test_several_seeds_report_the_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("--out", str(tmp_path / "run"), "--seeds", "2", "--seed", "5")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    each = [
        json.loads((tmp_path / "run" / f"seed-{seed}" / "summary.json").read_text())["headline"][0]["value"]
        for seed in (5, 6)
    ]
    assert summary["headline"][0] == {
        "name": "test error, mean of 2 seeds", "value": pytest.approx(sum(each) / 2), "unit": "%",
    }  # fmt: skip
    assert summary["seeds"] == [5, 6]


def test_record_copies_the_summary_and_the_table_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(_common, "RESULTS", results)
    script("--out", str(tmp_path / "run"), "--record", "tiny")
    assert (results / "tiny.json").read_bytes() == (tmp_path / "run" / "summary.json").read_bytes()
    record = json.loads((results / "tiny.json").read_text())
    record["headline"][0]["target"] = ">= 0"
    (results / "judged.json").write_text(json.dumps(record))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    options = ["--readme", str(readme), "--results", str(results)]
    assert table.main([*options, "--check"]) == 1
    assert "old" in readme.read_text()
    assert table.main(options) == 0
    text = readme.read_text()
    assert "| digits, 784-12-10, ep, 2 epochs | test error |" in text
    assert "1 of 1 met | [judged](benchmarks/results/judged.json)" in text
    assert "tiny" not in text and "[tiny](tiny.json)" in (results / "README.md").read_text(), "it has no target"
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert table.main([*options, "--check"]) == 0
    readme.write_text("no markers")
    assert table.main(options) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--network", "784-x-10"], "--network: got '784-x-10'"),
        (["--network", "100-12-10"], "digits needs 784-...-10"),
        (["--lr", "0.1,fast"], "--lr: got '0.1,fast'"),
        (["--lr", "0.1,0.1,0.1"], "learning rates: got 3"),
        (["--lr", "-1"], "--lr: got (-1.0,)"),
        (["--beta", "0"], "beta"),
        (["--activation", "step"], "step"),
        (["--epochs", "0"], "--epochs: got 0"),
        (["--device", "warp"], "--device: got 'warp'"),
        (["--threads", "0"], "--threads: got 0"),
        (["--record", "a/b"], "--record: got 'a/b'"),
        (["--seeds", "0"], "--seeds: got 0"),
        (["--data", "/nowhere"], "data"),
        (["--train", "99999"], "--train: got 99999"),
    ],
)
def test_a_bad_option_is_one_plain_line(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "--out", str(tmp_path / "run"), *words)
    assert text in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mnist.options().parse_args(["--help"])
    text = capsys.readouterr().out
    assert "usage: python -m benchmarks.mnist [options]" in text and "default: None" not in text
    assert "mnist 784-1024-10" in text


def test_presets_fit_their_networks() -> None:
    for dataset, network in [*mnist.PRESETS, ("mnist", "784-9-9-9-9-10"), ("digits", "784-99-10")]:
        settings = mnist.preset(dataset, network)
        assert len(settings["lr"]) in (1, len(_common.sizes(network)) - 1)
        assert set(settings) == set(mnist.DEFAULTS)


def test_the_command_is_recorded_without_absolute_paths() -> None:
    words = ["--out", "/home/someone/runs/a", "--data=/srv/mnist", "--lr", "0.1,0.2", "runs/b"]
    shown = _common.command_line("python -m benchmarks.mnist", words)
    assert shown == "python -m benchmarks.mnist --out a --data=mnist --lr 0.1,0.2 runs/b"


def test_targets_say_whether_they_are_met() -> None:
    figure = {"name": "error", "value": 1.85, "unit": "%", "target": "<= 1.9"}
    assert _common.target_text(figure) == "≤ 1.9 %, met"
    assert _common.target_text(figure | {"target": ">= 1.9"}) == "≥ 1.9 %, missed"


def _history(epochs: int) -> History:
    history = History()
    for epoch in range(1, epochs + 1):
        history.append({"epoch": epoch, "train_error": 0.5 / epoch, "train_loss": 1 / epoch, "validation_error": 0.4})
    return history


@pytest.mark.parametrize("has_energy", [True, False])
def test_the_legend_of_a_relaxation_fits_into_the_figure(has_energy: bool) -> None:
    falling = np.geomspace(1.0, 1e-6, 12)[:, None] * np.ones(4)
    both = (falling if has_energy else None, falling)
    figure = relaxation({name: both for name in ("free", "nudged, β = 0.5", "nudged, β = −0.5")}, tol=1e-3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, whole = figure.legends[0].get_window_extent(canvas.get_renderer()), figure.bbox
    assert whole.x0 <= drawn.x0 and drawn.x1 <= whole.x1 and whole.y0 <= drawn.y0


def test_an_energy_that_rises_towards_its_end_is_drawn_too() -> None:
    rising = -np.geomspace(1.0, 1e-6, 12)
    line = relaxation({"free": (rising, -rising)}).axes[0].get_lines()[0]
    assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()


def test_figures_draw_and_refuse_what_they_cannot_show(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    generator = np.random.default_rng(0)
    falling = np.exp(-np.arange(8.0))[:, None] * (1 + generator.random((8, 5)))
    asymmetric = _history(3)
    asymmetric.series |= {"homeostasis_norm": [3.0, 2.0, 2.0], "homeostasis_symmetry": [-1.0, -1.5, -2.0]}
    figures = {
        "curves": learning_curves(_history(3)),
        "asymmetry": learning_curves(asymmetric),
        "fields": receptive_fields(generator.normal(size=(30, 784)), "hidden1"),
        "oblong": receptive_fields(torch.ones(3, 12), shape=(3, 4)),
        "relaxation": relaxation({"free": (falling, falling), "nudged": (None, falling[:, 0])}, tol=1e-3),
        "field": relaxation({"free": (None, falling)}),
        "still": relaxation({"free": (np.zeros(4), np.zeros(4))}),
        "bars": gradient_alignment({"hidden1": 0.99, "output": -0.2}),
        "lines": gradient_alignment({"hidden1": [0.9, 0.99], "output": [0.5, 0.7]}),
    }
    assert [len(figures[name].axes) for name in ("curves", "asymmetry", "relaxation", "field")] == [2, 3, 2, 1]
    for name, figure in figures.items():
        assert run.save_figure(name, figure).stat().st_size > 5000
    for bad in (
        lambda: learning_curves(History()),
        lambda: receptive_fields(np.ones((3, 12))),
        lambda: receptive_fields(np.ones(9)),
        lambda: gradient_alignment({}),
    ):
        with pytest.raises(ConfigError):
            bad()


def test_a_layer_without_a_cosine_is_shown_with_a_word() -> None:
    some, none = torch.tensor([1.0, 2.0]), torch.zeros(2)
    values = {
        "right": match(some, some),
        "reversed": match(-some, some),
        "silent": match(none, some),
        "no aim": match(some, none),
        "neither": match(none, none),
        "broken": match(some * math.nan, some),
        "number": math.nan,
    }
    (axes,) = gradient_alignment(values).axes
    shown = {label.get_text(): text.get_text() for label, text in zip(axes.get_yticklabels(), axes.texts, strict=True)}
    assert shown == {
        "right": "1.0000", "reversed": "-1.0000", "silent": "gradient is 0", "no aim": "implicit gradient is 0",
        "neither": "both gradients are 0", "broken": "n/a", "number": "n/a",
    }  # fmt: skip
    assert len(axes.patches) == len(values) and axes.get_xlim()[0] == pytest.approx(-1.1)
    (axes,) = gradient_alignment({"hidden1": math.nan}, "truth").axes
    assert [text.get_text() for text in axes.texts] == ["n/a"] and axes.get_xlim()[0] == 0.0
    (axes,) = gradient_alignment({"hidden1": [0.9, math.nan], "output": [math.nan, math.nan]}).axes
    assert axes.get_legend_handles_labels()[1] == ["hidden1", "output (n/a)"]


def test_points_of_the_preset_are_for_a_circle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def rule(*words: str) -> Any:
        arguments = mnist.options().parse_args([*TINY, *words])
        return mnist.make_rule(mnist.make_config(arguments, "digits", torch.device("cpu")))

    assert rule("--contour", "cauchy").points == mnist.DEFAULTS["points"] != rule().points
    assert rule("--contour", "cauchy", "--points", "4").points == 4
    words = ("--points", "7", "--out", str(tmp_path / "run"))
    assert "--points: got 7 with --contour centred, which has no use for it" in refused(capsys, *words)
