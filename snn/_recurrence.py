"""What neurons do to each other: delays, short-term plasticity, weights and synapses, ready for many steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snn._neurons import States, Value, by_type, exponential
from snn._products import Product, recurrent_product
from snn._synapses import Synapse


@dataclass(frozen=True)
class ShortTerm:
    """Short-term plasticity, tensors ``[post, pre]`` that count where a weight is (Markram, Wang & Tsodyks 1998).

    The k-th spike of a neuron releases ``w u_k R_k``: ``u_k = U + u_{k-1} (1 - U) exp(-gap / F)``, from ``u = 0``, and
    ``R_k = 1 + (R_{k-1} (1 - u_{k-1}) - 1) exp(-gap / D)``, from ``R = 1``.

    Attributes:
        use: U, the share that is released.
        recovery_seconds: D, of depression.
        facilitation_seconds: F.
    """

    use: Tensor
    recovery_seconds: Tensor
    facilitation_seconds: Tensor


class Recurrence:
    """The current from a liquid's own spikes, step by step.

    Args:
        weight: ``[post, pre]``.
        synapse: one for all; time constants that are pairs make two currents, by the presynaptic type.
        dt_seconds: a step.
        excitatory: bool ``[neurons]``, or None.
        delay_steps: ``[post, pre]`` whole numbers, or None: an arrival ``d`` steps later than without.
        delays: those that there are, sorted; known beforehand, so that nothing is looked at here.
        short_term: plasticity, or None.
        edges: ``[2, synapses]``, the neurons behind and before every plastic synapse.
        how: ``"auto"``, ``"dense"`` or ``"sparse"``.
    """

    def __init__(
        self,
        weight: Tensor,
        synapse: Synapse,
        dt_seconds: float,
        excitatory: Tensor | None,
        delay_steps: Tensor | None,
        delays: tuple[int, ...],
        short_term: ShortTerm | None,
        edges: Tensor | None,
        how: str,
    ) -> None:
        self.synapse, self.neurons, self.like = synapse, len(weight), weight
        pairs = {n: getattr(synapse, n) for n in synapse.times}
        self.channels = 2 if any(isinstance(p, tuple) for p in pairs.values()) else 1
        values: dict[str, Value] = dict(pairs)
        split = torch.zeros(1, self.neurons, dtype=weight.dtype, device=weight.device)  # 1 where the second current is
        if self.channels == 2:
            halves = torch.arange(2 * self.neurons, device=weight.device) < self.neurons
            values = {n: by_type(n, p if isinstance(p, tuple) else (p, p), halves).to(weight) for n, p in pairs.items()}
            split = by_type(f"time constants of {synapse!r}", (0.0, 1.0), excitatory).to(weight).T
        self.constants = synapse.constants(dt_seconds, values)
        self.groups: list[tuple[int, Product]] = []
        self.edges: _Edges | None = None
        self.history = 0 if delay_steps is None and short_term is None else max(delays) + 1
        if short_term is not None and edges is not None:
            rows = edges[0] + split[0].long()[edges[1]] * self.neurons
            self.edges = _Edges(weight, edges, rows, self.channels, delay_steps, short_term, dt_seconds, how)
            return
        if self.channels == 2:
            weight = torch.cat([weight * (1.0 - split), weight * split])
        for delay in delays:
            of_delay = weight
            if delay_steps is not None:
                of_delay = torch.where(torch.cat([delay_steps] * self.channels) == delay, weight, 0.0)
            self.groups.append((delay, recurrent_product(of_delay, how)))

    def initial(self, batch: int) -> States:
        """Fresh states: of the synapse, of the last spikes where there are delays, of plasticity."""
        rows = self.neurons if self.synapse.filters_spikes else self.channels * self.neurons
        states = self.synapse.initial(self.like.new_zeros(rows, batch))
        if self.history:
            states["history"] = self.like.new_zeros(self.history, self.neurons, batch)
        if self.edges is not None:
            states |= self.edges.initial(batch, self.like)
        return states

    def current(self, state: States, spikes: Tensor, step: int, out: Tensor) -> Tensor:
        """The current ``[neurons, batch]`` of this step, in ``out`` or a state."""
        sent = spikes
        if self.synapse.filters_spikes:
            sent = torch.maximum(state["x"], spikes, out=state["x"])
        arrivals = (
            out
            if self.channels == 1
            else torch.empty(self.channels * self.neurons, out.shape[1], dtype=out.dtype, device=out.device)
        )
        if self.history:
            state["history"][step % self.history].copy_(sent)
        if self.edges is not None:
            self.edges.arrivals(state, step, arrivals)
        elif not self.history:
            self.groups[0][1](sent, arrivals)
        else:
            for number, (delay, product) in enumerate(self.groups):
                late = state["history"][(step - delay) % self.history]
                if number == 0:
                    product(late, arrivals)
                else:
                    arrivals.add_(product(late, torch.empty_like(arrivals)))
        current = self.synapse.receive(state, self.constants, arrivals)
        if self.channels == 1:
            return current
        return torch.add(current[: self.neurons], current[self.neurons :], out=out)

    def decay(self, state: States) -> None:
        """The end of the step."""
        if self.synapse.filters_spikes:
            state["x"].mul_(self.constants["keep"])
        else:
            self.synapse.decay(state, self.constants)


class _Edges:
    """Synapses one by one, each with its own release: states ``[synapses, batch]``."""

    def __init__(
        self,
        weight: Tensor,
        edges: Tensor,
        rows: Tensor,
        channels: int,
        delay_steps: Tensor | None,
        short_term: ShortTerm,
        dt_seconds: float,
        how: str,
    ) -> None:
        post, self.pre = edges
        self.count, self.neurons = len(post), len(weight)

        def chosen(values: Tensor) -> Tensor:
            return values.to(weight)[post, self.pre][:, None]

        self.use = chosen(short_term.use)
        self.keep_u = exponential(-dt_seconds / chosen(short_term.facilitation_seconds))
        self.keep_r = exponential(-dt_seconds / chosen(short_term.recovery_seconds))
        self.delays = torch.zeros_like(post) if delay_steps is None else delay_steps[post, self.pre].long()
        gather = weight.new_zeros(channels * self.neurons, self.count)
        gather[rows, torch.arange(self.count, device=weight.device)] = weight[post, self.pre]
        self.product = recurrent_product(gather, how)

    def initial(self, batch: int, like: Tensor) -> States:
        shape = (self.count, batch)
        return {"use": like.new_zeros(shape), "resource": like.new_ones(shape)}

    def arrivals(self, state: dict[str, Any], step: int, out: Tensor) -> None:
        history = state["history"]
        places = (step - self.delays).remainder_(len(history)).mul_(self.neurons).add_(self.pre)
        spikes = history.flatten(0, 1).index_select(0, places)
        u, r = state["use"], state["resource"]
        u.mul_(self.keep_u)
        u.addcmul_(spikes, self.use * (1.0 - u))
        r.sub_(1.0).mul_(self.keep_r).add_(1.0)
        released = spikes.mul_(u).mul_(r)
        r.sub_(released)
        self.product(released, out)
