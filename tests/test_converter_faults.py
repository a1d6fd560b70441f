"""Converters that are bent and offset: bounds, one error for all phases, and what differences of phases cancel."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, Network, Sweeps
from eqprop._diagnostics import gradients, match
from hardware import OutputAdc, Streams, Substrate
from tests.helpers import inputs, labels, network


def ep(**options: Any) -> EquilibriumPropagation:
    settings: dict[str, Any] = {"beta": 0.1, "free": Sweeps(60), "nudged": Sweeps(60)}
    return EquilibriumPropagation(**settings | options)


def flat(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in gradients(net, rule, x, y).values()])


def test_every_converter_bends_by_its_declared_most_and_not_at_its_ends() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    made = OutputAdc(10, inl_lsb=2.5).transfer("a", (500,), Streams(1), like)
    assert made is not None
    ramp = torch.linspace(-3.0, 5.0, 8001, dtype=torch.float64)[:, None].expand(-1, 500)
    bent = made.error_lsb(ramp, -3.0, 5.0)
    torch.testing.assert_close(bent.abs().amax(0), torch.full((500,), 2.5).double(), rtol=1e-5, atol=0.0)
    assert float(bent.abs().max()) <= 2.5 * (1 + 1e-12)
    assert not bent[0].any() and not bent[-1].any()
    middle, quarter = bent[4000], (bent[6000] - bent[2000])  # even and odd part
    assert float(middle.std()) > 1.0 and float(quarter.std()) > 1.0
    assert abs(float(middle.mean())) < 0.4 and abs(float(quarter.mean())) < 0.6


@pytest.mark.parametrize("name", ["chain-hard_sigmoid", "chain-tanh"])
@pytest.mark.parametrize("bits", [5, 9])
def test_a_bent_converter_errs_by_half_a_step_and_its_bend_at_most(name: str, bits: int) -> None:
    net, adc = network(name), OutputAdc(bits, inl_lsb=2.0)
    x, y = inputs(net, 40), labels(40)
    found = ep().equilibria(Substrate(adc=adc).fabricate(net), x, y)
    for rho, true, seen in zip(net.activations, found.free.state, found.rest, strict=True):
        low, high = rho.bounds or (0.0, 1.0)
        step = (high - low) / (2**bits - 1)
        worst = float((true - seen).abs().max()) / step
        assert 1.0 < worst <= 2.5 * (1 + 1e-9)


def test_offsets_are_those_of_the_comparators() -> None:
    net = eqprop.HopfieldNetwork.mlp(3, 400, output_activation="tanh", dtype=torch.float64)
    chip: Any = Substrate(adc=OutputAdc(12, offset_lsb=4.0)).fabricate(net)
    state = (0.5 * torch.rand(50, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),)
    chip.drive(torch.zeros(50, 3, dtype=torch.float64))
    off = (chip.measure(state, 0)[0] - state[0]) / (2 / 4095)
    assert float(off.mean(0).std()) == pytest.approx(4.0, rel=0.15)
    assert float(off.std(0).max()) < 0.5  # rounding alone differs from sample to sample


def test_a_converter_errs_alike_in_all_phases_and_passes() -> None:
    net, adc = network("chain-tanh"), OutputAdc(8, inl_lsb=2.0, offset_lsb=1.0)
    chip: Any = Substrate(adc=adc).fabricate(net, seed=3)
    x = inputs(net)
    state = chip.initial_state(6)
    state = tuple(s + 0.3 for s in state)
    seen = []
    for _ in range(2):
        chip.drive(x)
        for phase in range(3):
            chip.begin_phase(phase)
            seen.append(torch.cat(chip.measure(state, phase), 1))
    assert all(torch.equal(s, seen[0]) for s in seen)
    assert chip.streams.drawn["adc.even/hidden1"] == chip.streams.drawn["adc.offset/output"] == 1
    other: Any = Substrate(adc=adc).fabricate(net, seed=4)
    other.drive(x)
    assert not torch.equal(torch.cat(other.measure(state, 0), 1), seen[0])
    single: Any = Substrate(adc=adc).fabricate(network("chain-tanh", dtype=torch.float32), seed=3)
    single.drive(x.float())
    seen_single = torch.cat(single.measure(tuple(s.float() for s in state), 0), 1)
    torch.testing.assert_close(seen_single.double(), seen[0], rtol=0.0, atol=1e-6)


def test_the_offset_of_differences_is_lost_between_signs_but_not_one_sided() -> None:
    """An absolute converter has it in the free phase too; one of differences only in the nudged ones."""
    net = network("chain-tanh")
    x, y = inputs(net), labels()

    def error(contour: str, **options: Any) -> float:
        exact = flat(net, ep(contour=contour), x, y)
        return match(flat(Substrate(adc=OutputAdc(16, **options)).fabricate(net), ep(contour=contour), x, y), exact)[1]

    differences: dict[str, Any] = {"differential": True, "difference_range": 0.2}
    assert error("one-sided", **differences) < 0.01
    for fault in ({"offset_lsb": 400.0}, {"inl_lsb": 800.0}):
        assert error("one-sided", **differences, **fault) > 0.1
    assert error("centred", **differences, offset_lsb=400.0) < 0.05
    assert error("centred", **differences, inl_lsb=800.0) < 0.4 * error("one-sided", **differences, inl_lsb=800.0)
    assert error("one-sided", offset_lsb=400.0) < 0.1


def test_a_bent_converter_survives_a_file_and_says_so() -> None:
    substrate = Substrate(adc=OutputAdc(8, inl_lsb=1.5, offset_lsb=0.5))
    assert Substrate.from_spec(json.loads(json.dumps(substrate.spec()))) == substrate
    text = substrate.describe()
    assert "bent by up to 1.5 steps" in text and "offsets of +-0.5 steps" in text
    assert "bent" not in Substrate(adc=OutputAdc(8)).describe()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inl_lsb": -1.0}, "inl_lsb: got -1.0"),
        ({"offset_lsb": float("nan")}, "offset_lsb: got nan"),
        ({"bits": 3, "inl_lsb": 4.0}, "at most 3.5"),
        ({"bits": (3, 12, 12), "inl_lsb": 4.0}, "at most 3.5"),
    ],
)
def test_impossible_faults_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        OutputAdc(**options)
