"""A circuit of resistors, diodes and sources as dynamics: its node voltages settle, a layer of nodes at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqprop._activations import Activation
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._network import Cache, Drive, Network, State, System
from eqprop._nudge import CostNudge
from hardware import _resistors
from hardware._nodes import Law, Limits, Nodes, inverse
from hardware._nudge_conductance import NudgeConductance
from hardware._wiring import Bank

RAILS = (1.0, -1.0)


class _Operands(NamedTuple):
    """What a relaxation needs, prepared once: see ``Circuit.new_cache``."""

    incoming: tuple[tuple[tuple[int, Tensor], ...], ...]  # per layer: (layer at the other end, [its units, units])
    resistance: tuple[Tensor, ...]
    residue: tuple[Tensor, ...] | None
    precision: torch.dtype | None


class Circuit(Network):
    """Dynamics of a resistive network at given conductances, see ``hardware.ResistiveNetwork``, which builds one."""

    affine = True
    nodes: Mapping[str, Nodes]
    biases: nn.ParameterDict
    input_volts: float
    rail_volts: float | None
    _signs: tuple[float, ...]  # of the copies of the input
    _banks: tuple[Bank, ...]
    _gains: tuple[float, ...]  # of the amplifiers behind the layers
    _scales: tuple[float, ...]  # of the layers' powers in the energy

    # -- conductances --------------------------------------------------------------------------------------------------

    def conductance(self, name: str) -> Tensor:
        """The conductances that act under a parameter's name, ``[heads, tails]`` in siemens; here the parameter itself.

        ``"connections.input-hidden1"`` has a column a source: all of ``+x``, then all of ``-x``.
        ``"biases.hidden1"`` has one for each rail, plus and minus.
        """
        return self.get_parameter(name)

    def node_siemens(self) -> tuple[Tensor, ...]:
        """Total conductance ``G`` at every node, ``[units]`` a layer (with amplifiers: referred to the output)."""
        like = next(self.parameters())
        totals = [like.new_zeros(shape) for shape in self.shapes]
        for key, tail, head in self._banks:
            g = self.conductance(f"connections.{key}")
            totals[head] = totals[head] + self._scales[head] * g.sum(1)
            if tail != -1:
                ahead, back = self._ways(tail)
                totals[tail] = totals[tail] + self._scales[head] * (ahead * back) * g.sum(0)
        for name in self.biases:
            l = self.names.index(name)
            totals[l] = totals[l] + self._scales[l] * self.conductance(f"biases.{name}").sum(1)
        return tuple(totals)

    def _check_conductances(self) -> None:
        for name, _ in self.named_parameters():
            lowest = float(self.conductance(name).detach().min())
            if not lowest >= 0.0:
                raise ConfigError(
                    f"{name}: got a conductance of {lowest:g} S, needed 0 or more; write network.project() after every "
                    "optimizer.step(), or network.project_after(optimizer) once"
                )
        for name, total in zip(self.names, self.node_siemens(), strict=True):
            if not float(total.detach().min()) > 0.0:
                floating = torch.nonzero(total.detach() == 0.0).flatten().tolist()
                raise ConfigError(
                    f"layer {name!r}: nodes {floating[:8]} float: got conductances that are all 0 S, needed one above; "
                    "write g_min_siemens=1e-9, or network.project()"
                )

    # -- dynamics ------------------------------------------------------------------------------------------------------

    @property
    def activations(self) -> tuple[Activation, ...]:
        """``clip(z / G, low, high)`` of every layer, at the present conductances (which it is not differentiated by:
        ``inputs`` are, in its place)."""
        return tuple(
            Law(lambda l=l: self.node_siemens()[l], self._limits(l)).activation()  # type: ignore[misc]
            for l in range(len(self.names))
        )

    @activations.setter
    def activations(self, value: tuple[Activation, ...]) -> None:
        """What ``Network`` sets is replaced."""

    def _limits(self, layer: int) -> Limits | None:
        diodes = self.nodes[self.names[layer]].diodes
        if isinstance(diodes, tuple):
            return diodes
        return None if diodes == "none" else (getattr(self, f"_low{layer}"), getattr(self, f"_high{layer}"))

    def drive(self, x: Tensor) -> Drive:
        x = self.clamped(x)
        if x.device.type == "cpu":
            self._check_conductances()
        terms = [x.new_zeros(shape) for shape in self.shapes]
        for name in self.biases:
            l = self.names.index(name)
            rails = _resistors.signed(self.conductance(f"biases.{name}"), RAILS)
            terms[l] = (self._scales[l] * self._bias_volts) * rails[:, 0]
        for key, tail, head in self._banks:
            if tail == -1:
                weight = _resistors.signed(self.conductance(f"connections.{key}"), self._signs)
                terms[head] = terms[head] + torch.mm(x * (self._scales[head] * self.input_volts), weight.mT)
        return Drive(tuple(terms), x)

    @property
    def _bias_volts(self) -> float:
        return 0.0 if self.rail_volts is None else float(self.rail_volts)

    def _ways(self, layer: int) -> tuple[float | Tensor, float | Tensor]:
        """Gains of the amplifiers behind a layer on the way there, and of the current that they draw on the way back;
        numbers, or ``[units]``. One and the same, or the circuit is not reciprocal."""
        return self._gains[layer], self._gains[layer]

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache(self._operands(products))

    def _operands(self, products: torch.dtype | None = None, transposed: bool = False) -> _Operands:
        incoming, precision = self._incoming(products, transposed)
        total = self.node_siemens()
        # the activation divides by a constant; what a node's own conductances do is a term of the inputs that is zero
        # in value and -v dG in its derivative
        residue = tuple(t.detach() - t for t in total) if torch.is_grad_enabled() else None
        resistance = tuple(inverse(t.detach()) for t in total)
        return _Operands(incoming, resistance, residue, precision)

    def _incoming(
        self, products: torch.dtype | None, transposed: bool
    ) -> tuple[tuple[tuple[tuple[int, Tensor], ...], ...], torch.dtype | None]:
        """Per layer, where its current comes from; and the precision of these products where it is another."""
        incoming: list[list[tuple[int, Tensor]]] = [[] for _ in self.names]
        precision = None
        for key, tail, head in self._banks:
            if tail == -1:
                continue
            g, (ahead, back) = self.conductance(f"connections.{key}"), self._ways(tail)
            if products is not None and products != g.dtype:
                precision = products
            there = _scaled(g, self._scales[head] * ahead, precision)
            here = there if back is ahead else _scaled(g, self._scales[head] * back, precision)
            there, here = (here, there) if transposed else (there, here)
            incoming[head].append((tail, there.mT))
            incoming[tail].append((head, here))
        return tuple(tuple(s) for s in incoming), precision

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        operands: _Operands = cache.content
        return [_product(operands, state, drive.terms[l], l) for l in block]

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        operands: _Operands = cache.content
        if isinstance(nudge, CostNudge) and isinstance(nudge.cost, SquaredError):
            nudge = NudgeConductance(nudge)
        new = []
        for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True):
            if nudge is None or l not in nudge.layers:
                limits, z = self._limits(l), z.mul_(operands.resistance[l])
                new.append(z if limits is None else z.clamp_(*limits))
            elif isinstance(nudge, NudgeConductance):
                new.append(nudge.settle(z, operands.resistance[l]))
            else:
                ohms = operands.resistance[l]
                law = Law(lambda ohms=ohms: inverse(ohms), self._limits(l))  # type: ignore[misc]
                new.append(nudge.apply(l, z, state[l], law.activation()))
        return tuple(new)

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        raise ConfigError(
            f"Langevin: got a {type(self).__name__} without thermal noise, needed nodes with a capacitance and noisy "
            "resistors; write Substrate(thermal=ThermalNoise(capacitance_farads=1e-12)).fabricate(network)"
        )

    def within(self, layer: int, s: Tensor) -> Tensor:
        limits = self._limits(layer)
        return s if limits is None else s.clamp(*limits)

    def tangent(self, state: State, drive: Drive, *, transpose: bool) -> Callable[[State], State]:
        operands = self._operands(transposed=transpose)  # the same at every state
        layers = range(len(self.names))
        return lambda vector: tuple(_product(operands, vector, vector[l].new_zeros(()), l) for l in layers)

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=True)(vector)

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=False)(vector)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        if any(ahead is not back for ahead, back in map(self._ways, range(len(self.names)))):
            return super().adjoint_dynamics(state, drive)
        # inputs are affine with a symmetric matrix (reciprocity): z_0 + H^T (s - s_0) are the inputs themselves
        return self, drive

    # -- diagnostics ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def net_currents(self, state: State, drive: Drive) -> State:
        """Current into every node through its resistors, amperes, ``[batch, units]`` a layer: what its diodes and its
        nudge must carry away."""
        z, total = self.inputs(state, drive), self.node_siemens()
        return tuple((i - g * v) / k for i, g, v, k in zip(z, total, state, self._scales, strict=True))

    @torch.no_grad()
    def kcl_residual(self, state: State, drive: Drive, nudge: CostNudge | None = None) -> Tensor:
        """How far Kirchhoff's current law is from holding: the largest net current of a node that no diode can carry,
        amperes, ``[batch]``.

        Args:
            state: node voltages; those of a nudged equilibrium with its ``nudge``.
        """
        worst = []
        for l, (v, i) in enumerate(zip(state, self.net_currents(state, drive), strict=True)):
            if nudge is not None and l in nudge.layers:
                i = i + nudge.force(v) / self._scales[l]
            limits = self._limits(l)
            if limits is not None:
                # a diode at the low bound only lifts its node, one at the high bound only pulls it down
                i = torch.where(v <= limits[0], i.clamp(min=0), i)
                i = torch.where(v >= limits[1], i.clamp(max=0), i)
            worst.append(i.abs().amax(-1))
        return torch.stack(worst).amax(0)


def _scaled(g: Tensor, factor: float | Tensor, precision: torch.dtype | None) -> Tensor:
    g = g if isinstance(factor, float) and factor == 1.0 else factor * g
    return g if precision is None else g.to(precision)


def _product(operands: _Operands, state: State, z: Tensor, layer: int) -> Tensor:
    """``z + H s`` of a layer, a tensor of its own."""
    low, owned = operands.precision, False
    for source, g in operands.incoming[layer]:
        s = state[source]
        if low is not None:
            z, owned = z + torch.mm(s.to(low), g).to(s.dtype), True
        else:
            z, owned = z.addmm_(s, g) if owned else torch.addmm(z, s, g), True
    if operands.residue is not None:
        z, owned = z + state[layer] * operands.residue[layer], True
    return z if owned else z.expand_as(state[layer]).clone()
