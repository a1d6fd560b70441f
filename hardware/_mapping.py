"""How a parameter becomes targets of its cells, and how their conductances are read back as a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mapping:
    """Base of all mappings: ``parameter = sum_c sign_c g_c / scale``, over the cells ``c`` of one parameter.

    Attributes:
        g_min_siemens, g_max_siemens: range of a target.
        weight_range: largest weight; of differential pairs only.
    """

    g_min_siemens: float
    g_max_siemens: float
    weight_range: float

    @property
    def signs(self) -> tuple[int, ...]:
        """+1 or -1 a cell: which way it moves the parameter."""
        return (1, -1)

    @property
    def cells(self) -> int:
        """Cells of a parameter."""
        return len(self.signs)

    @property
    def scale(self) -> float:
        """Siemens a unit of the parameter."""
        return (self.g_max_siemens - self.g_min_siemens) / self.weight_range

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest parameter that its cells can hold."""
        return -self.weight_range, self.weight_range

    def targets(self, weight: Tensor) -> Tensor:
        """Conductances that a parameter ``[...]`` asks of its cells, ``[cells, ...]`` siemens, within the range."""
        raise NotImplementedError

    def decoded(self, conductance: Tensor) -> Tensor:
        """The parameter that conductances ``[cells, ...]`` stand for, ``[...]``."""
        return (conductance[0] - conductance[1]).mul_(1.0 / self.scale)

    def outside(self, weight: Tensor) -> Tensor:
        """Whether a parameter lies beyond what its cells can hold, and will be clipped; bool ``[...]``."""
        return weight.abs() > self.weight_range

    def _pair(self, weight: Tensor, at_zero: float, share: float) -> Tensor:
        """``at_zero +- share s W``, within the range."""
        both, zero = weight.new_empty((2, *weight.shape)), weight.new_full((), at_zero)
        for cell, sign in zip(both, self.signs, strict=True):
            torch.add(zero, weight.detach(), alpha=sign * share * self.scale, out=cell)
        return both.clamp_(self.g_min_siemens, self.g_max_siemens)


@dataclass(frozen=True)
class Balanced(Mapping):
    """Differential pairs around the middle of the range, ``g_plus, g_minus = middle +- s W / 2``."""

    def targets(self, weight: Tensor) -> Tensor:
        return self._pair(weight, 0.5 * (self.g_min_siemens + self.g_max_siemens), 0.5)


@dataclass(frozen=True)
class OneSided(Mapping):
    """Differential pairs of which one cell rests at ``g_min`` and the other carries ``g_min + s |W|``."""

    def targets(self, weight: Tensor) -> Tensor:
        return self._pair(weight, self.g_min_siemens, 1.0)


@dataclass(frozen=True)
class Single(Mapping):
    """One cell a parameter that is a conductance itself, in siemens: that of a resistive network."""

    @property
    def signs(self) -> tuple[int, ...]:
        return (1,)

    @property
    def scale(self) -> float:
        return 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        return self.g_min_siemens, self.g_max_siemens

    def targets(self, weight: Tensor) -> Tensor:
        return weight[None].clamp(self.g_min_siemens, self.g_max_siemens)

    def decoded(self, conductance: Tensor) -> Tensor:
        return conductance[0]

    def outside(self, weight: Tensor) -> Tensor:
        slack = 1e-6 * (self.g_max_siemens - self.g_min_siemens)  # of a bound in another precision
        return (weight < self.g_min_siemens - slack) | (weight > self.g_max_siemens + slack)


#: All mappings by name.
MAPPINGS: dict[str, Callable[[float, float, float], Mapping]] = {
    "balanced": Balanced,
    "one-sided": OneSided,
    "single": Single,
}
