"""A substrate in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware._device_text import describe as describe_device
from hardware._slow_noise import FlickerNoise, TelegraphNoise
from hardware._units import DAY_SECONDS, ROOM_TEMPERATURE_KELVIN

if TYPE_CHECKING:
    from hardware._cell_array import CellArray
    from hardware._converters import OutputAdc
    from hardware._devices import Device
    from hardware._nudge_source import NudgeSource
    from hardware._paths import Fluctuation
    from hardware._rails import SharedRail
    from hardware._substrate import Substrate

_SCOPES = {
    "chip": "once a chip",
    "write": "at each write",
    "sample": "once a pass, shared by its phases, one for all samples of a batch",
    "phase": "afresh in each phase, one for all samples of a batch",
}


def describe(substrate: Substrate) -> str:
    """See ``Substrate.describe``."""
    lines = []
    if substrate.cells is not None:
        lines += _cells(substrate.cells, substrate.timing.phase_seconds)
    for f in substrate.fluctuations:
        lines.append(f"{'conductances' if substrate.cells is not None else 'weights'} {_fluctuation(f)}")
    if (p := substrate.paths) is not None:
        lines.append(
            f"gains of the ways: ahead +-{_percent(p.ahead_std)}, back {p.back_gain:g} +-{_percent(p.back_std)} an "
            f"amplifier and +-{_percent(p.cell_std)} a cell: no energy belongs to the dynamics"
        )
    if (dac := substrate.input_dac) is not None:
        steps = "continuous" if dac.bits is None else f"{dac.bits} bits, steps of {_step(dac.low, dac.high, dac.bits)}"
        noise = f", noise {dac.noise_std:g} a sample" if dac.noise_std else ""
        lines.append(f"input converter: {steps} from {dac.low:g} to {dac.high:g}{noise}")
    if substrate.adc is not None:
        lines.append(_adc(substrate.adc))
    if substrate.nudge is not None:
        lines.append(_nudge(substrate.nudge))
    if substrate.rail is not None:
        lines.append(_rail(substrate.rail))
    if (thermal := substrate.thermal) is not None:
        std = thermal.std_at(substrate.temperature_kelvin)
        origin = ""
        if thermal.capacitance_farads is not None:
            origin = (
                f" (kT/C at {substrate.temperature_kelvin:g} K and {thermal.capacitance_farads:g} F: "
                f"{1e6 * std * thermal.volts_per_unit:.3g} uV)"
            )
        lines.append(
            f"noise in each sweep, or in time with solver=Langevin(): {std:.3g} of a unit of state{origin}, read as "
            f"the mean of {thermal.window_sweeps} sweep{'s' * (thermal.window_sweeps > 1)}"
            + ("" if thermal.time_constant_seconds is None else f"; RC of a node {thermal.time_constant_seconds:.3g} s")
        )
    if substrate.twin:
        lines.append(
            "twin arrays: free phases on one set of cells, nudged ones on another, the first of them at the same time"
        )
    if substrate.changes_between_phases:
        order = "further phases" if substrate.twin else "phases"
        lines.append(
            f"{order} run one after another, {substrate.timing.phase_seconds:g} s each; a write takes "
            f"{substrate.timing.write_seconds:g} s"
        )
    if substrate.temperature_kelvin != ROOM_TEMPERATURE_KELVIN:
        lines.append(f"temperature: {substrate.temperature_kelvin:g} K")
    return "\n".join(lines) or "ideal: no part disturbs anything"


def _fluctuation(f: Fluctuation | FlickerNoise | TelegraphNoise) -> str:
    if isinstance(f, FlickerNoise):
        n = len(f.tau_seconds)
        return (
            f"have 1/f noise of {_percent(f.relative_std)}, {n} process{'es' * (n > 1)} with correlation times "
            f"{f.tau_min_seconds:g} to {f.tau_max_seconds:g} s, by the chip's clock"
        )
    if isinstance(f, TelegraphNoise):
        return (
            f"have telegraph noise: {_percent(f.share)} of the cells jump by {_percent(f.relative_amplitude)}, "
            f"{f.tau_high_seconds:g} s up and {f.tau_low_seconds:g} s down on average, spread over "
            f"{f.spread_decades:g} decades, by the chip's clock"
        )
    return f"fluctuate by {_percent(f.relative_std)}, drawn {_SCOPES[f.scope]}{_correlated(f.correlation)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _correlated(rho: float) -> str:
    return f", correlation {rho:g} between phases" if rho else ""


def _step(low: float, high: float, bits: int) -> str:
    return f"{(high - low) / ((1 << bits) - 1):.3g}"


def _cells(cells: CellArray, phase_seconds: float) -> list[str]:
    made = cells.resolved()
    reach = f"{cells.headroom:g} times the largest initial one" if cells.weight_range is None else cells.weight_range
    lines = [f"weights in {cells.mapping} pairs of cells, up to {reach}; biases and readout are digital"]
    if cells.mapping == "single":
        lines = ["a cell for every conductance"]
    lines += ["  " + line for line in describe_device(made).splitlines()]
    if not cells.programming:
        lines.append("  closed-loop writes are exact: programming=False")
    elif made.pulses is not None and made.pulses.write_noise:
        lines.append("  closed-loop writes end with the write noise")
    elif made.programming is None:
        lines.append("  closed-loop writes are exact: no error of them is published")
    if made.reading is not None:
        lines.append(
            f"  read noise is drawn {_SCOPES[cells.read_scope]}{_correlated_reads(cells, made, phase_seconds)}"
        )
        if cells.input_noise == "signals" and not cells.wire_ohms and cells.read_scope in ("sample", "phase"):
            lines.append("  on the signals of dense inputs every sample has read noise of its own")
    elif cells.read_scope != "phase":
        lines.append(f"  no read noise to be drawn {_SCOPES[cells.read_scope]}")
    if cells.stuck_share is not None:
        lines.append(f"  {_percent(cells.stuck_share)} of the cells are stuck, anywhere in the range")
    if cells.wire_ohms:
        loss = made.g_max_siemens * cells.wire_ohms
        lines.append(
            f"  wires: {cells.wire_ohms:g} ohm a cell, a loss of {_percent(loss)} of g_max for each on the way"
        )
    return lines


def _correlated_reads(cells: CellArray, made: Device, phase_seconds: float) -> str:
    if cells.read_scope != "phase" or made.reading is None:
        return ""
    if cells.read_correlation is not None:
        return _correlated(cells.read_correlation)
    rho = [
        float(made.reading.correlation(made.reading.growth(made.first_read_seconds + t), phase_seconds))
        for t in (phase_seconds, DAY_SECONDS)
    ]
    if rho[0] == rho[1]:
        return _correlated(rho[0])
    return f", correlation {rho[0]:.3g} between phases, {rho[1]:.3g} after a day"


def _adc(adc: OutputAdc) -> str:
    bits = ", ".join(map(str, adc.bits)) if isinstance(adc.bits, tuple) else str(adc.bits)
    parts = [f"output converters: {bits} bits"]
    if adc.autorange:
        parts.append("range of each sample and layer its own")
    elif adc.low is not None and adc.high is not None:
        parts.append(f"from {adc.low:g} to {adc.high:g}")
    else:
        parts.append("over the range of the activation")
    if adc.differential:
        reach = "" if adc.difference_range is None else f" up to {adc.difference_range:g}"
        parts.append(f"nudged phases as differences to the free one{reach}")
    parts += [f"bent by up to {adc.inl_lsb:g} steps, alike in all phases"] * (adc.inl_lsb > 0)
    parts += [f"offsets of +-{adc.offset_lsb:g} steps"] * (adc.offset_lsb > 0)
    parts += ["dithered"] * adc.dither
    parts += [f"noise of {adc.noise_lsb:g} steps"] * (adc.noise_lsb > 0) + [f"mean of {adc.reads}"] * (adc.reads > 1)
    return ", ".join(parts)


def _rail(rail: SharedRail) -> str:
    one = {"chip": "one for all units", "layer": "one a layer"}[rail.scope]
    parts = [f"shared rails ({one}): inputs fall by {_percent(rail.share)} of the mean activity"]
    parts += [f"readings by {_percent(rail.read_share)}"] * (rail.read_share > 0)
    parts += [f"felt by each unit to within +-{_percent(rail.spread)}: not reciprocal"] * (rail.spread > 0)
    parts += [f"inputs by {rail.nudge_shift:g} while a nudge is on"] * (rail.nudge_shift != 0)
    return ", ".join(parts)


def _nudge(source: NudgeSource) -> str:
    parts = [f"gains +-{_percent(source.gain_std)}"] * (source.gain_std > 0)
    if source.clamp_conductance is not None:
        parts.append(f"clamps hold through {source.clamp_conductance:g} of the output's own conductance")
    if source.offset_mean or source.offset_std:
        parts.append(f"offsets {source.offset_mean:g} +- {source.offset_std:g} while it is on")
    if source.output_conductance:
        parts.append(f"load {source.output_conductance:g} of the output's own leak")
    if source.bits is not None:
        parts.append(f"{source.bits} bits from {source.low:g} to {source.high:g}")
    if source.follows_cells:
        parts.append("drifts with the cells")
    return f"nudge source ({source.mode}): {', '.join(parts) or 'ideal'}"
