"""How a written conductance moves by itself: power-law drift, relaxation in the logarithm of time, leakage.

Each law turns a standard normal number a cell (``Cells.normal``, a property of the cell) into the cell's coefficient at
the moment of a write, and then gives the conductance at any later time. The clock restarts at each write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._curves import Curve
from hardware._device_checks import require_number, require_numbers


class Span(NamedTuple):
    """What a law needs to know of the device: its range in siemens, and the time of the first read in seconds."""

    g_min: float
    g_max: float
    first_read: float


@dataclass(frozen=True)
class PowerLawDrift:
    """``g(t) = g (1 + t / t0)^-nu``, ``nu = |nu_mean(x) + nu_std(x) N(0, 1)|``: structural relaxation of PCM.

    t is counted from the first read, which comes t0 (``Device.first_read_seconds``) after the write pulse and decides
    what the written conductance is called; so that on log-log axes against the time since the pulse the slope is -nu.

    Attributes:
        nu_mean, nu_std: as functions of x = g / g_max at the write.
        note: where the numbers come from.
    """

    nu_mean: Curve
    nu_std: Curve
    note: str = ""

    def coefficient(self, x: Tensor, normal: Tensor) -> Tensor:
        """The exponent nu of each cell."""
        return torch.addcmul(self.nu_mean(x), self.nu_std(x), normal).abs()

    def after(self, g: Tensor, coefficient: Tensor, seconds: float | Tensor, chip: Span) -> Tensor:
        """Conductance at ``seconds`` after the first read."""
        ratio = seconds / chip.first_read
        # what 1 + ratio loses of a small ratio is below the rounding of g, and log1p takes 20 times as long
        log = (1 + ratio).log_() if isinstance(ratio, Tensor) else math.log1p(ratio)
        return (coefficient * log).neg_().exp_().mul_(g)

    def largest(self, normal: float) -> float:
        """No exponent is larger than this in cells up to twice g_max, with normal numbers up to that size."""
        x = torch.linspace(0.0, 2.0, 2001, dtype=torch.float64)
        return float((self.nu_mean(x).abs() + normal * self.nu_std(x).abs()).max())


@dataclass(frozen=True)
class LogRelaxation:
    """A shift that grows with the logarithm of time and does not depend on the state (Falcone et al., CMO/HfOx).

        g(t) = g + g_max ( mean_per_log L + max(0, std_at_one_second + std_per_log ln t) N(0, 1) ),   L = max(0, ln t)

    t in seconds. It was measured from 1 s on; before that the mean stands still and the spread follows its line down
    to 0 (at 55 us for the published numbers).

    Attributes:
        mean_per_log, std_at_one_second, std_per_log: in units of g_max.
        note: where the numbers come from.
    """

    mean_per_log: float
    std_at_one_second: float
    std_per_log: float
    note: str = ""

    def __post_init__(self) -> None:
        require_number("LogRelaxation.mean_per_log", self.mean_per_log)
        require_number("LogRelaxation.std_at_one_second", self.std_at_one_second, least=0.0)
        require_number("LogRelaxation.std_per_log", self.std_per_log, least=0.0)

    def coefficient(self, x: Tensor, normal: Tensor) -> Tensor:
        """The cell's standard normal number: one cell is on the same side of the mean at all times."""
        return normal.expand_as(x)

    def after(self, g: Tensor, coefficient: Tensor, seconds: float | Tensor, chip: Span) -> Tensor:
        """Conductance at ``seconds`` after the write."""
        t = torch.as_tensor(seconds, dtype=g.dtype).clamp(min=1e-30).log().to(g.device)
        mean = self.mean_per_log * t.clamp(min=0.0)
        std = (self.std_at_one_second + self.std_per_log * t).clamp(min=0.0)
        return g + chip.g_max * (mean + std * coefficient)


@dataclass(frozen=True)
class TabulatedRelaxation:
    """Spread around the target, measured at a few times: between them linear in ln t, outside them constant.

    The spread at the first time is that of the write itself. What is added later is ``g_max sqrt(std(x, t)^2 -
    std(x, first)^2) N(0, 1)``, so that the two together have the measured standard deviation, and one cell moves along
    one path.

    Attributes:
        seconds: rising times of the tables.
        std: one curve a time, in units of g_max.
        note: where the numbers come from.
    """

    seconds: tuple[float, ...]
    std: tuple[Curve, ...]
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", require_numbers("TabulatedRelaxation.seconds", self.seconds, 2))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.seconds) != len(self.std):
            raise ConfigError(
                f"TabulatedRelaxation: got {len(self.seconds)} times and {len(self.std)} curves, needed one a time"
            )
        if self.seconds[0] <= 0 or any(b <= a for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ConfigError(f"TabulatedRelaxation.seconds: got {self.seconds}, needed rising times above 0 s")

    def coefficient(self, x: Tensor, normal: Tensor) -> Tensor:
        """The cell's standard normal number."""
        return normal.expand_as(x)

    def after(self, g: Tensor, coefficient: Tensor, seconds: float | Tensor, chip: Span) -> Tensor:
        """Conductance at ``seconds`` after the write; x is that of ``g``, as written."""
        x = g / chip.g_max
        t = torch.as_tensor(seconds, dtype=g.dtype).clamp(min=1e-30).log().to(g.device)
        first = self.std[0](x)
        std, logs = first, [math.log(s) for s in self.seconds]
        curves = [c(x) for c in self.std]
        for t0, t1, s0, s1 in zip(logs, logs[1:], curves, curves[1:], strict=False):
            std = std + ((t - t0) / (t1 - t0)).clamp(0.0, 1.0) * (s1 - s0)
        return g + chip.g_max * (std * std - first * first).clamp(min=0.0).sqrt() * coefficient


@dataclass(frozen=True)
class Leak:
    """``g(t) = rest + (g - rest) exp(-t / tau)``, ``tau = tau_mean |1 + tau_spread N(0, 1)|``: a charge that leaks.

    Attributes:
        tau_seconds: mean time constant.
        tau_spread: its relative standard deviation from cell to cell.
        rest: where the conductance ends, 0 at g_min and 1 at g_max.
        note: where the numbers come from.
    """

    tau_seconds: float
    tau_spread: float
    rest: float
    note: str = ""

    def __post_init__(self) -> None:
        require_number("Leak.tau_seconds", self.tau_seconds, above=0.0)
        require_number("Leak.tau_spread", self.tau_spread, least=0.0)
        require_number("Leak.rest", self.rest, least=0.0, most=1.0)

    def coefficient(self, x: Tensor, normal: Tensor) -> Tensor:
        """The rate 1 / tau of each cell, per second."""
        return 1.0 / (self.tau_seconds * (1.0 + self.tau_spread * normal).abs().clamp(min=1e-3)).expand_as(x)

    def after(self, g: Tensor, coefficient: Tensor, seconds: float | Tensor, chip: Span) -> Tensor:
        """Conductance at ``seconds`` after the write."""
        rest = chip.g_min + self.rest * (chip.g_max - chip.g_min)
        return rest + (g - rest) * torch.exp(coefficient * -seconds)


Ageing = PowerLawDrift | LogRelaxation | TabulatedRelaxation | Leak
