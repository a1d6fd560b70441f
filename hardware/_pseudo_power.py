"""The energy of a circuit, its pseudo-power, and the derivatives by conductances from which it learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError
from eqprop._network import Drive, Phase, State
from hardware import _resistors
from hardware._circuit import RAILS, Circuit


class PowerCircuit(Circuit):
    """A circuit with its pseudo-power as energy, see ``hardware.ResistiveNetwork``."""

    has_energy = True
    tied = True
    connections: nn.ParameterDict

    def energy(self, state: State, drive: Drive) -> Tensor:
        """``E`` a sample, watts, ``[batch]``: half the power that all resistors dissipate."""
        x = drive.x * self.input_volts
        total = x.new_zeros(len(x))
        for key, tail, head in self._banks:
            g = self.conductance(f"connections.{key}")
            p = torch.cat([s * x for s in self._signs], 1) if tail == -1 else self._gains[tail] * state[tail]
            total = total + self._scales[head] * _resistors.power(g, p, state[head])
        for name in self.biases:
            l, p = self.names.index(name), self._bias_volts * x.new_tensor([RAILS]).expand(len(x), -1)
            total = total + self._scales[l] * _resistors.power(self.conductance(f"biases.{name}"), p, state[l])
        return total

    def phi(self, state: State, drive: Drive) -> Tensor:
        total = -self.energy(state, drive)
        for s, g in zip(state, self.node_siemens(), strict=True):
            total = total + 0.5 * ((s * s) @ g.detach())
        return total

    def add_contrast_gradient(self, phases: Sequence[Phase], x: Tensor) -> None:
        if any(phase.paired for phase in phases):
            raise ConfigError("ResistiveNetwork: got a complex nudge, needed a real one; write contour='centred'")
        summed = self.response(phases)
        own = [
            torch.stack([p.weights @ (p.points[l] * p.points[l]) for p in phases]).sum(0) for l in range(len(summed))
        ]
        weight = torch.stack([p.weights.unflatten(0, (p.folds, -1)).sum(0) for p in phases]).sum(0)
        for key, tail, head in self._banks:
            if tail == -1:
                volts = x * self.input_volts
                g = _resistors.source_power_gradient(volts, self._signs, summed[head], own[head], weight)
                _accumulate(self.connections[key], g, self._scales[head])
                continue
            for p in phases:
                g = _resistors.power_gradient(self._gains[tail] * p.points[tail], p.points[head], p.weights)
                _accumulate(self.connections[key], g, self._scales[head])
        rail = x.new_full((len(x), 1), self._bias_volts)
        for name, bias in self.biases.items():
            l = self.names.index(name)
            g = _resistors.source_power_gradient(rail, RAILS, summed[l], own[l], weight)
            _accumulate(bias, g, self._scales[l])

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        # inputs less G v, the net currents: what their derivative by a conductance is, see new_cache
        for key, tail, head in self._banks:
            q, d = state[head], direction[head]
            if tail == -1:
                g = _resistors.source_current_gradient(x * self.input_volts, self._signs, q, d)
            else:
                ahead, back = self._ways(tail)
                p = ahead * state[tail]
                g = _resistors.current_gradient(p, q, d) + _resistors.current_gradient(q, p, back * direction[tail]).mT
            _accumulate(self.connections[key], g, self._scales[head])
        rail = x.new_full((len(x), 1), self._bias_volts)
        for name, bias in self.biases.items():
            l = self.names.index(name)
            g = _resistors.source_current_gradient(rail, RAILS, state[l], direction[l])
            _accumulate(bias, g, self._scales[l])


def _accumulate(parameter: Tensor, gradient: Tensor, scale: float) -> None:
    if not parameter.requires_grad:
        return
    gradient = gradient if scale == 1.0 else gradient.mul_(scale)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
