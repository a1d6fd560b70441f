"""Trains an attractor network on MNIST, Fashion-MNIST or the embedded digits: `python -m benchmarks.mnist --help`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import eqprop
from benchmarks import _training
from benchmarks._common import add_output_options, new_parser, run_main, sizes
from benchmarks._fewer_images import fewer
from eqprop._data import DataSplits, load_dataset
from eqprop._errors import ConfigError
from eqprop._runs import Run

MODULE = "benchmarks.mnist"
DATASETS = ("mnist", "fashion-mnist", "digits")
RULES = ("ep", "implicit", "rbp", "bptt", "backprop")
SCHEDULES = ("constant", "exponential", "cosine")

# Settings that an option on the command line overrides. Looked up by data set and network, then by data set, then by
# number of hidden layers; what a preset leaves out comes from DEFAULTS.
DEFAULTS: dict[str, Any] = {
    "network": "784-1024-10", "activation": "hard_sigmoid", "cost": "squared-error", "initializer": "xavier_uniform",
    "gain": 0.5, "beta": 0.5, "contour": "centred", "points": 6, "readout": "contrast", "free_sweeps": 10,
    "nudged_sweeps": 6, "tol": None, "products": None, "epochs": 20, "batch_size": 16, "lr": (0.3, 0.05),
    "schedule": "cosine", "decay": 0.05, "momentum": 0.0, "weight_decay": 0.0,
}  # fmt: skip
# Rates were chosen on the validation split, among 0.1 to 1 for the first connection and 0.02 to 0.3 for the others.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("mnist", "784-1024-10"): {"lr": (0.3, 0.05)},
    ("fashion-mnist", "784-1024-10"): {"lr": (0.1, 0.05)},
    # two hidden layers settle more slowly
    ("mnist", "784-512-512-10"): {"lr": (0.5, 0.3, 0.1), "free_sweeps": 15, "nudged_sweeps": 8},
    # 5,000 images: seconds
    ("digits", "784-1024-10"): {"lr": (0.3, 0.1), "epochs": 20},
}  # fmt: skip
# in per cent of test error, for --rule ep with the preset's network
TARGETS = {
    ("mnist", "784-1024-10"): 1.9,
    ("mnist", "784-512-512-10"): 2.2,
    ("fashion-mnist", "784-1024-10"): 11.3,
    ("digits", "784-1024-10"): 5.5,
}


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run; goes into config.json."""

    rule: str
    dataset: str
    network: str
    activation: str
    cost: str
    initializer: str
    gain: float
    beta: float
    contour: str
    points: int
    readout: str
    free_sweeps: int
    nudged_sweeps: int
    tol: float | None
    products: str | None
    epochs: int
    batch_size: int
    lr: tuple[float, ...]
    schedule: str
    decay: float
    momentum: float
    weight_decay: float
    seed: int
    validation: int | None
    train: int | None
    device: str

    def __post_init__(self) -> None:
        for name in ("free_sweeps", "nudged_sweeps", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, needed at least 1")
        if not all(math.isfinite(rate) and rate > 0 for rate in self.lr):
            raise ConfigError(f"--lr: got {self.lr}, needed numbers above 0, as in --lr 0.1,0.05")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"--decay: got {self.decay}, needed a factor above 0 and at most 1")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"--momentum: got {self.momentum}, needed 0 to below 1; --weight-decay: got {self.weight_decay}, "
                "needed at least 0"
            )
        if not math.isfinite(self.beta) or self.beta == 0:
            raise ConfigError(f"--beta: got {self.beta}, needed a number other than 0, as in --beta 0.2")
        if self.contour != "cauchy" and self.points != DEFAULTS["points"]:
            raise ConfigError(
                f"--points: got {self.points} with --contour {self.contour}, which has no use for it; leave it out, or "
                "write --contour cauchy"
            )
        if self.train is not None and self.train < 1:
            raise ConfigError(f"--train: got {self.train}, needed at least 1")
        sizes(self.network)

    def record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def preset(dataset: str, network: str | None) -> dict[str, Any]:
    """Settings for a data set and a network; where there is no preset, those of a network of the same depth."""
    name = network or DEFAULTS["network"]
    depth = len(sizes(name))
    same = [(data, kept) for (data, other), kept in PRESETS.items() if len(sizes(other)) == depth]
    similar = {data: kept for data, kept in reversed(same)}  # the first of a data set wins
    found = PRESETS.get((dataset, name)) or similar.get(dataset) or (same[0][1] if same else {})
    settings = {**DEFAULTS, "network": name} | found
    if len(settings["lr"]) != depth - 1:
        settings["lr"] = (min(settings["lr"]),)  # one for all connections
    return settings


# -- options ---------------------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    shown = {" ".join(key): kept for key, kept in PRESETS.items()}
    shown["any other"] = {k: v for k, v in DEFAULTS.items() if k != "network" and v is not None}
    lines = [
        textwrap.fill(
            ", ".join(f"{k}={_option(v)}" for k, v in kept.items()),
            width=100,
            initial_indent=f"  {name:30}",
            subsequent_indent=" " * 32,
        )
        for name, kept in shown.items()
    ]
    epilog = (
        "Options of network, rule and training without a default shown take it from a preset:\n"
        + "\n".join(lines)
        + "\n\nexamples:\n"
        f"  python -m {MODULE} --rule ep --network 784-1024-10 --epochs 20 --out runs/ep\n"
        f"  python -m {MODULE} --dataset fashion-mnist --seeds 3 --out runs/fashion\n"
        f"  python -m {MODULE} --network 784-512-512-10 --tol 1e-3 --out runs/deep --resume"
    )
    made = new_parser(MODULE, "Train an attractor network on handwritten digits or clothes.", epilog)
    add_output_options(made, Path("runs/mnist"), resume=True)
    data = made.add_argument_group("data")
    data.add_argument("--dataset", choices=DATASETS, default="mnist", help="data set")
    data.add_argument("--data", metavar="DIR", help="folder with the data set's files (default: cache, or download)")
    data.add_argument("--validation", type=int, metavar="N", help="images held out for validation (0: none)")
    data.add_argument("--train", type=int, metavar="N", help="train on so many images only, drawn by the seed")
    network = made.add_argument_group("network")
    network.add_argument("--network", metavar="N-N-N", help="units of input, hidden layers, output")
    network.add_argument("--activation", metavar="NAME", help="hard_sigmoid, sigmoid, tanh, relu6, dsilu, ...")
    network.add_argument(
        "--cost", metavar="NAME", help="squared-error, or cross-entropy on a readout outside the dynamics"
    )
    network.add_argument("--initializer", metavar="NAME", help="of the weights, as xavier_uniform")
    network.add_argument("--gain", type=float, metavar="G", help="scale of the initial weights")
    rule = made.add_argument_group("learning rule")
    rule.add_argument("--rule", choices=RULES, default="ep", help="ep, or a ground truth to compare with")
    rule.add_argument("--beta", type=float, metavar="B", help="nudge strength")
    rule.add_argument(
        "--contour", metavar="NAME", help="centred, one-sided, random-sign, alternating-sign, cauchy or derivative"
    )
    rule.add_argument("--points", type=int, metavar="N", help="points of the cauchy contour")
    rule.add_argument("--readout", metavar="NAME", help="contrast or tangent")
    rule.add_argument("--free-sweeps", type=int, metavar="N", help="sweeps of the free phase")
    rule.add_argument("--nudged-sweeps", type=int, metavar="N", help="sweeps of a nudged phase (bptt: unrolled)")
    rule.add_argument(
        "--tol", type=float, metavar="T", help="stop a phase at this residual; the sweeps are then the most"
    )
    rule.add_argument("--products", metavar="DTYPE", help="bfloat16: cheaper matrix products in the free phase")
    training = made.add_argument_group("training")
    training.add_argument("--epochs", type=int, metavar="N", help="passes over the training set")
    training.add_argument("--batch-size", type=int, metavar="N", help="images a step")
    training.add_argument("--lr", metavar="R[,R...]", help="learning rate, or one a connection from the input on")
    training.add_argument("--schedule", choices=SCHEDULES, help="of the learning rates, over the epochs")
    training.add_argument("--decay", type=float, metavar="F", help="exponential: factor over the whole run")
    training.add_argument("--momentum", type=float, metavar="M", help="momentum of SGD")
    training.add_argument("--weight-decay", type=float, metavar="W", help="weight decay of SGD")
    _training.add_training_options(training)
    return made


def _option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def make_config(arguments: argparse.Namespace, dataset: str, device: torch.device) -> Config:
    """Options over the preset of `dataset`, which is what was loaded: digits may stand in for MNIST."""
    settings = preset(dataset, arguments.network)
    for name in settings:
        given = getattr(arguments, name)
        if given is not None:
            settings[name] = given
    if isinstance(settings["lr"], str):
        settings["lr"] = _training.numbers("--lr", settings["lr"])
    rest = {name: getattr(arguments, name) for name in ("rule", "seed", "validation", "train")}
    return Config(**settings, **rest, dataset=dataset, device=device.type)


# -- what a config stands for ----------------------------------------------------------------------------------------


def make_network(config: Config, device: torch.device) -> eqprop.HopfieldNetwork:
    units = sizes(config.network)
    outside = config.cost == "cross-entropy"  # its readout has no place in the energy
    network = eqprop.HopfieldNetwork.mlp(
        *(units[:-1] if outside else units),
        readout=units[-1] if outside else None,
        activation=config.activation,
        initializer=config.initializer,
        gain=config.gain,
        generator=torch.Generator().manual_seed(config.seed),
    )
    return network.to(device)


def stop(config: Config, sweeps: int) -> eqprop.Stop | eqprop.Sweeps:
    return eqprop.Sweeps(sweeps) if config.tol is None else eqprop.Stop(config.tol, sweeps, block=5)


def make_rule(config: Config) -> eqprop.Rule:
    shared: dict[str, Any] = {
        "cost": config.cost, "free": stop(config, config.free_sweeps), "products": config.products,
    }  # fmt: skip
    if config.rule == "ep":
        nudged = stop(config, config.nudged_sweeps)
        if config.contour == "cauchy":  # others have none, though the preset does
            shared["points"] = config.points
        return eqprop.EquilibriumPropagation(
            beta=config.beta,
            contour=config.contour,
            readout=config.readout,
            nudged=nudged,
            seed=config.seed,
            **shared,
        )
    if config.rule == "implicit":
        return eqprop.ImplicitGradient(**shared)
    if config.rule == "rbp":
        return eqprop.RecurrentBackprop(**shared)
    if config.rule == "bptt":
        return eqprop.TruncatedBPTT(steps=config.nudged_sweeps, **shared)
    return eqprop.Backprop(cost=config.cost)


def make_optimizer(config: Config, network: Any) -> torch.optim.SGD:
    """SGD with a rate for all connections, or one for each."""
    groups = network.parameter_groups(config.lr[0] if len(config.lr) == 1 else config.lr)
    return torch.optim.SGD(groups, lr=config.lr[0], momentum=config.momentum, weight_decay=config.weight_decay)


def make_data(config: Config, folder: str | None, device: torch.device) -> DataSplits:
    data = load_dataset(config.dataset, folder, device=device, validation=config.validation, seed=config.seed)
    pixels, classes = sizes(config.network)[0], sizes(config.network)[-1]
    if math.prod(data.input_shape) != pixels or len(data.classes) != classes:
        needed = f"{math.prod(data.input_shape)}-...-{len(data.classes)}"
        raise ConfigError(f"--network: got {config.network!r}, but {data.name} needs {needed}")
    return fewer(data, config.train, config.seed, "--train")


# -- one run ---------------------------------------------------------------------------------------------------------


def train(
    config: Config, data: DataSplits, out: Path, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """One seed in one run folder; returns what summary.json says of it."""
    network, rule = make_network(config, device), make_rule(config)
    optimizer = make_optimizer(config, network)
    result, _ = _training.train_seed(
        network, rule, optimizer, data, config, out, arguments, title=title_of(config, data), schedule=config.schedule,
        scheduler=_training.make_scheduler(optimizer, config.schedule, config.epochs, decay=config.decay),
        epochs=config.epochs, batch_size=config.batch_size,
        images=512, free_sweeps=config.free_sweeps, nudged_sweeps=config.nudged_sweeps, tol=config.tol,
    )  # fmt: skip
    return result


def title_of(config: Config, data: DataSplits) -> str:
    return f"{data.name}, {config.network}, {config.rule}"


# -- the script ------------------------------------------------------------------------------------------------------


def report(
    config: Config, data: DataSplits, results: Mapping[int, Mapping[str, Any]], arguments: argparse.Namespace, run: Run
) -> None:
    """Write and print the result of one seed, or means over several."""
    target = TARGETS.get((data.name, config.network)) if config.rule == "ep" else None
    headline = _training.mean_figures(
        results,
        {"test_error_percent": "test error"},
        {"test_error_percent": None if target is None else f"<= {target}"},
    )
    title = title_of(config, data)
    _training.finish_training(arguments, config, data, results, headline, title, torch.device(config.device), run)


def main(arguments: argparse.Namespace) -> None:
    """Train every seed and report."""
    seeds = _training.seeds_of(arguments)
    device = arguments.workers.device
    first = make_config(arguments, arguments.dataset, device)  # bad options are told before any data are read
    # in turn: the first process may download
    data = arguments.workers.in_turn(lambda: make_data(first, arguments.data, device))
    if data.name != first.dataset:
        first = make_config(arguments, data.name, device)
    _training.run_seeds(
        arguments,
        [dataclasses.replace(first, seed=seed) for seed in seeds],
        lambda config: make_data(config, arguments.data, device),
        lambda config, used, out: train(config, used, out, arguments, device),
        report,
        data,
        _training.extendable(first.schedule),
    )


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False, several=True))
