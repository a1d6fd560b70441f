"""`benchmarks.mnist` as a function of a config, for sweeps; optionally on a chip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

import eqprop
from benchmarks import _sweep_data, _sweep_ensemble, _training, mnist
from benchmarks._ensemble import Member, Plan
from benchmarks._fewer_images import positions
from benchmarks._sweep_data import require_found
from benchmarks._sweep_ensemble import Alone, Found, Point, in_common, outcome, require_ep
from benchmarks._sweep_mnist_config import Config as Config
from benchmarks._sweep_mnist_config import completed as completed
from benchmarks._sweep_mnist_config import settings as settings_of
from benchmarks._sweep_mnist_config import substrate_of
from eqprop._diagnostics import match, parameters_by_layer
from eqprop._errors import EqPropError, TrainingError

_BATCH = 64  # images of the gradients that are compared


def run(config: Config) -> dict[str, Any]:
    """Train and test. Figures by layer: cosine of the rule's gradient (on the chip) to the exact one of the ideal
    network with the same weights, on 64 training images, before and after training.
    """
    config = completed(config)
    settings = mnist.Config(**settings_of(config))
    device = torch.device(config.device)
    data = _data(settings, device)
    ideal, network = _networks(config, settings, device)
    rule = mnist.make_rule(settings)
    optimizer = mnist.make_optimizer(settings, network)
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
    images = next(data.train.batches(_BATCH))
    before = _cosines(network, ideal, settings, images)
    stopped = ""
    try:
        trainer.fit()
    except TrainingError as error:  # a nudge too small for its noise: a result like others
        stopped = str(error)
    after = trainer.test(), _cosines(network, ideal, settings, images)
    return _figures(before, *after, trainer.history.series.get("train_error", []), stopped)


def together(config: Config) -> Hashable:
    """What points must have in common to be trained as one ensemble: all but seed, nudge, learning rates, the bits of
    converters and the strength of read noise."""
    try:
        config = completed(config)
        same = in_common(mnist.make_rule(mnist.Config(**settings_of(config))), substrate_of(config))
    except EqPropError:  # in no ensemble, or in no run: it will say so then
        return Alone(config)
    training = dataclasses.replace(config.training, lr=None)
    return (same, config.network, training, config.data, config.device)


def run_many(configs: Sequence[Config]) -> list[Found]:
    """What `run` returns of each, or raises, to rounding; see `_sweep_ensemble.run_many`."""
    return _sweep_ensemble.run_many(configs, run, together, _ensemble)


# -- inside ------------------------------------------------------------------------------------------------------------


def _data(settings: mnist.Config, device: torch.device) -> eqprop.DataSplits:
    data = mnist.make_data(settings, None, device)
    require_found(data, settings.dataset)
    return data


def _networks(config: Config, settings: mnist.Config, device: torch.device) -> tuple[Any, Any]:
    """The ideal network, and what is trained: itself, or a chip."""
    ideal = mnist.make_network(settings, device)
    substrate = substrate_of(config)
    return ideal, ideal if substrate is None else substrate.fabricate(ideal, seed=config.seed)


def _figures(
    before: dict[str, float], test: eqprop.Evaluation, after: dict[str, float], errors: Sequence[float], stopped: str
) -> dict[str, Any]:
    return {
        **outcome(test, errors, stopped),
        "gradient_cosine_before": before,
        "gradient_cosine_after": after,
    }


def _cosines(network: Any, ideal: Any, settings: mnist.Config, images: tuple[Tensor, Tensor]) -> dict[str, float]:
    if settings.rule == "backprop":
        return {}
    if network is not ideal:
        own = network.state_dict()
        ideal.load_state_dict({name: own[name] for name in ideal.state_dict()})
    rule = mnist.make_rule(settings)  # its own draws
    exact = eqprop.ImplicitGradient(cost=rule.cost, free=eqprop.Stop(1e-6, 1000, block=10))
    found, truth = eqprop.gradients(network, rule, *images), eqprop.gradients(ideal, exact, *images)
    return {
        layer: match(*(torch.cat([g[name].flatten() for name in names]) for g in (found, truth))).cosine
        for layer, names in parameters_by_layer(ideal).items()
    }


def _ensemble(configs: Sequence[Config]) -> tuple[Plan, Callable[[Config], Point]]:
    first, device = mnist.Config(**settings_of(completed(configs[0]))), torch.device(configs[0].device)
    data = _data(first, device)
    whole, held = _sweep_data.load_whole(data), len(data.validation)
    plan = Plan(
        whole.train,
        len(whole.classes),
        first.epochs,
        first.batch_size,
        held,
        first.momentum,
        first.weight_decay,
        lambda optimizer: _training.make_scheduler(optimizer, first.schedule, first.epochs, decay=first.decay),
    )
    return plan, lambda config: _point(completed(config), whole, held, device)


def _point(config: Config, whole: eqprop.DataSplits, held: int, device: torch.device) -> Point:
    settings = mnist.Config(**settings_of(config))
    ideal, network = _networks(config, settings, device)
    chosen = positions(whole.train, held, settings.train, settings.seed)
    member = Member(network, require_ep(mnist.make_rule(settings)), settings.lr, chosen, settings.seed)
    first = chosen[:_BATCH].to(device)
    images = whole.train.inputs(first), whole.train.labels[first]
    before = _cosines(network, ideal, settings, images)

    def figures() -> dict[str, Any]:
        test = eqprop.evaluate(network, whole.test, member.rule)
        return _figures(before, test, _cosines(network, ideal, settings, images), member.errors, member.stopped)

    return Point(member, figures)
