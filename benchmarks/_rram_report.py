"""Table of the sweep of resistive liquids, and what its errors are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ARMS = {
    "accuracy_percent": "liquid",
    "recurrence_off_percent": "recurrence off",
    "random_relu_percent": "random ReLU",
    "input_percent": "input",
}


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Mean and deviation over chips as Markdown, a line a pair of faults."""
    text = [
        "| variability | read noise | chips | liquid % | recurrence off % | random ReLU % | input % | rate Hz |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        own = "device" if line["variability"] is None else f"{100 * line['variability']:g} %"
        cells = [own, f"{100 * line['read_noise']:g} %", str(line["chips"])]
        cells += [f"{line[key]:.2f} +- {line[f'{key}_deviation']:.2f}" for key in ARMS]
        text.append("| " + " | ".join([*cells, f"{line['mean_rate_hz']:.1f}"]) + " |")
    return "\n".join(text) + "\n"


def binomial_error(lines: Sequence[Mapping[str, Any]], tests: int) -> float:
    """Largest standard error, in per cent, that so many test samples give the liquid's accuracies: binomial, the same
    for one chip and for a mean of chips that see the same samples."""
    shares = [line["accuracy_percent"] / 100 for line in lines]
    return 100 * math.sqrt(max(p * (1 - p) for p in shares) / tests)


def meaning(lines: Sequence[Mapping[str, Any]], tests: int) -> str:
    """Of bands and deviations, in a sentence."""
    return (
        f"+- and bands: standard deviation over chips. All chips see the same {tests:,} test samples, which alone give "
        f"every accuracy a standard error of up to {binomial_error(lines, tests):.1f} %."
    )
