"""Weights scaled to a branching factor or to the mean-field weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import snn
from eqprop import ConfigError, ConvergenceError
from tests.helpers import seeded


def liquid(weight: float = 2.0) -> snn.Liquid:
    """NALSM's on a grid of 5 x 5 x 5."""
    g = seeded(7)
    wiring = snn.Grid((5, 5, 5)).wire(g)
    entries = snn.input_mask(125, 60, 0.15, g) * snn.random_signs((125, 60), g) * weight
    return snn.Liquid(
        snn.NalsmLIF(), wiring.mask * wiring.signs() * weight, entries, synapse=snn.NearestSpike(), relay=snn.Relay()
    )


def events() -> Tensor:
    return torch.rand(10, 150, 60, generator=seeded(1)) < 0.1


def branching(made: snn.Liquid) -> float:
    spikes = made.run(events(), record=snn.Record(spikes=True), health="ignore").recorded("spikes")
    return snn.branching_factor(spikes, made.synapses)


@pytest.mark.parametrize("start", [0.2, 20.0])
@pytest.mark.parametrize("weights", ["all", "recurrent"])
def test_a_calibrated_liquid_branches_as_asked(start: float, weights: str) -> None:
    made = liquid() if weights == "recurrent" else liquid(start)
    before, entries = made.weight.clone(), made.input_weight
    assert entries is not None
    entries = entries.clone()
    if weights == "recurrent":
        made.weight.mul_(start / 2.0)
        before = made.weight.clone()
    done = snn.calibrate(made, events(), branching=0.8, weights=weights, tolerance=0.03)
    assert abs(branching(made) - 0.8) <= 0.03 and done.branching == pytest.approx(branching(made))
    torch.testing.assert_close(made.weight, before * done.scale)
    torch.testing.assert_close(made.input_weight, entries * done.scale if weights == "all" else entries)


def test_a_failed_calibration_leaves_the_weights_and_says_what_it_saw() -> None:
    made = liquid()
    before = made.weight.clone()
    with pytest.raises(ConvergenceError, match=r"got branching factors .* at 1.*needed 50 within"):
        snn.calibrate(made, events(), branching=50.0)
    assert torch.equal(made.weight, before)
    with pytest.raises(ConfigError, match="weights: got 'input'"):
        snn.calibrate(made, events(), weights="input")


def test_the_critical_weight_is_that_of_mean_field_theory() -> None:
    """``(theta - 2 I A (tau + 1)) / (beta N)``."""
    found = snn.critical_weight(threshold=20.0, in_degree=16.0, mean_input=0.5, amplitude=2.0, refractory_steps=2)
    assert found == pytest.approx((20.0 - 2 * 0.5 * 2.0 * 3) / 16.0)
    with pytest.raises(ConfigError, match="the input alone reaches the threshold"):
        snn.critical_weight(threshold=1.0, in_degree=16.0, mean_input=1.0)


def test_mean_field_calibration_sets_the_mean_size_of_weights() -> None:
    made = liquid()
    assert made.input_weight is not None
    made.input_weight.abs_()
    snn.calibrate_mean_field(made, events() & False)
    count = int(made.synapses.sum())
    assert float(made.weight.abs().sum()) / count == pytest.approx(20.0 / (count / 125), rel=1e-5)
    x = events() & (torch.rand(10, 150, 60, generator=seeded(2)) < 0.1)
    snn.calibrate_mean_field(made, x)
    arriving = float((x.float().mean((0, 1)) @ made.input_weight.T).mean())
    wanted = (20.0 - 2 * arriving * 3) / (count / 125)
    assert float(made.weight.abs().sum()) / count == pytest.approx(wanted, rel=0.01)
    with pytest.raises(ConfigError, match="needed one threshold"):
        snn.calibrate_mean_field(snn.preset("izhikevich2003"), torch.zeros(1, 5, 1))


def test_an_input_that_reaches_the_threshold_is_told_what_to_write_instead() -> None:
    made = snn.preset("maass2002")
    with pytest.raises(ConfigError, match=r"reaches the threshold; write snn.calibrate\(liquid, inputs\)"):
        snn.calibrate_mean_field(made, torch.ones(1, 20, 1))


def test_a_calibration_below_the_noise_names_the_noise() -> None:
    made = snn.Liquid(snn.StepLIF(), torch.zeros(40, 40), torch.ones(40, 1), synapse=snn.Delta(), noise=4.0)
    made.weight.fill_(0.01)
    with pytest.raises(ConvergenceError, match="its own noise, .*write a larger branching, or a liquid with less"):
        snn.calibrate(made, torch.zeros(5, 150, 1), branching=0.1)
    with pytest.raises(ConvergenceError, match="more or stronger inputs"):
        snn.calibrate(made, torch.zeros(5, 150, 1), branching=50.0, max_runs=3)


@pytest.mark.parametrize(("weights", "wanted"), [("all", 0.8), ("recurrent", 1.45)])
def test_read_noise_of_cells_is_scaled_along_with_their_weights(weights: str, wanted: float) -> None:
    made = snn.rram_liquid(seed=1, weight=0.3, inputs=60, read_noise=0.1)
    assert made.input_weight is not None
    before = [t.clone() for t in (made.weight, made.scale, made.input_weight, made.input_scale)]
    found = snn.calibrate(made, events(), branching=wanted, tolerance=0.06, weights=weights)
    entries = found.scale if weights == "all" else 1.0
    assert abs(found.scale - 1.0) > 0.05
    after = (made.weight, made.scale, made.input_weight, made.input_scale)
    for then, now, scale in zip(before, after, (found.scale, found.scale, entries, entries), strict=True):
        assert torch.equal(now, then * scale)


def test_a_calibration_that_fails_leaves_read_noise_as_it_was() -> None:
    made = snn.rram_liquid(seed=1, weight=0.3, inputs=60, read_noise=0.1)
    before = made.scale.clone()
    with pytest.raises(ConvergenceError):
        snn.calibrate(made, events(), branching=0.8, tolerance=1e-6, max_runs=3)
    assert torch.equal(made.scale, before)


def test_the_mean_field_scales_read_noise_too() -> None:
    made = snn.rram_liquid(seed=1, weight=0.3, inputs=60, read_noise=0.1)
    before = made.scale.clone()
    found = snn.calibrate_mean_field(made, torch.zeros_like(events()))
    assert torch.allclose(made.scale, before * found.scale) and found.scale != 1.0
