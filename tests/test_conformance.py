"""The public conformance suite: passes on every network, and names the check that a wrong network fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, ConformanceError, DirectedNetwork, Drive, FieldNetwork, HopfieldNetwork, Network
from eqprop._network import Cache, Phase, System
from tests.helpers import NETWORKS, CubicField, State, inputs, layers, network, seeded

every = pytest.mark.parametrize("name", NETWORKS)
INPUTS = "inputs are the gradient of Phi"
UPDATE = "update is the activation of inputs"
VJP = "vjp_inputs is the transposed Jacobian"
CONTRAST = "contrast gradient is that of the energy"
TANGENT = "tangent gradient is that of the inputs"
SAMPLES = "samples are independent"
KEPT = "arguments, dtypes and shapes are kept"
JVP = "jvp_inputs is the Jacobian"
ADJOINT = "adjoint dynamics have the transposed Jacobian"
AFFINE = "inputs are affine"
GRADIENT = "energy has the gradient rho^-1(s) - inputs"
LOW = "low precision is close to full"
ENERGY = "energy never rises"


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_every_network_conforms(name: str, seed: int, device: torch.device) -> None:
    report = eqprop.check_network(network(name, device), seed=seed)
    assert report.passed, str(report)


@every
def test_every_check_that_applies_is_made(name: str) -> None:
    report = eqprop.check_network(network(name))
    skipped = {c.name for c in report.checks if c.deviation is None}
    has_energy = not name.startswith(("directed", "loop", "self", "user-f"))
    expected: set[str] = set() if has_energy else {INPUTS, CONTRAST, GRADIENT, ENERGY}
    if name == "chain-dsilu":  # not monotone
        expected = {GRADIENT, ENERGY}
    if name == "user-energy":  # the user's block steps are no exact minima
        expected = {ENERGY}
    if name in ("conv-max", "conv-soft"):  # what a unit receives depends on itself: its step is no exact minimum
        expected = {ENERGY}
    if name.startswith("user") or name.endswith(("-max", "-soft")):
        expected |= {AFFINE}
    assert skipped == expected


def test_a_float32_network_is_checked_in_float64_and_not_changed(device: torch.device) -> None:
    net = network("chain-tanh", device, torch.float32)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    eqprop.check_network(net)
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in net.named_parameters())


def test_your_own_inputs_are_used(device: torch.device) -> None:
    net = network("chain-tanh", device)
    assert eqprop.check_network(net, x=inputs(net, 3, device)).passed


def test_one_sample_cannot_show_independence() -> None:
    net = network("chain-tanh")
    with pytest.raises(ConfigError, match="got 1 sample, needed at least 2"):
        eqprop.check_network(net, x=inputs(net, 1))


# -- deliberately wrong networks ---------------------------------------------------------------------------------------


class MissingTerm(HopfieldNetwork):
    """The top-down product of the last connection is forgotten everywhere."""

    def _incoming(self, precision: torch.dtype | None, paired: bool = False) -> Any:
        return self._forget(super()._incoming(precision, paired))

    def _tangent_incoming(self, state: State, precision: torch.dtype | None, transpose: bool) -> Any:
        return self._forget(super()._tangent_incoming(state, precision, transpose))

    @staticmethod
    def _forget(incoming: Any) -> Any:
        return (*incoming[:-2], incoming[-2][:-1], incoming[-1])


class StaleBlock(HopfieldNetwork):
    """The cache keeps the state that it saw first, and every block is updated from that one."""

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache((super().new_cache(products, paired), []))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        inner, seen = cache.content
        seen.append(state)
        return super().block_inputs(seen[0], drive, block, inner)

    def linearised_transpose(self, state: State, drive: Drive) -> System:
        return Network.linearised_transpose(self, state, drive)  # the faster one has a cache of its own


class HalfStep(HopfieldNetwork):
    """Moves only half-way."""

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        new = super().update(state, drive, nudge, block, cache)
        return tuple(0.5 * (n + state[l]) for n, l in zip(new, block, strict=True))


class ForgottenLayer(HopfieldNetwork):
    """A layer in no block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.blocks = self.blocks[:-1]


class NotTransposed(DirectedNetwork):
    """``H v`` instead of ``H^T v``."""

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        zero = tuple(torch.zeros_like(s) for s in state)
        at_zero = self.inputs(zero, drive)
        return tuple(a - b for a, b in zip(self.inputs(vector, drive), at_zero, strict=True))


class WrongSign(HopfieldNetwork):
    """The contrast gradient of ``+Phi``."""

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        super().add_contrast_gradient([p._replace(weights=-p.weights) for p in phases], x)


class Overwrites(HopfieldNetwork):
    """Gradients replace ``.grad`` instead of adding to it."""

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        for p in self.parameters():
            p.grad = None
        super().add_contrast_gradient(phases, x)


class NoReciprocalPart(HopfieldNetwork):
    """The tangent gradient of a tied weight, as if it acted in one direction only."""

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        edges = self._edges
        self._edges = [e._replace(back=False) for e in edges]
        try:
            super().add_tangent_gradient(state, direction, x)
        finally:
            self._edges = edges


class BatchMean(DirectedNetwork):
    """Inputs less their batch mean, as a batch normalisation would."""

    def _centred(self, z: State) -> State:
        return tuple(v - v.mean(0) for v in z)

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        return list(self._centred(tuple(super().block_inputs(state, drive, block, cache))))

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return super().vjp_inputs(state, self._centred(vector), drive)

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        super().add_tangent_gradient(state, self._centred(direction), x)


class Meddles(HopfieldNetwork):
    """Writes the new state into the old one."""

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        new = super().update(state, drive, nudge, block, cache)
        for n, l in zip(new, block, strict=True):
            state[l].copy_(n)
        return new


class SinglePrecision(DirectedNetwork):
    """Returns float32 states, whatever came in."""

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        return tuple(n.float() for n in super().update(state, drive, nudge, block, cache))


class WrongConjugate(HopfieldNetwork):
    """The energy of another activation: ``rho*`` has the wrong sign."""

    def energy(self, state: State, drive: Drive) -> Tensor:
        return -super().energy(state, drive)


class TripledJacobian(HopfieldNetwork):
    """``3 H v`` instead of ``H v``."""

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return tuple(3 * z for z in super().jvp_inputs(state, vector, drive))


class UntransposedAdjoint(DirectedNetwork):
    """The network itself as its adjoint dynamics."""

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        return self, drive


class DoubledEnergy(HopfieldNetwork):
    """Falls over sweeps as it should, and is twice too large."""

    def energy(self, state: State, drive: Drive) -> Tensor:
        return 2 * super().energy(state, drive)


class FalselyAffine(FieldNetwork):
    """A cubic field that says it is affine."""

    affine = True

    @classmethod
    def mlp(cls, *sizes: int, **options: Any) -> FalselyAffine:
        return cls(CubicField(), layers(5, 6, 3))


class LostProducts(HopfieldNetwork):
    """In low precision layers do not hear each other."""

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return super().new_cache() if products is None else Cache(((),) * len(self.shapes))


class WrongSignature(HopfieldNetwork):
    """``phi`` without the drive."""

    def phi(self, state: State) -> Tensor:  # type: ignore[override]
        return state[0].sum(1)


class Wordless(DirectedNetwork):
    """Raises something without a text."""

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        raise KeyError


class Unfinished(DirectedNetwork):
    """A method that is not there yet."""

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        raise NotImplementedError("still to be written")


SIGNATURE = "TypeError: WrongSignature.phi() takes 2 positional arguments but 3 were given"
WRONG: list[tuple[type[Any], set[str]]] = [
    (TripledJacobian, {JVP}),
    (UntransposedAdjoint, {ADJOINT}),
    (DoubledEnergy, {GRADIENT}),
    (FalselyAffine, {AFFINE}),
    (LostProducts, {LOW}),
    (WrongSignature, {f"{check}: {SIGNATURE}" for check in (INPUTS, GRADIENT, CONTRAST, ENERGY)}),
    (Wordless, {f"{JVP}: KeyError"}),
    (MissingTerm, {INPUTS, VJP, TANGENT, ADJOINT, GRADIENT}),
    (StaleBlock, {UPDATE}),
    (HalfStep, {UPDATE}),
    (ForgottenLayer, {UPDATE}),
    (NotTransposed, {VJP, ADJOINT}),
    (WrongSign, {CONTRAST}),
    (Overwrites, {CONTRAST}),
    (NoReciprocalPart, {TANGENT}),
    (BatchMean, {JVP, SAMPLES}),
    (Meddles, {UPDATE, KEPT}),
    (SinglePrecision, {UPDATE, KEPT}),
    (WrongConjugate, {GRADIENT, ENERGY}),
    (Unfinished, {f"{TANGENT}: NotImplementedError: still to be written"}),
]


def wrong_network(cls: type[Any]) -> Network:
    options: dict[str, Any] = {"feedback_angle": 60.0} if issubclass(cls, DirectedNetwork) else {}
    options |= {"activation": "tanh", "output_activation": "sigmoid", "gain": 1.5, "generator": seeded(1)}
    made: Network = cls.mlp(5, 7, 6, 3, **options)
    return made


@pytest.mark.parametrize(("cls", "names"), WRONG, ids=[cls.__name__ for cls, _ in WRONG])
def test_a_wrong_network_fails_exactly_the_checks_that_it_breaks(
    cls: Callable[..., Any], names: set[str], device: torch.device
) -> None:
    report = eqprop.check_network(wrong_network(cls).to(device), throw=False)  # type: ignore[arg-type]
    assert {c.name for c in report.checks if not c.passed} == names, str(report)


def test_the_networks_that_the_wrong_ones_are_made_of_conform(device: torch.device) -> None:
    assert eqprop.check_network(wrong_network(HopfieldNetwork).to(device)).passed
    assert eqprop.check_network(wrong_network(DirectedNetwork).to(device)).passed


def test_the_error_names_the_network_and_the_failed_check() -> None:
    with pytest.raises(ConformanceError, match=rf"WrongSign does not conform:[\s\S]*FAILED   {CONTRAST}"):
        eqprop.check_network(wrong_network(WrongSign))
