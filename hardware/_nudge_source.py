"""The source that nudges the output layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._names import lookup
from eqprop._nudge import CostNudge
from hardware._converters import _require_bits, quantised
from hardware._device_checks import require_number
from hardware._printed import Printed
from hardware._streams import Streams

_MODES = {"feedback": None, "current": None}


@dataclass(frozen=True, repr=False)
class NudgeSource(Printed):
    """What the nudge ``-beta dC/ds`` becomes where a real source makes it:

        force = gain_j beta (-dC/ds)_j + offset_j - output_conductance s_j

    on output unit ``j``, in units of the layer's input. Gains and offsets are drawn once a chip. The offset and the
    load of the source are there only while a nudge is on, whatever its sign: a contour of both signs cancels them to
    first order, a one-sided one does not. Voltage clamps (``ContrastiveHebbian``) and complex nudges pass unchanged.

    Attributes:
        gain_std: of the gains around 1, relative.
        offset_mean, offset_std: of the offsets.
        output_conductance: load on the output, in units of the node's own leak (a neuron has ``ds/dt = rho(z) - s``).
        bits: of the converter, or None. It makes the target in mode ``"feedback"``, the error in mode ``"current"``.
        low, high: range of targets; errors reach from ``low - high`` to ``high - low``.
        mode: ``"feedback"``, a force that follows the state as the nudge does (a conductance to the target, for a
            squared error); or ``"current"``, held at its value at the free equilibrium as it was read.
    """

    gain_std: float = 0.0
    offset_mean: float = 0.0
    offset_std: float = 0.0
    output_conductance: float = 0.0
    bits: int | None = None
    low: float = 0.0
    high: float = 1.0
    mode: str = "feedback"

    def __post_init__(self) -> None:
        for name in ("gain_std", "offset_std", "output_conductance"):
            require_number(f"NudgeSource.{name}", getattr(self, name), least=0.0)
        require_number("NudgeSource.offset_mean", self.offset_mean)
        require_number("NudgeSource.low", self.low)
        require_number("NudgeSource.high", self.high, above=self.low)
        if self.bits is not None:
            _require_bits("NudgeSource.bits", self.bits)
        lookup("NudgeSource.mode", self.mode, _MODES)

    def draw(self, shape: Sequence[int], streams: Streams, like: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset of every output unit."""
        gain, offset = like.new_ones(tuple(shape)), like.new_full(tuple(shape), self.offset_mean)
        if self.gain_std:
            gain = gain + self.gain_std * streams.normal("nudge.gain", (), shape, like)
        if self.offset_std:
            offset = offset + self.offset_std * streams.normal("nudge.offset", (), shape, like)
        return gain, offset


class SourcedNudge:
    """A nudge by cost as a source makes it.

    Args:
        nudge: as the rule meant it.
        source: its faults.
        gain, offset: of every output unit.
        rest: the output layer at the free equilibrium as it was read, ``[batch, *shape]``; for mode ``"current"``.
    """

    def __init__(
        self, nudge: CostNudge, source: NudgeSource, gain: Tensor, offset: Tensor, rest: Tensor | None
    ) -> None:
        self.layers: Set[int] = nudge.layers
        self._gain, self._offset, self._load = gain, offset, source.output_conductance
        self._held: Tensor | None = None
        self._nudge = nudge
        if source.mode == "current" and rest is not None:
            unit = copy.copy(nudge)
            unit.beta = torch.ones_like(nudge.beta)
            copies = len(nudge.target) // len(rest)
            error = unit.force(rest if copies == 1 else torch.cat([rest] * copies))
            if source.bits is not None:
                reach = source.high - source.low
                error = quantised(error, -reach, reach, source.bits)
            self._held = gain * self._spread(nudge.beta) * error
        elif source.bits is not None:
            self._nudge = copy.copy(nudge)
            self._nudge.target = quantised(nudge.target, source.low, source.high, source.bits)

    def _spread(self, beta: Tensor) -> Tensor:
        return beta.reshape(len(beta), *[1] * self._gain.dim())

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        """New state of the output layer."""
        if self._nudge._exact:  # a quadratic in s: its exact minimum, so that no step is too long
            scale: float | Tensor = 1.0 + self._load
            z = z + self._offset
            if self._held is not None:
                z = z + self._held
            else:
                beta = self._spread(self._nudge.beta) * self._gain
                z, scale = torch.addcmul(z, beta, self._nudge.target.reshape(s.shape)), scale + beta
            return rho.inplace(z / scale)
        return rho.inplace(z + self.force(s))

    def force(self, s: Tensor) -> Tensor:
        """What the source adds to the input of the output layer at state ``s``."""
        force = self._gain * self._nudge.force(s) if self._held is None else self._held
        return force + self._offset - self._load * s
