"""Pickles of arrays and plain containers, read without running anything that they ask for.

A pickle names functions and calls them with arguments of its own. Here every name that numpy's arrays need stands for a
class of this file that only keeps its arguments; arrays are built of them afterwards, when all is known to be plain. So
not even numpy's own functions run at the file's wish: given a forged dtype, they can be led to treat bytes as objects.
Any other name ends the reading when it is asked for, before it is looked up.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from eqprop._errors import DataError

_PLAIN = {f"{kind}{size}" for kind, sizes in (("u", "1248"), ("i", "1248"), ("f", "248")) for size in sizes} | {"b1"}
_NEEDED = "needed arrays of numbers, dict, list, tuple, str, bytes, int and float only"
_DEPTH = 100


class _Refused(Exception):
    """Something that is not plain; the text says what was got."""


class _Standin:
    """What a name stands for: keeps the arguments that it is called with, and the state that it is given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> Any:
        raise _Refused(f"a {type(self).__name__.strip('_').lower()} on its own")


class _Ndarray(_Standin):
    """numpy.ndarray; named, never called."""


class _Dtype(_Standin):
    """numpy.dtype("u1", False, True) with a state (3, "<", None, None, None, -1, -1, 0)."""

    def dtype(self) -> np.dtype[Any]:
        name = self.arguments[0] if self.arguments else None
        name = name.decode("latin1") if isinstance(name, bytes) else name
        order, rest = "|", (None, None, None)
        if self.state is not None:
            order, rest = self.state[1], self.state[2:5]
            order = order.decode("latin1") if isinstance(order, bytes) else order
        if name not in _PLAIN or order not in ("|", "<", ">", "=") or rest != (None, None, None):
            raise _Refused(f"an array of dtype {name!r}")
        return np.dtype(order + name)


class _Array(_Standin):
    """_reconstruct(ndarray, (0,), b"b") with a state (1, shape, dtype, fortran_order, data)."""

    def value(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        return _array(data, dtype, shape, "F" if fortran else "C")


class _FromBuffer(_Standin):
    """_frombuffer(data, dtype, shape, order): arrays in pickles of protocol 5."""

    def value(self) -> np.ndarray:
        data, dtype, shape, order = self.arguments
        return _array(data, dtype, shape, order)


class _Scalar(_Standin):
    """scalar(dtype, data): one number."""

    def value(self) -> int | float | bool:
        dtype, data = self.arguments
        return _array(data, dtype, (), "C").item()


class _Bytes(_Standin):
    """_codecs.encode(text, "latin1") or bytes(): how Python 3 writes bytes into the pickles of Python 2."""

    def value(self) -> bytes:
        text, codec = self.arguments or ("", "latin1")
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise _Refused("bytes that are not encoded as latin1")
        return text.encode("latin1")


_STANDINS: dict[tuple[str, str], type[_Standin]] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,
}
for _package in ("numpy.core", "numpy._core"):  # before numpy 2 and since
    _STANDINS[f"{_package}.multiarray", "_reconstruct"] = _Array
    _STANDINS[f"{_package}.multiarray", "scalar"] = _Scalar
    _STANDINS[f"{_package}.numeric", "_frombuffer"] = _FromBuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STANDINS[module, name]
        except KeyError:
            raise _Refused(f"a pickle that asks for {module}.{name}, which was not looked up nor run") from None


def load_plain(path: str | Path) -> Any:
    """The content of a pickle, of Python 2 or 3, that holds arrays of numbers and plain containers.

    Strings of Python 2 are read as latin1. Arrays share the memory of the file's bytes, and are read-only.

    Raises:
        DataError: the pickle asks for anything else (nothing of it has run then), is truncated or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _plain(_load(file), 0)
    except _Refused as refused:
        raise DataError(
            f"{path}: got {refused}; {_NEEDED}. Do not load this file in any other way: get it again from its source, "
            "or write the data in npz form."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a forged pickle may raise any
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: got a truncated or damaged pickle ({reason}), needed the whole file") from error


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file, encoding="latin1").load()


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, _Standin):
        return value.value()
    if value is None or type(value) in (str, bytes, int, float, bool):
        return value
    if depth > _DEPTH:
        raise _Refused(f"containers nested more than {_DEPTH} deep")
    if type(value) is dict:
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if type(value) is list:
        return [_plain(item, depth + 1) for item in value]
    if type(value) is tuple:
        return tuple(_plain(item, depth + 1) for item in value)
    raise _Refused(f"a value of type {type(value).__name__}")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise _Refused(f"an array whose dtype is {dtype!r}")
    kind = dtype.dtype()
    if isinstance(data, _Bytes):
        data = data.value()
    elif isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise _Refused(f"an array whose data are of type {type(data).__name__}")
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape) or order not in ("C", "F"):
        raise _Refused(f"an array of shape {shape!r} in order {order!r}")
    if math.prod(shape) * kind.itemsize != len(data):
        raise _Refused(f"an array of shape {list(shape)} with {len(data):,} bytes of data")
    return np.frombuffer(bytes(data), kind).reshape(shape, order=order)
