"""What tied and directed networks share: a graph of layers and connections, and its closed-form dynamics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from eqprop._activations import Activation
from eqprop._connections import Dense, DenseConnection, Product
from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._network import Cache, Drive, Layer, Network, State, System

Incoming = tuple[tuple[tuple[int, Product], ...], ...]  # per layer: (source layer, product that adds to its input)
N = TypeVar("N", bound="GraphNetwork")


class GraphNetwork(Network):
    """Layers joined by connections; base of ``HopfieldNetwork`` and ``DirectedNetwork``.

    Args:
        layers: name -> ``Layer``, the clamped input first; the last is the output.
        connections: ``Dense(pre, post)``, ...; any graph: chains, skips, loops.
        readout: number of outputs of a linear readout outside the dynamics, or None.
        generator: draws the initial weights, on the CPU; seeded with 0 where None.
        dtype: of the parameters; None for torch's default.

    Raises:
        ConfigError: an unknown layer, a connection twice, into the input or (tied) from a layer to itself, or a layer
            that nothing reaches.
    """

    affine = True

    def __init__(
        self,
        layers: dict[str, Layer],
        connections: Sequence[Dense],
        *,
        readout: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        super().__init__(layers, readout=readout, generator=generator, dtype=dtype)
        self.input_name = next(iter(layers))
        self._declared = tuple(connections)
        self.connections = nn.ModuleDict()
        self._edges: list[tuple[str, int, int]] = []  # key, pre, post; -1 is the clamped input
        index = {name: i for i, name in enumerate(self.names)} | {self.input_name: -1}
        for c in connections:
            if not isinstance(c, Dense):
                raise ConfigError(f"connection: got {c!r}, needed Dense(pre, post), as Dense('input', 'output')")
            pre, post = lookup("connection from layer", c.pre, index), lookup("connection to layer", c.post, index)
            key = f"{c.pre}-{c.post}"
            if post == -1:
                raise ConfigError(
                    f"connection {key}: {c.post!r} is the clamped input and receives nothing; swap the two"
                )
            if key in self.connections or (self.tied and f"{c.post}-{c.pre}" in self.connections):
                raise ConfigError(f"connection {key}: got it twice, needed once between two layers")
            if self.tied and pre == post:
                raise ConfigError(
                    f"connection {key}: a tied connection of a layer with itself has no exact block minimum; "
                    "split the layer in two, or use a DirectedNetwork"
                )
            for name in (c.pre, c.post):
                if name != self.input_name and len(layers[name].shape) > 1:
                    raise ConfigError(
                        f"connection {key}: layer {name!r} has shape {layers[name].shape}, dense connections need flat "
                        f"layers that move; write Layer({math.prod(layers[name].shape)}, ...)"
                    )
            self.connections[key] = c.build(layers[c.pre].shape, layers[c.post].shape, generator=generator, dtype=dtype)
            self._edges.append((key, pre, post))
        reached = {e[2] for e in self._edges} | ({e[1] for e in self._edges} if self.tied else set())
        for i, name in enumerate(self.names):
            if i not in reached:
                raise ConfigError(
                    f"layer {name!r}: no connection reaches it; write Dense('{self.input_name}', {name!r})"
                )
        self.biases = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(layers[name].shape, dtype=dtype)) for name in self.names}
        )
        self.blocks = _colour_classes(len(self.names), [(e[1], e[2]) for e in self._edges])

    def connection(self, key: str) -> DenseConnection:
        """The connection of that key, ``"pre-post"``."""
        if key not in self.connections:
            lookup("connection", key, dict(self.connections.items()))
        module = self.connections[key]
        if not isinstance(module, DenseConnection):
            raise ConfigError(f"connection {key}: got {type(module).__name__}, needed a dense one")
        return module

    # -- dynamics ------------------------------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        x = self.clamped(x)
        terms: list[Tensor] = [self.biases[name] for name in self.names]
        for key, pre, post in self._edges:
            if pre == -1:
                terms[post] = self.connection(key).forward_product(None)(terms[post], x.flatten(1), False)
        return Drive(tuple(terms), x)

    def _incoming(self, products: torch.dtype | None, transpose: bool = False) -> Incoming:
        """Per layer, where its input comes from; with ``transpose``, that of the transposed Jacobian ``H^T``."""
        incoming: list[list[tuple[int, Product]]] = [[] for _ in self.names]
        for key, pre, post in self._edges:
            if pre == -1:
                continue
            connection = self.connection(key)
            if self.tied or not transpose:
                incoming[post].append((pre, connection.forward_product(products)))
            if self.tied or transpose:
                incoming[pre].append((post, connection.backward_product(products)))
        return tuple(tuple(sources) for sources in incoming)

    def new_cache(self, products: torch.dtype | None = None) -> Cache:
        return Cache(self._incoming(products))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        incoming: Incoming = cache.content
        result = []
        for l in block:
            z, owned = drive.terms[l], False
            for source, add in incoming[l]:
                z, owned = add(z, state[source], owned), True
            # where nothing but its drive acts on a layer, the drive must stay as it is
            result.append(z if owned else z.expand_as(state[l]).clone())
        return result

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return _linear(self._incoming(None, transpose=True), vector)

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return _linear(self._incoming(None), vector)

    def adjoint_dynamics(self, state: State, drive: Drive) -> tuple[System, Drive]:
        # inputs are affine, so that z_0 + H^T (s - s_0) is the transposed network under another constant drive
        z, back = self.inputs(state, drive), self.vjp_inputs(state, state, drive)
        constant = tuple(a - b for a, b in zip(z, back, strict=True))
        return _TransposedNetwork(self), Drive(constant, drive.x)

    def jacobian_blocks(self) -> dict[tuple[int, int], tuple[Tensor, bool]]:
        """Blocks of ``H = d inputs/ds``: (post, pre) -> (weight, whether the block is its transpose)."""
        blocks: dict[tuple[int, int], tuple[Tensor, bool]] = {}
        for key, pre, post in self._edges:
            if pre != -1:
                blocks[post, pre] = (self.connection(key).weight, False)
                if self.tied:
                    blocks[pre, post] = (self.connection(key).weight, True)
        return blocks

    # -- gradients -----------------------------------------------------------------------------------------------------

    def _add_bias_gradient(self, direction: State) -> None:
        for name, d, shape in zip(self.names, direction, self.shapes, strict=True):
            bias = self.biases[name]
            g = d.sum(-len(shape) - 1)
            bias.grad = g if bias.grad is None else bias.grad.add_(g)

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        x = x.flatten(1)
        for key, pre, post in self._edges:
            connection = self.connection(key)
            connection.add_gradient(x if pre == -1 else state[pre], direction[post])
            if self.tied and pre != -1:
                connection.add_gradient(direction[pre], state[post])
        self._add_bias_gradient(direction)

    # -- construction --------------------------------------------------------------------------------------------------

    def parameter_groups(self, rates: Sequence[float] | float) -> list[dict[str, Any]]:
        """Parameter groups with a learning rate a connection, for any ``torch.optim`` optimiser.

        Args:
            rates: one rate for all, or one a connection in the order of declaration (and one more for the readout,
                where there is one; without it, the readout takes the last). A layer's bias learns at the rate of the
                first connection into it.

        Raises:
            ConfigError: the number of rates does not match.
        """
        keys = [e[0] for e in self._edges]
        count = len(keys) + (self.readout is not None)
        given = [float(rates)] * count if isinstance(rates, int | float) else [float(r) for r in rates]
        if self.readout is not None and len(given) == len(keys):
            given.append(given[-1])
        if len(given) != count:
            raise ConfigError(
                f"learning rates: got {len(given)}, needed 1 or {count}, one for each of {', '.join(keys)}"
                + (", readout" if self.readout is not None else "")
            )
        groups: list[dict[str, Any]] = [
            {"params": [self.connection(k).weight], "lr": r, "name": k} for k, r in zip(keys, given, strict=False)
        ]
        for i, name in enumerate(self.names):
            into = [n for n, e in enumerate(self._edges) if e[2] == i] or [
                n for n, e in enumerate(self._edges) if e[1] == i
            ]
            groups[into[0]]["params"].append(self.biases[name])
        if self.readout is not None:
            groups.append({"params": list(self.readout.parameters()), "lr": given[-1], "name": "readout"})
        return groups

    def forward_pass(self, drive: Drive) -> State:
        """States of the feed-forward twin: only connections from earlier to later layers act, each layer once.

        The same parameters, read as an ordinary feed-forward network; differentiable.
        """
        state: list[Tensor] = []
        for l, rho in enumerate(self.activations):
            z = drive.terms[l]
            for key, pre, post in self._edges:
                if post == l and 0 <= pre < l:
                    z = self.connection(key).forward_product(None)(z, state[pre], False)
            state.append(rho(z).expand((len(drive.x), *self.shapes[l])))
        return tuple(state)

    def spec(self) -> dict[str, Any]:
        own = {a.name for a in self.activations if not _is_standard(a)}
        if own:
            raise ConfigError(f"a network with your own activation {sorted(own)} cannot be rebuilt from a file")
        return {
            "class": type(self).__name__,
            "layers": [
                {"name": n, "shape": list(v.shape), "activation": v.activation.name if v.activation else None}
                for n, v in self.layers.items()
            ],
            "connections": [c.spec() for c in self._declared],
            "readout": None if self.readout is None else self.readout.out_features,
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{n}: {v!r}" for n, v in self.layers.items())

    @classmethod
    def mlp(
        cls: type[N],
        *sizes: int,
        activation: str | Activation = "hard_sigmoid",
        output_activation: str | Activation | None = None,
        readout: int | None = None,
        initializer: str = "xavier_uniform",
        gain: float | str | None = 0.5,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> N:
        """A chain of dense layers: ``mlp(784, 1024, 10)`` has input 784, hidden 1024, output 10.

        Args:
            sizes: units of the input, each hidden layer, and the output layer.
            activation: of the hidden layers.
            output_activation: of the output layer; by default that of the hidden layers. A bounded output keeps
                learning stable at rates where a linear one diverges.
            readout: number of outputs of a linear readout outside the dynamics (for cross-entropy), or None.
            initializer, gain: of all weights, see ``eqprop.Dense``. The default gain is half of what a feed-forward
                network takes: every weight also feeds back, and at gain 1 a wide network starts saturated.
            generator, dtype: as of the class.
        """
        if len(sizes) < 2:
            raise ConfigError(f"mlp: got sizes {sizes}, needed at least input and output, as in mlp(784, 1024, 10)")
        if output_activation is None:
            output_activation = activation
        hidden = [f"hidden{i}" for i in range(1, len(sizes) - 1)]
        names = ["input", *hidden, "output"]
        kinds: list[str | Activation | None] = [None, *([activation] * len(hidden)), output_activation]
        layers = {n: Layer(size, a) for n, size, a in zip(names, sizes, kinds, strict=True)}
        pairs = list(zip(names[:-1], names[1:], strict=True))
        connections = [Dense(a, b, initializer, gain) for a, b in pairs]
        return cls(
            layers,
            connections + cls._feedback(pairs, initializer, gain),
            readout=readout,
            generator=generator,
            dtype=dtype,
            **options,
        )

    @staticmethod
    def _feedback(pairs: list[tuple[str, str]], initializer: str, gain: float | str | None) -> list[Dense]:
        return []


class _TransposedNetwork(System):
    """The relaxation of a graph network with every connection between moving layers transposed."""

    affine = True

    def __init__(self, network: GraphNetwork) -> None:
        self.shapes, self.activations, self.blocks = network.shapes, network.activations, network.blocks
        self._network = network

    def new_cache(self, products: torch.dtype | None = None) -> Cache:
        return Cache(self._network._incoming(products, transpose=True))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        return self._network.block_inputs(state, drive, block, cache)


def _linear(incoming: Incoming, vector: State) -> State:
    """The products of ``incoming`` alone, without any drive."""
    result = []
    for l, sources in enumerate(incoming):
        z = torch.zeros_like(vector[l])
        for source, add in sources:
            z = add(z, vector[source], True)
        result.append(z)
    return tuple(result)


def _is_standard(a: Activation) -> bool:
    from eqprop._activations import _ACTIVATIONS

    return _ACTIVATIONS.get(a.name) is a


def _colour_classes(layers: int, edges: list[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Blocks of layers without connections among them: a greedy colouring in the order of the layers.

    On a chain these are the odd and the even layers; parity alone would fail on triangles and same-parity skips.
    """
    neighbours: list[set[int]] = [set() for _ in range(layers)]
    for a, b in edges:
        if a >= 0 and b >= 0:
            neighbours[a].add(b)
            neighbours[b].add(a)
    colours: list[int] = []
    for l in range(layers):
        taken = {colours[n] for n in neighbours[l] if n < l}
        colours.append(next(c for c in range(layers) if c not in taken))
    return tuple(tuple(l for l in range(layers) if colours[l] == c) for c in range(max(colours) + 1))
