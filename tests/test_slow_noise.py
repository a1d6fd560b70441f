"""1/f noise and telegraph noise: statistics in time, by the chip's clock and not by the number of looks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, Sweeps
from eqprop._diagnostics import gradients, match
from hardware import CellArray, FlickerNoise, Streams, Substrate, TelegraphNoise, Timing
from hardware._fluctuations import FlickerState, SlowState, TelegraphState
from tests.helpers import inputs, labels, network, seeded

STATIC = CellArray("pcm", "one-sided", read_noise=False, drift=False)


def flicker(noise: FlickerNoise, cells: int, seed: int = 0) -> FlickerState:
    return FlickerState(noise, "flicker", torch.empty(cells, dtype=torch.float64), Streams(seed))


def telegraph(noise: TelegraphNoise, cells: int, seed: int = 0) -> TelegraphState:
    return TelegraphState(noise, "telegraph", torch.empty(cells, dtype=torch.float64), Streams(seed))


def trace(state: SlowState, steps: int, nanoseconds: int) -> Tensor:
    """``[steps, cells]``."""
    return torch.stack([state.at(k * nanoseconds).clone() for k in range(steps)])


# -- 1/f noise ---------------------------------------------------------------------------------------------------------


def test_correlation_times_are_spread_evenly_over_the_decades() -> None:
    assert FlickerNoise(0.1, 1e-6, 1e-2).tau_seconds == pytest.approx((1e-6, 1e-5, 1e-4, 1e-3, 1e-2))
    assert len(FlickerNoise(0.1, 1e-6, 1e-2, processes_per_decade=3).tau_seconds) == 13
    assert FlickerNoise(0.1, 1e-3, 1e-3).tau_seconds == (1e-3,)


@pytest.mark.parametrize("delay", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("looks", [1, 7])
def test_autocorrelation_of_a_process_is_exponential_however_often_it_is_looked_at(delay: float, looks: int) -> None:
    """One process with tau = 1 ms, after ``delay`` of it, in one step or in several."""
    n = 40_000
    state = flicker(FlickerNoise(0.02, 1e-3, 1e-3), n)
    before = (state.at(0) - 1) / 0.02
    for k in range(looks):
        after = (state.at(round(delay * 1e6 * (k + 1) / looks)) - 1) / 0.02
    tolerance = 4.5 / math.sqrt(n)
    assert float(before.var()) == pytest.approx(1.0, abs=1.5 * tolerance)
    assert float(after.var()) == pytest.approx(1.0, abs=1.5 * tolerance)
    assert float((before * after).mean()) == pytest.approx(math.exp(-delay), abs=1.5 * tolerance)


def test_all_processes_together_have_the_declared_variance_and_correlation() -> None:
    n, noise = 40_000, FlickerNoise(0.03, 1e-6, 1e-2)
    state = flicker(noise, n)
    a, b = (state.at(t) - 1 for t in (0, 20_000))
    expected = sum(math.exp(-20e-6 / tau) for tau in noise.tau_seconds) / 5
    assert float(a.std()) == pytest.approx(0.03, rel=0.02)
    assert float((a * b).mean()) / 0.03**2 == pytest.approx(expected, abs=0.03)


def test_the_spectrum_falls_as_one_over_f_within_its_band() -> None:
    """A periodogram, averaged over cells, on log-log axes: slope -1 in the band, flat below it."""
    cells, steps, dt = 128, 8192, 1e-6
    x = trace(flicker(FlickerNoise(0.05, 2e-6, 2e-4, 2), cells), steps, 1000) - 1
    power = torch.fft.rfft(x, dim=0).abs().square().mean(1)[1:] * dt / steps * 2
    f = torch.arange(1, len(power) + 1) / (steps * dt)

    def slope(low: float, high: float) -> float:
        inside = (f > low) & (f < high)
        u, v = f[inside].log(), power[inside].log()
        weight = 1 / f[inside]  # every decade counts alike
        mean_u, mean_v = (weight * u).sum() / weight.sum(), (weight * v).sum() / weight.sum()
        return float((weight * (u - mean_u) * (v - mean_v)).sum() / (weight * (u - mean_u) ** 2).sum())

    corner_low, corner_high = 1 / (2 * math.pi * 2e-4), 1 / (2 * math.pi * 2e-6)
    assert slope(1.5 * corner_low, corner_high / 1.5) == pytest.approx(-1.0, abs=0.12)
    assert abs(slope(0.0, corner_low / 3)) < 0.35


# -- telegraph noise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), [(1e-3, 1e-3), (3e-3, 1e-3)])
def test_a_trap_dwells_in_its_states_as_long_as_declared(high: float, low: float) -> None:
    """Exponential dwell times: mean and standard deviation are equal; occupancy is that of detailed balance."""
    noise = TelegraphNoise(0.1, share=1.0, tau_high_seconds=high, tau_low_seconds=low, spread_decades=0.0)
    dt, cells = 2e-5, 60
    x = trace(telegraph(noise, cells), 6000, 20_000)
    assert set(x.unique().tolist()) == {0.9, 1.0}
    occupied = x < 0.95
    share = low / (high + low)
    assert float(occupied.double().mean()) == pytest.approx(share, abs=0.03)
    for state, tau in ((True, low), (False, high)):
        lengths = []
        for c in range(cells):
            runs = torch.unique_consecutive(occupied[:, c], return_counts=True)
            lengths += [int(n) for s, n in zip(*runs, strict=True) if bool(s) == state][1:-1]
        dwell = dt * torch.tensor(lengths, dtype=torch.float64)
        # what a look a step shorter than the dwell times misses or cuts is of the order of dt / tau
        assert float(dwell.mean()) == pytest.approx(tau, rel=0.08)
        assert float(dwell.std()) == pytest.approx(tau, rel=0.1)


@pytest.mark.parametrize("looks", [1, 6])
def test_the_telegraph_forgets_at_its_rate_however_often_it_is_looked_at(looks: int) -> None:
    n = 60_000
    noise = TelegraphNoise(0.2, share=1.0, tau_high_seconds=3e-3, tau_low_seconds=1e-3, spread_decades=0.0)
    state = telegraph(noise, n)
    p, delay = noise.low_share, 0.5e-3
    before = ((1 - state.at(0)) / 0.2 - p) / math.sqrt(p * (1 - p))
    for k in range(looks):
        after = ((1 - state.at(round(delay * 1e9 * (k + 1) / looks))) / 0.2 - p) / math.sqrt(p * (1 - p))
    expected = math.exp(-delay * (1 / 3e-3 + 1 / 1e-3))
    assert float(after.mean()) == pytest.approx(0.0, abs=4.5 / math.sqrt(n))
    assert float((before * after).mean()) == pytest.approx(expected, abs=6 / math.sqrt(n))


def test_only_cells_with_a_trap_jump_and_traps_differ_in_speed() -> None:
    noise = TelegraphNoise(0.1, share=0.3, spread_decades=2.0)
    state = telegraph(noise, 20_000)
    ever_low = torch.zeros(20_000, dtype=torch.bool)
    for k in range(40):
        ever_low |= state.at(k * 200_000_000) < 0.95
    assert float(ever_low.double().mean()) == pytest.approx(0.3, abs=0.015)
    speed = state.speed.log10()
    assert float(speed.min()) == pytest.approx(-1.0, abs=0.01) and float(speed.max()) == pytest.approx(1.0, abs=0.01)


# -- on chips ----------------------------------------------------------------------------------------------------------


def chip_of(noise: Any, phase: float, cells: CellArray | None = STATIC, seed: int = 0) -> Any:
    net = eqprop.HopfieldNetwork.mlp(100, 60, 4, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    timing = Timing(phase_seconds=phase, write_seconds=0.0)
    return Substrate(cells=cells, fluctuations=(noise,), timing=timing).fabricate(net, seed=seed)


@pytest.mark.parametrize("cells", [None, STATIC])
@pytest.mark.parametrize("phase", [1e-6, 1e-4])
def test_two_phases_share_what_the_time_between_them_leaves(cells: CellArray | None, phase: float) -> None:
    noise = FlickerNoise(0.01, 1e-6, 1e-3)
    chip, calm = chip_of(noise, phase, cells), chip_of(FlickerNoise(0.0), phase, cells)
    x = torch.rand(2, 100, generator=seeded(1), dtype=torch.float64)
    found = []
    key = "input-hidden1"
    for one in (chip, calm):
        with torch.no_grad():
            one.drive(x)
            for k in range(2):
                one.begin_phase(k)
                found.append(one.connection(key).operand(back=False).clone())
    quiet = found[2]
    a, b = (found[k] - quiet for k in range(2))
    expected = sum(math.exp(-phase / tau) for tau in noise.tau_seconds) / 4
    assert float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()) == pytest.approx(expected, abs=0.05)


def test_the_error_of_the_gradient_follows_the_time_between_phases() -> None:
    """What the phases do not share has a variance of 1 - exp(-d / tau), and the error of the gradient with it."""
    net = network("chain-sigmoid")
    x, y = inputs(net), labels()
    rule = EquilibriumPropagation(beta=0.01, free=Sweeps(60), nudged=Sweeps(40))  # so that nothing else matters
    tau = 1e-3

    def flat(chip: eqprop.Network) -> Tensor:
        return torch.cat([g.flatten() for g in gradients(chip, rule, x, y).values()])

    truth = flat(net)

    def error(phase: float) -> float:
        total = 0.0
        for seed in range(10):
            noise = FlickerNoise(1e-3, tau, tau)
            substrate = Substrate(fluctuations=(noise,), timing=Timing(phase_seconds=phase))
            total += match(flat(substrate.fabricate(net, seed=seed)), truth).relative_error ** 2
        return math.sqrt(total)

    near, far = 1e-6, 1e-4
    expected = math.sqrt(math.expm1(-far / tau) / math.expm1(-near / tau))
    assert error(far) / error(near) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("noise", [FlickerNoise(0.05), TelegraphNoise(0.2, 0.5, 2e-6, 2e-6)])
def test_slow_noise_goes_on_from_a_file_and_is_that_of_the_chip(noise: Any) -> None:
    def made(seed: int = 4) -> Any:
        return Substrate(cells=CellArray("pcm"), fluctuations=(noise,)).fabricate(network("chain-sigmoid"), seed=seed)

    chip, resumed, other, float_chip = made(), made(), made(5), None
    x, y = inputs(chip), labels()
    rule = EquilibriumPropagation(beta=0.2, free=Sweeps(10), nudged=Sweeps(10))
    key = "hidden1-hidden2"

    def step(one: Any, rows: slice = slice(None)) -> Tensor:
        one.zero_grad()
        rule.backward(one, x[rows].to(one.connection(key).weight.dtype), y[rows])
        factors: list[Tensor] = one.arrays[key].fluctuations.factors(0, one.arrays[key].conductance)
        return factors[0].clone()

    float_chip = Substrate(cells=CellArray("pcm"), fluctuations=(noise,)).fabricate(
        network("chain-sigmoid").float(), seed=4
    )
    before = step(chip)
    torch.testing.assert_close(step(float_chip, slice(0, 2)).double(), before, rtol=1e-5, atol=1e-6)
    assert not torch.equal(step(other), before)
    resumed.load_state_dict({n: v.clone() for n, v in chip.state_dict().items()})
    after = step(chip)
    assert not torch.equal(after, before)
    assert torch.equal(step(resumed), after)
    ends = [one.state_dict().values() for one in (chip, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_slow_noise_is_drawn_once_a_relaxation() -> None:
    noises = (FlickerNoise(0.01), TelegraphNoise(0.1))
    chip: Any = Substrate(fluctuations=noises).fabricate(network("chain-sigmoid"))
    rule = EquilibriumPropagation(beta=0.2, free=Sweeps(10), nudged=Sweeps(10))
    rule.backward(chip, inputs(chip), labels())
    for n in range(2):
        assert chip.streams.drawn[f"fluctuation{n}/hidden1-hidden2.step"] == 3
    still: Any = Substrate(fluctuations=(FlickerNoise(0.0), TelegraphNoise(0.1, share=0.0))).fabricate(
        network("chain-sigmoid")
    )
    assert still.stacks_phases


# -- settings ----------------------------------------------------------------------------------------------------------


def test_slow_noise_survives_a_file_and_says_what_it_is() -> None:
    substrate = Substrate(fluctuations=(FlickerNoise(0.02, 1e-6, 1e-2), TelegraphNoise(0.1, 0.05)))
    assert Substrate.from_spec(json.loads(json.dumps(substrate.spec()))) == substrate
    text = substrate.describe()
    assert "1/f noise of 2 %, 5 processes with correlation times 1e-06 to 0.01 s" in text
    assert "5 % of the cells jump by 10 %, 0.001 s up and 0.001 s down" in text


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FlickerNoise(-0.1), "relative_std: got -0.1"),
        (lambda: FlickerNoise(0.1, 0.0), "tau_min_seconds: got 0.0"),
        (lambda: FlickerNoise(0.1, 1e-3, 1e-6), "tau_max_seconds: got 1e-06"),
        (lambda: FlickerNoise(0.1, processes_per_decade=0), "processes_per_decade: got 0"),
        (lambda: TelegraphNoise(1.5), "relative_amplitude: got 1.5"),
        (lambda: TelegraphNoise(0.1, share=2.0), "share: got 2.0"),
        (lambda: TelegraphNoise(0.1, tau_low_seconds=0.0), "tau_low_seconds: got 0.0"),
        (
            lambda: Substrate(fluctuations=(0.1,)),  # type: ignore[arg-type]
            "Substrate.fluctuations",
        ),
    ],
)
def test_impossible_slow_noise_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
