"""`benchmarks.cifar10` and `benchmarks.imagenet32` as functions of a config, for sweeps: a preset, and what differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

import eqprop
from benchmarks import _image_run
from benchmarks._common import device_named
from benchmarks._image_run import make_network, make_optimizer, make_rule, prepare, training_of, unread
from benchmarks._images import IMAGES, RULES, error_vectors
from benchmarks._suite import trained
from benchmarks._sweep_ensemble import outcome
from benchmarks._sweep_fields import in_fields, options, require_device, require_held_out
from benchmarks.cifar10 import DATASETS as CIFAR
from eqprop._data import DataSplits
from eqprop._imagenet32 import load_imagenet32
from eqprop._names import lookup

DATASETS = (*CIFAR, "imagenet32")
_OPTIONS = {"rule": "rule.name", "feedback-angle": "network.feedback_angle_degrees"}
# None stands for the preset's throughout, unless said otherwise; `completed` puts it in.


@dataclass(frozen=True)
class Net:
    """A preset of the benchmark; scale of the initial weights, and their angle to the feedback weights."""

    preset: str = "small"
    gain: float | None = None
    feedback_angle_degrees: float | None = None


@dataclass(frozen=True)
class Rule:
    """Learning rule and phases; ``points``: 0 derivative, 1 one-sided, 2 centred, more on a circle; ``tol`` 0 for all
    sweeps; ``homeostasis``: coefficient a unit; ``bf16``: products of the free phase.
    """

    name: str = "ep"
    beta: float | None = None
    points: int | None = None
    free_sweeps: int | None = None
    nudged_sweeps: int | None = None
    tol: float | None = None
    homeostasis: float | None = None
    bf16: bool | None = None


@dataclass(frozen=True)
class Training:
    """SGD; ``lr`` one rate, or one a connection, the readout last."""

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | tuple[float, ...] | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Data:
    """Data set (in the cache or EQPROP_DATA), ``validation`` images held out (None: the usual number); and ``limit``:
    so many images only, in training and in each evaluation (None: all).
    """

    dataset: str = CIFAR[0]
    validation: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Config:
    """One training."""

    network: Net = Net()
    rule: Rule = Rule()
    training: Training = Training()
    data: Data = Data()
    seed: int = 0
    device: str = "cpu"


def completed(config: Config) -> Config:
    """With the preset's values in place of None, but of what the rule does not read; what cannot work is told before
    anything runs.

    Raises:
        ConfigError: names the field.
    """
    require_device(config.device)
    lookup("data.dataset", config.data.dataset, dict.fromkeys(DATASETS))
    lookup("rule.name", config.rule.name, dict.fromkeys(RULES))
    require_held_out(config.data.validation)
    with in_fields(options(config, _OPTIONS)):
        run_ = image_run(config)
        make_rule(run_)
        make_optimizer(run_.preset, run_.preset.build(2))
    settings = _given(config) | {n: getattr(run_.preset, n) for n in _image_run.OVERRIDES}
    settings |= {"tol": run_.preset.tol or 0.0, "bf16": run_.products is not None}

    def filled(part: Any) -> Any:
        names = {f.name: _names(f.name) for f in dataclasses.fields(part)}
        read = {own: name for own, name in names.items() if name in settings and name not in unread(config.rule.name)}
        return dataclasses.replace(part, **{own: settings[name] for own, name in read.items()})

    return dataclasses.replace(config, **{n: filled(getattr(config, n)) for n in ("network", "rule", "training")})


def image_run(config: Config) -> _image_run.Config:
    """The run of the script that the config is. Raises ConfigError for settings that cannot work."""
    return _image_run.config_of(
        config.network.preset,
        _given(config),
        rule=config.rule.name,
        dataset=config.data.dataset,
        seed=config.seed,
        validation=config.data.validation,
        limit=config.data.limit,
        device=torch.device(config.device).type,
    )


def run(config: Config) -> dict[str, Any]:
    """Train and test. Figures by layer, before and after training: cosine of the rule's gradient (without homeostasis)
    to the exact one, on 16 training images; and of untied weights that of its error vectors, on 16 test images.
    """
    config = completed(config)
    run_, device = image_run(config), device_named(config.device)
    data = prepare(_load(config.data, config.seed, device), run_)
    network, rule = make_network(run_, len(data.classes), device), make_rule(run_)
    before = _looked_at(run_, network, data, "before")
    optimizer = make_optimizer(run_.preset, network)
    trainer, stopped = trained(
        network, rule, optimizer, data, None, seed=config.seed, progress=False, **training_of(run_.preset, optimizer)
    )
    test, errors = trainer.test(), trainer.history.series.get("train_error", [])
    figures = outcome(test, errors, stopped) | {"test_top5_error_percent": 100 * (1 - test.top5)}
    return figures | before | _looked_at(run_, network, data, "after")


# -- inside ------------------------------------------------------------------------------------------------------------


def _names(field: str) -> str:
    """Of a setting of a preset, by that of the field."""
    return field.removesuffix("_degrees")


def _given(config: Config) -> dict[str, Any]:
    """Settings by the names of the preset."""
    parts = (config.network, config.rule, config.training)
    given = {_names(f.name): getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
    if isinstance(given["lr"], int | float):
        given["lr"] = (given["lr"],)
    return {name: value for name, value in given.items() if name in (*_image_run.OVERRIDES, "bf16")}


def _load(data: Data, seed: int, device: torch.device) -> DataSplits:
    if data.dataset == "imagenet32":
        return load_imagenet32(device=device, validation=data.validation, seed=seed, progress=False)
    return eqprop.load_dataset(data.dataset, device=device, validation=data.validation, seed=seed)


def _looked_at(run_: _image_run.Config, network: Any, data: DataSplits, when: str) -> dict[str, Any]:
    """Columns by layer; none for the feed-forward twin, which is exact."""
    if run_.rule == "backprop":
        return {}
    plain = dataclasses.replace(run_, preset=dataclasses.replace(run_.preset, homeostasis=0.0))
    rule = make_rule(plain)  # its own draws
    exact = eqprop.ImplicitGradient(cost=rule.cost, free=eqprop.Stop(1e-6, 1000, block=10))
    found = eqprop.compare_layers(network, rule, exact, *next(data.train.batches(IMAGES)))
    made = {f"gradient_cosine_{when}": {layer: match.cosine for layer, match in found.items()}}
    vectors = error_vectors(plain, network, rule, data)
    return made if vectors is None else made | {f"error_vector_cosine_{when}": vectors}
