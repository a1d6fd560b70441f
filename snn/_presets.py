"""Liquids of the literature by name, with where their numbers come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._liquid import Liquid
from snn._neurons_izhikevich import Izhikevich
from snn._neurons_lif import LIF, NalsmLIF
from snn._recurrence import ShortTerm
from snn._resistive_liquid import rram_liquid
from snn._synapses import Delta, Exponential, NearestSpike, Relay
from snn._topology import ByPair, Grid, input_mask, random_signs

Generator = torch.Generator


@dataclass(frozen=True)
class Preset:
    """A liquid by name.

    Attributes:
        build: from a scale of the weights, a number of inputs, a generator and a precision.
        weight: scale of the weights.
        inputs: channels.
        source: where its numbers come from, and what is assumed.
    """

    build: Callable[[float, int, Generator, torch.dtype], Liquid]
    weight: float
    inputs: int
    source: str


def preset(
    name: str,
    *,
    seed: int = 0,
    weight: float | None = None,
    inputs: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Liquid:
    """The liquid of that name; one seed is one liquid.

    ==================  =======  ======  =======================================================================
    name                neurons  inputs  what
    ==================  =======  ======  =======================================================================
    ``maass2002``           135       1  column of 15 x 3 x 3, short-term plasticity, delays; steps of 0.1 ms
    ``nalsm1000``         1,000     784  10 x 10 x 10, all weights of one size, before any plasticity; 1 ms
    ``nalsm8000``         8,000     784  the same, 20 x 20 x 20
    ``rram200``             200     256  resistive memory, switched at random, no topology; by the step
    ``izhikevich2003``    1,000       1  800 excitatory and 200 inhibitory neurons, thalamic noise; 1 ms
    ==================  =======  ======  =======================================================================

    Args:
        name: one of ``snn.PRESETS``; ``Liquid.provenance`` of the result says where its numbers come from.
        seed: of types, synapses and weights.
        weight: scale of the weights, input included. NALSM: the size of every weight. Others: a factor.
        inputs: channels of the input.
        dtype: float32 or float64.

    Raises:
        ConfigError: an unknown name, or a value that cannot be.
    """
    chosen = lookup("preset", name, _PRESETS)
    require_whole("seed", seed, 0)
    scale = chosen.weight if weight is None else weight
    require_number("weight", scale, least=0.0)
    width = chosen.inputs if inputs is None else inputs
    require_whole("inputs", width, 1)
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"dtype: got {dtype}, needed torch.float32 or torch.float64")
    liquid = chosen.build(scale, width, torch.Generator().manual_seed(seed), dtype)
    liquid.provenance = chosen.source
    return liquid


def _nalsm(edge: int, weight: float, inputs: int, generator: Generator, dtype: torch.dtype) -> Liquid:
    wiring = Grid((edge, edge, edge)).wire(generator)
    entries = input_mask(len(wiring.mask), inputs, 0.15, generator)
    signs = random_signs(tuple(entries.shape), generator)
    return Liquid(
        NalsmLIF(),
        (wiring.mask * wiring.signs() * weight).to(dtype),
        (entries * signs * weight).to(dtype),
        synapse=NearestSpike(1e-3),
        relay=Relay(2),
        excitatory=wiring.excitatory,
        positions=wiring.positions,
    )


def _maass(weight: float, inputs: int, generator: Generator, dtype: torch.dtype) -> Liquid:
    wiring = Grid((15, 3, 3), ByPair(ee=0.3, ei=0.2, ie=0.4, ii=0.1), length=2.0).wire(generator)
    types = wiring.excitatory

    def by_pair(ee: float, ei: float, ie: float, ii: float) -> torch.Tensor:
        return ByPair(ee, ei, ie, ii).matrix(types, types).double()

    # gamma distribution of shape 1: exponential with that mean
    drawn = -torch.log1p(-torch.rand(wiring.mask.shape, generator=generator, dtype=torch.float64))
    scale = by_pair(30.0, 60.0, -19.0, -19.0) * weight
    u, d, f = (
        _spread(by_pair(*means), generator, high)
        for means, high in (
            ((0.5, 0.05, 0.25, 0.32), 1.0),
            ((1.1, 0.125, 0.7, 0.144), None),
            ((0.05, 1.2, 0.02, 0.06), None),
        )
    )
    start = 13.5 + 1.5 * torch.rand(len(types), generator=generator, dtype=torch.float64)
    entries = torch.where(types[:, None], 18.0, 9.0).double().repeat(1, inputs) * weight
    return Liquid(
        LIF(
            tau_v_seconds=0.03,
            threshold=15.0,
            reset=13.5,
            resistance=1.0,
            bias=13.5,
            refractory_seconds=(3e-3, 2e-3),
        ),
        (wiring.mask * scale * drawn).to(dtype),
        entries.to(dtype),
        synapse=Exponential((3e-3, 6e-3)),
        dt_seconds=1e-4,
        excitatory=types,
        positions=wiring.positions,
        delay_steps=torch.where(by_pair(1.0, 0.0, 0.0, 0.0) > 0, 15, 8),
        short_term=ShortTerm(u, d, f),
        own={"initial_voltage": start},
    )


def _spread(mean: torch.Tensor, generator: Generator, most: float | None) -> torch.Tensor:
    """Normal with half the mean as standard deviation; what cannot be is replaced by the mean."""
    drawn = mean * (1.0 + 0.5 * torch.randn(mean.shape, generator=generator, dtype=torch.float64))
    bad = drawn <= 0 if most is None else (drawn <= 0) | (drawn > most)
    return torch.where(bad, mean, drawn)


def _rram(weight: float, inputs: int, generator: Generator, dtype: torch.dtype) -> Liquid:
    return rram_liquid(seed=generator.initial_seed(), weight=weight, inputs=inputs, dtype=dtype)


def _izhikevich(weight: float, inputs: int, generator: Generator, dtype: torch.dtype) -> Liquid:
    n, excitatory = 1000, torch.arange(1000) < 800
    r = torch.rand(n, generator=generator, dtype=torch.float64)
    drawn = torch.rand(n, n, generator=generator, dtype=torch.float64)
    entries = torch.where(excitatory, 5.0, 2.0).double()[:, None].repeat(1, inputs) * weight
    own = {
        "a": torch.where(excitatory, 0.02, 0.02 + 0.08 * r),
        "b": torch.where(excitatory, 0.2, 0.25 - 0.05 * r),
        "c": torch.where(excitatory, -65.0 + 15.0 * r**2, -65.0),
        "d": torch.where(excitatory, 8.0 - 6.0 * r**2, 2.0),
    }
    return Liquid(
        Izhikevich(),
        (torch.where(excitatory, 0.5 * drawn, -drawn) * weight).to(dtype),
        entries.to(dtype),
        synapse=Delta(),
        excitatory=excitatory,
        own=own,
        noise=torch.where(excitatory, 5.0, 2.0).double(),
    )


def _wired(edge: int) -> Callable[[float, int, Generator, torch.dtype], Liquid]:
    return lambda weight, inputs, generator, dtype: _nalsm(edge, weight, inputs, generator, dtype)


_NALSM = (
    "Ivanov & Michmizos, NeurIPS 2021 (arXiv 2111.01760) and their code combra-lab/NALSM: grid, connection "
    "probabilities, nearest-spike synapse, neuron, input relays, and the order of a step. One size for every weight, "
    "as in their static liquid"
)
_PRESETS: dict[str, Preset] = {
    "maass2002": Preset(
        _maass,
        1.0,
        1,
        "Maass, Natschlaeger & Markram, Neural Comput. 14:2531, 2002, with the constants of brian2's example of that "
        "paper. Differs from that example in the release, which is that of Markram, Wang & Tsodyks 1998 (u and R; a "
        "synapse's current takes nothing from R), in U with a standard deviation of half its mean (0.5 there) and in "
        "the voltage by exponentials of a current that holds still for 0.1 ms. Values that cannot be (U outside of "
        "0..1, times not positive) are replaced by the mean. The initial voltage belongs to the seed.",
    ),
    "nalsm1000": Preset(_wired(10), 0.8, 784, f"{_NALSM}; 0.8 gives a branching factor of 1 on MNIST."),
    "nalsm8000": Preset(
        _wired(20),
        0.8,
        784,
        f"{_NALSM}. 0.8 is that of 1,000 neurons: here it gives a local branching factor of 1.27 on MNIST, as measured "
        "with this code; for another, snn.calibrate.",
    ),
    "rram200": Preset(
        _rram,
        0.07,
        256,
        "Lin et al., arXiv 2307.00771: 200 neurons, 256 inputs (N-MNIST, 16 x 16, one polarity), decay 0.9, threshold "
        "5. Weights are those of pairs of cells of the device 'random-switching', of which half are formed (an "
        "assumption), with the standard deviation of 0.07 of the Gaussian weights of their software twin. With it the "
        "liquid is all but silent on N-MNIST (one spike a neuron in 5,300 steps, as measured with this code); at 0.3 "
        "it fires once in 26 steps and learns. Without read noise; snn.rram_liquid has it (2 % published). Their model "
        "code is not public: the neuron is assumed to be that of Wu et al. 2018, as in their other work.",
    ),
    "izhikevich2003": Preset(
        _izhikevich,
        1.0,
        1,
        "Izhikevich, IEEE Trans. Neural Netw. 14:1569, 2003, and his net.m: parameters, weights, thalamic noise, order "
        "of a step. The input is ours: one channel reaches every neuron with the size of the noise (5 and 2). As in "
        "net.m a neuron may have a synapse onto itself.",
    ),
}
PRESETS: tuple[str, ...] = tuple(_PRESETS)
