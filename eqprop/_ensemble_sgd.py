"""Stochastic gradient descent of an ensemble, with learning rates a member and one pass over the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eqprop._ensemble import Ensemble
from eqprop._ensemble_parts import MemberConnections
from eqprop._errors import ConfigError


class EnsembleSGD(torch.optim.Optimizer):
    """What ``torch.optim.SGD`` does to each member, to rounding.

        d = g + weight_decay p,   b <- momentum b + d,   p <- p - lr rate b

    ``rate`` is the member's, ``lr`` a factor of all that schedulers move: it starts at 1. Of a dense connection ``g =
    sum head^T tail`` is a matrix product as long as the batch is small, and to write it into ``.grad`` and read it
    again costs as much memory traffic as all else. With ``fused`` the rule leaves its factors here instead, and the
    product is added to the weight (or to ``b``) as it is made: one pass over the weights a step. ``.grad`` of these
    weights then stays None.

    Args:
        network: the ensemble.
        rates: learning rates a member each: one number, or one a connection (see ``GraphNetwork.parameter_groups``).
        momentum, weight_decay: of all members.
        fused: see above; False to use ``.grad`` of everything.

    Raises:
        ConfigError: rates of another number of members or connections, a negative one, or a momentum outside 0 to 1.
    """

    def __init__(
        self,
        network: Ensemble,
        rates: Sequence[Sequence[float] | float],
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        fused: bool = True,
    ) -> None:
        groups = network.member_groups(rates)
        given = [r for each in rates for r in ([each] if isinstance(each, int | float) else each)]
        if not 0.0 <= momentum < 1.0 or not weight_decay >= 0.0 or not all(r >= 0.0 for r in given):
            raise ConfigError(
                f"EnsembleSGD: got rates {list(rates)}, momentum {momentum} and weight_decay {weight_decay}, needed "
                "rates and weight_decay of at least 0 and a momentum of 0 to below 1"
            )
        self._fused = {
            id(c.weight): c for c in network.connections.values() if fused and isinstance(c, MemberConnections)
        }
        for connection in self._fused.values():
            connection.pairs = []
        self._kept: dict[tuple[object, ...], Tensor] = {}
        super().__init__(groups, {"lr": 1.0, "momentum": momentum, "weight_decay": weight_decay})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients, and factors that no step has used."""
        super().zero_grad(set_to_none)
        for connection in self._fused.values():
            connection.pairs = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step from the gradients that the rule left."""
        if closure is not None:
            raise ConfigError("EnsembleSGD.step: got a closure, needed none; call rule.backward before it")
        for number, group in enumerate(self.param_groups):
            for p in group["params"]:
                rate = self._rate(number, group, p)
                connection = self._fused.get(id(p))
                pairs = (connection.pairs or []) if connection is not None else []
                if pairs:
                    self._step_by_pairs(p, pairs, rate, group)
                elif p.grad is not None:
                    self._step_by_gradient(p, p.grad, rate, group)

    def _rate(self, number: int, group: dict[str, Any], like: Tensor) -> Tensor:
        """``lr rate [members, 1, 1]``."""
        key = (number, like.dtype, like.device, group["lr"])
        if key not in self._kept:
            for old in [k for k in self._kept if k[:3] == key[:3]]:
                del self._kept[old]
            self._kept[key] = (group["lr"] * group["rates"]).to(like)[:, None, None]
        return self._kept[key]

    def _step_by_pairs(
        self, p: Tensor, pairs: list[tuple[Tensor, Tensor]], rate: Tensor, group: dict[str, Any]
    ) -> None:
        momentum, decay = group["momentum"], group["weight_decay"]
        if not momentum:
            if decay:
                p.mul_(1 - rate * decay)
            for tail, head in pairs:
                p.baddbmm_((head * -rate).mT, tail)
            return
        b = self._momentum(p)
        for n, (tail, head) in enumerate(pairs):
            b.baddbmm_(head.mT, tail, beta=momentum if n == 0 else 1.0)
        if decay:
            b.add_(p, alpha=decay)
        p.addcmul_(b, rate, value=-1)

    def _step_by_gradient(self, p: Tensor, d: Tensor, rate: Tensor, group: dict[str, Any]) -> None:
        d = d.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else d
        if group["momentum"]:
            d = self._momentum(p).mul_(group["momentum"]).add_(d)
        p.addcmul_(d, rate, value=-1)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        found: Tensor = state["momentum"]
        return found

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members alone, after ``Ensemble.keep``."""
        index = torch.tensor(list(members))
        for group in self.param_groups:
            group["rates"] = group["rates"].index_select(0, index)
        for state in self.state.values():
            for name, value in state.items():
                state[name] = value.index_select(0, index.to(value.device))
        self._kept.clear()
        self.zero_grad()
