"""Jacobian homeostasis against dense Jacobians, its probes against the closed forms, and the symmetrisers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import (
    Dense,
    DirectedNetwork,
    FieldNetwork,
    HopfieldNetwork,
    JacobianHomeostasis,
    KolenPollack,
    Layer,
    Network,
)
from tests.helpers import TIGHT, seeded

COORDINATES = ("activation", "membrane")


class Field(torch.nn.Module):
    """A user's field with one nonlinear input, so that its Jacobian depends on the state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(0.4 * torch.randn(4, 5, generator=seeded(1)))
        self.b = torch.nn.Parameter(0.4 * torch.randn(3, 4, generator=seeded(2)))
        self.c = torch.nn.Parameter(0.4 * torch.randn(4, 3, generator=seeded(3)))

    def forward(self, state: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
        h, out = state
        return x @ self.w.T + torch.sin(out) @ self.c.T, h @ self.b.T + 0.1 * out * out


def chain(angle: float) -> DirectedNetwork:
    return DirectedNetwork.mlp(5, 4, 3, 2, activation="sigmoid", gain=1.0, feedback_angle=angle, generator=seeded())


def loop() -> DirectedNetwork:
    layers = {"x": Layer(5), "a": Layer(4, "sigmoid"), "b": Layer(3, "tanh"), "c": Layer(2, "sigmoid")}
    edges = [Dense("x", "a"), Dense("a", "b"), Dense("b", "c"), Dense("c", "a"), Dense("b", "b", gain=0.3)]
    return DirectedNetwork(layers, edges, generator=seeded())


NETWORKS: dict[str, Any] = {
    "untied at 60 degrees": lambda: chain(60.0),
    "untied at 90 degrees": lambda: chain(90.0),
    "tied": lambda: HopfieldNetwork.mlp(5, 4, 3, 2, activation="sigmoid", gain=1.0, generator=seeded()),
    "loop": loop,
    "field": lambda: FieldNetwork(Field(), {"x": Layer(5), "h": Layer(4, "tanh"), "o": Layer(3, "sigmoid")}),
}


def settled(name: str, device: torch.device) -> tuple[Network, tuple[Tensor, ...], eqprop.Drive]:
    network: Network = NETWORKS[name]().double().to(device)
    drive = network.drive(torch.rand(3, 5, generator=seeded(5), dtype=torch.float64).to(device))
    return network, eqprop.relax(network, network.initial_state(3), drive, stop=TIGHT).state, drive


def dense_asymmetry(network: Network, state: tuple[Tensor, ...], drive: eqprop.Drive, coordinates: str) -> Tensor:
    """Batch mean of ``2 ||A||_F^2`` from the dense Jacobian of each sample, by autograd."""
    z = network.inputs(state, drive)
    total = []
    for i in range(len(drive.x)):
        own = eqprop.Drive(tuple(t[i : i + 1] if t.dim() > 1 else t for t in drive.terms), drive.x[i : i + 1])

        def field(*v: Tensor, own: eqprop.Drive = own) -> Tensor:
            s = v if coordinates == "activation" else tuple(r(u) for r, u in zip(network.activations, v, strict=True))
            return torch.cat([t.flatten() for t in network.inputs(s, own)])

        at = state if coordinates == "activation" else z
        blocks = torch.autograd.functional.jacobian(field, tuple(t[i : i + 1] for t in at), create_graph=True)
        m = torch.cat([b.reshape(len(b), -1) for b in blocks], 1)
        total.append(0.5 * (m - m.T).square().sum())
    return torch.stack(total).mean()


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "field"])
def test_the_exact_loss_is_that_of_the_dense_jacobian(name: str, coordinates: str, device: torch.device) -> None:
    network, state, drive = settled(name, device)
    loss = JacobianHomeostasis(1.0, coordinates=coordinates).loss(network, state, drive)
    expected = dense_asymmetry(network, state, drive, coordinates)
    assert torch.allclose(loss.total, expected, rtol=1e-10, atol=1e-12)


def test_on_a_layered_network_the_loss_is_the_distance_of_the_weights_from_symmetry(device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    assert isinstance(network, DirectedNetwork)
    loss = JacobianHomeostasis(1.0).loss(network, state, drive)
    pairs = network.reciprocal_pairs()
    distance = sum(float((w.weight - b.weight.mT).detach().square().sum()) for w, b in pairs)
    assert float(loss.total) == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("field", "tied")])
def test_the_exact_gradient_is_that_of_the_dense_jacobian(name: str, coordinates: str, device: torch.device) -> None:
    network, state, drive = settled(name, device)
    JacobianHomeostasis(1.0, coordinates=coordinates).apply(network, state, drive, 0.7)
    # the free equilibrium is held fixed: slopes enter as constants
    slopes = tuple(
        r.derivative(v).detach() for r, v in zip(network.activations, network.inputs(state, drive), strict=True)
    )
    eye = torch.eye(sum(s[0].numel() for s in state), dtype=torch.float64, device=device)
    sizes = [s.shape[1] for s in state]
    total = torch.zeros((), dtype=torch.float64, device=device)
    for i in range(len(drive.x)):
        d = torch.cat([s[i] for s in slopes]) if coordinates == "membrane" else torch.ones(len(eye), device=device)
        columns = (eye * d).split(sizes, 1)
        m = torch.cat(network.jvp_inputs(tuple(c for c in columns), tuple(c for c in columns), drive), 1).T
        total = total + 0.5 * (m - m.T).square().sum() / len(drive.x)
    expected = torch.autograd.grad(0.35 * total, list(network.parameters()), allow_unused=True)
    for p, g in zip(network.parameters(), expected, strict=True):
        got = torch.zeros_like(p) if p.grad is None else p.grad
        assert torch.allclose(got, torch.zeros_like(p) if g is None else g, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layerwise", (False, True))
@pytest.mark.parametrize("distribution", ("gaussian", "rademacher"))
@pytest.mark.parametrize("estimator", ("symmetric", "published"))
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_probes_are_unbiased(
    coordinates: str, estimator: str, distribution: str, layerwise: bool, device: torch.device
) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    exact = JacobianHomeostasis(1.0, coordinates=coordinates)
    probe = JacobianHomeostasis(
        1.0, coordinates=coordinates, estimator=estimator, probes=4000, distribution=distribution, layerwise=layerwise
    )
    losses, gradients = [], []
    for regulariser in (exact, probe):
        network.zero_grad()
        losses.append(float(regulariser.apply(network, state, drive, 1.0).total))
        gradients.append(
            torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in network.parameters()])
        )
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert (gradients[1] - gradients[0]).norm().item() < 0.06 * gradients[0].norm().item()


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_probes_serve_a_users_field(coordinates: str, device: torch.device) -> None:
    network, state, drive = settled("field", device)
    probe = JacobianHomeostasis(1.0, coordinates=coordinates, estimator="symmetric", probes=4000)
    loss = probe.apply(network, state, drive, 1.0)
    expected = dense_asymmetry(network, state, drive, coordinates)
    assert float(loss.total) == pytest.approx(expected.item(), rel=0.05)
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    if coordinates == "activation":  # in membrane coordinates the regulariser holds the slopes fixed
        truth = torch.autograd.grad(0.5 * expected, list(network.parameters()), allow_unused=True)
        flat = torch.cat([g.flatten() for g in truth if g is not None])
        assert float((gradient - flat[-len(gradient) :]).norm() / flat.norm()) < 0.06


def test_the_symmetric_estimator_is_never_negative_and_varies_less(device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    draws: dict[str, list[float]] = {"symmetric": [], "published": []}
    for estimator, values in draws.items():
        for seed in range(200):
            one = JacobianHomeostasis(1.0, estimator=estimator, probes=1, seed=seed)
            values.append(float(one.loss(network, state, drive).total))
    deviation = {k: torch.tensor(v).std() for k, v in draws.items()}
    assert min(draws["symmetric"]) >= 0.0
    assert deviation["symmetric"] < deviation["published"]


@pytest.mark.parametrize("terms", ("norm", "symmetry"))
def test_terms_are_separate_and_add_up(terms: str, device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    both = JacobianHomeostasis(1.0)
    both.apply(network, state, drive, 1.0)
    whole = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    parts = []
    for which in ("norm", "symmetry"):
        network.zero_grad()
        JacobianHomeostasis(1.0, terms=which).apply(network, state, drive, 1.0)
        parts.append([None if p.grad is None else p.grad.clone() for p in network.parameters()])
    for total, one, two in zip(whole, *parts, strict=True):
        assert (total is None) == (one is None) == (two is None)
        if total is not None and one is not None and two is not None:
            assert torch.allclose(total, one + two)
    loss = JacobianHomeostasis(1.0, terms=terms).loss(network, state, drive)
    assert float(loss.total) == pytest.approx(float(both.loss(network, state, drive).total))


def test_each_term_is_that_of_the_dense_jacobian_by_every_estimator(device: torch.device) -> None:
    """``||M||_F^2``, whose gradient is the weight itself, and ``-tr(M^2)``: not their sum alone."""
    network, state, drive = settled("untied at 60 degrees", device)
    assert isinstance(network, DirectedNetwork)
    sizes = [s.shape[1] for s in state]
    unit = torch.eye(sum(sizes), dtype=torch.float64, device=device)
    columns = tuple(c for c in unit.split(sizes, 1))
    m = torch.cat(network.jvp_inputs(columns, columns, drive), 1).T.detach()
    norm, symmetry = float(m.square().sum()), -float((m @ m).trace())
    assert abs(norm + symmetry) > 0.1 * norm and abs(norm - symmetry) > 0.1 * norm
    for estimator, tolerance in (("exact", 1e-10), ("symmetric", 0.05), ("published", 0.05)):
        for terms in ("norm", "symmetry"):
            network.zero_grad()
            regulariser = JacobianHomeostasis(1.0, estimator=estimator, terms=terms, probes=4000)
            loss = regulariser.apply(network, state, drive, 0.7)
            assert float(loss.norm) == pytest.approx(norm, rel=tolerance)
            assert float(loss.symmetry) == pytest.approx(symmetry, rel=tolerance)
            for pair in network.reciprocal_pairs():
                w, b = pair.forward.weight, pair.turned(pair.backward.weight)
                wanted = 0.7 * (w if terms == "norm" else -b).detach()
                assert w.grad is not None
                assert float((w.grad - wanted).norm() / wanted.norm()) < max(tolerance, 1e-9) * 2


def test_rademacher_probes_are_signs_and_layerwise_ones_live_on_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network, state, drive = settled("untied at 60 degrees", torch.device("cpu"))
    seen: list[tuple[Tensor, ...]] = []
    terms = eqprop._homeostasis._terms

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(args[4])
        return terms(*args, **options)

    monkeypatch.setattr(eqprop._homeostasis, "_terms", watched)

    def probes(**options: Any) -> list[tuple[Tensor, ...]]:
        seen.clear()
        JacobianHomeostasis(1.0, estimator="symmetric", probes=3, **options).apply(network, state, drive, 0.0)
        return list(seen)

    assert all(bool((e.abs() == 1).all()) for e in probes(distribution="rademacher")[0])
    assert all(bool((e.abs() != 1).all()) for e in probes(distribution="gaussian")[0])
    alone = probes(distribution="rademacher", layerwise=True)
    assert [[bool(e.any()) for e in probe] for probe in alone] == torch.eye(len(state)).bool().tolist()
    assert all(bool((probe[l].abs() == 1).all()) for l, probe in enumerate(alone))


@pytest.mark.parametrize("estimator", ("exact", "symmetric"))
def test_frozen_weights_are_measured_and_stay(estimator: str, device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    assert isinstance(network, DirectedNetwork)
    regulariser = JacobianHomeostasis(1.0, estimator=estimator, seed=2)
    free = regulariser.apply(network, state, drive, 1.0)
    ((forward, backward), *_) = network.reciprocal_pairs()
    expected = forward.weight.grad
    network.zero_grad()
    backward.weight.requires_grad_(False)
    again = JacobianHomeostasis(1.0, estimator=estimator, seed=2).apply(network, state, drive, 1.0)
    assert backward.weight.grad is None and expected is not None and forward.weight.grad is not None
    assert torch.allclose(forward.weight.grad, expected) and torch.allclose(again.total, free.total)


def test_on_a_loop_membrane_homeostasis_is_weight_decay_by_slopes(device: torch.device) -> None:
    layers = {"x": Layer(5), "a": Layer(4, "sigmoid"), "b": Layer(3, "tanh"), "c": Layer(2, "sigmoid")}
    edges = [Dense("x", "a"), Dense("a", "b"), Dense("b", "c"), Dense("c", "a")]
    network = DirectedNetwork(layers, edges, generator=seeded()).double().to(device)
    drive = network.drive(torch.rand(3, 5, generator=seeded(5), dtype=torch.float64).to(device))
    state = eqprop.relax(network, network.initial_state(3), drive, stop=TIGHT).state
    loss = JacobianHomeostasis(1.0, coordinates="membrane").apply(network, state, drive, 0.3)
    z = network.inputs(state, drive)
    slopes = dict(
        zip(network.names, (r.derivative(v) for r, v in zip(network.activations, z, strict=True)), strict=True)
    )
    assert float(loss.symmetry) == 0.0
    for key in ("a-b", "b-c", "c-a"):
        weight = network.connection(key).weight
        assert weight.grad is not None
        assert torch.allclose(weight.grad, 0.3 * weight * slopes[key[0]].square().mean(0), rtol=1e-9)


def test_the_difference_of_a_pair_decays_at_twice_the_coefficient_whatever_the_size(device: torch.device) -> None:
    for width in (4, 40):
        network = DirectedNetwork.mlp(3, width, 2, feedback_angle=90.0, generator=seeded()).to(device)
        ((forward, backward),) = network.reciprocal_pairs()
        before = (forward.weight - backward.weight.mT).detach().clone()
        drive = network.drive(torch.zeros(2, 3, device=device))
        JacobianHomeostasis(0.5).apply(network, network.initial_state(2), drive, 0.5)
        torch.optim.SGD(network.parameters(), lr=0.1).step()
        after = (forward.weight - backward.weight.mT).detach()
        # both ends of the pair move, each at the rate lambda
        assert torch.allclose(after, before * (1 - 2 * 0.1 * 0.5), atol=1e-6)


def test_per_unit_is_the_published_scale(device: torch.device) -> None:
    network, state, drive = settled("untied at 90 degrees", device)
    units = sum(s[0].numel() for s in state)
    found = []
    for regulariser in (JacobianHomeostasis(3.0, per="unit"), JacobianHomeostasis(6.0 / units)):
        network.zero_grad()
        step = stepped(network, regulariser)
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
        assert step.free.converged.all()
    assert torch.allclose(found[0], found[1])


def stepped(network: Network, *regularisers: Any) -> eqprop.RuleStep:
    """One step of generalised EP with those regularisers."""
    device = next(network.parameters()).device
    rule = eqprop.EquilibriumPropagation(
        contour="derivative", readout="tangent", free=TIGHT, nudged=TIGHT, regularisers=regularisers
    )
    x = torch.rand(3, 5, generator=seeded(5), dtype=torch.float64).to(device)
    return rule.backward(network, x, torch.tensor([0, 1, 1], device=device))


def test_on_a_loop_activation_homeostasis_is_weight_decay(device: torch.device) -> None:
    network = loop().double().to(device)
    stepped(network)
    plain = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    stepped(network, JacobianHomeostasis(0.3))
    for key in ("a-b", "b-c", "c-a"):
        name = f"connections.{key}.weight"
        weight, added = network.get_parameter(name), network.get_parameter(name).grad
        assert added is not None
        assert torch.allclose(added - plain[name], 0.3 * weight, rtol=1e-9, atol=1e-12)


def test_every_so_many_steps_it_acts_as_strongly_on_the_mean(device: torch.device) -> None:
    network, state, drive = settled("untied at 90 degrees", device)
    seldom = JacobianHomeostasis(0.2, every=3)
    network.zero_grad()
    step = eqprop.EquilibriumPropagation(readout="tangent", free=TIGHT, nudged=TIGHT)
    record = step.backward(network, drive.x, torch.tensor([0, 1, 1], device=device))
    network.zero_grad()
    acted = [seldom.add_gradient(network, record) is not None for _ in range(6)]
    assert acted == [True, False, False, True, False, False]
    got = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    for _ in range(6):
        JacobianHomeostasis(0.2).add_gradient(network, record)
    for a, p in zip(got, network.parameters(), strict=True):
        assert (a is None) == (p.grad is None)
        if a is not None and p.grad is not None:
            assert torch.allclose(a, p.grad)


def test_its_probes_resume(device: torch.device) -> None:
    network, state, drive = settled("untied at 90 degrees", device)
    one = JacobianHomeostasis(1.0, estimator="symmetric", seed=4)
    first = one.apply(network, state, drive, 1.0).total
    kept = one.state_dict()
    expected = one.apply(network, state, drive, 1.0).total
    other = JacobianHomeostasis(1.0, estimator="symmetric", seed=9)
    other.load_state_dict(kept)
    assert torch.equal(other.apply(network, state, drive, 1.0).total, expected) and not torch.equal(first, expected)


def test_looking_at_the_loss_leaves_the_draws_of_the_training(device: torch.device) -> None:
    network, state, drive = settled("untied at 90 degrees", device)
    looking, training = (JacobianHomeostasis(1.0, estimator="symmetric", seed=4) for _ in range(2))
    seen = [looking.loss(network, state, drive).total for _ in range(2)]
    assert torch.equal(seen[0], seen[1])
    expected = training.apply(network, state, drive, 1.0).total
    assert torch.equal(looking.apply(network, state, drive, 1.0).total, expected)
    assert not torch.equal(seen[0], expected)  # probes of its own


def test_a_step_carries_what_each_regulariser_found(device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    exact = JacobianHomeostasis(0.1)
    seldom = JacobianHomeostasis(0.1, coordinates="membrane", every=2)
    rule = eqprop.EquilibriumPropagation(
        readout="tangent", free=TIGHT, nudged=TIGHT, regularisers=(KolenPollack(), exact, seldom)
    )
    steps = [rule.backward(network, drive.x, torch.tensor([0, 1, 1], device=device)) for _ in range(2)]
    names = {"homeostasis_norm", "homeostasis_symmetry"}
    assert set(steps[0].penalties) == names | {f"{name}/2" for name in names} and set(steps[1].penalties) == names
    for regulariser, suffix in ((exact, ""), (seldom, "/2")):
        loss = regulariser.loss(network, state, drive)
        assert torch.allclose(steps[0].penalties["homeostasis_norm" + suffix], loss.norm)
        assert torch.allclose(steps[0].penalties["homeostasis_symmetry" + suffix], loss.symmetry)


def test_homeostasis_turns_feedback_towards_the_forward_weights(device: torch.device) -> None:
    network = chain(90.0).double().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        stepped(network, JacobianHomeostasis(0.5))
        optimizer.step()
    for forward, backward in network.reciprocal_pairs():
        w, b = forward.weight.detach(), backward.weight.mT.detach()
        assert float((w * b).sum() / (w.norm() * b.norm())) > 0.95


def test_kolen_pollack_shares_gradients_and_decays_the_difference(device: torch.device) -> None:
    network = chain(90.0).double().to(device)
    before = [(f.weight - b.weight.mT).detach().clone() for f, b in network.reciprocal_pairs()]
    stepped(network, KolenPollack(0.2))
    torch.optim.SGD(network.parameters(), lr=0.5).step()
    for old, (forward, backward) in zip(before, network.reciprocal_pairs(), strict=True):
        assert torch.allclose(forward.weight - backward.weight.mT, old * (1 - 0.5 * 0.2))


def test_tied_weights_stay_tied_without_decay(device: torch.device) -> None:
    network = chain(60.0).double().to(device)
    eqprop.tie_weights(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        stepped(network, KolenPollack(0.0))
        optimizer.step()
    for forward, backward in network.reciprocal_pairs():
        assert torch.allclose(forward.weight, backward.weight.mT, atol=1e-14)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coefficient": -1.0}, "needed a finite number from 0"),
        ({"coefficient": math.nan}, "needed a finite number"),
        ({"coefficient": 1.0, "coordinates": "membranes"}, "did you mean 'membrane'"),
        ({"coefficient": 1.0, "estimator": "exactly"}, "did you mean 'exact'"),
        ({"coefficient": 1.0, "layerwise": True, "estimator": "exact"}, "estimator='symmetric'"),
        ({"coefficient": 1.0, "probes": 0}, "at least 1"),
        ({"coefficient": 1.0, "probes": 2.5}, "probes: got 2.5, needed a whole number"),
        ({"coefficient": 1.0, "every": 2.5}, "every: got 2.5, needed a whole number"),
        ({"coefficient": "a"}, "coefficient: got 'a', needed a finite number"),
        ({"coefficient": True}, "coefficient: got True"),
        ({"coefficient": 1.0, "seed": "a"}, "seed: got 'a'"),
        ({"coefficient": 1.0, "per": "layer"}, "needed one of weight, unit"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(eqprop.ConfigError, match=words):
        JacobianHomeostasis(**settings)


def test_networks_that_cannot_have_it_are_refused(device: torch.device) -> None:
    network, state, drive = settled("field", device)
    with pytest.raises(eqprop.ConfigError, match="estimator='symmetric'"):
        JacobianHomeostasis(1.0, estimator="exact").apply(network, state, drive, 1.0)
    tied = HopfieldNetwork.mlp(5, 4, 3)
    with pytest.raises(eqprop.ConfigError, match="needed a DirectedNetwork"):
        eqprop.tie_weights(tied)


@pytest.mark.parametrize("estimator", ("exact", "symmetric", "published"))
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_a_sample_that_is_left_out_does_not_count(coordinates: str, estimator: str, device: torch.device) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    regulariser = JacobianHomeostasis(1.0, coordinates=coordinates, estimator=estimator, probes=2000)
    broken = tuple(s.clone() for s in state)
    for s in broken:
        s[1] = torch.nan
    counted = torch.tensor([True, False, True], device=device)
    loss = regulariser.apply(network, broken, drive, 1.0, counted)
    got = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    network.zero_grad()
    two = eqprop.Drive(tuple(t[counted] if t.dim() > 1 else t for t in drive.terms), drive.x[counted])
    other = JacobianHomeostasis(1.0, coordinates=coordinates, estimator=estimator, probes=2000, seed=1)
    expected = other.apply(network, tuple(s[counted] for s in state), two, 1.0)
    wanted = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    tolerance = 1e-10 if estimator == "exact" else 0.1
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=tolerance)
    assert (got - wanted).norm().item() < tolerance * wanted.norm().item()


def test_kolen_pollack_must_come_first() -> None:
    homeostasis = JacobianHomeostasis(0.1)
    with pytest.raises(eqprop.ConfigError, match="it first"):
        eqprop.EquilibriumPropagation(regularisers=(homeostasis, KolenPollack()))
    eqprop.EquilibriumPropagation(regularisers=(KolenPollack(), homeostasis))


@pytest.mark.parametrize("layerwise", (False, True))
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_probes_one_after_another_are_probes_together(
    coordinates: str, layerwise: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, state, drive = settled("untied at 60 degrees", device)
    options: dict[str, Any] = {"coordinates": coordinates, "layerwise": layerwise, "seed": 3}
    found = []
    for together in (2**24, 0):
        monkeypatch.setattr(eqprop._homeostasis, "_TOGETHER", together)
        network.zero_grad()
        regulariser = JacobianHomeostasis(1.0, estimator="published", probes=4, **options)
        loss = regulariser.apply(network, state, drive, 0.5, torch.tensor([True, False, True], device=device))
        found.append((loss.total, [p.grad for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("value", ("a", True, -1.0, math.inf))
def test_a_decay_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(eqprop.ConfigError, match="decay: got"):
        KolenPollack(value)


def test_kolen_pollack_names_what_serves_a_loop(device: torch.device) -> None:
    with pytest.raises(eqprop.ConfigError, match="on a loop.*JacobianHomeostasis"):
        stepped(loop().double().to(device), KolenPollack())
