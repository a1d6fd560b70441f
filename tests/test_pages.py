"""Pages of recorded liquids: every figure beside its controls, links that lead somewhere, parts that are missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks._common import RESULTS, read_results
from benchmarks._pages import figures_of, page
from benchmarks.table import full_table, pages

KINDS = {"benchmarks.comparison", "benchmarks.liquid", "benchmarks.rram"}


def recorded() -> dict[str, dict[str, Any]]:
    found = read_results(RESULTS)
    return {name: record for name, record in found.items() if record["command"].split()[2] in KINDS}


def test_every_recorded_liquid_has_a_page_that_the_results_link() -> None:
    results = read_results(RESULTS)
    made, beside = pages(results, RESULTS), full_table(results)
    assert {path.stem for path in made} == set(recorded()) and len(made) > 3
    for path, text in made.items():
        assert f"[table]({path.name})" in beside
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert all((RESULTS / link).is_file() for link in links)
        assert {link for link in links if link.endswith(".png")} >= {
            picture.name for picture in RESULTS.glob(f"{path.stem}-*.png")
        }


def test_a_liquid_is_followed_by_its_controls_with_the_same_readout_and_samples() -> None:
    for name, record in recorded().items():
        if record["command"].split()[2] != "benchmarks.liquid" or "lines" not in record:
            continue
        rows = [row.split(" | ") for row in str(page(name, record)).splitlines() if row.startswith("| official")]
        assert len(rows) == sum(line["split"] == "official test" for line in record["lines"])
        for first, second in zip(rows, rows[1:], strict=False):
            same = first[:4] == second[:4]
            assert second[4] == "liquid" if not same else second[4] != "liquid"


def test_every_headline_figure_and_every_row_of_a_comparison_is_there() -> None:
    row = {
        "dataset": "mnist", "row": "liquid", "seeds": 2, "accuracy_percent": {"0": 90.0}, "kind": "MAC",
        "accuracy_deviation": {"0": 1.0}, "trained_parameters": 1, "fixed_parameters": 1, "operations": 1,
        "training_cpu_seconds": 1.0, "inference_cpu_milliseconds": 1.0,
    }  # fmt: skip
    gap = {
        "dataset": "mnist", "row": "liquid", "against": "recurrence-off", "seeds": 2, "more_percent": 0.5,
        "error_seeds": 0.25, "error_test": 0.75, "paired": True,
    }  # fmt: skip
    record: dict[str, Any] = {
        "title": "A title",
        "command": "python -m benchmarks.comparison --out x",
        "headline": [{"name": "one", "value": 1.0, "unit": "%"}, {"name": "two", "value": 2.0, "unit": "%"}],
        "rows": [row, row | {"row": "recurrence-off"}],
        "read_noise": "relative",
    }
    old = str(page("c", record, ["c-b.png", "c-a.png"]))  # recorded before gaps were
    assert "| MNIST | liquid | 2 | 90.00 +- 1.00 |" in old and "| MNIST | recurrence-off | 2 |" in old
    assert "| one | 1.00 % |" in old and "| two | 2.00 % |" in old and "against" not in old
    assert old.index("![c-a](c-a.png)") < old.index("![c-b](c-b.png)")
    new = str(page("c", record | {"gaps": [gap], "sees": "What rows see."}))
    assert "| MNIST | liquid | recurrence-off | 2 | +0.50 | 0.25 | 0.75 |" in new and "What rows see." in new


@pytest.mark.parametrize("command", ["python -m benchmarks.mnist --out x", "", "python -m"])
def test_other_records_have_none(command: str) -> None:
    record = {"title": "t", "command": command, "headline": [{"name": "n", "value": 1.0, "unit": ""}]}
    assert page("n", record) is None and "[table]" not in full_table({"n": record})


def test_a_picture_belongs_to_the_record_with_the_longest_name() -> None:
    pictures = ["a-x.png", "a-b-x.png", "a-b.json", "c-x.png"]
    assert figures_of("a", ["a", "a-b"], pictures) == ["a-x.png"]
    assert figures_of("a-b", ["a", "a-b"], pictures) == ["a-b-x.png"]


def test_a_page_that_is_out_of_date_is_told_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, record = next((n, r) for n, r in recorded().items() if r["command"].split()[2] == "benchmarks.rram")
    (tmp_path / f"{name}.json").write_text(json.dumps(record))
    readme = tmp_path / "front.md"
    readme.write_text(f"{table.BEGIN}\n{table.END}")
    options = ["--readme", str(readme), "--results", str(tmp_path)]
    assert table.main(options) == 0 and table.main([*options, "--check"]) == 0
    written = (tmp_path / f"{name}.md").read_text()
    tests = record["config"]["test"]
    assert f"the same {tests:,} test samples" in written and "![" not in written
    (tmp_path / f"{name}.md").write_text(written.replace("recurrence off", "recurrence"))
    assert table.main([*options, "--check"]) == 1 and "out of date" in capsys.readouterr().out
    assert table.main(options) == 0 and (tmp_path / f"{name}.md").read_text() == written
