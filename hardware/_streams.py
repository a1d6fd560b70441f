"""When a disturbance is drawn, and from which stream: random numbers by counter, not by history.

A draw is a function of the chip's seed, the name of its source and the counters of its scope. No draw moves a state
that another would see: sources do not disturb each other, and a chip does not remember what it was asked before.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop._counter_noise import normal_of, row_keys, signed, uniform_of
from eqprop._errors import ConfigError
from eqprop._names import lookup

#: Times on which a disturbance is frozen, the longest first.
SCOPES = ("chip", "write", "sample", "phase", "step", "read")

_WORD = (1 << 64) - 1


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
        try:
            self.seed = -1 if isinstance(seed, bool) else operator.index(seed)
        except TypeError:
            self.seed = -1
        if self.seed < 0:
            raise ConfigError(f"seed: got {seed!r}, needed a whole number from 0 on; one seed is one chip")
        self.drawn: Counter[str] = Counter()
        self._fast = np.random.SFC64(0)  # whose state every draw sets

    def key(self, source: str, *counters: int) -> int:
        """64 bits that stand for the source at that moment."""
        return int.from_bytes(self._digest(source, counters, 8), "little")

    def _digest(self, source: str, counters: Sequence[int], size: int) -> bytes:
        text = "/".join([str(self.seed), source, *map(str, counters)])
        return hashlib.blake2b(text.encode(), digest_size=size).digest()

    def generator(self, source: str, *counters: int) -> torch.Generator:
        """A CPU generator at the start of the stream of that moment."""
        self.drawn[source] += 1
        return torch.Generator().manual_seed(self.key(source, *counters) & (_WORD >> 1))

    def normal(self, source: str, counters: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers of an array, with the dtype and on the device of ``like``."""
        return torch.randn(tuple(shape), generator=self.generator(source, *counters), dtype=torch.float32).to(like)

    def uniform(self, source: str, counters: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) of an array, as ``normal``."""
        self.drawn[source] += 1
        size = math.prod(shape)
        words = np.frombuffer(self._digest(source, counters, 24), dtype="<u8")
        state = {"state": np.append(words, np.uint64(1))}  # a digest needs no seeding, which takes as long as a draw
        fast: Any = self._fast
        fast.state = {"bit_generator": "SFC64", "state": state, "has_uint32": 0, "uinteger": 0}
        bits = torch.from_numpy(self._fast.random_raw((size + 1) // 2).view(np.int32)[:size])
        return bits.bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24).view(tuple(shape)).to(like)

    def sample_normal(self, source: str, counters: Sequence[int], keys: Tensor, like: Tensor) -> Tensor:
        """Standard normal numbers in the shape of ``like [batch, ...]``, from a key a row.

        Args:
            keys: ``[batch]``, int64.
        """
        return normal_of(self._rows(source, counters, keys), like)

    def sample_uniform(self, source: str, counters: Sequence[int], keys: Tensor, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), as ``sample_normal``."""
        return uniform_of(self._rows(source, counters, keys), like)

    def _rows(self, source: str, counters: Sequence[int], keys: Tensor) -> Tensor:
        self.drawn[source] += 1
        return row_keys(keys, signed(self.key(source, *counters)))
