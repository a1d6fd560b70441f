"""What a training step of the rows takes on this machine, timed in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks._asymmetry_rows import Row, make_network, make_optimizer, make_rule
from benchmarks._timing import medians


def milliseconds(rows: Sequence[Row], batch: int, *, rounds: int = 7) -> dict[str, float]:
    """Median milliseconds a step (gradient and optimiser), by row: fresh networks, random images, a step a turn.

    Only rows with a budget: the others end a phase where all samples have settled, so that the time of their steps is
    that of their images and weights.
    """
    steps = {row.name: _step(row, batch) for row in rows if row.budget is not None}
    return {name: 1e3 * seconds for name, seconds in medians(steps, rounds=rounds, calls=1, warm_up=1).items()}


def _step(row: Row, batch: int) -> Callable[[], None]:
    network, rule = make_network(row, 0), make_rule(row, 0, 0.0)
    optimizer = make_optimizer(row, network)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, row.sizes[0], generator=generator)
    y = torch.randint(0, row.sizes[-1], (batch,), generator=generator)

    def run() -> None:
        optimizer.zero_grad()
        rule.backward(network, x, y)
        optimizer.step()

    return run
