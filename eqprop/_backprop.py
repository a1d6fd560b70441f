"""Gradients by automatic differentiation: truncated backpropagation through time, and the feed-forward twin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import Drive, Network, State
from eqprop._relax import relax
from eqprop._rule import Rule, RuleStep, at_equilibrium
from eqprop._solution import Solution, Status
from eqprop._stop import Sweeps


@dataclass(frozen=True, kw_only=True)
class TruncatedBPTT(Rule):
    """Backpropagation through the last ``steps`` sweeps, started at the free equilibrium.

    Memory grows with ``steps``. Centred or one-sided EP with as many nudged sweeps gives the same gradient as beta -> 0
    on tied networks: synchronous sweeps in both, or alternating ones here and ``Alternating(reverse=True)`` there.

    Args:
        steps: sweeps that are differentiated.

    Source: Ernoult et al. 2019, Theorem 1 (the match with EP).
    """

    steps: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"TruncatedBPTT: got steps={self.steps}, needed at least 1")

    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        with torch.no_grad():
            free = self.settle(network, network.drive(x), start)
        with torch.enable_grad():
            drive = network.drive(x)
            state = tuple(s.detach() for s in free.state)
            unrolled = relax(network, state, drive, solver=self.solver, stop=Sweeps(self.steps), unroll=True)
            sample = at_equilibrium(network, self.loss_function, unrolled.state, y)
            loss = sample.loss.mean()
            loss.backward()
        return RuleStep(loss.detach(), sample.output.detach(), free, _detached(drive))


@dataclass(frozen=True, kw_only=True)
class Backprop(Rule):
    """Plain backpropagation on the feed-forward twin: the same parameters, only connections to later layers acting.

    Predictions of a network trained this way are those of the twin: use ``rule.predict``, not ``network.predict``.
    """

    def settle(self, network: Network, drive: Drive, start: State | None) -> Solution:
        """The forward pass, as a solution of one sweep."""
        if not isinstance(network, GraphNetwork):
            raise ConfigError(
                f"Backprop: {type(network).__name__} has no feed-forward twin; use ImplicitGradient or TruncatedBPTT, "
                "or a HopfieldNetwork or DirectedNetwork"
            )
        state = network.forward_pass(drive)
        zero = torch.zeros(len(drive.x), device=drive.x.device)
        one = torch.ones_like(zero, dtype=torch.int32)
        return Solution(state, zero, one, torch.full_like(zero, Status.CONVERGED, dtype=torch.int8), zero)

    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        with torch.enable_grad():
            drive = network.drive(x)
            free = self.settle(network, drive, start)
            sample = at_equilibrium(network, self.loss_function, free.state, y)
            loss = sample.loss.mean()
            loss.backward()
        free = replace(free, state=tuple(s.detach() for s in free.state))
        return RuleStep(loss.detach(), sample.output.detach(), free, _detached(drive))


def _detached(drive: Drive) -> Drive:
    return Drive(tuple(term.detach() for term in drive.terms), drive.x)
