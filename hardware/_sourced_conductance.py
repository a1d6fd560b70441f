"""The nudge of a circuit as a real source makes it."""

from __future__ import annotations

from torch import Tensor

from eqprop._activations import Activation
from eqprop._contrastive import ClampNudge
from eqprop._nudge import CostNudge
from hardware._nudge_conductance import NudgeConductance
from hardware._nudge_source import NudgeSource, SourcedClamp


class SourcedConductance(NudgeConductance):
    """A nudge conductance with the faults of ``NudgeSource``, in SI units:

        i = gain R^T beta (y - o) + offset - output_conductance v       amperes into output nodes at voltages v

    Still the exact block minimum. In mode ``"current"`` the first term is held at its value at the free equilibrium as
    it was read.

    Args:
        nudge: as the rule meant it, with ``beta`` in siemens.
        source: its faults.
        gain, offset: of every output node.
        rest: the output nodes at the free equilibrium as read, ``[batch, nodes]``; for mode ``"current"``.
    """

    def __init__(
        self, nudge: CostNudge, source: NudgeSource, gain: Tensor, offset: Tensor, rest: Tensor | None
    ) -> None:
        super().__init__(nudge)
        self._gain, self._offset, self._load = gain, offset, source.output_conductance
        self._held: Tensor | None = None
        if source.mode == "current":
            error = source.converted_error(self.target - self._output(source.free_output(rest, len(nudge.target))))
            self._held = gain * self._back(self.beta * error)
        elif source.bits is not None:
            self.target = source.converted(nudge.target)

    def settle(self, z: Tensor, resistance: Tensor) -> Tensor:
        z = z.add_(self._offset) if self._held is None else z.add_(self._offset).add_(self._held)
        if self._load:
            resistance = resistance / (1 + self._load * resistance)
        v = z.mul_(resistance)
        return v if self._held is not None else self._loaded(v, resistance * self._gain)

    def force(self, s: Tensor) -> Tensor:
        current = self._gain * super().force(s) if self._held is None else self._held
        return current + self._offset - self._load * s


class SourcedCircuitClamp(SourcedClamp):
    """A clamp of output nodes whose ``clamp_conductance`` and ``output_conductance`` are in siemens, offsets in volts.

    A nudge by cost is held at ``v_free + r i``, with ``i`` its current at the free equilibrium as it was read, and
    ``r`` the resistance of every output node, others held.
    """

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        g, resistance = self._source.clamp_conductance, rho.derivative(z)
        if g is None:
            return self._value
        return (z + g * self._value) * resistance / (1 + (g + self._source.output_conductance) * resistance)

    def force(self, s: Tensor) -> Tensor:
        """The current into every output node at the voltages ``s``, A; of a clamp that is not ideal."""
        return (self._source.clamp_conductance or 0.0) * (self._value - s) - self._source.output_conductance * s


def circuit_clamp(
    nudge: CostNudge | ClampNudge,
    source: NudgeSource,
    gain: Tensor,
    offset: Tensor,
    rest: Tensor | None,
    resistance: Tensor,
) -> SourcedCircuitClamp:
    """The clamp that a source makes of a nudge.

    Args:
        nudge: as the rule meant it.
        source: its faults.
        gain, offset: of every output node.
        rest: the output nodes at the free equilibrium as read, ``[batch, nodes]``.
        resistance: of every output node, ohms.

    Raises:
        ConfigError: a nudge by cost without a free phase before it.
    """
    if isinstance(nudge, ClampNudge):
        return SourcedCircuitClamp(nudge.layers, nudge.value, source, gain, offset)
    free = source.free_output(rest, len(nudge.target))
    return SourcedCircuitClamp(nudge.layers, free + resistance * nudge.force(free), source, gain, offset)
