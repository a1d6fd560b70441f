"""Chains of layers: the dense and convolutional stacks that ``mlp`` and ``cnn`` build."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from eqprop._activations import Activation
from eqprop._connections import Dense
from eqprop._convolution import Conv
from eqprop._errors import ConfigError
from eqprop._network import Layer


class Stack(NamedTuple):
    """Layers, the clamped input first, and a forward connection from each to the next."""

    layers: dict[str, Layer]
    forward: list[Dense | Conv]


def dense_stack(
    sizes: Sequence[int],
    activation: str | Activation,
    output_activation: str | Activation | None,
    initializer: str,
    gain: float | str | None,
) -> Stack:
    """Layers ``input``, ``hidden1``, ..., ``output``.

    Raises:
        ConfigError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ConfigError(f"mlp: got sizes {tuple(sizes)}, needed at least input and output, as in mlp(784, 1024, 10)")
    names = ["input", *(f"hidden{i}" for i in range(1, len(sizes) - 1)), "output"]
    last = activation if output_activation is None else output_activation
    kinds = [None, *([activation] * (len(sizes) - 2)), last]
    layers = {n: Layer(size, a) for n, size, a in zip(names, sizes, kinds, strict=True)}
    return Stack(layers, [Dense(a, b, initializer, gain) for a, b in itertools.pairwise(names)])


def conv_stack(
    input_shape: Sequence[int],
    channels: Sequence[int],
    units: Sequence[int],
    activation: str | Activation,
    output_activation: str | Activation | None,
    *,
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    pooling: str | Sequence[str],
    pool: int,
    initializer: str,
    gain: float | str | None,
) -> Stack:
    """Layers ``input``, ``conv1``, ..., then ``dense1``, ... of ``units``, the last of which is called ``output``.

    Raises:
        ConfigError: an image that cannot be convolved or pooled so often, or settings that do not fit the layers.
    """
    if len(input_shape) != 3 or not channels:
        raise ConfigError(
            f"cnn: got input {tuple(input_shape)} and channels {tuple(channels)}, needed (channels, height, width) and "
            "at least one layer, as in cnn((3, 32, 32), 32, 64)"
        )
    if not isinstance(units, Sequence):
        raise ConfigError(f"cnn: got units={units!r}, needed one number a dense layer, as in units=({units!r},)")
    count = len(channels)
    per_layer = zip(
        _each("kernel", kernel, count),
        _each("stride", stride, count),
        _each("padding", padding, count),
        _each("pooling", pooling, count),
        strict=True,
    )
    layers = {"input": Layer(tuple(input_shape))}
    forward: list[Dense | Conv] = []
    shape = tuple(input_shape)
    last = "input"
    for i, (width, (k, s, p, kind)) in enumerate(zip(channels, per_layer, strict=True), start=1):
        name = f"conv{i}"
        made = Conv(last, name, k, s, p, pooling=kind, pool=pool, initializer=initializer, gain=gain)
        window = 1 if kind == "none" else pool
        out = tuple((n + 2 * p - k) // s + 1 for n in shape[1:])
        if min(out) < window or any(n % window for n in out):
            raise ConfigError(
                f"cnn: got {out[0]}x{out[1]} before the pooling of layer conv{i} (of {shape[1]}x{shape[2]}), needed a "
                f"positive multiple of its window {window}; pass fewer channels, another padding, or pooling='none' "
                "for that layer"
            )
        shape = (width, *(n // window for n in out))
        own = activation if units or i < count or output_activation is None else output_activation
        layers[name] = Layer(shape, own)
        forward.append(made)
        last = name
    for i, n in enumerate(units, start=1):
        name = "output" if i == len(units) else f"dense{i}"
        own = output_activation if name == "output" and output_activation is not None else activation
        layers[name] = Layer(n, own)
        forward.append(Dense(last, name, initializer, gain))
        last = name
    return Stack(layers, forward)


def _each(what: str, value: Any, count: int) -> list[Any]:
    """One value for all layers, or one each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ConfigError(f"cnn: got {len(value)} values of {what}, needed one, or one for each of {count} layers")
    return list(value)
