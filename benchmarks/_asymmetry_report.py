"""Table and figure of the asymmetry benchmark: means over the seeds of each row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks._asymmetry_budget import price, sweeps_text
from benchmarks._asymmetry_rows import BUDGET, make_rule, rows
from benchmarks._suite import cell, deviation, first_cells

_TITLES = {"homeostasis-50": "homeostasis, 50 epochs", "rules": f"rules, {BUDGET} evaluations a step"}


def summarise(
    found: Mapping[str, list[dict[str, Any]]], milliseconds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A line a row: means over seeds, beside the published figure; ``milliseconds`` a step by row where timed."""
    lines = []
    for row in rows():
        records = found.get(row.name, [])
        if not records:
            continue
        accuracies = [r["accuracy_percent"] for r in records]
        rule = make_rule(row, 0, 0.0)  # what it pays does not depend on seed and tolerance
        free, nudged = (_mean(records, lambda r, name=name: r.get(name)) for name in ("free_sweeps", "nudged_sweeps"))
        cosines = [c for r in records if (c := _first(r, "cosine")) is not None]
        lines.append(
            {
                "group": row.group,
                "row": row.label,
                "seeds": len(records),
                "epochs": max(r["epochs"] for r in records),
                "accuracy_percent": statistics.fmean(accuracies),
                "accuracy_deviation": deviation(accuracies),
                "first_hidden_cosine": statistics.fmean(cosines) if cosines else None,
                "first_hidden_cosine_deviation": deviation(cosines),
                "exact_response_cosine": _mean(records, lambda r: _first(r, "cosine", "error_vector_exact_response")),
                **{
                    name: _mean(records, lambda r, name=name: _first(r, name))
                    for name in ("relative_error", "relative_error_median", "relative_error_q90")
                },
                "asymmetry_activation": _mean(records, lambda r: r.get("asymmetry_activation")),
                "asymmetry_membrane": _mean(records, lambda r: r.get("asymmetry_membrane")),
                "unconverged_share": _mean(records, lambda r: r.get("unconverged_share")),
                "sweeps": None if free is None else sweeps_text(rule, free, nudged or 0.0),
                "evaluations_a_step": None if free is None else price(rule).evaluations(free, nudged or 0.0),
                "milliseconds_a_step": (milliseconds or {}).get(row.name),
                "published": row.published,
                "note": row.note,
                "stopped": [r["stopped"] for r in records if r["stopped"]],
            }
        )
    return lines


def _first(record: Mapping[str, Any], key: str, of: str = "error_vector") -> float | None:
    vectors = record.get(of)
    # of runs from before a figure was taken there is none
    value = None if not vectors else next(iter(vectors.values())).get(key)
    return None if value is None else float(value)


def _mean(records: list[dict[str, Any]], value: Any) -> float | None:
    values = [v for r in records if (v := value(r)) is not None]
    return statistics.fmean(values) if values else None


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown, with a column of times where there are any; the notes below."""
    timed = any(line["milliseconds_a_step"] is not None for line in lines)
    head = ["group", "row", "seeds x epochs", "accuracy %", "first hidden cosine: own rule", "exact response"]
    head += ["relative error, median sample", "S / norm (act. / memb.)", "unconverged", "sweeps a step"]
    head += ["evaluations a step", *(["ms a step"] if timed else []), "published"]
    text = [_line(head), "|" + "---|" * len(head)]
    for line in lines:
        group, row, *first = first_cells(line)
        cosine, spread = line["first_hidden_cosine"], line["first_hidden_cosine_deviation"]
        cells = [
            group,
            row + mark(line, lines),
            *first,
            cell(cosine) + ("" if spread is None else f" +- {spread:.3f}"),
            cell(line["exact_response_cosine"]),
            cell(line["relative_error_median"]),
            " / ".join(filter(None, (cell(line["asymmetry_activation"]), cell(line["asymmetry_membrane"])))),
            cell(line["unconverged_share"]),
            line["sweeps"] or "",
            _whole(line["evaluations_a_step"]),
            *([_whole(line["milliseconds_a_step"])] if timed else []),
            line["published"],
        ]
        text.append(_line(cells))
    # a blank line before each note: else Markdown joins them
    return "\n".join([*text, *(f"\n{number} {note}" for note, number in _notes(lines).items())]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _notes(lines: list[dict[str, Any]]) -> dict[str, str]:
    """The notes that rows have, each with its number."""
    notes = dict.fromkeys(line["note"] for line in lines if line["note"])
    return {note: f"[{number}]" for number, note in enumerate(notes, start=1)}


def mark(line: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    """What follows the name of a row that has a note."""
    return f" {_notes(lines)[line['note']]}" if line["note"] else ""


def draw(lines: list[dict[str, Any]]) -> Figure:
    """A panel a group: accuracy and the first hidden layer's error-vector cosine, with their deviations over seeds."""
    groups = list(dict.fromkeys(line["group"] for line in lines))
    figure = Figure(figsize=(9, 0.4 + sum(0.75 + 0.24 * sum(v["group"] == g for v in lines) for g in groups)))
    figure.set_layout_engine("constrained", hspace=0.02)
    heights = [0.5 + sum(line["group"] == g for line in lines) for g in groups]
    axes = figure.subplots(len(groups), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (left, right), group in zip(axes, groups, strict=True):
        mine = [line for line in lines if line["group"] == group]
        places = list(range(len(mine)))
        for axis in (left, right):
            axis.set(yticks=places, yticklabels=[], ylim=(len(mine) - 0.5, -0.5))
            axis.grid(axis="y", color="0.9")
        accuracies = [v["accuracy_percent"] for v in mine]
        spreads = [v["accuracy_deviation"] or 0.0 for v in mine]
        # points: a bar from 0 would hide the differences, a cut one mislead
        left.errorbar(accuracies, places, xerr=spreads, fmt="o", capsize=3)
        ends = [a + sign * d for a, d in zip(accuracies, spreads, strict=True) for sign in (-1, 1)]
        margin = max(0.5, 0.05 * (max(ends) - min(ends)))
        left.set(xlim=(max(0.0, min(ends) - margin), min(100.0, max(ends) + margin)))
        left.set_yticklabels([v["row"] + mark(v, lines) + (" (stopped)" if v["stopped"] else "") for v in mine])
        left.set_title(f"{_TITLES.get(group, group)}: test accuracy (%)", loc="left", fontsize="medium")
        cosines = [math.nan if v["first_hidden_cosine"] is None else v["first_hidden_cosine"] for v in mine]
        right.axvline(1.0, color="0.7", linewidth=0.8)
        spreads = [v["first_hidden_cosine_deviation"] or 0.0 for v in mine]
        right.errorbar(cosines, places, xerr=spreads, fmt="o", capsize=3, color="tab:red")
        for place in (p for p, v in zip(places, cosines, strict=True) if math.isnan(v)):
            right.text(-0.17, place, "none of its own", color="0.5", va="center", fontsize="small")
        right.set(xlim=(-0.2, 1.05))
        right.tick_params(axis="y", length=0)
    axes[0, 1].set_title("error-vector cosine, first hidden layer", loc="left", fontsize="medium")
    notes = [f"{number} {note}" for note, number in _notes(lines).items()]
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize="x-small")
    return figure
