"""Fair timing inside one process: candidates take turns, and only medians and ratios are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def medians(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 15, calls: int = 20, warm_up: int = 3
) -> dict[str, float]:
    """Median seconds a call of each candidate; they run in turn, round after round, so that drift hits all alike."""
    for _ in range(warm_up):
        for function in candidates.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, function in candidates.items():
            synchronise()
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            synchronise()
            seconds[name].append((time.perf_counter() - begin) / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
