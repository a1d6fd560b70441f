"""Noise of conductances that goes by a clock: 1/f noise, and the telegraph noise of single traps, as settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed


@dataclass(frozen=True, repr=False)
class FlickerNoise(Printed):
    """1/f noise of every conductance: ``g <- g (1 + sum_k x_k)``, never below 0 S, with Ornstein-Uhlenbeck processes.

        <x_k> = 0,   <x_k(t) x_k(t + d)> = (relative_std^2 / n) exp(-d / tau_k)
        S(f) = sum_k (relative_std^2 / n) 4 tau_k / (1 + (2 pi f tau_k)^2)

    ``tau_k`` are spaced evenly in ln t from ``tau_min`` to ``tau_max``, so that the spectrum falls as 1/f between ``1 /
    (2 pi tau_max)`` and ``1 / (2 pi tau_min)``, is flat below and falls as 1/f^2 above. The steps from relaxation to
    relaxation are exact, whatever time they take. Of two phases the time ``d`` apart the share ``1 - exp(-d / tau_k)``
    of a process's variance is not common: what is slower than a pass of phases all of them share.

    A step draws a number a cell and process: as costly as ``n`` sources of scope ``"phase"``.

    Attributes:
        relative_std: of all processes together, as a share of the conductance.
        tau_min_seconds, tau_max_seconds: correlation times of the fastest and of the slowest process.
        processes_per_decade: of correlation times.

    Source: van der Ziel, Physica 16 (1950); the exact step: Gillespie, Phys. Rev. E 54 (1996), eq. 1.9.
    """

    relative_std: float
    tau_min_seconds: float = 1e-6
    tau_max_seconds: float = 1.0
    processes_per_decade: int = 1

    def __post_init__(self) -> None:
        require_number("FlickerNoise.relative_std", self.relative_std, least=0.0)
        require_number("FlickerNoise.tau_min_seconds", self.tau_min_seconds, above=0.0)
        require_number("FlickerNoise.tau_max_seconds", self.tau_max_seconds, least=self.tau_min_seconds)
        require_whole("FlickerNoise.processes_per_decade", self.processes_per_decade, 1)

    @property
    def tau_seconds(self) -> tuple[float, ...]:
        """Correlation times of the processes, rising."""
        decades = math.log10(self.tau_max_seconds / self.tau_min_seconds)
        n = max(round(decades * self.processes_per_decade), 0) + 1
        return tuple(self.tau_min_seconds * 10 ** (decades * k / max(n - 1, 1)) for k in range(n))

    @property
    def moves(self) -> bool:
        """Whether two phases see different conductances."""
        return self.relative_std > 0.0


@dataclass(frozen=True, repr=False)
class TelegraphNoise(Printed):
    """Random telegraph noise: cells with a trap jump between ``g`` and ``g (1 - relative_amplitude)``.

    A two-state Markov process with mean dwell times ``tau_high`` (at ``g``) and ``tau_low``: the cell is low with
    probability ``p = tau_low / (tau_high + tau_low)``, and after a time ``d``

        P(low) = p + (low_before - p) exp(-d (1 / tau_high + 1 / tau_low))

    exactly, whatever the step. Which cells have a trap, and how fast it is, is drawn once a chip: both dwell times of a
    cell are those above times ``10^(spread_decades (U - 1/2))`` with U uniform in [0, 1).

    Attributes:
        relative_amplitude: of the jump, as a share of the conductance.
        share: probability that a cell has a trap.
        tau_high_seconds, tau_low_seconds: mean dwell times, in the middle of the spread.
        spread_decades: of dwell times from cell to cell.

    Source: Machlup, J. Appl. Phys. 25 (1954).
    """

    relative_amplitude: float
    share: float = 0.1
    tau_high_seconds: float = 1e-3
    tau_low_seconds: float = 1e-3
    spread_decades: float = 2.0

    def __post_init__(self) -> None:
        require_number("TelegraphNoise.relative_amplitude", self.relative_amplitude, least=0.0, most=1.0)
        require_number("TelegraphNoise.share", self.share, least=0.0, most=1.0)
        require_number("TelegraphNoise.tau_high_seconds", self.tau_high_seconds, above=0.0)
        require_number("TelegraphNoise.tau_low_seconds", self.tau_low_seconds, above=0.0)
        require_number("TelegraphNoise.spread_decades", self.spread_decades, least=0.0)

    @property
    def low_share(self) -> float:
        """Share of its time that a trap keeps a cell low."""
        return self.tau_low_seconds / (self.tau_high_seconds + self.tau_low_seconds)

    @property
    def moves(self) -> bool:
        """Whether two phases see different conductances."""
        return self.relative_amplitude > 0.0 and self.share > 0.0
