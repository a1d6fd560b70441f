"""Networks from their JSON description."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from eqprop._connections import Dense
from eqprop._convolution import Conv, ConvTranspose
from eqprop._directed import DirectedNetwork
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._hopfield import HopfieldNetwork
from eqprop._names import lookup
from eqprop._network import Layer, Network

_CONNECTIONS = {"Dense": Dense, "Conv": Conv, "ConvTranspose": ConvTranspose}
_GRAPHS: dict[str, type[GraphNetwork]] = {c.__name__: c for c in (HopfieldNetwork, DirectedNetwork)}


def network_from_spec(spec: dict[str, Any]) -> Network:
    """The network that ``network.spec()`` described, with fresh parameters: follow with ``load_state_dict``.

    Raises:
        ConfigError: an unknown class or connection type, or a class of a package that was not imported.
    """
    name, package = spec.get("class", ""), spec.get("import")
    if name not in _BUILDERS and package is not None and package not in sys.modules:
        raise ConfigError(f"network class: got {name!r}, needed its package imported first; write import {package}")
    return lookup("network class", name, _BUILDERS)(spec)


def register_network(name: str, from_spec: Callable[[dict[str, Any]], Network]) -> None:
    """Let ``network_from_spec`` build a class of another package, which calls this when it is imported.

    The ``spec()`` of its networks has ``"class": name`` and, under ``"import"``, what to import.
    """
    _BUILDERS[name] = from_spec


def _graph_network(spec: dict[str, Any]) -> GraphNetwork:
    layers = {v["name"]: Layer(v["shape"], v["activation"]) for v in spec["layers"]}
    connections: list[Any] = []
    for c in spec["connections"]:
        arguments = dict(c)
        kind = lookup("connection type", arguments.pop("type"), _CONNECTIONS)
        connections.append(kind(**arguments))
    return _GRAPHS[spec["class"]](layers, connections, readout=spec["readout"])


_BUILDERS: dict[str, Callable[[dict[str, Any]], Network]] = dict.fromkeys(_GRAPHS, _graph_network)
