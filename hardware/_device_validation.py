"""Whether the parameters of a device, and what it is asked to hold, are possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._ageing import PowerLawDrift, TabulatedRelaxation
from hardware._curves import Curve
from hardware._device_checks import require_number, require_whole

if TYPE_CHECKING:
    from hardware._devices import Device

_TOLERANCE = 1e-5  # of the range: conductances that went through float32 may lie that far outside


def check_device(device: Device) -> None:
    """Raises ConfigError for parameters that no cell can have."""
    name = device.name
    require_number(f"{name}: g_min_siemens", device.g_min_siemens, least=0.0)
    require_number(f"{name}: g_max_siemens", device.g_max_siemens, above=0.0)
    if device.g_min_siemens >= device.g_max_siemens:
        raise ConfigError(
            f"{name}: got g_min_siemens={device.g_min_siemens:g} and g_max_siemens={device.g_max_siemens:g}, "
            "needed g_min < g_max, in siemens; write g_min_siemens=0.1e-6, g_max_siemens=25e-6"
        )
    require_number(f"{name}: first_read_seconds", device.first_read_seconds, least=0.0)
    if isinstance(device.ageing, PowerLawDrift) and device.first_read_seconds == 0:
        raise ConfigError(
            f"{name}: got first_read_seconds=0 with a power-law drift, which has no value at time 0; needed "
            "the time of the first read after a write; write first_read_seconds=20.0"
        )
    if device.levels is not None:
        require_whole(f"{name}: levels", device.levels, 2)
    _check_curves(device)


def check_targets(device: Device, g: Tensor) -> None:
    """Raises DataError, with the share of cells concerned, for targets outside the range (looked at on the CPU)."""
    if g.device.type != "cpu" or not g.numel():
        return
    low, high = (float(v) for v in torch.aminmax(g.detach()))
    slack = _TOLERANCE * (device.g_max_siemens - device.g_min_siemens)
    if low < device.g_min_siemens - slack or high > device.g_max_siemens + slack:
        outside = (g < device.g_min_siemens - slack) | (g > device.g_max_siemens + slack)
        raise DataError(
            f"{device.name}: got targets from {low:.6g} to {high:.6g} S, {int(outside.sum())} of {g.numel()} outside "
            f"the range, needed {device.g_min_siemens:.6g} to {device.g_max_siemens:.6g} S; scale the weights down, or "
            "write g.clamp(device.g_min_siemens, device.g_max_siemens) where clipping is meant"
        )


def _check_curves(device: Device) -> None:
    stds: list[tuple[str, Curve]] = []
    if device.programming is not None:
        stds.append(("programming.std", device.programming.std))
    if device.reading is not None:
        stds.append(("reading.q", device.reading.q))
    if isinstance(device.ageing, PowerLawDrift):
        stds.append(("ageing.nu_std", device.ageing.nu_std))
    if isinstance(device.ageing, TabulatedRelaxation):
        stds += [(f"ageing.std[{i}]", curve) for i, curve in enumerate(device.ageing.std)]
    x = torch.linspace(device.g_min_siemens / device.g_max_siemens, 1.0, 101, dtype=torch.float64)
    for name, curve in stds:
        y = curve(x)
        i = int(y.argmin())
        if not float(y[i]) >= -1e-9 * float(y.abs().max()):  # rounding apart, and NaN is refused
            raise ConfigError(
                f"{device.name}: {name}: got {float(y[i]):.6g} at g = {float(x[i]) * device.g_max_siemens:.6g} S, "
                "needed a standard deviation of at least 0 over the whole range; change the curve or the range"
            )
