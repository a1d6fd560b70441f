"""Named settings for images of 32x32 pixels: published architectures and schedules, and small ones for two cores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

import eqprop
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._names import lookup

SHAPE = (3, 32, 32)


class Published(NamedTuple):
    """Accuracy in per cent, as published."""

    top1: float
    text: str
    top5: float | None = None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that decides the numbers of a run but the data set, the rule and the seed.

    Args:
        name: as in --preset.
        note: where the settings come from, and what the source leaves open.
        network: "chain", convolutions of `channels` with dense `units` on top, or "resnet13".
        channels, units, padding, pooling: of the chain, see `GraphNetwork.cnn`; `units=None` is a dense output layer.
        outside: a linear readout outside the dynamics gives the output (for cross-entropy).
        tied: weights; where they are not, `feedback_angle` is their angle at the start.
        activation, output_activation, initializer, gain: of the network.
        cost: of the rule.
        points: of the contour: 0 the exact derivative, 1 one-sided, 2 centred, more of them on a circle.
        beta: nudge strength.
        readout: "contrast" or "tangent".
        tol: None runs exactly `free_sweeps`; else they are the most.
        free_sweeps, nudged_sweeps: of a phase.
        half: products of the free phase in bfloat16, where a GPU has them.
        homeostasis: coefficient a unit, as published; 0 for none.
        epochs, batch_size: of the training.
        lr: one for all, or one a connection in their order, the readout last.
        schedule: "cosine" to `last_lr` over the epochs, or "constant".
        momentum, nesterov, weight_decay: of SGD; `readout_decay` where the readout has one of its own.
        decoupled: weights shrink by `lr * weight_decay` beside the gradient, instead of through it.
        flip, pad, edge: augmentation; a crop of the image padded by so many pixels (of its edge, or of the mean).
        std_scale: inputs are divided by so many standard deviations.
        published: by data set.
        variants: what differs on a data set.
    """

    name: str
    note: str
    network: str = "chain"
    channels: tuple[int, ...] = (16, 32, 64)
    padding: tuple[int, ...] = (1,)
    pooling: str = "average"
    outside: bool = True
    tied: bool = True
    feedback_angle: float | None = None
    activation: str = "dsilu"
    output_activation: str | None = None
    initializer: str = "kaiming_uniform"
    gain: float | None = None
    cost: str = "cross-entropy"
    beta: float = 0.5
    points: int = 2
    readout: str = "contrast"
    tol: float | None = None
    free_sweeps: int = 20
    nudged_sweeps: int = 8
    half: bool = False
    homeostasis: float = 0.0
    epochs: int = 10
    batch_size: int = 64
    lr: tuple[float, ...] = (0.1,)
    schedule: str = "cosine"
    last_lr: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    readout_decay: float | None = None
    decoupled: bool = False
    flip: float = 0.5
    pad: int = 4
    edge: bool = False
    std_scale: float = 1.0
    published: Mapping[str, Published] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("free_sweeps", "nudged_sweeps", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{_option(name)}: got {getattr(self, name)}, needed at least 1")
        if not self.lr or not all(math.isfinite(rate) and rate > 0 for rate in self.lr):
            raise ConfigError(f"--lr: got {self.lr}, needed numbers above 0, as in --lr 0.1,0.05")
        for name in ("homeostasis", "weight_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{_option(name)}: got {getattr(self, name)}, needed at least 0")
        if not math.isfinite(self.beta) or self.beta == 0:
            raise ConfigError(f"--beta: got {self.beta}, needed a number other than 0, as in --beta 0.5")
        if self.points < 0:
            raise ConfigError(f"--points: got {self.points}, needed at least 0 (0: the exact derivative)")
        if self.points == 0 and self.readout != "tangent":
            raise ConfigError("--points: got 0 on tied weights, needed at least 1; or write --preset generalized-2024")
        if self.tied and self.homeostasis:
            raise ConfigError(
                f"--homeostasis: got {self.homeostasis} with tied weights, whose Jacobian is symmetric; needed an "
                "untied preset, as --preset small-untied"
            )
        if self.tied and self.feedback_angle is not None:
            raise ConfigError("--feedback-angle: got it with tied weights; write --preset small-untied")

    def on(self, dataset: str) -> Preset:
        """The preset as it is used on a data set."""
        return dataclasses.replace(self, **self.variants.get(_family(dataset), {}))

    def reached(self, dataset: str) -> Published | None:
        """What was published for that data set."""
        return self.published.get(dataset)

    @property
    def contour(self) -> str:
        """Name of the contour with that number of points."""
        return {0: "derivative", 1: "one-sided", 2: "centred"}.get(self.points, "cauchy")

    @property
    def phases(self) -> int:
        """Nudged phases of a step in units of a real one: a conjugate pair of complex ones is worked out once, at 2."""
        return max(1, self.points)

    def build(self, classes: int, generator: torch.Generator | None = None) -> GraphNetwork:
        """The network for so many classes.

        Raises:
            ConfigError: settings that do not fit each other.
        """
        if self.network == "resnet13":
            return _resnet13(self, classes, generator)
        options: dict[str, Any] = {
            "padding": self.padding[0] if len(self.padding) == 1 else self.padding,
            "units": () if self.outside else (classes,), "readout": classes if self.outside else None,
            "pooling": self.pooling, "activation": self.activation, "output_activation": self.output_activation,
            "initializer": self.initializer, "gain": self.gain, "generator": generator,
        }  # fmt: skip
        if self.tied:
            return eqprop.HopfieldNetwork.cnn(SHAPE, *self.channels, **options)
        return eqprop.DirectedNetwork.cnn(SHAPE, *self.channels, feedback_angle=self.feedback_angle, **options)

    def settings(self) -> dict[str, Any]:
        """The settings as plain JSON, without notes and figures of the source."""
        hidden = ("note", "published", "variants")
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in hidden}

    def spec(self) -> dict[str, Any]:
        """The whole preset as plain JSON."""
        published = {name: figure._asdict() for name, figure in self.published.items()}
        variants = {name: dict(changes) for name, changes in self.variants.items()}
        return self.settings() | {"note": self.note, "published": published, "variants": variants}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _family(dataset: str) -> str:
    return "cifar10" if dataset == "cifar10-subset" else dataset


def _resnet13(preset: Preset, classes: int, generator: torch.Generator | None) -> GraphNetwork:
    """Hopfield-ResNet13: nine layers that move, nine connections in a chain and four 1x1 ones past two at a time."""
    sides = (32, 16, 16, 8, 8, 4, 4, 2)
    names = ["input", *(f"conv{i}" for i in range(1, 9)), "output"]
    layers = {"input": eqprop.Layer(SHAPE)}
    layers |= {
        n: eqprop.Layer((c, side, side), preset.activation)
        for n, c, side in zip(names[1:], preset.channels, sides, strict=False)
    }
    layers["output"] = eqprop.Layer(classes, preset.output_activation or preset.activation)
    own: dict[str, Any] = {"initializer": preset.initializer, "gain": preset.gain}
    chain: list[Any] = [
        eqprop.Conv(a, b, 3, 32 // sides[0] if i == 0 else sides[i - 1] // sides[i], 1, **own)
        for i, (a, b) in enumerate(zip(names[:8], names[1:9], strict=True))
    ]
    skips = [eqprop.Conv(names[i], names[i + 2], 1, 2, 0, **own) for i in range(0, 8, 2)]
    connections = [*chain, eqprop.Dense("conv8", "output", preset.initializer, preset.gain), *skips]
    return eqprop.HopfieldNetwork(layers, connections, generator=generator)


# ---- the table -----------------------------------------------------------------------------------------------------

_HOLOMORPHIC = "Laborieux & Zenke 2022, Table 2 (logs of three seeds)"
_GENERALIZED = "Laborieux & Zenke 2024, Table 2"
_WIDE: dict[str, Any] = {"channels": (128, 256, 512, 512)}

_generalized = Preset(
    name="generalized-2024",
    **_WIDE, half=True,
    padding=(1, 1, 1, 0), pooling="soft", tied=False, feedback_angle=0.0, initializer="lecun_normal",
    beta=1.0, points=0, readout="tangent", free_sweeps=250, nudged_sweeps=40, homeostasis=15.0,
    epochs=150, batch_size=256, lr=(0.175, 0.105, 0.07, 0.056, 0.105, 0.07, 0.056, 0.035),
    weight_decay=1e-4, readout_decay=2e-4, std_scale=1.5,
    published={
        "cifar10": Published(84.3, f"{_GENERALIZED}, true derivative with homeostasis, +- 0.1"),
        "cifar100": Published(53.8, f"{_GENERALIZED}, as quoted by others"),
        "imagenet32": Published(31.4, f"{_GENERALIZED}, +- 0.1", 55.2),
    },
    variants={
        "imagenet32": {
            "lr": (0.125, 0.075, 0.05, 0.04, 0.075, 0.05, 0.04, 0.025), "homeostasis": 10.0, "epochs": 90,
        }
    },
    note="Laborieux & Zenke 2024: untied weights that start tied, exact derivative (N = 0). Sweeps here alternate, "
    "there they are synchronous; homeostasis by the symmetric estimator (the same mean, less noise than the published "
    "one); weight decay also on biases, and padding of the crops by the mean, where the source is open.",
)  # fmt: skip

_small_untied = Preset(
    name="small-untied",
    tied=False, feedback_angle=90.0, gain=0.7, readout="tangent", homeostasis=4.0,
    tol=1e-3, pad=0,
    note="Three convolutions with feedback weights of their own that start unrelated (90 degrees), with homeostasis; "
    "--homeostasis 0 for none. No published figure.",
)  # fmt: skip

PRESETS = {
    made.name: made
    for made in (
        Preset(
            name="small",
            channels=(32, 64), gain=0.7, beta=0.2, tol=1e-3, pad=0,
            note="Two tied convolutions with average pooling: minutes on two cores. No published figure.",
        ),
        _small_untied,
        Preset(
            name="holomorphic-2022",
            **_WIDE,
            padding=(1, 1, 1, 0), pooling="soft", initializer="lecun_normal",
            beta=1.0, free_sweeps=250, nudged_sweeps=60,
            epochs=90, batch_size=128, lr=(0.25, 0.15, 0.10, 0.08, 0.05), last_lr=1e-7,
            weight_decay=2e-3, decoupled=True, std_scale=1.5,
            published={
                "cifar10": Published(88.4, f"{_HOLOMORPHIC}: 88.5, 88.7, 88.1"),
                "cifar100": Published(61.5, f"{_HOLOMORPHIC}: 61.7, 61.3, 61.6", 86.0),
                "imagenet32": Published(36.5, f"{_HOLOMORPHIC}: 36.7, 36.6, 36.1", 61.0),
            },
            variants={
                "cifar100": {"weight_decay": 1e-2}, "imagenet32": {"weight_decay": 5e-4, "batch_size": 256},
            },
            note="Laborieux & Zenke 2022: tied weights, N = 2, beta = 1. Sweeps here alternate, there they are "
            "synchronous; initial weights (lecun_normal), augmentation and the scale of the inputs (1.5 standard "
            "deviations) are those of the authors' later code, where the source is open; decay also shrinks biases.",
        ),
        _generalized,
        dataclasses.replace(
            _generalized, name="generalized-2024-n2", points=2,
            published={"cifar10": Published(81.4, f"{_GENERALIZED}, N = 2 with homeostasis, +- 0.1")},
            note=f"{_generalized.note} Here with two points, beta = 1.",
        ),
        dataclasses.replace(
            _generalized, name="generalized-2024-plain", points=2, homeostasis=0.0,
            published={
                "cifar10": Published(60.4, f"{_GENERALIZED}, without homeostasis, +- 0.4"),
                "cifar100": Published(35.2, f"{_GENERALIZED}, without homeostasis, as quoted by others"),
            },
            variants={"imagenet32": {**_generalized.variants["imagenet32"], "homeostasis": 0.0}},
            note=f"{_generalized.note} Here with two points and without homeostasis.",
        ),
        Preset(
            name="comparative-2023",
            **_WIDE, half=True,
            pooling="max", outside=False, cost="squared-error", activation="hard_sigmoid", output_activation="linear",
            gain=0.5, beta=0.25, free_sweeps=60, nudged_sweeps=15,
            epochs=100, batch_size=128, lr=(0.0625, 0.0375, 0.025, 0.02, 0.0125), last_lr=2e-6, weight_decay=3e-4,
            edge=True, std_scale=3.0,
            published={"cifar10": Published(90.4, "best of this line as Hopfield-ResNet implies, about 90.4")},
            note="Scellier, Ernoult, Kendall, Kumar 2023: tied weights, squared error, 15 sweeps that alternate. The "
            "free phase starts from zeros here, there from the states of the batch before; augmentation and the scale "
            "of the inputs (3 standard deviations) are those of Laborieux et al. 2021, where the source is open.",
        ),
        Preset(
            name="hopfield-resnet13",
            network="resnet13", channels=(128, 128, 256, 256, 512, 512, 512, 512), half=True,
            pooling="none", outside=False, cost="squared-error", activation="relu6", output_activation="linear",
            gain=0.35, beta=0.1, free_sweeps=120, nudged_sweeps=50,
            epochs=300, batch_size=128, lr=(0.03,), nesterov=True, weight_decay=2.5e-4, edge=True, std_scale=3.0,
            published={
                "cifar10": Published(93.92, "Hopfield-ResNet 2025 (arXiv 2509.26003), abstract"),
                "cifar100": Published(71.1, "Hopfield-ResNet 2025, as quoted by others"),
            },
            variants={"cifar100": {"beta": 0.15, "weight_decay": 3.5e-4}},
            note="Hopfield-ResNet13, 2025: strided convolutions, 1x1 connections of stride 2 inside the energy. Where "
            "they go is open in the source: here past every two convolutions, from the input on. Momentum and "
            "augmentation are those of the comparative study, where the source is open; so is the gain: "
            "from 0.4 on the free phase does not settle in its sweeps at the start.",
        ),
    )
}  # fmt: skip


def preset_named(name: str) -> Preset:
    """The preset of that name. Raises ConfigError for another, with the nearest one."""
    return lookup("--preset", name, PRESETS)
