"""What `benchmarks.cifar10` and `benchmarks.imagenet32` share: options, training from a preset, records, figures."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import eqprop
from benchmarks import _training
from benchmarks._common import add_output_options, new_parser
from benchmarks._image_run import (
    Config,
    differences,
    make_config,
    make_network,
    make_optimizer,
    make_rule,
    prepare,
    published_text,
    training_of,
)
from benchmarks._plan import make_plan
from benchmarks._presets import PRESETS
from benchmarks._rates import GPUS, HERE
from eqprop._data import DataSplits
from eqprop._graph import GraphNetwork
from eqprop._runs import Run

RULES = ("ep", "bptt", "backprop", "rbp")
IMAGES = 16  # of the batches that figures look at


@dataclass(frozen=True)
class Script:
    """What sets one script apart from the other.

    Args:
        module: as in `python -m`.
        description: of the script.
        out: run folder by default.
        datasets: names, the default first.
        add_data_options: adds those of the data set to an argument group.
        load: the data set, in full, as it is in the files.
        examples: for --help.
    """

    module: str
    description: str
    out: Path
    datasets: tuple[str, ...]
    add_data_options: Callable[[Any], None]
    load: Callable[[Config, argparse.Namespace, torch.device], DataSplits]
    examples: tuple[str, ...]


# ---- options -------------------------------------------------------------------------------------------------------


def options(script: Script) -> argparse.ArgumentParser:
    """Command line of a script."""
    made = new_parser(script.module, script.description, _epilog(script))
    add_output_options(made, script.out, resume=True)
    data = made.add_argument_group("data")
    if len(script.datasets) > 1:
        data.add_argument("--dataset", choices=script.datasets, default=script.datasets[0], help="data set")
    else:
        made.set_defaults(dataset=script.datasets[0])
    script.add_data_options(data)
    data.add_argument("--validation", type=int, metavar="N", help="images held out for validation (0: none)")
    data.add_argument(
        "--limit", type=int, metavar="N", help="so many images only, in training and in each evaluation: a quick look"
    )
    rule = made.add_argument_group("network and rule")
    rule.add_argument("--preset", metavar="NAME", default="small", help="network and schedule; see below")
    rule.add_argument("--rule", choices=RULES, default="ep", help="ep, or a ground truth to compare with")
    rule.add_argument("--beta", type=float, metavar="B", help="nudge strength")
    rule.add_argument("--points", type=int, metavar="N", help="0 derivative, 1 one-sided, 2 centred, more on a circle")
    rule.add_argument("--free-sweeps", type=int, metavar="N", help="sweeps of the free phase")
    rule.add_argument("--nudged-sweeps", type=int, metavar="N", help="sweeps of a nudged phase (bptt: unrolled)")
    rule.add_argument("--tol", type=float, metavar="T", help="stop the free phase at this residual (0: all sweeps)")
    rule.add_argument("--homeostasis", type=float, metavar="C", help="coefficient a unit, as published (0: none)")
    rule.add_argument("--feedback-angle", type=float, metavar="DEG", help="of untied weights at the start")
    rule.add_argument("--gain", type=float, metavar="G", help="scale of the initial weights")
    rule.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="products of the free phase in bfloat16 "
        "(default: of the wide presets on a GPU)",
    )  # fmt: skip
    rule.add_argument("--cuda-graph", action="store_true", help="replay blocks of sweeps as CUDA graphs")
    made.add_argument(
        "--plan", nargs="?", const=HERE, metavar="GPU", help="print operations, memory and time, and end: of this "
        f"machine, by a measurement, or of {', '.join(GPUS)}",
    )  # fmt: skip
    training = made.add_argument_group("training")
    training.add_argument("--epochs", type=int, metavar="N", help="passes over the training set")
    training.add_argument("--batch-size", type=int, metavar="N", help="images a step, over all processes")
    training.add_argument("--lr", metavar="R[,R...]", help="learning rate, or one a connection, the readout last")
    training.add_argument("--weight-decay", type=float, metavar="W", help="weight decay of SGD")
    _training.add_training_options(training)
    return made


def _epilog(script: Script) -> str:
    lines = []
    for preset in PRESETS.values():
        figures = [
            f"{figure.top1:g} % on {name}" for name, figure in preset.published.items() if name in script.datasets
        ]
        published = f" Published: {', '.join(figures)}." if figures else ""
        text = textwrap.fill(
            preset.note + published, width=100, initial_indent=f"  {preset.name:24}", subsequent_indent=" " * 26
        )
        lines.append(text)
    examples = "".join(f"\n  {line}" for line in script.examples)
    return "presets:\n" + "\n".join(lines) + f"\n\nexamples:{examples}"


# ---- one run -------------------------------------------------------------------------------------------------------


def train(
    config: Config, data: DataSplits, out: Path, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """One seed in one run folder; returns what summary.json says of it."""
    preset = config.preset
    network, rule = make_network(config, len(data.classes), device), make_rule(config, arguments.cuda_graph)
    before = error_vectors(config, network, rule, data)
    optimizer = make_optimizer(preset, network)
    result, test = _training.train_seed(
        network, rule, optimizer, data, config, out, arguments, title=config.title, schedule=preset.schedule,
        **training_of(preset, optimizer),
        images=IMAGES, free_sweeps=preset.free_sweeps, nudged_sweeps=preset.nudged_sweeps, tol=preset.tol,
    )  # fmt: skip
    result |= {"test_accuracy_percent": 100 * test.accuracy, "test_top5_percent": 100 * test.top5}
    if before is not None:
        result["error_vector_cosine"] = {"before": before, "after": error_vectors(config, network, rule, data)}
    return result


def error_vectors(
    config: Config, network: GraphNetwork, rule: eqprop.Rule, data: DataSplits
) -> dict[str, float] | None:
    """Cosine a layer of the rule's error vectors with the adjoint's; None on tied weights, where they agree anyway."""
    if config.preset.tied or config.rule != "ep":
        return None
    x, y = next(data.test.batches(IMAGES))
    return {name: found.cosine for name, found in eqprop.compare_error_vectors(network, rule, x, y).items()}


# ---- the script ----------------------------------------------------------------------------------------------------


def report(
    config: Config, data: DataSplits, results: Mapping[int, Mapping[str, Any]], arguments: argparse.Namespace, run: Run
) -> None:
    """Write and print the result of one seed, or means over several, beside what was published."""
    preset = config.preset
    figures = {"test_accuracy_percent": "test accuracy", "test_top5_percent": "test accuracy, top 5"}
    headline = _training.mean_figures(results, figures, {})
    headline += [
        {"name": f"error-vector cosine of {layer}, {when} training", "value": value, "unit": ""}
        for when in ("before", "after")
        for layer, value in _mean_cosines(results, when).items()
    ]
    reached = preset.reached(config.dataset)
    differs = differences(config)
    published = None if reached is None else {**reached._asdict(), "settings_that_differ": differs}
    _training.finish_training(
        arguments, config, data, results, headline, config.title, torch.device(config.device), run,
        published=published, note=preset.note,
    )  # fmt: skip
    if arguments.workers.first:
        print(f"  {published_text(config)}")


def _mean_cosines(results: Mapping[int, Mapping[str, Any]], when: str) -> dict[str, float]:
    """Error-vector cosine a layer, mean over the seeds; nothing for tied weights."""
    found = [result["error_vector_cosine"][when] for result in results.values() if "error_vector_cosine" in result]
    return {layer: statistics.fmean(one[layer] for one in found) for layer in (found[0] if found else ())}


def show_plan(config: Config, arguments: argparse.Namespace) -> None:
    """Print what the run would cost."""
    plan = make_plan(
        config.preset, make_rule(config),
        title=config.title, dataset=config.dataset, where=arguments.plan, products=_products(config, arguments),
        device=arguments.workers.device, validation=config.validation, limit=config.limit,
        processes=arguments.workers.size,
    )  # fmt: skip
    if arguments.workers.first:
        print(plan.table())
        print(f"\n{published_text(config)}")


def _products(config: Config, arguments: argparse.Namespace) -> str | None:
    """Of the free phase on the device that is planned for."""
    elsewhere = arguments.plan != HERE and arguments.bf16 is None and config.rule != "backprop"
    return "bfloat16" if elsewhere and config.preset.half else config.products


def run(script: Script, arguments: argparse.Namespace) -> None:
    """Train every seed and report."""
    seeds = _training.seeds_of(arguments)
    device = arguments.workers.device
    first = make_config(arguments, device)  # bad options are told before any data are read
    make_rule(first)
    make_optimizer(first.preset, first.preset.build(2))  # so are settings that fit no network
    if arguments.plan is not None:
        show_plan(first, arguments)
        return
    configs = [dataclasses.replace(first, seed=seed) for seed in seeds]

    def load(config: Config) -> DataSplits:
        return prepare(script.load(config, arguments, device), config)

    # in turn: the first process may download
    data = arguments.workers.in_turn(functools.partial(load, first))
    if arguments.workers.first and not arguments.quiet:
        print(f"{first.preset.name}: {published_text(first)}", file=sys.stderr)
    _training.run_seeds(
        arguments,
        configs,
        load,
        lambda config, used, out: train(config, used, out, arguments, device),
        report,
        data,
        _training.extendable(first.preset.schedule),
    )
