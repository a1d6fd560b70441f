"""Plastic synapses on a CPU: only those of neurons that spike are touched, about one in twenty a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn._neurons import States
from snn._projection import Projection
from snn._synapses import Exponential, NearestSpike

Array = np.ndarray


class EventProjection(Projection):
    """``Projection`` to rounding, on lists of the synapses of spiking neurons, in numpy.

    Weights change only where a side spikes, and arrivals only where the presynaptic side does. A nearest-spike trace is
    multiplied in increments, as ``InputDrive`` does: a spike adds ``w (1 - x)`` to a current that decays as a whole,
    and a change of a weight adds ``dw x``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        order = torch.argsort(self.pre, stable=True)
        self._post, self._pre, self._key = (t.numpy() for t in (self.post, self.pre, self.key))
        self._kind_of = self.kind_of.numpy()
        self._low, self._high = self.low.numpy(), self.high.numpy()
        self._in = _starts(self._post, self.neurons)
        self._out = _starts(self._pre, self.sources)
        self._by_pre = order.numpy()
        self._post_by_pre = self._post[self._by_pre]
        self._filter = self.synapse
        if isinstance(self.synapse, NearestSpike):
            self._filter = Exponential(self.synapse.tau_seconds)

    def initial(self, like: Tensor) -> States:
        batch = like.shape[1]
        states = {"weight": self.values.repeat(batch, 1).T}  # a sample's weights side by side: fewer lines of memory
        if self.synapse.filters_spikes:
            states["x"] = self.like.new_zeros(self.sources, batch)
        return states | self._filter.initial(self.like.new_zeros(self.neurons, batch))

    def receive(self, state: States, k: dict[str, Any], spikes: Tensor) -> Tensor:
        weight, sent = by_sample(state).reshape(-1), spikes.numpy()
        batch = sent.shape[1]
        pre, sample = _spiking(sent)
        worth = sent[pre, sample]
        if self.synapse.filters_spikes:
            worth = worth - state["x"].numpy()[pre, sample]
            torch.maximum(state["x"], spikes, out=state["x"])
        counts, place = _expand(self._out, pre)
        synapses = self._by_pre[place]
        which = np.repeat(sample, counts)
        values = weight[synapses + which * len(self._post)] * np.repeat(worth, counts)
        arrivals = self._gathered(self._post_by_pre[place] * batch + which, values, batch)
        return self._filter.receive(state, self.constants, arrivals)

    def decay(self, state: States, k: dict[str, Any]) -> None:
        if self.synapse.filters_spikes:
            state["x"].mul_(self.constants["keep"])
        self._filter.decay(state, self.constants)

    def change(self, state: States, spikes: Tensor, trace: Tensor, post: Tensor, q: Tensor, t: Tensor) -> None:
        batch = spikes.shape[1]
        fired, sent, traces = post.numpy(), spikes.numpy().reshape(-1), trace.numpy().reshape(-1)
        q_table, t_table = q.numpy().reshape(-1), t.numpy().reshape(-1)
        # synapses of postsynaptic spikes take both terms, those of presynaptic spikes only where the other is silent
        who, sample = _spiking(fired)
        counts, synapses = _expand(self._in, who)
        which = np.repeat(sample, counts)
        source = self._pre[synapses] * batch + which
        if self.kinds == 1:
            first, second = (np.repeat(table[who * batch + sample], counts) for table in (q_table, t_table))
        else:
            key = self._key[synapses] * batch + which
            first, second = q_table[key], t_table[key]
        self._apply(state, synapses, which, traces[source] * first + sent[source] * second, source)
        who, sample = _spiking(spikes.numpy())
        counts, place = _expand(self._out, who)
        synapses, which = self._by_pre[place], np.repeat(sample, counts)
        alone = np.flatnonzero(fired.reshape(-1)[self._post_by_pre[place] * batch + which] == 0)
        synapses, which, worth = synapses[alone], which[alone], np.repeat(sent[who * batch + sample], counts)[alone]
        changes = worth * t_table[self._key[synapses] * batch + which]
        self._apply(state, synapses, which, changes, self._pre[synapses] * batch + which)

    def _apply(self, state: States, synapses: Array, which: Array, change: Array, source: Array) -> None:
        weight = by_sample(state).reshape(-1)
        place = synapses + which * len(self._post)
        old = weight[place]
        low, high = (self._low[:1], self._high[:1]) if self.kinds == 1 else (self._low[synapses], self._high[synapses])
        new = np.minimum(np.maximum(old + change, low), high)
        weight[place] = new
        if self.synapse.filters_spikes:
            batch = state["x"].shape[1]
            moved = (new - old) * state["x"].numpy().reshape(-1)[source]
            state["i"].add_(self._gathered(self._post[synapses] * batch + which, moved, batch))

    def _gathered(self, place: Array, values: Array, batch: int) -> Tensor:
        """Sums by postsynaptic neuron and sample, ``[neurons, batch]``."""
        sums = np.bincount(place, weights=values, minlength=self.neurons * batch)
        return torch.from_numpy(sums.reshape(self.neurons, batch)).to(self.like.dtype)


def by_sample(state: States) -> Array:
    """The weights ``[batch, synapses]``, in place: a view that would silently be a copy is not one here."""
    if not state["weight"].T.is_contiguous():
        state["weight"] = state["weight"].T.contiguous().T
    found: Array = state["weight"].T.numpy()
    return found


def _spiking(spikes: Array) -> tuple[Array, Array]:
    """Rows and columns that are not 0, row by row; of bools numpy finds them several times faster."""
    flat = np.flatnonzero(spikes != 0)
    rows = flat // spikes.shape[1]
    return rows, flat - rows * spikes.shape[1]


def _starts(values: Array, groups: int) -> Array:
    """Where each group starts in sorted values, and where the last ends."""
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=groups))])


def _expand(starts: Array, groups: Array) -> tuple[Array, Array]:
    """How many members each of the groups has, and the places of all of them, one group after another."""
    counts = starts[groups + 1] - starts[groups]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return counts, np.arange(total) + np.repeat(starts[groups] - (ends - counts), counts)
