"""What a run of a liquid writes down, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed
from snn._health import Health
from snn._neurons import States, Value


@dataclass(frozen=True, repr=False)
class Record(Printed):
    """What a run keeps beside the spike counts; what is not asked for costs neither time nor memory.

    Attributes:
        spikes: every spike, bool ``[batch, time, neurons]``.
        voltage: ``[batch, time, neurons]``, at the end of steps.
        input_spikes: of the input behind its relays, bool ``[batch, time, inputs]``.
        trace_seconds: time constant of a filter of the spikes, ``r <- r exp(-dt / tau) + s``; None for none.
        traces: the filter over time too, ``[batch, time, neurons]``; otherwise only at the end of the run.
        every_steps: voltage and traces at every so many steps, the last of each group.
        neurons: indices to which spikes, voltage and traces over time are limited; None for all.

    Raises:
        ConfigError: a value that cannot be.
    """

    spikes: bool = False
    voltage: bool = False
    input_spikes: bool = False
    trace_seconds: float | None = None
    traces: bool = False
    every_steps: int = 1
    neurons: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require_whole("Record.every_steps", self.every_steps, 1)
        if self.trace_seconds is not None:
            require_number("Record.trace_seconds", self.trace_seconds, above=0.0)
        if self.traces and self.trace_seconds is None:
            raise ConfigError("Record.traces: got no time constant, needed one; write Record(trace_seconds=0.03)")
        if self.neurons is not None:
            object.__setattr__(self, "neurons", tuple(int(n) for n in self.neurons))


@dataclass
class LiquidState:
    """State of a liquid between two runs; opaque, apart from ``batch``, ``step`` and ``voltage``.

    Tensors are ``[neurons, batch]`` inside: sparse products run along the batch.

    Attributes:
        neuron, synapse, input, input_synapse: states by name.
        spikes: of the last step, ``[neurons, batch]``.
        step: number of steps done.
        extra: states of what a kind of liquid adds, by name: see ``PlasticLiquid`` and ``ResistiveLiquid``.
    """

    neuron: States
    synapse: States
    input: States
    input_synapse: States
    spikes: Tensor
    step: int = 0
    extra: States = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.spikes.shape[1]

    @property
    def voltage(self) -> Tensor:
        """``[batch, neurons]``."""
        return self.neuron["v"].T

    def clone(self) -> LiquidState:
        """A copy that shares nothing."""
        neuron, synapse, entry, filtered, extra = (
            {n: t.clone() for n, t in part.items()}
            for part in (self.neuron, self.synapse, self.input, self.input_synapse, self.extra)
        )
        return LiquidState(neuron, synapse, entry, filtered, self.spikes.clone(), self.step, extra)


@dataclass(frozen=True)
class Run:
    """What a run gives back.

    Attributes:
        counts: spikes a neuron, ``[batch, neurons]``.
        state: from which the next run may go on.
        steps: of this run.
        dt_seconds: a step.
        spikes, voltage, input_spikes, traces: over time as ``Record`` asked, else None.
        trace: filtered spikes at the end, ``[batch, neurons]``, or None.
        interval_steps: fewest steps between two spikes of a neuron, one number or ``[neurons]``.
    """

    counts: Tensor
    state: LiquidState
    steps: int
    dt_seconds: float
    interval_steps: Value
    spikes: Tensor | None = None
    voltage: Tensor | None = None
    input_spikes: Tensor | None = None
    trace: Tensor | None = None
    traces: Tensor | None = None

    def recorded(self, name: str) -> Tensor:
        """What was recorded under that name.

        Raises:
            ConfigError: it was not asked for.
        """
        values = getattr(self, name, None)
        if not isinstance(values, Tensor):
            raise ConfigError(f"run: got no {name}, needed them recorded; write run(..., record=Record({name}=...))")
        return values

    @property
    def health(self) -> Health:
        """Rates, and shares of silent and saturated neurons; looks at values, so it waits for a device."""
        return Health.of(self.counts, self.steps, self.dt_seconds, self.interval_steps)


@dataclass
class Recorder:
    """Collects what ``record`` asks for, a chunk of steps after another; no look at values."""

    record: Record
    keep: float
    like: Tensor
    chosen: Tensor | None
    trace: Tensor | None = None
    parts: dict[str, list[Tensor]] = field(default_factory=dict)
    open: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0

    def start(self, steps: int) -> None:
        """Makes room for a chunk of steps."""
        rows = len(self.like) if self.chosen is None else len(self.chosen)
        batch, every = self.like.shape[1], self.record.every_steps
        sampled = (self.done + steps) // every - self.done // every
        self.open = {}
        if self.record.spikes:
            self.open["spikes"] = self.like.new_empty(steps, rows, batch, dtype=torch.bool)
        for name in ("voltage", "traces"):
            if getattr(self.record, name):
                self.open[name] = self.like.new_empty(sampled, rows, batch)
        if self.record.trace_seconds is not None and self.trace is None:
            self.trace = torch.zeros_like(self.like)
        self.first = self.done

    def note(self, spikes: Tensor, voltage: Tensor) -> None:
        """Takes down one step."""
        if self.trace is not None:
            self.trace.mul_(self.keep).add_(spikes)
        t, every = self.done, self.record.every_steps
        self.done += 1
        if "spikes" in self.open:
            self.open["spikes"][t - self.first].copy_(self._of(spikes))
        if self.done % every == 0:
            place = self.done // every - 1 - self.first // every
            if "voltage" in self.open:
                self.open["voltage"][place].copy_(self._of(voltage))
            if "traces" in self.open and self.trace is not None:
                self.open["traces"][place].copy_(self._of(self.trace))

    def finish(self, input_spikes: Tensor | None) -> None:
        """Ends a chunk; input spikes are ``[steps, batch, inputs]``, None for a liquid without input."""
        for name, values in self.open.items():
            self.parts.setdefault(name, []).append(values.permute(2, 0, 1))
        if self.record.input_spikes and input_spikes is not None:
            self.parts.setdefault("input_spikes", []).append(input_spikes.transpose(0, 1).bool())

    def results(self) -> dict[str, Tensor | None]:
        """Everything over time, ``[batch, time, ...]``, and the trace at the end."""
        names: Sequence[str] = ("spikes", "voltage", "input_spikes", "traces")
        made: dict[str, Tensor | None] = {n: torch.cat(self.parts[n], 1) if n in self.parts else None for n in names}
        return made | {"trace": None if self.trace is None else self.trace.T}

    def _of(self, values: Tensor) -> Tensor:
        return values if self.chosen is None else values.index_select(0, self.chosen)
