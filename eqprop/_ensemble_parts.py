"""Connections and readouts of an ensemble: the weights of all members in one tensor, products of all at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eqprop._connections import DenseConnection, Product, Products, Shape
from eqprop._errors import ConfigError

# to layers of so many units the product is made transposed, in 0.6 of the time (10 units, 16 to 32 samples, MKL)
NARROW = 32


class MemberConnections(DenseConnection):
    """A dense connection of every member, ``[members, out, in]``.

    Attributes:
        pairs: where an ``EnsembleSGD`` put a list, gradients are left there as pairs ``(tail, head)`` with ``dL/dW =
            sum head^T tail``, ``[members, batch, in]`` and ``[members, batch, out]``, instead of being multiplied out
            into ``weight.grad``: to write and read a tensor of the size of the weights costs as much as the product.
    """

    def __init__(self, weight: Tensor, *, tail: Shape, head: Shape) -> None:
        super().__init__(weight, tail=tail, head=head)
        self.pairs: list[tuple[Tensor, Tensor]] | None = None

    def _products(self, precision: torch.dtype | None, swapped: bool) -> Products:
        if precision not in (None, self.weight.dtype):
            raise ConfigError(f"products: got {precision} for an ensemble, needed {self.weight.dtype}; write None")
        return Products(_product(self.operand(back=swapped).mT), _product(self.operand(back=not swapped)))

    def phi(self, tail: Tensor, head: Tensor) -> Tensor:
        return (head * torch.matmul(tail, self.operand(back=False).mT)).sum(-1)

    def add_gradient(self, tail: Tensor, head: Tensor, paired: bool = False) -> None:
        if not self.weight.requires_grad:
            return
        if self.pairs is not None:
            self.pairs.append((tail, head))
        elif self.weight.grad is None:
            self.weight.grad = torch.bmm(head.mT, tail)
        else:
            self.weight.grad.baddbmm_(head.mT, tail)


def _product(operand: Tensor) -> Product:
    """Adds ``s @ operand`` of every member to a layer."""
    if operand.shape[-1] <= NARROW:
        turned = operand.mT

        def add_turned(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
            return torch.baddbmm(z.mT, turned, s.mT).mT

        return add_turned

    def add(z: Tensor, s: Tensor, own: Tensor, owned: bool) -> Tensor:
        return z.baddbmm_(s, operand) if owned else torch.baddbmm(z, s, operand)

    return add


class MemberReadouts(nn.Linear):
    """The readout of every member: weight ``[members, out, in]``, bias ``[members, 1, out]``."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape[-2:]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, input: Tensor) -> Tensor:
        """``[members, batch, in]`` -> ``[members, batch, out]``."""
        return torch.baddbmm(self.bias, input, self.weight.mT)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} members, {self.in_features} to {self.out_features}"
