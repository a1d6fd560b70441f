"""Learning without weight symmetry: contours, initial angles, homeostasis, and every correction side by side.

Re-runs the comparisons of Laborieux & Zenke (2024) on Fashion-MNIST, 784-256-256-10 with a softmax readout. Each row
and seed is a run folder of its own below --out: a run that was interrupted goes on where it stopped, a finished one is
kept. `--report` draws the figures and the table from what is finished; `--diagnose` takes the error vectors of finished
runs anew before it, `--time` times the steps of the rows of `rules`, in turn. The rows of `rules` all spend the same
number of evaluations of the field a step (see `_asymmetry_budget`); of the others the table shows what they spent.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch

import eqprop
from benchmarks import _common
from benchmarks._asymmetry_diagnosis import diagnose, diagnose_again
from benchmarks._asymmetry_report import draw, summarise, table
from benchmarks._asymmetry_rows import BUDGET, FREE, NUDGED, Row, make_network, make_optimizer, make_rule, rows
from benchmarks._asymmetry_times import milliseconds
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._suite import finished, keep, matching, results, trained
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError
from eqprop._history import History

BATCH = 50


def train(row: Row, seed: int, data: eqprop.DataSplits, out: Path, arguments: argparse.Namespace) -> None:
    """One row and seed; leaves `result.json` in its folder."""
    epochs = row.epochs if arguments.epochs is None else arguments.epochs
    if finished(out) >= epochs:
        return
    network, rule = make_network(row, seed), make_rule(row, seed, arguments.tol)
    trainer, stopped = trained(
        network,
        rule,
        make_optimizer(row, network),
        data,
        out,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        config={"row": row.name, "rule": rule.spec(), "tol": arguments.tol},
        progress=False,
    )
    test = trainer.test()
    record = {
        "row": row.name,
        "seed": seed,
        "epochs": trainer.epoch,
        "accuracy_percent": 100 * test.accuracy,
        "test_converged_share": test.converged_share,
        "seconds": trainer.seconds,
        "stopped": stopped,
    }
    keep(out, record | diagnose(row, seed, network, data, arguments.tol))


def renew(chosen: list[Row], out: Path, data: eqprop.DataSplits) -> None:
    """Take the error vectors of the chosen rows' finished runs anew, and write them into their records."""
    found = results(out)
    for row in chosen:
        for folder, record in found.get(row.name, []):
            renewed = diagnose_again(row, folder, record, data)
            if renewed is not None:
                keep(folder, renewed)


def collect(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished runs by row."""
    return {row: [record | _spent(folder) for folder, record in runs] for row, runs in results(out).items()}


def _spent(folder: Path) -> dict[str, float]:
    """Mean sweeps a sample (and nudged phase) and step of training."""
    if not (folder / "metrics.h5").exists():
        return {}
    history = History.read(folder / "metrics.h5")
    names = [name for name in ("free_sweeps", "nudged_sweeps") if name in history]
    means = {name: float(history[name].mean()) for name in names if len(history[name])}
    # a rule without a free or without a nudged phase has NaN there
    return {name: value for name, value in means.items() if not math.isnan(value)}


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, then report what there is."""
    chosen = matching(rows(), arguments.rows, "angle/*")
    out = Path(arguments.out)
    if arguments.diagnose:
        renew(chosen, out, eqprop.load_dataset("fashion-mnist", arguments.data))
    elif not arguments.report:
        data = eqprop.load_dataset("fashion-mnist", arguments.data)
        for seed in range(arguments.seeds):
            for row in chosen:
                train(row, seed, data, out / row.name / f"seed{seed}", arguments)
    found = collect(out)
    times = milliseconds([row for row in chosen if row.name in found], BATCH) if arguments.time else {}
    lines = summarise(found, times)
    if not lines:
        raise ConfigError(f"--report: found no finished run below {out.name}, needed at least one")
    page = table(lines)
    print(page)
    run = eqprop.Run.create(out / "report", {"rows": [line["row"] for line in lines]}, overwrite=True)
    atomic_write(run.folder / "table.md", page.encode(), "the table")
    run.save_figure("asymmetry", draw(lines))
    by_name = {(line["group"], line["row"]): line for line in lines}
    headline = []
    for label, target in (("off", "<= 0.5"), ("activation", ">= 0.9")):
        line = by_name.get(("homeostasis", label))
        if line is not None:
            name = f"first hidden cosine from 90 degrees, homeostasis {label}, {line['seeds']} seeds x {line['epochs']}"
            headline.append({"name": name, "value": line["first_hidden_cosine"], "unit": "", "target": target})
            headline.append({"name": f"accuracy, homeostasis {label}", "value": line["accuracy_percent"], "unit": "%"})
    headline = headline or [
        {"name": f"accuracy, {v['group']}, {v['row']}, {v['seeds']} seeds", "value": v["accuracy_percent"], "unit": "%"}
        for v in lines
    ]
    finish(
        arguments,
        title="Learning without weight symmetry, Fashion-MNIST 784-256-256-10",
        headline=headline,
        details={
            "rows": lines,
            "sweeps": {"free": FREE, "nudged": NUDGED},
            "budget": BUDGET,
            "seeds": list(range(arguments.seeds)),
        }
        | ({"page": f"{arguments.record}.md"} if arguments.record else {}),
        device=torch.device("cpu"),
        run=run,
    )
    if arguments.record:
        atomic_write(_common.RESULTS / f"{arguments.record}.md", page.encode(), "the recorded table")


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.asymmetry", __doc__ or "")
    suite = made.add_argument_group("suite")
    suite.add_argument(
        "--rows", nargs="+", metavar="PATTERN", default=["*"], help="rows to train, as 'angle/*' 'loop/*'"
    )
    suite.add_argument("--seeds", type=int, default=3, help="seeds a row")
    suite.add_argument("--epochs", type=int, metavar="N", help="epochs of every row (default: the row's own)")
    suite.add_argument("--data", metavar="DIR", help="folder with Fashion-MNIST (default: cache, or download)")
    suite.add_argument(
        "--tol", type=float, default=1e-6, help="the free phase ends early where all samples are within this residual"
    )
    suite.add_argument("--report", action="store_true", help="train nothing; table and figures of what is finished")
    suite.add_argument(
        "--diagnose",
        action="store_true",
        help="train nothing; take the error vectors of finished runs anew from their checkpoints, then report",
    )
    suite.add_argument(
        "--time", action="store_true", help="time the steps of finished rows of rules, in turn, and show them"
    )
    add_output_options(made, Path("runs/asymmetry"))
    return made


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
