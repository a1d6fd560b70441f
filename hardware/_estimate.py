"""Energy and time of an inference and of a training step on a machine, every term shown."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eqprop._adjoint import ImplicitGradient, RecurrentBackprop
from eqprop._averaged import Averaged
from eqprop._backprop import Backprop, TruncatedBPTT
from eqprop._errors import ConfigError
from eqprop._network import Network
from eqprop._rule import Rule
from hardware._chip import Chip
from hardware._converters import OutputAdc
from hardware._cost_constants import CostConstants
from hardware._cost_terms import Cost, Estimate, Term, si
from hardware._device_checks import require_number
from hardware._machine import Machine, machine_of


def estimate(
    network: Network,
    rule: Rule,
    x: Tensor,
    y: Tensor | None = None,
    *,
    pulses_per_cell: float | None = None,
    writes_per_cell: float = 1.0,
    constants: CostConstants = CostConstants(),  # noqa: B008
) -> Estimate:
    """Energy and latency of an inference and a training step, from what the network really does.

    Conductances are those of the cells of a chip (of assumed balanced pairs without one), states those of the free
    equilibria of ``x``, phases those of the rule:

        cells            sum g V^2 t a phase, both cells of a pair; on the way back too, where a connection has one
        input converters one conversion an input and pass; its value is held through the phases
        neurons          static power of every unit while a phase runs
        nudge sources    static power of every output unit while a nudged phase runs
        converters       2^bits steps a conversion (Walden); outputs for an inference, all layers and phases to learn
        digital          a product a weight, sample and phase, which makes the gradient of what was read
        writes           closed-loop writes (pulses and verifying reads), or pulses alone, line by line
        control          clock and decoders, as long as everything takes

    A relaxation is analog, and takes its time whatever number of sweeps simulates it. Samples go one after another;
    all units relax, and all arrays are written, at once; converters are shared. A write takes the time of the lines of
    the largest array, or that of the chip's ``Timing`` where that is longer. The cells of a **convolution** are
    there for every position of the kernel, for all positions relax together: cells, their energy, writes and digital
    products are multiplied by the positions before pooling. A **resistive network** dissipates the power of its own
    node voltages, ``sum g (v_i - v_j)^2``. **Twin arrays** double cells, writes and units; a phase has the power of one
    set, and the first nudged one takes no time of its own, for the free one runs beside it. A readout outside the
    dynamics is digital. What wires and memory for states cost is left out.

    Args:
        network: a network or a chip; it stays as it is.
        rule: with phases that a machine has.
        x: inputs, of a batch ``[batch, *input_shape]``.
        y: labels or targets; zeros where None.
        pulses_per_cell: mean number of pulses on a cell in a training step, as ``path.pulses / steps / cells`` of a
            write path says; None for closed-loop writes.
        writes_per_cell: share of the cells that a step writes in a closed loop.
        constants: what parts cost.

    Raises:
        ConfigError: a rule without phases, negative numbers, or a network that is neither a graph nor resistive.
    """
    require_number("estimate: writes_per_cell", writes_per_cell, least=0.0)
    if pulses_per_cell is not None:
        require_number("estimate: pulses_per_cell", pulses_per_cell, least=0.0)
    passes, inner = 1, rule
    while isinstance(inner, Averaged):
        passes, inner = passes * inner.passes, inner.inner
    if isinstance(inner, Backprop | TruncatedBPTT | ImplicitGradient | RecurrentBackprop):
        raise ConfigError(
            f"estimate: got {type(inner).__name__}, which no physics computes in phases, needed a rule that a machine "
            "runs, as EquilibriumPropagation(beta=0.1)"
        )
    batch, drawn = len(x), copy.deepcopy(inner.state_dict())
    twin = network.clone()
    step = inner.backward(twin, x, torch.zeros(batch, dtype=torch.int64, device=x.device) if y is None else y)
    inner.load_state_dict(drawn)
    nudged = len(step.nudged)
    bench = _Bench(machine_of(twin, step.free.state, step.drive, constants), constants, network)
    inference = bench.run(1, 1, 0, learns=False)
    training = bench.run(batch, passes, nudged, learns=True)
    training += (bench.digital(batch, passes * (1 + nudged)),)
    training += (bench.pulses(pulses_per_cell) if pulses_per_cell is not None else bench.writes(writes_per_cell),)
    return Estimate(
        bench.total("inference of a sample", inference),
        bench.total(f"training step of {batch} samples", training),
        batch,
        passes * (1 + nudged),
        constants,
    )


class _Bench:
    """Terms of a machine.

    Args:
        machine: its parts.
        constants: what they cost.
        network: which may be a chip.
    """

    def __init__(self, machine: Machine, constants: CostConstants, network: Network) -> None:
        self._m, self._c = machine, constants
        substrate = network.substrate if isinstance(network, Chip) else None
        self._phase = constants.phase_seconds if substrate is None else substrate.timing.phase_seconds
        self._write = 0.0 if substrate is None else substrate.timing.write_seconds
        dac = None if substrate is None or substrate.input_dac is None else substrate.input_dac.bits
        self._dac_bits = constants.dac_bits if dac is None else dac
        adc = OutputAdc(constants.adc_bits) if substrate is None or substrate.adc is None else substrate.adc
        self._reads = adc.reads
        self._adc_bits = adc.bits if isinstance(adc.bits, tuple) else (adc.bits,) * len(machine.units)

    def run(self, samples: int, passes: int, nudged: int, *, learns: bool) -> tuple[Term, ...]:
        """Everything that samples need but digital work and writes."""
        m, c, t = self._m, self._c, self._phase
        phases = samples * passes * (1 + nudged)
        # on twin arrays the first nudged phase runs beside the free one
        in_turn = samples * passes * max(nudged, 1) if m.sets > 1 else phases
        inputs = samples * passes * m.inputs
        read = list(zip(m.units, self._adc_bits, strict=True))[0 if learns else -1 :]
        conversions = self._reads * phases * sum(n for n, _ in read)
        steps = self._reads * phases * sum(n * 2.0**bits for n, bits in read)
        # a converter serves its units one after another
        turns = self._reads * min(c.units_per_adc, max(n for n, _ in read))
        units, outputs = sum(m.units), m.units[-1]
        terms = [
            Term(
                "input converters",
                f"{inputs} conversions x 2^{self._dac_bits} x {si(c.dac_joules_per_step, 'J')}",
                inputs,
                inputs * 2.0**self._dac_bits * c.dac_joules_per_step,
                samples * passes * c.dac_seconds,
            ),
            Term(
                "cells",
                f"{m.cells} cells, sum g V^2 = {si(m.cell_watts, 'W')} x {phases} phases of {si(t, 's')}",
                m.cells,
                m.cell_watts * phases * t,
                in_turn * t,
            ),
            Term(
                "neurons",
                f"{units} units x {si(c.neuron_watts, 'W')} x {phases} phases of {si(t, 's')}",
                m.sets * units,
                units * c.neuron_watts * phases * t,
                0.0,
            ),
        ]
        if nudged:
            active = samples * passes * nudged
            terms.append(
                Term(
                    "nudge sources",
                    f"{outputs} sources x {si(c.nudge_watts, 'W')} x {active} nudged phases of {si(t, 's')}",
                    outputs,
                    outputs * c.nudge_watts * active * t,
                    0.0,
                )
            )
        bits = " and ".join(f"2^{b}" for b in sorted({b for _, b in read}))
        terms.append(
            Term(
                "converters",
                f"{conversions} conversions x {bits} x {si(c.adc_joules_per_step, 'J')}",
                conversions,
                steps * c.adc_joules_per_step,
                phases * turns * c.adc_seconds,
            )
        )
        return tuple(terms)

    def digital(self, samples: int, phases: int) -> Term:
        """The gradient of what was read."""
        products = samples * phases * self._m.products
        return Term(
            "digital",
            f"{products} products x {si(self._c.digital_joules_per_mac, 'J')}",
            products,
            products * self._c.digital_joules_per_mac,
            0.0,
        )

    def pulses(self, per_cell: float) -> Term:
        """Pulses on cells, line by line."""
        m, c = self._m, self._c
        pulses = per_cell * m.cells
        trains, each = max(1, math.ceil(per_cell)), c.pulse_seconds
        seconds, time = self._line_by_line(trains, each) if per_cell else (0.0, "")
        one = c.write_volts**2 * m.mean_siemens * c.pulse_seconds
        return Term(
            "pulses",
            f"{pulses:.6g} pulses x V^2 g t = {si(one, 'J')} at {si(c.write_volts, 'V')}{time}",
            pulses,
            pulses * one,
            seconds,
        )

    def writes(self, per_cell: float) -> Term:
        """Closed-loop writes, line by line: cycles of a pulse and a read that verifies it."""
        m, c = self._m, self._c
        writes = per_cell * m.cells
        pulse = c.write_volts**2 * m.mean_siemens * c.pulse_seconds
        look = c.volts_per_unit**2 * m.mean_siemens * c.verify_seconds + 2.0**c.adc_bits * c.adc_joules_per_step
        cycles, each = c.verify_cycles, c.pulse_seconds + c.verify_seconds
        seconds, time = self._line_by_line(cycles, each) if per_cell else (0.0, "")
        return Term(
            "writes",
            f"{writes:.6g} writes x {cycles} cycles of a pulse {si(pulse, 'J')} and a read {si(look, 'J')}{time}",
            writes,
            writes * cycles * (pulse + look),
            seconds,
        )

    def _line_by_line(self, times: int, each: float) -> tuple[float, str]:
        """How long a write takes that visits each line so many times, and in words what was multiplied."""
        seconds = self._m.lines * times * each
        if seconds >= self._write:
            return seconds, f"; {self._m.lines} lines x {times} x {si(each, 's')}"
        return self._write, f"; Timing.write_seconds = {si(self._write, 's')}"

    def total(self, what: str, terms: Sequence[Term]) -> Cost:
        """With the control that runs all the while."""
        seconds = sum(t.seconds for t in terms)
        watts = self._c.control_watts
        control = Term("control", f"{si(watts, 'W')} x {si(seconds, 's')}", 1, watts * seconds, 0.0)
        return Cost(what, (*terms, control))
