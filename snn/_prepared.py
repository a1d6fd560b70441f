"""Constants and products of a liquid, computed once for many runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from snn._input_drive import InputDrive
from snn._neurons import Value, by_type, in_place
from snn._recurrence import Recurrence
from snn._synapses import Synapse

if TYPE_CHECKING:
    from snn._liquid import Liquid


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
        self.recurrence = Recurrence(
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
        self.drive: InputDrive | None = None
        self.filter: dict[str, Any] = {}
        if liquid.input_weight is not None:
            self.drive = InputDrive(liquid.input_weight, liquid.input_synapse, liquid.relay, dt, liquid.input_product)
            self.filter = self.drive.filter.constants(dt, _times(self.drive.filter, liquid.excitatory, like))


def _times(synapse: Synapse, excitatory: Tensor | None, like: Tensor) -> dict[str, Value]:
    """Time constants of synapses from the input: pairs are of the neurons behind them."""
    values: dict[str, Value] = {}
    for name in synapse.times:
        seconds = getattr(synapse, name)
        values[name] = by_type(name, seconds, excitatory).to(like) if isinstance(seconds, tuple) else seconds
    return values
