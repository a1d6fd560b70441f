"""Liquid state machines beside their controls: accuracy, learning curve and health, on images, events and sounds.

Features of a liquid are computed in batches and kept in the run folder (a killed run goes on with --resume); readouts
learn from them, with settings chosen on validation data that come out of the training samples. Beside every figure of
a liquid stand, with the same readout: the same liquid with its recurrent weights at 0, random ReLU features of equal
width, and the input itself (pixels, or the same feature of the input's spikes). With --plasticity there is also the
same network with plastic weights, as NALSM's: they are initialised once, on training samples without labels, and from
there learn anew in every sample, of training and of test, while its features are taken.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import eqprop
import snn
from benchmarks import _liquid_figures as figures
from benchmarks._common import add_output_options, device_named, finish, new_parser, run_main
from benchmarks._liquid_config import Config, counts_of, make_config, make_liquid, require_possible, static_liquids
from benchmarks._liquid_data import Task, add_task_options, load_task
from benchmarks._liquid_features import FEATURES, Cache, both_parts, clear
from benchmarks._liquid_fits import LIQUID, OFF, PLASTIC, READOUTS, fits, lines, place_of
from benchmarks._liquid_health import BRANCHING_WEIGHTS, PUBLISHED, Look, look, mean_figures, require_well
from benchmarks._liquid_plastic import INITIAL_SAMPLES, INITIAL_STEPS, NONE, plastic_liquid
from benchmarks._liquid_report import FULL, headline, history_of, published, table, title_of
from eqprop._checkpoints import atomic_write
from eqprop._errors import DataError
from eqprop._history import History

MODULE = "benchmarks.liquid"


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    examples = (
        "examples:\n"
        f"  python -m {MODULE} --preset nalsm1000 --dataset mnist --seeds 3 --out runs/liquid-mnist\n"
        f"  python -m {MODULE} --plasticity nalsm --samples 6000 --out runs/liquid-nalsm\n"
        f"  python -m {MODULE} --dataset nmnist --data DIR --out runs/liquid-nmnist\n"
        f"  python -m {MODULE} --dataset spoken-digits --data DIR --out runs/liquid-spoken\n"
        f"  python -m {MODULE} --branching --out runs/liquid-branching"
    )
    made = new_parser(MODULE, __doc__ or "", examples)
    add_task_options(made, "mnist")
    liquid = made.add_argument_group("liquid")
    liquid.add_argument("--preset", default="nalsm1000", metavar="NAME", help=", ".join(snn.PRESETS))
    liquid.add_argument("--weight", type=float, metavar="W", help="scale of all weights (default: by preset and data)")
    liquid.add_argument("--input-weight", type=float, metavar="W", help="of the input weights (default: as --weight)")
    liquid.add_argument("--seed", type=int, default=0, help="of the first network and its input")
    liquid.add_argument("--seeds", type=int, default=3, metavar="N", help="networks, with N seeds from --seed")
    liquid.add_argument(
        "--plasticity", default=NONE, metavar="NAME",
        help=f"{NONE}, {', '.join(PLASTIC)}: a plastic liquid beside the static one; nalsm is STDP with an astrocyte",
    )  # fmt: skip
    liquid.add_argument(
        "--initial-samples", type=int, metavar="N",
        help=f"{INITIAL_STEPS} steps each, that initialise plastic weights (default: {INITIAL_SAMPLES}, as published)",
    )  # fmt: skip
    liquid.add_argument("--branching", action="store_true", help="branching factors over weights, and nothing else")
    readout = made.add_argument_group("readout")
    readout.add_argument(
        "--feature", nargs="+", metavar="NAME", help=f"{', '.join(FEATURES)}; the first gets a learning curve "
        "(default: counts, and filter for sounds)",
    )  # fmt: skip
    readout.add_argument("--bins", type=int, default=5, help="parts of time of the feature bins")
    readout.add_argument("--tau", type=float, default=0.03, metavar="SECONDS", help="of the feature filter")
    readout.add_argument(
        "--readout", nargs="+", metavar="NAME",
        help=f"{', '.join(READOUTS)}, the last with the cost and scale of NALSM's authors; the first leads (default: "
        "all for their presets, else the first two)",
    )  # fmt: skip
    compute = made.add_argument_group("computing")
    compute.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="samples that run, and are kept, together"
    )
    compute.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... of the liquid")
    compute.add_argument("--quiet", action="store_true", help="no progress bar")
    compute.add_argument("--plot", action="store_true", help="draw raster, weights and branching factor over time")
    add_output_options(made, Path("runs/liquid"), resume=True)
    return made


# -- one network -------------------------------------------------------------------------------------------------------


def network(config: Config, task: Task, seed: int, run: eqprop.Run, quiet: bool) -> dict[str, Any]:
    """Features, readouts and health of one network; kept in the run folder, and read from there if it is finished."""
    key = config.key(task, seed) | {n: config.record()[n] for n in ("samples", "test", "readouts")}
    with_input = seed == config.seed  # the input is the same for all networks
    key["input"] = with_input
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = run.folder / "results" / f"seed-{seed}.json"
    records: list[dict[str, Any]] = []
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_bytes())
        if kept["key"] == digest:
            if kept["finished"]:
                return kept
            records = kept["records"]
    began = time.perf_counter()
    liquids = static_liquids(config, task, seed)
    liquid, off = liquids[LIQUID], liquids[OFF]
    seen = require_well(look(liquid, task, seed), config.weight)
    if not (run.folder / "metrics.h5").exists():
        run.write_history(History())  # from here on the folder holds a run that --resume continues
    cache = cache_of(config, task, seed, run)
    if config.plastic is not None:
        liquids[config.plastic] = plastic_of(config, task, seed, cache, quiet)
    began_features = time.perf_counter()
    train, test = both_parts(
        liquids, task, (config.samples, config.test), config.wanted(), cache, seed=seed, batch_size=config.batch_size,
        quiet=quiet,
    )  # fmt: skip
    ready = time.perf_counter()
    held, records = {place_of(record): record for record in records}, []
    for record in fits(
        task, train, test, liquid.neurons, seed, features=config.features, readouts=config.readouts,
        counts=counts_of(config, task), with_input=with_input, plastic=config.plastic, held=held,
    ):  # fmt: skip
        records.append(record)
        if place_of(record) in held:
            continue
        partial = {"key": digest, "finished": False, "records": records}
        atomic_write(path, json.dumps(partial).encode(), "the results so far")
        if not quiet:
            label = ", ".join(str(record[k]) for k in ("split", "feature", "readout", "arm", "samples"))
            print(f"seed {seed}, {label}: {record['accuracy_percent']:.2f} %", flush=True)
    result = {
        "key": digest,
        "finished": True,
        "seed": seed,
        "neurons": liquid.neurons,
        "health": seen.figures,
        "recurrence_off": look(off, task, seed).figures,
        "plastic": None if config.plastic is None else look(liquids[config.plastic], task, seed).figures,
        "seconds_initial": began_features - began,
        "seconds_features": ready - began_features,
        "seconds_readouts": time.perf_counter() - ready,
        "records": records,
    }
    atomic_write(path, json.dumps(result).encode(), "the result of a network")
    return result


def cache_of(config: Config, task: Task, seed: int, run: eqprop.Run) -> Cache:
    """Files of the features of a network, and of its initialised weights."""
    return Cache(run.folder / "features" / f"seed-{seed}", config.key(task, seed))


def plastic_of(config: Config, task: Task, seed: int, cache: Cache, quiet: bool) -> snn.Liquid:
    """The network of a seed with plastic weights; initialised on the CPU, where one sample at a time is fastest."""
    made = plastic_liquid(
        config.plasticity, config.preset, task, seed, config.initial_samples, cache, quiet=quiet
    )  # fmt: skip
    return made.to(config.device)


# -- reports -----------------------------------------------------------------------------------------------------------


def report(config: Config, task: Task, results: Sequence[Mapping[str, Any]], run: eqprop.Run, arguments: Any) -> None:
    """Tables, figures and summary of all networks."""
    made = lines([record for result in results for record in result["records"]])
    health = mean_figures([result["health"] for result in results])
    title = f"{title_of(config, task)}, {config.samples:,} training samples"
    print(table(made, config))
    beside = published(config)
    names = {LIQUID: "static liquid"}
    shown = {names.get(arm, arm): of.accuracy_percent for arm, of in beside.items() if config.samples == FULL}
    plastic = None if config.plastic is None else mean_figures([result["plastic"] for result in results])
    run.save_figure("accuracy", figures.accuracy(made, title, shown))
    if len(counts_of(config, task)) > 1:
        run.save_figure("learning_curve", figures.learning_curve(made, title, config.readouts[0]))
    if arguments.plot:
        liquid = make_liquid(config, task, config.seed)
        run.save_figure("dynamics", figures.dynamics(liquid, look(liquid, task, config.seed), title))
        if config.plastic is not None:
            learning = plastic_of(config, task, config.seed, cache_of(config, task, config.seed, run), arguments.quiet)
            drawn = figures.dynamics(learning, look(learning, task, config.seed), f"{title}, {config.plastic}")
            run.save_figure("dynamics_plastic", drawn)
    run.write_history(history_of(made, config))
    shown_keys = (
        "seed", "neurons", "health", "recurrence_off", "plastic", "seconds_initial", "seconds_features",
        "seconds_readouts",
    )  # fmt: skip
    finish(
        arguments,
        title=title,
        headline=headline(config, made, health, plastic),
        details={
            "seeds": [result["seed"] for result in results],
            "data": task.spec() | {"classes": int(task.train.labels.max()) + 1},
            "lines": made,
            "health": health,
            "recurrence_off": mean_figures([result["recurrence_off"] for result in results]),
            "plastic": plastic,
            "published": {arm: of.record() for arm, of in beside.items()},
            "published_source": "Ivanov & Michmizos 2021, means of networks, linear readout of spike counts",
            "settings": [{k: v for k, v in r.items() if k != "right"} for res in results for r in res["records"]],
            "results": {str(result["seed"]): {k: result[k] for k in shown_keys} for result in results},
        },
        config=config.record(),
        device=torch.device(config.device),
        run=run,
    )  # fmt: skip


def branching(config: Config, task: Task, run: eqprop.Run, arguments: Any) -> None:
    """Branching factors at three weights, or the one given, beside the published ones."""
    weights = BRANCHING_WEIGHTS if arguments.weight is None else (arguments.weight,)
    known = PUBLISHED.get((config.preset, config.dataset), {})
    looks: dict[float, list[Look]] = {}
    head = []
    for weight in weights:
        looks[weight] = [look(make_liquid(config, task, s, weight), task, s) for s in config.counts_from]
        values = [seen.figures["branching_local"] for seen in looks[weight]]
        for seed, seen in zip(config.counts_from, looks[weight], strict=True):
            if seen.figures["branching_local"] is None:
                require_well(seen, weight)
                raise DataError(
                    f"--weight {weight:g}, seed {seed}: got no spike in the middle of {task.steps} steps, needed some "
                    "for a branching factor; write a larger --weight"
                )
        factors = [v for v in values if v is not None]
        mean = statistics.fmean(factors)
        head.append({"name": f"weight {weight:g}: branching factor, local", "value": mean, "unit": ""})
        if weight in known and not math.isnan(known[weight][1]) and config.input_weight is None:
            off = abs(mean - known[weight][1])
            what = f"weight {weight:g}: distance from the published {known[weight][1]:.2f}"
            head.append({"name": what, "value": off, "unit": "", "target": "<= 0.06"})
    found = {w: [seen.figures["branching_local"] for seen in own] for w, own in looks.items()}
    title = f"Branching factors, {title_of(config, task)}"
    run.save_figure("branching", figures.branching(found, {w: b for w, (_, b) in known.items()}, title))
    finish(
        arguments,
        title=f"{title}, {config.seeds} network{'s' if config.seeds > 1 else ''}",
        headline=head,
        details={
            "seeds": list(config.counts_from),
            "data": task.spec(),
            "networks": {f"{w:g}": [seen.figures for seen in own] for w, own in looks.items()},
        },
        config=config.record(),
        device=torch.device(config.device),
        run=run,
    )


def main(arguments: argparse.Namespace) -> None:
    """Compute what is missing, then report."""
    require_possible(arguments)  # before any data are read
    device = device_named(arguments.device)
    task = load_task(arguments.dataset, arguments.data, arguments.preset)
    config = make_config(arguments, task, device)
    run = eqprop.Run.create(
        arguments.out,
        config.record(),
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        extendable=("samples", "test", "seeds"),
    )
    if arguments.overwrite:
        clear(run.folder)
    if config.branching:
        branching(config, task, run, arguments)
        return
    results = [network(config, task, seed, run, arguments.quiet) for seed in config.counts_from]
    report(config, task, results, run, arguments)


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
