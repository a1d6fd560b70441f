"""Kills sweeps at random moments and resumes them: the table must be that of an undisturbed one.

Three sweeps of the same points, two processes at a time, each against an undisturbed one: killed as a whole tree of
processes (with their server of forks and all helpers), the parent alone, and on a local dask cluster of two workers one
of which is killed midway. Kills come at random moments from the first points to the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._kills import Found, Script, kill_parent, kill_tree, killed_sweep, sweep_without_worker
from eqprop._errors import ConfigError

MODULE = "benchmarks.kills"
KILLS = {"whole tree": kill_tree, "parent alone": kill_parent}


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser(MODULE, __doc__ or "", f"example:\n  python -m {MODULE} --out runs/kills")
    made.add_argument("--points", type=int, default=60, metavar="N", help="of each sweep")
    made.add_argument("--kills", type=int, default=10, metavar="N", help="of each sweep, but the one on dask")
    made.add_argument("--seed", type=int, default=0, help="of the moments")
    add_output_options(made, Path("runs/kills"))
    return made


def killed(arguments: argparse.Namespace, name: str, calm: Path) -> Found:
    """A sweep that is killed again and again."""
    out, n = arguments.out / name.replace(" ", "-"), arguments.points
    rng = random.Random(f"{arguments.seed} {name}")
    return killed_sweep(
        lambda: Script(n, out, "processes", None), n, arguments.kills, KILLS[name], out=out, calm=calm, rng=rng
    )


def on_dask(arguments: argparse.Namespace, calm: Path) -> Found:
    """A sweep one of whose two workers is killed when half of the points are recorded."""
    out, n, marks = arguments.out / "dask", arguments.points, arguments.out / "dask.txt"
    rng = random.Random(f"{arguments.seed} dask")
    return sweep_without_worker(Script(n, out, "dask", marks), n, out=out, calm=calm, marks=marks, rng=rng)


def main(arguments: argparse.Namespace) -> None:
    """Sweep, kill, compare."""
    for name in ("points", "kills"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(arguments, name)}, needed at least 1")
    for left in ("undisturbed", "whole-tree", "parent-alone", "dask"):
        shutil.rmtree(arguments.out / left, ignore_errors=True)
    (arguments.out / "dask.txt").unlink(missing_ok=True)
    calm = arguments.out / "undisturbed"
    Script(arguments.points, calm, "processes", None).join()
    found = {name: killed(arguments, name, calm) for name in KILLS} | {"a worker of dask": on_dask(arguments, calm)}
    headline: list[dict[str, Any]] = []
    for name, one in found.items():
        wanted = 1 if name == "a worker of dask" else arguments.kills
        headline.append({"name": f"{name}: kills", "value": one.kills, "unit": "", "target": f">= {wanted}"})
        for label, value in (
            ("points lost", one.lost),
            ("points recorded twice", one.twice),
            ("torn files", one.torn),
            ("tables unlike the undisturbed sweep's", one.tables),
        ):
            headline.append({"name": f"{name}: {label}", "value": value, "unit": "", "target": "<= 0"})
    finish(
        arguments,
        title=f"Sweeps of {arguments.points} points, killed {arguments.kills} times and resumed",
        headline=headline,
        details={name: dataclasses.asdict(one) for name, one in found.items()},
    )


if __name__ == "__main__":
    sys.exit(run_main(main, options()))
