"""Equilibrium propagation: the gradient from a free and a few nudged equilibria."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eqprop._contours import Points, contour
from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, State
from eqprop._nudge import CostNudge
from eqprop._relax import Solution, Stop, Sweeps, relax
from eqprop._rule import Rule, RuleStep, Sample, add_readout_gradient, at_equilibrium
from eqprop._solvers import Solver


@dataclass(frozen=True, kw_only=True)
class EquilibriumPropagation(Rule):
    """Equilibrium propagation, as contour x readout.

    With the total energy ``E + beta C`` (``beta > 0`` lowers the loss) and ``s_beta`` its equilibrium,

        dL/dtheta = d/dbeta [dE/dtheta + beta dC/dtheta](s_beta) at beta = 0
                  ~ sum_k w_k dE/dtheta(s_k)                              contrast
                  ~ -(d inputs/dtheta at s_0)^T sum_k w_k s_k             tangent

    The contrast readout needs an energy; the tangent readout also serves vector fields (untied weights), where it is
    biased by the asymmetry of the Jacobian. Nudged phases start from the free equilibrium and, on an ideal network,
    relax together as one batch.

    Args:
        beta: nudge strength, other than 0.
        contour: ``"centred"``, ``"one-sided"`` or ``"random-sign"``, see ``eqprop.contour``.
        readout: ``"contrast"`` or ``"tangent"``.
        nudged: when a nudged phase ends.
        nudged_solver: solver of the nudged phases; None for that of the free phase.
        exclude_unconverged: leave samples out of the gradient whose free or nudged phase did not converge.
        seed: of the random signs.

    Source: Scellier & Bengio 2017 (one-sided); Laborieux et al. 2021 (centred); Scellier et al. 2018 (vector fields);
    Laborieux & Zenke 2024 (tangent readout).
    """

    beta: float = 0.1
    contour: str = "centred"
    readout: str = "contrast"
    nudged: Stop | Sweeps = Stop(tol=1e-4, max_sweeps=100, block=5)
    nudged_solver: Solver | None = None
    exclude_unconverged: bool = False
    seed: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        contour(self.contour, self.beta)
        if self.readout not in ("contrast", "tangent"):
            raise ConfigError(f"readout: got {self.readout!r}, needed 'contrast' or 'tangent'")
        self.generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to draw the same random signs."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Undoes ``state_dict``."""
        self.generator.set_state(state["generator"])

    @torch.no_grad()
    def backward(self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None) -> RuleStep:
        if self.readout == "contrast" and not network.has_energy:
            raise ConfigError(
                f"readout: 'contrast' needs an energy and {type(network).__name__} has none; write readout='tangent'"
            )
        drive = network.drive(x)
        free = self._settle_exactly(network, drive, start)
        rest = network.measure(free.state, 0)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        points = contour(self.contour, self.beta).points(len(sample.loss), sample.loss, self.generator)
        nudged, measured = self._nudged_phases(network, drive, free, sample, points)
        weight, counted = self._sample_weights(free, nudged, sample.loss)
        if counted is not None:
            rest = network.select(counted, rest, tuple(torch.zeros_like(s) for s in rest))
            folded = counted.repeat(len(points.betas))
            measured = network.select(folded, measured, tuple(torch.zeros_like(s) for s in measured))
        self._add_gradient(network, drive.x, rest, measured, points, weight)
        add_readout_gradient(network, self.loss_function, sample, rest, weight)
        return RuleStep((sample.loss * weight).sum(), sample.output, free, nudged, counted)

    def _settle_exactly(self, network: Network, drive: Drive, start: State | None) -> Solution:
        free = self.settle(network, drive, start)
        if self.products is not None and (self.readout == "tangent" or self.contour != "centred"):
            # the free state itself enters the readout: without full-precision sweeps at the end the gradient is noise
            stop = self.free if isinstance(self.free, Stop) else Stop(self.free.tol)
            free = relax(network, free.state, drive, solver=self.solver, stop=stop)
        return free

    def _nudged_phases(
        self, network: Network, drive: Drive, free: Solution, sample: Sample, points: Points
    ) -> tuple[tuple[Solution, ...], State]:
        """The nudged solutions, one a phase, and their measured states folded along the batch."""
        solver = self.solver if self.nudged_solver is None else self.nudged_solver
        phases = len(points.betas)
        options: dict[str, Any] = {"solver": solver, "stop": self.nudged}
        if network.stacks_phases:
            nudge = CostNudge(network, self.loss_function, sample.target.repeat(phases, 1), points.betas.reshape(-1, 1))
            state = network.repeat_state(free.state, phases)
            network.begin_phase(1)
            solution = relax(network, state, network.repeat_drive(drive, phases), nudge, **options)
            return solution.split(phases, network), network.measure(solution.state, 1)
        solutions, measured = [], []
        for k in range(phases):
            nudge = CostNudge(network, self.loss_function, sample.target, points.betas[k][:, None])
            network.begin_phase(k + 1)
            solutions.append(relax(network, free.state, drive, nudge, **options))
            measured.append(network.measure(solutions[-1].state, k + 1))
        return tuple(solutions), network.join_states(measured)

    def _sample_weights(
        self, free: Solution, nudged: tuple[Solution, ...], loss: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Weight of each sample in the batch mean, and the mask of counted samples where some may be left out."""
        if not self.exclude_unconverged:
            return torch.full_like(loss, 1 / len(loss)), None
        counted = free.converged
        for solution in nudged:
            counted = counted & solution.converged
        mask = counted.to(loss.dtype)
        return mask / mask.sum().clamp(min=1), counted

    def _add_gradient(
        self, network: Network, x: Tensor, rest: State, measured: State, points: Points, weight: Tensor
    ) -> None:
        phases = len(points.betas)
        weights = points.weights * weight
        if self.readout == "contrast":
            if points.free_weight is not None:
                measured = network.join_states([*network.split_state(measured, phases), rest])
                weights = torch.cat([weights, (points.free_weight * weight)[None]])
                phases += 1
            network.add_contrast_gradient(measured, weights.reshape(-1), x, phases)
            return
        # sum_k w_k s_k with sum_k w_k + w_free = 0: taken from the free state, so that nothing large cancels
        direction = []
        for s, s0, shape in zip(measured, rest, network.shapes, strict=True):
            w = weights.reshape(weights.shape + (1,) * len(shape))
            direction.append(-(w * (s.unflatten(0, (phases, -1)) - s0)).sum(0))
        network.add_tangent_gradient(rest, tuple(direction), x)
