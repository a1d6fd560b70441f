"""The liquid benchmark: features in batches, its controls, what a killed run keeps, what it reports and refuses."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import snn
from benchmarks import (
    _common,
    _liquid_data,
    _liquid_features,
    _liquid_figures,
    _liquid_fits,
    _liquid_plastic,
    _liquid_report,
    liquid,
)
from benchmarks._common import run_main
from benchmarks._liquid_config import Config, fitting_weights, make_config, make_liquid
from benchmarks._liquid_data import Part, Task, aligned, nested_order, split
from benchmarks._liquid_features import Cache, Wanted, compute, of_liquid, of_trains
from eqprop import _idx
from eqprop._data import load_dataset
from eqprop._errors import DataError
from eqprop._runs import Run

CLASSES, CHANNELS, STEPS = 3, 30, 80
_load = functools.cache(load_dataset)


def part(count: int, seed: int, *, speakers: bool = False, rate: float = 0.25) -> Part:
    """Synthetic trains: each class has channels of its own that spike more."""
    labels = torch.arange(count) % CLASSES

    def trains(at: torch.Tensor, _: int) -> torch.Tensor:
        made = []
        for i in at.tolist():
            p = torch.full((CHANNELS,), 0.02 if rate else 0.0)
            p[int(labels[i]) * 10 : int(labels[i]) * 10 + 10] = rate
            made.append(torch.rand(STEPS, CHANNELS, generator=torch.Generator().manual_seed(1000 * seed + i)) < p)
        return torch.stack(made)

    return Part(labels, trains, speakers=torch.arange(count) // CLASSES % 3 if speakers else None)


def task(*, speakers: bool = False, rate: float = 0.25) -> Task:
    parts = part(120, 1, speakers=speakers, rate=rate), part(24, 2, speakers=speakers, rate=rate)
    return Task("toy", "made here", *parts, CHANNELS, STEPS, 1e-3, {"kind": "toy"}, (60,))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small data set, and a small liquid in place of every preset."""
    settings: dict[str, Any] = {}
    preset = snn.preset

    def small(name: str, *, seed: int = 0, weight: float | None = None, inputs: int | None = None) -> snn.Liquid:
        made = preset("rram200", seed=seed, weight=None if weight is None else 0.8 * weight, inputs=inputs)
        return made

    monkeypatch.setattr(snn, "preset", small)
    monkeypatch.setitem(_liquid_data.DATASETS, "toy", lambda *_: task(**settings))
    return settings


@pytest.fixture
def nalsm(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The small data set, and NALSM's liquid on a grid of 4 x 4 x 4 in place of every preset."""

    def small(name: str, *, seed: int = 0, weight: float | None = None, inputs: int = CHANNELS) -> snn.Liquid:
        g, size = torch.Generator().manual_seed(seed), 0.8 if weight is None else weight
        wiring = snn.Grid((4, 4, 4)).wire(g)
        entries = snn.input_mask(64, inputs, 0.3, g) * snn.random_signs((64, inputs), g)
        return snn.Liquid(
            snn.NalsmLIF(threshold=3.0),
            (wiring.mask * wiring.signs() * size).float(),
            (entries * size).float(),
            relay=snn.Relay(2),
            synapse=snn.NearestSpike(1e-3),
            excitatory=wiring.excitatory,
        )

    monkeypatch.setattr(snn, "preset", small)
    return toy


def script(out: Path, *words: str) -> int:
    argv = ["--dataset", "toy", "--seeds", "1", "--quiet", "--batch-size", "50", "--out", str(out), *words]
    return run_main(liquid.main, liquid.options(), argv, make_run=False)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        script(out, *words)
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.count("\n") == 1
    return text


# -- order and features ----------------------------------------------------------------------------------------------


def test_every_first_part_of_the_order_holds_each_class_in_its_share() -> None:
    labels = torch.arange(1000) % 10
    order = nested_order(labels)
    assert sorted(order.tolist()) == list(range(1000))
    for count in (100, 300, 1000):
        found = torch.bincount(labels[order[:count]], minlength=10) / count
        assert float((found - 0.1).abs().max()) < 0.03
    train, validation = split(600)
    assert len(validation) == 100 and not set(train.tolist()) & set(validation.tolist())


def test_folders_of_n_mnist_are_held_against_labels_of_mnist_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording 2 of each part lies under the digit 3."""
    for part in ("Train", "Test"):
        for number, digit in ((1, 1), (2, 3)):
            file = tmp_path / "NMNIST" / part / str(digit) / f"{number:05d}.bin"
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes([5, 5, 0x80, 0, 9]))
    assert sorted(_liquid_data.load_task("nmnist", str(tmp_path), "nalsm1000").train.labels.tolist()) == [1, 3]
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    official = dataclasses.replace(_idx.archive("mnist"), counts={"train": 2, "test": 2}, idx_md5={})
    digests = {}
    for stem in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (raw / stem).write_bytes(b"")  # images are not read
    for stem in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        content = bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2])
        (raw / stem).write_bytes(content)
        digests[stem] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(_idx, "archive", lambda _: dataclasses.replace(official, idx_md5=digests))
    with pytest.raises(DataError, match=r"00002.bin: got the label 3 from the folder, needed 2"):
        _liquid_data.load_task("nmnist", str(tmp_path), "nalsm1000")


def test_recordings_are_moved_to_the_end_and_cut_there() -> None:
    trains = torch.zeros(2, 5, 1, dtype=torch.bool)
    trains[0, 0] = trains[1, 0] = trains[1, 4] = True
    moved = aligned(trains, [2, 9])[..., 0]
    assert moved.tolist() == [[False, False, False, True, False], [True, False, False, False, True]]


@pytest.mark.parametrize("bins", [1, 4, 7])
def test_features_in_parts_of_time_are_those_of_the_recorded_spikes(bins: int) -> None:
    net = snn.preset("nalsm1000", weight=1.5, inputs=CHANNELS)
    trains = task().train.trains(torch.arange(4), 0)
    run = net.run(trains, record=snn.Record(spikes=True), health="ignore")
    made, health = of_liquid(net, trains, Wanted(("bins", "filter"), bins))
    assert run.counts.sum() > 0 and health.mean_rate_hz == pytest.approx(run.health.mean_rate_hz)
    spikes = run.recorded("spikes")
    assert np.array_equal(made["bins"], snn.TimeBins(bins, STEPS)(spikes).numpy())
    np.testing.assert_allclose(made["filter"], snn.ExponentialFilter()(spikes).numpy(), rtol=1e-4, atol=1e-6)
    found = {"liquid/bins": made["bins"]}
    assert torch.equal(_liquid_features.feature(found, "liquid", "counts", 1000), run.counts)


def test_features_of_the_input_are_those_of_the_spikes_themselves() -> None:
    trains = task().train.trains(torch.arange(3), 0)
    made = of_trains(trains, Wanted(("counts", "filter")), 1e-3)
    assert np.array_equal(made["counts"], trains.sum(1).numpy())
    assert made["filter"].shape == (3, CHANNELS)


def test_a_killed_run_goes_on_at_the_next_batch(tmp_path: Path) -> None:
    asked: list[int] = []
    whole = part(100, 1)

    def counting(at: torch.Tensor, seed: int) -> torch.Tensor:
        if len(asked) == 2 and not (tmp_path / "go").exists():
            raise KeyboardInterrupt
        asked.append(int(at[0]))
        return whole.trains(at, seed)

    net = {"liquid": snn.preset("nalsm1000", weight=1.5, inputs=CHANNELS)}

    def once(count: int, key: int = 0) -> dict[str, np.ndarray]:
        cache = Cache(tmp_path / "features", {"weight": key})
        watched = Part(whole.labels, counting)
        return compute(
            net, watched, count, Wanted(), cache, prefix="train", seed=0, batch_size=25, with_input=True, quiet=True
        )

    with pytest.raises(KeyboardInterrupt):
        once(100)
    (tmp_path / "go").touch()
    once(100)
    assert asked == [0, 25, 50, 75]
    fresh = once(100)["liquid/counts"]
    assert asked == [0, 25, 50, 75] and fresh.shape == (100, 1000)
    shorter = once(60)  # the last batch is another one
    assert asked[4:] == [50] and np.array_equal(shorter["liquid/counts"], fresh[:60])
    (tmp_path / "features" / "train-000000.h5").write_bytes(b"cut short")
    assert np.array_equal(once(25)["liquid/counts"], fresh[:25]) and asked[5:] == [0]
    once(25, key=1)  # of other settings
    assert asked[6:] == [0]


# -- readouts --------------------------------------------------------------------------------------------------------


def test_speakers_are_never_on_two_sides() -> None:
    speakers = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    sides = _liquid_fits.by_speaker(speakers)
    assert sorted(i for one in sides for i in one.test.tolist()) == list(range(7))
    for one in sides:
        of = [set(speakers[at].tolist()) for at in (one.train, one.validation, one.test)]
        assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]


@pytest.mark.parametrize("readout", _liquid_fits.READOUTS)
def test_a_readout_sees_test_samples_only_when_it_answers(readout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 6, generator=generator) + 3 * torch.nn.functional.one_hot(y, 6)
    sides = _liquid_fits.official(60, 30)
    good = _liquid_fits.evaluate(readout, x, y, sides)
    assert good["accuracy_percent"] > 85
    turned = y.clone()
    turned[60:] = (y[60:] + 1) % 3  # other test labels change no fit: exactly the wrong answers turn
    other = _liquid_fits.evaluate(readout, x, turned, sides)
    assert other["settings"] == good["settings"]
    assert not any(a == b == "1" for a, b in zip(good["right"], other["right"], strict=True))


def test_every_point_of_a_learning_curve_is_tested_on_the_test_samples() -> None:
    """Test features here are those of another class, so that any right answer is one to a training sample."""
    toy = task()
    train, test = (
        (5 * torch.nn.functional.one_hot((part.labels + shift) % 3, 6)).numpy().astype(np.int16)
        + np.random.default_rng(0).integers(0, 2, (len(part), 6), dtype=np.int16)
        for part, shift in ((toy.train, 0), (toy.test, 1))
    )
    both = [{f"{arm}/counts": x for arm in ("liquid", "recurrence off", "input")} for x in (train, test)]
    settings: dict[str, Any] = {"features": ["counts"], "readouts": ["ridge"], "with_input": True}
    found = list(_liquid_fits.fits(toy, both[0], both[1], 6, 0, counts=[60, 120], **settings))
    assert [(r["arm"], r["samples"]) for r in found[:2]] == [("liquid", 60), ("liquid", 120)] and len(found) == 8
    assert all(len(r["right"]) == 24 for r in found)
    assert all(r["accuracy_percent"] == 0 for r in found if r["arm"] != "random ReLU")


def test_constant_features_answer_the_commonest_class() -> None:
    y = torch.tensor([0, 1, 1, 1, 1, 1] * 10 + [1, 0])
    found = _liquid_fits.evaluate("ridge", torch.ones(62, 4), y, _liquid_fits.official(60, 2))
    assert found["accuracy_percent"] == 50.0 and found["settings"] == [{"constant": True}]


def test_constant_features_of_the_liquid_itself_are_an_error() -> None:
    toy = task()
    alive = {"liquid/counts": np.ones((120, 6)), "recurrence off/counts": np.ones((120, 6))}
    with pytest.raises(DataError, match="liquid, counts, 120 samples: got features that are the same .* --weight"):
        next(
            _liquid_fits.fits(
                toy, alive, {k: v[:24] for k, v in alive.items()}, 6, 0, counts=[120], features=["counts"],
                readouts=["ridge"], with_input=False,
            )
        )  # fmt: skip


@pytest.mark.parametrize("preset", snn.PRESETS)
def test_every_preset_has_weights_for_every_data_set(preset: str) -> None:
    assert all(fitting_weights(preset, name)[0] > 0 for name in _liquid_data.DATASETS)
    assert fitting_weights("rram200", "nmnist") == (0.3, None)


@pytest.mark.parametrize("preset", ["maass2002", "izhikevich2003"])
def test_presets_of_one_channel_tell_images_apart(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every channel into every neuron would be the sum of an image, the same for all: nine wrong answers in ten."""
    monkeypatch.setattr(_liquid_data, "load_dataset", _load)
    arguments = liquid.options().parse_args(["--dataset", "digits", "--preset", preset])
    digits = _liquid_data.load_task("digits", None, preset)
    made = make_liquid(make_config(arguments, digits, torch.device("cpu")), digits, seed=0)
    run = made.run(digits.train.trains(torch.arange(80), 0), generator=torch.Generator().manual_seed(0))
    assert run.health.saturated_share == 0.0
    x, y = run.counts, digits.train.labels[:80]
    assert snn.RidgeReadout((1.0,)).fit(x[:55], y[:55]).score(x[55:], y[55:]) > 0.25


def test_the_gain_over_a_control_has_the_error_of_paired_answers() -> None:
    shared = {
        "split": "official test",
        "feature": "counts",
        "readout": "ridge",
        "samples": 9,
        "width": 4,
        "settings": [],
    }
    records = [
        shared | {"arm": arm, "accuracy_percent": 100 * right.count("1") / 4, "right": right}
        for arm, right in (("liquid", "1110"), ("liquid", "1100"), ("recurrence off", "1000"))
    ]
    made = _liquid_fits.lines(records)
    off = _liquid_fits.find(made, arm="recurrence off")
    assert off is not None and off["less"] == pytest.approx(100 * np.mean([0, 1, 0.5, 0]))
    assert off["less_error"] == pytest.approx(100 * np.std([0, 1, 0.5, 0], ddof=1) / math.sqrt(4))


# -- the script ------------------------------------------------------------------------------------------------------


def test_a_run_reports_every_arm_beside_the_liquid(
    tmp_path: Path, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy["speakers"] = True
    results = tmp_path / "results"
    results.mkdir()
    monkeypatch.setattr(_common, "RESULTS", results)
    monkeypatch.setattr(_liquid_fits, "_SOFTMAX", _liquid_fits._SOFTMAX[:1])
    out = tmp_path / "run"
    script(out, "--seeds", "2", "--feature", "counts", "filter", "--plot", "--record", "toy")
    summary = json.loads((out / "summary.json").read_text())
    assert (results / "toy.json").read_bytes() == (out / "summary.json").read_bytes()
    assert {p.stem for p in (out / "figures").iterdir()} == {"accuracy", "learning_curve", "dynamics"}
    lines = summary["lines"]
    for kind, samples in (("official test", 60), ("official test", 120), ("speaker held out", 120)):
        for readout in ("softmax", "ridge"):
            own = [
                v
                for v in lines
                if (v["split"], v["samples"], v["readout"], v["feature"]) == (kind, samples, readout, "counts")
            ]
            assert [v["arm"] for v in own] == ["liquid", "recurrence off", "random ReLU", "input"]
            assert [v["networks"] for v in own] == [2, 2, 2, 1]
            assert [v["width"] for v in own] == [200, 200, 200, CHANNELS]
            assert all(v["accuracy_percent"] > 60 for v in own)
    assert summary["health"]["synaptic_operations_recurrent"] > 0
    assert summary["recurrence_off"]["synaptic_operations_recurrent"] == 0
    names = [figure["name"] for figure in summary["headline"]]
    assert names[0] == "liquid (200), softmax, mean of 2 networks"
    assert any("recurrence adds, speaker held out, filter, softmax" in name for name in names)
    assert {"branching factor, local", "mean rate"} <= set(names)
    assert str(tmp_path) not in json.dumps(summary) and "liquid (200), softmax" in capsys.readouterr().out
    history = Run.open(out).read_history()
    assert history["samples"].tolist() == [60, 120] and "accuracy/recurrence off" in history


def test_resume_computes_only_what_is_missing(
    tmp_path: Path, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    few = ["--samples", "60", "--readout", "ridge"]
    script(out, *few)
    finished = json.loads((out / "summary.json").read_text())
    first = finished["lines"]
    assert "already holds the same run" in refused(capsys, out, *few)
    assert "weight: " in refused(capsys, out, *few, "--weight", "0.3", "--resume")
    batches: list[int] = []
    real = _liquid_features._batch

    def counting(*words: Any) -> Any:
        batches.append(int(words[2][0]))
        return real(*words)

    monkeypatch.setattr(_liquid_features, "_batch", counting)
    script(out, *few, "--resume")
    again = json.loads((out / "summary.json").read_text())
    assert not batches and again["lines"] == first and again["results"] == finished["results"]
    script(out, "--samples", "120", "--readout", "ridge", "--resume")
    assert batches == [50, 100]  # the first batch of 50 is there, that of the last 10 is not whole
    again = json.loads((out / "summary.json").read_text())["lines"]
    assert [v for v in again if v["samples"] == 60 and v["arm"] == "liquid"] == [
        v for v in first if v["arm"] == "liquid"
    ]
    for _ in range(2):
        batches.clear()
        script(out, *few, "--overwrite")
        assert batches == [0, 50, 0]


def test_readouts_that_were_fitted_before_a_kill_are_kept(
    tmp_path: Path, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    evaluate = _liquid_fits.evaluate

    def dying(*words: Any, **named: Any) -> Any:
        if len(fitted) == 3:
            fitted.append("killed")
            raise KeyboardInterrupt
        fitted.append(words[0])
        return evaluate(*words, **named)

    monkeypatch.setattr(_liquid_fits, "evaluate", dying)
    words = ["--samples", "60", "--readout", "ridge", "--feature", "counts", "filter"]
    with pytest.raises(SystemExit) as exit_:
        script(tmp_path / "run", *words)
    assert exit_.value.code == 130
    script(tmp_path / "run", *words, "--resume")
    assert len(fitted) == 3 + 1 + 5  # of four arms with two features
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len({(v["arm"], v["feature"]) for v in summary["lines"]}) == len(summary["lines"]) == 8


def test_branching_factors_of_several_weights(tmp_path: Path, toy: dict[str, Any]) -> None:
    script(tmp_path / "run", "--branching", "--seeds", "2")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [figure["name"] for figure in summary["headline"]] == [
        f"weight {w:g}: branching factor, local" for w in (0.4, 0.8, 1.2)
    ]
    assert all(len(own) == 2 for own in summary["networks"].values())
    assert not (tmp_path / "run" / "features").exists()


def test_a_liquid_too_quiet_for_a_branching_factor_is_named(
    tmp_path: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snn, "branching_factor", lambda *_, **__: math.nan)
    told = refused(capsys, tmp_path / "run", "--branching")
    assert "--weight 0.4, seed 0: got no spike in the middle of 80 steps" in told


def test_the_published_figure_is_a_target_of_the_whole_data_set_and_of_its_readout_only() -> None:
    line = {
        "split": "official test", "feature": "counts", "readout": "nalsm", "arm": "liquid", "networks": 3,
        "width": 1000, "accuracy_percent": 95.0,
    }  # fmt: skip
    health = dict.fromkeys(
        ("branching_local", "mean_rate_hz", "silent_share", "samples", "synaptic_operations_recurrent",
         "synaptic_operations_input"), 1.0,
    )  # fmt: skip
    for samples, plasticity, readout, expected in (
        (60_000, "none", "nalsm", ["<= 0.4"]),
        (60_000, "nalsm", "nalsm", ["<= 0.4", "<= 0.4"]),
        (60_000, "nalsm", "softmax", []),
        (20_000, "nalsm", "nalsm", []),
    ):
        config = Config(
            "nalsm1000",
            "mnist",
            0.8,
            None,
            samples,
            10_000,
            0,
            3,
            ("counts",),
            5,
            0.03,
            (readout,),
            500,
            "cpu",
            False,
            plasticity,
        )
        made = [
            line | {"samples": samples, "arm": arm, "readout": readout}
            for arm in ("liquid", "NALSM")
            if arm != "NALSM" or config.plastic
        ]
        found = _liquid_report.headline(config, made, health)
        assert [f["target"] for f in found if "target" in f] == expected
        shown = _liquid_report.table([v | {"deviation": None, "constant": False} for v in made], config)
        assert ("95.20" in shown, "95.96" in shown) == (len(expected) > 0, len(expected) > 1)


def test_digits_go_through_the_real_liquid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_liquid_data, "load_dataset", _load)
    words = ["--dataset", "digits", "--samples", "180", "--test", "60", "--readout", "ridge"]
    script(tmp_path / "run", *words)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    arms = {v["arm"]: v for v in summary["lines"]}
    assert list(arms) == ["liquid", "recurrence off", "random ReLU", "pixels"]
    assert arms["liquid"]["accuracy_percent"] > 55 and arms["pixels"]["width"] == 784
    assert 0.8 < summary["health"]["branching_local"] < 1.2


def test_the_legend_of_published_figures_covers_no_point() -> None:
    made = [
        {
            "split": "official test", "feature": "counts", "readout": readout, "samples": 60_000, "arm": arm,
            "width": 10, "accuracy_percent": value, "deviation": None,
        }
        for readout in ("softmax", "ridge")
        for arm, value in (("liquid", 95.0), ("pixels", 85.0))
    ]  # fmt: skip
    figure = _liquid_figures.accuracy(made, "made up", {"static liquid": 95.2, "NALSM": 95.96})
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["published, static liquid", "published, NALSM"]
    box = legend.get_window_extent()
    assert len(figure.axes) == 2 and all(axes.get_legend() is None for axes in figure.axes)
    drawn = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(area is None or box.overlaps(area) for area in drawn)
    assert not _liquid_figures.accuracy(made, "made up").legends


# -- plastic liquids -------------------------------------------------------------------------------------------------


def learning(out: Path, *words: str, plasticity: str = "nalsm") -> dict[str, Any]:
    """The summary of a run with a plastic liquid."""
    few = ["--plasticity", plasticity, "--initial-samples", "30", "--readout", "ridge"]
    script(out, *few, *words)
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_weights_are_initialised_by_training_samples_that_do_not_validate() -> None:
    asked: list[int] = []
    whole = part(24, 1)

    def watched(at: torch.Tensor, seed: int) -> torch.Tensor:
        asked.extend(at.tolist())
        return whole.trains(at, seed)

    made = list(_liquid_plastic.snippets(Part(whole.labels, watched), 50, STEPS, 3))
    assert all(x.shape == (1, 20, CHANNELS) for x in made) and len(made) == 50
    train = split(24)[0].tolist()
    assert sorted(set(asked)) == train and max(asked.count(i) for i in train) == 3  # 20 samples, again and again
    trains = whole.trains(torch.tensor(asked), 0)
    starts = []
    for snippet, full in zip(made, trains, strict=True):
        (found,) = (i for i in range(STEPS - 19) if torch.equal(full[i : i + 20], snippet[0]))
        starts.append(found)
    assert min(starts) < 10 and max(starts) > 50
    again = list(_liquid_plastic.snippets(whole, 50, STEPS, 3))
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_a_plastic_liquid_stands_beside_the_static_one(tmp_path: Path, nalsm: dict[str, Any]) -> None:
    nalsm["speakers"] = True
    out = tmp_path / "run"
    summary = learning(out, "--seeds", "2", "--feature", "counts", "filter", "--plot")
    figures = {"accuracy", "learning_curve", "dynamics", "dynamics_plastic"}
    assert {p.stem for p in (out / "figures").iterdir()} == figures
    for kind, feature in (("official test", "counts"), ("official test", "filter"), ("speaker held out", "counts")):
        own = [v for v in summary["lines"] if (v["split"], v["feature"], v["samples"]) == (kind, feature, 120)]
        assert [v["arm"] for v in own] == ["liquid", "NALSM", "recurrence off", "random ReLU", "input"]
        assert [v["networks"] for v in own] == [2, 2, 2, 2, 1] and own[1]["width"] == 64
        assert own[1]["accuracy_percent"] > 60
    assert summary["plastic"]["mean_rate_hz"] != summary["health"]["mean_rate_hz"]
    names = {figure["name"].partition(" (")[0] for figure in summary["headline"]}
    assert {"plasticity adds, official test, counts, ridge", "NALSM: branching factor, local"} <= names
    assert summary["headline"][0]["name"] == "NALSM (64), ridge, mean of 2 networks"
    assert "accuracy/NALSM" in Run.open(out).read_history()


def test_every_sample_learns_from_the_weights_that_were_initialised(tmp_path: Path, nalsm: dict[str, Any]) -> None:
    """By hand: the largest weights of the static network, initialised, then one sample alone."""
    features = {}
    for rule, plasticity in (("nalsm", snn.NalsmPlasticity()), ("stdp", snn.NalsmPlasticity(astrocyte=None))):
        out = tmp_path / rule
        arm = [v["arm"] for v in learning(out, "--samples", "60", plasticity=rule)["lines"]][1]
        static = snn.preset("nalsm1000", seed=0, weight=3.0)
        plastic, data = snn.PlasticLiquid(static, plasticity), task()
        plastic.initialise(_liquid_plastic.snippets(data.train, 30, STEPS, 0), progress=False)
        assert float((plastic.weight - static.weight).abs().max()) > 0.01
        alone = plastic.run(data.test.trains(torch.tensor([7]), 0), health="ignore").counts[0]
        with h5py.File(out / "features" / "seed-0" / "test-000000.h5") as file:
            features[arm] = file[arm]["counts"][()]
            assert not np.array_equal(file["liquid"]["counts"][7], features[arm][7])
        assert np.array_equal(features[arm][7], alone.numpy())
    assert list(features) == ["NALSM", "STDP"] and not np.array_equal(features["NALSM"], features["STDP"])


def test_a_run_with_plasticity_goes_on_and_is_no_other_run(
    tmp_path: Path, nalsm: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = learning(out, "--samples", "60")
    assert "plasticity: " in refused(capsys, out, "--samples", "60", "--readout", "ridge", "--resume")
    initialised: list[int] = []
    real = snn.PlasticLiquid.initialise

    def counting(self: snn.PlasticLiquid, samples: Any, **named: Any) -> None:
        initialised.append(1)
        real(self, samples, **named)

    monkeypatch.setattr(snn.PlasticLiquid, "initialise", counting)
    monkeypatch.setattr(_liquid_features, "_PLASTIC_TOGETHER", 7)  # features do not depend on it
    kept = out / "features" / "seed-0" / "train-000000.h5"
    before = kept.read_bytes()
    kept.unlink()
    longer = learning(out, "--resume")
    assert not initialised and kept.read_bytes() == before
    few = [[v for v in found["lines"] if v["samples"] == 60] for found in (first, longer)]
    assert len(few[0]) == 5 and few[0] == few[1] and len(longer["lines"]) == 10
    learning(out, "--samples", "60", "--overwrite")
    assert initialised == [1]
    config = json.loads((out / "config.json").read_text())["config"]
    assert (config["plasticity"], config["initial_samples"]) == ("nalsm", 30)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--preset", "nalsm100"], "did you mean 'nalsm1000'?"),
        (["--dataset", "nminst"], "did you mean 'nmnist'?"),
        (["--feature", "count"], "did you mean 'counts'?"),
        (["--readout", "rigde"], "did you mean 'ridge'?"),
        (["--weight", "-1"], "--weight: got -1.0"),
        (["--input-weight", "nan"], "--input-weight: got nan"),
        (["--samples", "7"], "--samples: got 7, needed 60 to 120"),
        (["--test", "0"], "--test: got 0"),
        (["--seeds", "0"], "--seeds: got 0"),
        (["--seed", "-1"], "--seed: got -1"),
        (["--bins", "99"], "--bins: got 99"),
        (["--tau", "0"], "--tau: got 0.0"),
        (["--plasticity", "nalmm"], "did you mean 'nalsm'?"),
        (["--plasticity", "nalsm", "--preset", "rram200"], "write --preset nalsm1000 or nalsm8000"),
        (["--plasticity", "stdp", "--branching"], "--branching: got it with --plasticity stdp"),
        (["--plasticity", "stdp", "--initial-samples", "0"], "--initial-samples: got 0"),
        (["--initial-samples", "9"], "write --plasticity nalsm"),
        (["--device", "warp"], "--device: got 'warp'"),
        (["--dataset", "nmnist", "--data", "/nowhere"], "unpack N-MNIST's Train and Test"),
        (["--dataset", "spoken-digits", "--data", "/nowhere"], "write --data DIR"),
        (["--dataset", "fashion-mnist", "--data", "/nowhere"], "FashionMNIST"),
    ],
)
def test_a_bad_option_is_one_plain_line(
    words: list[str], text: str, tmp_path: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refused(capsys, tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_a_silent_or_saturated_liquid_is_named_with_its_number(
    tmp_path: Path, toy: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, tmp_path / "run", "--weight", "1e-4")
    assert "--weight 0.0001: the liquid is dead: 100.0% of its neurons" in told and "larger --weight" in told
    script(tmp_path / "run", "--readout", "ridge", "--samples", "60")  # the corrected start may take the folder
    toy["rate"] = 0.0
    assert "the liquid is dead" in refused(capsys, tmp_path / "other")
