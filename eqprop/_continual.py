"""Continual equilibrium propagation: parameters move at every nudged sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from eqprop._contours import contour
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import Drive, Network, Phase, State
from eqprop._nudge import CostNudge
from eqprop._phases import cleared, mean_loss, mean_weights, only, settle_in_full
from eqprop._relax import relax
from eqprop._rule import Rule, RuleStep, Sample, add_readout_gradient, at_equilibrium
from eqprop._solution import Solution
from eqprop._solvers import Solver
from eqprop._stop import Sweeps


@dataclass(frozen=True, kw_only=True)
class ContinualEP(Rule):
    """Continual equilibrium propagation (C-EP): parameters move after every nudged sweep, and the dynamics see it.

    From the free equilibrium ``s_0``, for ``t = 1 .. n`` with the parameters ``theta_(t-1)`` of the moment,

        s_t     = sweep(s_(t-1); theta_(t-1), beta)
        g_t     = [dE/dtheta(s_t) - dE/dtheta(s_(t-1))] / beta                                    with an energy
        g_t     = -(d inputs/dtheta at s_(t-1))^T (s_t - s_(t-1)) / beta                          without: C-VF
        theta_t = theta_(t-1) - rate g_t                                                          batch mean

    No state is remembered for longer than a sweep. ``backward`` leaves the parameters as they were and adds
    ``sum_t g_t`` to ``.grad``: a step of plain SGD at the same rates (``network.parameter_groups(rates)``) ends at
    ``theta_n``, as C-EP does; any other optimiser uses the gradient its own way. As the rates go to 0, ``sum_t g_t``
    becomes that of one-sided EP with as many sweeps, exactly with an energy, to O(beta) without (whose presynaptic
    states move).

    Weights that move also move the state: with inputs ``x`` the sweeps run away above a ``rate |x|^2 / beta`` of about
    1, so that rates are a tenth to a hundredth of those of EP. The readout outside the dynamics, where there is one,
    keeps its parameters during the sweeps and has its exact gradient at ``s_0``.

    Args:
        beta: nudge strength, other than 0; positive values lower the loss.
        rates: learning rate of all, or one a connection as ``network.parameter_groups`` takes them.
        nudged: ``Sweeps(n)``; its ``tol`` decides what is called converged.
        nudged_solver: solver of the nudged phase, one step at a time (one with a memory, as ``Anderson``, sweeps
            plainly); None for that of the free phase.
        exclude_unconverged: leave samples out whose free phase did not converge. The nudged phase cannot decide: its
            first sweeps have moved the parameters before its last one shows whether it settles.

    Raises:
        ConfigError: rates that are negative, not finite or of the wrong number; ``nudged`` that is not ``Sweeps``.

    Source: Ernoult et al. 2020.
    """

    rates: float | Sequence[float]
    beta: float = 0.1
    nudged: Sweeps = Sweeps(15)
    nudged_solver: Solver | None = None
    exclude_unconverged: bool = False
    by_share: ClassVar[bool] = False  # the dynamics of every sample see the increments of all others

    def __post_init__(self) -> None:
        super().__post_init__()
        contour("one-sided", self.beta)
        given = self.rates
        if isinstance(given, Sequence) and not isinstance(given, str):
            given = tuple(given)  # comparable, and safe from changes
            object.__setattr__(self, "rates", given)
        each = given if isinstance(given, tuple) else (given,)
        if not each or any(not isinstance(r, int | float) or not math.isfinite(r) or r < 0 for r in each):
            raise ConfigError(
                f"rates: got {self.rates!r}, needed learning rates from 0 on, those of the optimiser; "
                "write rates=0.05, or rates=(0.1, 0.05)"
            )
        if not isinstance(self.nudged, Sweeps):
            raise ConfigError(
                f"nudged: got {self.nudged!r}, needed a fixed number of sweeps, for parameters move after each; "
                "write nudged=Sweeps(15)"
            )

    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        moving = self._moving(network)
        drive = network.drive(x)
        free = settle_in_full(self, network, drive, start)
        rest = network.measure(free.state, 0)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        counted = free.converged if self.exclude_unconverged else None
        weight = torch.full_like(sample.loss, 1 / len(sample.loss))
        kept = only(sample, counted)
        if counted is not None:
            weight, rest = mean_weights(sample.loss, counted), cleared(rest, counted)
        with _restored([p for p, _ in moving]):
            nudged, totals = self._sweep(network, drive.x, free.state, rest, sample, weight, counted, moving)
        for (p, _), total in zip(moving, totals, strict=True):
            if total is not None:
                p.grad = total if p.grad is None else p.grad.add_(total)
        add_readout_gradient(network, self.loss_function, kept, rest, weight)
        loss = sample.loss.mean() if counted is None else mean_loss(kept.loss, weight)
        return RuleStep(loss, sample.output, free, drive, (nudged,), counted)

    def _sweep(
        self,
        network: Network,
        x: Tensor,
        state: State,
        seen: State,
        sample: Sample,
        weight: Tensor,
        counted: Tensor | None,
        moving: list[tuple[nn.Parameter, float]],
    ) -> tuple[Solution, list[Tensor | None]]:
        """The nudged phase; moves the parameters. The last solution, and the sum of increments of each parameter."""
        beta = sample.target.new_full((len(sample.target), 1), self.beta)
        nudge = CostNudge(network, self.loss_function, sample.target, beta)
        solver = self.solver if self.nudged_solver is None else self.nudged_solver
        totals: list[Tensor | None] = [None] * len(moving)
        # one phase, of which each sweep has other parameters: a relaxation of one sweep each
        network.begin_phase(1)
        solution: Solution | None = None
        for _ in range(self.nudged.n):
            drive: Drive = network.drive(x)
            stop = Sweeps(1, self.nudged.tol)
            solution = relax(network, state, drive, nudge, solver=solver, stop=stop, graphs=self.graphs)
            state, before = solution.state, seen
            seen = network.measure(state, 1)
            if counted is not None:
                seen = cleared(seen, counted)
            for p, _ in moving:
                p.grad = None
            self._add_increment(network, before, seen, x, weight)
            for i, (p, rate) in enumerate(moving):
                if p.grad is not None:
                    total = totals[i]
                    totals[i] = p.grad if total is None else total + p.grad
                    p.sub_(p.grad, alpha=rate)
        if solution is None:
            raise ConfigError("ContinualEP: got no sweep to do, needed nudged=Sweeps(n) with n >= 1")
        return replace(solution, sweeps=torch.full_like(solution.sweeps, self.nudged.n)), totals

    def _add_increment(self, network: Network, before: State, after: State, x: Tensor, weight: Tensor) -> None:
        weights = weight / self.beta
        if network.has_energy:
            network.add_contrast_gradient([Phase(after, weights, 1), Phase(before, -weights, 1)], x)
        else:
            direction = tuple(
                (b - a) * weights.reshape(-1, *[1] * (a.dim() - 1)) for a, b in zip(after, before, strict=True)
            )
            network.add_tangent_gradient(before, direction, x)

    def _moving(self, network: Network) -> list[tuple[nn.Parameter, float]]:
        """The parameters and their rates; those of a readout are among them, but no increment reaches them."""
        if isinstance(network, GraphNetwork):
            groups = network.parameter_groups(self.rates)
            return [(p, float(group["lr"])) for group in groups for p in group["params"]]
        if isinstance(self.rates, int | float):
            return [(p, float(self.rates)) for p in network.parameters() if p.requires_grad]
        raise ConfigError(
            f"rates: got {len(self.rates)} for a {type(network).__name__}, which has no connections to match them "
            "with; write one rate, as rates=0.05"
        )


@contextmanager
def _restored(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Values and ``.grad`` of the parameters are on leaving what they were on entering, also after an error."""
    kept = [(p, p.detach().clone(), p.grad) for p in parameters]
    try:
        yield
    finally:
        for p, value, grad in kept:
            p.copy_(value)
            p.grad = grad
