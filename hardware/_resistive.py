"""Resistive networks: nodes, resistors, ideal diodes and voltage sources, as an attractor network like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eqprop._activations import Activation
from eqprop._costs import SquaredError
from eqprop._errors import ConfigError
from eqprop._graph import _colour_classes
from eqprop._network import Cache, Drive, Layer, Network, Phase, State, System
from eqprop._nudge import CostNudge
from hardware import _resistors
from hardware._nodes import Law, Limits, Nodes, inverse
from hardware._wiring import (
    amplifier_gains,
    banks_between,
    check_range,
    is_positive,
    layers_of_nodes,
    power_scales,
)

_RAILS = (1.0, -1.0)


class _Operands(NamedTuple):
    """What a relaxation needs, prepared once: see ``ResistiveNetwork.new_cache``."""

    incoming: tuple[tuple[tuple[int, Tensor], ...], ...]  # per layer: (layer at the other end, [its units, units])
    resistance: tuple[Tensor, ...]
    residue: tuple[Tensor, ...] | None
    precision: torch.dtype | None


class ResistiveNetwork(Network):
    """A network of resistors between layers of nodes: its physics minimise the pseudo-power.

        E(v; x) = 1/2 sum g_ij (v_i - v_j)^2      over all resistors, inputs, rails and nodes at their ends, in watts
        block minimum over a layer:  v_i <- clip(sum_j g_ij v_j / G_i, low_i, high_i),  G_i = sum_j g_ij

    in siemens and volts. ``E`` is half the power that the resistors dissipate; Kirchhoff's current law is
    ``dE/dv = 0``, and ideal diodes are the bounds: a convex quadratic program, solved by coordinate descent in blocks.
    Of the interface of ``eqprop.Network``, ``inputs`` are currents (A), what would flow into a node held at 0 V,
    ``sum_j g_ij v_j``; the activation is ``clip(current / G, low, high)``.

    Conductances have no sign: every input ``x`` acts as two sources, ``+x`` and ``-x`` times ``input_volts``. A bias is
    a pair of resistors to rails at ``+rail_volts`` and ``-rail_volts``. A passive network attenuates: outputs are a
    small share of the inputs, which sense amplifiers of ``output_gain`` make up for; with ``fold`` each of them reads
    the difference of two nodes.

    **Nudge.** A squared error is a conductance ``beta`` (S) from every output node to a source at the target: exact
    block minimum, no step too long. With amplifiers it is ``beta output_gain^2``, with ``fold`` between the two nodes.
    ``beta`` of a rule is therefore in siemens, small against the output nodes' conductance: ``nudge_siemens(0.1)``.
    Other costs act as a current ``-beta dC/dv`` (A). Hidden nodes answer faintly (by some 0.6 uV rms of 3 mV in
    784-128-10 with inputs of 1 V and a share of 0.1), but a sweep brings them closer by hundreds: a fixed number,
    ``Sweeps(5)`` with one hidden layer and 2 more for each further one, is the natural stop; ``Stop(tol)`` is in volts.

    **Write path.** Parameters are the conductances themselves. Optimisers know nothing of their range: call
    ``project()`` after each step, or once ``project_after(optimizer)``. A substrate that perturbs conductances
    overrides ``conductance``, through which alone the dynamics see them.

    **Amplifiers.** Behind a hidden layer of gain ``A`` the next layer sees ``A v``, and the layer sees ``1/A`` of the
    current that the next one draws (a controlled voltage source and a controlled current source). An energy remains,
    with each layer's powers divided by the squared gains on the way: ``energy`` is referred to the output. With diodes
    to ground, a chain with amplifiers is one without them, in other voltages.

    Args:
        layers: name -> number of nodes, or ``Nodes``; the inputs first, the output last, which has no diodes. A number
            stands for diodes to ground in hidden layers.
        connections: pairs of names, in any graph; None for a chain. Within a layer there are none: its block minimum
            would not be exact.
        g_min_siemens, g_max_siemens: range of every conductance.
        initial_siemens: range of the uniform draw of initial conductances; None for the whole range.
        input_volts: voltage of a source at ``x = 1``.
        doubled: whether inputs also act with the opposite sign.
        rail_volts: of the rails that bias conductances lead to; None for no bias.
        fold: whether output ``k`` is ``v[k] - v[k + outputs]``: two nodes an output.
        output_gain: of the sense amplifiers.
        amplification: ``A`` of all hidden layers, or name -> ``A``.
        generator: draws the initial conductances, on the CPU; seeded with 0 where None.
        dtype: of the parameters; None for torch's default.

    Raises:
        ConfigError: impossible ranges, layers or connections; amplifiers without an energy (paths of unequal gain
            between two layers).

    Source: Kendall et al. 2020 (energy, amplifiers); Scellier 2024 (coordinate descent, doubled inputs, diodes).
    """

    has_energy = True
    tied = True
    affine = True

    def __init__(
        self,
        layers: Mapping[str, int | Nodes],
        connections: Sequence[tuple[str, str]] | None = None,
        *,
        g_min_siemens: float = 1e-7,
        g_max_siemens: float = 1e-5,
        initial_siemens: tuple[float, float] | None = None,
        input_volts: float = 1.0,
        doubled: bool = True,
        rail_volts: float | None = 1.0,
        fold: bool = False,
        output_gain: float = 1.0,
        amplification: float | Mapping[str, float] = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nodes = layers_of_nodes(layers, fold)
        super().__init__(
            {n: Layer(v.units, "linear" if i else None) for i, (n, v) in enumerate(nodes.items())}, dtype=dtype
        )
        self.nodes, self.input_name = nodes, next(iter(nodes))
        start = (g_min_siemens, g_max_siemens) if initial_siemens is None else tuple(initial_siemens)
        check_range(g_min_siemens, g_max_siemens, start)
        volts = {"input_volts": input_volts, "output_gain": output_gain, "rail_volts": rail_volts}
        for name, value in volts.items():
            if not (name == "rail_volts" and value is None) and not is_positive(value):
                raise ConfigError(f"{name}: got {value!r}, needed a positive finite number, as {name}=1.0")
        self.g_min_siemens, self.g_max_siemens = float(g_min_siemens), float(g_max_siemens)
        self.input_volts, self.rail_volts = float(input_volts), rail_volts
        self.fold, self.output_gain = bool(fold), float(output_gain)
        self._signs = _RAILS if doubled else (1.0,)
        self._banks = banks_between(list(nodes), connections)
        self._gains = amplifier_gains(self.names, amplification)
        self._scales = power_scales(self.names, self._banks, self._gains)
        self.blocks = _colour_classes(len(self.names), [(b.tail, b.head) for b in self._banks])
        generator = generator if generator is not None else torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(*start, generator=generator))

        sources = nodes[self.input_name].units * len(self._signs)
        sizes = [v.units for v in list(nodes.values())[1:]]
        self.connections = nn.ParameterDict(
            {b.key: drawn(sizes[b.head], sources if b.tail == -1 else sizes[b.tail]) for b in self._banks}
        )
        biased = () if rail_volts is None else self.names
        self.biases = nn.ParameterDict({n: drawn(nodes[n].units, len(_RAILS)) for n in biased})
        for l, name in enumerate(self.names):
            low, high = nodes[name].grounded() or (None, None)  # zeros and infinities, the same in every dtype
            self.register_buffer(f"_low{l}", low, persistent=False)
            self.register_buffer(f"_high{l}", high, persistent=False)
        if fold or output_gain != 1.0:
            self.readout = _SenseAmplifiers(sizes[-1], fold, self.output_gain, dtype)

    @classmethod
    def mlp(cls, *sizes: int, diodes: str | tuple[float, float] = "ground", **options: Any) -> ResistiveNetwork:
        """A chain of layers ``input``, ``hidden1``, ..., ``output``: ``mlp(784, 128, 10, fold=True)``.

        Args:
            sizes: inputs, nodes of each hidden layer, and outputs.
            diodes: of the hidden layers, see ``Nodes``.
            options: as of the class.
        """
        if len(sizes) < 2:
            raise ConfigError(f"mlp: got sizes {sizes}, needed at least input and output, as in mlp(784, 128, 10)")
        hidden = {f"hidden{i}": Nodes(n, diodes) for i, n in enumerate(sizes[1:-1], start=1)}
        return cls({"input": sizes[0], **hidden, "output": sizes[-1]}, **options)

    # -- conductances --------------------------------------------------------------------------------------------------

    def conductance(self, name: str) -> Tensor:
        """The conductances that act under a parameter's name, ``[heads, tails]`` in siemens; here the parameter itself.

        ``"connections.input-hidden1"`` has a column a source: all of ``+x``, then all of ``-x``.
        ``"biases.hidden1"`` has one for each rail, plus and minus.
        """
        return self.get_parameter(name)

    @torch.no_grad()
    def project(self) -> None:
        """Set every conductance to the nearest value in its range, in place: the last step of a write."""
        for p in self.parameters():
            p.clamp_(self.g_min_siemens, self.g_max_siemens)

    def project_after(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Call ``project()`` after every step of the optimiser; the handle's ``remove()`` ends that."""
        return optimizer.register_step_post_hook(lambda *_: self.project())

    def node_siemens(self) -> tuple[Tensor, ...]:
        """Total conductance ``G`` at every node, ``[units]`` a layer (with amplifiers: referred to the output)."""
        like = next(self.parameters())
        totals = [like.new_zeros(shape) for shape in self.shapes]
        for key, tail, head in self._banks:
            g = self.conductance(f"connections.{key}")
            totals[head] = totals[head] + self._scales[head] * g.sum(1)
            if tail != -1:
                totals[tail] = totals[tail] + self._scales[head] * self._gains[tail] ** 2 * g.sum(0)
        for name in self.biases:
            l = self.names.index(name)
            totals[l] = totals[l] + self._scales[l] * self.conductance(f"biases.{name}").sum(1)
        return tuple(totals)

    def nudge_siemens(self, share: float) -> float:
        """``beta`` that loads the outputs with ``share`` of their own conductance, the mean over outputs.

        With the other nodes held, a nudged output moves by ``share / (1 + share)`` of its error. A negative nudge of
        the same size is stable where ``share`` is below 1 by more than hidden nodes give way; 0.1 is a start.
        """
        if not is_positive(share):
            raise ConfigError(f"share: got {share!r}, needed a positive number, as nudge_siemens(0.1)")
        with torch.no_grad():
            return share / float(self._output_resistance(inverse(self.node_siemens()[-1])).mean())

    def _output_resistance(self, resistance: Tensor) -> Tensor:
        """What a current of 1 A into the sense amplifiers' inputs moves their outputs by, times the gain; ohms."""
        return resistance if self.readout is None else resistance @ self.readout.weight.square().mT

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
            rails = _resistors.signed(self.conductance(f"biases.{name}"), _RAILS)
            terms[l] = (self._scales[l] * self._rail) * rails[:, 0]
        for key, tail, head in self._banks:
            if tail == -1:
                weight = _resistors.signed(self.conductance(f"connections.{key}"), self._signs)
                terms[head] = terms[head] + torch.mm(x * (self._scales[head] * self.input_volts), weight.mT)
        return Drive(tuple(terms), x)

    @property
    def _rail(self) -> float:
        return 0.0 if self.rail_volts is None else float(self.rail_volts)

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        incoming: list[list[tuple[int, Tensor]]] = [[] for _ in self.names]
        precision = None
        for key, tail, head in self._banks:
            if tail == -1:
                continue
            g, factor = self.conductance(f"connections.{key}"), self._scales[head] * self._gains[tail]
            g = g if factor == 1.0 else factor * g
            if products is not None and products != g.dtype:
                g, precision = g.to(products), products
            incoming[head].append((tail, g.mT))
            incoming[tail].append((head, g))
        total = self.node_siemens()
        # the activation divides by a constant; what a node's own conductances do is a term of the inputs that is zero
        # in value and -v dG in its derivative
        residue = tuple(t.detach() - t for t in total) if torch.is_grad_enabled() else None
        resistance = tuple(inverse(t.detach()) for t in total)
        return Cache(_Operands(tuple(tuple(s) for s in incoming), resistance, residue, precision))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        operands: _Operands = cache.content
        return [_product(operands, state, drive.terms[l], l) for l in block]

    def update(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        operands: _Operands = cache.content
        new = []
        for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True):
            if nudge is None or l not in nudge.layers:
                limits, z = self._limits(l), z.mul_(operands.resistance[l])
                new.append(z if limits is None else z.clamp_(*limits))
            elif isinstance(nudge, CostNudge) and isinstance(nudge.cost, SquaredError):
                new.append(self._nudged(z, operands.resistance[l], nudge))
            else:
                new.append(nudge.apply(l, z, state[l], self.activations[l]))
        return tuple(new)

    def _nudged(self, z: Tensor, resistance: Tensor, nudge: CostNudge) -> Tensor:
        """The exact minimum over the output layer: Thevenin's voltage and resistance, loaded by the nudge.

        Outputs share no node, so that each sees one resistance ``r``, and draws ``beta (o - y) / (1 + beta r)``.
        """
        v = z.mul_(resistance)
        load = 1 + nudge.beta * self._output_resistance(resistance)
        # a negative conductance above that of the node itself: no voltage is a minimum
        load = load.where(load > 0, torch.nan)
        current = nudge.beta * (self.output((v,)) - nudge.target) / load
        back = current if self.readout is None else torch.mm(current, self.readout.weight)
        return v - resistance * back

    def tangent(self, state: State, drive: Drive, *, transpose: bool) -> Callable[[State], State]:
        operands: _Operands = self.new_cache().content  # symmetric, and the same at every state
        layers = range(len(self.names))
        return lambda vector: tuple(_product(operands, vector, vector[l].new_zeros(()), l) for l in layers)

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=True)(vector)

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=False)(vector)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        # inputs are affine with a symmetric matrix (reciprocity): z_0 + H^T (s - s_0) are the inputs themselves
        return self, drive

    # -- energy and gradients ------------------------------------------------------------------------------------------

    def energy(self, state: State, drive: Drive) -> Tensor:
        """``E`` a sample, watts, ``[batch]``: half the power that all resistors dissipate."""
        x = drive.x * self.input_volts
        total = x.new_zeros(len(x))
        for key, tail, head in self._banks:
            g = self.conductance(f"connections.{key}")
            p = torch.cat([s * x for s in self._signs], 1) if tail == -1 else self._gains[tail] * state[tail]
            total = total + self._scales[head] * _resistors.power(g, p, state[head])
        for name in self.biases:
            l, p = self.names.index(name), self._rail * x.new_tensor([_RAILS]).expand(len(x), -1)
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
        rail = x.new_full((len(x), 1), self._rail)
        for name, bias in self.biases.items():
            l = self.names.index(name)
            g = _resistors.source_power_gradient(rail, _RAILS, summed[l], own[l], weight)
            _accumulate(bias, g, self._scales[l])

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        # inputs less G v, the net currents: what their derivative by a conductance is, see new_cache
        for key, tail, head in self._banks:
            q, d = state[head], direction[head]
            if tail == -1:
                g = _resistors.source_current_gradient(x * self.input_volts, self._signs, q, d)
            else:
                p, back = self._gains[tail] * state[tail], self._gains[tail] * direction[tail]
                g = _resistors.current_gradient(p, q, d) + _resistors.current_gradient(q, p, back).mT
            _accumulate(self.connections[key], g, self._scales[head])
        rail = x.new_full((len(x), 1), self._rail)
        for name, bias in self.biases.items():
            l = self.names.index(name)
            g = _resistors.source_current_gradient(rail, _RAILS, state[l], direction[l])
            _accumulate(bias, g, self._scales[l])

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

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description, from which ``ResistiveNetwork.from_spec`` makes one like it."""
        return {
            "class": type(self).__name__,
            "layers": {n: {"units": v.units, "diodes": v.diodes} for n, v in self.nodes.items()},
            "connections": [b.key.split("-") for b in self._banks],
            "g_min_siemens": self.g_min_siemens,
            "g_max_siemens": self.g_max_siemens,
            "input_volts": self.input_volts,
            "doubled": len(self._signs) == 2,
            "rail_volts": self.rail_volts,
            "fold": self.fold,
            "output_gain": self.output_gain,
            "amplification": dict(zip(self.names[:-1], self._gains[:-1], strict=True)),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> ResistiveNetwork:
        """The network that ``spec()`` described: follow with ``load_state_dict``."""
        options = {k: v for k, v in spec.items() if k not in ("class", "layers", "connections")}
        layers = {n: _from_plain(v) for n, v in spec["layers"].items()}
        if options["fold"]:
            layers[list(layers)[-1]] = Nodes(layers[list(layers)[-1]].units // 2, "none")
        return cls(layers, [(a, b) for a, b in spec["connections"]], **options)

    def extra_repr(self) -> str:
        shown = ", ".join(f"{n}: {v.units} {v.diodes}" for n, v in self.nodes.items())
        return f"{shown}; {self.g_min_siemens:g} to {self.g_max_siemens:g} S"


class _SenseAmplifiers(nn.Linear):
    """The outputs ``gain v``, or ``gain (v[k] - v[k + outputs])``: a readout that is not trained, hence buffers."""

    def __init__(self, nodes: int, fold: bool, gain: float, dtype: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = nodes, nodes // 2 if fold else nodes
        eye = gain * torch.eye(self.out_features, dtype=dtype)
        self.register_buffer("weight", torch.cat([eye, -eye], 1) if fold else eye, persistent=False)
        self.register_buffer("bias", torch.zeros(self.out_features, dtype=dtype), persistent=False)


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


def _accumulate(parameter: Tensor, gradient: Tensor, scale: float) -> None:
    gradient = gradient if scale == 1.0 else gradient.mul_(scale)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _from_plain(value: Mapping[str, Any]) -> Nodes:
    diodes = value["diodes"]
    return Nodes(value["units"], diodes if isinstance(diodes, str) else tuple(diodes))
