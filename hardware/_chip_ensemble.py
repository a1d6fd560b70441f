"""Chips of one shape that relax together: converters and fluctuations a member, with a leading model axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqprop._directed import DirectedNetwork
from eqprop._ensemble import DirectedEnsemble, Ensemble, HopfieldEnsemble, require_alike
from eqprop._ensemble_parts import MemberConnections
from eqprop._errors import ConfigError
from eqprop._hopfield import HopfieldNetwork
from eqprop._network import Cache, Drive, State
from hardware._chip import Chip
from hardware._converters import InputDac, OutputAdc, require_within
from hardware._moment import Moment
from hardware._paths import Fluctuation
from hardware._substrate import Substrate


class _Levels(NamedTuple):
    """Evenly spaced values of every member, ``[members, 1, 1]`` each."""

    low: Tensor
    step: Tensor
    most: Tensor  # the number of the highest

    @classmethod
    def of(cls, ranges: Sequence[tuple[float, float, int]], like: Tensor) -> _Levels:
        """From ``low``, ``high`` and ``bits`` of every member."""
        rows = [(low, (high - low) / ((1 << n) - 1), (1 << n) - 1) for low, high, n in ranges]
        return cls(*torch.tensor(rows, dtype=torch.float64).to(like).T.reshape(3, -1, 1, 1))

    def nearest(self, s: Tensor) -> Tensor:
        """``s`` on the nearest of them, as ``quantised`` of each member."""
        at = ((s - self.low) / self.step).round_().clamp_(torch.zeros_like(self.most), self.most)
        return at.mul_(self.step).add_(self.low)


class ActingConnections(MemberConnections):
    """A connection whose weights fluctuate.

    Attributes:
        acting: what acts in this relaxation, ``[members, out, in]``; None before the first.
    """

    acting: Tensor | None = None

    def operand(self, back: bool) -> Tensor:
        return self.weight if self.acting is None else self.acting


class ChipEnsemble(Ensemble):
    """Chips as one, made by ``hardware.chip_ensemble(chips)``: an ``eqprop.Ensemble`` on their substrates.

    Every chip keeps its own random streams and its own clock, which go on here as in a run of its own, and after it:
    ``ensemble.store(m, chip)`` gives the chip the parameters that it would have had then.

    Attributes:
        chips: the members' chips; their parameters stay those of the start.
    """

    def __init__(self, chips: Sequence[Any]) -> None:
        super().__init__(chips)
        self.chips = tuple(chips)
        self.stacks_phases = not chips[0].substrate.changes_between_phases
        parts = [f for chip in chips for f in chip.substrate.fluctuations]
        self._fluctuates = bool(parts)
        self._moves = any(f.moves for f in parts)  # between phases
        for connection in self.connections.values() if parts else ():
            connection.__class__ = ActingConnections
        self._fresh = True
        self._given: Tensor | None = None  # the clamped input, as converters make it
        self._terms: State | None = None  # what it gives in this phase, where that is not what it gave first
        self._set_converters()

    def _set_converters(self) -> None:
        like = next(self.parameters()).detach()
        adcs, dacs = ([getattr(c.substrate, name) for c in self.chips] for name in ("adc", "input_dac"))
        self._adc: list[_Levels] | None = None
        if adcs[0] is not None:
            bounds = tuple(a.bounds for a in self.activations)
            each = [adc.layers(self.names, bounds) for adc in adcs]
            ranges = [[(*chip[l][1], chip[l][0]) for chip in each] for l in range(len(self.names))]
            self._adc = [_Levels.of(layer, like) for layer in ranges]
        self._dac: _Levels | None = None
        if dacs[0] is not None and dacs[0].bits is not None:
            self._dac = _Levels.of([(d.low, d.high, d.bits) for d in dacs], like)

    @property
    def _moments(self) -> list[Moment]:
        return [chip._moment for chip in self.chips]

    # -- passes and phases ---------------------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        """As of the ensemble; begins a pass of every chip."""
        x = self.clamped(x)
        dac: InputDac | None = self.chips[0].substrate.input_dac
        if dac is not None:
            require_within("input: got values", x, dac.low, dac.high, "the input converter", "InputDac")
        x = x if self._dac is None else self._dac.nearest(x)
        self.skip(1, x.shape[1])
        self._fresh, self._given, self._terms = True, x, None
        self._act()
        return super().drive(x)

    def skip(self, passes: int, samples: int) -> None:
        """Let passes of so many samples in all go by, as an evaluation whose figures nobody wants would."""
        for moment in self._moments:
            moment.passes += passes
            moment.clock += passes * moment.phase_time
            moment.samples += samples
            moment.phase = 0

    def begin_phase(self, phase: int) -> None:
        if not self._fresh:
            for moment in self._moments:
                moment.phase += 1
                moment.clock += moment.phase_time
            if self._moves and self._given is not None:
                self._act()
                self._terms = super().drive(self._given).terms
        self._fresh = False

    def _act(self) -> None:
        """See the weights of this phase."""
        if not self._fluctuates:
            return
        with torch.no_grad():
            for key, connection in self.connections.items():
                if not isinstance(connection, ActingConnections):
                    continue
                weight = connection.weight.detach()
                acting = torch.empty_like(weight)
                for chip, w, made in zip(self.chips, weight, acting, strict=True):
                    array = chip.arrays[key]
                    first, *more = array.fluctuations.factors(array.write_number, w) or [torch.ones_like(w)]
                    torch.mul(w, first, out=made)
                    for factor in more:
                        made.mul_(factor)
                connection.acting = acting

    def measure(self, state: State, phase: int) -> State:
        """Equilibria as the converters read them."""
        if self._adc is None:
            return state
        return tuple(levels.nearest(s) for levels, s in zip(self._adc, state, strict=True))

    # -- dynamics ------------------------------------------------------------------------------------------------------

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        drive = drive if self._terms is None else drive._replace(terms=self._terms)
        return super().block_inputs(state, drive, block, cache)

    # -- members -------------------------------------------------------------------------------------------------------

    def keep(self, members: Sequence[int]) -> None:
        super().keep(members)
        self.chips = tuple(self.chips[m] for m in members)
        self._given = self._terms = None
        for connection in self.connections.values():
            if isinstance(connection, ActingConnections):
                connection.acting = None
        self._set_converters()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        made = super()._apply(fn, recurse)
        if hasattr(self, "chips"):  # of another device or precision
            self._set_converters()
        return made


class HopfieldChipEnsemble(ChipEnsemble, HopfieldEnsemble):
    """An ensemble of chips that hold a ``HopfieldNetwork``."""


class DirectedChipEnsemble(ChipEnsemble, DirectedEnsemble):
    """An ensemble of chips that hold a ``DirectedNetwork``."""


def chip_ensemble(chips: Sequence[Any]) -> ChipEnsemble:
    """Chips of one shape as one network, with copies of their parameters; see ``ChipEnsemble``.

    Args:
        chips: at least one, of dense networks alike (see ``eqprop.ensemble``), on substrates with converters (of whole
            bits alone: no noise, dither, ranges found, differences or errors of their own) and fluctuations. Members
            may differ in seed, bits and strength of fluctuations; either all or none have a kind of converter, and
            either all or none fluctuate.

    Raises:
        ConfigError: substrates with other parts, or that differ in the parts that they have.
    """
    listed, parts = list(chips), []
    for index, chip in enumerate(listed):
        if not isinstance(chip, Chip) or type(chip).__bases__[-1] not in (HopfieldNetwork, DirectedNetwork):
            raise ConfigError(
                f"chip_ensemble: got {type(chip).__name__} at place {index}, needed a chip of a HopfieldNetwork or "
                "DirectedNetwork; write substrate.fabricate(network), or eqprop.ensemble(networks) of networks alone"
            )
        parts.append(common_parts(chip.substrate))
    require_alike(listed)
    for index, mine in enumerate(parts):
        if mine != parts[0]:
            raise ConfigError(
                f"chip_ensemble: got chip {index} with {mine}, needed {parts[0]}, as the first: bits and strengths "
                "alone may differ; write an ensemble for each"
            )
    kind: type[ChipEnsemble] = HopfieldChipEnsemble if isinstance(listed[0], HopfieldNetwork) else DirectedChipEnsemble
    return kind(listed)


def common_parts(substrate: Substrate) -> dict[str, Any]:
    """What the chips of an ensemble must have alike, as plain JSON.

    Raises:
        ConfigError: a substrate with parts that an ensemble cannot have; see ``chip_ensemble``.
    """
    _require_simple(substrate)
    adc: OutputAdc | None = substrate.adc
    dac: InputDac | None = substrate.input_dac
    return {
        "adc": adc is not None,
        "input_dac": None if dac is None else (dac.bits is not None, dac.low, dac.high),
        "fluctuations": [
            (f.scope, f.correlation, f.moves) for f in substrate.fluctuations if isinstance(f, Fluctuation)
        ],
    }


def _require_simple(substrate: Substrate) -> None:
    """Raises ConfigError for what an ensemble cannot do a member."""
    plain = Substrate()
    for name in ("cells", "paths", "nudge", "rail", "thermal", "twin", "temperature_kelvin"):
        if getattr(substrate, name) != getattr(plain, name):
            raise ConfigError(
                f"chip_ensemble: got a substrate with {name}={getattr(substrate, name)!r}, needed converters and "
                "fluctuations alone; train such chips one by one"
            )
    if any(not isinstance(f, Fluctuation) for f in substrate.fluctuations):
        raise ConfigError(
            f"chip_ensemble: got fluctuations {substrate.fluctuations!r}, needed hardware.Fluctuation; train such "
            "chips one by one"
        )
    for what, given, allowed in (("adc", substrate.adc, _ADC), ("input_dac", substrate.input_dac, _DAC)):
        for f in dataclasses.fields(given) if given is not None else ():
            if f.name not in allowed and getattr(given, f.name) != f.default:
                raise ConfigError(
                    f"chip_ensemble: got {what} with {f.name}={getattr(given, f.name)!r}, needed {f.default!r}; train "
                    "such chips one by one"
                )


_ADC = ("bits", "low", "high")
_DAC = ("bits", "low", "high")
