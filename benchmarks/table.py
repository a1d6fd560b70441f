"""Writes the results table of README.md from benchmarks/results/*.json, between its two markers."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import RESULTS, new_parser, read_results, target_text, value_text
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
README = RESULTS.parent.parent / "README.md"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown: a row a headline figure that has a target, or the first where none has."""
    lines = ["| experiment | figure | result | target | record |", "|---|---|---|---|---|"]
    for name, record in results.items():
        link = f"[{name}](benchmarks/results/{name}.json)"
        figures = [f for f in record["headline"] if f.get("target")] or record["headline"][:1]
        for index, figure in enumerate(figures):
            title = record["title"] if index == 0 else ""
            row = (title, figure["name"], value_text(figure), target_text(figure), link if index == 0 else "")
            lines.append(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines)


def renewed(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with its table renewed. Raises ConfigError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"README.md has no lines {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Renew or check the table; 1 if it is out of date, 2 if it cannot be made."""
    parser = new_parser("benchmarks.table", __doc__ or "")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the table is out of date")
    parser.add_argument("--readme", type=Path, default=README, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        old = arguments.readme.read_text(encoding="utf-8")
        new = renewed(old, read_results(arguments.results))
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if new == old:
        return 0
    if not arguments.check:
        atomic_write(arguments.readme, new.encode(), "README.md")
        return 0
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), "README.md", "README.md, renewed")
    sys.stdout.writelines(lines)
    print("README.md is out of date: run `python -m benchmarks.table`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
