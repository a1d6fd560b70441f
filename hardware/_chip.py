"""A chip: a network whose weights, signals and nudges are those of one fabricated substrate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._graph import GraphNetwork
from eqprop._network import Network
from hardware._array import Array, OnChip
from hardware._chip_dynamics import ChipDynamics
from hardware._chip_phases import ChipPhases, acts_through_arrays_alone
from hardware._chip_state import packed, unpack
from hardware._device_checks import is_number
from hardware._input_noise import InputNoise, Source, leaves_noise_to_signals
from hardware._mixing import mixed_class
from hardware._reading import Reading

if TYPE_CHECKING:
    from hardware._substrate import Substrate
    from hardware._write import WritePath

N = TypeVar("N", bound=Network)


class Chip(ChipPhases):
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

    def _fabricate(self, substrate: Substrate, seed: int) -> None:
        with torch.no_grad():
            super()._fabricate(substrate, seed)
            device = next(self.parameters()).device
            # changes of weights that a write path cut
            self.register_buffer("_limited", torch.zeros((), dtype=torch.int64, device=device), persistent=False)
            self._reading = None if substrate.adc is None else Reading(substrate.adc, self, self.streams)
            if self._has_arrays:
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
        if not isinstance(numbers, Tensor):
            raise DataError(
                f"next_samples: got {type(numbers).__name__}, needed a tensor; write next_samples(torch.arange(64))"
            )
        kind = numbers.dtype
        if numbers.dim() != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
            raise DataError(f"next_samples: got {tuple(numbers.shape)} of {kind}, needed [batch] whole numbers")
        self._course.given = numbers.to(torch.int64)

    def write_path(self, optimizer: torch.optim.Optimizer, **options: Any) -> WritePath:
        """Let what the optimiser proposes go through pulses on the cells, see ``hardware.WritePath``."""
        from hardware._write import WritePath

        return WritePath(optimizer, self, **options)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chip {self.seed} of {self.substrate!r}"

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
    chip.__class__ = mixed_class(_kind(network, substrate), type(network))
    chip._fabricate(substrate, seed)
    made: N = chip
    return made


class DisturbedChip(Chip, ChipDynamics):
    """A ``hardware.Chip`` on whose sweeps something acts: noise, a source of nudges, a rail, or weights of each phase.

    Any other runs the sweeps of its network as they are.
    """


def _kind(network: Network, substrate: Substrate) -> type[Chip]:
    """The chip that a network of its kind becomes."""
    from hardware._circuit import Circuit
    from hardware._circuit_chip import CircuitChip

    if isinstance(network, Circuit):
        return CircuitChip
    still = acts_through_arrays_alone(substrate) and not (substrate.changes_between_phases or substrate.twin)
    return Chip if still else DisturbedChip
