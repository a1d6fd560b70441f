"""Networks from their JSON description."""

from __future__ import annotations

from typing import Any

from eqprop._connections import Dense
from eqprop._convolution import Conv, ConvTranspose
from eqprop._directed import DirectedNetwork
from eqprop._graph import GraphNetwork
from eqprop._hopfield import HopfieldNetwork
from eqprop._names import lookup
from eqprop._network import Layer

_CONNECTIONS = {"Dense": Dense, "Conv": Conv, "ConvTranspose": ConvTranspose}
_CLASSES: dict[str, type[GraphNetwork]] = {c.__name__: c for c in (HopfieldNetwork, DirectedNetwork)}


def network_from_spec(spec: dict[str, Any]) -> GraphNetwork:
    """The network that ``network.spec()`` described, with fresh parameters: follow with ``load_state_dict``.

    Raises:
        ConfigError: an unknown class or connection type.
    """
    cls = lookup("network class", spec.get("class", ""), _CLASSES)
    layers = {v["name"]: Layer(v["shape"], v["activation"]) for v in spec["layers"]}
    connections: list[Any] = []
    for c in spec["connections"]:
        arguments = dict(c)
        kind = lookup("connection type", arguments.pop("type"), _CONNECTIONS)
        connections.append(kind(**arguments))
    return cls(layers, connections, readout=spec["readout"])
