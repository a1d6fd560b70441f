"""Equilibria as the converters behind the layers read them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from eqprop._network import Network, State
from hardware._converters import OutputAdc, Read, Transfer, power_of_two_above
from hardware._streams import Streams

_MOST_CLIPPED = 0.05  # share of the values of a layer, from which on it is told


class Reading:
    """The converters of a chip, and what their capacitors hold of the free equilibrium.

    Args:
        adc: settings.
        network: whose layers are read.
        streams: of the chip.
    """

    def __init__(self, adc: OutputAdc, network: Network, streams: Streams) -> None:
        self._adc, self._streams = adc, streams
        self._layers = adc.layers(network.names, tuple(a.bounds for a in network.activations))
        self._names = network.names
        self._shapes = network.shapes
        self._transfers: dict[int, tuple[Tensor, Transfer | None]] = {}
        self._told: set[tuple[int, bool]] = set()  # layers whose clipping was told, and whether of differences
        self._free: State | None = None  # held, and as it was read
        self._seen: State | None = None

    def read(self, state: State, phase: int, keys: Tensor, moment: tuple[int, ...]) -> State:
        """``state`` as read; that of phase 0 is held for the differences of the others."""
        free, paired = self._free, False
        if phase == 0 or free is None or len(state[0]) % len(free[0]):
            free = None
        else:
            paired = len(state[0]) == 2 * len(free[0])
        seen = tuple(self._layer(l, s, free, keys, moment, paired) for l, s in enumerate(state))
        if phase == 0:
            self._free, self._seen = state, seen
        return seen

    def _layer(
        self, l: int, s: Tensor, free: State | None, keys: Tensor, moment: tuple[int, ...], paired: bool
    ) -> Tensor:
        adc, (bits, bounds) = self._adc, self._layers[l]
        at = Read(f"adc/{self._names[l]}", moment, keys)
        transfer = self._transfer(l, s)
        if adc.differential and free is not None and self._seen is not None:
            held, base = (_lifted(v[l], len(s), paired) for v in (free, self._seen))
            change = s - held
            reach = power_of_two_above(change) if adc.autorange else adc.difference_range or 0.0
            if isinstance(reach, float):
                self._tell_clipping(l, change, -reach, reach, bits, differences=True)
            return base + adc.read(change, -reach, reach, bits, self._streams, at, transfer)
        if adc.autorange:
            reference = s if free is None else _lifted(free[l], len(s), False)
            high = power_of_two_above(reference)
            signed = bounds is None or bounds[0] < 0 or paired
            low = -high if signed else torch.zeros_like(high)
            return adc.read(s, low, high, bits, self._streams, at, transfer)
        least, most = bounds or (0.0, 1.0)
        if not paired:
            self._tell_clipping(l, s, least, most, bits, differences=False)
            return adc.read(s, least, most, bits, self._streams, at, transfer)
        centre = s.new_zeros(len(s), *[1] * (s.dim() - 1))
        centre[len(s) // 2 :] = -0.5 * (most + least)  # imaginary parts are centred at 0
        return adc.read(s, centre + least, centre + most, bits, self._streams, at, transfer)

    def _tell_clipping(self, l: int, s: Tensor, low: float, high: float, bits: int, *, differences: bool) -> None:
        """Warn once of a layer that a fixed range does not hold; on the CPU, where looking costs no wait."""
        if s.device.type != "cpu" or s.is_complex() or not s.numel() or (l, differences) in self._told:
            return
        slack = 0.5 * (high - low) / ((1 << bits) - 1)  # which rounding may cost anyway
        share = float(((s < low - slack) | (s > high + slack)).double().mean())
        if share <= _MOST_CLIPPED:
            return
        self._told.add((l, differences))
        least, most = (float(v) for v in torch.aminmax(s))
        if differences:
            what, remedy = "differences", f"OutputAdc(difference_range={max(-least, most):.2g})"
        else:
            what, remedy = "values", f"OutputAdc(low={min(least, low):.2g}, high={max(most, high):.2g})"
        warnings.warn(
            f"output converter: {100 * share:.0f} % of the {what} of layer {self._names[l]!r} lie outside its range, "
            f"{low:g} to {high:g}, and are clipped (they reach from {least:.3g} to {most:.3g}); write {remedy}, or "
            "autorange=True",
            RuntimeWarning,
            stacklevel=5,
        )

    def _transfer(self, l: int, like: Tensor) -> Transfer | None:
        """What is wrong with the layer's converters, drawn at its first read."""
        kept = self._transfers.get(l)
        if kept is None or (kept[0].dtype, kept[0].device) != (like.dtype, like.device):
            made = self._adc.transfer(self._names[l], self._shapes[l], self._streams, like)
            kept = self._transfers[l] = (like.new_empty(0), made)
        return kept[1]


def _lifted(free: Tensor, rows: int, paired: bool) -> Tensor:
    """The free state for so many rows: copies of it, or real parts over zeros."""
    copies = rows // len(free)
    if copies == 1:
        return free
    return torch.cat([free, torch.zeros_like(free)]) if paired else torch.cat([free] * copies)
