"""One training of `benchmarks.mnist` as a nested config: what a point of its sweeps is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

import hardware
from benchmarks import mnist
from benchmarks._common import sizes
from benchmarks._sweep_data import Data as Data
from benchmarks._sweep_data import require_data
from benchmarks._sweep_fields import in_fields, options, require_device
from eqprop._errors import ConfigError
from eqprop._names import lookup

_OPTIONS = {"rule": "rule.name", "network": "network.layers"}  # options that have other names than their fields

# None stands for the preset of data set and network throughout, unless said otherwise; `completed` puts it in.


@dataclass(frozen=True)
class Rule:
    """Learning rule and phases; ``tol`` and ``products`` None for none."""

    name: str = "ep"
    beta: float | None = None
    contour: str | None = None
    points: int | None = None
    readout: str | None = None
    free_sweeps: int | None = None
    nudged_sweeps: int | None = None
    tol: float | None = None
    products: str | None = None


@dataclass(frozen=True)
class Net:
    """Units by layer, as "784-256-10", and how they start."""

    layers: str | None = None
    activation: str | None = None
    cost: str | None = None
    initializer: str | None = None
    gain: float | None = None


@dataclass(frozen=True)
class Training:
    """Optimiser; ``lr`` one rate, or one a connection."""

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | tuple[float, ...] | None = None
    schedule: str | None = None
    decay: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Chip:
    """A substrate: bits of the converters (None: ideal), and relative noise of every conductance, drawn a phase."""

    adc_bits: int | None = None
    dac_bits: int | None = None
    read_noise: float = 0.0


@dataclass(frozen=True)
class Config:
    """One training."""

    rule: Rule = Rule()
    network: Net = Net()
    training: Training = Training()
    data: Data = Data()
    substrate: Chip | None = None
    seed: int = 0
    device: str = "cpu"


def settings(config: Config) -> dict[str, Any]:
    """Of a config, by the names of the options of `benchmarks.mnist`."""
    given = {f.name: getattr(part, f.name) for part in _parts(config) for f in dataclasses.fields(part)}
    given["rule"], given["network"] = given.pop("name"), given.pop("layers")
    return given | {"seed": config.seed, "device": config.device}


def _parts(config: Config) -> tuple[Any, ...]:
    return (config.rule, config.network, config.training, config.data)


def completed(config: Config) -> Config:
    """With the preset's values in place of None; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    require_device(config.device)
    with in_fields(options(config, _OPTIONS)):
        return _completed(config)


def _completed(config: Config) -> Config:
    preset = mnist.preset(config.data.dataset, config.network.layers)
    if isinstance(config.training.lr, int | float):
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, lr=(config.training.lr,)))

    def filled(part: Any) -> Any:
        names = {f.name: {"layers": "network"}.get(f.name, f.name) for f in dataclasses.fields(part)}
        found = {n: preset[key] for n, key in names.items() if getattr(part, n) is None and key in preset}
        return dataclasses.replace(part, **found)

    rule, network, training, data = (filled(part) for part in _parts(config))
    made = dataclasses.replace(config, rule=rule, network=network, training=training, data=data)
    lookup("rule.name", rule.name, dict.fromkeys(mnist.RULES))
    lookup("training.schedule", training.schedule, dict.fromkeys(mnist.SCHEDULES))
    require_data(data, network.layers)
    own = mnist.Config(**settings(made))
    mnist.make_rule(own)
    small = dataclasses.replace(own, network="-".join("2" for _ in sizes(own.network)))  # as deep, and made at once
    mnist.make_optimizer(own, mnist.make_network(small, torch.device("cpu")))
    if rule.name == "backprop" and config.substrate is not None:
        raise ConfigError("substrate: got one for the feed-forward twin, which does not relax; needed another rule")
    substrate_of(made)
    return made


def substrate_of(config: Config) -> hardware.Substrate | None:
    """What the network runs on."""
    chip = config.substrate
    if chip is None:
        return None
    return hardware.Substrate(
        adc=None if chip.adc_bits is None else hardware.OutputAdc(bits=chip.adc_bits),
        input_dac=None if chip.dac_bits is None else hardware.InputDac(bits=chip.dac_bits),
        fluctuations=(hardware.Fluctuation(chip.read_noise),) if chip.read_noise else (),
    )
