"""Read noise on the signals of clamped inputs, and how a chip follows the drift of its cells."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import Sweeps
from hardware import CellArray, Fluctuation, PathGains, Polynomial, ReadNoise, Substrate, Timing
from hardware._clipping import clipped_moments
from tests.helpers import inputs, network, seeded

PASSES = 3000


def chip_of(layout: CellArray, **options: Any) -> Any:
    net = eqprop.HopfieldNetwork.mlp(60, 12, 3, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    return Substrate(cells=layout, **options).fabricate(net, seed=1)


def loud(**options: Any) -> CellArray:
    """Read noise so large that every second cell of a one-sided pair is cut off at 0 S."""
    device = replace(hardware.device("pcm"), reading=ReadNoise(Polynomial((0.05,)), relative=False), ageing=None)
    return CellArray(device, **options)


@pytest.mark.parametrize("high", [None, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-6)])
def test_moments_of_clipped_noise_are_its_integrals(high: float | None, dtype: torch.dtype, tolerance: float) -> None:
    mean = torch.linspace(0, 1, 7, dtype=torch.float64)
    std = torch.tensor([0.5, 0.01, 0.3, 1.0, 0.2, 2.0, 0.3], dtype=torch.float64)
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2)
    weight /= weight.sum()
    seen = (mean[:, None] + std[:, None] * z).clamp(0.0, high)
    expected = (seen * weight).sum(1)
    variance = ((seen - expected[:, None]).square() * weight).sum(1)
    found = clipped_moments(mean.to(dtype), std.to(dtype), 0.0, high)
    torch.testing.assert_close(found[0].double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1].double(), variance, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("mapping", ["balanced", "one-sided"])
@pytest.mark.parametrize("device", ["pcm", "loud", "disturbed"])
def test_noise_on_signals_has_the_moments_of_noise_on_cells(mapping: str, device: str) -> None:
    """Also where a bound cuts the noise of cells off, which moves the mean and takes from the variance."""
    layout = loud(mapping=mapping) if device == "loud" else CellArray("pcm", mapping, drift=False)
    more: dict[str, Any] = {}
    if device == "disturbed":
        more = {"fluctuations": (Fluctuation(0.5, "chip"),), "paths": PathGains(ahead_std=0.5)}
    x = torch.rand(1, 60, generator=seeded(1), dtype=torch.float64)
    each = chip_of(replace(layout, input_noise="cells"), **more)
    with torch.no_grad():
        cells = torch.stack([each.drive(x).terms[0][0] for _ in range(PASSES)])
        signals = chip_of(layout, **more).drive(x.expand(PASSES, -1)).terms[0]
    error = math.sqrt(2 / PASSES) * 4.5
    std = cells.std(0)
    assert float(((signals.mean(0) - cells.mean(0)) / std).abs().max()) < error
    torch.testing.assert_close(signals.std(0), std, rtol=error, atol=0.0)
    if device == "loud" and mapping == "one-sided":
        with torch.no_grad():
            quiet = chip_of(replace(layout, read_noise=False)).drive(x).terms[0][0]
        assert float(((cells.mean(0) - quiet) / std).abs().max()) > 2 * error  # what would be missed
    skew = (((signals - signals.mean(0)) / signals.std(0)) ** 3).mean(0)
    assert float(skew.abs().max()) < 5 * math.sqrt(6 / PASSES)


def test_every_sample_has_its_own_noise_on_signals_and_all_the_same_on_cells() -> None:
    x = torch.rand(1, 60, generator=seeded(1), dtype=torch.float64).expand(4, -1)
    with torch.no_grad():
        own, same = (chip_of(CellArray("pcm", input_noise=where)).drive(x).terms[0] for where in ("signals", "cells"))
    assert float((own[1:] - own[:-1]).abs().min()) > 0.0
    torch.testing.assert_close(same, same[:1].expand(4, -1))


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_noise_on_signals_has_the_declared_correlation_between_phases(rho: float) -> None:
    chip = chip_of(CellArray("pcm", drift=False, read_correlation=rho))
    x = torch.rand(1, 60, generator=seeded(1), dtype=torch.float64).expand(PASSES, -1)
    with torch.no_grad():
        drive = chip.drive(x)
        state, found = chip.initial_state(len(x)), []
        for phase in range(2):
            chip.begin_phase(phase)
            found.append(chip.inputs(state, drive)[0])
    a, b = ((f - f.mean(0)) / f.std(0) for f in found)
    assert float((a * b).mean()) == pytest.approx(rho, abs=4 / math.sqrt(a.numel()))


def test_scope_sample_is_one_noise_for_all_phases_of_a_pass() -> None:
    chip = chip_of(CellArray("pcm", drift=False, read_scope="sample"))
    x = torch.rand(3, 60, generator=seeded(1), dtype=torch.float64)
    with torch.no_grad():
        first = chip.drive(x)
        state, found = chip.initial_state(len(x)), []
        for phase in range(2):
            chip.begin_phase(phase)
            found.append(chip.inputs(state, first)[0])
        torch.testing.assert_close(found[0], found[1])
        assert float((chip.drive(x).terms[0] - first.terms[0]).abs().min()) > 0.0


@pytest.mark.parametrize(
    ("name", "layout", "signals"),
    [
        ("chain-sigmoid", CellArray("pcm"), True),
        ("chain-sigmoid", CellArray("pcm", wire_ohms=1.0), False),
        ("chain-sigmoid", CellArray("pcm", read_scope="chip"), False),
        ("chain-sigmoid", CellArray("pcm", input_noise="cells"), False),
        ("conv-average", CellArray("pcm"), False),
    ],
)
def test_noise_stays_on_cells_where_its_sum_would_be_another(name: str, layout: CellArray, signals: bool) -> None:
    net: Any = network(name)
    chip: Any = Substrate(cells=layout).fabricate(net)
    chip.drive(inputs(net))
    first = next(iter(chip.arrays))
    drawn = {source.partition(".")[0] if "signal" not in source else "signal" for source in chip.streams.drawn}
    assert ("signal" in drawn) == signals
    assert any(s.startswith(f"read/{first}") for s in chip.streams.drawn) != signals


def test_the_gradient_under_noise_on_signals_is_as_wrong_as_under_noise_on_cells() -> None:
    """One sample a batch, where both are the same physics."""
    net = eqprop.HopfieldNetwork.mlp(60, 12, 3, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    x, y = torch.rand(1, 60, generator=seeded(1), dtype=torch.float64), torch.tensor([1])
    rule = eqprop.EquilibriumPropagation(beta=0.2, free=Sweeps(30), nudged=Sweeps(30))
    spread = {}
    for where in ("signals", "cells"):
        chip: Any = Substrate(cells=CellArray("pcm", drift=False, input_noise=where)).fabricate(net, seed=2)
        found = []
        for _ in range(120):
            chip.zero_grad()
            rule.backward(chip, x, y)
            found.append(chip.connection("input-hidden1").weight.grad.clone())
        spread[where] = float(torch.stack(found).var(0).sum()) ** 0.5
    assert spread["signals"] == pytest.approx(spread["cells"], rel=0.2)


# -- drift -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_read", [20.0, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_drift_is_followed_however_the_cells_were_written(first_read: float, dtype: torch.dtype) -> None:
    """Cells of many ages, between whose writes the conductances were looked at."""
    device = replace(hardware.device("pcm"), first_read_seconds=first_read)
    net: Any = network("chain-sigmoid").to(dtype)
    timing = Timing(phase_seconds=3e-6, write_seconds=1e-6)
    chip: Any = Substrate(cells=CellArray(device, read_noise=False), timing=timing).fabricate(net, seed=3)
    array, weight = chip.arrays["hidden1-hidden2"], chip.connection("hidden1-hidden2").weight
    x = torch.rand(2, 5, dtype=dtype)
    for step in range(12):
        with torch.no_grad():
            weight[step % weight.shape[0]] *= 0.97
        chip.drive(x)
        if step == 6:
            chip.wait(1.234)
        found = array.conductance_now()
        seconds = (chip._moment.clock - array.written).double() * 1e-9
        nu = array.device.drift_coefficient(array.conductance.double(), array.cells.normal.double())
        exact = array.device.drifted(array.conductance.double(), nu, seconds)
        assert float((found.double() / exact - 1).abs().nan_to_num(0.0).max()) < 1.1e-5
        array.forget()
        assert torch.equal(array.conductance_now(), found)  # whatever was kept: a resumed chip agrees
    assert float((exact / array.conductance.double() - 1).abs().nan_to_num(0.0).max()) > 1e-3 * (
        20.0 / (1 + first_read)
    )


def test_strengths_that_are_kept_follow_pulses() -> None:
    net: Any = network("chain-sigmoid")
    chip: Any = Substrate(cells=CellArray("pcm", "one-sided")).fabricate(net, seed=3)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.05)
    chip.write_path(optimizer, mode="stochastic")
    array = chip.arrays["hidden1-hidden2"]
    x = torch.rand(4, 5, dtype=torch.float64)
    rule = eqprop.EquilibriumPropagation(beta=0.2, free=Sweeps(20), nudged=Sweeps(20))
    for _ in range(4):
        optimizer.zero_grad()
        rule.backward(chip, x, torch.tensor([0, 1, 2, 0]))
        optimizer.step()
        chip.drive(x)
        found: Tensor = array.conductance_now()
        array.forget()
        assert torch.equal(array.conductance_now(), found)
    assert array.counts[1] > 0
