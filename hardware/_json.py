"""Frozen dataclasses to JSON-serialisable dictionaries and back, by the name of their class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from eqprop._errors import ConfigError
from eqprop._names import lookup

T = TypeVar("T")


def to_spec(value: Any) -> Any:
    """``value`` as dictionaries (with the class under ``"type"``), lists, numbers, texts and None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | {f.name: to_spec(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [to_spec(v) for v in value]
    return value


def from_spec(spec: Any, needed: type[T], classes: Mapping[str, type]) -> T:
    """What ``to_spec`` described, an object of the class that is ``needed``; its parts are of ``classes``.

    Raises:
        ConfigError: an unknown class or field, or the spec of another class.
    """
    made = _made(spec, classes)
    if not isinstance(made, needed):
        name = needed.__name__
        raise ConfigError(
            f"spec: got a {type(made).__name__}, needed the spec of a {name}; write {name.lower()}.spec()"
        )
    return made


def _made(spec: Any, classes: Mapping[str, type]) -> Any:
    """Objects of dictionaries, tuples of lists."""
    if isinstance(spec, list | tuple):
        return tuple(_made(v, classes) for v in spec)
    if not isinstance(spec, dict):
        return spec
    cls = lookup("spec type", str(spec.get("type", "")), classes)
    known = {f.name: f for f in fields(cls)}
    arguments = {}
    for name, value in spec.items():
        if name != "type":
            lookup(f"field of {cls.__name__}", name, known)
            arguments[name] = _made(value, classes)
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"spec of {cls.__name__}: got {sorted(arguments)}, needed all of its fields; {error}"
        ) from None
