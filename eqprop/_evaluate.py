"""Accuracy, loss and convergence of a network on a data split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eqprop._errors import DataError
from eqprop._network import Network
from eqprop._rule import Rule, at_equilibrium


class Batches(Protocol):
    """Data that come in batches, as ``eqprop.Split``."""

    def __len__(self) -> int: ...

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``(x, y)`` in order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Result of ``evaluate``: means over ``n`` samples; error and accuracy are fractions."""

    error: float
    accuracy: float
    loss: float
    converged_share: float
    mean_sweeps: float
    n: int


def evaluate(network: Network, data: Batches, rule: Rule, *, batch_size: int = 500) -> Evaluation:
    """Free equilibria of all of ``data`` under the settings of ``rule``, against labels.

    Waits for the device once, at the end.

    Raises:
        DataError: no samples, or data that do not come in batches.
    """
    if not callable(getattr(data, "batches", None)):
        raise DataError(f"evaluate: got {type(data).__name__}, needed batches; write eqprop.Split(images, labels)")
    if len(data) == 0:
        raise DataError("evaluate: got 0 samples, needed at least 1")
    totals: Tensor | None = None
    with torch.no_grad():
        for x, y in data.batches(batch_size):
            solution = rule.settle(network, network.drive(x), None)
            sample = at_equilibrium(network, rule.loss_function, solution.state, y)
            wrong = sample.output.argmax(1) != sample.target.argmax(1)
            counts = (wrong, sample.loss, solution.converged, solution.sweeps)
            batch = torch.stack([v.to(torch.float64).sum() for v in counts])
            totals = batch if totals is None else totals + batch
    if totals is None:
        raise DataError("evaluate: got data that yield no batch, needed at least one")
    error, loss, converged, sweeps_mean = (totals / len(data)).tolist()
    return Evaluation(error, 1 - error, loss, converged, sweeps_mean, len(data))
