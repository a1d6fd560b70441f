"""A chip: a network whose weights, signals and nudges are those of one fabricated substrate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from eqprop._complex import ComplexCostNudge
from eqprop._contrastive import ClampNudge
from eqprop._cuda_graphs import CaptureError
from eqprop._errors import ConfigError, DataError
from eqprop._graph import GraphNetwork
from eqprop._network import AdjointDynamics, Bath, Cache, Drive, Network, State, System
from eqprop._nudge import CostNudge
from hardware._array import Array, Moment, OnChip
from hardware._chip_state import packed, unpack
from hardware._device_checks import is_number
from hardware._input_noise import InputNoise, Source, leaves_noise_to_signals
from hardware._mixing import Mixin, mixed_class
from hardware._nudge_source import NudgeSource, SourcedComplexNudge, SourcedNudge, clamp
from hardware._rails import Rail
from hardware._reading import Reading
from hardware._sourced_system import Sourced
from hardware._streams import Streams
from hardware._thermal import ThermalBath

if TYPE_CHECKING:
    from hardware._substrate import Substrate
    from hardware._write import WritePath

N = TypeVar("N", bound=Network)
_AT_REST: dict[str, Any] = {"_in_time": False, "_conversions": 0, "_sourced": (None, None), "_last": None}


class Chip(Mixin, Network):
    """Mixed into a network's own class by ``Substrate.fabricate``: ``isinstance(chip, HopfieldNetwork)`` holds.

    **Passes and phases.** ``drive(x)`` begins a pass: it writes what an optimiser changed, takes the numbers of its
    samples, and sees the conductances of the first relaxation. Every later ``begin_phase`` begins another relaxation:
    the clock goes on, what is of scope ``phase`` is drawn anew, and the input's contribution follows its conductances,
    though a rule computed its drive only once. All that a relaxation sees holds still during it, but for ``thermal``.

    **Jacobian products, energies and readouts** are those of the conductances of the phase; the gradient by a weight is
    that by the conductance it stands for, whatever the gains on the way. With gains that differ between the ways no
    energy belongs to the dynamics, and rules that contrast one are as wrong as they would be on a machine. Complex
    contours run, and are of no machine.

    Attributes:
        substrate: what it was made from.
        seed: which of its chips it is.
        streams: its random streams.
    """

    substrate: Substrate
    seed: int
    streams: Streams

    def _fabricate(self, substrate: Substrate, seed: int) -> None:
        self.substrate, self.streams = substrate, Streams(seed)
        self.seed = self.streams.seed
        self._moment = Moment(phase_time=round(substrate.timing.phase_seconds * 1e9))
        self._fresh = True
        self._keys: Tensor | None = None
        self._input_noise: InputNoise | None = None
        self._windowed = substrate.thermal is not None and substrate.thermal.window_sweeps > 1
        # nothing but arrays acts on the sweeps of a relaxation
        self._undisturbed = substrate.thermal is None and substrate.nudge is None and substrate.rail is None
        self._moves = False  # whether arrays change between phases
        self._given: Tensor | None = None
        self._driven: list[Drive] = []  # the last two, as they were made
        self._shifts: tuple[Any, tuple[Tensor | None, ...]] = (None, ())
        self._shifted: tuple[Any, Drive | None, Drive | None] = (None, None, None)
        self._rest: Tensor | None = None  # the output layer at the free equilibrium, as read
        self._sourced: tuple[Any, Any] = (None, None)
        self._last: tuple[System, Drive, Any] | None = None
        self._steps: dict[int, int] = {}
        self._nudged = False  # whether a phase after the free one runs
        self._in_time = False  # whether the relaxation takes its noise from the bath, instead of a sweep at a time
        self._conversions = 0
        self.stacks_phases = self.stacks_phases and not substrate.changes_between_phases
        like = next(self.parameters())
        # changes of weights that a write path cut
        self.register_buffer("_limited", torch.zeros((), dtype=torch.int64, device=like.device), persistent=False)
        with torch.no_grad():
            self._thermal = 0.0 if substrate.thermal is None else substrate.thermal.std_at(substrate.temperature_kelvin)
            if substrate.nudge is not None:
                gain, offset = substrate.nudge.draw(self.shapes[-1], self.streams, like)
                self.register_buffer("_nudge_gain", gain, persistent=False)
                self.register_buffer("_nudge_offset", offset, persistent=False)
            rail = substrate.rail
            self._supply = None if rail is None else Rail(rail, self.shapes, self.names, self.streams)
            if rail is not None and not isinstance(self, GraphNetwork):
                raise ConfigError(
                    f"Substrate: got a rail for a {type(self).__bases__[1].__name__}, whose inputs have other units, "
                    "needed a HopfieldNetwork or DirectedNetwork; write rail=None"
                )
            self._reading = None if substrate.adc is None else Reading(substrate.adc, self, self.streams)
            if substrate.cells is not None or substrate.fluctuations or substrate.paths is not None:
                self._fabricate_arrays()
            elif not self._has_units and (substrate.nudge is not None or substrate.thermal is not None):
                raise ConfigError(
                    f"Substrate: got a {type(self).__bases__[1].__name__}, whose inputs may have other units, needed a "
                    "HopfieldNetwork, DirectedNetwork or ResistiveNetwork for nudge and thermal; leave these two None"
                )

    @property
    def _has_units(self) -> bool:
        """Whether the units of its inputs are known, in which nudge and thermal are given."""
        return isinstance(self, GraphNetwork)

    def _fabricate_arrays(self) -> None:
        if not isinstance(self, GraphNetwork):
            raise ConfigError(
                f"Substrate: got a {type(self).__bases__[1].__name__}, with weights in code of its own, needed a "
                "HopfieldNetwork, DirectedNetwork or ResistiveNetwork for cells, fluctuations and paths"
            )
        if self.substrate.cells is not None and self.substrate.cells.mapping == "single":
            raise ConfigError(
                f"CellArray: got mapping 'single' for a {type(self).__bases__[1].__name__}, whose weights have a sign, "
                "needed pairs of cells: one conductance cannot be negative; write CellArray(mapping='balanced')"
            )
        for key in self.connections:
            connection = self.connection(key)
            connection.array = Array(key, connection.weight.detach(), self.substrate, self.streams, self._moment)
            connection.__class__ = mixed_class(OnChip, type(connection))
        layout, sources = self.substrate.cells, []
        for edge in self._edges:
            connection = self.connection(edge.key)
            if edge.tail == -1 and isinstance(connection, OnChip) and leaves_noise_to_signals(layout, connection):
                sources.append(Source(edge.head, connection.array, connection.weight))
        if sources:
            self._input_noise = InputNoise(sources, self.streams, self._moment)

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays by the key of their connection."""
        if not isinstance(self, GraphNetwork):
            return {}
        return {k: c.array for k in self.connections if isinstance(c := self.connection(k), OnChip)}

    def weight_of(self, key: str) -> Tensor:
        """The parameter that the array of that key holds."""
        return self.get_parameter(f"connections.{key}.weight")

    @property
    def clock_seconds(self) -> float:
        """Time since fabrication."""
        return self._moment.clock * 1e-9

    @property
    def counts(self) -> dict[str, int]:
        """Over all arrays so far: writes and pulses of single cells, weights that a write clipped, and changes of
        weights that a write path limited to ``max_pulses``."""
        names = ("writes", "pulses", "clipped")
        held = [b for a in self.arrays.values() if a.layout is not None for b in (a, a.twin) if b is not None]
        total = [sum(int(a.counts[i]) for a in held) for i in range(3)]
        return dict(zip(names, total, strict=True)) | {"limited": int(self.get_buffer("_limited"))}

    @torch.no_grad()
    def common_drift(self) -> Tensor:
        """What time and temperature have made of all cells together in this phase, 0-d: the sum of their conductances
        over that of those written; 1 without cells."""
        held = [a for a in self.arrays.values() if a.layout is not None]
        if not held:
            return next(self.parameters()).new_ones(())
        now, then = [a.undisturbed().sum() for a in held], [a.conductance.sum() for a in held]
        return torch.stack(now).sum() / torch.stack(then).sum()

    def wait(self, seconds: float) -> None:
        """Let time go by, as for a chip in a drawer: cells drift, as the next relaxation will see.

        Raises:
            DataError: a time before now, for nothing is known of a chip before it is written; or one that the clock,
                which counts whole nanoseconds, would change by more than a millionth.
        """
        if not is_number(seconds) or not 0.0 <= seconds < 1e9:
            raise DataError(
                f"wait: got {seconds!r} s, needed a number, 0 to 1e9: the time before a write is not defined; write "
                "chip.wait(60.0)"
            )
        whole = round(seconds * 1e9)
        if abs(seconds * 1e9 - whole) > max(1e-3, 1e-6 * whole):
            raise DataError(
                f"wait: got {seconds!r} s, needed whole nanoseconds; write chip.wait({max(whole, 1) * 1e-9:g})"
            )
        self._moment.clock += whole

    def next_samples(self, numbers: Tensor) -> None:
        """The numbers of the samples of the next pass, ``[batch]`` whole numbers, in place of their running number.

        With them a sample meets the same noise of scopes ``sample``, ``phase`` and ``read`` wherever it comes in an
        epoch.
        """
        if numbers.dim() != 1 or numbers.dtype.is_floating_point:
            raise DataError(
                f"next_samples: got {tuple(numbers.shape)} of {numbers.dtype}, needed [batch] whole numbers"
            )
        self._given = numbers.to(torch.int64)

    def write_path(self, optimizer: torch.optim.Optimizer, **options: Any) -> WritePath:
        """Let what the optimiser proposes go through pulses on the cells, see ``hardware.WritePath``."""
        from hardware._write import WritePath

        return WritePath(optimizer, self, **options)

    # -- passes and phases ---------------------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        """As of the network; begins a pass."""
        dac = self.substrate.input_dac
        if dac is not None:
            x = dac.convert(self.clamped(x))
        self._begin_pass(len(x) if isinstance(x, Tensor) and x.dim() else 0)
        made = self._drive_at(x)
        self._driven = [made, *self._driven[:1]]
        return made

    def _begin_pass(self, batch: int) -> None:
        moment = self._moment
        arrays = self.arrays
        if (moves := any(a.moving for a in arrays.values())) != self._moves:
            self._moves = moves
        lasts = round(self.substrate.timing.write_seconds * 1e9)
        written = [array.follow(self.weight_of(key), lasts) for key, array in arrays.items()]
        moment.clock += lasts if any(written) else 0
        moment.clock += moment.phase_time
        moment.passes += 1
        moment.phase = 0
        self._fresh = True
        self._nudged = False
        self._rest = None
        if self._given is not None and len(self._given) != batch:
            raise DataError(f"next_samples: got {len(self._given)} numbers for {batch} samples, needed one each")
        device = next(self.parameters()).device
        self._keys = (
            torch.arange(moment.samples, moment.samples + batch, device=device)
            if self._given is None
            else self._given.to(device)
        )
        if self._given is not None:
            self._given = None
        moment.samples += batch
        self._new_relaxation()

    def _drive_at(self, x: Tensor) -> Drive:
        """What ``x`` gives at the conductances of now."""
        dac, seen = self.substrate.input_dac, x
        if dac is not None and dac.noise_std > 0.0 and self._keys is not None:
            seen = x + dac.noise_std * self.streams.sample_normal("dac", (), self._keys, x)
        if self._input_noise is None or self._keys is None:
            made = super().drive(seen)
        else:
            made = self._input_noise.drive(seen, self._keys, lambda: super(Chip, self).drive(seen))
        return made if seen is x else made._replace(x=x)  # rules know the codes alone

    def begin_phase(self, phase: int) -> None:
        super().begin_phase(phase)
        if not self._fresh:
            self._moment.phase += 1
            if not (self.substrate.twin and self._moment.phase == 1):  # twins relax at the same time
                self._moment.clock += self._moment.phase_time
        self._fresh = False
        self._nudged = phase > 0
        self._new_relaxation()

    def _new_relaxation(self) -> None:
        self._steps.clear()
        for name, value in _AT_REST.items():  # a module is slow to take attributes
            if getattr(self, name) != value:
                setattr(self, name, value)

    def measure(self, state: State, phase: int) -> State:
        state = self._averaged(super().measure(state, phase))
        state = state if self._supply is None else self._supply.read(state)
        if self._reading is not None:
            self._conversions += 1
            at = (self._moment.phase, self._conversions)
            state = self._reading.read(state, phase, self._keys_of(state[0]), at)
        if phase == 0:
            self._rest = state[-1]
        return state

    # -- dynamics ------------------------------------------------------------------------------------------------------

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise CaptureError("the conductances of a chip change from phase to phase")
        return super().new_cache(products, paired)

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        if self._undisturbed:
            return super().block_inputs(state, self._now(drive, state), block, cache)
        z = self._mean_inputs(state, drive, block, cache)
        if self._thermal and not self._in_time:
            for i, l in enumerate(block):
                z[i] = z[i].add_(self._noise("thermal", l, z[i]).mul_(self._thermal_std(l)))
        return z

    def _noise(self, source: str, layer: int, like: Tensor) -> Tensor:
        """Standard normal numbers of a sweep."""
        step = self._steps[layer] = self._steps.get(layer, 0) + 1
        return self.streams.sample_normal(source, (self._moment.phase, layer, step), self._keys_of(like), like)

    @property
    def bath(self) -> Bath | None:  # type: ignore[override]
        """What ``eqprop.Langevin`` takes temperature and noise from; None without thermal noise."""
        if self.substrate.thermal is None:
            return None

        def begin() -> None:
            self._in_time = True

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
                if (sag := self._supply.shift(state, l, self._nudged, drive.x.numel() == 0)) is not None:
                    z[i] = z[i] + sag
        return z

    def inputs(self, state: State, drive: Drive) -> State:
        """As of the network, without the noise of a sweep."""
        if not self._thermal:
            return super().inputs(state, drive)
        return tuple(self._mean_inputs(state, drive, range(len(state)), self.new_cache()))

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        if self._undisturbed:
            return super().update(state, drive, nudge, block, cache)
        if self._windowed:
            self._last = (self, drive, nudge)
        return super().update(state, drive, self.sourced(nudge), block, cache)

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        return super().pull(state, drive, self.sourced(nudge), block, cache)

    def phi(self, state: State, drive: Drive) -> Tensor:
        """As of the network; with a shared rail, which has an energy where all units feel it alike."""
        phi, rail = super().phi(state, drive), self._supply
        return phi if rail is None or rail.settings.spread else phi + rail.phi(state, self._nudged)

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

    def sourced(self, nudge: Any) -> Any:
        """The nudge as the chip's source makes it."""
        source = self.substrate.nudge
        if source is None or not isinstance(nudge, CostNudge | ClampNudge | ComplexCostNudge):
            return nudge
        if self._sourced[0] is not nudge:
            self._sourced = (nudge, self._made_by(source, nudge))
        return self._sourced[1]

    def _made_by(self, source: NudgeSource, nudge: CostNudge | ClampNudge | ComplexCostNudge) -> Any:
        gain, offset = self.get_buffer("_nudge_gain"), self.get_buffer("_nudge_offset")
        if isinstance(nudge, ClampNudge) or (isinstance(nudge, CostNudge) and source.mode == "clamp"):
            return clamp(nudge, source, gain, offset, self._rest)
        gain = gain * self.common_drift() if source.follows_cells else gain
        if isinstance(nudge, ComplexCostNudge):
            return SourcedComplexNudge(nudge, source, gain, offset, self._rest)
        return self._sourced_nudge(nudge, source, gain, offset)

    def _sourced_nudge(self, nudge: CostNudge, source: NudgeSource, gain: Tensor, offset: Tensor) -> Any:
        return SourcedNudge(nudge, source, gain, offset, self._rest)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _averaged(self, state: State) -> State:
        """The mean over the window that follows the relaxation."""
        thermal, last = self.substrate.thermal, self._last
        if thermal is None or not self._windowed or last is None or self._in_time:
            return state
        system, drive, nudge = last
        if len(drive.x) != len(state[0]):
            return state  # of a system of another kind of state
        layers, total = list(state), [torch.zeros_like(s) for s in state]
        operands = system.new_cache()
        for _ in range(thermal.window_sweeps):
            for block in system.blocks:
                for l, s in zip(block, system.update(tuple(layers), drive, nudge, block, operands), strict=True):
                    layers[l] = s
            total = [t.add_(s) for t, s in zip(total, layers, strict=True)]
        return tuple(t.div_(thermal.window_sweeps) for t in total)

    def _now(self, drive: Drive, state: State) -> Drive:
        """The drive of such a state, less what it was at the conductances with which the pass began, and with what it
        is at those of this phase."""
        moment = self._moment
        if not self._moves or moment.phase == 0 or not self._driven:
            return drive
        rows = state[0].shape[0]
        stamp = (moment.passes, moment.phase, rows, torch.is_grad_enabled())
        if self._shifted[1] is not drive or self._shifted[0] != stamp:  # one for all sweeps of a relaxation
            shifts, paired = self._shift(drive), drive.x.numel() == 0
            pairs = zip(drive.terms, shifts, strict=True)
            terms = tuple(t if shift is None else t + _repeated(shift, rows, paired=paired) for t, shift in pairs)
            self._shifted = (stamp, drive, drive._replace(terms=terms))
        return self._shifted[2] or drive

    def _shift(self, drive: Drive) -> tuple[Tensor | None, ...]:
        """What the contribution of the clamped input has changed by since the pass began, ``[batch, *shape]``."""
        made = next((d for d in self._driven if d.x is drive.x), self._driven[0])
        stamp = (self._moment.passes, self._moment.phase, id(made))
        if self._shifts[0] != stamp:
            with torch.no_grad():
                now = self._drive_at(made.x)
                pairs = zip(now.terms, made.terms, self.shapes, strict=True)
                # a bias alone is digital, and has not changed
                self._shifts = (stamp, tuple(a - b if a.dim() > len(shape) else None for a, b, shape in pairs))
        return self._shifts[1]

    def _keys_of(self, rows: Tensor) -> Tensor:
        """A key a row: samples, and further copies of them (halves of a complex state) with keys of their own."""
        if self._keys is None or len(rows) % len(self._keys):
            return torch.arange(len(rows), device=rows.device)
        copies = len(rows) // len(self._keys)
        return torch.cat([self._keys + (k << 48) for k in range(copies)])

    # -- copies and files ----------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        return packed(self)

    def set_extra_state(self, state: Any) -> None:
        unpack(self, state)

    def spec(self) -> dict[str, Any]:
        raise ConfigError(
            "a chip cannot be rebuilt from a file alone; write chip = Substrate.from_spec(...).fabricate(network, "
            f"seed={self.seed}), chip.write_path(optimizer, ...) where it had auxiliary arrays, and then "
            "chip.load_state_dict(...)"
        )


def fabricate(substrate: Substrate, network: N, seed: int) -> N:
    """See ``Substrate.fabricate``."""
    if not isinstance(network, Network):
        raise ConfigError(f"fabricate: got {type(network).__name__}, needed an attractor network")
    if isinstance(network, Chip):
        raise ConfigError("fabricate: got a chip, needed a network; fabricate the network that it was made from")
    chip: Any = network.clone()
    chip.__class__ = mixed_class(_kind(network), type(network))
    chip._fabricate(substrate, seed)
    made: N = chip
    return made


def _kind(network: Network) -> type[Chip]:
    """The chip that a network of its kind becomes."""
    from hardware._circuit import Circuit
    from hardware._circuit_chip import CircuitChip

    return CircuitChip if isinstance(network, Circuit) else Chip


def _repeated(shift: Tensor, rows: int, *, paired: bool) -> Tensor:
    """A shift for copies of its batch; of complex states the imaginary halves have none."""
    if len(shift) == rows:
        return shift
    copies = rows // len(shift)
    if not paired:
        return torch.cat([shift] * copies)
    return torch.cat([shift] * (copies // 2) + [torch.zeros_like(shift)] * (copies // 2))
