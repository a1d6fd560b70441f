"""Equilibrium propagation beside liquids, their controls and a trained spiking network: one table, one figure.

Images, event files and spoken digits: the same training samples for all, the same validation samples to choose settings
by, the same test samples. At an equal number of trained parameters, that of a linear readout of 1,000 features
(10,010): networks of centred EP (``ep``; ``ep-chip`` learns on a chip with 10 % read noise), the static liquid of NALSM
(``liquid``), the same without its recurrent weights (``recurrence-off``), random ReLU features (``random-relu``), and a
recurrent spiking network of norse's neurons trained by surrogate gradients (``spiking``). Beside them, at other
numbers: the input with a linear readout (``input``), ``ep-256`` and ``spiking-128``. Linear readouts choose between
ridge regression and softmax; EP and spiking networks between three factors on their learning rates.

What each row sees: ``ep``, ``ep-chip``, ``ep-256``, ``random-relu`` and ``input`` a still vector, the pixels of an
image, the counts of 2 x 2 pixels of an event file, or the counts of a recording's 40 channels in five parts of time;
liquids the spike trains, of which their readouts see a number a neuron: its count, or, of recordings, its count or its
filtered spikes at the end; spiking networks the trains, too, in about fifty steps.

Each row and seed is a run of its own: the same command goes on with what is missing, and computes anew what an earlier
version of this script had under another protocol.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import eqprop
from benchmarks import liquid
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._comparison_data import View
from benchmarks._comparison_ep import EpMachine
from benchmarks._comparison_liquid import LiquidMachine
from benchmarks._comparison_machines import BUDGET, Clock, Linear, Machine, RandomRelu, accuracy, right_answers
from benchmarks._comparison_report import SEES, draw, gap_table, gaps, summarise, table
from benchmarks._comparison_spiking import SpikingMachine
from benchmarks._liquid_config import make_config, within
from benchmarks._liquid_data import DATASETS, Task, load_task
from benchmarks._suite import keep, matching, results
from eqprop._errors import ConfigError
from eqprop._names import lookup
from snn._norse import norse_lif

MODULE = "benchmarks.comparison"
PRESET = "nalsm1000"
STANDARD = ("mnist", "fashion-mnist", "nmnist", "spoken-digits")
NOISES = (0.0, 0.1, 0.3)
CHIP_NOISE = 0.1
_BATCH = 250
_LIQUIDS = ("liquid", "recurrence-off")
# of training; small data sets need more
EP_EPOCHS, SPIKING_EPOCHS = 20, 12
_FEW = 3000
_MORE = 3


@dataclass(frozen=True)
class Row:
    """One thing that learns one data set.

    Attributes:
        dataset, label: what learns what.
    """

    dataset: str
    label: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.dataset}/{self.label}"


LABELS = (
    "ep", "ep-chip", "liquid", "recurrence-off", "random-relu", "spiking", "input", "ep-256", "spiking-128",
)  # fmt: skip
# By which a row learns and chooses, 1 in records that have none: finished runs under another are computed anew.
# 2: readouts are ridge regression or softmax, of counts or filtered spikes, and learn from training samples only;
# spiking networks choose a factor on their rate.
PROTOCOLS = dict.fromkeys(LABELS, 2) | dict.fromkeys(("ep", "ep-chip", "ep-256"), 1)


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    examples = (
        "examples:\n"
        f"  python -m {MODULE} --data DIR --out runs/comparison\n"
        f"  python -m {MODULE} --data DIR --rows 'nmnist/*' '*/liquid' --seeds 1 --samples 1000 --test 500\n"
        f"  python -m {MODULE} --datasets digits --out runs/small"
    )
    made = new_parser(MODULE, __doc__ or "", examples)
    suite = made.add_argument_group("suite")
    suite.add_argument(
        "--rows", nargs="+", metavar="PATTERN", default=["*"], help=f"DATASET/ROW of {', '.join(LABELS)} (default: all)"
    )
    suite.add_argument("--datasets", nargs="+", metavar="NAME", default=list(STANDARD), help=", ".join(DATASETS))
    suite.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds a row")
    suite.add_argument("--data", metavar="DIR", help="folder with the data sets' files (default: $EQPROP_DATA)")
    suite.add_argument(
        "--samples", type=int, default=6000, metavar="N", help="training samples at most, validation included"
    )
    suite.add_argument("--test", type=int, default=2000, metavar="N", help="test samples at most")
    suite.add_argument("--epochs", type=int, metavar="N", help=f"of ep and spiking (default: {EP_EPOCHS} and "
                       f"{SPIKING_EPOCHS}, {_MORE} times as many below {_FEW:,} training samples)")  # fmt: skip
    suite.add_argument(
        "--noise",
        type=float,
        nargs="+",
        default=list(NOISES),
        metavar="SHARE",
        help="read noise of all weights, tested",
    )
    suite.add_argument("--report", action="store_true", help="train nothing; table and figure of what is finished")
    suite.add_argument("--quiet", action="store_true", help="no progress bar")
    add_output_options(made, Path("runs/comparison"))
    return made


# -- runs --------------------------------------------------------------------------------------------------------------


def machine(row: Row, view: View, seed: int, arguments: argparse.Namespace) -> Machine:
    """What learns in this row."""
    quiet, more = arguments.quiet, _MORE if view.samples < _FEW else 1
    if row.label in _LIQUIDS:
        words = ["--preset", PRESET, "--dataset", row.dataset]
        config = make_config(liquid.options().parse_args(words), view.task, torch.device("cpu"))
        return LiquidMachine(view, seed, config, recurrent=row.label == "liquid", quiet=quiet)
    ep = functools.partial(EpMachine, view, seed, epochs=arguments.epochs or more * EP_EPOCHS, quiet=quiet)
    spiking = functools.partial(
        SpikingMachine, view, seed, epochs=arguments.epochs or more * SPIKING_EPOCHS, quiet=quiet
    )
    makers: dict[str, Callable[[], Machine]] = {
        "ep": ep,
        "ep-256": lambda: ep(hidden=256),
        "ep-chip": lambda: ep(training_noise=CHIP_NOISE),
        "random-relu": lambda: RandomRelu(view, seed),
        "input": lambda: Linear(view, seed),
        "spiking": spiking,
        "spiking-128": lambda: spiking(hidden=128),
    }
    return makers[row.label]()


def learn(row: Row, view: View, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and test at every noise."""
    made, training, inference = machine(row, view, seed, arguments), Clock(), Clock()
    made.train(training)
    right = right_answers(made, arguments.noise, _BATCH, inference)
    found = {noise: accuracy(answers) for noise, answers in right.items()}
    first = f"{arguments.noise[0]:g}"
    return {
        "row": row.name, "dataset": row.dataset, "label": row.label, "seed": seed, "key": key_of(view, arguments),
        "protocol": PROTOCOLS[row.label], "accuracy_percent": found[first], "accuracies": found, "right": right[first],
        "trained_parameters": made.trained_parameters(), "fixed_parameters": made.fixed_parameters(),
        "operations": made.operations(), "kind": made.kind,
        "training_cpu_seconds": training.seconds,
        "inference_cpu_milliseconds": 1e3 * inference.seconds / view.tests,
        "settings": made.settings, "epochs": made.epochs, "seconds": training.seconds, "stopped": "",
    }  # fmt: skip


def key_of(view: View, arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the numbers of a run, beside its row and seed."""
    asked = {"epochs": arguments.epochs, "noise": list(arguments.noise)}
    return {"samples": view.samples, "tests": view.tests} | asked


def view_of(task: Task, arguments: argparse.Namespace) -> View:
    """The samples of a task that the options ask for, or all it has."""
    samples, tests = min(arguments.samples, len(task.train)), min(arguments.test, len(task.test))
    return View(task, within("samples", samples, 60, len(task.train)), within("test", tests, 1, len(task.test)))


def train(rows: Sequence[Row], arguments: argparse.Namespace) -> list[str]:
    """Every run that is missing, a data set after another; what could not run, and why."""
    skipped: list[str] = []
    try:
        norse_lif()
    except ConfigError as error:
        skipped = [f"{row.name}: {error}" for row in rows if row.label.startswith("spiking")]
        rows = [row for row in rows if not row.label.startswith("spiking")]
    # all data are looked at before the first run: what is missing is told at once
    tasks = {name: load_task(name, arguments.data, PRESET) for name in dict.fromkeys(row.dataset for row in rows)}
    views = {name: view_of(task, arguments) for name, task in tasks.items()}
    if arguments.overwrite:
        _clear(arguments.out)
    finished = {(record["row"], record["seed"]) for record in _records(arguments.out)}
    planned = [{"dataset": name, "key": key_of(view, arguments)} for name, view in views.items()]
    require_alike([*_records(arguments.out), *planned])
    bar = tqdm(total=len(rows) * arguments.seeds, desc="runs", unit="run", disable=arguments.quiet)
    with bar:
        for dataset, view in views.items():
            for seed in range(arguments.seeds):
                for row in (r for r in rows if r.dataset == dataset):
                    bar.set_postfix_str(f"{row.name} seed {seed}")
                    if (row.name, seed) not in finished:
                        folder = arguments.out / row.name / f"seed{seed}"
                        folder.mkdir(parents=True, exist_ok=True)
                        keep(folder, learn(row, view, seed, arguments))
                    bar.update()
    return skipped


def _records(out: Path) -> list[dict[str, Any]]:
    """Finished runs of the present protocols."""
    return [record for record in _written(out) if record.get("protocol", 1) == PROTOCOLS.get(record["label"])]


def _written(out: Path) -> list[dict[str, Any]]:
    """Finished runs of any protocol; of other scripts' records, none."""
    return [record for runs in results(out).values() for _, record in runs if "label" in record]


def require_alike(records: Iterable[Mapping[str, Any]]) -> None:
    """Raises ConfigError for runs, finished or planned, that do not belong into one table."""
    keys: dict[str, dict[str, Any]] = {}
    for record in records:
        for place, key in ((record["dataset"], record["key"]), ("--noise", {"noise": record["key"]["noise"]})):
            if keys.setdefault(place, key) != key:
                raise ConfigError(
                    f"--out: the folder has runs of {place} with {_told(keys[place])}, got {_told(key)}, needed the "
                    "same for all; write another --out, or --overwrite"
                )


def _told(key: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in key.items())


def _clear(out: Path) -> None:
    """Remove finished runs, and nothing else."""
    for record in _written(out):
        (out / record["row"] / f"seed{record['seed']}" / "result.json").unlink(missing_ok=True)


# -- report ------------------------------------------------------------------------------------------------------------


def headline(lines: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy of every line without noise, and the gaps with their standard errors."""
    found = []
    for line in lines:
        noise = next(iter(line["accuracy_percent"]))
        several = f", mean of {line['seeds']} seeds" if line["seeds"] > 1 else ""
        name = f"{line['dataset']}, {line['row']}, {line['trained_parameters']:,.0f} trained parameters{several}"
        found.append({"name": name, "value": line["accuracy_percent"][noise], "unit": "%"})
    for gap in differences:
        errors = [] if gap["error_seeds"] is None else [f"{gap['error_seeds']:.2f} over {gap['seeds']} seeds"]
        errors.append(f"{gap['error_test']:.2f} over test samples")
        name = f"{gap['dataset']}, {gap['row']} above {gap['against']}, standard error {' and '.join(errors)}"
        found.append({"name": name, "value": gap["more_percent"], "unit": "%"})
    return found


def main(arguments: argparse.Namespace) -> None:
    """Compute what is missing, then report what there is."""
    for name in dict.fromkeys(arguments.datasets):
        lookup("--datasets", name, dict.fromkeys(DATASETS))
    for name in ("seeds", "epochs"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(arguments, name)}, needed at least 1")
    for name, least in (("samples", 60), ("test", 1)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name}: got {getattr(arguments, name)}, needed at least {least}")
    if not all(math.isfinite(n) and 0.0 <= n <= 1.0 for n in arguments.noise) or arguments.noise[0] != 0.0:
        raise ConfigError(f"--noise: got {arguments.noise}, needed shares from 0 on, 0 first, as --noise 0 0.1 0.3")
    if len(set(arguments.noise)) < len(arguments.noise):
        raise ConfigError(f"--noise: got {arguments.noise}, needed each share once")
    rows = [Row(dataset, label) for dataset in dict.fromkeys(arguments.datasets) for label in LABELS]
    chosen = matching(rows, arguments.rows, "*/liquid")
    skipped = [] if arguments.report else train(chosen, arguments)
    for note in skipped:
        print(f"not run: {note}")
    records = _records(arguments.out)
    require_alike(records)
    lines = summarise(records, [(row.dataset, row.label) for row in rows])
    if not lines:
        raise ConfigError(f"--report: found no finished run below {arguments.out.name}, needed at least one")
    differences = gaps(records, list(dict.fromkeys(row.dataset for row in rows)))
    print(table(lines))
    if differences:
        print(gap_table(differences))
    run = eqprop.Run.create(arguments.out / "report", {"rows": [row.name for row in chosen]}, overwrite=True)
    run.save_figure("comparison", draw(lines, LABELS))
    finish(
        arguments,
        title="Equilibrium propagation, liquids, their controls and a trained spiking network",
        headline=headline(lines, differences),
        details={
            "rows": lines,
            "gaps": differences,
            "sees": SEES,
            "seeds": list(range(max(line["seeds"] for line in lines))),
            "budget_trained_parameters": BUDGET,
            "samples": {record["dataset"]: record["key"] for record in records},
            "settings": {f"{r['row']}/{r['seed']}": r["settings"] for r in records},
            "read_noise": "relative, of every weight, drawn anew for every 250 test samples",
            "not_run": skipped,
        },
        device=torch.device("cpu"),
        run=run,
    )


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
