"""A user's own device: what is fitted to data that a device made is that device."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import hardware
from eqprop import ConfigError, DataError
from hardware import (
    ConstantStep,
    Device,
    LinearStep,
    Polynomial,
    PowerLawDrift,
    PowerStep,
    PulseResponse,
    SoftBounds,
    StepLaw,
)
from tests.helpers import seeded

US = 1e-6
TRAIN = [1] * 60 + [-1] * 60 + [2] * 20 + [-2] * 20
LAWS: dict[str, tuple[StepLaw, float]] = {
    # steps small enough that constant ones stay off the bounds, which that fit takes from the data
    "constant": (ConstantStep(), 0.02),
    "linear": (LinearStep(0.3, 0.5), 0.02),
    "soft-bounds": (SoftBounds(), 0.05),
    "power": (PowerStep(1.4, 0.8), 0.06),
}


def measured(kind: str, cells: int = 1, start: float = 0.0, **options: Any) -> tuple[Device, np.ndarray[Any, Any]]:
    """A device of 5 to 15 uS, and traces of some of its cells, from one place in their range."""
    law, step = LAWS[kind]
    device = Device("true", 5 * US, 15 * US, pulses=PulseResponse(law, step=step, asymmetry=0.2, **options))
    made = device.fabricate_cells((cells,), seeded(1), dtype=torch.float64)
    first = made.low_siemens + start * (made.high_siemens - made.low_siemens)
    return device, device.response(TRAIN, made, seeded(2), first).T.numpy()


@pytest.mark.parametrize("kind", LAWS)
def test_traces_without_noise_give_their_device_back(kind: str) -> None:
    """Up and down steps at every conductance, in siemens: whatever the parameters, that is what a device is."""
    device, trace = measured(kind, start=0.1)
    fitted = hardware.fit_pulse_response(TRAIN, trace[0], kind=kind)
    places = torch.linspace(float(trace.min()), float(trace.max()), 9, dtype=torch.float64)[1:-1]
    steps = []
    for made in (device, fitted):
        cells = made.fabricate_cells((7,), seeded(), dtype=torch.float64)
        assert made.pulses is not None and (made is device or made.pulses.noise < 1e-2)
        quiet = replace(made, pulses=replace(made.pulses, noise=0.0))
        steps.append([quiet.pulse(places, *n, cells, seeded()) - places for n in ((1, 0), (0, 1))])
    for true, got in zip(*steps, strict=True):
        torch.testing.assert_close(got, true, rtol=1e-3, atol=0)
    if kind in ("soft-bounds", "power"):
        assert fitted.g_min_siemens == pytest.approx(5 * US, rel=1e-3)
        assert fitted.g_max_siemens == pytest.approx(15 * US, rel=1e-3)


def test_noisy_traces_of_many_cells_give_spreads_and_noise_back() -> None:
    truth = {"step_spread": 0.2, "asymmetry_spread": 0.05, "low_spread": 0.1, "high_spread": 0.1}
    n = 40
    device, traces = measured("soft-bounds", n, noise=0.5, write_noise=0.7, **truth)
    fitted = hardware.fit_pulse_response(TRAIN, traces)
    assert fitted.g_min_siemens == pytest.approx(5 * US, abs=5 * 0.1 * 5 * US / math.sqrt(n))
    assert fitted.g_max_siemens == pytest.approx(15 * US, abs=5 * 0.1 * 5 * US / math.sqrt(n))
    got, true = fitted.pulses, device.pulses
    assert got is not None and true is not None and isinstance(got.law, SoftBounds)
    unit = (fitted.g_max_siemens - fitted.g_min_siemens) / 2 / (5 * US)
    # steps of single cells are known to about 5 %: their mean to 5 standard errors, their spread to a quarter
    assert got.step * unit == pytest.approx(true.step, rel=5 * 0.2 / math.sqrt(n))
    assert got.asymmetry == pytest.approx(0.2, abs=5 * 2 * 0.06 / math.sqrt(n))
    assert got.step_spread == pytest.approx(0.2, rel=5 / math.sqrt(2 * n))
    assert got.asymmetry_spread == pytest.approx(0.05, abs=0.03)
    assert got.low_spread == pytest.approx(0.1, rel=5 / math.sqrt(2 * n))
    assert got.high_spread == pytest.approx(0.1, rel=5 / math.sqrt(2 * n))
    # some 6000 errors of prediction: 2 % for either noise, and a little for what the fit takes up
    assert got.step * got.noise * unit == pytest.approx(true.step * 0.5, rel=0.15)
    assert got.step * got.write_noise * unit == pytest.approx(true.step * 0.7, rel=0.1)


def test_one_kind_of_noise_is_not_taken_for_the_other() -> None:
    for name, options in {"noise": {"noise": 0.5}, "write_noise": {"write_noise": 0.5}}.items():
        _, traces = measured("soft-bounds", 10, **options)
        response = hardware.fit_pulse_response(TRAIN, traces).pulses
        assert response is not None
        found = {"noise": response.noise, "write_noise": response.write_noise}
        assert found.pop(name) == pytest.approx(0.5, rel=0.15)
        assert list(found.values())[0] < 0.15


def test_only_up_pulses_make_a_one_way_device() -> None:
    device, trace = measured("soft-bounds")
    fitted = hardware.fit_pulse_response([1] * 60, trace[0, :61])
    assert fitted.pulses is not None and fitted.pulses.one_way
    cells = fitted.fabricate_cells((1,), seeded())
    with pytest.raises(ConfigError, match="needed up pulses only"):
        fitted.pulse(cells.low_siemens, 0, 1, cells, seeded())


def test_a_programming_polynomial_is_recovered() -> None:
    pcm = hardware.device("pcm")
    g = torch.linspace(0, 25, 11, dtype=torch.float64) * US
    fitted = hardware.fit_programming_noise(g.numpy(), pcm.programming_std_siemens(g).numpy(), degree=2)
    assert fitted.programming is not None and isinstance(fitted.programming.std, Polynomial)
    found = [25 * c for c in fitted.programming.std.coefficients]
    assert found == pytest.approx([0.26348, 1.9650, -1.1731], rel=1e-6)
    assert (fitted.g_min_siemens, fitted.g_max_siemens) == (0.0, 25 * US)


def test_measured_writes_give_their_spread_back() -> None:
    """From samples: 2000 writes a level know its standard deviation to 1.6 %."""
    pcm, targets = hardware.device("pcm"), torch.linspace(2, 25, 12, dtype=torch.float64) * US
    written = pcm.program(targets.expand(2000, 12), seeded(3))
    mean, std = written.mean(0).numpy(), written.std(0).numpy()
    truth = pcm.programming_std_siemens(targets)
    fitted = hardware.fit_programming_noise(targets.numpy(), std, device=pcm)
    table = hardware.device_from_levels(mean, std, target_siemens=targets.numpy(), device=pcm)
    assert fitted.ageing == table.ageing == pcm.ageing  # only what was measured is replaced
    for device, tolerance in ((fitted, 0.04), (table, 5 / math.sqrt(4000))):
        torch.testing.assert_close(device.programming_std_siemens(targets), truth, rtol=tolerance, atol=0)


def test_a_table_of_levels_says_where_writes_end() -> None:
    # aimed at 1, 2, 4 uS: ended 0.1 above, right, 0.3 below; at 3 uS halfway, 0.15 below, with a std of 0.3
    device = hardware.device_from_levels(
        np.array([1.1, 2.0, 3.7]) * US, np.array([0.1, 0.2, 0.4]) * US, target_siemens=np.array([1.0, 2.0, 4.0]) * US
    )
    n = 40_000
    got = device.program(torch.full((n,), 3 * US, dtype=torch.float64), seeded()) / US
    assert float(got.mean()) == pytest.approx(2.85, abs=5 * 0.3 / math.sqrt(n))
    assert float(got.std()) == pytest.approx(0.3, rel=5 / math.sqrt(2 * n))


def test_drift_without_noise_is_recovered_cell_by_cell() -> None:
    truth = replace(
        hardware.device("pcm"), ageing=PowerLawDrift(Polynomial((0.06,)), Polynomial((0.0,))), first_read_seconds=10.0
    )
    seconds = np.logspace(0, 5, 12)
    g = torch.tensor([5.0, 20.0], dtype=torch.float64) * US
    nu = truth.draw_drift(g, seeded())
    table = torch.stack([truth.drifted(g, nu, t) for t in seconds.tolist()], 1).numpy()
    fitted = hardware.fit_drift(seconds, table, first_read_seconds=10.0)
    again = fitted.draw_drift(g, seeded())
    assert again.tolist() == pytest.approx([0.06, 0.06], rel=1e-9)
    assert fitted.g_max_siemens == pytest.approx(20 * US, rel=1e-9)  # as at the first read


def test_state_dependent_drift_is_recovered_from_many_noisy_cells() -> None:
    pcm, seconds, n = hardware.device("pcm"), np.logspace(1, 6, 10), 2000
    g = torch.logspace(math.log10(0.3), math.log10(4), n, dtype=torch.float64) * US  # where neither curve is clipped
    nu = pcm.draw_drift(g, seeded(1))
    noise = 1 + 0.01 * torch.randn(n, 10, generator=seeded(2), dtype=torch.float64)
    table = torch.stack([pcm.drifted(g, nu, t) for t in seconds.tolist()], 1) * noise
    fitted = hardware.fit_drift(seconds, table.numpy(), first_read_seconds=20.0, kind="log", device=pcm)
    places = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64) * US
    for normal, tolerance in ((0.0, 0.004), (1.0, 0.006)):
        at = torch.full_like(places, normal)
        error = fitted.drift_coefficient(places, at) - pcm.drift_coefficient(places, at)
        assert float(error.abs().max()) < tolerance


def test_measurements_build_up_one_device() -> None:
    device, trace = measured("soft-bounds")
    made = hardware.fit_pulse_response(TRAIN, trace, name="mine")
    made = hardware.device_from_levels([5e-6, 10e-6, 15e-6], [1e-7, 2e-7, 3e-7], device=made)
    made = hardware.fit_drift([1.0, 1e2, 1e4], [9e-6, 8e-6, 7e-6], first_read_seconds=1.0, device=made)
    assert made.name == "mine" and None not in (made.pulses, made.programming, made.ageing)
    assert Device.from_spec(json.loads(json.dumps(made.spec()))) == made
    assert hardware.device(made) is made and "fitted to 1 measured cells" in repr(made)


def _bad() -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    _, traces = measured("soft-bounds")
    g = traces[0]
    spoiled = g.copy()
    spoiled[3] = np.nan
    times = [1.0, 10.0, 100.0]
    fit, drift = hardware.fit_pulse_response, hardware.fit_drift
    levels, noise = hardware.device_from_levels, hardware.fit_programming_noise
    return {
        "an unknown kind": (
            lambda: fit(TRAIN, g, kind="soft-bound"),
            ConfigError,
            "got 'soft-bound'.*did you mean 'soft-bounds'",
        ),
        "a reading too few": (lambda: fit(TRAIN, g[1:]), DataError, "got 160 readings for 160 entries.*needed 161"),
        "traces of NaN": (lambda: fit(TRAIN, spoiled), DataError, "got 1 values of 161 that are NaN"),
        "microsiemens": (
            lambda: fit(TRAIN, g / US),
            DataError,
            r"needed siemens, 0 to 0\.1; data in uS: write conductance_siemens \* 1e-6",
        ),
        "levels that are shares": (
            lambda: levels([0.1, 0.5, 0.9], [0.01] * 3),
            DataError,
            r"mean_siemens: got .* 0\.1 to 0\.9, needed siemens.*write mean_siemens \* g_max_siemens",
        ),
        "targets that are shares": (
            lambda: levels([1e-6, 2e-6], [1e-7] * 2, target_siemens=[0.1, 0.9]),
            DataError,
            "target_siemens: got .* 0.1 to 0.9",
        ),
        "shares with noise": (lambda: noise([0.1, 0.5, 0.9], [0.01] * 3), DataError, "g_siemens: got .* 0.1 to 0.9"),
        "no up pulses": (lambda: fit([-1] * 160, g), DataError, "pulses: got none upwards"),
        "parts of pulses": (lambda: fit([0.5] * 160, g), DataError, "or parts of pulses"),
        "a flat trace": (lambda: fit(TRAIN, 0 * g + 1e-6), DataError, "got 1e-06 S everywhere"),
        "wrong signs": (lambda: fit([-n for n in TRAIN], g), DataError, r"explains -?\d+ % of the variance"),
        "text": (lambda: fit(TRAIN, "abc"), DataError, "needed an array of numbers"),
        "too few levels": (lambda: noise([1e-6, 2e-6], [1e-7, 1e-7]), DataError, r"got shape \(2,\).*at least 3"),
        "negative stds": (lambda: levels([1e-6, 2e-6], [1e-7, -1e-7]), DataError, "got -1e-07 S, needed .*at least 0"),
        "stds of another length": (lambda: levels([1e-6, 2e-6], [1e-7]), DataError, r"got shape \(1,\), needed \(2,\)"),
        "falling levels": (lambda: levels([2e-6, 1e-6], [1e-7, 1e-7]), ConfigError, "needed rising values"),
        "before the write": (
            lambda: drift([-1.0, 10.0, 100.0], [3e-6, 2e-6, 1e-6], first_read_seconds=1.0),
            DataError,
            "seconds: got -1 to 100, needed different times from 0 on",
        ),
        "one time": (lambda: drift([1.0] * 3, [1e-6] * 3, first_read_seconds=1.0), DataError, "needed different times"),
        "dead cells": (lambda: drift(times, [1e-6, 0.0, 0.0], first_read_seconds=1.0), DataError, "do not conduct"),
        "times that do not fit": (
            lambda: drift(times, [[1e-6] * 4], first_read_seconds=1.0),
            DataError,
            r"got shape \(1, 4\), needed \[cells, 3\]",
        ),
        "no first read": (lambda: drift(times, [1e-6] * 3, first_read_seconds=0.0), ConfigError, "got 0.0, needed"),
    }


@pytest.mark.parametrize("case", _bad())
def test_impossible_measurements_are_named(case: str) -> None:
    call, error, text = _bad()[case]
    with pytest.raises(error, match=text):
        call()
