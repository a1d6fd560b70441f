"""Resistive liquids: laws of the weights, voltage and sparsity, read noise and how long a draw of it lasts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import hardware
import snn
from eqprop import ConfigError
from tests.helpers import seeded

D = torch.float64
LAW = hardware.device("random-switching").formation
N = 400


def weights(seed: int = 0, **options: Any) -> snn.ResistiveWeights:
    return snn.resistive_weights((N, N), std=0.07, generator=seeded(seed), **options)


@pytest.mark.parametrize("variability", [None, 0.0, 0.5])
@pytest.mark.parametrize("formed", [0.1, 0.5, 0.9])
def test_weights_have_the_moments_of_their_law(formed: float, variability: float | None) -> None:
    made = weights(formed=formed, variability=variability)
    w = made.weight
    # five standard errors; the fourth moment of a difference is at most a few variances over p (1 - p)
    tolerance = 5.0 / N * math.sqrt(1.0 / (2.0 * formed * (1.0 - formed)) + 2.0)
    assert float(w.mean()) == pytest.approx(0.0, abs=5 * 0.07 / N)
    # a normal law that ends at the pristine conductance is a little narrower: 2 % of cells at a variability of 50 %
    slack = 0.03 if variability == 0.5 else 0.0
    assert float(w.std()) == pytest.approx(0.07, rel=tolerance + slack)
    assert LAW is not None
    spread = LAW.std_siemens / LAW.mean_siemens if variability is None else variability
    cells = made.plus_siemens[made.plus_siemens > LAW.pristine_siemens]
    assert float(cells.std() / cells.mean()) == pytest.approx(spread, rel=0.1 if variability == 0.5 else 0.03, abs=1e-9)
    assert torch.equal(w, made.per_siemens * (made.plus_siemens - made.minus_siemens))


@pytest.mark.parametrize("volts", [3.2, 3.4, 3.5, 3.7])
def test_the_voltage_sets_the_sparsity(volts: float) -> None:
    """A weight is exactly 0 where neither cell broke down: (1 - p)^2, p = Phi((V - mean) / std)."""
    breakdown = snn.Breakdown(volts, mean_volts=3.5, std_volts=0.2)
    p = 0.5 * (1.0 + math.erf((volts - 3.5) / 0.2 / math.sqrt(2.0)))
    assert breakdown.share == pytest.approx(p, abs=1e-12)
    made = weights(formed=breakdown)
    w = made.weight
    one = made.per_siemens * 0.5 * 142.473e-6  # half a formed cell
    expected = {"zero": (1 - p) ** 2, "plus": p * (1 - p), "minus": p * (1 - p)}
    found = {"zero": w == 0, "plus": w > one, "minus": w < -one}
    if p**2 < 0.3:  # where both are formed a difference of half a cell is two standard deviations away
        for name, share in expected.items():
            slack = 0.022 * p**2 if name != "zero" else 0.0
            assert float(found[name].double().mean()) == pytest.approx(
                share, abs=5 * math.sqrt(share * (1 - share)) / N + slack
            ), name
    assert float(found["zero"].double().mean()) == pytest.approx((1 - p) ** 2, abs=5 * 0.5 / N)


def test_one_seed_is_one_chip() -> None:
    first, again, other = (snn.rram_liquid(seed=s) for s in (3, 3, 4))
    for a, b, c in zip(first.buffers(), again.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b) and (a.dim() < 2 or not torch.equal(a, c))
    double = snn.rram_liquid(seed=3, dtype=D)
    torch.testing.assert_close(double.weight.float(), first.weight)
    preset = snn.preset("rram200", seed=3)
    assert torch.equal(preset.weight, first.weight) and preset.weight.shape == (200, 200) and preset.inputs == 256
    noisier = snn.rram_liquid(seed=3, variability=0.1)
    assert torch.equal(noisier.weight == 0, first.weight == 0)  # the same cells broke down


# -- read noise --------------------------------------------------------------------------------------------------------


def silent(scope: str, noise: float = 0.1, neurons: int = 50) -> snn.ResistiveLiquid:
    """Neurons that never fire and forget at once, so that a voltage is the current of its step."""
    made = snn.rram_liquid(neurons=neurons, inputs=20, read_noise=noise, scope=scope, dtype=D)
    made.neuron = snn.StepLIF(decay=0.0, threshold=1e9)
    return made


def currents(liquid: snn.ResistiveLiquid, x: Tensor, seed: int = 1, **options: Any) -> Tensor:
    """Deviations of the currents from those without noise, ``[batch, time, neurons]``."""
    made: dict[str, Any] = {"record": snn.Record(voltage=True), "health": "ignore", "generator": seeded(seed)}
    run = liquid.run(x, **made | options)
    assert liquid.input_weight is not None
    return run.recorded("voltage") - x.to(D) @ liquid.input_weight.T


def pattern(batch: int = 40, steps: int = 30) -> Tensor:
    """The same input in every step of every sample."""
    return (torch.rand(20, generator=seeded(2)) < 0.5).expand(batch, steps, 20)


@pytest.mark.parametrize("scope", ["step", "sample", "run"])
def test_a_draw_of_read_noise_lasts_for_its_scope(scope: str) -> None:
    liquid = silent(scope)
    off = currents(liquid, pattern())
    over_time, over_samples = (off.std(dim).mean() / off.std(unbiased=False) for dim in (1, 0))
    held_time, held_samples = scope != "step", scope == "run"
    assert (float(over_time) < 1e-9) == held_time and (float(over_samples) < 1e-9) == held_samples
    if scope == "step":  # independent from step to step and sample to sample
        flat = (off / off.std((0, 1))).flatten(0, 1)
        assert abs(float((flat[1:] * flat[:-1]).mean())) < 5 / math.sqrt(flat.numel())
    assert torch.equal(off, currents(liquid, pattern())) and not torch.equal(off, currents(liquid, pattern(), seed=2))


@pytest.mark.parametrize("scope", ["step", "sample"])
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_the_current_scatters_as_the_cells_that_are_read(scope: str, noise: float) -> None:
    """Against the sum over cells: ``noise k sqrt(sum (G+^2 + G-^2))`` of the inputs that spike."""
    liquid = silent(scope, noise)
    x = pattern(400, 2)
    found = currents(liquid, x)[:, 1].std(0)
    g = seeded(0)
    chip = [snn.resistive_weights((50, n), std=0.07, generator=g) for n in (50, 20)][1]
    cells = (chip.plus_siemens.square() + chip.minus_siemens.square()) @ x[0, 0].to(D)
    expected = noise * chip.per_siemens * cells.sqrt()
    torch.testing.assert_close(found, expected, rtol=5 / math.sqrt(2 * 400), atol=1e-12)


@pytest.mark.parametrize("scope", ["step", "sample", "run"])
def test_recurrent_weights_are_read_with_noise_too(scope: str) -> None:
    """All neurons fire in every step: the current of the next is that of the sum of their rows."""
    liquid = silent(scope)
    liquid.neuron = snn.StepLIF(decay=0.0, threshold=1e-9, gain=1.0)
    x = torch.zeros(300, 3, 20)
    push = torch.full((300, 3, 50), 100.0, dtype=D)
    run = liquid.run(x, currents=push, record=snn.Record(spikes=True), health="ignore", generator=seeded())
    assert bool(run.recorded("spikes").all())
    # voltages are reset by spikes, so that currents are read by a neuron that never fires
    liquid.neuron = snn.StepLIF(decay=0.0, threshold=1e9)
    state = run.state
    after = liquid.run(
        x[:, :1], state=state, record=snn.Record(voltage=True), health="ignore", generator=seeded(5)
    ).recorded("voltage")[:, 0]
    off = after - liquid.weight.sum(1)
    expected = 0.1 * liquid.scale.square().sum(1).sqrt()
    if scope == "run":
        assert float(off.std(0).max()) < 1e-9 and float((off[0] / expected).std()) == pytest.approx(1.0, abs=0.5)
    else:
        torch.testing.assert_close(off.std(0), expected, rtol=5 / math.sqrt(600), atol=1e-12)


@pytest.mark.parametrize("scope", ["step", "sample", "run"])
def test_a_stream_goes_on_with_its_draws(scope: str) -> None:
    liquid = snn.rram_liquid(weight=0.3, neurons=64, read_noise=0.2, scope=scope, dtype=D)
    x = torch.rand(4, 60, 256, generator=seeded(3)) < 0.05
    train = snn.Record(spikes=True)
    whole, small = (liquid.run(x, record=train, generator=seeded(1)) for _ in range(2))
    assert torch.equal(whole.recorded("spikes"), small.recorded("spikes")) and float(whole.counts.sum()) > 100
    if scope != "step":  # whose draws are made a chunk at a time, for the liquid and then for the input
        g = seeded(1)
        first = liquid.run(x[:, :20], record=train, generator=g)
        second = liquid.run(x[:, 20:], record=train, generator=g, state=first.state)
        assert torch.equal(torch.cat([first.counts, second.counts]).sum(0), whole.counts.sum(0))
    quiet = snn.rram_liquid(weight=0.3, neurons=64, dtype=D).run(x, record=train)
    assert not torch.equal(quiet.counts, whole.counts)


def test_no_read_noise_is_a_plain_liquid() -> None:
    made = snn.rram_liquid(weight=0.3, dtype=D)
    x = torch.rand(2, 60, 256, generator=seeded(3)) < 0.05
    plain = snn.Liquid(**{k: v for k, v in made.settings().items()})
    assert torch.equal(made.run(x).counts, plain.run(x).counts) and made.fixed and not made.draws
    made.read_noise = 0.02
    assert made.draws and not made.fixed
    with pytest.raises(ConfigError, match="generator: got None"):
        made.run(x)


BAD: dict[str, Any] = {
    "kind: got 'pcm'": lambda: weights(kind="pcm"),
    "formed: got a share of 1 and no variability": lambda: weights(formed=1.0, variability=0.0),
    "RandomFormation.share": lambda: weights(formed=1.5),
    "Breakdown.std_volts": lambda: snn.Breakdown(3.0, 3.0, 0.0),
    "variability": lambda: weights(variability=-0.1),
    "generator": lambda: snn.resistive_weights((2, 2), std=1.0, generator=None),  # type: ignore[arg-type]
    "scope: got 'cell'": lambda: snn.rram_liquid(scope="cell"),
    "read_noise": lambda: snn.rram_liquid(read_noise=-0.1),
    "delay_steps": lambda: snn.ResistiveLiquid(
        snn.StepLIF(), weights(), weights(), synapse=snn.Delta(), delay_steps=torch.zeros(N, N, dtype=torch.long)
    ),
    "adds spikes up": lambda: snn.ResistiveLiquid(snn.StepLIF(), weights(), weights(), synapse=snn.NearestSpike()),
    "needed one time": lambda: snn.ResistiveLiquid(
        snn.StepLIF(), weights(), weights(), synapse=snn.Exponential((1e-3, 2e-3))
    ),
    "to_brian2: got a ResistiveLiquid": lambda: snn.to_brian2(snn.rram_liquid(read_noise=0.1)),
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BAD[text]()


def test_a_device_of_the_users_own_may_be_given() -> None:
    kind = hardware.device("random-switching")
    assert kind.formation is not None
    mine = replace(kind, formation=replace(kind.formation, share=0.2))
    assert float((weights(kind=mine).plus_siemens > 1e-6).double().mean()) == pytest.approx(0.2, abs=0.01)
