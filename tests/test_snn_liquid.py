"""Running a liquid: streams, states, records, ways to multiply, devices, health, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import snn
from eqprop import ConfigError, DataError
from tests.helpers import HostSync, no_host_sync, seeded

D = torch.float64
ALL = snn.Record(spikes=True, voltage=True, input_spikes=True, trace_seconds=0.03, traces=True)


def nalsm(weight: float = 4.0, dtype: torch.dtype = D, **options: Any) -> snn.Liquid:
    """NALSM's liquid on a grid of 4 x 4 x 4, with weights for its few synapses."""
    g = seeded(7)
    wiring = snn.Grid((4, 4, 4)).wire(g)
    entries = snn.input_mask(64, 30, 0.15, g) * snn.random_signs((64, 30), g)
    made: dict[str, Any] = {"relay": snn.Relay(2), "synapse": snn.NearestSpike(1e-3), "excitatory": wiring.excitatory}
    return snn.Liquid(
        snn.NalsmLIF(),
        (wiring.mask * wiring.signs() * weight).to(dtype),
        (entries * 2 * weight).to(dtype),
        **made | options,
    )


def additive(**options: Any) -> snn.Liquid:
    return nalsm(2.0, relay=None, synapse=snn.Exponential((2e-3, 4e-3)), **options)


def delayed() -> snn.Liquid:
    return additive(delay_steps=torch.randint(0, 9, (64, 64), generator=seeded()))


def plastic() -> snn.Liquid:
    full = torch.full((64, 64), 0.3, dtype=D)
    return additive(
        delay_steps=torch.randint(0, 9, (64, 64), generator=seeded()), short_term=snn.ShortTerm(full, full, 0.1 * full)
    )


def izhikevich() -> snn.Liquid:
    w = 10.0 * nalsm().weight
    return snn.Liquid(
        snn.Izhikevich(), w, 20.0 * torch.ones(64, 30, dtype=D), synapse=snn.DoubleExponential(), noise=2.0
    )


LIQUIDS: dict[str, Callable[[], snn.Liquid]] = {
    "nalsm": nalsm,
    "additive": additive,
    "delayed": delayed,
    "plastic": plastic,
    "izhikevich": izhikevich,
}
every_liquid = pytest.mark.parametrize("name", LIQUIDS)


def events(batch: int = 3, steps: int = 120, inputs: int = 30, rate: float = 0.15) -> Tensor:
    return torch.rand(batch, steps, inputs, generator=seeded(1)) < rate


def run(liquid: snn.Liquid, x: Any = None, **options: Any) -> snn.Run:
    """With everything recorded, and noise of seed 5 where there is noise."""
    made: dict[str, Any] = {"record": ALL, "generator": seeded(5), "health": "ignore"}
    return liquid.run(events() if x is None else x, **made | options)


def same(a: snn.Run, b: snn.Run) -> bool:
    """Spikes bit for bit; voltages to rounding, because products round by the size of a chunk."""
    spikes = all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("counts", "spikes", "input_spikes", "traces"))
    return spikes and torch.allclose(a.recorded("voltage"), b.recorded("voltage"), rtol=1e-9, atol=1e-9)


# -- streams and states ------------------------------------------------------------------------------------------------


@every_liquid
def test_a_stream_of_chunks_is_the_whole(name: str) -> None:
    x = events()
    whole = run(LIQUIDS[name](), x)
    assert float(whole.counts.sum()) > 100
    streamed = run(LIQUIDS[name](), iter(x.split([1, 4, 15, 100], dim=1)))
    small = LIQUIDS[name]()
    small.chunk_bytes = 64 * 3 * 8 * 16  # 16 steps: noise is drawn in the same blocks
    assert same(whole, streamed) and same(whole, run(small, x))


@every_liquid
def test_a_run_goes_on_from_a_state_and_leaves_it_alone(name: str) -> None:
    x, liquid, g = events(), LIQUIDS[name](), seeded(5)
    whole = run(liquid, x)
    first = run(liquid, x[:, :64], generator=g)
    before = first.state.clone()
    second = run(liquid, x[:, 64:], state=first.state, generator=g)
    assert torch.equal(torch.cat([first.recorded("spikes"), second.recorded("spikes")], 1), whole.recorded("spikes"))
    assert torch.equal(first.counts + second.counts, whole.counts)
    assert torch.equal(first.state.spikes, before.spikes) and torch.equal(first.state.voltage, before.voltage)
    assert (first.state.step, second.state.step, second.state.batch) == (64, 120, 3)


@pytest.mark.parametrize("name", [n for n in LIQUIDS if n != "izhikevich"])
def test_samples_do_not_depend_on_their_batch(name: str) -> None:
    liquid, x = LIQUIDS[name](), events(5)
    together = run(liquid, x)
    for sample in range(5):
        alone = run(liquid, x[sample : sample + 1])
        assert torch.equal(alone.recorded("spikes")[0], together.recorded("spikes")[sample])


@pytest.mark.parametrize("recurrence", ["dense", "sparse"])
@pytest.mark.parametrize("input_product", ["dense", "events"])
@every_liquid
def test_every_way_to_multiply_gives_the_same_spikes(name: str, recurrence: str, input_product: str) -> None:
    expected = run(LIQUIDS[name]())
    liquid = LIQUIDS[name]()
    liquid.recurrence, liquid.input_product = recurrence, input_product
    found = run(liquid)
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.voltage, expected.voltage, rtol=1e-9, atol=1e-9)


def test_memory_does_not_grow_with_the_duration() -> None:
    """A stream is taken a chunk at a time: a chunk is gone before the second after it is made."""
    alive: list[Any] = []

    def chunks() -> Any:
        import weakref

        for _ in range(10):
            assert sum(ref() is not None for ref in alive) <= 1
            x = events(2, 20)
            alive.append(weakref.ref(x))
            yield x
            del x

    result = nalsm().run(chunks())
    assert result.steps == 200 and result.spikes is None and result.voltage is None and result.trace is None


def test_numbers_may_be_any_where_nothing_counts_events() -> None:
    """Currents through input weights and currents onto neurons are the same, and float spikes are spikes."""
    liquid = additive(input_synapse=snn.Delta())
    x = torch.rand(2, 60, 30, generator=seeded(), dtype=D)
    assert liquid.input_weight is not None
    through = run(liquid, x)
    directly = run(liquid, torch.zeros(2, 60, 30), currents=x @ liquid.input_weight.T)
    assert torch.equal(through.counts, directly.counts) and float(through.counts.sum()) > 0
    assert torch.equal(run(liquid, events()).counts, run(liquid, events().double()).counts)


@pytest.mark.parametrize(("recurrence", "input_product"), [("dense", "dense"), ("sparse", "events")])
def test_changed_weights_count_at_once(recurrence: str, input_product: str) -> None:
    liquid = nalsm(recurrence=recurrence, input_product=input_product)
    before = run(liquid).counts
    liquid.weight.mul_(0.0)
    silenced = run(liquid).counts
    assert liquid.input_weight is not None
    alone = snn.Liquid(
        snn.NalsmLIF(), liquid.weight, liquid.input_weight, synapse=snn.NearestSpike(), relay=snn.Relay()
    )
    assert torch.equal(silenced, run(alone).counts) and not torch.equal(silenced, before)
    liquid.neuron = snn.NalsmLIF(threshold=1.0)
    assert float(run(liquid).counts.sum()) > float(silenced.sum())


@every_liquid
def test_a_liquid_is_saved_copied_and_pickled(name: str) -> None:
    liquid = LIQUIDS[name]()
    expected = run(liquid).counts
    loaded = LIQUIDS[name]()
    for buffer in loaded.buffers():
        buffer.zero_()
    loaded.load_state_dict(liquid.state_dict())
    for other in (loaded, copy.deepcopy(liquid), pickle.loads(pickle.dumps(liquid))):
        assert torch.equal(run(other).counts, expected)


def test_noise_is_that_of_its_seed_in_both_precisions() -> None:
    liquid = izhikevich()
    a, b, c = (run(liquid, generator=seeded(s)).recorded("spikes") for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    draws = [liquid.to(kind).noise_currents(1000, 2, seeded(1)) for kind in (torch.float32, D)]
    torch.testing.assert_close(draws[0].double(), draws[1])
    assert float(draws[1].std()) == pytest.approx(2.0, rel=0.02)


def test_noise_alone_drives_a_liquid() -> None:
    liquid = snn.Liquid(snn.Izhikevich(), torch.zeros(20, 20), synapse=snn.Delta(), noise=torch.full((20,), 8.0))
    result = liquid.run(steps=300, batch=4, generator=seeded())
    assert result.counts.shape == (4, 20) and float(result.counts.sum()) > 0


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7])
def test_records_agree_with_each_other(every: int) -> None:
    chosen = [5, 2, 60]
    record = snn.Record(True, True, trace_seconds=0.02, traces=True, every_steps=every, neurons=tuple(chosen))
    x = events()
    found = run(nalsm(), iter(x.split([10, 33, 77], dim=1)), record=record)
    full = run(nalsm(), x)
    spikes = full.recorded("spikes")
    assert torch.equal(full.counts, spikes.sum(1).double())
    assert torch.equal(found.recorded("spikes"), spikes[..., chosen])
    torch.testing.assert_close(found.voltage, full.recorded("voltage")[:, every - 1 :: every, chosen])
    trace, traces = torch.zeros(3, 64, dtype=D), []
    for t in range(120):
        trace = trace * torch.exp(torch.tensor(-1.0 / 20.0, dtype=D)) + spikes[:, t]
        traces.append(trace)
    torch.testing.assert_close(found.trace, trace)
    torch.testing.assert_close(found.traces, torch.stack(traces, 1)[:, every - 1 :: every, chosen])


def test_input_spikes_are_those_behind_the_relays() -> None:
    x = torch.zeros(1, 10, 30, dtype=torch.bool)
    x[0, 0, 3] = x[0, 1, 3] = x[0, 6, 3] = True
    found = run(nalsm(), x).recorded("input_spikes")
    assert found[0].nonzero().tolist() == [[1, 3], [4, 3], [7, 3]]
    assert torch.equal(run(additive(), x).recorded("input_spikes"), x)


def test_what_was_not_recorded_is_named() -> None:
    with pytest.raises(ConfigError, match="run: got no voltage, needed them recorded"):
        nalsm().run(events()).recorded("voltage")


# -- devices -----------------------------------------------------------------------------------------------------------


@every_liquid
def test_nothing_waits_inside_a_run(name: str, device: torch.device) -> None:
    liquid, x = LIQUIDS[name](), events(2, 30).to(device)
    liquid.recurrence = liquid.input_product = "dense"
    liquid.to(device).initial_state(2)
    g = torch.Generator(device).manual_seed(0)
    with no_host_sync():
        liquid.run(x, record=ALL, health="ignore", generator=g)


@every_liquid
@pytest.mark.parametrize("accelerator", ["cuda", "meta"])
def test_a_run_stays_on_the_device(name: str, accelerator: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        liquid = fake(LIQUIDS[name], accelerator)
        x = torch.empty(2, 30, 30, dtype=torch.bool, device=accelerator)
        with no_host_sync():
            result = liquid.run(x, record=ALL, health="ignore", generator=seeded())
    for tensor in (result.counts, result.spikes, result.voltage, result.trace, result.traces, result.state.voltage):
        assert isinstance(tensor, Tensor) and tensor.device.type == accelerator


def fake(make: Callable[[], snn.Liquid], device: str) -> snn.Liquid:
    """A liquid made on the CPU with values, then moved to where there are none."""
    from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes

    with disable_current_modes():
        liquid = make()
    for module in liquid.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return liquid


def test_the_test_of_waiting_can_fail() -> None:
    liquid = nalsm()
    liquid.input_product = "events"
    with pytest.raises(HostSync), no_host_sync():
        liquid.run(events().double(), health="ignore")


def test_float32_runs_as_float32() -> None:
    result = run(nalsm(dtype=torch.float32))
    assert result.counts.dtype == result.state.voltage.dtype == torch.float32
    assert float((result.counts.double() - run(nalsm()).counts).abs().mean()) < 0.05 * float(result.counts.mean())


def test_nothing_is_differentiated() -> None:
    x = torch.rand(1, 30, 30, generator=seeded(), dtype=D).requires_grad_()
    result = run(additive(), x)
    assert not result.counts.requires_grad and not list(nalsm().parameters())


# -- health ------------------------------------------------------------------------------------------------------------


def test_health_counts() -> None:
    counts = torch.tensor([[0, 40, 9], [0, 40, 1]])
    health = snn.Health.of(counts, 100, 1e-3, interval_steps=2)
    assert health.mean_rate_hz == pytest.approx(90 / 6 / 0.1)
    assert health.silent_share == pytest.approx(1 / 3) and health.silent_samples == 0.0
    assert health.saturated_share == 0.0 and health.highest_rate_hz == 500.0
    assert snn.Health.of(counts + 1, 100, 1e-3, 2).saturated_share == pytest.approx(1 / 3)


def test_a_liquid_that_is_silent_in_many_samples_is_all_but_dead() -> None:
    def of(samples: int, neurons: int) -> snn.Health:
        counts = torch.zeros(20, 40)
        counts[samples:, neurons:] = 1.0
        return snn.Health.of(counts, 100, 1e-3)

    told = of(4, 34)
    assert told.silent_samples == 0.2 and told.silent_share == 0.85 and told.quiet
    with pytest.raises(DataError, match="all but dead: it never fired in 20.0% of 20 samples .* 85.0% .*snn.calibrate"):
        told.check()
    assert of(11, 0).quiet  # whatever its neurons do
    assert of(4, 10).fault is None and of(0, 34).fault is None  # a few blank samples, or sparse codes


def test_every_neuron_is_measured_by_its_own_refractory_period() -> None:
    """3 ms of excitatory and 2 ms of inhibitory neurons, and a period of each neuron's own."""
    types = torch.arange(20) < 16
    loud = torch.full((1, 400, 20), 500.0)
    for own, interval in ((None, torch.where(types, 3.0, 2.0)), (torch.arange(20) * 1e-3, torch.arange(20).clamp(1))):
        liquid = snn.Liquid(
            snn.LIF(refractory_seconds=(3e-3, 2e-3)),
            torch.zeros(20, 20),
            synapse=snn.Delta(),
            excitatory=types,
            own=None if own is None else {"refractory_seconds": own},
        )
        result = liquid.run(currents=loud, health="ignore")
        torch.testing.assert_close(result.counts[0] / 0.4, 1000.0 / interval.float(), rtol=0.05, atol=0.0)
        assert result.health.saturated_share == 1.0
        assert result.health.highest_rate_hz == pytest.approx(500.0 if own is None else 1000.0)
        assert "the liquid is saturated: 100.0%" in (result.health.fault or "")


def test_a_flooded_column_of_maass_is_saturated() -> None:
    liquid = snn.preset("maass2002", inputs=784)
    flood = torch.rand(2, 500, 784, generator=seeded(1)) < 0.1
    with pytest.raises(DataError, match="the liquid is saturated: 100.0%"):
        liquid.run(flood)


@pytest.mark.parametrize(("weight", "fault"), [(0.05, "dead: 100.0% of its neurons never fired"), (1e4, "saturated: ")])
def test_dead_and_saturated_liquids_are_named_with_their_numbers(weight: float, fault: str) -> None:
    liquid = nalsm(weight, excitatory=None)
    liquid.weight.abs_()
    assert liquid.input_weight is not None
    liquid.input_weight.abs_()
    with pytest.raises(DataError, match=rf"the liquid is {fault}.*Hz.*snn.calibrate"):
        liquid.run(events())
    with pytest.warns(RuntimeWarning, match=f"the liquid is {fault}"):
        liquid.run(events(), health="warn")
    assert liquid.run(events(), health="ignore").health.fault is not None
    assert nalsm().run(events()).health.fault is None


# -- what it refuses ---------------------------------------------------------------------------------------------------

BAD_RUNS: dict[str, Callable[[], Any]] = {
    r"inputs: got shape \(3, 120, 29\), needed \[batch, time, 30\]": lambda: run(nalsm(), events(inputs=29)),
    r"inputs: got \(120, 30\)": lambda: run(nalsm(), events()[0]),
    "inputs: got values other than 0 and 1": lambda: run(nalsm(), 2.0 * events()),
    r"inputs: got values other than 0 and 1 \(up to 7\)": lambda: run(nalsm(), 7 * events().int()),
    "inputs: got NaN or infinite": lambda: run(additive(), torch.full((1, 10, 30), torch.nan)),
    "inputs: got no chunk": lambda: run(nalsm(), iter(())),
    "inputs: got 2 steps .* needed at least 3: less .* a refractory": lambda: run(nalsm(), events(steps=2)),
    "state: got one of 2 samples": lambda: run(nalsm(), events(3), state=run(nalsm(), events(2)).state),
    "currents: got .* needed .* as inputs have": lambda: run(nalsm(), currents=torch.zeros(3, 10, 64)),
    "currents: got an end before": lambda: run(nalsm(), events().split(60, 1), currents=[torch.zeros(3, 60, 64)]),
    "without input weights": lambda: snn.Liquid(snn.NalsmLIF(), torch.zeros(4, 4), synapse=snn.Delta()).run(events()),
    "health: got": lambda: run(nalsm(), health="maybe"),
    "generator: got None": lambda: izhikevich().run(events()),
    "run: got neither": lambda: nalsm().run(),
    "steps or batch beside": lambda: run(nalsm(), steps=5),
    "Record.neurons: got 64": lambda: run(nalsm(), record=snn.Record(neurons=(64,))),
    "Record.traces": lambda: snn.Record(traces=True),
    "Record.every_steps": lambda: snn.Record(every_steps=0),
}


@pytest.mark.parametrize("text", BAD_RUNS)
def test_runs_that_cannot_be_are_named(text: str) -> None:
    with pytest.raises((DataError, ConfigError), match=text):
        BAD_RUNS[text]()


W = torch.eye(4)
BAD_LIQUIDS: dict[str, dict[str, Any]] = {
    "weight: got": {"weight": torch.zeros(4, 3)},
    "weight: got NaN": {"weight": W * torch.nan},
    "input_weight: got": {"input_weight": torch.zeros(3, 2)},
    "input_weight: got .*float64": {"input_weight": torch.zeros(4, 2, dtype=D)},
    "excitatory: got 3 values": {"excitatory": torch.ones(3, dtype=torch.bool)},
    "weight: got 1 from the inhibitory neuron 0": {"excitatory": torch.zeros(4, dtype=torch.bool)},
    "delay_steps": {"delay_steps": torch.zeros(4, 4)},
    "short_term": {"short_term": snn.ShortTerm(W, W, W), "synapse": snn.NearestSpike()},
    "recurrence: got 'fast'": {"recurrence": "fast"},
    "dt_seconds": {"dt_seconds": 0.0},
    "noise": {"noise": -1.0},
    "setting of NalsmLIF: got 'thresold'": {"own": {"thresold": torch.ones(4)}},
    "threshold: got 3 values": {"own": {"threshold": torch.ones(3)}},
    "needed types": {"neuron": snn.LIF(refractory_seconds=(3e-3, 2e-3))},
}


@pytest.mark.parametrize("text", BAD_LIQUIDS)
def test_liquids_that_cannot_be_are_named(text: str) -> None:
    options: dict[str, Any] = {"neuron": snn.NalsmLIF(), "weight": W, "synapse": snn.Delta()} | BAD_LIQUIDS[text]
    with pytest.raises(ConfigError, match=text):
        snn.Liquid(**options)


def test_a_pair_of_synaptic_times_needs_types() -> None:
    liquid = snn.Liquid(snn.NalsmLIF(), W, synapse=snn.Exponential((1e-3, 2e-3)))
    with pytest.raises(ConfigError, match="needed types"):
        liquid.initial_state(1)
