"""Time and memory of a liquid as a figure."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from eqprop._figures import BLUE, GREY, RED, _tidy

_MIB = 2**20


def scaling(found: Mapping[str, Mapping[int, Mapping[str, float]]], batch: int, steps: int) -> Figure:
    """Seconds and peak memory of a run along neurons, batch and duration, with a line of proportion.

    Args:
        found: by axis ("neurons", "batch", "steps") and place on it: "seconds", "bytes" and "weight_bytes".
        batch, steps: of the points along the other axes.
    """
    titles = {
        "neurons": f"neurons (batch {batch}, {steps} steps)",
        "batch": f"batch (1,000 neurons, {steps} steps)",
        "steps": f"steps (1,000 neurons, batch {batch})",
    }
    axes_of = [name for name in titles if found.get(name)]
    figure = Figure(figsize=(3.9 * len(axes_of), 5.6), layout="constrained")
    for column, name in enumerate(axes_of):
        places = sorted(found[name])
        for row, (key, scale, label, colour) in enumerate(
            (("seconds", 1.0, "seconds a run", BLUE), ("bytes", _MIB, "tensors of a run at most (MiB)", RED))
        ):
            axes = figure.add_subplot(2, len(axes_of), row * len(axes_of) + column + 1)
            values = [found[name][place][key] / scale for place in places]
            axes.plot(places, values, "o-", markersize=4, color=colour, label="run")
            line = [values[0] * p / places[0] for p in places]
            axes.plot(places, line, "--", linewidth=0.8, color=GREY, label="in proportion")
            if key == "bytes" and name == "neurons":
                weights = [found[name][place]["weight_bytes"] / scale for place in places]
                axes.plot(places, weights, ":", color=colour, label="weights, beside them")
            axes.set(xscale="log", yscale="log", xlabel=titles[name])
            axes.xaxis.set_major_locator(FixedLocator(places))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xticklabels([f"{p:,}" for p in places], fontsize="small")
            if column == 0:
                axes.set_ylabel(label)
                axes.legend(frameon=False, fontsize="small")
            _tidy(axes)
    figure.suptitle("A static liquid: time and memory", fontsize=11)
    return figure
