"""Who is connected to whom: neurons on a grid, more likely the nearer they are, and random input synapses.

Everything is drawn on the CPU from a seeded generator and then moved: one seed is one liquid on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import require_number
from hardware._printed import Printed

_ROWS = 512  # of the matrix of pairs at a time: 8,000 neurons are 64 million pairs


@dataclass(frozen=True, repr=False)
class ByPair(Printed):
    """Four numbers, by the types of the neurons before and behind a synapse: ``ei`` is excitatory to inhibitory."""

    ee: float
    ei: float
    ie: float
    ii: float

    def matrix(self, post: Tensor, pre: Tensor) -> Tensor:
        """``[post, pre]`` float32, for bools ``excitatory`` of both."""
        table = torch.tensor([[self.ii, self.ei], [self.ie, self.ee]], dtype=torch.float32, device=post.device)
        return table[post.long()[:, None], pre.long()[None, :]]


class Wiring(NamedTuple):
    """A drawn topology.

    Attributes:
        mask: bool ``[post, pre]``, no neuron onto itself.
        excitatory: bool ``[neurons]``.
        positions: float32 ``[neurons, 3]``, on the grid.
    """

    mask: Tensor
    excitatory: Tensor
    positions: Tensor

    def signs(self) -> Tensor:
        """+1 or -1 for what a neuron does to others, ``[neurons]`` float32."""
        return self.excitatory.to(torch.float32) * 2.0 - 1.0


@dataclass(frozen=True, repr=False)
class Grid(Printed):
    """Neurons on a 3-D grid: ``P(j -> i) = C exp(-(D(i, j) / length)^2)``, no autapses (Maass et al. 2002).

    Which neurons are excitatory is a random permutation with an exact count, ``round(share n)``.

    Attributes:
        shape: of the grid.
        connection: C by the types of the pair.
        length: in grid steps; D is Euclidean.
        excitatory_share: of the neurons.

    Raises:
        ConfigError: a shape, probability, length or share that cannot be.
    """

    shape: tuple[int, int, int] = (10, 10, 10)
    connection: ByPair = ByPair(ee=0.2, ei=0.1, ie=0.3, ii=0.05)
    length: float = 3.0
    excitatory_share: float = 0.8

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        if len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
            raise ConfigError(f"Grid.shape: got {self.shape!r}, needed three positive whole numbers, as (10, 10, 10)")
        for name in ("ee", "ei", "ie", "ii"):
            require_number(f"Grid.connection.{name}", getattr(self.connection, name), least=0.0, most=1.0)
        require_number("Grid.length", self.length, above=0.0)
        require_number("Grid.excitatory_share", self.excitatory_share, least=0.0, most=1.0)

    @property
    def neurons(self) -> int:
        """How many."""
        return math.prod(self.shape)

    def positions(self) -> Tensor:
        """``[neurons, 3]``; the last axis runs fastest."""
        axes = (torch.arange(n, dtype=torch.float32) for n in self.shape)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)

    def wire(self, generator: torch.Generator) -> Wiring:
        """Draws types, then synapses.

        Raises:
            ConfigError: no seeded CPU generator.
        """
        require_cpu(generator)
        n, positions = self.neurons, self.positions()
        excitatory = torch.zeros(n, dtype=torch.bool)
        excitatory[torch.randperm(n, generator=generator)[: round(self.excitatory_share * n)]] = True
        mask = torch.empty(n, n, dtype=torch.bool)
        for start in range(0, n, _ROWS):
            rows = slice(start, min(start + _ROWS, n))
            squared = (positions[rows, None] - positions[None]).square_().sum(-1)
            p = self.connection.matrix(excitatory[rows], excitatory) * torch.exp(squared / -(self.length**2))
            mask[rows] = torch.rand(p.shape, generator=generator) < p
        mask.fill_diagonal_(False)
        return Wiring(mask, excitatory, positions)


def input_mask(neurons: int, inputs: int, density: float, generator: torch.Generator) -> Tensor:
    """Exactly ``int(density * neurons * inputs)`` synapses at random places, bool ``[neurons, inputs]``.

    Raises:
        ConfigError: a density outside of 0..1, or no seeded CPU generator.
    """
    require_number("density", density, least=0.0, most=1.0)
    require_cpu(generator)
    mask = torch.zeros(neurons * inputs, dtype=torch.bool)
    mask[torch.randperm(neurons * inputs, generator=generator)[: int(density * neurons * inputs)]] = True
    return mask.reshape(neurons, inputs)


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """+1 or -1 with equal probability, float32."""
    require_cpu(generator)
    return torch.randint(0, 2, shape, generator=generator).to(torch.float32).mul_(2.0).sub_(1.0)


def require_cpu(generator: object) -> torch.Generator:
    """The generator itself.

    Raises:
        ConfigError: something else, or a generator on an accelerator, whose numbers would differ.
    """
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        got = f"one on {generator.device}" if isinstance(generator, torch.Generator) else repr(generator)
        raise ConfigError(
            f"generator: got {got}, needed a torch.Generator on the CPU, so that a seed is the same liquid on every "
            "device; write torch.Generator().manual_seed(0)"
        )
    return generator
