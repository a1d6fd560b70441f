"""Equilibrium propagation: contours, gradients of a batch, hooks, and what a step returns."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import (
    Alternating,
    ConfigError,
    EquilibriumPropagation,
    GradientFlow,
    HopfieldNetwork,
    ImplicitGradient,
    Network,
    Status,
    Stop,
    Sweeps,
    Synchronous,
)
from eqprop._diagnostics import match
from tests.helpers import NETWORKS, TIGHT, State, flat, inputs, labels, network, seeded

CONTOURS = ("centred", "one-sided", "random-sign")
ENERGIES = [n for n in NETWORKS if not n.startswith(("directed", "loop", "self", "user-f"))]
every_network = pytest.mark.parametrize("name", NETWORKS)
every_contour = pytest.mark.parametrize("contour", CONTOURS)


def rule_for(net: Network, **options: Any) -> EquilibriumPropagation:
    """A rule to rounding that works on the network, whether it has an energy or not."""
    defaults: dict[str, Any] = {"readout": "contrast" if net.has_energy else "tangent", "free": TIGHT, "nudged": TIGHT}
    return EquilibriumPropagation(**(defaults | options))


def gradient(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return flat(eqprop.gradients(net, rule, x, y))


# -- contours ----------------------------------------------------------------------------------------------------------


@every_contour
@pytest.mark.parametrize("beta", [0.3, -0.3])
def test_contour_weights_give_the_derivative_of_a_line_exactly(contour: str, beta: float, device: torch.device) -> None:
    points = eqprop.contour(contour, beta).points(5, torch.zeros(5, dtype=torch.float64, device=device), seeded())
    derivative = (points.weights * (2.0 + 3.0 * points.betas)).sum(0)
    if points.free_weight is not None:
        derivative = derivative + 2.0 * points.free_weight
    torch.testing.assert_close(derivative, torch.full_like(derivative, 3.0))


@every_contour
def test_only_the_centred_contour_cancels_curvature(contour: str, device: torch.device) -> None:
    points = eqprop.contour(contour, 0.3).points(5, torch.zeros(5, dtype=torch.float64, device=device), seeded())
    error = (points.weights * points.betas**2).sum(0).abs()
    torch.testing.assert_close(error, torch.full_like(error, 0.0 if contour == "centred" else 0.3))


def test_random_signs_are_drawn_one_a_sample_from_the_seed(device: torch.device) -> None:
    def signs(seed: int) -> list[float]:
        points = eqprop.contour("random-sign", 0.3).points(64, torch.zeros(64, device=device), seeded(seed))
        return points.betas[0].sign().tolist()

    assert signs(0) == signs(0) != signs(1)
    assert 16 < sum(s > 0 for s in signs(0)) < 48


def test_a_random_sign_moves_on_between_steps_and_can_be_resumed(device: torch.device) -> None:
    net = network("chain-sigmoid", device)
    x, y = inputs(net, 6, device), labels(6, 3, device)

    def fresh() -> EquilibriumPropagation:
        return rule_for(net, contour="random-sign", beta=0.5, seed=4)

    rule = fresh()
    first = gradient(net, rule, x, y)
    rule.backward(net, x, y)  # a step, after which the signs have moved on
    kept = rule.state_dict()
    second = gradient(net, rule, x, y)
    assert not torch.equal(first, second)
    assert torch.equal(first, gradient(net, fresh(), x, y))
    resumed = fresh()
    resumed.load_state_dict(kept)
    assert torch.equal(second, gradient(net, resumed, x, y))


def test_two_rules_made_from_one_do_not_share_their_signs() -> None:
    rule = EquilibriumPropagation(contour="random-sign", seed=3)
    other = replace(rule, beta=0.2)
    assert other.generator is not rule.generator
    before = rule.generator.get_state()
    torch.randint(0, 2, (5,), generator=other.generator)
    assert torch.equal(rule.generator.get_state(), before)


# -- gradients ---------------------------------------------------------------------------------------------------------


@every_network
@every_contour
def test_gradients_point_where_the_implicit_gradient_does(name: str, contour: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    cosine = match(
        gradient(net, rule_for(net, beta=0.02, contour=contour), x, y),
        gradient(net, ImplicitGradient(free=TIGHT), x, y),
    ).cosine
    asymmetric = name in (
        "directed-40",
        "directed-180",
        "directed-free",
        "directed-readout",
        "directed-conv-max",
        "loop",
        "self-loop",
    )
    assert cosine > (0.3 if asymmetric or name.startswith("user-f") else 0.99)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_of_a_batch_is_the_mean_of_those_of_its_samples(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = rule_for(net, beta=0.3, free=Sweeps(20), nudged=Sweeps(10))
    whole = gradient(net, rule, x, y)
    single = torch.stack([gradient(net, rule, x[i : i + 1], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(single.mean(0), whole, rtol=1e-9, atol=1e-11)


@every_network
def test_gradients_add_to_what_is_in_grad(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = rule_for(net)
    once = {n: g.clone() for n, g in eqprop.gradients(net, rule, x, y).items()}
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    rule.backward(net, x, y)
    for n, p in net.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, 1 + once[n], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cost", ["squared-error", "cross-entropy"])
@pytest.mark.parametrize("name", ["readout", "directed-readout"])
def test_gradient_of_the_readout_is_exact_at_any_beta(name: str, cost: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    got = eqprop.gradients(net, rule_for(net, beta=0.8, cost=cost), x, y)
    expected = eqprop.gradients(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    for key in ("readout.weight", "readout.bias"):
        torch.testing.assert_close(got[key], expected[key], rtol=1e-9, atol=1e-11)


def test_a_users_cost_gives_the_gradient_of_the_same_cost_by_name(device: torch.device) -> None:
    net = network("readout", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    own = rule_for(net, cost=lambda out, t: 0.5 * ((out - t) ** 2).sum(-1))
    torch.testing.assert_close(gradient(net, own, x, y), gradient(net, rule_for(net), x, y), rtol=1e-9, atol=1e-11)


def test_labels_and_their_one_hot_rows_are_the_same_targets(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rows = torch.nn.functional.one_hot(y, 3).to(torch.float32)
    assert torch.equal(gradient(net, rule_for(net), x, y), gradient(net, rule_for(net), x, rows))


@pytest.mark.parametrize("readout", ["contrast", "tangent"])
@every_contour
def test_phases_relaxed_one_by_one_give_the_same_gradient(contour: str, readout: str, device: torch.device) -> None:
    net = network("triangle", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rules = [rule_for(net, contour=contour, readout=readout) for _ in range(2)]
    together = gradient(net, rules[0], x, y)
    net.stacks_phases = False
    torch.testing.assert_close(gradient(net, rules[1], x, y), together, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["chain-hard_sigmoid", "chain-dsilu", "triangle", "readout", "loop", "user-energy"])
def test_a_few_steps_of_sgd_lower_the_loss(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 6, device), labels(6, 3, device)
    rule = rule_for(net, beta=0.2, free=Stop(1e-6, 200), nudged=Stop(1e-6, 200))
    optimizer = torch.optim.SGD(net.parameters(), 0.2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(float(rule.backward(net, x, y).loss))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


# -- samples that did not converge -------------------------------------------------------------------------------------


def half_converged(device: torch.device) -> tuple[HopfieldNetwork, Tensor, Tensor]:
    """Two samples settle at once (zero input, at rest from the start), two need many sweeps."""
    net = HopfieldNetwork.mlp(2, 4, 2, activation="tanh", output_activation="tanh", gain=0.6, dtype=torch.float64)
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [2.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return net.to(device), x.to(device), y.to(device)


def test_unconverged_samples_can_be_left_out(device: torch.device) -> None:
    net, x, y = half_converged(device)
    x[2, 0] = 1e-3  # small enough to settle within the tolerance, and has a gradient
    options: dict[str, Any] = {"free": Stop(1e-4, 4, 2), "nudged": Stop(1e-1, 4, 2), "beta": 0.1}
    rule = rule_for(net, exclude_unconverged=True, **options)
    step = rule.backward(net, x, y)
    net.zero_grad()
    assert step.counted is not None and step.counted.tolist() == [True, False, True, False]
    kept = torch.tensor([0, 2], device=device)
    torch.testing.assert_close(
        gradient(net, rule, x, y), gradient(net, rule_for(net, **options), x[kept], y[kept]), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(step.loss, rule_for(net, **options).backward(net, x[kept], y[kept]).loss)


def test_with_no_sample_left_the_gradient_is_zero(device: torch.device) -> None:
    net, x, y = half_converged(device)
    rule = rule_for(net, exclude_unconverged=True, free=Stop(0.0, 1, 1), nudged=Stop(0.0, 1, 1))
    g = gradient(net, rule, x[1:2], y[1:2])
    assert float(g.abs().max()) == 0.0


def test_a_sample_that_broke_does_not_spoil_the_others(device: torch.device) -> None:
    """One sample overflows; the others keep their gradient where unconverged ones are left out."""
    net = HopfieldNetwork.mlp(1, 1, 1, activation="linear", output_activation="linear", dtype=torch.float64).to(device)
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(1.0)
        net.connection("hidden1-output").weight.fill_(0.5)
    x = torch.tensor([[1.0], [1e308], [2.0]], dtype=torch.float64, device=device)
    y = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64, device=device)
    with torch.no_grad():
        net.biases["hidden1"].fill_(1e308)
    x[[0, 2]] -= 0.0
    options: dict[str, Any] = {"free": Stop(1e-6, 50), "nudged": Stop(1e-6, 50)}
    with torch.no_grad():
        net.biases["hidden1"].fill_(0.0)
        net.connection("input-hidden1").weight.fill_(10.0)
    step = rule_for(net, exclude_unconverged=True, **options).backward(net, x, y)
    assert int(step.free.status[1]) == Status.NONFINITE and step.counted is not None
    assert step.counted.tolist() == [True, False, True]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())
    net.zero_grad()
    kept = [0, 2]
    torch.testing.assert_close(
        gradient(net, rule_for(net, exclude_unconverged=True, **options), x, y),
        gradient(net, rule_for(net, **options), x[kept], y[kept]),
    )


# -- what a step returns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGIES)
def test_step_reports_loss_output_and_phases(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    step = rule_for(net, free=Sweeps(11), nudged=Sweeps(5)).backward(net, x, y)
    free = eqprop.relax(net, net.initial_state(4), net.drive(x), stop=Sweeps(11))
    output = net.output(free.state).detach()
    target = torch.nn.functional.one_hot(y, 3).double()
    torch.testing.assert_close(step.output, output)
    torch.testing.assert_close(step.loss, 0.5 * (output - target).square().sum(1).mean())
    assert step.loss.shape == () and not step.output.requires_grad
    assert len(step.nudged) == 2 and all(len(s.sweeps) == 4 for s in step.nudged)
    assert step.sweeps.tolist() == [21] * 4


@every_contour
def test_number_of_nudged_phases_is_that_of_the_contour(contour: str, device: torch.device) -> None:
    net = network("chain-tanh", device)
    step = rule_for(net, contour=contour).backward(net, inputs(net, 4, device), labels(4, 3, device))
    assert len(step.nudged) == (2 if contour == "centred" else 1)


def test_nudged_phases_are_reported_in_the_order_of_the_contour(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    step = rule_for(net, beta=0.2).backward(net, x, y)
    cost = eqprop.cost("squared-error")
    losses = [cost.loss(net.output(s.state), cost.target(y, step.output)).mean() for s in (*step.nudged, step.free)]
    assert losses[0] < losses[2] < losses[1]


def test_predict_is_the_output_of_the_free_phase(device: torch.device) -> None:
    net = network("readout", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = rule_for(net, cost="cross-entropy")
    assert torch.equal(rule.predict(net, x), rule.backward(net, x, y).output)


def test_a_warm_start_saves_free_sweeps_and_keeps_the_gradient(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = rule_for(net, beta=0.1, free=Stop(1e-10, 500, 1), nudged=Stop(1e-10, 500))
    cold = rule.backward(net, x, y)
    expected = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    warm = rule.backward(net, x, y, start=cold.free.state)
    assert int(warm.free.sweeps.max()) < int(cold.free.sweeps.min())
    for n, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[n], rtol=1e-6, atol=1e-8)


def test_the_nudged_solver_is_that_of_the_free_phase_unless_given(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    base = {"free": TIGHT, "nudged": Sweeps(2)}
    as_free = rule_for(net, solver=Synchronous(), **base)
    given = rule_for(net, solver=Alternating(), nudged_solver=Synchronous(), **base)
    other = rule_for(net, solver=Alternating(), **base)
    assert match(gradient(net, as_free, x, y), gradient(net, given, x, y)).relative_error < 1e-9
    assert match(gradient(net, other, x, y), gradient(net, given, x, y)).relative_error > 1e-3


@pytest.mark.parametrize("options", [{"contour": "one-sided"}, {"readout": "tangent"}, {"contour": "random-sign"}, {}])
def test_low_precision_products_keep_the_direction_of_the_gradient(
    options: dict[str, Any], device: torch.device
) -> None:
    """Where the free state enters the readout, full-precision sweeps end the free phase."""
    net = network("chain-tanh", device, torch.float32)
    x, y = inputs(net, 6, device, torch.float32), labels(6, 3, device)
    stop = Stop(1e-6, 300)
    rule = rule_for(net, beta=0.05, products="bfloat16", free=stop, nudged=stop, **options)
    full = rule_for(net, beta=0.05, free=stop, nudged=stop, **options)
    cosine = match(gradient(net, rule, x, y), gradient(net, full, x, y)).cosine
    assert cosine > (0.99 if options else 0.999)


class Hooked(HopfieldNetwork):
    """A substrate that notes its calls and reads states with an error."""

    calls: list[tuple[str, int]]
    gain = 1.0

    def begin_phase(self, phase: int) -> None:
        self.calls.append(("begin", phase))

    def measure(self, state: State, phase: int) -> State:
        self.calls.append(("measure", phase))
        return tuple(self.gain * s for s in state)


def test_hooks_are_called_around_every_phase(device: torch.device) -> None:
    net = Hooked.mlp(5, 7, 3, activation="tanh", generator=seeded(1), dtype=torch.float64).to(device)
    net.stacks_phases = False
    net.calls = []
    rule_for(net).backward(net, inputs(net, 4, device), labels(4, 3, device))
    phases = [("begin", 0), ("measure", 0), ("begin", 1), ("measure", 1), ("begin", 2), ("measure", 2)]
    assert net.calls == phases


@every_contour
def test_gradients_use_what_was_measured(contour: str, device: torch.device) -> None:
    """The contrast is bilinear in the states: readings twice as large give inner gradients four times as large."""
    net = Hooked.mlp(5, 7, 3, activation="tanh", readout=2, generator=seeded(1), dtype=torch.float64).to(device)
    net.calls = []
    x = inputs(net, 4, device)
    zero = torch.zeros(4, 2, dtype=torch.float64, device=device)

    def linear(output: Tensor, target: Tensor) -> Tensor:  # its force does not depend on the reading
        return output.sum(-1)

    plain = eqprop.gradients(net, rule_for(net, contour=contour, cost=linear), x, zero)
    net.gain = 2.0
    doubled = eqprop.gradients(net, rule_for(net, contour=contour, cost=linear), x, zero)
    key = "connections.hidden1-output.weight"
    torch.testing.assert_close(doubled[key], 4 * plain[key], rtol=1e-9, atol=1e-12)
    key = "connections.input-hidden1.weight"
    torch.testing.assert_close(doubled[key], 2 * plain[key], rtol=1e-9, atol=1e-12)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_rule_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EquilibriumPropagation().beta = 0.2  # type: ignore[misc]


@pytest.mark.parametrize(
    "rule",
    [
        EquilibriumPropagation(beta=0.2, contour="one-sided", solver=eqprop.Anderson(), nudged=Sweeps(3)),
        ImplicitGradient(cost="cross-entropy"),
        eqprop.RecurrentBackprop(),
        eqprop.TruncatedBPTT(steps=4),
        eqprop.Backprop(),
    ],
    ids=lambda r: type(r).__name__,
)
def test_spec_is_plain_json_and_names_every_setting(rule: eqprop.Rule) -> None:
    spec = json.loads(json.dumps(rule.spec()))
    names = {f.name for f in dataclasses.fields(rule) if f.init}
    assert spec["rule"] == type(rule).__name__ and set(spec) == names | {"rule"}
    assert spec["solver"]["kind"] == type(rule.solver).__name__


def test_the_network_is_not_left_with_a_graph(device: torch.device) -> None:
    net = network("readout", device)
    step = rule_for(net).backward(net, inputs(net, 4, device), labels(4, 3, device))
    tensors = [*step.free.state, *step.nudged[0].state, step.loss, *(p.grad for p in net.parameters())]
    assert not any(t is not None and t.requires_grad for t in tensors)


def test_contrast_on_a_directed_network_names_the_tangent() -> None:
    net = network("directed-40")
    with pytest.raises(ConfigError, match="DirectedNetwork has none; write readout='tangent'"):
        EquilibriumPropagation().backward(net, inputs(net, 4), labels(4))


def test_a_nan_sample_that_is_left_out_leaks_nowhere(device: torch.device) -> None:
    """Neither into the loss nor into the gradient of the readout, in whose output it stands."""
    net = HopfieldNetwork.mlp(5, 4, 3, activation="tanh", readout=2, generator=seeded(), dtype=torch.float64).to(device)
    x = torch.rand(3, 5, generator=seeded(1), dtype=torch.float64).to(device)
    y = torch.tensor([0, 1, 0], device=device)
    start = tuple(s.clone() for s in net.initial_state(3))
    start[0][1] = torch.nan
    start[1][1] = torch.nan
    rule = EquilibriumPropagation(
        cost="cross-entropy", free=Sweeps(100), nudged=Sweeps(100), solver=GradientFlow(0.5), exclude_unconverged=True
    )
    step = rule.backward(net, x, y, start=start)
    assert step.counted is not None and step.counted.tolist() == [True, False, True]
    assert torch.isfinite(step.loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("cost", ("squared-error", "cross-entropy"))
@pytest.mark.parametrize(("kind", "readout"), [("tied", "contrast"), ("tied", "tangent"), ("untied", "tangent")])
@pytest.mark.parametrize(
    "solver", (Alternating(), eqprop.Synchronous(), eqprop.Anderson()), ids=lambda s: type(s).__name__
)
def test_the_cauchy_contour_is_exact_at_a_finite_nudge(
    solver: Any, kind: str, readout: str, cost: str, device: torch.device
) -> None:
    """With both readouts, with AsymEP where weights are untied, under every kind of solver."""
    options: dict[str, Any] = {"activation": "sigmoid", "generator": seeded(), "dtype": torch.float64}
    options["readout"] = 4 if cost == "cross-entropy" else None
    net: Network
    if kind == "tied":
        net = HopfieldNetwork.mlp(6, 5, 4, 4, **options)
    else:
        net = eqprop.DirectedNetwork.mlp(6, 5, 4, 4, feedback_angle=90.0, **options)
    net = net.to(device)
    x = torch.rand(3, 6, generator=seeded(1), dtype=torch.float64).to(device)
    y = torch.tensor([0, 1, 3], device=device)
    truth = ImplicitGradient(cost=cost, free=TIGHT)
    errors = []
    for points in (3, 4, 16):
        rule = EquilibriumPropagation(
            cost=cost,
            contour="cauchy",
            points=points,
            beta=0.1,
            readout=readout,
            correction=None if kind == "tied" else "asymep",
            free=TIGHT,
            nudged=TIGHT,
            nudged_solver=solver,
        )
        errors.append(eqprop.compare_gradients(net, rule, truth, x, y)["all"].relative_error)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-10


def test_a_circle_around_minus_one_is_refused_for_a_squared_error() -> None:
    with pytest.raises(ConfigError, match="circle of radius below 1"):
        EquilibriumPropagation(contour="cauchy", points=3, beta=1.5)
    EquilibriumPropagation(contour="cauchy", points=3, beta=1.5, cost="cross-entropy")


@pytest.mark.parametrize("contour", (*CONTOURS, "alternating-sign", "cauchy", "derivative"))
def test_points_are_for_a_circle_and_others_take_their_own_number_alone(contour: str) -> None:
    own = {"centred": 2, "derivative": 0}.get(contour, 1)
    for points in (1, 2, 3, 7) if contour == "cauchy" else (2, own):
        assert EquilibriumPropagation(contour=contour, points=points).points == points
    for points in () if contour == "cauchy" else (3 - own, 3, 7):
        if points != 2:
            with pytest.raises(ConfigError, match=f"points: got {points} with contour '{contour}', which has {own}"):
                EquilibriumPropagation(contour=contour, points=points)
