"""Points of a sweep as ensembles, for its targets: which can be one, how they are trained, what came of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import eqprop
import hardware
from benchmarks._ensemble import Member, Plan, Together
from eqprop._ensemble_rule import OWN, require_alike
from eqprop._errors import ConfigError
from hardware._chip_ensemble import common_parts

R = TypeVar("R")
Found = dict[str, Any] | BaseException


@dataclass(frozen=True)
class Alone:
    """What a point that can be in no ensemble has in common with others: nothing."""

    config: Hashable


@dataclass
class Point:
    """A point of an ensemble on its way: its training, and what gives its figures when that is done."""

    member: Member
    figures: Callable[[], dict[str, Any]]


def in_common(rule: eqprop.Rule, substrate: hardware.Substrate | None) -> str:
    """What the rules and the chips of an ensemble have in common, as text.

    Raises:
        ConfigError: ones that can be in no ensemble.
    """
    first = require_alike([require_ep(rule)])
    settings = {name: value for name, value in first.spec().items() if name not in OWN}
    return json.dumps([settings, None if substrate is None else common_parts(substrate)])


def require_ep(rule: eqprop.Rule) -> eqprop.EquilibriumPropagation:
    """The rule. Raises ConfigError for another than equilibrium propagation."""
    if not isinstance(rule, eqprop.EquilibriumPropagation):
        raise ConfigError(
            f"ensemble: got {type(rule).__name__}, needed EquilibriumPropagation; train such points one by one"
        )
    return rule


def outcome(test: eqprop.Evaluation, errors: Sequence[float], stopped: str) -> dict[str, Any]:
    """How a training went, as columns: the test, the training error of each epoch, and why it was given up."""
    return {
        "test_error_percent": 100 * test.error,
        "test_loss": test.loss,
        "epochs_trained": len(errors),
        "stopped": stopped.partition(". ")[0],
        "train_error_percent_by_epoch": [100 * error for error in errors],
    }


def run_many(
    configs: Sequence[Any],
    run: Callable[[Any], dict[str, Any]],
    together: Callable[[Any], Hashable],
    ensemble: Callable[[Sequence[Any]], tuple[Plan, Callable[[Any], Point]]],
) -> list[Found]:
    """What ``run`` returns of each, or raises, to rounding; those that can be trained together are.

    Also one alone is trained as an ensemble, where it could be in one: so that its numbers do not depend on which of
    its sweep's points were still missing. See ``eqprop.sweep``.

    Args:
        configs: of any points.
        run: one of them.
        together: what the points of an ensemble have in common; ``Alone`` of those that can be in none.
        ensemble: of such points their plan, and what makes a ``Point`` of each config.
    """
    places: dict[Hashable, list[int]] = {}
    for place, config in enumerate(configs):
        places.setdefault(together(config), []).append(place)
    found: dict[int, Found] = {}
    for key, chosen in places.items():
        same = [configs[place] for place in chosen]
        results = [_caught(run, c) for c in same] if isinstance(key, Alone) else _trained(same, *ensemble(same))
        found |= dict(zip(chosen, results, strict=True))
    return [found[place] for place in range(len(configs))]


def _trained(configs: Sequence[Any], plan: Plan, make: Callable[[Any], Point]) -> list[Found]:
    """The figures of points that are trained together; one that fails before or after is alone in that."""
    made = [_caught(make, config) for config in configs]
    members = [point.member for point in made if isinstance(point, Point)]
    if members:
        Together(members, plan).fit()
    return [_caught(point.figures) if isinstance(point, Point) else point for point in made]


def _caught(call: Callable[..., R], *config: Any) -> R | BaseException:
    try:
        return call(*config)
    except Exception as error:
        return error
