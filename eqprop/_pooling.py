"""Pooling over windows that do not overlap, closed form in every direction that a relaxation needs.

Average pooling is linear and needs nothing of this: a convolution followed by it is one strided convolution with a
larger kernel, see ``eqprop._convolution``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from eqprop._pairs import Pair, halves, times


class Pooled:
    """``y = P(u)`` at one ``u [batch, channels, H, W]``, with its derivatives there.

    Attributes:
        value: ``y [batch, channels, H / size, W / size]``.
    """

    value: Tensor

    def tangent(self, w: Tensor) -> Tensor:
        """``P'(u) w``, of the shape of ``y``."""
        raise NotImplementedError

    def transpose(self, b: Tensor) -> Tensor:
        """``P'(u)^T b``, of the shape of ``u``."""
        raise NotImplementedError

    def curvature(self, w: Tensor, b: Tensor) -> Tensor | None:
        """``(d P'(u)^T b / du) w``, of the shape of ``u``; None where it vanishes."""
        return None

    def repeat(self, times: int) -> Pooled:
        """The same for so many copies of the batch, one after another."""
        raise NotImplementedError


class MaxPooled(Pooled):
    """``y`` is the largest value of a window; of equals, the first, so that exactly one unit of a window is fed back.

    The derivative is that of the chosen unit: piecewise linear, so without curvature. Not holomorphic.
    """

    def __init__(self, u: Tensor, size: int) -> None:
        self.value, self._index = functional.max_pool2d(u, size, return_indices=True)
        self._u, self._size = u, size

    def tangent(self, w: Tensor) -> Tensor:
        return w.flatten(2).gather(2, self._index.flatten(2)).reshape(self._index.shape)

    def transpose(self, b: Tensor) -> Tensor:
        k = [self._size, self._size]
        gradient: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            b, self._u, k, k, [0, 0], [1, 1], False, self._index
        )
        return gradient

    def repeat(self, times: int) -> Pooled:
        copy = object.__new__(MaxPooled)
        copy.value, copy._index, copy._u = (t.repeat(times, 1, 1, 1) for t in (self.value, self._index, self._u))
        copy._size = self._size
        return copy


class SoftPooled(Pooled):
    """``y = sum_i p_i u_i`` over a window, ``p = softmax(u / T)``; ``dy/du_i = g_i = p_i (1 + (u_i - y) / T)``.

    Source: Laborieux & Zenke 2022, Sec. 4 (soft pooling, ``T = 1``); Stergiou et al. 2021.
    """

    def __init__(self, u: Tensor, size: int, temperature: float) -> None:
        self._size, self._t, self._like = size, temperature, u
        parts = windows(u, size)
        top = reduce(torch.maximum, parts).detach()  # cancels in p
        weights = [((part - top) / temperature if temperature != 1.0 else part - top).exp() for part in parts]
        scale = _total(weights).reciprocal()
        self._p = [w * scale for w in weights]
        self.value = _total([p * part for p, part in zip(self._p, parts, strict=True)])
        self._g: list[Tensor] | None = None
        self._parts = parts

    @property
    def _slopes(self) -> list[Tensor]:
        if self._g is None:
            self._g = [p * self._bracket(u) for p, u in zip(self._p, self._parts, strict=True)]
        return self._g

    def _bracket(self, u: Tensor) -> Tensor:
        return 1 + (u - self.value) / self._t

    def tangent(self, w: Tensor) -> Tensor:
        return _total([g * part for g, part in zip(self._slopes, windows(w, self._size), strict=True)])

    def transpose(self, b: Tensor) -> Tensor:
        return self._join([g * b for g in self._slopes])

    def curvature(self, w: Tensor, b: Tensor) -> Tensor:
        # dp_i = p_i (w_i - <w>_p) / T, dg_i = dp_i (1 + (u_i - y) / T) + p_i (w_i - dy) / T
        w_parts = windows(w, self._size)
        mean = _total([p * part for p, part in zip(self._p, w_parts, strict=True)])
        along = self.tangent(w)
        return self._join(
            [
                p * ((part - mean) * self._bracket(u) + part - along) / self._t * b
                for p, u, part in zip(self._p, self._parts, w_parts, strict=True)
            ]
        )

    def repeat(self, times: int) -> Pooled:
        copy = object.__new__(SoftPooled)
        copy._size, copy._t = self._size, self._t
        copy._like, copy.value = (t.repeat(times, 1, 1, 1) for t in (self._like, self.value))
        copy._p = [p.repeat(times, 1, 1, 1) for p in self._p]
        copy._parts, copy._g = windows(copy._like, self._size), None
        return copy

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        return join(parts, self._like, self._size)


class SoftPooledPair(Pooled):
    """``SoftPooled`` of a complex ``u`` as a stacked pair ``[2 * batch, ...]``; has poles where ``sum e^(u/T) = 0``."""

    def __init__(self, u: Tensor, size: int, temperature: float) -> None:
        self._size, self._t, self._like = size, temperature, u
        re, im = halves(u)
        self._parts: list[Pair] = list(zip(windows(re, size), windows(im, size), strict=True))
        top = reduce(torch.maximum, [a for a, _ in self._parts])
        weights: list[Pair] = []
        for a, b in self._parts:
            e = ((a - top) / temperature).exp_()
            angle = b / temperature
            weights.append((e * angle.cos(), e * angle.sin()))
        s = _total([w[0] for w in weights]), _total([w[1] for w in weights])
        scale = torch.addcmul(s[0] * s[0], s[1], s[1]).reciprocal_()
        inverse = s[0] * scale, s[1].neg() * scale
        self._p = [times(w, inverse) for w in weights]
        y = [times(p, part) for p, part in zip(self._p, self._parts, strict=True)]
        self._y: Pair = _total([v[0] for v in y]), _total([v[1] for v in y])
        self.value = torch.cat(self._y)
        self._g: list[Pair] | None = None

    def transpose(self, b: Tensor) -> Tensor:
        if self._g is None:
            self._g = [
                times(p, (1 + (u[0] - self._y[0]) / self._t, (u[1] - self._y[1]) / self._t))
                for p, u in zip(self._p, self._parts, strict=True)
            ]
        products = [times(g, halves(b)) for g in self._g]
        re, im = halves(self._like)
        return torch.cat(
            [join([v[0] for v in products], re, self._size), join([v[1] for v in products], im, self._size)]
        )


def windows(u: Tensor, size: int) -> list[Tensor]:
    """The ``size * size`` members of every window, each ``[..., H / size, W / size]``: views."""
    return [u[..., i::size, j::size] for i in range(size) for j in range(size)]


def join(parts: Sequence[Tensor], like: Tensor, size: int) -> Tensor:
    """Undoes ``windows``, in the layout of ``like``."""
    result = torch.empty_like(like)
    for n, part in enumerate(parts):
        result[..., n // size :: size, n % size :: size] = part
    return result


def _total(parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def pooling_function(name: str, size: int, temperature: float, paired: bool) -> Callable[[Tensor], Pooled]:
    """``u -> Pooled`` of ``"max"`` or ``"soft"``."""
    if name == "max":
        return lambda u: MaxPooled(u, size)
    if paired:
        return lambda u: SoftPooledPair(u, size, temperature)
    return lambda u: SoftPooled(u, size, temperature)
