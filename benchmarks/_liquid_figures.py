"""Figures of the liquid benchmark: accuracy beside its controls, learning curves, and what a liquid does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

import snn
from benchmarks._liquid_fits import ARMS, OFFICIAL
from benchmarks._liquid_health import Look, over_time
from eqprop._figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, _tidy

_COLOURS = dict(zip(ARMS, (RED, PURPLE, PURPLE, ORANGE, BLUE, GREY, GREY), strict=True))
_STYLES = ("--", ":")  # of published figures
_CELLS = 250  # of a drawn weight matrix, a side
_BRANCHING_SAMPLES = 5


def accuracy(lines: Sequence[Mapping[str, Any]], title: str, published: Mapping[str, float] | None = None) -> Figure:
    """A column a split, a row a readout: test accuracy of the liquid and its controls, with deviations over networks.

    Args:
        lines: of all arms.
        title: of the figure.
        published: accuracies, by what they are of.
    """
    splits, readouts = (list(dict.fromkeys(v[name] for v in lines)) for name in ("split", "readout"))
    panels = [(split, readout) for readout in readouts for split in splits]
    most = max(v["samples"] for v in lines)
    several = len({v["feature"] for v in lines}) > 1
    own = [[v for v in lines if (v["split"], v["readout"]) == panel and v["samples"] == most] for panel in panels]
    height = 0.7 + len(readouts) * (0.6 + 0.28 * max(map(len, own)))
    figure = Figure(figsize=(max(6.4, 5.2 * len(splits)), height), layout="constrained")
    grid = figure.subplots(len(readouts), len(splits), squeeze=False, sharex=True)
    for axes, panel, mine in zip(grid.flat, panels, own, strict=True):
        for place, line in enumerate(mine):
            colour = _COLOURS[line["arm"]]
            axes.errorbar(
                line["accuracy_percent"], place, xerr=line["deviation"] or 0.0, fmt="o", capsize=3, color=colour
            )
        if published and panel[0] == OFFICIAL:
            for (what, value), style in zip(published.items(), _STYLES, strict=False):
                axes.axvline(value, color=GREEN, linewidth=1.0, linestyle=style, label=f"published, {what}")
        names = [f"{line['arm']} ({line['feature'] + ', ' if several else ''}{line['width']:,})" for line in mine]
        axes.set(
            yticks=range(len(mine)),
            ylim=(len(mine) - 0.5, -0.5),
            xlabel="test accuracy (%)" if panel[1] == readouts[-1] else "",
        )
        axes.set_yticklabels(names, fontsize="small")
        axes.set_title(f"{panel[0]}, {panel[1]}", loc="left", fontsize="medium")
        _tidy(axes)
    shown = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if shown:  # below the panels, where it covers no point
        figure.legend(
            [*shown.values()], [*shown], frameon=False, fontsize="small", ncols=len(shown), loc="outside lower center"
        )
    figure.suptitle(title, fontsize=11)
    return figure


def learning_curve(lines: Sequence[Mapping[str, Any]], title: str, readout: str) -> Figure:
    """Test accuracy against the number of training samples (validation included), a line an arm."""
    first = lines[0]["feature"]
    kept = [v for v in lines if (v["split"], v["feature"], v["readout"]) == (OFFICIAL, first, readout)]
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = sorted({v["samples"] for v in kept})
    for arm in ARMS:
        mine = sorted((v for v in kept if v["arm"] == arm), key=lambda v: v["samples"])
        if not mine:
            continue
        axes.errorbar(
            [v["samples"] for v in mine],
            [v["accuracy_percent"] for v in mine],
            yerr=[v["deviation"] or 0.0 for v in mine],
            fmt="o-",
            markersize=4,
            capsize=3,
            color=_COLOURS[arm],
            label=arm,
        )
    axes.set(xscale="log", xlabel="training samples", ylabel="test accuracy (%)")
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{n:,}" for n in counts])
    axes.set_title(f"{title}\n{first}, {readout}", loc="left", fontsize="medium")
    axes.legend(frameon=False)
    _tidy(axes)
    return figure


def dynamics(liquid: snn.Liquid, seen: Look, title: str) -> Figure:
    """Raster of one sample, the weights, and the branching factor over time (mean of a few samples)."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(2, 1.2))
    raster, branching, weights = (figure.add_subplot(grid[place]) for place in ((0, 0), (1, 0), (slice(None), 1)))
    excitatory = torch.ones(liquid.neurons, dtype=torch.bool) if liquid.excitatory is None else liquid.excitatory.cpu()
    order = torch.argsort(excitatory.int(), descending=True, stable=True)
    spikes = seen.spikes.cpu()
    time, neuron = np.nonzero(spikes[0][:, order].numpy())
    millisecond = 1000 * liquid.dt_seconds
    for of_type, colour, name in ((True, RED, "excitatory"), (False, BLUE, "inhibitory")):
        chosen = excitatory[order].numpy()[neuron] == of_type
        if chosen.any():
            raster.plot(time[chosen] * millisecond, neuron[chosen], ".", markersize=1.5, color=colour, label=name)
    raster.set(xlim=(0, spikes.shape[1] * millisecond), xlabel="time (ms)", ylabel="neuron")
    raster.set_title(f"spikes of one sample ({len(time):,})", loc="left", fontsize="medium")
    raster.legend(loc="upper right", markerscale=5, fontsize="small")
    middles, factors = over_time(seen.spikes[:_BRANCHING_SAMPLES], liquid.synapses)
    branching.axhline(1.0, color=GREY, linewidth=0.8)
    branching.plot([m * millisecond for m in middles], factors, "o-", color=PURPLE, markersize=3)
    branching.set(xlim=raster.get_xlim(), xlabel="middle of a window of 50 steps (ms)", ylabel="branching factor")
    branching.set_title(f"branching factor, local, {_BRANCHING_SAMPLES} samples", loc="left", fontsize="medium")
    drawn = _blocks(liquid.weight.cpu()[order][:, order])
    bound = float(np.abs(drawn).max()) or 1.0
    size = liquid.neurons
    image = weights.imshow(
        drawn, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest", extent=(0, size, size, 0)
    )
    weights.set(xlabel="from neuron", ylabel="to neuron")
    weights.set_title("weights (means of blocks)", loc="left", fontsize="medium")
    figure.colorbar(image, ax=weights, shrink=0.7, location="bottom")
    for axes in (raster, branching):
        _tidy(axes)
    figure.suptitle(title, fontsize=11)
    return figure


def _blocks(weight: torch.Tensor) -> np.ndarray:
    side = max(1, -(-len(weight) // _CELLS))
    pooled = torch.nn.functional.avg_pool2d(weight[None, None], side, ceil_mode=True)
    values: np.ndarray = pooled[0, 0].numpy()
    return values


def branching(found: Mapping[float, Sequence[float]], published: Mapping[float, float], title: str) -> Figure:
    """Branching factors of networks by the size of their weights, beside the published means."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    for index, (weight, factors) in enumerate(found.items()):
        axes.plot([weight] * len(factors), factors, "o", color=BLUE, label="" if index else "networks here")
    known = {w: b for w, b in published.items() if b == b}
    if known:
        axes.plot(list(known), list(known.values()), "_", color=GREEN, markersize=16, label="published mean")
    axes.set(xlabel="size of the weights", ylabel="branching factor, local")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.legend(frameon=False)
    _tidy(axes)
    return figure
