"""Contrastive Hebbian learning and coupled learning: the output is held, instead of pulled by a force."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._activations import Activation
from eqprop._contours import contour
from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, Phase, State
from eqprop._phases import PhasedRule, cleared, groups, mean_loss, only, require_energy, settle_in_full, with_samples
from eqprop._relax import relax
from eqprop._rule import RuleStep, Sample, add_readout_gradient, at_equilibrium, loss_gradient
from eqprop._solution import Solution


class ClampNudge:
    """Holds the output layer at given values; every other layer relaxes freely.

    Args:
        network: gives the output layer.
        value: what the output is held at, ``[batch, *output_shape]``.
    """

    def __init__(self, network: Network, value: Tensor) -> None:
        self.layers: Set[int] = frozenset((len(network.shapes) - 1,))
        self.held = self.layers  # without noise of their own
        self.value = value

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        return self.value


@dataclass(frozen=True)
class _Hold:
    """Values that the output is held at, one phase each, and the weights of the phases in the contrast."""

    values: Sequence[Tensor]
    weights: tuple[float, ...]
    free_weight: float


@dataclass(frozen=True, kw_only=True)
class _ClampedRule(PhasedRule):
    def _holds(self, network: Network, sample: Sample, rest: State) -> _Hold:
        raise NotImplementedError

    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        require_energy(type(self).__name__, network)
        drive = network.drive(x)
        free = settle_in_full(self, network, drive, start)
        rest = network.measure(free.state, 0)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        hold = self._holds(network, sample, rest)
        phases, nudged = self._clamped_phases(network, drive, free, hold, sample.loss)
        if hold.free_weight:
            phases.append(Phase(rest, torch.full_like(sample.loss, hold.free_weight), 1))
        weight, counted = self.sample_weights(sample.loss, free, nudged)
        network.add_contrast_gradient([with_samples(p, weight, counted) for p in phases], drive.x)
        kept = only(sample, counted)
        if counted is not None:
            rest = cleared(rest, counted)
        add_readout_gradient(network, self.loss_function, kept, rest, weight)
        return RuleStep(mean_loss(kept.loss, weight), sample.output, free, drive, nudged, counted)

    def _clamped_phases(
        self, network: Network, drive: Drive, free: Solution, hold: _Hold, loss: Tensor
    ) -> tuple[list[Phase], tuple[Solution, ...]]:
        """The measured equilibria with their weights, and the solutions, one a phase."""
        phases: list[Phase] = []
        solutions: list[Solution] = []
        for group in groups(len(hold.values), network.stacks_phases):
            k, first = len(group), group.start + 1
            value = torch.cat(list(hold.values[group.start : group.stop]))
            # the output is in place from the start, so that no solver has to carry it there
            state = (*network.repeat_state(free.state, k)[:-1], value)
            solution = relax(
                network,
                state,
                network.begin_phases(range(first, first + k), network, drive),
                ClampNudge(network, value),
                solver=self.solver if self.nudged_solver is None else self.nudged_solver,
                stop=self.nudged,
                graphs=self.graphs,
            )
            weights = torch.cat([torch.full_like(loss, w) for w in hold.weights[group.start : group.stop]])
            phases.append(Phase(network.measure(solution.state, first), weights, k))
            solutions += solution.split(k, network)
        return phases, tuple(solutions)


@dataclass(frozen=True, kw_only=True)
class ContrastiveHebbian(_ClampedRule):
    """Contrastive Hebbian learning: the output is clamped to the target.

        g = dE/dtheta(s_clamped) - dE/dtheta(s_free)

    with ``s_clamped`` the equilibrium of all other layers under the output ``s_out = y``, ``[batch, *output_shape]``.
    It descends the contrastive function ``E(s_clamped) - E(s_free)``, batch mean, not the loss, which only serves as a
    record. The function is zero where the free network gives the target; it may fall below zero while the error
    stays, if the clamped phase ends in a deeper basin than the free one (Movellan 1991).

    Needs an energy and a target that the output layer can be set to: no readout outside the dynamics.

    Raises:
        ConfigError: a network without an energy, or with a readout; a target of another size than the output layer is a
            ``DataError``.

    Source: Movellan 1991; its relation to backpropagation: Xie & Seung 2003.
    """

    def _holds(self, network: Network, sample: Sample, rest: State) -> _Hold:
        if network.readout is not None:
            raise ConfigError(
                "ContrastiveHebbian: the output is a readout outside the dynamics, which cannot be clamped; use "
                "CoupledLearning or EquilibriumPropagation, or a network whose last layer is the output (readout=None)"
            )
        return _Hold([sample.target.reshape(rest[-1].shape)], (1.0,), -1.0)


@dataclass(frozen=True, kw_only=True)
class CoupledLearning(_ClampedRule):
    """Coupled learning: the output is clamped a little towards the target, ``s_out(b) = s_out - b dC/ds_out``.

        one-sided   g = [dE/dtheta(s(beta)) - dE/dtheta(s_free)] / beta
        centred     g = [dE/dtheta(s(beta)) - dE/dtheta(s(-beta))] / (2 beta)

    ``s(b)`` is the equilibrium of all other layers with the output held at ``s_out(b)``, ``[batch, *output_shape]``.
    For a squared error ``s_out(b) = (1 - b) s_out + b y``: ``beta = 1`` one-sided is contrastive Hebbian learning. As
    ``beta -> 0`` the two agree, to O(beta) and O(beta^2), but not with the gradient of the loss: a held output moves by
    ``dC/ds_out`` where a nudged one moves by the network's own response to that force, so that ``g`` is the gradient in
    another metric of the output. Held values may leave the range of the activation; they are not projected. The
    readout outside the dynamics, where there is one, has its exact gradient.

    Args:
        beta: share of the way (``eta`` of Stern et al.), other than 0.
        contour: ``"one-sided"`` or ``"centred"``.

    Raises:
        ConfigError: a network without an energy, or another contour.

    Source: Stern et al. 2021 (one-sided); Scellier et al. 2023 (centred).
    """

    beta: float = 0.1
    contour: str = "centred"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contour not in ("one-sided", "centred"):
            raise ConfigError(f"contour: got {self.contour!r}, needed 'one-sided' or 'centred' for CoupledLearning")
        contour(self.contour, self.beta)

    def _holds(self, network: Network, sample: Sample, rest: State) -> _Hold:
        shape = contour(self.contour, self.beta)
        step = loss_gradient(network, self.loss_function, sample, rest)
        return _Hold([rest[-1] - b * step for b in shape.betas], shape.weights, shape.free_weight)
