"""`benchmarks.asymmetry` as a function of a config, for sweeps: a row of any angle, rule and homeostasis."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks import _sweep_data
from benchmarks._asymmetry_diagnosis import diagnose
from benchmarks._asymmetry_rows import FREE, NUDGED, Row, make_network, make_optimizer, make_rule
from benchmarks._common import sizes
from benchmarks._suite import trained
from benchmarks._sweep_data import Data
from benchmarks.asymmetry import BATCH
from eqprop._errors import ConfigError
from eqprop._names import lookup

_RULES = ("ep", "dyadic", "backprop")
_OPTIMISERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Net:
    """Units by layer, degrees between feedback and forward weights at the start (None: tied), or a loop of layers."""

    layers: str = "784-256-256-10"
    angle_degrees: float | None = 90.0
    loop: bool = False


@dataclass(frozen=True)
class Rule:
    """Learning rule; phases end when every sample is within ``tol``, and after so many sweeps at the latest."""

    name: str = "ep"
    contour: str = "derivative"
    beta: float = 0.1
    points: int = 2
    readout: str = "tangent"
    correction: str | None = None
    free_sweeps: int = FREE
    nudged_sweeps: int = NUDGED
    tol: float = 1e-6


@dataclass(frozen=True)
class Homeostasis:
    """Jacobian homeostasis, its coefficient per unit (0: off), or Kolen-Pollack with a decay."""

    coefficient: float = 0.0
    coordinates: str = "activation"
    terms: str = "both"
    kolen_pollack: float | None = None


@dataclass(frozen=True)
class Training:
    """AdamW, or SGD with momentum 0.9; ``lr`` None for the published rate of either (1e-4, 0.01)."""

    optimizer: str = "adamw"
    lr: float | None = None
    epochs: int = 5
    batch_size: int = BATCH


@dataclass(frozen=True)
class Config:
    """One training."""

    network: Net = Net()
    rule: Rule = Rule()
    homeostasis: Homeostasis = Homeostasis()
    training: Training = Training()
    data: Data = Data("fashion-mnist")
    seed: int = 0


def completed(config: Config) -> Config:
    """The config, looked at: what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    lookup("rule.name", config.rule.name, dict.fromkeys(_RULES))
    lookup("training.optimizer", config.training.optimizer, dict.fromkeys(_OPTIMISERS))
    for part, names in (("rule", ("free_sweeps", "nudged_sweeps")), ("training", ("epochs", "batch_size"))):
        for name in names:
            if (value := getattr(getattr(config, part), name)) < 1:
                raise ConfigError(f"{part}.{name}: got {value}, needed at least 1")
    if config.network.loop:
        if len(sizes(config.network.layers)) != 4:
            raise ConfigError(f"network.layers: got {config.network.layers} in a loop, needed two hidden layers")
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, angle_degrees=None))
    elif config.network.angle_degrees is None and (
        config.homeostasis.coefficient or config.homeostasis.kolen_pollack is not None
    ):
        raise ConfigError(
            "homeostasis: got one for tied weights (network.angle_degrees=none), which have no asymmetry; write "
            "network.angle_degrees=0 for untied weights that start equal"
        )
    if config.homeostasis.coefficient and config.homeostasis.kolen_pollack is not None:
        raise ConfigError("homeostasis: got a coefficient and kolen_pollack, needed one of the two")
    _sweep_data.require_data(config.data, config.network.layers)
    make_rule(row_of(config), config.seed, config.rule.tol)
    return config


def row_of(config: Config) -> Row:
    """The row of the benchmark that the config is."""
    rule, homeostasis = config.rule, config.homeostasis
    regulariser: tuple[str, dict[str, Any]] | None = None
    if homeostasis.kolen_pollack is not None:
        regulariser = ("KolenPollack", {"decay": homeostasis.kolen_pollack})
    elif homeostasis.coefficient:
        settings = {name: getattr(homeostasis, name) for name in ("coefficient", "coordinates", "terms")}
        regulariser = ("JacobianHomeostasis", settings | {"per": "unit"})
    return Row(
        "sweep",
        "point",
        config.network.angle_degrees,
        config.network.loop,
        rule.name,
        {name: getattr(rule, name) for name in ("contour", "beta", "points", "readout", "correction")},
        regulariser,
        adam=config.training.optimizer == "adamw",
        epochs=config.training.epochs,
        sizes=tuple(sizes(config.network.layers)),
        free=rule.free_sweeps,
        nudged=rule.nudged_sweeps,
        lr=config.training.lr,
    )


def run(config: Config) -> dict[str, Any]:
    """Train and test. Figures by layer, on 200 test images, before and after training: cosine of the rule's error
    vectors to the exact ones; and of the whole network the functional asymmetry ``S / norm`` in both coordinates.
    """
    config = completed(config)
    row, tol = row_of(config), config.rule.tol
    data = _sweep_data.load(config.data, config.seed)
    network = make_network(row, config.seed)
    before = _looked_at(diagnose(row, config.seed, network, data, tol), "before")
    trainer, stopped = trained(
        network,
        make_rule(row, config.seed, tol),
        make_optimizer(row, network),
        data,
        None,
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        seed=config.seed,
        progress=False,
    )
    test = trainer.test()
    return {
        "test_error_percent": 100 * test.error,
        "test_loss": test.loss,
        "test_converged_share": test.converged_share,
        "epochs_trained": trainer.epoch,
        "stopped": stopped.partition(". ")[0],
        **before,
        **_looked_at(diagnose(row, config.seed, network, data, tol), "after"),
    }


def _looked_at(found: dict[str, Any], when: str) -> dict[str, Any]:
    """A diagnosis as columns: by layer, or of the whole."""
    made: dict[str, Any] = {}
    for name, value in found.items():
        if name == "error_vector":
            for figure in ("cosine", "relative_error"):
                made[f"{name}_{figure}_{when}"] = {layer: match[figure] for layer, match in value.items()}
        elif name == "error_vector_exact_response":
            made[f"exact_response_cosine_{when}"] = {layer: match["cosine"] for layer, match in value.items()}
        elif name == "weight_angle_degrees":  # of a pair of weights: that of the layer that the feedback goes into
            made[f"{name}_{when}"] = {key.partition("-")[0]: angle for key, angle in value.items()}
        else:
            made[f"{name}_{when}"] = value
    return made
