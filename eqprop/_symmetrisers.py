"""What makes feedback weights follow forward ones without homeostasis: Kolen-Pollack learning, and tying."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from eqprop._directed import DirectedNetwork, ReciprocalPair
from eqprop._errors import ConfigError
from eqprop._network import Network
from eqprop._numbers import is_number
from eqprop._rule import RuleStep


@dataclass(frozen=True)
class KolenPollack:
    """Forward and feedback weights receive the same gradient, and decay: their difference decays with it.

    For a pair ``W``, ``B``: both get ``(g_W + g_B^T) / 2``, and every such weight the gradient ``decay * W``; under
    plain SGD ``W - B^T`` shrinks by ``1 - lr * decay`` a step, when both learn at one rate. With ``decay = 0`` and
    weights that start tied (``tie_weights``) they stay tied. The decay is part of the gradient, which Adam normalises:
    under it ``decay`` sets no rate, only how much of a step goes into the decay. There write ``decay=0`` and
    ``torch.optim.AdamW(..., weight_decay=...)``: equal gradients make equal steps, and the difference shrinks by ``1 -
    lr * weight_decay``.

    Source: Kolen & Pollack 1994; in EP Laborieux et al. 2021, Sec. 2.4.

    Args:
        decay: rate of decay.

    Must come first among a rule's regularisers: averaging would cancel what another did to the difference of a pair.
    """

    decay: float = 1e-3
    shares_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.decay) or self.decay < 0.0:
            raise ConfigError(f"decay: got {self.decay!r}, needed a finite number from 0 on; write KolenPollack(1e-3)")

    @torch.no_grad()
    def add_gradient(self, network: Network, step: RuleStep) -> None:
        """Make the gradients of each reciprocal pair equal, and add the decay."""
        for pair in _pairs(network, "KolenPollack"):
            w, b = pair.forward.weight, pair.backward.weight
            if not (w.requires_grad and b.requires_grad):
                raise ConfigError(
                    "KolenPollack: got a pair of weights of which one is frozen (requires_grad is False), needed two "
                    "that learn; write weight.requires_grad_(True), or leave KolenPollack out: with a frozen one the "
                    "difference cannot decay by shared gradients"
                )
            if w.grad is None or b.grad is None:
                raise ConfigError(
                    "KolenPollack: got a pair of weights of which one has no gradient; use a rule that gives both "
                    "one (EP, TruncatedBPTT): the feed-forward twin of Backprop leaves feedback weights without"
                )
            shared = 0.5 * (w.grad + pair.turned(b.grad))
            w.grad = shared.add(w, alpha=self.decay)
            b.grad = pair.turned(shared).add(b, alpha=self.decay)

    def state_dict(self) -> dict[str, Any]:
        """Nothing moves."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing moves."""


@torch.no_grad()
def tie_weights(network: Network) -> None:
    """Set every reciprocal pair of a directed network to the mean of ``W`` and ``B^T``."""
    for pair in _pairs(network, "tie_weights"):
        mean = 0.5 * (pair.forward.weight + pair.turned(pair.backward.weight))
        pair.forward.weight.copy_(mean)
        pair.backward.weight.copy_(pair.turned(mean))


def _pairs(network: Network, what: str) -> list[ReciprocalPair]:
    pairs = network.reciprocal_pairs() if isinstance(network, DirectedNetwork) else []
    if not pairs:
        raise ConfigError(
            f"{what}: got a {type(network).__name__} without reciprocal pairs of weights, needed a DirectedNetwork "
            "with feedback, as DirectedNetwork.mlp makes; on a loop, where no weight has a partner, write "
            "JacobianHomeostasis(0.01)"
        )
    return pairs
