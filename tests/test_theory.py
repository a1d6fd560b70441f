"""Theory as theory: orders in beta, energies that never rise, the match with backpropagation through time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import (
    Alternating,
    CostNudge,
    EquilibriumPropagation,
    HopfieldNetwork,
    ImplicitGradient,
    Network,
    Rule,
    Stop,
    Sweeps,
    Synchronous,
    Trajectory,
    TruncatedBPTT,
)
from eqprop._diagnostics import match
from eqprop._network import Blocks
from tests.helpers import TIED, TIGHT, flat, inputs, joined, labels, layers, network, random_state, seeded, slope

BETAS = [1e-3, 2e-3, 4e-3, 8e-3]
TO_ROUNDING: dict[str, Any] = {"free": TIGHT, "nudged": TIGHT}
# smooth all over; squared error on the output layer, cross-entropy on a readout
PROBLEMS = {
    "sigmoid-squared": ("sigmoid", None, "squared-error"),
    "tanh-squared": ("tanh", None, "squared-error"),
    "sigmoid-readout-entropy": ("sigmoid", 3, "cross-entropy"),
    "tanh-readout-entropy": ("tanh", 3, "cross-entropy"),
    "tanh-readout-squared": ("tanh", 3, "squared-error"),
}
# soft pooling is neither linear nor convex: its energy may rise
MONOTONE_TIED = [n for n in TIED if n not in ("chain-dsilu", "conv-soft")]
every_problem = pytest.mark.parametrize("problem", PROBLEMS)


def smooth_problem(
    name: str, device: torch.device, sizes: tuple[int, ...] = (5, 8, 6, 4)
) -> tuple[Network, Tensor, Tensor, str]:
    """Network, inputs, labels and cost."""
    activation, readout, cost = PROBLEMS[name]
    net = HopfieldNetwork.mlp(
        *sizes, activation=activation, output_activation=activation, readout=readout, gain=0.6, generator=seeded(7),
        dtype=torch.float64,
    )  # fmt: skip
    return net.to(device), inputs(net, 5, device), labels(5, readout or sizes[-1], device), cost


def relative_error(net: Network, rule: Rule, truth: Tensor, x: Tensor, y: Tensor) -> float:
    return match(flat(eqprop.gradients(net, rule, x, y)), truth).relative_error


# -- orders in beta ----------------------------------------------------------------------------------------------------


@every_problem
@pytest.mark.parametrize("readout", ["contrast", "tangent"])
@pytest.mark.parametrize(("contour", "order"), [("one-sided", 1.0), ("centred", 2.0), ("random-sign", 1.0)])
def test_error_against_the_implicit_gradient_falls_with_the_order_of_the_contour(
    problem: str, readout: str, contour: str, order: float, device: torch.device
) -> None:
    net, x, y, cost = smooth_problem(problem, device)
    truth = flat(eqprop.gradients(net, ImplicitGradient(cost=cost, free=TIGHT), x, y))
    errors = []
    for beta in BETAS:
        rule = EquilibriumPropagation(beta=beta, cost=cost, contour=contour, readout=readout, **TO_ROUNDING)
        errors.append(relative_error(net, rule, truth, x, y))
    assert errors[-1] < 0.1
    assert slope(BETAS, errors) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("name", ["triangle", "skip", "same-parity-skip", "user-energy"])
def test_the_order_holds_on_any_graph_with_an_energy(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(3), dtype=torch.float64).to(device)
    truth = flat(eqprop.gradients(net, ImplicitGradient(free=TIGHT), x, y))
    betas = [1e-2, 2e-2, 4e-2, 8e-2]
    errors = [relative_error(net, EquilibriumPropagation(beta=b, **TO_ROUNDING), truth, x, y) for b in betas]
    assert slope(betas, errors) == pytest.approx(2.0, abs=0.1)


def test_the_sign_of_beta_does_not_change_the_sign_of_the_gradient(device: torch.device) -> None:
    net, x, y, cost = smooth_problem("tanh-squared", device)
    truth = flat(eqprop.gradients(net, ImplicitGradient(cost=cost, free=TIGHT), x, y))
    for contour in ("one-sided", "centred"):
        for beta in (1e-3, -1e-3):
            rule = EquilibriumPropagation(beta=beta, contour=contour, cost=cost, **TO_ROUNDING)
            assert relative_error(net, rule, truth, x, y) < 1e-2


def test_both_signs_of_a_one_sided_nudge_average_to_the_centred_one(device: torch.device) -> None:
    """So the error of a random sign has no mean to first order."""
    net, x, y, cost = smooth_problem("sigmoid-squared", device)
    rule = EquilibriumPropagation(beta=0.05, cost=cost, contour="one-sided", **TO_ROUNDING)
    plus, minus = (flat(eqprop.gradients(net, replace(rule, beta=b), x, y)) for b in (0.05, -0.05))
    centred = flat(eqprop.gradients(net, replace(rule, contour="centred"), x, y))
    assert float((0.5 * (plus + minus) - centred).abs().max()) < 1e-10
    assert match(plus, centred).relative_error > 1e-3


def test_a_random_sign_is_right_on_average(device: torch.device) -> None:
    """The mean over many draws approaches the centred gradient; a single draw does not."""
    net, x, y, cost = smooth_problem("sigmoid-squared", device)
    rule = EquilibriumPropagation(beta=0.1, cost=cost, contour="random-sign", **TO_ROUNDING)
    centred = flat(eqprop.gradients(net, replace(rule, contour="centred"), x, y))
    one = flat(eqprop.gradients(net, rule, x[:1], y[:1]))
    many = flat(eqprop.gradients(net, rule, x.repeat(200, 1), y.repeat(200)))
    centred_one = flat(eqprop.gradients(net, replace(rule, contour="centred"), x[:1], y[:1]))
    single = match(one, centred_one).relative_error
    assert match(many, centred).relative_error < 0.2 * single


@pytest.mark.parametrize("problem", PROBLEMS)
def test_contrast_and_tangent_agree_to_second_order_when_centred(problem: str, device: torch.device) -> None:
    net, x, y, cost = smooth_problem(problem, device)
    betas = [1e-2, 2e-2, 4e-2]
    gaps = []
    for beta in betas:
        g = [
            flat(eqprop.gradients(net, EquilibriumPropagation(beta=beta, cost=cost, readout=r, **TO_ROUNDING), x, y))
            for r in ("contrast", "tangent")
        ]
        gaps.append(float((g[0] - g[1]).norm()))
    assert slope(betas, gaps) == pytest.approx(2.0, abs=0.1)


def test_the_tangent_readout_of_untied_weights_is_biased_by_their_asymmetry(device: torch.device) -> None:
    """Exact as beta -> 0 only where the Jacobian is symmetric: at angle 0."""
    rule = EquilibriumPropagation(beta=1e-4, readout="tangent", **TO_ROUNDING)
    errors = {}
    for angle in (0.0, 20.0, 60.0):
        net = eqprop.DirectedNetwork.mlp(
            *(5, 7, 6, 3), activation="tanh", output_activation="linear", gain=0.35, feedback_angle=angle,
            generator=seeded(1), dtype=torch.float64,
        ).to(device)  # fmt: skip
        x, y = inputs(net, 4, device), labels(4, 3, device)
        truth = flat(eqprop.gradients(net, ImplicitGradient(free=TIGHT), x, y))
        errors[angle] = relative_error(net, rule, truth, x, y)
    assert errors[0.0] < 1e-5 < 1e-2 < errors[20.0] < errors[60.0]


# -- backpropagation through time --------------------------------------------------------------------------------------


def cosine_with_bptt(net: Network, cost: str, sweeps: int, bptt: Any, nudged: Any, x: Tensor, y: Tensor) -> float:
    rule = EquilibriumPropagation(
        beta=1e-3, cost=cost, free=TIGHT, nudged=Sweeps(sweeps), solver=Alternating(), nudged_solver=nudged
    )
    truth = TruncatedBPTT(cost=cost, free=TIGHT, solver=bptt, steps=sweeps)
    return eqprop.compare_gradients(net, rule, truth, x, y)["all"].cosine


@every_problem
@pytest.mark.parametrize("sweeps", [1, 2, 3, 5, 10])
def test_synchronous_ep_matches_truncated_bptt_sweep_for_sweep(problem: str, sweeps: int, device: torch.device) -> None:
    net, x, y, cost = smooth_problem(problem, device)
    assert cosine_with_bptt(net, cost, sweeps, Synchronous(), Synchronous(), x, y) > 0.9999


@pytest.mark.parametrize("name", ["chain-sigmoid", "chain-tanh", "skip", "same-parity-skip", "triangle", "readout"])
@pytest.mark.parametrize("sweeps", [1, 2, 3, 5])
def test_alternating_ep_in_reverse_order_matches_alternating_bptt(name: str, sweeps: int, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 5, device), labels(5, 3, device)
    assert cosine_with_bptt(net, "squared-error", sweeps, Alternating(), Alternating(reverse=True), x, y) > 0.9999


def long_chain(device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """Four layers, strongly coupled: a nudge needs several sweeps to reach the first."""
    net = HopfieldNetwork.mlp(
        *(5, 8, 8, 8, 3), activation="tanh", output_activation="linear", gain=0.8, generator=seeded(1),
        dtype=torch.float64,
    ).to(device)  # fmt: skip
    return net, inputs(net, 5, device), labels(5, 3, device)


@pytest.mark.parametrize("blocks", [((0, 2), (1, 3)), ((0,), (1,), (2,), (3,))], ids=["two blocks", "four blocks"])
@pytest.mark.parametrize(("sweeps", "most"), [(1, 0.95), (2, 0.995)])
def test_alternating_ep_in_forward_order_does_not_match(
    sweeps: int, most: float, blocks: Blocks, device: torch.device
) -> None:
    net, x, y = long_chain(device)
    net.blocks = blocks
    assert cosine_with_bptt(net, "squared-error", sweeps, Alternating(), Alternating(reverse=True), x, y) > 0.9999
    assert cosine_with_bptt(net, "squared-error", sweeps, Alternating(), Alternating(), x, y) < most


def test_synchronous_ep_does_not_match_alternating_bptt(device: torch.device) -> None:
    net, x, y = long_chain(device)
    assert cosine_with_bptt(net, "squared-error", 2, Alternating(), Synchronous(), x, y) < 0.998


def test_a_wrong_number_of_sweeps_does_not_match(device: torch.device) -> None:
    net, x, y = long_chain(device)
    rule = EquilibriumPropagation(beta=1e-3, free=TIGHT, nudged=Sweeps(4), nudged_solver=Synchronous())
    match_ = {
        k: eqprop.compare_gradients(net, rule, TruncatedBPTT(free=TIGHT, solver=Synchronous(), steps=k), x, y)["all"]
        for k in (3, 4, 5)
    }
    assert match_[4].relative_error < 1e-3 < 1e-2 < min(match_[3].relative_error, match_[5].relative_error)


# -- energies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MONOTONE_TIED)
@pytest.mark.parametrize("reverse", [False, True])
def test_energy_never_rises_over_alternating_sweeps(name: str, reverse: bool, device: torch.device) -> None:
    net = network(name, device)
    with torch.no_grad():  # far beyond contraction: the promise does not need it
        for p in net.parameters():
            p.mul_(1.0 if name == "chain-linear" else 5.0)
    drive, state = net.drive(inputs(net, 8, device)), random_state(net, 8)
    seen = Trajectory(net, drive, start=state)
    eqprop.relax(net, state, drive, solver=Alternating(reverse), stop=Sweeps(40), observer=seen)
    rise = seen.energy().diff(dim=0) / seen.energy()[1:].abs().clamp(min=1)
    assert float(rise.max()) <= 1e-13
    assert float(rise[0].max()) < -1e-3


def test_energy_may_rise_over_synchronous_sweeps(device: torch.device) -> None:
    """The test above could fail: the same energies rise under another solver."""
    net = network("triangle", device)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(5.0)
    drive, state = net.drive(inputs(net, 8, device)), random_state(net, 8)
    seen = Trajectory(net, drive, start=state)
    eqprop.relax(net, state, drive, solver=Synchronous(), stop=Sweeps(40), observer=seen)
    assert float(seen.energy().diff(dim=0).max()) > 0.1


QUADRATIC_OUTPUT = ("linear", "hard_sigmoid", "relu6")


@pytest.mark.parametrize("output", QUADRATIC_OUTPUT)
@pytest.mark.parametrize(
    "pairs", [("a>b", "b>output"), ("a>b", "b>output", "output>a"), ("a>b", "b>output", "input>output")]
)
@pytest.mark.parametrize("beta", [0.3, 5.0, -0.3, -0.9])
def test_total_energy_never_rises_under_an_exactly_minimised_nudge(
    output: str, pairs: tuple[str, ...], beta: float, device: torch.device
) -> None:
    """``E + beta C`` with a squared error, for ``beta > -1``, where the output's block minimum is exact."""
    net = HopfieldNetwork(
        layers(5, 7, 6, 3, activation="tanh", output=output),
        joined("input>a", *pairs, gain=0.2 if beta < -0.5 else 1.0),
        generator=seeded(1),
        dtype=torch.float64,
    ).to(device)
    x = inputs(net, 6, device)
    drive, state = net.drive(x), random_state(net, 6)
    cost = eqprop.cost("squared-error")
    target = torch.rand(6, 3, generator=seeded(5), dtype=torch.float64).to(device)
    energies: list[Tensor] = []

    def watch(_: int, s: Any) -> None:
        energies.append(net.energy(s, drive).detach() + beta * cost.loss(net.output(s), target).detach())

    watch(0, state)
    nudge = CostNudge(net, cost, target, torch.full((6, 1), beta, dtype=torch.float64, device=device))
    eqprop.relax(net, state, drive, nudge, stop=Sweeps(25), observer=watch)
    total = torch.stack(energies)
    rise = total.diff(dim=0) / total[1:].abs().clamp(min=1)
    assert float(rise.max()) <= 1e-13
    assert float(rise[0].max()) < -1e-4


@pytest.mark.parametrize("output", QUADRATIC_OUTPUT)
@pytest.mark.parametrize("beta", [0.4, -0.4])
def test_the_exact_block_minimum_has_the_fixed_point_of_the_force(
    output: str, beta: float, device: torch.device
) -> None:
    net = HopfieldNetwork.mlp(
        *(5, 7, 3), activation="tanh", output_activation=output, gain=0.4, generator=seeded(1), dtype=torch.float64
    ).to(device)
    x = inputs(net, 4, device)
    target = torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    nudge = CostNudge(
        net, eqprop.cost("squared-error"), target, torch.full((4, 1), beta, dtype=torch.float64, device=device)
    )
    state = eqprop.relax(net, net.initial_state(4), net.drive(x), nudge, stop=TIGHT, throw=True).state
    z = net.inputs(state, net.drive(x))[-1]
    torch.testing.assert_close(state[-1], net.activations[-1](z + nudge.force(state[-1])), rtol=0, atol=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("beta", [0.2, -0.2])
def test_a_nudged_equilibrium_is_stationary_in_the_total_energy(
    problem: str, beta: float, device: torch.device
) -> None:
    net, x, y, name = smooth_problem(problem, device)
    cost = eqprop.cost(name)
    target = cost.target(y, net.output(net.initial_state(5)))
    nudge = CostNudge(net, cost, target, torch.full((5, 1), beta, dtype=torch.float64, device=device))
    state = eqprop.relax(net, net.initial_state(5), net.drive(x), nudge, stop=Stop(1e-14, 3000), throw=True).state
    leaves = tuple(s.clone().requires_grad_() for s in state)
    total = net.energy(leaves, net.drive(x)) + beta * cost.loss(net.output(leaves), target)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(total.sum(), leaves)) < 1e-11


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_positive_nudge_lowers_the_loss_and_a_negative_one_raises_it(problem: str, device: torch.device) -> None:
    net, x, y, name = smooth_problem(problem, device)
    cost = eqprop.cost(name)
    target = cost.target(y, net.output(net.initial_state(5)))

    def loss(beta: float) -> Tensor:
        nudge = CostNudge(net, cost, target, torch.full((5, 1), beta, dtype=torch.float64, device=device))
        state = eqprop.relax(net, net.initial_state(5), net.drive(x), nudge, stop=TIGHT).state
        return cost.loss(net.output(state), target)

    assert bool((loss(0.1) < loss(0.0)).all()) and bool((loss(-0.1) > loss(0.0)).all())
