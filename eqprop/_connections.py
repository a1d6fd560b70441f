"""Connections between layers: a bilinear form ``s_post . (W s_pre)``, closed form in both directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._initializers import initial_weight

Shape = tuple[int, ...]
# add(z, s, owned): z + product of s; may overwrite z when the caller owns it
Product = Callable[[Tensor, Tensor, bool], Tensor]


@dataclass(frozen=True)
class Dense:
    """A dense connection from layer ``pre`` to layer ``post``: ``W s_pre`` with ``W [units_post, units_pre]``.

    In a ``HopfieldNetwork`` the connection is tied: ``post`` receives ``W s_pre`` and ``pre`` receives ``W^T s_post``.
    In a ``DirectedNetwork`` only ``post`` receives.

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
        return DenseConnection(weight)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable description; ``Dense(**spec)`` less its type gives the connection back."""
        return {
            "type": "Dense",
            "pre": self.pre,
            "post": self.post,
            "initializer": self.initializer,
            "gain": self.gain,
        }


class DenseConnection(nn.Module):
    """Weights of a ``Dense`` connection, ``[out, in]``."""

    weight: nn.Parameter

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward_product(self, products: torch.dtype | None) -> Product:
        """Adds ``W s_pre`` to the input of ``post``."""
        return _dense_product(self.weight.mT, products)

    def backward_product(self, products: torch.dtype | None) -> Product:
        """Adds ``W^T s_post`` to the input of ``pre``."""
        return _dense_product(self.weight, products)

    def phi(self, pre: Tensor, post: Tensor) -> Tensor:
        """``s_post . (W s_pre)`` a sample, ``[..., batch]``."""
        return (post * torch.matmul(pre, self.weight.mT)).sum(-1)

    def add_gradient(self, pre: Tensor, post: Tensor) -> None:
        """``weight.grad += sum over the batch of post pre^T``; ``[batch, in]``, ``[batch, out]``."""
        if self.weight.grad is None:
            self.weight.grad = torch.mm(post.mT, pre)
        else:
            self.weight.grad.addmm_(post.mT, pre)


def _dense_product(operand: Tensor, products: torch.dtype | None) -> Product:
    if products is not None and products != operand.dtype:
        low = operand.to(products)  # once a relaxation

        def add_low(z: Tensor, s: Tensor, owned: bool) -> Tensor:
            return z + torch.matmul(s.to(products), low).to(s.dtype)

        return add_low

    def add(z: Tensor, s: Tensor, owned: bool) -> Tensor:
        return z.addmm_(s, operand) if owned else torch.addmm(z, s, operand)

    return add
