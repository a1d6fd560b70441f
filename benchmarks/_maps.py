"""The headline maps: what is swept, at which fixed settings, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import eqprop
from benchmarks._sweep_targets import Target
from eqprop._errors import ConfigError


@dataclass(frozen=True)
class Map:
    """A grid of two settings of a benchmark, repeated with seeds.

    Attributes:
        title: what it is about.
        target: benchmark, see ``_sweep_targets``.
        x, y: settings; of each row (one of ``y``) the best ``x`` is framed.
        grid: values of both.
        fixed: other settings.
        best: figures that are shown (the first is the one that is summed up), and which end of each is the better.
        ideal: name of ``y = None``.
    """

    title: str
    target: str
    x: str
    y: str
    grid: Mapping[str, tuple[Any, ...]]
    fixed: Mapping[str, Any]
    best: Mapping[str, str] = field(default_factory=dict)
    ideal: str = "none"

    def changed(self, given: Mapping[str, list[Any]]) -> Map:
        """With other values of its settings, or more settings. Raises ConfigError for several values of one of them."""
        grid, fixed = dict(self.grid), dict(self.fixed)
        for name, values in given.items():
            if name in grid:
                grid[name] = tuple(values)
            elif len(values) > 1:
                raise ConfigError(
                    f"--set: got {len(values)} values of {name}, needed one; several are for {self.x} and {self.y}"
                )
            else:
                fixed[name] = values[0]
        return replace(self, grid=grid, fixed=fixed)

    def points(self, what: Target, seeds: int) -> list[Any]:
        """The configs."""
        values = {name: [value] for name, value in self.fixed.items()} | {n: list(v) for n, v in self.grid.items()}
        configs = eqprop.grid(what.config, **values, seed=eqprop.child_seeds(seeds))
        return [what.completed(config) for config in configs]

    def framed(self, frame: Any) -> Any:
        """The table of the sweep, with accuracies, and the ideal case last of all rows."""
        made = frame.copy()
        made["accuracy_percent"] = 100 - made["test_error_percent"]
        made[self.y] = [self.ideal if value is None or value != value else value for value in made[self.y]]
        return made


# The ends of a centred nudge: below the first step of a converter or in its noise, and next to the -1 beyond which a
# squared error has no energy.
_BETAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.95)
_MNIST: dict[str, Any] = {
    "network.layers": "784-256-10",
    "data.train": 10_000,
    "data.validation": 0,
    "training.epochs": 4,
}
_VALLEY = {"accuracy_percent": "highest", "gradient_cosine_before": "highest", "gradient_cosine_after": "highest"}

MAPS = {
    "adc": Map(
        "ADC bits x nudge, centred EP",
        "mnist",
        "rule.beta",
        "substrate.adc_bits",
        {"substrate.adc_bits": (6, 7, 8, 9, 10, 12, 14, None), "rule.beta": _BETAS},
        _MNIST,
        _VALLEY,
        "ideal",
    ),
    "read-noise": Map(
        "Read noise (afresh in each phase) x nudge, centred EP",
        "mnist",
        "rule.beta",
        "substrate.read_noise",
        {"substrate.read_noise": (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "rule.beta": _BETAS},
        _MNIST,
        _VALLEY,
    ),
    "homeostasis": Map(
        "Angle of the feedback weights x homeostasis, exact response",
        "asymmetry",
        "homeostasis.coefficient",
        "network.angle_degrees",
        {
            "network.angle_degrees": (0.0, 22.5, 45.0, 67.5, 90.0),
            "homeostasis.coefficient": (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0),
        },
        {
            "network.layers": "784-128-128-10",
            "data.train": 10_000,
            "data.validation": 0,
            "training.epochs": 5,
            "training.lr": 1e-3,
            "rule.tol": 1e-5,
        },
        {
            "accuracy_percent": "highest",
            "asymmetry_activation_after": "lowest",
            "error_vector_cosine_after": "highest",
        },
    ),
}


def cells(frame: Any, shown: Map, over: str = "seed") -> list[dict[str, Any]]:
    """A cell of the map each: its figures, a value a seed; of figures by layer by its name."""
    made = []
    for (y, x), part in frame.groupby([shown.y, shown.x], sort=False):
        cell: dict[str, Any] = {shown.y: y, shown.x: x, "seeds": int(part["point"].nunique())}
        for name in shown.best:
            rows = part[part[name].notna()].sort_values(over)
            if "layer" in rows and rows["layer"].notna().any():
                cell[name] = {layer: own[name].tolist() for layer, own in rows.groupby("layer", sort=False)}
            else:
                cell[name] = rows[name].tolist()
        if "stopped" in part:  # seeds whose training ended before its time
            cell["stopped"] = int(part["stopped"].fillna("").ne("").sum())
        made.append(cell)
    return made


def headline(frame: Any, shown: Map) -> list[dict[str, Any]]:
    """Of every row its best cell, and its ends."""
    first, end = next(iter(shown.best.items()))
    made = []
    for y in dict.fromkeys(frame[shown.y]):
        means = eqprop.confidence_intervals(frame[frame[shown.y] == y], first, by=[shown.x]).set_index(shown.x)["mean"]
        if means.empty:
            continue
        best = means.idxmax() if end == "highest" else means.idxmin()
        word = first.rpartition("_")[0]
        row = f"{shown.y.rpartition('.')[2]} {_short(y)}"
        ends = ", ".join(f"{means.loc[x]:.1f} at {x:g}" for x in (means.index.min(), means.index.max()))
        name = f"{row}: {end} {word}, at {shown.x.rpartition('.')[2]} {best:g} ({ends})"
        made.append({"name": name, "value": float(means.loc[best]), "unit": "%"})
    return made


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)
