"""Health of the liquids of a benchmark: rates, branching factors with their method, and synaptic operations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import snn
from benchmarks._liquid_data import Task
from benchmarks._liquid_features import advice
from eqprop._errors import DataError

SAMPLES = 20  # as many as the published branching factors are means of
_WINDOW_STEPS, _STRIDE_STEPS = 50, 10  # of the branching factor over time

# Ivanov & Michmizos 2021, the authors' own data: mean accuracy (%) and local branching factor of static liquids of
# 1,000 neurons over ten networks, by the size of all weights; 60,000 training samples, linear readout.
PUBLISHED: dict[tuple[str, str], dict[float, tuple[float, float]]] = {
    ("nalsm1000", "mnist"): {
        0.4: (95.00, 0.37), 0.5: (95.12, 0.54), 0.6: (95.19, 0.70), 0.7: (95.22, 0.86), 0.8: (95.20, 1.00),
        0.9: (95.20, 1.13), 1.0: (95.18, 1.24), 1.1: (94.85, 1.34), 1.2: (94.32, 1.40), 1.3: (93.59, 1.44),
        1.4: (93.44, 1.44),
    },
    ("nalsm1000", "nmnist"): {
        0.95: (94.81, 0.93), 1.0: (94.86, 0.99), 1.05: (94.92, 1.05), 1.1: (94.90, 1.11), 1.2: (94.30, 1.23),
        1.25: (93.20, math.nan), 1.35: (91.08, 1.45),
    },
}  # fmt: skip
# the same source, plastic liquids of ten networks (five of 8,000 neurons): accuracy, its deviation, branching factor
PLASTIC_PUBLISHED: dict[tuple[str, str], dict[str, tuple[float, float, float]]] = {
    ("nalsm1000", "mnist"): {"NALSM": (95.96, 0.13, 1.25), "STDP": (89.47, math.nan, math.nan)},
    ("nalsm1000", "nmnist"): {"NALSM": (95.90, 0.16, 1.13), "STDP": (86.80, math.nan, math.nan)},
    ("nalsm1000", "fashion-mnist"): {"NALSM": (83.05, 0.21, 1.20)},
    ("nalsm8000", "mnist"): {"NALSM": (97.49, 0.11, math.nan)},
    ("nalsm8000", "nmnist"): {"NALSM": (97.42, 0.07, math.nan)},
    ("nalsm8000", "fashion-mnist"): {"NALSM": (85.61, 0.18, math.nan)},
}
BRANCHING_WEIGHTS = (0.4, 0.8, 1.2)


@dataclass(frozen=True, eq=False)
class Look:
    """A liquid on a few training samples.

    Attributes:
        spikes: ``[batch, time, neurons]``.
        figures: numbers for the summary.
        health: rates.
    """

    spikes: Tensor
    figures: dict[str, Any]
    health: snn.Health


def look(liquid: snn.Liquid, task: Task, seed: int, samples: int = SAMPLES) -> Look:
    """Runs a liquid on the first training samples."""
    trains = task.train.trains(torch.arange(min(samples, len(task.train))), seed)
    record = snn.Record(spikes=True, input_spikes=True)
    generator = torch.Generator().manual_seed(seed)
    run = liquid.run(trains, record=record, generator=generator, health="ignore")
    spikes, sent = run.recorded("spikes"), run.recorded("input_spikes").sum(1)
    recurrent = snn.synaptic_operations(run.counts, liquid.weight)
    entering = recurrent.new_zeros(len(recurrent))
    if liquid.input_weight is not None:
        entering = snn.synaptic_operations(sent, liquid.input_weight)
    health, margin = run.health, min(25, task.steps // 10)  # 25 steps of 250 were published
    figures = {
        "samples": len(trains),
        "mean_rate_hz": health.mean_rate_hz,
        "silent_share": health.silent_share,
        "saturated_share": health.saturated_share,
        "branching_local": _number(snn.branching_factor(spikes, liquid.synapses, "local", margin_steps=margin)),
        "branching_regression": _number(snn.branching_factor(spikes, method="regression", margin_steps=margin)),
        "input_events": float(sent.sum(1).double().mean()),
        "synaptic_operations_recurrent": float(recurrent.mean()),
        "synaptic_operations_input": float(entering.mean()),
    }
    return Look(spikes, figures, health)


def require_well(seen: Look, weight: float | None) -> Look:
    """The look itself. Raises DataError for a dead or saturated liquid, with the number and the options to change."""
    if seen.health.fault is not None:
        given = "the preset's weight" if weight is None else f"--weight {weight:g}"
        raise DataError(f"{given}: {advice(seen.health)}")
    return seen


def over_time(spikes: Tensor, mask: Tensor) -> tuple[list[int], list[float]]:
    """Middle of a window in steps, and the local branching factor in it."""
    window = min(_WINDOW_STEPS, spikes.shape[1])
    starts = range(0, spikes.shape[1] - window + 1, _STRIDE_STEPS)
    factors = [snn.branching_factor(spikes[:, s : s + window], mask, "local", margin_steps=0) for s in starts]
    return [s + window // 2 for s in starts], factors


def mean_figures(looks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over networks; None where none has the number."""
    made: dict[str, Any] = {}
    for key in looks[0]:
        values = [v for one in looks if (v := one[key]) is not None]
        made[key] = statistics.fmean(values) if values else None
    return made


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
