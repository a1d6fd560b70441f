"""The substrate suite of ``benchmarks.speed``, end to end on a tiny network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hardware
from benchmarks import _common, speed
from benchmarks._speed_substrate import CALLS, CONTROL, TARGETS, _interleaved, _share, candidate

TINY = "--suite substrate --network 20-8-3 --batch-size 8 --sweeps 2 --rounds 2 --device cpu".split()


def test_the_suite_reports_ratios_to_the_plain_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    _common.run_main(speed.main, speed.options(), [*TINY, "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["command"].startswith("python -m benchmarks.speed --suite substrate")
    targets = {f["name"].partition(" (")[0]: f.get("target") for f in summary["headline"]}
    assert {n: t for n, t in targets.items() if t} == {n: f"<= {v:g}" for n, v in TARGETS.items()}
    assert all(f["value"] > 0 and f["unit"] == "x plain step" for f in summary["headline"])
    assert set(summary["share_of_cells_touched_a_step"]) == set(summary["median_seconds"])
    assert "x plain" in capsys.readouterr().out
    assert {CONTROL, "pcm, one cell of a pair"} < targets.keys()


def test_candidates_take_turns_in_beginning_a_round_and_in_who_follows_whom() -> None:
    """Some of a round's steps at a time; whoever always came first, or after the same one, would be always right or
    wrong by the same."""
    seen: list[str] = []
    names = ["plain", "b", "c", "d"]
    times, ratios = _interleaved({n: lambda n=n: seen.append(n) for n in names}, rounds=8)  # type: ignore[misc]
    assert list(times) == list(ratios) == names and ratios["plain"] == 1.0
    steps, turn = seen[8:], 4 * CALLS  # after the warm-up
    rounds = [steps[i : i + turn : CALLS] for i in range(0, len(steps), turn)]
    assert all(sorted(r) == sorted(names) for r in rounds) and len(rounds) == 8
    for place in range(4):
        assert {r[place] for r in rounds} == set(names)
    before = {a: {b for r in rounds for b, c in zip(r, r[1:], strict=False) if c == a} for a in names}
    assert all(len(found) >= 2 for found in before.values())


def test_the_share_of_cells_is_that_of_a_step() -> None:
    plain, ideal = (candidate([20, 8, 3], 8, 4, torch.device("cpu"), s) for s in (None, hardware.Substrate()))
    assert _share(plain) == _share(ideal) == 0.0
    pcm = hardware.Substrate(cells=hardware.CellArray("pcm", "one-sided"))
    assert 0.3 < _share(candidate([20, 8, 3], 8, 4, torch.device("cpu"), pcm)) <= 0.55  # one cell of a pair
    few, many = (
        candidate(
            [20, 8, 3],
            8,
            4,
            torch.device("cpu"),
            hardware.Substrate(cells=hardware.CellArray("reram-sb")),
            rate=rate,
            stochastic=True,
        )
        for rate in (1e-3, 1.0)
    )
    assert _share(few, 5) < 0.2 < _share(many, 5)
    assert few.written[1] > 0
