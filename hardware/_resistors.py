"""Banks of resistors between two layers of nodes: currents, pseudo-power and its derivatives, as matrix products.

A bank joins every node ``i`` of its tail to every node ``j`` of its head by a conductance ``g[j, i]`` (siemens). With
voltages ``p [batch, tails]`` and ``q [batch, heads]`` its pseudo-power and that one's derivative are

    E = 1/2 sum_ij g[j, i] (p_i - q_j)^2          dE/dg[j, i] = 1/2 (p_i - q_j)^2

Squares are expanded, so that nothing is ever of the shape ``[batch, heads, tails]``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def power(g: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """``E`` a sample, watts, ``[batch]``."""
    own = (p * p) @ g.sum(0) + (q * q) @ g.sum(1)
    return 0.5 * own - (q * (p @ g.mT)).sum(-1)


def power_gradient(p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    """``sum_b w_b dE_b/dg``, ``[heads, tails]``, with weights ``w [batch]``."""
    cross = torch.mm((q * weight[:, None]).mT, p).neg_()
    return cross.add_(0.5 * (weight @ (p * p))).add_(0.5 * (weight @ (q * q))[:, None])


def current_gradient(p: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """``sum_b (p_i - q_j)_b d_bj``, ``[heads, tails]``: the derivative by ``g`` of what flows into the heads along
    ``d``."""
    return torch.mm(d.mT, p).sub_((q * d).sum(0)[:, None])


def signed(g: Tensor, signs: tuple[float, ...]) -> Tensor:
    """``sum_s s g_s [heads, tails / len(signs)]``: what a bank of sources ``s x`` is worth to ``x`` alone."""
    parts = g.chunk(len(signs), dim=1)
    total = parts[0] if signs[0] == 1.0 else signs[0] * parts[0]
    for sign, part in zip(signs[1:], parts[1:], strict=True):
        total = torch.add(total, part, alpha=sign)
    return total


def source_power_gradient(x: Tensor, signs: tuple[float, ...], q: Tensor, own: Tensor, weight: Tensor) -> Tensor:
    """``sum_b w_b dE_b/dg`` of a bank whose tails are ideal sources ``s x`` for every sign ``s``, ``[heads, tails]``.

    Args:
        x: source voltages ``[batch, sources]``, the same in all phases.
        signs: of the copies of ``x``.
        q: ``sum_k w_k q_k`` over the phases, ``[batch, heads]``.
        own: ``sum_kb w_kb q_kb^2``, ``[heads]``.
        weight: ``sum_k w_k``, ``[batch]``.
    """
    cross = torch.mm(q.mT, x)
    rest = (0.5 * (weight @ (x * x)))[None] + 0.5 * own[:, None]
    return torch.cat([torch.sub(rest, cross, alpha=sign) for sign in signs], 1)


def source_current_gradient(x: Tensor, signs: tuple[float, ...], q: Tensor, d: Tensor) -> Tensor:
    """``current_gradient`` of a bank whose tails are ideal sources ``s x``."""
    cross, own = torch.mm(d.mT, x), (q * d).sum(0)[:, None]
    return torch.cat([torch.sub(sign * cross, own) for sign in signs], 1)
