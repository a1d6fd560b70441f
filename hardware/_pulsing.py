"""Trains of pulses on the cells of a device: the part of ``Device`` that needs a pulse response."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._cell_draws import CellDraws
from hardware._device_checks import normal, require_conductance, require_counts, require_generator
from hardware._pulse_response import PulseResponse
from hardware._step_laws import Cells, ConstantStep, Frame

_NO_PULSES = PulseResponse(ConstantStep(), step=1.0, w_low=0.0)  # of devices that are written in closed loops alone


class Pulsed:
    """What a ``Device`` does with pulses."""

    name: str
    g_min_siemens: float
    g_max_siemens: float
    pulses: PulseResponse | None

    @property
    def states(self) -> float | None:
        """Number of pulse steps in the range, or None without a pulse response."""
        return None if self.pulses is None else self.pulses.states

    @property
    def frame(self) -> Frame:
        """Where the weights of the pulse response lie on the range of conductances."""
        law = self.pulses or _NO_PULSES
        return law.frame(self.g_min_siemens, self.g_max_siemens)

    def fabricate_cells(
        self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Cells:
        """What chance decides for each cell of an array, on the CPU; ``.to(device)`` moves it.

        A device without a pulse response has cells with the nominal range and steps of 0.
        """
        require_generator(generator)
        like = torch.empty((), dtype=dtype or torch.get_default_dtype())
        cells = (self.pulses or _NO_PULSES).fabricate(tuple(shape), self.frame, generator, like)
        if self.pulses is not None:
            return cells
        none = torch.zeros_like(cells.step_up_siemens)
        return cells._replace(step_up_siemens=none, step_down_siemens=none)

    def pulse(
        self,
        g: Tensor,
        up_counts: Tensor | int,
        down_counts: Tensor | int | None,
        cells: Cells,
        generator: torch.Generator | CellDraws,
        *,
        exact: bool = True,
        most: int | None = None,
    ) -> Tensor:
        """The (hidden) conductance after up pulses, then down pulses, whole numbers a cell.

        Without noise from pulse to pulse, constant, linear and soft-bounded steps have a closed form. Otherwise pulses
        are applied one by one; that is exact, and costs a draw a pulse.

        Args:
            g: conductances, in the shape of the cells.
            up_counts, down_counts: numbers of pulses; None for no down pulses at all.
            cells: from ``fabricate_cells``.
            generator: source of the noise from pulse to pulse.
            exact: where False, and the law has a closed form, all pulses of a direction share one draw with the
                variance of their sum: exact away from the bounds (to first order where the noise follows the step).
            most: largest count, where it is known: without it the device is asked, which waits for an accelerator.

        Raises:
            ConfigError: no pulse response, or down pulses on a one-way device.
            DataError: counts that are negative or not whole, conductances that are not finite.
        """
        require_generator(generator)
        law, frame = self._pulses()
        shape = require_conductance("g", g).shape
        sizes = None if most is None else [len(g) if g.dim() else 1] * most
        up = require_counts("up_counts", up_counts, shape).to(g.device).expand(shape)
        g = law.train(True, g, up, cells, frame, generator, exact, sizes)
        if down_counts is None:
            return g
        down = require_counts("down_counts", down_counts, shape).to(g.device).expand(shape)
        if law.one_way:
            if bool((down > 0).any()):
                raise ConfigError(
                    f"{self.name}: got down pulses, needed up pulses only: pulses move its cells in one direction; use "
                    "a differential pair and write the decrease as up pulses of the other cell, then device.reset() "
                    "both when one is full"
                )
            return g
        return law.train(False, g, down, cells, frame, generator, exact, sizes)

    def apparent(self, g: Tensor, generator: torch.Generator | CellDraws) -> Tensor:
        """What is visible of hidden conductances after they were touched: with write noise, never below 0 S."""
        law, frame = self._pulses()
        if law.write_noise == 0:
            return g
        std = law.write_noise * law.step * frame.unit
        return (g + std * normal(g.shape, require_generator(generator), g)).clamp(min=0.0)

    def reset(self, cells: Cells, generator: torch.Generator) -> Tensor:
        """Conductances after a reset of every cell, within its bounds."""
        law, frame = self._pulses()
        noise = normal(cells.reset_siemens.shape, require_generator(generator), cells.reset_siemens)
        g = cells.reset_siemens + law.reset_noise * frame.unit * noise
        return g.minimum(cells.high_siemens).maximum(cells.low_siemens)

    def symmetry_point_siemens(self, cells: Cells) -> Tensor:
        """Where up and down pulses of a cell are of equal size on average; the bound where there is none."""
        law, frame = self._pulses()
        return law.symmetry_point(cells, frame)

    def response(
        self, pulses: Sequence[int], cells: Cells, generator: torch.Generator, start: Tensor | None = None
    ) -> Tensor:
        """Visible conductances along a train of pulses, ``[len(pulses) + 1, *cells]``.

        Args:
            pulses: how many pulses precede each reading, positive up and negative down.
            cells: from ``fabricate_cells``.
            generator: source of all noise.
            start: hidden conductances at the beginning, the lower bounds where None.
        """
        g = cells.low_siemens if start is None else start
        seen = [self.apparent(g, generator)]
        for count in pulses:
            n = int(count)
            g = self.pulse(g, max(n, 0), None if n >= 0 else -n, cells, generator, most=abs(n))
            seen.append(self.apparent(g, generator))
        return torch.stack(seen)

    def _pulses(self) -> tuple[PulseResponse, Frame]:
        if self.pulses is None:
            raise ConfigError(
                f"{self.name}: got a pulse, needed a device with a pulse response: only closed-loop writes of it are "
                "published; write device.program(g_target, generator), or dataclasses.replace(device, pulses="
                "hardware.device('reram-sb').pulses)"
            )
        return self.pulses, self.frame
