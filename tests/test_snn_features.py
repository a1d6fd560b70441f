"""Features of data sets: batches, parts of time, filters, streams, health."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import snn
from eqprop import ConfigError, DataError
from tests.helpers import seeded

D = torch.float64


def liquid(weight: float = 1.0, **options: Any) -> snn.Liquid:
    g = seeded(3)
    w = 0.5 * weight * torch.randn(20, 20, generator=g, dtype=D)
    entries = 3.0 * weight * torch.rand(20, 9, generator=g, dtype=D)
    return snn.Liquid(snn.StepLIF(), w, entries, synapse=snn.Delta(), **options)


def images(n: int = 25) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 9, generator=seeded(1)), torch.arange(n)


ENCODER = snn.RateEncoder(steps=70, peak_rate_hz=400.0)


@pytest.mark.parametrize("chunk_steps", [None, 1, 13])
@pytest.mark.parametrize("bins", [1, 3])
def test_features_in_batches_are_those_of_the_recorded_spikes(bins: int, chunk_steps: int | None) -> None:
    made, (x, y) = liquid(), images()
    spikes = made.run(ENCODER.encode(x), record=snn.Record(spikes=True)).recorded("spikes").double()
    parts = [snn.TimeBins(bins, 70)(spikes), snn.ExponentialFilter(0.03)(spikes)]
    batches = zip(x.split(10), y.split(10), strict=True)
    found = list(snn.features(made, batches, ENCODER, bins=bins, trace_seconds=0.03, chunk_steps=chunk_steps))
    assert [len(f) for f, _ in found] == [10, 10, 5] and torch.equal(torch.cat([labels for _, labels in found]), y)
    torch.testing.assert_close(torch.cat([f for f, _ in found]), torch.cat(parts, 1))


def test_trains_and_streams_of_them_need_no_encoder() -> None:
    made, (x, y) = liquid(), images(6)
    trains = ENCODER.encode(x, 5)
    expected = made.run(trains).counts
    for samples in (trains, iter(trains.split(32, 1))):
        ((found, labels),) = snn.features(made, [(samples, y)])
        assert torch.equal(found, expected) and labels is y
    ((numbered, _),) = snn.features(made, [(x, y)], ENCODER, first=5)
    assert torch.equal(numbered, expected)


def test_a_batch_is_made_when_it_is_wanted_and_a_readout_takes_them() -> None:
    x, y = images(40)
    made, asked = liquid(), []

    def batches() -> Any:
        for i, part in enumerate(x.split(10)):
            asked.append(i)
            yield part, (part.mean(1) > 0.5).long()

    stream = snn.features(made, batches(), ENCODER)
    next(stream)
    assert asked == [0]
    readout = snn.RidgeReadout((0.1,)).fit_batches(snn.features(made, batches(), ENCODER), classes=2)
    assert readout.n_features_in_ == 20


def test_what_cannot_be_is_named() -> None:
    x, y = images(4)
    with pytest.raises(DataError, match="the liquid is dead"):
        next(snn.features(liquid(1e-6), [(x, y)], ENCODER))
    assert not next(snn.features(liquid(1e-6), [(x, y)], ENCODER, health="ignore"))[0].any()
    with pytest.raises(ConfigError, match="bins: got 71 for 70 steps"):
        next(snn.features(liquid(), [(x, y)], ENCODER, bins=71))
    with pytest.raises(ConfigError, match="bins: got 2 for a stream of unknown length"):
        next(snn.features(liquid(), [(iter([ENCODER.encode(x)]), y)], bins=2))
    with pytest.raises(DataError, match="batches: got samples of list"):
        next(snn.features(liquid(), [([x], y)], ENCODER))
    for options in ({"bins": 0}, {"first": -1}, {"trace_seconds": 0.0}, {"health": "maybe"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            snn.features(liquid(), [(x, y)], ENCODER, **options)
    with pytest.raises(ConfigError, match="generator: got None"):
        next(snn.features(liquid(noise=1.0), [(x, y)], ENCODER))
