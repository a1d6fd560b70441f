"""Connections between layers: a map ``f`` of one layer's state, and the transpose of its Jacobian back.

A connection from layer *tail* to layer *head* has the primitive function ``Phi = s_head . f(s_tail)``. *Ahead* it adds
``dPhi/ds_head = f(s_tail)`` to the input of its head, *back* it adds ``dPhi/ds_tail = J_f(s_tail)^T s_head`` to that of
its tail. Tied networks use both, directed ones one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eqprop._initializers import initial_weight

Shape = tuple[int, ...]
# add(z, s, own, owned): z + product of the other end's state s, at the receiver's own state; may overwrite z when owned
Product = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


class Products(NamedTuple):
    """The two products of a connection for one relaxation; they may share what both need."""

    ahead: Product
    back: Product


class Tangents(NamedTuple):
    """The Jacobian of a connection's two products at a state: linear maps, written as products of a vector.

    Attributes:
        ahead: ``J_f v_tail``, what a change of the tail does to the input of the head.
        back: ``J_f^T v_head``, and the other way round.
        curvature: ``d^2 Phi/ds_tail^2 v_tail``, what a change of the tail does to its own input from the head; None
            where ``f`` is (piecewise) linear.
    """

    ahead: Product
    back: Product
    curvature: Product | None


class Connection(nn.Module):
    """Base of all connections.

    Attributes:
        weight: the parameter.
        linear: ``f`` is linear in the state.
        holomorphic: ``f`` has a holomorphic extension, so that a contour may go through complex nudges.
        reverse: of the pair of layers that it joins, the tail is the layer that comes *after* in its declaration, and
            only the way back is used (feedback with weights of its own).
    """

    weight: nn.Parameter
    linear: bool = True
    holomorphic: bool = True
    reverse: bool = False

    def operand(self, back: bool) -> Tensor:
        """What acts as the weight in the dynamics: the parameter, which a chip overrides by what its cells really do.

        ``back``: on the way from head to tail, which on a chip may have other gains. Gradients always go to ``weight``.
        Where phases relax together that see different weights, one each, ``[phases, *weight]`` (dense ones only).
        """
        return self.weight

    def products(self, precision: torch.dtype | None = None, paired: bool = False) -> Products:
        """Both products, in another precision where one is given, on stacked real pairs where ``paired``."""
        raise NotImplementedError

    def tangents(
        self, tail: Tensor, head: Tensor, precision: torch.dtype | None = None, transposed: bool = False
    ) -> Tangents:
        """The Jacobian at a state, prepared for many vectors; their batch may hold several copies of the state's.

        Where ``transposed``, what acts on the way back takes the place of what acts on the way there, and the other way
        round: the transposes of the two products, which are the products themselves where the ways are alike.
        """
        raise NotImplementedError

    def phi(self, tail: Tensor, head: Tensor) -> Tensor:
        """``s_head . f(s_tail)`` a sample, ``[batch]``."""
        raise NotImplementedError

    def add_gradient(self, tail: Tensor, head: Tensor, paired: bool = False) -> None:
        """``weight.grad += sum over the batch of d/dW s_head . f(s_tail)``; nothing where the weight is frozen.

        Where ``paired``, both are stacked pairs, ``head`` with its imaginary half negated, as ``Phase.weighted`` gives
        it: the real part of the complex sum.
        """
        raise NotImplementedError

    def add_back_gradient(self, tail: Tensor, head: Tensor, direction: Tensor) -> None:
        """``weight.grad += sum over the batch of d/dW direction . J_f(s_tail)^T s_head``; ``direction`` like a tail."""
        # where f is linear, J_f does not depend on the tail and the sum is that of s_head . f(direction)
        self.add_gradient(direction, head)

    def metric(self, weight: Tensor) -> Tensor | None:
        """``G w`` with ``<J_v, J_w>_F = v . (G w)`` for two weights of this shape; None where ``J`` depends on the
        state. The Frobenius product of the Jacobians of two such connections, in closed form."""
        return None

    def mirrors(self, other: Connection) -> bool:
        """Whether ``J`` is the transpose of that of ``other`` where their weights are equal, or (dense) transposed."""
        return False

    def _add(self, gradient: Tensor) -> None:
        if not self.weight.requires_grad:
            return
        self.weight.grad = gradient if self.weight.grad is None else self.weight.grad.add_(gradient)


@dataclass(frozen=True)
class Dense:
    """A dense connection from layer ``pre`` to layer ``post``: ``W s_pre`` with ``W [units_post, units_pre]``.

    In a ``HopfieldNetwork`` the connection is tied: ``post`` receives ``W s_pre`` and ``pre`` receives ``W^T s_post``.
    In a ``DirectedNetwork`` only ``post`` receives. Layers of more than one dimension are flattened.

    Args:
        pre, post: names of layers.
        initializer: ``"xavier_uniform"``, ``"kaiming_normal"``, ... (see ``eqprop.initial_weight``).
        gain: number or name that scales the initial weights; None for the initialiser's own.
    """

    pre: str
    post: str
    initializer: str = "xavier_uniform"
    gain: float | str | None = None

    def build(
        self, pre: Shape, post: Shape, *, generator: torch.Generator, dtype: torch.dtype | None
    ) -> DenseConnection:
        """The connection's module, with weights drawn from ``generator``."""
        shape = (math.prod(post), math.prod(pre))
        weight = initial_weight(shape, initializer=self.initializer, gain=self.gain, generator=generator, dtype=dtype)
        return DenseConnection(weight, tail=pre, head=post)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description; ``Dense(**spec)`` less its type gives the connection back."""
        return {
            "type": "Dense",
            "pre": self.pre,
            "post": self.post,
            "initializer": self.initializer,
            "gain": self.gain,
        }


class DenseConnection(Connection):
    """Weights of a ``Dense`` connection, ``[out, in]``."""

    def __init__(self, weight: Tensor, *, tail: Shape, head: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self._tail, self._head = tail, head

    def products(self, precision: torch.dtype | None = None, paired: bool = False) -> Products:
        return self._products(precision, swapped=False)

    def _products(self, precision: torch.dtype | None, swapped: bool) -> Products:
        return Products(
            _dense_product(self.operand(back=swapped).mT, precision, self._head),
            _dense_product(self.operand(back=not swapped), precision, self._tail),
        )

    def tangents(
        self, tail: Tensor, head: Tensor, precision: torch.dtype | None = None, transposed: bool = False
    ) -> Tangents:
        ahead, back = self._products(precision, swapped=transposed)
        return Tangents(ahead, back, None)

    def phi(self, tail: Tensor, head: Tensor) -> Tensor:
        operand, flat = self.operand(back=False).mT, tail.flatten(1)
        each = flat if operand.dim() == 2 else flat.unflatten(0, (len(operand), -1))
        return (head.flatten(1) * torch.matmul(each, operand).view(len(flat), -1)).sum(-1)

    def add_gradient(self, tail: Tensor, head: Tensor, paired: bool = False) -> None:
        if not self.weight.requires_grad:
            return
        tail, head = tail.flatten(1), head.flatten(1)
        if self.weight.grad is None:
            self.weight.grad = torch.mm(head.mT, tail)
        else:
            self.weight.grad.addmm_(head.mT, tail)

    def metric(self, weight: Tensor) -> Tensor:
        return weight

    def mirrors(self, other: Connection) -> bool:
        return isinstance(other, DenseConnection)


def _dense_product(operand: Tensor, precision: torch.dtype | None, shape: Shape) -> Product:
    """Adds ``s @ operand`` to a layer of ``shape``."""
    low = None if precision is None or precision == operand.dtype else operand.to(precision)  # once a relaxation
    if operand.dim() == 3:
        return _product_of_each(operand if low is None else low, shape)
    if low is None and len(shape) == 1:

        def add(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
            s = s.flatten(1) if s.dim() > 2 else s
            return z.addmm_(s, operand) if owned else torch.addmm(z, s, operand)

        return add

    def add_shaped(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
        flat = s.flatten(1)
        product = torch.mm(flat, operand) if low is None else torch.mm(flat.to(low.dtype), low).to(s.dtype)
        product = product.reshape(-1, *shape)
        return z.add_(product) if owned else z + product

    return add_shaped


def _product_of_each(operand: Tensor, shape: Shape) -> Product:
    """The same with an operand a phase, ``[phases, in, out]``, where phases come one after another along the batch."""
    phases, tails, heads = operand.shape

    def add_each(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
        each = s.reshape(phases, -1, tails)
        # biases alone, of images one a channel, or a batch
        base = z.expand(shape).reshape(heads) if z.dim() == len(shape) else z.reshape(phases, -1, heads)
        if each.dtype == operand.dtype:
            return torch.baddbmm(base, each, operand).view(-1, *shape)
        return (base + torch.bmm(each.to(operand.dtype), operand).to(s.dtype)).view(-1, *shape)

    return add_each
