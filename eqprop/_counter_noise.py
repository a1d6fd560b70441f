"""Random numbers by counter, not by history: a number is a function of its key, wherever and whenever it is computed.

64 bits a number from the finaliser of splitmix64 (Steele, Lea & Flood 2014), on the device where the data lie.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(word: int) -> int:
    """64 bits as the int64 of the same bits."""
    return word - (1 << 64) if word >> 63 else word


def scrambled(z: Tensor) -> Tensor:
    """Mixes the bits of int64 numbers, one to one, in their place; products of int64 wrap."""
    shifted = torch.empty_like(z)
    for n, factor in ((30, _FIRST), (27, _SECOND), (31, None)):
        # a shift of int64 keeps the sign
        z ^= torch.bitwise_right_shift(z, n, out=shifted).bitwise_and_((1 << (64 - n)) - 1)
        if factor is not None:
            z *= signed(factor)
    return z


def row_keys(numbers: Tensor, key: int | Tensor) -> Tensor:
    """A key a row, ``[rows]``, of its number and of what all rows share."""
    return scrambled(numbers * signed(GOLDEN) + key)


def normal_of(rows: Tensor, like: Tensor) -> Tensor:
    """Standard normal numbers in the shape of ``like [..., units]``, from a key a row.

    Args:
        rows: int64 ``[rows]``, from ``row_keys``; the leading dimensions of ``like`` hold so many rows.
    """
    units = like.numel() // max(len(rows), 1)
    words = _bits(rows, (units + 1) // 2).view(torch.int32)
    numbers = words.to(torch.float32)
    _normal(*numbers.chunk(2, -1))
    return numbers[:, :units].reshape(like.shape).to(like.dtype)


def normal_pairs_of(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers a key, float32 in the shape of the keys (from ``row_keys``)."""
    return _normal(*(w.to(torch.float32) for w in keys.view(torch.int32).unflatten(-1, (-1, 2)).unbind(-1)))


def _normal(length: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers from two signed words of 32 random bits, float32, in their place.

    Source: Box & Muller 1958.
    """
    # the sign of the one is not needed, the other is an angle from -pi to pi
    radius = length.abs().add_(0.5).mul_(2.0**-31).log_().mul_(-2.0).sqrt_()
    torch.cos(angle.mul_(2.0**-31 * math.pi), out=length).mul_(radius)
    return length, angle.sin_().mul_(radius)


def uniform_of(rows: Tensor, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), as ``normal_of``."""
    u = _bits(rows, like.numel() // max(len(rows), 1)) >> 32
    u = (u & 0xFFFFFFFF).to(torch.float32).mul_(2.0**-32)
    return u.clamp_(max=1.0 - 2.0**-24).reshape(like.shape).to(like.dtype)


def _bits(rows: Tensor, units: int) -> Tensor:
    """64 random bits a unit, ``[rows, units]``."""
    return scrambled(rows[:, None] + torch.arange(1, units + 1, device=rows.device) * signed(GOLDEN))
