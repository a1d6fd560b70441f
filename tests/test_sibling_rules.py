"""Contrastive Hebbian, coupled, continual, oscillating and dyadic learning, each against its own definition."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from benchmarks._noise_points import NoisyHopfieldNetwork
from eqprop import (
    Alternating,
    ConfigError,
    DataError,
    DirectedNetwork,
    EquilibriumPropagation,
    HopfieldNetwork,
    ImplicitGradient,
    Network,
    Rule,
    Status,
    Stop,
    Sweeps,
    Synchronous,
)
from eqprop._continual import ContinualEP
from eqprop._contrastive import ClampNudge, ContrastiveHebbian, CoupledLearning
from eqprop._diagnostics import match
from eqprop._dyadic import DyadicEP
from eqprop._oscillating import OscillatingEP
from tests.helpers import (
    NETWORKS,
    SOLVERS,
    TIED,
    TIGHT,
    State,
    exact_loss,
    flat,
    inputs,
    labels,
    network,
    no_host_sync,
    seeded,
    slope,
)

TO_ROUNDING: dict[str, Any] = {"free": TIGHT, "nudged": TIGHT}
# rho* of dsilu does not exist, so that the energy of a held output has no meaning
ENERGIES = [n for n in (*TIED, "user-energy") if n != "chain-dsilu"]
UNTIED = [n for n in NETWORKS if n not in TIED and n != "user-energy"]
COSTS = ("squared-error", "cross-entropy")
QUICK: dict[str, Callable[[], Rule]] = {
    "contrastive": lambda: ContrastiveHebbian(free=Sweeps(20), nudged=Sweeps(15)),
    "coupled-one-sided": lambda: CoupledLearning(beta=0.5, contour="one-sided", free=Sweeps(20), nudged=Sweeps(15)),
    "coupled-centred": lambda: CoupledLearning(beta=0.5, free=Sweeps(20), nudged=Sweeps(15)),
    "continual": lambda: ContinualEP(beta=0.5, rates=0.01, free=Sweeps(20), nudged=Sweeps(15)),
    "oscillating": lambda: OscillatingEP(beta=0.2, points=4, sweeps=8),
    "oscillating-real": lambda: OscillatingEP(beta=0.2, points=2, sweeps=8),
    "dyadic": lambda: DyadicEP(nudged=Sweeps(30)),
}
every_rule = pytest.mark.parametrize("kind", QUICK)


def problem(name: str, device: torch.device, batch: int = 5) -> tuple[Network, Tensor, Tensor]:
    net = network(name, device)
    return net, inputs(net, batch, device), labels(batch, 3, device)


def gradient(net: Network, rule: Rule, x: Tensor, y: Tensor) -> Tensor:
    return flat(eqprop.gradients(net, rule, x, y))


def relative_error(net: Network, rule: Rule, truth: Tensor, x: Tensor, y: Tensor) -> float:
    return match(gradient(net, rule, x, y), truth).relative_error


@torch.no_grad()
def settle_by_hand(net: Network, x: Tensor, held: Tensor | None = None, sweeps: int = 300) -> State:
    """Plain synchronous sweeps, half a step each, the output held where there is a value for it."""
    drive, state = net.drive(x), net.initial_state(len(x))
    for _ in range(sweeps):
        z = net.inputs(state, drive)
        state = tuple(0.5 * s + 0.5 * rho(v) for s, rho, v in zip(state, net.activations, z, strict=True))
        if held is not None:
            state = (*state[:-1], held)
    return tuple(s.detach() for s in state)


def energy_gradient(net: Network, x: Tensor, terms: list[tuple[float, State]]) -> dict[str, Tensor]:
    """Autograd of the batch mean of ``sum_k w_k E(s_k)``, the states fixed; zero for the readout."""
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for weight, state in terms:
        total = total + weight * net.energy(state, net.drive(x)).mean()
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def one_hot(y: Tensor, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(y, classes).double()


# -- contrastive Hebbian learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in ENERGIES if not n.endswith("readout")])
def test_contrastive_hebbian_is_the_gradient_of_the_energy_difference(name: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    terms = [(1.0, settle_by_hand(net, x, one_hot(y))), (-1.0, settle_by_hand(net, x))]
    truth = flat(energy_gradient(net, x, terms))
    assert relative_error(net, ContrastiveHebbian(**TO_ROUNDING), truth, x, y) < 1e-10


def test_contrastive_hebbian_descends_the_difference_of_the_least_energies(device: torch.device) -> None:
    """The total derivative, states relaxing along: by finite differences of ``min E(clamped) - min E(free)``."""
    net, x, y = problem("chain-tanh", device)
    target = 0.9 * one_hot(y)  # inside the range of tanh, where rho* is finite
    g = eqprop.gradients(net, ContrastiveHebbian(**TO_ROUNDING), x, target)
    along = {n: torch.randn(p.shape, generator=seeded(9), dtype=p.dtype).to(device) for n, p in net.named_parameters()}

    @torch.no_grad()
    def function(step: float) -> float:
        moved = net.clone()
        for n, p in moved.named_parameters():
            p.add_(along[n], alpha=step)
        clamped, free = settle_by_hand(moved, x, target), settle_by_hand(moved, x)
        drive = moved.drive(x)
        return float((moved.energy(clamped, drive) - moved.energy(free, drive)).mean())

    expected = sum(float((g[n] * along[n]).sum()) for n in g)
    assert (function(1e-4) - function(-1e-4)) / 2e-4 == pytest.approx(expected, rel=1e-6)


def test_contrastive_hebbian_gives_nothing_where_the_network_is_right(device: torch.device) -> None:
    net, x, _ = problem("chain-sigmoid", device)
    target = eqprop.relax(net, net.initial_state(5), net.drive(x), stop=TIGHT).state[-1]
    assert float(gradient(net, ContrastiveHebbian(**TO_ROUNDING), x, target).abs().max()) < 1e-12
    assert float(gradient(net, ContrastiveHebbian(**TO_ROUNDING), x, 1 - target).abs().max()) > 1e-2


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_clamped_output_stays_where_it_is_under_every_solver(solver: str, device: torch.device) -> None:
    net, x, y = problem("skip", device)
    value = one_hot(y)
    solution = eqprop.relax(
        net, net.initial_state(5), net.drive(x), ClampNudge(net, value), solver=SOLVERS[solver], stop=TIGHT, throw=True
    )
    torch.testing.assert_close(solution.state[-1], value, rtol=0, atol=1e-12)
    z = net.inputs(solution.state, net.drive(x))
    for s, rho, v in list(zip(solution.state, net.activations, z, strict=True))[:-1]:
        torch.testing.assert_close(s, rho(v), rtol=0, atol=1e-12)
    assert float((value - net.activations[-1](z[-1])).detach().abs().max()) > 0.1
    rule = ContrastiveHebbian(solver=SOLVERS[solver], **TO_ROUNDING)
    assert relative_error(net, rule, gradient(net, ContrastiveHebbian(**TO_ROUNDING), x, y), x, y) < 1e-10


def test_the_output_is_in_place_from_the_first_sweep_on(device: torch.device) -> None:
    net = HopfieldNetwork.mlp(5, 7, 3, activation="tanh", generator=seeded(1), dtype=torch.float64).to(device)
    x, y = inputs(net, 5, device), one_hot(labels(5, 3, device))
    out = eqprop.relax(net, net.initial_state(5), net.drive(x), ClampNudge(net, y), stop=Sweeps(1)).state[-1]
    assert torch.equal(out, y)
    # hidden units go first, and see it already
    state = ContrastiveHebbian(free=TIGHT, nudged=Sweeps(1)).backward(net, x, y).nudged[0].state
    hidden = torch.tanh(net.inputs((state[0], y), net.drive(x))[0]).detach()
    torch.testing.assert_close(state[0], hidden, rtol=0, atol=1e-15)


# -- coupled learning --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("contour", ["one-sided", "centred"])
@pytest.mark.parametrize("cost", COSTS)
def test_coupled_learning_is_the_gradient_of_the_energy_difference(
    name: str, contour: str, cost: str, device: torch.device
) -> None:
    net, x, y = problem(name, device)
    beta = 0.2
    rest = settle_by_hand(net, x)
    out = rest[-1].clone().requires_grad_()
    output = net.output((*rest[:-1], out))
    loss = eqprop.cost(cost).loss(output, one_hot(y)).sum()
    (step,) = torch.autograd.grad(loss, out, retain_graph=True)
    states = {b: settle_by_hand(net, x, rest[-1] - b * step) for b in (beta, -beta)}
    if contour == "centred":
        terms = [(0.5 / beta, states[beta]), (-0.5 / beta, states[-beta])]
    else:
        terms = [(1 / beta, states[beta]), (-1 / beta, rest)]
    # held values may leave the range of the activation, where rho* is not defined; it does not depend on parameters
    truth = {}
    for n, p in net.named_parameters():
        if n.startswith("readout."):
            (truth[n],) = torch.autograd.grad(loss / len(x), p, retain_graph=True)
    contrast = energy_gradient(net, x, terms)
    rule = CoupledLearning(beta=beta, contour=contour, cost=cost, **TO_ROUNDING)
    assert relative_error(net, rule, flat(contrast | truth), x, y) < 1e-10


@pytest.mark.parametrize("name", ["chain-sigmoid", "triangle", "one-layer"])
def test_coupled_learning_all_the_way_is_contrastive_hebbian_learning(name: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    rule = CoupledLearning(beta=1.0, contour="one-sided", **TO_ROUNDING)
    assert relative_error(net, rule, gradient(net, ContrastiveHebbian(**TO_ROUNDING), x, y), x, y) < 1e-10


@pytest.mark.parametrize(("contour", "order"), [("one-sided", 1.0), ("centred", 2.0)])
@pytest.mark.parametrize("name", ["chain-tanh", "readout"])
def test_both_forms_of_coupled_learning_have_one_limit(
    name: str, contour: str, order: float, device: torch.device
) -> None:
    net, x, y = problem(name, device)
    limit = gradient(net, CoupledLearning(beta=1e-4, **TO_ROUNDING), x, y)
    betas = [1e-2, 2e-2, 4e-2, 8e-2]
    errors = [relative_error(net, CoupledLearning(beta=b, contour=contour, **TO_ROUNDING), limit, x, y) for b in betas]
    assert slope(betas, errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("contour", ["one-sided", "centred"])
def test_coupled_learning_is_the_delta_rule_where_nothing_feeds_back(contour: str, device: torch.device) -> None:
    """A single linear layer: a held output moves as a nudged one does, and sign and scale show."""
    net = HopfieldNetwork.mlp(5, 3, activation="linear", generator=seeded(1), dtype=torch.float64).to(device)
    x, y = inputs(net, 5, device), labels(5, 3, device)
    truth = gradient(net, ImplicitGradient(free=TIGHT), x, y)
    assert relative_error(net, CoupledLearning(contour=contour, **TO_ROUNDING), truth, x, y) < 1e-12


# -- continual EP ------------------------------------------------------------------------------------------------------


def continual_by_hand(
    net: Any, x: Tensor, target: Tensor, beta: float, rates: tuple[float, ...], sweeps: int, alternating: bool
) -> dict[str, Tensor]:
    """Parameters after C-EP (tied) or C-VF (untied) of input -> hidden1 (tanh) -> output (linear), written out."""
    tied = net.tied
    w1, w2 = (net.connection(k).weight.detach().clone() for k in ("input-hidden1", "hidden1-output"))
    back = w2.mT.clone() if tied else net.connection("output-hidden1").weight.detach().clone()
    b1, b2 = (net.biases[n].detach().clone() for n in ("hidden1", "output"))
    h, o = eqprop.relax(net, net.initial_state(len(x)), net.drive(x), stop=TIGHT).state
    for _ in range(sweeps):
        h0, o0 = h, o
        if tied:
            back = w2.mT
        h = torch.tanh(x @ w1.mT + b1 + o0 @ back.mT)
        o = ((h if alternating else h0) @ w2.mT + b2 + beta * target) / (1 + beta)
        scale = 1 / (beta * len(x))
        # down the contrast of -Phi = -(h W1 x + o W2 h + b1 h + b2 o)
        step1, step_b1, step_b2 = (h - h0).mT @ x * scale, (h - h0).sum(0) * scale, (o - o0).sum(0) * scale
        step2 = (o.mT @ h - o0.mT @ h0) * scale if tied else (o - o0).mT @ h0 * scale
        if not tied:
            back = back + rates[2] * (h - h0).mT @ o0 * scale
        w1, w2 = w1 + rates[0] * step1, w2 + rates[1] * step2
        b1, b2 = b1 + rates[0] * step_b1, b2 + rates[1] * step_b2
    found = {"connections.input-hidden1.weight": w1, "connections.hidden1-output.weight": w2}
    found |= {"biases.hidden1": b1, "biases.output": b2}
    return found if tied else found | {"connections.output-hidden1.weight": back}


@pytest.mark.parametrize("cls", [HopfieldNetwork, DirectedNetwork])
@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize("rates", [0.05, (0.1, 0.02, 0.07)])
def test_a_step_of_sgd_is_continual_ep(cls: Any, alternating: bool, rates: Any, device: torch.device) -> None:
    options: dict[str, Any] = {} if cls is HopfieldNetwork else {"feedback_angle": 50.0}
    net = cls.mlp(
        5, 7, 3, activation="tanh", output_activation="linear", generator=seeded(1), dtype=torch.float64, **options
    ).to(device)
    if isinstance(rates, tuple) and cls is HopfieldNetwork:
        rates = rates[:2]
    x, y = inputs(net, 5, device), labels(5, 3, device)
    each = rates if isinstance(rates, tuple) else (rates,) * 3
    truth = continual_by_hand(net, x, one_hot(y), 0.3, each, 9, alternating)
    rule = ContinualEP(
        beta=0.3,
        rates=rates,
        free=TIGHT,
        nudged=Sweeps(9),
        nudged_solver=Alternating() if alternating else Synchronous(),
    )
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    step = rule.backward(net, x, y)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert bool((step.sweeps == step.free.sweeps + 9).all())
    torch.optim.SGD(net.parameter_groups(rates), lr=1.0).step()
    assert truth.keys() == before.keys()
    for n, p in net.named_parameters():
        assert float((p - before[n]).detach().abs().max()) > 1e-5
        torch.testing.assert_close(p.detach(), truth[n], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["chain-tanh", "triangle", "readout", "user-energy"])
@pytest.mark.parametrize("cost", COSTS)
def test_continual_ep_becomes_one_sided_ep_as_the_rates_vanish(name: str, cost: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    shared: dict[str, Any] = {"beta": 0.2, "cost": cost, "free": TIGHT, "nudged": Sweeps(6)}
    truth = gradient(net, EquilibriumPropagation(contour="one-sided", **shared), x, y)
    assert relative_error(net, ContinualEP(rates=0.0, **shared), truth, x, y) < 1e-12
    rates = [1e-4, 2e-4, 4e-4, 8e-4]
    errors = [relative_error(net, ContinualEP(rates=r, **shared), truth, x, y) for r in rates]
    assert slope(rates, errors) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["directed-40", "loop", "directed-readout", "user-field"])
def test_without_an_energy_the_limit_is_reached_with_beta(name: str, device: torch.device) -> None:
    """C-VF pairs each change with the presynaptic state of the moment: O(beta) from the tangent readout."""
    net, x, y = problem(name, device)
    betas, errors = [1e-3, 2e-3, 4e-3, 8e-3], []
    for beta in betas:
        shared: dict[str, Any] = {"beta": beta, "free": TIGHT, "nudged": Sweeps(8)}
        truth = gradient(net, EquilibriumPropagation(contour="one-sided", readout="tangent", **shared), x, y)
        errors.append(relative_error(net, ContinualEP(rates=0.0, **shared), truth, x, y))
    assert errors[0] < 1e-2
    assert slope(betas, errors) == pytest.approx(1.0, abs=0.05)


class Broken(RuntimeError):
    """What breaks in the middle of a rule."""


def test_continual_ep_restores_everything_after_an_error(device: torch.device) -> None:
    net, x, y = problem("chain-tanh", device)
    calls = 0
    moved = []
    weight = next(net.parameters())
    original = weight.detach().clone()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        moved.append(not torch.equal(weight.detach(), original))
        if calls == 5:
            raise Broken
        return 0.5 * (output - target).square().sum(-1)

    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    before = {n: (p.detach().clone(), p.grad) for n, p in net.named_parameters()}
    with pytest.raises(Broken):
        ContinualEP(rates=0.1, cost=loss, free=Sweeps(5), nudged=Sweeps(9)).backward(net, x, y)
    assert moved[-1]  # it broke while the parameters were elsewhere
    for n, p in net.named_parameters():
        assert torch.equal(p, before[n][0]) and p.grad is before[n][1]
        assert p.grad is not None and bool((p.grad == 0.5).all())


def test_rates_that_are_too_large_run_away_and_come_back(device: torch.device) -> None:
    """Weights that move also move the state: beyond ``rate |x|^2 / beta ~ 1`` each sweep moves both further."""
    net, x, y = problem("chain-linear", device)
    before = [p.detach().clone() for p in net.parameters()]
    shared: dict[str, Any] = {"beta": 0.1, "free": TIGHT, "nudged": Sweeps(40)}
    slow = ContinualEP(rates=1e-3, **shared).backward(net, x, y)
    fast = ContinualEP(rates=3.0, **shared).backward(net, x, y)
    assert bool(slow.nudged[0].converged.all()) and not bool(fast.nudged[0].converged.any())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


# -- oscillating EP ----------------------------------------------------------------------------------------------------

HOLOMORPHIC = ["chain-sigmoid", "chain-tanh", "chain-dsilu", "chain-linear", "skip", "triangle", "readout"]


@pytest.mark.parametrize("name", HOLOMORPHIC)
@pytest.mark.parametrize("cost", COSTS)
def test_oscillating_ep_is_the_implicit_gradient_on_tied_networks(name: str, cost: str, device: torch.device) -> None:
    if (name, cost) == ("chain-linear", "cross-entropy"):
        cost = "squared-error"
    net, x, y = problem(name, device)
    rule = OscillatingEP(beta=0.05, points=10, sweeps=80, periods=2, cost=cost)
    truth = gradient(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    assert relative_error(net, rule, truth, x, y) < 1e-8
    step = rule.backward(net, x, y)
    free = eqprop.relax(net, net.initial_state(5), net.drive(x), stop=TIGHT).state
    assert max(float((a - b).abs().max()) for a, b in zip(step.free.state, free, strict=True)) < 1e-9
    assert float(step.loss) == pytest.approx(float(exact_loss(net, x, y, cost)), abs=1e-9)
    assert step.counted is not None and bool(step.counted.all())
    assert bool((step.sweeps == 2 * 10 * 80).all())


@pytest.mark.parametrize("name", ["triangle", "directed-readout", "loop"])
@pytest.mark.parametrize("points", [2, 3, 4, 5])
def test_oscillating_ep_becomes_the_cauchy_contour_with_many_sweeps(
    name: str, points: int, device: torch.device
) -> None:
    """The tangent readout of the same points; the state at which it is taken is off by O(beta^N)."""
    net, x, y = problem(name, device)
    betas, gaps = [0.05, 0.1, 0.2], []
    for beta in betas:
        truth = EquilibriumPropagation(beta=beta, contour="cauchy", points=points, readout="tangent", **TO_ROUNDING)
        rule = OscillatingEP(beta=beta, points=points, sweeps=80, periods=2)
        gaps.append(relative_error(net, rule, gradient(net, truth, x, y), x, y))
        error, exact = rule.error_vector(net, x, y)[1], truth.error_vector(net, x, y)[1]
        assert max(float((a - b).abs().max()) for a, b in zip(error, exact, strict=True)) < 1e-9
    assert slope(betas, gaps) > points - 0.6


def test_the_lag_behind_the_nudge_falls_geometrically_with_sweeps(device: torch.device) -> None:
    net, x, y = problem("chain-tanh", device)
    truth = gradient(net, OscillatingEP(beta=0.1, points=4, sweeps=200), x, y)
    errors = [relative_error(net, OscillatingEP(beta=0.1, points=4, sweeps=n), truth, x, y) for n in (2, 6, 10, 14)]
    assert all(b < 0.3 * a for a, b in zip(errors, errors[1:], strict=False))
    assert errors[0] < 1.0


def test_discarding_the_first_period_removes_the_way_into_the_rhythm(device: torch.device) -> None:
    """Against the same rhythm after many periods: with so few sweeps it has a lag of its own."""
    net, x, y = problem("chain-tanh", device)
    rhythm = OscillatingEP(beta=0.1, points=4, sweeps=3, periods=20, discard=19)
    truth = gradient(net, rhythm, x, y)
    errors = [relative_error(net, replace(rhythm, periods=3, discard=d), truth, x, y) for d in (0, 1, 2)]
    assert errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]


def test_a_real_oscillation_serves_any_network(device: torch.device) -> None:
    for name in ("chain-hard_sigmoid", "user-energy", "user-field"):
        net, x, y = problem(name, device)
        truth = EquilibriumPropagation(beta=0.05, readout="tangent", **TO_ROUNDING)
        rule = OscillatingEP(beta=0.05, points=2, sweeps=200)
        assert relative_error(net, rule, gradient(net, truth, x, y), x, y) < 5e-2


def test_a_sample_that_breaks_is_left_out_of_the_gradient(device: torch.device) -> None:
    net, x, y = problem("readout", device)
    rule = OscillatingEP(beta=0.1, points=4, sweeps=40, cost="cross-entropy")
    start = net.initial_state(5)
    for s in start:
        s[2] = torch.nan
    for p in net.parameters():
        p.grad = None
    step = rule.backward(net, x, y, start=start)
    found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    keep = torch.tensor([0, 1, 3, 4], device=device)
    torch.testing.assert_close(found, gradient(net, rule, x[keep], y[keep]), rtol=0, atol=1e-12)
    assert step.counted is not None and step.counted.tolist() == [True, True, False, True, True]
    assert step.free.status.tolist() == [0, 0, Status.NONFINITE, 0, 0]
    assert float(step.loss) == pytest.approx(float(rule.backward(net, x[keep], y[keep]).loss))


def swinging(device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """Two samples of a network with strong inhibition: the first saturates, the second swings, all layers at once."""
    net = HopfieldNetwork.mlp(1, 4, 2, activation="sigmoid", generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(6.0)
        net.connection("hidden1-output").weight.fill_(-1.5)
        net.biases["hidden1"].fill_(2.0)
        net.biases["output"].fill_(3.5)
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    return net.to(device), x.to(device), torch.tensor([0, 1], device=device)


def test_a_sample_out_of_rhythm_is_left_out_of_the_gradient(device: torch.device) -> None:
    net, x, y = swinging(device)
    # an odd number of sweeps a period, so that a swing of period 2 changes sides from one period to the next
    rule = OscillatingEP(beta=0.1, points=3, sweeps=21, solver=Synchronous(), max_residual=100.0)
    step, trusting = rule.backward(net, x, y), replace(rule, tolerance=float("inf")).backward(net, x, y)
    assert step.counted is not None and step.counted.tolist() == [True, False]
    assert trusting.counted is not None and trusting.counted.tolist() == [True, True]
    assert step.free.status.tolist() == [Status.CONVERGED, Status.MAX_SWEEPS]
    torch.testing.assert_close(gradient(net, rule, x, y), gradient(net, rule, x[:1], y[:1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", [2, 3, 4])
def test_the_residual_shows_a_swing_that_every_period_repeats(points: int, device: torch.device) -> None:
    net, x, y = swinging(device)
    rule = OscillatingEP(beta=0.1, points=points, sweeps=20, solver=Synchronous())
    step, blind = rule.backward(net, x, y), replace(rule, max_residual=100.0).backward(net, x, y)
    assert step.counted is not None and step.counted.tolist() == [True, False]
    assert blind.counted is not None and blind.counted.tolist() == [True, True]


def noisy(net: NoisyHopfieldNetwork, device: torch.device) -> NoisyHopfieldNetwork:
    net.level, net.noise = 0.04, torch.Generator(device).manual_seed(0)
    return net.to(device)


@pytest.mark.parametrize("points", [2, 4, 10])
def test_noise_in_the_relaxation_is_no_swing(points: int, device: torch.device) -> None:
    """It moves the worst of hundreds of units by more than ``max_residual``; a swing moves most of them."""
    shared: dict[str, Any] = {"activation": "sigmoid", "generator": seeded(1), "dtype": torch.float64}
    scale: dict[str, Any] = {"initializer": "lecun_normal", "gain": 0.5}
    settles = noisy(NoisyHopfieldNetwork.mlp(20, 200, 200, 10, **scale, **shared), device)
    swings = NoisyHopfieldNetwork.mlp(1, 200, 100, **shared)
    with torch.no_grad():  # as in ``swinging``, with 50 units for one
        swings.connection("input-hidden1").weight.fill_(6.0)
        swings.connection("hidden1-output").weight.fill_(-1.5 / 50)
        swings.biases["hidden1"].fill_(2.0)
        swings.biases["output"].fill_(3.5)
    # the response of a hidden unit is lost in this noise
    rule = OscillatingEP(beta=0.4, points=points, sweeps=20, solver=Synchronous(), tolerance=2.0)
    x, y = torch.rand(8, 20, generator=seeded(2), dtype=torch.float64).to(device), torch.arange(8, device=device)
    step = rule.backward(settles, x, y)
    assert step.counted is not None and int(step.counted.sum()) >= 7
    assert bool((step.free.residual > rule.max_residual).all()), "a maximum over units would refuse all"
    dropped = rule.backward(noisy(swings, device), 0 * x[:, :1], y)
    assert dropped.counted is not None and not bool(dropped.counted.any())


def test_with_no_sample_left_the_gradient_is_zero(device: torch.device) -> None:
    net, x, y = problem("chain-tanh", device)
    rule = OscillatingEP(sweeps=3, tolerance=1e-12)
    step = rule.backward(net, x, y)
    assert step.counted is not None and not bool(step.counted.any())
    assert not bool(gradient(net, rule, x, y).any()) and bool(torch.isfinite(step.output).all())


# -- dyadic EP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cost", COSTS)
def test_dyadic_ep_is_the_implicit_gradient_on_every_network(name: str, cost: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    truth = gradient(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    rule = DyadicEP(beta=0.3, cost=cost, nudged=TIGHT)
    assert relative_error(net, rule, truth, x, y) < 1e-10
    assert bool(rule.backward(net, x, y).free.converged.all())


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("readout", [None, 3])
def test_dyadic_ep_is_exact_at_ninety_degrees(activation: str, readout: int | None, device: torch.device) -> None:
    net = DirectedNetwork.mlp(
        5, 8, 7, 6, activation=activation, readout=readout, feedback_angle=90.0, gain=0.6, generator=seeded(4),
        dtype=torch.float64,
    ).to(device)  # fmt: skip
    cost = "squared-error" if readout is None else "cross-entropy"
    x, y = inputs(net, 5, device), labels(5, readout or 6, device)
    truth = gradient(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    assert relative_error(net, DyadicEP(cost=cost, nudged=TIGHT), truth, x, y) < 1e-10
    plain = EquilibriumPropagation(beta=1e-4, cost=cost, readout="tangent", **TO_ROUNDING)
    assert relative_error(net, plain, truth, x, y) > 0.05


@pytest.mark.parametrize("name", ["chain-hard_sigmoid", "directed-40", "user-field"])
def test_dyadic_ep_does_not_depend_on_beta(name: str, device: torch.device) -> None:
    """Also where it stops: the residual is that of ``d / beta``."""
    net, x, y = problem(name, device)
    rules = [DyadicEP(beta=b, nudged=Stop(1e-6, 200, block=3)) for b in (1e-6, 0.25, -7.0)]
    gradients = [gradient(net, r, x, y) for r in rules]
    sweeps = [r.backward(net, x, y).free.sweeps for r in rules]
    for other, count in zip(gradients[1:], sweeps[1:], strict=True):
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-12)
        assert torch.equal(count, sweeps[0])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["triangle", "directed-40", "user-field"])
def test_dyadic_ep_relaxes_under_every_solver(solver: str, name: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    truth = gradient(net, ImplicitGradient(free=TIGHT), x, y)
    rule = DyadicEP(beta=0.3, nudged=TIGHT, nudged_solver=SOLVERS[solver])
    assert relative_error(net, rule, truth, x, y) < 1e-9


def test_the_error_vector_of_dyadic_ep_is_the_adjoint_and_touches_no_gradient(device: torch.device) -> None:
    net, x, y = problem("directed-readout", device)
    step, error = DyadicEP(beta=0.3, nudged=TIGHT).error_vector(net, x, y)
    assert all(p.grad is None for p in net.parameters())
    drive, state = net.drive(x), step.free.state
    back = net.vjp_inputs(state, error, drive)
    output = net.output(state)
    assert net.readout is not None
    force = (output - one_hot(y)) @ net.readout.weight
    for l, (rho, z) in enumerate(zip(net.activations, net.inputs(state, drive), strict=True)):
        source = force if l == len(error) - 1 else 0.0
        torch.testing.assert_close(error[l], (rho.derivative(z) * (source + back[l])).detach(), rtol=0, atol=1e-12)


# -- what all share ----------------------------------------------------------------------------------------------------


@functools.cache
def digits() -> eqprop.Split:
    return eqprop.load_dataset("digits").train.subset(300, seeded(0))


@every_rule
@pytest.mark.parametrize("cost", COSTS)
def test_each_rule_learns_real_digits(kind: str, cost: str, device: torch.device) -> None:
    split = digits().to(device)
    x, y = split.images.flatten(1).float() / 255, split.labels
    readout = 10 if cost == "cross-entropy" and kind != "contrastive" else None
    activation = "sigmoid" if kind == "oscillating" else "hard_sigmoid"
    net = HopfieldNetwork.mlp(784, 32, 10, activation=activation, readout=readout, generator=seeded(0)).to(device)
    rule = replace(QUICK[kind](), cost=cost)
    rates: Any = 0.1
    if isinstance(rule, ContinualEP):
        rates = (0.01, 0.01, 0.3)[: 2 if readout is None else 3]
        rule = replace(rule, rates=rates)
    optimizer = torch.optim.SGD(net.parameter_groups(rates), lr=1.0)
    first = eqprop.evaluate(net, split, rule, batch_size=300)
    for _ in range(4):
        for i in range(0, 300, 30):
            optimizer.zero_grad()
            rule.backward(net, x[i : i + 30], y[i : i + 30])
            optimizer.step()
    last = eqprop.evaluate(net, split, rule, batch_size=300)
    assert last.loss < 0.95 * first.loss
    assert last.error < 0.8


@every_rule
def test_a_step_reports_loss_and_output_at_the_free_equilibrium_and_adds_to_grad(
    kind: str, device: torch.device
) -> None:
    net, x, y = problem("chain-sigmoid", device)
    rule = QUICK[kind]()
    step = rule.backward(net, x, y)
    once = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    rule.backward(net, x, y)
    for g, p in zip(once, net.parameters(), strict=True):
        assert g is not None and p.grad is not None
        torch.testing.assert_close(p.grad, 2 * g, rtol=1e-12, atol=1e-14)
    assert float(step.loss) == pytest.approx(float(exact_loss(net, x, y)), abs=1e-2)
    assert step.output.shape == (5, 3) and step.sweeps.shape == (5,)
    torch.testing.assert_close(step.output, rule.predict(net, x), rtol=0, atol=2e-2)


@every_rule
def test_results_do_not_depend_on_the_rest_of_the_batch(kind: str, device: torch.device) -> None:
    if kind == "continual":
        pytest.skip("the parameters move with the whole batch")
    net, x, y = problem("chain-sigmoid", device)
    rule = QUICK[kind]()
    both = gradient(net, rule, x[:2], y[:2])
    one = [gradient(net, rule, x[i : i + 1], y[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(both, (one[0] + one[1]) / 2, rtol=0, atol=1e-13)


@every_rule
def test_settings_are_recorded_as_json(kind: str) -> None:
    rule = QUICK[kind]()
    spec = json.loads(json.dumps(rule.spec()))
    assert type(rule).__name__ in spec.values()
    assert spec["free"] == {"kind": type(rule.free).__name__} | vars(rule.free)
    plain = {k: v for k, v in vars(rule).items() if isinstance(v, int | float | str)}
    assert plain and plain.items() <= spec.items()
    assert replace(rule) == rule


def test_rates_are_kept_as_they_were_given() -> None:
    rates = [0.1, 0.2]
    rule = ContinualEP(rates=rates)
    rates[0] = 9.0
    assert rule.rates == (0.1, 0.2) and json.loads(json.dumps(rule.spec()))["rates"] == [0.1, 0.2]


@pytest.mark.parametrize(
    "rule",
    [
        ContrastiveHebbian(free=Sweeps(30), nudged=Sweeps(30), exclude_unconverged=True),
        CoupledLearning(free=Sweeps(30), nudged=Sweeps(30), exclude_unconverged=True, contour="one-sided"),
        CoupledLearning(free=Sweeps(30), nudged=Sweeps(30), exclude_unconverged=True, cost="cross-entropy"),
        DyadicEP(nudged=Sweeps(30), exclude_unconverged=True, cost="cross-entropy"),
        ContinualEP(rates=0.05, beta=0.5, free=Sweeps(30), nudged=Sweeps(6), exclude_unconverged=True),
    ],
)
def test_unconverged_samples_can_be_left_out(rule: Any, device: torch.device) -> None:
    net, x, y = problem("chain-tanh" if isinstance(rule, ContrastiveHebbian) else "readout", device)
    start = net.initial_state(5)
    for s in start:
        s[1] = torch.nan
    for p in net.parameters():
        p.grad = None
    step = rule.backward(net, x, y, start=start)
    found = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    keep = torch.tensor([0, 2, 3, 4], device=device)
    torch.testing.assert_close(found, gradient(net, rule, x[keep], y[keep]), rtol=0, atol=1e-12)
    assert step.counted.tolist() == [True, False, True, True, True]
    assert float(step.loss) == pytest.approx(float(rule.backward(net, x[keep], y[keep]).loss))
    assert not bool(torch.isfinite(gradient(net, replace(rule, exclude_unconverged=False), x, y)).logical_not().any())


@pytest.mark.parametrize("kind", ["contrastive", "coupled-one-sided", "continual"])
def test_a_free_phase_of_low_precision_ends_in_full_precision(kind: str, device: torch.device) -> None:
    net = network("chain-tanh", device, torch.float32)
    x, y = inputs(net, 5, device, torch.float32), labels(5, 3, device)
    stop = Stop(1e-6, 300, block=5)
    settings: dict[str, Any] = {"free": stop} if kind == "continual" else {"free": stop, "nudged": stop}
    if kind == "coupled-one-sided":
        settings["beta"] = 0.01
    rule = replace(QUICK[kind](), **settings)
    full = gradient(net, rule, x, y)
    assert relative_error(net, replace(rule, products="bfloat16"), full, x, y) < 2e-3


class Watched(HopfieldNetwork):
    """Notes the hooks of a substrate, and reads states through a converter that is wrong by a known factor."""

    gain = 1.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.begun: list[int] = []
        self.read: list[int] = []

    def begin_phase(self, phase: int) -> None:
        self.begun.append(phase)

    def measure(self, state: State, phase: int) -> State:
        self.read.append(phase)
        return tuple(s * self.gain for s in state)


def watched(device: torch.device) -> tuple[Watched, Tensor, Tensor]:
    net = Watched.mlp(5, 7, 3, activation="tanh", gain=0.4, generator=seeded(1), dtype=torch.float64).to(device)
    return net, inputs(net, 4, device), labels(4, 3, device)


@pytest.mark.parametrize(
    ("kind", "begun", "read"),
    [
        ("contrastive", [0, 1], [0, 1]),
        ("coupled-one-sided", [0, 1], [0, 1]),
        ("coupled-centred", [0, 1, 2], [0, 1, 2]),
        ("continual", [0, 1], [0] + [1] * 15),
        ("oscillating", [0], [0] * 12),
        ("dyadic", [0], [0, 0]),
    ],
)
def test_phases_are_announced_and_read_one_at_a_time_on_a_substrate(
    kind: str, begun: list[int], read: list[int], device: torch.device
) -> None:
    net, x, y = watched(device)
    together = gradient(net, QUICK[kind](), x, y)
    net.begun.clear()
    net.read.clear()
    net.stacks_phases = False
    torch.testing.assert_close(gradient(net, QUICK[kind](), x, y), together, rtol=0, atol=1e-13)
    assert net.begun == begun and net.read == read
    net.gain = 1.1
    assert relative_error(net, QUICK[kind](), together, x, y) > 1e-3


@pytest.mark.parametrize(
    "rule",
    [
        ContrastiveHebbian(**TO_ROUNDING),
        ContinualEP(rates=0.0, free=TIGHT),
        OscillatingEP(beta=0.1, sweeps=10),
        DyadicEP(nudged=TIGHT),
    ],
)
def test_what_is_read_is_what_is_learned_from(rule: Rule, device: torch.device) -> None:
    """A reading 10 % too large at both ends of a connection gives a gradient 21 % too large, at one end 10 %."""
    net, x, y = watched(device)
    exact = eqprop.gradients(net, rule, x, y)
    net.gain = 1.1
    for n, g in eqprop.gradients(net, rule, x, y).items():
        factor = 1.21 if n == "connections.hidden1-output.weight" else 1.1
        torch.testing.assert_close(g, factor * exact[n], rtol=1e-9, atol=1e-12)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CoupledLearning(beta=0.0), "beta: got 0.0"),
        (lambda: CoupledLearning(contour="cauchy"), "needed 'one-sided' or 'centred'"),
        (lambda: DyadicEP(beta=float("nan")), "beta: got nan"),
        (lambda: ContinualEP(rates=0.1, beta=0.0), "beta: got 0.0"),
        (lambda: ContinualEP(rates=-0.1), "rates: got -0.1"),
        (lambda: ContinualEP(rates=(0.1, float("inf"))), "rates: got"),
        (lambda: ContinualEP(rates=()), "rates: got"),
        (lambda: ContinualEP(rates="0.1"), "rates: got '0.1'"),  # type: ignore[arg-type]
        (lambda: ContinualEP(rates=0.1, nudged=Stop()), "write nudged=Sweeps"),  # type: ignore[arg-type]
        (lambda: OscillatingEP(points=1), "points: got 1, needed a whole number from 2"),
        (lambda: OscillatingEP(points=2.5), "points: got 2.5"),  # type: ignore[arg-type]
        (lambda: OscillatingEP(sweeps=0), "sweeps: got 0"),
        (lambda: OscillatingEP(periods=1), "periods: got 1"),
        (lambda: OscillatingEP(periods=2, discard=2), "discard: got 2 of 2"),
        (lambda: OscillatingEP(tolerance=0.0), "tolerance: got 0.0"),
        (lambda: OscillatingEP(max_residual=float("nan")), "max_residual: got nan"),
        (lambda: OscillatingEP(beta=1.0), "needed a circle of radius below 1"),
        (lambda: OscillatingEP(cost="squared"), "cost: got 'squared'"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], Rule], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize("name", UNTIED)
@pytest.mark.parametrize("kind", ["contrastive", "coupled-one-sided", "coupled-centred"])
def test_energies_that_do_not_exist_cannot_be_contrasted(name: str, kind: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    with pytest.raises(ConfigError, match="DyadicEP"):
        QUICK[kind]().backward(net, x, y)


@pytest.mark.parametrize(
    ("name", "rule", "text"),
    [
        ("readout", ContrastiveHebbian(), "cannot be clamped; use CoupledLearning"),
        ("chain-hard_sigmoid", OscillatingEP(), "'hard_sigmoid' .* or points=2"),
        ("user-energy", OscillatingEP(), "or points=2"),
        ("user-function", OscillatingEP(points=3), "not known to be holomorphic.* or points=2"),
        ("chain-tanh", OscillatingEP(cost=lambda o, t: (o - t).abs().sum(-1)), "holomorphic extension.* or points=2"),
        ("chain-tanh", ContinualEP(rates=(0.1, 0.2)), "learning rates: got 2, needed 1 or 3"),
        ("user-energy", ContinualEP(rates=(0.1, 0.2)), "write one rate"),
    ],
)
def test_networks_that_a_rule_cannot_have_are_refused(name: str, rule: Rule, text: str, device: torch.device) -> None:
    net, x, y = problem(name, device)
    with pytest.raises(ConfigError, match=text):
        rule.backward(net, x, y)
    assert all(p.grad is None for p in net.parameters())


@every_rule
def test_bad_data_are_refused_before_anything_moves(kind: str, device: torch.device) -> None:
    net, x, y = problem("chain-sigmoid", device)
    rule = QUICK[kind]()
    for bad_x, bad_y in ((x[:, :3], y), (x, y[:2]), (x, torch.rand(5, 2, device=device)), (x[:0], y[:0])):
        with pytest.raises(DataError):
            rule.backward(net, bad_x, bad_y)
    assert all(p.grad is None for p in net.parameters())


# -- without a GPU -----------------------------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize("name", ["chain-sigmoid", "readout", "directed-40", "user-field"])
def test_rules_stay_on_a_device_without_values_and_never_wait_for_it(kind: str, name: str) -> None:
    """torch's ``meta`` device in place of an accelerator: it cannot be left, and nothing can be read from it."""
    rule = QUICK[kind]()
    if name in UNTIED and isinstance(rule, ContrastiveHebbian | CoupledLearning):
        pytest.skip("no energy")
    if (kind, name) in (("contrastive", "readout"), ("oscillating", "user-field")):
        pytest.skip("refused")
    net = NETWORKS[name]().to("meta")
    x, y = torch.empty(4, *net.input_shape, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    with no_host_sync():
        step = rule.backward(net, x, y)
    tensors = [step.loss, step.output, step.sweeps, *step.free.state, *(p.grad for p in net.parameters())]
    assert all(t is not None and t.device.type == "meta" for t in tensors)
