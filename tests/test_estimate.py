"""Energy and latency: every term by hand, and how terms grow with what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

import eqprop
import hardware
from eqprop import Averaged, ConfigError, EquilibriumPropagation, Sweeps
from hardware import CellArray, CostConstants, InputDac, OutputAdc, ResistiveNetwork, Substrate, Timing, estimate
from tests.helpers import inputs, labels, network, seeded

RULE = EquilibriumPropagation(beta=0.1, free=Sweeps(20), nudged=Sweeps(10))
TANGENT = EquilibriumPropagation(beta=0.1, readout="tangent", free=Sweeps(20), nudged=Sweeps(10))
NAMES = ["input converters", "cells", "neurons", "nudge sources", "converters", "digital", "writes", "control"]


def case(name: str = "chain-sigmoid", **options: Any) -> hardware.Estimate:
    net = network(name)
    return estimate(net, RULE if net.tied else TANGENT, inputs(net), **options)


def test_every_term_by_hand() -> None:
    """5-7-6-3, six samples, centred: three phases a sample."""
    c = CostConstants()
    found = case()
    step = found.training_step
    assert [t.name for t in step.terms] == NAMES
    assert (found.batch, found.phases) == (6, 3)
    t, phases = c.phase_seconds, 18
    # 5 inputs, once a sample
    assert step["input converters"].joules == pytest.approx(6 * 5 * 256 * 1e-15)
    # 7 + 6 + 3 = 16 units, read in each phase; 8 share a converter, so that the 7 of the widest layer take 7 turns
    assert step["neurons"].joules == pytest.approx(16 * 1e-6 * phases * t)
    assert step["nudge sources"].joules == pytest.approx(3 * 1e-6 * 12 * t)
    assert step["converters"].joules == pytest.approx(16 * phases * 256 * 5e-14)
    assert step["converters"].seconds == pytest.approx(phases * 7 * 1e-7)
    # 5 x 7 + 7 x 6 + 6 x 3 = 95 weights in pairs of cells, 10 uS each on average (balanced)
    assert step["cells"].count == 190 and step["digital"].joules == pytest.approx(95 * phases * 3e-13)
    pulse, look = 4.0 * 1e-5 * 1e-7, 0.04 * 1e-5 * 1e-7 + 256 * 5e-14
    assert step["writes"].joules == pytest.approx(190 * 5 * (pulse + look), rel=1e-6)
    assert step["writes"].seconds == pytest.approx(7 * 5 * 2e-7)  # line by line, all arrays at once
    seconds = phases * t + 6 * 1e-8 + phases * 7 * 1e-7 + 7 * 5 * 2e-7
    assert step.seconds == pytest.approx(seconds)
    assert step["control"].joules == pytest.approx(1e-4 * seconds)
    assert step.joules == pytest.approx(sum(t.joules for t in step.terms))
    inference = found.inference
    assert inference["converters"].joules == pytest.approx(3 * 256 * 5e-14)  # outputs alone
    assert inference["cells"].joules == pytest.approx(step["cells"].joules / phases)


def test_cells_dissipate_by_their_conductances_and_the_states_at_both_ends() -> None:
    chip: Any = Substrate(cells=CellArray("reram-sb", read_noise=False)).fabricate(network("chain-sigmoid"))
    x = inputs(chip)
    found = estimate(chip, RULE, x).inference["cells"]
    step = RULE.backward(chip.clone(), x, labels())
    ends = [x, *step.free.state]
    watts = 0.0
    for n, key in enumerate(chip.connections):
        g = chip.arrays[key].conductance.sum(0)
        forward = (ends[n].square() @ g.mT).sum(1).mean()
        back = (ends[n + 1].square() @ g).sum(1).mean() if n else 0.0  # nothing flows back into a clamped input
        watts += float(0.2**2 * (forward + back))
    assert found.joules == pytest.approx(watts * chip.substrate.timing.phase_seconds, rel=1e-6)


def test_resistors_dissipate_twice_the_pseudo_power() -> None:
    net = ResistiveNetwork.mlp(6, 8, 3, generator=seeded())
    x = torch.rand(4, 6, generator=seeded(1))
    rule = EquilibriumPropagation(beta=net.nudge_siemens(0.1), free=Sweeps(20), nudged=Sweeps(10))
    found = estimate(net, rule, x)
    drive = net.drive(x)
    state = rule.settle(net, drive, None).state
    with torch.no_grad():
        expected = 2 * float(net.energy(state, drive).mean()) * 1e-6
    assert found.inference["cells"].joules == pytest.approx(expected, rel=1e-4)
    assert found.inference["input converters"].count == 12  # each input has two sources
    assert found.training_step["cells"].count == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", ["conv-average", "conv-max", "directed-conv-soft"])
def test_a_kernel_has_cells_for_each_of_its_positions(name: str) -> None:
    net: Any = network(name)
    found = case(name).training_step
    cells = products = 0
    for key in net.connections:
        connection = net.connection(key)
        positions = 1
        if hasattr(connection, "geometry"):
            g = connection.geometry
            positions = ((g.tail[1] + 2 * g.padding - g.kernel) // g.stride + 1) ** 2
        cells += 2 * positions * connection.weight.numel()
        products += positions * connection.weight.numel()
    assert found["cells"].count == cells > 2 * sum(net.connection(k).weight.numel() for k in net.connections)
    assert found["digital"].count == 18 * products


def test_feedback_with_weights_of_its_own_has_cells_of_its_own() -> None:
    assert case("directed-40").training_step["cells"].count > case("chain-tanh").training_step["cells"].count


def joules(of: hardware.Estimate) -> dict[str, float]:
    return {t.name: t.joules for t in of.training_step.terms}


def test_terms_grow_with_phases_samples_and_passes() -> None:
    net = network("chain-sigmoid")
    x = inputs(net)
    one_sided = replace(RULE, contour="one-sided")
    three, two = joules(estimate(net, RULE, x)), joules(estimate(net, one_sided, x))
    for name, ratio in {"cells": 1.5, "neurons": 1.5, "converters": 1.5, "nudge sources": 2.0, "digital": 1.5}.items():
        assert three[name] / two[name] == pytest.approx(ratio, rel=1e-6), name
    assert three["writes"] == two["writes"] and three["input converters"] == two["input converters"]
    double = joules(estimate(net, RULE, torch.cat([x, x])))
    passes = joules(estimate(net, Averaged(Averaged(RULE, 2), 2), x))
    for name in ("cells", "neurons", "nudge sources", "converters", "digital", "input converters"):
        assert double[name] == pytest.approx(2 * three[name], rel=1e-6)
        assert passes[name] == pytest.approx(4 * three[name], rel=1e-6)
    assert double["writes"] == passes["writes"] == three["writes"]


def test_converters_cost_twice_as_much_a_bit_and_as_often_as_they_read() -> None:
    net = network("chain-sigmoid")

    def of(**options: Any) -> dict[str, float]:
        return joules(estimate(Substrate(**options).fabricate(net), RULE, inputs(net)))

    eight, ten = of(adc=OutputAdc(8)), of(adc=OutputAdc(10))
    assert ten["converters"] == pytest.approx(4 * eight["converters"])
    assert of(adc=OutputAdc(8, dither=True, reads=3))["converters"] == pytest.approx(3 * eight["converters"])
    each = of(adc=OutputAdc((8, 9, 10)))["converters"]
    assert each == pytest.approx((7 * 256 + 6 * 512 + 3 * 1024) * 18 * 5e-14)
    assert of(input_dac=InputDac(10))["input converters"] == pytest.approx(4 * of()["input converters"])
    slow = estimate(Substrate(timing=Timing(5e-6, 3e-6)).fabricate(net), RULE, inputs(net)).training_step
    assert slow["cells"].seconds == pytest.approx(18 * 5e-6)


@pytest.mark.parametrize("pulses", [None, 2.5])
def test_a_write_takes_the_time_of_its_lines_or_that_of_the_chip_where_it_is_longer(pulses: float | None) -> None:
    """7 lines at once in all arrays: five cycles of a pulse and a read of 100 ns each, or three pulses of 100 ns."""
    net, name = network("chain-sigmoid"), "writes" if pulses is None else "pulses"
    lines = 7 * 5 * 2e-7 if pulses is None else 7 * 3 * 1e-7

    def of(seconds: float) -> Any:
        chip = Substrate(timing=Timing(1e-6, seconds)).fabricate(net)
        return estimate(chip, RULE, inputs(net), pulses_per_cell=pulses).training_step[name]

    plain = case(pulses_per_cell=pulses).training_step[name]
    assert plain.seconds == of(0.0).seconds == of(1e-6).seconds == pytest.approx(lines)
    assert of(3e-5).seconds == pytest.approx(3e-5)
    assert of(1e-6).formula.endswith("; 7 lines x 5 x 200 ns" if pulses is None else "; 7 lines x 3 x 100 ns")
    assert of(3e-5).formula.endswith("; Timing.write_seconds = 30 us")
    nothing: dict[str, Any] = {"writes_per_cell": 0.0} if pulses is None else {"pulses_per_cell": 0.0}
    chip = Substrate(timing=Timing(1e-6, 3e-5)).fabricate(net)
    assert estimate(chip, RULE, inputs(net), **nothing).training_step[name].seconds == 0.0


def test_pulses_cost_what_they_dissipate() -> None:
    few, many = (case(pulses_per_cell=n).training_step for n in (0.05, 2.5))
    assert few["pulses"].count == pytest.approx(0.05 * 190)
    assert few["pulses"].joules == pytest.approx(0.05 * 190 * 4.0 * 1e-5 * 1e-7, rel=1e-6)
    assert many["pulses"].joules == pytest.approx(50 * few["pulses"].joules)
    assert few["pulses"].seconds == pytest.approx(7e-7) and many["pulses"].seconds == pytest.approx(21e-7)
    assert case(writes_per_cell=0.5).training_step["writes"].joules == pytest.approx(
        0.5 * case().training_step["writes"].joules
    )


@pytest.mark.parametrize(
    ("constant", "terms"),
    [
        ("neuron_watts", {"neurons"}),
        ("nudge_watts", {"nudge sources"}),
        ("dac_joules_per_step", {"input converters"}),
        ("adc_joules_per_step", {"converters", "writes"}),
        ("digital_joules_per_mac", {"digital"}),
        ("control_watts", {"control"}),
        ("write_volts", {"writes"}),
        ("volts_per_unit", {"cells", "writes"}),
        ("phase_seconds", {"cells", "neurons", "nudge sources", "control"}),
    ],
)
def test_a_constant_moves_its_own_terms_alone(constant: str, terms: set[str]) -> None:
    before = CostConstants()
    after = replace(before, **{constant: 2 * getattr(before, constant)})
    old, new = joules(case(constants=before)), joules(case(constants=after))
    assert {name for name in old if new[name] != pytest.approx(old[name], rel=1e-9)} == terms


def test_an_estimate_prints_a_table_and_is_plain_json() -> None:
    found = case()
    text = str(found)
    for name in NAMES:
        assert name in text
    assert "training step of 6 samples: " in text and "190 cells, sum g V^2" in text
    plain = json.loads(json.dumps(found.record()))
    assert plain["training_step"]["joules"] == pytest.approx(found.training_step.joules)
    assert len(plain["training_step"]["terms"]) == len(NAMES) and plain["phases"] == 3


def test_every_constant_has_a_note_and_survives_a_file() -> None:
    assert set(CostConstants.NOTES) == {f.name for f in fields(CostConstants)}
    changed = CostConstants(adc_bits=10, neuron_watts=2e-6)
    assert CostConstants.from_spec(json.loads(json.dumps(changed.spec()))) == changed
    assert repr(changed) == "CostConstants(adc_bits=10, neuron_watts=2e-06)"
    assert all(name in changed.describe() for name in CostConstants.NOTES)


def test_nothing_that_is_estimated_changes() -> None:
    net, rule = network("chain-tanh"), replace(RULE, contour="random-sign")
    chip: Any = Substrate(cells=CellArray("pcm", "one-sided")).fabricate(net)
    before, state = {n: v.clone() for n, v in chip.state_dict().items()}, rule.state_dict()["generator"].clone()
    estimate(chip, rule, inputs(net))
    assert all(torch.equal(chip.state_dict()[n], v) for n, v in before.items())
    assert torch.equal(rule.state_dict()["generator"], state)
    assert all(p.grad is None for p in chip.parameters())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CostConstants(adc_bits=0), "adc_bits: got 0"),
        (lambda: CostConstants(neuron_watts=-1.0), "neuron_watts: got -1.0"),
        (lambda: CostConstants(g_min_siemens=2e-5), "g_max_siemens"),
        (lambda: case(pulses_per_cell=-1.0), "pulses_per_cell"),
        (lambda: case("user-energy"), "EnergyNetwork"),
        (lambda: estimate(network("chain-sigmoid"), eqprop.Backprop(), torch.rand(2, 5).double()), "got Backprop"),
    ],
)
def test_what_cannot_be_estimated_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
