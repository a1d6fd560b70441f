"""Every neuron and synapse against a transcription of its equations, one neuron after another, in plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import snn
from eqprop import ConfigError
from tests.helpers import seeded

D = torch.float64
NEURONS, INPUTS, STEPS = 40, 15, 400
Spikes = np.ndarray


def weights(scale: float = 1.0, input_scale: float = 1.0, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse weights that obey Dale's law, the first 30 neurons excitatory; input weights of any sign; the types."""
    g = seeded(seed)
    excitatory = torch.arange(NEURONS) < 30
    w = torch.rand(NEURONS, NEURONS, generator=g, dtype=D) * (torch.rand(NEURONS, NEURONS, generator=g) < 0.2)
    w = (w * (excitatory.to(D) * 2 - 1) * scale).fill_diagonal_(0.0)
    return w, torch.randn(NEURONS, INPUTS, generator=g, dtype=D) * input_scale, excitatory


def events(rate: float = 0.1, seed: int = 4, inputs: int = INPUTS) -> Tensor:
    return torch.rand(2, STEPS, inputs, generator=seeded(seed)) < rate


def ages(last: np.ndarray, t: int) -> np.ndarray:
    return np.minimum(t - last, 100)


# -- transcriptions: one sample, spikes [time, inputs] -> spikes [time, neurons] ---------------------------------------


def nalsm(w: np.ndarray, w_in: np.ndarray, x: Spikes, n: Any, tau: float, relay: bool) -> Spikes:
    """Synapses that know the age of the last spike; input neurons with a voltage where there are relays."""
    keep, c = 1.0 / (n.tau_v_seconds * 1e3), len(w)
    v, wait, last = np.zeros(c), np.zeros(c), np.full(c, -(10**6))
    v_in, wait_in, last_in = np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.full(x.shape[1], -(10**6))
    spikes = np.zeros((len(x), c), bool)
    for t in range(len(x)):
        s = (v >= n.threshold) & (wait <= 0)
        s_in = (v_in >= n.threshold) & (wait_in <= 0) if relay else x[t]
        v[s], v_in[s_in] = n.reset, n.reset
        spikes[t] = s
        last[s], last_in[s_in] = t, t
        current = w @ np.exp(-ages(last, t) / tau) + w_in @ np.exp(-ages(last_in, t) / tau)
        v = v + current - v * keep
        v_in = v_in - v_in * keep + 100.0 * x[t]
        wait = np.where(s, n.refractory_steps, wait - 1)
        wait_in = np.where(s_in, n.refractory_steps, wait_in - 1)
    return spikes


def lif(w: np.ndarray, w_in: np.ndarray, x: Spikes, n: snn.LIF, excitatory: np.ndarray) -> Spikes:
    """Synaptic times 3 ms and 6 ms by the presynaptic type, of the input by the postsynaptic; refractory 4 and 2 ms."""
    c = len(w)
    v, free_at = np.full(c, 0.3), np.full(c, -1)
    period = np.where(excitatory, 4, 2)
    i_e, i_i, i_in, s = np.zeros(c), np.zeros(c), np.zeros(c), np.zeros(c, bool)
    spikes = np.zeros((len(x), c), bool)
    for t in range(len(x)):
        i_e += w[:, excitatory] @ s[excitatory]
        i_i += w[:, ~excitatory] @ s[~excitatory]
        i_in += w_in @ x[t]
        aim = 0.1 + 2.0 * (i_e + i_i + i_in + 0.05)
        new = aim + (v - aim) * np.exp(-1.0 / 20.0)
        able = t >= free_at
        v = new if n.refractoriness == "blocked" else np.where(able, new, v)
        s = (v > 1.0) & able
        v = np.where(s, 0.2, v)
        free_at = np.where(s, t + period, free_at)
        i_e, i_i, i_in = i_e * np.exp(-1 / 3), i_i * np.exp(-1 / 6), i_in * np.exp(-1 / np.where(excitatory, 3, 6))
        spikes[t] = s
    return spikes


def norse(w: np.ndarray, w_in: np.ndarray, x: Spikes) -> Spikes:
    v, i, z = np.zeros(len(w)), np.zeros(len(w)), np.zeros(len(w))
    spikes = np.zeros((len(x), len(w)), bool)
    for t in range(len(x)):
        jump = i + w_in @ x[t] + w @ z
        v = v + 0.1 * (0.0 - v + jump)
        i = jump - 0.2 * jump
        z = (v - 1.0 > 0).astype(float)
        v = (1 - z) * v
        spikes[t] = z > 0
    return spikes


def by_step(w: np.ndarray, w_in: np.ndarray, x: Spikes) -> Spikes:
    u, s = np.zeros(len(w)), np.zeros(len(w))
    spikes = np.zeros((len(x), len(w)), bool)
    for t in range(len(x)):
        u = 0.9 * u * (1 - s) + 0.5 * (w_in @ x[t] + w @ s)
        s = (u > 1.0).astype(float)
        spikes[t] = s > 0
    return spikes


def izhikevich(w: np.ndarray, w_in: np.ndarray, x: Spikes, n: Any, d: np.ndarray) -> Spikes:
    v, spikes = np.full(len(w), -65.0), np.zeros((len(x), len(w)), bool)
    u = n.b * v
    for t in range(len(x)):
        fired = v >= 30
        spikes[t] = fired
        v[fired] = n.c
        u[fired] += d[fired]
        current = w_in @ x[t] + w[:, fired].sum(1)
        if n.scheme == "euler":
            slope, recovery = 0.04 * v**2 + 5 * v + 140 - u + current, n.a * (n.b * v - u)
            v, u = v + slope, u + recovery
            continue
        for _ in range(2):
            v = v + 0.5 * (0.04 * v**2 + 5 * v + 140 - u + current)
        u = u + n.a * (n.b * v - u)
    return spikes


def plastic(w: np.ndarray, w_in: np.ndarray, x: Spikes, p: dict[str, np.ndarray], delay: np.ndarray | None) -> Spikes:
    """Release by the gap between a synapse's arrivals, with delays, into exponential currents of 5 ms; NorseLIF."""
    c = len(w)
    v, i = np.zeros(c), np.zeros(c)
    use, rest, before = np.zeros((c, c)), np.ones((c, c)), np.zeros((c, c))
    spikes = np.zeros((len(x) + 1, c), bool)  # the last row stays empty: it stands for steps before the first
    for t in range(len(x)):
        for post, pre in zip(*np.nonzero(w), strict=True):
            sent = t - 1 - (0 if delay is None else int(delay[post, pre]))
            if sent < 0 or not spikes[sent, pre]:
                continue
            e = (post, pre)
            gap = (t - before[e]) * 1e-3
            use[e] *= np.exp(-gap / p["facilitation_seconds"][e])
            rest[e] = 1 + (rest[e] - 1) * np.exp(-gap / p["recovery_seconds"][e])
            use[e] = p["use"][e] + use[e] * (1 - p["use"][e])
            i[post] += w[e] * use[e] * rest[e]
            rest[e] *= 1 - use[e]
            before[e] = t
        i += w_in @ x[t]
        v = v + 0.1 * (i - v)
        spikes[t] = v > 1.0
        v[spikes[t]] = 0.0
        i *= np.exp(-1.0 / 5.0)
    return spikes[:-1]


@dataclass
class Case:
    """A liquid and the transcription of it."""

    liquid: snn.Liquid
    reference: Callable[[Spikes], Spikes]
    rate: float = 0.1


def arrays(w: Tensor, w_in: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return w.numpy(), w_in.numpy()


def nalsm_case(relay: bool) -> Case:
    w, w_in, e = weights(4.0, 8.0)
    neuron, tau = snn.NalsmLIF(), 1.0 if relay else 2.5
    made = snn.Liquid(
        neuron,
        w,
        w_in,
        synapse=snn.NearestSpike(tau * 1e-3),
        relay=snn.Relay(2) if relay else None,
        excitatory=e,
    )
    return Case(made, lambda x: nalsm(*arrays(w, w_in), x, neuron, tau, relay), 0.3 if relay else 0.1)


def lif_case(refractoriness: str) -> Case:
    w, w_in, e = weights(0.3, 0.3)
    neuron = snn.LIF(0.02, 1.0, 0.2, 0.1, 2.0, 0.05, (4e-3, 2e-3), 0.3, refractoriness)
    made = snn.Liquid(neuron, w, w_in, synapse=snn.Exponential((3e-3, 6e-3)), excitatory=e)
    return Case(made, lambda x: lif(*arrays(w, w_in), x, neuron, e.numpy()))


def norse_case() -> Case:
    w, w_in, _ = weights(2.0, 1.0)
    made = snn.Liquid(snn.NorseLIF(), w, w_in, synapse=snn.Exponential(5e-3, method="euler"))
    return Case(made, lambda x: norse(*arrays(w, w_in), x))


def step_case() -> Case:
    w, w_in, _ = weights(2.0, 1.0)
    made = snn.Liquid(snn.StepLIF(0.9, 1.0, 0.5), w, w_in, synapse=snn.Delta())
    return Case(made, lambda x: by_step(*arrays(w, w_in), x))


def izhikevich_case(scheme: str) -> Case:
    w, w_in, _ = weights(5.0, 8.0)
    neuron = snn.Izhikevich(scheme=scheme)
    d = torch.linspace(2.0, 8.0, NEURONS, dtype=D)
    made = snn.Liquid(neuron, w, w_in, synapse=snn.Delta(), own={"d": d})
    return Case(made, lambda x: izhikevich(*arrays(w, w_in), x, neuron, d.numpy()), 0.3)


def plastic_case(delays: bool, plasticity: bool = True) -> Case:
    w, w_in, _ = weights(6.0 if plasticity else 1.0, 1.5)
    g = seeded(5)
    p = {
        "use": 0.1 + 0.8 * torch.rand(w.shape, generator=g, dtype=D),
        "recovery_seconds": 0.02 + 0.3 * torch.rand(w.shape, generator=g, dtype=D),
        "facilitation_seconds": 0.02 + 0.3 * torch.rand(w.shape, generator=g, dtype=D),
    }
    if not plasticity:  # all of a resource that is back at once
        p = {"use": torch.ones_like(w), "recovery_seconds": 1e-9 + 0 * w, "facilitation_seconds": 1.0 + 0 * w}
    delay = torch.randint(0, 7, w.shape, generator=g) if delays else None
    made = snn.Liquid(
        snn.NorseLIF(),
        w,
        w_in,
        synapse=snn.Exponential(5e-3),
        delay_steps=delay,
        short_term=snn.ShortTerm(**p) if plasticity else None,
    )
    known = {name: values.numpy() for name, values in p.items()}
    return Case(made, lambda x: plastic(*arrays(w, w_in), x, known, None if delay is None else delay.numpy()))


CASES: dict[str, Callable[[], Case]] = {
    "nalsm-with-input-neurons": lambda: nalsm_case(True),
    "nalsm-without": lambda: nalsm_case(False),
    "lif-frozen": lambda: lif_case("frozen"),
    "lif-blocked": lambda: lif_case("blocked"),
    "norse": norse_case,
    "step": step_case,
    "izhikevich-half-steps": lambda: izhikevich_case("half-steps"),
    "izhikevich-euler": lambda: izhikevich_case("euler"),
    "plastic": lambda: plastic_case(False),
    "plastic-delayed": lambda: plastic_case(True),
    "delayed": lambda: plastic_case(True, plasticity=False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_liquid_spikes_as_its_equations_say(name: str) -> None:
    case = CASES[name]()
    x = events(case.rate)
    spikes = case.liquid.run(x, record=snn.Record(spikes=True)).recorded("spikes")
    assert 0.005 < float(spikes.double().mean()) < 0.35  # enough to disagree about
    for sample in range(len(x)):
        assert np.array_equal(spikes[sample].numpy(), case.reference(x[sample].numpy()))


@pytest.mark.parametrize("name", ["nalsm-with-input-neurons", "nalsm-without", "lif-frozen"])
def test_neurons_keep_the_distance_of_their_refractory_period(name: str) -> None:
    liquid = CASES[name]().liquid
    spikes = liquid.run(events(0.9), record=snn.Record(spikes=True), health="ignore").recorded("spikes")
    sample, neuron, time = spikes.transpose(1, 2).nonzero(as_tuple=True)
    same = (sample[1:] == sample[:-1]) & (neuron[1:] == neuron[:-1])
    gaps = (time[1:] - time[:-1])[same]
    assert int(gaps.min()) == liquid.neuron.shortest_interval_steps(liquid.dt_seconds)


def test_a_relay_fires_as_an_input_neuron_under_a_large_current() -> None:
    """Against ``NalsmLIF`` itself: a neuron an input, a current of 100 an event, no synapses among them."""
    for steps in (0, 1, 2, 5):
        neuron = snn.NalsmLIF(refractory_steps=steps)
        alone = snn.Liquid(neuron, torch.zeros(INPUTS, INPUTS, dtype=D), synapse=snn.Delta())
        x = events(0.4)
        expected = alone.run(currents=100.0 * x, record=snn.Record(spikes=True), health="ignore").recorded("spikes")
        relay = snn.Relay(steps)
        state = relay.initial(2, INPUTS, torch.device("cpu"))
        parts = [relay.run(state, part) for part in x.split([1, 2, 100, STEPS - 103], dim=1)]
        assert torch.equal(torch.cat(parts).transpose(0, 1), expected)


def test_the_membrane_is_exact_between_spikes(device: torch.device) -> None:
    """``v(t) = (1 - exp(-t / tau)) R I`` at any step."""
    for dt in (1e-4, 1e-3, 7e-3):
        neuron = snn.LIF(tau_v_seconds=0.03, threshold=1e9, resistance=2.0)
        liquid = snn.Liquid(neuron, torch.zeros(1, 1, dtype=D), synapse=snn.Delta(), dt_seconds=dt).to(device)
        currents = torch.full((1, 50, 1), 0.7, dtype=D)
        v = liquid.run(currents=currents, record=snn.Record(voltage=True), health="ignore").recorded("voltage")
        t = dt * torch.arange(1, 51, dtype=D)
        torch.testing.assert_close(v[0, :, 0].cpu(), 1.4 * -torch.expm1(-t / 0.03), rtol=1e-12, atol=0)


def test_a_double_exponential_carries_its_charge() -> None:
    """A unit of weight is a charge of 1 in milliseconds, with the shape of two exponentials, as the step goes to 0."""
    errors = []
    for dt in (4e-4, 2e-4, 1e-4):
        synapse = snn.DoubleExponential(2e-3, 20e-3)
        k = synapse.constants(dt, {"tau_rise_seconds": 2e-3, "tau_decay_seconds": 20e-3})
        state = synapse.initial(torch.zeros(1, 1, dtype=D))
        currents = []
        for t in range(round(0.4 / dt)):
            currents.append(float(synapse.receive(state, k, torch.full((1, 1), float(t == 0), dtype=D))))
            synapse.decay(state, k)
        assert sum(currents) * dt * 1e3 == pytest.approx(1.0, abs=0.5 * dt * 1e3)
        t_ms = np.arange(len(currents)) * dt * 1e3
        errors.append(float(np.abs(np.array(currents) - (np.exp(-t_ms / 20) - np.exp(-t_ms / 2)) / 18).max()))
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1) and errors[1] / errors[2] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(("name", "rate"), [("regular-spiking", (15, 35)), ("fast-spiking", (80, 150))])
def test_izhikevich_patterns_fire_as_published(name: str, rate: tuple[int, int]) -> None:
    """Under a steady current of 10, in steps of 0.25 ms (2003, figure 2)."""
    liquid = snn.Liquid(
        snn.Izhikevich.pattern(name), torch.zeros(1, 1, dtype=D), synapse=snn.Delta(), dt_seconds=2.5e-4
    )
    currents = torch.full((1, 4000, 1), 10.0, dtype=D)
    run = liquid.run(currents=currents, health="ignore")
    assert rate[0] < run.health.mean_rate_hz < rate[1]


def test_izhikevich_patterns_are_those_of_the_paper() -> None:
    assert len(snn.PATTERNS) == 7
    for name, values in snn.PATTERNS.items():
        made = snn.Izhikevich.pattern(name)
        assert (made.a, made.b, made.c, made.d) == values


REFUSED: dict[str, Callable[[], Any]] = {
    "tau_v_seconds": lambda: snn.NalsmLIF(tau_v_seconds=0.0),
    "refractory_steps": lambda: snn.NalsmLIF(refractory_steps=-1),
    "a threshold above the reset": lambda: snn.LIF(threshold=0.0),
    "refractoriness": lambda: snn.LIF(refractoriness="none"),
    "finite": lambda: snn.LIF(bias=float("nan")),
    "pair": lambda: snn.LIF(bias=(1.0, 2.0, 3.0)),  # type: ignore[arg-type]
    "decay": lambda: snn.StepLIF(decay=1.5),
    "scheme": lambda: snn.Izhikevich(scheme="rk4"),
    "did you mean 'chattering'": lambda: snn.Izhikevich.pattern("chatering"),
    "tau_seconds": lambda: snn.Exponential(-1e-3),
    "method": lambda: snn.Exponential(method="rk4"),
    "tau_rise_seconds": lambda: snn.DoubleExponential(0.0),
    "one time": lambda: snn.NearestSpike((1e-3, 2e-3)),  # type: ignore[arg-type]
    "Relay.refractory_steps": lambda: snn.Relay(-1),
}


@pytest.mark.parametrize("text", REFUSED)
def test_impossible_neurons_and_synapses_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        REFUSED[text]()


def test_settings_print_what_was_set() -> None:
    assert repr(snn.NalsmLIF(threshold=10.0)) == "NalsmLIF(threshold=10.0)"
    assert repr(snn.Exponential((3e-3, 6e-3))) == "Exponential(tau_seconds=(0.003, 0.006))"
