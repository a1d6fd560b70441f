"""Tables, intervals, fronts and figures of sweeps, and the scripts `benchmarks.sweep` and `benchmarks.compare`."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

import eqprop
from benchmarks import _common, _sweep_mnist, _sweep_mnist_config, _sweep_targets, _sweep_words, compare, sweep
from eqprop import ConfigError, RunFolderError
from eqprop._sweep_config import plain, point_key
from eqprop._sweep_folder import SweepFolder
from eqprop._sweep_point import Outcome, Point, plain_result
from eqprop._sweep_statistics import pareto_front
from eqprop._sweep_table import unit_of, write_tables
from tests.sweep_points import Config, Part, figures

pytest.importorskip("pandas")


def recorded(folder: Path, configs: list[Config], shift: float = 0.0, **changes: Any) -> Path:
    """A sweep's folder as it is after those points, without the processes."""
    folder.mkdir(parents=True, exist_ok=True)
    held = SweepFolder.create(folder, run="tests.run", config="Config", version="1")
    for config in configs:
        spec = plain(config)
        key = point_key(spec, "1")
        if config.what == "raise":
            outcome = Outcome(key, "error", message="ValueError: no")
        else:
            result = plain_result(figures(config)) | changes
            result["error_percent"] += shift
            outcome = Outcome(key, result=result, wall_seconds=1.0)
        held.write(Point(key, config, spec), outcome)
    write_tables(held, held.read().values())
    return folder


GRID = eqprop.grid(Config, beta=[0.1, 0.2, 1.0], seed=range(3), **{"part.adc_bits": [8, 10]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("sweep"), [*GRID, Config(what="raise")])


@pytest.fixture(scope="module")
def frame(folder: Path) -> Any:
    return eqprop.load_sweep(folder)


def errors_of(row: dict[str, Any]) -> list[float]:
    """Of the seeds of a row's config."""
    configs = [
        c for c in GRID if c.part is not None and (c.beta, c.part.adc_bits) == (row["beta"], row["part.adc_bits"])
    ]
    return [figures(c)["error_percent"] for c in configs]


# -- the table -------------------------------------------------------------------------------------------------------


def test_a_row_a_point_and_layer_and_every_figure_once(frame: Any) -> None:
    done = frame[frame["status"] == "done"]
    assert len(done) == 3 * len(GRID) and set(done["layer"].dropna()) == {"hidden1", "output"}
    assert done["error_percent"].notna().sum() == len(GRID) == done["point"].nunique()
    assert done["cosine"].notna().sum() == 2 * len(GRID)
    assert "losses" not in frame  # a series stays in the point's file
    (failed,) = frame[frame["status"] != "done"].to_dict("records")
    assert failed["status"] == "error" and failed["what"] == "raise" and math.isnan(failed["error_percent"])
    assert frame.attrs["config"] == ["beta", "seed", "part.adc_bits", "part.noise", "what", "marks"]


def test_values_are_those_that_were_returned(frame: Any) -> None:
    whole = frame[frame["layer"].isna() & (frame["status"] == "done")].set_index(["beta", "seed", "part.adc_bits"])
    for config in GRID:
        assert config.part is not None
        row = whole.loc[(config.beta, config.seed, config.part.adc_bits)]
        assert row["error_percent"] == figures(config)["error_percent"]


def test_csv_and_hdf5_hold_the_same_table_and_units(folder: Path, frame: Any) -> None:
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == list(frame.columns) and len(rows) == len(frame) + 1
    with h5py.File(folder / "table.h5") as file:
        assert file["error_percent"].attrs["unit"] == "%" and file["part.adc_bits"].attrs["unit"] == "bit"
        assert file["seed"].dtype == np.int64 and list(file) == list(frame.columns)
        for name, column in (("beta", 2), ("error_percent", rows[0].index("error_percent"))):
            stored = [math.nan if row[column] == "" else float(row[column]) for row in rows[1:]]
            assert np.array_equal(file[name][()], stored, equal_nan=True)
        assert [text.decode() for text in file["point"][()]] == [row[0] for row in rows[1:]]


def test_the_order_of_rows_does_not_depend_on_the_order_of_computing(tmp_path: Path) -> None:
    a, b = recorded(tmp_path / "a", GRID), recorded(tmp_path / "b", GRID[::-1])
    assert (a / "table.csv").read_bytes() == (b / "table.csv").read_bytes()
    assert (a / "table.h5").read_bytes() == (b / "table.h5").read_bytes()
    frame = eqprop.load_sweep(a)
    assert frame["layer"].fillna("").tolist() == ["", "hidden1", "output"] * len(GRID)
    settings = frame[["beta", "seed", "part.adc_bits"]].apply(tuple, axis=1).tolist()
    assert settings == sorted(settings)


def test_of_the_config_only_what_varies_is_shown_when_asked(folder: Path, frame: Any) -> None:
    short = eqprop.load_sweep(folder, varying=True)
    assert list(short.columns) == [c for c in frame.columns if c != "marks"]
    assert short.attrs["config"] == ["beta", "seed", "part.adc_bits", "part.noise", "what"]
    assert len(short) == len(frame) and short.attrs["results"] == frame.attrs["results"]


def test_costs_are_shown_when_asked(folder: Path, frame: Any) -> None:
    costs = eqprop.load_sweep(folder, costs=True)
    assert costs["wall_seconds"].sum() == len(GRID) and "wall_seconds" not in frame


def test_names_that_are_taken_are_told_apart(tmp_path: Path) -> None:
    frame = eqprop.load_sweep(recorded(tmp_path / "s", GRID[:1], beta=5.0, status="fine"))
    assert frame["result.beta"].dropna().tolist() == [5.0] and frame["beta"].tolist() == [0.1] * 3
    assert frame["result.status"].dropna().tolist() == ["fine"]


UNITS = [("test_error_percent", "%"), ("substrate.adc_bits", "bit"), ("rule.beta", ""), ("seconds", "s")]


@pytest.mark.parametrize(("column", "unit"), UNITS)
def test_units_are_read_off_names(column: str, unit: str) -> None:
    assert unit_of(column) == unit


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no sweep"):
        eqprop.load_sweep(tmp_path)


# -- intervals and fronts --------------------------------------------------------------------------------------------


def test_intervals_over_seeds_are_students(frame: Any) -> None:
    found = eqprop.confidence_intervals(frame, "error_percent", by=["beta", "part.adc_bits"], level=0.9)
    assert len(found) == 6 and set(found["n"]) == {3}
    for row in found.to_dict("records"):
        values = errors_of(row)
        low, high = stats.t.interval(0.9, 2, np.mean(values), stats.sem(values))
        assert np.allclose([row["mean"], row["low"], row["high"]], [np.mean(values), low, high], rtol=1e-12)
    layers = eqprop.confidence_intervals(frame, "cosine")
    assert set(layers.columns[:3]) == {"beta", "part.adc_bits", "layer"} and len(layers) == 12
    alone = eqprop.confidence_intervals(frame, "error_percent", by=["beta", "part.adc_bits", "seed"])
    assert alone["low"].isna().all() and alone["mean"].notna().all()


def test_intervals_are_over_seeds_also_where_settings_are_pooled(frame: Any) -> None:
    found = eqprop.confidence_intervals(frame, "error_percent", by=["beta"])
    assert set(found["n"]) == {3}
    for row in found.to_dict("records"):
        pooled = [errors_of(row | {"part.adc_bits": bits}) for bits in (8, 10)]
        seeds = np.mean(pooled, axis=0)
        low, high = stats.t.interval(0.95, 2, seeds.mean(), stats.sem(seeds))
        assert np.allclose([row["mean"], row["low"], row["high"]], [seeds.mean(), low, high], rtol=1e-12)
    assert (
        len(eqprop.confidence_intervals(frame, "error_percent", by=["beta"], over="part.adc_bits").query("n == 2")) == 3
    )


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(3.0, 2.0, size=(2000, 4))
    from eqprop._sweep_statistics import interval

    hits = sum(abs(mean - 3.0) <= half for mean, _, half in (interval(d, 0.95) for d in draws))
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_front_is_what_no_other_point_betters() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 12, size=(2, 60)).astype(float)
    x[3] = math.nan
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        a, b = signs[0] * x, signs[1] * y
        kept = {
            i
            for i in range(60)
            if np.isfinite(x[i])
            and not any((a[j] <= a[i] and b[j] <= b[i]) and (a[j] < a[i] or b[j] < b[i]) for j in range(60))
        }
        found = pareto_front(x, y, maximise=(signs[0] < 0, signs[1] < 0))
        assert set(found.tolist()) == kept and list(x[found]) == sorted(x[found])


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        ("error_percnt", {}, "did you mean 'error_percent'"),
        ("what", {}, "without numbers"),
        ("error_percent", {"by": ["bata"]}, "did you mean 'beta'"),
        ("error_percent", {"level": 1.0}, "level: got 1.0"),
    ],
)
def test_unknown_columns_are_named(frame: Any, value: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        eqprop.confidence_intervals(frame, value, **options)


# -- figures ---------------------------------------------------------------------------------------------------------


def drawn(figure: Any) -> Any:
    FigureCanvasAgg(figure).draw()
    return figure


def test_curves_have_means_bands_and_a_panel_a_layer(frame: Any) -> None:
    figure = drawn(eqprop.sweep_curves(frame, "beta", "error_percent", by="part.adc_bits", title="a sweep"))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_label() in ("adc_bits 8", "adc_bits 10")]
    means = eqprop.confidence_intervals(frame, "error_percent", by=["beta", "part.adc_bits"])
    for line, bits in zip(lines, (8, 10), strict=True):
        assert np.allclose(line.get_ydata(), means[means["part.adc_bits"] == bits]["mean"])
    assert len(axes.collections) == 2 and axes.get_ylabel() == "error (%)"
    panels = drawn(eqprop.sweep_curves(frame, "beta", "cosine", panels="layer"))
    assert [a.get_title() for a in panels.axes] == ["hidden1", "output"]
    assert "part.adc_bits" in panels.get_supxlabel()  # that it is averaged over is said


def test_a_map_shows_the_mean_of_every_cell(frame: Any) -> None:
    figure = drawn(eqprop.sweep_map(frame, "beta", "part.adc_bits", "error_percent"))
    image = figure.axes[0].images[0].get_array()
    means = eqprop.confidence_intervals(frame, "error_percent", by=["part.adc_bits", "beta"])["mean"]
    assert np.allclose(np.asarray(image), np.asarray(means).reshape(2, 3))
    several = drawn(eqprop.sweep_map(frame, "beta", "part.adc_bits", "cosine", panels="layer"))
    assert len([a for a in several.axes if a.images]) == 2


def test_a_front_is_drawn_through_the_best_configs(tmp_path: Path) -> None:
    frame = eqprop.load_sweep(recorded(tmp_path / "s", GRID))
    frame["speed"] = -frame["beta"].where(frame["error_percent"].notna())
    figure = drawn(eqprop.pareto_figure(frame, "error_percent", "speed", by="part.adc_bits"))
    (front,) = [line for line in figure.axes[0].lines if line.get_label() == "front"]
    # the finer converter betters the coarser at every beta, and a larger beta is worse in one and better in the other
    assert len(np.asarray(front.get_xdata())) == 3
    best = eqprop.pareto_figure(frame, "error_percent", "speed", maximise=("speed",))
    (front,) = [line for line in best.axes[0].lines if line.get_label() == "front"]
    assert len(np.asarray(front.get_xdata())) == 1


def test_what_has_no_number_comes_last_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    ideal = eqprop.grid(Config, beta=[0.1, 0.2], part=[Part()])
    frame = eqprop.load_sweep(recorded(tmp_path / "s", [*GRID, *ideal, Config(what="raise", part=Part(8))]))
    curves = drawn(eqprop.sweep_curves(frame, "beta", "error_percent", by="part.adc_bits"))
    labels = [line.get_label() for line in curves.axes[0].lines if "adc" in str(line.get_label())]
    assert labels == ["adc_bits 8", "adc_bits 10", "adc_bits none"] and "left out" not in curves.get_supxlabel()
    shown = drawn(eqprop.sweep_map(frame, "beta", "part.adc_bits", "error_percent"))
    assert [t.get_text() for t in shown.axes[0].get_yticklabels()] == ["8", "10", "none"]
    left = "left out: 2 points without part.adc_bits"
    for figure in (
        eqprop.pareto_figure(frame, "part.adc_bits", "error_percent"),
        eqprop.sweep_curves(frame, "part.adc_bits", "error_percent"),
    ):
        assert left in figure.get_supxlabel()


# -- the scripts -----------------------------------------------------------------------------------------------------


def script(*words: str) -> int:
    return _common.run_main(sweep.main, sweep.options(), list(words), make_run=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        script(*words)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_mnist_is_swept_from_the_shell_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map"
    words = "--set data.dataset=digits --set network.layers=784-12-10 --set data.train=64 --set training.epochs=1"
    words += f" --set rule.beta=0.2 --set substrate.adc_bits=none,8 --seeds 1 --jobs 2 --quiet --out {out}"
    plot = "--plot map x=rule.beta y=substrate.adc_bits value=gradient_cosine_after panels=layer"
    script("mnist", *words.split(), *plot.split())
    assert "2 of 2 points done (2 now), 0 failed" in capsys.readouterr().out
    frame = eqprop.load_sweep(out)
    whole = frame[frame["layer"].isna()]
    assert len(whole) == 2 and set(whole["seed"]) == set(eqprop.child_seeds(1))
    assert set(whole["training.batch_size"]) == {16} and whole["test_error_percent"].between(0, 100).all()
    # a point is what the function gives here
    changes: dict[str, Any] = {"data.dataset": "digits", "network.layers": "784-12-10", "data.train": 64}
    changes |= {"training.epochs": 1, "rule.beta": 0.2, "substrate.adc_bits": 8, "seed": eqprop.child_seeds(1)[0]}
    (config,) = eqprop.grid(_sweep_mnist.Config, **{name: [value] for name, value in changes.items()})
    (found,) = _sweep_mnist.run_many([config])
    assert isinstance(found, dict)
    rows = frame[frame["substrate.adc_bits"] == 8]
    assert rows["test_error_percent"].dropna().tolist() == [found["test_error_percent"]]
    for figure in ("gradient_cosine_before", "gradient_cosine_after"):
        assert rows[figure].dropna().tolist() == list(found[figure].values())
        assert frame[figure].dropna().nunique() == 4  # the converter makes a difference
    assert len(list((out / "figures").iterdir())) == 1
    script("mnist", *words.split())
    assert "(0 now)" in capsys.readouterr().out
    script(str(out), *"--plot x=rule.beta y=test_error_percent by=substrate.adc_bits".split())
    assert len(list((out / "figures").iterdir())) == 2


def test_the_mnist_adapter_has_every_setting_of_the_script_and_takes_its_presets() -> None:
    from benchmarks import mnist

    assert set(_sweep_mnist_config.settings(_sweep_mnist.Config())) == {
        f.name for f in dataclasses.fields(mnist.Config)
    }
    made = _sweep_mnist.completed(_sweep_mnist.Config())
    settings = mnist.preset("mnist", None)
    assert made.training.lr == settings["lr"] and made.network.layers == settings["network"]
    assert _sweep_mnist.completed(made) == made
    (changed,) = eqprop.grid(_sweep_mnist.Config, **{"training.lr": [0.2], "rule.beta": [0.3]})
    assert _sweep_mnist.completed(changed).training.lr == (0.2,)
    with pytest.raises(ConfigError, match="training.epochs: got 0"):
        _sweep_mnist.completed(eqprop.grid(_sweep_mnist.Config, **{"training.epochs": [0]})[0])


def test_a_point_of_the_shell_and_one_from_python_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"data.dataset": "digits", "network.layers": "784-12-10", "data.train": 32, "training.epochs": 1}
    what, out = sweep.target("mnist"), tmp_path / "s"
    fields = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    assert script("mnist", *fields, "--seeds", "1", "--quiet", "--out", str(out)) == 0
    points = eqprop.grid(what.config, **{name: [value] for name, value in small.items()}, seed=eqprop.child_seeds(1))
    more: dict[str, Any] = {"run_many": what.run_many, "together": what.together, "completed": what.completed}
    assert eqprop.sweep(what.run, points, out=out, progress=False, **more).computed == 0


def test_a_module_of_ones_own_can_be_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--zip beta=0.1,0.2 part.noise=0.5,0.6 --set seed=1,2 --quiet"
    script("tests.sweep_points", *words.split(), "--out", str(tmp_path / "s"))
    frame = eqprop.load_sweep(tmp_path / "s")
    assert {tuple(row) for row in frame[["beta", "part.noise", "seed"]].to_numpy()} == {
        (b, n, s) for b, n in ((0.1, 0.5), (0.2, 0.6)) for s in (1, 2)
    }
    script("tests.sweep_points", *"--random 3 beta=log:1e-3:1 seed=4,5 --quiet --out".split(), str(tmp_path / "r"))
    assert "3 of 3 points done" in capsys.readouterr().out


def test_the_exit_status_tells_that_points_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tests.sweep_points", *"--set what=raise,compute --quiet --out".split(), str(tmp_path / "s")]
    plot = "--plot x=seed y=error_percent".split()
    with pytest.raises(SystemExit) as exit_:
        script(*words, *plot)
    assert exit_.value.code == 1 and "1 of 2 points done (2 now), 1 failed" in capsys.readouterr().out
    assert len(list((tmp_path / "s" / "figures").iterdir())) == 1
    with pytest.raises(SystemExit):  # also where nothing was left to compute
        script(*words)
    assert script(str(tmp_path / "s"), *plot) == 0  # it was drawn, and that is all


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("mnist --set rule.beta=abc", "rule.beta: got 'abc', needed a number"),
        ("mnits", "did you mean 'mnist'"),
        ("mnist --set rule.bata=1", "did you mean 'beta'"),
        ("mnist --set rule.beta", "needed NAME=VALUE"),
        ("mnist --set rule.beta=1 --set rule.beta=2", "got rule.beta twice"),
        ("mnist --set seed=1 --seeds 2", "needed one of the two"),
        ("mnist --random rule.beta=log:1:2", "needed a number of points"),
        ("mnist --random 3 rule.beta=log:1", "needed two bounds"),
        ("mnist --plot map x=rule.beta y=seed", "needed value=COLUMN"),
        ("mnist --plot mop x=rule.beta", "did you mean 'map'"),
        ("no.such.module", "there is no module"),
        ("json.decoder", "a class Config and a function run"),
    ],
)
def test_mistakes_on_the_command_line_are_named(capsys: pytest.CaptureFixture[str], words: str, text: str) -> None:
    assert text in refused(capsys, *words.split())


def test_words_are_numbers_texts_tuples_and_none() -> None:
    assert _sweep_words.values("8,1e-3,none,True,ep,(0.3, 0.1),[1,2],784-12-10") == [
        8, 1e-3, None, True, "ep", (0.3, 0.1), (1, 2), "784-12-10"
    ]  # fmt: skip


def test_a_folder_without_a_sweep_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such folder" in refused(capsys, str(tmp_path / "typo"))
    assert "there is no such folder" in refused(capsys, "runs/typo", "--plot", "x=a", "y=b")
    assert "got a folder without a sweep" in refused(capsys, str(tmp_path))


def test_the_table_that_is_printed_has_what_varies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(str(folder))
    printed = capsys.readouterr().out
    assert "part.adc_bits" in printed and "marks" not in printed


def test_help_has_a_recipe_for_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("--help")
    shown = capsys.readouterr().out
    assert "#SBATCH" in shown and "--scheduler $SLURM_JOB_ID.json" in shown


def test_a_sweep_is_recorded_with_its_table(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (_common, sweep):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    script(str(folder), *"--plot x=beta y=error_percent by=part.adc_bits --record a-map".split())
    record = json.loads((tmp_path / "a-map.json").read_text())
    figures_ = {figure["name"]: figure["value"] for figure in record["headline"]}
    assert (figures_["points done"], figures_["points failed"]) == (len(GRID), 1)
    assert (tmp_path / "a-map.csv").read_bytes() == (folder / "table.csv").read_bytes()
    assert len(list(tmp_path.glob("a-map-*.png"))) == 1


def test_two_sweeps_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path / "one", GRID)
    recorded(tmp_path / "two", [*GRID[:12], Config(what="raise")], shift=0.5)
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--csv", str(tmp_path / "both.csv")]
    _common.run_main(compare.main, compare.options(), words, make_run=False)
    assert "two: 1 points failed" in capsys.readouterr().out
    frames = {name: eqprop.load_sweep(tmp_path / name) for name in ("one", "two")}
    table = compare.comparison(frames, ["error_percent"], by=["beta", "part.adc_bits"])
    assert len(table) == 4 and np.allclose(table["two: difference"], 0.5)  # of the settings that both have
    assert set(table["two: pairs"]) == {3} and np.allclose(table["two: difference ±"], 0.0)  # the same of every seed
    with pytest.raises(ConfigError, match="at least two"):
        compare.comparison({"one": frames["one"]})
    with pytest.raises(ConfigError, match="did you mean 'error_percent'"):
        compare.comparison(frames, ["error_percet"])
    with pytest.raises(ConfigError, match="same folder twice"):
        compare.names_of([tmp_path, tmp_path])


def test_differences_are_of_pairs_where_sweeps_share_seeds_and_of_means_where_they_do_not(tmp_path: Path) -> None:
    one = eqprop.load_sweep(recorded(tmp_path / "one", GRID))
    shifts = {0: 0.5, 1: 0.7, 2: 0.3}
    two = one.assign(error_percent=one["error_percent"] + one["seed"].map(shifts))
    other = two.assign(seed=two["seed"] + 2)  # 2, 3 and 4: one in common
    few = two[two["seed"] > 0]
    for frame in (two, other, few):
        frame.attrs = one.attrs

    def rows(frame: Any) -> list[dict[str, Any]]:
        table = compare.comparison({"one": one, "two": frame}, ["error_percent"], by=["beta", "part.adc_bits"])
        assert len(table) == 6
        found: list[dict[str, Any]] = table.to_dict("records")
        return found

    for row, welch, part in zip(rows(two), rows(other), rows(few), strict=True):
        a = np.array(errors_of(row))
        b = a + np.array(list(shifts.values()))
        paired = stats.ttest_rel(b, a).confidence_interval(0.95)
        assert row["two: pairs"] == 3 and np.isclose(row["two: difference"], 0.5)
        assert np.isclose(2 * row["two: difference ±"], paired.high - paired.low, rtol=1e-9)
        apart = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert welch["two: pairs"] == 0 and np.isclose(welch["two: difference"], 0.5)
        assert np.isclose(2 * welch["two: difference ±"], apart.high - apart.low, rtol=1e-9)
        assert part["two: pairs"] == 2 and np.isclose(part["two: difference"], 0.5)  # (0.7 + 0.3) / 2, of the shared


def test_every_target_has_defaults_for_all_fields() -> None:
    for name in _sweep_targets.MODULES:
        what = _sweep_targets.target(name)
        assert what.completed(what.config()) is not None
