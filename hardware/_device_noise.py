"""What a write misses, what a read misses, and what temperature does: parts of a device, as data.

Standard deviations of programming are in units of ``g_max``, so that a device with another range errs in proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._curves import Curve, constant
from hardware._device_checks import require_number
from hardware._units import BOLTZMANN_ELECTRONVOLTS_PER_KELVIN, ROOM_TEMPERATURE_KELVIN

_EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True)
class ProgrammingNoise:
    """Error of a closed-loop write: ``g = g_target + g_max (bias(x) + std(x) N(0, 1))``, ``x = g_target / g_max``.

    Attributes:
        std: standard deviation, in units of g_max, as a function of x.
        bias: mean error, in units of g_max.
        note: where the numbers come from.
    """

    std: Curve
    bias: Curve = constant(0.0)
    note: str = ""


@dataclass(frozen=True)
class ReadNoise:
    """Noise of a read, Gaussian, drawn afresh at a read.

    ``std = q(x) r``, times the conductance itself where ``relative`` and times g_max where not. ``r = 1`` for noise
    that knows no history (``t_read_seconds`` None), and for accumulated 1/f noise

        r = sqrt( ln( (t + t_read) / (2 t_read) ) ),    t counted from the write pulse; 0 where t <= t_read

    which is the standard deviation of a spectrum 1/f integrated from 1/t up to the bandwidth of the read (Nandakumar et
    al. 2019).

    Attributes:
        q: as a function of x, the programmed conductance over g_max.
        relative: the noise is a share of the conductance.
        t_read_seconds: duration of a read, or None.
        note: where the numbers come from.
    """

    q: Curve
    relative: bool = True
    t_read_seconds: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.t_read_seconds is not None:
            require_number("ReadNoise.t_read_seconds", self.t_read_seconds, above=0.0)

    def growth(self, seconds: float | Tensor) -> float | Tensor:
        """``r`` at that time after the write pulse."""
        if self.t_read_seconds is None:
            return 1.0
        ratio = (seconds + self.t_read_seconds) / (2 * self.t_read_seconds)
        if isinstance(ratio, Tensor):
            return ratio.clamp(min=1.0).log().sqrt()
        return math.sqrt(math.log(max(ratio, 1.0)))

    def correlation(self, growth: float | Tensor, seconds: float) -> float | Tensor:
        """Correlation of two reads of a cell that are so far apart; 0 for noise that knows no history.

        ``q^2 r^2`` is the integral of the spectrum ``q^2 / f`` from ``f1 = 1 / (t + t_read)`` to ``f2 = 1 / (2
        t_read)``. The autocovariance that belongs to it is, with the cosine integral Ci,

            C(d) = q^2 int_f1^f2 cos(2 pi f d) df / f = q^2 ( Ci(2 pi f2 d) - Ci(2 pi f1 d) )

        and for ``t_read << d << t``, where ``Ci(large) = 0`` and ``Ci(small u) = gamma + ln u``,

            q^2 r^2 - C(d) = q^2 ln( pi e^gamma d / t_read ),    rho = 1 - ln( pi e^gamma d / t_read ) / r^2

        cut to 0..1: two reads differ by ``q sqrt(2 ln(5.6 d / t_read))`` rms, whatever their age, and have all in
        common where they follow within ``t_read / 5.6``, nothing where the write is less than about ``11 d`` ago.

        Args:
            growth: ``r`` of the reads.
            seconds: ``d``, from one to the other.
        """
        if self.t_read_seconds is None:
            return 0.0
        ratio = math.pi * math.exp(_EULER_GAMMA) * seconds / self.t_read_seconds
        if ratio <= 1.0:
            return 1.0
        change = math.log(ratio)
        if isinstance(growth, Tensor):
            return growth.square().reciprocal_().mul_(-change).add_(1.0).clamp_(min=0.0)
        return 1.0 - change / growth**2 if growth**2 > change else 0.0


@dataclass(frozen=True)
class Activation:
    """Thermally activated conduction: ``g(T) = g(T_ref) exp( -(E_a(x) / k) (1/T - 1/T_ref) )``, E_a in electronvolts.

    Attributes:
        energy_electronvolts: E_a as a function of x.
        reference_kelvin: the temperature at which conductances are meant.
        note: where the numbers come from.
    """

    energy_electronvolts: Curve
    reference_kelvin: float = ROOM_TEMPERATURE_KELVIN
    note: str = ""

    def __post_init__(self) -> None:
        require_number("Activation.reference_kelvin", self.reference_kelvin, above=0.0)

    def factor(self, x: Tensor, kelvin: float) -> Tensor:
        """``g(T) / g(T_ref)``.

        Raises:
            ConfigError: a temperature that is not above 0 K.
        """
        if isinstance(kelvin, bool) or not isinstance(kelvin, int | float) or not 0 < kelvin < math.inf:
            raise ConfigError(f"temperature: got {kelvin!r} K, needed a finite one above 0 K; write kelvin=300.0")
        inverse = 1.0 / kelvin - 1.0 / self.reference_kelvin
        return torch.exp(self.energy_electronvolts(x) * (-inverse / BOLTZMANN_ELECTRONVOLTS_PER_KELVIN))


@dataclass(frozen=True)
class RandomFormation:
    """Cells that are made at random once and never written again: ``g = g_formed N+(mean, std)`` with a probability.

    A dielectric that breaks down conducts, one that does not stays pristine. Breakdown voltages are about normal, so
    that the share of formed cells is set through the voltage: see ``formed_share``.

    Attributes:
        share: probability that a cell is formed.
        mean_siemens, std_siemens: of formed cells, normal, nothing below the pristine conductance.
        pristine_siemens: of the others.
        note: where the numbers come from.
    """

    share: float
    mean_siemens: float
    std_siemens: float
    pristine_siemens: float
    note: str = ""

    def __post_init__(self) -> None:
        require_number("RandomFormation.share", self.share, least=0.0, most=1.0)
        require_number("RandomFormation.mean_siemens", self.mean_siemens, above=0.0)
        require_number("RandomFormation.std_siemens", self.std_siemens, least=0.0)
        require_number("RandomFormation.pristine_siemens", self.pristine_siemens, least=0.0, most=self.mean_siemens)

    def scaled(self, factor: float) -> RandomFormation:
        """All conductances times a factor."""
        names = ("mean_siemens", "std_siemens", "pristine_siemens")
        return replace(self, **{name: factor * getattr(self, name) for name in names})


def formed_share(volts: float, mean_volts: float, std_volts: float) -> float:
    """Share of cells that a pulse of that voltage breaks down: ``Phi((volts - mean) / std)``.

    Raises:
        ConfigError: a standard deviation that is not positive.
    """
    for name, value in (("volts", volts), ("mean_volts", mean_volts)):
        require_number(name, value)
    require_number("std_volts", std_volts, above=0.0)
    return 0.5 * (1.0 + math.erf((volts - mean_volts) / (std_volts * math.sqrt(2.0))))
