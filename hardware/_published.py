"""How published parameters become devices."""

from __future__ import annotations

from dataclasses import replace

from hardware._curves import Polynomial
from hardware._devices import Device
from hardware._pulse_response import PulseResponse
from hardware._units import MICROSIEMENS

# Pulse responses are published in units of weight. An on/off ratio of 3 keeps the lower bounds of all but a few cells
# above 0 S, also where bounds scatter by 0.6 of the half range.
ASSUMED_RANGE = (5.0 * MICROSIEMENS, 15.0 * MICROSIEMENS)
ASSUMPTION = "conductances are an assumption, 5 to 15 uS: the source gives steps in units of weight only"


def relative(coefficients: tuple[float, ...], g_max: float) -> Polynomial:
    """A polynomial in x published in uS at that g_max, as a share of g_max."""
    return Polynomial(tuple(c / g_max for c in coefficients))


def pulsed(name: str, note: str, pulses: PulseResponse) -> Device:
    """A device of which only the response to pulses is known."""
    low, high = ASSUMED_RANGE
    return Device(name, low, high, pulses=replace(pulses, note=note), note=f"{note}; {ASSUMPTION}")
