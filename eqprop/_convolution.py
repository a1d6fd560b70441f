"""Convolutional connections, with pooling: closed form in both directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqprop._connections import Connection, Product, Products, Shape, Tangents
from eqprop._errors import ConfigError
from eqprop._initializers import initial_weight
from eqprop._names import lookup
from eqprop._pairs import halves
from eqprop._pooling import Pooled, pooling_function

_POOLINGS = {"none": None, "average": None, "max": None, "soft": None}


@dataclass(frozen=True)
class _Spatial:
    """What ``Conv`` and ``ConvTranspose`` share."""

    pre: str
    post: str
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pooling: str = "none"
    pool: int = 2
    temperature: float = 1.0
    initializer: str = "xavier_uniform"
    gain: float | str | None = None

    def __post_init__(self) -> None:
        lookup(f"pooling of {self.pre}-{self.post}", self.pooling, _POOLINGS)
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("pool", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"connection {self.pre}-{self.post}: got {name}={value!r}, needed a whole number from {least} on"
                )
        t = self.temperature
        if isinstance(t, bool) or not isinstance(t, int | float) or not (math.isfinite(t) and t > 0.0):
            raise ConfigError(f"connection {self.pre}-{self.post}: got temperature={t!r}, needed a number above 0")

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description; the class with its items less ``type`` gives the connection back."""
        return {"type": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def _build(
        self, tail: Shape, head: Shape, generator: torch.Generator, dtype: torch.dtype | None
    ) -> tuple[Tensor, _Geometry]:
        key = f"connection {self.pre}-{self.post}"
        for what, shape in (("from", tail), ("to", head)):
            if len(shape) != 3:
                raise ConfigError(
                    f"{key}: got shape {shape} of the layer {what}, needed (channels, height, width); "
                    "write Dense(...) for flat layers"
                )
        size = tuple(n + 2 * self.padding - self.kernel for n in tail[1:])
        if min(size) < 0:
            raise ConfigError(
                f"{key}: got a kernel of {self.kernel} on {tail[1]}x{tail[2]} with padding {self.padding}, needed at "
                f"most {min(tail[1:]) + 2 * self.padding}"
            )
        out = tuple(n // self.stride + 1 for n in size)
        pool = 1 if self.pooling == "none" else self.pool
        if any(n % pool for n in out):
            raise ConfigError(
                f"{key}: got {out[0]}x{out[1]} after the convolution of {tail[1]}x{tail[2]}, needed a multiple of the "
                f"pooling window {pool}; change padding or stride, or pooling='none'"
            )
        pooled = tuple(n // pool for n in out)
        if head[1:] != pooled:
            raise ConfigError(
                f"{key}: got a layer of {head[1]}x{head[2]}, needed {pooled[0]}x{pooled[1]}, what comes of "
                f"{tail[1]}x{tail[2]}; write Layer(({head[0]}, {pooled[0]}, {pooled[1]}), ...)"
            )
        weight = initial_weight(
            (head[0], tail[0], self.kernel, self.kernel),
            initializer=self.initializer,
            gain=self.gain,
            generator=generator,
            dtype=dtype,
        )
        geometry = _Geometry(tail, head, self.kernel, self.stride, self.padding, self.pooling, pool, self.temperature)
        return weight.contiguous(memory_format=torch.channels_last), geometry


@dataclass(frozen=True)
class Conv(_Spatial):
    """A convolution, pooled, from layer ``pre`` to layer ``post``: ``f(s) = P(W * s)``, ``W [post, pre, k, k]``.

    In a ``HopfieldNetwork`` the connection is tied: ``pre`` receives ``W^T * P'(W * s_pre)^T s_post``. In a
    ``DirectedNetwork`` only ``post`` receives; ``ConvTranspose`` is the way back. Stride and 1x1 kernels make the skip
    connections of residual networks. The bias of a layer, one a channel, is added after pooling, which is the same as
    before it. Weights are kept channels-last.

    Average pooling costs less than none: the convolution and the mean over a window are one strided convolution with a
    kernel of ``kernel + stride (pool - 1)``. Max pooling is not holomorphic; soft pooling is. With max pooling a
    network has many equilibria (the first sweeps decide who wins a window), so that rules compare only under one
    solver.

    On CUDA torch lets convolutions in float32 run in TF32, whose rounding is of the size of what a small nudge moves:
    write ``torch.backends.cudnn.allow_tf32 = False``, as the benchmarks do.

    Args:
        pre, post: names of layers of shape ``(channels, height, width)``.
        kernel, stride, padding: of the convolution, the same in both directions of the image.
        pooling: ``"none"``, ``"average"``, ``"max"`` or ``"soft"`` (softmax-weighted mean), over windows that do not
            overlap.
        pool: side of the window.
        temperature: ``T`` of soft pooling; towards 0 it becomes max, towards infinity average pooling.
        initializer, gain: of the weight, see ``eqprop.initial_weight``.

    Raises:
        ConfigError: shapes that do not fit, with those that would.

    Source: Ernoult et al. 2019 (max pooling); Laborieux & Zenke 2022 (soft pooling); Scellier et al. 2024 (average).
    """

    def build(
        self, pre: Shape, post: Shape, *, generator: torch.Generator, dtype: torch.dtype | None
    ) -> ConvConnection:
        """The connection's module, with weights drawn from ``generator``."""
        return ConvConnection(*self._build(pre, post, generator, dtype))


@dataclass(frozen=True)
class ConvTranspose(_Spatial):
    """Feedback from layer ``pre`` down to ``post`` with weights of its own: the way back of ``Conv(post, pre, ...)``.

    ``post`` receives ``B^T * P'(B * s_post)^T s_pre``, with ``B`` of the shape of the forward weight: also the position
    in a pooling window is chosen by ``B``. For directed networks.

    Args, Raises: as of ``Conv``, whose settings the two share.

    Source: Laborieux & Zenke 2024 (untied convolutional networks).
    """

    def build(
        self, pre: Shape, post: Shape, *, generator: torch.Generator, dtype: torch.dtype | None
    ) -> ConvConnection:
        """The connection's module, with weights drawn from ``generator``."""
        return ConvConnection(*self._build(post, pre, generator, dtype), reverse=True)


@dataclass(frozen=True)
class _Geometry:
    tail: Shape
    head: Shape
    kernel: int
    stride: int
    padding: int
    pooling: str
    pool: int
    temperature: float


class ConvConnection(Connection):
    """Weights of a ``Conv`` or ``ConvTranspose`` connection, ``[head channels, tail channels, kernel, kernel]``."""

    def __init__(self, weight: Tensor, geometry: _Geometry, reverse: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.geometry, self.reverse = geometry, reverse
        g = geometry
        self.linear = g.pooling in ("none", "average")
        self.holomorphic = g.pooling != "max"
        self._box = g.pool if g.pooling == "average" else 1  # the mean over a window as a part of the kernel
        self._stride = g.stride * self._box
        kernel = g.kernel + g.stride * (self._box - 1)
        # rows and columns at the far edge that no kernel reaches
        self._rest = [(n + 2 * g.padding - kernel) % self._stride for n in g.tail[1:]]
        self._counts: Tensor
        if self.linear:
            # a buffer, for the host would wait where a step of training copied it to the device
            sides = zip(g.tail[1:], g.head[1:], strict=True)
            rows, columns = (torch.tensor(_uses(n, kernel, self._stride, g.padding, m)) for n, m in sides)
            self.register_buffer("_counts", torch.outer(rows, columns).to(weight), persistent=False)

    # -- the convolution, with the average in it -----------------------------------------------------------------------

    def _kernel(self, weight: Tensor) -> Tensor:
        """``W``, or with average pooling the mean over the window of ``W``, each shifted to its place."""
        if self._box == 1:
            return weight
        size = weight.shape[2] + self.geometry.stride * (self._box - 1)
        kernel = weight.new_zeros(*weight.shape[:2], size, size).contiguous(memory_format=torch.channels_last)
        for rows, columns in self._shifts():
            kernel[..., rows, columns] += weight
        return kernel.div_(self._box**2)

    def _kernel_transpose(self, kernel: Tensor) -> Tensor:
        """The transpose of ``_kernel`` as a linear map of weights."""
        if self._box == 1:
            return kernel
        parts = [kernel[..., rows, columns] for rows, columns in self._shifts()]
        return torch.stack(parts).sum(0).div_(self._box**2).contiguous(memory_format=torch.channels_last)

    def _shifts(self) -> list[tuple[slice, slice]]:
        """Where in the kernel of a pooled convolution the weight lies, for each member of a window."""
        g = self.geometry
        places = [slice(g.stride * i, g.stride * i + g.kernel) for i in range(self._box)]
        return [(rows, columns) for rows in places for columns in places]

    def _convolutions(
        self, precision: torch.dtype | None, swapped: bool = False
    ) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """``C`` and ``C^T``, results in the precision of the argument; an operand of both is prepared once."""
        there, return_path = self.operand(back=swapped), self.operand(back=not swapped)
        kernel = self._kernel(there)
        low = kernel if precision is None else kernel.to(precision)
        low_back = low
        if return_path is not there:
            kernel_back = self._kernel(return_path)
            low_back = kernel_back if precision is None else kernel_back.to(precision)
        stride, padding, rest = self._stride, self.geometry.padding, self._rest

        def ahead(s: Tensor) -> Tensor:
            return functional.conv2d(s.to(low.dtype), low, stride=stride, padding=padding).to(s.dtype)

        def back(s: Tensor) -> Tensor:
            return functional.conv_transpose2d(
                s.to(low_back.dtype), low_back, stride=stride, padding=padding, output_padding=rest
            ).to(s.dtype)

        return ahead, back

    @property
    def _two_ways(self) -> bool:
        """Whether something else acts on the way back than on the way there."""
        return self.operand(back=False) is not self.operand(back=True)

    def _pooling(self, paired: bool = False) -> Callable[[Tensor], Pooled]:
        g = self.geometry
        return pooling_function(g.pooling, g.pool, g.temperature, paired)

    # -- the interface of a connection ---------------------------------------------------------------------------------

    def products(self, precision: torch.dtype | None = None, paired: bool = False) -> Products:
        ahead, back = self._convolutions(precision)
        if self.linear:
            return Products(_adds(ahead), _adds(back))
        pool = self._pooling(paired)
        last = _Last(lambda s: pool(ahead(s)))

        def add_ahead(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
            value = last(s).value  # remembered: not to be overwritten
            return z.add_(value) if owned else z + value

        def add_back(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
            return _sum(z, back(last(own).transpose(s)), owned)

        return Products(add_ahead, add_back)

    def tangents(
        self, tail: Tensor, head: Tensor, precision: torch.dtype | None = None, transposed: bool = False
    ) -> Tangents:
        ahead, back = self._convolutions(precision, swapped=transposed)
        if self.linear:
            return Tangents(_adds(ahead), _adds(back), None)
        # windows are decided on the way there
        there = self._convolutions(precision)[0] if transposed and self._two_ways else ahead
        pooled = _Copies(self._pooling()(there(tail)))
        curved = None
        if self.geometry.pooling == "soft":

            def curved(v: Tensor) -> Tensor:
                copies = len(v) // len(head)
                bend = pooled(v).curvature(ahead(v), head if copies == 1 else head.repeat(copies, 1, 1, 1))
                return torch.zeros_like(v) if bend is None else back(bend)

        return Tangents(
            _adds(lambda v: pooled(v).tangent(ahead(v))),
            _adds(lambda v: back(pooled(v).transpose(v))),
            None if curved is None else _adds(curved),
        )

    def phi(self, tail: Tensor, head: Tensor) -> Tensor:
        y = self._convolutions(None)[0](tail)
        y = y if self.linear else self._pooling()(y).value
        return (head * y).sum(dim=(1, 2, 3))

    def add_gradient(self, tail: Tensor, head: Tensor, paired: bool = False) -> None:
        if not self.weight.requires_grad:
            return
        if self.linear:
            self._add(self._weight_gradient(tail, head))
            return
        at = tail
        if paired:  # the head comes conjugate, and so must be the slopes, whose coefficients are real
            re, im = halves(tail)
            at = torch.cat([re, -im])
        pooled = self._pooling(paired)(self._convolutions(None)[0](at))
        self._add(self._weight_gradient(tail, pooled.transpose(head)))

    def add_back_gradient(self, tail: Tensor, head: Tensor, direction: Tensor) -> None:
        if not self.weight.requires_grad:
            return
        if self.linear:
            self.add_gradient(direction, head)
            return
        ahead, _ = self._convolutions(None)
        pooled = self._pooling()(ahead(tail))
        self._add(self._weight_gradient(direction, pooled.transpose(head)))
        along = self._convolutions(None, swapped=True)[0] if self._two_ways else ahead
        bend = pooled.curvature(along(direction), head)  # W also decides where in a window the head acts
        if bend is not None:
            self._add(self._weight_gradient(tail, bend))

    def _weight_gradient(self, tail: Tensor, head: Tensor) -> Tensor:
        """``d/dW of sum head . (W * tail)``."""
        kernel = self._kernel(self.weight)
        p, s = self.geometry.padding, self._stride
        gradient = torch.ops.aten.convolution_backward(
            head, tail, kernel, None, [s, s], [p, p], [1, 1], False, [0, 0], 1, [False, True, False]
        )[1]
        return self._kernel_transpose(gradient)

    def metric(self, weight: Tensor) -> Tensor | None:
        if not self.linear:
            return None
        return self._kernel_transpose(self._kernel(weight) * self._counts)

    def mirrors(self, other: Connection) -> bool:
        alike = isinstance(other, ConvConnection) and other.geometry == self.geometry
        return alike and other.reverse != self.reverse

    def extra_repr(self) -> str:
        g = self.geometry
        pooling = "" if g.pooling == "none" else f", {g.pooling} pooling {g.pool}"
        return f"{g.tail} -> {g.head}, kernel {g.kernel}, stride {g.stride}, padding {g.padding}{pooling}" + (
            ", reverse" if self.reverse else ""
        )


class _Last:
    """A function that remembers its last result: the layer above and the layer itself need the same convolution."""

    def __init__(self, function: Callable[[Tensor], Pooled]) -> None:
        self._function = function
        self._argument: Tensor | None = None
        self._version = 0
        self._result: Pooled | None = None

    def __call__(self, s: Tensor) -> Pooled:
        # a tensor that is overwritten is the same object with other values
        if s.is_inference():  # has no version
            return self._function(s)
        if self._result is None or s is not self._argument or s._version != self._version:
            self._argument, self._version, self._result = s, s._version, self._function(s)
        return self._result


class _Copies:
    """A pooled state for vectors of as many samples, or of several copies of them (phases stacked along the batch)."""

    def __init__(self, pooled: Pooled) -> None:
        self._made = {1: pooled}
        self._batch = len(pooled.value)

    def __call__(self, v: Tensor) -> Pooled:
        copies = len(v) // self._batch
        if copies not in self._made:
            self._made[copies] = self._made[1].repeat(copies)
        return self._made[copies]


def _adds(function: Callable[[Tensor], Tensor]) -> Product:
    def add(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
        return _sum(z, function(s), owned)

    return add


def _sum(z: Tensor, product: Tensor, owned: bool) -> Tensor:
    return z.add_(product) if owned else product.add_(z)


def _uses(tail: int, kernel: int, stride: int, padding: int, head: int) -> list[int]:
    """How many positions of the head use each entry of a kernel along one dimension: fewer at its rims."""
    return [sum(0 <= q * stride + j - padding < tail for q in range(head)) for j in range(kernel)]
