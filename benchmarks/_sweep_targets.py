"""Benchmarks that can be swept, by name; a target is a module with what a sweep needs.

`Config`: a frozen dataclass with a default for every field. `run(config) -> dict`. And where they are of use:
`completed(config) -> config`, which fills in what depends on other fields (presets), before a point is named;
`run_many(configs) -> list of dicts`, with `together(config)`: see `eqprop.sweep`.

`benchmarks.comparison` has none: it is a suite of methods beside each other, no function of settings. Nor has
`benchmarks.speed`, whose timings would disturb each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eqprop._errors import ConfigError
from eqprop._names import lookup

MODULES = {
    "mnist": "benchmarks._sweep_mnist",
    "asymmetry": "benchmarks._sweep_asymmetry",
    "substrate": "benchmarks._sweep_substrate",
    "cifar10": "benchmarks._sweep_images",
    "imagenet32": "benchmarks._sweep_imagenet32",
    "liquid": "benchmarks._sweep_liquid",
    "rram": "benchmarks._rram_points",
    "noise": "benchmarks._noise_points",
    "exactness": "benchmarks._sweep_exactness",
    "theory": "benchmarks._sweep_theory",
}


@dataclass(frozen=True)
class Target:
    """What is swept; see the top of this file."""

    config: type
    run: Callable[[Any], dict[str, Any]]
    completed: Callable[[Any], Any]
    run_many: Callable[[list[Any]], list[Any]] | None
    together: Callable[[Any], Any] | None


def target(name: str) -> Target:
    """The target of a benchmark, or of a module of yours by its dotted name. Raises ConfigError for others."""
    module_name = name if "." in name else lookup("benchmark", name, MODULES)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"benchmark: got {name!r}, but there is no module {error.name!r}") from error
    missing = [part for part in ("Config", "run") if not hasattr(module, part)]
    if missing:
        raise ConfigError(f"{module_name}: needed a class Config and a function run(config); it lacks {missing[0]}")
    return Target(
        module.Config,
        module.run,
        getattr(module, "completed", lambda config: config),
        getattr(module, "run_many", None),
        getattr(module, "together", None),
    )
