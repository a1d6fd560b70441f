"""Encoders from their records."""

from __future__ import annotations

from typing import Any

from hardware._json import from_spec
from snn._encoders import CurrentEncoder, LatencyEncoder
from snn._encoders_cochlea import CochleaEncoder
from snn._encoders_rate import RateEncoder
from snn._encoders_saccade import SaccadeEncoder
from snn._events import EventFrames

AnyEncoder = CurrentEncoder | LatencyEncoder | RateEncoder | SaccadeEncoder | CochleaEncoder | EventFrames
_KINDS = (CurrentEncoder, LatencyEncoder, RateEncoder, SaccadeEncoder, CochleaEncoder, EventFrames)


def encoder_from_spec(spec: dict[str, Any]) -> AnyEncoder:
    """The encoder that ``encoder.spec()`` described.

    Raises:
        ConfigError: an unknown kind or field, or values that cannot work.
    """
    made: AnyEncoder = from_spec(spec, object, {kind.__name__: kind for kind in _KINDS})  # type: ignore[assignment]
    return made
