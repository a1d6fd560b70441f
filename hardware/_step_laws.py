"""How large the step of one pulse is at a given conductance: the pulse-response models, as data.

A law gives the factor by which the step at weight zero shrinks or grows, ``factor(up, g, cells, frame)``, where ``up``
is the direction of all pulses, or a bool a cell. A factor is never below 0: a pulse does not work backwards. Where it
is affine in g, ``1 - (g - zero) / reach``, the law gives its ``reach``, and trains of pulses have a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._curves import interpolate
from hardware._device_checks import require_number, require_numbers


class Cells(NamedTuple):
    """What fabrication decided for each cell, tensors of one shape (or of shape () where all cells agree).

    Attributes:
        step_up_siemens, step_down_siemens: step of one pulse at weight zero.
        low_siemens, high_siemens: bounds; equal for a stuck cell.
        shape_up, shape_down: the law's own parameter (slope or exponent), dimensionless.
        reference_siemens: conductance that stands for weight zero: its reference cell, where it has one.
        reset_siemens: where a reset leaves the cell on average.
        stuck: bool.
        normal: standard normal number of the cell, which decides how it drifts.
    """

    step_up_siemens: Tensor
    step_down_siemens: Tensor
    low_siemens: Tensor
    high_siemens: Tensor
    shape_up: Tensor
    shape_down: Tensor
    reference_siemens: Tensor
    reset_siemens: Tensor
    stuck: Tensor
    normal: Tensor

    def to(self, device: torch.device | str) -> Cells:
        """The same cells on another device."""
        return Cells(*(t.to(device) for t in self))

    def of_pulses(self, numbers: Tensor) -> Cells:
        """What pulses need of some cells, ``[n]`` by their numbers in the array; all else keeps its shape."""
        kept = ("reference_siemens", "reset_siemens", "normal")
        return Cells(
            *(
                t if name in kept or t.dim() == 0 else t.reshape(-1).index_select(0, numbers)
                for name, t in self._asdict().items()
            )
        )

    def first(self, n: int) -> Cells:
        """The first ``n`` of cells in a row."""
        return Cells(*(t if t.dim() == 0 else t[:n] for t in self))


class Frame(NamedTuple):
    """Nominal places of a response, in siemens: weight zero, the mean bounds, and one unit of weight."""

    zero: float
    low: float
    high: float
    unit: float


def directed(up: bool | Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    """``ahead`` for pulses that go up, ``behind`` for those that go down: all alike, or each cell its own way."""
    if isinstance(up, bool):
        return ahead if up else behind
    return torch.where(up, ahead, behind)


def _either(up: bool | Tensor, ahead: float, behind: float, like: Tensor) -> float | Tensor:
    """The same of two numbers."""
    if isinstance(up, bool):
        return ahead if up else behind
    return torch.where(up, like.new_full((), ahead), like.new_full((), behind))


@dataclass(frozen=True)
class ConstantStep:
    """The same step everywhere (Gokmen & Vlasov 2016)."""

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The law's parameter of each cell from two standard normal numbers a cell: none."""
        return a.new_zeros(()), a.new_zeros(())

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Infinite."""
        return cells.low_siemens.new_full((), torch.inf)

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """1."""
        return torch.ones_like(g)


@dataclass(frozen=True)
class LinearStep:
    """``1 - slope w / w_bound``: at the mean bound the step is smaller by ``slope`` than at weight zero.

    Attributes:
        slope_up, slope_down: mean slopes.
        spread: their standard deviation from cell to cell, absolute; slopes are reflected at 0.
    """

    slope_up: float
    slope_down: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("slope_up", "slope_down", "spread"):
            require_number(f"LinearStep.{name}", getattr(self, name), least=0.0)

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of each cell."""
        return (self.slope_up + self.spread * a).abs(), (self.slope_down + self.spread * b).abs()

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Distance from weight zero to where the step vanishes (negative downwards)."""
        slope = directed(up, cells.shape_up, cells.shape_down)
        return _either(up, frame.high - frame.zero, frame.low - frame.zero, slope) / slope

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """``max(0, 1 - slope (g - zero) / (bound - zero))``."""
        bound = _either(up, frame.high, frame.low, g)
        slope = directed(up, cells.shape_up, cells.shape_down)
        return (1 - slope * ((g - frame.zero) / (bound - frame.zero))).clamp(min=0.0)


@dataclass(frozen=True)
class SoftBounds:
    """``1 - w / w_bound`` with the bounds of the cell itself: steps vanish at them (Fusi & Abbott 2007)."""

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """None."""
        return a.new_zeros(()), a.new_zeros(())

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Distance from weight zero to the cell's bound."""
        return directed(up, cells.high_siemens, cells.low_siemens) - frame.zero

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """``max(0, (bound - g) / (bound - zero))``."""
        bound = directed(up, cells.high_siemens, cells.low_siemens)
        return (bound - g).div_(bound - frame.zero).clamp_(min=0.0)


@dataclass(frozen=True)
class ExponentialStep:
    """``max(0, 1 - A exp(+-gamma z))``, ``z = 2 a w / (w_high - w_low) + b``, + for up pulses (Gong et al. 2018).

    Attributes:
        a, b: scale and shift of the weight.
        amplitude_up, amplitude_down: A.
        gamma_up, gamma_down: gamma.
    """

    a: float
    b: float
    amplitude_up: float
    amplitude_down: float
    gamma_up: float
    gamma_down: float

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            require_number(f"ExponentialStep.{name}", getattr(self, name))

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """None."""
        return a.new_zeros(()), a.new_zeros(())

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Not affine."""
        return None

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """As above."""
        z = 2 * self.a * (g - frame.zero) / (cells.high_siemens - cells.low_siemens) + self.b
        a = _either(up, self.amplitude_up, self.amplitude_down, g)
        gamma = _either(up, self.gamma_up, -self.gamma_down, g)
        return (1 - a * torch.exp(gamma * z)).clamp(min=0.0)


@dataclass(frozen=True)
class PowerStep:
    """``omega^gamma``, omega the distance to the bound ahead, as a share of the cell's range.

    The step given for weight zero is then that at the bound behind, where omega = 1.

    Attributes:
        gamma_up, gamma_down: mean exponents.
        spread: their relative standard deviation from cell to cell; exponents are reflected at 0.
    """

    gamma_up: float
    gamma_down: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gamma_up", "gamma_down", "spread"):
            require_number(f"PowerStep.{name}", getattr(self, name), least=0.0)

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Exponents of each cell."""
        return self.gamma_up * (1 + self.spread * a).abs(), self.gamma_down * (1 + self.spread * b).abs()

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Not affine."""
        return None

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """As above."""
        ahead = directed(up, cells.high_siemens - g, g - cells.low_siemens)
        omega = (ahead / (cells.high_siemens - cells.low_siemens)).clamp(0.0, 1.0)
        return omega ** directed(up, cells.shape_up, cells.shape_down)


@dataclass(frozen=True)
class PiecewiseStep:
    """Straight lines between factors given at equally spaced conductances, from the cell's lower to its upper bound.

    Attributes:
        up_factors, down_factors: at least 2 each.
    """

    up_factors: tuple[float, ...]
    down_factors: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("up_factors", "down_factors"):
            numbers = require_numbers(f"PiecewiseStep.{name}", getattr(self, name), 2)
            object.__setattr__(self, name, numbers)
            if min(numbers) < 0:
                raise ConfigError(f"PiecewiseStep.{name}: got {numbers}, needed factors of at least 0")

    def shapes(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """None."""
        return a.new_zeros(()), a.new_zeros(())

    def reach(self, up: bool | Tensor, cells: Cells, frame: Frame) -> Tensor | None:
        """Not affine."""
        return None

    def factor(self, up: bool | Tensor, g: Tensor, cells: Cells, frame: Frame) -> Tensor:
        """As above."""
        if not isinstance(up, bool):
            return directed(up, *(self.factor(way, g, cells, frame) for way in (True, False)))
        factors = self.up_factors if up else self.down_factors
        nodes = tuple(i / (len(factors) - 1) for i in range(len(factors)))
        return interpolate((g - cells.low_siemens) / (cells.high_siemens - cells.low_siemens), nodes, factors)


StepLaw = ConstantStep | LinearStep | SoftBounds | ExponentialStep | PowerStep | PiecewiseStep
