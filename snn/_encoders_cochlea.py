"""Sound to spikes through a bank of gammatone filters, as a cochlea does it, roughly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from hardware._json import to_spec
from hardware._printed import Printed


@dataclass(frozen=True, repr=False, kw_only=True)
class CochleaEncoder(Printed):
    """Recordings to spike trains ``[batch, steps, channels]``, bool, lowest frequency first.

    Each recording is brought to a root mean square of 1 and goes through ``channels`` gammatone filters
    (``scipy.signal.gammatone``, fourth order, centres equally spaced in ERB rate,
    ``21.4 log10(1 + 0.00437 f / Hz)``, Glasberg & Moore 1990). The outputs are half-wave rectified, averaged over a
    step and compressed, ``e = mean(max(y, 0))^exponent``; then either

    - ``"lif"``: ``v <- v exp(-dt / tau) + gain e``; where ``v >= 1`` it spikes and ``v <- 0``; or
    - ``"bsa"``: Ben's spiker algorithm (Schrauwen & Van Campenhout 2003): with the filter ``h`` (an exponential of
      ``tau``, of sum ``1 / gain``) a step spikes where ``sum |s - h| <= sum |s| - bsa_threshold sum h`` over the filter
      from there on, and then ``h`` is taken from the signal. It looks ahead by the length of the filter.

    Recordings start at step 0; what is longer than ``steps`` is cut, what is shorter is followed by silence.

    Attributes:
        steps, dt_seconds: a step must hold a whole number of samples of the recording.
        channels: filters.
        rate_hz: sampling rate of the recordings.
        low_hz, high_hz: lowest and highest centre; the highest is below half the sampling rate.
        exponent: of the compression, above 0 to 1.
        spikes: "lif" or "bsa".
        tau_seconds, gain: of the LIF neuron, or of BSA's filter.
        bsa_threshold: share of the filter's sum that a spike must explain.
    """

    steps: int = 700
    dt_seconds: float = 1e-3
    channels: int = 40
    rate_hz: int = 8000
    low_hz: float = 100.0
    high_hz: float = 3600.0
    exponent: float = 0.3
    spikes: str = "lif"
    tau_seconds: float = 0.02
    gain: float = 0.3
    bsa_threshold: float = 0.6

    def __post_init__(self) -> None:
        for field in ("steps", "channels", "rate_hz"):
            require_whole(f"CochleaEncoder.{field}", getattr(self, field), 1)
        for field in ("dt_seconds", "low_hz", "exponent", "tau_seconds", "gain", "bsa_threshold"):
            require_number(f"CochleaEncoder.{field}", getattr(self, field), above=0.0)
        require_number("CochleaEncoder.exponent", self.exponent, most=1.0)
        lookup("CochleaEncoder.spikes", self.spikes, dict.fromkeys(("lif", "bsa")))
        if not self.low_hz < self.high_hz < self.rate_hz / 2:
            raise ConfigError(
                f"CochleaEncoder: got centres from {self.low_hz:g} to {self.high_hz:g} Hz, needed low < high < "
                f"{self.rate_hz / 2:g} Hz, half the sampling rate; write high_hz={0.45 * self.rate_hz:g}"
            )
        if self.samples_per_step < 1 or abs(self.samples_per_step - self.rate_hz * self.dt_seconds) > 1e-9:
            raise ConfigError(
                f"CochleaEncoder.dt_seconds: got {self.dt_seconds:g}, {self.rate_hz * self.dt_seconds:g} samples at "
                f"{self.rate_hz} Hz, needed a whole number of samples; write dt_seconds={8 / self.rate_hz:g}"
            )

    @property
    def samples_per_step(self) -> int:
        """Samples of the recording in one step."""
        return round(self.rate_hz * self.dt_seconds)

    def centres_hz(self) -> np.ndarray:
        """Centre frequencies of the filters, ``[channels]``."""
        low, high = (21.4 * math.log10(1 + 0.00437 * f) for f in (self.low_hz, self.high_hz))
        centres: np.ndarray = (10 ** (np.linspace(low, high, self.channels) / 21.4) - 1) / 0.00437
        return centres

    def envelopes(self, recordings: Sequence[np.ndarray]) -> Tensor:
        """The compressed outputs of the filters, ``[batch, steps, channels]``, float32.

        Args:
            recordings: one-dimensional arrays at ``rate_hz``, whole numbers or floats.

        Raises:
            DataError: a recording that is empty, silent, not finite or not one-dimensional.
        """
        from scipy.signal import gammatone, lfilter

        length = self.steps * self.samples_per_step
        sound = np.zeros((len(recordings), length))
        for row, recording in enumerate(recordings):
            sound[row, : len(recording)] = _loud(recording, row)[:length]
        bands = np.empty((len(recordings), self.steps, self.channels), dtype=np.float32)
        for channel, centre in enumerate(self.centres_hz()):
            heard = lfilter(*gammatone(centre, "iir", fs=self.rate_hz), sound, axis=1)
            np.maximum(heard, 0.0, out=heard)
            mean = heard.reshape(len(recordings), self.steps, self.samples_per_step).mean(2)
            bands[:, :, channel] = mean**self.exponent
        return torch.from_numpy(bands)

    def encode(self, recordings: Sequence[np.ndarray]) -> Tensor:
        """The spike trains; the arguments and errors are those of ``envelopes``."""
        return self.spiking(self.envelopes(recordings))

    def chunks(self, recordings: Sequence[np.ndarray], *, chunk_steps: int | None = None) -> Iterator[Tensor]:
        """The trains, ``chunk_steps`` steps at a time; they are made at once, for a step is only ``channels`` bits."""
        chunk = self.steps if chunk_steps is None else chunk_steps
        require_whole("chunk_steps", chunk, 1)
        return iter(self.encode(recordings).split(chunk, dim=1))

    def spiking(self, envelopes: Tensor) -> Tensor:
        """Spikes of envelopes ``[batch, steps, channels]``, in the same shape."""
        return self._lif(envelopes) if self.spikes == "lif" else self._bsa(envelopes)

    def _lif(self, envelopes: Tensor) -> Tensor:
        keep = math.exp(-self.dt_seconds / self.tau_seconds)
        v = torch.zeros_like(envelopes[:, 0])
        spikes = torch.empty(envelopes.shape, dtype=torch.bool)
        for step in range(envelopes.shape[1]):
            v.mul_(keep).add_(envelopes[:, step], alpha=self.gain)
            fired = spikes[:, step] = v >= 1
            v.masked_fill_(fired, 0.0)
        return spikes

    def _bsa(self, envelopes: Tensor) -> Tensor:
        taps = torch.exp(-torch.arange(0, 4 * self.tau_seconds, self.dt_seconds) / self.tau_seconds)
        h = (taps / taps.sum() / self.gain)[:, None]
        least = self.bsa_threshold * h.sum()
        left = torch.nn.functional.pad(envelopes, (0, 0, 0, len(h) - 1))
        spikes = torch.empty(envelopes.shape, dtype=torch.bool)
        for step in range(envelopes.shape[1]):
            ahead = left[:, step : step + len(h)]
            fired = spikes[:, step] = (ahead.abs() - (ahead - h).abs()).sum(1) >= least
            ahead -= h * fired[:, None, :]
        return spikes

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records; ``encoder_from_spec`` reads it."""
        described: dict[str, Any] = to_spec(self)
        return described


def _loud(recording: np.ndarray, row: int) -> np.ndarray:
    """The recording with a root mean square of 1, in double precision."""
    sound = np.asarray(recording, dtype=np.float64)
    if sound.ndim != 1 or not sound.size:
        raise DataError(f"recording {row}: got shape {list(sound.shape)}, needed one dimension and at least one sample")
    level = math.sqrt(float(np.mean(sound**2)))
    if not math.isfinite(level):
        raise DataError(f"recording {row}: got NaN or infinite samples, needed finite ones")
    if level == 0:
        raise DataError(f"recording {row}: got {len(sound)} samples of zero (silence), needed sound; leave it out")
    return sound / level
