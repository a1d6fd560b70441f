"""What the substrate benchmark shows of finished runs: lines and tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._substrate_rows import Row, make_rates
from benchmarks._substrate_table import BETAS
from benchmarks._suite import cell, deviation, first_cells, results

OWN = "cosine_with_own_gradient"
Diagnoses = Mapping[tuple[str, str, str, float], list[dict[str, Any]]]
Line = dict[str, Any]


def table_lines(found: Diagnoses) -> list[Line]:
    """A line a fault and nudge: means over seeds, by layer."""
    lines = []
    for (network, group, label, beta), diagnoses in found.items():
        layers: dict[str, Any] = {}
        for layer in diagnoses[0]["layers"]:
            own = [d["layers"][layer] for d in diagnoses]
            layers[layer] = {
                "cosine_ideal": _mean(v["ideal"]["cosine"] for v in own),
                "cosine_ideal_deviation": deviation([v["ideal"]["cosine"] for v in own]),
                "cosine_exact": _mean(v["exact"]["cosine"] for v in own),
                "norm_ratio": _mean(v["ideal"]["norm_ratio"] for v in own),
                "sign_agreement": _mean(v["ideal"]["sign_agreement"] for v in own),
                "effective_bits": _mean(v["effective_bits"] for v in own),
            }
        unconverged = _mean(d["unconverged_share"] for d in diagnoses)
        line = {"network": network, "group": group, "label": label, "beta": beta, "seeds": len(diagnoses)}
        lines.append(line | {"unconverged_share": unconverged, "layers": layers})
    return lines


def table_text(lines: Sequence[Line]) -> str:
    """Markdown: a row a fault; at each nudge the cosines of the layers from the first on, and the first's bits."""
    made = []
    for network in dict.fromkeys(line["network"] for line in lines):
        mine = [line for line in lines if line["network"] == network]
        for key, title in (("cosine_ideal", "against the ideal network"), ("cosine_exact", "against the exact one")):
            made.append(f"**{network}: gradient cosine by layer {title} [effective bits of the first layer]**\n")
            made.append("| fault | size | " + " | ".join(f"nudge {beta:g}" for beta in BETAS) + " |")
            made.append("|---|---|" + "---|" * len(BETAS))
            for group, label in dict.fromkeys((line["group"], line["label"]) for line in mine):
                at = {line["beta"]: line for line in mine if (line["group"], line["label"]) == (group, label)}
                cells = [_table_cell(at.get(beta), key) for beta in BETAS]
                made.append(f"| {group} | {label} | " + " | ".join(cells) + " |")
            made.append("")
    return "\n".join(made)


def _table_cell(line: Line | None, key: str) -> str:
    if line is None:
        return ""
    layers = list(line["layers"].values())
    cosines = " / ".join(f"{layer[key]:.3f}" for layer in layers)
    bits = layers[0]["effective_bits"]
    return cosines + ("" if bits is None or key != "cosine_ideal" else f" [{bits:.1f}]")


def collect_rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished runs by row."""
    return {row: [record for _, record in runs] for row, runs in results(out).items()}


def row_lines(chosen: Sequence[Row], found: Mapping[str, list[dict[str, Any]]]) -> list[Line]:
    """A line a row that has finished runs: means over seeds."""
    lines = []
    for row in chosen:
        records = found.get(row.name)
        if not records:
            continue
        accuracies = [r["accuracy_percent"] for r in records]
        curves = [[r["initial_validation_percent"], *r["validation_percent"]] for r in records]
        length = min(len(curve) for curve in curves)
        line: Line = {
            "group": row.group,
            "row": row.label,
            "series": row.series,
            "x": row.x,
            "seeds": len(records),
            "epochs": max(r["epochs"] for r in records),
            "rates": list(make_rates(row)),
            "note": row.note,
            "accuracy_percent": statistics.fmean(accuracies),
            "accuracy_deviation": deviation(accuracies),
            "curve": [statistics.fmean(c[i] for c in curves) for i in range(length)],
            "curve_deviation": [deviation([c[i] for c in curves]) or 0.0 for i in range(length)],
            "seconds": statistics.fmean(r["seconds"] for r in records),
            "stopped": [r["stopped"] for r in records if r["stopped"]],
        }
        first = [next(iter(r["diagnosis"]["layers"].values())) for r in records]
        line["cosine_ideal"] = _mean(v["ideal"]["cosine"] for v in first)
        line["cosine_exact"] = _mean(v["exact"]["cosine"] for v in first)
        line["effective_bits"] = _mean(v["effective_bits"] for v in first)
        for key, kept in (("cosine_own", OWN), ("cosine_own_small_nudge", f"{OWN}_small_nudge")):
            own = [next(iter(r[kept].values())) for r in records if kept in r]
            line[key], line[f"{key}_deviation"] = _mean(own), deviation(own)
        line["pulses"] = _mean(r.get("pulses") for r in records)
        for key in ("later_percent", "programmed_percent"):
            several = [r[key] for r in records if key in r]
            line[key] = {t: statistics.fmean(s[t] for s in several) for t in several[0]} if several else None
        lines.append(line)
    return lines


def rows_text(lines: Sequence[Line]) -> str:
    """Markdown: a row a configuration."""
    made = [
        "| group | row | seeds x epochs | accuracy % | in situ: at once / 1 s / 1 day | programmed: the same "
        "| first layer's cosine: ideal | exact | own machine | own, small nudge | effective bits "
        "| pulses | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = [
            *first_cells(line),
            _times(line["later_percent"]),
            _times(line["programmed_percent"]),
            *(cell(line[key]) for key in ("cosine_ideal", "cosine_exact", "cosine_own", "cosine_own_small_nudge")),
            "" if line["effective_bits"] is None else f"{line['effective_bits']:.1f}",
            "" if line["pulses"] is None else f"{line['pulses']:.2g}",
            f"{line['seconds']:.0f}",
        ]
        made.append("| " + " | ".join(cells) + " |")
    return "\n".join(made) + "\n"


def headline(table: Sequence[Line], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The figures that matter."""
    made: list[dict[str, Any]] = []
    wanted = [
        ("shared by the phases", "1 %"),
        ("afresh in each phase", "1 %"),
        ("afresh in each phase", "0.1 %"),
        ("afresh in each phase", "0.01 %"),
        ("ADC", "8 bits"),
        ("ADC", "12 bits"),
        ("drift between phases, common", "1 %"),
        ("drift between phases, dispersed", "1 %"),
    ]
    for line in table:
        if line["beta"] == 0.1 and (line["group"], line["label"]) in wanted:
            first = next(iter(line["layers"].values()))
            name = f"{line['network']}, {line['group']}, {line['label']}: first layer's cosine, nudge 0.1"
            made.append({"name": name, "value": first["cosine_ideal"], "unit": ""})
    for line in lines:
        made.append(
            {"name": f"{line['group']}, {line['row']}: accuracy", "value": line["accuracy_percent"], "unit": "%"}
        )
        if line["cosine_own_small_nudge"] is not None:
            name = f"{line['row']}: first layer's cosine with its own gradient, small nudge"
            made.append({"name": name, "value": line["cosine_own_small_nudge"], "unit": ""})
    return made


def _times(values: Mapping[str, float] | None) -> str:
    return "" if values is None else " / ".join(f"{v:.2f}" for v in values.values())


def _mean(values: Any) -> float | None:
    kept = [v for v in values if v is not None and math.isfinite(v)]
    return statistics.fmean(kept) if kept else None
