"""Functions of a cell's relative conductance ``x = g / g_max``, as data: what noise is published as.

A curve is called with a tensor and returns one of the same shape; with ``unit``, that of ``x / unit``, which spares a
pass over the cells of an array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import require_number, require_numbers

# where the logarithm of a cell that conducts nothing is taken
SMALLEST = 1e-7


@dataclass(frozen=True)
class Polynomial:
    """``sum_i coefficients[i] x^i``, the constant first.

    Raises:
        ConfigError: no coefficient, or one that is not finite.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", require_numbers("Polynomial.coefficients", self.coefficients))

    def __call__(self, x: Tensor, unit: float = 1.0) -> Tensor:
        if len(self.coefficients) == 1:
            return torch.full_like(x, self.coefficients[0])
        *rest, highest = (c / unit**i for i, c in enumerate(self.coefficients))
        result = torch.add(x.new_full((), rest[-1]), x, alpha=highest)
        for c in rest[-2::-1]:
            result = torch.addcmul(x.new_full((), c), result, x, out=result)
        return result


@dataclass(frozen=True)
class ClippedLog:
    """``clip(slope ln(x) + offset, low, high)``, with x no smaller than 1e-7.

    Raises:
        ConfigError: a value that is not finite, or ``low > high``.
    """

    slope: float
    offset: float
    low: float
    high: float

    def __post_init__(self) -> None:
        for name in ("slope", "offset", "low"):
            require_number(f"ClippedLog.{name}", getattr(self, name))
        require_number("ClippedLog.high", self.high, least=self.low)

    def __call__(self, x: Tensor, unit: float = 1.0) -> Tensor:
        log = x.clamp(min=SMALLEST * unit).log_()
        offset = x.new_full((), self.offset - self.slope * math.log(unit))
        return torch.add(offset, log, alpha=self.slope, out=log).clamp_(self.low, self.high)


@dataclass(frozen=True)
class InversePower:
    """``min(high, scale / max(floor, x^exponent))``.

    Raises:
        ConfigError: a value that is not finite and positive.
    """

    scale: float
    exponent: float
    floor: float
    high: float

    def __post_init__(self) -> None:
        for name in ("scale", "exponent", "floor", "high"):
            require_number(f"InversePower.{name}", getattr(self, name), above=0.0)

    def __call__(self, x: Tensor, unit: float = 1.0) -> Tensor:
        # scale / x^exponent as an exponential, in a third of the time; cut off before, where infinities would be slow
        most = min(self.scale / self.floor, self.high)
        least = (self.scale / most) ** (1 / self.exponent)
        log = x.clamp(min=least * unit).log_()
        offset = x.new_full((), math.log(self.scale) + self.exponent * math.log(unit))
        return torch.add(offset, log, alpha=-self.exponent, out=log).exp_()


@dataclass(frozen=True)
class Split:
    """``below(x)`` where ``x < at``, ``above(x)`` elsewhere."""

    at: float
    below: Curve
    above: Curve

    def __post_init__(self) -> None:
        require_number("Split.at", self.at)

    def __call__(self, x: Tensor, unit: float = 1.0) -> Tensor:
        return torch.where(x < self.at * unit, self.below(x, unit), self.above(x, unit))


@dataclass(frozen=True)
class Table:
    """Straight lines between the points ``(x[i], y[i])``, the first and the last value outside them.

    Raises:
        ConfigError: fewer than 2 points, numbers of x and y that differ, or an x that does not rise.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            object.__setattr__(self, name, require_numbers(f"Table.{name}", getattr(self, name), 2))
        if len(self.x) != len(self.y):
            raise ConfigError(f"Table: got {len(self.x)} x and {len(self.y)} y, needed as many of both")
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ConfigError(f"Table.x: got {self.x}, needed rising values; sort the points by x, each once")

    def __call__(self, x: Tensor, unit: float = 1.0) -> Tensor:
        return interpolate(x, tuple(unit * at for at in self.x), self.y)


Curve = Polynomial | ClippedLog | InversePower | Split | Table


def interpolate(x: Tensor, at: tuple[float, ...], values: tuple[float, ...]) -> Tensor:
    """Straight lines between the points; a sum of clipped ramps, so that nothing is gathered and no index is made."""
    result = torch.full_like(x, values[0])
    for x0, x1, y0, y1 in zip(at, at[1:], values, values[1:], strict=False):
        if y1 != y0:
            result = result + ((x - x0) / (x1 - x0)).clamp(0.0, 1.0) * (y1 - y0)
    return result


def constant(value: float) -> Polynomial:
    """The same value everywhere."""
    return Polynomial((value,))
