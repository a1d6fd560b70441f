"""The headline maps: how a nudge must be chosen on a chip with converters or read noise, and homeostasis by asymmetry.

Too small a nudge drowns in quantisation or noise, too large a one is biased: between them lies the valley in which a
chip learns. Every map trains on part of the data (the figure says on how much) in well under an hour on two cores. Each
is a sweep in its folder below --out: the same command again computes what is missing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import eqprop
from benchmarks._common import add_sweep_options, finish, new_parser, run_main
from benchmarks._maps import MAPS, Map, cells, headline
from benchmarks._sweep_targets import target
from benchmarks._sweep_words import named_values
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from eqprop._runs import Run
from eqprop._sweep_config import plain
from eqprop._sweep_table import require_pandas

MODULE = "benchmarks.maps"


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    lines = []
    for name, shown in MAPS.items():
        size = math.prod(len(values) for values in shown.grid.values())
        settings = ", ".join(f"{k}={v}" for k, v in shown.fixed.items())
        lines.append(f"  {name:12} {shown.title}\n               {size} cells; {settings}")
    epilog = (
        "maps:\n" + "\n".join(lines) + "\n\nexamples:\n"
        f"  python -m {MODULE} --jobs 2 --out runs/maps\n"
        f"  python -m {MODULE} adc --set data.train=2000 --set rule.beta=0.02,0.1,0.5 --seeds 1 --out runs/small"
    )
    made = new_parser(MODULE, __doc__ or "", epilog)
    made.add_argument("maps", nargs="*", metavar="MAP", help=f"{', '.join(MAPS)} (default: all)")
    points = made.add_argument_group("points")
    points.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of every cell")
    points.add_argument(
        "--set", action="append", default=[], metavar="FIELD=V[,V]", help="other values of the map, or of its settings"
    )
    points.add_argument("--data", metavar="DIR", help="folder with the data sets (default: cache, or download)")
    add_sweep_options(
        made,
        Path("runs/maps"),
        members=32,
        together="points run as one ensemble, where it can be",
        record="summary and figure to benchmarks/results/NAME-MAP.*",
    ).description = "Each map is a folder below that of --out."
    return made


def main(arguments: argparse.Namespace) -> None:
    """Compute what is missing of each map, then draw it."""
    require_pandas()
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds: got {arguments.seeds}, needed at least 1")
    given = named_values("--set", arguments.set)
    for name in arguments.maps:
        lookup("map", name, MAPS)
    chosen = {name: MAPS[name].changed(given) for name in dict.fromkeys(arguments.maps or MAPS)}
    points = {name: shown.points(target(shown.target), arguments.seeds) for name, shown in chosen.items()}
    if arguments.data is not None:  # where the processes, which begin later, look
        os.environ["EQPROP_DATA"] = str(Path(arguments.data).resolve())
    for dataset in dict.fromkeys(configs[0].data.dataset for configs in points.values()):
        require_dataset(dataset)
    for name, shown in chosen.items():
        report(name, shown, points[name], compute(name, shown, points[name], arguments), arguments)


def require_dataset(name: str) -> None:
    """Read it once, in this process: what is missing is told before anything runs, and downloaded by one alone."""
    found = eqprop.load_dataset(name).name
    if found != name:
        raise DataError(f"{name} is not here, only {found}; write --data DIR, or --set data.dataset={found}")


def compute(name: str, shown: Map, points: list[Any], arguments: argparse.Namespace) -> Any:
    """The table of the map's points, and of no others that its folder may hold."""
    what = target(shown.target)
    made = eqprop.sweep(
        what.run,
        points,
        out=arguments.out / name,
        n_jobs=arguments.jobs,
        retry_failed=arguments.retry_failed,
        threads=arguments.threads or 1,
        run_many=what.run_many,
        together=what.together,
        members=arguments.members,
        progress=not arguments.quiet,
    )
    if not made.done:
        raise ConfigError(f"{made.folder}: all {made.points} points failed, so there is no map; see above")
    frame = eqprop.load_sweep(made.folder, costs=True)
    return frame[frame["point"].isin(list(made.configs))]


def report(name: str, shown: Map, points: list[Any], frame: Any, arguments: argparse.Namespace) -> None:
    """The figure and the summary of a map."""
    run = Run(arguments.out / name, {})
    seconds = float(frame["wall_seconds"].sum())
    frame = shown.framed(frame)
    done = frame[frame["status"] == "done"]
    settings = points[0]
    title = (
        f"{shown.title}: {settings.data.dataset}, {settings.network.layers}, {settings.data.train} training images, "
        f"{_counted(settings.training.epochs, 'epoch')}, {_counted(arguments.seeds, 'seed')}"
    )
    figure = eqprop.sweep_map(done, shown.x, shown.y, list(shown.best), panels="layer", best=shown.best, title=title)
    run.save_figure("map", figure)
    whole = frame[frame["layer"].isna()]
    counts = [
        {"name": "points failed", "value": int((whole["status"] != "done").sum()), "unit": ""},
        {"name": "computing time of all points", "value": seconds, "unit": "s"},
    ]
    own = argparse.Namespace(**vars(arguments))
    own.record = None if arguments.record is None else f"{arguments.record}-{name}"
    finish(
        own,
        title=title,
        headline=[*headline(done, shown), *counts],
        details={
            "seeds": sorted({int(seed) for seed in whole["seed"]}),
            "settings": plain(settings),
            "x": shown.x,
            "y": shown.y,
            "cells": cells(done, shown),
        },
        run=run,
    )


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n > 1 else ''}"


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
