"""What the input does to a liquid: relays, synapses from the input, and their weights for many steps at once."""

from __future__ import annotations

import torch
from torch import Tensor

from snn._neurons import States
from snn._products import events_of, events_product
from snn._synapses import Exponential, NearestSpike, Relay, Synapse

_LONG_AGO = -(2**30)  # steps: a trace of a neuron that never fired is 0


class InputDrive:
    """Arrivals of the input at every neuron, a chunk of steps at a time.

    The nearest-spike synapse is linear in increments: a spike lifts the trace ``x`` of its input to 1, by
    ``e = 1 - exp(-gap / tau)`` with the time since the spike before, and between spikes ``W x`` decays as a whole. So
    that synapse too multiplies events only, and the sum is filtered behind the weights, by ``filter``.

    Args:
        weight: ``[neurons, inputs]``.
        synapse: of the input.
        relay: input neurons, or None.
        dt_seconds: a step.
        how: ``"auto"``, ``"dense"`` or ``"events"``.
    """

    def __init__(self, weight: Tensor, synapse: Synapse, relay: Relay | None, dt_seconds: float, how: str) -> None:
        self.weight, self.relay, self.how = weight, relay, how
        self.columns: Tensor | None = None
        self.filter: Synapse = synapse
        self.counts_gaps, self.rate = False, 0.0
        if isinstance(synapse, NearestSpike):
            self.counts_gaps, self.filter = True, Exponential(synapse.tau_seconds)
            self.rate = -dt_seconds / synapse.tau_seconds

    def initial(self, batch: int) -> States:
        """States of the relays, and the step of the last spike of every input, ``[batch, inputs]``."""
        inputs, device = self.weight.shape[1], self.weight.device
        states = {} if self.relay is None else self.relay.initial(batch, inputs, device)
        if self.counts_gaps:
            states["last"] = torch.full((batch, inputs), _LONG_AGO, dtype=torch.int32, device=device)
        return states

    def arrivals(self, x: Tensor, state: States, step: int) -> tuple[Tensor, Tensor]:
        """``W e`` of a chunk of the input, and the spikes of the input.

        Args:
            x: ``[batch, steps, inputs]``.
            state: changed in place.
            step: number of the first step, counted from the start of the state.

        Returns:
            Tensor ``[steps, neurons, batch]``, a view, and ``[steps, batch, inputs]``.
        """
        if self.relay is not None:
            spikes = self.relay.run(state, x if x.dtype == torch.bool else x != 0)
        else:
            spikes = x.transpose(0, 1)
        steps, batch, inputs = spikes.shape
        flat = events_of(spikes, self.how)
        if flat is None:
            values = self._values(spikes, state, step) if self.counts_gaps else spikes.to(self.weight.dtype)
            drive = self.weight @ values.reshape(steps * batch, inputs).T
            return drive.view(-1, steps, batch).transpose(0, 1), spikes
        if self.columns is None:
            self.columns = self.weight.T.contiguous()
        worth: Tensor | None = None
        if self.counts_gaps:
            worth = self._event_values(flat, state, step, batch * inputs)
        elif spikes.dtype != torch.bool:
            worth = spikes.reshape(-1)[flat].to(self.weight.dtype)
        drive = events_product(self.columns, steps * batch, flat, worth)
        return drive.view(steps, batch, -1).transpose(1, 2), spikes

    def _values(self, spikes: Tensor, state: States, step: int) -> Tensor:
        """Increments of the traces, dense; a step after another, because each needs the spike before."""
        last, values = state["last"], torch.empty(spikes.shape, dtype=self.weight.dtype, device=spikes.device)
        for t in range(len(spikes)):
            gap = (step + t - last).to(values.dtype)
            values[t] = torch.expm1(gap.mul_(self.rate)).neg_() * spikes[t]
            last.masked_fill_(spikes[t].bool(), step + t)
        return values

    def _event_values(self, flat: Tensor, state: States, step: int, per_step: int) -> Tensor:
        """Increments of the traces at events: time since the one before of the same input."""
        last = state["last"].view(-1)
        when = torch.div(flat, per_step, rounding_mode="floor")
        who = flat - when * per_step
        when += step
        gaps = torch.empty(len(flat), dtype=torch.int32)
        steps = int(when[-1]) - step + 1 if len(flat) else 0
        bounds = torch.searchsorted(when, torch.arange(step, step + steps + 1)).tolist()
        when = when.to(torch.int32)
        for start, end in zip(bounds, bounds[1:], strict=False):
            chosen = who[start:end]
            torch.sub(when[start:end], last[chosen], out=gaps[start:end])
            last[chosen] = when[start:end]
        return torch.expm1(gaps.to(self.weight.dtype).mul_(self.rate)).neg_()
