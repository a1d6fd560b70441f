"""A stand-in for ``torch.cuda.CUDAGraph`` on the CPU: records the operations of a block, and plays them again.

As the real one it replays the same kernels on the same memory, and nothing of Python. What the real one would take
silently, or fail on, is an error here: a tensor that is neither a buffer of the block nor read in place, a value seen
by the host, a random draw, a write into what comes from outside. Between replays results are made worthless, as they
are where graphs share their memory: who keeps one without a copy gets NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from eqprop._blocks import Block
from eqprop._cuda_graphs import StaticBlock
from tests.helpers import no_host_sync


class Leak(RuntimeError):
    """What a replay would read, write or repeat wrongly: the world outside the block, as it was at the capture."""


class _Op(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: list[tuple[int, Tensor]]  # results in storage of their own, by their place among the results


class Tape(TorchDispatchMode):
    """The operations of a block, with the tensors that they took and gave."""

    def __init__(self, outside: list[Tensor]) -> None:
        super().__init__()
        self._outside = {_storage(t): t for t in outside}
        self._inside: set[int] = set()
        self._ops: list[_Op] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        for tensor in given:
            if _storage(tensor) not in self._inside and _storage(tensor) not in self._outside:
                raise Leak(f"{func} reads {tuple(tensor.shape)} {tensor.dtype}, made outside the block and no buffer")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Leak(f"{func} draws from a generator that a replay would not move on")
        for tensor, argument in zip(_positional(args, kwargs, func), func._schema.arguments, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(tensor, Tensor) and _storage(tensor) not in self._inside:
                raise Leak(f"{func} writes into {tuple(tensor.shape)} from outside")
        result = func(*args, **kwargs)
        taken = {_storage(t) for t in given}
        made = [(k, t) for k, t in enumerate(_tensors(result)) if _storage(t) not in taken]
        self._inside |= {_storage(t) for _, t in made}
        self._ops.append(_Op(func, args, kwargs, made))
        return result

    def play(self) -> None:
        """Every operation again, results into the storage of the first time."""
        for op in self._ops:
            again = list(_tensors(op.function(*op.args, **op.kwargs)))
            for k, tensor in op.made:
                tensor.copy_(again[k])

    def spoil(self) -> None:
        """NaN, or nonsense, into all that was made inside."""
        for op in self._ops:
            for _, tensor in op.made:
                if tensor.dtype.is_floating_point:
                    tensor.fill_(math.nan)
                elif tensor.dtype != torch.bool:
                    tensor.fill_(-77)

    def __len__(self) -> int:
        return len(self._ops)


class TapeGraphs:
    """Backend of ``eqprop.CudaGraphs`` that records on the CPU.

    Attributes:
        tapes: one a capture.
        replays: of all tapes.
    """

    device_type = "cpu"

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.replays = 0

    def capture(self, block: StaticBlock) -> tuple[Block, Callable[[], None]]:
        tape = Tape(block.reads())
        with no_host_sync(), tape:
            result = block()
        tape.spoil()  # a capture computes nothing
        self.tapes.append(tape)

        def replay() -> None:
            for other in self.tapes:
                other.spoil()
            tape.play()
            self.replays += 1

        return result, replay


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(value: Any) -> Iterator[Tensor]:
    yield from (leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))


def _positional(args: tuple[Any, ...], kwargs: dict[str, Any], func: Any) -> list[Any]:
    """All arguments in the order of the schema; None where one has its default."""
    names = [a.name for a in func._schema.arguments]
    return list(args) + [kwargs.get(n) for n in names[len(args) :]]
