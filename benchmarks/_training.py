"""What the scripts that train on images share: options of training, schedules, seeds, and figures of a relaxation."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

import eqprop
from benchmarks._common import finish
from eqprop._callbacks import Figures
from eqprop._data import DataSplits
from eqprop._errors import ConfigError
from eqprop._figures import gradient_alignment, relaxation
from eqprop._graph import GraphNetwork
from eqprop._guard import Guard
from eqprop._runs import Run
from eqprop._trainer import Trainer


class Config(Protocol):
    """What decides the numbers of a run."""

    @property
    def seed(self) -> int: ...

    def record(self) -> dict[str, Any]:
        """Plain JSON for config.json."""
        ...


C = TypeVar("C", bound=Config)


def add_training_options(group: Any) -> None:
    """Options of every script that trains."""
    group.add_argument("--seed", type=int, default=0, help="of weights, order of images and validation draw")
    group.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train with N seeds from --seed, report the mean"
    )
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    group.add_argument("--quiet", action="store_true", help="no progress bar and no line an epoch")
    group.add_argument("--no-guard", action="store_true", help="go on even if the run looks hopeless")
    group.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="also checkpoint within an epoch")


def numbers(option: str, given: str) -> tuple[float, ...]:
    """(0.1, 0.05) of "0.1,0.05"."""
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: got {given!r}, needed numbers, as in {option} 0.1,0.05") from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, schedule: str, epochs: int, *, decay: float = 1.0, last: float = 0.0
) -> Any:
    """Learning rates over the epochs: "constant", "exponential" by `decay` in all, or "cosine" down to `last`."""
    if schedule == "constant":
        return None
    if schedule == "exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, decay ** (1 / epochs))
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, last)


def extendable(schedule: str) -> tuple[str, ...]:
    """What may grow on --resume. Other schedules are laid out over the epochs: with more of them, another run."""
    return ("epochs",) if schedule == "constant" else ()


def train_seed(
    network: GraphNetwork, rule: eqprop.Rule, optimizer: torch.optim.Optimizer, data: DataSplits, config: Config,
    out: Path, arguments: argparse.Namespace, *, title: str, schedule: str, scheduler: Any, epochs: int,
    batch_size: int, images: int, **phase: Any,
) -> tuple[dict[str, Any], Any]:  # fmt: skip
    """Train one seed in one run folder, with its figures: what summary.json says of it, and the evaluation.

    Args:
        title: of the figures.
        images: of the batches that figures look at.
        phase: `free_sweeps`, `nudged_sweeps` and `tol` of the rule.
    """
    trainer = Trainer(
        network,
        rule,
        optimizer,
        data,
        epochs=epochs,
        batch_size=batch_size,
        seed=config.seed,
        scheduler=scheduler,
        out=out,
        config=config.record() | {"data": {k: v for k, v in data.spec().items() if k != "source"}},
        extendable=extendable(schedule),
        callbacks=[Figures(title)],
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
        checkpoint_every_steps=arguments.checkpoint_every,
        guard=None if arguments.no_guard else Guard(),
        workers=arguments.workers,
    )
    if trainer.run is None:
        raise ConfigError("--out: needed a run folder")
    trainer.fit()
    test = trainer.test()
    draw_figures(trainer.run, network, rule, data, title, images=images, **phase)
    return training_summary(trainer, test), test


def training_summary(trainer: Trainer, test: Any) -> dict[str, Any]:
    """What summary.json says of one trained seed."""
    last = trainer.history.last()
    return {
        "test_error_percent": 100 * test.error,
        "test_loss": test.loss,
        "validation_error_percent": 100 * last.get("validation_error", math.nan),
        "train_error_percent": 100 * last["train_error"],
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "sweeps": {"free": last["free_sweeps"], "nudged": last["nudged_sweeps"], "test": test.mean_sweeps},
        "residuals": {
            "mean": last["residual_mean"], "max": last["residual_max"], "unconverged_share": last["unconverged_share"],
            "test_converged_share": test.converged_share,
        },
    }  # fmt: skip


# ---- seeds ---------------------------------------------------------------------------------------------------------


def run_seeds(
    arguments: argparse.Namespace,
    configs: Sequence[C],
    load: Callable[[C], DataSplits],
    train: Callable[[C, DataSplits, Any], dict[str, Any]],
    report: Callable[[C, DataSplits, Mapping[int, Mapping[str, Any]], argparse.Namespace, Run], None],
    data: DataSplits,
    extend: tuple[str, ...],
) -> None:
    """Train every config, one a seed, and report: each in its run folder, several also together in the one above.

    Args:
        arguments: what the parser gave.
        configs: one a seed.
        load: the data of a config; the validation part is drawn by the seed.
        train: one seed in one run folder; returns what summary.json says of it.
        report: writes and prints the result of some seeds into a run folder.
        data: of the first config.
        extend: what may grow on --resume.
    """
    first = configs[0]
    parent: Run | None = None
    if len(configs) > 1:
        parent = Run.create(
            arguments.out,
            first.record() | {"seeds": [config.seed for config in configs]},
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            extendable=extend,
            workers=arguments.workers,
        )
    results: dict[int, dict[str, Any]] = {}
    used = data
    for config in configs:
        if config is not first:
            used = load(config)
        if arguments.workers.first and not arguments.quiet:
            print(f"{used}, seed {config.seed}", file=sys.stderr)
        folder = arguments.out if parent is None else arguments.out / f"seed-{config.seed}"
        results[config.seed] = train(config, used, folder)
        if parent is not None:
            one = argparse.Namespace(**{**vars(arguments), "record": None})
            report(config, used, {config.seed: results[config.seed]}, one, Run.open(folder))
    report(first, data, results, arguments, parent or Run.open(arguments.out))


def seeds_of(arguments: argparse.Namespace) -> range:
    """The seeds that --seed and --seeds ask for."""
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds: got {arguments.seeds}, needed at least 1")
    return range(arguments.seed, arguments.seed + arguments.seeds)


def mean_figures(
    results: Mapping[int, Mapping[str, Any]], figures: Mapping[str, str], targets: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """Headline figures in per cent, and the training time, over the seeds.

    Args:
        results: by seed.
        figures: key of a result -> its name; the first is the one that matters, and gets its standard deviation.
        targets: key of a result -> target, as "<= 1.9".
    """
    several = len(results) > 1
    made: list[dict[str, Any]] = []
    for index, (key, name) in enumerate(figures.items()):
        values = [result[key] for result in results.values()]
        shown = f"{name}, mean of {len(values)} seeds" if several else name
        made.append({"name": shown, "value": statistics.fmean(values), "unit": "%"})
        if targets.get(key):
            made[-1]["target"] = targets[key]
        if several and index == 0:
            made.append({"name": "its standard deviation", "value": statistics.stdev(values), "unit": "%"})
    seconds = statistics.fmean(result["seconds"] for result in results.values())
    made.append({"name": f"training time{' a seed' if several else ''}", "value": seconds, "unit": "s"})
    return made


def finish_training(
    arguments: argparse.Namespace,
    config: Config,
    data: DataSplits,
    results: Mapping[int, Mapping[str, Any]],
    headline: Sequence[Mapping[str, Any]],
    title: str,
    device: torch.device,
    run: Run,
    **details: Any,
) -> None:
    """Write and print the result of one seed, or means over several."""
    epochs = max(result["epochs"] for result in results.values())
    finish(
        arguments,
        title=f"{title}, {epochs} epoch{'s' if epochs > 1 else ''}",
        headline=headline,
        details={
            "seeds": list(results),
            "data": data.spec(),
            "seconds": statistics.fmean(result["seconds"] for result in results.values()),
            **details,
            "results": {str(seed): dict(result) for seed, result in results.items()},
        },
        config=config.record(),
        device=device,
        run=run,
    )


# ---- figures -------------------------------------------------------------------------------------------------------


def draw_figures(
    run: Run, network: GraphNetwork, rule: eqprop.Rule, data: DataSplits, title: str, *, images: int, **phase: Any
) -> None:
    """The figures of the relaxation and the gradient; those of the training are the trainer's (see `Figures`).

    Args:
        images: of the batches that are looked at.
        phase: `free_sweeps`, `nudged_sweeps` and `tol` of the rule.
    """
    if isinstance(rule, eqprop.Backprop):  # of the feed-forward twin, which does not relax
        return
    x, y = next(data.test.batches(images))
    found = phases(network, rule, x, y, phase["free_sweeps"], phase["nudged_sweeps"])
    run.save_figure("relaxation", relaxation(found, phase["tol"], f"{title}: a batch of the test split"))
    # on the same batch: on images that it has learnt by heart a network has no error left, and so no gradient
    truth = eqprop.ImplicitGradient(cost=rule.cost, free=eqprop.Stop(1e-6, 1000, block=10))
    run.save_figure("gradient_alignment", gradient_alignment(eqprop.compare_layers(network, rule, truth, x, y)))


@torch.no_grad()
def phases(
    network: GraphNetwork, rule: eqprop.Rule, x: Tensor, y: Tensor, free_sweeps: int, nudged_sweeps: int
) -> dict[str, tuple[Tensor | None, Tensor]]:
    """Energy (with the nudge's, beta C) and residual a sweep, [sweeps, batch], of the free and (real) nudged phases.

    None for the energy of a network that has none.
    """
    network, x = network.clone().double(), x.double()  # so that rounding does not hide the end of a phase
    drive, cost = network.drive(x), rule.loss_function
    state = network.initial_state(len(x))
    target = cost.target(y, network.output(state))
    found: dict[str, tuple[Tensor | None, Tensor]] = {}
    betas: tuple[float, ...] = ()
    if isinstance(rule, eqprop.EquilibriumPropagation) and rule.contour != "derivative":
        betas = eqprop.contour(rule.contour, rule.beta, rule.points).betas
    named = {"free": 0.0} | {f"nudged, β = {b:g}".replace("-", "−"): b for b in betas}
    rest = state
    for name, beta in named.items():
        energies: list[Tensor] = []
        steps: list[Tensor] = []
        last = rest

        def observe(
            _: int, now: tuple[Tensor, ...], beta: float = beta, energies: list[Tensor] = energies,
            steps: list[Tensor] = steps,
        ) -> None:  # fmt: skip
            nonlocal last
            if network.has_energy:
                energies.append(network.energy(now, drive) + beta * cost.loss(network.output(now), target))
            steps.append(network.distance(now, last))
            last = now

        nudge = eqprop.CostNudge(network, cost, target, target.new_full((len(x), 1), beta)) if beta else None
        sweeps = eqprop.Sweeps(nudged_sweeps if beta else free_sweeps)
        solution = eqprop.relax(network, rest, drive, nudge, solver=rule.solver, stop=sweeps, observer=observe)
        found[name] = (torch.stack(energies) if energies else None, torch.stack(steps))
        if not beta:
            rest = solution.state
    return found
