"""`benchmarks.mnist` as a function of a config, for sweeps; optionally on a chip."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

import eqprop
import hardware
from benchmarks import _training, mnist
from eqprop._diagnostics import match, parameters_by_layer
from eqprop._errors import ConfigError, DataError, TrainingError

_BATCH = 64  # images of the gradients that are compared


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
class Data:
    """Data set (in the cache or EQPROP_DATA); ``train`` images, None for all, and ``validation`` images held out."""

    dataset: str = "mnist"
    train: int | None = None
    validation: int | None = None


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


def _settings(config: Config) -> dict[str, Any]:
    """By the names of the options of `benchmarks.mnist`."""
    given = {f.name: getattr(part, f.name) for part in _parts(config) for f in dataclasses.fields(part)}
    given["rule"], given["network"] = given.pop("name"), given.pop("layers")
    return given | {"seed": config.seed, "device": config.device}


def _parts(config: Config) -> tuple[Any, ...]:
    return (config.rule, config.network, config.training, config.data)


def completed(config: Config) -> Config:
    """With the preset's values in place of None."""
    settings = mnist.preset(config.data.dataset, config.network.layers)
    if isinstance(config.training.lr, int | float):
        config = dataclasses.replace(config, training=dataclasses.replace(config.training, lr=(config.training.lr,)))

    def filled(part: Any) -> Any:
        names = {f.name: {"layers": "network"}.get(f.name, f.name) for f in dataclasses.fields(part)}
        found = {n: settings[key] for n, key in names.items() if getattr(part, n) is None and key in settings}
        return dataclasses.replace(part, **found)

    rule, network, training, data = (filled(part) for part in _parts(config))
    made = dataclasses.replace(config, rule=rule, network=network, training=training, data=data)
    mnist.Config(**_settings(made))  # raises for what cannot work, before anything runs
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


def run(config: Config) -> dict[str, Any]:
    """Train and test. Figures by layer: cosine of the rule's gradient (on the chip) to the exact one of the ideal
    network with the same weights, on 64 training images, before and after training.
    """
    config = completed(config)
    settings = mnist.Config(**_settings(config))
    device = torch.device(config.device)
    if settings.rule == "backprop" and config.substrate is not None:
        raise ConfigError("substrate: got one for the feed-forward twin, which does not relax; needed another rule")
    data = mnist.make_data(settings, None, device)
    if data.name != settings.dataset:
        raise DataError(f"{settings.dataset} is not here, only {data.name}; write data.dataset={data.name}")
    ideal = mnist.make_network(settings, device)
    substrate = substrate_of(config)
    network = ideal if substrate is None else substrate.fabricate(ideal, seed=config.seed)
    rule = mnist.make_rule(settings)
    groups = network.parameter_groups(settings.lr[0] if len(settings.lr) == 1 else settings.lr)
    optimizer = torch.optim.SGD(
        groups, lr=settings.lr[0], momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    trainer = eqprop.Trainer(
        network,
        rule,
        optimizer,
        data,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
        scheduler=_training.make_scheduler(optimizer, settings.schedule, settings.epochs, decay=settings.decay),
        progress=False,
    )
    before = _cosines(network, ideal, settings, data)
    stopped = ""
    try:
        trainer.fit()
    except TrainingError as error:  # a nudge too small for its noise: a result like others
        stopped = str(error).partition(". ")[0]
    test = trainer.test()
    return {
        "test_error_percent": 100 * test.error,
        "test_loss": test.loss,
        "epochs_trained": trainer.epoch,
        "stopped": stopped,
        "gradient_cosine_before": before,
        "gradient_cosine_after": _cosines(network, ideal, settings, data),
        "train_error_percent_by_epoch": [100 * e for e in trainer.history.series.get("train_error", [])],
    }


def _cosines(network: Any, ideal: Any, settings: mnist.Config, data: Any) -> dict[str, float]:
    if settings.rule == "backprop":
        return {}
    if network is not ideal:
        own = network.state_dict()
        ideal.load_state_dict({name: own[name] for name in ideal.state_dict()})
    x, y = next(data.train.batches(_BATCH))
    rule = mnist.make_rule(settings)  # its own draws
    exact = eqprop.ImplicitGradient(cost=rule.cost, free=eqprop.Stop(1e-6, 1000, block=10))
    found, truth = eqprop.gradients(network, rule, x, y), eqprop.gradients(ideal, exact, x, y)
    return {
        layer: match(*(torch.cat([g[name].flatten() for name in names]) for g in (found, truth))).cosine
        for layer, names in parameters_by_layer(ideal).items()
    }
