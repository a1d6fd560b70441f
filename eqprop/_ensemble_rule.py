"""Equilibrium propagation of an ensemble: the rules of its members as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from eqprop._contours import Points, contour
from eqprop._costs import CrossEntropy, SquaredError
from eqprop._ensemble import Ensemble
from eqprop._ensemble_parts import MemberReadouts
from eqprop._ep import EquilibriumPropagation
from eqprop._errors import ConfigError, DataError
from eqprop._network import Drive, Phase, State
from eqprop._nudge import CostNudge
from eqprop._phases import groups
from eqprop._rule import RuleStep, Sample
from eqprop._solution import Solution

OWN = ("beta", "seed")  # what may differ a member


class EnsembleRule:
    """The rules of an ensemble's members as one: ``EnsembleRule(rules).backward(ensemble, x, y)``.

    Every member gets the gradient that its own rule gives on its own network and batch, to rounding; random signs are
    drawn by the rules that were given, which go on as if each had been used alone.

    Args:
        rules: ``EquilibriumPropagation``, one a member, alike but for ``beta`` and ``seed``: of a real contour
            (``centred``, ``one-sided``, ``random-sign``, ``alternating-sign``), with ``readout`` ``contrast`` or
            ``tangent``, a squared error or cross-entropy, and no correction, regulariser, low-precision products, CUDA
            graphs or ``exclude_unconverged``.

    Raises:
        ConfigError: other rules, or rules that differ elsewhere.
    """

    def __init__(self, rules: Sequence[EquilibriumPropagation]) -> None:
        self.rules = list(rules)
        self.rule = require_alike(self.rules)
        self._contours = [contour(r.contour, r.beta, r.points) for r in self.rules]
        self._kept: dict[tuple[object, ...], Tensor] = {}

    @property
    def loss_function(self) -> SquaredError | CrossEntropy:
        """The cost of all members."""
        cost = self.rule.loss_function
        if not isinstance(cost, SquaredError | CrossEntropy):
            raise ConfigError(f"cost: got {cost!r}")
        return cost

    @torch.no_grad()
    def backward(self, network: Ensemble, x: Tensor, y: Tensor) -> RuleStep:
        """Add each member's gradient of its batch-mean loss to ``.grad``.

        Args:
            network: the ensemble.
            x: ``[members, batch, inputs]``, or ``[batch, inputs]`` for all alike.
            y: labels ``[members, batch]`` or targets ``[members, batch, outputs]``; without the first axis for all
                alike.

        Returns:
            A step with a leading model axis: ``loss [members]``, ``output [members, batch, outputs]``, solutions
            ``[members, batch]``.

        Raises:
            DataError: shapes, types or values that do not fit.
            ConfigError: another number of members than of rules, or a readout that needs an energy.
        """
        rule = self.rule
        if network.count != len(self.rules):
            raise ConfigError(
                f"EnsembleRule: got an ensemble of {network.count} members for {len(self.rules)} rules, needed one each"
            )
        if rule.readout == "contrast" and not network.has_energy:
            raise ConfigError(
                f"readout: 'contrast' needs an energy and {type(network).__name__} has none; write readout='tangent'"
            )
        drive = network.drive(x)
        free = self.settle(network, drive)
        rest = network.measure(free.state, 0)
        sample = self._sample(network, rest, y)
        phases, nudged = self._nudged_phases(network, drive, free, rest, sample)
        weight = 1.0 / sample.loss.shape[1]
        phases = [p._replace(weights=p.weights * weight) for p in phases]
        if rule.readout == "contrast":
            network.add_contrast_gradient(phases, drive.x)
        else:
            error = tuple(-d for d in network.response(phases, rest))
            network.add_tangent_gradient(rest, error, drive.x)
        self._add_readout_gradient(network, sample, rest, weight)
        return RuleStep(sample.loss.mean(1), sample.output, free, drive, nudged)

    @torch.no_grad()
    def predict(self, network: Ensemble, x: Tensor) -> Tensor:
        """Output at the free equilibrium, ``[members, batch, outputs]``."""
        return network.output(self.settle(network, network.drive(x)).state)

    def settle(self, network: Ensemble, drive: Drive) -> Solution:
        """The free phase."""
        return self.rule.settle(network, drive, network.initial_state(drive.x.shape[1]))

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members alone, as ``Ensemble.keep``."""
        self.rules = [self.rules[m] for m in members]
        self._contours = [self._contours[m] for m in members]
        self._kept.clear()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _sample(self, network: Ensemble, state: State, y: Tensor) -> Sample:
        output = network.output(state)
        members, batch = output.shape[:2]
        if batch == 0:
            raise DataError("batch: got 0 samples, needed at least 1")
        needed = (members, batch) if not y.dtype.is_floating_point else tuple(output.shape)
        if tuple(y.shape) not in (needed, needed[1:]):
            raise DataError(
                f"targets: got shape {tuple(y.shape)}, needed {needed}, or {needed[1:]} for all members alike"
            )
        rows = y.expand(needed).reshape(members * batch, *needed[2:])
        target = self.loss_function.target(rows, output.flatten(0, 1)).view_as(output)
        return Sample(output, target, self.loss_function.loss(output, target))

    def _nudged_phases(
        self, network: Ensemble, drive: Drive, free: Solution, rest: State, sample: Sample
    ) -> tuple[list[Phase], tuple[Solution, ...]]:
        """The measured equilibria with their weights, and the solutions, one a phase."""
        loss = sample.loss
        step = [rule.turn.next() for rule in self.rules][0]  # each goes on as if it were alone
        betas, weights, free_weight = self._points(loss, step)
        phases: list[Phase] = []
        solutions: list[Solution] = []
        for group in groups(betas.shape[1], network.stacks_phases):
            k, rows = len(group), slice(group.start, group.stop)
            beta = betas[:, rows].reshape(len(loss), -1, 1)
            nudge = CostNudge(network, self.loss_function, sample.target.repeat(1, k, 1), beta)
            around = network.begin_phases(range(group.start + 1, group.stop + 1), network, drive)
            state = network.repeat_state(free.state, k)
            solution = self.rule.relax_nudged(network, state, around, nudge)
            measured = network.measure(solution.state, group.start + 1)
            phases.append(Phase(measured, weights[:, rows].reshape(len(loss), -1), k))
            solutions += solution.split(k, network)
        if free_weight is not None:
            phases.append(Phase(rest, free_weight, 1))
        return phases, tuple(solutions)

    def _points(self, like: Tensor, step: int) -> Points:
        """Nudges and weights ``[members, phases, batch]``, and the weight of the free state ``[members, batch]``."""
        batch, key = like.shape[1], (step % 2, like.shape[1], like.dtype, like.device)
        if key not in self._kept:
            each = [c.at(step, self.rule.order) for c in self._contours]
            rows = torch.tensor([(*c.betas, *c.weights, c.free_weight) for c in each], dtype=torch.float64).to(like)
            self._kept[key] = rows[:, :, None].expand(-1, -1, batch).contiguous()
        made, first = self._kept[key], self._contours[0]
        drawn = [c.signs(batch, r.generator) for c, r in zip(self._contours, self.rules, strict=True)]
        if signs := [s for s in drawn if s is not None]:
            made = made * torch.stack(signs).to(device=like.device, dtype=like.dtype)[:, None]
        k = len(first.betas)
        return Points(made[:, :k], made[:, k : 2 * k], made[:, -1] if first.free_weight else None)

    def _add_readout_gradient(self, network: Ensemble, sample: Sample, state: State, weight: float) -> None:
        readout = network.readout
        if not isinstance(readout, MemberReadouts) or not any(p.requires_grad for p in readout.parameters()):
            return
        force = self.loss_function.gradient(sample.output, sample.target) * weight
        both = ((readout.weight, torch.bmm(force.mT, state[-1])), (readout.bias, force.sum(1, keepdim=True)))
        for parameter, gradient in both:
            if parameter.requires_grad:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def require_alike(rules: Sequence[EquilibriumPropagation]) -> EquilibriumPropagation:
    """The first, if an ensemble can have rules like these. Raises ConfigError: see ``EnsembleRule``."""
    if not rules:
        raise ConfigError("EnsembleRule: got no rules, needed one a member; write EnsembleRule([rule, ...])")
    first = rules[0]
    for index, rule in enumerate(rules):
        if type(rule) is not EquilibriumPropagation:
            raise ConfigError(
                f"EnsembleRule: got {type(rule).__name__} for member {index}, needed EquilibriumPropagation; train "
                "networks of other rules one by one"
            )
        if any(rule is other for other in rules[:index]):
            raise ConfigError(
                f"EnsembleRule: got one object for two members, needed one each, for a rule draws random signs; write "
                f"dataclasses.replace(rule) for member {index}"
            )
        for f in fields(rule):
            mine, needed = getattr(rule, f.name), getattr(first, f.name)
            if f.init and f.name not in OWN and mine != needed:
                raise ConfigError(
                    f"EnsembleRule: got {f.name} {mine!r} for member {index}, needed {needed!r}, as of the first; only "
                    "beta and seed may differ"
                )
    refused = {
        "correction": first.correction is not None,
        "regularisers": bool(first.regularisers),
        "products": first.products is not None,
        "cuda_graph": first.cuda_graph,
        "exclude_unconverged": first.exclude_unconverged,
        "cost": not isinstance(first.loss_function, SquaredError | CrossEntropy),
        "contour": first.contour == "derivative"
        or bool(contour(first.contour, first.beta, first.points).complex_betas),
    }
    for name, found in refused.items():
        if found:
            raise ConfigError(
                f"EnsembleRule: got {name} {getattr(first, name)!r}, needed {_NEEDED.get(name, 'none')}; train such "
                "networks one by one"
            )
    return first


_NEEDED = {
    "cuda_graph": "False",
    "exclude_unconverged": "False",
    "cost": "'squared-error' or 'cross-entropy'",
    "contour": "'centred', 'one-sided', 'random-sign' or 'alternating-sign'",
}
