"""Plasticity: against a plain transcription of the published steps, in its bounds, sample by sample, in streams."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import snn
from eqprop import ConfigError, DataError
from snn import _plastic_liquid
from snn._plastic_compiled import CompiledSteps
from snn._projection_compiled import CompiledProjection
from snn._projection_events import EventProjection
from tests.helpers import no_host_sync, seeded

D = torch.float64
TRAIN = snn.Record(spikes=True, voltage=True)
STDP = snn.NalsmPlasticity(astrocyte=None)
GATED = snn.NalsmPlasticity(astrocyte=None, calcium=snn.Calcium(threshold=3.0, width=2.0))
OFF = snn.NalsmPlasticity(potentiation=0.0, astrocyte=None)
RULES = {"nalsm": snn.NalsmPlasticity(), "stdp": STDP, "ap-stdp": GATED, "p-critical": snn.PCritical(alpha=0.1)}
every_rule = pytest.mark.parametrize("name", RULES)


def base(weight: float = 1.5, **options: Any) -> snn.Liquid:
    """NALSM's liquid on a grid of 4 x 4 x 4, with a lower threshold for its few synapses."""
    g = seeded(7)
    wiring = snn.Grid((4, 4, 4)).wire(g)
    entries = snn.input_mask(64, 30, 0.15, g) * snn.random_signs((64, 30), g)
    made: dict[str, Any] = {"relay": snn.Relay(2), "synapse": snn.NearestSpike(1e-3), "excitatory": wiring.excitatory}
    return snn.Liquid(
        snn.NalsmLIF(threshold=8.0),
        (wiring.mask * wiring.signs() * weight).to(D),
        (entries * 2 * weight).to(D),
        **made | options,
    )


def liquid(rule: snn.Plasticity, weight: float | None = None, **options: Any) -> snn.PlasticLiquid:
    small = isinstance(rule, snn.PCritical)
    return snn.PlasticLiquid(base((0.9 if small else 1.5) if weight is None else weight, **options), rule)


def dense(plastic: snn.PlasticLiquid) -> snn.PlasticLiquid:
    plastic.recurrence = plastic.input_product = "dense"
    return plastic


def events(batch: int = 3, steps: int = 100, rate: float = 0.15) -> Tensor:
    return torch.rand(batch, steps, 30, generator=seeded(1)) < rate


def transcription(plastic: snn.PlasticLiquid, x: Tensor, rule: snn.NalsmPlasticity) -> dict[str, Any]:
    """The steps of NALSM's code for one sample, on dense matrices of liquid and input neurons together."""
    n, n_in = plastic.neurons, plastic.inputs
    assert plastic.input_weight is not None and plastic.input_mask is not None and plastic.excitatory is not None
    w = np.concatenate([plastic.weight.numpy(), plastic.input_weight.numpy()], 1)
    mask = np.concatenate([plastic.mask.numpy(), plastic.input_mask.numpy()], 1)
    inhibitory = np.concatenate([~plastic.excitatory.numpy(), np.zeros(n_in, bool)])
    low = np.where(inhibitory, -rule.limit, 0.0)
    high = np.where(inhibitory, 0.0, rule.limit)
    low[n:] = -rule.limit
    v, wait, x_trace, trace, calcium = (np.zeros(n + n_in) for _ in range(5))
    up, astrocyte = rule.potentiation, rule.astrocyte
    threshold = np.r_[np.full(n, 8.0), np.full(n_in, 20.0)]
    level, gain, bias = (astrocyte.start, astrocyte.gain, astrocyte.bias) if astrocyte else (up, 0.0, 0.0)
    q, spikes, levels = math.exp(-0.1), [], []
    for t in range(len(x)):
        s = ((v >= threshold) & (wait <= 0)).astype(float)
        v[s == 1] = 0.0
        x_trace[s == 1] = 1.0
        arriving = np.concatenate([w @ x_trace, 100.0 * x[t].numpy()])
        v = v + arriving - v / 64.0
        x_trace = x_trace * math.exp(-1.0)
        wait = np.where(s == 1, 2, wait - 1)
        post, tr_post = s[:n, None], trace[:n, None]
        grow, fall = np.where(inhibitory, -level, up), np.where(inhibitory, up, -level)
        by_post, by_pre = grow * trace * post, fall * tr_post * s
        if rule.calcium is not None:
            calcium = calcium - calcium / 1000.0 + s
            over = calcium[:n, None] - rule.calcium.threshold
            raise_, lower = (over > 0) & (over < rule.calcium.width), (over < 0) & (over > -rule.calcium.width)
            by_post = np.where(inhibitory, by_post * lower, by_post * raise_)
            by_pre = np.where(inhibitory, by_pre * raise_, by_pre * lower)
        w = np.clip(w + by_post + by_pre, low, high) * mask
        trace = q * (trace + 0.1 * s)
        if astrocyte is not None:
            level = level + (gain * (s[:n].sum() - s[n:].sum()) + bias - level) / 100.0
        up, level, gain, bias = (value * rule.keep for value in (up, level, gain, bias))
        spikes.append(s[:n])
        levels.append(level)
    return {"spikes": np.array(spikes) > 0, "weight": w[:, :n], "input": w[:, n:], "level": level, "v": v[:n]}


@pytest.mark.parametrize("how", ["events", "dense"])
@pytest.mark.parametrize("name", ["nalsm", "stdp", "ap-stdp", "unfading"])
def test_a_run_is_the_published_steps(name: str, how: str) -> None:
    rule = snn.NalsmPlasticity(keep=1.0) if name == "unfading" else RULES[name]
    assert isinstance(rule, snn.NalsmPlasticity)
    plastic, x = liquid(rule), events()
    if how == "dense":
        plastic = dense(plastic)
    run = plastic.run(x, record=TRAIN)
    for sample in range(3):
        expected = transcription(plastic, x[sample], rule)
        assert np.array_equal(run.recorded("spikes")[sample].numpy(), expected["spikes"])
        recurrent, entry = (w[sample] for w in plastic.weights(run.state) if w is not None)
        assert plastic.input_mask is not None
        for found, full, mask in (
            (recurrent, expected["weight"], plastic.mask),
            (entry, expected["input"], plastic.input_mask),
        ):
            np.testing.assert_allclose(found.numpy(), full[mask.numpy()], rtol=0, atol=1e-12)
        np.testing.assert_allclose(run.state.voltage[sample].numpy(), expected["v"], rtol=0, atol=1e-11)
        if rule.astrocyte is not None:
            assert float(run.state.extra["astrocyte"][sample]) == pytest.approx(expected["level"], abs=1e-13)
    before = plastic.weight[plastic.mask]
    changed = float((plastic.weights(run.state)[0] - before).abs().max())
    assert changed > 0.01 and float(run.counts.sum()) > 300


@pytest.mark.parametrize("weight", [0.2, 1.5])
@every_rule
def test_weights_stay_in_their_bounds_and_signs(name: str, weight: float) -> None:
    """At rates so high that they would leave them."""
    rule = RULES[name]
    if isinstance(rule, snn.NalsmPlasticity):
        astrocyte = None if rule.astrocyte is None else snn.Astrocyte(gain=0.5)
        rule = replace(rule, potentiation=20.0, keep=1.0, astrocyte=astrocyte)
    plastic = liquid(rule, min(weight, 0.9) if name == "p-critical" else weight)
    state = plastic.run(events(), health="ignore").state
    recurrent, entry = plastic.weights(state)
    assert plastic.excitatory is not None
    from_excitatory = plastic.excitatory[plastic.mask.nonzero()[:, 1]]
    (low, high), (lowest, highest), (least, most) = rule.bounds()
    for part, a, b in (
        (recurrent[:, from_excitatory], low, high),
        (recurrent[:, ~from_excitatory], lowest, highest),
    ):
        assert a <= float(part.min()) <= float(part.max()) <= b
    ends = recurrent[:, from_excitatory]
    assert float(ends.min()) < low + 1e-3 or float(ends.max()) == high
    if entry is not None:
        assert least <= float(entry.min()) <= float(entry.max()) <= most
        assert {least, most} & {float(entry.min()), float(entry.max())}


def test_the_astrocyte_off_is_plain_stdp() -> None:
    """D = P of an astrocyte that knows no spikes and starts and rests at P, and of none."""
    still = snn.Astrocyte(gain=0.0, start=0.15, bias=0.15)
    x = events()
    plain, held, active = (
        liquid(snn.NalsmPlasticity(astrocyte=a, keep=1.0)).run(x, record=TRAIN) for a in (None, still, snn.Astrocyte())
    )
    assert torch.equal(plain.recorded("spikes"), held.recorded("spikes"))
    torch.testing.assert_close(plain.state.synapse["weight"], held.state.synapse["weight"], rtol=0, atol=1e-13)
    assert float((plain.state.synapse["weight"] - active.state.synapse["weight"]).abs().max()) > 1e-3


def test_an_astrocyte_rises_where_the_liquid_is_more_active_than_its_input() -> None:
    levels = {}
    for weight in (0.3, 3.0):
        plastic = liquid(snn.NalsmPlasticity(potentiation=0.0, astrocyte=snn.Astrocyte(), keep=1.0), min(weight, 1.5))
        plastic.neuron = snn.NalsmLIF(threshold=8.0 if weight < 1 else 1.0)
        levels[weight] = float(plastic.run(events(), health="ignore").state.extra["astrocyte"].mean())
    assert levels[0.3] < 0.15 < levels[3.0]


@pytest.mark.parametrize("how", ["events", "dense"])
def test_rates_of_zero_are_the_static_liquid(how: str) -> None:
    """Spikes bit for bit; voltages to rounding, because sums are in another order."""
    plastic, x = liquid(OFF), events()
    if how == "dense":
        plastic = dense(plastic)
    static, run = base().run(x, record=TRAIN), plastic.run(x, record=TRAIN)
    assert torch.equal(run.recorded("spikes"), static.recorded("spikes")) and float(static.counts.sum()) > 300
    torch.testing.assert_close(run.voltage, static.voltage, rtol=1e-9, atol=1e-9)
    recurrent, entry = plastic.matrices(run.state)
    assert torch.equal(recurrent, plastic.weight) and torch.equal(entry, plastic.input_weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("synapse", [snn.Delta(), snn.Exponential(3e-3), snn.NearestSpike(2e-3)], ids=repr)
@pytest.mark.parametrize("neuron", [snn.NalsmLIF(threshold=8.0), snn.LIF(threshold=1.0, resistance=3.0)], ids=repr)
@every_rule
def test_both_ways_to_change_weights_agree(name: str, neuron: snn.Neuron, synapse: snn.Synapse) -> None:
    """Also of neurons that fire last, and of input without relays."""
    plastic = liquid(RULES[name], synapse=synapse, relay=None)
    plastic.neuron = neuron
    found = plastic.run(events(), record=TRAIN, health="ignore")
    expected = dense(copy.deepcopy(plastic)).run(events(), record=TRAIN, health="ignore")
    assert torch.equal(found.recorded("spikes"), expected.recorded("spikes")) and float(found.counts.sum()) > 100
    for a, b in zip(plastic.weights(found.state), plastic.weights(expected.state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
@pytest.mark.parametrize("synapse", [snn.Delta(), snn.Exponential(3e-3), snn.NearestSpike(2e-3)], ids=repr)
@pytest.mark.parametrize("name", ["nalsm", "ap-stdp"])
def test_compiled_loops_give_the_same_numbers(
    name: str, synapse: snn.Synapse, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, also at batch 1, where a transposed view is its own copy."""
    pytest.importorskip("numba")
    settings = base(synapse=synapse).settings()
    settings |= {n: settings[n].to(dtype) for n in ("weight", "input_weight")}
    plastic = snn.PlasticLiquid(snn.Liquid(**settings), RULES[name])
    compiled = [plastic.run(x, record=TRAIN, health="ignore") for x in (events(), events(1))]
    assert isinstance(plastic._ready().recurrence.projection, CompiledProjection)  # type: ignore[attr-defined]
    at_once = name == "nalsm" and isinstance(synapse, snn.NearestSpike)
    assert isinstance(plastic._ready().steps, CompiledSteps) == at_once
    monkeypatch.setattr(_plastic_liquid, "loops", lambda: None)
    plain = copy.deepcopy(plastic)
    assert type(plain._ready().recurrence.projection) is EventProjection  # type: ignore[attr-defined]
    for found, x in zip(compiled, (events(), events(1)), strict=True):
        expected = plain.run(x, record=TRAIN, health="ignore")
        assert torch.equal(found.recorded("spikes"), expected.recorded("spikes")) and float(found.counts.sum()) > 100
        assert torch.equal(found.recorded("voltage"), expected.recorded("voltage"))
        for a, b in zip(plastic.weights(found.state), plain.weights(expected.state), strict=True):
            assert torch.equal(a, b)  # type: ignore[arg-type]
        left, right = found.state, expected.state
        for part in ("neuron", "synapse", "input", "input_synapse", "extra"):
            for key, values in getattr(left, part).items():
                assert torch.equal(values, getattr(right, part)[key]), (part, key)
        assert torch.equal(left.spikes, right.spikes) and left.step == right.step


@every_rule
def test_samples_learn_by_themselves(name: str) -> None:
    plastic, x = liquid(RULES[name]), events(4)
    together = plastic.run(x, record=TRAIN)
    for sample in range(4):
        alone = plastic.run(x[sample : sample + 1], record=TRAIN)
        assert torch.equal(alone.recorded("spikes")[0], together.recorded("spikes")[sample])
        for one, all_ in zip(plastic.weights(alone.state), plastic.weights(together.state), strict=True):
            assert one is None or torch.equal(one[0], all_[sample])  # type: ignore[index]
    assert float(plastic.weights(together.state)[0].std(0).max()) > 1e-3


@every_rule
def test_a_stream_of_chunks_learns_as_the_whole(name: str) -> None:
    plastic, x = liquid(RULES[name]), events()
    whole = plastic.run(x, record=TRAIN)
    streamed = plastic.run(iter(x.split([1, 9, 90], 1)), record=TRAIN)
    first = plastic.run(x[:, :40], record=TRAIN)
    second = plastic.run(x[:, 40:], record=TRAIN, state=first.state)
    assert torch.equal(whole.recorded("spikes"), streamed.recorded("spikes"))
    assert torch.equal(whole.recorded("spikes")[:, 40:], second.recorded("spikes"))
    for other in (streamed, second):
        for a, b in zip(plastic.weights(whole.state), plastic.weights(other.state), strict=True):
            assert a is None or torch.equal(a, b)  # type: ignore[arg-type]
    assert torch.equal(plastic.weight, liquid(RULES[name]).weight)


def test_weights_are_kept_for_synapses_only() -> None:
    plastic = liquid(RULES["nalsm"])
    state = plastic.initial_state(5)
    recurrent, entry = plastic.weights(state)
    assert recurrent.shape == (5, int(plastic.mask.sum())) and entry is not None
    assert entry.shape == (5, int(0.15 * 64 * 30)) and not any(t.shape[:2] == (64, 64) for t in state.synapse.values())


@every_rule
def test_a_step_never_waits_for_an_accelerator(name: str) -> None:
    plastic = dense(liquid(RULES[name]))
    state, made = plastic.initial_state(2), plastic._ready()
    assert made.drive is not None and made.learner is not None
    spikes = torch.ones(64, 2, dtype=D)
    drive, _ = made.drive.arrivals(events(2, 3), state.input, 0)
    with no_host_sync():
        for t in range(3):
            made.recurrence.current(state.synapse, spikes, t, torch.empty_like(spikes))
            made.drive.filter.receive(state.input_synapse, made.filter, drive[t])
            made.recurrence.decay(state.synapse)
            made.learner.step(state, spikes, drive[t])
            state.step += 1


def test_sums_of_synapses_exist_on_an_accelerator() -> None:
    with FakeTensorMode():
        values = torch.empty(10, 4, device="cuda")
        lengths = torch.empty(3, dtype=torch.long, device="cuda")
        found = torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)
    assert found.device.type == "cuda" and found.shape == (3, 4)


# -- weights from before -----------------------------------------------------------------------------------------------


def test_initialising_is_one_sample_after_another() -> None:
    """Weights and traces go on, neurons, astrocyte and rates start anew; nothing fades."""
    plastic, rule = liquid(snn.NalsmPlasticity()), snn.NalsmPlasticity(keep=1.0)
    snippets = [events(1, 20, rate=r) for r in (0.2, 0.1, 0.3)]
    plastic.initialise(snippets, weight=3.0, progress=False)
    by_hand = liquid(rule)
    assert by_hand.excitatory is not None and by_hand.input_weight is not None
    by_hand.weight.mul_(2.0)  # of 1.5
    by_hand.input_weight.copy_(by_hand.input_weight.sign() * 3.0)
    last = None
    for x in snippets:
        state = by_hand.initial_state(1)
        if last is not None:
            state.synapse["weight"], state.input_synapse["weight"] = (
                last.synapse["weight"],
                last.input_synapse["weight"],
            )
            state.extra["trace"], state.extra["input_trace"] = last.extra["trace"], last.extra["input_trace"]
        last = by_hand.run(x, state=state, health="ignore").state
    assert last is not None
    by_hand.adopt(last)
    assert torch.equal(plastic.weight, by_hand.weight)
    assert plastic.input_weight is not None and torch.equal(plastic.input_weight, by_hand.input_weight)
    assert float((plastic.weight.abs() - 3.0 * plastic.mask).abs().max()) > 0.01
    assert plastic.plasticity == snn.NalsmPlasticity()  # fades again
    with pytest.raises(DataError, match=r"samples: got a batch of 3"):
        plastic.initialise([events()], progress=False)
    with pytest.raises(ConfigError, match=r"got 0 to 4, needed 0 to 3"):
        plastic.initialise([], weight=4.0, progress=False)


def test_a_synapse_of_weight_zero_is_still_one() -> None:
    plastic = liquid(snn.NalsmPlasticity(potentiation=5.0, keep=1.0))
    count = int(plastic.synapses.sum())
    plastic.adopt(plastic.run(events()).state)
    assert int((plastic.weight != 0).sum()) < count == int(plastic.synapses.sum())
    assert plastic.weights(plastic.initial_state(1))[0].shape[1] == count
    assert torch.equal(plastic.frozen().weight, plastic.weight)
    loaded = liquid(snn.NalsmPlasticity(potentiation=5.0, keep=1.0))
    loaded.load_state_dict(plastic.state_dict())
    counts = (m.run(events(), health="ignore").counts for m in (loaded, plastic))
    assert torch.equal(*counts)


# -- criticality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.02, 0.5])
def test_p_critical_drives_branching_towards_one(weight: float) -> None:
    """From 0.8 and from 1.1, by the local measure, in a liquid of 100 neurons at 20 Hz of input a neuron."""
    g = seeded()
    wiring = snn.Grid((5, 5, 4), snn.ByPair(0.3, 0.3, 0.3, 0.1)).wire(g)
    drawn = wiring.mask * wiring.signs() * weight * 2.0 * torch.rand(100, 100, generator=g)
    keep = math.exp(-1.0 / 30.0)
    made = snn.Liquid(
        snn.LIF(tau_v_seconds=0.03, resistance=1.0 / (1.0 - keep), refractory_seconds=2e-3),
        drawn.to(D),
        1.5 * torch.eye(100, dtype=D),
        synapse=snn.Delta(),
        excitatory=wiring.excitatory,
    )
    x = torch.rand(1, 2000, 100, generator=seeded(2)) < 0.02
    off = [
        abs(
            1.0
            - snn.branching_factor(
                m.run(x, record=TRAIN, health="ignore").recorded("spikes")[:, 1000:], made.synapses, "local"
            )
        )
        for m in (made, snn.PlasticLiquid(made, snn.PCritical(tau_v_seconds=0.03, sign=-1)))
    ]
    assert off[1] < 0.08 < off[0]


def test_p_critical_is_its_published_steps() -> None:
    """A plain transcription of one sample, refractoriness of paired neurons and the order of a change aside."""
    rule = snn.PCritical(alpha=0.1, beta=0.01, tau_i_seconds=2e-3, threshold=0.5)
    plastic, x = liquid(rule), events(1)
    run = plastic.run(x, record=TRAIN)
    spikes = run.recorded("spikes")[0].double().numpy()
    w, mask = plastic.weight.numpy().copy(), plastic.mask.numpy()
    assert plastic.excitatory is not None
    learns = mask & plastic.excitatory.numpy()
    v, c, last = np.zeros(64), np.zeros(64), np.zeros(64)
    fired = 0
    for t, s in enumerate(spikes):
        paired = v > rule.threshold + rule.alpha
        fired += int(paired.sum())
        last[s == 1] = t
        gap = np.abs(last[:, None] - last[None, :])
        moved = np.clip(w + rule.beta - rule.alpha * paired[None, :] * np.exp(gap / 50.0), 0.0, 1.0)
        w = np.where(learns, moved, w)
        c = c + w.T @ s
        v = (v + c) * math.exp(-1.0 / 50.0)
        v[paired] = 0.0
        c = c * math.exp(-0.5)
    np.testing.assert_allclose(plastic.weights(run.state)[0][0].numpy(), w[mask], rtol=0, atol=1e-12)
    assert fired > 50


# -- what it refuses ---------------------------------------------------------------------------------------------------

BAD: dict[str, Any] = {
    "plasticity: got": lambda: snn.PlasticLiquid(base(), "stdp"),  # type: ignore[arg-type]
    "delays or short-term": lambda: liquid(STDP, delay_steps=torch.zeros(64, 64, dtype=torch.long)),
    "neurons without types": lambda: liquid(STDP, excitatory=None),
    r"weight: got 0 to 4, needed 0 to 3": lambda: liquid(STDP, 4.0),
    "input_weight: got -5 to 5, needed -3 to 3": lambda: liquid(STDP, 2.5),
    "a pair of times": lambda: liquid(STDP, synapse=snn.Exponential((1e-3, 2e-3))).run(events()),
    "without input weights": lambda: snn.PlasticLiquid(
        snn.Liquid(snn.NalsmLIF(), torch.zeros(4, 4), synapse=snn.Delta(), excitatory=torch.ones(4, dtype=torch.bool)),
        STDP,
    ).initial_state(1),
    "PCritical.sign": lambda: snn.PCritical(sign=0),
    "NalsmPlasticity.keep": lambda: snn.NalsmPlasticity(keep=1.1),
    "Astrocyte.tau_seconds": lambda: snn.Astrocyte(tau_seconds=0.0),
    "Calcium.width": lambda: snn.Calcium(1.0, 0.0),
    "to_brian2: got a PlasticLiquid": lambda: snn.to_brian2(liquid(STDP)),
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        BAD[text]()
