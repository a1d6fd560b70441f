"""Whether a setting is a number: what Python takes for one is wider than what a user means."""

from __future__ import annotations

import math


def is_number(value: object) -> bool:
    """A finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object, low: int) -> bool:
    """A whole number from ``low`` on; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
