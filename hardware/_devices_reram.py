"""Resistive (filamentary oxide) memory: published parameters, with their sources."""

from __future__ import annotations

import math

from eqprop._names import lookup
from hardware._ageing import LogRelaxation, TabulatedRelaxation
from hardware._curves import ClippedLog, Polynomial, constant
from hardware._device_noise import ProgrammingNoise, ReadNoise
from hardware._devices import Device
from hardware._published import pulsed, relative
from hardware._pulse_response import PulseResponse
from hardware._step_laws import ExponentialStep, SoftBounds
from hardware._units import DAY_SECONDS, MICROSIEMENS

_GONG_2018 = "Gong et al., Nat. Commun. 9, 2102 (2018)"
_GONG_2022 = "Gong, Rasch et al., IEDM (2022)"
_WAN = "Wan et al., Nature 608, 504 (2022); fit of aihwkit to published figures"
_CMO = "Falcone et al., analog filamentary CMO/HfOx ReRAM, IBM Zurich; fit of aihwkit"


def rram_wan() -> Device:
    # in uS at a g_max of 40 uS, which is therefore the g_max of the device; `rescaled` keeps the share
    one_second = relative((0.348, 16.030, -43.853, 45.393, -16.815), 40.0)
    one_day = relative((0.701, 22.086, -50.773, 47.095, -16.458), 40.0)
    two_days = relative((0.782, 20.274, -43.507, 37.062, -11.934), 40.0)
    return Device(
        "rram-wan",
        0.0,
        40.0 * MICROSIEMENS,
        programming=ProgrammingNoise(one_second, note=_WAN),
        ageing=TabulatedRelaxation((1.0, DAY_SECONDS, 2 * DAY_SECONDS), (one_second, one_day, two_days), _WAN),
        reading=ReadNoise(constant(0.01), relative=False, note="about 1 % of g_max a read, docstring of aihwkit"),
        note=f"{_WAN}; between the measured times linear in ln t, later constant",
    )


def reram_cmo() -> Device:
    g_max, k = 88.199997, 0.0277316483
    lowest = k * math.log10(9.0) / g_max
    return Device(
        "reram-cmo",
        9.0 * MICROSIEMENS,
        g_max * MICROSIEMENS,
        # published as c0 + c1 g in uS for an acceptance range of 2 % of the target
        programming=ProgrammingNoise(
            Polynomial((0.0112185391 / g_max, 0.01129027418)), note=f"{_CMO}; acceptance range 2 %, see cmo_programming"
        ),
        ageing=LogRelaxation(-0.08900206 / g_max, 0.41183342 / g_max, 0.04201137 / g_max, _CMO),
        # published as K log10(g / uS) uS; written with ln x, and held at its value at g_min below g_min
        reading=ReadNoise(
            ClippedLog(k / math.log(10) / g_max, k * math.log10(g_max) / g_max, lowest, 1.0),
            relative=False,
            t_read_seconds=1e-6,
            note=_CMO,
        ),
        hard_range=True,
        note=f"{_CMO}; one device a weight",
    )


def cmo_programming(acceptance_percent: float) -> ProgrammingNoise:
    """Programming noise of ``reram-cmo`` for the two published acceptance ranges of its write-verify loop.

    Write ``dataclasses.replace(device("reram-cmo"), programming=cmo_programming(0.2))`` for the finer one.

    Raises:
        ConfigError: another range than 0.2 or 2 percent.
    """
    table = {"0.2": (0.00081107, 0.00106879), "2": (0.0112185391, 0.01129027418)}
    c0, c1 = lookup("acceptance_percent (of the target, in percent)", f"{acceptance_percent:g}", table)
    return ProgrammingNoise(Polynomial((c0 / 88.199997, c1)), note=f"{_CMO}; acceptance range {acceptance_percent:g} %")


def reram_es() -> Device:
    note = (
        f"{_GONG_2018}; fit of aihwkit, whose code makes down steps smaller by up_down=0.259 and leaves up steps "
        "alone, as here (its documentation says that both change)"
    )
    law = ExponentialStep(-0.5, -0.5, amplitude_up=-1.18445, amplitude_down=-0.081404, gamma_up=5.0, gamma_down=5.0)
    return pulsed(
        "reram-es",
        note,
        PulseResponse(
            law,
            step=0.00135,
            step_spread=0.2,
            asymmetry=0.259359,
            asymmetry_spread=0.05,
            low_spread=0.3,
            high_spread=0.3,
            noise=5.0,
            noise_follows_step=True,
            write_noise=75.0,
        ),
    )


def reram_sb() -> Device:
    return pulsed(
        "reram-sb",
        f"{_GONG_2018}; loose fit of aihwkit, shifted so that the symmetry point is at weight zero",
        PulseResponse(
            SoftBounds(),
            step=0.002,
            w_low=-0.75,
            w_high=1.25,
            step_spread=0.3,
            asymmetry_spread=0.01,
            low_spread=0.3 / 0.75,
            high_spread=0.3 / 1.25,
            noise=3.75,
            write_noise=56.0,
        ),
    )


def reram_array(name: str, material: str, stuck: float, values: tuple[float, ...]) -> Device:
    step, spread, low, high, noise, write_noise = values
    return pulsed(
        name,
        f"{_GONG_2022}, {material}; stuck share as measured (0 by default in aihwkit); reference cells, which pairs "
        "of cells do without, at the symmetry point within 5 % of the half range",
        PulseResponse(
            SoftBounds(),
            step=step,
            step_spread=spread,
            log_normal=True,
            asymmetry_spread=0.01,
            low_spread=low,
            high_spread=high,
            noise=noise,
            write_noise=write_noise,
            stuck_share=stuck,
            stuck_low=-0.01,
            stuck_high=0.01,
            reference_spread=0.05,
        ),
    )
