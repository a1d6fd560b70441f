"""How the passes and phases of a chip begin and end: what is written, drawn and read, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eqprop._connections import DenseConnection
from eqprop._cuda_graphs import CaptureError, capturing
from eqprop._errors import DataError
from eqprop._graph import GraphNetwork
from eqprop._network import Cache, Drive, Network, State, System
from hardware._array import Array, OnChip
from hardware._course import Course
from hardware._input_noise import InputNoise
from hardware._mixing import Mixin
from hardware._moment import Moment
from hardware._rails import Rail
from hardware._reading import Reading
from hardware._streams import Streams

if TYPE_CHECKING:
    from hardware._substrate import Substrate


class ChipPhases(Mixin, Network):
    """Base of ``Chip``: its clock and counters, and what each pass and each relaxation sees of its arrays."""

    substrate: Substrate
    seed: int
    streams: Streams
    _input_noise: InputNoise | None
    _reading: Reading | None
    _supply: Rail | None

    def _fabricate(self, substrate: Substrate, seed: int) -> None:
        self.substrate, self.streams = substrate, Streams(seed)
        self.seed = self.streams.seed
        self._moment = Moment(phase_time=round(substrate.timing.phase_seconds * 1e9))
        self._course = Course()
        self._input_noise = self._reading = self._supply = None
        self._windowed = substrate.thermal is not None and substrate.thermal.window_sweeps > 1
        self._has_arrays = substrate.cells is not None or bool(substrate.fluctuations) or substrate.paths is not None
        self._moves = False  # whether arrays change between phases
        self._differ = substrate.changes_between_phases  # whether two nudged phases see different physics
        if self._differ:
            alone = acts_through_arrays_alone(substrate) and substrate.adc is None
            self.stacks_phases = self.stacks_phases and alone and self._is_dense

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays by the key of their connection."""
        if not isinstance(self, GraphNetwork):
            return {}
        return {k: c.array for k in self.connections if isinstance(c := self.connection(k), OnChip)}

    @property
    def _inner_keys(self) -> set[str]:
        """Of the connections between layers that move."""
        return {e.key for e in self._edges if e.tail != -1} if isinstance(self, GraphNetwork) else set()

    @property
    def _is_dense(self) -> bool:
        """Whether phases that see different weights may still share a product."""
        return isinstance(self, GraphNetwork) and all(
            isinstance(self.connection(key), DenseConnection) for key in self._inner_keys
        )

    def weight_of(self, key: str) -> Tensor:
        """The parameter that the array of that key holds."""
        return self.get_parameter(f"connections.{key}.weight")

    @torch.no_grad()
    def common_drift(self) -> Tensor:
        """What time and temperature have made of all cells together in this phase, 0-d: the sum of their conductances
        over that of those written; 1 without cells."""
        held = [a for a in self.arrays.values() if a.layout is not None]
        if not held:
            return next(self.parameters()).new_ones(())
        now, then = [a.undisturbed().sum() for a in held], [a.conductance.sum() for a in held]
        return torch.stack(now).sum() / torch.stack(then).sum()

    # -- passes and phases ---------------------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        """As of the network; begins a pass."""
        dac = self.substrate.input_dac
        if dac is not None:
            x = dac.convert(self.clamped(x))
        self._begin_pass(x)
        made = self._drive_at(x)
        if self._moves:
            self._course.driven = [made, *self._course.driven[:1]]
        return made

    def _begin_pass(self, x: Tensor) -> None:
        # what is no batch is refused by the network
        batch, where = (len(x), x.device) if isinstance(x, Tensor) and x.dim() else (0, None)
        moment, given = self._moment, self._course.given
        arrays = self.arrays if self._has_arrays else {}
        if (moves := any(a.moving for a in arrays.values())) != self._moves:
            self._moves = moves
        lasts = round(self.substrate.timing.write_seconds * 1e9)
        written = [array.follow(self.weight_of(key), lasts) for key, array in arrays.items()]
        moment.clock += lasts if any(written) else 0
        moment.clock += moment.phase_time
        moment.passes += 1
        moment.phase = 0
        if given is not None and len(given) != batch:
            raise DataError(f"next_samples: got {len(given)} numbers for {batch} samples, needed one each")
        running = (
            torch.arange(moment.samples, moment.samples + batch, device=where) if given is None else given.to(where)
        )
        self._course.begin_pass(running)
        moment.samples += batch
        self._new_relaxation()

    def _drive_at(self, x: Tensor) -> Drive:
        """What ``x`` gives at the conductances of now."""
        dac, seen = self.substrate.input_dac, x
        if dac is not None and dac.noise_std > 0.0 and self._course.keys is not None:
            seen = x + dac.noise_std * self.streams.sample_normal("dac", (), self._course.keys, x)
        if self._input_noise is None or self._course.keys is None:
            made = super().drive(seen)
        else:
            made = self._input_noise.drive(seen, self._course.keys, lambda: super(ChipPhases, self).drive(seen))
        return made if seen is x else made._replace(x=x)  # rules know the codes alone

    def begin_phase(self, phase: int) -> None:
        super().begin_phase(phase)
        if not self._course.fresh:
            self._moment.phase += 1
            if not (self.substrate.twin and self._moment.phase == 1):  # twins relax at the same time
                self._moment.clock += self._moment.phase_time
        self._course.fresh = False
        self._course.nudged = phase > 0
        self._new_relaxation()

    def begin_phases(self, phases: range, system: System, drive: Drive, *, paired: bool = False) -> Drive:
        """As of the network. Phases that see different conductances still begin one after another, in time and in what
        is drawn; then they relax together, each with what it saw."""
        if len(phases) == 1 or not self._differ:
            return super().begin_phases(phases, system, drive, paired=paired)
        inner = self._inner_keys
        arrays = {key: array for key, array in self.arrays.items() if key in inner}
        drives, acting = [], []
        for phase in phases:
            self.begin_phase(phase)
            drives.append(self._shifted_terms(drive, len(drive.x)))
            acting.append([array.both_ways(self.weight_of(key)) for key, array in arrays.items()])
        for array, each in zip(arrays.values(), zip(*acting, strict=True), strict=True):
            array.join(each * 2 if paired else each)
        self._course.joined = True
        layers = zip(zip(*drives, strict=True), self.shapes, strict=True)
        terms = tuple(torch.cat(each) if each[0].dim() > len(shape) else each[0] for each, shape in layers)
        return Drive(terms, torch.cat([drive.x] * len(phases)))

    def _part(self) -> None:
        """Undoes ``begin_phases``: what acts is what the last phase sees."""
        if self._course.joined:
            self._course.joined = False
            for array in self.arrays.values():
                array.join(())

    def _new_relaxation(self) -> None:
        self._part()
        self._course.begin_relaxation()

    def measure(self, state: State, phase: int) -> State:
        self._part()
        state = self._averaged(super().measure(state, phase))
        state = state if self._supply is None else self._supply.read(state)
        if self._reading is not None:
            self._course.conversions += 1
            at = (self._moment.phase, self._course.conversions)
            state = self._reading.read(state, phase, self._keys_of(state[0]), at)
        if phase == 0:
            self._course.rest = state[-1]
        return state

    def _averaged(self, state: State) -> State:
        """The mean over the window that follows the relaxation."""
        thermal, last = self.substrate.thermal, self._course.last
        if thermal is None or not self._windowed or last is None or self._course.in_time:
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

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        if capturing():
            raise CaptureError("the conductances of a chip change from phase to phase")
        return super().new_cache(products, paired)

    # -- what a relaxation sees ----------------------------------------------------------------------------------------

    def _now(self, drive: Drive, state: State) -> Drive:
        """The drive of such a state, less what it was at the conductances with which the pass began, and with what it
        is at those of this phase."""
        moment = self._moment
        if not self._moves or moment.phase == 0 or self._course.joined:
            return drive
        rows = state[0].shape[0]
        stamp = (moment.passes, moment.phase, rows, torch.is_grad_enabled())
        if (
            self._course.shifted[1] is not drive or self._course.shifted[0] != stamp
        ):  # one for all sweeps of a relaxation
            self._course.shifted = (stamp, drive, drive._replace(terms=self._shifted_terms(drive, rows)))
        return self._course.shifted[2] or drive

    def _shifted_terms(self, drive: Drive, rows: int) -> tuple[Tensor, ...]:
        if not self._course.driven:
            return drive.terms
        shifts, paired = self._shift(drive), drive.x.numel() == 0
        pairs = zip(drive.terms, shifts, strict=True)
        return tuple(t if shift is None else t + _repeated(shift, rows, paired=paired) for t, shift in pairs)

    def _shift(self, drive: Drive) -> tuple[Tensor | None, ...]:
        """What the contribution of the clamped input has changed by since the pass began, ``[batch, *shape]``."""
        made = next((d for d in self._course.driven if d.x is drive.x), self._course.driven[0])
        stamp = (self._moment.passes, self._moment.phase, id(made))
        if self._course.shifts[0] != stamp:
            with torch.no_grad():
                now = self._drive_at(made.x)
                pairs = zip(now.terms, made.terms, self.shapes, strict=True)
                # a bias alone is digital, and has not changed
                self._course.shifts = (stamp, tuple(a - b if a.dim() > len(shape) else None for a, b, shape in pairs))
        return self._course.shifts[1]

    def _keys_of(self, rows: Tensor) -> Tensor:
        """A key a row: samples, and further copies of them (halves of a complex state) with keys of their own."""
        if self._course.keys is None or len(rows) % len(self._course.keys):
            return torch.arange(len(rows), device=rows.device)
        copies = len(rows) // len(self._course.keys)
        return torch.cat([self._course.keys + (k << 48) for k in range(copies)])


def acts_through_arrays_alone(substrate: Substrate) -> bool:
    """Whether nothing but arrays acts on the sweeps of a relaxation."""
    return substrate.thermal is None and substrate.nudge is None and substrate.rail is None


def _repeated(shift: Tensor, rows: int, *, paired: bool) -> Tensor:
    """A shift for copies of its batch; of complex states the imaginary halves have none."""
    if len(shift) == rows:
        return shift
    copies = rows // len(shift)
    if not paired:
        return torch.cat([shift] * copies)
    return torch.cat([shift] * (copies // 2) + [torch.zeros_like(shift)] * (copies // 2))
