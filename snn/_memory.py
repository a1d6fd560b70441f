"""Memory capacity: how much of its past input a liquid's state still holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_generator, require_number, require_numbers, require_whole
from snn._readouts import checked_features
from snn._readouts_normal import NormalEquations


@dataclass(frozen=True)
class MemoryCapacity:
    """Memory of a liquid, delay by delay.

    Attributes:
        total: ``Σ_k rho_k^2`` over all delays.
        by_delay: squared correlation at delays 1, 2, ..., on test steps.
        floor: what an independent output would give on average, ``delays / test steps``: read ``total`` beside it.
        penalty: of the readouts, chosen on training steps that they were not fitted to.
    """

    total: float
    by_delay: tuple[float, ...]
    floor: float
    penalty: float


def memory_capacity(
    run: Callable[[Tensor], Tensor],
    *,
    delays: int,
    steps: int,
    generator: torch.Generator,
    amplitude: float = 0.8,
    washout: int = 100,
    train_share: float = 0.7,
    penalties: Sequence[float] = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2),
) -> MemoryCapacity:
    """Memory capacity of Jaeger 2001, ``MC = Σ_k rho^2(u(t - k), y_k(t))``, k from 1 to ``delays``.

    ``u`` is drawn independently and uniformly from ``[-amplitude, amplitude]``, and ``y_k`` is a ridge readout of the
    state at t, fitted to ``u(t - k)`` on the first ``train_share`` of the steps and correlated on the rest. With
    independent inputs MC is at most the number of state variables.

    Args:
        run: from inputs ``[steps]``, float64 on the CPU, to states ``[steps, variables]``. For a liquid: hold each
            value for some time steps as a current or a rate, and return its filtered spikes at the end of each.
        delays: largest delay; about twice the number of neurons sees all of a small network's memory.
        steps: inputs after the ``washout``.
        generator: draws the inputs; a CPU generator.

    Raises:
        ConfigError: too few steps for the delays and the split.
        DataError: a ``run`` that returns another shape, or states that are not finite or constant.
    """
    require_generator(generator)
    require_whole("delays", delays, 1)
    require_whole("washout", washout, 0)
    require_number("amplitude", amplitude, above=0.0)
    require_number("train_share", train_share, least=0.1, most=0.9)
    grid = sorted(require_numbers("penalties", penalties))
    require_number("penalties", grid[0], above=0.0)
    require_whole("steps", steps, 10)
    skipped = max(washout, delays)
    u = (2 * torch.rand(skipped + steps, generator=generator, dtype=torch.float64) - 1) * amplitude
    states = run(u)
    if not isinstance(states, Tensor) or states.dim() != 2 or len(states) != len(u):
        got = list(states.shape) if isinstance(states, Tensor) else type(states).__name__
        raise DataError(f"run: got {got} back, needed states [{len(u)}, variables], one row an input")
    x = checked_features(states, "states").double().cpu()[skipped:]
    targets = torch.stack([u[skipped - k : len(u) - k] for k in range(1, delays + 1)], dim=1)

    train = round(train_share * steps)
    fitted = round(0.8 * train)
    if steps - train < 2 or train - fitted < 1:
        raise ConfigError(f"steps: got {steps}, needed enough for training, choosing and testing; write steps=1000")
    sums = NormalEquations()
    sums.add(x[:fitted], targets[:fitted])
    if bool(sums.constant.all()):
        raise DataError("states: got constant ones, needed states that follow the input; is the liquid silent?")
    coef, intercept = sums.solve(grid)
    errors = [
        float((targets[fitted:train] - x[fitted:train] @ c.T - b).square().mean())
        for c, b in zip(coef, intercept, strict=True)
    ]
    penalty = min(zip(errors, grid, strict=True))[1]
    rest = NormalEquations(like=sums)
    rest.add(x[fitted:train], targets[fitted:train])
    coef, intercept = (sums + rest).solve([penalty])
    squared = _correlation(x[train:] @ coef[0].T + intercept[0], targets[train:]).square()
    return MemoryCapacity(float(squared.sum()), tuple(squared.tolist()), delays / (steps - train), penalty)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of each column; 0 where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(scale > 0, (a * b).sum(0) / torch.where(scale > 0, scale, math.inf), 0.0)
