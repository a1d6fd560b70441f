"""What a readout sees of a liquid: features of trains, added up a chunk of time at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed

State = tuple[Any, ...]  # tensors, and numbers that stay on the host


@dataclass(frozen=True, repr=False)
class Feature(Printed, ABC):
    """Features ``[batch, features]`` of trains ``[batch, time, neurons]``.

    ``feature(train)`` is all of it; over chunks, ``state = feature.add(state, chunk)`` from ``None`` on and then
    ``feature.value(state)``, so that memory does not grow with time, or ``feature.of_chunks(chunks)``.
    """

    @abstractmethod
    def add(self, state: State | None, chunk: Tensor) -> State:
        """The state after a further chunk ``[batch, time, neurons]``; ``state`` is None before the first."""

    @abstractmethod
    def value(self, state: State) -> Tensor:
        """The features ``[batch, features]``, float."""

    def of_chunks(self, chunks: Iterable[Tensor]) -> Tensor:
        """The features of a train in chunks. Raises DataError where there is none."""
        state: State | None = None
        for chunk in chunks:
            state = self.add(state, chunk)
        if state is None:
            raise DataError(f"{type(self).__name__}: got no chunks, needed at least one (a generator used up?)")
        return self.value(state)

    def __call__(self, train: Tensor) -> Tensor:
        return self.of_chunks((train,))


@dataclass(frozen=True, repr=False)
class SpikeCounts(Feature):
    """Spikes of each neuron over the whole train: ``n_i = Σ_t s_i(t)``, as in NALSM."""

    def add(self, state: State | None, chunk: Tensor) -> State:
        counts = checked_train(chunk).sum(1, dtype=_float(chunk))
        return (counts if state is None else state[0] + counts,)

    def value(self, state: State) -> Tensor:
        counts: Tensor = state[0]
        return counts


@dataclass(frozen=True, repr=False)
class ExponentialFilter(Feature):
    """Filtered spikes at the end of a train: ``r(t) = r(t - dt) exp(-dt / tau) + s(t)`` (Maass et al. 2002, 30 ms)."""

    tau_seconds: float = 0.03
    dt_seconds: float = 1e-3

    def __post_init__(self) -> None:
        require_number("ExponentialFilter.tau_seconds", self.tau_seconds, above=0.0)
        require_number("ExponentialFilter.dt_seconds", self.dt_seconds, above=0.0)

    def add(self, state: State | None, chunk: Tensor) -> State:
        steps, dtype = checked_train(chunk).shape[1], _float(chunk)
        ages = torch.arange(steps - 1, -1, -1, device=chunk.device, dtype=dtype)
        decay = self.dt_seconds / self.tau_seconds
        filtered = torch.einsum("btn,t->bn", chunk.to(dtype), torch.exp(-decay * ages))
        return (filtered if state is None else state[0] * math.exp(-decay * steps) + filtered,)

    def value(self, state: State) -> Tensor:
        filtered: Tensor = state[0]
        return filtered


@dataclass(frozen=True, repr=False)
class MembraneVoltage(Feature):
    """Voltages ``[batch, time, neurons]``: at the end of the train (``"last"``) or their mean over it (``"mean"``)."""

    reduce: str = "last"

    def __post_init__(self) -> None:
        lookup("MembraneVoltage.reduce", self.reduce, dict.fromkeys(("last", "mean")))

    def add(self, state: State | None, chunk: Tensor) -> State:
        if not checked_train(chunk).dtype.is_floating_point:
            raise DataError(f"voltages: got {chunk.dtype}, needed floats; give the liquid's voltages, not its spikes")
        if self.reduce == "last":
            return (chunk[:, -1],)
        total, steps = chunk.sum(1), chunk.shape[1]
        return (total, steps) if state is None else (state[0] + total, state[1] + steps)

    def value(self, state: State) -> Tensor:
        voltages: Tensor = state[0] if self.reduce == "last" else state[0] / state[1]
        return voltages


@dataclass(frozen=True, repr=False)
class TimeBins(Feature):
    """Spikes of each neuron in ``bins`` equal parts of the train, ``[batch, bins * neurons]``, earliest bin first.

    Step t of ``steps`` belongs to bin ``floor(t bins / steps)``; a train must have just that many steps.
    """

    bins: int
    steps: int

    def __post_init__(self) -> None:
        require_whole("TimeBins.bins", self.bins, 1)
        require_whole("TimeBins.steps", self.steps, 1)
        if self.bins > self.steps:
            raise ConfigError(f"TimeBins.bins: got {self.bins} for {self.steps} steps, needed a step a bin at least")

    def add(self, state: State | None, chunk: Tensor) -> State:
        batch, length, neurons = checked_train(chunk).shape
        counts, seen = (None, 0) if state is None else state
        if counts is None:
            counts = chunk.new_zeros(batch, self.bins, neurons, dtype=_float(chunk))
        if seen + length > self.steps:
            raise DataError(f"TimeBins: got a train of {seen + length} steps or more, needed {self.steps}")
        at = torch.arange(seen, seen + length, device=chunk.device) * self.bins // self.steps
        return counts.index_add(1, at, chunk.to(counts.dtype)), seen + length

    def value(self, state: State) -> Tensor:
        counts, seen = state
        if seen != self.steps:
            raise DataError(f"TimeBins: got a train of {seen} steps, needed {self.steps}; write TimeBins(steps={seen})")
        bins: Tensor = counts.flatten(1)
        return bins


def checked_train(train: Tensor) -> Tensor:
    """The train itself. Raises DataError unless it is ``[batch, time, neurons]`` with at least one step."""
    if not isinstance(train, Tensor) or train.dim() != 3 or not train.shape[1]:
        got = f"shape {list(train.shape)}" if isinstance(train, Tensor) else type(train).__name__
        raise DataError(f"train: got {got}, needed a tensor [batch, time, neurons]; write train[None] for one sample")
    return train


def _float(train: Tensor) -> torch.dtype:
    return train.dtype if train.dtype.is_floating_point else torch.float32
