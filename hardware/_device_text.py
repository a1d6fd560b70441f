"""A device in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hardware._ageing import Leak, PowerLawDrift
from hardware._pulse_response import PulseResponse
from hardware._units import DAY_SECONDS, MICROSIEMENS

if TYPE_CHECKING:
    from hardware._devices import Device


def describe(device: Device) -> str:
    """See ``Device.describe``."""
    low, high = device.g_min_siemens, device.g_max_siemens
    g = torch.tensor([low + 0.1 * (high - low), low + 0.5 * (high - low), high], dtype=torch.float64)
    lines = [f"{device.name}: {low / MICROSIEMENS:.4g} to {high / MICROSIEMENS:.4g} uS"]
    lines[0] += "" if device.levels is None else f", {device.levels} levels"
    if device.formation is not None:
        made = device.formation
        lines.append(
            f"  made once at random: {made.share:.3g} of the cells {made.mean_siemens / MICROSIEMENS:.4g} +- "
            f"{made.std_siemens / MICROSIEMENS:.4g} uS, the others {made.pristine_siemens / MICROSIEMENS:.4g} uS"
        )
    if device.programming is not None:
        lines.append(f"  write error: {_shares(device.programming_std_siemens(g) / high)} of g_max at {_PLACES}")
    if device.ageing is not None:
        lines.append(_ageing(device, g))
    if device.reading is not None:
        now, later = (device.read_noise_std_siemens(g, t) / g for t in (0.0, DAY_SECONDS))
        lines.append(f"  read noise: {_shares(now)} of g at {_PLACES} after a write, {_shares(later)} after a day")
    if device.activation is not None:
        lines.append(f"  10 K warmer: g times {_numbers(device.at_temperature(g, 310.0) / g)} at {_PLACES}")
    if device.pulses is not None:
        lines += _pulses(device.pulses)
    return "\n".join(lines + [f"  source: {device.note}"] * bool(device.note))


_PLACES = "10 %, 50 % and 100 % of the range"


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{v:.3g}" for v in values.tolist())


def _shares(values: torch.Tensor) -> str:
    return ", ".join(f"{100 * v:.3g} %" for v in values.tolist())


def _ageing(device: Device, g: torch.Tensor) -> str:
    law = device.ageing
    if isinstance(law, PowerLawDrift):
        x = g / device.g_max_siemens
        return (
            f"  drift: exponents {_numbers(law.nu_mean(x))} +- {_numbers(law.nu_std(x))} at {_PLACES}, "
            f"first read {device.first_read_seconds:g} s after a write"
        )
    if isinstance(law, Leak):
        return f"  leaks with a time constant of {law.tau_seconds:g} s +- {100 * law.tau_spread:g} % a cell"
    zero, one = (
        device.drifted(g, device.drift_coefficient(g, torch.full_like(g, value)), DAY_SECONDS) - g for value in (0, 1)
    )
    shift, spread = (_shares(v / device.g_max_siemens) for v in (zero, one - zero))
    return f"  after a day: shifted by {shift}, spread {spread} of g_max at {_PLACES}"


def _pulses(law: PulseResponse) -> list[str]:
    lines = [
        f"  pulses: {type(law.law).__name__}, {law.states:.4g} steps in the range, steps {100 * law.step_spread:.3g} % "
        f"{'(log-normal) ' * law.log_normal}different from cell to cell and {100 * law.noise:.3g} % from pulse to pulse"
    ]
    if law.asymmetry:
        lines.append(f"  {'down' if law.asymmetry > 0 else 'up'} steps smaller by {100 * abs(law.asymmetry):.3g} %")
    if law.one_way:
        lines.append("  pulses move a cell up only; a reset takes it down")
    if law.write_noise:
        lines.append(f"  write noise: {law.write_noise * law.step / (law.w_high - law.w_low):.3g} of the range")
    if law.low_spread or law.high_spread:
        lines.append(f"  bounds differ by {100 * law.low_spread:.3g} % (low) and {100 * law.high_spread:.3g} % (high)")
    if law.stuck_share:
        lines.append(f"  {100 * law.stuck_share:.3g} % of the cells are stuck")
    return lines
