"""P-CRITICAL: local plasticity that holds the branching of every neuron near one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import require_number
from snn._neurons import States
from snn._plasticity import Plasticity
from snn._prepared import Learner
from snn._projection import Projection
from snn._records import LiquidState


@dataclass(frozen=True, repr=False)
class PCritical(Plasticity):
    """Every neuron ``j`` has a paired one, which its targets drive backwards: it fires when they follow too much.

    At the end of every step (NECOTIS, arXiv 2009.05593, and their code), with the spikes ``S`` of that step, the steps
    ``t`` of the last spikes and the spikes ``P_j = [v_j > threshold + alpha]`` of the paired neurons::

        w_ij <- clip(w_ij + beta - alpha P_j exp(sign |t_i - t_j| dt / tau_v), 0, limit)     j excitatory
        c_j <- c_j + sum_i w_ij S_i,   v_j <- v_j + c_j
        v_j <- exp(-dt / tau_v) v_j,  0 where P_j;   c_j <- exp(-dt / tau_i) c_j

    Synapses of inhibitory neurons and of the input stay as they are. Ours: every sample has weights of its own, where
    they share those of a batch; the current of a step goes through the weights before its change; and paired neurons
    integrate in the refractory period too. At batch 1 it is their rule otherwise.

    The exponent is positive in their code (``sign=1``): where neurons fire further apart than ``tau_v`` one spike of a
    paired neuron empties its synapses, and a small, quiet liquid stays below one. With ``sign=-1``, ours, pairs count
    the less the further apart they are, and 100 neurons at 20 Hz come to a local branching factor of 0.9 to 1.0 from
    0.8 and from 1.1.

    Attributes:
        alpha: what a spike of a paired neuron takes; 0.025, and 0.01 for N-MNIST.
        beta: what a step gives back; 0.00025, and 0.001 for N-MNIST.
        threshold: of the liquid's neurons, without alpha.
        tau_v_seconds, tau_i_seconds: of paired neurons, those of the liquid's neurons and synapses.
        limit: highest weight.
        sign: of the exponent, 1 or -1.

    Raises:
        ConfigError: values that cannot be.
    """

    alpha: float = 0.025
    beta: float = 0.00025
    threshold: float = 1.0
    tau_v_seconds: float = 0.05
    tau_i_seconds: float = 0.001
    limit: float = 1.0
    sign: int = 1

    of_input = False
    by_events = False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            require_number(f"PCritical.{name}", getattr(self, name), least=0.0)
        for name in ("threshold", "tau_v_seconds", "tau_i_seconds", "limit"):
            require_number(f"PCritical.{name}", getattr(self, name), above=0.0)
        if self.sign not in (1, -1):
            raise ConfigError(f"PCritical.sign: got {self.sign!r}, needed 1 (as coded by its authors) or -1")

    def bounds(self) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        return (0.0, self.limit), (-math.inf, 0.0), (-math.inf, math.inf)

    def learner(self, recurrent: Projection, entry: Projection | None, dt_seconds: float) -> Learner:
        return _PCriticalLearner(self, recurrent, dt_seconds)


class _PCriticalLearner:
    def __init__(self, rule: PCritical, recurrent: Projection, dt_seconds: float) -> None:
        self.rule, self.recurrent = rule, recurrent
        self.rate = dt_seconds / rule.tau_v_seconds
        self.keep_v, self.keep_i = math.exp(-self.rate), math.exp(-dt_seconds / rule.tau_i_seconds)
        self.order = torch.argsort(recurrent.pre, stable=True)
        self.lengths = torch.bincount(recurrent.pre, minlength=recurrent.sources)
        self.learns = (recurrent.key < recurrent.neurons).to(recurrent.like)[:, None]  # from excitatory neurons

    def initial(self, batch: int) -> States:
        return {n: self.recurrent.like.new_zeros(self.recurrent.sources, batch) for n in ("paired", "current", "last")}

    def step(self, state: LiquidState, spikes: Tensor, arrived: Tensor | None) -> None:
        rule, synapses, own = self.rule, self.recurrent, state.extra
        v, current, last, weight = own["paired"], own["current"], own["last"], state.synapse["weight"]
        fires = (v > rule.threshold + rule.alpha).to(v.dtype)
        last.lerp_(torch.full_like(last, state.step), spikes)
        gap = (last.index_select(0, synapses.post) - last.index_select(0, synapses.pre)).abs_()
        # beyond exp(60) every weight is 0 in any case, and infinity times 0 would not be a number
        taken = gap.mul_(rule.sign * self.rate).clamp_(max=60.0).exp_().mul_(fires.index_select(0, synapses.pre))
        weight.add_(taken.mul_(-rule.alpha).add_(rule.beta).mul_(self.learns))
        torch.clamp(weight, synapses.low[:, None], synapses.high[:, None], out=weight)
        children = (weight * spikes.index_select(0, synapses.post)).index_select(0, self.order)
        current.add_(synapses.sums(children, self.lengths))
        v.add_(current).mul_(self.keep_v).mul_(1.0 - fires)
        current.mul_(self.keep_i)
