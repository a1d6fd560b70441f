"""The homeostatic loss and its closed form; what it measures is told in ``eqprop._homeostasis``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._connections import Connection, DenseConnection
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork, JacobianBlock
from eqprop._network import Network, State

NO_CLOSED_FORM = (
    "estimator: 'exact' needs a Jacobian that does not depend on the state: connections that are dense or convolutions "
    "with average or no pooling, and only dense ones in membrane coordinates; write estimator='symmetric'"
)


class HomeostaticLoss(NamedTuple):
    """The two terms of ``S = norm + symmetry``, 0-d tensors: ``norm = E ||M e||^2``, ``symmetry = -E e^T M^2 e``."""

    norm: Tensor
    symmetry: Tensor

    @property
    def total(self) -> Tensor:
        """``S``."""
        return self.norm + self.symmetry

    @property
    def penalties(self) -> dict[str, Tensor]:
        """By the names that a history records."""
        return {"homeostasis_norm": self.norm, "homeostasis_symmetry": self.symmetry}


@torch.no_grad()
def exact_loss(network: GraphNetwork, slopes: State | None, rate: float, terms: tuple[float, float]) -> HomeostaticLoss:
    """The closed form, batch mean. ``<J_v, J_w> = v . G w`` of two weights, see ``Connection.metric``; with slopes
    ``d`` a block of ``M`` is ``W_ij d_j``, and products of slopes of the two ends of a pair average to ``<d_i d_j>``,
    one matrix product."""
    blocks = network.jacobian_blocks()
    norm = symmetry = network.biases[network.names[0]].new_zeros(())
    for (post, pre), (connection, transposed) in blocks.items():
        w = connection.operand(back=transposed)
        if slopes is not None and not isinstance(connection, DenseConnection):
            raise ConfigError(NO_CLOSED_FORM)
        own = _metric(connection, w) if slopes is None else w * _squares(slopes[pre], transposed)
        gradient = terms[0] * own
        norm = norm + (w * own).sum()
        if (pre, post) in blocks:
            partner = blocks[pre, post]
            # the transpose of the partner's block, in the shape of this weight
            facing = partner.connection.operand(back=partner.transposed)
            other = facing if partner.transposed != transposed else facing.mT
            if not _comparable(blocks[post, pre], partner):
                raise ConfigError(
                    "estimator: 'exact' compares a Dense with a Dense, or a Conv with a ConvTranspose of its settings; "
                    f"got weights {list(w.shape)} and {list(partner.connection.weight.shape)} of other connections; "
                    "write estimator='symmetric'"
                )
            if slopes is None:
                mixed = _metric(connection, other)
            else:
                mixed = other * _products(slopes[post], slopes[pre], transposed)
            symmetry = symmetry - (w * mixed).sum()
            gradient = gradient - terms[1] * mixed
        weight = connection.weight
        if rate != 0.0 and weight.requires_grad:
            weight.grad = rate * gradient if weight.grad is None else weight.grad.add_(gradient, alpha=rate)
    return HomeostaticLoss(norm, symmetry)


def _metric(connection: Connection, weight: Tensor) -> Tensor:
    made = connection.metric(weight)
    if made is None:
        raise ConfigError(NO_CLOSED_FORM)
    return made


def _squares(pre: Tensor, transposed: bool) -> Tensor:
    """``<d_j^2>``, to be multiplied with a weight ``[post, pre]``, or ``[pre, post]`` where transposed."""
    squares = pre.flatten(1).square().mean(0)
    return squares[:, None] if transposed else squares


def _products(post: Tensor, pre: Tensor, transposed: bool) -> Tensor:
    """``<d_i d_j>``, in the same way."""
    products = post.flatten(1).mT @ pre.flatten(1) / len(post)
    return products.mT if transposed else products


def _comparable(block: JacobianBlock, partner: JacobianBlock) -> bool:
    """Whether the transpose of one block has the form of the other."""
    if block.connection is partner.connection and block.transposed != partner.transposed:
        return True  # a tied connection
    return block.connection.mirrors(partner.connection)


def has_closed_form(network: Network, coordinates: str) -> bool:
    """Whether ``S`` has a closed form that costs no probes."""
    if not isinstance(network, GraphNetwork):
        return False
    blocks = network.jacobian_blocks()
    if coordinates == "membrane":
        return all(isinstance(c, DenseConnection) for c, _ in blocks.values())
    return all(
        block.connection.linear and ((pre, post) not in blocks or _comparable(block, blocks[pre, post]))
        for (post, pre), block in blocks.items()
    )
