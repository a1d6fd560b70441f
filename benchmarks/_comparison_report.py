"""Tables and figure of the comparison: a line a data set and row, means and deviations over seeds, and their gaps."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks._liquid_report import TITLES
from benchmarks._suite import deviation
from eqprop._figures import BLUE, GREEN, ORANGE, PURPLE, RED, _tidy

_NOISES = (BLUE, ORANGE, RED, PURPLE, GREEN)
# what is asked of which rows: what hidden units add to the input, recurrence to a liquid, and spikes to random features
GAPS = (("ep", "input"), ("liquid", "recurrence-off"), ("liquid", "random-relu"))
SEES = (
    "`ep`, `ep-chip`, `ep-256`, `random-relu` and `input` see a still vector: pixels of an image; counts of 2 x 2 "
    "pixels of an event file, of both polarities; counts of a recording's 40 channels in five parts of time. Liquids "
    "see the spike trains, and their linear readouts a number a neuron: its count, or, of recordings, its count or its "
    "filtered spikes at the end. `spiking` and `spiking-128` see the trains in about fifty steps, event files in 2 x 2 "
    "pixels. All learn from the same training samples, and choose by the same validation samples."
)


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
                "chosen": _chosen(own),
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


def _chosen(records: Sequence[Mapping[str, Any]]) -> str:
    """What the runs of a row chose on validation data, the commonest first, with how many chose it."""
    found = []
    for settings in (record["settings"] for record in records):
        if "readout" in settings:
            found.append(f"{settings['readout']} of {settings['feature']}")
        else:
            found.append(f"{settings['factor']:g} x rates")
    counted = Counter(found).most_common()
    return ", ".join(what + (f" ({times} of {len(found)})" if len(counted) > 1 else "") for what, times in counted)


def gaps(records: Sequence[Mapping[str, Any]], datasets: Sequence[str]) -> list[dict[str, Any]]:
    """How much more a row has than another (`GAPS`) without noise, over the seeds that both have, in per cent.

    ``error_seeds`` is the standard error over seeds, of differences within a seed (None of one seed); ``error_test``
    that over test samples: of differences within a sample, averaged over seeds, where all answers were kept
    (``paired``), else the larger one of rows that err independently.
    """
    made = []
    for dataset in datasets:
        for row, other in GAPS:
            both = [
                {r["seed"]: r for r in records if (r["dataset"], r["label"]) == (dataset, label)}
                for label in (row, other)
            ]
            seeds = sorted(both[0].keys() & both[1].keys())
            if not seeds:
                continue
            mine, theirs = ([own[seed] for seed in seeds] for own in both)
            pairs = zip(mine, theirs, strict=True)
            differences = [a["accuracy_percent"] - b["accuracy_percent"] for a, b in pairs]
            spread, paired = deviation(differences), all("right" in r for r in (*mine, *theirs))
            made.append(
                {
                    "dataset": dataset,
                    "row": row,
                    "against": other,
                    "seeds": len(seeds),
                    "more_percent": statistics.fmean(differences),
                    "error_seeds": None if spread is None else spread / math.sqrt(len(seeds)),
                    "error_test": _paired_error(mine, theirs) if paired else _unpaired_error(mine, theirs),
                    "paired": paired,
                }
            )
    return made


def _paired_error(mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float:
    gain = torch.zeros(())
    for sign, own in ((1, mine), (-1, theirs)):
        gain = gain + sign * torch.tensor([[float(c) for c in r["right"]] for r in own], dtype=torch.float64).mean(0)
    return 100 * float(gain.std(correction=0)) / math.sqrt(len(gain))


def _unpaired_error(mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float:
    shares = [statistics.fmean(r["accuracy_percent"] for r in own) / 100 for own in (mine, theirs)]
    return 100 * math.sqrt(sum(p * (1 - p) for p in shares) / mine[0]["key"]["tests"])


def gap_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The gaps as Markdown."""
    text = [
        "| data | row | against | seeds | more by, % | standard error over seeds | over test samples |",
        "|---|---|---|---|---|---|---|",
    ]
    for gap in found:
        cells = [
            TITLES.get(gap["dataset"], gap["dataset"]),
            gap["row"],
            gap["against"],
            str(gap["seeds"]),
            f"{gap['more_percent']:+.2f}",
            "" if gap["error_seeds"] is None else f"{gap['error_seeds']:.2f}",
            f"{gap['error_test']:.2f}" + ("" if gap["paired"] else ", not paired"),
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The lines as Markdown."""
    noises = list(lines[0]["accuracy_percent"])
    chose = any(line.get("chosen") for line in lines)  # records from before readouts were chosen do not say
    shown = " | ".join(f"{100 * float(n):g} % noise" for n in noises[1:])
    text = [
        f"| data | row | seeds | accuracy % | {f'{shown} | ' if shown else ''}trained parameters | fixed weights "
        f"| operations an inference | training s | inference ms |{' chosen on validation data |' if chose else ''}",
        "|---" * (8 + len(noises) + chose) + "|",
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
            *([line["chosen"]] if chose else []),
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
