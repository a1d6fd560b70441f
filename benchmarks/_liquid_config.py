"""Settings of the liquid benchmark, and the networks they stand for."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

import snn
from benchmarks._liquid_data import Task
from benchmarks._liquid_features import FEATURES, Wanted
from benchmarks._liquid_fits import AS_PUBLISHED, LIQUID, OFF, PLASTIC, READOUTS
from benchmarks._liquid_plastic import INITIAL_SAMPLES, NONE, rule_of
from eqprop._errors import ConfigError
from eqprop._names import lookup

LEAST = 60  # training samples

# (weight, input weight) where the preset's own do not fit the input, chosen on validation data but for those of NALSM:
# on N-MNIST published networks branch by 1 at 1.0. Forty channels of sound drive a neuron through six synapses only. Of
# its published weight the resistive liquid is all but silent, whatever unit its conductances have.
_WEIGHTS: dict[tuple[str, str], tuple[float, float | None]] = {
    ("nalsm1000", "nmnist"): (1.0, None),
    ("nalsm8000", "nmnist"): (1.0, None),
    ("nalsm1000", "spoken-digits"): (0.8, 5.0),
    ("nalsm8000", "spoken-digits"): (0.8, 5.0),
    ("rram200", "nmnist"): (0.3, None),
    ("rram200", "spoken-digits"): (1.2, None),
}
_OTHER: dict[str, tuple[float, float | None]] = {  # of all other data, as images
    "nalsm1000": (0.8, None),
    "nalsm8000": (0.8, None),
    "rram200": (0.6, None),
    "maass2002": (1.0, 0.03),
    "izhikevich2003": (1.0, 0.3),
}
# Networks of one channel that reaches all neurons: of hundreds they would see nothing but the sum, which is that of
# every image. Each channel reaches the share of neurons that it reaches in NALSM.
_ONE_CHANNEL = ("maass2002", "izhikevich2003")
_REACHED = 0.15


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run; goes into config.json."""

    preset: str
    dataset: str
    weight: float | None
    input_weight: float | None
    samples: int
    test: int
    seed: int
    seeds: int
    features: tuple[str, ...]
    bins: int
    tau_seconds: float
    readouts: tuple[str, ...]
    batch_size: int
    device: str
    branching: bool
    plasticity: str = NONE
    initial_samples: int = 0

    def wanted(self) -> Wanted:
        return Wanted(self.features, self.bins, self.tau_seconds)

    def record(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def key(self, task: Task, seed: int) -> dict[str, Any]:
        """What decides the features of a network, whatever the number of samples."""
        names = ("preset", "dataset", "weight", "input_weight", "features", "bins", "tau_seconds", "device")
        learning = ("plasticity", "initial_samples")
        return {n: self.record()[n] for n in (*names, *learning)} | {
            "seed": seed,
            "task": task.spec(),
            "batch": self.batch_size,
        }

    @property
    def plastic(self) -> str | None:
        """Arm of the plastic liquid, None without one."""
        return PLASTIC.get(self.plasticity)

    @property
    def counts_from(self) -> range:
        """Seeds."""
        return range(self.seed, self.seed + self.seeds)


def fitting_weights(preset: str, dataset: str) -> tuple[float, float | None]:
    """Weight and input weight (None for the same) that suit a preset and a data set."""
    return _WEIGHTS.get((preset, dataset), _OTHER[preset])


def usual_weights(arguments: argparse.Namespace) -> tuple[float | None, float | None]:
    """Weight and input weight that are given, or those of preset and data set; None for the preset's own."""
    usual = fitting_weights(arguments.preset, arguments.dataset)
    return (
        usual[0] if arguments.weight is None else arguments.weight,
        # with a weight of one's own, the input's is the same unless it is given
        usual[1] if arguments.weight is arguments.input_weight is None else arguments.input_weight,
    )


def require_possible(arguments: argparse.Namespace) -> None:
    """Raises ConfigError for options that cannot be, whatever the data are."""
    lookup("--preset", arguments.preset, dict.fromkeys(snn.PRESETS))
    for name in ("weight", "input_weight"):
        value = getattr(arguments, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name.replace('_', '-')}: got {value}, needed a number above 0, as in --weight 0.8")
    for name in ("seeds", "bins", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, needed at least 1")
    if arguments.seed < 0:
        raise ConfigError(f"--seed: got {arguments.seed}, needed 0 or more")
    if not (math.isfinite(arguments.tau) and arguments.tau > 0):
        raise ConfigError(f"--tau: got {arguments.tau}, needed seconds above 0, as in --tau 0.03")
    for name in arguments.readout or ():
        lookup("--readout", name, dict.fromkeys(READOUTS))
    for name in arguments.feature or ():
        lookup("--feature", name, dict.fromkeys(FEATURES))
    learning_of(arguments)


def make_config(arguments: argparse.Namespace, task: Task, device: torch.device) -> Config:
    """The options, with what they leave out. Raises ConfigError for those that cannot be."""
    require_possible(arguments)
    if arguments.bins > task.steps:
        raise ConfigError(f"--bins: got {arguments.bins}, needed at most {task.steps}, the steps of a sample")
    samples, test = (
        within(option, getattr(arguments, option), least, len(part))
        for option, least, part in (("samples", LEAST, task.train), ("test", 1, task.test))
    )
    weight, input_weight = usual_weights(arguments)
    plasticity, initial = learning_of(arguments)
    usual = [name for name in READOUTS if name != AS_PUBLISHED or arguments.preset.startswith("nalsm")]
    features = arguments.feature or (["counts", "filter"] if task.train.speakers is not None else ["counts"])
    return Config(
        preset=arguments.preset,
        dataset=task.name,
        weight=weight,
        input_weight=input_weight,
        samples=samples,
        test=test,
        seed=arguments.seed,
        seeds=arguments.seeds,
        features=tuple(dict.fromkeys(features)),
        bins=arguments.bins,
        tau_seconds=arguments.tau,
        readouts=tuple(dict.fromkeys(arguments.readout or usual)),
        batch_size=arguments.batch_size,
        device=device.type,
        branching=arguments.branching,
        plasticity=plasticity,
        initial_samples=initial,
    )


def learning_of(arguments: argparse.Namespace) -> tuple[str, int]:
    """Rule of plasticity and samples that initialise it. Raises ConfigError for what does not go together."""
    lookup("--plasticity", arguments.plasticity, dict.fromkeys((NONE, *PLASTIC)))
    given = arguments.initial_samples
    if arguments.plasticity == NONE:
        if given is not None:
            raise ConfigError(
                f"--initial-samples: got {given} without a plastic liquid, needed one; write --plasticity nalsm"
            )
        return NONE, 0
    rule_of(arguments.plasticity, arguments.preset)
    if arguments.branching:
        raise ConfigError(
            f"--branching: got it with --plasticity {arguments.plasticity}, needed {NONE}: it looks at static weights"
        )
    if given is not None and given < 1:
        raise ConfigError(f"--initial-samples: got {given}, needed at least 1")
    return arguments.plasticity, INITIAL_SAMPLES if given is None else given


def within(option: str, given: int | None, least: int, most: int) -> int:
    if given is not None and not least <= given <= most:
        raise ConfigError(f"--{option}: got {given}, needed {least} to {most}")
    return most if given is None else given


def make_liquid(config: Config, task: Task, seed: int, weight: float | None = None) -> snn.Liquid:
    """The network of a seed; input weights of another size are the same draws.

    Where the preset has one channel and the data have several, each reaches a share of the neurons, drawn by the seed.
    """
    scale = config.weight if weight is None else weight
    made = snn.preset(config.preset, seed=seed, weight=scale, inputs=task.channels)
    if config.input_weight is not None and made.input_weight is not None:
        other = snn.preset(config.preset, seed=seed, weight=config.input_weight, inputs=task.channels)
        made.input_weight = other.input_weight
    if config.preset in _ONE_CHANNEL and task.channels > 1 and made.input_weight is not None:
        generator = torch.Generator().manual_seed(seed)
        made.input_weight = made.input_weight * snn.input_mask(made.neurons, task.channels, _REACHED, generator)
    made.dt_seconds = task.dt_seconds
    return made.to(config.device)


def static_liquids(config: Config, task: Task, seed: int) -> dict[str, snn.Liquid]:
    """The network of a seed, and the same with its recurrent weights at 0."""
    liquid = make_liquid(config, task, seed)
    off = copy.deepcopy(liquid)
    off.weight = torch.zeros_like(liquid.weight)
    return {LIQUID: liquid, OFF: off}


def counts_of(config: Config, task: Task) -> list[int]:
    """Numbers of training samples of the learning curve, the last of them all."""
    return [*(n for n in task.curve if n < config.samples), config.samples]
