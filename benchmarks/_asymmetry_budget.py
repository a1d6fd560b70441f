"""What a training step costs in evaluations of the field, and rules whose steps all cost the same.

An evaluation is one product of every weight between layers that move with a sample: the total inputs of all layers at a
state, or one product with their Jacobian or its transpose. A sample and step is charged

    a free sweep                              1
    a nudged sweep                            1 a phase: centred 2, a Cauchy contour of N points N (a conjugate pair of
                                              phases is one stacked real pair), a derivative 1 (a Jacobian product)
    AsymEP, beside its sweeps                 2: inputs and transposed product at the free state
    a derivative, beside its sweeps           1: slopes at the free state
    Dyadic EP                                 2 a sweep (inputs and transposed product), 2 to set up the transposed half
    Kolen-Pollack, homeostasis in closed form 1: one pass over the weights for the whole batch, without a product with a
                                              state; its time at batch 50 is that of one or two sweeps
    the same in membrane coordinates          2 more: slopes, and a matrix product a block
    feed-forward backprop                     1: half of the weights forwards, the same half backwards

Not charged, for every rule does it alike: the product with the clamped input, the gradient of the weights from what the
phases left, the readout, the optimiser.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import eqprop


class Price(NamedTuple):
    """Evaluations a sample: of a free sweep, of a sweep of all nudged phases together, and of a step beside sweeps."""

    free: int
    nudged: int
    beside: int

    def evaluations(self, free: float, nudged: float) -> float:
        """Of a step with that many free sweeps, and nudged sweeps a phase."""
        return self.free * free + self.nudged * nudged + self.beside


def price(rule: eqprop.Rule) -> Price:
    """What a rule pays; see the module.

    Raises:
        TypeError: a rule or regulariser of which nobody has counted the evaluations.
    """
    beside = sum(_of_regulariser(regulariser) for regulariser in rule.regularisers)
    if isinstance(rule, eqprop.Backprop):
        return Price(1, 0, beside)  # its solution counts the forward pass as a sweep
    if isinstance(rule, eqprop.DyadicEP):
        return Price(2, 0, 2 + beside)
    if not isinstance(rule, eqprop.EquilibriumPropagation):
        raise TypeError(f"no price for {type(rule).__name__}")
    if rule.contour == "derivative":
        return Price(1, 1, 1 + beside)
    shape = eqprop.contour(rule.contour, rule.beta, rule.points)
    phases = len(shape.betas) + 2 * len(shape.complex_betas)
    return Price(1, phases, beside + (2 if rule.correction == "asymep" else 0))


def _of_regulariser(regulariser: object) -> int:
    if isinstance(regulariser, eqprop.KolenPollack):
        return 1
    if isinstance(regulariser, eqprop.JacobianHomeostasis) and not regulariser.layerwise:
        # "auto" is the closed form on the dense networks of this benchmark
        if regulariser.estimator in ("auto", "exact"):
            return 1 if regulariser.coordinates == "activation" else 3
    raise TypeError(f"no price for {regulariser!r}")


def at_budget(rule: eqprop.Rule, evaluations: int, *, free: int, nudged: int) -> eqprop.Rule:
    """The rule with phases of fixed length that cost ``evaluations`` a step (an odd one out is not spent).

    Nudged phases take ``nudged`` sweeps and the free phase what is left; Dyadic EP, which has a single phase, spends
    all on that one and takes ``free`` sweeps to predict. Backprop stays as it is: there is nothing to lengthen.

    Lengths are fixed, rather than bounded by a ``Stop``, because how early a network settles depends on its weights,
    and those on the rule: under a bound every rule would spend another sum, and another one in every epoch. How many
    samples have settled after these sweeps is then a result, at the one tolerance of ``Sweeps`` for all phases.
    """
    cost = price(rule)
    settings: dict[str, Any] = {}
    if isinstance(rule, eqprop.DyadicEP):
        sweeps = (evaluations - cost.beside) // cost.free
        settings = {"free": eqprop.Sweeps(free), "nudged": eqprop.Sweeps(sweeps)}
    elif isinstance(rule, eqprop.EquilibriumPropagation):
        sweeps = evaluations - cost.nudged * nudged - cost.beside
        settings = {"free": eqprop.Sweeps(sweeps), "nudged": eqprop.Sweeps(nudged)}
    return replace(rule, **settings)


def sweeps_text(rule: eqprop.Rule, free: float, nudged: float) -> str:
    """Sweeps of a step as ``free + phases x nudged``."""
    if isinstance(rule, eqprop.Backprop):
        return "1 forward, 1 back"
    if isinstance(rule, eqprop.DyadicEP):
        return f"{free:.0f} double"
    return f"{free:.0f} + {price(rule).nudged} x {nudged:.0f}"
