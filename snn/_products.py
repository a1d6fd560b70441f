"""Weights times spikes: dense, sparse in the weights, or by events; which is faster depends on both.

One thread of an AMD EPYC, 1,000 neurons with 1.7 % of the weights, batch 256, milliseconds a step in float32: dense 7,
sparse 0.4 to 0.7 at every rate of spikes; gathering the columns of spiking neurons 0.4 at 1 %, 0.7 at 3 % and 1.6 at
10 % of them. So recurrent weights are multiplied as a sparse matrix, which needs no spikes to be rare. Input weights
hold 15 %, where sparse gains a factor of two only, and events ten: 784 inputs of which 3 % spike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eqprop._names import lookup

#: ``W x`` for ``x [pre, batch]`` into ``out [post, batch]``.
Product = Callable[[Tensor, Tensor], Tensor]

#: How the recurrent weights may be multiplied.
RECURRENCE = ("auto", "dense", "sparse")
#: How the input weights may be multiplied.
INPUT = ("auto", "dense", "events")
#: Below this share of weights that are not 0 a sparse product is faster on a CPU, at batch 1 and at 256.
SPARSE_BELOW = 0.08
#: Below this share of inputs that spike, events are faster on a CPU.
EVENTS_BELOW = 0.1


def recurrent_product(weight: Tensor, how: str) -> Product:
    """The product with ``weight [post, pre]``, ready for many steps.

    ``"auto"`` is dense on an accelerator, where sparse products of this size are slower and spikes cannot be looked at,
    and sparse on a CPU below a share of ``SPARSE_BELOW``. It does not time anything: the same network gives the same
    numbers every time.
    """
    lookup("recurrence", how, dict.fromkeys(RECURRENCE))
    if how == "auto":
        how = "sparse" if weight.device.type == "cpu" and share(weight) < SPARSE_BELOW else "dense"
    if how == "dense":
        return lambda x, out: torch.mm(weight, x, out=out)
    rows = compressed(weight)
    return lambda x, out: torch.addmm(out, rows, x, beta=0.0, out=out)


def share(weight: Tensor) -> float:
    """Share of the weights that are not 0."""
    return float(weight.count_nonzero()) / max(weight.numel(), 1)


def compressed(weight: Tensor) -> Tensor:
    """``weight`` in compressed sparse rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return weight.to_sparse_csr()


def events_of(x: Tensor, how: str) -> Tensor | None:
    """Positions in the flattened ``x`` that are not 0, in order; None where a dense product is the better way.

    By itself that is on an accelerator, where looking at them would wait, and from a share of ``EVENTS_BELOW`` on.
    """
    lookup("input product", how, dict.fromkeys(INPUT))
    if how == "dense" or (how == "auto" and x.device.type != "cpu"):
        return None
    # of booleans numpy finds them several times faster than torch
    flat = torch.from_numpy(np.flatnonzero(x.contiguous().numpy()))
    return flat if how == "events" or len(flat) < EVENTS_BELOW * x.numel() else None


def events_product(columns: Tensor, rows: int, flat: Tensor, values: Tensor | None) -> Tensor:
    """``[rows, post]``: the sum of the columns of ``W`` that the events of each row choose.

    Args:
        columns: ``W^T [pre, post]``, contiguous.
        rows: of the input, steps times batch.
        flat: positions of events in ``[rows, pre]``, sorted.
        values: of the events; 1 where None.
    """
    inputs = columns.shape[0]
    row = torch.div(flat, inputs, rounding_mode="floor")
    starts = torch.searchsorted(row, torch.arange(rows))
    return torch.nn.functional.embedding_bag(
        flat - row * inputs, columns, starts, mode="sum", per_sample_weights=values
    )
