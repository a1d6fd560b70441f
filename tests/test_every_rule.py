"""Every rule trains 784-256-10 on a few hundred real digits, through the same call."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import eqprop
from eqprop import DirectedNetwork, EquilibriumPropagation, HopfieldNetwork, Network, Rule, Stop, Sweeps
from tests.helpers import seeded

SHARED: dict[str, Any] = {"free": Sweeps(20), "nudged": Sweeps(10)}
FREE: dict[str, Any] = {"free": Sweeps(20)}
TANGENT = SHARED | {"readout": "tangent"}
HOMEOSTASIS = (eqprop.JacobianHomeostasis(0.01),)

# name -> (network, activation, rule, learning rates)
CASES: dict[str, tuple[str, str, Rule]] = {
    "centred": ("tied", "hard_sigmoid", EquilibriumPropagation(**SHARED)),
    "one-sided": ("tied", "hard_sigmoid", EquilibriumPropagation(contour="one-sided", **SHARED)),
    "negative": ("tied", "hard_sigmoid", EquilibriumPropagation(contour="one-sided", beta=-0.1, **SHARED)),
    "random-sign": ("tied", "hard_sigmoid", EquilibriumPropagation(contour="random-sign", **SHARED)),
    "tangent": ("tied", "hard_sigmoid", EquilibriumPropagation(**TANGENT)),
    "holomorphic": ("tied", "sigmoid", EquilibriumPropagation(contour="cauchy", points=6, beta=0.3, **SHARED)),
    "derivative": ("untied", "sigmoid", EquilibriumPropagation(contour="derivative", **TANGENT)),
    "generalised": ("untied", "sigmoid", EquilibriumPropagation(contour="cauchy", points=4, **TANGENT)),
    "homeostasis": ("untied", "sigmoid", EquilibriumPropagation(regularisers=HOMEOSTASIS, **TANGENT)),
    "Kolen-Pollack": (
        "untied",
        "sigmoid",
        EquilibriumPropagation(regularisers=(eqprop.KolenPollack(1e-3),), **TANGENT),
    ),
    "AsymEP": ("untied", "sigmoid", EquilibriumPropagation(correction="asymep", **TANGENT)),
    "Dyadic": ("untied", "sigmoid", eqprop.DyadicEP(**SHARED)),
    "contrastive Hebbian": ("tied", "hard_sigmoid", eqprop.ContrastiveHebbian(**SHARED)),
    "coupled learning": ("tied", "hard_sigmoid", eqprop.CoupledLearning(**SHARED)),
    "continual": ("tied", "hard_sigmoid", eqprop.ContinualEP(rates=0.002, beta=0.3, **SHARED)),
    "oscillating": ("tied", "sigmoid", eqprop.OscillatingEP(beta=0.3)),
    "implicit": ("tied", "hard_sigmoid", eqprop.ImplicitGradient(free=Stop(1e-4, 100, block=10), tol=1e-4)),
    "recurrent backprop": ("untied", "sigmoid", eqprop.RecurrentBackprop(adjoint=Sweeps(20), **FREE)),
    "BPTT": ("untied", "sigmoid", eqprop.TruncatedBPTT(steps=10, **FREE)),
    "backprop": ("tied", "hard_sigmoid", eqprop.Backprop()),
}


@cache
def digits() -> eqprop.Split:
    return eqprop.load_dataset("digits").train.subset(400, seeded())


def network(kind: str, activation: str) -> Network:
    if kind == "tied":
        return HopfieldNetwork.mlp(784, 256, 10, activation=activation, generator=seeded())
    return DirectedNetwork.mlp(784, 256, 10, activation=activation, feedback_angle=30.0, generator=seeded())


@pytest.mark.parametrize("name", CASES)
def test_the_rule_trains_a_convolutional_network(name: str, device: torch.device) -> None:
    """Through max pooling where the rule is real, through soft pooling where it needs holomorphic states."""
    kind, activation, rule = CASES[name]
    cls, options = (HopfieldNetwork, {}) if kind == "tied" else (DirectedNetwork, {"feedback_angle": 30.0})
    pooling = "soft" if activation == "sigmoid" else "max"
    made: Any = {"pooling": ("average", pooling), "activation": activation, **options}
    net = cls.cnn((2, 12, 12), 3, 3, units=(3,), generator=seeded(1), **made).to(device)
    x, y = torch.rand(12, 2, 12, 12, generator=seeded(2)).to(device), (torch.arange(12) % 3).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(float(rule.backward(net, x, y).loss))
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
    assert losses[-1] < 0.99 * losses[0] and losses[1] < losses[0]


@pytest.mark.parametrize("name", CASES)
def test_the_rule_learns_to_read_digits(name: str, device: torch.device) -> None:
    kind, activation, rule = CASES[name]
    net, data = network(kind, activation).to(device), digits().to(device)
    rate = 0.02 if name == "continual" else 0.1
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    first = eqprop.evaluate(net, data, rule)
    for epoch in range(8 if name == "continual" else 4):
        for x, y in data.batches(20, generator=seeded(epoch)):
            optimizer.zero_grad()
            step = rule.backward(net, x, y)
            optimizer.step()
    last = eqprop.evaluate(net, data, rule)
    assert torch.isfinite(step.loss)
    assert last.loss < first.loss
    assert last.accuracy > 0.6, f"{name} should read most of the digits it was trained on, got {last.accuracy:.2f}"


@pytest.mark.parametrize("name", CASES)
def test_frozen_parameters_stay_where_they_are(name: str, device: torch.device) -> None:
    """Fixed feedback weights, and biases, receive no gradient; all others the one that they have without it."""
    kind, activation, rule = CASES[name]
    cls = HopfieldNetwork if kind == "tied" else DirectedNetwork
    options: dict[str, Any] = {} if kind == "tied" else {"feedback_angle": 60.0}
    pooling = "none" if activation == "sigmoid" else "max"
    options |= {"units": (4, 3), "pooling": pooling, "activation": activation}
    net = cls.cnn((2, 8, 8), 3, 3, generator=seeded(1), **options).to(device)
    x, y = torch.rand(4, 2, 8, 8, generator=seeded(2)).to(device), (torch.arange(4) % 3).to(device)
    free = eqprop.gradients(net, rule, x, y) if name not in ("random-sign", "continual") else None
    if isinstance(net, DirectedNetwork):
        ends = [pair.backward for pair in net.reciprocal_pairs()]
    else:  # a convolution, and a dense connection
        ends = [net.connection(key) for key in (list(net.connections)[1], list(net.connections)[-1])]
    fixed = [c.weight for c in ends] + [net.biases[net.names[-1]]]
    for p in fixed:
        p.requires_grad_(False)
    if name == "Kolen-Pollack":
        with pytest.raises(eqprop.ConfigError, match="frozen"):
            rule.backward(net, x, y)
        return
    before = [p.detach().clone() for p in fixed]
    rule.backward(net, x, y)
    assert all(p.grad is None for p in fixed)
    for n, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and (free is None or torch.allclose(p.grad, free[n], atol=1e-6)), n
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert all(torch.equal(p, old) for p, old in zip(fixed, before, strict=True))
