"""`benchmarks.mnist` as a function of a config, for sweeps; optionally on a chip."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import eqprop
from benchmarks import _training, mnist
from benchmarks._ensemble import Member, Plan, Together
from benchmarks._fewer_images import positions
from benchmarks._sweep_data import require_found
from benchmarks._sweep_mnist_config import Config as Config
from benchmarks._sweep_mnist_config import completed as completed
from benchmarks._sweep_mnist_config import settings as settings_of
from benchmarks._sweep_mnist_config import substrate_of
from eqprop._data import load_dataset
from eqprop._diagnostics import match, parameters_by_layer
from eqprop._errors import ConfigError, EqPropError, TrainingError

_BATCH = 64  # images of the gradients that are compared
_CONTOURS = ("centred", "one-sided", "random-sign", "alternating-sign")  # those of an ensemble


def run(config: Config) -> dict[str, Any]:
    """Train and test. Figures by layer: cosine of the rule's gradient (on the chip) to the exact one of the ideal
    network with the same weights, on 64 training images, before and after training.
    """
    config = completed(config)
    settings = mnist.Config(**settings_of(config))
    device = torch.device(config.device)
    if settings.rule == "backprop" and config.substrate is not None:
        raise ConfigError("substrate: got one for the feed-forward twin, which does not relax; needed another rule")
    data = _data(settings, device)
    ideal, network = _networks(config, settings, device)
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
    converters and the strength of read noise. A point that can be in none gets a value of its own."""
    try:
        config = completed(config)
    except EqPropError:  # it will say so when it runs
        return ("alone", config)
    rule, chip = config.rule, config.substrate
    if rule.name != "ep" or rule.contour not in _CONTOURS or rule.products is not None:
        return ("alone", config)
    parts = None if chip is None else (chip.adc_bits is None, chip.dac_bits is None, chip.read_noise > 0)
    training = dataclasses.replace(config.training, lr=None)
    return (dataclasses.replace(rule, beta=None), config.network, training, config.data, parts, config.device)


def run_many(configs: Sequence[Config]) -> list[dict[str, Any] | BaseException]:
    """What `run` returns of each, or raises, to rounding; those that can be trained together are.

    Also one alone is trained as an ensemble, where it could be in one: so that its numbers do not depend on which of
    its sweep's points were still missing. See `eqprop.sweep`.
    """
    places: dict[Hashable, list[int]] = {}
    for place, config in enumerate(configs):
        places.setdefault(together(config), []).append(place)
    found: dict[int, dict[str, Any] | BaseException] = {}
    for key, chosen in places.items():
        alone = isinstance(key, tuple) and key[0] == "alone"
        results = [_caught(configs[p]) for p in chosen] if alone else _together([configs[p] for p in chosen])
        found |= dict(zip(chosen, results, strict=True))
    return [found[place] for place in range(len(configs))]


# -- inside ------------------------------------------------------------------------------------------------------------


def _caught(config: Config) -> dict[str, Any] | BaseException:
    try:
        return run(config)
    except Exception as error:
        return error


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
        "test_error_percent": 100 * test.error,
        "test_loss": test.loss,
        "epochs_trained": len(errors),
        "stopped": stopped.partition(". ")[0],
        "gradient_cosine_before": before,
        "gradient_cosine_after": after,
        "train_error_percent_by_epoch": [100 * e for e in errors],
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


@dataclass
class _Point:
    """A point of an ensemble on its way."""

    settings: mnist.Config
    ideal: Any
    member: Member
    images: tuple[Tensor, Tensor]
    before: dict[str, float]


def _together(configs: Sequence[Config]) -> list[dict[str, Any] | BaseException]:
    """The results of points that share what `together` asks for."""
    configs = [completed(config) for config in configs]
    first, device = mnist.Config(**settings_of(configs[0])), torch.device(configs[0].device)
    data = _data(first, device)
    # the images of all members: that which is held out differs by the seed
    whole = load_dataset(data.name, device=device, validation=0)
    results: dict[int, dict[str, Any] | BaseException] = {}
    points: dict[int, _Point] = {}
    for place, config in enumerate(configs):
        try:
            points[place] = _point(config, whole, len(data.validation), device)
        except Exception as error:
            results[place] = error
    plan = Plan(
        whole.train,
        len(whole.classes),
        first.epochs,
        first.batch_size,
        first.momentum,
        first.weight_decay,
        lambda optimizer: _training.make_scheduler(optimizer, first.schedule, first.epochs, decay=first.decay),
        len(data.validation),
    )
    if points:
        Together([point.member for point in points.values()], plan).fit()
    for place, point in points.items():
        try:
            test = eqprop.evaluate(point.member.network, whole.test, point.member.rule)
            after = _cosines(point.member.network, point.ideal, point.settings, point.images)
            results[place] = _figures(point.before, test, after, point.member.errors, point.member.stopped)
        except Exception as error:
            results[place] = error
    return [results[place] for place in range(len(configs))]


def _point(config: Config, whole: eqprop.DataSplits, held: int, device: torch.device) -> _Point:
    settings = mnist.Config(**settings_of(config))
    ideal, network = _networks(config, settings, device)
    rule = mnist.make_rule(settings)
    if not isinstance(rule, eqprop.EquilibriumPropagation):
        raise ConfigError(f"ensemble: got rule {settings.rule!r}, needed 'ep'; train such points one by one")
    chosen = positions(whole.train, held, settings.train, settings.seed)
    first = chosen[:_BATCH].to(device)
    images = whole.train.inputs(first), whole.train.labels[first]
    before = _cosines(network, ideal, settings, images)
    return _Point(settings, ideal, Member(network, rule, settings.lr, chosen, settings.seed), images, before)
