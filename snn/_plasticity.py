"""Spike-timing dependent plasticity of NALSM: pairs by traces, depression by an astrocyte, gates by calcium."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import require_number
from hardware._printed import Printed
from snn._astrocyte import Astrocyte
from snn._neurons import States

if TYPE_CHECKING:
    from snn._prepared import Learner
    from snn._projection import Projection
    from snn._records import LiquidState


@dataclass(frozen=True, repr=False)
class Plasticity(Printed):
    """Base of rules that change the weights of a ``PlasticLiquid`` while it runs.

    Attributes:
        of_input: whether the synapses from the input learn too.
        by_events: whether weights change only where a neuron spikes, so that a CPU may leave the others alone.
    """

    of_input: ClassVar[bool] = True
    by_events: ClassVar[bool] = True

    def bounds(self) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        """Lowest and highest weight from excitatory neurons, from inhibitory ones, and from the input."""
        raise NotImplementedError

    def learner(self, recurrent: Projection, entry: Projection | None, dt_seconds: float) -> Learner:
        """What learns, for these synapses."""
        raise NotImplementedError

    def unfading(self) -> Plasticity:
        """The same rule with rates that do not fade over a sample, to initialise weights."""
        return self


@dataclass(frozen=True, repr=False)
class Calcium(Printed):
    """Gates by the activity of the postsynaptic neuron, as in NALSM's LSM with AP-STDP.

    ``C <- C - C dt / tau + s``. Weights are potentiated where ``threshold < C < threshold + width`` and depressed where
    ``threshold - width < C < threshold``. With 1 s, C is about a rate in Hz.

    Attributes:
        threshold, width: of the gates.
        tau_seconds: of the trace, 1 s in the authors' code.

    Raises:
        ConfigError: values that cannot be.
    """

    threshold: float
    width: float
    tau_seconds: float = 1.0

    def __post_init__(self) -> None:
        require_number("Calcium.threshold", self.threshold)
        require_number("Calcium.width", self.width, above=0.0)
        require_number("Calcium.tau_seconds", self.tau_seconds, above=0.0)

    def gates(self, level: Tensor, spikes: Tensor, dt_seconds: float) -> tuple[Tensor, Tensor]:
        """One step of C, in place, then gates 0 or 1 of potentiation and depression."""
        level.mul_(1.0 - dt_seconds / self.tau_seconds).add_(spikes)
        over = level - self.threshold
        up = torch.logical_and(over > 0, over < self.width)
        down = torch.logical_and(over < 0, over > -self.width)
        return up.to(level.dtype), down.to(level.dtype)


@dataclass(frozen=True, repr=False)
class NalsmPlasticity(Plasticity):
    """Pair STDP with traces, and depression at the rate of an astrocyte (Ivanov & Michmizos, NeurIPS 2021, their code).

    At the end of every step, with the spikes ``S`` of that step and the traces ``r`` before them::

        j excitatory or input:  w_ij <- clip(w_ij + P r_j S_i - D r_i S_j)
        j inhibitory:           w_ij <- clip(w_ij - D r_j S_i + P r_i S_j)
        r <- exp(-dt / tau) (r + increment S)
        D <- astrocyte, from the spikes of the liquid and of the input

    then P, D, gain and bias of the astrocyte fade by ``keep`` a millisecond. Weights of excitatory neurons stay in 0 ..
    limit, of inhibitory ones in -limit .. 0, and of the input in -limit .. limit. Traces and rates start anew with
    every sample; the authors carry traces on from sample to sample while weights are initialised
    (``PlasticLiquid.initialise`` does) and from batch to batch later, which would make a sample depend on others
    (nothing here does).

    Attributes:
        potentiation: P at the start of a sample.
        astrocyte: that of D; None for plain STDP, ``D = P``.
        calcium: gates by the postsynaptic activity, AP-STDP; None for none.
        limit: of weights.
        tau_seconds: of the traces.
        increment: of a trace by a spike.
        keep: what is left of all rates after a millisecond; 1 for rates that do not fade.

    Raises:
        ConfigError: values that cannot be.
    """

    potentiation: float = 0.15
    astrocyte: Astrocyte | None = Astrocyte()
    calcium: Calcium | None = None
    limit: float = 3.0
    tau_seconds: float = 0.01
    increment: float = 0.1
    keep: float = 0.99

    def __post_init__(self) -> None:
        require_number("NalsmPlasticity.potentiation", self.potentiation, least=0.0)
        require_number("NalsmPlasticity.limit", self.limit, above=0.0)
        require_number("NalsmPlasticity.tau_seconds", self.tau_seconds, above=0.0)
        require_number("NalsmPlasticity.increment", self.increment, least=0.0)
        require_number("NalsmPlasticity.keep", self.keep, least=0.0, most=1.0)

    def bounds(self) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        return (0.0, self.limit), (-self.limit, 0.0), (-self.limit, self.limit)

    def learner(self, recurrent: Projection, entry: Projection | None, dt_seconds: float) -> Learner:
        if entry is None:
            raise ConfigError("NalsmPlasticity: got a liquid without input weights, needed them: they learn too")
        return NalsmLearner(self, recurrent, entry, dt_seconds)

    def unfading(self) -> NalsmPlasticity:
        return replace(self, keep=1.0)


class NalsmLearner:
    """One step of learning after another, on states of every sample."""

    def __init__(self, rule: NalsmPlasticity, recurrent: Projection, entry: Projection, dt_seconds: float) -> None:
        self.rule, self.recurrent, self.entry, self.dt_seconds = rule, recurrent, entry, dt_seconds
        self.keep_trace = math.exp(-dt_seconds / rule.tau_seconds)
        self.fade = rule.keep ** (dt_seconds * 1e3)

    def initial(self, batch: int) -> States:
        like = self.recurrent.like
        states = {
            "trace": like.new_zeros(self.recurrent.sources, batch),
            "input_trace": like.new_zeros(self.entry.sources, batch),
        }
        if self.rule.astrocyte is not None:
            states["astrocyte"] = self.rule.astrocyte.initial(states["trace"])
        if self.rule.calcium is not None:
            states["calcium"] = torch.zeros_like(states["trace"])
        return states

    def step(self, state: LiquidState, spikes: Tensor, arrived: Tensor | None) -> None:
        rule, own = self.rule, state.extra
        sent = torch.zeros_like(own["input_trace"]) if arrived is None else arrived  # None: a run on currents alone
        trace, scale = own["trace"], self.fade**state.step
        up: float | Tensor = rule.potentiation * scale
        down: float | Tensor = up if rule.astrocyte is None else own["astrocyte"]
        if rule.calcium is not None:
            gates = rule.calcium.gates(own["calcium"], spikes, self.dt_seconds)
            up, down = gates[0] * up, gates[1] * down
        grow, shrink = spikes * up, trace * down
        q = torch.cat([grow, (spikes * down).neg_()])  # by excitatory, then by inhibitory presynaptic neurons
        t = torch.cat([shrink.neg_(), trace * up])
        neurons = len(spikes)
        self.recurrent.change(state.synapse, spikes, trace, spikes, q, t)
        self.entry.change(state.input_synapse, sent, own["input_trace"], spikes, q[:neurons], t[:neurons])
        for values, by in ((trace, spikes), (own["input_trace"], sent)):
            values.add_(by, alpha=rule.increment).mul_(self.keep_trace)
        if rule.astrocyte is not None:
            level = own["astrocyte"]
            rule.astrocyte.step(level, spikes, sent, scale, self.dt_seconds)
            level.mul_(self.fade)
