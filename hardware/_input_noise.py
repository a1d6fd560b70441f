"""Read noise of arrays whose inputs are clamped, on the signals that they make rather than on their cells.

A sum of many cells, each with Gaussian noise of its own in a read, is Gaussian: the input that unit ``i`` receives from
clamped inputs ``x`` has the variance ``sum_j sigma_ij^2 x_j^2``. Drawn a unit and sample, it costs a number a unit in
place of one a cell, and every sample has its own, as samples have that come one after another. A bound that cuts the
noise of a cell off moves its mean and takes from its variance: both are exact here too, and only the shape of the sum
is that of many small terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._connections import Connection, DenseConnection
from eqprop._network import Drive
from hardware._array import Array
from hardware._cell_array import CellArray
from hardware._moment import Kept, Moment
from hardware._scoped_draws import mixed
from hardware._streams import Streams


class Source(NamedTuple):
    """An array between the clamped input and a layer."""

    layer: int
    array: Array
    weight: Tensor


def leaves_noise_to_signals(layout: CellArray | None, connection: Connection) -> bool:
    """Whether a connection from the clamped input may have its read noise on the signals.

    Not where cells keep their noise over passes, where wires make the current of a cell another function of its
    conductance, and in convolutions, whose cells meet many parts of an image.
    """
    return (
        layout is not None
        and layout.input_noise == "signals"
        and layout.read_scope in ("sample", "phase")
        and layout.wire_ohms == 0.0
        and layout.resolved().reading is not None
        and isinstance(connection, DenseConnection)
    )


class InputNoise:
    """Adds the read noise of the input's arrays to a drive.

    Args:
        sources: whose read noise is left to the signals.
        streams, moment: of the chip.
    """

    def __init__(self, sources: Sequence[Source], streams: Streams, moment: Moment) -> None:
        self._sources, self._streams, self._moment = tuple(sources), streams, moment
        self._kept = Kept()
        for source in sources:
            for array in (source.array, source.array.twin):
                if array is not None:
                    array.noisy_inputs = True

    def drive(self, x: Tensor, keys: Tensor, mean: Callable[[], Drive]) -> Drive:
        """The drive of ``x [batch, ...]`` in this phase.

        Args:
            x: what the array sees.
            keys: of the samples, ``[batch]``.
            mean: makes the drive of the mean conductances; not called where they are those of the last phase.
        """
        if torch.is_grad_enabled():
            made = mean()
        else:
            acting = [s.array.effective(s.weight, back=False) for s in self._sources]
            made = self._kept("mean", (self._moment.passes, x, *acting), mean)
        terms = list(made.terms)
        for layer, array, _ in self._sources:
            terms[layer] = terms[layer] + self._noise(array, x, keys).reshape(len(x), *terms[layer].shape[1:])
        return made._replace(terms=tuple(terms))

    @torch.no_grad()
    def _noise(self, array: Array, x: Tensor, keys: Tensor) -> Tensor:
        """``[batch, heads]``."""
        parts = []
        for n, (variance, shares) in enumerate(array.input_variances()):
            std: Tensor = self._kept(f"std {array.key}.{n}", (x, variance), partial(_std, x, variance))
            source = f"read.signal/{array.now.key}"
            drawn = [(self._drawn(at, f"{source}.{at}", keys, std), share**0.5) for at, share in shares.items()]
            parts.append(std * mixed(drawn))
        return parts[0] if len(parts) == 1 else torch.add(*parts)

    def _drawn(self, scope: str, source: str, keys: Tensor, like: Tensor) -> Tensor:
        if scope == "phase":
            return self._streams.sample_normal(source, (self._moment.phase,), keys, like)
        shared = partial(self._streams.sample_normal, source, (), keys, like)
        held: Tensor = self._kept(source, (self._moment.passes, keys, like.dtype), shared)
        return held


def _std(x: Tensor, variance: Tensor) -> Tensor:
    """``[batch, heads]``."""
    flat = x.flatten(1)
    return torch.mm(flat * flat, variance.mT).sqrt_()
