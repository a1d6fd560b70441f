"""How many pulses a change of a weight becomes, and which changes ask for more than a step gives."""

from __future__ import annotations

import warnings

from torch import Tensor

from hardware._streams import Streams
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

    def of(self, key: str, at: tuple[int, ...], n: Tensor, limited: Tensor) -> Tensor:
        """Whole numbers of pulses, as floating point; ``n`` is overwritten.

        Args:
            key: of the connection.
            at: counters of the moment.
            n: changes in units of a pulse's step, from 0 on.
            limited: counter of the changes that ``max_pulses`` cuts, ``[]``, to which theirs are added.

        Warns:
            RuntimeWarning: once, on the CPU, where it cuts more than half of the changes that are pulsed.
        """
        mode, most = self._settings.mode, self._settings.max_pulses
        if mode == "sign":
            return (n > 0).to(n.dtype)
        if mode == "stochastic":
            n = n.add_(self._streams.uniform(f"pulses.chance/{key}", at, n.shape, n)).floor_()
        else:
            n = n.round_()
        if n.device.type != "cpu":  # where a look would wait for the device
            limited += (n > most).sum()
        elif n.numel() and (largest := float(n.max())) > most:
            cut = (n > most).sum()
            limited += cut
            self._tell(key, int(cut), int((n > 0).sum()), largest)
        return n.clamp_(max=most)

    def _tell(self, key: str, cut: int, pulsed: int, largest: float) -> None:
        if self.warned or 2 * cut <= pulsed:
            return
        self.warned = True
        warnings.warn(
            f"write path: connection {key}: {100 * cut / pulsed:.0f} % of the changes of a step ask for more than "
            f"max_pulses={self._settings.max_pulses} pulses, up to {largest:.0f}, and are cut; lower the learning "
            f"rate, or write chip.write_path(optimizer, max_pulses={largest:.0f})",
            RuntimeWarning,
            stacklevel=9,
        )
