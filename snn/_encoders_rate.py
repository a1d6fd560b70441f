"""Rate coding: independent spikes, the more likely the larger the input."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._encoders import Encoder, channels

_ROWS = 4096  # images looked at together when the largest share is sought


@dataclass(frozen=True, repr=False, kw_only=True)
class RateEncoder(Encoder):
    """Bernoulli or Poisson spikes, bool, independent in every step and channel.

    The rate of a channel is ``r = peak_rate_hz v / full_scale``, with ``v = x``, or ``v = x / sum(x)`` of its own
    sample where ``share`` is set. The probability of a spike in a step is ``r dt`` (``"bernoulli"``), or
    ``1 - exp(-r dt)`` (``"poisson"``: at least one event of a Poisson process, the others of that step are lost).

    Draws come from numpy's PCG64 on the CPU, one stream a sample, ``SeedSequence([seed, number of the sample])``:
    about half a millisecond for a digit of MNIST and 250 steps, since channels at zero draw nothing.

    Attributes:
        peak_rate_hz: rate at ``full_scale``; with ``"bernoulli"`` at most ``1 / dt_seconds``.
        law: "bernoulli" or "poisson".
        share: divide each sample by its sum first; a sample of zeros stays silent.
        full_scale: value of ``v`` with the peak rate; larger ones are refused, or (with ``share``) get the peak rate.
        seed: of the draws, 0 or more.
    """

    peak_rate_hz: float = 1000.0
    law: str = "bernoulli"
    share: bool = False
    full_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("RateEncoder.law", self.law, dict.fromkeys(("bernoulli", "poisson")))
        require_number("RateEncoder.peak_rate_hz", self.peak_rate_hz, above=0.0)
        require_number("RateEncoder.full_scale", self.full_scale, above=0.0)
        require_whole("RateEncoder.seed", self.seed, 0)
        if self.law == "bernoulli" and self.peak_rate_hz * self.dt_seconds > 1 + 1e-9:
            raise ConfigError(
                f"RateEncoder: got peak_rate_hz={self.peak_rate_hz:g} with steps of {self.dt_seconds:g} s, a spike "
                f"probability of {self.peak_rate_hz * self.dt_seconds:g}, needed at most 1; write peak_rate_hz="
                f'{1 / self.dt_seconds:g}, or law="poisson"'
            )

    @classmethod
    def nalsm(cls, images: Tensor, *, steps: int = 250, seed: int = 0) -> RateEncoder:
        """The encoding of NALSM (Ivanov & Michmizos 2021, arXiv 2111.01760), its scale taken from these images.

        Each image is divided by its sum; divided by the largest such share among ``images``, that is the spike
        probability of a 1-ms step. Give the training images: what a test image has above their largest share gets
        probability 1. The published code normalises every split by its own maximum, so that statistics of the test set
        enter; to repeat that, make one encoder a split, each from the images of that split.

        Args:
            images: ``[N, ...]``, floats of 0 or more.

        Raises:
            DataError: other values, or images that are all zeros.
        """
        rows = channels(images, least=0.0)
        peak = max(float(_shares(part).max()) for part in rows.split(_ROWS))
        if peak == 0:
            raise DataError(f"images: got {len(rows)} images of zeros, needed at least one with a positive pixel")
        return cls(steps=steps, share=True, full_scale=peak, seed=seed)

    def probabilities(self, x: Tensor) -> Tensor:
        """Spike probability of a step, ``[batch, channels]``.

        Raises:
            DataError: negative inputs, or (without ``share``) inputs above ``full_scale``.
        """
        if self.share:
            v = _shares(channels(x, least=0.0)).clamp(max=self.full_scale)
        else:
            v = channels(x, least=0.0, most=self.full_scale)
        expected = v * (self.peak_rate_hz * self.dt_seconds / self.full_scale)
        return expected if self.law == "bernoulli" else -torch.expm1(-expected)

    def _trains(self, x: Tensor, samples: list[int], lengths: list[int]) -> Iterator[Tensor]:
        probabilities = self.probabilities(x).cpu().numpy().astype(np.float32)
        active = [np.flatnonzero(p) for p in probabilities]
        sources = [np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, n]))) for n in samples]

        def drawn() -> Iterator[Tensor]:
            for length in lengths:
                spikes = np.zeros((len(samples), length, probabilities.shape[1]), dtype=bool)
                for row, source in enumerate(sources):
                    at = active[row]
                    # steps first: a sample's numbers are used up in the order of time, however it is cut
                    spikes[row][:, at] = source.random((length, len(at)), dtype=np.float32) < probabilities[row, at]
                yield torch.from_numpy(spikes).to(x.device)

        return drawn()


def _shares(rows: Tensor) -> Tensor:
    total = rows.sum(1, keepdim=True)
    return rows / torch.where(total > 0, total, math.inf)
