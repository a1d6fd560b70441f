"""The same liquid in brian2 and norse spikes at the same times; skipped with a word where they are not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import snn
from eqprop import ConfigError, DataError
from tests.helpers import seeded

D = torch.float64
STEPS = 400
needs_brian2 = pytest.mark.skipif(find_spec("brian2") is None, reason="brian2 is not installed")
needs_norse = pytest.mark.skipif(find_spec("norse") is None, reason="norse is not installed")


def small(neuron: snn.Neuron, synapse: snn.Synapse, scale: float = 1.0, **options: Any) -> snn.Liquid:
    """100 neurons, 30 inputs."""
    g = seeded(1)
    w = torch.randn(100, 100, generator=g, dtype=D).mul_(0.3 * scale).fill_diagonal_(0.0)
    entries = torch.randn(100, 30, generator=g, dtype=D).mul_(0.8 * scale)
    return snn.Liquid(neuron, w, entries, synapse=synapse, **options)


def half(positive: bool) -> Tensor:
    """Delays, or types of neurons."""
    return torch.randint(0, 6, (100, 100), generator=seeded(2)) if positive else torch.arange(100) < 80


def norse_like() -> snn.Liquid:
    return small(snn.NorseLIF(), snn.Exponential(5e-3, method="euler"))


PLAIN: dict[str, Any] = {"tau_v_seconds": 0.02, "refractory_seconds": 3e-3}
# the liquid and the rate of its input
LIQUIDS: dict[str, tuple[Callable[[], snn.Liquid], float]] = {
    "nalsm1000": (lambda: snn.preset("nalsm1000", weight=1.0, dtype=D), 0.03),
    "maass2002": (lambda: snn.preset("maass2002", dtype=D), 0.02),
    "rram200": (lambda: snn.preset("rram200", weight=0.2, dtype=D), 0.1),
    "izhikevich2003": (lambda: snn.preset("izhikevich2003", dtype=D), 0.05),
    "norse": (norse_like, 0.1),
    "exact-frozen": (lambda: small(snn.LIF(**PLAIN), snn.Exponential(5e-3)), 0.1),
    "exact-blocked": (
        lambda: small(snn.LIF(**PLAIN, refractoriness="blocked"), snn.Exponential(5e-3)),
        0.1,
    ),
    "nearest-delayed": (
        lambda: small(snn.NalsmLIF(threshold=2.0), snn.NearestSpike(2e-3), delay_steps=half(True)),
        0.1,
    ),
    "double-exponential": (lambda: small(snn.NorseLIF(), snn.DoubleExponential(), 10.0, delay_steps=half(True)), 0.1),
    "izhikevich-euler": (lambda: small(snn.Izhikevich(scheme="euler"), snn.Delta(), 15.0), 0.1),
}


@needs_brian2
@pytest.mark.parametrize("name", LIQUIDS)
def test_brian2_spikes_at_the_same_times(name: str) -> None:
    make, rate = LIQUIDS[name]
    liquid = make()
    x = torch.rand(STEPS, liquid.inputs, generator=seeded(3)) < rate
    noisy = liquid.noise is None
    run = liquid.run(x[None], record=snn.Record(spikes=True), generator=seeded(4) if noisy else None)
    other = snn.to_brian2(liquid)
    found = other.run(x, generator=seeded(4) if noisy else None)
    assert int(found.sum()) > 100
    assert int((found != run.recorded("spikes")[0]).sum()) == 0


@needs_brian2
def test_brian2_runs_again_from_rest_and_sees_currents() -> None:
    liquid = norse_like()
    x = torch.rand(60, 30, generator=seeded(3)) < 0.1
    currents = torch.rand(60, 100, generator=seeded(4), dtype=D)
    other = snn.to_brian2(liquid)
    for part in (None, currents, None):
        run = liquid.run(x[None], currents=None if part is None else part[None], record=snn.Record(spikes=True))
        assert torch.equal(other.run(x, currents=part), run.recorded("spikes")[0])


@needs_brian2
def test_brian2_leaves_the_keyboard_interrupt_to_others() -> None:
    code = (
        "import signal; before = signal.getsignal(signal.SIGINT); import snn; "
        "snn.to_brian2(snn.preset('rram200', seed=0)); print(signal.getsignal(signal.SIGINT) is before)"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True"]


@needs_brian2
def test_brian2_keeps_its_settings_and_refuses_what_does_not_fit() -> None:
    liquid = norse_like()
    other = snn.to_brian2(liquid)
    import brian2

    assert brian2.prefs["codegen.target"] == "auto"
    with pytest.raises(DataError, match=r"inputs: got shape \(1, 60, 30\), needed"):
        other.run(torch.zeros(1, 60, 30))
    with pytest.raises(DataError, match="other than 0 and 1"):
        other.run(torch.full((60, 30), 0.5))
    with pytest.raises(DataError, match="got neither"):
        other.run()
    with pytest.raises(ConfigError, match="target: got 'c'"):
        snn.to_brian2(liquid, target="c")


@needs_norse
@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_norse_spikes_at_the_same_times(dtype: torch.dtype) -> None:
    liquid = norse_like().to(dtype)
    x = torch.rand(3, STEPS, 30, generator=seeded(3)) < 0.1
    found = snn.to_norse(liquid).run(x)
    expected = liquid.run(x, record=snn.Record(spikes=True)).recorded("spikes")
    assert int(found.sum()) > 1000 and int((found != expected).sum()) == 0


@needs_norse
def test_norse_takes_what_it_has_a_step_for() -> None:
    liquid = small(snn.NalsmLIF(), snn.NearestSpike())
    with pytest.raises(ConfigError, match="to_norse: got NalsmLIF.*timing_only=True"):
        snn.to_norse(liquid)
    with pytest.raises(ConfigError, match="to_norse"):
        snn.to_norse(small(snn.NorseLIF(), snn.Exponential(5e-3)))  # decays by exponentials
    made = snn.to_norse(liquid, timing_only=True)
    assert made.run(torch.ones(2, 5, 30)).shape == (2, 5, 100)
    with pytest.raises(DataError, match="needed .batch, time, 30"):
        made.run(torch.ones(2, 5, 29))
