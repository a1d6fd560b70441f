"""Training under noise inside the relaxation, as a function of a config: one contour, one level, one seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import eqprop
from benchmarks import _sweep_data
from benchmarks._common import sizes
from benchmarks._suite import trained
from benchmarks._sweep_data import Data
from benchmarks._sweep_ensemble import outcome
from benchmarks._sweep_fields import in_fields
from eqprop._diagnostics import match, parameters_by_layer
from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, State
from hardware._device_checks import require_number

_IMAGES = 100  # of the gradients that are compared


@dataclass(frozen=True)
class Net:
    """Units by layer, the last ones in the dynamics and again in the softmax readout; ``noise_level``: standard
    deviation of what disturbs every unit's input, drawn afresh at every sweep.
    """

    layers: str = "784-256-256-10"
    noise_level: float = 0.04


@dataclass(frozen=True)
class Rule:
    """Equilibrium propagation; ``points`` of the Cauchy contour, None for 10 of it, and for contours without a choice.

    Residuals never vanish under noise, so that phases are counted in sweeps.
    """

    contour: str = "centred"
    beta: float = 0.4
    points: int | None = None
    free_sweeps: int = 200
    nudged_sweeps: int = 50


@dataclass(frozen=True)
class Training:
    """SGD."""

    epochs: int = 5
    batch_size: int = 20
    lr: float = 0.05


@dataclass(frozen=True)
class Config:
    """One training."""

    network: Net = Net()
    rule: Rule = Rule()
    training: Training = Training()
    data: Data = Data()
    seed: int = 0


class NoisyHopfieldNetwork(eqprop.HopfieldNetwork):
    """A Hopfield network whose inputs are disturbed: ``s <- rho(z + level * N(0, 1))``, drawn afresh at every sweep.

    Of a complex state, real and imaginary part are disturbed independently.
    """

    level: float = 0.0
    noise: torch.Generator

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z = super().block_inputs(state, drive, block, cache)
        if not self.level:
            return z
        return [
            v.add_(torch.randn(v.shape, generator=self.noise, dtype=v.dtype, device=v.device), alpha=self.level)
            for v in z
        ]


def completed(config: Config) -> Config:
    """With the number of points put in; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    require_number("network.noise_level", config.network.noise_level, least=0.0)
    if not (math.isfinite(config.training.lr) and config.training.lr > 0):
        raise ConfigError(f"training.lr: got {config.training.lr}, needed a number above 0")
    for part, names in (("rule", ("free_sweeps", "nudged_sweeps")), ("training", ("epochs", "batch_size"))):
        for name in names:
            if (value := getattr(getattr(config, part), name)) < 1:
                raise ConfigError(f"{part}.{name}: got {value}, needed at least 1")
    with in_fields({"network": "network.layers"}):
        _sweep_data.require_data(config.data, config.network.layers)
    if config.rule.contour == "cauchy" and config.rule.points is None:
        config = dataclasses.replace(config, rule=dataclasses.replace(config.rule, points=10))
    make_rule(config.rule)
    return config


def make_rule(rule: Rule) -> eqprop.EquilibriumPropagation:
    """Synchronous sweeps, in which all units are disturbed at once."""
    chosen: dict[str, Any] = {} if rule.points is None else {"points": rule.points}
    return eqprop.EquilibriumPropagation(
        cost="cross-entropy",
        solver=eqprop.Synchronous(),
        contour=rule.contour,
        beta=rule.beta,
        free=eqprop.Sweeps(rule.free_sweeps),
        nudged=eqprop.Sweeps(rule.nudged_sweeps),
        **chosen,
    )


def run(config: Config) -> dict[str, Any]:
    """Train under noise, and test under the same. Figures by layer, before and after training, on 100 training images:
    cosine of the gradient of the weights into it to the exact one without noise.
    """
    config = completed(config)
    return train(config, _sweep_data.load(config.data, config.seed))


def train(config: Config, data: eqprop.DataSplits) -> dict[str, Any]:
    """``run`` on data that are there already."""
    units, rule, training = sizes(config.network.layers), make_rule(config.rule), config.training
    network = NoisyHopfieldNetwork.mlp(
        *units,
        activation="sigmoid",
        readout=units[-1],
        initializer="lecun_normal",
        gain=1.0,
        generator=torch.Generator().manual_seed(config.seed),
    )
    network.noise = torch.Generator().manual_seed(config.seed)
    images = next(data.train.batches(_IMAGES))
    before = _cosines(network, rule, config.network.noise_level, images)
    trainer, stopped = trained(
        network,
        rule,
        torch.optim.SGD(network.parameters(), lr=training.lr),
        data,
        None,
        epochs=training.epochs,
        batch_size=training.batch_size,
        seed=config.seed,
        progress=False,
    )
    test, errors = trainer.test(), trainer.history.series.get("train_error", [])
    return {
        **outcome(test, errors, stopped),
        "weight_gradient_cosine_before": before,
        "weight_gradient_cosine_after": _cosines(network, rule, config.network.noise_level, images),
    }


def _cosines(
    network: NoisyHopfieldNetwork, rule: eqprop.Rule, level: float, images: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """By layer; the network has its noise afterwards."""
    quiet = eqprop.ImplicitGradient(cost="cross-entropy", free=eqprop.Stop(tol=1e-6, max_sweeps=500))
    network.level = 0.0
    truth = eqprop.gradients(network, quiet, *images)
    network.level = level
    found = eqprop.gradients(network, rule, *images)
    layers = parameters_by_layer(network)
    weights = {layer: [name for name in names if name.endswith("weight")] for layer, names in layers.items()}
    return {
        layer: match(*(torch.cat([g[name].flatten() for name in names]) for g in (found, truth))).cosine
        for layer, names in weights.items()
    }
