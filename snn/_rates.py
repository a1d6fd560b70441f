"""What a liquid's spikes cost and carry: synaptic operations, and the balance of excitation and inhibition."""

from __future__ import annotations

import torch
from torch import Tensor

from eqprop._errors import DataError


def current_ratio(counts: Tensor, weights: Tensor) -> float:
    """Excitatory over inhibitory charge into the liquid: ``Σ n_j max(W_ij, 0) / Σ n_j max(-W_ij, 0)``.

    Every spike carries its weight, whatever the synapse's time course. Infinite without inhibition, NaN without spikes.

    Args:
        counts: spikes of the presynaptic neurons, ``[batch, pre]``.
        weights: ``[post, pre]``.

    Raises:
        DataError: shapes that do not match.
    """
    n, w = _matched(counts, weights)
    total = n.sum(0)
    return float((total @ w.clamp(min=0).sum(0)) / (total @ (-w).clamp(min=0).sum(0)))


def synaptic_operations(counts: Tensor, weights: Tensor) -> Tensor:
    """Synaptic operations of each sample, ``[batch]``: ``Σ_j n_j fanout_j``, additions that its spikes cause.

    The fan-out counts weights that are not zero: what event-driven hardware must do, NeuroBench's SynOps (Yik et al.
    2025) for binary spikes. Add the numbers of the input's and the recurrent weights.

    Args:
        counts: spikes of the presynaptic neurons, ``[batch, pre]``.
        weights: ``[post, pre]``.

    Raises:
        DataError: shapes that do not match.
    """
    n, w = _matched(counts, weights)
    return n @ (w != 0).sum(0).to(n.dtype)


def _counts(counts: Tensor) -> Tensor:
    if not isinstance(counts, Tensor) or counts.dim() != 2 or not counts.numel():
        got = f"shape {list(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
        raise DataError(f"counts: got {got}, needed a tensor [batch, neurons]; write spikes.sum(1) for a train")
    n = counts.double()
    if not bool((n >= 0).all()):  # NaN is no number of spikes either
        raise DataError("counts: got negative or NaN values, needed numbers of spikes")
    return n


def _matched(counts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    n = _counts(counts)
    if weights.dim() != 2 or weights.shape[1] != n.shape[1]:
        raise DataError(
            f"weights: got shape {list(weights.shape)} for counts of {n.shape[1]} neurons, needed "
            f"[post, {n.shape[1]}] (post, pre)"
        )
    if weights.is_sparse or weights.layout != torch.strided:
        weights = weights.to_dense()
    return n, weights.to(n)
