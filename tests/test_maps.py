"""The headline maps end to end on a few digits, and maps of several figures with their best cells framed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

import eqprop
from benchmarks import _common, maps
from benchmarks._maps import MAPS, cells, headline
from benchmarks._sweep_targets import target
from eqprop import ConfigError

pd = pytest.importorskip("pandas")

SMALL = "--set data.dataset=digits --set data.train=64 --set training.epochs=1 --seeds 2 --jobs 2 --quiet"


def script(*words: str) -> int:
    return _common.run_main(maps.main, maps.options(), list(words), make_run=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        script(*words)
    assert exit_.value.code == 2
    return capsys.readouterr().err


# -- what is swept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_every_map_is_a_whole_grid_that_its_benchmark_takes(name: str) -> None:
    shown = MAPS[name]
    points = shown.points(target(shown.target), 2)
    assert len(points) == 2 * len(shown.grid[shown.x]) * len(shown.grid[shown.y])
    assert len({repr(point) for point in points}) == len(points) and len({point.seed for point in points}) == 2


@pytest.mark.parametrize("name", ["adc", "read-noise"])
def test_nudges_reach_from_below_a_converters_step_to_the_edge_of_the_energy(name: str) -> None:
    betas = MAPS[name].grid["rule.beta"]
    assert min(betas) < 2**-7 and 0.9 < max(betas) < 1.0
    with pytest.raises(ConfigError, match="needed above -1"):
        eqprop.EquilibriumPropagation(beta=1.0)


# -- end to end ------------------------------------------------------------------------------------------------------


def test_a_map_is_computed_drawn_recorded_and_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    words = f"adc {SMALL} --set network.layers=784-12-10 --set rule.beta=0.1,0.5 --out {tmp_path / 'm'}".split()
    script(*words, "--set", "substrate.adc_bits=4,none", "--record", "tiny")
    record = json.loads((tmp_path / "results" / "tiny-adc.json").read_text())
    assert (tmp_path / "results" / "tiny-adc-map.png").stat().st_size > 10_000
    assert "64 training images, 1 epoch, 2 seeds" in record["title"]
    found = {(cell["substrate.adc_bits"], cell["rule.beta"]): cell for cell in record["cells"]}
    assert set(found) == {(bits, beta) for bits in (4, "ideal") for beta in (0.1, 0.5)}
    for cell in found.values():
        assert cell["seeds"] == 2 and len(cell["accuracy_percent"]) == 2
        assert {layer: len(v) for layer, v in cell["gradient_cosine_before"].items()} == {"hidden1": 2, "output": 2}
    # both ends of the valley: few bits read a small nudge worse than an ideal machine, which a large nudge biases
    cosine = {key: np.mean(cell["gradient_cosine_before"]["hidden1"]) for key, cell in found.items()}
    assert cosine[4, 0.1] < cosine["ideal", 0.1] and cosine["ideal", 0.5] < cosine["ideal", 0.1]
    names = [figure["name"] for figure in record["headline"]]
    assert any(name.startswith("adc_bits ideal: highest accuracy, at beta") for name in names)
    # more points join the folder; those of before are computed once, and only those asked for are on the map
    capsys.readouterr()
    before = len(list((tmp_path / "m" / "adc" / "points").iterdir()))
    script(*words, "--set", "substrate.adc_bits=none")
    assert len(list((tmp_path / "m" / "adc" / "points").iterdir())) == before == 8
    summary = json.loads((tmp_path / "m" / "adc" / "summary.json").read_text())
    assert {cell["substrate.adc_bits"] for cell in summary["cells"]} == {"ideal"}
    assert [c for c in record["cells"] if c["substrate.adc_bits"] == "ideal"] == summary["cells"]


def test_the_map_of_homeostasis_has_cosines_and_the_asymmetry(tmp_path: Path) -> None:
    words = f"homeostasis {SMALL} --set network.layers=784-12-12-10 --seeds 1 --set training.lr=0.02"
    values = "--set network.angle_degrees=90 --set homeostasis.coefficient=0,10 --set training.batch_size=8"
    script(*words.split(), *values.split(), "--out", str(tmp_path))
    summary = json.loads((tmp_path / "homeostasis" / "summary.json").read_text())
    off, on = summary["cells"]
    assert [cell["homeostasis.coefficient"] for cell in (off, on)] == [0, 10]
    assert set(off["error_vector_cosine_after"]) == {"hidden1", "hidden2", "output"}
    assert on["asymmetry_activation_after"][0] < off["asymmetry_activation_after"][0]  # what homeostasis is for


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("adcs", "did you mean 'adc'"),
        ("adc --seeds 0", "--seeds: got 0"),
        ("adc --set data.train=1,2", "got 2 values of data.train, needed one"),
        ("adc --set data.trian=1", "did you mean 'train'"),
        ("homeostasis --set rule.contour=centered", "did you mean 'centred'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: str, text: str
) -> None:
    assert text in refused(capsys, *words.split(), "--out", str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


# -- the figure ------------------------------------------------------------------------------------------------------


def table() -> Any:
    """Two rows of three cells and two seeds, with a valley in the one and a missing cell in the other."""
    rows: list[dict[str, Any]] = []
    means = {(8, 0.1): 1.0, (8, 0.2): 3.0, (8, 0.4): 2.0, (None, 0.1): 5.0, (None, 0.2): 4.0}
    for (bits, beta), mean in means.items():
        for seed in (0, 1):
            stopped = "dead" if (bits, beta, seed) == (8, 0.2, 1) else ""
            own = {"point": f"{bits}-{beta}-{seed}", "bits": bits, "beta": beta, "seed": seed, "status": "done"}
            whole = {"accuracy_percent": mean + seed, "cosine": np.nan, "stopped": stopped}
            rows.append(own | {"layer": None} | whole)
            rows += [
                own | {"layer": layer, "accuracy_percent": np.nan, "cosine": mean / 10, "stopped": None}
                for layer in ("hidden1", "output")
            ]
    frame = pd.DataFrame(rows)
    frame.attrs["config"] = ["bits", "beta", "seed"]
    return frame


def frames_of(axes: Any) -> list[tuple[float, float]]:
    return [p.get_xy() for p in axes.patches if isinstance(p, Rectangle)]


def test_several_figures_are_maps_of_scales_of_their_own_with_the_best_of_each_row_framed() -> None:
    best = {"accuracy_percent": "highest", "cosine": "lowest"}
    figure = eqprop.sweep_map(table(), "beta", "bits", list(best), panels="layer", best=best)
    accuracy, *cosines = [axes for axes in figure.axes if axes.images]
    assert [a.get_title() for a in (accuracy, *cosines)] == ["accuracy (%)", "cosine, hidden1", "cosine, output"]
    grid = np.asarray(accuracy.images[0].get_array().filled(np.nan))  # type: ignore[union-attr]
    assert np.allclose(grid, [[1.5, 3.5, 2.5], [5.5, 4.5, np.nan]], equal_nan=True)
    assert frames_of(accuracy) == [(0.5, -0.5), (-0.5, 0.5)]  # with 8 bits the second, without bits the first
    assert all(frames_of(axes) == [(-0.5, -0.5), (0.5, 0.5)] for axes in cosines)
    assert accuracy.images[0].get_clim() == (1.5, 5.5) and cosines[0].images[0].get_clim() == (0.1, 0.5)
    assert "framed: highest or lowest of each row" in figure.get_supxlabel()


def test_panels_above_a_gap_keep_their_labels() -> None:
    figure = eqprop.sweep_map(table(), "beta", "bits", ["accuracy_percent", "cosine", "seed"], panels="layer")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6 and [a.get_xlabel() for a in panels] == [""] * 3 + ["beta"] * 3
    four = [axes for axes in eqprop.sweep_map(gap(), "beta", "bits", "cosine", panels="layer").axes if axes.images]
    assert [a.get_xlabel() for a in four] == ["", "beta", "beta", "beta"]
    assert [a.xaxis.get_tick_params()["labelbottom"] for a in four] == [False, True, True, True]


def gap() -> Any:
    """Four layers, so that the fourth has a line of its own."""
    frame = table()
    more = [frame[frame["layer"] == "output"].assign(layer=name) for name in ("a", "b")]
    made = pd.concat([frame, *more])
    made.attrs = frame.attrs
    return made


@pytest.mark.parametrize(
    ("value", "best", "text"),
    [
        ([], None, "needed at least one"),
        ("cosine", "higest", "did you mean 'highest'"),
        ("cosine", {"cosin": "highest"}, "did you mean 'cosine'"),
        (["cosine", "acuracy_percent"], None, "did you mean 'accuracy_percent'"),
    ],
)
def test_figures_that_are_not_there_are_named(value: Any, best: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        eqprop.sweep_map(table(), "beta", "bits", value, best=best)


def test_the_summary_of_a_map_has_the_best_and_the_ends_of_each_row() -> None:
    from dataclasses import replace

    shown = replace(MAPS["adc"], x="beta", y="bits", best={"accuracy_percent": "highest", "cosine": "highest"})
    frame = table()
    frame["bits"] = ["ideal" if b != b else b for b in frame["bits"]]
    first, second = headline(frame, shown)
    assert first["name"] == "bits 8: highest accuracy, at beta 0.2 (1.5 at 0.1, 2.5 at 0.4)" and first["value"] == 3.5
    assert second["name"].startswith("bits ideal: highest accuracy, at beta 0.1")
    found = cells(frame, shown)
    assert found[0] == {
        "bits": 8, "beta": 0.1, "seeds": 2, "accuracy_percent": [1.0, 2.0],
        "cosine": {"hidden1": [0.1, 0.1], "output": [0.1, 0.1]}, "stopped": 0,
    }  # fmt: skip
    assert [cell["stopped"] for cell in found] == [0, 1, 0, 0, 0]
