"""Physical constants and units. Every name carries its unit; everything at an edge of this package is SI."""

from __future__ import annotations

# exact since the SI of 2019
BOLTZMANN_JOULES_PER_KELVIN = 1.380649e-23
ELEMENTARY_CHARGE_COULOMBS = 1.602176634e-19
BOLTZMANN_ELECTRONVOLTS_PER_KELVIN = BOLTZMANN_JOULES_PER_KELVIN / ELEMENTARY_CHARGE_COULOMBS

ROOM_TEMPERATURE_KELVIN = 300.0
MICROSIEMENS = 1e-6
DAY_SECONDS = 86400.0
