"""Equilibrium propagation: the gradient from a free and a few nudged equilibria."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from eqprop._complex import ComplexCostNudge, ComplexSystem
from eqprop._contours import CONTOURS, Contour, Turn, contour
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._linear_response import LinearResponse
from eqprop._names import lookup
from eqprop._network import Drive, Network, Phase, State, System
from eqprop._nudge import CostNudge
from eqprop._pairs import halves
from eqprop._phases import PhasedRule, cleared, groups, mean_loss, only, settle_in_full, with_samples
from eqprop._relax import relax
from eqprop._rule import (
    RuleStep,
    Sample,
    add_readout_gradient,
    at_equilibrium,
    loss_gradient,
)
from eqprop._solution import Solution

_ORDERS = ("forward", "reversed", "alternating")


class Equilibria(NamedTuple):
    """The relaxations of a step: what every readout starts from."""

    drive: Drive
    free: Solution
    rest: State  # the free equilibrium as measured
    sample: Sample
    phases: list[Phase]  # measured equilibria with the weights of the contour
    nudged: tuple[Solution, ...]


@dataclass(frozen=True, kw_only=True)
class EquilibriumPropagation(PhasedRule):
    """Equilibrium propagation, as contour x readout x correction.

    With the total energy ``E + beta C`` (``beta > 0`` lowers the loss) and ``s_beta`` its equilibrium,

        dL/dtheta = d/dbeta [dE/dtheta + beta dC/dtheta](s_beta) at beta = 0
                  ~ sum_k w_k dE/dtheta(s_k)                              contrast
                  ~ -(d inputs/dtheta at s_0)^T sum_k w_k s_k             tangent

    The contrast readout needs an energy; the tangent readout also serves vector fields (untied weights), where it is
    biased by the asymmetry of the Jacobian unless the nudged phases are corrected. Nudged phases start from the free
    equilibrium and relax together as one batch, but on substrates where more than dense weights differs between them;
    complex ones as stacked real pairs.

    Args:
        beta: nudge strength, other than 0.
        contour: ``"centred"``, ``"one-sided"``, ``"random-sign"``, ``"alternating-sign"`` or ``"cauchy"``, see
            ``eqprop.contour``; or ``"derivative"``, the exact ``ds/dbeta`` at 0 by ``nudged`` sweeps of the linearised
            dynamics (the limit of infinitely many points).
        points: ``N`` of the Cauchy contour (holomorphic EP); the others, whose one or two nudges are fixed, take no
            number but their own or the default.
        order: of the nudged phases of a centred contour, which matters where a substrate drifts from one to the next:
            ``"forward"`` (``beta``, then ``-beta``), ``"reversed"``, or ``"alternating"``, the one and the other from
            step to step, so that the bias of a steady drift changes sign.
        readout: ``"contrast"`` or ``"tangent"``.
        correction: None, or ``"asymep"``: nudged phases relax with the transposed Jacobian around the free state,
            ``s <- rho(inputs(s_0) + H^T (s - s_0) + force)``, whose response is the true adjoint whatever the
            asymmetry; with the Cauchy contour the gradient of an untied network is exact at a finite nudge. Where
            inputs are affine (dense connections, average or no pooling) this is the published ``s <- rho(inputs(s) -
            (H - H^T)(s - s_0) + force)``; elsewhere it is to first order in ``s - s_0``.
        nudged: when a nudged phase ends.
        nudged_solver: solver of the nudged phases; None for that of the free phase.
        exclude_unconverged: leave samples out of the gradient whose free or nudged phase did not converge.
        seed: of the random signs.

    Source: Scellier & Bengio 2017 (one-sided); Laborieux et al. 2021 (centred); Laborieux & Zenke 2022 (Cauchy
    contour); Scellier et al. 2018, Laborieux & Zenke 2024 (vector fields, tangent readout); Scurria et al. 2026
    (AsymEP).
    """

    beta: float = 0.1
    contour: str = "centred"
    points: int = 2
    order: str = "forward"
    readout: str = "contrast"
    correction: str | None = None
    seed: int = 0
    by_share: ClassVar[bool] = True
    generator: torch.Generator = field(default_factory=torch.Generator, init=False, repr=False, compare=False)
    turn: Turn = field(default_factory=Turn, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("contour", self.contour, dict.fromkeys((*CONTOURS, "derivative")))
        lookup("readout", self.readout, {"contrast": None, "tangent": None})
        if self.correction is not None:
            lookup("correction", self.correction, {"asymep": None})
        if self.correction is not None and self.readout != "tangent":
            raise ConfigError(
                f"correction: {self.correction!r} relaxes other dynamics in the nudged phases, whose contrast means "
                "nothing; write readout='tangent'"
            )
        lookup("order", self.order, dict.fromkeys(_ORDERS))
        if self.order != "forward" and self.contour != "centred":
            raise ConfigError(
                f"order: got {self.order!r} with contour {self.contour!r}, needed one of two phases of opposite sign; "
                "write contour='centred', or contour='alternating-sign' for one phase whose sign alternates"
            )
        nudges = 0
        if self.contour != "derivative":
            shape = contour(self.contour, self.beta, self.points)
            lowest, nudges = shape.lowest, len(shape.betas)
            reach = abs(self.beta) >= 1.0 and self.contour == "cauchy" and self.points > 2
            if (lowest <= -1.0 or reach) and isinstance(self.loss_function, SquaredError):
                raise ConfigError(
                    f"beta: got {self.beta} with contour {self.contour!r}, whose nudges reach {lowest:g}; needed "
                    "above -1, and a circle of radius below 1: beyond, no energy holds a squared error; "
                    "write beta=0.1, or contour='one-sided' with beta > 0"
                )
        elif self.correction is not None:
            raise ConfigError("contour: 'derivative' with a correction is the adjoint itself; use RecurrentBackprop")
        if self.contour != "cauchy" and self.points not in (nudges, type(self).points):
            raise ConfigError(
                f"points: got {self.points!r} with contour {self.contour!r}, which has {nudges} "
                f"nudge{'s' * (nudges != 1)} and no choice; write contour='cauchy', or leave points out"
            )
        self.generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"generator": self.generator.get_state(), "steps": self.turn.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.turn.steps = state.get("steps", 0)

    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        found = self.equilibria(network, x, y, start)
        free, sample, rest = found.free, found.sample, found.rest
        weight, counted = self.sample_weights(sample.loss, free, found.nudged)
        sample = only(sample, counted)
        if counted is not None:
            rest = cleared(rest, counted)
        phases = [with_samples(p, weight, counted) for p in found.phases]
        if self.readout == "contrast" and self.contour != "derivative":
            network.add_contrast_gradient(phases, found.drive.x)
        else:
            network.add_tangent_gradient(rest, self._error(network, phases, rest), found.drive.x)
        add_readout_gradient(network, self.loss_function, sample, rest, weight)
        return RuleStep(mean_loss(sample.loss, weight), found.sample.output, free, found.drive, found.nudged, counted)

    @torch.no_grad()
    def error_vector(
        self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None
    ) -> tuple[RuleStep, State]:
        """What the tangent readout takes as the error of every layer's input, without touching ``.grad``.

        ``-sum_k w_k (s_k - s_0) ~ -ds/dbeta`` a sample, ``[batch, *shape]`` a layer, for every sample (none is left
        out). The adjoint ``delta = D (dC/ds + H^T delta)`` is its ideal. A random sign is drawn anew,
        and what alternates goes on.

        Raises:
            DataError, ConfigError: as ``backward``.
        """
        found = self.equilibria(network, x, y, start)
        sample = found.sample
        step = RuleStep(sample.loss.mean(), sample.output, found.free, found.drive, found.nudged)
        return step, self._error(network, found.phases, found.rest)

    @torch.no_grad()
    def equilibria(self, network: Network, x: Tensor, y: Tensor, start: State | None = None) -> Equilibria:
        """All relaxations of a step and the weights of their contour, before any readout."""
        if self.readout == "contrast" and not network.has_energy:
            raise ConfigError(
                f"readout: 'contrast' needs an energy and {type(network).__name__} has none; write readout='tangent'"
            )
        drive = network.drive(x)
        free = self._free_phase(network, drive, start)
        rest = network.measure(free.state, 0)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        if self.contour == "derivative":
            response = self._derivative(network, drive, free, sample)
            phase = Phase(response.state, torch.ones_like(sample.loss), 1)
            return Equilibria(drive, free, free.state, sample, [phase], (response,))
        shape = contour(self.contour, self.beta, self.points)
        phases, nudged = self._nudged_phases(network, drive, free, rest, sample, shape)
        return Equilibria(drive, free, rest, sample, phases, nudged)

    def _error(self, network: Network, phases: Sequence[Phase], rest: State) -> State:
        # weights sum to zero with that of the free state: taken from it, so that nothing large cancels; a derivative is
        # a displacement already
        origin = None if self.contour == "derivative" else rest
        return tuple(-d for d in network.response(phases, origin))

    def _free_phase(self, network: Network, drive: Drive, start: State | None) -> Solution:
        # where the free state itself enters the readout, the difference to it would be noise at low precision
        alone = self.readout == "contrast" and self.contour == "centred"
        return self.settle(network, drive, start) if alone else settle_in_full(self, network, drive, start)

    def _derivative(self, network: Network, drive: Drive, free: Solution, sample: Sample) -> Solution:
        """``ds/dbeta`` at 0, by sweeps of the linearised dynamics."""
        source = tuple(torch.zeros_like(s) for s in free.state[:-1])
        source += (-loss_gradient(network, self.loss_function, sample, free.state),)
        system = LinearResponse(network, free.state, drive, adjoint=False)
        zero = tuple(torch.zeros_like(s) for s in free.state)
        return self.relax_nudged(system, zero, Drive(source, drive.x), None)

    def _nudged_phases(
        self, network: Network, drive: Drive, free: Solution, rest: State, sample: Sample, shape: Contour
    ) -> tuple[list[Phase], tuple[Solution, ...]]:
        """The measured equilibria with their weights, and the solutions, one a phase."""
        system: System = network
        if self.correction == "asymep":
            system, drive = network.adjoint_dynamics(free.state, drive)
        shape = shape.at(self.turn.next(), self.order)
        real = shape.points(len(sample.loss), sample.loss, self.generator)
        phases: list[Phase] = []
        solutions: list[Solution] = []
        for group in groups(len(real.betas), network.stacks_phases):
            k = len(group)
            beta = real.betas[group.start : group.stop].reshape(-1, 1)
            nudge = CostNudge(network, self.loss_function, sample.target.repeat(k, 1), beta)
            around = network.begin_phases(range(group.start + 1, group.stop + 1), system, drive)
            solution = self.relax_nudged(system, system.repeat_state(free.state, k), around, nudge)
            measured = network.measure(solution.state, group.start + 1)
            phases.append(Phase(measured, real.weights[group.start : group.stop].reshape(-1), k))
            solutions += solution.split(k, system)
        if real.free_weight is not None:
            phases.append(Phase(rest, real.free_weight, 1))  # as measured, like the others
        if shape.complex_betas:
            more, found = self._complex_phases(network, system, drive, free, sample, shape)
            phases, solutions = phases + more, solutions + found
        return phases, tuple(solutions)

    def _complex_phases(
        self, network: Network, system: System, drive: Drive, free: Solution, sample: Sample, shape: Contour
    ) -> tuple[list[Phase], list[Solution]]:
        lifted = ComplexSystem(system)
        k, batch = len(shape.complex_betas), len(sample.loss)
        first = 1 + len(shape.betas)
        points = shape.complex_points(batch, sample.loss)
        phases: list[Phase] = []
        solutions: list[Solution] = []
        for group in groups(k, network.stacks_phases):
            n = len(group)
            beta, weights = (
                torch.cat([h[group.start * batch : group.stop * batch] for h in halves(v)])
                for v in (points.betas, points.weights)
            )
            nudge = ComplexCostNudge(network, self.loss_function, sample.target.repeat(n, 1), beta[:, None])
            state = lifted.lift_state(system.repeat_state(free.state, n))
            numbers = range(first + group.start, first + group.stop)
            around = network.begin_phases(numbers, system, drive, paired=True)
            solution = self.relax_nudged(lifted, state, lifted.lift_drive(around), nudge)
            phases.append(Phase(network.measure(solution.state, numbers.start), weights, n, paired=True))
            solutions += lifted.split_solution(solution, n)
        return phases, solutions

    def relax_nudged(self, system: System, state: State, drive: Drive, nudge: Any) -> Solution:
        """A nudged phase."""
        solver = self.solver if self.nudged_solver is None else self.nudged_solver
        return relax(system, state, drive, nudge, solver=solver, stop=self.nudged, graphs=self.graphs)
