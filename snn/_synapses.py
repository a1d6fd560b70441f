"""Synapses: how spikes become currents, each with the order of its step; tensors ``[neurons, batch]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._printed import Printed
from snn._neurons import Setting, States, Value, check_setting, exponential

METHODS = ("exact", "euler")


@dataclass(frozen=True, repr=False)
class Synapse(Printed):
    """Base of synapses.

    One step: ``receive`` takes the arrivals ``W s`` of the step in and gives the current that acts in it, ``decay``
    ends the step. Time constants may be a pair: of synapses *from* excitatory and inhibitory neurons; of synapses from
    the input, which has no types, *onto* them.

    Attributes:
        filters_spikes: whether what is multiplied by the weights is a trace of the presynaptic spikes.
    """

    filters_spikes: ClassVar[bool] = False

    @property
    def times(self) -> tuple[str, ...]:
        """Names of the time constants."""
        return ()

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        """What a step needs, computed once a run."""
        return {}

    def initial(self, like: Tensor) -> States:
        """Fresh states, zeros in the shape of ``like``."""
        return {}

    def receive(self, state: States, k: Mapping[str, Any], arrivals: Tensor) -> Tensor:
        """The current of this step: ``arrivals`` itself, or a state, which the caller must not change."""
        return arrivals

    def decay(self, state: States, k: Mapping[str, Any]) -> None:
        """The end of the step."""


@dataclass(frozen=True, repr=False)
class Delta(Synapse):
    """A spike is a current of one step: ``i = W s``."""


@dataclass(frozen=True, repr=False)
class NearestSpike(Synapse):
    """Only the last spike counts: ``i = W exp(-age / tau)``, with ``age = 0`` in the step of the spike (NALSM).

    A spike sets the trace of its neuron to 1 instead of adding 1. One step: ``x <- 1`` where a neuron fires, the
    current is ``W x``, then ``x <- x exp(-dt / tau)``. The factor ``1 / tau_u`` of the paper is 1 at its 1 ms.

    Attributes:
        tau_seconds: one for all.

    Raises:
        ConfigError: a time that is not positive, or a pair.
    """

    tau_seconds: float = 1e-3

    filters_spikes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_setting("NearestSpike.tau_seconds", self.tau_seconds, above=0.0)
        if isinstance(self.tau_seconds, tuple):
            raise ConfigError("NearestSpike.tau_seconds: got a pair, needed one time: traces are of presynaptic spikes")

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        return {"keep": exponential(-dt_seconds / self.tau_seconds)}

    def initial(self, like: Tensor) -> States:
        return {"x": torch.zeros_like(like)}


@dataclass(frozen=True, repr=False)
class Exponential(Synapse):
    """Spikes add up: ``i <- i + W s`` acts at once, then ``i <- i exp(-dt / tau)``, or by Euler ``i (1 - dt / tau)``.

    Raises:
        ConfigError: a time that is not positive, or an unknown method.
    """

    tau_seconds: Setting = 5e-3
    method: str = "exact"

    def __post_init__(self) -> None:
        check_setting("Exponential.tau_seconds", self.tau_seconds, above=0.0)
        if self.method not in METHODS:
            raise ConfigError(f"Exponential.method: got {self.method!r}, needed 'exact' or 'euler'")

    @property
    def times(self) -> tuple[str, ...]:
        return ("tau_seconds",)

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        change = -dt_seconds / value["tau_seconds"]
        return {"keep": 1.0 + change if self.method == "euler" else exponential(change)}

    def initial(self, like: Tensor) -> States:
        return {"i": torch.zeros_like(like)}

    def receive(self, state: States, k: Mapping[str, Any], arrivals: Tensor) -> Tensor:
        return state["i"].add_(arrivals)

    def decay(self, state: States, k: Mapping[str, Any]) -> None:
        state["i"].mul_(k["keep"])


@dataclass(frozen=True, repr=False)
class DoubleExponential(Synapse):
    """Rise and decay (Nicola & Clopath 2017): a unit of charge in milliseconds, spread over two exponentials.

    One step: ``h <- h + W s / (tau_rise tau_decay)``, the current is ``i``, then ``i <- i exp(-dt / tau_rise) + dt h``
    and ``h <- h exp(-dt / tau_decay)``, times in milliseconds. A spike reaches the current one step after it arrived.

    Raises:
        ConfigError: a time that is not positive.
    """

    tau_rise_seconds: Setting = 2e-3
    tau_decay_seconds: Setting = 20e-3

    def __post_init__(self) -> None:
        for name in self.times:
            check_setting(f"DoubleExponential.{name}", getattr(self, name), above=0.0)

    @property
    def times(self) -> tuple[str, ...]:
        return ("tau_rise_seconds", "tau_decay_seconds")

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        rise, decay = (value[n] for n in self.times)
        return {
            "keep_i": exponential(-dt_seconds / rise),
            "keep_h": exponential(-dt_seconds / decay),
            "jump": 1.0 / (rise * decay * 1e6),
            "dt_ms": dt_seconds * 1e3,
        }

    def initial(self, like: Tensor) -> States:
        return {"i": torch.zeros_like(like), "h": torch.zeros_like(like)}

    def receive(self, state: States, k: Mapping[str, Any], arrivals: Tensor) -> Tensor:
        state["h"].add_(arrivals * k["jump"])
        return state["i"]

    def decay(self, state: States, k: Mapping[str, Any]) -> None:
        state["i"].mul_(k["keep_i"]).add_(state["h"], alpha=k["dt_ms"])
        state["h"].mul_(k["keep_h"])


@dataclass(frozen=True, repr=False)
class Relay(Printed):
    """Input neurons of NALSM: every event lifts one far above its threshold, so that it fires in the next step.

    Such a neuron needs no voltage. It fires one step after an event, or as soon as ``refractory_steps`` steps without
    a spike have passed; events meanwhile are kept as one. That is the spike train of ``NalsmLIF`` under a current of
    several times the threshold an event (checked by the tests).

    Raises:
        ConfigError: fewer than 0 steps.
    """

    refractory_steps: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.refractory_steps, bool) or not isinstance(self.refractory_steps, int):
            raise ConfigError(f"Relay.refractory_steps: got {self.refractory_steps!r}, needed a whole number of steps")
        if self.refractory_steps < 0:
            raise ConfigError(f"Relay.refractory_steps: got {self.refractory_steps}, needed 0 or more")

    def initial(self, batch: int, inputs: int, device: torch.device) -> States:
        """``pending [batch, inputs]`` and the spikes of the last steps, ``[refractory_steps, batch, inputs]``."""
        return {
            "pending": torch.zeros(batch, inputs, dtype=torch.bool, device=device),
            "fired": torch.zeros(self.refractory_steps, batch, inputs, dtype=torch.bool, device=device),
        }

    def run(self, state: States, events: Tensor) -> Tensor:
        """Spikes of the relays, ``[steps, batch, inputs]``, for events ``[batch, steps, inputs]``; bools both."""
        last = list(state["fired"].unbind(0))
        pending = state["pending"]
        spikes = torch.empty(events.transpose(0, 1).shape, dtype=torch.bool, device=events.device)
        for t in range(events.shape[1]):
            fires = spikes[t]
            fires.copy_(pending)
            for earlier in last:
                fires.logical_and_(~earlier)
            pending.logical_xor_(fires).logical_or_(events[:, t])
            last = [fires, *last][: self.refractory_steps]
        if last:
            state["fired"].copy_(torch.stack(last))
        return spikes
