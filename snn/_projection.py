"""Plastic synapses: weights of a sample's own, the currents that they give, and their changes by pairs of spikes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from snn._neurons import States
from snn._synapses import Relay, Synapse


class Projection:
    """Plastic synapses from neurons or inputs to the neurons of a liquid, one by one: ``[synapses, batch]``.

    Every sample has a copy of the weights, and only of those of synapses that are there. Nothing here looks at values:
    a step of all synapses costs the same whoever spikes (``EventProjection`` touches those of neurons that spike).

    A change is the sum of two terms for each synapse ``j -> i``, clipped: ``w <- clip(w + r_j Q_i + s_j T_i)``, with
    the trace ``r`` and the spikes ``s`` of the presynaptic side and the tables ``Q`` (0 where ``i`` is silent) and
    ``T`` of the postsynaptic side, one for excitatory and, where there are any, one for inhibitory ``j``.

    Args:
        weight: ``[post, pre]``, the weights at the start of a sample.
        mask: bool ``[post, pre]``, where synapses are; their weight may be 0.
        synapse: whose time constants are numbers.
        dt_seconds: a step.
        inhibitory: bool ``[pre]``, None where the presynaptic side is of one kind.
        bounds: lowest and highest weight by kind: one pair, or those of excitatory and inhibitory ``j``.

    Raises:
        ConfigError: a time constant that is a pair.
    """

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        synapse: Synapse,
        dt_seconds: float,
        inhibitory: Tensor | None,
        bounds: tuple[tuple[float, float], ...],
    ) -> None:
        for name in synapse.times:
            if isinstance(getattr(synapse, name), tuple):
                raise ConfigError(f"{synapse!r}: got a pair of times, needed one time for all plastic synapses")
        self.synapse, self.like = synapse, weight
        self.neurons, self.sources = weight.shape
        self.post, self.pre = mask.nonzero(as_tuple=True)  # sorted by post
        self.values = weight[self.post, self.pre]
        self.lengths = torch.bincount(self.post, minlength=self.neurons)
        self.kind_of = self.pre.new_zeros(self.sources) if inhibitory is None else inhibitory.long()
        kind = self.kind_of[self.pre]
        self.key = self.post + self.neurons * kind
        self.kinds, self.bounds = len(bounds), bounds
        table = torch.tensor(bounds, dtype=weight.dtype, device=weight.device)
        self.low, self.high = table[kind, 0], table[kind, 1]
        self.constants = synapse.constants(dt_seconds, {n: getattr(synapse, n) for n in synapse.times})

    def initial(self, like: Tensor) -> States:
        """Weights, trace and currents of ``like [neurons, batch]``."""
        batch = like.shape[1]
        states = {"weight": self.values[:, None].repeat(1, batch)}
        rows = self.sources if self.synapse.filters_spikes else self.neurons
        return states | self.synapse.initial(self.like.new_zeros(rows, batch))

    def receive(self, state: States, k: dict[str, Any], spikes: Tensor) -> Tensor:
        """The current ``[neurons, batch]`` of this step, for ``spikes [pre, batch]``."""
        sent = spikes
        if self.synapse.filters_spikes:
            sent = torch.maximum(state["x"], spikes, out=state["x"])
        arrivals = self.sums(sent.index_select(0, self.pre).mul_(state["weight"]), self.lengths)
        return self.synapse.receive(state, self.constants, arrivals)

    def decay(self, state: States, k: dict[str, Any]) -> None:
        """The end of the step."""
        if self.synapse.filters_spikes:
            state["x"].mul_(self.constants["keep"])
        else:
            self.synapse.decay(state, self.constants)

    def change(self, state: States, spikes: Tensor, trace: Tensor, post: Tensor, q: Tensor, t: Tensor) -> None:
        """One step of learning, in place.

        Args:
            state: of ``initial``.
            spikes, trace: of the presynaptic side, ``[pre, batch]``.
            post: spikes of the postsynaptic side, ``[neurons, batch]``.
            q, t: tables, ``[kinds * neurons, batch]``.
        """
        weight = state["weight"]
        for values, table in ((trace, q), (spikes, t)):
            weight.addcmul_(values.index_select(0, self.pre), table.index_select(0, self.key))
        torch.clamp(weight, self.low[:, None], self.high[:, None], out=weight)

    def sums(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Sums of consecutive rows, as many as ``lengths`` says; the order is fixed, on every device."""
        return torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)

    def matrix(self, values: Tensor) -> Tensor:
        """``[post, pre]`` of values ``[synapses]``."""
        full = torch.zeros_like(self.like)
        full[self.post, self.pre] = values
        return full


class PlasticRecurrence:
    """A liquid's own plastic synapses, in place of its ``Recurrence``."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection

    def initial(self, batch: int) -> States:
        """Fresh states."""
        return self.projection.initial(self.projection.like.new_empty(self.projection.neurons, batch))

    def current(self, state: States, spikes: Tensor, step: int, out: Tensor) -> Tensor:
        """The current of this step."""
        return self.projection.receive(state, {}, spikes)

    def decay(self, state: States) -> None:
        """The end of the step."""
        self.projection.decay(state, {})


class PlasticDrive:
    """Plastic synapses of the input, in place of ``InputDrive``: spikes go through them a step after another."""

    def __init__(self, projection: Projection, relay: Relay | None) -> None:
        self.filter, self.relay = projection, relay

    def initial(self, batch: int) -> States:
        """States of the relays."""
        like = self.filter.like
        return {} if self.relay is None else self.relay.initial(batch, self.filter.sources, like.device)

    def arrivals(self, x: Tensor, state: States, step: int) -> tuple[Tensor, Tensor]:
        """Spikes of the input, ``[steps, inputs, batch]`` in the precision of the weights, and as they are."""
        if self.relay is not None:
            spikes = self.relay.run(state, x if x.dtype == torch.bool else x != 0)
        else:
            spikes = x.transpose(0, 1)
        return spikes.transpose(1, 2).to(self.filter.like.dtype), spikes
