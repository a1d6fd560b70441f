"""Phase-change memory: published parameters, with their sources."""

from __future__ import annotations

from hardware._ageing import PowerLawDrift
from hardware._curves import ClippedLog, InversePower, Polynomial, Split
from hardware._device_noise import Activation, ProgrammingNoise, ReadNoise
from hardware._devices import Device
from hardware._published import relative
from hardware._pulse_response import PulseResponse
from hardware._step_laws import ExponentialStep
from hardware._units import MICROSIEMENS

_NANDAKUMAR_2019 = "Nandakumar et al., ICECS (2019), PCM of Ge2Sb2Te5"
_HERMES = "Le Gallo et al., Nat. Electron. 6, 680 (2023); fit of aihwkit"


def pcm() -> Device:
    return Device(
        "pcm",
        0.0,
        25.0 * MICROSIEMENS,
        programming=ProgrammingNoise(relative((0.26348, 1.9650, -1.1731), 25.0), note=_NANDAKUMAR_2019),
        ageing=PowerLawDrift(
            ClippedLog(-0.0155, 0.0244, 0.049, 0.1), ClippedLog(-0.0125, -0.0059, 0.008, 0.045), _NANDAKUMAR_2019
        ),
        reading=ReadNoise(InversePower(0.0088, 0.65, 1e-3, 0.2), t_read_seconds=250e-9, note=_NANDAKUMAR_2019),
        activation=Activation(
            ClippedLog(-0.045, 0.0844, 0.10, 0.23), note="mean E_a of aihwkit's PCM tutorial, IEDM (2021) 28.3"
        ),
        pulses=PulseResponse(
            ExponentialStep(-1.0, 0.0, amplitude_up=-27.235, amplitude_down=-2.235, gamma_up=2.5, gamma_down=2.5),
            step=0.01,
            w_low=0.0,
            w_high=2.0,
            step_spread=0.2,
            asymmetry_spread=0.05,
            high_spread=0.1,
            noise=0.6,
            noise_follows_step=True,
            noise_floor=0.042,
            noise_slope=0.108,
            one_way=True,
            reset=0.01,
            reset_spread=0.02,
            reset_noise=0.01,
            note="Nandakumar et al., Front. Neurosci. 14, 406 (2020); fit of aihwkit",
        ),
        first_read_seconds=20.0,
        note=f"{_NANDAKUMAR_2019}; range of weights 0..2 of the pulse response taken as 0..25 uS",
    )


def _hermes(name: str, g_max: float, programming: tuple[float, ...], nu_std: Split, q: Split, first: float) -> Device:
    nu_mean = Split(0.0945, ClippedLog(-0.0387, -0.0182, 0.072, 0.13), Polynomial((0.0736, -0.0126, -0.0436)))
    return Device(
        name,
        0.0,
        g_max * MICROSIEMENS,
        programming=ProgrammingNoise(relative(programming, g_max), note=_HERMES),
        ageing=PowerLawDrift(nu_mean, nu_std, _HERMES),
        reading=ReadNoise(q, t_read_seconds=512e-9, note=_HERMES),
        first_read_seconds=first,
        note=f"{_HERMES}; closed-loop writes only: no pulse response published with the fit",
    )


def hermes_single() -> Device:
    return _hermes(
        "hermes-pcm",
        10.35,
        (0.15781817, 2.32443916, -2.16310839, 0.68841818),
        Split(0.3039, ClippedLog(-0.0120, -0.0023, 0.0124, 0.04), Polynomial((0.0104, 0.0116, -0.0165))),
        Split(0.1591, ClippedLog(-0.0078, 0.0038, 0.0179, 0.04), Polynomial((0.0088, 0.0768, -0.1352, 0.0664))),
        200.0,
    )


def hermes_double() -> Device:
    return _hermes(
        "hermes-pcm-double",
        20.7,
        (0.16603222, 4.71806468, -8.48101252, 4.68961419),
        Split(0.3055, ClippedLog(-0.0117, -0.0057, 0.0091, 0.04), Polynomial((0.0073, 0.0093, -0.0118))),
        Split(0.16, ClippedLog(-0.0117, -0.0069, 0.015, 0.04), Polynomial((0.0123, 0.0211, -0.0280, 0.0069))),
        300.0,
    )
