"""`benchmarks.exactness` as a function of a config, for sweeps: any contour on one random network in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks._gradient_error import by_layer
from benchmarks.exactness import COSTS, KINDS, make_rule, problem, truth_rule
from eqprop._errors import ConfigError
from eqprop._names import lookup


@dataclass(frozen=True)
class Rule:
    """Equilibrium propagation; ``points`` None for 4 of the Cauchy contour, or for another contour."""

    cost: str = "squared-error"
    contour: str = "cauchy"
    beta: float = 0.05
    points: int | None = None
    readout: str = "tangent"
    correction: str | None = None


@dataclass(frozen=True)
class Config:
    """One gradient; ``network`` is "tied", "untied" or "loop"."""

    network: str = "untied"
    rule: Rule = Rule()
    seed: int = 0


def completed(config: Config) -> Config:
    """With the number of points put in; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    rule = config.rule
    lookup("network", config.network, dict.fromkeys(KINDS))
    lookup("rule.cost", rule.cost, dict.fromkeys(COSTS))
    if rule.readout == "contrast" and config.network != "tied":
        raise ConfigError(
            f"rule.readout: got 'contrast' with network={config.network}, which has no energy; write "
            "rule.readout=tangent, or network=tied"
        )
    if rule.contour == "cauchy" and rule.points is None:
        rule = dataclasses.replace(rule, points=4)
    made = dataclasses.replace(config, rule=rule)
    make_rule(**_settings(made))
    return made


def run(config: Config) -> dict[str, Any]:
    """Error of the gradient on 8 random samples, relative to that of implicit differentiation: of all parameters, and
    by layer beside its cosine.
    """
    config = completed(config)
    found = problem(config.network, config.rule.cost, config.seed)
    return by_layer(found, make_rule(**_settings(config)), truth_rule(config.rule.cost))


def _settings(config: Config) -> dict[str, Any]:
    settings = dataclasses.asdict(config.rule)
    return {name: value for name, value in settings.items() if name != "points" or value is not None}
