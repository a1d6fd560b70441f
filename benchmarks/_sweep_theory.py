"""`benchmarks.theory` as a function of a config, for sweeps: one gradient of a random chain in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import eqprop
from benchmarks._gradient_error import by_layer
from benchmarks.theory import COSTS, bptt_cosine, chain, make_rule, truth_rule
from eqprop._errors import ConfigError
from eqprop._names import lookup


@dataclass(frozen=True)
class Rule:
    """Equilibrium propagation; ``nudged_sweeps`` None for phases that converge."""

    cost: str = "squared-error"
    contour: str = "centred"
    beta: float = 0.016
    readout: str = "contrast"
    nudged_sweeps: int | None = None
    alternating: bool = True


@dataclass(frozen=True)
class Config:
    """One gradient."""

    rule: Rule = Rule()
    seed: int = 0


def completed(config: Config) -> Config:
    """The config, looked at: what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    lookup("rule.cost", config.rule.cost, dict.fromkeys(COSTS))
    sweeps = config.rule.nudged_sweeps
    if sweeps is not None and sweeps < 1:
        raise ConfigError(f"rule.nudged_sweeps: got {sweeps}, needed at least 1, or none for phases that converge")
    rule_of(config)
    return config


def rule_of(config: Config) -> eqprop.EquilibriumPropagation:
    """The rule of a config."""
    rule = config.rule
    return make_rule(
        rule.cost,
        rule.beta,
        contour=rule.contour,
        readout=rule.readout,
        nudged_sweeps=rule.nudged_sweeps,
        alternating=rule.alternating,
    )


def run(config: Config) -> dict[str, Any]:
    """Error of the gradient on 8 random samples, relative to that of implicit differentiation: of all parameters, and
    by layer beside its cosine; with a number of nudged sweeps also the cosine to BPTT through as many.
    """
    completed(config)
    problem, rule, sweeps = chain(config.seed, config.rule.cost), rule_of(config), config.rule.nudged_sweeps
    found = by_layer(problem, rule, truth_rule(config.rule.cost))
    return found | ({} if sweeps is None else {"bptt_cosine": bptt_cosine(problem, rule, sweeps)})
