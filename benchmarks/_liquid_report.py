"""What the liquid benchmark says of finished networks: headline figures, table and learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._liquid_config import Config
from benchmarks._liquid_data import Task
from benchmarks._liquid_fits import ARMS, HELD_OUT, LIQUID, OFF, OFFICIAL, find
from benchmarks._liquid_health import PUBLISHED
from eqprop._history import History

FULL = 60_000  # training samples of the published figures
TITLES = {"nmnist": "N-MNIST", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "spoken-digits": "spoken digits"}


def title_of(config: Config, task: Task) -> str:
    """Liquid and data set."""
    return f"{config.preset} on {TITLES.get(task.name, task.name)}"


def published(config: Config) -> tuple[float, float] | None:
    """Published accuracy (of 60,000 training samples) and branching factor of this liquid, if there are any."""
    known = PUBLISHED.get((config.preset, config.dataset), {})
    return known.get(config.weight) if config.weight is not None and config.input_weight is None else None


def headline(config: Config, made: Sequence[dict[str, Any]], health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that matter: the liquid, each control, and what recurrence adds."""
    name, lead = config.features[0], config.readouts[0]
    found: list[dict[str, Any]] = []
    beside = published(config)
    whole = beside is not None and config.samples == FULL and config.features[0] == "counts"
    for readout in config.readouts:
        for arm in ARMS:
            line = find(made, split=OFFICIAL, feature=name, readout=readout, arm=arm, samples=config.samples)
            if line is None:
                continue
            label = f"{arm} ({line['width']:,}), {readout}"
            several = f", mean of {line['networks']} networks" if line["networks"] > 1 else ""
            figure = {"name": f"{label}{several}", "value": line["accuracy_percent"], "unit": "%"}
            if arm == LIQUID and readout == lead and whole and beside is not None:
                figure["target"] = f">= {beside[0] - 0.4:.2f}"
                off = abs(line["accuracy_percent"] - beside[0])
                found.append(figure)
                figure = {
                    "name": f"distance from the published {beside[0]:.2f} %", "value": off, "unit": "%",
                    "target": "<= 0.4",
                }  # fmt: skip
            found.append(figure)
    for kind in (OFFICIAL, HELD_OUT):
        for feature in config.features:
            line = find(made, split=kind, feature=feature, readout=lead, arm=OFF, samples=config.samples)
            if line is not None and "less" in line:
                what = f"recurrence adds, {kind}, {feature}, {lead} (standard error {line['less_error']:.2f})"
                found.append({"name": what, "value": line["less"], "unit": "%"})
    for key, what, unit in (
        ("branching_local", "branching factor, local", ""),
        ("mean_rate_hz", "mean rate", "Hz"),
        ("silent_share", f"silent neurons over {health['samples']:.0f} samples", "%"),
    ):
        if health[key] is not None:
            found.append({"name": what, "value": health[key] * (100 if unit == "%" else 1), "unit": unit})
    total = health["synaptic_operations_recurrent"] + health["synaptic_operations_input"]
    found.append({"name": "synaptic operations a sample, input included", "value": total, "unit": ""})
    return found


def table(made: Sequence[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    text = [
        "| split | feature | readout | training samples | arm | width | networks | accuracy % | liquid more by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in made:
        spread = "" if line["deviation"] is None else f" +- {line['deviation']:.2f}"
        cells = [
            line["split"],
            line["feature"],
            line["readout"],
            f"{line['samples']:,}",
            line["arm"] + (" (constant)" if line["constant"] else ""),
            f"{line['width']:,}",
            str(line["networks"]),
            f"{line['accuracy_percent']:.2f}{spread}",
            f"{line['less']:+.2f} +- {line['less_error']:.2f}" if "less" in line else "",
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def history_of(made: Sequence[dict[str, Any]], config: Config) -> History:
    """The learning curve of the first feature and readout: a row a number of samples."""
    history = History()
    kept = [
        v
        for v in made
        if (v["split"], v["feature"], v["readout"]) == (OFFICIAL, config.features[0], config.readouts[0])
    ]
    for count in sorted({v["samples"] for v in kept}):
        history.append(
            {"samples": count} | {f"accuracy/{v['arm']}": v["accuracy_percent"] for v in kept if v["samples"] == count}
        )
    return history
