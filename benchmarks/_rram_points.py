"""A resistive liquid on a data set, as a function of a config: one chip, one variability, one read noise."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch

import snn
from benchmarks import _liquid_data
from benchmarks._liquid_config import LEAST, fitting_weights, within
from benchmarks._liquid_data import DATASETS, Task
from benchmarks._liquid_features import INPUT, NoCache, Wanted, both_parts, feature
from benchmarks._liquid_fits import evaluate, official
from benchmarks._sweep_fields import in_fields
from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._resistive_liquid import SCOPES

PRESET = "rram200"


@dataclasses.dataclass(frozen=True)
class Config:
    """A point of the sweep.

    Attributes:
        dataset: in the folder EQPROP_DATA, where it needs files.
        samples, test: training samples, validation included, and test samples; None for all.
        weight: standard deviation of the weights, kept whatever the variability is; None for one that fits the data.
        variability: standard deviation of formed cells over their mean; None for the device's own.
        read_noise: relative, of every cell.
        scope: what a draw of read noise lasts for: "step", "sample" or "run".
        batch_size: samples that run together.
        seed: of the chip, its inputs and its noise.
    """

    dataset: str = "nmnist"
    samples: int | None = None
    test: int | None = None
    weight: float | None = None
    variability: float | None = None
    read_noise: float = 0.02
    scope: str = "step"
    batch_size: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weight is not None:
            require_number("weight", self.weight, above=0.0)
        for name in ("variability", "read_noise"):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), least=0.0)
        require_whole("batch_size", self.batch_size, 1)


def completed(config: Config) -> Config:
    """With a weight that fits the data in place of None; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    lookup("dataset", config.dataset, dict.fromkeys(DATASETS))
    lookup("scope", config.scope, dict.fromkeys(SCOPES))
    for name, least in (("samples", LEAST), ("test", 1)):
        if getattr(config, name) is not None:
            require_whole(name, getattr(config, name), least)
    return dataclasses.replace(config, weight=weight_of(config))


def weight_of(config: Config) -> float:
    """Standard deviation of the weights: where none is given, the one chosen on validation data at the device's own
    variability and read noise."""
    return fitting_weights(PRESET, config.dataset)[0] if config.weight is None else config.weight


def task_of(dataset: str) -> Task:
    """The data, loaded once a process."""
    return _liquid_data.task_of(dataset, PRESET)


def chip(config: Config, task: Task) -> snn.ResistiveLiquid:
    """The liquid of a config."""
    made = snn.rram_liquid(
        seed=config.seed,
        weight=weight_of(config),
        inputs=task.channels,
        variability=config.variability,
        read_noise=config.read_noise,
        scope=config.scope,
    )
    made.dt_seconds = task.dt_seconds
    return made


def without_recurrence(liquid: snn.ResistiveLiquid) -> snn.ResistiveLiquid:
    """The same chip, with recurrent cells that neither conduct nor make noise."""
    off = copy.deepcopy(liquid)
    off.weight, off.scale = torch.zeros_like(liquid.weight), torch.zeros_like(liquid.scale)
    return off


def together(config: Config) -> Hashable:
    """Points of one chip see the same trains, which are encoded once."""
    return dataclasses.astuple(dataclasses.replace(config, variability=None, read_noise=0.0))


def run(config: Config) -> dict[str, Any]:
    """Accuracy of a ridge readout on the counts of the liquid, of the same without recurrence, on random ReLU features
    of the input in equal number, and on the input itself; penalties by validation, test samples looked at once.
    """
    return run_many([config])[0]


def run_many(configs: list[Config]) -> list[dict[str, Any]]:
    """Points of one chip, on trains that are encoded once."""
    first = configs[0]
    if any(together(config) != together(first) for config in configs):
        raise ConfigError("configs: got points of several chips or data sets, needed those of one")
    task = task_of(first.dataset)
    liquids: dict[str, snn.Liquid] = {}
    for index, config in enumerate(configs):
        made = chip(config, task)
        liquids |= {f"{index} on": made, f"{index} off": without_recurrence(made)}
    with in_fields({"samples": "samples", "test": "test"}):
        counts = (
            within("samples", first.samples, LEAST, len(task.train)),
            within("test", first.test, 1, len(task.test)),
        )
    train, test = both_parts(
        liquids, task, counts, Wanted(), NoCache(), seed=first.seed, batch_size=first.batch_size,
        quiet=True,
    )  # fmt: skip
    y = torch.cat((task.train.labels[: counts[0]], task.test.labels[: counts[1]]))
    sides, width = official(*counts), liquids["0 on"].neurons

    def of(arm: str, neurons: int) -> torch.Tensor:
        return torch.cat([feature(found, arm, "counts", neurons) for found in (train, test)])

    if task.still and task.train.values is not None and task.test.values is not None:
        entry = torch.cat(
            [p.values(torch.arange(n)) for p, n in zip((task.train, task.test), counts, strict=True) if p.values]
        )
    else:
        entry = of(INPUT, task.channels)
    shared = {
        "random_relu_percent": evaluate("ridge", entry, y, sides, relu=width, seed=first.seed)["accuracy_percent"],
        "input_percent": evaluate("ridge", entry, y, sides)["accuracy_percent"],
    }
    results = []
    for index in range(len(configs)):
        on, off = (evaluate("ridge", of(f"{index} {arm}", width), y, sides) for arm in ("on", "off"))
        spikes = train[f"{index} on/counts"]
        results.append(
            {
                "accuracy_percent": on["accuracy_percent"],
                "recurrence_off_percent": off["accuracy_percent"],
                **shared,
                "penalty": on["settings"][0].get("penalty"),
                "mean_rate_hz": float(spikes.mean()) / (task.steps * task.dt_seconds),
                "silent_share": float(np.mean(spikes.max(0) == 0)),
            }
        )
    return results
