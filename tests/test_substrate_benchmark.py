"""The substrate benchmark: every group end to end on a few digits, what it resumes, reports and refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop
import hardware
from benchmarks import _substrate_table, _substrate_train, substrate
from benchmarks._common import run_main
from benchmarks._substrate_rows import MISMATCH, Row, make_chip, make_network, make_optimizer, make_rule, rows
from benchmarks._substrate_table import SignedDrift, conditions
from benchmarks._suite import trained
from eqprop._data import load_dataset
from hardware import Fluctuation, Substrate
from hardware._curves import constant

TINY = ["--dataset", "digits", "--train", "64", "--epochs", "1", "--seeds", "1", "--quiet"]
_load = functools.cache(load_dataset)
_ALL_ROWS = {row.name: row for row in rows()}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Data read once, and a table of few faults at one nudge."""
    monkeypatch.setattr(eqprop, "load_dataset", _load)
    wanted = ("none", "afresh in each phase", "ADC")
    everything = conditions

    def few(kind: str) -> list[_substrate_table.Condition]:
        found = [c for c in everything(kind) if c.group in wanted and c.label in ("", "1 %", "10 bits")]
        return [_substrate_table.Condition(kind, c.group, c.label, c.substrate, (0.1,)) for c in found]

    monkeypatch.setattr(_substrate_table, "conditions", few)
    monkeypatch.setattr(_substrate_table, "BATCHES", 1)
    monkeypatch.setattr(_substrate_table, "BATCH", 8)
    yield


def script(out: Path, *words: str) -> int:
    return run_main(substrate.main, substrate.options(), [*TINY, "--out", str(out), *words], make_run=False)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        script(out, *words)
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_have_names_of_their_own_and_plain_records() -> None:
    assert len(_ALL_ROWS) == len(rows())
    for row in rows():
        assert not set(row.name) & set(" ,%")
        assert json.loads(json.dumps(row.record()))["row"] == row.name
    groups = {row.group for row in rows()}
    assert groups == {"devices", "mismatch", "mitigations"}
    in_situ = {row.label.partition(",")[0] for row in rows() if row.write is not None}
    assert len(in_situ) >= 7 and in_situ <= set(hardware.DEVICES)


@pytest.mark.parametrize("percent", MISMATCH)
def test_both_machines_of_a_mismatch_differ_by_as_much(percent: int) -> None:
    """The relative difference of what acts there and back, in one array and between two."""
    for series in ("contrast", "tangent, two arrays"):
        row = next(r for r in rows() if r.series == series and r.x == percent)
        chip = make_chip(row, make_network(row, 0), 0)
        there = chip.connection("hidden1-hidden2").operand(back=False)
        if row.directed:
            back = chip.connection("hidden2-hidden1").operand(back=False).mT
        else:
            back = chip.connection("hidden1-hidden2").operand(back=True)
        weight = make_network(row, 0).connection("hidden1-hidden2").weight
        assert float(((there - back) / weight).detach().std()) == pytest.approx(percent / 100, rel=0.05, abs=1e-6)


def test_the_optimiser_of_a_device_goes_through_its_pulses() -> None:
    row = _ALL_ROWS["devices/ecram"]
    chip = make_chip(row, make_network(row, 0), 0)
    optimizer = make_optimizer(row, chip)
    x, y = torch.rand(4, 784), torch.tensor([0, 1, 2, 3])
    make_rule(row, 0).backward(chip, x, y)
    optimizer.step()
    assert chip.counts["pulses"] > 0


# -- end to end --------------------------------------------------------------------------------------------------------


def test_a_device_is_trained_in_situ_and_set_beside_its_programmed_twin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path, "--rows", "devices/ideal", "devices/capacitor")
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "devices/capacitor/seed0/result.json").read_text())
    assert set(result["later_percent"]) == set(result["programmed_percent"]) == {"at once", "1 s", "1 day"}
    assert result["pulses"] > 0 and len(result["validation_percent"]) == 1
    # after a day every capacitor has leaked to its rest, and the network says the same of every image
    assert result["later_percent"]["1 day"] == pytest.approx(10.0, abs=3.0)
    assert set(result["diagnosis"]["layers"]) == {"hidden1", "output"}
    assert "| devices | capacitor | 1 x 1 |" in printed
    figures = {path.stem for path in (tmp_path / "report/figures").iterdir()}
    assert figures == {"devices"}
    config = json.loads((tmp_path / "devices/capacitor/seed0/config.json").read_text())["config"]
    assert config["rates"] == [0.3, 0.1] and config["substrate"]["cells"]["device"] == "capacitor"


def test_what_is_finished_is_kept_and_what_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--rows", "devices/ecram", "--epochs", "2")
    script(tmp_path / "whole", *words)

    class Interrupted(KeyboardInterrupt):
        pass

    evaluate, calls = eqprop.Trainer._finish_epoch, []

    def stopping(self: Any, *rest: Any) -> None:
        evaluate(self, *rest)
        calls.append(self.epoch)
        if len(calls) == 3:  # the ideal network's two, and the first of the chip
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(eqprop.Trainer, "_finish_epoch", stopping)
        with pytest.raises(SystemExit):
            script(tmp_path / "parts", *words)
    assert not (tmp_path / "parts/devices/ecram/seed0/result.json").exists()
    script(tmp_path / "parts", *words)
    whole, parts = (
        json.loads((tmp_path / name / "devices/ecram/seed0/result.json").read_text()) for name in ("whole", "parts")
    )
    assert {k: v for k, v in whole.items() if k != "seconds"} == {k: v for k, v in parts.items() if k != "seconds"}
    stamp = (tmp_path / "parts/devices/ecram/seed0/result.json").stat().st_mtime_ns
    capsys.readouterr()
    script(tmp_path / "parts", *words)
    assert (tmp_path / "parts/devices/ecram/seed0/result.json").stat().st_mtime_ns == stamp


def test_mismatch_and_mitigations_train_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(
        tmp_path,
        "--rows",
        "mismatch/contrast-50",
        "mismatch/AsymEP-50",
        "mismatch/homeostasis*-0",
        "mitigations/differential-ADC",
        "mitigations/4-passes*",
    )
    printed = capsys.readouterr().out
    mismatched = json.loads((tmp_path / "mismatch/contrast-50/seed0/result.json").read_text())
    assert mismatched["cosine_with_own_gradient"]["hidden1"] < 1.0
    corrected = json.loads((tmp_path / "mismatch/AsymEP-50/seed0/result.json").read_text())
    key = "cosine_with_own_gradient_small_nudge"  # of which the correction leaves the bias of the nudge alone
    assert corrected[key]["hidden1"] > 0.99 > mismatched[key]["hidden1"]
    noisy = json.loads((tmp_path / "mitigations/differential-ADC/seed0/result.json").read_text())
    assert noisy["diagnosis"]["layers"]["hidden1"]["effective_bits"] is not None
    assert "programmed_percent" not in noisy and not (tmp_path / "devices").exists()
    assert {path.stem for path in (tmp_path / "report/figures").iterdir()} == {"mismatch", "mitigations"}
    summary = json.loads((tmp_path / "report/summary.json").read_text())
    assert [line["row"] for line in summary["rows"]] == [
        "contrast 50 %", "AsymEP 50 %", "homeostasis, two arrays 0 %", "differential ADC", "4 passes averaged"
    ]  # fmt: skip
    assert "forward and backward mismatch, mitigations" in printed


class Broken(eqprop.EquilibriumPropagation):
    """Gives gradients that are NaN."""

    def backward(self, network: Any, x: torch.Tensor, y: torch.Tensor, **options: Any) -> Any:
        step = super().backward(network, x, y, **options)
        for p in network.parameters():
            p.grad.fill_(torch.nan)
        return step


def test_a_row_whose_changes_no_cell_can_take_stops_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(row: Row, *rest: Any) -> eqprop.Rule:
        if row.name != "devices/ecram":
            return make_rule(row, *rest)
        rule = make_rule(row, *rest)
        return Broken(**{f.name: getattr(rule, f.name) for f in dataclasses.fields(rule) if f.init})

    monkeypatch.setattr(_substrate_train, "make_rule", made)
    script(tmp_path, "--rows", "devices/ideal", "devices/ecram", "devices/capacitor")
    found = {
        name: json.loads((tmp_path / f"devices/{name}/seed0/result.json").read_text())
        for name in ("ideal", "ecram", "capacitor")
    }
    assert found["ecram"]["stopped"].startswith(
        "Training stopped in epoch 1, step 1: write path: connection input-hidden1: got 200704 changes of 200704 that"
    )
    assert found["ecram"]["epochs"] == 0 and 0 <= found["ecram"]["accuracy_percent"] <= 100
    assert {name: found[name]["epochs"] for name in ("ideal", "capacitor")} == {"ideal": 1, "capacitor": 1}
    assert found["ideal"]["stopped"] == found["capacitor"]["stopped"] == ""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| devices |")]
    assert ["(stopped)" in line for line in lines] == [False, False, True]


def test_data_that_cannot_be_are_told_by_the_test_after_the_run() -> None:
    data = _load("digits").normalised()  # beyond the range of the converter
    row = dataclasses.replace(_ALL_ROWS["mitigations/nothing"], substrate=Substrate(input_dac=hardware.InputDac(8)))
    chip = make_chip(row, make_network(row, 0), 0)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 64, "progress": False, "guard": None}
    trainer, stopped = trained(chip, make_rule(row, 0), make_optimizer(row, chip), data, None, **options)
    assert "step 1: input: got values from" in stopped and trainer.step == 0
    with pytest.raises(eqprop.DataError, match="the range of the input converter"):
        trainer.test()


def test_the_table_is_measured_once_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script(tmp_path, "--table")
    printed = capsys.readouterr().out
    measured = sorted((tmp_path / "table/measured").iterdir())
    assert len(measured) == 6
    for network in ("hopfield", "resistive"):
        assert f"**{network}: gradient cosine by layer against the ideal network" in printed
    assert "| afresh in each phase | 1 % |" in printed and "Peters & Talatchian" in printed
    stamps = [path.stat().st_mtime_ns for path in measured]
    script(tmp_path, "--table")
    assert [path.stat().st_mtime_ns for path in measured] == stamps
    assert {path.stem for path in (tmp_path / "report/figures").iterdir()} == {"shared_or_afresh", "converters"}


def test_the_search_looks_at_validation_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked: list[int] = []
    evaluate = eqprop.evaluate

    def watched(network: Any, split: Any, *rest: Any, **options: Any) -> Any:
        looked.append(len(split))
        return evaluate(network, split, *rest, **options)

    monkeypatch.setattr(eqprop, "evaluate", watched)
    script(tmp_path, "--search", "--rows", "devices/idealized")
    found = json.loads((tmp_path / "search.json").read_text())["devices/idealized"]
    assert len(found) == len(looked) and set(looked) == {len(_load("digits").validation)}
    assert "devices/idealized:" in capsys.readouterr().out
    assert not (tmp_path / "devices").exists()


# -- reports of made-up results ----------------------------------------------------------------------------------------


def finished(out: Path, row: Row, seed: int, accuracy: float, cosine: float) -> None:
    """A finished run below ``out``, as training leaves it."""
    folder = out / row.name / f"seed{seed}"
    folder.mkdir(parents=True)
    layer = {"ideal": {"cosine": cosine}, "exact": {"cosine": cosine - 0.1}, "effective_bits": 3.0 + seed}
    record: dict[str, Any] = {
        "row": row.name, "seed": seed, "epochs": 2, "accuracy_percent": accuracy, "seconds": 10.0, "stopped": "",
        "initial_validation_percent": 10.0, "validation_percent": [50.0 + seed, 60.0 + seed],
        "diagnosis": {"layers": {"hidden1": layer}},
    }  # fmt: skip
    if row.group == "mismatch":
        record["cosine_with_own_gradient"] = {"hidden1": cosine}
        record["cosine_with_own_gradient_small_nudge"] = {"hidden1": cosine + 0.25}
    if row.write is not None:
        record |= {"pulses": 1e6, "later_percent": {"at once": accuracy, "1 s": accuracy - 1, "1 day": accuracy - 2}}
    (folder / "result.json").write_text(json.dumps(record))


def test_a_report_gives_means_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        finished(tmp_path, _ALL_ROWS["devices/ecram"], seed, 90.0 + 2 * seed, 0.8)
        finished(tmp_path, _ALL_ROWS["mismatch/AsymEP-20"], seed, 95.0, 0.5 + 0.2 * seed)
    script(tmp_path, "--report", "--data", "nowhere", "--seeds", "2")
    printed = capsys.readouterr().out
    assert "| devices | ecram | 2 x 2 | 91.00 +- 1.41 | 91.00 / 90.00 / 89.00 |" in printed
    assert "| mismatch | AsymEP 20 % | 2 x 2 | 95.00 +- 0.00 |  |  | 0.600 | 0.500 | 0.600 | 0.850 | 3.5 |" in printed
    summary = json.loads((tmp_path / "report/summary.json").read_text())
    assert summary["rows"][0]["curve"] == [10.0, 50.5, 60.5]
    named = {figure["name"]: figure["value"] for figure in summary["headline"]}
    assert named["devices, ecram: accuracy"] == 91.0
    assert named["AsymEP 20 %: first layer's cosine with its own gradient, small nudge"] == pytest.approx(0.85)
    deviations = [row["cosine_own_small_nudge_deviation"] for row in summary["rows"]]
    assert deviations == [None, pytest.approx(0.2 / 2**0.5)]
    for name in ("devices", "mismatch"):
        assert (tmp_path / f"report/figures/{name}.png").stat().st_size > 5000


def test_a_report_shows_what_was_asked_for_alone(tmp_path: Path) -> None:
    finished(tmp_path, _ALL_ROWS["devices/ecram"], 0, 90.0, 0.8)
    finished(tmp_path, _ALL_ROWS["mitigations/nothing"], 0, 80.0, 0.4)
    script(tmp_path, "--report", "--rows", "mitigations/*")
    assert [r["row"] for r in json.loads((tmp_path / "report/summary.json").read_text())["rows"]] == ["nothing"]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rows", "divices/*"), "--rows: got divices/*, which match none of devices/ideal"),
        (("--report",), "found nothing finished below empty"),
        (("--rows", "devices/ideal", "--train", "0"), "--train: got 0, needed 1 to"),
        (("--rows", "devices/ideal", "--epochs", "0"), "--epochs: got 0, needed at least 1"),
        (("--seeds", "-1"), "--seeds: got -1, needed at least 1"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    text = refused(capsys, tmp_path / "empty", *words)
    assert said in text and len(text.splitlines()) == 1


# -- faults of the table -----------------------------------------------------------------------------------------------


def test_dispersed_drift_has_nothing_in_common() -> None:
    """Between two phases the cells change by the share that was asked for, up as often as down."""
    for common, dispersed in ((0.0, 0.01), (0.01, 0.0)):
        net = eqprop.HopfieldNetwork.mlp(60, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        chip: Any = _substrate_table._drifting("hopfield", common, dispersed).fabricate(net)
        chip.drive(torch.rand(2, 60, dtype=torch.float64))
        seen = []
        for phase in range(2):
            chip.begin_phase(phase)
            seen.append(chip.connection("input-hidden1").operand(back=False).detach().clone())
        change = seen[1] / seen[0] - 1
        assert float(change.mean()) == pytest.approx(-common, rel=0.01, abs=6e-4)
        assert float(change.std()) == pytest.approx(dispersed, rel=0.05, abs=1e-6)
    law = SignedDrift(constant(0.0), constant(1.0))
    assert float(law.coefficient(torch.ones(2), torch.tensor([-1.0, 1.0])).min()) == -1.0


def test_every_fault_of_the_table_can_be_fabricated() -> None:
    for kind in ("hopfield", "resistive"):
        for condition in _EVERY[kind]:
            assert isinstance(condition.substrate, Substrate)
        files = [c.file for c in _EVERY[kind]]
        assert len(files) == len(set(files))
        shared = next(c for c in _EVERY[kind] if c.group == "shared by the phases")
        assert shared.substrate.fluctuations == (Fluctuation(0.01, "sample"),)


_EVERY = {kind: conditions(kind) for kind in ("hopfield", "resistive")}
