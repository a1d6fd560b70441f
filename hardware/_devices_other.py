"""Electrochemical memory, capacitors, idealised cells and random switching: published parameters, with sources."""

from __future__ import annotations

from dataclasses import replace

from hardware._ageing import Leak
from hardware._curves import constant
from hardware._device_noise import RandomFormation, ReadNoise
from hardware._devices import Device
from hardware._published import pulsed
from hardware._pulse_response import PulseResponse
from hardware._step_laws import ConstantStep, LinearStep
from hardware._units import MICROSIEMENS

_GOKMEN = "Gokmen & Vlasov, Front. Neurosci. 10, 333 (2016)"


def ecram(
    name: str, note: str, step: float, bounds: tuple[float, float], slopes: tuple[float, float], noise: float
) -> Device:
    return pulsed(
        name,
        f"{note}; fit of aihwkit, shifted so that the symmetry point is at weight zero",
        PulseResponse(
            LinearStep(*slopes, spread=0.05),
            step=step,
            w_low=bounds[0],
            w_high=bounds[1],
            step_spread=0.1,
            asymmetry_spread=0.01,
            low_spread=0.05,
            high_spread=0.05,
            noise=noise,
            noise_follows_step=True,
        ),
    )


def capacitor() -> Device:
    note = "Li et al., VLSI (2018); fit of aihwkit"
    made = pulsed(
        "capacitor",
        note,
        PulseResponse(
            LinearStep(0.05, 0.05, spread=0.01),
            step=0.005,
            step_spread=0.1,
            asymmetry_spread=0.06,
            low_spread=0.07,
            high_spread=0.07,
            noise=0.3,
        ),
    )
    leak = "time constant published as 1e6 mini-batches; taken as 1 s, that is 1 us a mini-batch: an assumption"
    return replace(made, ageing=Leak(1.0, 0.3, 0.5, f"{note}; {leak}"))


def idealized() -> Device:
    return pulsed(
        "idealized",
        f"{_GOKMEN}, with 10,000 states and symmetric steps as in Rasch et al., IEEE Design & Test (2019)",
        PulseResponse(ConstantStep(), step=0.0002, step_spread=0.3, low_spread=0.3, high_spread=0.3, noise=0.3),
    )


def random_switching() -> Device:
    return Device(
        "random-switching",
        0.1 * MICROSIEMENS,
        300.0 * MICROSIEMENS,
        reading=ReadNoise(constant(0.02), note="multiplicative, drawn at every access: 2 %"),
        formation=RandomFormation(
            share=0.5,
            mean_siemens=142.473 * MICROSIEMENS,
            std_siemens=24.624 * MICROSIEMENS,
            pristine_siemens=0.1 * MICROSIEMENS,
            note="N(14.2473, 2.4624) without a unit; the share is a free parameter, set by the voltage",
        ),
        note=(
            "stochastic dielectric breakdown, Wang et al., Nat. Mach. Intell. (2023), the process of the liquid state "
            "machine of Lin et al., Nat. Comput. Sci. (2025); unit assumed to be 10 uS, the smallest decade in which a "
            "formed cell is below the 20 kOhm that define it; pristine cells about 10 MOhm"
        ),
    )
