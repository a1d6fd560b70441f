"""When a disturbance is drawn, and from which stream: random numbers by counter, not by history.

A draw is a function of the chip's seed, the name of its source and the counters of its scope. No draw moves a state
that another would see: sources do not disturb each other, and a chip does not remember what it was asked before.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup

#: Times on which a disturbance is frozen, the longest first.
SCOPES = ("chip", "write", "sample", "phase", "step", "read")

_WORD = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def require_scope(what: str, scope: str, allowed: Sequence[str] = SCOPES) -> None:
    """Raises ConfigError unless the scope is one of those allowed."""
    lookup(f"{what}: scope", scope, dict.fromkeys(allowed))


class Streams:
    """The random streams of one chip.

    Two kinds of draws:

    - of **arrays** (a number a cell, amplifier or converter): ``normal``, ``uniform`` and ``generator``, drawn on the
      CPU in float32 and moved, so that one seed gives one chip on every device, in every precision and for every batch
      size. Such a disturbance is one for all samples of a batch; the counters of its scope are those of the chip:
      nothing for ``chip``, the write of the array for ``write``, the pass for ``sample``, the pass and the number of
      the relaxation in it for ``phase``.
    - of **samples** (a number a unit and sample): ``sample_normal`` and ``sample_uniform``, computed where the data lie
      from a key a sample. The key is the running number of the sample over the chip's life, or what
      ``Chip.next_samples`` was given: so that the draw depends neither on the batch nor on the device (to rounding).

    Args:
        seed: of the chip, a whole number from 0 on.

    Attributes:
        drawn: number of draws by source, for tests and for the curious.
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"seed: got {seed!r}, needed a whole number from 0 on; one seed is one chip")
        self.seed = seed
        self.drawn: Counter[str] = Counter()

    def key(self, source: str, *counters: int) -> int:
        """64 bits that stand for the source at that moment."""
        text = "/".join([str(self.seed), source, *map(str, counters)])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def generator(self, source: str, *counters: int) -> torch.Generator:
        """A CPU generator at the start of the stream of that moment."""
        self.drawn[source] += 1
        return torch.Generator().manual_seed(self.key(source, *counters) & (_WORD >> 1))

    def normal(self, source: str, counters: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers of an array, with the dtype and on the device of ``like``."""
        return torch.randn(tuple(shape), generator=self.generator(source, *counters), dtype=torch.float32).to(like)

    def uniform(self, source: str, counters: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) of an array, as ``normal``."""
        return torch.rand(tuple(shape), generator=self.generator(source, *counters), dtype=torch.float32).to(like)

    def sample_normal(self, source: str, counters: Sequence[int], keys: Tensor, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of ``like [batch, ...]``, from a key a row.

        Args:
            keys: ``[batch]``, int64.
        """
        bits = self._bits(source, counters, keys, like)
        # two halves of 32 bits make one number (Box & Muller 1958)
        radius = (-2.0 * torch.log(_unit(bits >> 32, 0.5))).sqrt_()
        return radius.mul_(torch.cos(_unit(bits, 0.0).mul_(2.0 * math.pi))).reshape(like.shape).to(like.dtype)

    def sample_uniform(self, source: str, counters: Sequence[int], keys: Tensor, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), as ``sample_normal``."""
        u = _unit(self._bits(source, counters, keys, like) >> 32, 0.0)
        return u.clamp_(max=1.0 - 2.0**-24).reshape(like.shape).to(like.dtype)

    def _bits(self, source: str, counters: Sequence[int], keys: Tensor, like: Tensor) -> Tensor:
        """64 random bits a unit, ``[batch, units]``."""
        self.drawn[source] += 1
        rows = _scrambled(keys * _signed(_GOLDEN) + _signed(self.key(source, *counters)))
        units = torch.arange(1, math.prod(like.shape[1:]) + 1, device=keys.device)
        return _scrambled(rows[:, None] + units * _signed(_GOLDEN))


def _scrambled(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014); products of int64 wrap."""
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, n: int) -> Tensor:
    return (z >> n) & ((1 << (64 - n)) - 1)  # a shift of int64 keeps the sign


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _unit(bits: Tensor, offset: float) -> Tensor:
    """The low 32 bits as a number in [0, 1], float32."""
    return (bits & 0xFFFFFFFF).to(torch.float32).add_(offset).mul_(2.0**-32)
