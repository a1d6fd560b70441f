"""Training of several networks of one shape as one relaxation, each as `eqprop.Trainer` would train it alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import eqprop
import hardware
from eqprop._graph import GraphNetwork
from eqprop._guard import Watch
from eqprop._monitor import LayerSamples

_EVALUATED = 500  # images a batch, as the trainer evaluates


@dataclass
class Member:
    """One training: what it starts from, and what came of it.

    Attributes:
        network: network or chip, trained in place.
        rule, rates: its rule, and its learning rate, or one a connection.
        images: positions of its training images among those of all members, [n].
        seed: of the order of its images.
        errors: training error of each finished epoch.
        stopped: why its training was given up; empty where it was not.
    """

    network: GraphNetwork
    rule: eqprop.EquilibriumPropagation
    rates: tuple[float, ...]
    images: Tensor
    seed: int
    errors: list[float] = field(default_factory=list)
    stopped: str = ""


@dataclass(frozen=True)
class Plan:
    """What all members share.

    Attributes:
        split: of which every member has its images.
        validation: images that each member would be evaluated on after an epoch.
        momentum, weight_decay: of the optimiser.
        scheduler: of the learning rates, for an optimiser; may return None.
        guard: when a member is given up; None lets it go on with whatever it does.
    """

    split: eqprop.Split
    classes: int
    epochs: int
    batch_size: int
    validation: int
    momentum: float = 0.0
    weight_decay: float = 0.0
    scheduler: Callable[[torch.optim.Optimizer], Any] = lambda optimizer: None
    guard: eqprop.Guard | None = eqprop.Guard()


class Together:
    """Trains the members; a member whose run cannot succeed any more leaves, as it would have ended alone."""

    def __init__(self, members: Sequence[Member], plan: Plan) -> None:
        self._plan, self._members = plan, list(members)
        networks = [m.network for m in members]
        on_chips = isinstance(networks[0], hardware.Chip)
        self._network = hardware.chip_ensemble(networks) if on_chips else eqprop.ensemble(networks)
        self._rule = eqprop.EnsembleRule([m.rule for m in members])
        rates = [m.rates[0] if len(m.rates) == 1 else m.rates for m in members]
        self._optimizer = eqprop.EnsembleSGD(
            self._network, rates, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
        guard = plan.guard or eqprop.Guard()
        self._watches = [Watch(guard, plan.classes) for _ in members]
        self._layers = [LayerSamples(n) for n in networks]
        self._generators = [torch.Generator().manual_seed(m.seed) for m in members]
        self._steps = math.ceil(len(members[0].images) / plan.batch_size)
        self._every = guard.interval(self._steps, plan.batch_size)

    def fit(self) -> None:
        """Train all members to the end."""
        scheduler = self._plan.scheduler(self._optimizer)
        for epoch in range(self._plan.epochs):
            if not self._members:
                return
            self._epoch(epoch)
            if scheduler is not None:
                scheduler.step()
        for index, member in enumerate(self._members):
            self._network.store(index, member.network)

    def _epoch(self, epoch: int) -> None:
        plan, split = self._plan, self._plan.split
        for watch, layers in zip(self._watches, self._layers, strict=True):
            watch.start_epoch()
            layers.reset()
        pairs = list(zip(self._members, self._generators, strict=True))
        orders = torch.stack([m.images[torch.randperm(len(m.images), generator=g)] for m, g in pairs]).to(split.device)
        self._loss = torch.zeros(len(orders), dtype=torch.float64, device=split.device)
        self._wrong = torch.zeros(len(orders), dtype=torch.int64, device=split.device)
        for step in range(self._steps):
            index = orders[:, step * plan.batch_size : (step + 1) * plan.batch_size]
            x = split.inputs(index.reshape(-1)).view(*index.shape, -1)
            y = split.labels[index]
            looks = plan.guard is not None and ((step + 1) % self._every == 0 or step + 1 == self._steps)
            self._optimizer.zero_grad()
            found = self._rule.backward(self._network, x, y)
            if looks:
                self._before()
            self._optimizer.step()
            self._loss.add_(found.loss, alpha=index.shape[1])
            self._wrong.add_((found.output.argmax(-1) != y).sum(1))
            if looks:
                left = self._look(found, epoch, step + 1, min((step + 1) * plan.batch_size, orders.shape[1]))
                orders = orders[left]
                if not left:
                    return
        for member, wrong in zip(self._members, self._wrong.tolist(), strict=True):
            member.errors.append(wrong / orders.shape[1])
        if isinstance(self._network, hardware.ChipEnsemble):
            self._network.skip(math.ceil(plan.validation / _EVALUATED), plan.validation)

    def _before(self) -> None:
        for index, layers in enumerate(self._layers):
            views: list[Any] = [(name, p.detach()[index]) for name, p in self._network.named_parameters()]
            layers.parameters = views
            layers.before_update()

    def _look(self, found: eqprop.RuleStep, epoch: int, step: int, samples: int) -> list[int]:
        """Give up hopeless members; the places of the others."""
        left: list[int] = []
        figures = zip(self._loss.tolist(), self._wrong.tolist(), strict=True)
        for index, (loss, wrong) in enumerate(figures):
            layers, member = self._layers[index], self._members[index]
            state = tuple(s[index] for s in found.free.state)
            layers.after_update(SimpleNamespace(output=found.output[index], free=SimpleNamespace(state=state)))
            sums = {"samples": float(samples), "loss": loss, "wrong": float(wrong)}
            reason = self._watches[index].look(step, sums, layers, self._steps)
            if reason is None:
                left.append(index)
                continue
            done = epoch * self._steps + step
            member.stopped = f"Training stopped in epoch {epoch + 1}, step {done}: {reason}"
            self._network.store(index, member.network)
        if len(left) < len(self._members):
            self._keep(left)
        return left

    def _keep(self, left: list[int]) -> None:
        if left:
            for part in (self._network, self._rule, self._optimizer):
                part.keep(left)
        self._loss, self._wrong = self._loss[left], self._wrong[left]
        for name in ("_members", "_watches", "_layers", "_generators"):
            setattr(self, name, [getattr(self, name)[index] for index in left])
