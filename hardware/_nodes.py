"""A layer of circuit nodes: its diodes, and the law by which current sets its voltage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._errors import ConfigError
from eqprop._names import lookup

Limits = tuple[float, float] | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Nodes:
    """A layer of circuit nodes.

    Args:
        units: number of nodes.
        diodes: ``"none"``, a linear node; ``"ground"``, an ideal diode to ground at each, so that the first half of the
            nodes has ``v >= 0`` and the second half ``v <= 0`` (conductances have no sign: the two halves are the two
            signs of what a layer says to the next); or ``(low, high)``, two ideal diodes with bias sources that hold
            every node within these voltages.

    Raises:
        ConfigError: not a positive whole number, or diodes of another kind.
    """

    units: int
    diodes: str | tuple[float, float] = "ground"

    def __post_init__(self) -> None:
        if not isinstance(self.units, int) or isinstance(self.units, bool) or self.units < 1:
            raise ConfigError(f"Nodes: got {self.units!r} units, needed a positive whole number, as Nodes(128)")
        if isinstance(self.diodes, str):
            lookup("diodes", self.diodes, {"none": None, "ground": None})
            return
        limits = self.diodes
        numbers = isinstance(limits, tuple | list) and all(isinstance(v, int | float) for v in limits)
        if not numbers or len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf:
            raise ConfigError(
                f"diodes: got {limits!r}, needed 'ground', 'none' or (low, high) in volts with low < high, as (0, 0.5)"
            )
        object.__setattr__(self, "diodes", (float(limits[0]), float(limits[1])))

    def grounded(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest voltage of every node with a diode to ground, ``[units]``; None where there are none."""
        if self.diodes != "ground":
            return None
        low, high = torch.full((self.units,), -math.inf), torch.full((self.units,), math.inf)
        first = self.units - self.units // 2
        low[:first], high[first:] = 0.0, 0.0
        return low, high


class Law:
    """``v = clip(z / G, low, high)`` of a layer of nodes, as an ``Activation``.

    Args:
        siemens: gives the total conductance ``G`` of every node, ``[units]``; called once, when first needed.
        limits: lowest and highest voltage, of all nodes or of each, or None.
    """

    def __init__(self, siemens: Callable[[], Tensor], limits: Limits | None) -> None:
        self._siemens, self._limits = siemens, limits

    @cached_property
    def siemens(self) -> Tensor:
        """``G``, of which the law is no function: see ``ResistiveNetwork.new_cache``."""
        return self._siemens().detach()

    @cached_property
    def ohms(self) -> Tensor:
        """``1 / G``."""
        return inverse(self.siemens)

    def function(self, z: Tensor) -> Tensor:
        """Node voltage at the current ``z``."""
        v = z * self.ohms
        return v if self._limits is None else v.clamp(*self._limits)

    def derivative(self, z: Tensor) -> Tensor:
        """``dv/dz``, ohms; 0 where a diode conducts."""
        if self._limits is None:
            return self.ohms.expand_as(z)
        v = z * self.ohms
        return torch.where((v > self._limits[0]) & (v < self._limits[1]), self.ohms, 0.0)

    def integral(self, z: Tensor) -> Tensor:
        """Antiderivative of ``function``, watts."""
        v = self.function(z)
        return v * z - self.conjugate(v)

    def conjugate(self, v: Tensor) -> Tensor:
        """``1/2 G v^2``, watts."""
        return 0.5 * self.siemens * v * v

    def activation(self) -> Activation:
        """The law for the interface of ``eqprop.Network``."""
        return Activation(
            "node" if self._limits is None else "diode",
            function=self.function,
            inplace=self.function,
            derivative=self.derivative,
            integral=self.integral,
            conjugate=self.conjugate,
            # infinite ones are no states; a solver that projects on bounds loses nothing, for each sweep does
            bounds=None if self._limits is None or isinstance(self._limits[0], Tensor) else self._limits,
            smooth=self._limits is None,
        )


def inverse(siemens: Tensor) -> Tensor:
    """``1 / G``, ohms."""
    # a node without any conductance has no current either: 0 V, not NaN, where a host cannot look
    return 1 / siemens.clamp(min=torch.finfo(siemens.dtype).tiny)
