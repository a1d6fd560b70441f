"""The substrate: ideal where nothing is asked for, one chip a seed, and disturbances drawn at their scope."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError, DataError, EquilibriumPropagation, Network, Stop, Sweeps
from eqprop._complex import ComplexSystem
from eqprop._diagnostics import gradients, match
from eqprop._rule import at_equilibrium, loss_gradient
from hardware import (
    CellArray,
    Fluctuation,
    InputDac,
    NudgeSource,
    OutputAdc,
    PathGains,
    Streams,
    Substrate,
    ThermalNoise,
    Timing,
)
from tests.helpers import NETWORKS, inputs, labels, network, seeded

FIXED: dict[str, Any] = {"free": Sweeps(60), "nudged": Sweeps(40)}
GRAPHS = [n for n in NETWORKS if not n.startswith("user")]
STATIC = CellArray("pcm", "one-sided", read_noise=False, drift=False)
EVERYTHING = Substrate(
    cells=CellArray("pcm", "one-sided", read_correlation=0.5, stuck_share=0.01, wire_ohms=1.0, levels=64),
    fluctuations=(Fluctuation(0.02, "chip"), Fluctuation(0.005, "phase", 0.9)),
    paths=PathGains(0.02, 0.02, 0.01, 0.98),
    input_dac=InputDac(8, noise_std=0.002),
    adc=OutputAdc(12, noise_lsb=0.5, dither=True, reads=2, autorange=True, differential=True),
    nudge=NudgeSource(0.05, 0.001, 0.001, 0.01, bits=8),
    thermal=ThermalNoise(1e-12, window_sweeps=3),
    timing=Timing(2e-6, 5e-6),
    temperature_kelvin=310.0,
)


def ep(beta: float = 0.1, **options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, **{**FIXED, **options})


def flat(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in gradients(net, rule, x, y).values()])


def case(name: str = "chain-sigmoid", device: torch.device | str = "cpu") -> tuple[Network, Tensor, Tensor]:
    net = network(name, device)
    return net, inputs(net, device=device), labels(device=device)


# -- ideal -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_chip_of_the_ideal_substrate_gives_the_same_bits(name: str, device: torch.device) -> None:
    net, x, y = case(name, device)
    rule = ep(readout="contrast" if net.has_energy else "tangent")
    chip: Any = Substrate().fabricate(net, seed=3)
    assert isinstance(chip, type(net)) and isinstance(chip, hardware.Chip)
    assert chip.stacks_phases == net.stacks_phases
    expected, found = gradients(net, rule, x, y), gradients(chip, rule, x, y)
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert torch.equal(chip.predict(x), net.predict(x))


@pytest.mark.parametrize("name", GRAPHS)
def test_cells_without_faults_hold_the_weights_to_rounding(name: str) -> None:
    net, x, y = case(name)
    rule = ep(readout="contrast" if net.has_energy else "tangent")
    layout = CellArray("reram-cmo", "balanced", programming=False, drift=False, read_noise=False)
    found = match(flat(Substrate(cells=layout).fabricate(net), rule, x, y), flat(net, rule, x, y))
    assert found.relative_error < 1e-5 or "max" in name  # max pooling: rounding may decide who wins a window
    assert found.cosine > 0.99


def test_a_chip_leaves_its_network_alone() -> None:
    net, x, y = case()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    chip = EVERYTHING.fabricate(net)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    ep().backward(chip, x, y)
    optimizer.step()
    assert all(torch.equal(net.state_dict()[n], v) for n, v in before.items())
    assert type(net).__name__ == "HopfieldNetwork" and net.stacks_phases


# -- one seed is one chip ----------------------------------------------------------------------------------------------


def test_one_seed_is_one_chip_and_another_is_another(device: torch.device) -> None:
    net, x, y = case(device=device)
    first, again, other = (flat(EVERYTHING.fabricate(net, seed=s), ep(), x, y) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_cells_do_not_depend_on_the_precision_of_the_network() -> None:
    net, *_ = case()
    both: list[Any] = [Substrate(cells=STATIC).fabricate(n, seed=5) for n in (network("chain-sigmoid").float(), net)]
    for a, b in zip(*(chip.arrays.values() for chip in both), strict=True):
        torch.testing.assert_close(a.conductance.double(), b.conductance, rtol=1e-5, atol=1e-11)


def test_noise_of_samples_does_not_depend_on_the_batch(device: torch.device) -> None:
    noisy = Substrate(
        input_dac=InputDac(6, noise_std=0.05),
        adc=OutputAdc(8, noise_lsb=1.0, dither=True),
        thermal=ThermalNoise(std=0.01, window_sweeps=2),
        cells=STATIC,
    )
    net, x, y = case(device=device)
    whole, parts = (noisy.fabricate(net, seed=4) for _ in range(2))

    def equilibria(chip: Network, rows: slice) -> Tensor:
        found = ep().equilibria(chip, x[rows], y[rows])
        return torch.stack([found.rest[-1], *(p.points[-1] for p in found.phases)])

    with torch.no_grad():
        together = equilibria(whole, slice(0, 6))
        apart = torch.cat([equilibria(parts, slice(0, 2)), equilibria(parts, slice(2, 6))], 1)
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)
    assert float((together[1] - together[1].roll(1, 0)).abs().max()) > 0


def test_numbered_samples_meet_their_own_noise_wherever_they_come() -> None:
    net, x, _ = case()
    chip: Any = Substrate(input_dac=InputDac(None, noise_std=0.1)).fabricate(net)
    chip.next_samples(torch.tensor([7, 3, 9, 1, 0, 4]))
    first = chip.drive(x).terms[0]
    order = torch.tensor([5, 0, 3, 2, 1, 4])
    chip.next_samples(torch.tensor([7, 3, 9, 1, 0, 4])[order])
    torch.testing.assert_close(chip.drive(x[order]).terms[0], first[order])
    with pytest.raises(DataError, match="got 2 numbers for 6 samples"):
        chip.next_samples(torch.tensor([1, 2]))
        chip.drive(x)
    bad: Any
    for bad in ([1, 2], torch.ones(6), torch.ones(6, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(DataError, match=r"next_samples: got .*, needed"):
            chip.next_samples(bad)


def test_streams_are_standard_uncorrelated_and_repeatable(device: torch.device) -> None:
    streams, like = Streams(3), torch.empty(400, 250, dtype=torch.float64, device=device)
    keys = torch.arange(400, device=device)
    a = streams.sample_normal("a", (1,), keys, like)
    others = [
        streams.sample_normal("a", (2,), keys, like),
        streams.sample_normal("b", (1,), keys, like),
        Streams(4).sample_normal("a", (1,), keys, like),
        streams.sample_normal("a", (1,), keys + 400, like),
        a.roll(1, 0),
        a.roll(1, 1),
        a.roll(125, 1),  # the two of a pair
        a.roll(125, 1).square() - 1.0,
    ]
    n = a.numel()
    assert abs(float(a.mean())) < 4 / math.sqrt(n) and abs(float(a.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((a**4).mean()) - 3) < 4 * math.sqrt(96 / n)
    for b in others:
        assert abs(float((a * b).mean())) < 4 * float(b.std()) / math.sqrt(n)
    squares = (a.square() - 1.0, a.roll(125, 1).square() - 1.0)
    assert abs(float((squares[0] * squares[1])[:, :125].mean())) < 4 * 2.0 / math.sqrt(n / 2)
    assert torch.equal(a, Streams(3).sample_normal("a", (1,), keys, like))
    for odd in (like[:, :1], like[:, :7]):
        again = streams.sample_normal("a", (1,), keys, odd)
        assert again.shape == odd.shape and abs(float(again.var()) - 1) < 4 * math.sqrt(2 / odd.numel())
    for u in (streams.sample_uniform("u", (), keys, like), streams.uniform("u", (), like.shape, like)):
        assert u.shape == like.shape and u.dtype == like.dtype and u.device == like.device
        assert 0 <= float(u.min()) and float(u.max()) < 1
        assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * n) and abs(float(u.var()) - 1 / 12) < 1e-3
        assert abs(float((u[:, 1:] * u[:, :-1]).mean()) - 0.25) < 4 * 0.25 / math.sqrt(n)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (256, 784)])
def test_uniform_numbers_of_an_array_are_multiples_of_a_power_of_two_and_follow_from_their_moment(
    shape: tuple[int, ...],
) -> None:
    streams, like = Streams(3), torch.empty(0)
    u = streams.uniform("u", (5,), shape, like)
    assert u.shape == shape and bool(((u >= 0.0) & (u < 1.0)).all()) and torch.equal((u * 2**24).round(), u * 2**24)
    assert torch.equal(u, streams.uniform("u", (5,), shape, like))
    if u.numel() > 1:
        assert not torch.equal(u, streams.uniform("u", (6,), shape, like))
        assert not torch.equal(u, Streams(4).uniform("u", (5,), shape, like))
    if u.numel() > 1000:
        shares = torch.histc(u, 64, 0.0, 1.0) / u.numel()
        assert float((shares * 64 - 1).abs().max()) < 5 * math.sqrt(64 / u.numel())


def test_a_chip_goes_on_from_a_file_with_the_same_numbers() -> None:
    net, x, y = case()
    chip, other = (EVERYTHING.fabricate(net, seed=s) for s in (6, 6))
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ep().backward(chip, x, y)
        optimizer.step()
    saved = {n: v.clone() for n, v in chip.state_dict().items()}
    copy, pickled = chip.clone(), pickle.loads(pickle.dumps(chip))
    expected = flat(chip, ep(), x, y)
    other.load_state_dict(saved)
    for again in (other, copy, pickled):
        assert torch.equal(flat(again, ep(), x, y), expected)
    with pytest.raises(ConfigError, match="seed 6, needed that of seed 7"):
        EVERYTHING.fabricate(net, seed=7).load_state_dict(saved)


# -- scopes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "expected"), [("chip", 1), ("write", 2), ("sample", 4), ("phase", 12)])
def test_a_source_is_drawn_at_its_scope_and_no_more_often(scope: str, expected: int) -> None:
    """Four passes of three phases, with one write of the weights between the second and the third."""
    net, x, y = case()
    chip: Any = Substrate(cells=STATIC, fluctuations=(Fluctuation(0.01, scope),)).fabricate(net)
    for step in range(4):
        ep().backward(chip, x, y)
        if step == 1:
            with torch.no_grad():
                for p in chip.parameters():
                    p.mul_(0.9)
    drawn = chip.streams.drawn
    assert drawn[f"fluctuation0/input-hidden1.{scope}"] == expected
    assert drawn["cells/input-hidden1"] == 1 and drawn["write/input-hidden1"] == 2
    assert {name.partition("/")[0] for name in drawn} == {"cells", "write", "fluctuation0"}


def test_what_holds_still_holds_still_and_what_is_fresh_is_fresh() -> None:
    net, x, _ = case()

    def seen(scope: str) -> list[Tensor]:
        chip: Any = Substrate(cells=STATIC, fluctuations=(Fluctuation(0.05, scope),)).fabricate(net)
        found = []
        for _ in range(2):
            chip.drive(x)
            for phase in range(2):
                chip.begin_phase(phase)
                found.append(chip.connection("hidden1-hidden2").operand(back=False).clone())
        return found

    for scope, same in (("chip", [1, 1, 1]), ("sample", [1, 0, 1]), ("phase", [0, 0, 0])):
        found = seen(scope)
        assert [torch.equal(a, b) for a, b in zip(found, found[1:], strict=False)] == [bool(s) for s in same]


def test_the_input_layer_follows_its_conductances_through_the_phases() -> None:
    """The clamped input's contribution in a later phase is that of the weights of that phase."""
    net, x, _ = case()
    chip: Any = Substrate(fluctuations=(Fluctuation(0.1, "phase"),)).fabricate(net)
    drive = chip.drive(x)
    state = chip.initial_state(len(x))
    for phase in range(3):
        chip.begin_phase(phase)
        acting = chip.connection("input-hidden1").operand(back=False)
        expected = chip.biases["hidden1"] + x @ acting.mT
        torch.testing.assert_close(chip.inputs(state, drive)[0], expected)
        twice = chip.inputs(chip.repeat_state(state, 2), chip.repeat_drive(drive, 2))[0]
        torch.testing.assert_close(twice, torch.cat([expected, expected]))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 1.0])
def test_noise_has_the_declared_correlation_between_phases(rho: float) -> None:
    net = eqprop.HopfieldNetwork.mlp(200, 100, 3, activation="sigmoid", generator=seeded())
    chip: Any = Substrate(fluctuations=(Fluctuation(0.05, "phase", rho),)).fabricate(net)
    weight = chip.connection("input-hidden1").weight
    chip.drive(torch.rand(2, 200, generator=seeded(1)))
    found = []
    for phase in range(2):
        chip.begin_phase(phase)
        found.append((chip.connection("input-hidden1").operand(back=False) / weight - 1).detach() / 0.05)
    a, b = found
    assert abs(float(a.var()) - 1) < 0.04 and abs(float((a * b).mean()) - rho) < 0.03


@pytest.mark.parametrize("cells", [None, STATIC])
def test_shared_noise_lacks_the_one_over_beta_of_independent_noise(cells: CellArray | None) -> None:
    """Ten times less nudge: ten times the error of independent noise, the same of noise that the phases share."""
    net, x, y = case()
    exact = Substrate(cells=cells).fabricate(net)

    def error(scope: str, beta: float) -> float:
        total = 0.0
        for seed in range(4):
            chip: Any = Substrate(cells=cells, fluctuations=(Fluctuation(1e-3, scope),)).fabricate(net)
            chip.streams.seed = 100 + seed  # other draws on the same cells
            total += match(flat(chip, ep(beta), x, y), flat(exact, ep(beta), x, y)).relative_error ** 2
        return math.sqrt(total)

    large, small = (error("sample", b) for b in (0.1, 0.01))
    assert small / large == pytest.approx(1.0, rel=0.15)
    assert error("phase", 0.01) / error("phase", 0.1) == pytest.approx(10.0, rel=0.15)
    assert large < 0.01 < 0.03 < error("phase", 0.1)


def test_the_gradient_is_better_the_more_of_the_noise_the_phases_share() -> None:
    net, x, y = case()
    truth = flat(net, ep(), x, y)

    def cosine(**options: Any) -> float:
        substrate = Substrate(fluctuations=(Fluctuation(0.02, **options),))
        return sum(match(flat(substrate.fabricate(net, seed=s), ep(), x, y), truth).cosine for s in range(8)) / 8

    ladder = [cosine(correlation=0.0), cosine(correlation=0.9), cosine(correlation=0.99), cosine(scope="sample")]
    assert ladder == sorted(ladder) and ladder[-1] > 0.999 and ladder[0] < 0.9


# -- cells -------------------------------------------------------------------------------------------------------------


def test_stuck_cells_stay_stuck_whatever_is_written() -> None:
    net, x, y = case()
    for mode in ("programmed", "stochastic", "sign"):
        layout = CellArray("reram-sb", stuck_share=0.2)
        chip: Any = Substrate(cells=layout).fabricate(net, seed=1)
        optimizer = torch.optim.Adam(chip.parameters(), lr=0.02)
        chip.write_path(optimizer, mode=mode)
        array = chip.arrays["hidden1-hidden2"]
        stuck, before = array.cells.stuck, array.conductance.clone()
        assert 0.05 < float(stuck.double().mean()) < 0.4
        for _ in range(3):
            optimizer.zero_grad()
            ep().backward(chip, x, y)
            optimizer.step()
        chip.drive(x)
        assert torch.equal(
            array.hidden[stuck], before[stuck] if array._hidden is None else array.cells.low_siemens[stuck]
        )
        assert float((array.conductance - before)[~stuck].abs().max()) > 0


def test_only_cells_whose_target_changed_are_written_and_only_their_clocks_restart() -> None:
    net, x, _ = case()
    chip: Any = Substrate(cells=CellArray("pcm", "one-sided")).fabricate(net)
    array = chip.arrays["hidden1-hidden2"]
    chip.drive(x)
    before, writes = array.conductance.clone(), chip.counts["writes"]
    with torch.no_grad():
        weight = chip.connection("hidden1-hidden2").weight
        weight[2, 3] += 0.01 * weight[2, 3].sign()
    chip.drive(x)
    written = (array.written > 0).nonzero().tolist()
    sign = 0 if weight[2, 3] > 0 else 1
    assert written == [[sign, 2, 3]] and chip.counts["writes"] == writes + 1
    changed = (array.conductance != before).nonzero().tolist()
    assert changed == written


def test_drift_is_a_power_of_the_time_since_the_write() -> None:
    device = replace(hardware.device("pcm"), first_read_seconds=1e-6)
    layout = CellArray(device, "one-sided", programming=False, read_noise=False)
    net, x, _ = case()
    chip: Any = Substrate(cells=layout).fabricate(net)
    array = chip.arrays["hidden1-hidden2"]
    g, t = [], []
    for seconds in (1e-3, 1e-1, 1e1, 1e3):
        chip.wait(seconds)
        g.append(array.conductance_now()[array.conductance > 2e-6].log())
        t.append(math.log(chip.clock_seconds + 1e-6))
    nu = array.device.drift_coefficient(array.conductance, array.cells.normal)[array.conductance > 2e-6]
    for i in range(3):
        torch.testing.assert_close((g[i + 1] - g[i]) / (t[i + 1] - t[i]), -nu, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seconds", [-1.0, 1e9, math.nan, "1", None, True, torch.tensor(1.0), 1e-10, 1.5e-9, 1.2345e-7])
def test_times_that_the_clock_does_not_know_are_refused(seconds: Any) -> None:
    chip: Any = Substrate().fabricate(case()[0])
    with pytest.raises(DataError, match=r"wait: got .* s, needed (a number, 0 to 1e9: .*|whole nanoseconds); write"):
        chip.wait(seconds)
    assert chip.clock_seconds == 0.0


@pytest.mark.parametrize("seconds", [0, 1e-9, 1, 1.234, 86400.1, 10 / 3])
def test_a_chip_waits_to_the_nanosecond(seconds: float) -> None:
    chip: Any = Substrate().fabricate(case()[0])
    chip.wait(seconds)
    assert chip.clock_seconds == pytest.approx(seconds, rel=1e-15, abs=0.5e-9)


def test_a_seed_may_be_any_whole_number() -> None:
    seeds: list[Any] = [3, np.int64(3), torch.tensor(3)]
    chips: list[Any] = [MILD.fabricate(case()[0], seed=seed) for seed in seeds]
    assert [type(chip.seed) for chip in chips] == [int, int, int]
    for chip in chips[1:]:
        assert torch.equal(chip.get_extra_state(), chips[0].get_extra_state())
        for key, array in chip.arrays.items():
            assert torch.equal(array.conductance, chips[0].arrays[key].conductance)


@pytest.mark.parametrize("name", ["pcm", "hermes-pcm", "reram-cmo"])
def test_reads_of_a_chip_have_the_noise_of_the_device(name: str) -> None:
    """Over many passes each cell spreads by what the device says, around where it has drifted to."""
    net, x, _ = case()
    device = replace(hardware.device(name), ageing=None)
    if device.reading is None:
        device = replace(device, reading=hardware.ReadNoise(hardware.Polynomial((0.02,)), relative=False))
    chip: Any = Substrate(cells=CellArray(device, headroom=1.0)).fabricate(net)
    array = chip.arrays["hidden1-hidden2"]
    seen = []
    for _ in range(600):
        chip.drive(x)
        seen.append(array.conductance_now())
    found, mean = torch.stack(seen).std(0), torch.stack(seen).mean(0)
    std = array.device.read_noise_std_siemens(array.conductance, 1e-4)
    room = array.conductance
    if device.hard_range:
        room = torch.minimum(room - device.g_min_siemens, device.g_max_siemens - room)
    used = room > 5 * std  # elsewhere a bound cuts the noise off
    assert float(used.double().mean()) > 0.5
    torch.testing.assert_close(found[used], std[used], rtol=0.2, atol=0.0)
    assert float(((mean - array.conductance).abs() / std)[used].max()) < 5 / math.sqrt(600)


def test_levels_limit_what_a_weight_can_be() -> None:
    net: Any = network("chain-sigmoid")
    layout = CellArray("pcm", "one-sided", levels=5, programming=False, drift=False, read_noise=False)
    chip: Any = Substrate(cells=layout).fabricate(net)
    array = chip.arrays["hidden1-hidden2"]
    assert len(array.conductance.unique()) <= 5
    step = array.weight_range / 4
    meant = net.connection("hidden1-hidden2").weight
    worst = (chip.connection("hidden1-hidden2").operand(back=False) - meant).abs()
    assert float(worst.detach().max()) <= 0.5 * step * (1 + 1e-6)


def test_wires_take_most_from_the_cells_at_their_ends() -> None:
    net, *_ = case()
    layout = replace(STATIC, programming=False)
    chips: list[Any] = [Substrate(cells=replace(layout, wire_ohms=r)).fabricate(net) for r in (0.0, 50.0)]
    g, h = (c.arrays["input-hidden1"].conductance_now() for c in chips)
    used = g > 1e-7
    lost = torch.where(used, (1 / h - 1 / g) / 50.0, torch.nan)
    wires = torch.arange(7)[:, None] + torch.arange(5)[None] + 2
    torch.testing.assert_close(lost[used], wires.expand_as(g)[used].double(), rtol=1e-6, atol=1e-6)


def test_gains_of_the_ways_make_a_tied_network_asymmetric() -> None:
    net, x, _ = case()
    none = eqprop.functional_asymmetry(net, x)
    some = eqprop.functional_asymmetry(Substrate(paths=PathGains(cell_std=0.3)).fabricate(net), x)
    assert float(none.ratio.max()) < 1e-12 and float(some.ratio.min()) > 1e-3
    chip: Any = Substrate(paths=PathGains(back_gain=0.8)).fabricate(net)
    c = chip.connection("hidden1-hidden2")
    torch.testing.assert_close(c.operand(back=True), 0.8 * c.operand(back=False))


@pytest.mark.parametrize(
    "name", ["chain-tanh", "triangle", "directed-40", "conv-average", "conv-soft", "conv-residual"]
)
def test_a_chip_that_holds_still_conforms(name: str) -> None:
    """Its energy, inputs, Jacobian products and gradients are those of what its cells really hold."""
    substrate = Substrate(cells=STATIC, fluctuations=(Fluctuation(0.05, "chip"),))
    report = eqprop.check_network(substrate.fabricate(network(name)))
    assert report.passed


@pytest.mark.parametrize("name", ["directed-40", "directed-conv-soft", "directed-conv-max", "loop"])
def test_a_directed_chip_with_gains_of_its_ways_conforms(name: str) -> None:
    assert eqprop.check_network(Substrate(paths=PathGains(0.1, 0.1, 0.1)).fabricate(network(name))).passed


@pytest.mark.parametrize("name", ["chain-tanh", "conv-average", "conv-soft", "conv-max"])
def test_the_energy_of_a_tied_chip_is_all_that_gains_of_its_ways_break(name: str) -> None:
    """Jacobian products and gradients of the field still are what they say."""
    report = eqprop.check_network(Substrate(paths=PathGains(0.1, 0.1, 0.1)).fabricate(network(name)), throw=False)
    failed = [c.name for c in report.checks if not c.passed]
    assert failed and all("energy" in n or "Phi" in n or "contrast" in n for n in failed)


def test_gradients_by_automatic_differentiation_reach_the_parameters() -> None:
    net, x, y = case()
    chip = Substrate(cells=STATIC).fabricate(net)
    rule = eqprop.TruncatedBPTT(steps=20, free=Sweeps(60))
    found = match(flat(chip, rule, x, y), flat(chip, ep(0.01), x, y))
    assert found.cosine > 0.999


# -- converters, nudges, noise in the relaxation -----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8, 12, (6, 8, 10)])
@pytest.mark.parametrize("name", ["chain-hard_sigmoid", "chain-tanh"])
def test_a_converter_errs_by_half_a_step_at_most(bits: Any, name: str) -> None:
    net, x, y = case(name)
    chip = Substrate(adc=OutputAdc(bits)).fabricate(net)
    found = ep().equilibria(chip, x, y)
    each = bits if isinstance(bits, tuple) else (bits,) * 3
    for n, rho, true, seen in zip(each, net.activations, found.free.state, found.rest, strict=True):
        low, high = rho.bounds or (0.0, 1.0)
        step = (high - low) / (2**n - 1)
        assert float((true - seen).abs().max()) <= 0.5 * step * (1 + 1e-9)
        assert len(seen.unique()) <= 2**n


@pytest.mark.parametrize(("options", "share"), [({"autorange": True}, 0.2), ({"difference_range": 0.1}, 0.6)])
def test_a_differential_converter_resolves_the_contrast(options: Any, share: float) -> None:
    net, x, y = case()
    truth = flat(net, ep(), x, y)

    def error(adc: OutputAdc) -> float:
        return match(flat(Substrate(adc=adc).fabricate(net), ep(), x, y), truth).relative_error

    plain, differential = error(OutputAdc(8)), error(OutputAdc(8, differential=True, **options))
    assert differential < share * plain and differential < 0.03


def test_dither_removes_the_bias_of_rounding() -> None:
    net, x, y = case()
    found = {}
    for dither in (False, True):
        chip = Substrate(adc=OutputAdc(3, dither=dither, reads=4000 if dither else 1)).fabricate(net)
        one = ep().equilibria(chip, x, y)
        found[dither] = float((one.rest[0] - one.free.state[0]).abs().max())
    assert found[False] > 0.03 and found[True] < 0.012


def test_a_rule_sees_the_levels_of_the_input_converter() -> None:
    net, x, _ = case()
    chip = Substrate(input_dac=InputDac(3)).fabricate(net)
    seen = chip.drive(x).x
    assert len(seen.unique()) <= 8 and float((seen - x).abs().max()) <= 0.5 / 7 + 1e-12
    torch.testing.assert_close(chip.drive(x).terms[0], net.drive(seen).terms[0])
    with pytest.raises(DataError, match=r"got values from .* needed 0 to 1, the range of the input converter"):
        chip.drive(2 * x)


@pytest.mark.parametrize("name", ["chain-linear", "chain-tanh", "readout"])
def test_the_nudge_source_adds_its_gain_offset_and_load(name: str) -> None:
    """At a nudged equilibrium the force on the output is what the source's equation says."""
    net, x, y = case(name)
    source = NudgeSource(gain_std=0.2, offset_mean=0.02, offset_std=0.01, output_conductance=0.05)
    chip: Any = Substrate(nudge=source).fabricate(net)
    rule = ep(0.2, free=Sweeps(300), nudged=Sweeps(300))
    found = rule.equilibria(chip, x, y)
    gain, offset = chip._nudge_gain, chip._nudge_offset
    assert float(gain.std()) > 0.02 and float(offset.std()) > 0.001
    for k, beta in enumerate((0.2, -0.2)):
        state = chip.split_state(found.phases[0].points, 2)[k]
        z = chip.inputs(state, found.drive)[-1]
        sample = at_equilibrium(chip, rule.loss_function, state, y)
        error = loss_gradient(chip, rule.loss_function, sample, state)
        force = -beta * gain * error + offset - 0.05 * state[-1]
        torch.testing.assert_close(state[-1], chip.activations[-1](z + force), rtol=1e-6, atol=1e-8)


def test_offsets_of_the_source_cancel_between_signs_but_not_one_sided() -> None:
    net, x, y = case("chain-tanh")
    chip = Substrate(nudge=NudgeSource(offset_mean=0.01)).fabricate(net)

    def error(contour: str) -> float:
        rule = ep(0.05, contour=contour)
        return match(flat(chip, rule, x, y), flat(net, rule, x, y)).relative_error

    assert error("centred") < 0.05 < 0.5 < error("one-sided")


def test_a_current_source_holds_the_error_of_the_free_phase() -> None:
    net, x, y = case("chain-tanh")
    feedback, current = (Substrate(nudge=NudgeSource(mode=m)).fabricate(net) for m in ("feedback", "current"))
    truth = flat(net, eqprop.ImplicitGradient(free=Sweeps(200)), x, y)
    errors = [match(flat(c, ep(0.02), x, y), truth).relative_error for c in (feedback, current)]
    assert max(errors) < 0.05 and abs(errors[0] - errors[1]) > 1e-9


def test_equipartition() -> None:
    """A node that nothing drives has <v^2> = kT/C, and a mean over a window N times less."""
    net = eqprop.HopfieldNetwork.mlp(3, 200, output_activation="linear", generator=seeded())
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    kelvin, farads, volts = 350.0, 1e-13, 0.2
    expected = 1.380649e-23 * kelvin / farads / volts**2
    for window in (1, 8):
        thermal = ThermalNoise(farads, volts_per_unit=volts, window_sweeps=window)
        chip = Substrate(thermal=thermal, temperature_kelvin=kelvin).fabricate(net)
        found = ep().equilibria(chip, torch.zeros(200, 3), torch.zeros(200, 200))
        assert float(found.rest[0].var()) == pytest.approx(expected / window, rel=0.03)
        assert float((found.rest[0] * found.phases[0].points[0]).mean()) < 0.02 * expected


# -- rules, regularisers and trainers on a chip ------------------------------------------------------------------------

RULES: dict[str, tuple[str, eqprop.Rule]] = {
    "centred": ("chain-sigmoid", ep(0.3)),
    "one-sided": ("chain-sigmoid", ep(0.3, contour="one-sided")),
    "random-sign": ("chain-sigmoid", ep(0.3, contour="random-sign")),
    "cauchy": ("chain-sigmoid", ep(0.3, contour="cauchy", points=5)),
    "derivative": ("chain-sigmoid", ep(contour="derivative", readout="tangent")),
    "tangent": ("directed-40", ep(0.3, readout="tangent")),
    "AsymEP": ("directed-40", ep(0.3, readout="tangent", correction="asymep")),
    "AsymEP, cauchy": ("directed-free", ep(0.3, contour="cauchy", points=4, readout="tangent", correction="asymep")),
    "AsymEP, tied": ("chain-sigmoid", ep(0.3, readout="tangent", correction="asymep")),
    "homeostasis": (
        "directed-40",
        ep(0.3, readout="tangent", regularisers=(eqprop.JacobianHomeostasis(0.01, estimator="symmetric"),)),
    ),
    "homeostasis, exact": (
        "directed-40",
        ep(0.3, readout="tangent", regularisers=(eqprop.JacobianHomeostasis(0.01, estimator="exact"),)),
    ),
    "Dyadic": ("directed-40", eqprop.DyadicEP(**FIXED)),
    "contrastive Hebbian": ("chain-hard_sigmoid", eqprop.ContrastiveHebbian(**FIXED)),
    "continual": ("chain-sigmoid", eqprop.ContinualEP(rates=0.002, beta=0.3, **FIXED)),
    "oscillating": ("chain-sigmoid", eqprop.OscillatingEP(beta=0.3)),
    "implicit": ("chain-sigmoid", eqprop.ImplicitGradient(free=Sweeps(60))),
    "backprop": ("chain-sigmoid", eqprop.Backprop()),
    "convolution": ("conv-soft", ep(0.3)),
    "skip": ("skip", ep(0.3)),
    "readout": ("readout", ep(0.3)),
}
MILD = Substrate(
    cells=CellArray("reram-cmo", read_scope="sample"),
    fluctuations=(Fluctuation(1e-4, "phase"),),
    paths=PathGains(0.02, 0.02, 0.02),
    input_dac=InputDac(8),
    adc=OutputAdc(14, dither=True, autorange=True, differential=True),
    nudge=NudgeSource(0.05, 1e-4, 1e-4, 0.01),
    thermal=ThermalNoise(std=1e-5, window_sweeps=2),
)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_on_a_chip(name: str, device: torch.device) -> None:
    kind, rule = RULES[name]
    net, x, y = case(kind, device)
    chip = MILD.fabricate(net, seed=2)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.02 if name in ("continual", "contrastive Hebbian") else 0.1)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(float(rule.backward(chip, x, y).loss))
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in chip.parameters())
        optimizer.step()
    assert losses[-1] < 0.995 * losses[0]


@pytest.mark.parametrize("name", [n for n in RULES if n not in ("continual", "oscillating")])
def test_every_rule_runs_on_a_chip_with_every_fault(name: str) -> None:
    kind, rule = RULES[name]
    net, x, y = case(kind)
    found = gradients(EVERYTHING.fabricate(net), rule, x, y)
    assert all(torch.isfinite(g).all() for g in found.values())


def test_asymep_corrects_what_the_gains_of_the_ways_break() -> None:
    net, x, y = case("chain-tanh")
    chip = Substrate(paths=PathGains(cell_std=0.5)).fabricate(net)
    truth = flat(chip, eqprop.ImplicitGradient(free=Sweeps(300)), x, y)
    plain, corrected = (
        match(flat(chip, ep(0.01, readout="tangent", correction=c, nudged=Sweeps(200), free=Sweeps(300)), x, y), truth)
        for c in (None, "asymep")
    )
    assert corrected.relative_error < 1e-3 < 0.02 < plain.relative_error


def test_phases_relax_one_by_one_where_more_than_the_weights_of_dense_layers_differs() -> None:
    net, *_ = case()
    fresh = Substrate(fluctuations=(Fluctuation(0.1),))
    for together in (Substrate(cells=STATIC, paths=PathGains(0.1)), Substrate(cells=CellArray()), fresh):
        assert together.fabricate(net).stacks_phases
    for other in (replace(fresh, adc=OutputAdc()), Substrate(thermal=ThermalNoise(1e-12))):
        assert not other.fabricate(net).stacks_phases
    assert not fresh.fabricate(network("conv-average")).stacks_phases


def test_products_in_bfloat16_and_stops_to_tolerance_work_on_a_chip() -> None:
    net, x, y = case()
    rule = EquilibriumPropagation(free=Stop(1e-4, 200), nudged=Stop(1e-4, 200), products="bfloat16")
    found = rule.backward(Substrate(cells=CellArray("reram-cmo")).fabricate(net.float()), x.float(), y)
    assert float(found.unconverged_share) == 0.0


def test_a_trainer_on_a_chip_resumes_to_the_same_bits(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (48, 1, 5), generator=seeded(5), dtype=torch.uint8)
    split = eqprop.Split(images, torch.arange(48) % 3, classes=3)
    data: Any = SimpleNamespace(train=split, validation=split, test=split, classes=tuple("abc"))

    def make(out: Path, epochs: int, resume: bool = False) -> eqprop.Trainer:
        chip: Any = replace(EVERYTHING, thermal=None).fabricate(network("chain-sigmoid").float(), seed=9)
        optimizer = torch.optim.SGD(chip.parameters(), lr=0.05)
        chip.write_path(optimizer, mode="stochastic")
        rule = ep(0.3, free=Sweeps(8), nudged=Sweeps(8))
        return eqprop.Trainer(
            chip, rule, optimizer, data, epochs=epochs, batch_size=16, out=out, resume=resume,
            progress=False, guard=None,
        )  # fmt: skip

    whole = make(tmp_path / "whole", 2)
    whole.fit()
    make(tmp_path / "cut", 1).fit()
    resumed = make(tmp_path / "cut", 2, resume=True)
    resumed.fit()
    assert resumed.step == whole.step == 6
    found, expected = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# -- the write path ----------------------------------------------------------------------------------------------------


def learn(chip: Network, rate: float, steps: int, x: Tensor, y: Tensor, **options: Any) -> Any:
    optimizer = torch.optim.SGD(chip.parameters(), lr=rate)
    path = getattr(chip, "write_path")(optimizer, **options)  # noqa: B009
    for _ in range(steps):
        optimizer.zero_grad()
        ep(0.2).backward(chip, x, y)
        optimizer.step()
    return path


@pytest.mark.parametrize("mode", ["programmed", "proportional", "stochastic", "sign"])
@pytest.mark.parametrize(
    ("device", "mapping"), [("idealized", "balanced"), ("ecram", "balanced"), ("pcm", "one-sided")]
)
def test_a_network_learns_through_the_write_path(mode: str, device: str, mapping: str) -> None:
    net, x, y = case("chain-sigmoid")
    layout = CellArray(device, mapping, read_noise=False, drift=False, weight_range=2.0)
    chip: Any = Substrate(cells=layout).fabricate(net)
    before = chip.predict(x)
    path = learn(chip, 0.5, 15, x, y, mode=mode, pulse_joules=1e-12)
    assert not torch.equal(chip.predict(x), before)
    if mode == "programmed":
        assert path.pulses == 0 and chip.counts["writes"] > 0
        return
    assert path.pulses > 0 and path.energy_joules == pytest.approx(path.pulses * 1e-12)
    for key, array in chip.arrays.items():  # the parameters are what the cells hold
        weight = chip.connection(key).weight
        torch.testing.assert_close(weight.detach(), array.decoded(array.conductance))
    writes = chip.counts["writes"]
    chip.drive(x)
    assert chip.counts["writes"] == writes


def proposed(mode: str, change: float, **options: Any) -> Tensor:
    """What becomes of one proposed change of all weights, on noiseless cells with steps all alike."""
    law: Any = hardware.device("idealized").pulses
    pulses = replace(law, step_spread=0.0, low_spread=0.0, high_spread=0.0, noise=0.0)
    device = replace(hardware.device("idealized"), pulses=pulses)
    net = eqprop.HopfieldNetwork.mlp(40, 30, 20, activation="sigmoid", generator=seeded())
    chip: Any = Substrate(cells=CellArray(device, weight_range=1.0)).fabricate(net.double())
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode=mode, **options)
    before = chip.connection("input-hidden1").weight.detach().clone()
    for p in chip.parameters():
        p.grad = torch.full_like(p, -change)
    optimizer.step()
    return chip.connection("input-hidden1").weight.detach() - before


STEP = 2 * 0.0002 / 2.0  # both cells of a pair, of a range of 2 that stands for g_max - g_min; in weights up to 1


def test_proportional_writes_round_to_whole_pulses() -> None:
    for change in (0.4 * STEP, 2.6 * STEP, -7.2 * STEP):
        expected = torch.full((30, 40), round(change / STEP) * STEP, dtype=torch.float64)
        torch.testing.assert_close(proposed("proportional", change), expected, rtol=1e-4, atol=1e-9)


def test_stochastic_writes_are_right_on_average() -> None:
    found = proposed("stochastic", 0.3 * STEP) / STEP
    assert set(found.round().unique().tolist()) == {0.0, 1.0}
    assert float(found.mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 1200))


def test_sign_writes_make_one_pulse_beyond_the_dead_zone() -> None:
    torch.testing.assert_close(
        proposed("sign", -50 * STEP), torch.full((30, 40), -STEP, dtype=torch.float64), rtol=1e-4, atol=1e-9
    )
    assert not proposed("sign", 0.01, dead_zone=0.02).any()


@pytest.mark.filterwarnings("ignore:write path. .*max_pulses")
def test_no_step_makes_more_pulses_than_allowed() -> None:
    found = proposed("proportional", 100 * STEP, max_pulses=5)
    torch.testing.assert_close(found, torch.full((30, 40), 5 * STEP, dtype=torch.float64), rtol=1e-4, atol=1e-9)


def test_the_bias_of_updates_is_the_same_at_every_step_and_belongs_to_the_cell() -> None:
    once = proposed("proportional", 0.0, bias_std=100 * STEP, max_pulses=1000)
    again = proposed("proportional", 0.0, bias_std=100 * STEP, max_pulses=1000)
    assert torch.equal(once, again)
    assert float(once.std()) == pytest.approx(100 * STEP, rel=0.1) and abs(float(once.mean())) < 15 * STEP


def test_a_removed_write_path_is_gone() -> None:
    net, x, y = case()
    chip: Any = Substrate(cells=CellArray("idealized")).fabricate(net)
    path = learn(chip, 0.1, 2, x, y)
    pulses = path.pulses
    path.remove()
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    ep().backward(chip, x, y)
    optimizer.step()
    assert path.pulses == pulses


def test_full_pairs_of_one_way_cells_are_refreshed_without_losing_the_weight() -> None:
    net, x, y = case()
    chip: Any = Substrate(cells=CellArray("pcm", "one-sided", programming=False, drift=False)).fabricate(net)
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode="sign", refresh_share=0.3)
    for sign in (1.0, -1.0) * 30:
        for p in chip.parameters():
            p.grad = torch.full_like(p, sign)
        optimizer.step()
    for array in chip.arrays.values():
        top = 0.3 * array.device.g_max_siemens
        bottom = 0.05 * array.device.g_max_siemens
        assert not ((array.conductance.amax(0) > top) & (array.conductance.amin(0) > bottom)).any()


def test_the_clock_counts_phases_and_writes() -> None:
    net, x, y = case()
    chip: Any = Substrate(cells=STATIC, timing=Timing(2e-6, 5e-6)).fabricate(net)
    ep().backward(chip, x, y)
    assert chip.clock_seconds == pytest.approx(2 * 2e-6)  # the nudged phases, as one batch
    with torch.no_grad():
        chip.connection("input-hidden1").weight.mul_(0.9)
    chip.drive(x)
    assert chip.clock_seconds == pytest.approx(3 * 2e-6 + 5e-6)


def test_differences_lie_on_the_steps_of_their_converter() -> None:
    net, x, y = case()
    found = ep().equilibria(Substrate(adc=OutputAdc(6, differential=True, difference_range=0.1)).fabricate(net), x, y)
    step = 0.2 / 63
    for phase in found.phases:
        for seen, rest in zip(phase.points, found.rest, strict=True):
            code = (seen - rest + 0.1) / step
            torch.testing.assert_close(code, code.round(), rtol=0.0, atol=1e-6)


def test_the_imaginary_half_of_a_complex_state_sees_no_input() -> None:
    net, x, _ = case()
    chip: Any = Substrate(fluctuations=(Fluctuation(0.1),)).fabricate(net)
    drive = chip.drive(x)
    chip.begin_phase(0)
    chip.begin_phase(1)
    system = ComplexSystem(chip)
    state = system.lift_state(chip.initial_state(len(x)))
    re, im = system.block_inputs(state, system.lift_drive(drive), [0], system.new_cache())[0].chunk(2)
    assert not im.any()
    torch.testing.assert_close(re, chip.inputs(chip.initial_state(len(x)), drive)[0])


def test_the_source_also_nudges_the_adjoint_dynamics() -> None:
    net, x, y = case("directed-40")
    rule = ep(0.1, contour="one-sided", readout="tangent", correction="asymep")
    off = flat(Substrate(nudge=NudgeSource(offset_mean=0.05)).fabricate(net), rule, x, y)
    assert match(off, flat(net, rule, x, y)).relative_error > 0.1


def test_exact_homeostasis_sees_the_gains_of_the_ways() -> None:
    net: Any = network("chain-tanh")
    x = inputs(net)
    chip: Any = Substrate(paths=PathGains(back_gain=0.8)).fabricate(net)
    drive = chip.drive(x)
    regulariser = eqprop.JacobianHomeostasis(0.1, estimator="exact")
    found = float(regulariser.loss(chip, chip.initial_state(len(x)), drive).total)
    moving = [net.connection(key).weight for key in ("hidden1-hidden2", "hidden2-output")]
    assert found == pytest.approx(0.04 * sum(float(w.detach().square().sum()) for w in moving))


def test_copies_of_a_sample_have_noise_of_their_own() -> None:
    net, x, _ = case()
    chip: Any = Substrate(thermal=ThermalNoise(std=0.1)).fabricate(net)
    drive = chip.repeat_drive(chip.drive(x), 2)
    state = chip.initial_state(2 * len(x))
    one, two = chip.block_inputs(state, drive, [0], chip.new_cache())[0].chunk(2)
    assert float((one - two).detach().abs().min()) > 0.0


def test_what_a_touched_cell_shows_has_the_noise_of_a_write() -> None:
    net, x, y = case()
    chip: Any = Substrate(cells=CellArray("reram-es", weight_range=1.0)).fabricate(net)
    assert chip.arrays["hidden1-hidden2"].device.pulses.write_noise > 0
    learn(chip, 1.0, 2, x, y, mode="sign")
    array = chip.arrays["hidden1-hidden2"]
    assert float((array.hidden - array.conductance).abs().mean()) > 0.0


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "substrate",
    [Substrate(), EVERYTHING, MILD, Substrate(cells=CellArray(replace(hardware.device("ecram"), name="mine")))],
)
def test_settings_survive_a_file_and_print_what_was_set(substrate: Substrate) -> None:
    assert Substrate.from_spec(json.loads(json.dumps(substrate.spec()))) == substrate
    assert isinstance(substrate.describe(), str)


def test_settings_print_only_what_differs() -> None:
    assert repr(Substrate()) == "Substrate()"
    assert repr(Substrate(cells=CellArray("ecram"), fluctuations=(Fluctuation(0.1),))) == (
        "Substrate(cells=CellArray(device='ecram'), fluctuations=(Fluctuation(relative_std=0.1),))"
    )


def test_a_substrate_says_what_its_chips_suffer() -> None:
    text = EVERYTHING.describe()
    for part in ("pcm: 0 to 25 uS, 64 levels", "drift", "1 % of the cells are stuck", "12 bits", "kT/C", "310 K"):
        assert part in text
    assert Substrate().describe() == "ideal: no part disturbs anything"


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: CellArray(g_min_siemens=2e-6, g_max_siemens=1e-6), "g_min < g_max"),
    (lambda: CellArray(levels=1), "levels: got 1"),
    (lambda: CellArray("pmc"), "did you mean 'pcm'"),
    (lambda: CellArray("random-switching"), "made at random once"),
    (lambda: CellArray(stuck_share=1.5), "stuck_share: got 1.5"),
    (lambda: CellArray(wire_ohms=-1.0), "wire_ohms: got -1.0"),
    (lambda: CellArray(read_scope="phases"), "did you mean 'phase'"),
    (lambda: CellArray(read_scope="sample", read_correlation=0.5), "read_correlation: got 0.5"),
    (lambda: Fluctuation(-0.1), "relative_std: got -0.1"),
    (lambda: Fluctuation(0.1, "step"), "needed one of chip, write, sample, phase"),
    (lambda: Substrate(fluctuations=(Fluctuation(0.1, "write"),)), "without cells"),
    (lambda: Substrate(temperature_kelvin=-3.0), "temperature_kelvin: got -3.0"),
    (lambda: Substrate(cells=CellArray("ecram"), temperature_kelvin=350.0), "dependence on temperature"),
    (lambda: Substrate(cells=CellArray("ecram"), temperature_kelvin=350.0), r"Activation\(hardware.Polynomial"),
    (lambda: Substrate(cells="pcm"), "needed hardware.CellArray"),  # type: ignore[arg-type]
    (lambda: OutputAdc(0), "bits: got 0"),
    (lambda: OutputAdc(25), "at most 24"),
    (lambda: OutputAdc(8, low=1.0, high=0.0), "above 1"),
    (lambda: OutputAdc(8, differential=True), "difference_range"),
    (lambda: InputDac(0), "bits: got 0"),
    (lambda: NudgeSource(mode="voltage"), "feedback, current"),
    (lambda: ThermalNoise(), "needed one of"),
    (lambda: ThermalNoise(-1e-12), "capacitance_farads: got -1e-12"),
    (lambda: Timing(phase_seconds=-1.0), "phase_seconds: got -1.0"),
    (lambda: Timing(phase_seconds=1.5e-9), "whole nanoseconds"),
    (lambda: Substrate().fabricate(network("chain-tanh"), seed=-1), "seed: got -1"),
    (lambda: Substrate().fabricate(network("chain-tanh"), seed=1.0), "seed: got 1.0"),  # type: ignore[arg-type]
    (lambda: Substrate().fabricate(network("chain-tanh"), seed=True), "seed: got True"),
    (lambda: Substrate().fabricate(Substrate().fabricate(network("chain-tanh"))), "got a chip"),
    (lambda: MILD.fabricate(network("user-energy")), "EnergyNetwork"),
    (lambda: Substrate(adc=OutputAdc(8)).fabricate(network("chain-linear")), "'hidden1' has an activation without"),
    (lambda: Substrate(adc=OutputAdc((8, 8))).fabricate(network("chain-tanh")), "got 2, needed 1 or 3"),
    (lambda: Substrate().fabricate(network("chain-tanh")).spec(), "cannot be rebuilt"),
]


@pytest.mark.parametrize(("make", "text"), BAD, ids=[t for _, t in BAD])
def test_impossible_physics_is_refused_with_numbers(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_write_paths_that_cannot_be_are_refused() -> None:
    net, *_ = case()

    def path(substrate: Substrate, **options: Any) -> None:
        chip: Any = substrate.fabricate(net)
        chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.1), **options)

    for substrate, options, text in (
        (Substrate(), {}, "without cells"),
        (Substrate(cells=CellArray("hermes-pcm")), {}, "not published"),
        (Substrate(cells=CellArray("pcm")), {}, "one-sided"),
        (Substrate(cells=CellArray("ecram")), {"mode": "signs"}, "did you mean 'sign'"),
        (Substrate(cells=CellArray("ecram")), {"dead_zone": -1.0}, "dead_zone"),
    ):
        with pytest.raises(ConfigError, match=text):
            path(substrate, **options)
    chip: Any = Substrate(cells=CellArray("ecram")).fabricate(net)
    with pytest.raises(ConfigError, match="other parameters"):
        chip.write_path(torch.optim.SGD(net.parameters(), lr=0.1))


def test_a_range_that_clips_most_weights_warns_with_numbers() -> None:
    net = eqprop.HopfieldNetwork.mlp(10, 3, activation="sigmoid", generator=seeded())
    with pytest.warns(RuntimeWarning, match=r"9\d % of the weights lie outside the range of its cells, \+-0.01"):
        Substrate(cells=CellArray(weight_range=0.01)).fabricate(net)
