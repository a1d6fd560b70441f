"""Jacobian homeostasis: a pull of the Jacobian towards symmetry, usable with any rule.

Let ``M = d F / d v`` be the Jacobian of the total inputs, in one of two coordinates:

- *activation*: ``F = inputs(s)``, the activation function bypassed, ``M = H`` (the published choice);
- *membrane*: ``F = inputs(rho(u))``, ``M = H D`` with the slopes ``D = diag(rho')`` at the free equilibrium.

The leak ``-1`` of each unit is symmetric and drops out. The homeostatic loss is

    S = E_e [ ||M e||^2 - e^T M^2 e ] = E_e [ 1/2 ||M e - M^T e||^2 ] = 2 ||A||_F^2,   A = (M - M^T) / 2,

and the regulariser adds the gradient of ``lambda/2 S``, with the free equilibrium held fixed. For a pair of dense
layers joined by ``W`` (forwards) and ``B`` (back), ``S`` in activation coordinates is exactly ``||W - B^T||_F^2``: each
weight moves at ``lambda (W - B^T)``, and their difference decays at the rate ``2 lambda``, whatever the size of the
network. Of convolutions ``S`` is ``||C_(W-B)||_F^2``, the same with each weight counted as often as an image uses it.
The published coefficient ``c`` multiplies ``S / n`` with ``n`` the number of moving units: ``lambda = 2 c / n``. On a
loop without reciprocal or self connections ``tr(M^2) = 0`` and ``S = ||M||_F^2``: in activation coordinates ``sum
||W||^2``, plain weight decay at rate ``lambda``; in membrane coordinates ``sum_ij W_ij^2 <d_j^2>``, a weight decay too,
each weight at the mean squared slope of the unit that it comes from.

Source: Laborieux & Zenke 2024, Eq. 12 (first form, with probes); the second form is never negative and varies less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._homeostatic_loss import NO_CLOSED_FORM, HomeostaticLoss, exact_loss, has_closed_form
from eqprop._names import lookup
from eqprop._network import Drive, Network, State, add_gradient_of
from eqprop._numbers import is_number, is_whole
from eqprop._phases import cleared
from eqprop._rule import RuleStep
from eqprop._share import drawn

_COORDINATES = {"activation": None, "membrane": None}
_ESTIMATORS = {"auto": None, "exact": None, "symmetric": None, "published": None}
_TERMS = {"both": (1.0, 1.0), "norm": (1.0, 0.0), "symmetry": (0.0, 1.0)}
_PROBES = {"gaussian": None, "rademacher": None}
_TOGETHER = 2**24  # numbers in the probes that share a graph: some 64 MB, which the graph holds several times over


@dataclass(frozen=True)
class JacobianHomeostasis:
    """Adds the gradient of ``lambda/2 S`` to that of a rule; see the module for ``S``.

    On a loop without reciprocal or self connections both versions are weight decay, for ``tr(M^2) = 0``; the membrane
    one weighs each weight with the mean squared slope of the unit that it comes from.

    Args:
        coefficient: ``lambda``, or the published ``c`` where ``per="unit"``.
        coordinates: ``"activation"`` or ``"membrane"``.
        estimator: ``"exact"``, the closed form of networks with dense connections (in activation coordinates also
            convolutions with average or no pooling), batch mean, no probes; ``"symmetric"``, ``1/2 ||M e - M^T e||^2``,
            and ``"published"``, ``||M e||^2 - e^T M^2 e``, by probes on any network; ``"auto"``, exact where there is a
            closed form, else symmetric.
        terms: ``"both"``, ``"norm"`` (first term alone) or ``"symmetry"`` (second term alone), for ablation.
        probes: probe vectors a sample.
        distribution: ``"gaussian"`` or ``"rademacher"``.
        layerwise: every probe lives on one layer, all layers in turn, so that each layer only compares what its own
            noise does to its neighbours with what comes back (the same expectation).
        per: ``"weight"`` or ``"unit"``, the scale of ``coefficient``.
        every: apply at every so many steps, times as strongly.
        seed: of the probes.

    Raises:
        ConfigError: an unknown name, a negative coefficient, or (when applied) a closed form that the network lacks.
    """

    coefficient: float
    coordinates: str = "activation"
    estimator: str = "auto"
    terms: str = "both"
    probes: int = 5
    distribution: str = "gaussian"
    layerwise: bool = False
    per: str = "weight"
    every: int = 1
    seed: int = 0
    by_share: ClassVar[bool] = True
    _state: _State = field(default_factory=lambda: _State(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for what, table in (("coordinates", _COORDINATES), ("estimator", _ESTIMATORS), ("terms", _TERMS)):
            lookup(what, getattr(self, what), table)
        lookup("distribution", self.distribution, _PROBES)
        lookup("per", self.per, {"weight": None, "unit": None})
        if not is_number(self.coefficient) or self.coefficient < 0.0:
            raise ConfigError(
                f"coefficient: got {self.coefficient!r}, needed a finite number from 0 on; write "
                "JacobianHomeostasis(0.01)"
            )
        for name in ("probes", "every"):
            if not is_whole(getattr(self, name), 1):
                raise ConfigError(f"{name}: got {getattr(self, name)!r}, needed a whole number of at least 1")
        if not is_whole(self.seed, 0):
            raise ConfigError(f"seed: got {self.seed!r}, needed a whole number from 0 on; write seed=0")
        if self.layerwise and self.estimator == "exact":
            raise ConfigError("layerwise: the exact form draws no probes; write estimator='symmetric'")
        self._state.generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Random state and step count."""
        return {"generator": self._state.generator.get_state(), "steps": self._state.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes ``state_dict``."""
        self._state.generator.set_state(state["generator"])
        self._state.steps = state["steps"]

    def add_gradient(self, network: Network, step: RuleStep) -> HomeostaticLoss | None:
        """Add the gradient to ``.grad``; returns the loss, or None at a step that is skipped."""
        self._state.steps += 1
        if (self._state.steps - 1) % self.every:
            return None
        rate = self.coefficient * self.every
        if self.per == "unit":
            rate *= 2 / sum(math.prod(shape) for shape in network.shapes)
        return self.apply(network, step.free.state, step.drive, rate, step.counted)

    def loss(self, network: Network, state: State, drive: Drive) -> HomeostaticLoss:
        """``S`` at the free equilibrium, by the chosen estimator, batch mean; no gradient.

        Its probes are its own, the same at every call: looking does not change the draws of a run.
        """
        own = torch.Generator().manual_seed(self.seed + 1)  # not the first probes of the training again
        return self.apply(network, state, drive, 0.0, generator=own)

    def apply(
        self,
        network: Network,
        state: State,
        drive: Drive,
        rate: float,
        counted: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> HomeostaticLoss:
        """``S``, mean over counted samples, and the gradient of ``rate/2 S`` where ``rate`` is not 0.

        ``generator`` draws the probes; None for that of the training.
        """
        # every term is quadratic in slopes and probes: a sample that is left out gets zeros, the others their share
        share = state[0].new_ones(len(state[0]))
        if counted is not None:
            state = cleared(state, counted)
            kept = counted.to(share.dtype)
            share = kept * (len(kept) / kept.sum().clamp(min=1)).sqrt()
        if self._estimator_for(network) == "exact":
            if not isinstance(network, GraphNetwork):
                raise ConfigError(f"{NO_CLOSED_FORM}, for a {type(network).__name__}")
            slopes = self._slopes(network, state, drive)
            slopes = None if slopes is None else _by_sample(slopes, share)
            return exact_loss(network, slopes, rate, _TERMS[self.terms])
        generator = self._state.generator if generator is None else generator
        return self._probed(network, state, drive, share, rate, generator)

    def _estimator_for(self, network: Network) -> str:
        if self.estimator != "auto":
            return self.estimator
        if not self.layerwise and has_closed_form(network, self.coordinates):
            return "exact"
        return "symmetric"

    def _slopes(self, network: Network, state: State, drive: Drive) -> State | None:
        if self.coordinates == "activation":
            return None
        with torch.no_grad():
            z = network.inputs(state, drive)
            return tuple(rho.derivative(v) for rho, v in zip(network.activations, z, strict=True))

    def _probed(
        self, network: Network, state: State, drive: Drive, share: Tensor, rate: float, generator: torch.Generator
    ) -> HomeostaticLoss:
        n, batch = self.probes, len(state[0])
        units = sum(math.prod(shape) for shape in network.shapes)
        # together where that is small: fewer, larger products; else one after another, for each keeps its own graph
        together = n if n * batch * units <= _TOGETHER else 1
        e = tuple(self._draw(s, n, generator) for s in state)
        state, drive = network.repeat_state(state, together), network.repeat_drive(drive, together)
        slopes = self._slopes(network, state, drive)
        layers = range(len(state)) if self.layerwise else [None]
        norm = symmetry = state[0].new_zeros(())
        first, second = _TERMS[self.terms]
        symmetric_form = self._estimator_for(network) == "symmetric"
        for start in range(0, n * batch, together * batch):
            some = _by_sample(tuple(v[start : start + together * batch] for v in e), share.repeat(together))
            for only in layers:
                probe = some if only is None else _on_layer(some, only)
                with torch.set_grad_enabled(rate != 0.0):
                    one, two = _terms(network, state, drive, slopes, probe, symmetric=symmetric_form)
                    loss = 0.5 * rate * (first * one + second * two) / (n * batch)
                if loss.requires_grad:
                    add_gradient_of(loss, network)
                norm, symmetry = norm + one.detach() / (n * batch), symmetry + two.detach() / (n * batch)
        return HomeostaticLoss(norm, symmetry)

    def _draw(self, like: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        # drawn on the CPU, so that a seed gives the same probes on every device
        def make(shape: tuple[int, ...]) -> Tensor:
            if self.distribution == "gaussian":
                return torch.randn(shape, generator=generator, dtype=like.dtype)
            return torch.randint(0, 2, shape, generator=generator).to(like.dtype) * 2 - 1

        return drawn(make, (copies * len(like), *like.shape[1:]), copies).to(like.device)


class _State:
    """What moves in a regulariser: the generator of its probes, and the steps it has seen."""

    def __init__(self) -> None:
        self.generator = torch.Generator()
        self.steps = 0


def _terms(
    network: Network, state: State, drive: Drive, slopes: State | None, probe: State, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Sums over samples of ``||M e||^2`` and ``-e^T M^2 e``; the first, in expectation the same, from both of ``M e``
    and ``M^T e`` where symmetric: ``1/2 (||M e||^2 + ||M^T e||^2)``, with the sum ``1/2 ||M e - M^T e||^2``."""
    scaled = probe if slopes is None else _product(slopes, probe)
    forth = network.jvp_inputs(state, scaled, drive)
    back = network.vjp_inputs(state, probe, drive)
    back = back if slopes is None else _product(slopes, back)
    # e^T M^2 e = (M^T e) . (M e): no second Jacobian product
    symmetry = -_dot(back, forth)
    if not symmetric:
        return _dot(forth, forth), symmetry
    difference = _minus(forth, back)
    # as the total less the second term, so that rounding makes neither the sum negative nor its gradient inexact
    return _dot(difference, difference) / 2 - symmetry, symmetry


def _on_layer(state: State, only: int) -> State:
    return tuple(v if l == only else torch.zeros_like(v) for l, v in enumerate(state))


def _by_sample(state: State, share: Tensor) -> State:
    return tuple(s * share.reshape(-1, *[1] * (s.dim() - 1)) for s in state)


def _product(a: State, b: State) -> State:
    return tuple(p * q for p, q in zip(a, b, strict=True))


def _minus(a: State, b: State) -> State:
    return tuple(p - q for p, q in zip(a, b, strict=True))


def _dot(a: State, b: State) -> Tensor:
    return torch.stack([(p * q).sum() for p, q in zip(a, b, strict=True)]).sum()
