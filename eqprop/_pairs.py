"""Complex numbers as stacked real pairs: the first half of the batch holds real parts, the second imaginary ones.

Real weights then act on both halves in one product, several times faster than native complex tensors; only activations
and costs need complex arithmetic, which is here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def halves(stacked: Tensor) -> Pair:
    """Real and imaginary part, views ``[batch, ...]`` of ``[2 * batch, ...]``."""
    n = len(stacked) // 2
    return stacked[:n], stacked[n:]


def times(a: Pair, b: Pair) -> Pair:
    """The complex product."""
    return torch.addcmul(a[0] * b[0], a[1], b[1], value=-1), torch.addcmul(a[0] * b[1], a[1], b[0])


def logistic(a: Tensor, b: Tensor) -> Pair:
    """``1 / (1 + exp(-(a + i b)))``; has poles at ``a = 0, b = pi (2 k + 1)``.

    ``1 + exp(-a)(cos b - i sin b)`` is inverted by its modulus; ``a`` is cut where the result is below rounding and the
    square of the exponential would overflow.
    """
    e = a.clamp(min=-0.45 * math.log(torch.finfo(a.dtype).max)).neg_().exp_()
    re = (e * b.cos()).add_(1)
    im = e.mul_(b.sin())
    scale = torch.addcmul(re * re, im, im).reciprocal_()
    return re.mul_(scale), im.mul_(scale)


def sigmoid(z: Tensor) -> Tensor:
    """``logistic(4 z - 2)`` of a stacked pair."""
    a, b = halves(4 * z)
    return torch.cat(logistic(a - 2, b))


def tanh(z: Tensor) -> Tensor:
    """``tanh(z) = 2 logistic(2 z) - 1`` of a stacked pair."""
    a, b = halves(2 * z)
    re, im = logistic(a, b)
    return torch.cat([re.mul_(2).sub_(1), im.mul_(2)])


def dsilu(z: Tensor) -> Tensor:
    """``z p(z) / 2 + (1 - z / 2) p(z - 2)`` of a stacked pair, ``p`` the logistic function."""
    a, b = halves(z)
    first = times((0.5 * a, 0.5 * b), logistic(a, b))
    second = times((1 - 0.5 * a, -0.5 * b), logistic(a - 2, b))
    return torch.cat([first[0] + second[0], first[1] + second[1]])


def softmax(a: Tensor, b: Tensor) -> Pair:
    """``exp(z_i) / sum_j exp(z_j)`` over the last dimension of ``a + i b``; has poles where the sum vanishes."""
    e = torch.exp(a - a.amax(-1, keepdim=True))
    re, im = e * b.cos(), e * b.sin()
    sum_re, sum_im = re.sum(-1, keepdim=True), im.sum(-1, keepdim=True)
    scale = 1 / (sum_re * sum_re + sum_im * sum_im)
    return times((re, im), (sum_re * scale, -sum_im * scale))
