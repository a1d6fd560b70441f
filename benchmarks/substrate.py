"""What a substrate does to the gradient and to learning: the decisive table, devices in situ, mismatch, mitigations.

`--table` measures gradients of one network on chips with one fault each: disturbances shared by the phases or drawn
afresh, converters, drift, nudge sources. `--rows` trains: `devices/*` in situ through pulses on the cells, against the
same network trained ideally and then programmed; `mismatch/*` where the ways there and back differ; `mitigations/*` on
one noisy chip. Each row and seed is a run folder of its own below --out: an interrupted run goes on where it stopped, a
finished one is kept. `--report` draws figures and tables from what is finished. Without `--table` and `--rows`: all.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import eqprop
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._substrate_figures import figures
from benchmarks._substrate_report import collect_rows, headline, row_lines, rows_text, table_lines, table_text
from benchmarks._substrate_rows import Row, rows
from benchmarks._substrate_table import NETWORK_TEXTS, NETWORKS, REFERENCES, collect, make_table
from benchmarks._substrate_train import search, train, with_needed
from benchmarks._suite import matching
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError

_PARTS = {"devices": "training in situ", "mismatch": "forward and backward mismatch", "mitigations": "mitigations"}


def chosen_rows(arguments: argparse.Namespace) -> list[Row]:
    """The rows that the patterns name.

    Raises:
        ConfigError: patterns that match none.
    """
    patterns = arguments.rows or ([] if arguments.table else ["*"])
    return matching(rows(), patterns, "devices/*")


def wants_table(arguments: argparse.Namespace) -> bool:
    """Whether the table was asked for."""
    return bool(arguments.table or not arguments.rows)


def load_data(arguments: argparse.Namespace) -> eqprop.DataSplits:
    """The images, or so many of them."""
    data = eqprop.load_dataset(arguments.dataset, arguments.data)
    if arguments.train is None:
        return data
    if not 1 <= arguments.train <= len(data.train):
        raise ConfigError(f"--train: got {arguments.train}, needed 1 to {len(data.train)}")
    return replace(data, train=data.train.subset(arguments.train, torch.Generator().manual_seed(0)))


def find_rates(chosen: list[Row], data: eqprop.DataSplits, out: Path, epochs: int, seeds: int) -> None:
    """Try the factors of the learning rates for each row, by validation images alone."""
    found: dict[str, dict[str, float]] = {}
    for row in chosen:
        found[row.name] = search(row, data, epochs, seeds)
        best = max(found[row.name], key=lambda factor: found[row.name][factor])
        tried = ", ".join(f"{factor}: {value:.2f} %" for factor, value in found[row.name].items())
        print(f"{row.name}: {best} ({tried})", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / "search.json", json.dumps(found, indent=1).encode(), "what the search found")


def main(arguments: argparse.Namespace) -> None:
    """Measure and train what is missing, then report what there is."""
    for name in ("seeds", "epochs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}: got {value}, needed at least 1")
    chosen, out = chosen_rows(arguments), Path(arguments.out)
    if arguments.search:
        find_rates(
            [r for r in chosen if r.write is not None],
            load_data(arguments),
            out,
            arguments.epochs or 2,
            arguments.seeds,
        )
        return
    if not arguments.report:
        data = load_data(arguments)
        progress = not arguments.quiet
        if wants_table(arguments):
            for kind in NETWORKS:
                make_table(data, out, kind, seeds=arguments.seeds, epochs=arguments.epochs, progress=progress)
        for seed in range(arguments.seeds):
            for row in with_needed(chosen):
                train(row, seed, data, out, epochs=arguments.epochs, progress=progress)
    report(chosen, out, arguments)


def report(chosen: list[Row], out: Path, arguments: argparse.Namespace) -> None:
    """Tables, figures and the summary of what is finished."""
    table = table_lines(collect(out)) if wants_table(arguments) else []
    lines = row_lines(chosen, collect_rows(out))
    if not table and not lines:
        raise ConfigError(f"--report: found nothing finished below {out.name}, needed at least one run")
    if table:
        print(table_text(table))
        print("\n".join(REFERENCES) + "\n")
    if lines:
        print(rows_text(lines))
    parts = (["gradients of chips"] if table else []) + [
        text for group, text in _PARTS.items() if any(line["group"] == group for line in lines)
    ]
    run = eqprop.Run.create(out / "report", {"parts": parts}, overwrite=True)
    for name, figure in figures(table, lines).items():
        run.save_figure(name, figure)
    finish(
        arguments,
        title=f"Substrates: {', '.join(parts)}; {arguments.dataset}",
        headline=headline(table, lines),
        details={
            "networks": NETWORK_TEXTS if table else {},
            "table": table,
            "references": list(REFERENCES) if table else [],
            "rows": lines,
            "seeds": list(range(arguments.seeds)),
        },
        device=torch.device("cpu"),
        run=run,
    )


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.substrate", __doc__ or "")
    suite = made.add_argument_group("suite")
    suite.add_argument("--table", action="store_true", help="the decisive table: gradients of chips with one fault")
    suite.add_argument("--rows", nargs="+", metavar="PATTERN", help="rows to train, as 'devices/*' 'mismatch/*-50'")
    suite.add_argument("--report", action="store_true", help="measure nothing; tables and figures of what is finished")
    suite.add_argument("--search", action="store_true", help="try learning rates of the rows by validation images")
    suite.add_argument("--seeds", type=int, default=3, help="seeds a row: of weights, chip and order of images")
    suite.add_argument("--epochs", type=int, metavar="N", help="epochs of every row (default: the row's own)")
    suite.add_argument("--train", type=int, metavar="N", help="train on so many images only")
    suite.add_argument("--dataset", choices=("mnist", "digits"), default="mnist", help="data set")
    suite.add_argument("--data", metavar="DIR", help="folder with MNIST (default: cache, or download)")
    suite.add_argument("--quiet", action="store_true", help="no progress bars")
    add_output_options(made, Path("runs/substrate"))
    return made


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
