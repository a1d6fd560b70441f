"""Fair timing inside one process: candidates take turns, and only medians and ratios are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Candidates = Mapping[str, Callable[[], object]]


def medians(candidates: Candidates, *, rounds: int = 15, calls: int = 20, warm_up: int = 3) -> dict[str, float]:
    """Median seconds a call of each candidate; they run in turn, round after round, so that drift hits all alike."""
    return middle(each_round(candidates, rounds=rounds, calls=calls, warm_up=warm_up))


def each_round(
    candidates: Candidates,
    *,
    rounds: int,
    calls: int,
    warm_up: int,
    order: Callable[[Candidates, int], Candidates] | None = None,
) -> list[dict[str, float]]:
    """Seconds a call of each candidate, by round; ``order`` gives the candidates of a round in their order."""
    for _ in range(warm_up):
        for function in candidates.values():
            function()
    seconds: list[dict[str, float]] = []
    for number in range(rounds):
        turn: dict[str, float] = {}
        for name, function in (candidates if order is None else order(candidates, number)).items():
            synchronise()
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            synchronise()
            turn[name] = (time.perf_counter() - begin) / calls
        seconds.append(turn)
    return seconds


def middle(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians over rounds."""
    return {name: statistics.median(t[name] for t in each) for name in each[0]}


def ratio(each: Sequence[Mapping[str, float]], over: str, under: str) -> float:
    """Of two candidates, the median over rounds of the ratio in the same round."""
    return statistics.median(t[over] / t[under] for t in each)


def synchronise() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
