"""Phases that see different conductances and relax together all the same: as if one after another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import Conv, Dense, EquilibriumPropagation, HopfieldNetwork, Layer, Network, Sweeps
from eqprop._nudge import CostNudge
from hardware import (
    CellArray,
    FlickerNoise,
    Fluctuation,
    NudgeSource,
    PathGains,
    SharedRail,
    Substrate,
    TelegraphNoise,
    ThermalNoise,
)
from tests.helpers import inputs, labels, network, no_host_sync, random_state, seeded

SUBSTRATES = {
    "cells": Substrate(cells=CellArray("pcm")),
    "noise on all cells": Substrate(cells=CellArray("pcm", input_noise="cells", read_correlation=0.5, wire_ohms=1.0)),
    "gains": Substrate(cells=CellArray("pcm"), paths=PathGains(0.1, 0.2, 0.1)),
    "twins": Substrate(cells=CellArray("pcm"), twin=True),
    "fluctuations": Substrate(fluctuations=(Fluctuation(0.1), Fluctuation(0.05, "phase", 0.5))),
    "slow noise": Substrate(fluctuations=(FlickerNoise(0.05), TelegraphNoise(0.1))),
}
CONTOURS: dict[str, dict[str, Any]] = {
    "centred": {},
    "cauchy": {"contour": "cauchy", "points": 6},
    "asymep": {"correction": "asymep"},
    "asymep on a circle": {"contour": "cauchy", "points": 4, "correction": "asymep"},
}


def trained(chip: Any, **options: Any) -> list[Tensor]:
    """Gradients and nudged states of three steps."""
    fixed = Sweeps(20)
    rule = EquilibriumPropagation(beta=0.3, readout="tangent", free=fixed, nudged=fixed, **options)
    optimizer = torch.optim.SGD(chip.parameters(), 0.1)
    found = []
    for _ in range(3):
        optimizer.zero_grad()
        step = rule.backward(chip, inputs(chip), labels())
        found += [p.grad.clone() for p in chip.parameters()]
        found += [s.clone() for phase in step.nudged for s in phase.state]
        optimizer.step()
    return found


@pytest.mark.parametrize("contour", CONTOURS)
@pytest.mark.parametrize("name", ["triangle", "loop", "readout"])
@pytest.mark.parametrize("substrate", SUBSTRATES)
def test_phases_that_relax_together_see_what_they_would_one_after_another(
    substrate: str, name: str, contour: str
) -> None:
    chips: list[Any] = [SUBSTRATES[substrate].fabricate(network(name), seed=2) for _ in range(2)]
    assert chips[0].stacks_phases
    chips[1].stacks_phases = False
    together, apart = (trained(chip, **CONTOURS[contour]) for chip in chips)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert chips[0].clock_seconds == chips[1].clock_seconds
    assert chips[0].streams.drawn == chips[1].streams.drawn
    moving = [k for k in chips[0].arrays if not k.startswith("input")]
    states = together[-len(chips[0].shapes) :]  # of the last phase
    assert moving and all(torch.isfinite(s).all() for s in states)


def test_after_phases_that_relaxed_together_the_last_one_acts() -> None:
    chips: list[Any] = [SUBSTRATES["gains"].fabricate(network("triangle"), seed=2) for _ in range(2)]
    chips[1].stacks_phases = False
    for chip in chips:
        trained(chip)
    for key in chips[0].connections:
        a, b = (chip.connection(key).operand(back=True) for chip in chips)
        assert a.dim() == 2
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def image_network() -> Network:
    """Dense connections between layers of images, whose biases are one a channel, and which no input need reach."""
    shapes = {"input": (2, 6, 6), "a": (2, 3, 3), "b": (2, 2, 2), "output": (3,)}
    kinds = {name: Layer(shape, None if name == "input" else "tanh") for name, shape in shapes.items()}
    made: list[Any] = [Conv("input", "a", stride=2, gain=0.4)]
    made += [Dense("a", "b", gain=0.4), Dense("b", "output", gain=0.4)]
    net = HopfieldNetwork(kinds, made, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        for bias in net.biases.values():
            bias.copy_(torch.randn(bias.shape, generator=seeded(2)))
    return net


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("options", [{}, {"correction": "asymep"}, {"products": "bfloat16"}])
def test_phases_relax_together_between_layers_of_images_too(options: dict[str, Any], batch: int) -> None:
    chips: list[Any] = [SUBSTRATES["cells"].fabricate(image_network(), seed=2) for _ in range(2)]
    assert chips[0].stacks_phases
    chips[1].stacks_phases = False
    rule = EquilibriumPropagation(beta=0.3, readout="tangent", free=Sweeps(20), nudged=Sweeps(20), **options)
    found = [_gradient(chip, rule, batch) for chip in chips]
    close = 1e-4 if options.get("products") else 1e-9
    torch.testing.assert_close(found[0], found[1], rtol=close, atol=1e-3 * close)


def test_energies_of_phases_that_are_together_are_those_of_each() -> None:
    chips: list[Any] = [SUBSTRATES["cells"].fabricate(network("triangle"), seed=2) for _ in range(2)]
    state, x = random_state(chips[0]), inputs(chips[0])
    with torch.no_grad():
        drives = [chip.drive(x) for chip in chips]
        for chip in chips:
            chip.begin_phase(0)
        around = chips[0].begin_phases(range(1, 3), chips[0], drives[0])
        together = chips[0].energy(chips[0].repeat_state(state, 2), around)
        each = []
        for phase in (1, 2):
            chips[1].begin_phase(phase)
            now = chips[1]._now(drives[1], state)
            each.append(chips[1].energy(state, now))
    torch.testing.assert_close(together, torch.cat(each), rtol=1e-12, atol=0.0)


def test_phases_in_low_precision_relax_together_too() -> None:
    chips: list[Any] = [SUBSTRATES["cells"].fabricate(network("triangle"), seed=2) for _ in range(2)]
    chips[1].stacks_phases = False
    together, apart = (trained(chip, products="bfloat16") for chip in chips)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_coupled_learning_on_a_chip_is_the_same_either_way() -> None:
    """Its two clamped phases relax together."""
    chips: list[Any] = [SUBSTRATES["fluctuations"].fabricate(network("chain-sigmoid"), seed=2) for _ in range(2)]
    chips[1].stacks_phases = False
    rule = eqprop.CoupledLearning(free=Sweeps(20), nudged=Sweeps(20))
    found = [_gradient(chip, rule) for chip in chips]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def _gradient(chip: Network, rule: eqprop.Rule, batch: int = 6) -> Tensor:
    chip.zero_grad()
    rule.backward(chip, inputs(chip, batch), labels(batch))
    return torch.cat([p.grad.flatten() for p in chip.parameters() if p.grad is not None])


@pytest.mark.parametrize("joined", [True, False], ids=["together", "apart"])
@pytest.mark.parametrize("substrate", [*SUBSTRATES, "noise in sweeps"])
def test_nothing_waits_inside_the_sweeps_of_a_chip(substrate: str, joined: bool) -> None:
    """What a phase sees is worked out at its first sweep: from there on no value of a tensor is looked at."""
    noisy = Substrate(thermal=ThermalNoise(1e-12), nudge=NudgeSource(0.05, 0.001, 0.001), rail=SharedRail(0.01))
    chip: Any = SUBSTRATES.get(substrate, noisy).fabricate(network("triangle"), seed=2)
    x, cost = inputs(chip), eqprop.cost("squared-error")
    phases = range(1, 3) if joined and chip.stacks_phases else range(1, 2)
    drive, state = chip.drive(x), chip.initial_state(len(x))
    target = cost.target(labels(), chip.output(state)).repeat(len(phases), 1)
    beta = torch.full((len(target), 1), 0.1, dtype=torch.float64)
    chip.begin_phase(0)
    around = chip.begin_phases(phases, chip, drive)
    nudge, start = CostNudge(chip, cost, target, beta), chip.repeat_state(state, len(phases))
    with torch.no_grad():
        eqprop.relax(chip, start, around, nudge, stop=Sweeps(1))
        with no_host_sync():
            found = eqprop.relax(chip, start, around, nudge, stop=Sweeps(5))
    assert all(torch.isfinite(s).all() for s in found.state)
