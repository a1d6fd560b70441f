"""Look-up of things by name, with the nearest right name in the error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from eqprop._errors import ConfigError

T = TypeVar("T")


def lookup(what: str, name: str, table: Mapping[str, T]) -> T:
    """``table[name]``.

    Raises:
        ConfigError: no such name; lists the names there are and the nearest one.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name).lower(), list(table), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{what}: got {name!r}, needed one of {', '.join(table)}{hint}")
