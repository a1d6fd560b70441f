"""What a network is as a machine: its cells and their power, its units and converters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eqprop._convolution import ConvConnection
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._network import Drive, Network, State
from hardware import _resistors
from hardware._array import Array
from hardware._chip import Chip
from hardware._circuit import RAILS, Circuit
from hardware._cost_constants import CostConstants
from hardware._mapping import Balanced


@dataclass(frozen=True)
class Machine:
    """Parts of a machine that runs a network.

    Attributes:
        inputs: sources of the clamped input.
        units: units of each layer that moves.
        cells: memory cells of all sets, a copy of a kernel for each of its positions.
        cell_watts: power in the cells of a set while a phase runs on it, the mean over samples.
        mean_siemens: mean conductance of a cell.
        lines: of the largest array, written one after another.
        products: of a sample's gradient in one phase.
        sets: of cells and units: 2 on twin arrays.
    """

    inputs: int
    units: tuple[int, ...]
    cells: int
    cell_watts: float
    mean_siemens: float
    lines: int
    products: int
    sets: int = 1


@torch.no_grad()
def machine_of(network: Network, state: State, drive: Drive, constants: CostConstants) -> Machine:
    """The machine, with the power of its cells at these states.

    Raises:
        ConfigError: a network with weights in code of its own.
    """
    made = _circuit(network, state, drive) if isinstance(network, Circuit) else _graph(network, state, drive, constants)
    sets = 2 if isinstance(network, Chip) and network.substrate.twin else 1
    return replace(made, cells=sets * made.cells, sets=sets)


def _graph(network: Network, state: State, drive: Drive, constants: CostConstants) -> Machine:
    if not isinstance(network, GraphNetwork):
        raise ConfigError(
            f"estimate: got a {type(network).__name__}, with weights in code of its own, needed a HopfieldNetwork, "
            "DirectedNetwork or ResistiveNetwork"
        )
    arrays = network.arrays if isinstance(network, Chip) else {}
    cells, watts, siemens, lines, products = 0, 0.0, 0.0, 1, 0
    volts = constants.volts_per_unit
    for edge in network._edges:
        connection = network.connection(edge.key)
        g = _conductances(connection.weight.detach(), arrays.get(edge.key), constants)
        positions = _positions(connection) if isinstance(connection, ConvConnection) else 1
        tail = drive.x if edge.tail == -1 else state[edge.tail]
        power = 0.0
        for acts, layer, dim in ((edge.ahead, tail, 1), (edge.back, state[edge.head], 0)):
            if acts:  # cells of a row (or column) see the voltage of its unit
                each = g.sum(0).movedim(dim, 0).flatten(1).sum(1)
                power += float((each * _mean_square(layer, len(each))).sum())
        watts += positions * power * volts**2
        cells += positions * g.numel()
        siemens += positions * float(g.sum())
        products += positions * connection.weight.numel()
        lines = max(lines, connection.weight.shape[0])
    return Machine(
        drive.x[0].numel(), tuple(s[0].numel() for s in state), cells, watts, siemens / cells, lines, products
    )


def _conductances(weight: Tensor, array: Array | None, constants: CostConstants) -> Tensor:
    """Of the cells of a weight, ``[cells, *weight]``."""
    if array is not None and array.layout is not None:
        return array.conductance
    reach = float(weight.abs().max()) or 1.0
    return Balanced(constants.g_min_siemens, constants.g_max_siemens, reach).targets(weight)


def _mean_square(layer: Tensor, lines: int) -> Tensor:
    """Of each unit, or of each channel over its places, ``[lines]``."""
    square = layer.square().mean(0)
    return square.flatten() if square.numel() == lines else square.reshape(lines, -1).mean(1)


def _positions(connection: ConvConnection) -> int:
    """Of the kernel, before pooling."""
    g = connection.geometry
    rows, columns = ((n + 2 * g.padding - g.kernel) // g.stride + 1 for n in g.tail[1:])
    return int(rows * columns)


def _circuit(network: Circuit, state: State, drive: Drive) -> Machine:
    """Resistors dissipate by the voltages of the nodes at their ends."""
    x = drive.x * network.input_volts
    watts = x.new_zeros(len(x))
    cells, siemens, lines = 0, 0.0, 1
    ends = []
    for key, tail, head in network._banks:
        sources = torch.cat([s * x for s in network._signs], 1)
        ends.append((f"connections.{key}", sources if tail == -1 else network._ways(tail)[0] * state[tail], head))
    for name in network.biases:
        rails = network._bias_volts * x.new_tensor([RAILS]).expand(len(x), -1)
        ends.append((f"biases.{name}", rails, network.names.index(name)))
    for name, far, head in ends:
        g = network.conductance(name)
        watts = watts + 2.0 * _resistors.power(g, far, state[head])  # which gives half of what resistors dissipate
        cells, siemens, lines = cells + g.numel(), siemens + float(g.sum()), max(lines, len(g))
    units = tuple(s[0].numel() for s in state)
    inputs = drive.x[0].numel() * len(network._signs)
    return Machine(inputs, units, cells, float(watts.mean()), siemens / cells, lines, cells)
