"""The asymmetry benchmark: every rule spends the same budget of evaluations, and what it shows of finished runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop
from benchmarks import _asymmetry_report, _common, asymmetry
from benchmarks._asymmetry_budget import at_budget, price, sweeps_text
from benchmarks._asymmetry_report import summarise, table
from benchmarks._asymmetry_rows import BUDGET, FREE, NUDGED, Row, make_network, make_rule, rows
from benchmarks._asymmetry_times import milliseconds
from benchmarks._common import run_main
from benchmarks.table import full_table
from eqprop._graph import GraphNetwork
from eqprop._history import History
from tests.helpers import seeded

RELAXING = [row for row in rows() if row.group == "rules" and row.rule != "backprop"]
BATCH = 3
CENTRED: dict[str, Any] = {"contour": "centred", "beta": 0.05, "readout": "tangent"}


def tiny(row: Row) -> eqprop.HopfieldNetwork | eqprop.DirectedNetwork:
    """The row's network with a few units."""
    shared: dict[str, Any] = {"activation": "sigmoid", "readout": 3, "generator": seeded()}
    if row.angle is None:
        return eqprop.HopfieldNetwork.mlp(6, 5, 4, 3, **shared)
    return eqprop.DirectedNetwork.mlp(6, 5, 4, 3, feedback_angle=row.angle, **shared)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Evaluations a sample, one entry a call: inputs of layers and products with the Jacobian, however they arise."""
    counted: list[float] = []
    inputs, tangent = GraphNetwork.block_inputs, GraphNetwork.tangent

    def block_inputs(self: GraphNetwork, state: Any, drive: Any, block: Any, cache: Any) -> Any:
        counted.append(len(state[0]) / BATCH * len(block) / len(self.shapes))
        return inputs(self, state, drive, block, cache)

    def products_of(self: GraphNetwork, state: Any, drive: Any, *, transpose: bool) -> Any:
        product = tangent(self, state, drive, transpose=transpose)

        def counting(vector: Any) -> Any:
            counted.append(len(vector[0]) / BATCH)
            return product(vector)

        return counting

    monkeypatch.setattr(GraphNetwork, "block_inputs", block_inputs)
    monkeypatch.setattr(GraphNetwork, "tangent", products_of)
    return counted


def spent(row: Row, rule: eqprop.Rule, products: list[float]) -> float:
    """Evaluations counted in one step."""
    network = tiny(row)
    x, y = torch.rand(BATCH, 6, generator=seeded(1)), torch.tensor([0, 1, 2])
    products.clear()
    rule.backward(network, x, y)
    return sum(products)


def lengths(rule: eqprop.Rule) -> tuple[int, int]:
    """Sweeps of the free phase and of a nudged one, as a training step reports them."""
    network = tiny(next(r for r in RELAXING if r.angle is not None))
    step = rule.backward(network, torch.rand(BATCH, 6, generator=seeded(1)), torch.tensor([0, 1, 2]))
    return int(step.free.sweeps.max()), max((int(s.sweeps.max()) for s in step.nudged), default=0)


@pytest.mark.parametrize("row", RELAXING, ids=lambda row: row.label)
def test_every_rule_of_the_table_spends_the_same_budget(row: Row, products: list[float]) -> None:
    rule = make_rule(row, 0, 1e-6)
    assert price(rule).evaluations(*lengths(rule)) == BUDGET
    # the pass of a regulariser over the weights alone is charged, but it is no product with a state
    assert spent(row, rule, products) == BUDGET - len(rule.regularisers)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_only_the_rows_of_the_table_have_a_budget(row: Row) -> None:
    rule = make_rule(row, 0, 1e-6)
    assert (row.budget == BUDGET) == (row.group == "rules")
    if row.budget is None:
        assert isinstance(rule, eqprop.EquilibriumPropagation)
        assert rule.free == eqprop.Stop(tol=1e-6, max_sweeps=FREE, block=10) and rule.nudged == eqprop.Sweeps(NUDGED)


@pytest.mark.parametrize(
    "settings",
    [
        {"contour": "derivative"},
        {"contour": "one-sided"},
        {"contour": "random-sign"},
        {"contour": "centred"},
        *({"contour": "cauchy", "points": n} for n in (1, 2, 4, 5, 6)),
        {"contour": "cauchy", "points": 4, "correction": "asymep"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_the_price_of_every_contour_is_what_it_evaluates(settings: dict[str, Any], products: list[float]) -> None:
    row = next(r for r in RELAXING if r.label == "AsymEP")
    shared: dict[str, Any] = {"cost": "cross-entropy", "solver": eqprop.Synchronous(), "readout": "tangent"}
    rule = eqprop.EquilibriumPropagation(free=eqprop.Sweeps(7), nudged=eqprop.Sweeps(3), **shared, **settings)
    assert spent(row, rule, products) == price(rule).evaluations(7, 3)


def test_the_membrane_version_of_homeostasis_pays_for_its_slopes(products: list[float]) -> None:
    row = next(r for r in RELAXING if r.label == "no correction")
    plain = make_rule(row, 0, 1e-6)
    membrane = eqprop.JacobianHomeostasis(0.1, coordinates="membrane")
    shared: dict[str, Any] = {"cost": "cross-entropy", "solver": eqprop.Synchronous(), "readout": "tangent"}
    uneven = eqprop.EquilibriumPropagation(regularisers=(membrane,), **shared)
    rule = at_budget(uneven, BUDGET, free=FREE, nudged=NUDGED)
    assert price(rule).beside - price(plain).beside == 3
    # its pass over the weights and a matrix product a block are no calls of the network
    assert spent(row, rule, products) == BUDGET - 2


def test_a_rule_that_nobody_priced_is_refused() -> None:
    probes = eqprop.JacobianHomeostasis(0.1, estimator="symmetric")
    for rule in (eqprop.ImplicitGradient(), eqprop.EquilibriumPropagation(regularisers=(probes,))):
        with pytest.raises(TypeError, match="no price"):
            price(rule)


def finished(out: Path, row: Row, seed: int, history: dict[str, list[float]]) -> None:
    """A finished run below ``out``, as training leaves it."""
    folder = out / row.name / f"seed{seed}"
    folder.mkdir(parents=True)
    record: dict[str, Any] = {"row": row.name, "seed": seed, "epochs": 2, "accuracy_percent": 80.0 + seed}
    record |= {"seconds": 1.0, "stopped": ""}
    if row.rule != "backprop":
        errors = {"relative_error": 1.0, "relative_error_median": 0.048, "relative_error_q90": 0.3}
        record["error_vector"] = {"hidden1": {"cosine": 0.9 - 0.2 * seed} | errors}
    (folder / "result.json").write_text(json.dumps(record))
    (folder / "metrics.h5").write_bytes(History(history).to_bytes())


def test_the_table_shows_the_sweeps_and_evaluations_that_were_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    of = {row.name: row for row in rows()}
    for seed, free in ((0, [60.0, 80.0]), (1, [70.0, 90.0])):
        finished(tmp_path, of["contour/N6-beta0.5"], seed, {"free_sweeps": free, "nudged_sweeps": [20.0, 20.0]})
    for name, sweeps in (("rules/Dyadic-EP", 94.0), ("rules/feed-forward-backprop", 1.0)):
        history = {"free_sweeps": [sweeps, sweeps], "nudged_sweeps": [nan, nan], "seconds": [30.0, 34.0]}
        finished(tmp_path, of[name], 0, history)
    words = ["--report", "--data", "nowhere", "--out", str(tmp_path)]
    run_main(asymmetry.main, asymmetry.options(), words, make_run=False)
    printed = capsys.readouterr().out
    shown_table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    column = shown_table[0].index("sweeps a step")
    shown = {cells[1]: cells[column : column + 2] for cells in shown_table}
    assert shown["N=6, beta=0.5"] == ["75 + 6 x 20", "195"]
    assert shown["Dyadic EP"] == ["94 double", "190"]
    assert shown["feed-forward backprop"] == ["1 forward, 1 back", "1"]
    assert not any("ms" in name for name in shown_table[0]), "nothing was timed"
    lines = {line["row"]: line for line in summarise(asymmetry.collect(tmp_path))}
    assert lines["N=6, beta=0.5"]["evaluations_a_step"] == pytest.approx(195.0)
    assert (tmp_path / "report" / "figures" / "asymmetry.png").stat().st_size > 5000


def cells(line: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, str]:
    """The cells of a row's line in the table, by heading."""
    head, _, *text = (t[2:-2].split(" | ") for t in table(lines).splitlines() if t.startswith("|"))
    return dict(zip(head, text[lines.index(line)], strict=True))


def test_the_table_shows_the_median_sample_and_the_spread_over_seeds(tmp_path: Path) -> None:
    row = next(r for r in rows() if r.name == "rules/tied")
    for seed in (0, 1):
        finished(tmp_path, row, seed, {"free_sweeps": [150.0], "nudged_sweeps": [20.0]})
    lines = summarise(asymmetry.collect(tmp_path), {"rules/tied": 123.4})
    shown = cells(lines[0], lines)
    assert shown["relative error, median sample"] == "0.048" and shown["ms a step"] == "123"
    assert shown["first hidden cosine: own rule"] == "0.800 +- 0.141"
    assert lines[0]["relative_error"] == 1.0 and lines[0]["relative_error_q90"] == pytest.approx(0.3)


def test_runs_from_before_a_figure_was_taken_have_none_in_its_place(tmp_path: Path) -> None:
    row = next(r for r in rows() if r.name == "rules/tied")
    finished(tmp_path, row, 0, {})
    path = tmp_path / row.name / "seed0" / "result.json"
    record = json.loads(path.read_text())
    record["error_vector"]["hidden1"].pop("relative_error_median")
    path.write_text(json.dumps(record))
    lines = summarise(asymmetry.collect(tmp_path))
    assert lines[0]["relative_error_median"] is None and cells(lines[0], lines)["relative error, median sample"] == ""


def test_notes_stand_below_the_table_and_are_numbered_in_it(tmp_path: Path) -> None:
    of = {row.name: row for row in rows()}
    for name in ("homeostasis/off", "loop/off", "loop/membrane"):
        finished(tmp_path, of[name], 0, {})
    lines = summarise(asymmetry.collect(tmp_path))
    plain, off, membrane = (cells(line, lines) for line in lines)
    assert (plain["row"], off["row"], membrane["row"]) == ("off", "off [1]", "membrane [2]")
    assert plain["published"].startswith("cosine 0.354")
    below = table(lines).splitlines()[-4:]
    assert (below[0], below[2]) == ("", "")
    assert below[1].startswith("[1] no reciprocal connections") and below[3].startswith("[2] slope-weighted decay")


def test_without_reciprocal_connections_the_asymmetry_is_the_norm(device: torch.device) -> None:
    """What the note of the loop says: S / norm is 1 whatever the weights, and S is that of slopes and weights."""
    row = replace(next(r for r in rows() if r.name == "loop/membrane"), sizes=(4, 6, 5, 10))
    net = make_network(row, 0).double().to(device)
    x = torch.rand(3, 4, generator=seeded(), dtype=torch.float64).to(device)
    free = eqprop.relax(net, net.initial_state(3), net.drive(x), stop=eqprop.Sweeps(50))
    for coordinates in ("activation", "membrane"):
        loss = eqprop.JacobianHomeostasis(1.0, coordinates=coordinates).loss(net, free.state, net.drive(x))
        assert float(loss.total / loss.norm) == pytest.approx(1.0, abs=1e-12)


def test_finished_runs_are_diagnosed_again_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint gives back what was found after training; a run that stopped keeps what it has."""
    small = Row(
        "rules", "tied", None, settings=CENTRED, adam=True, epochs=1, sizes=(784, 6, 5, 10), budget=30, nudged=5
    )
    data = eqprop.load_dataset("digits")
    for module in (asymmetry, _asymmetry_report):
        monkeypatch.setattr(module, "rows", lambda: [small])
    monkeypatch.setattr(eqprop, "load_dataset", lambda *_, **__: data)
    monkeypatch.setattr(_common, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    words = ["--out", str(tmp_path / "runs"), "--seeds", "2"]
    run_main(asymmetry.main, asymmetry.options(), words, make_run=False)
    paths = [tmp_path / "runs" / "rules" / "tied" / f"seed{seed}" / "result.json" for seed in (0, 1)]
    taken = [json.loads(path.read_text()) for path in paths]
    stale = [r | {"error_vector": {"hidden1": {"cosine": 0.0}}} for r in taken]
    stale[1]["stopped"] = "diverged"
    for path, record in zip(paths, stale, strict=True):
        path.write_text(json.dumps(record))
    words = ["--out", str(tmp_path / "runs"), "--diagnose", "--time", "--record", "tiny"]
    run_main(asymmetry.main, asymmetry.options(), words, make_run=False)
    assert json.loads(paths[0].read_text()) == taken[0] and json.loads(paths[1].read_text()) == stale[1]
    record = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert record["rows"][0]["milliseconds_a_step"] > 0 and record["page"] == "tiny.md"
    page = (tmp_path / "results" / "tiny.md").read_text()
    assert page in capsys.readouterr().out and "| ms a step |" in page
    assert "[tiny](tiny.json), [table](tiny.md)" in full_table({"tiny": record})


def test_only_rows_of_one_budget_are_timed() -> None:
    small = Row("rules", "a", None, settings=CENTRED, sizes=(8, 6, 5, 10), budget=30, nudged=5)
    free = replace(small, label="b", budget=None)
    found = milliseconds([small, free], 4, rounds=1)
    assert list(found) == ["rules/a"] and found["rules/a"] > 0


def test_sweeps_are_told_by_phase() -> None:
    centred = eqprop.EquilibriumPropagation(contour="centred")
    assert sweeps_text(centred, 149.0, 20.0) == "149 + 2 x 20"
