"""The write path: what the cells of a chip make of what an optimiser proposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._array import Array
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed

if TYPE_CHECKING:
    from hardware._chip import Chip

_MODES = {"programmed": None, "proportional": None, "stochastic": None, "sign": None}


@dataclass(frozen=True, repr=False)
class WriteSettings(Printed):
    """How a proposed change of a weight becomes pulses.

    The change first meets what a learning circuit does to it, ``d <- d (1 + gain_std n_1) + bias_std n_2`` with normal
    numbers of the cell drawn once a chip: a deterministic bias of every update is the dominant fault of real
    self-learning circuits, and makes limit cycles. Changes up to ``dead_zone`` are dropped.

    Then, with ``n = |d| / step`` and the device's mean step at weight zero (twice that of one cell, where pulses go
    both ways: one cell of a pair goes up while the other goes down):

        programmed     no pulses: a closed-loop write to the new target, at the next relaxation
        proportional   round(n) pulses: nothing below half a step
        stochastic     floor(n + U(0, 1)) pulses: right on average
        sign           one pulse, whatever the size

    What the pulses do is the device's business: bounds, asymmetry, noise, stuck cells.

    Attributes:
        mode: as above.
        dead_zone: in units of weight.
        gain_std: relative.
        bias_std: in units of weight, a step of the optimiser.
        max_pulses: at most so many a cell and step.
        refresh_share: of the range; where pulses go one way, a pair with a cell beyond it is reset and its difference
            is programmed again.
        pulse_joules: energy of one pulse, for ``WritePath.energy_joules``.

    Source: bias: Dillavou et al. 2025 (arXiv 2505.22887); stochastic counts: Gokmen & Vlasov 2016; fixed pulses: Oh,
    An & Min (twin circuits).
    """

    mode: str = "stochastic"
    dead_zone: float = 0.0
    gain_std: float = 0.0
    bias_std: float = 0.0
    max_pulses: int = 31
    refresh_share: float = 0.9
    pulse_joules: float = 0.0

    def __post_init__(self) -> None:
        lookup("write path: mode", self.mode, _MODES)
        for name in ("dead_zone", "gain_std", "bias_std", "pulse_joules"):
            require_number(f"WriteSettings.{name}", getattr(self, name), least=0.0)
        require_number("WriteSettings.refresh_share", self.refresh_share, above=0.0, most=1.0)
        require_whole("WriteSettings.max_pulses", self.max_pulses, 1)


class WritePath:
    """Puts a chip's cells between an optimiser and the weights: any ``torch.optim`` optimiser, unchanged in its use.

        optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
        path = chip.write_path(optimizer, mode="stochastic")

    From then on ``optimizer.step()`` proposes, and afterwards the parameters are what the cells hold (but in mode
    ``programmed``, where they stay what was asked for). Schedulers, trainers and checkpoints see the optimiser itself.
    Not for optimisers that relax within a step (LBFGS).

    Args:
        optimizer: over parameters of the chip.
        chip: with cells.
        options: of ``WriteSettings``.

    Raises:
        ConfigError: a chip without cells, or of a device without a pulse response (but in mode ``programmed``), or a
            one-way device in balanced pairs.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, chip: Chip, **options: Any) -> None:
        self.settings = WriteSettings(**options)
        self._chip = chip
        self._before: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
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
        self._check_devices()
        if self.settings.mode != "programmed":
            with torch.no_grad():
                for key, array in self._arrays.items():
                    array.follow(self._weight(key))
                    self._take_over(key, array, array.conductance, torch.zeros_like(array.written, dtype=torch.bool))
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._write()),
        ]

    def remove(self) -> None:
        """The optimiser writes directly again."""
        for handle in self._handles:
            handle.remove()

    @property
    def pulses(self) -> int:
        """Pulses on single cells so far."""
        return sum(int(a.counts[1]) for a in self._arrays.values())

    @property
    def energy_joules(self) -> float:
        """Energy of all pulses so far."""
        return self.pulses * self.settings.pulse_joules

    # -- inside --------------------------------------------------------------------------------------------------------

    def _weight(self, key: str) -> Tensor:
        return self._chip.get_parameter(f"connections.{key}.weight")

    def _check_devices(self) -> None:
        if self.settings.mode == "programmed":
            return
        for key, array in self._arrays.items():
            law = array.device.pulses
            if law is None:
                raise ConfigError(
                    f"write path: connection {key} is of {array.device.name!r}, whose response to pulses is not "
                    "published, needed one that is; write mode='programmed', or device='reram-sb'"
                )
            if law.one_way and array.layout is not None and array.layout.mapping == "balanced":
                raise ConfigError(
                    f"write path: pulses on {array.device.name!r} go one way, and a balanced pair starts in the middle "
                    "of its range; write CellArray(mapping='one-sided')"
                )

    def _remember(self) -> None:
        self._before = {key: self._weight(key).detach().clone() for key in self._arrays}

    @torch.no_grad()
    def _write(self) -> None:
        moment = self._chip._moment
        pulsed = self.settings.mode != "programmed"
        if pulsed:
            moment.clock += round(self._chip.substrate.timing.write_seconds * 1e9)
        for key, array in self._arrays.items():
            weight, before = self._weight(key), self._before[key]
            change = self._learned(key, weight - before)
            if pulsed:
                self._pulse(key, array, change)
            else:
                weight.copy_(before + change)
        self._before = {}

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
        streams = self._chip.streams
        array.next_write()
        at = (array.write_number,)
        step = law.step * law.frame(device.g_min_siemens, device.g_max_siemens).unit / array.scale
        counts = self._counts(key, at, change.abs() / (step if law.one_way else 2 * step))
        rising, falling = counts * (change > 0), counts * (change < 0)
        up = torch.stack([rising, falling])
        down = None if law.one_way else torch.stack([falling, rising])
        generator = streams.generator(f"pulses/{key}", *at)
        most = int(counts.max())  # one look a write, against a train as long as the longest that could be
        g = device.pulse(array.hidden, up, down, array.cells, generator, exact=False, most=most)
        touched = up > 0 if down is None else (up > 0) | (down > 0)
        array.counts[1] += up.sum() if down is None else up.sum() + down.sum()
        if law.one_way:
            g, touched = self._refreshed(array, g, touched, generator)
        self._take_over(key, array, g, touched, device.apparent(g, generator))

    def _counts(self, key: str, at: tuple[int, ...], n: Tensor) -> Tensor:
        if self.settings.mode == "sign":
            return (n > 0).to(torch.int64)
        if self.settings.mode == "stochastic":
            n = (n + self._chip.streams.uniform(f"pulses.chance/{key}", at, n.shape, n)).floor()
        return n.round().clamp(max=self.settings.max_pulses).to(torch.int64)

    def _refreshed(self, array: Array, g: Tensor, touched: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Full pairs written anew from their difference: the lower cell back at the bottom."""
        device = array.device
        bar = device.g_min_siemens + self.settings.refresh_share * (device.g_max_siemens - device.g_min_siemens)
        bottom = device.g_min_siemens + 0.05 * (device.g_max_siemens - device.g_min_siemens)
        full = ((g.amax(0) > bar) & (g.amin(0) > bottom)).expand_as(g)
        fresh = device.program(array.targets(array.decoded(g)), generator, array.cells)
        array.counts[0] += full.sum()
        return torch.where(full, fresh, g), touched | full

    def _take_over(self, key: str, array: Array, g: Tensor, touched: Tensor, visible: Tensor | None = None) -> None:
        """The weights are what the cells hold."""
        visible = g if visible is None else torch.where(touched, visible, array.conductance)
        weight = array.decoded(visible)
        array.settled(visible, touched, weight, hidden=g)
        self._weight(key).copy_(weight)
