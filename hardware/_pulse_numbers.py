"""How many pulses a change of a weight becomes, and which changes ask for more than a step gives."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hardware._streams import Streams
from hardware._touched import Pulses, pulses_of
from hardware._write_settings import WriteSettings


class PulseNumbers:
    """Numbers of pulses of a write path, see ``WriteSettings``.

    Args:
        settings: of the path.
        streams: of the chip.

    Attributes:
        warned: whether a warning of ``max_pulses`` was given.
    """

    def __init__(self, settings: WriteSettings, streams: Streams) -> None:
        self._settings, self._streams = settings, streams
        self.warned = False

    def of(self, key: str, at: tuple[int, ...], change: Tensor, step: float, limited: Tensor) -> Pulses:
        """The pulses that a change becomes.

        Args:
            key: of the connection.
            at: counters of the moment.
            change: of the parameters.
            step: of them by a pulse.
            limited: counter of the changes that ``max_pulses`` cuts, ``[]``, to which theirs are added.

        Warns:
            RuntimeWarning: once, on the CPU, where it cuts more than half of the changes that are pulsed.
        """
        mode, most = self._settings.mode, self._settings.max_pulses
        if mode == "sign":
            return pulses_of(change, change.sign().abs_().to(torch.float32))
        # in half precision a chance may round to 1, and numbers from 256 on are not whole
        size = change.abs().to(torch.promote_types(change.dtype, torch.float32))
        if mode == "stochastic":
            chance = self._streams.uniform(f"pulses.chance/{key}", at, size.shape, size)
            pulses = pulses_of(change, chance.add_(size, alpha=1.0 / step).floor_())
        else:
            pulses = pulses_of(change, size.div_(step).round_())
        wanted = pulses.counts
        if wanted.device.type != "cpu":  # where a look would wait for the device
            limited += (wanted > most).sum()
        elif len(wanted) and (largest := int(wanted.max())) > most:
            cut = (wanted > most).sum()
            limited += cut
            self._tell(key, int(cut), len(wanted), largest)
        return pulses._replace(counts=wanted.clamp_(max=most))

    def _tell(self, key: str, cut: int, pulsed: int, largest: int) -> None:
        if self.warned or 2 * cut <= pulsed:
            return
        self.warned = True
        warnings.warn(
            f"write path: connection {key}: {100 * cut / pulsed:.0f} % of the changes of a step ask for more than "
            f"max_pulses={self._settings.max_pulses} pulses, up to {largest}, and are cut; lower the learning "
            f"rate, or write chip.write_path(optimizer, max_pulses={largest})",
            RuntimeWarning,
            stacklevel=9,
        )
