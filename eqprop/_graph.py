"""What tied and directed networks share: a graph of layers and connections, and its closed-form dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from eqprop._activations import Activation
from eqprop._connections import Connection, Dense, Product
from eqprop._convolution import Conv, ConvTranspose
from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._network import Cache, Drive, Layer, Network, State, System
from eqprop._stacks import Stack, conv_stack, dense_stack

Incoming = tuple[tuple[tuple[int, Product], ...], ...]  # per layer: (source layer, product that adds to its input)
N = TypeVar("N", bound="GraphNetwork")
_KINDS = (Dense, Conv, ConvTranspose)


class Edge(NamedTuple):
    """A connection in the graph: its key, the layers at its ends (-1: the clamped input), and which products act."""

    key: str
    tail: int
    head: int
    ahead: bool
    back: bool

    @property
    def pre(self) -> int:
        """The layer that it comes from, as declared."""
        return self.tail if self.ahead else self.head

    @property
    def post(self) -> int:
        """The layer that it goes to, as declared."""
        return self.head if self.ahead else self.tail


class JacobianBlock(NamedTuple):
    """A block of ``H = d inputs/ds``: the Jacobian of a connection, or its transpose."""

    connection: Connection
    transposed: bool


class GraphNetwork(Network):
    """Layers joined by connections; base of ``HopfieldNetwork`` and ``DirectedNetwork``.

    Args:
        layers: name -> ``Layer``, the clamped input first; the last is the output.
        connections: ``Dense``, ``Conv``, ``ConvTranspose``; any graph: chains, skips, loops.
        readout: number of outputs of a linear readout outside the dynamics, or None.
        generator: draws the initial weights, on the CPU; seeded with 0 where None.
        dtype: of the parameters; None for torch's default.

    Raises:
        ConfigError: an unknown layer, a connection twice, into the input or (tied) from a layer to itself, or a layer
            that nothing reaches.
    """

    def __init__(
        self,
        layers: dict[str, Layer],
        connections: Sequence[Dense | Conv | ConvTranspose],
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
        self._edges: list[Edge] = []
        index = {name: i for i, name in enumerate(self.names)} | {self.input_name: -1}
        for c in connections:
            if not isinstance(c, _KINDS):
                raise ConfigError(
                    f"connection: got {c!r}, needed Dense, Conv or ConvTranspose, as Dense('input', 'output')"
                )
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
            made = c.build(layers[c.pre].shape, layers[c.post].shape, generator=generator, dtype=dtype)
            if made.reverse and (self.tied or pre == -1):
                raise ConfigError(
                    f"connection {key}: ConvTranspose is feedback with weights of its own between layers that move; "
                    f"in a HopfieldNetwork Conv({c.post!r}, {c.pre!r}) already acts both ways"
                )
            self.connections[key] = made
            tail, head = (post, pre) if made.reverse else (pre, post)
            self._edges.append(Edge(key, tail, head, not made.reverse, made.reverse or (self.tied and pre != -1)))
        reached = {e.post for e in self._edges} | ({e.pre for e in self._edges} if self.tied else set())
        for i, name in enumerate(self.names):
            if i not in reached:
                raise ConfigError(
                    f"layer {name!r}: no connection reaches it; write Dense('{self.input_name}', {name!r})"
                )
        self.biases = nn.ParameterDict(
            {n: nn.Parameter(torch.zeros(_bias_shape(layers[n].shape), dtype=dtype)) for n in self.names}
        )
        moving = [self.connection(e.key) for e in self._edges if e.tail != -1]
        self.affine = all(c.linear for c in moving)
        self.holomorphic = all(c.holomorphic for c in moving)
        self.blocks = _colour_classes(len(self.names), [(e.tail, e.head) for e in self._edges])

    def connection(self, key: str) -> Connection:
        """The connection of that key, ``"pre-post"``."""
        if key not in self.connections:
            lookup("connection", key, dict(self.connections.items()))
        module = self.connections[key]
        if not isinstance(module, Connection):
            raise ConfigError(f"connection {key}: got {type(module).__name__}, needed an eqprop connection")
        return module

    # -- dynamics ------------------------------------------------------------------------------------------------------

    def drive(self, x: Tensor) -> Drive:
        x = self.clamped(x)
        terms: list[Tensor] = [self.biases[name] for name in self.names]
        for key, tail, head, *_ in self._edges:
            if tail == -1:
                terms[head] = self.connection(key).products().ahead(terms[head], x, x, False)
        return Drive(tuple(terms), x)

    def _incoming(self, precision: torch.dtype | None, paired: bool = False) -> Incoming:
        """Per layer, where its input comes from."""
        incoming: list[list[tuple[int, Product]]] = [[] for _ in self.names]
        for key, tail, head, ahead, back in self._edges:
            if tail == -1:
                continue
            products = self.connection(key).products(precision, paired)
            if ahead:
                incoming[head].append((tail, products.ahead))
            if back:
                incoming[tail].append((head, products.back))
        return tuple(tuple(sources) for sources in incoming)

    def _tangent_incoming(self, state: State, precision: torch.dtype | None, transpose: bool) -> Incoming:
        """The same of ``v -> H v``, or ``H^T v``, with ``H = d inputs/ds`` at ``state``."""
        incoming: list[list[tuple[int, Product]]] = [[] for _ in self.names]
        for key, tail, head, ahead, back in self._edges:
            if tail == -1:
                continue
            tangents = self.connection(key).tangents(state[tail], state[head], precision, transpose)
            if back if transpose else ahead:
                incoming[head].append((tail, tangents.ahead))
            if ahead if transpose else back:
                incoming[tail].append((head, tangents.back))
            if back and tangents.curvature is not None:
                incoming[tail].append((tail, tangents.curvature))
        return tuple(tuple(sources) for sources in incoming)

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache(self._incoming(products, paired))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        incoming: Incoming = cache.content
        result = []
        for l in block:
            z, owned = drive.terms[l], False
            for source, add in incoming[l]:
                z, owned = add(z, state[source], state[l], owned), True
            # where nothing but its drive acts on a layer, the drive must stay as it is
            result.append(z if owned else z.expand_as(state[l]).clone())
        return result

    def pull(self, state: State, drive: Drive, nudge: Any, block: Sequence[int], cache: Cache) -> State:
        result = []
        force = getattr(nudge, "force", None)
        for l, z in zip(block, self.block_inputs(state, drive, block, cache), strict=True):
            rho = self.activations[l]
            nudged = nudge is not None and l in nudge.layers
            if nudged and force is None:
                result.append(nudge.apply(l, z, state[l], rho))
                continue
            z = z.add_(force(state[l])) if nudged and force is not None else z
            result.append(z if rho.quadratic else rho.inplace(z))
        return tuple(result)

    def tangent(self, state: State, drive: Drive, *, transpose: bool) -> Callable[[State], State]:
        incoming = self._tangent_incoming(state, None, transpose)
        return lambda vector: _linear(incoming, vector)

    def vjp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=True)(vector)

    def jvp_inputs(self, state: State, vector: State, drive: Drive) -> State:
        return self.tangent(state, drive, transpose=False)(vector)

    def linearised_transpose(self, state: State, drive: Drive) -> System:
        return _TransposedNetwork(self, state)  # closed form, a block of layers at a time

    def jacobian_blocks(self) -> dict[tuple[int, int], JacobianBlock]:
        """Blocks of ``H = d inputs / ds`` by (post, pre), less what the curvature of pooling adds on the diagonal."""
        blocks: dict[tuple[int, int], JacobianBlock] = {}
        for key, tail, head, ahead, back in self._edges:
            if tail != -1 and ahead:
                blocks[head, tail] = JacobianBlock(self.connection(key), False)
            if tail != -1 and back:
                blocks[tail, head] = JacobianBlock(self.connection(key), True)
        return blocks

    # -- gradients -----------------------------------------------------------------------------------------------------

    def _add_bias_gradient(self, direction: State) -> None:
        for name, d, shape in zip(self.names, direction, self.shapes, strict=True):
            bias = self.biases[name]
            if not bias.requires_grad:
                continue
            g = d.sum(-len(shape) - 1)
            g = g.sum((-2, -1), keepdim=True) if len(shape) == 3 else g  # one a channel
            bias.grad = g if bias.grad is None else bias.grad.add_(g)

    def add_tangent_gradient(self, state: State, direction: State, x: Tensor) -> None:
        for key, tail, head, ahead, back in self._edges:
            connection = self.connection(key)
            if ahead:
                connection.add_gradient(x if tail == -1 else state[tail], direction[head])
            if back:
                connection.add_back_gradient(state[tail], state[head], direction[tail])
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
        keys = [e.key for e in self._edges]
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
            into = [n for n, e in enumerate(self._edges) if e.post == i] or [
                n for n, e in enumerate(self._edges) if e.pre == i
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
            for key, tail, head, ahead, _ in self._edges:
                if ahead and head == l and 0 <= tail < l:
                    z = self.connection(key).products().ahead(z, state[tail], state[tail], False)
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
        stack = dense_stack(sizes, activation, output_activation, initializer, gain)
        return cls._from_stack(stack, readout=readout, generator=generator, dtype=dtype, **options)

    @classmethod
    def cnn(
        cls: type[N],
        input_shape: Sequence[int],
        *channels: int,
        units: Sequence[int] = (),
        kernel: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 1,
        pooling: str | Sequence[str] = "average",
        pool: int = 2,
        activation: str | Activation = "hard_sigmoid",
        output_activation: str | Activation | None = None,
        readout: int | None = None,
        initializer: str = "kaiming_uniform",
        gain: float | str | None = 0.5,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> N:
        """A chain of convolutional layers, then dense ones: ``cnn((3, 32, 32), 32, 64, units=(10,))``.

        Args:
            input_shape: ``(channels, height, width)`` of the clamped input.
            channels: of each convolutional layer.
            units: of the dense layers on top, the last of which is the output; none where a ``readout`` reads the last
                convolutional layer, or where that layer itself is the output.
            kernel, stride, padding, pooling: see ``eqprop.Conv``; one for all convolutional layers, or one each.
            pool: side of the pooling window.
            activation, output_activation, readout, generator, dtype: as of ``mlp``.
            initializer, gain: of all weights, see ``eqprop.initial_weight``.

        Raises:
            ConfigError: an image size that cannot be pooled so often, with what would do.
        """
        stack = conv_stack(
            input_shape,
            channels,
            units,
            activation,
            output_activation,
            kernel=kernel,
            stride=stride,
            padding=padding,
            pooling=pooling,
            pool=pool,
            initializer=initializer,
            gain=gain,
        )
        return cls._from_stack(stack, readout=readout, generator=generator, dtype=dtype, **options)

    @classmethod
    def _from_stack(cls: type[N], stack: Stack, **options: Any) -> N:
        return cls(stack.layers, [*stack.forward, *cls._feedback(stack.forward[1:])], **options)

    @staticmethod
    def _feedback(forward: Sequence[Dense | Conv]) -> Sequence[Dense | Conv | ConvTranspose]:
        """Feedback connections beside forward ones between layers that move; tied weights need none."""
        return ()


class _TransposedNetwork(System):
    """``z = c + H^T s``: a graph network linearised around a state, with every connection the other way round."""

    affine = True
    holomorphic = True

    def __init__(self, network: GraphNetwork, state: State) -> None:
        self.shapes, self.activations, self.blocks = network.shapes, network.activations, network.blocks
        self.bath = network.bath
        self._network, self._state = network, state

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        # real, so that both halves of a complex state see the same
        return Cache(self._network._tangent_incoming(self._state, products, transpose=True))

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        return self._network.block_inputs(state, drive, block, cache)


def _linear(incoming: Incoming, vector: State) -> State:
    """The products of ``incoming`` alone, without any drive."""
    result = []
    for l, sources in enumerate(incoming):
        z = torch.zeros_like(vector[l])
        for source, add in sources:
            z = add(z, vector[source], vector[l], True)
        result.append(z)
    return tuple(result)


def _bias_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One bias a unit, or one a channel of an image ``(channels, height, width)``."""
    return (shape[0], 1, 1) if len(shape) == 3 else shape


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
