"""Converters: before the clamped input, and behind the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_flags, require_number, require_whole
from hardware._printed import Printed
from hardware._streams import Streams

_MOST_BITS = 24  # what float32 can hold


def quantised(s: Tensor, low: float | Tensor, high: float | Tensor, bits: int, add: Tensor | float = 0.0) -> Tensor:
    """``s`` on ``2^bits`` equally spaced values from ``low`` to ``high``, clipped; ``add`` (steps) before rounding."""
    step = (high - low) / ((1 << bits) - 1)
    return ((s - low) / step + add).round_().clamp_(0, (1 << bits) - 1) * step + low


def require_within(got: str, values: Tensor, low: float, high: float, whose: str, settings: str) -> None:
    """Raises DataError for values outside the range of a converter; looked at on the CPU, where that costs no wait."""
    if values.device.type != "cpu" or not values.numel():
        return
    least, most = (float(v) for v in torch.aminmax(values.detach()))
    slack = 1e-6 * (high - low)
    if least < low - slack or most > high + slack:
        raise DataError(
            f"{got} from {least:.6g} to {most:.6g}, needed {low:g} to {high:g}, the range of {whose}; write "
            f"{settings}(low={least:.3g}, high={most:.3g})"
        )


@dataclass(frozen=True, repr=False)
class InputDac(Printed):
    """The converter that makes the clamped input: ``2^bits`` levels from ``low`` to ``high``.

    Rules know the codes, and take the level for the input; ``noise_std`` they do not know.

    Attributes:
        bits: 1 to 24, or None for a continuous input.
        low, high: range; inputs outside are refused (on the CPU, where that costs no wait), not clipped.
        noise_std: of the analog value, in units of the input; drawn once a sample, the same in all its phases.
    """

    bits: int | None = 8
    low: float = 0.0
    high: float = 1.0
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if self.bits is not None:
            _require_bits("InputDac.bits", self.bits)
        require_number("InputDac.low", self.low)
        require_number("InputDac.high", self.high, above=self.low)
        require_number("InputDac.noise_std", self.noise_std, least=0.0)

    def convert(self, x: Tensor) -> Tensor:
        """The levels, in the shape of ``x``.

        Raises:
            DataError: inputs outside the range.
        """
        require_within("input: got values", x, self.low, self.high, "the input converter", "InputDac")
        return x if self.bits is None else quantised(x, self.low, self.high, self.bits)


@dataclass(frozen=True, repr=False)
class OutputAdc(Printed):
    """The converters behind the layers, through which a rule reads equilibria.

    A step is ``lsb = (high - low) / (2^bits - 1)``; without noise the error is at most ``lsb / 2`` within the range,
    and what is outside is clipped, with a warning (once a layer, on the CPU, where looking costs no wait) where that
    is over a twentieth of what is read in a range that was not found for each sample. Noise and dither are drawn for
    every conversion. Complex states (of holomorphic contours, which no machine has) are converted by their parts.

    Every unit has a converter of its own, and what is wrong with it is drawn once a chip: it errs alike in all phases.
    Its transfer curve bends away from the line through its ends by an integral non-linearity of up to ``inl_lsb``,

        inl(u) = inl_lsb (a + b u) (1 - u^2) / max |(a + b u) (1 - u^2)|,   u = -1 .. 1 over the range,  a, b ~ N(0, 1)

    and its comparator shifts it by an offset. With either the error is at most ``1/2 + inl_lsb + |offset|`` steps
    (within the range). Both are in steps of the range in use: with ``differential`` the small one of differences, so
    that curve and offset move the nudged phases alike, against the free one: a centred contrast loses the offset and
    the even part of the curve, a one-sided one keeps both.

    Attributes:
        bits: 1 to 24; one for all layers that move, or one each.
        low, high: range of all layers; None for that of the layer's activation. With ``autorange`` they decide only
            whether the range found has a negative half: it has where ``low < 0``.
        noise_lsb: standard deviation of the noise before rounding, in steps.
        dither: add a uniform number of -1/2 to 1/2 step before rounding (stochastic rounding): no bias, more noise.
        reads: conversions that are averaged, which noise or dither makes differ: refused without either.
        autorange: the range of each sample and layer is that of its free equilibrium, up to the next power of two.
        differential: nudged phases are read as differences to the free phase, which a capacitor keeps: ``seen_0 +
            Q(s - s_0)``, from ``-difference_range`` to ``difference_range``; with ``autorange``, up to the next power
            of two above the greatest difference in the sample's layer.
        difference_range: largest difference, in units of the state; None with ``autorange``.
        inl_lsb: largest integral non-linearity of every converter, in steps.
        offset_lsb: standard deviation of the comparators' offsets, in steps.
    """

    bits: int | tuple[int, ...] = 8
    low: float | None = None
    high: float | None = None
    noise_lsb: float = 0.0
    dither: bool = False
    reads: int = 1
    autorange: bool = False
    differential: bool = False
    difference_range: float | None = None
    inl_lsb: float = 0.0
    offset_lsb: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.bits, list | tuple):
            object.__setattr__(self, "bits", tuple(self.bits))
        if self.bits == ():
            raise ConfigError("OutputAdc.bits: got (), needed a number, or one for each layer; write bits=8")
        require_flags(self, "dither", "autorange", "differential")
        for bits in self.bits if isinstance(self.bits, tuple) else (self.bits,):
            _require_bits("OutputAdc.bits", bits)
        if (self.low is None) != (self.high is None):
            raise ConfigError(f"OutputAdc: got low={self.low!r} and high={self.high!r}, needed both or neither")
        if self.low is not None and self.high is not None:
            require_number("OutputAdc.low", self.low)
            require_number("OutputAdc.high", self.high, above=self.low)
        for name in ("noise_lsb", "inl_lsb", "offset_lsb"):
            require_number(f"OutputAdc.{name}", getattr(self, name), least=0.0)
        least = min(self.bits) if isinstance(self.bits, tuple) else self.bits
        require_number("OutputAdc.inl_lsb", self.inl_lsb, most=0.5 * ((1 << least) - 1))  # half the range
        require_whole("OutputAdc.reads", self.reads, 1)
        if self.reads > 1 and not self.dither and self.noise_lsb == 0.0:
            raise ConfigError(
                f"OutputAdc: got reads={self.reads} without noise or dither, all of which would be alike, needed "
                "conversions that differ; write dither=True, noise_lsb=0.5, or reads=1"
            )
        if self.difference_range is not None:
            require_number("OutputAdc.difference_range", self.difference_range, above=0.0)
        if self.difference_range is not None and (self.autorange or not self.differential):
            raise ConfigError(
                f"OutputAdc: got difference_range={self.difference_range!r}, which nothing reads with differential="
                f"{self.differential} and autorange={self.autorange}; write differential=True and autorange=False, or "
                "difference_range=None"
            )
        if self.differential and not self.autorange and self.difference_range is None:
            raise ConfigError(
                "OutputAdc: got differential=True without a range, needed one; write difference_range=0.05 (in units "
                "of the state), or autorange=True"
            )

    def layers(
        self, names: tuple[str, ...], bounds: tuple[tuple[float, float] | None, ...]
    ) -> tuple[tuple[int, tuple[float, float] | None], ...]:
        """Bits and range of each layer; the range is None where it is found for each sample.

        Raises:
            ConfigError: another number of bits than of layers, or a layer without bounds and without a range.
        """
        bits = self.bits if isinstance(self.bits, tuple) else (self.bits,) * len(names)
        if len(bits) != len(names):
            raise ConfigError(f"OutputAdc.bits: got {len(bits)}, needed 1 or {len(names)}, one for each of {names}")
        made: list[tuple[int, tuple[float, float] | None]] = []
        for name, n, own in zip(names, bits, bounds, strict=True):
            given = own if self.low is None or self.high is None else (self.low, self.high)
            if given is None and not self.autorange:
                raise ConfigError(
                    f"OutputAdc: layer {name!r} has an activation without bounds, needed a range for its converter; "
                    "write OutputAdc(low=-1.0, high=1.0), or autorange=True"
                )
            made.append((n, given))
        return tuple(made)

    def transfer(self, name: str, shape: Sequence[int], streams: Streams, like: Tensor) -> Transfer | None:
        """What is wrong with the converters of a layer; None where nothing is."""
        if not self.inl_lsb and not self.offset_lsb:
            return None
        even, odd, offset = (
            std * streams.normal(f"adc.{what}/{name}", (), shape, like) if std else like.new_zeros(tuple(shape))
            for what, std in (("even", self.inl_lsb), ("odd", self.inl_lsb), ("offset", self.offset_lsb))
        )
        if self.inl_lsb:
            # the extremes are at b - 2 a u - 3 b u^2 = 0, the larger where a and b u have one sign
            root = even + torch.copysign((even * even + 3 * odd * odd).sqrt(), even)
            scale = self.inl_lsb / _cubic(even, odd, odd / root).abs()
            even, odd = even * scale, odd * scale
        return Transfer(even, odd, offset)

    def read(
        self,
        s: Tensor,
        low: float | Tensor,
        high: float | Tensor,
        bits: int,
        streams: Streams,
        at: Read,
        transfer: Transfer | None = None,
    ) -> Tensor:
        """``s [rows, *shape]`` as read."""
        wrong: Tensor | float = 0.0 if transfer is None else transfer.error_lsb(s, low, high)
        if not self.dither and self.noise_lsb == 0.0:
            return quantised(s, low, high, bits, wrong)
        total: Tensor | None = None
        for n in range(self.reads):
            add: Tensor | float = wrong
            if self.dither:
                add = add + streams.sample_uniform(f"{at.source}.dither", (*at.counters, n), at.keys, s) - 0.5
            if self.noise_lsb:
                add = add + self.noise_lsb * streams.sample_normal(f"{at.source}.noise", (*at.counters, n), at.keys, s)
            seen = quantised(s, low, high, bits, add)
            total = seen if total is None else total.add_(seen)
        return s if total is None else total.div_(self.reads)


class Transfer(NamedTuple):
    """How the converters of a layer deviate from a straight line, in steps; ``[*shape]`` each."""

    even: Tensor
    odd: Tensor
    offset: Tensor

    def error_lsb(self, s: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
        """Deviation at ``s [rows, *shape]``."""
        u = ((s - low) * (2.0 / (high - low)) - 1.0).clamp_(-1.0, 1.0)
        return _cubic(self.even, self.odd, u).add_(self.offset)


def _cubic(even: Tensor, odd: Tensor, u: Tensor) -> Tensor:
    return (even + odd * u) * (1.0 - u * u)


@dataclass(frozen=True)
class Read:
    """Which conversion it is: its source, the counters of its moment, and a key a row."""

    source: str
    counters: tuple[int, ...]
    keys: Tensor


def power_of_two_above(s: Tensor) -> Tensor:
    """The least power of two that is at least ``max |s|`` of a row, ``[rows, 1, ...]``: a gain that can be switched."""
    most = s.abs().flatten(1).amax(1).clamp(min=2.0**-60)
    return torch.exp2(most.log2().ceil()).reshape(-1, *[1] * (s.dim() - 1))


def _require_bits(name: str, bits: object) -> None:
    require_whole(name, bits, 1)
    require_number(name, bits, most=_MOST_BITS)
