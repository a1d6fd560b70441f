"""Plastic synapses on a CPU with numba: what ``EventProjection`` computes, in loops that are compiled at first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn._neurons import States
from snn._projection_events import EventProjection, by_sample

Array = np.ndarray


@functools.cache
def loops() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """``_arrive`` and ``_change`` compiled, or None without numba, or with one that does not know this numpy."""
    try:
        from numba import njit
    except ImportError:
        return None
    compiled = njit(nogil=True)
    return compiled(_arrive), compiled(_change)


class CompiledProjection(EventProjection):
    """``EventProjection`` to the last bit: same synapses in the same order, a sample after another."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        found = loops()
        assert found is not None  # who takes this class asked
        self._arrive, self._change = found
        # as short as they can be: a sample's weights and these lists are to stay in the cache together
        short = np.uint16 if max(self.sources, self.neurons) <= 2**16 else np.uint32
        pre, post, by_pre = self._pre.astype(short), self._post_by_pre.astype(short), self._by_pre.astype(np.uint32)
        limits = np.array(self.bounds, dtype=self.values.numpy().dtype)
        self.topology = (self._in, pre, self._out, by_pre, post, self._kind_of, limits)

    def receive(self, state: States, k: dict[str, Any], spikes: Tensor) -> Tensor:
        weight, worth = by_sample(state), spikes
        if self.synapse.filters_spikes:
            worth = (spikes - state["x"]).mul_(spikes != 0)
            torch.maximum(state["x"], spikes, out=state["x"])
        sums = np.zeros((len(weight), self.neurons))
        self._arrive(weight, worth.T.contiguous().numpy(), *self.topology[2:5], sums)
        return self._filter.receive(state, self.constants, self._current(sums))

    def change(self, state: States, spikes: Tensor, trace: Tensor, post: Tensor, q: Tensor, t: Tensor) -> None:
        weight, filters = by_sample(state), self.synapse.filters_spikes
        left = state["x"] if filters else trace
        tables = [table.T.contiguous().numpy() for table in (spikes, trace, left, post, q, t)]
        tables[4:] = [table.reshape(len(weight), self.kinds, self.neurons) for table in tables[4:]]
        sums = np.zeros((2, len(weight), self.neurons))
        self._change(weight, *tables, *self.topology, sums)
        if filters:
            for part in sums:
                state["i"].add_(self._current(part))

    def _current(self, sums: Array) -> Tensor:
        return torch.from_numpy(sums).T.to(self.like.dtype)


def _arrive(weight: Array, worth: Array, starts: Array, by_pre: Array, post: Array, sums: Array) -> None:
    """Adds up ``weight [batch, synapses]`` times ``worth [batch, pre]`` into ``sums [batch, neurons]``."""
    for b in range(weight.shape[0]):
        own, into = weight[b], sums[b]
        for j in range(worth.shape[1]):
            value = worth[b, j]
            if value != 0:
                for place in range(starts[j], starts[j + 1]):
                    into[post[place]] += own[by_pre[place]] * value


def _change(
    weight: Array, spikes: Array, trace: Array, left: Array, fired: Array, q: Array, t: Array,
    entering: Array, pre: Array, leaving: Array, by_pre: Array, post: Array, kind_of: Array, limits: Array, sums: Array,
) -> None:  # fmt: skip
    """Changes ``weight [batch, synapses]``; what that moves of a current goes into ``sums [2, batch, neurons]``."""
    neurons = fired.shape[1]
    for b in range(weight.shape[0]):
        own, traces, sent, kept, silent = weight[b], trace[b], spikes[b], left[b], fired[b]
        for i in range(neurons):
            if fired[b, i] != 0:
                moved = 0.0
                for s in range(entering[i], entering[i + 1]):
                    j = pre[s]
                    kind = kind_of[j]
                    old = own[s]
                    new = old + (traces[j] * q[b, kind, i] + sent[j] * t[b, kind, i])
                    if new < limits[kind, 0]:
                        new = limits[kind, 0]
                    if new > limits[kind, 1]:
                        new = limits[kind, 1]
                    own[s] = new
                    moved += (new - old) * kept[j]
                sums[0, b, i] = moved
        for j in range(spikes.shape[1]):
            if sent[j] != 0:
                kind, value, x = kind_of[j], sent[j], kept[j]
                low, high, fall, into = limits[kind, 0], limits[kind, 1], t[b, kind], sums[1, b]
                for place in range(leaving[j], leaving[j + 1]):
                    i = post[place]
                    if silent[i] == 0:
                        s = by_pre[place]
                        old = own[s]
                        new = old + value * fall[i]
                        if new < low:
                            new = low
                        if new > high:
                            new = high
                        own[s] = new
                        into[i] += (new - old) * x
