"""What the tests of the core share: networks of every kind, solvers, and a mode that rejects host synchronisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.stats import linregress
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import eqprop
from eqprop import (
    Alternating,
    Anderson,
    Conv,
    Dense,
    DirectedNetwork,
    EnergyNetwork,
    FieldNetwork,
    GradientFlow,
    HopfieldNetwork,
    Layer,
    Network,
    Solution,
    Stop,
    Synchronous,
)

ACTIVATIONS = ("hard_sigmoid", "sigmoid", "dsilu", "tanh", "relu6", "linear")
SMOOTH = ("sigmoid", "tanh")
# to rounding in float64; tests that compare equilibria use nothing looser
TIGHT = Stop(tol=1e-14, max_sweeps=3000, block=20)
SOLVERS: dict[str, Any] = {
    "alternating": Alternating(),
    "alternating-reversed": Alternating(reverse=True),
    "synchronous": Synchronous(),
    "anderson": Anderson(),
    "anderson-synchronous": Anderson(sweep=Synchronous()),
    "gradient-flow": GradientFlow(0.5),
}

Layers = dict[str, Layer]
State = tuple[Tensor, ...]


def seeded(seed: int = 0) -> torch.Generator:
    """A CPU generator of its own."""
    return torch.Generator().manual_seed(seed)


def layers(*sizes: int, activation: str = "tanh", output: str = "linear") -> Layers:
    """``input, a, b, ..., output`` of those sizes."""
    names = ["input", *"abcdefg"[: len(sizes) - 2], "output"]
    kinds = [None, *[activation] * (len(sizes) - 2), output]
    return {n: Layer(size, kind) for n, size, kind in zip(names, sizes, kinds, strict=True)}


def joined(*pairs: str, gain: float = 0.3) -> list[Dense]:
    """Connections from ``"a>b"`` texts."""
    ends = [pair.split(">") for pair in pairs]
    return [Dense(pre, post, "xavier_uniform", gain) for pre, post in ends]


class QuarticEnergy(nn.Module):
    """A user's energy that is not bilinear: ``sum s^4/4 + |s|^2/2 - tanh(x A) . h - h B out``, softly coupled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(0.4 * torch.randn(5, 6, generator=seeded(11)))
        self.b = nn.Parameter(0.3 * torch.randn(6, 3, generator=seeded(12)))

    def forward(self, state: State, x: Tensor) -> Tensor:
        h, out = state
        own = sum((0.05 * s**4 + 0.5 * s**2).sum(-1) for s in state)
        energy: Tensor = own - (torch.tanh(x @ self.a) * h).sum(-1) - ((h @ self.b) * out).sum(-1)
        return energy


class CubicField(nn.Module):
    """A user's vector field without an energy, with a term of third order in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(0.4 * torch.randn(5, 6, generator=seeded(13)))
        self.b = nn.Parameter(0.3 * torch.randn(6, 3, generator=seeded(14)))
        self.c = nn.Parameter(0.3 * torch.randn(3, 6, generator=seeded(15)))

    def forward(self, state: State, x: Tensor) -> State:
        h, out = state
        return x @ self.a + out @ self.c - 0.1 * h**3, h @ self.b


def _directed(angle: float | None) -> Network:
    return DirectedNetwork.mlp(
        5, 7, 6, 3, activation="tanh", output_activation="linear", feedback_angle=angle, gain=0.35, generator=seeded(1)
    )


def _chain(activation: str) -> Network:
    return HopfieldNetwork.mlp(
        5, 7, 6, 3, activation=activation, output_activation=activation, gain=0.4, generator=seeded(1)
    )


def _graph(cls: type[HopfieldNetwork] | type[DirectedNetwork], sizes: tuple[int, ...], *pairs: str) -> Network:
    return cls(layers(*sizes), joined(*pairs), generator=seeded(1))


def _cnn(cls: type[HopfieldNetwork] | type[DirectedNetwork], pooling: str, activation: str, **options: Any) -> Network:
    """``2x6x6 -> 2x6x6 -> 2x3x3 -> 3`` or a readout, pooled between the layers that move."""
    made: dict[str, Any] = {"units": (3,), "gain": 0.3, "activation": activation} | options
    return cls.cnn((2, 6, 6), 2, 2, pooling=("none", pooling), generator=seeded(1), **made)


def residual_network(cls: type[HopfieldNetwork] | type[DirectedNetwork] = HopfieldNetwork) -> Network:
    """A residual block of a Hopfield-ResNet: two convolutions, the first strided, beside a strided one of 1x1."""
    shapes = {"input": (2, 6, 6), "a": (2, 6, 6), "b": (3, 3, 3), "c": (3, 3, 3), "output": (3,)}
    kinds = {name: Layer(shape, None if name == "input" else "tanh") for name, shape in shapes.items()}
    made: list[Any] = [
        Conv("input", "a", gain=0.4),
        Conv("a", "b", stride=2, gain=0.4),
        Conv("b", "c", gain=0.4),
        Conv("a", "c", kernel=1, stride=2, padding=0, gain=0.4),
        Dense("c", "output", gain=0.4),
    ]
    return cls(kinds, made, generator=seeded(1))


# Every kind of network that there is; 3 outputs each, 5 inputs or an image of 2x6x6.
NETWORKS: dict[str, Callable[[], Network]] = {
    **{f"chain-{a}": lambda a=a: _chain(a) for a in ACTIVATIONS},  # type: ignore[misc]
    "one-layer": lambda: HopfieldNetwork.mlp(5, 3, output_activation="sigmoid", generator=seeded(1)),
    "skip": lambda: _graph(HopfieldNetwork, (5, 7, 6, 3), "input>a", "a>b", "b>output", "a>output", "input>output"),
    "same-parity-skip": lambda: _graph(
        HopfieldNetwork, (5, 6, 5, 6, 3), "input>a", "a>b", "b>c", "a>c", "c>output", "b>output"
    ),
    "triangle": lambda: _graph(HopfieldNetwork, (5, 7, 6, 3), "input>a", "a>b", "b>output", "output>a"),
    "readout": lambda: HopfieldNetwork.mlp(
        5, 7, 6, activation="tanh", output_activation="tanh", readout=3, generator=seeded(1)
    ),
    "directed-0": lambda: _directed(0.0),
    "directed-40": lambda: _directed(40.0),
    "directed-180": lambda: _directed(180.0),
    "directed-free": lambda: _directed(None),
    "directed-readout": lambda: DirectedNetwork.mlp(
        5, 7, 6, activation="tanh", output_activation="tanh", readout=3, feedback_angle=60.0, generator=seeded(1)
    ),
    "loop": lambda: _graph(DirectedNetwork, (5, 7, 6, 3), "input>a", "a>b", "b>output", "output>a"),
    "self-loop": lambda: _graph(DirectedNetwork, (5, 7, 3), "input>a", "a>a", "a>output"),
    "conv-average": lambda: _cnn(HopfieldNetwork, "average", "hard_sigmoid"),
    "conv-max": lambda: _cnn(HopfieldNetwork, "max", "hard_sigmoid"),
    "conv-soft": lambda: _cnn(HopfieldNetwork, "soft", "sigmoid"),
    "conv-readout": lambda: _cnn(HopfieldNetwork, "average", "tanh", units=(), readout=3),
    "conv-residual": residual_network,
    "directed-conv-max": lambda: _cnn(DirectedNetwork, "max", "tanh", feedback_angle=40.0),
    "directed-conv-soft": lambda: _cnn(DirectedNetwork, "soft", "sigmoid", feedback_angle=40.0),
    "user-energy": lambda: EnergyNetwork(QuarticEnergy(), layers(5, 6, 3, activation="hard_sigmoid")),
    "user-field": lambda: FieldNetwork(CubicField(), layers(5, 6, 3)),
    "user-function": lambda: FieldNetwork(
        eqprop.as_module(
            lambda p, s, x: (x @ p["w"] + s[1] @ p["v"], s[0] @ p["v"].mT),
            {"w": 0.4 * torch.randn(5, 6, generator=seeded(16)), "v": 0.3 * torch.randn(3, 6, generator=seeded(17))},
        ),
        layers(5, 6, 3),
    ),
}
TIED = [n for n in NETWORKS if n.startswith(("chain", "one", "skip", "same", "triangle", "readout", "conv"))]


def network(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> Network:
    """A network of ``NETWORKS`` in float64, biases drawn too: zeros would hide them, and clamp hard sigmoids."""
    net = NETWORKS[name]()
    generator = seeded(2)
    with torch.no_grad():
        for key, p in net.named_parameters():
            if "bias" in key:
                p.copy_(0.3 + 0.2 * torch.randn(p.shape, generator=generator))
    return net.to(device=device, dtype=dtype)


def inputs(
    net: Network, batch: int = 6, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, seed: int = 3
) -> Tensor:
    """Inputs in 0..1, the same values on every device."""
    return torch.rand(batch, *net.input_shape, generator=seeded(seed), dtype=torch.float64).to(device, dtype)


def labels(batch: int = 6, classes: int = 3, device: torch.device | str = "cpu") -> Tensor:
    """Labels, every class in turn."""
    return (torch.arange(batch) % classes).to(device)


def random_state(net: Network, batch: int = 6, seed: int = 4) -> State:
    """States in the range of the activations, on the network's device."""
    generator, like = seeded(seed), next(net.parameters())
    return tuple(
        rho(torch.randn(batch, *shape, generator=generator, dtype=torch.float64)).to(like)
        for shape, rho in zip(net.shapes, net.activations, strict=True)
    )


def linear_network(
    weights: dict[str, Tensor], sizes: tuple[int, ...], device: torch.device | str = "cpu"
) -> HopfieldNetwork:
    """A linear tied network with the weights given (``"a>b": [b, a]``), the input connected by the identity."""
    keys = ["input>a", *weights]
    net = HopfieldNetwork(layers(*sizes, activation="linear"), joined(*keys), dtype=torch.float64)
    with torch.no_grad():
        for key, w in {"input>a": torch.eye(sizes[1], sizes[0]), **weights}.items():
            net.connection(key.replace(">", "-")).weight.copy_(w)
    return net.to(device)


def jacobian(net: Network, state: State, x: Tensor) -> Tensor:
    """``D H``, the Jacobian of the synchronous map ``s -> rho(inputs(s))`` of one sample, ``[units, units]``."""
    drive = net.drive(x)
    sizes = [s.shape[-1] for s in state]

    def image(flat: Tensor) -> Tensor:
        z = net.inputs(tuple(flat.split(sizes, -1)), drive)
        return torch.cat([rho(v) for rho, v in zip(net.activations, z, strict=True)], -1)[0]

    result: Tensor = torch.autograd.functional.jacobian(image, torch.cat(state, -1))
    return result[:, 0].detach()


def flat(values: dict[str, Tensor]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([v.flatten() for v in values.values()])


def slope(x: Any, y: Any) -> float:
    """Exponent of a power law ``y ~ x^slope``."""
    return float(linregress(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))).slope)


def exact_loss(net: Network, x: Tensor, y: Tensor, cost: str = "squared-error") -> Tensor:
    """Batch-mean loss at the free equilibrium, to rounding."""
    solution = eqprop.relax(net, net.initial_state(len(x)), net.drive(x), stop=TIGHT)
    output = net.output(solution.state)
    function = eqprop.cost(cost)
    return function.loss(output, function.target(y, output)).mean().detach()


def distance(a: State, b: State) -> float:
    """Largest difference of two states."""
    return max(float((p - q).detach().abs().max()) for p, q in zip(a, b, strict=True))


def same(a: Solution, b: Solution) -> bool:
    """Whether two solutions are equal bit for bit."""
    pairs = [*zip(a.state, b.state, strict=True), (a.residual, b.residual), (a.sweeps, b.sweeps), (a.status, b.status)]
    return all(torch.equal(p, q) for p, q in pairs)


class HostSync(RuntimeError):
    """Something that makes the host wait for the device, or mixes devices."""


_BLOCKING_METHODS = frozenset(
    ("cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__")
    + ("__contains__", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose")
)
_BLOCKING_OPS = frozenset(
    ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")
    + ("unique_consecutive", "bincount", "linalg_inv_ex_check", "_linalg_check_errors", "_assert_async_host")
)


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(isinstance(p, Tensor) and p.dtype in (torch.bool, torch.uint8) for p in parts)


def _check_generator(name: str, arguments: dict[str, Any], tensors: tuple[Any, ...]) -> None:
    generator = arguments.get("generator")
    if generator is None:
        return
    where = arguments.get("device")
    devices = {torch.device(where).type} if where is not None else {t.device.type for t in tensors}
    if not devices:
        devices = {"cpu"}
    if devices != {generator.device.type}:
        raise HostSync(f"{name}: a generator on {generator.device.type} for tensors on {', '.join(sorted(devices))}")


class _Methods(TorchFunctionMode):
    """What is called by name from Python: seen even where it is free on CPU tensors."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _BLOCKING_METHODS:
            raise HostSync(f"{name} waits for the device")
        if name in ("__getitem__", "__setitem__") and _is_mask(args[1]):
            raise HostSync("indexing by a mask waits for the device")
        if name == "to":
            target = kwargs.get("device", args[1] if len(args) > 1 else None)
            if isinstance(target, str | torch.device) and torch.device(target).type == "cpu":
                raise HostSync("to('cpu') waits for the device")
        tensors = tuple(a for a in args if isinstance(a, Tensor))
        _check_generator(name, kwargs, tensors)
        return func(*args, **kwargs)


class _Ops(TorchDispatchMode):
    """What reaches the kernels: also from inside torch's own functions."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        if name in _BLOCKING_OPS:
            raise HostSync(f"aten.{name} waits for the device")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index") and _is_mask(args[1]):
            raise HostSync(f"aten.{name} by a mask waits for the device")
        if name == "_to_copy" and kwargs.get("device") is not None:
            if torch.device(kwargs["device"]).type == "cpu" and args[0].device.type != "cpu":
                raise HostSync("a copy to the CPU waits for the device")
        if name == "copy_" and args[0].device.type == "cpu" and args[1].device.type != "cpu":
            raise HostSync("a copy to the CPU waits for the device")
        _check_generator(f"aten.{name}", kwargs, tuple(a for a in args if isinstance(a, Tensor)))
        return func(*args, **kwargs)


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Rejects everything after which the host has seen a value of a tensor, and generators of another device.

    Works on CPU tensors (methods by name) and on fake CUDA tensors (copies too).
    """
    with _Methods(), _Ops():
        yield
