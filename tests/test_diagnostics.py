"""Comparison of gradients with a ground truth, and the match with BPTT sweep by sweep."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, ImplicitGradient, Sweeps, TruncatedBPTT
from eqprop._diagnostics import match
from tests.helpers import NETWORKS, TIGHT, flat, inputs, labels, network, seeded

RULE = EquilibriumPropagation(beta=0.2, free=TIGHT, nudged=TIGHT)
TRUTH = ImplicitGradient(free=TIGHT)


def test_match_of_known_vectors(device: torch.device) -> None:
    g, t = torch.tensor([3.0, 4.0], device=device), torch.tensor([0.0, 2.0], device=device)
    assert match(g, t) == pytest.approx((0.8, math.sqrt(13) / 2, 2.5))


def test_match_of_zero_gradients(device: torch.device) -> None:
    zero, one = torch.zeros(2, device=device), torch.ones(2, device=device)
    neither = match(zero, zero)
    assert math.isnan(neither.cosine) and neither[1:] == (0.0, 1.0)
    assert match(zero, one) == (0.0, 1.0, 0.0)
    got = match(one, zero)
    assert math.isnan(got.cosine) and got.relative_error == math.inf and got.norm_ratio == math.inf


def test_match_in_single_precision_does_not_overflow(device: torch.device) -> None:
    g = torch.full((4,), 1e30, device=device)
    assert match(g, 2 * g) == pytest.approx((1.0, 0.5, 0.5))


def test_gradients_leave_grad_as_it_was(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    first, *rest = net.parameters()
    first.grad = kept = torch.full_like(first, 7.0)
    eqprop.gradients(net, RULE, x, y)
    assert first.grad is kept and bool((kept == 7.0).all()) and all(p.grad is None for p in rest)


def test_gradients_leave_grad_as_it_was_after_an_error() -> None:
    net = network("chain-tanh")
    first = next(net.parameters())
    first.grad = kept = torch.full_like(first, 7.0)
    with pytest.raises(eqprop.DataError):
        eqprop.gradients(net, RULE, inputs(net, 4), labels(3))
    assert first.grad is kept and bool((kept == 7.0).all())


def test_looking_at_gradients_leaves_the_run_as_it_was(device: torch.device) -> None:
    """Random signs, turns, probes and counts of steps of a rule go on as if nobody had looked."""
    net = eqprop.DirectedNetwork.mlp(6, 5, 3, activation="sigmoid", feedback_angle=60.0, generator=seeded()).to(device)
    x, y = torch.rand(4, 6, generator=seeded(1)).to(device), torch.tensor([0, 1, 2, 1], device=device)

    def rule(contour: str) -> EquilibriumPropagation:
        probes = eqprop.JacobianHomeostasis(0.3, estimator="symmetric", probes=1, every=2)
        stops: dict[str, Any] = {"free": Sweeps(20), "nudged": Sweeps(10)}
        return EquilibriumPropagation(contour=contour, readout="tangent", regularisers=(probes,), **stops)

    for contour in ("random-sign", "alternating-sign"):
        looking, training = rule(contour), rule(contour)
        for _ in range(3):
            first = eqprop.gradients(net, looking, x, y)
            eqprop.compare_gradients(net, looking, TRUTH, x, y)
            eqprop.compare_layers(net, looking, TRUTH, x, y)
            with pytest.raises(eqprop.DataError):
                eqprop.gradients(net, looking, x, y[:3])
            net.zero_grad()
            looking.backward(net, x, y)
            seen = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
            net.zero_grad()
            training.backward(net, x, y)
            for n, p in net.named_parameters():
                assert p.grad is not None and torch.equal(p.grad, seen[n]) and torch.equal(first[n], seen[n])


def test_compare_gradients_has_every_parameter_and_the_whole(device: torch.device) -> None:
    net = network("triangle", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    table = eqprop.compare_gradients(net, RULE, TRUTH, x, y)
    g, t = eqprop.gradients(net, RULE, x, y), eqprop.gradients(net, TRUTH, x, y)
    assert set(table) == {n for n, _ in net.named_parameters()} | {"all"}
    for name in g:
        assert table[name] == match(g[name], t[name])
    assert table["all"] == match(flat(g), flat(t))


def test_a_rule_compared_with_itself_is_perfect(device: torch.device) -> None:
    net = network("readout", device)
    table = eqprop.compare_gradients(net, RULE, RULE, inputs(net, 4, device), labels(4, 3, device))
    for entry in table.values():
        assert entry == pytest.approx((1.0, 0.0, 1.0), abs=1e-12)


def test_compare_layers_gathers_a_layer_with_all_that_enters_it(device: torch.device) -> None:
    net = network("skip", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    table = eqprop.compare_layers(net, RULE, TRUTH, x, y)
    g, t = eqprop.gradients(net, RULE, x, y), eqprop.gradients(net, TRUTH, x, y)
    assert set(table) == {"a", "b", "output"}
    into = [n for n in g if n.startswith("connections.") and "-output" in n] + ["biases.output"]
    assert len(into) == 4
    expected = match(*(torch.cat([d[n].flatten() for n in into]) for d in (g, t)))
    assert table["output"] == pytest.approx(expected, rel=1e-12)


def test_compare_layers_names_the_readout(device: torch.device) -> None:
    net = network("readout", device)
    found = eqprop.compare_layers(net, RULE, TRUTH, inputs(net, 4, device), labels(4, 3, device))
    assert list(found) == [*net.names, "readout"]


TIED_SMOOTH = ["chain-sigmoid", "chain-tanh", "chain-dsilu", "triangle", "same-parity-skip", "readout"]


@pytest.mark.parametrize("name", TIED_SMOOTH)
@pytest.mark.parametrize("contour", ["centred", "one-sided"])
def test_each_increment_matches_its_step_of_bptt(name: str, contour: str, device: torch.device) -> None:
    net = network(name, device)
    result = eqprop.match_increments(
        net, inputs(net, 4, device), labels(4, 3, device), beta=1e-4, sweeps=8, contour_name=contour
    )
    bound = 1e-5 if contour == "centred" else 5e-3
    assert result.cosine.shape == (8,)
    # late increments vanish; rounding over beta is what is left of them
    assert float(result.relative_error[:5].max()) < bound
    assert float(result.cumulative_error.max()) < bound and float(result.cumulative_cosine.min()) > 0.9999


def test_the_error_of_increments_falls_with_beta_squared_when_centred(device: torch.device) -> None:
    net = network("chain-sigmoid", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    errors = [
        float(eqprop.match_increments(net, x, y, beta=b, sweeps=4).cumulative_error[-1]) for b in (0.02, 0.04, 0.08)
    ]
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.1) and errors[2] / errors[1] == pytest.approx(4, rel=0.1)


def test_increments_of_untied_weights_do_not_match(device: torch.device) -> None:
    net = network("directed-free", device)
    result = eqprop.match_increments(net, inputs(net, 4, device), labels(4, 3, device), sweeps=4)
    assert float(result.relative_error[0]) < 1e-3  # the first sweep only moves the output
    assert float(result.relative_error[1:].min()) > 0.5


@pytest.mark.parametrize("name", ["chain-tanh", "triangle"])
def test_alternating_sums_match_in_reverse_order(name: str, device: torch.device) -> None:
    net = network(name, device)
    result = eqprop.match_increments(
        net, inputs(net, 4, device), labels(4, 3, device), beta=1e-4, sweeps=6, alternating=True
    )
    assert float(result.cumulative_cosine.min()) > 0.9999 and float(result.cumulative_error.max()) < 1e-4


def test_the_sum_of_increments_is_the_gradient_of_the_rule(device: torch.device) -> None:
    """What is compared step by step is what ``backward`` adds up."""
    net = network("chain-tanh", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = EquilibriumPropagation(
        beta=1e-3, readout="tangent", free=TIGHT, nudged=Sweeps(5), nudged_solver=eqprop.Synchronous()
    )
    truth = TruncatedBPTT(free=TIGHT, solver=eqprop.Synchronous(), steps=5)
    error = eqprop.compare_gradients(net, rule, truth, x, y)["all"].relative_error
    result = eqprop.match_increments(net, x, y, beta=1e-3, sweeps=5)
    assert float(result.cumulative_error[-1]) == pytest.approx(error, rel=1e-2)


def test_match_increments_leaves_grad_as_it_was(device: torch.device) -> None:
    net = network("chain-tanh", device)
    eqprop.match_increments(net, inputs(net, 4, device), labels(4, 3, device), sweeps=2)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", [n for n in NETWORKS if n.startswith("user")])
def test_increments_of_a_users_network(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(), dtype=torch.float64).to(device)
    result = eqprop.match_increments(net, x, y, sweeps=3)
    assert float(result.relative_error[0]) < 1e-3


def test_no_sweeps_are_refused() -> None:
    net = network("chain-tanh")
    with pytest.raises(ConfigError, match="at least 1"):
        eqprop.match_increments(net, inputs(net, 4), labels(4), sweeps=0)
