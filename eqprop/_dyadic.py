"""Dyadic EP: mean and difference of two nudged copies relax together, in a single phase, for any asymmetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eqprop._activations import activation
from eqprop._contours import contour
from eqprop._network import Cache, Drive, Network, State, System
from eqprop._nudge import CostNudge
from eqprop._phases import PhasedRule, cleared, mean_loss, only
from eqprop._relax import relax
from eqprop._rule import RuleStep, add_readout_gradient, at_equilibrium
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True, kw_only=True)
class DyadicEP(PhasedRule):
    """Dyadic EP: the mean ``m`` of two copies settles like the free network, their difference ``d`` carries the error.

        m <- rho(inputs(m))
        d <- rho'(inputs(m)) (H(m)^T d - beta dC/dm)                          H = d inputs / ds
        dL/dtheta = -(d inputs/dtheta at m)^T d / beta

    Both relax at once, layer by layer, ``[batch, *shape]`` each; a sweep costs two of the free phase. At rest
    ``d = -beta delta`` with ``delta = D (dC/ds + H^T delta)``, the true adjoint. As ``d`` is linear in ``beta``, the
    gradient is exact at any nudge, for tied weights, untied ones and loops; ``ImplicitGradient`` solves the same system
    by GMRES.

    The residual is that of ``m`` or of ``d / beta``, whichever is larger: results do not depend on ``beta``, which sets
    how far ``d`` is above the noise of a reading. ``free`` and ``products`` serve the prediction only.

    Args:
        beta: nudge strength, other than 0.
        nudged: when the single phase ends.
        nudged_solver: its solver; None for ``solver``.

    Source: Scurria et al. 2026 (dyadic form); its difference equation is that of Almeida 1987 and Pineda 1987.
    """

    beta: float = 0.1
    nudged: Stop | Sweeps = Stop(tol=1e-4, max_sweeps=200, block=5)

    def __post_init__(self) -> None:
        super().__post_init__()
        contour("one-sided", self.beta)

    @torch.no_grad()
    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        step, rest, error = self._settle_both(network, x, y, start)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        weight, counted = self.sample_weights(sample.loss, step.free)
        kept = only(sample, counted)
        if counted is not None:
            rest, error = cleared(rest, counted), cleared(error, counted)
        direction = tuple(e * weight.reshape(-1, *[1] * (e.dim() - 1)) for e in error)
        network.add_tangent_gradient(rest, direction, step.drive.x)
        add_readout_gradient(network, self.loss_function, kept, rest, weight)
        return replace(step, loss=mean_loss(kept.loss, weight), counted=counted)

    @torch.no_grad()
    def error_vector(
        self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None
    ) -> tuple[RuleStep, State]:
        """``-d / beta`` a sample, ``[batch, *shape]`` a layer: the adjoint ``delta``. See ``Rule.error_vector``."""
        step, _, error = self._settle_both(network, x, y, start)
        return step, error

    def _settle_both(
        self, network: Network, x: Tensor, y: Tensor, start: State | None
    ) -> tuple[RuleStep, State, State]:
        """The step with all samples, the mean and ``-d / beta`` as measured."""
        drive = network.drive(x)
        batch = len(drive.x)
        mean = network.initial_state(batch) if start is None else start
        target = at_equilibrium(network, self.loss_function, mean, y).target
        network.begin_phase(0)
        solution = relax(
            DyadicSystem(network, drive, self.beta),
            (*mean, *(torch.zeros_like(s) for s in mean)),
            drive,
            CostNudge(network, self.loss_function, target, target.new_full((batch, 1), self.beta)),
            solver=self.solver if self.nudged_solver is None else self.nudged_solver,
            stop=self.nudged,
            graphs=self.graphs,
        )
        layers = len(network.shapes)
        free = replace(solution, state=solution.state[:layers])
        rest, difference = network.measure(free.state, 0), network.measure(solution.state[layers:], 0)
        sample = at_equilibrium(network, self.loss_function, rest, y)
        step = RuleStep(sample.loss.mean(), sample.output, free, drive)
        return step, rest, tuple(d / -self.beta for d in difference)


class DyadicSystem(System):
    """The doubled state ``(m, d)`` of ``DyadicEP``: all layers of the mean, then all of the difference.

    Both copies of a layer move in the same block, for they share its total input ``inputs(m)``.

    Args:
        network: any network.
        drive: of the batch.
        beta: scale of ``d``.
    """

    def __init__(self, network: Network, drive: Drive, beta: float) -> None:
        layers = len(network.shapes)
        self.shapes = network.shapes * 2
        self.activations = (*network.activations, *[activation("linear")] * layers)
        self.blocks = tuple((*block, *(l + layers for l in block)) for block in network.blocks)
        self._network, self._layers, self._scale = network, layers, abs(beta)
        self._transposed: tuple[System, Drive] | None = None
        if network.affine:
            # H does not depend on the state: around zero, without a drive, the adjoint dynamics are H^T alone, a block
            # of layers at a time
            zero = network.initial_state(len(drive.x))
            still = Drive(tuple(torch.zeros_like(t) for t in drive.terms), drive.x)
            self._transposed = network.adjoint_dynamics(zero, still)

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        back = None if self._transposed is None else self._transposed[0].new_cache(products)
        return Cache((self._network.new_cache(products), back))

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        n = self._layers
        mean, difference = state[:n], state[n:]
        layers = sorted({l % n for l in block})
        forward, backward = cache.content
        z = dict(zip(layers, self._network.block_inputs(mean, drive, layers, forward), strict=True))
        back = self._transposed_inputs(mean, difference, drive, layers, backward)
        new = []
        for l in block:
            rho = self.activations[l % n]
            if l < n:
                new.append(rho(z[l]))
                continue
            error = back[l - n]
            if nudge is not None and l - n in nudge.layers:
                error = error + nudge.force(mean[l - n])
            new.append(rho.derivative(z[l - n]) * error)
        return tuple(new)

    def _transposed_inputs(
        self, mean: State, difference: State, drive: Drive, layers: list[int], cache: Cache
    ) -> dict[int, Tensor]:
        """``H(m)^T d`` of those layers."""
        if self._transposed is None:
            full = self._network.vjp_inputs(mean, difference, drive)
            return {l: full[l] for l in layers}
        system, still = self._transposed
        return dict(zip(layers, system.block_inputs(difference, still, layers, cache), strict=True))

    def distance(self, a: State, b: State) -> Tensor:
        n = self._layers
        mean = self._network.distance(a[:n], b[:n])
        return torch.maximum(mean, self._network.distance(a[n:], b[n:]) / self._scale)
