"""Clamps and complex nudges go through the source: what it holds, what its faults do, and which contour loses them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, ContrastiveHebbian, CoupledLearning, EquilibriumPropagation, Network, Sweeps
from eqprop._complex import ComplexCostNudge, ComplexSystem
from eqprop._diagnostics import gradients, match
from eqprop._rule import at_equilibrium, loss_gradient
from hardware import NudgeSource, Substrate
from tests.helpers import inputs, labels, network

FIXED: dict[str, Any] = {"free": Sweeps(300), "nudged": Sweeps(300)}


def ep(beta: float = 0.1, **options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, **{**FIXED, **options})


def flat(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in gradients(net, rule, x, y).values()])


def case(name: str = "chain-tanh") -> tuple[Any, Tensor, Tensor]:
    net = network(name)
    return net, inputs(net), labels()


# -- nudges by cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chain-linear", "chain-tanh", "readout"])
@pytest.mark.parametrize("bits", [None, 6])
def test_a_clamp_holds_the_output_a_step_down_the_loss_from_where_it_was(name: str, bits: int | None) -> None:
    net, x, y = case(name)
    source = NudgeSource(0.1, 0.01, 0.02, mode="clamp", bits=bits, low=-1.0, high=1.5)
    chip: Any = Substrate(nudge=source).fabricate(net)
    rule = ep(0.2)
    found = rule.equilibria(chip, x, y)
    sample = at_equilibrium(chip, rule.loss_function, found.rest, y)
    step = loss_gradient(chip, rule.loss_function, sample, found.rest)
    gain, offset = chip._nudge_gain, chip._nudge_offset
    assert float(gain.std()) > 0.01 and float(offset.std()) > 0.001
    for beta, state in zip((0.2, -0.2), chip.split_state(found.phases[0].points, 2), strict=True):
        meant = found.rest[-1] - beta * step
        if bits is not None:
            unit = 2.5 / (2**bits - 1)
            meant = ((meant + 1.0) / unit).round().clamp(0, 2**bits - 1) * unit - 1.0
        torch.testing.assert_close(state[-1], gain * meant + offset, rtol=1e-9, atol=1e-12)
        z = chip.inputs(state, found.drive)
        for rho, s, own in list(zip(chip.activations, state, z, strict=True))[:-1]:
            torch.testing.assert_close(s, rho(own), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("contour", ["one-sided", "centred"])
def test_a_perfect_clamp_makes_coupled_learning_of_equilibrium_propagation(contour: str) -> None:
    net, x, y = case()
    chip = Substrate(nudge=NudgeSource(mode="clamp")).fabricate(net)
    found = flat(chip, ep(contour=contour), x, y)
    torch.testing.assert_close(found, flat(net, CoupledLearning(beta=0.1, contour=contour, **FIXED), x, y))
    assert match(found, flat(net, ep(contour=contour), x, y)).relative_error > 1e-3


def test_faults_of_a_clamp_are_lost_between_signs_but_not_one_sided() -> None:
    """A gain acts on the whole voltage, so that it too is an offset that a small nudge drowns in."""
    net, x, y = case()

    def error(contour: str, **faults: Any) -> float:
        chip = Substrate(nudge=NudgeSource(mode="clamp", **faults)).fabricate(net)
        ideal = Substrate(nudge=NudgeSource(mode="clamp")).fabricate(net)
        return match(flat(chip, ep(0.05, contour=contour), x, y), flat(ideal, ep(0.05, contour=contour), x, y))[1]

    for faults in ({"offset_mean": 0.01}, {"gain_std": 0.05}):
        assert error("centred", **faults) < 0.1 < 0.15 < error("one-sided", **faults)


@pytest.mark.parametrize("name", ["chain-linear", "chain-tanh"])
def test_a_clamp_of_finite_conductance_divides_the_voltage(name: str) -> None:
    net, x, y = case(name)

    def outputs(g: float | None) -> tuple[Any, Tensor]:
        source = NudgeSource(mode="clamp", clamp_conductance=g, output_conductance=0.1)
        chip: Any = Substrate(nudge=source).fabricate(net)
        found = ep(0.2, contour="one-sided").equilibria(chip, x, y)
        return found, found.phases[0].points[-1]

    held = outputs(None)[1]
    found, loose = outputs(3.0)
    chip_z = net.inputs(found.phases[0].points, found.drive)[-1]
    expected = (net.activations[-1](chip_z) + 3.0 * held) / 4.1
    torch.testing.assert_close(loose, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(outputs(1e9)[1], held, rtol=1e-6, atol=1e-8)


# -- clamps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["feedback", "current", "clamp"])
@pytest.mark.parametrize("rule", [ContrastiveHebbian(**FIXED), CoupledLearning(beta=0.3, **FIXED)])
def test_clamps_of_rules_pass_through_the_source(mode: str, rule: Any) -> None:
    net, x, y = case("chain-hard_sigmoid")
    source = NudgeSource(0.1, 0.02, 0.01, bits=3, mode=mode)
    chip: Any = Substrate(nudge=source).fabricate(net)
    step = rule.backward(chip, x, y)
    ideal = rule.backward(net, x, y)
    for held, meant in zip(step.nudged, ideal.nudged, strict=True):
        code = (meant.state[-1] * 7).round().clamp(0, 7) / 7
        torch.testing.assert_close(held.state[-1], chip._nudge_gain * code + chip._nudge_offset)
    plain = Substrate(nudge=NudgeSource(mode=mode)).fabricate(net)
    assert torch.equal(flat(plain, rule, x, y), flat(net, rule, x, y))


def test_a_clamp_through_a_conductance_has_the_noise_of_its_node() -> None:
    from hardware import ThermalNoise

    net, x, y = case("chain-linear")
    walk = eqprop.Langevin(0.2)
    rule = ContrastiveHebbian(solver=walk, free=Sweeps(40), nudged=Sweeps(40))
    spreads = []
    for g in (None, 5.0):
        source = NudgeSource(mode="clamp", clamp_conductance=g)
        chip = Substrate(nudge=source, thermal=ThermalNoise(std=1e-3)).fabricate(net)
        first, second = (rule.backward(chip, x, y).nudged[0].state[-1] for _ in range(2))
        spreads.append(float((first - second).abs().max()))
    assert spreads[0] == 0.0 and 1e-4 < spreads[1] < 1e-2


# -- complex nudges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["feedback", "current"])
def test_a_complex_nudge_has_gain_and_load_in_both_parts_and_its_offset_in_the_real_one(mode: str) -> None:
    net, x, y = case("chain-linear")
    source = NudgeSource(0.2, 0.03, 0.01, 0.05, mode=mode)
    chip: Any = Substrate(nudge=source).fabricate(net)
    chip.drive(x)
    chip.begin_phase(0)
    rest = chip.measure(tuple(s + 0.2 for s in chip.initial_state(6)), 0)[-1]
    cost = eqprop.SquaredError()
    target = cost.target(y, rest)
    beta = torch.cat([torch.full((6, 1), 0.3), torch.full((6, 1), -0.4)]).double()
    nudge = ComplexCostNudge(chip, cost, target, beta)
    s = torch.complex(torch.rand(6, 3), torch.rand(6, 3)).to(torch.complex128)
    found = chip.sourced(nudge).force(torch.cat([s.real, s.imag]))
    at = s if mode == "feedback" else rest
    force = chip._nudge_gain * (0.3 - 0.4j) * (target - at) + chip._nudge_offset - 0.05 * s
    torch.testing.assert_close(found, torch.cat([force.real, force.imag]))


def test_a_circle_of_nudges_meets_the_source_too() -> None:
    net, x, y = case("chain-tanh")
    rule = ep(0.3, contour="cauchy", points=5)
    off = Substrate(nudge=NudgeSource(gain_std=0.2)).fabricate(net)
    ideal = Substrate(nudge=NudgeSource()).fabricate(net)
    truth = flat(net, rule, x, y)
    torch.testing.assert_close(flat(ideal, rule, x, y), truth)
    assert match(flat(off, rule, x, y), truth).relative_error > 0.02
    # a constant is no function of the nudge: the circle loses an offset as both signs do
    offset = Substrate(nudge=NudgeSource(offset_mean=0.01)).fabricate(net)
    assert match(flat(offset, rule, x, y), truth).relative_error < 0.05


def test_a_complex_state_is_nudged_by_the_source_of_the_chip_below() -> None:
    net, x, y = case("chain-tanh")
    chip: Any = Substrate(nudge=NudgeSource(offset_mean=0.1)).fabricate(net)
    drive = chip.drive(x)
    system = ComplexSystem(chip)
    state = system.lift_state(chip.initial_state(6))
    nudge = ComplexCostNudge(chip, eqprop.SquaredError(), torch.zeros(6, 3).double(), torch.zeros(12, 1).double())
    output = system.update(state, system.lift_drive(drive), nudge, [2], system.new_cache())[0]
    torch.testing.assert_close(output[:6], torch.tanh(chip.inputs(chip.initial_state(6), drive)[-1] + 0.1))
    assert not output[6:].any()


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_clamp_survives_a_file_and_says_so() -> None:
    substrate = Substrate(nudge=NudgeSource(mode="clamp", clamp_conductance=20.0))
    assert Substrate.from_spec(json.loads(json.dumps(substrate.spec()))) == substrate
    assert "(clamp)" in substrate.describe() and "through 20 of the output's own" in substrate.describe()


def test_clamps_that_cannot_be_are_refused() -> None:
    net, x, y = case("chain-tanh")
    chip = Substrate(nudge=NudgeSource(mode="clamp")).fabricate(net)
    with pytest.raises(ConfigError, match="clamp_conductance: got 0.0"):
        NudgeSource(clamp_conductance=0.0)
    with pytest.raises(ConfigError, match="needed a real voltage"):
        flat(chip, ep(0.3, contour="cauchy", points=3), x, y)
    with pytest.raises(ConfigError, match="without a free phase"):
        flat(chip, eqprop.OscillatingEP(beta=0.3, points=2), x, y)
