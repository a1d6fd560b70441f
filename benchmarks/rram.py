"""A liquid of resistive memory over the variability of its cells and their read noise: accuracy of a linear readout.

Every chip is drawn anew (``--seeds``) and keeps its cells; read noise is drawn at every access. A readout is trained on
each chip under the faults that it will be tested with, its penalty chosen on validation data; test samples are looked
at once. Beside the liquid stand the same chip without its recurrent cells, random ReLU features in equal number, and
the input itself. The same command again computes what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import eqprop
from benchmarks._common import add_sweep_options, finish, new_parser, run_main
from benchmarks._liquid_config import LEAST, within
from benchmarks._liquid_data import DATASETS, Task, add_task_options
from benchmarks._liquid_health import look, require_well
from benchmarks._liquid_report import TITLES
from benchmarks._rram_figures import CURVES, robustness
from benchmarks._rram_points import Config, chip, completed, run, run_many, task_of, together
from benchmarks._rram_report import ARMS, meaning, table
from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._runs import Run
from eqprop._sweep_table import require_pandas
from snn._resistive_liquid import SCOPES

MODULE = "benchmarks.rram"
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    examples = (
        "examples:\n"
        f"  python -m {MODULE} --dataset nmnist --data DIR --out runs/rram\n"
        f"  python -m {MODULE} --dataset mnist --samples 2000 --test 2000 --curves --out runs/rram-mnist"
    )
    made = new_parser(MODULE, __doc__ or "", examples)
    add_task_options(made, "nmnist")
    points = made.add_argument_group("chips")
    points.add_argument("--seeds", type=int, default=5, metavar="N", help="chips")
    points.add_argument(
        "--levels", type=float, nargs="+", default=list(LEVELS), metavar="SHARE", help="of variability and read noise"
    )
    points.add_argument("--curves", action="store_true", help="either fault alone; without, every pair of levels")
    points.add_argument(
        "--weight", type=float, metavar="W", help="standard deviation of the weights (default: by data)"
    )
    points.add_argument("--scope", default="step", metavar="NAME", help=f"of a draw of read noise: {', '.join(SCOPES)}")
    how = add_sweep_options(
        made,
        Path("runs/rram"),
        members=12,
        together="points of a chip that one process computes",
        record="summary and figure to benchmarks/results/NAME.*",
    )
    how.add_argument("--batch-size", type=int, default=250, metavar="N", help="samples that run together")
    return made


def points_of(base: Config, levels: Sequence[float], seeds: int, curves: bool) -> list[Config]:
    """The device as it was measured, and all levels of both faults, or of either with the other at 0; of every chip."""
    own: list[Config] = eqprop.grid(base, seed=range(seeds))
    axes = [(v, n) for v in levels for n in levels if not curves or 0.0 in (v, n)]
    faults: list[Config] = [
        dataclasses.replace(one, variability=variability, read_noise=noise)
        for one in own
        for variability, noise in axes
    ]
    return own + faults


def lines_of(results: Sequence[tuple[Config, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and deviation over chips, a line a pair of faults."""
    grouped: dict[tuple[float | None, float], list[Mapping[str, Any]]] = {}
    for config, result in results:
        grouped.setdefault((config.variability, config.read_noise), []).append(result)
    lines = []
    for (variability, noise), own in grouped.items():
        line: dict[str, Any] = {"variability": variability, "read_noise": noise, "chips": len(own)}
        for key in (*ARMS, "mean_rate_hz", "silent_share"):
            values = [float(result[key]) for result in own]
            line[key] = statistics.fmean(values)
            line[f"{key}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(line)
    return lines


def axis(lines: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Lines along one fault with the other at 0."""
    other = "read_noise" if name == "variability" else "variability"
    own = [dict(line) | {"level": line[name]} for line in lines if line[other] == 0.0 and line[name] is not None]
    return sorted(own, key=lambda line: float(line["level"]))


def headline(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The device as it was measured beside its controls, and the ends of both curves."""
    found: list[dict[str, Any]] = []
    for line in lines:
        if line["variability"] is None:
            found += [
                {"name": f"{arm}, device as measured, mean of {line['chips']} chips", "value": line[key], "unit": "%"}
                for key, arm in ARMS.items()
            ]
    for name, what in (("variability", "variability"), ("read_noise", "read noise")):
        ends = axis(lines, name)
        if not ends:
            continue
        for line in (ends[0], ends[-1]) if len(ends) > 1 else ends:
            label = f"liquid, {what} {100 * line['level']:g} %, the other fault 0"
            figure = {"name": label, "value": line["accuracy_percent"], "unit": "%"}
            if figure not in found:
                found.append(figure)
    return found


def compute(points: Sequence[Config], arguments: argparse.Namespace) -> list[tuple[Config, dict[str, Any]]]:
    """Results of these points, and of no others that the folder may hold. Raises ConfigError if there are none."""
    made = eqprop.sweep(
        run,
        points,
        out=arguments.out,
        n_jobs=arguments.jobs,
        retry_failed=arguments.retry_failed,
        threads=arguments.threads or 1,
        run_many=run_many,
        together=together,
        members=arguments.members,
        progress=not arguments.quiet,
    )
    if not made.done:
        raise ConfigError(f"{made.folder}: all {made.points} points failed; see above, and points/KEY.json")
    rows = eqprop.load_sweep(made.folder).to_dict("records")
    return [(made.configs[r["point"]], r) for r in rows if r["point"] in made.configs and r["status"] == "done"]


def report(
    base: Config, task: Task, results: Sequence[tuple[Config, dict[str, Any]]], arguments: argparse.Namespace
) -> None:
    """Table, figure and summary."""
    lines = lines_of(results)
    title = f"Resistive liquid of 200 neurons, {TITLES.get(task.name, task.name)}, {arguments.seeds} chips"
    print(table(lines))
    run_, tests = Run(arguments.out, {}), base.test or len(task.test)
    curves = {name: along for name in CURVES if (along := axis(lines, name))}
    pairs = [line for line in lines if line["variability"] is not None]
    run_.save_figure("robustness", robustness(curves, [] if arguments.curves else pairs, title, tests))
    finish(
        arguments,
        title=title,
        headline=headline(lines),
        details={
            "seeds": list(range(arguments.seeds)),
            "data": task.spec(),
            "lines": lines,
            "bands": meaning(lines, tests),
            "published": "Lin et al. (arXiv 2307.00771), N-MNIST: 89.66 on chips, 89.11 in software, 60,000 samples",
        },
        config=dataclasses.asdict(base) | {"levels": arguments.levels, "curves": arguments.curves},
        device=torch.device("cpu"),
        run=run_,
    )


def main(arguments: argparse.Namespace) -> None:
    """Compute what is missing, then report."""
    require_pandas()
    lookup("--dataset", arguments.dataset, dict.fromkeys(DATASETS))
    lookup("--scope", arguments.scope, dict.fromkeys(SCOPES))
    for name in ("seeds", "jobs", "members", "batch_size"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: got {value}, needed at least 1")
    levels = sorted(set(arguments.levels))
    if not all(math.isfinite(level) and 0.0 <= level <= 1.0 for level in levels) or levels[0] != 0.0:
        raise ConfigError(
            f"--levels: got {arguments.levels}, needed shares from 0 (among them) to 1, as --levels 0 0.5"
        )
    if arguments.data is not None:  # where the processes, which begin later, look
        os.environ["EQPROP_DATA"] = str(Path(arguments.data).resolve())
    task = task_of(arguments.dataset)  # what is missing is told before anything runs
    samples, test = (
        within(option, getattr(arguments, option), least, len(part))
        for option, least, part in (("samples", LEAST, task.train), ("test", 1, task.test))
    )
    base = completed(
        Config(
            dataset=arguments.dataset,
            samples=samples,
            test=test,
            weight=arguments.weight,
            scope=arguments.scope,
            batch_size=arguments.batch_size,
        )
    )
    points = points_of(base, levels, arguments.seeds, arguments.curves)
    require_well(look(chip(base, task), task, 0), base.weight)
    report(base, task, compute(points, arguments), arguments)


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
