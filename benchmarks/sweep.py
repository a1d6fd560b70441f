"""Sweeps a benchmark over its settings, resumes what was interrupted, and draws what came of it.

From Python the same points, by the same names::

    what = benchmarks.sweep.target("mnist")
    points = eqprop.grid(what.config, **{"rule.beta": [0.05, 0.1], "seed": eqprop.child_seeds(3)})
    more = {"completed": what.completed, "run_many": what.run_many, "together": what.together}
    eqprop.sweep(what.run, points, out="runs/map", **more)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import eqprop
from benchmarks._common import RESULTS, add_sweep_options, finish, new_parser, run_main
from benchmarks._sweep_targets import MODULES
from benchmarks._sweep_targets import target as target
from benchmarks._sweep_words import draws, named_values, plot
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError
from eqprop._runs import Run
from eqprop._sweep_table import require_pandas

MODULE = "benchmarks.sweep"


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    epilog = (
        "examples:\n"
        f"  python -m {MODULE} mnist --set rule.beta=0.05,0.1,0.2 --set substrate.adc_bits=8,10,12 --seeds 3 --jobs 2 "
        "--out runs/map\n"
        f"  python -m {MODULE} asymmetry --set homeostasis.coefficient=0,0.1,1 --set network.angle_degrees=0,45,90 "
        "--seeds 3 --out runs/angles\n"
        f"  python -m {MODULE} substrate --set substrate.device=none,ecram,pcm --set data.train=5000 --out runs/chips\n"
        f"  python -m {MODULE} mnist --random 50 rule.beta=log:1e-3:1 training.epochs=2,5 --out runs/random\n"
        f"  python -m {MODULE} runs/map --plot x=rule.beta y=test_error_percent by=substrate.adc_bits\n"
        f"  python -m {MODULE} runs/map --plot map x=rule.beta y=substrate.adc_bits value=gradient_cosine_after "
        "panels=layer\n"
        "\non Slurm, one job that starts a scheduler and a worker a task (more of it in eqprop/_sweep_dask.py):\n"
        "  #SBATCH --ntasks=16 --cpus-per-task=2 --mem-per-cpu=2G --time=4:00:00\n"
        "  export OMP_NUM_THREADS=1 PYTHONPATH=$PWD\n"
        "  dask scheduler --scheduler-file $SLURM_JOB_ID.json &\n"
        "  srun dask worker --scheduler-file $SLURM_JOB_ID.json --nthreads 1 --nworkers 1 --no-dashboard &\n"
        f"  python -m {MODULE} mnist --set ... --out runs/map --scheduler $SLURM_JOB_ID.json\n"
        "\nThe same command again computes what is missing. A module of yours with a frozen dataclass Config and a\n"
        "function run(config) can be swept by its dotted name. Exit status: 0; 1 if a point failed; 2 for a mistake."
    )
    made = new_parser(MODULE, __doc__ or "", epilog)
    made.add_argument(
        "what", metavar="NAME|DIR", help=f"{', '.join(MODULES)}, a dotted module, or the folder of a sweep"
    )
    points = made.add_argument_group("points")
    for option, help_ in (
        ("--set", "values of a field; several fields make a grid"),
        ("--zip", "values of several fields that go together, the first with the first"),
    ):
        repeated = {"action": "append"} if option == "--set" else {"nargs": "+"}
        points.add_argument(option, metavar="FIELD=V,V,...", default=[], help=help_, **repeated)  # type: ignore[arg-type]
    points.add_argument(
        "--random",
        nargs="+",
        metavar="N FIELD=...",
        default=[],
        help="N random points: log:LOW:HIGH, uniform:LOW:HIGH, V,V,...",
    )
    points.add_argument("--seeds", type=int, metavar="N", help="repeat every point with N seeds, children of --seed")
    points.add_argument("--seed", type=int, default=0, help="root of the seeds, and of the draws of --random")
    how = add_sweep_options(
        made,
        None,
        members=32,
        together="points run as one ensemble, where it can be",
        record="summary, table and figures to benchmarks/results/NAME.*",
    )
    how.add_argument("--gpus", metavar="ID,ID", help="GPUs, handed out one a process (with --set device=cuda)")
    how.add_argument("--timeout", type=float, metavar="SECONDS", help="wall time of a point")
    how.add_argument("--memory", type=int, metavar="MIB", help="resident memory of a point's process")
    how.add_argument(
        "--code-version", metavar="TEXT", help="of the code (default: package, and source of run and run_many)"
    )
    how.add_argument("--engine", choices=("processes", "dask"), default="processes", help="what computes the points")
    how.add_argument("--scheduler", metavar="FILE|ADDRESS", help="of a dask cluster that is running")
    shown = made.add_argument_group("results")
    shown.add_argument(
        "--plot",
        action="append",
        nargs="+",
        default=[],
        metavar="WORD",
        help="[curves] x= y= [by=] [panels=]; map x= y= value=[,] [panels=] [best=]; front x= y= [by=] [maximise=]",
    )
    return made


def points_of(arguments: argparse.Namespace, what: Any) -> list[Any]:
    """The configs that the options ask for."""
    base: Any = what.config
    if arguments.random:
        n, *words = arguments.random
        if not n.isdecimal() or not words:
            raise ConfigError(
                "--random: needed a number of points and what to draw, as --random 50 rule.beta=log:1e-3:1"
            )
        base = eqprop.random_points(base, int(n), draw_seed=arguments.seed, **draws(words))
    if arguments.zip:
        base = eqprop.zipped(base, **named_values("--zip", arguments.zip))
    fields = named_values("--set", arguments.set)
    if arguments.seeds is not None:
        if "seed" in fields:
            raise ConfigError("--seeds: got --set seed=... too; needed one of the two")
        fields["seed"] = eqprop.child_seeds(arguments.seeds, arguments.seed)
    return eqprop.grid(base, **fields)


def _require_target(name: str) -> None:
    """Raises ConfigError for what is meant as a folder, where that has no sweep."""
    folder = Path(name)
    if folder.is_dir() and (len(folder.parts) > 1 or name not in MODULES):
        raise ConfigError(f"{name}: got a folder without a sweep (no sweep.json), needed one, or {', '.join(MODULES)}")
    if len(folder.parts) > 1:
        raise ConfigError(f"{name}: there is no such folder; to begin a sweep write NAME ... --out {name}")


def compute(arguments: argparse.Namespace) -> eqprop.SweepReport:
    """Run the sweep."""
    _require_target(arguments.what)
    what = target(arguments.what)
    out = arguments.out or Path("runs") / f"sweep-{arguments.what.rpartition('.')[2]}"
    engine: Any = arguments.engine
    if arguments.scheduler:
        engine = _client(arguments.scheduler)
    made = eqprop.sweep(
        what.run,
        points_of(arguments, what),
        out=out,
        n_jobs=arguments.jobs,
        engine=engine,
        timeout_seconds=arguments.timeout,
        memory_bytes=None if arguments.memory is None else arguments.memory * 2**20,
        retry_failed=arguments.retry_failed,
        version=arguments.code_version,
        threads=arguments.threads or 1,
        gpus=tuple(arguments.gpus.split(",")) if arguments.gpus else (),
        run_many=what.run_many,
        together=what.together,
        members=arguments.members,
        completed=what.completed,
        progress=not arguments.quiet,
    )
    print(f"{made.folder}: {made.done} of {made.points} points done ({made.computed} now), {made.failed} failed")
    print(f"written to {made.folder / 'table.csv'}")
    return made


def _client(where: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("--scheduler: needs dask.distributed; write pip install 'eqprop[dask]'") from error
    return Client(where) if "://" in where else Client(scheduler_file=where)


def main(arguments: argparse.Namespace) -> None:
    """Compute, draw, record."""
    plots = [plot(words) for words in arguments.plot]  # mistakes are told before anything runs
    existing = (Path(arguments.what) / "sweep.json").exists()
    if existing and (arguments.set or arguments.zip or arguments.random or arguments.seeds):
        raise ConfigError(
            f"{arguments.what} is the folder of a sweep; to add points write NAME ... --out {arguments.what}"
        )
    if plots or arguments.record:
        require_pandas()
    made = None if existing else compute(arguments)
    folder = Path(arguments.what) if made is None else made.folder
    if existing and not plots and not arguments.record:
        print(eqprop.load_sweep(folder, varying=True).to_string())
    if plots or arguments.record:
        frame, run = eqprop.load_sweep(folder), Run(folder, {})
        for wanted in plots:
            print(f"drawn {run.save_figure(wanted.name, wanted.draw(frame, folder.name))}")
        if arguments.record:
            _record(arguments, frame, run, [c for p in plots for c in p.parts.get("value", p.parts["y"]).split(",")])
    if made is not None and made.failed:
        raise SystemExit(1)  # told above


def _record(arguments: argparse.Namespace, frame: Any, run: Run, columns: list[str]) -> None:
    """benchmarks/results/NAME.json, .csv and figures."""
    costs = eqprop.load_sweep(run.folder, costs=True)
    whole = frame if "layer" not in frame else frame[frame["layer"].isna()]
    headline = [{"name": "points done", "value": int((whole["status"] == "done").sum()), "unit": ""}]
    headline.append({"name": "points failed", "value": int((whole["status"] != "done").sum()), "unit": ""})
    for column in dict.fromkeys(columns):
        means = eqprop.confidence_intervals(frame, column)["mean"]
        unit = "%" if column.endswith("_percent") else ""
        for which, value in (("lowest", means.min()), ("highest", means.max())):
            headline.append({"name": f"{which} mean of {column}", "value": float(value), "unit": unit})
    headline.append({"name": "computing time of all points", "value": float(costs["wall_seconds"].sum()), "unit": "s"})
    finish(
        arguments,
        title=f"Sweep {run.folder.name}",
        headline=headline,
        details={"sweep": eqprop.load_sweep(run.folder).attrs, "table": f"{arguments.record}.csv"},
        run=run,
    )
    atomic_write(RESULTS / f"{arguments.record}.csv", (run.folder / "table.csv").read_bytes(), "the recorded table")


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
