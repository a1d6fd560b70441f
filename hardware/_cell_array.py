"""Memory cells that hold weights, as settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._device_checks import require_flags, require_number, require_whole
from hardware._device_table import device as device_named
from hardware._devices import Device
from hardware._mapping import MAPPINGS
from hardware._printed import Printed
from hardware._streams import require_scope
from hardware._units import ROOM_TEMPERATURE_KELVIN


@dataclass(frozen=True, repr=False)
class CellArray(Printed):
    """Every weight is the difference of two cells, ``W = (g_plus - g_minus) / s``, ``s = (g_max - g_min) / w_max``.

    A weight that changes is written again: its cells are programmed to their new targets, with a new error of the
    write, and their clocks restart; cells whose target stays the same are left alone. The parameter of the network
    stays what it was meant to be, as in a machine that keeps weights in digital memory too; for learning in the cells
    themselves see ``Chip.write_path``. Biases and readouts are digital.

    Attributes:
        device: name (``hardware.DEVICES``) or ``Device``.
        mapping: ``"balanced"``: ``g_plus, g_minus = middle +- s W / 2``; ``"one-sided"``: one of the two at ``g_min``,
            the other carries ``s |W|``. A device whose pulses go one way needs ``"one-sided"``. ``"single"``: one cell
            a parameter, for networks whose parameters are conductances (``ResistiveNetwork``): ``g = W`` in siemens,
            clipped to the range of the device.
        weight_range: ``w_max`` of all connections; None for ``headroom`` times the largest initial weight of each.
        headroom: room for weights to grow, not beside ``weight_range``; those beyond ``w_max`` are clipped.
        g_min_siemens, g_max_siemens: another range than the device's; all its noise goes along.
        levels: targets that a write can have, or None for those of the device.
        programming, drift, read_noise: whether the device's own take part. Closed-loop writes of a device whose pulses
            have write noise end with that (``programming``), as each touch of its cells does.
        read_scope: when read noise is drawn: ``"phase"`` (in each relaxation, see ``read_correlation``), ``"sample"``
            (one for all phases of a pass), ``"write"`` or ``"chip"``; a number a cell, which all samples of a batch
            meet (but see ``input_noise``).
        read_correlation: of scope ``"phase"``, between the phases of a pass, 0 to 1. None for that of the noise: of
            accumulated 1/f noise two phases share what is slower than a phase, ``ReadNoise.correlation`` of
            ``Timing.phase_seconds``; other noise is drawn afresh, 0. Every pass draws both parts anew.
        input_noise: where read noise of scope ``"sample"`` or ``"phase"`` is drawn in dense connections from the
            clamped input. ``"signals"``: a number a unit and sample with the mean and variance that noise of all cells
            gives the unit's input, so that every sample sees its own noise, as samples do that come one after another;
            it is Gaussian, which sums of many cells are. ``"cells"``: a number a cell, the same for all samples of a
            batch, at many times the cost. Elsewhere, and with ``wire_ohms``, noise is on the cells.
        stuck_share: probability that a cell never moves, at a conductance anywhere in the range; None for the device's.
            Stuck cells do not drift; reading them is as noisy as reading others.
        wire_ohms: of a wire between two cells. A cell that is ``n`` wires away from its two drivers acts with ``g / (1
            + g n wire_ohms)``: its own current alone, a lower bound of the loss.

    Raises:
        ConfigError: impossible values, or a device that cannot be written.
    """

    device: str | Device = "pcm"
    mapping: str = "balanced"
    weight_range: float | None = None
    headroom: float = 2.0
    g_min_siemens: float | None = None
    g_max_siemens: float | None = None
    levels: int | None = None
    programming: bool = True
    drift: bool = True
    read_noise: bool = True
    read_scope: str = "phase"
    read_correlation: float | None = None
    input_noise: str = "signals"
    stuck_share: float | None = None
    wire_ohms: float = 0.0

    def __post_init__(self) -> None:
        lookup("CellArray.mapping", self.mapping, MAPPINGS)
        require_flags(self, "programming", "drift", "read_noise")
        if self.weight_range is not None:
            require_number("CellArray.weight_range", self.weight_range, above=0.0)
            if self.headroom != 2.0:
                raise ConfigError(
                    f"CellArray: got headroom={self.headroom!r} beside weight_range={self.weight_range!r}, which alone "
                    "decides; write one of the two"
                )
        require_number("CellArray.headroom", self.headroom, above=0.0)
        require_scope("CellArray.read_scope", self.read_scope, ("chip", "write", "sample", "phase"))
        lookup("CellArray.input_noise", self.input_noise, {"signals": None, "cells": None})
        most = 1.0 if self.read_scope == "phase" else 0.0
        if self.read_correlation is not None:
            require_number("CellArray.read_correlation", self.read_correlation, least=0.0, most=most)
        require_number("CellArray.wire_ohms", self.wire_ohms, least=0.0)
        if self.stuck_share is not None:
            require_number("CellArray.stuck_share", self.stuck_share, least=0.0, most=1.0)
        if self.levels is not None:
            require_whole("CellArray.levels", self.levels, 2)
        made = self.resolved()
        if made.formation is not None:
            raise ConfigError(
                f"CellArray: got device {made.name!r}, whose cells are made at random once, needed one that can be "
                "written; write CellArray(device='pcm')"
            )

    def resolved(self) -> Device:
        """The device with the changes that were asked for."""
        made = device_named(self.device)
        if self.g_min_siemens is not None or self.g_max_siemens is not None:
            low = made.g_min_siemens if self.g_min_siemens is None else self.g_min_siemens
            made = made.rescaled(low, made.g_max_siemens if self.g_max_siemens is None else self.g_max_siemens)
        pulses = made.pulses
        if self.stuck_share is not None and pulses is not None:
            pulses = replace(pulses, stuck_share=0.0)  # those of the array take their place
        return replace(
            made,
            levels=made.levels if self.levels is None else self.levels,
            programming=made.programming if self.programming else None,
            ageing=made.ageing if self.drift else None,
            reading=made.reading if self.read_noise else None,
            pulses=pulses,
        )

    @property
    def changes_between_phases(self) -> bool:
        """Whether two phases see different conductances."""
        made = self.resolved()
        if made.reading is None:
            return made.ageing is not None
        fresh = self.read_scope == "phase" and self.read_correlation != 1.0
        return fresh or made.ageing is not None or made.reading.t_read_seconds is not None  # noise that grows

    def check_temperature(self, kelvin: float) -> None:
        """Raises ConfigError at another temperature than 300 K where the device is known only there."""
        if kelvin != ROOM_TEMPERATURE_KELVIN:
            made = self.resolved()
            made.at_temperature(torch.tensor(made.g_max_siemens), kelvin)
