"""A chip: a network whose weights, signals and nudges are those of one fabricated substrate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from eqprop._cuda_graphs import CaptureError
from eqprop._errors import ConfigError, DataError
from eqprop._graph import GraphNetwork
from eqprop._network import Cache, Drive, Network, State, System
from eqprop._nudge import CostNudge
from hardware._array import Array, Moment, OnChip
from hardware._mixing import Mixin, mixed_class
from hardware._nudge_source import SourcedNudge
from hardware._reading import Reading
from hardware._streams import Streams

if TYPE_CHECKING:
    from hardware._substrate import Substrate
    from hardware._write import WritePath

N = TypeVar("N", bound=Network)


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
        self.substrate, self.seed, self.streams = substrate, seed, Streams(seed)
        self._moment = Moment(phase_time=round(substrate.timing.phase_seconds * 1e9))
        self._fresh = True
        self._keys: Tensor | None = None
        self._given: Tensor | None = None
        self._driven: list[Drive] = []  # the last two, as they were made
        self._shifts: tuple[Any, tuple[Tensor | None, ...]] = (None, ())
        self._rest: Tensor | None = None  # the output layer at the free equilibrium, as read
        self._sourced: tuple[Any, Any] = (None, None)
        self._last: tuple[System, Drive, Any] | None = None
        self._steps: dict[int, int] = {}
        self._conversions = 0
        self.stacks_phases = self.stacks_phases and not substrate.changes_between_phases
        like = next(self.parameters())
        with torch.no_grad():
            self._thermal = 0.0 if substrate.thermal is None else substrate.thermal.std_at(substrate.temperature_kelvin)
            if substrate.nudge is not None:
                gain, offset = substrate.nudge.draw(self.shapes[-1], self.streams, like)
                self.register_buffer("_nudge_gain", gain, persistent=False)
                self.register_buffer("_nudge_offset", offset, persistent=False)
            self._reading = None if substrate.adc is None else Reading(substrate.adc, self, self.streams)
            if substrate.cells is not None or substrate.fluctuations or substrate.paths is not None:
                self._fabricate_arrays()
            elif not isinstance(self, GraphNetwork) and (substrate.nudge is not None or substrate.thermal is not None):
                raise ConfigError(
                    f"Substrate: got a {type(self).__bases__[1].__name__}, whose inputs may have other units, needed a "
                    "HopfieldNetwork or DirectedNetwork for nudge and thermal; leave these two None"
                )

    def _fabricate_arrays(self) -> None:
        if not isinstance(self, GraphNetwork):
            raise ConfigError(
                f"Substrate: got a {type(self).__bases__[1].__name__}, with weights in code of its own, needed a "
                "HopfieldNetwork or DirectedNetwork for cells, fluctuations and paths"
            )
        for key in self.connections:
            connection = self.connection(key)
            connection.array = Array(key, connection.weight.detach(), self.substrate, self.streams, self._moment)
            connection.__class__ = mixed_class(OnChip, type(connection))

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays by the key of their connection."""
        if not isinstance(self, GraphNetwork):
            return {}
        return {k: c.array for k in self.connections if isinstance(c := self.connection(k), OnChip)}

    @property
    def clock_seconds(self) -> float:
        """Time since fabrication."""
        return self._moment.clock * 1e-9

    @property
    def counts(self) -> dict[str, int]:
        """Writes and pulses of single cells, and weights that a write clipped, over all arrays so far."""
        names = ("writes", "pulses", "clipped")
        total = [sum(int(a.counts[i]) for a in self.arrays.values() if a.layout is not None) for i in range(3)]
        return dict(zip(names, total, strict=True))

    def wait(self, seconds: float) -> None:
        """Let time go by, as for a chip in a drawer: cells drift, as the next relaxation will see.

        Raises:
            DataError: a time before now, for nothing is known of a chip before it is written.
        """
        if not 0.0 <= seconds < 1e9:
            raise DataError(f"wait: got {seconds!r} s, needed 0 to 1e9; the time before a write is not defined")
        self._moment.clock += round(seconds * 1e9)

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
        written = [array.follow(self.get_parameter(f"connections.{k}.weight")) for k, array in self.arrays.items()]
        moment.clock += round(self.substrate.timing.write_seconds * 1e9) if any(written) else 0
        moment.clock += moment.phase_time
        moment.passes += 1
        moment.phase = 0
        self._fresh = True
        if self._given is not None and len(self._given) != batch:
            raise DataError(f"next_samples: got {len(self._given)} numbers for {batch} samples, needed one each")
        running = torch.arange(moment.samples, moment.samples + batch, device=next(self.parameters()).device)
        self._keys = running if self._given is None else self._given.to(running.device)
        self._given = None
        moment.samples += batch
        self._new_relaxation()

    def _drive_at(self, x: Tensor) -> Drive:
        """What ``x`` gives at the conductances of now."""
        dac = self.substrate.input_dac
        if dac is None or dac.noise_std == 0.0 or self._keys is None:
            return super().drive(x)
        noise = self.streams.sample_normal("dac", (), self._keys, x)
        return super().drive(x + dac.noise_std * noise)._replace(x=x)  # rules know the codes alone

    def begin_phase(self, phase: int) -> None:
        super().begin_phase(phase)
        if not self._fresh:
            self._moment.phase += 1
            self._moment.clock += self._moment.phase_time
        self._fresh = False
        self._new_relaxation()

    def _new_relaxation(self) -> None:
        self._steps.clear()
        self._conversions = 0
        self._sourced = (None, None)
        self._last = None

    def measure(self, state: State, phase: int) -> State:
        state = self._averaged(super().measure(state, phase))
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
        z = self._mean_inputs(state, drive, block, cache)
        if self._thermal:
            for i, l in enumerate(block):
                step = self._steps[l] = self._steps.get(l, 0) + 1
                counters = (self._moment.phase, l, step)
                keys = self._keys_of(z[i])
                z[i] = z[i].add_(self.streams.sample_normal("thermal", counters, keys, z[i]), alpha=self._thermal)
        return z

    def _mean_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z = super().block_inputs(state, drive, block, cache)
        shifts = self._shift(drive)
        if shifts is not None:
            for i, l in enumerate(block):
                if (shift := shifts[l]) is not None:
                    z[i] = z[i] + _repeated(shift, len(z[i]), paired=drive.x.numel() == 0)
        return z

    def inputs(self, state: State, drive: Drive) -> State:
        """As of the network, without the noise of a sweep."""
        if not self._thermal:
            return super().inputs(state, drive)
        return tuple(self._mean_inputs(state, drive, range(len(state)), self.new_cache()))

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        self._last = (self, drive, nudge)
        return super().update(state, drive, self.sourced(nudge), block, cache)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        system, constant = super().adjoint_dynamics(state, drive)
        return (system if system is self else _Sourced(system, self)), constant

    def sourced(self, nudge: Any) -> Any:
        """The nudge as the chip's source makes it."""
        source = self.substrate.nudge
        if source is None or not isinstance(nudge, CostNudge):
            return nudge
        if self._sourced[0] is not nudge:
            gain, offset = self.get_buffer("_nudge_gain"), self.get_buffer("_nudge_offset")
            self._sourced = (nudge, SourcedNudge(nudge, source, gain, offset, self._rest))
        return self._sourced[1]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _averaged(self, state: State) -> State:
        """The mean over the window that follows the relaxation."""
        thermal, last = self.substrate.thermal, self._last
        if thermal is None or thermal.window_sweeps == 1 or last is None:
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

    def _shift(self, drive: Drive) -> tuple[Tensor | None, ...] | None:
        """What the contribution of the clamped input has changed by since the pass began, ``[batch, *shape]``."""
        if self._moment.phase == 0 or not self._driven or not any(a.moving for a in self.arrays.values()):
            return None
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
        """The counters of the chip, so that a resumed run goes on with the same numbers."""
        m = self._moment
        return torch.tensor(
            [self.seed, m.passes, m.phase, m.samples, m.clock, *(a._write for a in self.arrays.values())]
        )

    def set_extra_state(self, state: Any) -> None:
        """Undoes ``get_extra_state``.

        Raises:
            ConfigError: the state of another chip.
        """
        seed, *rest = [int(v) for v in state]
        if seed != self.seed:
            raise ConfigError(
                f"chip: got the state of the chip with seed {seed}, needed that of seed {self.seed}: its cells are "
                f"others; write substrate.fabricate(network, seed={seed})"
            )
        m = self._moment
        m.passes, m.phase, m.samples, m.clock = rest[:4]
        for array, write in zip(self.arrays.values(), rest[4:], strict=True):
            array._write = write
            array._kept.clear()

    def spec(self) -> dict[str, Any]:
        raise ConfigError(
            "a chip cannot be rebuilt from a file alone; write chip = Substrate.from_spec(...).fabricate(network, "
            f"seed={self.seed}) and chip.load_state_dict(...)"
        )


class _Sourced(System):
    """A system that a network made of itself, nudged by the chip's source."""

    def __init__(self, system: System, chip: Chip) -> None:
        self.shapes, self.activations, self.blocks = system.shapes, system.activations, system.blocks
        self.affine, self.holomorphic = system.affine, system.holomorphic
        self._system, self._chip = system, chip

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return self._system.new_cache(products, paired)

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        return self._system.block_inputs(state, drive, block, cache)

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        self._chip._last = (self, drive, nudge)
        return super().update(state, drive, self._chip.sourced(nudge), block, cache)


def fabricate(substrate: Substrate, network: N, seed: int) -> N:
    """See ``Substrate.fabricate``."""
    if not isinstance(network, Network):
        raise ConfigError(f"fabricate: got {type(network).__name__}, needed an attractor network")
    if isinstance(network, Chip):
        raise ConfigError("fabricate: got a chip, needed a network; fabricate the network that it was made from")
    chip: Any = network.clone()
    chip.__class__ = mixed_class(Chip, type(network))
    chip._fabricate(substrate, seed)
    made: N = chip
    return made


def _repeated(shift: Tensor, rows: int, *, paired: bool) -> Tensor:
    """A shift for copies of its batch; of complex states the imaginary halves have none."""
    if len(shift) == rows:
        return shift
    copies = rows // len(shift)
    if not paired:
        return torch.cat([shift] * copies)
    return torch.cat([shift] * (copies // 2) + [torch.zeros_like(shift)] * (copies // 2))
