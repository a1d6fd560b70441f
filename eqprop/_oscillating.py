"""Oscillating (online) holomorphic EP: a nudge that never rests, and running averages instead of phases."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqprop._complex import ComplexCostNudge, ComplexSystem
from eqprop._contours import contour
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, Phase, State, System
from eqprop._nudge import CostNudge
from eqprop._phases import cleared, mean_loss, mean_weights
from eqprop._relax import relax
from eqprop._rule import Rule, RuleStep, add_readout_gradient, at_equilibrium
from eqprop._solution import Solution, Status
from eqprop._stop import Sweeps


@dataclass(frozen=True, kw_only=True)
class OscillatingEP(Rule):
    """Holomorphic EP without phases: the nudge goes round a circle, the state follows and is never reset.

    ``beta_k = beta exp(2 pi i k / N)``, ``sweeps`` sweeps at each point; at the end of each the state ``s_k`` is read
    into two running averages, of one period each,

        mean      m = 1/N sum_k Re s_k            -> s_0, the free state (mean value property), error O(beta^N)
        response  u = 1/N sum_k Re(s_k / beta_k)  -> ds/dbeta at 0 (Cauchy's formula), error O(beta^N)

    and the gradient is the tangent readout ``-(d inputs/dtheta at m)^T u``, averaged over the periods: for any network,
    exact to O(beta^N) where the Jacobian is symmetric, and biased by its asymmetry as every EP is. There is no free
    phase: output and loss of the step are those at ``m``. How far the state lags behind the nudge adds to the error and
    falls geometrically with ``sweeps``; ``sweeps=1`` with many points is a nudge in continuous rotation. States are
    stacked real pairs ``[2 * batch, *shape]``, the averages real, ``[batch, *shape]``.

    Guard: trajectories that do not settle into the rhythm of the nudge make the average worthless, and published runs
    have collapsed this way. A sample enters the gradient only if its averages are finite, its residual is at most
    ``max_residual`` and its responses of the last two periods differ by at most ``tolerance`` times (the last response
    + 1e-3), each in root mean square over the units of a layer, the largest of the layers. ``RuleStep.counted`` has the
    mask. A swing whose period divides ``points * sweeps`` repeats itself in every period of the nudge: only the
    residual shows it. The residual is one more evaluation of the field at each point of the last period.

    Noise in the relaxation: a mean square does not grow with the number of units as a maximum does. Noise of deviation
    ``sigma`` a unit and sweep shows as a residual of 1 to 3 ``sigma``, while that of a swing stays O(0.1 to 1): leave
    ``max_residual`` between the two. It enters the difference of responses as about ``sqrt(2 / points) sigma /
    |beta|``: where that is near the response of the outputs, take more ``points`` or a larger ``beta``, or
    ``tolerance=2``, which leaves the judgement to the residual.

    Args:
        beta: radius of the circle, other than 0; below 1 for a squared error.
        points: ``N``, at least 2. Two are the real nudges ``beta`` and ``-beta``, for any activation and network; more
            need holomorphic activations and a ``HopfieldNetwork`` or ``DirectedNetwork``.
        sweeps: at each point.
        periods: rounds, at least 2.
        discard: first rounds that do not enter the averages: the way from the initial state into the rhythm.
        tolerance: relative difference of the last two periods up to which a sample is trusted.
        max_residual: up to which a sample is trusted: ``|update(s) - s|``, as above, the largest of the last period.

    Raises:
        ConfigError: numbers out of range, or a network or cost that has no complex continuation.

    Source: Laborieux & Zenke 2022 (oscillations); Laborieux & Zenke 2024 (online averages, tangent readout).
    """

    beta: float = 0.4
    points: int = 4
    sweeps: int = 20
    periods: int = 3
    discard: int = 1
    tolerance: float = 0.5
    max_residual: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("points", 2), ("sweeps", 1), ("periods", 2), ("discard", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"{name}: got {value!r}, needed a whole number from {low} on")
        if self.discard >= self.periods:
            raise ConfigError(f"discard: got {self.discard} of {self.periods} periods, needed at least one to be left")
        for name in ("tolerance", "max_residual"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, needed a positive number, as 0.5")
        contour("cauchy", self.beta, self.points)
        if abs(self.beta) >= 1.0 and isinstance(self.loss_function, SquaredError):
            raise ConfigError(
                f"beta: got {self.beta}, needed a circle of radius below 1: at -1 the energy no longer holds a squared "
                "error; write beta=0.4"
            )

    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        step, counted, response = self._go_round(network, x, y, start)
        rest = step.free.state
        sample = at_equilibrium(network, self.loss_function, rest, y)
        weight = mean_weights(sample.loss, counted)
        direction = tuple(-u * weight.reshape(-1, *[1] * (u.dim() - 1)) for u in cleared(response, counted))
        network.add_tangent_gradient(rest, direction, step.drive.x)
        add_readout_gradient(network, self.loss_function, sample, rest, weight)
        return replace(step, loss=mean_loss(sample.loss, weight), counted=counted)

    @torch.no_grad()
    def error_vector(
        self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None
    ) -> tuple[RuleStep, State]:
        """``-u`` a sample, ``[batch, *shape]`` a layer, also of samples that are not trusted. See ``Rule``."""
        step, _, response = self._go_round(network, x, y, start)
        return step, tuple(-u for u in response)

    def _go_round(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> tuple[RuleStep, Tensor, State]:
        """The step with all samples, the mask of those that are trusted, and the response ``u``."""
        drive = network.drive(x)
        state = network.initial_state(len(drive.x)) if start is None else start
        target = at_equilibrium(network, self.loss_function, state, y).target
        rounds = self._rounds(network, drive, state, target)
        kept = rounds[self.discard :]
        mean = _average([r.mean for r in kept])
        response = _average([r.response for r in kept])
        counted, finite = self._trusted(network, rounds, mean, response)
        free = self._solution(cleared(mean, finite), rounds[-1].residual, counted, finite)
        sample = at_equilibrium(network, self.loss_function, free.state, y)
        return RuleStep(sample.loss.mean(), sample.output, free, drive), counted, response

    def _rounds(self, network: Network, drive: Drive, state: State, target: Tensor) -> list[_Round]:
        """All periods, one trajectory."""
        track = _real_track if self.points == 2 else _complex_track
        system, state, full, nudges, weights = track(self, network, drive, state, target)
        batch = len(target)
        rounds: list[_Round] = []
        network.begin_phase(0)  # a single one
        for number in range(1, self.periods + 1):
            total: _Round | None = None
            for nudge, weight in zip(nudges, weights, strict=True):
                solution = relax(
                    system, state, full, nudge, solver=self.solver, stop=Sweeps(self.sweeps), graphs=self.graphs
                )
                state = solution.state
                seen = network.measure(state, 0)
                phase = Phase(seen, weight, 1, paired=self.points > 2)
                swing = solution.residual
                if number == self.periods:
                    image = system.update(state, full, nudge, range(len(state)), system.new_cache(None))
                    swing = _root_mean_square(image, state, batch)
                mean = tuple(s[:batch] / self.points for s in seen)
                one = _Round(mean, network.response([phase]), solution.residual, swing)
                total = one if total is None else total.plus(one)
            if total is not None:
                rounds.append(total)
        return rounds

    def _trusted(self, network: Network, rounds: list[_Round], mean: State, response: State) -> tuple[Tensor, Tensor]:
        """Masks of the samples that enter the gradient, and of those whose averages are finite."""
        finite = torch.stack([torch.isfinite(s).flatten(1).all(1) for s in (*mean, *response)]).all(0)
        before, last = rounds[-2].response, rounds[-1].response
        difference = _root_mean_square(last, before, len(finite))
        size = _root_mean_square(last, tuple(torch.zeros_like(u) for u in last), len(finite))
        # NaN compares false
        settled = (difference <= self.tolerance * (size + 1e-3)) & (rounds[-1].swing <= self.max_residual)
        return finite & settled, finite

    def _solution(self, rest: State, residual: Tensor, counted: Tensor, finite: Tensor) -> Solution:
        done = self.periods * self.points * self.sweeps
        status = torch.where(counted, Status.CONVERGED, Status.MAX_SWEEPS)
        status = torch.where(finite, status, Status.NONFINITE).to(torch.int8)
        sweeps = torch.full_like(residual, done, dtype=torch.int32)
        return Solution(rest, residual, sweeps, status, torch.full_like(residual, torch.nan))


class _Round(NamedTuple):
    """Running averages of a period: ``[batch, *shape]`` a layer; largest residuals of a point, ``[batch]``.

    ``residual`` is that of the solver, a maximum over units; ``swing`` in root mean square, of the last period alone.
    """

    mean: State
    response: State
    residual: Tensor
    swing: Tensor

    def plus(self, other: _Round) -> _Round:
        """Both together."""
        mean = tuple(a + b for a, b in zip(self.mean, other.mean, strict=True))
        response = tuple(a + b for a, b in zip(self.response, other.response, strict=True))
        residual, swing = torch.maximum(self.residual, other.residual), torch.maximum(self.swing, other.swing)
        return _Round(mean, response, residual, swing)


# system, state, drive, nudges and weights 1 / (N beta_k) of the points
_Track = tuple[System, State, Drive, list[Any], list[Tensor]]


def _real_track(rule: OscillatingEP, network: Network, drive: Drive, state: State, target: Tensor) -> _Track:
    betas = [rule.beta, -rule.beta]
    nudges = [CostNudge(network, rule.loss_function, target, target.new_full((len(target), 1), b)) for b in betas]
    return network, state, drive, nudges, [target.new_full((len(target),), 0.5 / b) for b in betas]


def _complex_track(rule: OscillatingEP, network: Network, drive: Drive, state: State, target: Tensor) -> _Track:
    def stacked(value: complex) -> Tensor:
        return torch.cat([target.new_full((len(target),), part) for part in (value.real, value.imag)])

    betas = [rule.beta * cmath.exp(2j * math.pi * k / rule.points) for k in range(rule.points)]
    lifted = _or_real(lambda: ComplexSystem(network), rule.points)
    nudges = _or_real(
        lambda: [ComplexCostNudge(network, rule.loss_function, target, stacked(b)[:, None]) for b in betas], rule.points
    )
    weights = [stacked(1 / (rule.points * b)) for b in betas]
    return lifted, lifted.lift_state(state), lifted.lift_drive(drive), nudges, weights


def _or_real(make: Callable[[], Any], points: int) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(
            f"OscillatingEP with points={points}: {error} of EquilibriumPropagation, or points=2, whose nudge is real"
        ) from None


def _root_mean_square(a: State, b: State, batch: int) -> Tensor:
    """Of ``a - b`` over the units of a layer, the largest of the layers (and halves of stacked pairs): ``[batch]``."""
    layers = [(p - q).flatten(1).square().mean(1).sqrt() for p, q in zip(a, b, strict=True)]
    return torch.stack(layers).reshape(-1, batch).amax(0)


def _average(states: list[State]) -> State:
    return tuple(torch.stack(layer).mean(0) for layer in zip(*states, strict=True))
