"""`benchmarks.liquid` as a function of a config, for sweeps: one network and readout, and the controls."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks._common import device_named
from benchmarks._liquid_config import (
    LEAST,
    learning_of,
    make_config,
    require_possible,
    static_liquids,
    usual_weights,
)
from benchmarks._liquid_data import DATASETS, task_of
from benchmarks._liquid_features import NoCache, both_parts
from benchmarks._liquid_fits import LIQUID, OFF, OFFICIAL, RELU, fits
from benchmarks._liquid_health import look, require_well
from benchmarks._liquid_plastic import NONE, plastic_liquid
from benchmarks._sweep_fields import in_fields, options, require_device
from eqprop._errors import ConfigError
from eqprop._names import lookup

_COLUMNS = {LIQUID: "liquid", OFF: "recurrence_off", RELU: "random_relu"}  # the others: "input"
_OPTIONS = {
    "preset": "liquid.preset",
    "plasticity": "liquid.plasticity",
    "readout": "readout.name",
    "tau": "readout.tau_seconds",
}


@dataclass(frozen=True)
class Liquid:
    """A preset; ``weight`` of all synapses and ``input_weight``, None for those of preset and data; ``plasticity``:
    none, nalsm or stdp, initialised by so many samples (None: as published).
    """

    preset: str = "nalsm1000"
    weight: float | None = None
    input_weight: float | None = None
    plasticity: str | None = None
    initial_samples: int | None = None


@dataclass(frozen=True)
class Readout:
    """Linear, "softmax" or "ridge", of the feature "counts", "filter" (over ``tau_seconds``) or "bins" (``bins`` of
    them)."""

    name: str = "softmax"
    feature: str = "counts"
    bins: int = 5
    tau_seconds: float = 0.03


@dataclass(frozen=True)
class Data:
    """Data set (in the cache or EQPROP_DATA); training samples, validation included, and test samples; None for all."""

    dataset: str = "mnist"
    samples: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Config:
    """One network; ``batch_size``: samples that run together."""

    liquid: Liquid = Liquid()
    readout: Readout = Readout()
    data: Data = Data()
    batch_size: int = 500
    seed: int = 0
    device: str = "cpu"


def completed(config: Config) -> Config:
    """With the weights of preset and data in place of None; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    require_device(config.device)
    lookup("data.dataset", config.data.dataset, dict.fromkeys(DATASETS))
    for name, least in (("samples", LEAST), ("test", 1)):
        value = getattr(config.data, name)
        if value is not None and value < least:
            raise ConfigError(f"data.{name}: got {value}, needed at least {least}, or none for all")
    arguments = _arguments(config)
    with in_fields(options(config, _OPTIONS)):
        require_possible(arguments)
    weight, input_weight = usual_weights(arguments)
    initial = learning_of(arguments)[1] or None
    liquid = dataclasses.replace(config.liquid, weight=weight, input_weight=input_weight, initial_samples=initial)
    return dataclasses.replace(config, liquid=liquid)


def run(config: Config) -> dict[str, Any]:
    """Accuracy of a readout of the liquid, and of the controls with the same protocol: the same liquid without
    recurrence, random ReLU features of equal width, and the input itself (``plastic``: with learning weights); of
    sounds also on speakers that were held out. And the health of the liquid.
    """
    config = completed(config)
    with in_fields(options(config, _OPTIONS)):
        return _figures(config)


# -- inside ------------------------------------------------------------------------------------------------------------


def _figures(config: Config) -> dict[str, Any]:
    task, seed = task_of(config.data.dataset, config.liquid.preset), config.seed
    made = make_config(_arguments(config), task, device_named(config.device))
    cache = NoCache()
    liquids = static_liquids(made, task, seed)
    seen = require_well(look(liquids[LIQUID], task, seed), made.weight)
    if made.plastic is not None:
        learning = plastic_liquid(made.plasticity, made.preset, task, seed, made.initial_samples, cache, quiet=True)
        liquids[made.plastic] = learning.to(made.device)
    train, test = both_parts(
        liquids, task, (made.samples, made.test), made.wanted(), cache, seed=seed, batch_size=made.batch_size,
        quiet=True,
    )  # fmt: skip
    figures: dict[str, Any] = {}
    for record in fits(
        task, train, test, liquids[LIQUID].neurons, seed, features=made.features, readouts=made.readouts,
        counts=[made.samples], with_input=True, plastic=made.plastic,
    ):  # fmt: skip
        arm = "plastic" if record["arm"] == made.plastic else _COLUMNS.get(record["arm"], "input")
        split = "" if record["split"] == OFFICIAL else "_speaker_held_out"
        figures[f"{arm}_accuracy{split}_percent"] = record["accuracy_percent"]
    figures |= seen.figures
    if made.plastic is not None:
        figures |= {f"plastic_{name}": value for name, value in look(liquids[made.plastic], task, seed).figures.items()}
    return figures


def _arguments(config: Config) -> argparse.Namespace:
    """The options of the script that the config stands for."""
    liquid, readout, data = config.liquid, config.readout, config.data
    return argparse.Namespace(
        preset=liquid.preset,
        weight=liquid.weight,
        input_weight=liquid.input_weight,
        plasticity=liquid.plasticity or NONE,
        initial_samples=liquid.initial_samples,
        dataset=data.dataset,
        samples=data.samples,
        test=data.test,
        readout=[readout.name],
        feature=[readout.feature],
        bins=readout.bins,
        tau=readout.tau_seconds,
        batch_size=config.batch_size,
        seed=config.seed,
        seeds=1,
        branching=False,
    )
