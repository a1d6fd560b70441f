"""The part of a joint batch that one of several processes works on, and random draws that do not depend on the parts.

Training in ``N`` processes, each takes consecutive samples of every joint batch, and the mean of the gradients,
weighted by counted samples, is that of the joint batch. That holds for a rule whose gradient is a mean over samples. It
also holds for one that draws something a sample, if every process draws for the joint batch and keeps its own rows
(``drawn``): the generators of all processes then stay in step, and the numbers are those of one process. The price is
that every process draws all of them, ``N`` times what its own part needs, on the CPU.

``rule.backward`` knows nothing of this: around it the trainer says which part the batch is (``sharing``), and only
``drawn`` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError


class Share(NamedTuple):
    """Samples ``start`` to ``stop`` of a joint batch of ``total``.

    A process without a sample of a small batch borrows one (``counts`` is False): it goes through the same motions as
    the others, so that draws and counters stay in step, and what it finds weighs nothing.
    """

    start: int
    stop: int
    total: int
    counts: bool = True

    @classmethod
    def of(cls, rank: int, size: int, total: int) -> Share:
        """The part of process ``rank`` among ``size``: parts differ by one sample at most, and keep their order."""
        start, stop = total * rank // size, total * (rank + 1) // size
        return cls(start, stop, total) if stop > start else cls(0, 1, total, counts=False)

    @property
    def rows(self) -> slice:
        """Of the joint batch."""
        return slice(self.start, self.stop)

    @property
    def samples(self) -> int:
        """How many count."""
        return self.stop - self.start if self.counts else 0


_CURRENT: ContextVar[Share | None] = ContextVar("eqprop_share", default=None)


@contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Within it, draws are those of the joint batch that ``share`` is a part of."""
    token = _CURRENT.set(share)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def drawn(make: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...], copies: int = 1) -> Tensor:
    """A random tensor with a row a sample, the same whatever process holds the sample.

    Args:
        make: draws a tensor of the shape it is given, as ``lambda shape: torch.randn(shape, generator=generator)``.
        shape: wanted, ``[copies * batch, ...]``, one copy of the batch after another.
        copies: draws a sample.

    Returns:
        ``make(shape)``; in one of several processes, its rows of what one process would have drawn.

    Raises:
        ConfigError: the rows are not those of the process's share, as when a rule cuts the batch up further.
    """
    share = _CURRENT.get()
    if share is None:
        return make(shape)
    own = share.stop - share.start
    if shape[0] != copies * own:
        raise ConfigError(
            f"drawn: got {shape[0]} rows in {copies} copies, needed {copies} of the {own} samples that this process "
            "has of the joint batch; draw once for the whole batch, or train in one process"
        )
    joint = make((copies * share.total, *shape[1:]))
    return joint.unflatten(0, (copies, share.total))[:, share.rows].reshape(shape)


def sample_numbers(rows: int, device: torch.device) -> Tensor:
    """A number for each row of a batch or of several copies of it, ``[rows]`` int64: that of its sample in the joint
    batch, whatever process holds it, and further ones for further copies."""
    share = _CURRENT.get()
    own, first = (rows, 0) if share is None else (share.stop - share.start, share.start)
    at = torch.arange(rows, device=device)
    return at % own + first + (at // own << 48)


def require_shareable(rule: Any, network: nn.Module) -> None:
    """Raises ``ConfigError`` where the gradient of a joint batch is not the mean of those of its parts.

    A rule, regulariser or module says so by an attribute ``by_share``: False, it is not; True, it is, also where it
    draws. One that says nothing and holds a ``torch.Generator`` is refused, for its draws may be another process's too.
    """
    for part in (rule, *getattr(rule, "regularisers", ()), *network.modules()):
        declared = getattr(part, "by_share", None)
        name = type(part).__name__
        if declared is False:
            raise ConfigError(
                f"{name}: its gradient of a batch is not the mean of those of the batch's parts, so that several "
                "processes cannot share a batch; train in one process, without torchrun"
            )
        held = getattr(part, "__dict__", {}).values()
        if declared is None and any(isinstance(value, torch.Generator) for value in held):
            raise ConfigError(
                f"{name}: it holds a torch.Generator, whose draws may depend on which samples a process has; draw what "
                "belongs to samples with eqprop.drawn(...) and write by_share = True in the class, or train in one "
                "process, without torchrun"
            )
