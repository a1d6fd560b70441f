"""What acts on the sweeps of a chip: drives that follow the phases, noise, sources of nudges, the rail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from eqprop._complex import ComplexCostNudge
from eqprop._contrastive import ClampNudge
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import AdjointDynamics, Bath, Cache, Drive, State, System
from eqprop._nudge import CostNudge
from hardware._chip_phases import ChipPhases, acts_through_arrays_alone
from hardware._nudge_source import NudgeSource, SourcedComplexNudge, SourcedNudge, clamp
from hardware._rails import Rail
from hardware._sourced_system import Sourced
from hardware._thermal import ThermalBath

if TYPE_CHECKING:
    from hardware._substrate import Substrate


class ChipDynamics(ChipPhases):
    """Base of ``DisturbedChip``: the dynamics of its network, as they run on it."""

    def _fabricate(self, substrate: Substrate, seed: int) -> None:
        super()._fabricate(substrate, seed)
        self._arrays_alone = acts_through_arrays_alone(substrate)
        self._thermal = 0.0 if substrate.thermal is None else substrate.thermal.std_at(substrate.temperature_kelvin)
        if substrate.nudge is not None:
            gain, offset = substrate.nudge.draw(self.shapes[-1], self.streams, next(self.parameters()))
            self.register_buffer("_nudge_gain", gain, persistent=False)
            self.register_buffer("_nudge_offset", offset, persistent=False)
        rail = substrate.rail
        self._supply = None if rail is None else Rail(rail, self.shapes, self.names, self.streams)
        if rail is not None and not isinstance(self, GraphNetwork):
            raise ConfigError(
                f"Substrate: got a rail for a {type(self).__bases__[1].__name__}, whose inputs have other units, "
                "needed a HopfieldNetwork or DirectedNetwork; write rail=None"
            )

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        if self._arrays_alone:
            return super().block_inputs(state, self._now(drive, state), block, cache)
        z = self._mean_inputs(state, drive, block, cache)
        if self._thermal and not self._course.in_time:
            for i, l in enumerate(block):
                z[i] = z[i].add_(self._noise("thermal", l, z[i]).mul_(self._thermal_std(l)))
        return z

    def _noise(self, source: str, layer: int, like: Tensor) -> Tensor:
        """Standard normal numbers of a sweep."""
        step = self._course.steps[layer] = self._course.steps.get(layer, 0) + 1
        return self.streams.sample_normal(source, (self._moment.phase, layer, step), self._keys_of(like), like)

    @property
    def bath(self) -> Bath | None:  # type: ignore[override]
        """What ``eqprop.Langevin`` takes temperature and noise from; None without thermal noise."""
        if self.substrate.thermal is None:
            return None

        def begin() -> None:
            self._course.in_time = True

        return ThermalBath(
            self.substrate.thermal,
            self.substrate.temperature_kelvin,
            begin,
            lambda layer, like, dims: self._noise("langevin", layer, like),
        )

    def _thermal_std(self, layer: int) -> float | Tensor:
        """Standard deviation of the noise on the inputs of a layer, in their units."""
        return self._thermal

    def _mean_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z = super().block_inputs(state, self._now(drive, state), block, cache)
        if self._supply is not None:
            for i, l in enumerate(block):
                if (sag := self._supply.shift(state, l, self._course.nudged, drive.x.numel() == 0)) is not None:
                    z[i] = z[i] + sag
        return z

    def inputs(self, state: State, drive: Drive) -> State:
        """As of the network, without the noise of a sweep."""
        if not self._thermal:
            return super().inputs(state, drive)
        return tuple(self._mean_inputs(state, drive, range(len(state)), self.new_cache()))

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        if self._arrays_alone:
            return super().update(state, drive, nudge, block, cache)
        if self._windowed:
            self._course.last = (self, drive, nudge)
        return super().update(state, drive, self.sourced(nudge), block, cache)

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        return super().pull(state, drive, self.sourced(nudge), block, cache)

    def phi(self, state: State, drive: Drive) -> Tensor:
        """As of the network; with a shared rail, which has an energy where all units feel it alike."""
        phi, rail = super().phi(state, drive), self._supply
        return phi if rail is None or rail.settings.spread else phi + rail.phi(state, self._course.nudged)

    def tangent(self, state: State, drive: Drive, *, transpose: bool) -> Callable[[State], State]:
        plain = super().tangent(state, drive, transpose=transpose)
        return plain if self._supply is None else self._supply.tangent(plain, transpose)

    def linearised_transpose(self, state: State, drive: Drive) -> System:
        if self._supply is not None:
            return AdjointDynamics(self, state, drive)  # that of the network knows its connections alone
        return super().linearised_transpose(state, drive)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        system, constant = super().adjoint_dynamics(state, drive)
        return (system if system is self else Sourced(system, self)), constant

    # -- nudges --------------------------------------------------------------------------------------------------------

    def sourced(self, nudge: Any) -> Any:
        """The nudge as the chip's source makes it."""
        source = self.substrate.nudge
        if source is None or not isinstance(nudge, CostNudge | ClampNudge | ComplexCostNudge):
            return nudge
        if self._course.sourced[0] is not nudge:
            self._course.sourced = (nudge, self._made_by(source, nudge))
        return self._course.sourced[1]

    def _made_by(self, source: NudgeSource, nudge: CostNudge | ClampNudge | ComplexCostNudge) -> Any:
        gain, offset = self.get_buffer("_nudge_gain"), self.get_buffer("_nudge_offset")
        if isinstance(nudge, ClampNudge) or (isinstance(nudge, CostNudge) and source.mode == "clamp"):
            return clamp(nudge, source, gain, offset, self._course.rest)
        gain = gain * self.common_drift() if source.follows_cells else gain
        if isinstance(nudge, ComplexCostNudge):
            return SourcedComplexNudge(nudge, source, gain, offset, self._course.rest)
        return self._sourced_nudge(nudge, source, gain, offset)

    def _sourced_nudge(self, nudge: CostNudge, source: NudgeSource, gain: Tensor, offset: Tensor) -> Any:
        return SourcedNudge(nudge, source, gain, offset, self._course.rest)
