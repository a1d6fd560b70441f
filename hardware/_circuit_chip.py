"""Chips of resistive networks: their resistors are cells, their nudge is a conductance, their amplifiers may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from eqprop._complex import ComplexCostNudge
from eqprop._contrastive import ClampNudge
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._network import Bath, Cache, Drive, State
from eqprop._nudge import CostNudge
from hardware._array import Array, _StraightThrough
from hardware._cell_array import CellArray
from hardware._chip import DisturbedChip
from hardware._circuit_heat import CircuitHeat
from hardware._nodes import inverse
from hardware._nudge_source import NudgeSource
from hardware._paths import PathGains
from hardware._resistive import ResistiveNetwork
from hardware._sourced_conductance import SourcedConductance, circuit_clamp
from hardware._thermal import ThermalBath

if TYPE_CHECKING:
    from hardware._substrate import Substrate


class CircuitChip(DisturbedChip, ResistiveNetwork):
    """A chip of a ``ResistiveNetwork``, made by ``Substrate.fabricate``: all resistors, those of biases too, are cells.

    Parameters are the conductances that cells were asked for; ``conductance(name)`` is what acts. Arrays go by the name
    of their parameter, as ``chip.arrays["connections.input-hidden1"]``. All is in SI units:

    - ``CellArray``: ``mapping="single"``, and a device whose range holds that of the network.
    - ``NudgeSource``: conductances in siemens, offsets in amperes into an output node (of a clamp: in volts); range of
      targets in volts behind the sense amplifiers.
    - ``ThermalNoise``: with ``eqprop.Langevin`` every resistor has its noise, and every node of a linear circuit
      ``<v^2> = k T / C``, independent of the others; time is in units of ``C / conductance_siemens``, or of ``C / G``
      with the largest ``G`` of a node where that is None. In a block minimiser a node has this noise while its
      neighbours are held, and all feel each other's. ``volts_per_unit`` is 1.
    - ``PathGains``: a resistor is reciprocal; the amplifiers behind hidden nodes alone have two ways. Of a node's
      voltage each gives ``A (1 + ahead_std n)``, of the current beyond it draws ``back_gain (1 + back_std n) / A``.
    """

    _heat: CircuitHeat  # of a relaxation in time

    # -- fabrication ---------------------------------------------------------------------------------------------------

    @property
    def _has_units(self) -> bool:
        return True

    def _fabricate(self, substrate: Substrate, seed: int) -> None:
        if substrate.thermal is not None and substrate.thermal.volts_per_unit != 1.0:
            raise ConfigError(
                f"ThermalNoise.volts_per_unit: got {substrate.thermal.volts_per_unit:g} for a ResistiveNetwork, whose "
                "states are volts; write volts_per_unit=1.0"
            )
        super()._fabricate(substrate, seed)

    def _fabricate_arrays(self) -> None:
        substrate = self.substrate
        if substrate.cells is not None:
            self._check_cells(substrate.cells)
        if substrate.paths is not None:
            self._fabricate_amplifiers(substrate.paths)
        if substrate.cells is None and not substrate.fluctuations:
            if substrate.twin:
                raise ConfigError(
                    "Substrate: got twin=True and amplifiers alone for a ResistiveNetwork, whose twins are its "
                    "resistors; needed cells or fluctuations, in which two could differ: write cells=CellArray("
                    "mapping='single'), or twin=False"
                )
            return
        plain = replace(substrate, paths=None)
        self._cells = nn.ModuleDict(
            {
                name.replace(".", "/"): Array(name, p.detach(), plain, self.streams, self._moment)
                for name, p in self.named_parameters()
            }
        )

    def _check_cells(self, layout: CellArray) -> None:
        if layout.mapping != "single":
            raise ConfigError(
                f"CellArray: got mapping {layout.mapping!r} for a ResistiveNetwork, whose parameters are conductances, "
                "needed one cell each; write CellArray(mapping='single')"
            )
        made = layout.resolved()
        low, high = self.g_min_siemens, self.g_max_siemens
        if made.g_min_siemens > low * (1 + 1e-6) or made.g_max_siemens < high * (1 - 1e-6):
            raise ConfigError(
                f"CellArray: got {made.name!r} of {made.g_min_siemens:g} to {made.g_max_siemens:g} S, needed a range "
                f"that holds the network's, {low:g} to {high:g} S; write CellArray(mapping='single', "
                f"g_min_siemens={low:g}, g_max_siemens={high:g}), or ResistiveNetwork(g_min_siemens="
                f"{made.g_min_siemens:g}, g_max_siemens={made.g_max_siemens:g})"
            )

    def _fabricate_amplifiers(self, paths: PathGains) -> None:
        if paths.cell_std or all(gain == 1.0 for gain in self._gains):
            raise ConfigError(
                "PathGains: got gains of the two ways through a resistor, which is reciprocal: its current is the same "
                "at both ends; needed amplifiers, which are not: write ResistiveNetwork(amplification=4.0) and "
                "PathGains(ahead_std=0.1, back_std=0.1), or paths=None"
            )
        like = next(self.parameters())
        for l, gain in enumerate(self._gains[:-1]):
            ahead, back = like.new_ones(self.shapes[l]), like.new_ones(self.shapes[l])
            name = self.names[l]
            ahead = ahead + paths.ahead_std * self.streams.normal(f"paths.ahead/{name}", (), ahead.shape, like)
            back = back + paths.back_std * self.streams.normal(f"paths.back/{name}", (), back.shape, like)
            self.register_buffer(f"_ahead{l}", gain * ahead, persistent=False)
            self.register_buffer(f"_back{l}", gain * paths.back_gain * back, persistent=False)

    # -- cells ---------------------------------------------------------------------------------------------------------

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays by the name of their parameter."""
        held = getattr(self, "_cells", {})
        return {key.replace("/", "."): array for key, array in held.items()}

    def weight_of(self, key: str) -> Tensor:
        return self.get_parameter(key)

    def conductance(self, name: str) -> Tensor:
        """The conductances that act in this phase under a parameter's name, siemens."""
        asked, array = self.get_parameter(name), self.arrays.get(name)
        if array is None:
            return asked
        acting = array.effective(asked, back=False)
        if torch.is_grad_enabled() and asked.requires_grad:
            through: Tensor = _StraightThrough.apply(asked, acting)
            return through
        return acting

    @torch.no_grad()
    def project(self) -> None:
        """Set every conductance that is asked for to the nearest value in the network's range, in place.

        What cells hold already stays: pulses end where the device lets them, which need not be in that range.
        """
        arrays = self.arrays
        for name, p in self.named_parameters():
            within = p.clamp(self.g_min_siemens, self.g_max_siemens)
            array = arrays.get(name)
            if array is not None and array.layout is not None:
                within = torch.where(p == array.requested, p, within)
            p.copy_(within)

    def _ways(self, layer: int) -> tuple[float | Tensor, float | Tensor]:
        if self.substrate.paths is None or layer == len(self.names) - 1:
            return super()._ways(layer)
        return self.get_buffer(f"_ahead{layer}"), self.get_buffer(f"_back{layer}")

    # -- phases --------------------------------------------------------------------------------------------------------

    def _drive_at(self, x: Tensor) -> Drive:
        made = super()._drive_at(x)
        # rails too are behind cells: terms of every sample, so that all of them follow the phases
        return made._replace(
            terms=tuple(t.expand(len(made.x), *shape) for t, shape in zip(made.terms, self.shapes, strict=True))
        )

    def _new_relaxation(self) -> None:
        super()._new_relaxation()
        self._siemens: tuple[Tensor, ...] | None = None

    def _thermal_std(self, layer: int) -> float | Tensor:
        if self._siemens is None:
            with torch.no_grad():
                self._siemens = self.node_siemens()
        return self._thermal * self._siemens[layer]

    # -- in time -------------------------------------------------------------------------------------------------------

    @property
    def bath(self) -> Bath | None:  # type: ignore[override]
        thermal = self.substrate.thermal
        if thermal is None:
            return None
        return ThermalBath(
            thermal,
            self.substrate.temperature_kelvin,
            self._begin_in_time,
            lambda layer, like, dims: self._heat.normal(layer, like),
        )

    def _begin_in_time(self) -> None:
        if any(gain != 1.0 for gain in self._gains):
            raise ConfigError(
                "Langevin: got a network with amplifiers, whose own noise is not known, needed resistors and diodes; "
                "write ResistiveNetwork(amplification=1.0), or solver=Alternating()"
            )
        self._course.in_time = True
        operands = self._operands()
        totals = [g.detach() for g in self.node_siemens()]
        unit = None if self.substrate.thermal is None else self.substrate.thermal.conductance_siemens
        self._heat = CircuitHeat(totals, operands.incoming, unit, self._heat_normal)

    def _heat_normal(self, layer: int, step: int, like: Tensor) -> Tensor:
        return self.streams.sample_normal("langevin", (self._moment.phase, layer, step), self._keys_of(like), like)

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        if not self._course.in_time:
            return super().pull(state, drive, nudge, block, cache)
        nudge = self.sourced(nudge)
        new = []
        for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True):
            if nudge is None or l not in nudge.layers:
                new.append(self._heat.pull(l, state[l], z))
            elif l in getattr(nudge, "held", ()):
                new.append(nudge.apply(l, z, state[l], self.activations[l]))
            else:
                new.append(self._heat.pull(l, state[l], z + nudge.force(state[l])))
        return tuple(new)

    # -- nudges --------------------------------------------------------------------------------------------------------

    def _made_by(self, source: NudgeSource, nudge: CostNudge | ClampNudge | ComplexCostNudge) -> Any:
        if isinstance(nudge, ComplexCostNudge) or (isinstance(nudge, CostNudge) and source.mode != "clamp"):
            return super()._made_by(source, nudge)
        gain, offset = self.get_buffer("_nudge_gain"), self.get_buffer("_nudge_offset")
        resistance = inverse(self.node_siemens()[-1].detach())
        return circuit_clamp(nudge, source, gain, offset, self._course.rest, resistance)

    def _sourced_nudge(self, nudge: CostNudge, source: NudgeSource, gain: Tensor, offset: Tensor) -> Any:
        if not isinstance(nudge.cost, SquaredError):
            return super()._sourced_nudge(nudge, source, gain, offset)
        return SourcedConductance(nudge, source, gain, offset, self._course.rest)

    def kcl_residual(self, state: State, drive: Drive, nudge: CostNudge | None = None) -> Tensor:
        """As of the network, in this phase; with the nudge as the chip's source makes it."""
        return super().kcl_residual(state, drive, self.sourced(nudge))
