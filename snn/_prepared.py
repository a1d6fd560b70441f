"""Constants and products of a liquid, computed once for many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from snn._input_drive import InputDrive
from snn._neurons import States, Value, by_type, in_place
from snn._recurrence import Recurrence
from snn._synapses import Synapse

if TYPE_CHECKING:
    from snn._liquid import Liquid
    from snn._records import LiquidState, Recorder


class Currents(Protocol):
    """The current from a liquid's own spikes; ``Recurrence`` is one."""

    def initial(self, batch: int) -> States: ...
    def current(self, state: States, spikes: Tensor, step: int, out: Tensor) -> Tensor: ...
    def decay(self, state: States) -> None: ...


class Filter(Protocol):
    """What arrivals of the input become; a ``Synapse`` is one."""

    def initial(self, like: Tensor) -> States: ...
    def receive(self, state: States, k: dict[str, Any], arrivals: Tensor) -> Tensor: ...
    def decay(self, state: States, k: dict[str, Any]) -> None: ...


class Drive(Protocol):
    """Arrivals of the input, many steps at a time, and their filter; ``InputDrive`` is one."""

    @property
    def filter(self) -> Filter: ...
    def initial(self, batch: int) -> States: ...
    def arrivals(self, x: Tensor, state: States, step: int) -> tuple[Tensor, Tensor]: ...


class Learner(Protocol):
    """What changes weights during a run, at the end of every step."""

    def initial(self, batch: int) -> States: ...
    def step(self, state: LiquidState, spikes: Tensor, arrived: Tensor | None) -> None: ...


class Steps(Protocol):
    """What takes a liquid and what learns through all steps of a chunk at once, driven by its input alone."""

    def run(self, state: LiquidState, sent: Tensor, counts: Tensor, recorder: Recorder) -> None: ...


@dataclass(frozen=True)
class Fingerprint:
    """What constants and products depend on: buffers by identity and version, settings by value."""

    buffers: tuple[Tensor, ...]
    versions: tuple[int, ...]
    models: tuple[Any, ...]
    products: tuple[str, str]

    def same(self, other: Fingerprint) -> bool:
        """Whether nothing changed."""
        return (
            len(self.buffers) == len(other.buffers)
            and all(a is b for a, b in zip(self.buffers, other.buffers, strict=True))
            and (self.versions, self.models, self.products) == (other.versions, other.models, other.products)
        )


class Prepared:
    """What a liquid computes once for many runs."""

    def __init__(self, liquid: Liquid) -> None:
        like, dt = liquid.weight, liquid.dt_seconds
        values = in_place(liquid.neuron.bind(liquid.excitatory, liquid.own), like)
        self.neuron = liquid.neuron.constants(dt, values)
        steps = liquid.neuron.interval_steps(dt, values)
        self.interval_steps: Value = steps[:, 0] if isinstance(steps, Tensor) else steps
        self.learner: Learner | None = None
        self.steps: Steps | None = None
        self.recurrence: Currents = Recurrence(
            like,
            liquid.synapse,
            dt,
            liquid.excitatory,
            liquid.delay_steps,
            liquid.delays,
            liquid.short_term,
            liquid.edges,
            liquid.recurrence,
        )
        self.drive: Drive | None = None
        self.filter: dict[str, Any] = {}
        if liquid.input_weight is not None:
            drive = InputDrive(liquid.input_weight, liquid.input_synapse, liquid.relay, dt, liquid.input_product)
            self.drive = drive
            self.filter = drive.filter.constants(dt, _times(drive.filter, liquid.excitatory, like))


def _times(synapse: Synapse, excitatory: Tensor | None, like: Tensor) -> dict[str, Value]:
    """Time constants of synapses from the input: pairs are of the neurons behind them."""
    values: dict[str, Value] = {}
    for name in synapse.times:
        seconds = getattr(synapse, name)
        values[name] = by_type(name, seconds, excitatory).to(like) if isinstance(seconds, tuple) else seconds
    return values
