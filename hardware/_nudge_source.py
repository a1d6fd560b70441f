"""The source that nudges the output layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._complex import ComplexCostNudge
from eqprop._contrastive import ClampNudge
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._nudge import CostNudge
from hardware._converters import _require_bits, quantised, require_within
from hardware._device_checks import require_flags, require_number
from hardware._printed import Printed
from hardware._streams import Streams

_MODES = {"feedback": None, "current": None, "clamp": None}


@dataclass(frozen=True, repr=False)
class NudgeSource(Printed):
    """What the nudge ``-beta dC/ds`` becomes where a real source makes it:

        force = gain_j beta (-dC/ds)_j + offset_j - output_conductance s_j

    on output unit ``j``, in units of the layer's input; on a circuit (``ResistiveNetwork``), where ``beta`` is a
    conductance (S), amperes into an output node, with ``s`` its voltage and all conductances in siemens. Gains and
    offsets are drawn once a chip. The offset and the load of the source are there only while a nudge is on,
    whatever its sign: a contour of both signs cancels them to first order, a one-sided one does not.

    A clamp holds the output unit at a voltage instead,

        v = gain_j Q(v*_j) + offset_j,   s_j = v,  or (rho(z_j) + g v) / (1 + g + output_conductance)

    with ``Q`` the converter, and ``g`` the ``clamp_conductance`` where the source has one. It serves every nudge in
    mode ``"clamp"``, with ``v* = s_free + beta (-dC/ds)`` at the free equilibrium as it was read (``s_free + beta (y -
    s_free)`` for a squared error: coupled learning); and in every mode the clamps of ``ContrastiveHebbian`` and
    ``CoupledLearning``. A gain acts on the whole voltage and not on the nudge alone, and thus as an offset does. Of a
    complex nudge, which no machine has, gain and load act on both parts and an offset on the real one.

    Rules that nudge without a free phase before (``OscillatingEP``) are refused in modes ``"current"`` and ``"clamp"``,
    which hold something of it. ``DyadicEP`` nudges the difference of two networks, and ``TruncatedBPTT`` and
    ``ImplicitGradient`` nudge nothing: no source acts in them.

    Attributes:
        gain_std: of the gains around 1, relative.
        offset_mean, offset_std: of the offsets.
        output_conductance: load on the output, in units of the node's own leak (a neuron has ``ds/dt = rho(z) - s``).
        bits: of the converter, or None. It makes the target in mode ``"feedback"``, the error in mode ``"current"``,
            the voltage of a clamp. With a readout, or another cost than a squared error, the output is pulled to no
            target, and in mode ``"feedback"`` it makes the error ``-dC/ds`` too, of the state in each sweep; complex
            nudges are then refused.
        low, high: range of targets and voltages; errors reach from ``low - high`` to ``high - low``.
        follows_cells: whether the source is made of such cells as the weights, and drifts with them: its gains take the
            factor ``Chip.common_drift()``.
        mode: ``"feedback"``, a force that follows the state as the nudge does (a conductance to the target, for a
            squared error); ``"current"``, held at its value at the free equilibrium as it was read; or ``"clamp"``.
        clamp_conductance: through which a clamp holds, in units of the output unit's own; None for an ideal one.
    """

    gain_std: float = 0.0
    offset_mean: float = 0.0
    offset_std: float = 0.0
    output_conductance: float = 0.0
    bits: int | None = None
    low: float = 0.0
    high: float = 1.0
    mode: str = "feedback"
    follows_cells: bool = False
    clamp_conductance: float | None = None

    def __post_init__(self) -> None:
        for name in ("gain_std", "offset_std", "output_conductance"):
            require_number(f"NudgeSource.{name}", getattr(self, name), least=0.0)
        require_number("NudgeSource.offset_mean", self.offset_mean)
        require_number("NudgeSource.low", self.low)
        require_number("NudgeSource.high", self.high, above=self.low)
        if self.bits is not None:
            _require_bits("NudgeSource.bits", self.bits)
        if self.clamp_conductance is not None:
            require_number("NudgeSource.clamp_conductance", self.clamp_conductance, above=0.0)
        lookup("NudgeSource.mode", self.mode, _MODES)
        require_flags(self, "follows_cells")
        if self.follows_cells and self.mode == "clamp":
            raise ConfigError(
                "NudgeSource: got follows_cells=True and mode='clamp', whose voltage no cell makes, needed a force; "
                "write follows_cells=False, or mode='feedback'"
            )

    def draw(self, shape: Sequence[int], streams: Streams, like: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset of every output unit, of the shape of the output layer."""
        gain, offset = like.new_ones(tuple(shape)), like.new_full(tuple(shape), self.offset_mean)
        if self.gain_std:
            gain = gain + self.gain_std * streams.normal("nudge.gain", (), shape, like)
        if self.offset_std:
            offset = offset + self.offset_std * streams.normal("nudge.offset", (), shape, like)
        return gain, offset

    def free_output(self, rest: Tensor | None, rows: int) -> Tensor:
        """The output at the free equilibrium as read, ``[rows, *shape]``: what modes ``current`` and ``clamp`` hold.

        Raises:
            ConfigError: no free phase was read in this pass.
        """
        if rest is None:
            raise ConfigError(
                f"NudgeSource: got mode={self.mode!r} and a rule without a free phase, whose output it would hold; "
                "write mode='feedback', or use EquilibriumPropagation"
            )
        return rest if len(rest) == rows else torch.cat([rest] * (rows // len(rest)))

    def converted_error(self, error: Tensor) -> Tensor:
        """Errors ``-dC/ds`` as the converter makes them, in the shape of ``error``."""
        reach = self.high - self.low
        return error if self.bits is None else quantised(error, -reach, reach, self.bits)

    def converted(self, target: Tensor) -> Tensor:
        """Targets as the converter makes them, in the shape of ``target``.

        Raises:
            DataError: targets outside its range (looked at on the CPU, where that costs no wait).
        """
        if self.bits is None:
            return target
        require_within("nudge source: got targets", target, self.low, self.high, "its converter", "NudgeSource")
        return quantised(target, self.low, self.high, self.bits)


def _pulls_to_target(nudge: CostNudge | ComplexCostNudge) -> bool:
    return isinstance(nudge.cost, SquaredError) and nudge.readout is None


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
        if source.mode == "current":
            unit = copy.copy(nudge)
            unit.beta = torch.ones_like(nudge.beta)
            error = source.converted_error(unit.force(source.free_output(rest, len(nudge.target))))
            self._held = gain * self._spread(nudge.beta) * error
        elif source.bits is not None and not _pulls_to_target(nudge):
            self._nudge = _ConvertedForce(nudge, source)
        elif source.bits is not None:
            self._nudge = copy.copy(nudge)
            self._nudge.target = source.converted(nudge.target)

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


class _ConvertedForce(CostNudge):
    """A nudge whose error ``-dC/ds`` a converter makes, at the state of each sweep."""

    def __init__(self, nudge: CostNudge, source: NudgeSource) -> None:
        self.__dict__.update(nudge.__dict__)
        self._strength, self.beta, self._source = nudge.beta, torch.ones_like(nudge.beta), source

    def force(self, s: Tensor) -> Tensor:
        error = self._source.converted_error(super().force(s))
        return self._strength.reshape(len(s), *[1] * (s.dim() - 1)) * error


class SourcedClamp:
    """A voltage at which a source holds the output layer.

    Args:
        layers: that are held.
        value: as the rule meant it, ``[batch, *shape]``.
        source: its faults.
        gain, offset: of every output unit.

    Attributes:
        held: layers that have no say of their own: those of an ideal clamp.
    """

    def __init__(self, layers: Set[int], value: Tensor, source: NudgeSource, gain: Tensor, offset: Tensor) -> None:
        self.layers, self._source = layers, source
        self.held: Set[int] = layers if source.clamp_conductance is None else frozenset()
        if source.bits is not None:
            value = quantised(value, source.low, source.high, source.bits)
        self._value = gain * value + offset

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        """New state of the output layer."""
        g = self._source.clamp_conductance
        if g is None:
            return self._value
        return rho.inplace(z).add(self._value, alpha=g).div_(1.0 + g + self._source.output_conductance)


class SourcedComplexNudge:
    """A complex nudge by cost, as if a source could make one: see ``SourcedNudge``."""

    def __init__(
        self, nudge: ComplexCostNudge, source: NudgeSource, gain: Tensor, offset: Tensor, rest: Tensor | None
    ) -> None:
        self.layers: Set[int] = nudge.layers
        if source.mode == "clamp":
            raise ConfigError(
                "NudgeSource: got mode='clamp' and a complex nudge, needed a real voltage; write contour='centred', or "
                "mode='feedback'"
            )
        self._gain, self._load = gain, source.output_conductance
        self._offset = torch.stack([offset, torch.zeros_like(offset)])
        self._held: Tensor | None = None
        self._nudge = nudge
        if source.mode == "current":
            error = source.converted_error(nudge.unit_force(source.free_output(rest, len(nudge.target))))
            self._held = torch.cat([part.reshape(len(error), *[1] * gain.dim()) * error for part in nudge.beta])
        elif source.bits is not None:
            if not _pulls_to_target(nudge):
                raise ConfigError(
                    f"NudgeSource: got bits={source.bits}, a complex nudge and the cost {nudge.cost.name!r} without a "
                    "target that the output is pulled to, which a converter could make; write contour='centred', or "
                    "mode='current'"
                )
            self._nudge = copy.copy(nudge)
            self._nudge.target = source.converted(nudge.target)

    def force(self, s: Tensor) -> Tensor:
        """What the source adds to the input of the output layer at the stacked state ``s [2 * batch, *shape]``."""
        force = self._gain * (self._nudge.force(s) if self._held is None else self._held) - self._load * s
        batch = len(s) // 2
        return (force.unflatten(0, (2, batch)) + self._offset[:, None]).flatten(0, 1)


def clamp(
    nudge: CostNudge | ClampNudge, source: NudgeSource, gain: Tensor, offset: Tensor, rest: Tensor | None
) -> SourcedClamp:
    """The clamp that a source makes of a nudge.

    Raises:
        ConfigError: a nudge by cost without a free phase before it.
    """
    if isinstance(nudge, ClampNudge):
        return SourcedClamp(nudge.layers, nudge.value, source, gain, offset)
    value = source.free_output(rest, len(nudge.target))
    return SourcedClamp(nudge.layers, value + nudge.force(value), source, gain, offset)
