"""Random weights of resistive memory: pairs of cells that stochastic switching makes once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware import Device, device, formed_share
from hardware._device_checks import require_number
from snn._topology import require_cpu


@dataclass(frozen=True)
class ResistiveWeights:
    """``W = k (G+ - G-)``, two cells a weight.

    Attributes:
        plus_siemens, minus_siemens: conductances, ``[post, pre]``.
        per_siemens: k.
    """

    plus_siemens: Tensor
    minus_siemens: Tensor
    per_siemens: float

    @property
    def weight(self) -> Tensor:
        """W, ``[post, pre]``."""
        return self.per_siemens * (self.plus_siemens - self.minus_siemens)

    @property
    def read_scale(self) -> Tensor:
        """Standard deviation of a weight by a read noise of 1: ``k sqrt(G+^2 + G-^2)``, the cells are independent."""
        return self.per_siemens * torch.hypot(self.plus_siemens, self.minus_siemens)


@dataclass(frozen=True)
class Breakdown:
    """Voltages at which cells break down, about normal: a pulse of ``volts`` forms ``Phi((volts - mean) / std)`` of
    them.

    Attributes:
        volts: of the programming pulse.
        mean_volts, std_volts: of the cells. No default: they belong to a process.

    Raises:
        ConfigError: values that cannot be.
    """

    volts: float
    mean_volts: float
    std_volts: float

    def __post_init__(self) -> None:
        require_number("Breakdown.volts", self.volts)
        require_number("Breakdown.mean_volts", self.mean_volts)
        require_number("Breakdown.std_volts", self.std_volts, above=0.0)

    @property
    def share(self) -> float:
        """Of the cells that conduct."""
        return formed_share(self.volts, self.mean_volts, self.std_volts)


def resistive_weights(
    shape: Sequence[int],
    *,
    std: float,
    generator: torch.Generator,
    formed: float | Breakdown | None = None,
    variability: float | None = None,
    kind: str | Device = "random-switching",
) -> ResistiveWeights:
    """Draws conductances by stochastic switching and pairs them to weights of that standard deviation.

    ``G = G_formed`` with probability p, else that of a pristine cell, ``G_formed = N(mean, s)``. With p near 1/2
    weights are about ternary: +, - and, with probability ``p^2 + (1 - p)^2``, near 0: exactly 0 where neither cell of a
    pair is formed, and ``k N(0, 2 s^2)`` where both are. The factor k is fixed by the law of G, so that the weights of
    one chip scatter about ``std``::

        k = std / sqrt(2 Var G),   Var G = p s^2 + p (1 - p) (mean - pristine)^2

    Args:
        shape: ``[post, pre]``.
        std: standard deviation of W.
        generator: of a chip: one seed, one chip. All of G+ is drawn first, then G-.
        formed: p, or the voltages that set it; None for that of the device.
        variability: s over the mean of formed cells; None for that of the device.
        kind: device with a random formation, by name or itself.

    Raises:
        ConfigError: a device without random formation, values that cannot be, cells that are all alike, or a generator
            that is not on the CPU.
    """
    require_cpu(generator)
    require_number("std", std, least=0.0)
    chosen = device(kind) if isinstance(kind, str) else kind
    if chosen.formation is None:
        raise ConfigError(f"kind: got {chosen.name!r}, needed a device that is formed at random; 'random-switching' is")
    law = chosen.formation
    if formed is not None:
        law = replace(law, share=formed.share if isinstance(formed, Breakdown) else formed)
    if variability is not None:
        require_number("variability", variability, least=0.0)
        law = replace(law, std_siemens=variability * law.mean_siemens)
    chosen = replace(chosen, formation=law)
    p = law.share
    spread = p * law.std_siemens**2 + p * (1.0 - p) * (law.mean_siemens - law.pristine_siemens) ** 2
    if spread <= 0.0:
        raise ConfigError(
            f"formed: got a share of {p:g} and no variability, needed cells that differ: all weights would be 0"
        )
    plus, minus = (chosen.form(tuple(shape), generator, torch.float64) for _ in range(2))
    return ResistiveWeights(plus, minus, std / math.sqrt(2.0 * spread))
