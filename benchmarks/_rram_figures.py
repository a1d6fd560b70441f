"""Accuracy of resistive liquids over their faults: two curves with bands, and a map."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks._rram_report import binomial_error, meaning
from eqprop._figures import BLUE, GREY, ORANGE, RED, _tidy

CURVES = {"variability": "variability of the cells (%)", "read_noise": "read noise (%)"}
_ARMS = {"accuracy_percent": ("liquid", RED), "recurrence_off_percent": ("recurrence off", ORANGE)}
_LEVEL = {"random_relu_percent": ("random ReLU", BLUE), "input_percent": ("input", GREY)}


def robustness(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], map_: Sequence[Mapping[str, Any]], title: str, tests: int
) -> Figure:
    """A panel an axis, with mean and standard deviation over chips, and the map of both where there is one.

    Below stands what standard error the test samples alone give; the colours of the map span four of them at least, so
    that what may be chance does not look like a slope.

    Args:
        curves: by axis, lines with the "level" and, of each arm, mean and deviation ("accuracy_percent",
            "accuracy_percent_deviation").
        map_: lines with "variability", "read_noise" and the mean "accuracy_percent".
        title: above all.
        tests: test samples, the same for all chips.
    """
    figure = Figure(figsize=(4.2 * (len(curves) + bool(map_)), 3.9), layout="constrained")
    panels = figure.subplots(1, len(curves) + bool(map_), squeeze=False)[0]
    for axes, (name, lines) in zip(panels, curves.items(), strict=False):
        if axes is not panels[0]:  # before anything is drawn, or what lies beyond the first panel would be cut off
            axes.sharey(panels[0])
        levels = 100 * np.array([line["level"] for line in lines])
        for key, (label, colour) in _ARMS.items():
            mean = np.array([line[key] for line in lines])
            spread = np.array([line[f"{key}_deviation"] for line in lines])
            axes.plot(levels, mean, "o-", markersize=4, color=colour, label=label)
            axes.fill_between(levels, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        for key, (label, colour) in _LEVEL.items():
            axes.axhline(lines[0][key], color=colour, linewidth=1.0, linestyle="--", label=label)
        axes.set(xlabel=CURVES[name], ylabel="test accuracy (%)")
        _tidy(axes)
    panels[0].legend(frameon=False, fontsize="small")
    if map_:
        _map(figure, panels[-1], map_, binomial_error(map_, tests))
    figure.suptitle(title, fontsize=11)
    lines = [*map_, *(line for along in curves.values() for line in along)]
    figure.supxlabel("\n".join(textwrap.wrap(meaning(lines, tests), 42 * len(figure.axes))), fontsize="small")
    return figure


def _map(figure: Figure, axes: Any, lines: Sequence[Mapping[str, Any]], error: float) -> None:
    rows, columns = (sorted({line[name] for line in lines}) for name in ("variability", "read_noise"))
    values = np.full((len(rows), len(columns)), np.nan)
    for line in lines:
        values[rows.index(line["variability"]), columns.index(line["read_noise"])] = line["accuracy_percent"]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    middle, half = (low + high) / 2, max((high - low) / 2, 2 * error)
    bounds = {"vmin": middle - half, "vmax": middle + half}
    image = axes.imshow(values, origin="lower", cmap="viridis", aspect="auto", **bounds)
    for (row, column), value in np.ndenumerate(values):
        bright = value > middle
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7, color="k" if bright else "w")
    for set_, levels in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        set_(range(len(levels)), [f"{100 * level:g}" for level in levels])
    axes.set(xlabel=CURVES["read_noise"], ylabel=CURVES["variability"])
    figure.colorbar(image, ax=axes, label="test accuracy (%)")
