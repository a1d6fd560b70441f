"""From a data set to features of a liquid, a batch and a piece of time after another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_number, require_whole
from snn._encoders import Encoder
from snn._health import Health, require_action
from snn._liquid import Liquid
from snn._liquid_checks import Chunks
from snn._records import Record

L = TypeVar("L")


def features(
    liquid: Liquid,
    batches: Iterable[tuple[Chunks, L]],
    encoder: Encoder | None = None,
    *,
    bins: int = 1,
    trace_seconds: float | None = None,
    first: int = 0,
    chunk_steps: int | None = 50,
    generator: torch.Generator | None = None,
    health: str = "raise",
) -> Iterator[tuple[Tensor, L]]:
    """Features ``[batch, features]`` of each batch, beside its labels, as ``RidgeReadout.fit_batches`` takes them.

    A sample's features are the spikes of each neuron in each of ``bins`` equal parts of time (step t of T belongs to
    part ``floor(t bins / T)``) and then, with ``trace_seconds``, the spikes filtered by ``r <- r exp(-dt / tau) + s``,
    at the end. No spikes are kept: memory does not grow with the duration, nor with the number of batches.

    Args:
        liquid: runs from rest in every batch.
        batches: (samples, labels), as ``split.batches(100)`` gives them. Samples are trains ``[batch, time, inputs]``,
            chunks of them (with one bin), or what ``encoder`` makes trains of.
        encoder: None for samples that are trains already.
        bins: parts of time.
        trace_seconds: time constant of the filter, or None.
        first: number of the first sample, for the encoder's draws; the others follow it.
        chunk_steps: steps that the encoder makes at once; None for all.
        generator: source of the noise of a liquid that has some.
        health: as of ``Liquid.run``, after the first batch: a later one may be short, and silent by chance.

    Raises:
        ConfigError: a setting that cannot be, or more bins than steps.
        DataError: trains that do not fit the liquid, or a dead or saturated liquid.
    """
    require_whole("bins", bins, 1)
    require_whole("first", first, 0)
    if trace_seconds is not None:
        require_number("trace_seconds", trace_seconds, above=0.0)
    require_action(health)
    return _features(liquid, batches, encoder, bins, trace_seconds, first, chunk_steps, generator, health)


def _features(
    liquid: Liquid,
    batches: Iterable[tuple[Chunks, L]],
    encoder: Encoder | None,
    bins: int,
    trace_seconds: float | None,
    first: int,
    chunk_steps: int | None,
    generator: torch.Generator | None,
    health: str,
) -> Iterator[tuple[Tensor, L]]:
    looked = False
    for samples, labels in batches:
        trains, steps = samples, samples.shape[1] if isinstance(samples, Tensor) and samples.dim() == 3 else None
        if encoder is not None:
            if not isinstance(samples, Tensor):
                raise DataError(f"batches: got samples of {type(samples).__name__}, needed tensors for {encoder!r}")
            trains, steps = encoder.chunks(samples, first, chunk_steps=chunk_steps), encoder.steps
            first += len(samples)
        found, seen = taken(liquid, trains, steps, bins, trace_seconds, generator)
        if not looked:
            seen.check(health)
            looked = True
        yield found, labels


def taken(
    liquid: Liquid,
    trains: Chunks,
    steps: int | None,
    bins: int = 1,
    trace_seconds: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Health]:
    """Features of one batch of trains (``steps`` long, None where nobody knows), and the health of their run."""
    if bins > (steps or 1):
        known = f"{steps} steps" if steps else "a stream of unknown length"
        raise ConfigError(f"bins: got {bins} for {known}, needed at most {steps or 1}; write bins=1")
    record = None if trace_seconds is None else Record(trace_seconds=trace_seconds)
    parts: Iterable[tuple[Chunks, int]] = [(trains, steps or 0)]
    if bins > 1 and steps is not None:
        stream = _Stream(trains)
        bounds = [-(-i * steps // bins) for i in range(bins + 1)]
        parts = ((stream.next(b - a), b - a) for a, b in zip(bounds, bounds[1:], strict=False))
    state, counts, total = None, [], 0
    trace: Tensor | None = None
    for part, length in parts:
        run = liquid.run(part, state=state, record=record, generator=generator, health="ignore")
        state, total = run.state, total + run.steps
        counts.append(run.counts)
        if run.trace is not None and trace_seconds is not None:
            keep = math.exp(-length * liquid.dt_seconds / trace_seconds)
            trace = run.trace if trace is None else trace * keep + run.trace
    found = torch.cat(counts if trace is None else [*counts, trace], 1)
    return found, Health.of(torch.stack(counts).sum(0), total, liquid.dt_seconds, run.interval_steps)


class _Stream:
    """Chunks of trains, cut anew."""

    def __init__(self, trains: Chunks) -> None:
        self.chunks = iter([trains] if isinstance(trains, Tensor) else trains)
        self.rest: Tensor | None = None

    def next(self, steps: int) -> Iterator[Tensor]:
        """The next so many steps, in pieces."""
        while steps > 0:
            chunk = self.rest if self.rest is not None else next(self.chunks, None)
            if chunk is None:
                return
            piece = chunk[:, :steps]
            self.rest = chunk[:, steps:] if chunk.shape[1] > steps else None
            steps -= piece.shape[1]
            yield piece
