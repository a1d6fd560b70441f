"""Devices by name.

Numbers are those of the papers named in the notes, as published with the IBM analog hardware acceleration kit (aihwkit)
where a paper has only figures; what a source leaves open is called an assumption.
"""

from __future__ import annotations

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._devices import Device
from hardware._devices_other import capacitor, ecram, idealized, random_switching
from hardware._devices_pcm import hermes_double, hermes_single, pcm
from hardware._devices_reram import reram_array, reram_cmo, reram_es, reram_sb, rram_wan

_DEVICES = {
    made.name: made
    for made in (
        pcm(),
        hermes_single(),
        hermes_double(),
        reram_es(),
        reram_sb(),
        reram_array("reram-array-om", "optimised material", 0.1348, (0.0949, 0.7829, 0.5695, 0.3499, 0.4158, 1.4113)),
        reram_array("reram-array-hfo2", "baseline HfO2", 0.0977, (0.4622, 0.7125, 0.5990, 0.4295, 0.2174, 0.5841)),
        reram_cmo(),
        rram_wan(),
        ecram("ecram", "Tang et al., IEDM (2018), lithium", 0.002, (-0.8276, 1.1724), (0.1153, 0.5085), 0.3),
        ecram("ecram-mo", "Kim et al., IEDM (2019), metal oxide", 2.8214e-4, (-0.8286, 1.1714), (0.4152, 0.7342), 2.0),
        capacitor(),
        idealized(),
        random_switching(),
    )
}
DEVICES: tuple[str, ...] = tuple(_DEVICES)


def device(name: str | Device) -> Device:
    """The device of that name (``hardware.DEVICES``); a ``Device`` passes through, so that users can bring their own.

    =====================  ===========================================================  ==================
    name                   cell                                                         written by
    =====================  ===========================================================  ==================
    ``pcm``                phase-change memory, Nandakumar 2019 and 2020                both, pulses one way
    ``hermes-pcm``         the same on the IBM Hermes chip, one device a cell           closed loop
    ``hermes-pcm-double``  two of them a cell                                           closed loop
    ``reram-es``           filamentary ReRAM, exponential steps                         pulses
    ``reram-sb``           the same, soft bounds                                        pulses
    ``reram-array-om``     ReRAM array, optimised material, with stuck cells            pulses
    ``reram-array-hfo2``   ReRAM array, baseline HfO2: four steps wide                  pulses
    ``reram-cmo``          CMO/HfOx ReRAM, relaxation instead of drift                  closed loop
    ``rram-wan``           ReRAM of Wan 2022, spread after 1 s, 1 d and 2 d             closed loop
    ``ecram``              lithium electrochemical memory                               pulses
    ``ecram-mo``           metal-oxide electrochemical memory                           pulses
    ``capacitor``          capacitor and transistor, leaks                              pulses
    ``idealized``          10,000 constant steps                                        pulses
    ``random-switching``   random breakdown, not writable                               once, at random
    =====================  ===========================================================  ==================

    Raises:
        ConfigError: unknown name, the nearest one is suggested; or no name.
    """
    if not isinstance(name, str | Device):
        raise ConfigError(f"device: got {name!r}, needed a name or a Device; write device='pcm'")
    return name if isinstance(name, Device) else lookup("device", name, _DEVICES)
