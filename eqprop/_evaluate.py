"""Accuracy, loss and convergence of a network on a data split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eqprop._distributed import Workers
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
    """Result of ``evaluate``: means over ``n`` samples; error and accuracy are fractions.

    ``top5`` is the share of samples whose class is among the five with the largest outputs.
    """

    error: float
    accuracy: float
    top5: float
    loss: float
    converged_share: float
    mean_sweeps: float
    n: int


def evaluate(
    network: Network, data: Batches, rule: Rule, *, batch_size: int = 500, workers: Workers | None = None
) -> Evaluation:
    """Free equilibria of all of ``data`` under the settings of ``rule``, against labels.

    Waits for the device once, at the end. With several ``workers`` each relaxes its part of every batch and all get the
    same result; all of them must call it.

    Raises:
        DataError: no samples, or data that do not come in batches.
    """
    if not callable(getattr(data, "batches", None)):
        raise DataError(f"evaluate: got {type(data).__name__}, needed batches; write eqprop.Split(images, labels)")
    if len(data) == 0:
        raise DataError("evaluate: got 0 samples, needed at least 1")
    workers = Workers.alone() if workers is None else workers
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    totals = torch.zeros(6, dtype=torch.float64, device=device)
    with torch.no_grad():
        for x, y in data.batches(batch_size):
            share = workers.share(len(x))
            if not share.counts:
                continue
            x, y = x[share.rows], y[share.rows]
            solution = rule.settle(network, network.drive(x), None)
            sample = at_equilibrium(network, rule.loss_function, solution.state, y)
            label = sample.target.argmax(1)
            wrong = sample.output.argmax(1) != label
            first = sample.output.topk(min(5, sample.output.shape[1])).indices
            among = (first == label[:, None]).any(1)
            counts = (wrong, among, sample.loss, solution.converged, solution.sweeps, torch.ones_like(sample.loss))
            totals = totals + torch.stack([v.to(torch.float64).sum() for v in counts])
    *sums, seen = workers.gather(totals).sum(0).tolist()
    if not seen:
        raise DataError("evaluate: got data that yield no batch, needed at least one")
    error, top5, loss, converged, sweeps_mean = (value / len(data) for value in sums)
    return Evaluation(error, 1 - error, top5, loss, converged, sweeps_mean, len(data))
