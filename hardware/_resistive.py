"""Resistive networks: nodes, resistors, ideal diodes and voltage sources, as an attractor network like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from eqprop._errors import ConfigError
from eqprop._graph import _colour_classes
from eqprop._network import Layer
from eqprop._spec import register_network
from hardware._amplifiers import SenseAmplifiers, amplifier_gains, output_resistance, power_scales
from hardware._circuit import RAILS
from hardware._nodes import Nodes, inverse
from hardware._pseudo_power import PowerCircuit
from hardware._wiring import banks_between, check_range, is_positive, layers_of_nodes


class ResistiveNetwork(PowerCircuit):
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
    ``project()`` after each step, or once ``project_after(optimizer)``. The dynamics see them through ``conductance``
    alone, which is how a chip makes cells of them: see ``hardware.CircuitChip``.

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
        self._signs = RAILS if doubled else (1.0,)
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
        self.biases = nn.ParameterDict({n: drawn(nodes[n].units, len(RAILS)) for n in biased})
        for l, name in enumerate(self.names):
            low, high = nodes[name].grounded() or (None, None)  # zeros and infinities, the same in every dtype
            self.register_buffer(f"_low{l}", low, persistent=False)
            self.register_buffer(f"_high{l}", high, persistent=False)
        if fold or output_gain != 1.0:
            self.readout = SenseAmplifiers(sizes[-1], fold, self.output_gain, dtype)

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

    @torch.no_grad()
    def project(self) -> None:
        """Set every conductance to the nearest value in its range, in place: the last step of a write."""
        for p in self.parameters():
            p.clamp_(self.g_min_siemens, self.g_max_siemens)

    def project_after(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Call ``project()`` after every step of the optimiser; the handle's ``remove()`` ends that."""
        return optimizer.register_step_post_hook(lambda *_: self.project())

    def nudge_siemens(self, share: float) -> float:
        """``beta`` that loads the outputs with ``share`` of their own conductance, the mean over outputs.

        With the other nodes held, a nudged output moves by ``share / (1 + share)`` of its error. A negative nudge of
        the same size is stable where ``share`` is below 1 by more than hidden nodes give way; 0.1 is a start.
        """
        if not is_positive(share):
            raise ConfigError(f"share: got {share!r}, needed a positive number, as nudge_siemens(0.1)")
        with torch.no_grad():
            return share / float(output_resistance(inverse(self.node_siemens()[-1]), self.readout).mean())

    # -- files ---------------------------------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description, from which ``eqprop.network_from_spec`` makes one like it."""
        return {
            "class": type(self).__name__,
            "import": "hardware",
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
        options = {k: v for k, v in spec.items() if k not in ("class", "import", "layers", "connections")}
        layers = {n: _from_plain(v) for n, v in spec["layers"].items()}
        if options["fold"]:
            layers[list(layers)[-1]] = Nodes(layers[list(layers)[-1]].units // 2, "none")
        return cls(layers, [(a, b) for a, b in spec["connections"]], **options)

    def extra_repr(self) -> str:
        shown = ", ".join(f"{n}: {v.units} {v.diodes}" for n, v in self.nodes.items())
        return f"{shown}; {self.g_min_siemens:g} to {self.g_max_siemens:g} S"


def _from_plain(value: Mapping[str, Any]) -> Nodes:
    diodes = value["diodes"]
    return Nodes(value["units"], diodes if isinstance(diodes, str) else tuple(diodes))


register_network("ResistiveNetwork", ResistiveNetwork.from_spec)
