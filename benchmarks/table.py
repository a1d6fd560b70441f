"""Writes the results tables from benchmarks/results/*.json: a line a record with targets in README.md, every figure of
all beside them, and a page for each record of liquids, where every figure stands beside its controls."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import RESULTS, new_parser, read_results, target_text, value_text
from benchmarks._pages import figures_of, page
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
README = RESULTS.parent.parent / "README.md"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of README.md in Markdown: a row a record that has targets, its first and how many of them are met."""
    lines = ["| experiment | first figure | result | target | all targets | record |", "|---|---|---|---|---|---|"]
    for name, record in results.items():
        figures = _figures(record)
        targets = [text for figure in figures if (text := target_text(figure))]
        if not targets:
            continue
        met = f"{sum(text.endswith('met') for text in targets)} of {len(targets)} met"
        first = figures[0]
        link = f"[{name}](benchmarks/results/{name}.json)"
        lines.append(_row(record["title"], first["name"], value_text(first), target_text(first), met, link))
    return "\n".join(lines)


def pages(results: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[Path, str]:
    """Paths and texts of the pages of records, with the figures that lie beside them."""
    pictures = [path.name for path in folder.glob("*.png")]
    made = {name: page(name, record, figures_of(name, results, pictures)) for name, record in results.items()}
    return {folder / f"{name}.md": text for name, text in made.items() if text is not None}


def full_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page beside the records: a row a headline figure that has a target, or the first where none has."""
    lines = ["# Recorded results", "", "Written by `python -m benchmarks.table`; each record has its command, seeds,"]
    lines += [
        "versions and machine.",
        "",
        "| experiment | figure | result | target | record |",
        "|---|---|---|---|---|",
    ]
    for name, record in results.items():
        for index, figure in enumerate(_figures(record)):
            title, link = (record["title"], _links(name, record)) if index == 0 else ("", "")
            lines.append(_row(title, figure["name"], value_text(figure), target_text(figure), link))
    return "\n".join(lines) + "\n"


def _links(name: str, record: Mapping[str, Any]) -> str:
    """The record, and the page of tables beside it: the one it names, or the one that is written here."""
    beside = record.get("page") or (f"{name}.md" if page(name, record) is not None else "")
    return f"[{name}]({name}.json)" + (f", [table]({beside})" if beside else "")


def _figures(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [f for f in record["headline"] if f.get("target")] or record["headline"][:1]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def renewed(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with its table renewed. Raises ConfigError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"README.md has no lines {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Renew or check the tables; 1 if one is out of date, 2 if one cannot be made."""
    parser = new_parser("benchmarks.table", __doc__ or "")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    parser.add_argument("--readme", type=Path, default=README, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    beside = arguments.results / "README.md"
    try:
        results = read_results(arguments.results)
        readme = arguments.readme.read_text(encoding="utf-8")
        new = {arguments.readme: renewed(readme, results), beside: full_table(results)}
        new |= pages(results, arguments.results)
        old = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in new}
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stale = [path for path in new if new[path] != old[path]]
    for path in stale:
        if arguments.check:
            lines = difflib.unified_diff(
                old[path].splitlines(True), new[path].splitlines(True), str(path), f"{path}, renewed"
            )
            sys.stdout.writelines(lines)
        else:
            atomic_write(path, new[path].encode(), path.name)
    if stale and arguments.check:
        print("the results are out of date: run `python -m benchmarks.table`")
    return int(bool(stale) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
