"""What parts of a machine cost, each number declared with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from hardware._device_checks import require_number, require_whole
from hardware._json import from_spec, to_spec
from hardware._printed import Printed


@dataclass(frozen=True, repr=False)
class CostConstants(Printed):
    """Energies, powers and times of the parts of a machine, for ``hardware.estimate``.

    Most are assumptions: what they are worth is that they are declared, and can be replaced. ``NOTES`` says of each
    where it comes from; ``CostConstants().describe()`` prints all.

    Attributes:
        volts_per_unit: voltage across a cell that stands for a state of 1; a resistive network has its own voltages.
        phase_seconds: one relaxation, where the network is not on a chip (which has its ``Timing``).
        g_min_siemens, g_max_siemens: range of balanced pairs, where the network has no cells.
        dac_bits, dac_joules_per_step, dac_seconds: of an input converter: ``2^bits`` steps; time of a conversion.
        adc_bits, adc_joules_per_step, adc_seconds: of an output converter: Walden's figure of merit, ``2^bits`` steps.
        units_per_adc: units that share a converter, one after another.
        neuron_watts: static power of a neuron or amplifier, while phases run.
        nudge_watts: static power of a nudge source, an output each, while nudged phases run.
        write_volts, pulse_seconds: of a pulse on a cell.
        verify_cycles, verify_seconds: of a closed-loop write: pulses with a read after each.
        digital_joules_per_mac: of the multiplications that make gradients of states that were read.
        control_watts: clock, decoders and control, all the time.

    Raises:
        ConfigError: negative numbers, zero bits.
    """

    volts_per_unit: float = 0.2
    phase_seconds: float = 1e-6
    g_min_siemens: float = 5e-6
    g_max_siemens: float = 15e-6
    dac_bits: int = 8
    dac_joules_per_step: float = 1e-15
    dac_seconds: float = 1e-8
    adc_bits: int = 8
    adc_joules_per_step: float = 5e-14
    adc_seconds: float = 1e-7
    units_per_adc: int = 8
    neuron_watts: float = 1e-6
    nudge_watts: float = 1e-6
    write_volts: float = 2.0
    pulse_seconds: float = 1e-7
    verify_cycles: int = 5
    verify_seconds: float = 1e-7
    digital_joules_per_mac: float = 3e-13
    control_watts: float = 1e-4

    NOTES: ClassVar[dict[str, str]] = {
        "volts_per_unit": "assumption: simulators of crossbars read at 0.1 V (CrossSim) to 0.4 V (aihwkit)",
        "phase_seconds": "assumption, the default of hardware.Timing",
        "g_min_siemens": "assumption, as of the pulsed devices of hardware.DEVICES",
        "g_max_siemens": "assumption, as of the pulsed devices of hardware.DEVICES",
        "dac_bits": "assumption, the default of hardware.InputDac",
        "dac_joules_per_step": "assumption: a capacitor of 1 fF a step, charged to 1 V",
        "dac_seconds": "assumption: 100 million conversions a second",
        "adc_bits": "assumption, the default of hardware.OutputAdc",
        "adc_joules_per_step": "figure of merit of Walden 1999, energy / 2^bits; 50 fJ is an assumption, well above "
        "the best published converters and of the order of compact ones",
        "adc_seconds": "assumption: 10 million conversions a second",
        "units_per_adc": "assumption",
        "neuron_watts": "assumption: 1 uA at 1 V",
        "nudge_watts": "assumption: 1 uA at 1 V",
        "write_volts": "assumption for resistive memory",
        "pulse_seconds": "assumption for resistive memory",
        "verify_cycles": "assumption: mean number of write-verify cycles",
        "verify_seconds": "assumption",
        "digital_joules_per_mac": "8-bit product 0.2 pJ and 32-bit sum 0.1 pJ at 45 nm, Horowitz 2014 (ISSCC)",
        "control_watts": "assumption",
    }

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(f.default, int):
                require_whole(f"CostConstants.{f.name}", value, 1)
            else:
                require_number(f"CostConstants.{f.name}", value, least=0.0)
        require_number("CostConstants.g_max_siemens", self.g_max_siemens, above=self.g_min_siemens)

    def describe(self) -> str:
        """Every constant with its note, a line each."""
        width = max(len(f.name) for f in fields(self))
        return "\n".join(f"{f.name:{width}}  {getattr(self, f.name):<8g} {self.NOTES[f.name]}" for f in fields(self))

    def spec(self) -> dict[str, object]:
        """JSON-serialisable description."""
        described: dict[str, object] = to_spec(self)
        return described

    @staticmethod
    def from_spec(spec: dict[str, object]) -> CostConstants:
        """The constants that ``spec`` described.

        Raises:
            ConfigError: an unknown field, or values that are refused.
        """
        return from_spec(spec, CostConstants, {"CostConstants": CostConstants})
