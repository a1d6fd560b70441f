"""A number for settings, by which a file can tell that it belongs to others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from hardware._device_table import _DEVICES
from hardware._devices import Device


def digest(settings: Any) -> int:
    """A number below 0 in 63 bits, the same for equal settings (a frozen dataclass, as a ``Substrate``).

    Fields at their default and notes do not count, so that a field or a note that a later version adds changes no
    number; a device of the table counts by its name, however it was given.
    """
    text = json.dumps(_plain(settings), sort_keys=True)
    return -1 - int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _plain(value: Any) -> Any:
    """Dictionaries, lists, texts and floats: whole numbers are equal to floats in settings, and so must be here."""
    if isinstance(value, Device) and _DEVICES.get(value.name) == value:
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "note"}
        defaults = {f.name: _default(f) for f in fields(value)}
        return {"type": type(value).__name__} | {n: v for n, v in found.items() if v != defaults[n]}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _default(field: Field[Any]) -> Any:
    """The plain form of a field's default; of a field without one, a thing that equals no plain form."""
    if field.default is not MISSING:
        return _plain(field.default)
    return MISSING if field.default_factory is MISSING else _plain(field.default_factory())
