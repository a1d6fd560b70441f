"""Encoders: from values to spike trains or currents, a chunk of time at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from hardware._json import to_spec
from hardware._printed import Printed

Samples = int | Sequence[int] | Tensor


@dataclass(frozen=True, repr=False, kw_only=True)
class Encoder(Printed, ABC):
    """What every encoder shares: a number of time steps, and the same trains however they are cut.

    Trains are ``[batch, time, channels]``, on the device of the input. What is drawn for a sample depends on the seed
    and the sample's number only: neither on the batch it is in nor on the length of a chunk.

    Attributes:
        steps: time steps of a sample.
        dt_seconds: length of a step.
    """

    steps: int = 250
    dt_seconds: float = 1e-3

    def __post_init__(self) -> None:
        require_whole(f"{type(self).__name__}.steps", self.steps, 1)
        require_number(f"{type(self).__name__}.dt_seconds", self.dt_seconds, above=0.0)

    @abstractmethod
    def _trains(self, x: Tensor, samples: list[int], lengths: list[int]) -> Iterator[Tensor]:
        """Consecutive pieces of the trains, of those numbers of steps."""

    def chunks(self, x: Tensor, samples: Samples = 0, *, chunk_steps: int | None = None) -> Iterator[Tensor]:
        """The trains of a batch, ``[batch, chunk_steps, channels]`` at a time, the last chunk perhaps shorter.

        Args:
            x: ``[batch, ...]``, finite floats; all but the first dimension are flattened into channels.
            samples: number of the first sample in its data set, or one number for each; it says what is drawn.
            chunk_steps: steps in a chunk; None for all at once.

        Raises:
            DataError: an input of another kind, shape or range, or as many numbers as there are not samples.
            ConfigError: ``chunk_steps`` below 1.
        """
        chunk = self.steps if chunk_steps is None else chunk_steps
        require_whole("chunk_steps", chunk, 1)
        numbers = sample_numbers(samples, len(x))
        lengths = [min(chunk, self.steps - start) for start in range(0, self.steps, chunk)]
        return self._trains(x, numbers, lengths)

    def encode(self, x: Tensor, samples: Samples = 0) -> Tensor:
        """The whole trains, ``[batch, steps, channels]``; the arguments are those of ``chunks``."""
        return next(self.chunks(x, samples))

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description for records; ``encoder_from_spec`` reads it."""
        described: dict[str, Any] = to_spec(self)
        return described


@dataclass(frozen=True, repr=False, kw_only=True)
class CurrentEncoder(Encoder):
    """Constant current injection: ``I(t) = gain x + offset``, float, in the units of the liquid's currents.

    The pieces are views of one row of currents: a train costs no memory.
    """

    gain: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("CurrentEncoder.gain", self.gain)
        require_number("CurrentEncoder.offset", self.offset)

    def _trains(self, x: Tensor, samples: list[int], lengths: list[int]) -> Iterator[Tensor]:
        current = (self.gain * channels(x) + self.offset)[:, None, :]
        return (current.expand(-1, length, -1) for length in lengths)


@dataclass(frozen=True, repr=False, kw_only=True)
class LatencyEncoder(Encoder):
    """One spike a channel, the earlier the larger the input; inputs up to ``threshold`` never spike.

    With the law ``"linear"`` the input 1 spikes in step 0 and the threshold in the last:
    ``t = (1 - x) / (1 - threshold) (steps - 1)``, rounded. With ``"logarithmic"`` it is the first passage of a leaky
    integrator of a constant current, ``t = tau ln(x / (x - threshold))``, in steps rounded down; what would come after
    the last step does not spike.

    Attributes:
        threshold: 0 or more, below 1; above 0 for the logarithmic law.
        tau_seconds: of the logarithmic law.
    """

    law: str = "linear"
    threshold: float = 0.0
    tau_seconds: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("LatencyEncoder.law", self.law, dict.fromkeys(("linear", "logarithmic")))
        require_number("LatencyEncoder.tau_seconds", self.tau_seconds, above=0.0)
        require_number("LatencyEncoder.threshold", self.threshold, least=0.0)
        if self.threshold >= 1 or (self.law == "logarithmic" and self.threshold == 0):
            raise ConfigError(
                f"LatencyEncoder.threshold: got {self.threshold:g} with the law {self.law!r}, needed a number below 1, "
                "and above 0 for the logarithmic law (at 0 every input spikes at once); write threshold=0.1"
            )

    def spike_steps(self, x: Tensor) -> Tensor:
        """The step in which each channel spikes, ``[batch, channels]``, int64; ``steps`` where it never does."""
        rows = channels(x, least=0.0, most=1.0)
        if self.law == "linear":
            step = ((1.0 - rows) / (1.0 - self.threshold) * (self.steps - 1)).round()
        else:
            # double precision: the difference of nearly equal numbers decides late spikes
            above = rows.double()
            step = (self.tau_seconds / self.dt_seconds * torch.log(above / (above - self.threshold))).floor()
        step = torch.where(rows > self.threshold, step, float(self.steps))
        return step.clamp_(max=self.steps).long()

    def _trains(self, x: Tensor, samples: list[int], lengths: list[int]) -> Iterator[Tensor]:
        at = self.spike_steps(x)[:, None, :]
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        times = torch.arange(self.steps, device=x.device)[None, :, None]
        return (times[:, s : s + length] == at for s, length in zip(starts, lengths, strict=True))


def channels(x: Tensor, *, least: float | None = None, most: float | None = None) -> Tensor:
    """``[batch, channels]`` of a batch of values.

    Raises:
        DataError: no floating-point tensor with a batch, values that are not finite, or outside the range.
    """
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.dim() < 2:
        got = f"{x.dtype} of shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            f"input: got {got}, needed floats [batch, channels]; for bytes write split.inputs() or x / 255.0"
        )
    rows = x.flatten(1)
    if not rows.numel():
        raise DataError(f"input: got shape {list(x.shape)}, needed at least one sample and one channel")
    low, high = (float(v) for v in torch.aminmax(rows))
    if not (abs(low) < torch.inf and abs(high) < torch.inf):  # NaN is both the least and the greatest
        bad = int((~rows.isfinite()).any(1).nonzero()[0])
        raise DataError(f"input: got NaN or infinite values, the first in row {bad} of the batch, needed finite ones")
    if (least is not None and low < least) or (most is not None and high > most):
        needed = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
        raise DataError(f"input: got values from {low:.6g} to {high:.6g}, needed {needed}; rescale the input")
    return rows


def sample_numbers(samples: Samples, batch: int) -> list[int]:
    """One number a sample: those given, or ``samples, samples + 1, ...``.

    Raises:
        DataError: another number of them, or a negative one.
    """
    if isinstance(samples, Tensor):
        samples = samples.tolist()
    numbers = [int(n) for n in samples] if isinstance(samples, Sequence) else list(range(samples, samples + batch))
    if len(numbers) != batch or min(numbers, default=0) < 0:
        raise DataError(
            f"samples: got {len(numbers)} numbers from {min(numbers, default=0)} on for a batch of {batch}, needed "
            "one a sample, 0 or more; write the number of the first sample, or of each"
        )
    return numbers
