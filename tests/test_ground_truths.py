"""Implicit gradient, recurrent backprop, truncated BPTT and the feed-forward twin: against each other and calculus."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop import (
    Alternating,
    Backprop,
    ConfigError,
    HopfieldNetwork,
    ImplicitGradient,
    Network,
    RecurrentBackprop,
    Rule,
    Status,
    Stop,
    Sweeps,
    Synchronous,
    TruncatedBPTT,
)
from eqprop._diagnostics import match
from eqprop._linear_response import LinearResponse, gmres
from tests.helpers import (
    NETWORKS,
    TIGHT,
    exact_loss,
    flat,
    inputs,
    jacobian,
    labels,
    linear_network,
    network,
    random_state,
    seeded,
)

every_network = pytest.mark.parametrize("name", NETWORKS)
# kinks: finite differences are wrong where a unit sits on its bound, and no test can choose that it does not
SMOOTH_NETWORKS = [n for n in NETWORKS if n not in ("chain-hard_sigmoid", "chain-relu6", "user-energy")]
COSTS = ("squared-error", "cross-entropy")


def gradient(net: Network, rule: Rule, x: Tensor, y: Tensor) -> Tensor:
    return flat(eqprop.gradients(net, rule, x, y))


def relative_error(net: Network, rule: Rule, truth: Rule, x: Tensor, y: Tensor) -> float:
    return match(gradient(net, rule, x, y), gradient(net, truth, x, y)).relative_error


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("name", SMOOTH_NETWORKS)
def test_implicit_gradient_is_the_derivative_of_the_loss_at_equilibrium(
    name: str, cost: str, device: torch.device
) -> None:
    """A central difference of the relaxed loss along a random direction of each parameter."""
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    gradients = eqprop.gradients(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    generator, h = seeded(9), 1e-5
    for key, p in net.named_parameters():
        d = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(device)
        expected = 0.0
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(d, alpha=sign * h)
                expected += sign * float(exact_loss(net, x, y, cost)) / (2 * h)
                p.sub_(d, alpha=sign * h)
        assert float((gradients[key] * d).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9), key


@every_network
def test_recurrent_backprop_agrees_with_the_implicit_gradient(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = RecurrentBackprop(free=TIGHT, adjoint=TIGHT)
    assert relative_error(net, rule, ImplicitGradient(free=TIGHT), x, y) < 1e-10


@every_network
@pytest.mark.parametrize("solver", [Alternating(), Synchronous()])
def test_long_bptt_agrees_with_the_implicit_gradient(name: str, solver: Any, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = TruncatedBPTT(free=TIGHT, solver=solver, steps=150)
    assert relative_error(net, rule, ImplicitGradient(free=TIGHT, solver=solver), x, y) < 1e-8


@every_network
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_n_sweeps_of_recurrent_backprop_are_n_steps_of_bptt(name: str, n: int, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = RecurrentBackprop(free=TIGHT, solver=Synchronous(), adjoint=Sweeps(n))
    truth = TruncatedBPTT(free=TIGHT, solver=Synchronous(), steps=n)
    assert relative_error(net, rule, truth, x, y) < 1e-10
    if n > 1 and name != "one-layer":
        assert relative_error(net, rule, TruncatedBPTT(free=TIGHT, solver=Synchronous(), steps=n - 1), x, y) > 1e-6


@pytest.mark.parametrize("name", ["readout", "directed-readout"])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("rule", [RecurrentBackprop, TruncatedBPTT])
def test_ground_truths_agree_on_the_readout_too(name: str, cost: str, rule: Any, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    options: dict[str, Any] = {"steps": 150} if rule is TruncatedBPTT else {"adjoint": TIGHT}
    got = eqprop.gradients(net, rule(cost=cost, free=TIGHT, **options), x, y)
    expected = eqprop.gradients(net, ImplicitGradient(cost=cost, free=TIGHT), x, y)
    for key in ("readout.weight", "readout.bias"):
        assert float(got[key].abs().max()) > 1e-3
        torch.testing.assert_close(got[key], expected[key], rtol=1e-8, atol=1e-10)


def negative_triangle(device: torch.device) -> HopfieldNetwork:
    """Three linear units that inhibit each other: ``H`` has eigenvalues -1.6 and 0.8 (twice).

    Synchronous iteration (of the state and of the adjoint) diverges; block minimisation of the energy, whose Hessian
    ``1 - H`` is positive definite, converges.
    """
    w = torch.full((1, 1), -0.8, dtype=torch.float64)
    return linear_network({"a>b": w, "b>output": w, "output>a": w}, (1, 1, 1, 1), device)


def test_implicit_gradient_is_exact_where_recurrent_backprop_diverges(device: torch.device) -> None:
    net = negative_triangle(device)
    x = torch.tensor([[1.0], [-0.5]], dtype=torch.float64, device=device)
    y = torch.tensor([[0.3], [0.7]], dtype=torch.float64, device=device)
    state = eqprop.relax(net, net.initial_state(2), net.drive(x), stop=TIGHT, throw=True).state
    radius = torch.linalg.eigvals(jacobian(net, tuple(s[:1] for s in state), x[:1])).abs().max()
    assert float(radius) == pytest.approx(1.6)
    diverged = RecurrentBackprop(free=TIGHT, adjoint=Stop(1e-10, 500)).backward(net, x, y).nudged[0]
    assert diverged.status.tolist() == [Status.DIVERGED] * 2
    net.zero_grad()
    gradients = eqprop.gradients(net, ImplicitGradient(free=TIGHT), x, y)
    h = 1e-5
    for key, p in net.named_parameters():
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * h)
                losses.append(float(exact_loss(net, x, y.clone())))
                p.sub_(sign * h)
        assert float(gradients[key].sum()) == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-6), key


@pytest.mark.parametrize("name", ["chain-tanh", "directed-40", "loop", "user-field"])
def test_the_linear_response_is_that_of_the_jacobian(name: str, device: torch.device) -> None:
    """Forwards ``u = (1 - D H)^-1 D c``; backwards ``u = D (1 - (D H)^T)^-1 c``."""
    net = network(name, device)
    x, state, c = inputs(net, 1, device), random_state(net, 1), random_state(net, 1, seed=8)
    dh = jacobian(net, state, x)
    z = net.inputs(state, net.drive(x))
    d = torch.cat([rho.derivative(v) for rho, v in zip(net.activations, z, strict=True)], 1)[0].detach()
    one, source = torch.eye(len(d), dtype=torch.float64, device=device), torch.cat(c, 1)[0]
    options: dict[str, Any] = {"tol": 1e-14, "max_iterations": 200, "restart": 50}
    expected = {False: torch.linalg.solve(one - dh, d * source), True: d * torch.linalg.solve(one - dh.T, source)}
    for adjoint, u in expected.items():
        with torch.no_grad():
            got, residual = LinearResponse(net, state, net.drive(x), adjoint=adjoint).solve(c, **options)
        assert float(residual.max()) < 1e-13
        torch.testing.assert_close(torch.cat(got, 1)[0], u, rtol=1e-9, atol=1e-11)


def test_adjoint_residual_is_that_of_the_system(device: torch.device) -> None:
    net = network("loop", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    step = ImplicitGradient(free=TIGHT).backward(net, x, y)
    assert step.adjoint_residual is not None and float(step.adjoint_residual.max()) < 1e-13
    short = ImplicitGradient(free=TIGHT, max_iterations=2, restart=2).backward(net, x, y).adjoint_residual
    assert short is not None and float(short.min()) > 1e-6


def test_bptt_starts_from_the_free_equilibrium_and_reports_its_loss(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    step = TruncatedBPTT(free=TIGHT, steps=3).backward(net, x, y)
    torch.testing.assert_close(step.loss, exact_loss(net, x, y), rtol=1e-10, atol=0.0)
    assert bool(step.free.converged.all()) and not step.loss.requires_grad and not step.output.requires_grad


# -- the feed-forward twin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS)
def test_backprop_is_that_of_the_same_network_in_plain_torch(cost: str, device: torch.device) -> None:
    net = HopfieldNetwork.mlp(
        *(5, 7, 6, 3), activation="tanh", output_activation="linear", generator=seeded(1), dtype=torch.float64
    ).to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    linear = [nn.Linear(i, o, dtype=torch.float64, device=device) for i, o in ((5, 7), (7, 6), (6, 3))]
    twin = nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])
    keys = (("input-hidden1", "hidden1"), ("hidden1-hidden2", "hidden2"), ("hidden2-output", "output"))
    with torch.no_grad():
        for layer, (key, name) in zip(linear, keys, strict=True):
            layer.weight.copy_(net.connection(key).weight)
            layer.bias.copy_(net.biases[name])
    out = twin(x)
    target = nn.functional.one_hot(y, 3).double()
    loss = (
        nn.functional.cross_entropy(out, y) if cost == "cross-entropy" else 0.5 * (out - target).square().sum(1).mean()
    )
    loss.backward()
    step = Backprop(cost=cost).backward(net, x, y)
    torch.testing.assert_close(step.output, out.detach())
    torch.testing.assert_close(step.loss, loss.detach())
    for layer, (key, name) in zip(linear, keys, strict=True):
        torch.testing.assert_close(net.connection(key).weight.grad, layer.weight.grad)
        torch.testing.assert_close(net.biases[name].grad, layer.bias.grad)


def test_backprop_predicts_as_the_twin(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 4, device)
    assert isinstance(net, HopfieldNetwork)
    expected = net.output(net.forward_pass(net.drive(x))).detach()
    assert torch.equal(Backprop().predict(net, x), expected)
    assert not torch.allclose(net.predict(x), expected, atol=1e-3)


def test_backprop_of_a_users_field_names_rules_that_work() -> None:
    net = network("user-field")
    with pytest.raises(ConfigError, match="no feed-forward twin; use ImplicitGradient or TruncatedBPTT"):
        Backprop().backward(net, inputs(net, 4), labels(4))


# -- gmres -------------------------------------------------------------------------------------------------------------


def systems(batch: int, n: int, device: torch.device, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    a = (
        torch.eye(n, dtype=torch.float64)
        + spread * torch.randn(batch, n, n, generator=seeded(), dtype=torch.float64) / n**0.5
    )
    return a.to(device), torch.randn(batch, n, generator=seeded(1), dtype=torch.float64).to(device)


def solve(a: Tensor, b: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return gmres(lambda v: (a @ v[..., None])[..., 0], b, *options)


@pytest.mark.parametrize(("batch", "n", "spread"), [(1, 1, 0.5), (7, 12, 0.5), (5, 40, 0.8), (3, 30, 3.0)])
def test_gmres_solves_random_non_symmetric_systems(batch: int, n: int, spread: float, device: torch.device) -> None:
    a, b = systems(batch, n, device, spread)
    x, residual = solve(a, b, 1e-13, 400, n)
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-8, atol=1e-9)
    assert float(residual.max()) < 1e-11


def test_gmres_with_restarts_solves_what_its_basis_cannot_span(device: torch.device) -> None:
    a, b = systems(4, 50, device)
    x, residual = solve(a, b, 1e-12, 400, 10)
    assert float(residual.max()) < 1e-12
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=1e-8, atol=1e-9)


def test_gmres_keeps_its_basis_orthogonal_on_ill_conditioned_systems(device: torch.device) -> None:
    """Singular values over six decades: one pass of Gram-Schmidt stalls at 1e-5."""
    a, b = systems(3, 30, device, 0.3)
    q, _ = torch.linalg.qr(torch.randn(3, 30, 30, generator=seeded(2), dtype=torch.float64))
    a = ((q * torch.logspace(0, -6, 30, dtype=torch.float64)) @ q.mT).to(device) @ a
    assert float(solve(a, b, 0.0, 30, 30)[1].max()) < 1e-8


def test_gmres_minimises_the_residual_over_the_krylov_space(device: torch.device) -> None:
    """After ``m`` iterations: least squares on ``A [b, A b, ..., A^(m-1) b]``."""
    a, b = systems(3, 20, device)
    for m in (1, 3, 6):
        x, residual = solve(a, b, 0.0, m, m)
        powers = [b]
        for _ in range(m - 1):
            powers.append((a @ powers[-1][..., None])[..., 0])
        krylov = torch.linalg.qr(torch.stack(powers, -1))[0]
        best = torch.linalg.lstsq(a @ krylov, b[..., None]).solution
        expected = ((a @ krylov @ best)[..., 0] - b).norm(dim=1) / b.norm(dim=1)
        torch.testing.assert_close(residual, expected, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(x, (krylov @ best)[..., 0], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gmres_leaves_a_system_that_is_not_finite_and_solves_the_others(bad: float, device: torch.device) -> None:
    a, b = systems(4, 12, device)
    alone = solve(a[[0, 3]], b[[0, 3]], 1e-13, 400, 12)[0]
    a[1, 2, 3] = bad
    b[2, 5] = bad
    x, residual = solve(a, b, 1e-13, 400, 12)
    torch.testing.assert_close(x[[0, 3]], alone, rtol=0, atol=1e-12)
    assert float(residual[[0, 3]].max()) < 1e-11
    assert torch.equal(residual[[1, 2]], torch.ones_like(residual[[1, 2]])) and not x[[1, 2]].any()


def test_gmres_reports_the_true_residual(device: torch.device) -> None:
    a, b = systems(4, 30, device)
    x, residual = solve(a, b, 0.0, 6, 3)
    expected = (b - (a @ x[..., None])[..., 0]).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(residual, expected, rtol=1e-9, atol=0.0)
    assert float(residual.min()) > 1e-6


def test_gmres_keeps_easy_systems_exact_while_hard_ones_go_on(device: torch.device) -> None:
    """Zero right-hand sides, the identity, and scales 20 orders of magnitude apart, in one batch."""
    a, b = systems(5, 30, device)
    a[0] = torch.eye(30, dtype=torch.float64, device=device)
    b[1] = 0.0
    b[2] *= 1e-10
    b[3] *= 1e10
    x, residual = solve(a, b, 1e-12, 400, 10)
    assert torch.equal(x[1], torch.zeros_like(x[1]))
    assert float(residual.max()) < 1e-12
    exact = torch.linalg.solve(a, b)
    assert float(((x - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1e-300)).max()) < 1e-9


def test_gmres_on_a_singular_system_stays_finite_and_says_so(device: torch.device) -> None:
    a, b = systems(2, 10, device)
    a[0] = 0.0
    x, residual = solve(a, b, 1e-12, 40, 10)
    assert bool(torch.isfinite(x).all())
    assert float(residual[0]) == pytest.approx(1.0) and float(residual[1]) < 1e-11


@pytest.mark.parametrize("options", [(0, 10), (10, 0)])
def test_gmres_without_iterations_is_refused(options: tuple[int, int]) -> None:
    a, b = systems(2, 4, torch.device("cpu"))
    with pytest.raises(ConfigError, match="needed at least 1 of each"):
        solve(a, b, 1e-12, *options)


def test_samples_that_broke_do_not_spoil_the_gradient_call(device: torch.device) -> None:
    """A free phase that overflows gives a NaN gradient, not an exception from inside a factorisation."""
    net = linear_network({"a>output": torch.full((1, 1), 1e200, dtype=torch.float64)}, (1, 1, 1), device)
    x = torch.tensor([[1.0]], dtype=torch.float64, device=device)
    y = torch.tensor([[1.0]], dtype=torch.float64, device=device)
    step = ImplicitGradient(free=Stop(1e-6, 200)).backward(net, x, y)
    assert step.free.status.tolist() == [Status.NONFINITE]
