"""Chips of resistive networks: circuits whose resistors are cells, with sources and amplifiers that err."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError, CostNudge, EquilibriumPropagation, ImplicitGradient, Network, Sweeps, _spec, relax
from eqprop._contrastive import ClampNudge
from eqprop._diagnostics import gradients, match
from hardware import (
    CellArray,
    Device,
    Fluctuation,
    InputDac,
    NudgeSource,
    OutputAdc,
    PathGains,
    Polynomial,
    PowerLawDrift,
    ResistiveNetwork,
    SharedRail,
    Substrate,
    ThermalNoise,
    Timing,
)
from tests.helpers import State, flat, inputs, labels, seeded

MAKE: dict[str, Callable[..., ResistiveNetwork]] = {
    "diodes": lambda **o: ResistiveNetwork.mlp(5, 4, 3, 3, **o),
    "linear": lambda **o: ResistiveNetwork.mlp(5, 4, 3, diodes="none", **o),
    "folded": lambda **o: ResistiveNetwork.mlp(5, 6, 3, fold=True, output_gain=4.0, **o),
    "amplified": lambda **o: ResistiveNetwork.mlp(5, 4, 3, 3, amplification=3.0, rail_volts=0.5, **o),
}
PASSIVE = ["diodes", "linear", "folded"]
every = pytest.mark.parametrize("name", MAKE)
SINGLE = CellArray("pcm", "single")
STATIC = CellArray("pcm", "single", read_noise=False, drift=False)
FIXED: dict[str, Any] = {"free": Sweeps(80), "nudged": Sweeps(80)}
EVERYTHING = Substrate(
    cells=CellArray("pcm", "single", read_correlation=0.5, stuck_share=0.01, wire_ohms=1.0, levels=64),
    fluctuations=(Fluctuation(0.02, "chip"), Fluctuation(0.005, "phase", 0.9)),
    paths=PathGains(0.02, 0.02, back_gain=0.98),
    input_dac=InputDac(8, noise_std=0.002),
    adc=OutputAdc(12, noise_lsb=0.5, dither=True, reads=2, autorange=True, differential=True),
    nudge=NudgeSource(0.05, 1e-9, 1e-9, 1e-8, bits=8, follows_cells=True),
    thermal=ThermalNoise(1e-12, window_sweeps=3),
    timing=Timing(2e-6, 5e-6),
    temperature_kelvin=310.0,
)


def case(name: str, device: torch.device | str = "cpu") -> tuple[ResistiveNetwork, Tensor, Tensor]:
    net = MAKE[name](dtype=torch.float64).to(device)
    return net, inputs(net, 6, device), labels(6, 3, device)


def ep(net: ResistiveNetwork, share: float = 0.1, **options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=net.nudge_siemens(share), **{**FIXED, **options})


def gradient(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return flat(gradients(net, rule, x, y))


def frozen(chip: Any, net: ResistiveNetwork) -> ResistiveNetwork:
    """A network whose resistors are what the cells of the chip are in this phase."""
    made: ResistiveNetwork = net.clone()
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(chip.conductance(name))
    return made


@torch.no_grad()
def settled(net: Network, x: Tensor, drive: Any = None, nudge: Any = None) -> State:
    drive = net.drive(x) if drive is None else drive
    return relax(net, net.initial_state(len(x)), drive, nudge, stop=Sweeps(120)).state


@torch.no_grad()
def settled_noisy(chip: Network, x: Tensor) -> State:
    return relax(chip, chip.initial_state(len(x)), chip.drive(x), stop=Sweeps(60)).state


def nudge_of(net: Network, y: Tensor, beta: float) -> CostNudge:
    return CostNudge(net, eqprop.SquaredError(), y, torch.full((len(y), 1), beta, dtype=y.dtype, device=y.device))


# -- what acts ---------------------------------------------------------------------------------------------------------


@every
def test_a_chip_of_the_ideal_substrate_gives_the_same_bits(name: str, device: torch.device) -> None:
    net, x, y = case(name, device)
    chip = Substrate().fabricate(net)
    assert isinstance(chip, ResistiveNetwork) and isinstance(chip, hardware.CircuitChip)
    assert torch.equal(gradient(chip, ep(net), x, y), gradient(net, ep(net), x, y))
    assert torch.equal(chip.predict(x), net.predict(x))


@every
def test_cells_without_faults_hold_the_conductances_to_rounding(name: str) -> None:
    net, x, y = case(name)
    chip = Substrate(cells=replace(STATIC, programming=False)).fabricate(net)
    assert match(gradient(chip, ep(net), x, y), gradient(net, ep(net), x, y)).relative_error < 1e-12


@every
def test_a_chip_that_holds_still_conforms(name: str) -> None:
    substrate = Substrate(cells=STATIC, fluctuations=(Fluctuation(0.05, "chip"),))
    report = eqprop.check_network(substrate.fabricate(MAKE[name]()))
    assert report.passed, str(report)


@every
def test_in_every_phase_a_chip_is_the_circuit_of_what_its_cells_are(name: str, device: torch.device) -> None:
    """All resistors follow, those of clamped inputs and of rails too, though a rule made its drive only once."""
    net, x, _ = case(name, device)
    chip: Any = Substrate(cells=SINGLE, fluctuations=(Fluctuation(0.1, "phase"),)).fabricate(net)
    with torch.no_grad():
        drive = chip.drive(x)
        seen: list[State] = []
        for phase in range(3):
            chip.begin_phase(phase)
            now, same = settled(chip, x, drive), frozen(chip, net)
            for v, w in zip(now, settled(same, x), strict=True):
                torch.testing.assert_close(v, w, rtol=1e-10, atol=1e-14)
            twice = relax(chip, chip.initial_state(12), chip.repeat_drive(drive, 2), stop=Sweeps(120)).state
            torch.testing.assert_close(twice[-1], torch.cat([now[-1]] * 2), rtol=1e-10, atol=1e-14)
            seen.append(now)
    assert float((seen[0][-1] - seen[1][-1]).abs().max()) > 1e-4 * float(seen[0][-1].abs().max())


@pytest.mark.parametrize(
    ("scope", "cells"),
    [(s, c) for s in ("chip", "write", "sample", "phase") for c in (None, STATIC) if s != "write" or c is not None],
)
def test_all_conductances_change_at_the_scope_of_their_fluctuation_and_no_more_often(
    scope: str, cells: CellArray | None
) -> None:
    net, x, _ = case("diodes")
    chip: Any = Substrate(cells=cells, fluctuations=(Fluctuation(0.05, scope),)).fabricate(net)
    found: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for write in range(2):
            for _ in range(2):
                chip.drive(x)
                for phase in range(2):
                    chip.begin_phase(phase)
                    found.append({n: chip.conductance(n) / p for n, p in chip.named_parameters()})
            if write == 0:
                for p in chip.parameters():
                    p.mul_(0.9)
    last = {"chip": 7, "write": 3, "sample": 1, "phase": 0}[scope]  # up to which look the first still holds
    moving = cells is not None and scope != "phase"  # the error of a write is drawn anew with it
    for name in found[0]:
        for k in range(1, 8):
            held = k <= (min(last, 3) if moving else last)
            assert torch.allclose(found[k][name], found[0][name], rtol=1e-12) == held, (name, k)
        spread = found[0][name] - 1
        assert cells is not None or 0.01 < float(spread.std()) < 0.12
    assert set(chip.arrays) == {n for n, _ in chip.named_parameters()} and "biases.hidden1" in chip.arrays


def test_levels_stuck_cells_and_wires_act_on_every_resistor() -> None:
    net = ResistiveNetwork.mlp(30, 20, 10, dtype=torch.float64)
    plain = CellArray("pcm", "single", programming=False, drift=False, read_noise=False)
    options: dict[str, dict[str, Any]] = {
        "levels": {"levels": 6},
        "stuck": {"stuck_share": 0.3},
        "wires": {"wire_ohms": 50.0},
    }
    chips: dict[str, Any] = {k: Substrate(cells=replace(plain, **v)).fabricate(net) for k, v in options.items()}
    for name, p in net.named_parameters():
        levels, stuck, wires = (chips[k].conductance(name).detach() for k in chips)
        step = 25e-6 / 5
        torch.testing.assert_close(levels / step, (levels / step).round(), rtol=0.0, atol=1e-6)
        moved = (stuck != p).double().mean()
        assert 0.1 < float(moved) < 0.5
        count = (1 / wires - 1 / p.detach()) / 50.0
        expected = torch.arange(p.shape[0])[:, None] + torch.arange(p.shape[1])[None] + 2
        torch.testing.assert_close(count, expected.double(), rtol=1e-6, atol=1e-6)


def test_drift_and_read_noise_act_on_every_resistor() -> None:
    net, x, _ = case("diodes")
    chip: Any = Substrate(cells=CellArray("pcm", "single", programming=False, read_noise=False)).fabricate(net)
    noisy: Any = Substrate(cells=CellArray("pcm", "single", programming=False, drift=False)).fabricate(net)
    chip.wait(1e6)
    for made in (chip, noisy):
        made.drive(x)
    for name, p in net.named_parameters():
        drifted = (chip.conductance(name) / p).detach()
        assert 0.1 < float(drifted.min()) and float(drifted.max()) < 0.9
        assert 1e-3 < float((noisy.conductance(name) / p - 1).detach().abs().median()) < 0.2
    for before, after in zip(net.node_siemens(), chip.node_siemens(), strict=True):
        assert bool((after < 0.95 * before).all())


def test_one_seed_is_one_chip_and_a_file_brings_it_back(device: torch.device) -> None:
    net, x, y = case("amplified", device)
    chip, again, other = (EVERYTHING.fabricate(net, seed=s) for s in (1, 1, 2))
    rule = ep(net)
    assert torch.equal(gradient(chip, rule, x, y), gradient(again, rule, x, y))
    saved = {n: v.clone() for n, v in chip.state_dict().items()}
    fresh, copy, pickled = EVERYTHING.fabricate(net, seed=1), chip.clone(), pickle.loads(pickle.dumps(chip))
    expected = gradient(chip, rule, x, y)
    fresh.load_state_dict(saved)
    for made in (fresh, copy, pickled):
        assert torch.equal(gradient(made, rule, x, y), expected)
    assert not torch.equal(gradient(other, rule, x, y), expected)
    with pytest.raises(ConfigError, match="seed 1, needed that of seed 2"):
        other.load_state_dict(saved)


# -- circuit theory on a chip ------------------------------------------------------------------------------------------


class Injected:
    """A current into one node of a layer."""

    def __init__(self, layer: int, current: Tensor) -> None:
        self.layers: Set[int] = frozenset((layer,))
        self.current = current

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: eqprop.Activation) -> Tensor:
        return rho(z + self.current)


def test_transfer_resistances_of_a_chip_are_reciprocal_whatever_its_cells_suffer() -> None:
    net, x, _ = case("linear")
    chip: Any = Substrate(cells=SINGLE, fluctuations=(Fluctuation(0.1, "phase"),)).fabricate(net)
    drive = chip.drive(x)
    rest = torch.cat(settled(chip, x, drive), 1)[0]
    columns = []
    for l, (units,) in enumerate(net.shapes):
        for i in range(units):
            current = torch.zeros(units, dtype=torch.float64)
            current[i] = 1e-6
            columns.append((torch.cat(settled(chip, x, drive, Injected(l, current)), 1)[0] - rest) / 1e-6)
    transfer = torch.stack(columns, 1)
    torch.testing.assert_close(transfer, transfer.mT, rtol=1e-8, atol=0.0)
    assert float(transfer.min()) > 0


@every
@torch.no_grad()
def test_kirchhoffs_current_law_holds_at_the_equilibria_of_a_chip_and_not_elsewhere(name: str) -> None:
    net, x, _ = case(name)
    y = torch.rand(6, 3, generator=seeded(5), dtype=torch.float64)
    paths = PathGains(0.1, 0.1) if name == "amplified" else None
    source = NudgeSource(0.1, 1e-8, 1e-8, 1e-8)
    substrate = Substrate(cells=SINGLE, fluctuations=(Fluctuation(0.05),), paths=paths, nudge=source)
    chip: Any = substrate.fabricate(net)
    drive = chip.drive(x)
    chip.begin_phase(0)
    free = settled(chip, x, drive)
    largest = max(float((g * v.abs().amax(0)).max()) for g, v in zip(chip.node_siemens(), free, strict=True))
    assert float(chip.kcl_residual(free, drive).max()) < 1e-12 * largest
    chip.begin_phase(1)
    nudge = nudge_of(chip, y, net.nudge_siemens(0.2))
    nudged = settled(chip, x, drive, nudge)
    assert float(chip.kcl_residual(nudged, drive, nudge).max()) < 1e-11 * largest
    assert float(chip.kcl_residual(nudged, drive).max()) > 1e-4 * largest
    assert float(chip.kcl_residual(free, drive).max()) > 1e-3 * largest  # of other conductances


@pytest.mark.parametrize("name", PASSIVE)
@pytest.mark.parametrize("mode", ["feedback", "current"])
def test_the_source_sends_the_current_that_its_equation_says(name: str, mode: str) -> None:
    """Amperes into every output node, against what its resistors leave over."""
    net, x, _ = case(name)
    y = torch.rand(6, 3, generator=seeded(5), dtype=torch.float64)
    source = NudgeSource(0.2, 2e-8, 1e-8, output_conductance=3e-7, bits=4, mode=mode)
    chip: Any = Substrate(nudge=source).fabricate(net)
    beta = net.nudge_siemens(0.3)
    rule = EquilibriumPropagation(beta=beta, **FIXED)
    found = rule.equilibria(chip, x, y)
    gain, offset = chip._nudge_gain, chip._nudge_offset
    assert gain.shape == net.shapes[-1] and float(gain.std()) > 0.02 and float(offset.std()) > 1e-10
    reading = torch.eye(3, dtype=torch.float64) if net.readout is None else net.readout.weight
    low, high = (0.0, 1.0) if mode == "feedback" else (-1.0, 1.0)
    step = (high - low) / 15
    for k, sign in enumerate((1, -1)):
        state = chip.split_state(found.phases[0].points, 2)[k]
        v = state[-1]
        if mode == "feedback":
            error = low + step * ((y - low) / step).round() - v @ reading.mT
        else:
            error = low + step * (((y - found.rest[-1] @ reading.mT).clamp(low, high) - low) / step).round()
        current = sign * beta * gain * (error @ reading) + offset - 3e-7 * v
        torch.testing.assert_close(-net.net_currents(state, net.drive(x))[-1], current, rtol=1e-7, atol=1e-17)


def test_an_ideal_source_is_the_conductance_itself() -> None:
    net, x, y = case("folded")
    assert torch.equal(
        gradient(Substrate(nudge=NudgeSource()).fabricate(net), ep(net), x, y), gradient(net, ep(net), x, y)
    )
    other = ep(net, cost="cross-entropy")
    found = match(
        gradient(Substrate(nudge=NudgeSource()).fabricate(net), other, x, y), gradient(net, other, x, y)
    ).relative_error
    assert found < 1e-12


def test_offsets_of_the_source_cancel_between_signs_but_not_one_sided() -> None:
    net, x, y = case("folded")
    chip = Substrate(nudge=NudgeSource(offset_mean=2e-8, offset_std=2e-8)).fabricate(net)

    def error(contour: str) -> float:
        rule = ep(net, 0.05, contour=contour)
        return match(gradient(chip, rule, x, y), gradient(net, rule, x, y)).relative_error

    assert error("centred") < 0.2 * error("one-sided") and error("one-sided") > 0.02


# -- drift in common mode ----------------------------------------------------------------------------------------------


def drifting(share: float, mapping: str) -> tuple[CellArray, Timing]:
    """Cells that all lose that share of their conductance from one nudged phase to the next."""
    step = 1e-6  # phases end 1, 2 and 3 steps after the write, which was read first after 1
    law = PowerLawDrift(Polynomial((-math.log1p(-share) / math.log(4 / 3),)), Polynomial((0.0,)))
    device = Device("drifting", 1e-7 if mapping == "single" else 0.0, 1e-5, ageing=law, first_read_seconds=step)
    return CellArray(device, mapping), Timing(step, 0.0)


@every
def test_common_drift_leaves_the_gradient_of_a_resistive_network_where_the_nudge_drifts_along(name: str) -> None:
    net, x, y = case(name)
    cells, timing = drifting(0.01, "single")
    truth = gradient(net, ep(net), x, y)
    along, apart = (
        Substrate(cells=cells, timing=timing, nudge=NudgeSource(follows_cells=f)).fabricate(net) for f in (True, False)
    )
    assert match(gradient(along, ep(net), x, y), truth).relative_error < 1e-9
    assert match(gradient(apart, ep(net), x, y), truth).relative_error > 0.01
    chip: Any = along
    assert float(chip.common_drift()) == pytest.approx(4.0 ** (math.log(0.99) / math.log(4 / 3)))


@pytest.mark.parametrize("size", [1.0, 0.1])
def test_common_drift_harms_a_hopfield_chip_as_much_as_dispersion_does(size: float) -> None:
    """1 % of either, at output errors large and small: what is common does not average out over a node's weights."""
    net = eqprop.HopfieldNetwork.mlp(100, 32, 10, generator=seeded(), dtype=torch.float64)
    rule = EquilibriumPropagation(beta=0.2, free=Sweeps(40), nudged=Sweeps(40))
    x, y = torch.rand(64, 100, generator=seeded(1), dtype=torch.float64), labels(64, 10)
    target = torch.nn.functional.one_hot(y, 10).double()
    output = net.predict(x, stop=Sweeps(60))
    y = output + size * (target - output)
    truth = gradient(net, rule, x, y)
    cells, timing = drifting(0.01, "one-sided")

    def error(**options: Any) -> float:
        made = [gradient(Substrate(**options).fabricate(net, seed=s), rule, x, y) for s in range(3)]
        return sum(match(g, truth).relative_error for g in made) / 3

    common = error(cells=cells, timing=timing)
    along = error(cells=cells, timing=timing, nudge=NudgeSource(follows_cells=True))
    spread = error(fluctuations=(Fluctuation(0.01 / math.sqrt(2.0)),))
    assert common > spread > 0.01 / size**0.5
    assert along > 0.5 * common  # the leak of a neuron does not drift with its weights


@pytest.mark.parametrize("rule", [eqprop.CoupledLearning(**FIXED), eqprop.ContrastiveHebbian(**FIXED)])
def test_a_clamp_holds_output_nodes_through_its_conductance(rule: eqprop.Rule) -> None:
    """Amperes through the clamp and its load, against what the resistors of the nodes leave over."""
    net, x, _ = case("linear")
    y = torch.rand(6, 3, generator=seeded(5), dtype=torch.float64)
    source = NudgeSource(0.1, 0.01, 0.01, output_conductance=2e-7, clamp_conductance=3e-6)
    chip: Any = Substrate(nudge=source).fabricate(net)
    value = torch.rand(6, 3, generator=seeded(6), dtype=torch.float64)
    state = settled(chip, x, nudge=ClampNudge(chip, value))
    held = chip._nudge_gain * value + chip._nudge_offset
    current = 3e-6 * (held - state[-1]) - 2e-7 * state[-1]
    torch.testing.assert_close(-net.net_currents(state, net.drive(x))[-1], current, rtol=1e-7, atol=1e-17)
    firm = Substrate(nudge=replace(source, clamp_conductance=1e3)).fabricate(net)
    ideal = Substrate(nudge=replace(source, clamp_conductance=None)).fabricate(net)
    assert match(gradient(firm, rule, x, y), gradient(ideal, rule, x, y)).relative_error < 1e-6
    assert match(gradient(ideal, rule, x, y), gradient(net, rule, x, y)).relative_error > 1e-3


def test_a_nudge_by_clamp_moves_the_output_as_the_conductance_would_to_first_order() -> None:
    net, x, y = case("diodes")
    chip = Substrate(nudge=NudgeSource(mode="clamp")).fabricate(net)
    found = ep(net, 0.01).equilibria(chip, x, y)
    target = torch.nn.functional.one_hot(y, 3).double()
    high = chip.split_state(found.phases[0].points, 2)[0][-1]
    torch.testing.assert_close(
        high - found.rest[-1],
        net.nudge_siemens(0.01) / net.node_siemens()[-1].detach() * (target - found.rest[-1]),
        rtol=1e-9,
        atol=1e-15,
    )


# -- amplifiers of two ways --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_amplifiers_of_a_chip_give_and_draw_what_their_gains_say() -> None:
    net, x, _ = case("amplified")
    chip: Any = Substrate(paths=PathGains(0.2, 0.3, back_gain=0.9)).fabricate(net)
    hidden, other, output = settled(chip, x)
    ahead, back = (chip.get_buffer(f"_{way}1") / 3.0 for way in ("ahead", "back"))
    assert float((ahead - 1).std()) > 0.02 and float(back.std()) > 0.02
    mean: Any = Substrate(paths=PathGains(back_gain=0.9)).fabricate(net)
    assert bool((mean.get_buffer("_back1") == 3.0 * 0.9).all()) and bool((mean.get_buffer("_ahead1") == 3.0).all())
    into, onward = net.connections["hidden1-hidden2"], net.connections["hidden2-output"]
    drawn = onward * (3.0 * ahead * other[:, None, :] - output[:, :, None])
    arriving = into * (chip.get_buffer("_ahead0") * hidden[:, None, :] - other[:, :, None])
    rails = torch.tensor([0.5, -0.5], dtype=torch.float64)
    own = (net.biases["hidden2"] * (rails - other[:, :, None])).sum(-1)
    left = arriving.sum(-1) + own - (drawn * (back / 3.0)).sum(1)
    up = math.ceil(3 / 2)
    conducting = other == 0.0
    assert float(left[~conducting].abs().max()) < 1e-17
    assert bool((left[:, :up][conducting[:, :up]] <= 0).all()) and bool((left[:, up:][conducting[:, up:]] >= 0).all())
    at_output = drawn.sum(-1) + (net.biases["output"] * (rails - output[:, :, None])).sum(-1)
    assert float(at_output.abs().max()) < 1e-17


def test_amplifiers_of_two_ways_break_the_energy_and_nothing_else_and_asymep_corrects_it() -> None:
    chip = Substrate(paths=PathGains(0.3, 0.3)).fabricate(MAKE["amplified"]())
    report = eqprop.check_network(chip, throw=False)
    failed = [c.name for c in report.checks if not c.passed]
    assert failed and all("energy" in n or "Phi" in n or "contrast" in n for n in failed)
    net, x, y = case("amplified")
    chip = Substrate(paths=PathGains(0.3, 0.3)).fabricate(net)
    truth = gradient(chip, ImplicitGradient(free=Sweeps(200)), x, y)
    plain, corrected = (
        match(gradient(chip, ep(net, 1e-3, readout="tangent", correction=c), x, y), truth).relative_error
        for c in (None, "asymep")
    )
    assert corrected < 1e-3 < 0.02 < plain


# -- noise in the relaxation -------------------------------------------------------------------------------------------


def test_a_node_between_sources_has_the_noise_of_its_capacitance() -> None:
    """``<v^2> = kT / C`` around its mean, whatever its conductance; a mean over a window has less."""
    net = ResistiveNetwork.mlp(3, 200, dtype=torch.float64)
    x, y = torch.rand(1, 3, generator=seeded(), dtype=torch.float64).expand(100, -1), torch.zeros(100, 200).double()
    mean = settled(net, x)[0]
    expected = 1.380649e-23 * 350.0 / 1e-12
    for window in (1, 8):
        thermal = ThermalNoise(1e-12, window_sweeps=window)
        chip = Substrate(thermal=thermal, temperature_kelvin=350.0).fabricate(net)
        found = EquilibriumPropagation(beta=1e-12, free=Sweeps(3), nudged=Sweeps(3)).equilibria(chip, x, y)
        noise = found.rest[0] - mean
        assert float(noise.square().mean()) == pytest.approx(expected / window, rel=0.04)
        assert float(noise.mean()) < 5 * math.sqrt(expected / 20000)


def test_noise_of_nodes_that_others_feel_has_the_covariance_of_the_sweeps() -> None:
    net = ResistiveNetwork.mlp(3, 2, 2, diodes="none", dtype=torch.float64)
    x = torch.rand(1, 3, generator=seeded(), dtype=torch.float64).expand(20000, -1)
    chip = Substrate(thermal=ThermalNoise(1e-12)).fabricate(net)
    noise = torch.cat(settled_noisy(chip, x), 1) - torch.cat(settled(net, x[:1]), 1)
    found = noise.mT @ noise / len(noise)
    (g, h), onward = net.node_siemens(), net.connections["hidden1-output"]
    a = (onward / h[:, None]).detach()  # of the output, by hidden nodes
    b = (onward / g).detach().mT
    eye = torch.eye(2, dtype=torch.float64)
    hidden = torch.linalg.solve(
        torch.eye(4, dtype=torch.float64) - torch.kron(b @ a, b @ a), (eye + b @ b.mT).flatten()
    ).reshape(2, 2)  # S = B A S (B A)^T + B B^T + 1
    cross = hidden @ a.mT
    expected = torch.cat([torch.cat([hidden, cross], 1), torch.cat([cross.mT, a @ cross + eye], 1)])
    torch.testing.assert_close(found / (1.380649e-23 * 300.0 / 1e-12), expected, rtol=0.04, atol=0.03)


def walk(chip: Network, x: Tensor, dt: float, window: int, sweeps: int) -> State:
    solver = eqprop.Langevin(dt=dt, window=window)
    with torch.no_grad():
        return relax(chip, chip.initial_state(len(x)), chip.drive(x), solver=solver, stop=Sweeps(sweeps)).state


def test_equipartition_in_time_every_node_has_kt_over_c_whatever_lies_between_them() -> None:
    """Whatever the resistors; of steps that are not small, ``kT/C (1 - dt L / 2 unit)^-1``."""
    net = ResistiveNetwork.mlp(3, 2, 3, diodes="none", dtype=torch.float64)
    with torch.no_grad():
        net.connections["hidden1-output"].mul_(3.0)  # so that nodes feel each other more than their sources
        net.connections["input-hidden1"].mul_(0.2)
    x = torch.rand(1, 3, generator=seeded(), dtype=torch.float64).expand(20000, -1)
    kelvin, farads = 350.0, 2e-12
    chip = Substrate(thermal=ThermalNoise(farads), temperature_kelvin=kelvin).fabricate(net)
    mean, dt = torch.cat(settled(net, x[:1]), 1), 0.4
    noise = torch.cat(walk(chip, x, dt, 1, 150), 1) - mean
    total = torch.cat(net.node_siemens()).detach()
    matrix = torch.diag(total)
    matrix[2:, :2] = -net.connections["hidden1-output"].detach()
    matrix[:2, 2:] = matrix[2:, :2].mT.clone()
    expected = torch.linalg.inv(torch.eye(5, dtype=torch.float64) - 0.5 * dt * matrix / total.max())
    found = noise.mT @ noise / len(noise) / (1.380649e-23 * kelvin / farads)
    torch.testing.assert_close(found, expected, rtol=0.04, atol=0.03)


def test_a_mean_over_time_has_the_noise_of_the_transfer_resistances() -> None:
    """Over a time ``t`` long against all time constants the covariance is ``2 k T L^-1 / t``."""
    net = ResistiveNetwork.mlp(3, 2, diodes="none", dtype=torch.float64)
    x = torch.rand(1, 3, generator=seeded(), dtype=torch.float64).expand(2000, -1)
    thermal = ThermalNoise(1e-12, conductance_siemens=1e-4)
    chip = Substrate(thermal=thermal).fabricate(net)
    seconds = 0.2 * 1e-12 / 1e-4
    solver = thermal.langevin(seconds, 400 * seconds)
    with torch.no_grad():
        found = relax(chip, chip.initial_state(2000), chip.drive(x), solver=solver, stop=Sweeps(460)).state[0]
    mean = settled(net, x[:1])[0]
    assert float((found.mean(0) / mean - 1).abs().max()) < 0.01
    g = net.node_siemens()[0].detach()
    expected = 2 * 1.380649e-23 * 300.0 / (g * 400 * seconds) * (1 - 1e-12 / g / (400 * seconds))
    torch.testing.assert_close((found - mean).var(0), expected, rtol=0.15, atol=0.0)


def test_a_walk_stays_where_diodes_let_it_and_goes_to_the_nudged_equilibrium(device: torch.device) -> None:
    net, x, y = case("diodes", device)
    target = torch.nn.functional.one_hot(y, 3).double()
    source = NudgeSource(0.1, 1e-9, 1e-9, 1e-8)
    cold: Any = Substrate(thermal=ThermalNoise(1.0), nudge=source).fabricate(net)
    exact: Any = Substrate(nudge=source).fabricate(net)
    nudge = nudge_of(net, target, net.nudge_siemens(0.2))
    found: list[State] = []
    for chip, solver, sweeps in ((cold, eqprop.Langevin(dt=0.5), 600), (exact, eqprop.Alternating(), 120)):
        with torch.no_grad():
            drive = chip.drive(x)
            found.append(relax(chip, chip.initial_state(6), drive, nudge, solver=solver, stop=Sweeps(sweeps)).state)
    for v, w in zip(*found, strict=True):
        torch.testing.assert_close(v, w, rtol=1e-6, atol=1e-9)
    hot = Substrate(thermal=ThermalNoise(1e-18)).fabricate(net)
    hidden = walk(hot, x.repeat(50, 1), 0.1, 1, 100)[0]
    assert torch.equal(walk(pickle.loads(pickle.dumps(hot)), x, 0.1, 1, 9)[0], walk(hot, x, 0.1, 1, 9)[0])
    assert bool((hidden[:, :2] >= 0).all()) and bool((hidden[:, 2:] <= 0).all())
    assert 0.1 < float((hidden == 0).double().mean()) < 0.9


def test_walks_without_a_temperature_or_with_amplifiers_are_refused_in_words() -> None:
    net, x, _ = case("diodes")
    with pytest.raises(ConfigError, match="without thermal noise, needed nodes with a capacitance"):
        relax(net, net.initial_state(6), net.drive(x), solver=eqprop.Langevin(temperature=1e-9), stop=Sweeps(3))
    chip = Substrate(thermal=ThermalNoise(1e-12)).fabricate(MAKE["amplified"](dtype=torch.float64))
    with pytest.raises(ConfigError, match="amplifiers, whose own noise is not known"):
        walk(chip, x, 0.1, 1, 3)


# -- learning ----------------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"free": Sweeps(16), "nudged": Sweeps(16)}
RULES: dict[str, Callable[[ResistiveNetwork], eqprop.Rule]] = {
    "centred": lambda n: ep(n, **SHORT),
    "one-sided": lambda n: ep(n, **SHORT, contour="one-sided"),
    "random-sign": lambda n: ep(n, **SHORT, contour="random-sign"),
    "derivative": lambda n: ep(n, **SHORT, contour="derivative", readout="tangent"),
    "tangent": lambda n: ep(n, **SHORT, readout="tangent"),
    "AsymEP": lambda n: ep(n, **SHORT, readout="tangent", correction="asymep"),
    "Dyadic": lambda n: eqprop.DyadicEP(beta=n.nudge_siemens(0.1), **SHORT),
    "recurrent backprop": lambda n: eqprop.RecurrentBackprop(free=Sweeps(16), adjoint=Sweeps(16)),
    "implicit": lambda n: ImplicitGradient(free=Sweeps(16)),
    "BPTT": lambda n: eqprop.TruncatedBPTT(free=Sweeps(16), steps=10),
    "coupled learning": lambda n: eqprop.CoupledLearning(**SHORT),
    "contrastive Hebbian": lambda n: eqprop.ContrastiveHebbian(**SHORT),
    "oscillating": lambda n: eqprop.OscillatingEP(beta=n.nudge_siemens(0.1), points=2, sweeps=16),
}
MILD = Substrate(
    cells=CellArray("reram-cmo", "single", g_min_siemens=1e-7, g_max_siemens=1e-5, read_scope="sample"),
    fluctuations=(Fluctuation(1e-6, "phase"),),
    input_dac=InputDac(8),
    adc=OutputAdc(14, dither=True, autorange=True, differential=True),
    nudge=NudgeSource(0.05, 1e-10, 1e-10, 1e-9),
    thermal=ThermalNoise(std=1e-7, window_sweeps=2),
)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_on_a_chip(name: str, device: torch.device) -> None:
    net, x, y = case("diodes" if "Hebbian" in name else "folded", device)  # a readout cannot be clamped
    chip = MILD.fabricate(net, seed=2)
    rule = RULES[name](net)
    optimizer = torch.optim.Adam(chip.parameters(), lr=1e-7)
    chip.project_after(optimizer)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(float(rule.backward(chip, x, y).loss))
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in chip.parameters())
        optimizer.step()
    assert losses[-1] < (0.9995 if "Hebbian" in name else 0.98) * losses[0]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_runs_on_a_chip_with_every_fault(name: str) -> None:
    net, x, y = case("amplified")
    found = gradients(EVERYTHING.fabricate(net), RULES[name](net), x, y)
    assert all(torch.isfinite(g).all() for g in found.values())


# -- the write path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["programmed", "proportional", "stochastic", "sign"])
def test_a_resistive_network_learns_through_pulses_on_single_cells(mode: str) -> None:
    net, x, y = case("folded")
    layout = CellArray("ecram", "single", read_noise=False, drift=False, g_min_siemens=1e-7, g_max_siemens=1e-5)
    chip: Any = Substrate(cells=layout).fabricate(net)
    optimizer = torch.optim.Adam(chip.parameters(), lr=1e-7)
    path = chip.write_path(optimizer, mode=mode)
    chip.project_after(optimizer)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(float(ep(net).backward(chip, x, y).loss))
        optimizer.step()
    assert losses[-1] < 0.98 * losses[0]
    assert (path.pulses > 0) == (mode != "programmed")
    if mode != "programmed":
        for name, p in chip.named_parameters():  # the parameters, those of biases too, are what the cells hold
            assert torch.equal(p, chip.arrays[name].conductance[0])
            assert torch.equal(p, chip.conductance(name))


def test_pulses_move_a_single_cell_up_and_down_by_whole_steps() -> None:
    law: Any = hardware.device("idealized").pulses
    plain = replace(law, step_spread=0.0, low_spread=0.0, high_spread=0.0, noise=0.0)
    device = replace(hardware.device("idealized"), pulses=plain).rescaled(1e-7, 1e-5)
    net, *_ = case("diodes")
    chip: Any = Substrate(cells=CellArray(device, "single")).fabricate(net)
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    path = chip.write_path(optimizer, mode="proportional", max_pulses=1000)
    step = law.step * device.frame.unit
    before = {n: p.detach().clone() for n, p in chip.named_parameters()}
    cells = sum(p.numel() for p in chip.parameters())
    for count, total in ((3, 3), (-5, -2), (0.4, -2)):
        for p in chip.parameters():
            p.grad = torch.full_like(p, -count * step)
        optimizer.step()
        for name, p in chip.named_parameters():
            inside = (before[name] > 1.1e-7) & (before[name] < 9.9e-6)
            torch.testing.assert_close((p - before[name])[inside] / step, torch.full_like(p, total)[inside])
    assert path.pulses == 8 * cells


@pytest.mark.filterwarnings("ignore:write path. .*max_pulses")
def test_project_brings_what_is_proposed_into_the_range_and_leaves_what_cells_hold() -> None:
    net = ResistiveNetwork.mlp(5, 4, 3, g_min_siemens=1e-6, g_max_siemens=5e-6, dtype=torch.float64)
    layout = CellArray("ecram", "single", g_min_siemens=1e-7, g_max_siemens=1e-5, drift=False, read_noise=False)
    chip: Any = Substrate(cells=layout).fabricate(net)
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode="proportional", max_pulses=10000)
    name = "connections.input-hidden1"
    p = chip.get_parameter(name)
    p.grad = torch.full_like(p, -1.0)  # as far up as cells go
    optimizer.step()
    held = p.detach().clone()
    assert float(held.max()) > 5e-6
    chip.project()
    assert torch.equal(p, held)
    writes = chip.counts["writes"]
    chip.drive(torch.rand(2, 5, generator=seeded(), dtype=torch.float64))
    assert chip.counts["writes"] == writes and torch.equal(chip.conductance(name), held)
    with torch.no_grad():
        p[0] += 1e-3
    chip.project()
    assert bool((p[0] == 5e-6).all()) and torch.equal(p[1:], held[1:])
    bare: Any = Substrate(fluctuations=(Fluctuation(0.01),)).fabricate(net)
    with torch.no_grad():
        bare.get_parameter(name).fill_(1.0)
    bare.project()
    assert bool((bare.get_parameter(name) == 5e-6).all())


# -- what is refused, and files ----------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Substrate, str, str]] = {
    "pairs": (Substrate(cells=CellArray("pcm")), "diodes", r"got mapping 'balanced' .*needed one cell each"),
    "range": (
        Substrate(cells=CellArray("reram-cmo", "single")),
        "diodes",
        r"'reram-cmo' of 9e-06 to .*holds the network's, 1e-07 to 1e-05 S; write .*g_min_siemens=1e-07, g_max_siem",
    ),
    "range above": (
        Substrate(cells=CellArray("pcm", "single", g_max_siemens=5e-6)),
        "diodes",
        r"'pcm' of 0 to 5e-06 S, needed a range that holds the network's",
    ),
    "reciprocal": (Substrate(paths=PathGains(0.1)), "diodes", "resistor, which is reciprocal.*amplification=4.0"),
    "cells' ways": (Substrate(paths=PathGains(0.1, cell_std=0.1)), "amplified", "resistor, which is reciprocal"),
    "rail": (Substrate(rail=SharedRail(0.01)), "diodes", "got a rail for a ResistiveNetwork"),
    "volts": (Substrate(thermal=ThermalNoise(1e-12, volts_per_unit=0.2)), "diodes", "volts_per_unit: got 0.2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_circuit_can_be_is_refused_in_words(what: str) -> None:
    substrate, name, text = REFUSED[what]
    with pytest.raises(ConfigError, match=text):
        substrate.fabricate(MAKE[name]())


def test_one_way_cells_cannot_bring_a_conductance_down() -> None:
    chip: Any = Substrate(cells=SINGLE).fabricate(MAKE["diodes"]())
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    with pytest.raises(ConfigError, match="go one way, and a conductance in a single cell must also come down"):
        chip.write_path(optimizer, mode="stochastic")
    chip.write_path(optimizer, mode="programmed")


@every
def test_a_description_in_json_brings_a_network_back_where_hardware_is_imported(name: str) -> None:
    net, x, _ = case(name)
    text = json.dumps(net.spec())
    made: Any = eqprop.network_from_spec(json.loads(text))
    made.double().load_state_dict(net.state_dict())
    assert made.spec() == net.spec() and torch.equal(made.predict(x), net.predict(x))


def test_without_hardware_imported_the_error_says_what_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = MAKE["diodes"]().spec()
    monkeypatch.delitem(_spec._BUILDERS, "ResistiveNetwork")
    monkeypatch.delitem(sys.modules, "hardware")
    with pytest.raises(ConfigError, match="got 'ResistiveNetwork', needed its package imported first; write import"):
        eqprop.network_from_spec(spec)
    with pytest.raises(ConfigError, match="did you mean 'HopfieldNetwork'"):
        eqprop.network_from_spec(spec | {"class": "HopfieldNetwrk", "import": "eqprop"})


def test_a_trained_resistive_network_is_loaded_from_its_run(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (32, 1, 5), generator=seeded(5), dtype=torch.uint8)
    split = eqprop.Split(images, torch.arange(32) % 3, classes=3)
    data: Any = SimpleNamespace(train=split, validation=split, test=split, classes=tuple("abc"))
    net = MAKE["folded"]()
    rule = EquilibriumPropagation(beta=net.nudge_siemens(0.1), free=Sweeps(5), nudged=Sweeps(5))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-7)
    net.project_after(optimizer)
    eqprop.Trainer(
        net, rule, optimizer, data, epochs=1, batch_size=16, out=tmp_path / "run", progress=False, guard=None
    ).fit()
    loaded: Any = eqprop.load(tmp_path / "run")
    assert isinstance(loaded, ResistiveNetwork) and loaded.spec() == net.spec()
    assert all(torch.equal(p, net.get_parameter(n)) for n, p in loaded.named_parameters())
