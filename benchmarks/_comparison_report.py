"""Table and figure of the comparison: a line a data set and row, means and deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks._liquid_report import TITLES
from benchmarks._suite import deviation
from eqprop._figures import BLUE, GREEN, ORANGE, PURPLE, RED, _tidy

_NOISES = (BLUE, ORANGE, RED, PURPLE, GREEN)


def summarise(records: Sequence[Mapping[str, Any]], order: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A line a data set and row, in that order.

    Args:
        records: a finished run each.
        order: data sets and rows.
    """
    lines = []
    for dataset, label in order:
        own = [r for r in records if (r["dataset"], r["label"]) == (dataset, label)]
        if not own:
            continue
        by_noise = {noise: [r["accuracies"][noise] for r in own] for noise in own[0]["accuracies"]}
        lines.append(
            {
                "dataset": dataset,
                "row": label,
                "seeds": len(own),
                "epochs": own[0]["epochs"],
                "accuracy_percent": {noise: statistics.fmean(values) for noise, values in by_noise.items()},
                "accuracy_deviation": {noise: deviation(values) for noise, values in by_noise.items()},
                "kind": own[0]["kind"],
                **{
                    name: statistics.fmean(r[name] for r in own)
                    for name in (
                        "trained_parameters",
                        "fixed_parameters",
                        "operations",
                        "training_cpu_seconds",
                        "inference_cpu_milliseconds",
                    )
                },
            }
        )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown."""
    noises = list(lines[0]["accuracy_percent"])
    shown = " | ".join(f"{100 * float(n):g} % noise" for n in noises[1:])
    text = [
        f"| data | row | seeds | accuracy % | {f'{shown} | ' if shown else ''}trained parameters | fixed weights "
        "| operations an inference | training s | inference ms |",
        "|---" * (9 + len(noises)) + "|",
    ]
    for line in lines:
        spread = line["accuracy_deviation"][noises[0]]
        cells = [
            TITLES.get(line["dataset"], line["dataset"]),
            line["row"],
            str(line["seeds"]),
            f"{line['accuracy_percent'][noises[0]]:.2f}" + ("" if spread is None else f" +- {spread:.2f}"),
            *(f"{line['accuracy_percent'][n]:.2f}" for n in noises[1:]),
            f"{line['trained_parameters']:,.0f}",
            f"{line['fixed_parameters']:,.0f}",
            f"{line['operations']:,.0f} {'MAC' if line['kind'] == 'MAC' else 'SynOp'}",
            f"{line['training_cpu_seconds']:.1f}",
            f"{line['inference_cpu_milliseconds']:.3f}",
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def draw(lines: Sequence[Mapping[str, Any]], order: Sequence[str]) -> Figure:
    """A column a data set: accuracy of every row at each read noise, in that order, and accuracy against operations."""
    datasets = list(dict.fromkeys(line["dataset"] for line in lines))
    labels = [label for label in order if any(line["row"] == label for line in lines)]
    noises = list(lines[0]["accuracy_percent"])
    figure = Figure(figsize=(2.2 + 2.9 * len(datasets), 3.4 + 0.26 * len(labels)), layout="constrained")
    heights = (0.6 + 0.26 * len(labels), 2.4)
    panels = figure.subplots(2, len(datasets), squeeze=False, gridspec_kw={"height_ratios": heights})
    for column, dataset in enumerate(datasets):
        own = [line for line in lines if line["dataset"] == dataset]
        upper, lower = panels[0, column], panels[1, column]
        for noise, colour in zip(reversed(noises), reversed(_NOISES[: len(noises)]), strict=True):
            upper.errorbar(
                [line["accuracy_percent"][noise] for line in own],
                [labels.index(line["row"]) for line in own],
                xerr=[line["accuracy_deviation"][noise] or 0.0 for line in own],
                fmt="o",
                markersize=4,
                capsize=2,
                color=colour,
                label=f"{100 * float(noise):g} %",
            )
        upper.set(yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5), xlabel="test accuracy (%)")
        upper.set_yticklabels(labels if column == 0 else [""] * len(labels), fontsize="small")
        upper.set_title(TITLES.get(dataset, dataset), loc="left", fontsize="medium")
        for line in own:
            best = line["accuracy_percent"][noises[0]]
            mark = "s" if line["kind"] == "MAC" else "o"
            colour = f"C{labels.index(line['row'])}"
            lower.plot(line["operations"], best, mark, color=colour, markersize=5, alpha=0.85, label=line["row"])
        lower.set(xscale="log", xlabel="operations an inference")
        lower.margins(x=0.15, y=0.12)
        lower.xaxis.set_minor_formatter(NullFormatter())
        for axes in (upper, lower):
            _tidy(axes)
    panels[1, 0].set_ylabel("test accuracy (%)")
    figure.supxlabel("squares: multiply-accumulates; circles: synaptic operations, additions", fontsize="small")
    handles, names = panels[0, 0].get_legend_handles_labels()
    look: dict[str, Any] = {"frameon": False, "fontsize": "small"}
    figure.legend(handles[::-1], names[::-1], title="read noise", loc="outside right upper", **look)
    rows = {name: handle for axes in panels[1] for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([rows[name] for name in labels], labels, loc="outside right lower", **look)
    return figure
