"""Writes the results table of README.md from benchmarks/results/*.json, between its two markers."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import RESULTS, format_value, main_guard, read_results, target_text
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
README = RESULTS.parent.parent / "README.md"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown: a row a headline figure; the experiment is named in its first row."""
    lines = ["| experiment | figure | result | target | record |", "|---|---|---|---|---|"]
    for name, record in results.items():
        link = f"[{name}](benchmarks/results/{name}.json)"
        for index, figure in enumerate(record["headline"]):
            title = record["title"] if index == 0 else ""
            value = format_value(figure["value"], figure["unit"])
            lines.append(
                f"| {title} | {figure['name']} | {value} | {target_text(figure)} | {link if index == 0 else ''} |"
            )
    return "\n".join(lines)


def renewed(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with its table renewed. Raises ConfigError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"README.md has no lines {BEGIN} and {END}; put them where the table belongs")
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the table is out of date")
    parser.add_argument("--readme", type=Path, default=README, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    old = arguments.readme.read_text(encoding="utf-8")
    new = renewed(old, read_results())
    if not arguments.check:
        if new != old:
            atomic_write(arguments.readme, new.encode(), "README.md")
        return
    if new != old:
        sys.stdout.writelines(
            difflib.unified_diff(old.splitlines(True), new.splitlines(True), "README.md", "README.md, renewed")
        )
        print("README.md is out of date: run `python -m benchmarks.table`")
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main_guard(run))
