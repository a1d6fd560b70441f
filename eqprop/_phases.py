"""What rules with a free and a few further phases share: their settings, and the weight of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, Phase, State
from eqprop._relax import relax
from eqprop._rule import Rule, Sample, converged_everywhere
from eqprop._solution import Solution
from eqprop._solvers import Solver
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True, kw_only=True)
class PhasedRule(Rule):
    """Base of rules with phases after (or instead of) the free one.

    Args:
        nudged: when such a phase ends.
        nudged_solver: its solver; None for that of the free phase.
        exclude_unconverged: leave samples out of the gradient of which a phase did not converge.
    """

    nudged: Stop | Sweeps = Stop(tol=1e-4, max_sweeps=100, block=5)
    nudged_solver: Solver | None = None
    exclude_unconverged: bool = False

    def sample_weights(
        self, loss: Tensor, free: Solution, nudged: Sequence[Solution] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Weight of each sample in the batch mean, and the mask of counted samples where some may be left out."""
        if not self.exclude_unconverged:
            return torch.full_like(loss, 1 / len(loss)), None
        counted = converged_everywhere(free, nudged)
        return mean_weights(loss, counted), counted


def mean_weights(loss: Tensor, counted: Tensor) -> Tensor:
    """Weights of the mean over counted samples; all zero where there is none."""
    mask = counted.to(loss.dtype)
    return mask / mask.sum().clamp(min=1)


def mean_loss(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean loss of the counted samples; NaN where none counts, lest a run that never settles look perfect."""
    return (loss * weight).sum() / weight.sum()


def only(sample: Sample, counted: Tensor | None) -> Sample:
    """The sample with zeros where it is left out: a NaN times a weight of zero would still be NaN."""
    if counted is None:
        return sample
    return Sample(sample.output.where(counted[:, None], 0.0), sample.target, sample.loss.where(counted, 0.0))


def settle_in_full(rule: Rule, network: Network, drive: Drive, start: State | None) -> Solution:
    """The free phase of a rule whose readout sees the free state itself: it ends in full precision.

    After low-precision products it goes on to tolerance, also after ``Sweeps(n)``; the sweeps of both are counted.
    """
    free = rule.settle(network, drive, start)
    if rule.products is None:
        return free
    stop = rule.free if isinstance(rule.free, Stop) else Stop(rule.free.tol)
    full = relax(network, free.state, drive, solver=rule.solver, stop=stop, graphs=rule.graphs)
    return replace(full, sweeps=full.sweeps + free.sweeps)


def require_energy(rule: str, network: Network) -> None:
    """Raises ``ConfigError`` where the network has no energy to contrast."""
    if not network.has_energy:
        raise ConfigError(
            f"{rule}: contrasts two energies and {type(network).__name__} has none; use a HopfieldNetwork or an "
            "EnergyNetwork, or DyadicEP, or EquilibriumPropagation(readout='tangent')"
        )


def groups(phases: int, stacked: bool) -> list[range]:
    """Phases that relax together: all of them, or one at a time on some substrates."""
    return [range(phases)] if stacked else [range(k, k + 1) for k in range(phases)]


def with_samples(phase: Phase, weight: Tensor, counted: Tensor | None) -> Phase:
    """The phase with its weights multiplied by those of the samples."""
    copies = len(phase.weights) // len(weight)
    points = phase.points if counted is None else cleared(phase.points, counted.repeat(copies))
    return phase._replace(points=points, weights=phase.weights * weight.repeat(copies))


def cleared(state: State, keep: Tensor) -> State:
    """Zeros for samples that are left out: a NaN times a weight of zero would still be NaN."""
    return tuple(torch.where(keep.reshape(-1, *[1] * (s.dim() - 1)), s, 0.0) for s in state)
