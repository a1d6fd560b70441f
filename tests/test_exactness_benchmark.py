"""The exactness benchmark: what it measures of random networks, and what it records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import exactness
from benchmarks._common import run_main


def measured(kind: str, cost: str, seed: int, correction: str | None) -> dict[str, list[float]]:
    """Errors whose exponents are off by a tenth of the seed, and those of the loop by as much the other way."""
    off = (-0.1 if kind == "loop" else 0.1) * seed
    found = {"points": [1.0] * len(exactness.POINTS), "centred": [b ** (2 + off) for b in exactness.CENTRED]}
    return found | {f"N = {n}": [3 * b ** (n + off) for b in betas] for n, betas in exactness.FITTED.items()}


def test_the_measured_exponents_are_recorded_with_their_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactness, "measure", measured)
    run_main(exactness.main, exactness.options(), ["--seeds", "3", "--out", str(tmp_path / "run")])
    exponents = json.loads((tmp_path / "run" / "summary.json").read_text())["exponents_of_beta"]
    needed = {f"{kind}, N = {n}": n for kind in ("tied", "untied and loop, AsymEP") for n in exactness.FITTED}
    needed["untied and loop, AsymEP, centred"] = 2
    assert {name: of["needed"] for name, of in exponents.items()} == needed
    for name, of in exponents.items():
        found = [of[key] - needed[name] for key in ("min", "median", "max")]
        assert found == pytest.approx([0.0, 0.1, 0.2] if name.startswith("tied") else [-0.2, 0.0, 0.2], abs=1e-9)
    assert (tmp_path / "run" / "figures" / "exactness.png").stat().st_size > 5000


@pytest.mark.parametrize(("kind", "correction"), [("tied", None), ("loop", "asymep")])
def test_the_error_falls_as_the_power_of_beta_that_is_the_number_of_points(kind: str, correction: str | None) -> None:
    found = exactness.measure(kind, "squared-error", 0, correction)
    for n, betas in exactness.FITTED.items():
        assert exactness.slope(betas, found[f"N = {n}"]) == pytest.approx(n, abs=0.2)


def test_the_spread_is_of_all_values() -> None:
    assert exactness.spread([3.0, 1.0, 2.0, 6.0]) == {"median": 2.5, "min": 1.0, "max": 6.0}


def test_the_legend_covers_no_curve() -> None:
    """It lies outside of all panels."""
    kinds = [(k, c, a) for k in exactness.KINDS for c in exactness.COSTS for a in (None, "asymep")]
    run = {"points": [0.9] * len(exactness.POINTS)}  # at the top, as the plain curves of the loop
    figure = exactness.draw({key: [run] for key in kinds}, {"tied, N = 1": {"needed": 1.0} | exactness.spread([1.0])})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(axis.legend_ for axis in figure.axes)
    assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)
