"""Figures of the substrate benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks._substrate_rows import MISMATCH_NUDGE, SMALL_NUDGE
from benchmarks._substrate_table import BETAS, BITS, HEAT_BETAS, LEVELS
from eqprop._figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, _tidy

Line = Mapping[str, Any]
_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY, "#56B4E9", "#000000", "#F0E442")
_FAULTS = {
    "shared by the phases": (BLUE, "o-"),
    "afresh in each phase": (RED, "s-"),
    "drift between phases, common": (GREEN, "^--"),
    "drift between phases, dispersed": (ORANGE, "v--"),
}


def figures(table: Sequence[Line], lines: Sequence[Line]) -> dict[str, Figure]:
    """Every figure for which there is something to draw, by name."""
    made: dict[str, Figure] = {}
    if table:
        made["shared_or_afresh"] = shared_or_afresh(table)
        made["converters"] = converters(table)
    by_group = {line["group"]: [v for v in lines if v["group"] == line["group"]] for line in lines}
    drawn = {"devices": devices, "mismatch": mismatch, "mitigations": mitigations}
    return made | {group: draw(by_group[group]) for group, draw in drawn.items() if group in by_group}


def shared_or_afresh(table: Sequence[Line]) -> Figure:
    """First layer's cosine over the size of a disturbance; a row a network, a column a nudge."""
    networks = list(dict.fromkeys(line["network"] for line in table))
    figure = Figure(figsize=(3.4 * len(BETAS) + 1, 2.8 * len(networks) + 0.5), layout="constrained")
    panels = figure.subplots(len(networks), len(BETAS), squeeze=False, sharex=True, sharey=True)
    for row, network in zip(panels, networks, strict=True):
        for axes, beta in zip(row, BETAS, strict=True):
            for group, (colour, style) in _FAULTS.items():
                at = {line["label"]: line for line in table if _is(line, network, group) and line["beta"] == beta}
                shown = [(s, _first(at[k])["cosine_ideal"]) for s in LEVELS if (k := f"{100 * s:g} %") in at]
                if shown:
                    axes.semilogx(*zip(*shown, strict=True), style, color=colour, label=group, markersize=5)
            axes.axhline(1.0, color="0.8", linewidth=0.8, zorder=0)
            axes.set_title(f"{network}, nudge {beta:g}", fontsize="medium")
            _tidy(axes)
        row[0].set_ylabel("gradient cosine, first layer")
    for axes in panels[-1]:
        axes.set_xlabel("relative change of a conductance")
    if panels[0, 0].get_legend_handles_labels()[0]:
        panels[0, 0].legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def converters(table: Sequence[Line]) -> Figure:
    """Cosine with the exact gradient over bits and nudge: too few bits on one side, too large a nudge on the other."""
    networks = list(dict.fromkeys(line["network"] for line in table if line["group"] == "ADC"))
    first = next(line for line in table if line["group"] == "ADC")
    count = len(first["layers"])
    figure = Figure(figsize=(5.2 * count, 3.6 * max(len(networks), 1)), layout="constrained")
    panels = figure.subplots(len(networks), count, squeeze=False)
    picture = None
    for row, network in zip(panels, networks, strict=True):
        at = {(line["label"], line["beta"]): line for line in table if _is(line, network, "ADC")}
        for n, axes in enumerate(row):
            values = np.full((len(BITS), len(HEAT_BETAS)), math.nan)
            for i, bits in enumerate(BITS):
                for j, beta in enumerate(HEAT_BETAS):
                    line = at.get((f"{bits} bits", beta))
                    if line is not None:
                        values[i, j] = list(line["layers"].values())[n]["cosine_exact"]
                        colour = "white" if values[i, j] < 0.6 else "black"
                        text = f"{values[i, j]:.2f}"
                        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize="x-small")
            picture = axes.imshow(values, vmin=0.0, vmax=1.0, origin="lower", aspect="auto", cmap="viridis")
            axes.set(xticks=range(len(HEAT_BETAS)), yticks=range(len(BITS)), xlabel="nudge", ylabel="bits")
            axes.set_xticklabels([f"{beta:g}" for beta in HEAT_BETAS])
            axes.set_yticklabels([str(bits) for bits in BITS])
            axes.set_title(f"{network}: {list(first['layers'])[n]}", fontsize="medium")
    if picture is not None:
        figure.colorbar(picture, ax=panels, label="cosine with the exact gradient", shrink=0.8)
    return figure


def devices(lines: Sequence[Line]) -> Figure:
    """Learning curves of in-situ training, and what is left of the accuracy later, against programmed weights."""
    figure = Figure(figsize=(11, 0.5 + max(3.6, 0.42 * len(lines))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for n, line in enumerate(lines):
        epochs, colour = range(len(line["curve"])), _COLOURS[n % len(_COLOURS)]
        style = "--" if n >= len(_COLOURS) else "-"
        left.errorbar(epochs, line["curve"], line["curve_deviation"], fmt=style, color=colour, label=line["row"])
    left.set(xlabel="epoch", ylabel="validation accuracy (%)")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, fontsize="small", loc="lower right", ncols=2)
    _tidy(left)
    kinds = (("later_percent", "trained in situ", BLUE, -0.12), ("programmed_percent", "programmed", ORANGE, 0.12))
    for key, name, colour, shift in kinds:
        for n, marker in enumerate(("o", "D", "x")):
            several = [(list(v[key])[n], list(v[key].values())[n], i) for i, v in enumerate(lines) if v[key]]
            if several:
                label = f"{name}, {several[0][0]}"
                right.plot([s[1] for s in several], [s[2] + shift for s in several], marker, color=colour, label=label)
    for i, line in enumerate(lines):
        if line["later_percent"] is None:
            right.axvline(line["accuracy_percent"], color="0.6", linewidth=0.8)
            right.plot(line["accuracy_percent"], i, "o", color="0.3")
    _names(right, lines)
    right.set_xlabel("test accuracy (%)")
    right.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def mismatch(lines: Sequence[Line]) -> Figure:
    """Accuracy over the mismatch, and the first layer's cosine at the nudge of training and at a small one.

    A line a rule. The first cosine has the bias of the nudge beside that of the mismatch, the second that alone.
    """
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    shown = ("accuracy_percent", "cosine_own", "cosine_own_small_nudge")
    for n, name in enumerate(dict.fromkeys(line["series"] for line in lines)):
        mine = sorted((v for v in lines if v["series"] == name), key=lambda v: float(v["x"]))
        # side by side, or the bars of one rule would hide those of another
        places = [v["x"] + 0.4 * (n - 2) for v in mine]
        for axes, key in zip(panels, shown, strict=True):
            values = [math.nan if v[key] is None else v[key] for v in mine]
            bars = [v[f"{key.removesuffix('_percent')}_deviation"] or 0.0 for v in mine]
            axes.errorbar(places, values, bars, fmt="o-", color=_COLOURS[n % len(_COLOURS)], capsize=2, label=name)
    labels = (
        "test accuracy (%)",
        f"cosine with the machine's own exact gradient,\nfirst layer, trained; nudge {MISMATCH_NUDGE:g}",
        f"the same at a nudge of {SMALL_NUDGE:g}",
    )
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="mismatch of the ways there and back (% a cell)", ylabel=label)
        _tidy(axes)
    for axes in panels[1:]:
        axes.axhline(1.0, color="0.8", linewidth=0.8, zorder=0)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize="small", loc="outside upper center", ncols=len(handles[1]))
    return figure


def mitigations(lines: Sequence[Line]) -> Figure:
    """Accuracy and cosines a remedy."""
    figure = Figure(figsize=(10, 0.8 + 0.3 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, line in enumerate(lines):
        left.errorbar(line["accuracy_percent"], i, xerr=line["accuracy_deviation"] or 0.0, fmt="o", color=BLUE)
    marks = (("cosine_ideal", "with the ideal network's", "o", RED), ("cosine_exact", "with the exact one", "x", GREY))
    for key, label, marker, colour in marks:
        values = [math.nan if v[key] is None else v[key] for v in lines]
        right.plot(values, range(len(lines)), marker, color=colour, label=label)
    _names(left, lines)
    left.set_xlabel("test accuracy (%)")
    right.set(xlabel="gradient cosine, first layer, after training", yticks=range(len(lines)), yticklabels=[])
    right.set_ylim(len(lines) - 0.5, -0.5)
    right.grid(axis="y", color="0.9")
    right.legend(frameon=False, fontsize="small")
    return figure


def _names(axes: Axes, lines: Sequence[Line]) -> None:
    axes.set(yticks=range(len(lines)), ylim=(len(lines) - 0.5, -0.5))
    axes.set_yticklabels([line["row"] + (" (stopped)" if line["stopped"] else "") for line in lines])
    axes.grid(axis="y", color="0.9")


def _is(line: Line, network: str, group: str) -> bool:
    return bool(line["network"] == network and line["group"] == group)


def _first(line: Line) -> Mapping[str, Any]:
    layer: Mapping[str, Any] = next(iter(line["layers"].values()))
    return layer
