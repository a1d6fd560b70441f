"""How a resistive network is wired: its layers, and the banks of resistors between them; what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._nodes import Nodes


class Bank(NamedTuple):
    """Resistors between every node of a layer and every node of another.

    Attributes:
        key: ``"pre-post"``.
        tail, head: numbers of the layers among those that move; the tail is -1 for the sources.
    """

    key: str
    tail: int
    head: int


def is_positive(value: object) -> bool:
    """Whether it is a positive finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < math.inf


def layers_of_nodes(layers: Mapping[str, int | Nodes], fold: bool) -> dict[str, Nodes]:
    """The layers as ``Nodes``; with ``fold`` the output has two nodes for each number."""
    names = list(layers)
    nodes = {}
    for position, (name, given) in enumerate(layers.items()):
        hidden = 0 < position < len(names) - 1
        node = given if isinstance(given, Nodes) else Nodes(given, "ground" if hidden else "none")
        if not hidden and node.diodes != "none":
            what = "inputs are sources" if position == 0 else "outputs are read as they are"
            raise ConfigError(
                f"layer {name!r}: got diodes {node.diodes!r}, needed none, for {what}; write {node.units}"
            )
        if fold and position == len(names) - 1:
            node = Nodes(2 * node.units, "none")
        nodes[name] = node
    return nodes


def check_range(low: float, high: float, start: tuple[float, ...]) -> None:
    """Raises ``ConfigError`` unless ``0 <= low < high`` and the initial range lies within."""
    if not all(isinstance(v, int | float) for v in (low, high)) or not 0.0 <= low < high < math.inf:
        raise ConfigError(
            f"conductances: got g_min_siemens={low!r}, g_max_siemens={high!r}; needed 0 <= g_min < g_max, "
            "as g_min_siemens=1e-7, g_max_siemens=1e-5"
        )
    if len(start) != 2 or not low <= start[0] <= start[1] <= high:
        raise ConfigError(
            f"initial_siemens: got {start!r}, needed (lowest, highest) within g_min_siemens={low:g} and "
            f"g_max_siemens={high:g}"
        )


def banks_between(names: list[str], connections: Sequence[tuple[str, str]] | None) -> tuple[Bank, ...]:
    """The banks of all connections; a chain of the layers where there are none given."""
    pairs = list(itertools.pairwise(names)) if connections is None else list(connections)
    index = {name: i - 1 for i, name in enumerate(names)}
    banks: dict[frozenset[str], Bank] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"connection: got {pair!r}, needed a pair of names, as ('input', 'hidden1')")
        pre, post = pair
        tail, head = lookup("connection from layer", pre, index), lookup("connection to layer", post, index)
        if head == -1:
            raise ConfigError(f"connection {pre}-{post}: {post!r} are sources and receive nothing; swap the two")
        if pre == post:
            raise ConfigError(
                f"connection {pre}-{post}: resistors within a layer have no exact block minimum; split the layer in two"
            )
        if frozenset(pair) in banks:
            raise ConfigError(f"connection {pre}-{post}: got it twice, needed once between two layers")
        banks[frozenset(pair)] = Bank(f"{pre}-{post}", tail, head)
    for name in names[1:]:
        if not any(name in pair for pair in banks):
            raise ConfigError(f"layer {name!r}: no connection reaches it; write ({names[0]!r}, {name!r})")
    return tuple(banks.values())
