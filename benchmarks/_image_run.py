"""One run on images of 32x32 pixels: its settings, and the network, rule, optimiser and data that they stand for."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import eqprop
from benchmarks import _training
from benchmarks._presets import Preset, preset_named
from eqprop._data import DataSplits
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork

# options that take the place of a setting of the preset
OVERRIDES = (
    "epochs", "batch_size", "lr", "weight_decay", "gain", "beta", "points", "free_sweeps", "nudged_sweeps", "tol",
    "homeostasis", "feedback_angle",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run; goes into config.json."""

    preset: Preset
    rule: str
    dataset: str
    seed: int
    validation: int | None
    limit: int | None
    products: str | None
    device: str

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit: got {self.limit}, needed at least 1")

    def record(self) -> dict[str, Any]:
        """Plain JSON for config.json."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "preset"}
        settings = self.preset.settings()
        return {"preset": settings.pop("name"), **settings, **own}

    @property
    def title(self) -> str:
        """What names the run."""
        untied = "" if self.preset.tied else f", homeostasis {self.preset.homeostasis:g}"
        return f"{self.dataset}, {self.preset.name}, {self.rule}{untied}"


def make_config(arguments: argparse.Namespace, device: torch.device) -> Config:
    """Options over the preset. Raises ConfigError for settings that cannot work."""
    given = {name: getattr(arguments, name) for name in (*OVERRIDES, "bf16", "cuda_graph")}
    if given["lr"] is not None:
        given["lr"] = _training.numbers("--lr", given["lr"])
    if arguments.cuda_graph and device.type != "cuda":
        raise ConfigError(f"--cuda-graph: got it on {device.type}, needed a CUDA device")
    return config_of(
        arguments.preset,
        given,
        rule=arguments.rule,
        dataset=arguments.dataset,
        seed=arguments.seed,
        validation=arguments.validation,
        limit=arguments.limit,
        device=device.type,
    )


def config_of(preset: str, given: Mapping[str, Any], *, rule: str, dataset: str, device: str, **rest: Any) -> Config:
    """A preset with other settings.

    Args:
        preset: its name.
        given: of the preset, by name, and ``bf16``; None for the preset's own.
        rule, dataset, device, rest: see ``Config``.

    Raises:
        ConfigError: settings that cannot work, or that the rule does not read.
    """
    made = preset_named(preset).on(dataset)
    _refuse_unread(rule, given)
    changes = {name: given[name] for name in OVERRIDES if given.get(name) is not None}
    if changes.get("tol") == 0:
        changes["tol"] = None
    half = made.half and device == "cuda" if given.get("bf16") is None else given["bf16"]
    if rule == "backprop":  # of the feed-forward twin: full precision and nothing but the loss
        half, changes["homeostasis"] = False, 0.0
    return Config(
        preset=dataclasses.replace(made, **changes),
        rule=rule,
        dataset=dataset,
        products="bfloat16" if half else None,
        device=device,
        **rest,
    )


def unread(rule: str) -> tuple[str, ...]:
    """Settings that a rule does not read."""
    none: tuple[str, ...] = () if rule == "ep" else ("beta", "points")
    return (*none, "homeostasis", "bf16", "cuda_graph") if rule == "backprop" else none


def _refuse_unread(rule: str, given: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting that the rule does not read, so that no record tells of it."""
    for name in unread(rule):
        if given.get(name):
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option}: got it with --rule {rule}, which has no use for it; leave it out")


def published_text(config: Config) -> str:
    """What the source of the preset reached, and what this run does otherwise."""
    reached = config.preset.reached(config.dataset)
    if reached is None:
        return f"published for {config.preset.name} on {config.dataset}: none"
    top5 = "" if reached.top5 is None else f", top 5 {reached.top5:g} %"
    differs = differences(config)
    otherwise = f"; this run differs in {', '.join(differs)}" if differs else ""
    return f"published: {reached.top1:g} %{top5} ({reached.text}){otherwise}"


def differences(config: Config) -> list[str]:
    """Settings of the run that are not those of the preset, as "epochs=2"."""
    source = preset_named(config.preset.name).on(config.dataset).settings()
    changed = [f"{k}={v}" for k, v in config.preset.settings().items() if v != source[k]]
    if config.rule != "ep":
        changed.insert(0, f"rule={config.rule}")
    return changed + ([] if config.limit is None else [f"limit={config.limit}"])


# ---- what a config stands for --------------------------------------------------------------------------------------


def make_network(config: Config, classes: int, device: torch.device) -> GraphNetwork:
    """The preset's network, its weights drawn by the seed."""
    return config.preset.build(classes, torch.Generator().manual_seed(config.seed)).to(device)


def make_rule(config: Config, cuda_graph: bool = False) -> eqprop.Rule:
    """The rule with the preset's phases."""
    preset = config.preset
    if config.rule == "backprop":
        return eqprop.Backprop(cost=preset.cost)
    free: eqprop.Stop | eqprop.Sweeps = eqprop.Sweeps(preset.free_sweeps)
    if preset.tol is not None:
        free = eqprop.Stop(preset.tol, preset.free_sweeps, block=5)
    shared: dict[str, Any] = {
        "cost": preset.cost, "free": free, "products": config.products, "cuda_graph": cuda_graph,
        "regularisers": (
            (eqprop.JacobianHomeostasis(preset.homeostasis, per="unit", seed=config.seed),)
            if preset.homeostasis
            else ()
        ),
    }  # fmt: skip
    if config.rule == "rbp":
        return eqprop.RecurrentBackprop(adjoint=eqprop.Sweeps(preset.nudged_sweeps), **shared)
    if config.rule == "bptt":
        return eqprop.TruncatedBPTT(steps=preset.nudged_sweeps, **shared)
    return eqprop.EquilibriumPropagation(
        beta=preset.beta,
        contour=preset.contour,
        points=preset.points,
        readout=preset.readout,
        nudged=eqprop.Sweeps(preset.nudged_sweeps),
        seed=config.seed,
        **shared,
    )


def make_optimizer(preset: Preset, network: GraphNetwork) -> torch.optim.SGD:
    """SGD with a rate a connection."""
    groups = network.parameter_groups(preset.lr[0] if len(preset.lr) == 1 else preset.lr)
    for group in groups:
        last = group["name"] == "readout" and preset.readout_decay is not None
        group["weight_decay"] = preset.readout_decay if last else preset.weight_decay
        if preset.decoupled:
            group["shrink"], group["weight_decay"] = group["weight_decay"], 0.0
    optimizer = torch.optim.SGD(groups, lr=preset.lr[0], momentum=preset.momentum, nesterov=preset.nesterov)
    if preset.decoupled:
        optimizer.register_step_pre_hook(_shrink)
    return optimizer


def training_of(preset: Preset, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a trainer needs: epochs, batch size, and rates over the epochs."""
    scheduler = _training.make_scheduler(optimizer, preset.schedule, preset.epochs, last=preset.last_lr)
    return {"epochs": preset.epochs, "batch_size": preset.batch_size, "scheduler": scheduler}


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Decoupled weight decay: `(1 - lr * decay) W` before the step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.mul_(1 - group["lr"] * group["shrink"])


def prepare(data: DataSplits, config: Config) -> DataSplits:
    """Normalised, augmented and, with --limit, cut down."""
    preset = config.preset
    data = data.normalised(scale=preset.std_scale)
    if preset.flip or preset.pad:
        mode = "edge" if preset.edge else "zero"
        data = data.augmented(eqprop.Augmentation(preset.flip, preset.pad, mode))
    if config.limit is None:
        return data
    parts = {}
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        parts[name] = part.subset(min(config.limit, len(part)), torch.Generator().manual_seed(config.seed))
    return dataclasses.replace(data, **parts)
