"""An auxiliary array that gathers gradients before they reach the weights (Tiki-Taka)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._converters import _require_bits, quantised
from hardware._device_checks import require_number, require_whole
from hardware._device_table import device as device_named
from hardware._devices import _PARTS as _DEVICE_PARTS
from hardware._devices import Device
from hardware._json import from_spec, to_spec
from hardware._mapping import Mapping, Single
from hardware._printed import Printed
from hardware._pulsed_cells import PulsedCells
from hardware._streams import Streams
from hardware._touched import Pulses, apply_pulses

_LINES = {"column": None, "row": None}


@dataclass(frozen=True, repr=False)
class Auxiliary(Printed):
    """A second array ``A`` behind every weight ``C``: proposed changes are pulsed onto ``A``, and ``A`` onto ``C``.

    A cell of ``A`` is read against a reference at its symmetry point, where up and down pulses are of equal size, so
    that it reads 0 there:

        every step          A <- A + pulses(gain * change)
        every n-th step     C <- C + pulses(transfer_rate * read(A))      on ``lines`` columns (or rows) of A, in turn

    Pulses of an asymmetric cell pull it to its symmetry point with the power of what is pulsed, noise of the gradient
    included. On a weight itself that is an error; on ``A`` it is a memory that forgets, and only the mean of the
    gradient reaches ``C``. The network acts with ``C`` alone.

    Its cells are a part of the chip's state once ``Chip.write_path`` has made them: on resuming call ``write_path``
    first, then ``chip.load_state_dict``.

    Attributes:
        transfer_every: steps of the optimiser from one transfer to the next.
        transfer_rate: share of what is read that is asked of the weights.
        lines: columns (rows) that a transfer reads.
        by: ``"column"``, all weights from one input, or ``"row"``, all weights to one output.
        device: of the auxiliary cells, a name or a ``Device``; None for that of the weights.
        gain: of changes on their way to ``A``: the ratio of the two learning rates.
        weight_range: what half the range of a cell of ``A`` stands for, in units of weight; None for the range of the
            weights.
        zero_std: spread of the references around the symmetry points, as a share of half the range.
        read_std: noise of a read, in units of weight.
        adc_bits: of the converter that reads ``A`` over its range, or None.

    Raises:
        ConfigError: values that are impossible, or a device whose pulses go one way.

    Source: Gokmen & Haensch 2020 (Front. Neurosci. 14, 103); the reference: Kim et al. 2019 (zero shifting).
    """

    transfer_every: int = 1
    transfer_rate: float = 0.1
    lines: int = 1
    by: str = "column"
    device: str | Device | None = None
    gain: float = 1.0
    weight_range: float | None = None
    zero_std: float = 0.0
    read_std: float = 0.0
    adc_bits: int | None = None

    def __post_init__(self) -> None:
        require_whole("Auxiliary.transfer_every", self.transfer_every, 1)
        require_whole("Auxiliary.lines", self.lines, 1)
        lookup("Auxiliary.by", self.by, _LINES)
        for name in ("transfer_rate", "gain"):
            require_number(f"Auxiliary.{name}", getattr(self, name), above=0.0)
        if self.weight_range is not None:
            require_number("Auxiliary.weight_range", self.weight_range, above=0.0)
        for name in ("zero_std", "read_std"):
            require_number(f"Auxiliary.{name}", getattr(self, name), least=0.0)
        if self.adc_bits is not None:
            _require_bits("Auxiliary.adc_bits", self.adc_bits)
        if self.device is not None:
            require_two_ways(device_named(self.device))

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description."""
        described: dict[str, Any] = to_spec(self)
        return described

    @staticmethod
    def from_spec(spec: dict[str, Any]) -> Auxiliary:
        """The settings that ``spec`` described.

        Raises:
            ConfigError: an unknown field, or values that are refused.
        """
        return from_spec(spec, Auxiliary, _PARTS)


_PARTS: dict[str, type] = _DEVICE_PARTS | {"Auxiliary": Auxiliary}


def require_two_ways(device: Device) -> None:
    """Raises ConfigError unless pulses move cells of the device up and down."""
    if device.pulses is None or device.pulses.one_way:
        raise ConfigError(
            f"Auxiliary: got device {device.name!r}, needed one whose pulses go both ways: an auxiliary cell rests "
            "where they balance; write Auxiliary(device='reram-sb')"
        )


class AuxiliaryCells(PulsedCells):
    """The auxiliary cells of one weight ``[heads, tails, ...]``; a part of its array, so that checkpoints hold them.

    Attributes:
        settings: as given.
        device: of the cells.
        conductance: of every cell as it is seen, ``[1, *weight]`` siemens.
        reference: of every cell, what it is read against, ``[1, *weight]`` siemens.
        counts: pulses on cells, and lines read, so far.
    """

    reference: Tensor
    counts: Tensor

    def __init__(
        self, key: str, settings: Auxiliary, device: Device, weight: Tensor, reach: float, streams: Streams
    ) -> None:
        super().__init__()
        self.settings = settings
        self.device = device if settings.device is None else device_named(settings.device)
        require_two_ways(self.device)
        self._key, self._streams = f"auxiliary/{key}", streams
        self.mapping: Mapping = Single(self.device.g_min_siemens, self.device.g_max_siemens, 1.0)
        self.reach = reach if settings.weight_range is None else settings.weight_range
        self._step = 0
        shape = (1, *weight.shape)
        cells = self.device.fabricate_cells(shape, streams.generator(f"cells/{self._key}"), weight.dtype)
        self._hold_cells(cells, weight.device)
        point = self.device.symmetry_point_siemens(self.cells)
        off = settings.zero_std * self.reach * self.scale
        reference = point + off * streams.normal(f"cells.zero/{self._key}", (), shape, weight) if off else point
        self.register_buffer("reference", reference, persistent=False)
        self._hold_conductance(point.clone())
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64, device=weight.device))

    @property
    def scale(self) -> float:
        """Siemens a unit of weight."""
        return 0.5 * (self.device.g_max_siemens - self.device.g_min_siemens) / self.reach

    @property
    def value(self) -> Tensor:
        """What the cells stand for, in units of weight, ``[*weight]``."""
        return (self.conductance[0] - self.reference[0]) / self.scale

    @property
    def steps(self) -> int:
        """Steps of the optimiser so far."""
        return self._step

    @property
    def step_size(self) -> float:
        """Mean step of a pulse at weight zero, in units of weight."""
        law = self.device.pulses
        return 0.0 if law is None else law.step * self.device.frame.unit / self.scale

    @torch.no_grad()
    def gather(self, pulses: Pulses) -> None:
        """Pulse a change onto the cells: one step."""
        self._step += 1
        apply_pulses(self, pulses, self._streams, self._key, (self._step,))
        self.counts[0] += pulses.counts.sum()

    @torch.no_grad()
    def transfer(self) -> Tensor | None:
        """What is asked of the weights after this step, ``[*weight]`` and 0 but on the lines that were read; or None.

        Lines take turns: the number of the transfer decides which they are.
        """
        turn, left = divmod(self._step, self.settings.transfer_every)
        if left:
            return None
        dim = 0 if self.settings.by == "row" else 1
        total = self.reference[0].shape[dim]
        n = min(self.settings.lines, total)
        lines = [((turn - 1) * n + i) % total for i in range(n)]
        where = torch.tensor(lines, device=self.reference.device)
        seen = self.value.index_select(dim, where)
        if self.settings.read_std:
            noise = self._streams.normal(f"read/{self._key}", (self._step,), seen.shape, seen)
            seen = seen + self.settings.read_std * noise
        if self.settings.adc_bits is not None:
            # 0 is a level: what rests at its reference is not transferred
            step = self.reach / (1 << (self.settings.adc_bits - 1))
            seen = quantised(seen, -self.reach, self.reach - step, self.settings.adc_bits)
        self.counts[1] += n
        return torch.zeros_like(self.reference[0]).index_copy_(dim, where, self.settings.transfer_rate * seen)

    def get_extra_state(self) -> Tensor:
        """The number of the step."""
        return torch.tensor([self._step])

    def set_extra_state(self, state: Any) -> None:
        """Undoes ``get_extra_state``."""
        self._step = int(state[0])
