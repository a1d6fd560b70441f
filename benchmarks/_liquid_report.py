"""What the liquid benchmark says of finished networks: headline figures, table and learning curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._liquid_config import Config
from benchmarks._liquid_data import Task
from benchmarks._liquid_fits import ARMS, AS_PUBLISHED, HELD_OUT, LIQUID, OFF, OFFICIAL, find
from benchmarks._liquid_health import PLASTIC_PUBLISHED, PUBLISHED
from eqprop._history import History

FULL = 60_000  # training samples of the published figures
MEANING = (
    'Accuracy: +- is the standard deviation over networks. "liquid more by": over the arm of that line, with the '
    "standard error over test samples, of answers that are averaged over networks."
)
TITLES = {"nmnist": "N-MNIST", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "spoken-digits": "spoken digits"}


def title_of(config: Config, task: Task) -> str:
    """Liquid, its plasticity, and data set."""
    both = "" if config.plastic is None else f", static and {config.plastic},"
    return f"{config.preset}{both} on {TITLES.get(task.name, task.name)}"


@dataclass(frozen=True)
class Published:
    """What was published of an arm, of spike counts and a linear readout, by Ivanov & Michmizos 2021.

    Attributes:
        accuracy_percent: mean over networks, of 60,000 training samples.
        deviation: over networks, NaN where it is not known.
        branching: local branching factor, NaN where it is not known.
    """

    accuracy_percent: float
    deviation: float
    branching: float

    def record(self) -> dict[str, Any]:
        """For the summary."""
        known = {"accuracy_deviation": self.deviation, "branching_factor": self.branching}
        return {"accuracy_percent": self.accuracy_percent, "training_samples": FULL} | {
            name: None if math.isnan(value) else value for name, value in known.items()
        }


def published(config: Config) -> dict[str, Published]:
    """What was published of the liquid and of the plastic liquid, by arm, where there is anything."""
    what, found = (config.preset, config.dataset), {}
    static = PUBLISHED.get(what, {}).get(config.weight or 0.0) if config.input_weight is None else None
    if static is not None:
        found[LIQUID] = Published(static[0], math.nan, static[1])
    if (plastic := PLASTIC_PUBLISHED.get(what, {}).get(config.plastic or "")) is not None:
        found[config.plastic or ""] = Published(*plastic)
    return found


def comparable(config: Config, line: Mapping[str, Any]) -> Published | None:
    """What was published of what a line is of: only of all training samples, spike counts and the authors' readout."""
    of = (line["readout"], line["samples"], line["feature"], line["split"])
    alike = of == (AS_PUBLISHED, FULL, "counts", OFFICIAL)
    return published(config).get(line["arm"]) if alike else None


def headline(
    config: Config,
    made: Sequence[dict[str, Any]],
    health: Mapping[str, Any],
    plastic: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The figures that matter: the liquid, each control, what plasticity and recurrence add, and health of both."""
    name, lead = config.features[0], config.readouts[0]
    found: list[dict[str, Any]] = []
    # what the run is about leads
    arms = ARMS if config.plastic is None else (config.plastic, *(arm for arm in ARMS if arm != config.plastic))
    for readout in config.readouts:
        for arm in arms:
            line = find(made, split=OFFICIAL, feature=name, readout=readout, arm=arm, samples=config.samples)
            if line is None:
                continue
            label = f"{arm} ({line['width']:,}), {readout}"
            several = f", mean of {line['networks']} networks" if line["networks"] > 1 else ""
            found.append({"name": f"{label}{several}", "value": line["accuracy_percent"], "unit": "%"})
            beside = comparable(config, line)
            if beside is not None:
                off = abs(line["accuracy_percent"] - beside.accuracy_percent)
                what = f"{arm}, the authors' readout: distance from the published {beside.accuracy_percent:.2f} %"
                found.append({"name": what, "value": off, "unit": "%", "target": "<= 0.4"})
    for kind in (OFFICIAL, HELD_OUT):
        for feature in config.features:
            for which, added, sign in ((config.plastic, "plasticity", -1), (OFF, "recurrence", 1)):
                line = find(made, split=kind, feature=feature, readout=lead, arm=which, samples=config.samples)
                if line is not None and "less" in line:
                    what = f"{added} adds, {kind}, {feature}, {lead} (standard error {line['less_error']:.2f})"
                    found.append({"name": what, "value": 0.0 + sign * line["less"], "unit": "%"})
    for key, what, unit in (
        ("branching_local", "branching factor, local", ""),
        ("mean_rate_hz", "mean rate", "Hz"),
        ("silent_share", f"silent neurons over {health['samples']:.0f} samples", "%"),
    ):
        if health[key] is not None:
            found.append({"name": what, "value": health[key] * (100 if unit == "%" else 1), "unit": unit})
    if plastic is not None and plastic["branching_local"] is not None:
        beside = published(config).get(config.plastic or "")
        known = "" if beside is None or math.isnan(beside.branching) else f" (published {beside.branching:.2f})"
        what = f"{config.plastic}: branching factor, local{known}"
        found.append({"name": what, "value": plastic["branching_local"], "unit": ""})
    total = health["synaptic_operations_recurrent"] + health["synaptic_operations_input"]
    found.append({"name": "synaptic operations a sample, input included", "value": total, "unit": ""})
    return found


def table(made: Sequence[dict[str, Any]], config: Config) -> str:
    """The lines as Markdown, those of a liquid followed by its controls, with what was published of the same."""
    kinds = list(dict.fromkeys((line["split"], line["feature"], line["readout"]) for line in made))
    together = sorted(
        made,
        key=lambda line: (
            kinds.index((line["split"], line["feature"], line["readout"])),
            line["samples"],
            ARMS.index(line["arm"]),
        ),
    )
    text = [
        "| split | feature | readout | training samples | arm | width | networks | accuracy % | published % "
        "| liquid more by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in together:
        spread = "" if line["deviation"] is None else f" +- {line['deviation']:.2f}"
        beside = comparable(config, line)
        cells = [
            line["split"],
            line["feature"],
            line["readout"],
            f"{line['samples']:,}",
            line["arm"] + (" (constant)" if line["constant"] else ""),
            f"{line['width']:,}",
            str(line["networks"]),
            f"{line['accuracy_percent']:.2f}{spread}",
            "" if beside is None else f"{beside.accuracy_percent:.2f}",
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
