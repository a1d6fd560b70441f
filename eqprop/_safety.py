"""A nudge that data show to be safe: the largest ``|beta|``, and as few points as the tolerance needs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._contours import contour
from eqprop._ep import Equilibria, EquilibriumPropagation
from eqprop._errors import ConfigError
from eqprop._network import Network, Phase, State
from eqprop._numbers import is_number, is_whole
from eqprop._rule import Rule, converged_everywhere
from eqprop._solution import Solution

_ORDERS = {"one-sided": 1, "random-sign": 1, "alternating-sign": 1, "centred": 2}


class ContourWarning(UserWarning):
    """``choose_contour`` changed the nudge of a rule."""


class ContourRow(NamedTuple):
    """What was measured at one nudge; ratios are of Euclidean norms over the batch, the worst layer counts.

    Attributes:
        beta, points: of the contour.
        unconverged: share of samples with a nudged phase that did not converge, among those whose free phase did.
        residual: the largest residual of a nudged phase, over the same samples.
        leakage: ``|mean_k s_k - s_0| / (|beta| |response|)``, complex contours only (NaN otherwise). Inside the radius
            of analyticity ``R`` the mean of ``s`` over the circle is ``s_0`` up to ``O((|beta|/R)^N)``.
        circulation: ``|mean_k beta_k s_k| / (|beta|^2 |response|)``, likewise: the integral of ``s`` around the circle,
            by Cauchy's theorem 0 up to ``O((|beta|/R)^(N-2))``. It sees the odd orders in ``beta``, leakage the even
            ones; in a network that is odd in ``beta``, as ``tanh`` without biases, leakage vanishes whatever the error.
        disagreement: relative change of the response when half the points are left out, or, on real contours and odd
            ``points``, when the nudge is halved.
        error: the relative error of the response that these let expect.
        reason: why the nudge is not safe; empty where it is.
    """

    beta: float
    points: int
    unconverged: float
    residual: float
    leakage: float
    circulation: float
    disagreement: float
    error: float
    reason: str

    @property
    def safe(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reason

    def __str__(self) -> str:
        verdict = self.reason or "safe"
        circle = f"leakage {self.leakage:.2g}, circulation {self.circulation:.2g}, "
        leakage = "" if math.isnan(self.leakage) else circle
        return (
            f"beta {self.beta:g}, {self.points} points: unconverged {self.unconverged:.1%}, residual "
            f"{self.residual:.2g}, {leakage}disagreement {self.disagreement:.2g}, expected error {self.error:.2g}: "
            f"{verdict}"
        )


@dataclass(frozen=True)
class ContourChoice:
    """The rule that ``choose_contour`` recommends.

    Attributes:
        rule: the rule with its ``beta`` and ``points`` replaced (the very same object if nothing changed).
        beta, points: of that rule.
        reason: what was changed and why, in words.
        table: everything that was tried, in that order.
    """

    rule: EquilibriumPropagation
    beta: float
    points: int
    reason: str
    table: tuple[ContourRow, ...]


def choose_contour(
    network: Network,
    rule: Rule,
    x: Tensor,
    y: Tensor,
    *,
    betas: Sequence[float] | None = None,
    max_points: int = 16,
    tolerance: float = 0.05,
    max_unconverged: float = 0.01,
) -> ContourChoice:
    """The rule with the largest safe ``|beta|`` on a batch, and enough points for the tolerance.

    Each nudge is tried on the batch, the largest first. It is safe when at most ``max_unconverged`` of the samples
    whose free phase converged lose a nudged one, and the expected relative error of the response ``ds/dbeta`` is at
    most ``tolerance`` (over the samples that enter the gradient, see ``exclude_unconverged``):

        complex contour   the largest of leakage, disagreement^2 and circulation^(N/(N-2)): with ``q = |beta|/R`` the
                          error of N points is of order q^N, these three before their powers q^(N-1), q^(N/2), q^(N-2)
        real contour      disagreement / (1 - 2^-order): Richardson; order 1 (one-sided), 2 (centred)

    The points of a Cauchy contour are doubled while that pays, up to ``max_points``; ``N/2`` points are every second
    one of the same circle and cost nothing. Residuals show up in all these numbers, the more the smaller ``|beta|``;
    but what all phases lack alike, because they stop at a loose tolerance, none of them shows: up to about
    ``residual / (|beta| |response|)``.

    The rule that is chosen, where it is another one, has the very regularisers of ``rule`` and shares their state.

    Args:
        network, rule, x, y: as of ``rule.backward``; a batch like those to come. ``.grad`` is left alone.
        betas: nudges to try; None for ``rule.beta`` and its halves down to 1/128.
        max_points: upper bound of ``points``; fewer than ``rule.points`` keep those of the rule.
        tolerance: allowed relative error of the response, a layer each.
        max_unconverged: allowed share.

    Warns:
        ContourWarning: the choice differs from the rule; says what was changed and why.

    Raises:
        ConfigError: nothing is safe (with the table in words), no free phase converged, or a rule without a nudge.
    """
    if not isinstance(rule, EquilibriumPropagation) or rule.contour == "derivative":
        what = f"contour {rule.contour!r}" if isinstance(rule, EquilibriumPropagation) else type(rule).__name__
        raise ConfigError(
            f"choose_contour: {what} has no nudge to choose; needed EquilibriumPropagation with contour='centred', "
            "'cauchy', 'one-sided', 'random-sign' or 'alternating-sign'"
        )
    if not is_number(tolerance) or tolerance <= 0.0:
        raise ConfigError(f"tolerance: got {tolerance!r}, needed a positive number, as tolerance=0.05")
    if not is_number(max_unconverged) or not 0.0 <= max_unconverged <= 1.0:
        raise ConfigError(f"max_unconverged: got {max_unconverged!r}, needed a share from 0 to 1, as 0.01")
    if not is_whole(max_points, 1):
        raise ConfigError(f"max_points: got {max_points!r}, needed a whole number from 1 on, as max_points=16")
    if betas is not None and (isinstance(betas, str) or not isinstance(betas, Iterable)):
        raise ConfigError(f"betas: got {betas!r}, needed several nudges, as betas=(0.5, 0.2, 0.1)")
    betas = None if betas is None else list(betas)
    for beta in betas or ():
        if not is_number(beta):
            raise ConfigError(f"betas: got {beta!r} among them, needed finite nudges, as betas=(0.5, 0.2, 0.1)")
    nudges = [rule.beta * 0.5**k for k in range(8)] if betas is None else sorted(betas, key=abs, reverse=True)
    if not nudges:
        raise ConfigError("betas: got none, needed at least one, as betas=(0.5, 0.2, 0.1)")
    table: list[ContourRow] = []
    for beta in nudges:
        points = rule.points
        while True:
            row = _measure(network, _with(rule, beta, points), x, y, tolerance, max_unconverged)
            hopeless = bool(table) and (table[-1].beta, 2 * table[-1].points) == (beta, points)
            hopeless = hopeless and not row.error < 0.5 * table[-1].error
            table.append(row)
            if row.safe:
                return _chosen(rule, row, table)
            # more points repair neither lost phases nor a pole inside the circle
            if rule.contour != "cauchy" or row.unconverged > max_unconverged or hopeless or 2 * points > max_points:
                break
            points *= 2
    raise ConfigError(
        f"choose_contour: no nudge of {type(network).__name__} is safe on these {len(x)} samples within tolerance "
        f"{tolerance:g}; use smaller weights, more sweeps or a smaller tol in nudged=Stop(...), a looser tolerance, or "
        "contour='derivative'. Tried:\n  " + "\n  ".join(map(str, table))
    )


def _with(rule: EquilibriumPropagation, beta: float, points: int) -> EquilibriumPropagation:
    changed = replace(rule, beta=beta, points=points)
    changed.generator.set_state(rule.generator.get_state())  # the draws of a run go on where they were
    changed.turn.steps = rule.turn.steps
    return changed


def _chosen(rule: EquilibriumPropagation, row: ContourRow, table: list[ContourRow]) -> ContourChoice:
    changes = [
        f"{name} from {old:g} to {new:g}"
        for name, old, new in (("beta", rule.beta, row.beta), ("points", rule.points, row.points))
        if old != new
    ]
    if not changes:
        reason = f"beta {row.beta:g} is safe on this batch: expected error {row.error:.2g}; nothing was changed"
        return ContourChoice(rule, row.beta, row.points, reason, tuple(table))
    # what ruled out the next larger nudge, and what asked for more points at this one
    larger = [r for r in table if r.beta != row.beta][-1:]
    fewer = [r for r in table[:-1] if r.beta == row.beta][-1:]
    why = "; ".join(map(str, larger + fewer)) or "the largest nudge asked for is safe"
    reason = f"choose_contour changed {' and '.join(changes)}: {why}"
    warnings.warn(reason, ContourWarning, stacklevel=3)
    return ContourChoice(_with(rule, row.beta, row.points), row.beta, row.points, reason, tuple(table))


def _measure(
    network: Network, rule: EquilibriumPropagation, x: Tensor, y: Tensor, tolerance: float, max_unconverged: float
) -> ContourRow:
    halved = _with(rule, 0.5 * rule.beta, rule.points)  # before the signs are drawn: it takes the same ones
    found = rule.equilibria(network, x, y)
    counted = found.free.converged
    if not bool(counted.any()):
        raise ConfigError(
            f"choose_contour: the free phase converged on none of the {len(counted)} samples (largest residual "
            f"{float(found.free.residual.max()):.2g}), so that no nudge can be judged; allow more sweeps in "
            "free=Stop(...), or use smaller weights"
        )
    unconverged, residual = _losses(found.nudged, counted)
    if rule.exclude_unconverged:
        counted = converged_everywhere(found.free, found.nudged)
    response = network.response(found.phases, found.rest)
    n, radius = rule.points, abs(rule.beta)
    order = n if rule.contour == "cauchy" else _ORDERS[rule.contour]
    leakage = circulation = math.nan
    error = 0.0
    if order > 2:
        leakage = _ratio(_moment(network, rule, found, 0), tuple(radius * r for r in response), counted)
        circulation = _ratio(_moment(network, rule, found, 1), tuple(radius**2 * r for r in response), counted)
        error = max(leakage, _power(circulation, n / (n - 2)))
    if order > 2 and order % 2 == 0:
        disagreement = _ratio(_minus(_moment(network, rule, found, -1, step=2), response), response, counted)
        error = max(error, _power(disagreement, 2.0))
    else:
        near = halved.equilibria(network, x, y)
        half = network.response(near.phases, near.rest)
        disagreement = _ratio(_minus(response, half), half, counted)
        error = max(error, disagreement / (1 - 0.5**order))
    if math.isnan(leakage + disagreement) and order > 2:
        error = math.nan  # max() drops a NaN in second place
    reason = ""
    if unconverged > max_unconverged:
        reason = f"{unconverged:.1%} of the samples lose a nudged phase"
    elif not error <= tolerance:  # NaN is not safe either
        reason = f"its expected error {error:.2g} is above {tolerance:g}"
    return ContourRow(rule.beta, rule.points, unconverged, residual, leakage, circulation, disagreement, error, reason)


def _power(ratio: float, exponent: float) -> float:
    """From 1 on, where the expansion says nothing, the ratio itself: a state that blew up would overflow."""
    return ratio if ratio >= 1.0 else ratio**exponent


def _losses(nudged: Sequence[Solution], counted: Tensor) -> tuple[float, float]:
    """Share of counted samples with an unconverged phase, and their largest residual."""
    lost = torch.zeros_like(counted)
    worst = torch.zeros_like(nudged[0].residual)
    for solution in nudged:
        lost = lost | ~solution.converged
        worst = torch.maximum(worst, solution.residual.nan_to_num(nan=math.inf))
    return float(lost[counted].double().mean()), float(worst[counted].max())


def _moment(network: Network, rule: EquilibriumPropagation, found: Equilibria, power: int, step: int = 1) -> State:
    """``mean_k beta_k^power (s_k - s_0)`` over every ``step``-th point of the circle, from the same equilibria."""
    shape, n = contour(rule.contour, rule.beta, rule.points), rule.points
    real = [0, n // 2] if n % 2 == 0 else [0]
    coefficients: list[complex] = []
    for k, beta in [*zip(real, shape.betas, strict=True), *enumerate(shape.complex_betas, start=1)]:
        copies = 1 if k in real else 2  # a complex point stands for its conjugate too
        coefficients.append(0.0 if k % step else copies * step / n * beta**power)
    phases: list[Phase] = []
    for phase in found.phases:
        mine, coefficients = coefficients[: phase.folds], coefficients[phase.folds :]
        copies = len(phase.weights) // (phase.folds * (2 if phase.paired else 1))
        values = [complex(c).real for c in mine] + [complex(c).imag for c in mine if phase.paired]
        weights = phase.weights.new_tensor(values).repeat_interleave(copies)
        phases.append(phase._replace(weights=weights))
    return network.response(phases, found.rest)


def _minus(a: State, b: State) -> State:
    return tuple(p - q for p, q in zip(a, b, strict=True))


def _ratio(a: State, b: State, counted: Tensor) -> float:
    """The largest over layers of ``|a| / |b|``, norms over counted samples; layers that hardly move count little."""
    above, below = (torch.stack([v[counted].double().norm() for v in s]) for s in (a, b))
    floor = torch.finfo(b[0].dtype).eps ** 0.5 * below.norm()
    ratios = above / below.clamp(min=max(float(floor), torch.finfo(torch.float64).tiny))
    return float(ratios.max())
