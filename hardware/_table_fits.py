"""A user's own device from tables of measured conductances: what writes miss, and how cells drift.

Each function returns a ``Device``: the one given as ``device``, with the part that was measured replaced, or a new one
with the range of the data. So that several measurements build up one device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from eqprop._errors import DataError
from eqprop._names import lookup
from hardware._ageing import PowerLawDrift
from hardware._curves import ClippedLog, Curve, Polynomial, Table, constant
from hardware._device_checks import require_number, require_whole
from hardware._device_noise import ProgrammingNoise
from hardware._devices import Device

Array = npt.NDArray[np.float64]


def as_array(name: str, values: Any, dimensions: tuple[int, ...], least: int) -> Array:
    """A finite float64 array with one of those numbers of dimensions and at least ``least`` entries in the last.

    Raises:
        DataError: something else.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: got {type(values).__name__}, needed an array of numbers") from None
    if array.ndim not in dimensions or array.shape[-1] < least:
        raise DataError(
            f"{name}: got shape {array.shape}, needed {' or '.join(map(str, dimensions))} dimensions and at least "
            f"{least} entries in the last"
        )
    if not np.isfinite(array).all():
        raise DataError(
            f"{name}: got {int((~np.isfinite(array)).sum())} values of {array.size} that are NaN or infinite, needed "
            "finite ones; leave those readings out"
        )
    return array


#: no memory cell conducts so well; data above it are in another unit, or shares of a range
_MOST_SIEMENS = 0.1


def require_siemens(name: str, g: Array) -> None:
    """Raises DataError for conductances that are negative or look as if they were in another unit."""
    if g.min() < 0 or g.max() > _MOST_SIEMENS:
        raise DataError(
            f"{name}: got conductances from {g.min():.6g} to {g.max():.6g}, needed siemens, 0 to {_MOST_SIEMENS:g}; "
            f"data in uS: write {name} * 1e-6; levels that are shares of a range: write {name} * g_max_siemens"
        )


def measured(name: str, device: Device | None, low: float, high: float) -> Device:
    """The device to start from: the one given, or an empty one with that range."""
    return Device(name, low, high, note="measured") if device is None else device


def fit_programming_noise(
    g_siemens: Any, std_siemens: Any, *, degree: int = 2, device: Device | None = None, name: str = "measured"
) -> Device:
    """Standard deviation of a write as a polynomial of the target, by least squares.

    Args:
        g_siemens, std_siemens: target and standard deviation of each level, ``[levels]``.
        degree: of the polynomial.
        device: what to add it to; a new device with a range of 0 to the largest target where None.
        name: of a new device.

    Raises:
        DataError: fewer levels than coefficients, NaN, a negative standard deviation.
        ConfigError: a fit that is negative somewhere in the range (take a lower degree, or ``device_from_levels``).
    """
    require_whole("degree", degree, 0)
    g = as_array("g_siemens", g_siemens, (1,), degree + 1)
    require_siemens("g_siemens", g)
    std = _stds(std_siemens, g)
    base = measured(name, device, 0.0, float(g.max()))
    powers = np.vander(g / base.g_max_siemens, degree + 1, increasing=True)
    scale = max(float(std.max()), 1e-30)
    fit = least_squares(lambda c: powers @ c - std / scale, np.zeros(degree + 1), method="trf")
    coefficients = tuple(float(c) * scale / base.g_max_siemens for c in fit.x)
    return replace(
        base, programming=ProgrammingNoise(Polynomial(coefficients), note=f"fitted to {len(g)} measured levels")
    )


def device_from_levels(
    mean_siemens: Any,
    std_siemens: Any,
    *,
    target_siemens: Any = None,
    device: Device | None = None,
    name: str = "measured",
) -> Device:
    """A device whose writes err as a table of levels says, straight lines between the levels.

    Args:
        mean_siemens, std_siemens: of what was read at each level, ``[levels]``, rising.
        target_siemens: what was aimed at; the means themselves (no bias) where None.
        device: what to add it to; a new one with the range of the targets where None.
        name: of a new device.

    Raises:
        DataError: fewer than 2 levels, NaN, a negative standard deviation.
        ConfigError: targets that do not rise.
    """
    mean = as_array("mean_siemens", mean_siemens, (1,), 2)
    require_siemens("mean_siemens", mean)
    std = _stds(std_siemens, mean)
    target = mean if target_siemens is None else as_array("target_siemens", target_siemens, (1,), 2)
    if target.shape != mean.shape:
        raise DataError(f"target_siemens: got shape {target.shape}, needed {mean.shape}: one a level")
    require_siemens("target_siemens", target)
    base = measured(name, device, float(target.min()), float(target.max()))
    x, unit = tuple((target / base.g_max_siemens).tolist()), base.g_max_siemens
    bias: Curve = constant(0.0)
    if target_siemens is not None:
        bias = Table(x, tuple(((mean - target) / unit).tolist()))
    noise = ProgrammingNoise(Table(x, tuple((std / unit).tolist())), bias, f"table of {len(mean)} measured levels")
    return replace(base, programming=noise)


def fit_drift(
    seconds: Any,
    conductance_siemens: Any,
    *,
    first_read_seconds: float,
    kind: str = "constant",
    device: Device | None = None,
    name: str = "measured",
) -> Device:
    """A power-law drift from conductances read at several times after a write.

    Each cell gives its exponent, the slope of ``ln g`` against ``ln(1 + t / t0)``; their mean and spread become those
    of the device, the same for all conductances (``"constant"``) or linear in ``ln x`` (``"log"``), clipped to what
    was seen.

    Args:
        seconds: times of the reads, counted from the first read, ``[times]``.
        conductance_siemens: ``[cells, times]``, or ``[times]`` for one cell.
        first_read_seconds: t0, from the write pulse to the first read.
        kind: ``"constant"`` or ``"log"``.
        device: what to add it to; a new one with the range 0 to the largest conductance where None.
        name: of a new device.

    Raises:
        DataError: times before the write, NaN, conductances that are not positive.
        ConfigError: an unknown kind, a first read that is not above 0 s.
    """
    lookup("kind of drift", kind, {"constant": 0, "log": 0})
    require_number("first_read_seconds", first_read_seconds, above=0.0)
    t = as_array("seconds", seconds, (1,), 2)
    g = np.atleast_2d(as_array("conductance_siemens", conductance_siemens, (1, 2), 2))
    if g.shape[1] != len(t):
        raise DataError(f"conductance_siemens: got shape {g.shape}, needed [cells, {len(t)}]: one a time")
    if t.min() < 0 or t.max() == t.min():
        raise DataError(f"seconds: got {t.min():g} to {t.max():g}, needed different times from 0 on, after the write")
    require_siemens("conductance_siemens", g)
    if g.min() <= 0:
        raise DataError("conductance_siemens: got cells that do not conduct, needed more than 0 S; leave them out")
    log_time = np.log1p(t / first_read_seconds)
    centred = log_time - log_time.mean()
    exponents = -(np.log(g) @ centred) / (centred @ centred)
    start = np.exp(np.log(g).mean(1) + exponents * log_time.mean())
    base = measured(name, device, 0.0, float(start.max()))
    mean, std = _exponent_curves(kind, start / base.g_max_siemens, exponents)
    note = f"fitted to {len(g)} measured cells, {len(t)} times each"
    return replace(base, ageing=PowerLawDrift(mean, std, note), first_read_seconds=float(first_read_seconds))


def _exponent_curves(kind: str, x: Array, nu: Array) -> tuple[Curve, Curve]:
    if kind == "constant" or len(nu) < 4:
        return constant(float(nu.mean())), constant(float(nu.std(ddof=1)) if len(nu) > 1 else 0.0)
    log = np.log(x)
    mean = least_squares(lambda p: p[0] * log + p[1] - nu, [0.0, float(nu.mean())]).x
    residual = nu - (mean[0] * log + mean[1])
    # E|N(0, s)| = s sqrt(2 / pi)
    sizes = np.abs(residual) * np.sqrt(np.pi / 2) * np.sqrt(len(nu) / (len(nu) - 2))
    std = least_squares(lambda p: p[0] * log + p[1] - sizes, [0.0, float(sizes.mean())]).x
    return _clipped(mean, log), _clipped(std, log)


def _clipped(line: Array, log: Array) -> ClippedLog:
    ends = sorted(max(float(line[0] * v + line[1]), 0.0) for v in (log.min(), log.max()))
    return ClippedLog(float(line[0]), float(line[1]), ends[0], ends[1])


def _stds(std_siemens: Any, levels: Array) -> Array:
    std = as_array("std_siemens", std_siemens, (1,), 1)
    if std.shape != levels.shape:
        raise DataError(f"std_siemens: got shape {std.shape}, needed {levels.shape}: one a level")
    if std.min() < 0:
        raise DataError(f"std_siemens: got {std.min():.6g} S, needed standard deviations of at least 0")
    return std
