"""Cells as arrays hold them: which are stuck, what a write leaves, when it was, and what two reads have in common."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import eqprop
import hardware
from eqprop import ConfigError, DataError
from hardware import CellArray, NudgeSource, PathGains, ResistiveNetwork, Substrate, Timing
from hardware._step_laws import Cells
from tests.helpers import inputs, network, seeded

PULSED = [name for name in hardware.DEVICES if hardware.device(name).pulses is not None]
NOISY = [name for name in PULSED if hardware.device(name).pulses.write_noise > 0]  # type: ignore[union-attr]


def chip_of(layout: CellArray, **options: Any) -> Any:
    return Substrate(cells=layout, **options).fabricate(network("chain-tanh"), seed=1)


def wide(layout: CellArray, **options: Any) -> Any:
    net = eqprop.HopfieldNetwork.mlp(60, 40, 3, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    return Substrate(cells=layout, **options).fabricate(net, seed=1)


# -- stuck cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, 0.0, 0.1, 1.0])
@pytest.mark.parametrize("device", ["reram-array-om", "idealized", "hermes-pcm"])
def test_the_cells_that_cannot_move_are_those_that_are_declared_stuck(device: str, share: float | None) -> None:
    array = wide(CellArray(device, stuck_share=share)).arrays["input-hidden1"]
    cells = Cells(*(t.expand(array.conductance.shape) for t in array.cells))
    stuck = cells.low_siemens == cells.high_siemens
    assert torch.equal(stuck, cells.stuck)
    law = array.device.pulses
    expected = (0.0 if law is None else law.stuck_share) if share is None else share
    assert float(stuck.double().mean()) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / stuck.numel()))
    if law is not None:
        moves = (cells.step_up_siemens > 0) & (cells.step_down_siemens > 0)
        assert torch.equal(moves, ~stuck)


def test_a_substrate_tells_of_one_share_of_stuck_cells() -> None:
    for share, text in ((None, "13.5 %"), (0.1, "10 %")):
        lines = Substrate(cells=CellArray("reram-array-om", stuck_share=share)).describe().splitlines()
        told = [line for line in lines if "of the cells are stuck" in line]
        assert len(told) == 1 and text in told[0]


# -- closed-loop writes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOISY)
def test_what_a_closed_loop_leaves_is_seen_with_the_noise_of_a_write(name: str) -> None:
    device = hardware.device(name)
    law = device.pulses
    assert law is not None
    array = wide(CellArray(replace(device, pulses=replace(law, low_spread=0.0, high_spread=0.0)), headroom=4.0)).arrays[
        "input-hidden1"
    ]
    moves = ~array.cells.stuck
    torch.testing.assert_close(array.hidden[moves], array.targets(array.requested)[moves])
    seen = (array.conductance - array.hidden)[moves]
    std = law.write_noise * law.step * device.frame.unit
    safe = array.hidden[moves] > 5 * std
    n = int(safe.sum())
    assert n > 1000
    assert float(seen[safe].mean()) == pytest.approx(0.0, abs=5 * std / math.sqrt(n))
    assert float(seen[safe].std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n))
    assert torch.equal(array.conductance[~moves], array.hidden[~moves])


@pytest.mark.parametrize("name", NOISY)
def test_a_write_draws_its_noise_anew_in_the_cells_that_it_touches_alone(name: str) -> None:
    chip = chip_of(CellArray(name, stuck_share=0.0))
    array, weight = chip.arrays["hidden1-hidden2"], chip.connection("hidden1-hidden2").weight
    seen, hidden = array.conductance.clone(), array.hidden.clone()
    with torch.no_grad():
        weight[2] *= 0.9
    chip.drive(inputs(chip))
    changed = array.conductance != seen
    assert bool(changed[:, 2].all()) and not changed[:, :2].any() and not changed[:, 3:].any()
    untouched = torch.ones_like(changed)
    untouched[:, 2] = False
    assert torch.equal(array.hidden[untouched], hidden[untouched])
    again = chip_of(CellArray(name, stuck_share=0.0))
    assert torch.equal(again.arrays["hidden1-hidden2"].conductance, seen)


@pytest.mark.parametrize("name", PULSED)
def test_without_errors_of_programming_a_closed_loop_ends_where_it_should(name: str) -> None:
    array = chip_of(CellArray(name, "one-sided", programming=False, stuck_share=0.0)).arrays["hidden1-hidden2"]
    cells = array.cells
    within = array.targets(array.requested).minimum(cells.high_siemens).maximum(cells.low_siemens)
    assert torch.equal(array.conductance, within) and torch.equal(array.hidden, within)


@pytest.mark.parametrize("name", PULSED)
def test_a_substrate_says_how_closed_loop_writes_of_pulsed_devices_end(name: str) -> None:
    device = hardware.device(name)
    text = Substrate(cells=CellArray(name, "one-sided")).describe()
    assert ("closed-loop writes end with the write noise" in text) == (name in NOISY)
    assert ("are exact: no error of them is published" in text) == (name not in NOISY and device.programming is None)
    text = Substrate(cells=CellArray(name, "one-sided", programming=False)).describe()
    assert "closed-loop writes are exact: programming=False" in text


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["fabrication", "programmed", "sign"])
def test_a_relaxation_sees_its_cells_as_old_however_they_were_written(write: str) -> None:
    chip = chip_of(CellArray("idealized"), timing=Timing(phase_seconds=1e-6, write_seconds=5e-6))
    x = inputs(chip)
    if write != "fabrication":
        chip.drive(x)
        chip.wait(1.0)
        optimizer = torch.optim.SGD(chip.parameters(), lr=0.01)
        chip.write_path(optimizer, mode=write)
        for p in chip.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    before = chip.clock_seconds
    chip.drive(x)
    lasts = {"fabrication": 0.0, "programmed": 5e-6, "sign": 0.0}[write]  # pulses took their time in the step
    assert chip.clock_seconds - before == pytest.approx(1e-6 + lasts)
    for array in chip.arrays.values():
        assert array.ages(chip._moment.clock) == pytest.approx((1e-6, 1e-6))
        torch.testing.assert_close(array.age_of_each(chip._moment.clock), torch.full_like(array.conductance, 1e-6))


def test_what_was_written_before_pulses_are_not_kept() -> None:
    """Of devices that hold still nobody asks which cells a write touched: none of it may pile up."""
    chip = chip_of(CellArray("idealized"))
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.01)
    chip.write_path(optimizer, mode="sign")
    array, held = chip.arrays["hidden1-hidden2"], []
    restart = array.restart

    def watched(cells: torch.Tensor, over: int) -> None:
        held.append(weakref.ref(cells))
        restart(cells, over)

    array.restart = watched
    for _ in range(5):
        for p in chip.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    gc.collect()
    assert len(held) == 5 and sum(ref() is not None for ref in held) <= 1


# -- reads in two phases -----------------------------------------------------------------------------------------------


def autocovariance(seconds: float, age: float, t_read: float) -> float:
    """Of the spectrum 1/f between ``1 / (age + t_read)`` and ``1 / (2 t_read)``, by quadrature in ln f."""
    log = np.linspace(-math.log(age + t_read), -math.log(2 * t_read), 400_001)
    return float(np.trapezoid(np.cos(2 * math.pi * np.exp(log) * seconds), log))


@pytest.mark.parametrize("input_noise", ["signals", "cells"])
@pytest.mark.parametrize(("seconds", "age"), [(1e-6, 20.0), (1e-4, 20.0), (1e-6, 1e-3), (1e-6, 1e-6)])
def test_two_phases_differ_by_what_1_over_f_noise_changes_in_between(
    seconds: float, age: float, input_noise: str
) -> None:
    device = replace(hardware.device("pcm"), first_read_seconds=age, ageing=None)
    layout = CellArray(device, input_noise=input_noise, programming=False)
    net = eqprop.HopfieldNetwork.mlp(200, 100, 3, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    timing = Timing(phase_seconds=seconds)
    x = torch.eye(200, dtype=torch.float64)  # one input at a time: a signal is the noise of a pair of cells
    found: dict[bool, list[torch.Tensor]] = {}
    for noisy in (True, False):
        chip: Any = Substrate(cells=replace(layout, read_noise=noisy), timing=timing).fabricate(net, seed=1)
        with torch.no_grad():
            drive, state = chip.drive(x), chip.initial_state(len(x))
            for phase in range(2):
                chip.begin_phase(phase)
                found.setdefault(noisy, []).append(chip.inputs(state, drive)[0].T)
    array, reading = chip.arrays["input-hidden1"], device.reading
    assert reading is not None and reading.t_read_seconds is not None
    g = array.conductance
    unit = (reading.q(g / device.g_max_siemens) * g).square().sum(0).sqrt() / array.scale
    first, second = ((f - rest) / unit for f, rest in zip(found[True], found[False], strict=True))
    at = age + seconds
    variance = autocovariance(0.0, at, reading.t_read_seconds)
    assert float(first.square().mean()) == pytest.approx(variance, rel=0.05)
    change = variance + autocovariance(0.0, at + seconds, reading.t_read_seconds)
    change -= 2 * max(autocovariance(seconds, at, reading.t_read_seconds), 0.0)
    assert float((second - first).square().mean()) == pytest.approx(change, rel=0.07)


@pytest.mark.parametrize("each", [False, True])
def test_the_correlation_of_reads_has_its_limits(each: bool) -> None:
    reading = hardware.device("pcm").reading
    assert reading is not None

    def rho(age: float, seconds: float) -> float:
        growth: Any = reading.growth(torch.tensor([age], dtype=torch.float64) if each else age)
        return float(reading.correlation(growth, seconds))

    assert rho(20.0, 0.0) == rho(20.0, 1e-8) == 1.0  # faster than a read
    assert rho(1e-6, 1e-6) == rho(0.0, 1e-6) == rho(1.0, 10.0) == 0.0  # nothing is as old as that
    assert 0.8 < rho(20.0, 1e-6) < rho(1e6, 1e-6) < 1.0
    assert rho(20.0, 1e-6) > rho(20.0, 1e-3) > rho(20.0, 1.0)
    assert replace(reading, t_read_seconds=None).correlation(1.0, 1e-6) == 0.0


def test_cells_of_several_ages_share_what_their_own_age_leaves_them() -> None:
    device = replace(hardware.device("pcm"), first_read_seconds=1e-6, ageing=None)
    chip = wide(CellArray(device, input_noise="cells"))
    chip.wait(100.0)
    array, weight = chip.arrays["input-hidden1"], chip.connection("input-hidden1").weight
    with torch.no_grad():
        weight[:20] *= 0.9
    reading = device.reading
    assert reading is not None
    old: list[float] = []
    young: list[float] = []
    x = torch.rand(2, 60, generator=seeded(), dtype=torch.float64)

    def rejuvenate() -> None:
        written = array.written
        written[:, :20] = chip._moment.clock  # as young as they can be
        array.written = written
        array._kept.clear()

    for _ in range(30):
        chip.drive(x)
        rejuvenate()
        found = []
        for phase in range(2):
            chip.begin_phase(phase)
            rejuvenate()
            found.append(array.conductance_now() - array.conductance)
        for rows, values in ((slice(20), young), (slice(20, None), old)):
            a, b = (f[:, rows].flatten() for f in found)
            values.append(float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()))
    assert np.mean(young) == pytest.approx(0.0, abs=0.03)
    assert np.mean(old) == pytest.approx(float(reading.correlation(reading.growth(100.0), 1e-6)), abs=0.03)


@pytest.mark.parametrize("rho", [None, 0.0, 0.5, 1.0])
def test_the_correlation_of_reads_survives_json(rho: float | None) -> None:
    made = Substrate(cells=CellArray("pcm", read_correlation=rho))
    assert Substrate.from_spec(json.loads(json.dumps(made.spec()))) == made


def test_a_substrate_says_what_phases_share_of_read_noise() -> None:
    assert "correlation 0.822 between phases" in Substrate(cells=CellArray("pcm")).describe()
    assert "correlation" not in Substrate(cells=CellArray("pcm", read_correlation=0.0)).describe()
    assert "correlation" not in Substrate(cells=CellArray("rram-wan")).describe()


# -- what is no number -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"weight_range": 1.0}])
def test_weights_that_are_not_finite_make_no_chip(value: float, options: dict[str, Any]) -> None:
    net: Any = network("chain-tanh")
    with torch.no_grad():
        net.connection("hidden1-hidden2").weight[1, :2] = value
    with pytest.raises(DataError, match="connection hidden1-hidden2: got 2 of .* weights that are NaN or infinite"):
        Substrate(cells=CellArray("pcm", **options)).fabricate(net)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("twin", [False, True])
def test_weights_that_are_not_finite_are_not_written(value: float, twin: bool) -> None:
    chip = chip_of(CellArray("pcm"), twin=twin)
    x, weight = inputs(chip), chip.connection("hidden1-hidden2").weight
    chip.drive(x)
    array = chip.arrays["hidden1-hidden2"]
    before, kept = weight[1, 0].item(), array.conductance.clone()
    for _ in range(2):  # it is not forgotten
        with torch.no_grad():
            weight[1, 0] = value
        for _ in range(2):
            with pytest.raises(DataError, match="hidden1-hidden2: got 1 of"):
                chip.drive(x)
    with torch.no_grad():
        weight[1, 0] = before
    chip.drive(x)
    assert torch.equal(array.conductance, kept)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_twins_of_amplifiers_alone_are_refused() -> None:
    net = ResistiveNetwork.mlp(4, 6, 2, amplification=4.0, generator=seeded())
    with pytest.raises(ConfigError, match="twin=True and amplifiers alone"):
        Substrate(paths=PathGains(ahead_std=0.1), twin=True).fabricate(net)


@pytest.mark.parametrize("device", [3, None])
def test_a_device_that_is_no_name_is_told_as_it_is(device: Any) -> None:
    with pytest.raises(ConfigError, match=f"device: got {device}, needed a name"):
        CellArray(device)


def test_headroom_beside_a_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="headroom=3.0 beside weight_range=1.0"):
        CellArray(headroom=3.0, weight_range=1.0)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (NudgeSource(), "nudge source (feedback): ideal"),
        (NudgeSource(bits=8), "nudge source (feedback): 8 bits from 0 to 1"),
        (NudgeSource(gain_std=0.1), "nudge source (feedback): gains +-10 %"),
        (NudgeSource(offset_mean=0.1), "nudge source (feedback): offsets 0.1 +- 0 while it is on"),
    ],
)
def test_a_nudge_source_tells_of_its_faults_alone(source: NudgeSource, text: str) -> None:
    assert Substrate(nudge=source).describe() == text


def test_a_substrate_says_for_which_samples_noise_is_drawn() -> None:
    for scope in ("sample", "phase"):
        assert (
            "one for all samples of a batch" in Substrate(fluctuations=(hardware.Fluctuation(0.1, scope),)).describe()
        )
        text = Substrate(cells=CellArray("pcm", read_scope=scope)).describe()
        assert "one for all samples of a batch" in text and "every sample has read noise of its own" in text
    assert (
        "no read noise to be drawn once a pass" in Substrate(cells=CellArray("ecram", read_scope="sample")).describe()
    )
