"""Pages of the records in which a figure means little without those beside it: every one, the tables, the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _comparison_report, _liquid_report, _rram_report
from benchmarks._common import target_text, value_text
from benchmarks._liquid_config import Config

Record = Mapping[str, Any]


def page(name: str, record: Record, figures: Collection[str] = ()) -> str | None:
    """The page of a record in Markdown; None of a script that has none.

    Args:
        name: of the record.
        record: what it says; parts that an older record lacks are left out.
        figures: names of its pictures, in the folder of the page.
    """
    words = str(record.get("command", "")).split()
    tables = _TABLES.get(words[2]) if len(words) > 2 else None
    if tables is None:
        return None
    parts = [f"# {record['title']}", f"Written by `python -m benchmarks.table` from [{name}.json]({name}.json)."]
    parts += [part.rstrip("\n") for part in tables(record) if part]
    parts += [f"![{Path(figure).stem}]({figure})" for figure in sorted(figures)]
    return "\n\n".join([*parts, "## Headline figures", _headline(record)]) + "\n"


def figures_of(name: str, names: Collection[str], pictures: Collection[str]) -> list[str]:
    """The pictures ``NAME-*.png`` that are no other record's with a longer name.

    Args:
        name: of the record.
        names: of all records.
        pictures: names of all files.
    """

    def owner(picture: str) -> str:
        return max((n for n in names if picture.startswith(f"{n}-")), key=len, default="")

    return sorted(picture for picture in pictures if picture.endswith(".png") and owner(picture) == name)


def _headline(record: Record) -> str:
    lines = ["| figure | result | target |", "|---|---|---|"]
    lines += [f"| {f['name']} | {value_text(f)} | {target_text(f)} |" for f in record["headline"]]
    return "\n".join(lines)


def _comparison(record: Record) -> list[str]:
    rows = record["rows"]
    found = [record.get("sees", ""), _comparison_report.table(rows)]
    if gaps := record.get("gaps"):
        found += ["Accuracy without noise, of the same seeds:", _comparison_report.gap_table(gaps)]
    return [*found, f"Noise is {record['read_noise']}."]


def _liquid(record: Record) -> list[str]:
    if "lines" not in record:  # branching factors
        return []
    kept = {field.name: record["config"][field.name] for field in dataclasses.fields(Config)
            if field.name in record["config"]}  # fmt: skip
    config = Config(**kept | {name: tuple(kept[name]) for name in ("features", "readouts")})
    return [_liquid_report.table(record["lines"], config), _liquid_report.MEANING]


def _rram(record: Record) -> list[str]:
    return [
        _rram_report.table(record["lines"]),
        _rram_report.meaning(record["lines"], record["config"]["test"]),
        f"Published: {record['published']}.",
    ]


_TABLES: dict[str, Callable[[Record], list[str]]] = {
    "benchmarks.comparison": _comparison,
    "benchmarks.liquid": _liquid,
    "benchmarks.rram": _rram,
}
