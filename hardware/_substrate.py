"""What a chip is made of, as data: frozen settings, each part optional, None for ideal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from eqprop._errors import ConfigError
from hardware._cell_array import CellArray
from hardware._converters import InputDac, OutputAdc
from hardware._device_checks import require_number
from hardware._devices import _PARTS as _DEVICE_PARTS
from hardware._json import from_spec, to_spec
from hardware._nudge_source import NudgeSource
from hardware._paths import Fluctuation, PathGains
from hardware._printed import Printed
from hardware._rails import SharedRail
from hardware._slow_noise import FlickerNoise, TelegraphNoise
from hardware._substrate_text import describe
from hardware._thermal import ThermalNoise
from hardware._units import ROOM_TEMPERATURE_KELVIN

if TYPE_CHECKING:
    from eqprop._network import Network

N = TypeVar("N", bound="Network")


@dataclass(frozen=True, repr=False)
class Timing(Printed):
    """How long things take, which is what drift and accumulated noise go by.

    Attributes:
        phase_seconds: one relaxation; conductances are those at its end, and hold still during it.
        write_seconds: one write of an array, before the next relaxation.

    Raises:
        ConfigError: a negative time, or one that is not a whole number of nanoseconds (what the clock counts in).
    """

    phase_seconds: float = 1e-6
    write_seconds: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("phase_seconds", "write_seconds"):
            value = getattr(self, name)
            require_number(f"Timing.{name}", value, least=0.0, most=1e9)
            if abs(value * 1e9 - round(value * 1e9)) > 1e-3:
                near = max(round(value * 1e9), 1) * 1e-9
                raise ConfigError(f"Timing.{name}: got {value!r}, needed whole nanoseconds; write {near:g}")


@dataclass(frozen=True, repr=False)
class Substrate(Printed):
    """An imperfect machine on which a network may run: ``chip = Substrate(...).fabricate(network, seed=0)``.

    Every part is optional; ``Substrate()`` is ideal, and a network on it gives the same numbers bit for bit.

    Attributes:
        cells: memory cells that hold the weights: range, levels, programming noise, drift, read noise, stuck cells.
        fluctuations: relative fluctuations of conductances, each with a scope, or with a clock (``FlickerNoise``,
            ``TelegraphNoise``); of weights where there are no cells.
        paths: gains of the ways there and back that differ.
        input_dac: converter before the clamped input.
        adc: converters behind the layers, through which rules read equilibria.
        nudge: the source that nudges.
        rail: supply and ground that all units share.
        thermal: noise within the relaxation.
        timing: of drift and accumulated noise.
        temperature_kelvin: of the chip; the noise of ``thermal`` goes by it, and conductances where it is not 300 K.
        twin: whether there are two sets of cells, made and written alike: the free phase relaxes on one, nudged phases
            on the other, the first of them at the same time. What the sets do not share is then a fixed difference
            between the phases, and no time lies between the two that a one-sided contrast compares.

    Raises:
        ConfigError: a part of a wrong kind, or impossible physics.
    """

    cells: CellArray | None = None
    fluctuations: tuple[Fluctuation | FlickerNoise | TelegraphNoise, ...] = ()
    paths: PathGains | None = None
    input_dac: InputDac | None = None
    adc: OutputAdc | None = None
    nudge: NudgeSource | None = None
    rail: SharedRail | None = None
    thermal: ThermalNoise | None = None
    timing: Timing = Timing()
    temperature_kelvin: float = ROOM_TEMPERATURE_KELVIN
    twin: bool = False

    def __post_init__(self) -> None:
        several = isinstance(self.fluctuations, list | tuple)
        object.__setattr__(self, "fluctuations", tuple(self.fluctuations) if several else self.fluctuations)
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not (isinstance(value, kind) or (value is None and name != "timing")):
                raise ConfigError(
                    f"Substrate.{name}: got {value!r}, needed hardware.{kind.__name__}(...)" + ", or None for ideal"
                )
        if not several or not all(isinstance(f, _FLUCTUATIONS) for f in self.fluctuations):
            raise ConfigError(
                f"Substrate.fluctuations: got {self.fluctuations!r}, needed a tuple; write "
                "fluctuations=(hardware.Fluctuation(0.01),)"
            )
        if self.cells is None and any(isinstance(f, Fluctuation) and f.scope == "write" for f in self.fluctuations):
            raise ConfigError(
                "Substrate.fluctuations: got scope='write' without cells, needed cells that are written; write "
                "cells=CellArray(...), or scope='chip'"
            )
        if not isinstance(self.twin, bool):
            raise ConfigError(f"Substrate.twin: got {self.twin!r}, needed True or False")
        if self.twin and self.cells is None and not self.fluctuations and self.paths is None:
            raise ConfigError(
                "Substrate: got twin=True without anything in which two arrays could differ, needed cells, "
                "fluctuations or paths; write cells=CellArray(...), or twin=False"
            )
        if self.nudge is not None and self.nudge.follows_cells and self.cells is None:
            raise ConfigError(
                "Substrate: got a nudge source with follows_cells=True without cells, needed cells that it could "
                "follow; write cells=CellArray(...), or follows_cells=False"
            )
        require_number("Substrate.temperature_kelvin", self.temperature_kelvin, above=0.0, most=1000.0)
        if self.cells is not None:
            self.cells.check_temperature(self.temperature_kelvin)

    @property
    def changes_between_phases(self) -> bool:
        """Whether two phases of one sample see different physics.

        Where only conductances of dense layers differ, they relax as one batch all the same, each with its own.
        """
        cells = self.cells is not None and self.cells.changes_between_phases
        moving = any(f.moves for f in self.fluctuations)
        return cells or moving or self.thermal is not None or self.adc is not None

    def fabricate(self, network: N, *, seed: int = 0) -> N:
        """A chip that holds a copy of ``network``: the same interface, on which everything runs unchanged.

        The network is copied and its weights are written to the cells. One seed is one chip: the same on every device
        and for every batch size. See ``hardware.Chip`` for what a chip can do beyond its network.

        Args:
            network: a ``HopfieldNetwork``, ``DirectedNetwork`` or ``ResistiveNetwork`` (see ``hardware.CircuitChip``);
                any other only where nothing touches weights or the clamped input.
            seed: of the chip.

        Raises:
            ConfigError: a network that is a chip already, or that has no weights where they are needed.
        """
        from hardware._chip import fabricate

        return fabricate(self, network, seed)

    def describe(self) -> str:
        """What a chip suffers, in words and numbers, a line a part."""
        return describe(self)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description."""
        described: dict[str, Any] = to_spec(self)
        return described

    @staticmethod
    def from_spec(spec: dict[str, Any]) -> Substrate:
        """The substrate that ``spec`` described.

        Raises:
            ConfigError: an unknown part or field, or values that are refused.
        """
        return from_spec(spec, Substrate, _PARTS)


_FLUCTUATIONS = (Fluctuation, FlickerNoise, TelegraphNoise)
_KINDS: dict[str, type] = {
    "cells": CellArray,
    "paths": PathGains,
    "input_dac": InputDac,
    "adc": OutputAdc,
    "nudge": NudgeSource,
    "rail": SharedRail,
    "thermal": ThermalNoise,
    "timing": Timing,
}
_PARTS: dict[str, type] = _DEVICE_PARTS | {c.__name__: c for c in (Substrate, *_FLUCTUATIONS, *_KINDS.values())}
