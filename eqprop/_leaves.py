"""What a system, a drive or a nudge is made of: its tensors, and a key that says whether all else is the same."""

from __future__ import annotations

import copy
import types
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._activations import Activation

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_CODE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)


class Leaves:
    """The tensors of nested objects in a fixed order, and what distinguishes the objects otherwise.

    Tuples, lists, dictionaries and plain objects are looked into. A ``nn.Module`` is taken whole, to be read in place:
    the key holds the addresses of its tensors and its plain values, so that a parameter that was replaced, rather than
    updated, gives another key. Functions, and what cannot be looked into, count by identity.

    Attributes:
        key: equal for two values that differ in nothing but the values of ``tensors``; while one of them lives.
        tensors: each once.
        modules: what is read in place.
    """

    def __init__(self, value: Any) -> None:
        self.tensors: list[Tensor] = []
        self.modules: list[nn.Module] = []
        self._value = value
        self._whole: list[Any] = []
        self._seen: dict[int, int] = {}
        self.key: Hashable = self._key(value)

    def reading(self, tensors: Sequence[Tensor]) -> Any:
        """A copy of the objects that reads other tensors in the place of ``self.tensors``; modules are shared."""
        memo: dict[int, Any] = {id(part): part for part in (*self._whole, *self.modules)}
        memo |= {id(old): new for old, new in zip(self.tensors, tensors, strict=True)}
        return copy.deepcopy(self._value, memo)

    def _key(self, value: Any) -> Hashable:
        if value is None or isinstance(value, _PLAIN):
            return type(value), value
        if id(value) in self._seen:  # shared, or part of itself
            return "seen", self._seen[id(value)]
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, Tensor):
            self.tensors.append(value)
            return value.shape, value.stride(), value.dtype, value.device
        if isinstance(value, nn.Module):
            self.modules.append(value)
            return id(value), tuple(_contents(value))
        if isinstance(value, tuple | list):
            return type(value), *[self._key(v) for v in value]
        if isinstance(value, dict):
            return type(value), *[(k, self._key(v)) for k, v in value.items()]
        if hasattr(value, "__dict__") and not isinstance(value, (Activation, *_CODE)):
            return type(value), self._key(vars(value))
        self._whole.append(value)
        if isinstance(value, Activation | set | frozenset):
            return type(value), frozenset(value) if isinstance(value, set) else value
        return type(value), id(value)


def _contents(module: nn.Module) -> Iterator[Hashable]:
    for tensor in module_tensors(module):
        yield tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, _PLAIN):
                yield name, value


def module_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that are mere attributes, as a chip may keep them."""
    yield from module.parameters()
    yield from module.buffers()
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor):
                yield value
