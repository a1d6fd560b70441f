"""Averages over passes: the same rule on the same samples, several times."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch

import eqprop
from eqprop import Averaged, ConfigError, EquilibriumPropagation, Stop, Sweeps
from eqprop._diagnostics import gradients, match
from hardware import Fluctuation, OutputAdc, Substrate
from tests.helpers import inputs, labels, network, slope

FIXED: dict[str, Any] = {"free": Sweeps(60), "nudged": Sweeps(40)}
INNER: dict[str, tuple[str, eqprop.Rule]] = {
    "centred": ("chain-sigmoid", EquilibriumPropagation(beta=0.2, **FIXED)),
    "cauchy": ("chain-sigmoid", EquilibriumPropagation(beta=0.2, contour="cauchy", points=4, **FIXED)),
    "tangent": ("directed-40", EquilibriumPropagation(beta=0.2, readout="tangent", **FIXED)),
    "homeostasis": (
        "directed-40",
        EquilibriumPropagation(
            beta=0.2, readout="tangent", regularisers=(eqprop.JacobianHomeostasis(0.01, estimator="exact"),), **FIXED
        ),
    ),
    "Dyadic": ("directed-40", eqprop.DyadicEP(**FIXED)),
    "contrastive Hebbian": ("chain-hard_sigmoid", eqprop.ContrastiveHebbian(**FIXED)),
    "coupled": ("chain-hard_sigmoid", eqprop.CoupledLearning(**FIXED)),
    "implicit": ("chain-sigmoid", eqprop.ImplicitGradient(free=Sweeps(60))),
    "recurrent backprop": ("chain-sigmoid", eqprop.RecurrentBackprop(free=Sweeps(60))),
    "BPTT": ("chain-sigmoid", eqprop.TruncatedBPTT(steps=10, free=Sweeps(60))),
    "backprop": ("chain-sigmoid", eqprop.Backprop()),
    "readout": ("readout", EquilibriumPropagation(beta=0.2, cost="cross-entropy", **FIXED)),
}


def case(name: str, device: torch.device | str = "cpu") -> Any:
    net = network(name, device)
    return net, inputs(net, device=device), labels(device=device)


@pytest.mark.parametrize("name", INNER)
def test_without_noise_the_mean_is_what_one_pass_gives_and_costs_add_up(name: str, device: torch.device) -> None:
    kind, rule = INNER[name]
    net, x, y = case(kind, device)
    averaged = Averaged(rule, 3)
    expected, found = gradients(net, rule, x, y), gradients(net, averaged, x, y)
    for key, g in expected.items():
        torch.testing.assert_close(found[key], g, rtol=1e-9, atol=1e-12)
    one, three = rule.backward(net, x, y), averaged.backward(net, x, y)
    assert torch.equal(three.sweeps, 3 * one.sweeps) and len(three.nudged) == len(one.nudged)
    torch.testing.assert_close(three.loss, one.loss)
    torch.testing.assert_close(three.output, one.output)
    assert torch.equal(three.unconverged, one.unconverged) and set(three.penalties) == set(one.penalties)
    torch.testing.assert_close(averaged.predict(net, x), rule.predict(net, x))


def test_gradients_that_are_there_stay_there() -> None:
    net, x, y = case("chain-sigmoid")
    rule = INNER["centred"][1]
    alone = gradients(net, rule, x, y)
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    Averaged(rule, 2).backward(net, x, y)
    for key, p in net.named_parameters():
        torch.testing.assert_close(p.grad, alone[key] + 0.5, rtol=1e-9, atol=1e-12)


QUICK = EquilibriumPropagation(beta=0.2, free=Sweeps(15), nudged=Sweeps(10))


def error(substrate: Substrate, rule: eqprop.Rule, passes: int, chips: int = 12) -> float:
    """Root of the mean square of the relative error on several chips, against the ideal network."""
    net, x, y = case("chain-sigmoid")
    truth = torch.cat([g.flatten() for g in gradients(net, rule, x, y).values()])
    total = 0.0
    for seed in range(chips):
        found = gradients(substrate.fabricate(net, seed=seed), Averaged(rule, passes), x, y)
        total += match(torch.cat([g.flatten() for g in found.values()]), truth).relative_error ** 2
    return math.sqrt(total / chips)


@pytest.mark.parametrize(
    "substrate",
    [Substrate(fluctuations=(Fluctuation(1e-3, "phase"),)), Substrate(adc=OutputAdc(14, noise_lsb=2.0))],
    ids=["conductances", "converters"],
)
def test_errors_that_are_drawn_afresh_fall_with_the_root_of_the_passes(substrate: Substrate) -> None:
    passes = torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64)
    errors = torch.tensor([error(substrate, QUICK, int(n)) for n in passes], dtype=torch.float64)
    assert slope(passes, errors) == pytest.approx(-0.5, abs=0.1)


def test_errors_that_passes_share_are_a_floor() -> None:
    fresh, shared = Fluctuation(3e-3, "phase"), Fluctuation(0.05, "chip")
    floor = error(Substrate(fluctuations=(shared,)), QUICK, 1)
    one, many = (error(Substrate(fluctuations=(shared, fresh)), QUICK, n) for n in (1, 16))
    assert one > 1.3 * floor and many == pytest.approx(floor, rel=0.15)


def test_the_error_vector_is_averaged_too() -> None:
    net, x, y = case("chain-sigmoid")
    rule = INNER["centred"][1]
    step, found = Averaged(rule, 2).error_vector(net, x, y)
    for a, b in zip(found, rule.error_vector(net, x, y)[1], strict=True):
        torch.testing.assert_close(a, b)
    assert int(step.sweeps[0]) == 2 * (60 + 2 * 40)


def test_it_says_what_it_is_and_keeps_the_random_signs_of_its_rule() -> None:
    rule = EquilibriumPropagation(beta=0.2, contour="random-sign", seed=4, **FIXED)
    averaged = Averaged(rule, passes=5)
    spec = json.loads(json.dumps(averaged.spec()))
    assert spec["rule"] == "Averaged" and spec["passes"] == 5
    assert spec["inner"]["kind"] == "EquilibriumPropagation" and spec["inner"]["beta"] == 0.2
    assert averaged == Averaged(rule, 5) != Averaged(rule, 6)
    net, x, y = case("chain-tanh")
    saved = copy.deepcopy(averaged.state_dict())
    first = gradients(net, averaged, x, y)
    averaged.load_state_dict(saved)
    again = gradients(net, averaged, x, y)
    assert all(torch.equal(first[n], again[n]) for n in first)


def test_it_trains() -> None:
    net, x, y = case("chain-sigmoid")
    chip = Substrate(fluctuations=(Fluctuation(0.01, "phase"),)).fabricate(net)
    rule = Averaged(EquilibriumPropagation(beta=0.2, free=Stop(1e-4, 100), nudged=Sweeps(20)), 4)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(float(rule.backward(chip, x, y).loss))
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]
    split = eqprop.Split(torch.zeros(4, 1, 5, dtype=torch.uint8), torch.arange(4) % 3, classes=3)
    assert math.isfinite(eqprop.evaluate(chip, split, rule).loss)


def test_several_processes_share_what_its_rule_lets_them() -> None:
    assert Averaged(EquilibriumPropagation()).by_share is True
    assert Averaged(EquilibriumPropagation(exclude_unconverged=True)).by_share is False


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Averaged("ep"), "got str, needed a rule"),  # type: ignore[arg-type]
        (lambda: Averaged(EquilibriumPropagation(), 0), "passes=0"),
        (lambda: Averaged(EquilibriumPropagation(), True), "passes=True"),
        (lambda: Averaged(eqprop.ContinualEP(rates=0.01)), "changes weights while it relaxes"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
