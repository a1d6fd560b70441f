"""The write path: what the cells of a chip make of what an optimiser proposes."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._array import Array
from hardware._auxiliary import AuxiliaryCells
from hardware._cell_draws import CellDraws
from hardware._few import numbers_of
from hardware._pulse_numbers import PulseNumbers
from hardware._touched import Pulses, apply_pulses
from hardware._write_checks import require_optimizer, require_pulses
from hardware._write_settings import WriteSettings

if TYPE_CHECKING:
    from hardware._chip import Chip

_OPTIONS = {f.name: None for f in fields(WriteSettings)}
_PATHS: WeakKeyDictionary[torch.optim.Optimizer, list[WritePath]] = WeakKeyDictionary()  # at work, by their optimiser


class WritePath:
    """Puts a chip's cells between an optimiser and the weights: any ``torch.optim`` optimiser, unchanged in its use.

        optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
        path = chip.write_path(optimizer, mode="stochastic")

    From then on ``optimizer.step()`` proposes, and afterwards the parameters are what the cells hold (but in mode
    ``programmed``, where they stay what was asked for). Schedulers, trainers and checkpoints see the optimiser itself.
    Not for optimisers that relax within a step (LBFGS). A chip has one write path an optimiser: ``remove()`` comes
    before another. To resume, make the path first and then ``chip.load_state_dict``: auxiliary arrays are a part of the
    chip's state.

    Args:
        optimizer: over parameters of the chip.
        chip: with cells.
        options: of ``WriteSettings``.

    Raises:
        ConfigError: a chip without cells, or of a device without a pulse response (but in mode ``programmed``), or a
            one-way device in balanced pairs or single cells, or as auxiliary; LBFGS, an optimiser with another write
            path of the chip, an unknown option.
        DataError: in ``optimizer.step()``, on the CPU: changes that are NaN or infinite; cells and weights then stay
            as they were.

    Warns:
        RuntimeWarning: once, on the CPU: ``max_pulses`` cuts more than half of the changes that a step pulses.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, chip: Chip, **options: Any) -> None:
        for name in options:
            lookup("write path: option", name, _OPTIONS)
        self.settings = WriteSettings(**options)
        self._chip = chip
        self._numbers = PulseNumbers(self.settings, chip.streams)
        require_optimizer(optimizer)
        if any(path._chip is chip for path in _PATHS.get(optimizer, [])):
            raise ConfigError(
                "write path: got an optimizer with a write path of this chip, needed one without: every change would "
                "be applied twice; write path.remove() on the first"
            )
        self._before: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._last_write: dict[str, int] = {}
        arrays = {k: a for k, a in chip.arrays.items() if a.layout is not None}
        if not arrays:
            raise ConfigError(
                "write path: got a chip without cells, needed Substrate(cells=CellArray(device='idealized'))"
            )
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._arrays = {k: a for k, a in arrays.items() if id(self._weight(k)) in owned}
        if not self._arrays:
            raise ConfigError(
                "write path: got an optimizer of other parameters, needed those of the chip; write "
                "torch.optim.SGD(chip.parameters(), lr=0.1)"
            )
        if self.settings.mode != "programmed":
            require_pulses(self._arrays, self.settings.mode, twin=chip.substrate.twin)
            with torch.no_grad():
                for key, array in self._arrays.items():
                    array.follow(self._weight(key))
                    array.forget()  # what it keeps of the weights that were asked for
                    self._take_over(key, array)
                    self._last_write[key] = array.write_number
                    self._add_auxiliary(key, array)
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._write()),
        ]
        self._at_work = _PATHS.setdefault(optimizer, [])
        self._at_work.append(self)

    def remove(self) -> None:
        """The optimiser writes directly again."""
        for handle in self._handles:
            handle.remove()
        if self in self._at_work:
            self._at_work.remove(self)

    def __repr__(self) -> str:
        return f"WritePath({self.settings!r}, onto {', '.join(self._arrays)})"

    @property
    def pulses(self) -> int:
        """Pulses on single cells so far, those of auxiliary arrays included."""
        return sum(int(a.counts[1]) for a in self._arrays.values()) + sum(int(a.counts[0]) for a in self._auxiliaries)

    @property
    def reads(self) -> int:
        """Lines of auxiliary arrays read so far."""
        return sum(int(a.counts[1]) for a in self._auxiliaries)

    @property
    def energy_joules(self) -> float:
        """Energy of all pulses so far, and of all closed-loop writes of these arrays: those of fabrication, of mode
        ``programmed`` (with the relaxation that follows a step), and of full pairs written anew; twins included."""
        held = [part for a in self._arrays.values() for part in (a, a.twin) if part is not None]
        writes = sum(int(part.counts[0]) for part in held) if self.settings.write_joules else 0
        return self.pulses * self.settings.pulse_joules + writes * self.settings.write_joules

    # -- inside --------------------------------------------------------------------------------------------------------

    def _weight(self, key: str) -> Tensor:
        return self._chip.weight_of(key)

    @property
    def _auxiliaries(self) -> list[AuxiliaryCells]:
        found = [getattr(array, "auxiliary", None) for array in self._arrays.values()]
        return [a for a in found if isinstance(a, AuxiliaryCells)]

    def _add_auxiliary(self, key: str, array: Array) -> None:
        """Auxiliary cells as a part of the array; those that it has stay, where they are of the same settings."""
        settings, kept = self.settings.auxiliary, getattr(array, "auxiliary", None)
        if settings is None:
            if kept is not None:
                del array.auxiliary
        elif not (isinstance(kept, AuxiliaryCells) and kept.settings == settings):
            weight = self._weight(key).detach()
            array.auxiliary = AuxiliaryCells(
                key, settings, array.device, weight, array.weight_range, self._chip.streams
            )

    def _through(self, key: str, auxiliary: AuxiliaryCells, change: Tensor) -> Tensor | None:
        """What an auxiliary array makes of a change: what it asks of the weights, or None in most steps."""
        change = auxiliary.settings.gain * change
        at = (auxiliary.steps + 1,)
        auxiliary.gather(self._pulses(f"auxiliary/{key}", at, change, auxiliary.step_size))
        return auxiliary.transfer()

    def _remember(self) -> None:
        weights = ((key, array, self._weight(key).detach()) for key, array in self._arrays.items())
        self._before = {key: array.requested if array.agrees(w) else w.clone() for key, array, w in weights}

    @torch.no_grad()
    def _write(self) -> None:
        moment = self._chip._moment
        pulsed = self.settings.mode != "programmed"
        changes = self._changes()
        if pulsed:
            moment.clock += round(self._chip.substrate.timing.write_seconds * 1e9)
        for key, array in self._arrays.items():
            weight, before = self._weight(key), self._before[key]
            change: Tensor | None = self._learned(key, changes.pop(key))
            auxiliary = getattr(array, "auxiliary", None)
            if change is not None and isinstance(auxiliary, AuxiliaryCells):
                change = self._through(key, auxiliary, change)
            if change is None:
                weight.copy_(array.requested)
                array.agree(weight)
            elif pulsed:
                self._pulse(key, array, change)
            else:
                weight.copy_(before + change)
        self._before = {}

    def _changes(self) -> dict[str, Tensor]:
        """What the optimiser proposes; raises DataError where that is not finite, and would give no pulses for ever."""
        changes = {key: self._weight(key) - before for key, before in self._before.items()}
        for key, change in changes.items():
            if change.device.type != "cpu" or math.isfinite(float(change.sum())):
                continue
            if not (bad := int((~change.isfinite()).sum())):  # their sum alone is too large
                continue
            for kept, before in self._before.items():
                self._weight(kept).copy_(before)
            raise DataError(
                f"write path: connection {key}: got {bad} changes of {change.numel()} that are NaN or infinite, needed "
                "finite ones; lower the learning rate"
            )
        return changes

    def _learned(self, key: str, change: Tensor) -> Tensor:
        """The change as the learning circuit gives it."""
        settings = self.settings
        if settings.gain_std:
            change = change * (1 + settings.gain_std * self._own(f"update.gain/{key}", change))
        if settings.bias_std:
            change = change + settings.bias_std * self._own(f"update.bias/{key}", change)
        return change.where(change.abs() > settings.dead_zone, 0.0) if settings.dead_zone else change

    def _own(self, source: str, like: Tensor) -> Tensor:
        """Normal numbers of the cells of a chip, drawn once."""
        kept = self._kept.get(source)
        if kept is None or kept.device != like.device or kept.dtype != like.dtype:
            kept = self._kept[source] = self._chip.streams.normal(source, (), like.shape, like)
        return kept

    def _pulse(self, key: str, array: Array, change: Tensor) -> None:
        device, law = array.device, array.device.pulses
        if law is None:
            return
        written_by_others = array.write_number != self._last_write.get(key)
        array.next_write()
        self._last_write[key] = array.write_number
        step = law.step * device.frame.unit / array.scale
        both = 1 if law.one_way else array.mapping.cells
        at = (array.write_number,)
        pulses = self._pulses(key, at, change, both * step)
        numbers, seen = apply_pulses(array, pulses, self._chip.streams, key, at)
        array.counts[1] += both * pulses.counts.sum()
        if law.one_way:
            numbers = torch.cat([numbers, self._refresh(key, array, pulses.where)])
        array.restart(numbers, self._chip._moment.clock)
        if written_by_others:
            self._take_over(key, array)
        else:
            self._take_over(key, array, pulses.where, seen)

    def _pulses(self, key: str, at: tuple[int, ...], change: Tensor, step: float) -> Pulses:
        """What a change becomes."""
        return self._numbers.of(key, at, change, step, self._chip.get_buffer("_limited"))

    def _refresh(self, key: str, array: Array, where: Tensor) -> Tensor:
        """Write full pairs among the parameters ``where`` anew from their difference: the lower cell at the bottom.

        Returns:
            The numbers of their cells.
        """
        device, at = array.device, (array.write_number,)
        bar = device.g_min_siemens + self.settings.refresh_share * (device.g_max_siemens - device.g_min_siemens)
        bottom = device.g_min_siemens + 0.05 * (device.g_max_siemens - device.g_min_siemens)
        size = array.requested.numel()
        g = array.hidden.view(-1, size).index_select(1, where)
        full = numbers_of((g.amax(0) > bar) & (g.amin(0) > bottom))
        pairs = where.index_select(0, full)
        numbers = torch.cat([pairs, pairs + size])
        target = array.targets(array.decoded(g.index_select(1, full))).flatten()
        draws = CellDraws(self._chip.streams, f"pulses.refresh/{key}", at, numbers)
        fresh = device.program(target, draws, array.cells.of_pulses(numbers))
        array.hidden.view(-1).index_copy_(0, numbers, fresh)
        array.conductance.view(-1).index_copy_(0, numbers, fresh)
        array.counts[0] += len(numbers)
        return numbers

    def _take_over(self, key: str, array: Array, where: Tensor | None = None, seen: Tensor | None = None) -> None:
        """The weights are what the cells hold: those of the numbers ``where`` anew, or all."""
        weight = self._weight(key)
        array.read_back(where, seen)
        weight.copy_(array.requested)
        array.agree(weight)
