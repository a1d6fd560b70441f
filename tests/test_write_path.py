"""Pulses on the few cells that a step touches, and what a write path adds to them."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError, DataError
from hardware import Auxiliary, CellArray, ConstantStep, PulseResponse, Streams, Substrate, WriteSettings
from hardware._cell_draws import CellDraws
from hardware._touched import Pulses, apply_pulses, pulses_of
from tests.helpers import seeded

TWO_WAY = ("reram-sb", "reram-es", "ecram", "idealized", "reram-array-om")


def chip_of(device: Any, mapping: str = "balanced", seed: int = 3, **options: Any) -> Any:
    net = eqprop.HopfieldNetwork.mlp(40, 30, 20, activation="sigmoid", generator=seeded()).double()
    return Substrate(cells=CellArray(device, mapping, weight_range=1.0, **options)).fabricate(net, seed=seed)


def step(chip: Any, change: Tensor, **options: Any) -> Any:
    """One step of an optimiser that proposes ``change`` for the first weight, and nothing for the others."""
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    path = chip.write_path(optimizer, **options)
    for name, p in chip.named_parameters():
        p.grad = -change if name == "connections.input-hidden1.weight" else torch.zeros_like(p)
    optimizer.step()
    return path


@pytest.mark.parametrize(("name", "mapping"), [*((n, "balanced") for n in TWO_WAY), ("pcm", "one-sided")])
def test_only_the_cells_of_changed_weights_are_pulsed(name: str, mapping: str, device: torch.device) -> None:
    chip = chip_of(name, mapping).to(device)
    array = chip.arrays["input-hidden1"]
    change = torch.zeros(30, 40, dtype=torch.float64, device=device)
    change[4, 7], change[11, 0] = 0.3, -0.3
    path = chip.write_path(torch.optim.SGD(chip.parameters(), lr=1.0), mode="sign")  # what is seen is taken over
    path.remove()
    before, hidden = array.conductance.clone(), array.hidden.clone()
    path = step(chip, change, mode="sign")
    touched = torch.zeros_like(before, dtype=torch.bool)
    touched[:, 4, 7] = touched[:, 11, 0] = True
    if mapping == "one-sided":
        touched[1, 4, 7] = touched[0, 11, 0] = False
    still = array.cells.stuck & touched
    assert torch.equal(array.hidden != hidden, touched & ~still)
    assert torch.equal(array.written > 0, touched)
    assert torch.equal(array.conductance[~touched], before[~touched])
    assert path.pulses == int(touched.sum())
    weight = chip.connection("input-hidden1").weight.detach()
    assert torch.equal(weight, array.decoded(array.conductance)) and torch.equal(weight, array.requested)


@pytest.mark.parametrize("mode", ["stochastic", "sign"])
def test_what_acts_is_what_the_cells_hold_whoever_wrote_them_last(mode: str, device: torch.device) -> None:
    chip = chip_of("reram-sb").to(device)
    array, weight = chip.arrays["input-hidden1"], chip.connection("input-hidden1").weight
    change = 0.05 * torch.randn(30, 40, generator=seeded(), dtype=torch.float64).to(device)
    x = torch.rand(2, 40, generator=seeded(), dtype=torch.float64).to(device)

    def acting() -> Tensor:
        chip.drive(x)
        found: Tensor = array.effective(weight, back=False)
        assert torch.equal(found, array.decoded(array.conductance))
        return found.clone()

    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode=mode)
    found = [acting()]
    for step in range(3):
        for name, p in chip.named_parameters():
            p.grad = -change if name == "connections.input-hidden1.weight" else torch.zeros_like(p)
        optimizer.step()
        found.append(acting())
        if step == 1:  # by hand: in a closed loop
            with torch.no_grad():
                weight[3] = 0.5
            found.append(acting())
    assert all(not torch.equal(a, b) for a, b in zip(found, found[1:], strict=False))


def test_weights_beyond_the_range_do_not_act_where_their_cells_stay_as_they_were() -> None:
    array = chip_of("idealized").arrays["input-hidden1"]
    array.conductance[0, 2] = array.device.g_max_siemens
    array.conductance[1, 2] = array.device.g_min_siemens
    array.next_write()
    array.read_back()
    array.requested[2] = 1.0
    acting = array.effective(array.requested, back=False).clone()
    weight = array.requested.clone()
    weight[2] = 5.0
    assert not array.write(weight) and torch.equal(array.requested, weight)
    assert torch.equal(array.effective(weight, back=False), acting)


@pytest.mark.parametrize("edit", [False, True])
def test_what_is_pulsed_is_what_the_optimiser_proposes_and_not_what_a_hand_wrote(edit: bool) -> None:
    chip = chip_of("idealized")
    weight, array = chip.connection("input-hidden1").weight, chip.arrays["input-hidden1"]
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode="sign")
    for p in chip.parameters():
        p.grad = torch.zeros_like(p)
    weight.grad[5, 6] = -1.0
    if edit:
        with torch.no_grad():
            weight[7, 8] += 0.3
    hidden = array.hidden.clone()
    optimizer.step()
    assert torch.equal((array.hidden != hidden).any(0).nonzero(), torch.tensor([[5, 6]]))


@pytest.mark.parametrize(("name", "mapping"), [*((n, "balanced") for n in TWO_WAY), ("pcm", "one-sided")])
def test_what_a_cell_makes_of_its_pulses_does_not_depend_on_the_others(name: str, mapping: str) -> None:
    change = 1e-3 * torch.randn(30, 40, generator=seeded(1), dtype=torch.float64)
    change = change * (3 if name == "idealized" else 50)  # whose steps are the finest
    few = change * (torch.rand(30, 40, generator=seeded(2)) < 0.1)
    found = []
    for proposed in (change, few):
        chip = chip_of(name, mapping)
        step(chip, proposed, mode="stochastic", refresh_share=1.0)
        found.append(chip.arrays["input-hidden1"].conductance)
    alike = (few != 0).expand_as(found[0])
    torch.testing.assert_close(found[0][alike], found[1][alike], rtol=1e-12, atol=0.0)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", TWO_WAY)
def test_pulses_on_touched_cells_are_those_of_the_device(name: str) -> None:
    """Mean and spread over many cells alike, against trains on whole arrays."""
    device: Any = hardware.device(name)
    spreads = dict.fromkeys(("step_spread", "asymmetry_spread", "low_spread", "high_spread", "stuck_share"), 0.0)
    law = replace(device.pulses, **spreads, write_noise=0.0, reference_spread=None)
    device = replace(device, pulses=law)
    array = chip_of(device, programming=False).arrays["input-hidden1"]
    n = array.requested.numel()
    start = torch.full_like(array.hidden, 0.5 * (device.g_min_siemens + device.g_max_siemens))
    array.hidden.copy_(start)
    counts = torch.full((n,), 7)
    apply_pulses(array, Pulses(torch.arange(n), counts, torch.arange(n) < n // 2), Streams(0), "k", (1,))
    moved = (array.hidden - start).flatten(1)
    rising = torch.cat([moved[0, : n // 2], moved[1, n // 2 :]])
    falling = torch.cat([moved[0, n // 2 :], moved[1, : n // 2]])
    g = start.flatten(0)[:n].flatten()[:n]
    cells = device.fabricate_cells(g.shape, seeded(), dtype=torch.float64)
    up = device.pulse(g, 7, None, cells, seeded(5), exact=False) - g
    down = device.pulse(g, 0, 7, cells, seeded(6), exact=False) - g
    for found, expected in ((rising, up), (falling, down)):
        std = float(expected.std())
        assert abs(float(found.mean() - expected.mean())) < 6 * std * math.sqrt(2 / n)
        assert float(found.std()) == pytest.approx(std, rel=5 / math.sqrt(n))


def test_numbers_of_cells_are_normal_and_their_own() -> None:
    numbers, like = torch.arange(40_000), torch.empty(40_000)
    draws = CellDraws(Streams(1), "a", (3,), numbers)
    first, second, third = (draws.normal(like) for _ in range(3))
    n = len(like)
    for x in (first, second, third):
        assert abs(float(x.mean())) < 5 / math.sqrt(n) and abs(float(x.var()) - 1) < 5 * math.sqrt(2 / n)
    for a, b in ((first, second), (first, third), (second, third), (first, first.roll(1)), (second, first.roll(1))):
        assert abs(float((a * b).mean())) < 5 / math.sqrt(n)
    some = torch.tensor([7, 39_000, 2])
    again = CellDraws(Streams(1), "a", (3,), some)
    for whole in (first, second, third):
        assert torch.equal(again.normal(like[:3]), whole[some])
    other = CellDraws(Streams(1), "a", (4,), numbers).normal(like)
    assert abs(float((first * other).mean())) < 5 / math.sqrt(n)


def test_pulses_are_found_in_any_layout(device: torch.device) -> None:
    change = torch.randn(4, 3, 5, 5, generator=seeded()).to(device).to(memory_format=torch.channels_last)
    counts = (change.abs() > 1.0).float() * 3
    found = pulses_of(change, counts)
    assert torch.equal(found.where, (change.contiguous().flatten().abs() > 1.0).nonzero().flatten())
    assert torch.equal(found.rises, change.contiguous().flatten()[found.where] > 0) and (found.counts == 3).all()


def test_weights_that_were_set_by_hand_are_taken_over_by_the_next_pulses() -> None:
    """A drive writes them to the cells, with their noise; the next step finds what the cells then hold."""
    chip = chip_of("pcm", "one-sided", drift=False, read_noise=False)
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode="sign")
    weight = chip.connection("input-hidden1").weight
    with torch.no_grad():
        weight.fill_(0.3)
    chip.drive(torch.zeros(2, 40, dtype=torch.float64))
    for p in chip.parameters():
        p.grad = torch.zeros_like(p)
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, 0] = 1.0
    optimizer.step()
    array = chip.arrays["input-hidden1"]
    assert torch.equal(weight.detach(), array.decoded(array.conductance))
    assert float((weight.detach() - 0.3).abs().median()) > 1e-4


# -- what no cell can make anything of ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["programmed", "proportional", "stochastic", "sign"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_changes_that_are_not_finite_are_refused_and_leave_the_weights(mode: str, bad: float) -> None:
    """They gave no pulses at all: an optimiser that diverged looked like one that has learnt all there is."""
    chip = chip_of("idealized")
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    path = chip.write_path(optimizer, mode=mode, dead_zone=1e-6)
    weights = {n: p.detach().clone() for n, p in chip.named_parameters() if n.startswith("connections.")}
    for p in chip.parameters():
        p.grad = torch.full_like(p, 0.001)
    chip.get_parameter("connections.hidden1-output.weight").grad[1, 2:4] = bad
    with pytest.raises(DataError, match=r"hidden1-output: got 2 changes of 600 that are NaN.*lower the learning rate"):
        optimizer.step()
    assert path.pulses == 0
    assert all(torch.equal(chip.get_parameter(n), w) for n, w in weights.items())
    for p in chip.parameters():
        p.grad = torch.full_like(p, 0.001)
    optimizer.step()  # goes on where it was


def test_finite_changes_whose_sum_is_not_are_written() -> None:
    chip = chip_of("idealized").float()
    step(chip, torch.full((30, 40), 1e38), mode="sign")
    assert chip.counts["pulses"] > 0


def told_by(action: Callable[[], Any]) -> list[Any]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        action()
    return told


@pytest.mark.parametrize("mode", ["proportional", "stochastic"])
def test_changes_cut_to_the_most_pulses_of_a_step_are_counted_and_told_of_once(mode: str) -> None:
    chip = chip_of("idealized", programming=False)
    array = chip.arrays["input-hidden1"]
    pulse = 2 * array.device.pulses.step * array.device.frame.unit / array.scale
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    chip.write_path(optimizer, mode=mode, max_pulses=7)
    weight = chip.get_parameter("connections.input-hidden1.weight")

    def propose(large: int, small: int) -> None:
        for p in chip.parameters():
            p.grad = torch.zeros_like(p)
        change = torch.zeros(30 * 40, dtype=torch.float64)
        change[:large], change[large : large + small] = 20 * pulse, 7 * pulse
        weight.grad = -change.view(30, 40)
        optimizer.step()

    assert not told_by(lambda: propose(5, 5)) and chip.counts["limited"] == 5  # half of them is not most of them
    (told,) = told_by(lambda: propose(6, 5))
    assert "connection input-hidden1: 55 % of the changes of a step" in str(told.message)
    assert re.search(r"max_pulses=7 pulses, up to 2[01], .*max_pulses=2[01]\)$", str(told.message))
    assert told.filename == __file__
    assert not told_by(lambda: propose(40, 0)) and chip.counts["limited"] == 51
    assert chip_of("idealized").counts["limited"] == 0


def test_one_pulse_of_a_sign_is_no_cut(device: torch.device) -> None:
    chip = chip_of("idealized").to(device)
    step(chip, torch.full((30, 40), 10.0, dtype=torch.float64, device=device), mode="sign", max_pulses=1)
    assert chip.counts["limited"] == 0


@pytest.mark.parametrize("of", [WriteSettings, Auxiliary])
def test_settings_of_a_write_path_survive_a_file(of: Any) -> None:
    cells = Auxiliary(transfer_every=3, device=replace(hardware.device("reram-sb"), name="mine"), adc_bits=6)
    for settings in (of(), cells if of is Auxiliary else WriteSettings("sign", gain_std=0.1, auxiliary=cells)):
        plain = json.loads(json.dumps(settings.spec()))
        assert of.from_spec(plain) == settings
    with pytest.raises(ConfigError, match="field of"):
        of.from_spec(of().spec() | {"gian_std": 0.1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_does_not_change_is_not_pulsed_in_any_precision(dtype: torch.dtype) -> None:
    """A chance in half precision may round to 1, which is a pulse for nothing."""
    net = eqprop.HopfieldNetwork.mlp(200, 200, 10, generator=seeded(1))
    chip: Any = Substrate(cells=CellArray("ecram")).fabricate(net.to(dtype), seed=1)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    path = chip.write_path(optimizer, mode="stochastic")
    for p in chip.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert path.pulses == 0


def test_cells_that_cannot_step_stay_whether_stuck_or_not() -> None:
    """Their steps and reaches are one number for all, and who is stuck is not."""
    law = PulseResponse(law=ConstantStep(), step=0.01, one_way=True, asymmetry=-1.0, stuck_share=0.3)
    chip = chip_of(replace(hardware.device("idealized"), pulses=law), "one-sided")
    array = chip.arrays["input-hidden1"]
    before = array.conductance.clone()
    path = step(chip, torch.full((30, 40), 0.1, dtype=torch.float64), mode="proportional", refresh_share=1.0)
    assert path.pulses > 0 and torch.equal(array.conductance, before)


def test_chips_and_write_paths_say_what_they_are() -> None:
    chip = chip_of("idealized")
    path = chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.1), mode="sign")
    assert f"chip {chip.seed} of Substrate(cells=CellArray(" in repr(chip) and "idealized" in repr(chip)
    assert repr(path).startswith("WritePath(WriteSettings(mode='sign')") and "onto input-hidden1" in repr(path)
