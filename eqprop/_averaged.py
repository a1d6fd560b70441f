"""A rule that takes every batch several times: what noise that is drawn afresh costs, averaged away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from eqprop._continual import ContinualEP
from eqprop._costs import Cost
from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, State
from eqprop._rule import Regulariser, Rule, RuleStep
from eqprop._solution import Solution
from eqprop._solvers import Solver
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True)
class Averaged(Rule):
    """The mean of the gradients that a rule gives for the same samples in ``passes`` passes: ``Averaged(rule, 4)``.

    On a network without noise all passes agree. On a stochastic one (a chip, thermal noise) errors that are drawn for
    every pass fall by ``1 / sqrt(passes)``; those that passes share (of the chip, of a write) stay: the floor that no
    averaging reaches. A pass costs what it costs: sweeps add up. Prediction is that of the rule, in one pass.

    All settings are those of ``inner``, whose regularisers act in each pass.

    Args:
        inner: any rule that leaves weights alone while it relaxes (not ``ContinualEP``).
        passes: from 1 on.

    Returns (``backward``):
        A step with the mean loss, output and penalties; sweeps summed, residual and status the worst over passes;
        states and drive of the last pass; a sample counts where it did in every pass.

    Raises:
        ConfigError: no rule, one that cannot be repeated, or passes below 1.
    """

    inner: Rule = field(kw_only=False)
    passes: int = field(default=4, kw_only=False)
    cost: Any = field(default="squared-error", init=False, repr=False, compare=False)
    solver: Solver = field(default=None, init=False, repr=False, compare=False)  # type: ignore[assignment]
    free: Stop | Sweeps = field(default=None, init=False, repr=False, compare=False)  # type: ignore[assignment]
    products: str | None = field(default=None, init=False, repr=False, compare=False)
    regularisers: tuple[Regulariser, ...] = field(default=(), init=False, repr=False, compare=False)
    cuda_graph: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Rule):
            raise ConfigError(
                f"Averaged: got {type(self.inner).__name__}, needed a rule; write "
                "Averaged(EquilibriumPropagation(beta=0.1), passes=4)"
            )
        if isinstance(self.inner, ContinualEP):
            raise ConfigError(
                "Averaged: got ContinualEP, which changes weights while it relaxes, so that passes would not see the "
                "same network; needed a rule that leaves them alone, as EquilibriumPropagation"
            )
        if isinstance(self.passes, bool) or not isinstance(self.passes, int) or self.passes < 1:
            raise ConfigError(f"Averaged: got passes={self.passes!r}, needed a whole number of at least 1")
        for name in ("cost", "solver", "free", "products", "cuda_graph", "graphs"):
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def loss_function(self) -> Cost:
        return self.inner.loss_function

    @property
    def by_share(self) -> bool | None:
        """Whether several processes can share a batch, see ``require_shareable``."""
        declared: bool | None = getattr(self.inner, "by_share", None)
        held = any(isinstance(v, torch.Generator) for v in vars(self.inner).values())
        # a process weighs its part by the samples that count, which must be the same in all passes
        uneven = getattr(self.inner, "exclude_unconverged", False) or (declared is None and held)
        return False if uneven else declared

    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        parameters = list(network.parameters())
        before = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        steps = [self.inner.backward(network, x, y, start=start) for _ in range(self.passes)]
        for p, old in zip(parameters, before, strict=True):
            if p.grad is None:
                p.grad = old
            else:
                mean = p.grad.div_(self.passes)
                p.grad = mean if old is None else old.add_(mean)
        return _joined(steps)

    def error_vector(
        self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None
    ) -> tuple[RuleStep, State]:
        """The mean of those of the passes; see ``Rule.error_vector``."""
        found = [self.inner.error_vector(network, x, y, start=start) for _ in range(self.passes)]
        layers = zip(*(error for _, error in found), strict=True)
        return _joined([step for step, _ in found]), tuple(torch.stack(layer).mean(0) for layer in layers)

    def predict(self, network: Network, x: Tensor) -> Tensor:
        return self.inner.predict(network, x)

    def settle(self, network: Network, drive: Drive, start: State | None) -> Solution:
        return self.inner.settle(network, drive, start)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def _joined(steps: Sequence[RuleStep]) -> RuleStep:
    """One step of several."""
    last = steps[-1]
    counted = [s.counted for s in steps if s.counted is not None]
    residuals = [s.adjoint_residual for s in steps if s.adjoint_residual is not None]
    return replace(
        last,
        loss=torch.stack([s.loss for s in steps]).mean(0),
        output=torch.stack([s.output for s in steps]).mean(0),
        free=_worst([s.free for s in steps]),
        nudged=tuple(_worst(same) for same in zip(*(s.nudged for s in steps), strict=True)),
        counted=torch.stack(counted).all(0) if counted else None,
        adjoint_residual=torch.stack(residuals).amax(0) if residuals else None,
        penalties={name: torch.stack([s.penalties[name] for s in steps]).mean(0) for name in last.penalties},
    )


def _worst(solutions: Sequence[Solution]) -> Solution:
    """The last state, all sweeps, and the worst of the rest."""
    stacked = {f.name: [getattr(s, f.name) for s in solutions] for f in fields(Solution) if f.name != "state"}
    worst = {name: torch.stack(values).amax(0) for name, values in stacked.items() if name != "sweeps"}
    return Solution(state=solutions[-1].state, sweeps=sum(stacked["sweeps"][1:], stacked["sweeps"][0]), **worst)
