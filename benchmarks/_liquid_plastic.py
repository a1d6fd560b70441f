"""The plastic liquid of the liquid benchmark: NALSM's rules by name, and the weights that its samples start from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import snn
from benchmarks._liquid_data import Part, Task, split
from benchmarks._liquid_features import Cache
from benchmarks._liquid_fits import PLASTIC
from eqprop._errors import ConfigError
from eqprop._names import lookup

INITIAL_SAMPLES, INITIAL_STEPS = 50_000, 20  # as published: one at a time, 20 ms of each
NONE = "none"
_GAINS = {"nalsm1000": 0.015, "nalsm8000": 0.0075}  # published, of the astrocyte
_OTHER_DRAWS = 2**20  # added to a seed: trains of the initialisation are not those of the features
_BLOCK = 100  # samples that are encoded at once


def rule_of(plasticity: str, preset: str) -> snn.NalsmPlasticity:
    """The rule of that name for that preset.

    Raises:
        ConfigError: an unknown name, or a preset that was published without plasticity.
    """
    lookup("--plasticity", plasticity, PLASTIC)
    if preset not in _GAINS:
        raise ConfigError(
            f"--plasticity: got {plasticity!r} with --preset {preset}, needed a preset that the rule was published "
            f"for; write --preset {' or '.join(_GAINS)}"
        )
    return snn.NalsmPlasticity(astrocyte=snn.Astrocyte(gain=_GAINS[preset]) if plasticity == "nalsm" else None)


def plastic_liquid(
    plasticity: str, preset: str, task: Task, seed: int, samples: int, cache: Cache, *, quiet: bool = False
) -> snn.PlasticLiquid:
    """The network of a seed with plastic weights, initialised as NALSM's or read from the files of the run.

    Types, synapses and signs are those of the static liquid of that seed; all weights are as large as the rule allows
    before they are initialised. Every sample then starts from the same weights and learns while it runs.

    Args:
        plasticity, preset: names.
        task: whose training samples initialise, without their labels and without those that validate.
        seed: of the network, and of the samples and their stretches of time.
        samples: that initialise.
        cache: where the weights are kept.
        quiet: no progress bar.
    """
    rule = rule_of(plasticity, preset)
    base = snn.preset(preset, seed=seed, weight=rule.limit, inputs=task.channels)
    base.dt_seconds = task.dt_seconds
    plastic = snn.PlasticLiquid(base, rule)
    entry = plastic.input_weight
    if entry is None:
        raise ConfigError(f"--preset {preset}: got a liquid without input weights, needed some: they learn too")
    kept = cache.read("initial", plastic.neurons)
    if kept is None:
        plastic.initialise(snippets(task.train, samples, task.steps, seed), progress=not quiet, total=samples)
        kept = {"initial/weight": plastic.weight.numpy(), "initial/input_weight": entry.numpy()}
        cache.write("initial", kept)
    plastic.weight.copy_(torch.from_numpy(kept["initial/weight"]))
    entry.copy_(torch.from_numpy(kept["initial/input_weight"]))
    return plastic


def snippets(part: Part, count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """``[1, 20, channels]`` of training samples in random order, each from a random step on.

    Where more are asked for than there are, the samples come again, as in the code of NALSM.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = split(len(part))[0]
    order = torch.randperm(-(-count // len(samples)) * len(samples), generator=generator)[:count] % len(samples)
    starts = torch.randint(max(1, steps - INITIAL_STEPS + 1), (count,), generator=generator).tolist()
    for first in range(0, count, _BLOCK):
        block = samples[order[first : first + _BLOCK]]
        for train, start in zip(part.trains(block, seed + _OTHER_DRAWS), starts[first:], strict=False):
            yield train[None, start : start + INITIAL_STEPS]
