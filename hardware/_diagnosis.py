"""How good is the gradient that a chip gives: layer by layer, against its ideal network and against the exact one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop._adjoint import ImplicitGradient
from eqprop._averaged import Averaged
from eqprop._diagnostics import gradients, match, parameters_by_layer
from eqprop._errors import ConfigError
from eqprop._langevin import Langevin
from eqprop._network import Network
from eqprop._rule import Rule, RuleStep
from eqprop._solvers import Alternating
from eqprop._stop import Stop
from hardware._device_checks import require_whole


@dataclass(frozen=True)
class Agreement:
    """Agreement of a gradient ``g`` with a reference ``t``: means over all runs of a diagnosis.

    Attributes:
        cosine: ``<g, t> / |g||t|``.
        cosine_std: its standard deviation over the runs (0 for a single one).
        norm_ratio: ``|g| / |t|``.
        sign_agreement: ``a = sum |t_i| [sign g_i = sign t_i] / sum |t_i|``, weights counted by the size of their
            reference, so that those whose gradient is next to nothing do not vote. A step of one size on every weight
            (mode ``"sign"`` of a write path) keeps ``2a - 1`` of the first-order decrease of the loss that the signs
            of ``t`` would give; chance is 0.5. A weight that ``g`` leaves alone agrees with none but a zero.
    """

    cosine: float
    cosine_std: float
    norm_ratio: float
    sign_agreement: float


@dataclass(frozen=True)
class GradientDiagnosis:
    """What a diagnosis says of one layer or one parameter.

    Attributes:
        ideal: agreement with the reference rule, by default the same, on the ideal network: what the substrate does to
            the gradient.
        exact: agreement with the exact gradient of the ideal network: what substrate and rule do together.
        effective_bits: of the layer's contrast as read, see ``diagnose``; infinite where it is exact, None of a
            parameter, and for rules without contrast.
    """

    ideal: Agreement
    exact: Agreement
    effective_bits: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Result of ``hardware.diagnose``; prints as a table.

    Attributes:
        layers, parameters: by name, layers in their order; a layer is all parameters into it and its bias.
        unconverged_share: samples of which a phase on the chip did not converge.
        ideal_unconverged_share: the same on the ideal network.
        runs: batches, passes and chips together, over which everything is averaged.
    """

    layers: dict[str, GradientDiagnosis]
    parameters: dict[str, GradientDiagnosis]
    unconverged_share: float
    ideal_unconverged_share: float
    runs: int

    def record(self) -> dict[str, Any]:
        """Plain JSON; what is not finite as None."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def __str__(self) -> str:
        width = max(len(name) for name in ("parameter", *self.layers, *self.parameters))
        lines = [f"{'':{width}}  against its ideal network      against the exact gradient    effective"]
        heads = "cosine   (std)  norm   sign"
        for title, rows in (("layer", self.layers), ("parameter", self.parameters)):
            lines.append(f"{title:{width}}  {heads}    {heads}       bits" if title == "layer" else title)
            for name, row in rows.items():
                bits = "" if row.effective_bits is None else f"{row.effective_bits:8.1f}"
                lines.append(f"{name:{width}}  {_cells(row.ideal)}    {_cells(row.exact)}   {bits}".rstrip())
        unconverged = f"{100 * self.unconverged_share:.3g} % (ideal {100 * self.ideal_unconverged_share:.3g} %)"
        plural = "s" if self.runs > 1 else ""
        return "\n".join([*lines, f"unconverged: {unconverged}; mean of {self.runs} run{plural}"])


def diagnose(
    chip: Network | Sequence[Network],
    ideal_network: Network,
    rule: Rule,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int | None = None,
    passes: int = 1,
    exact: Rule | None = None,
    reference: Rule | None = None,
) -> Diagnosis:
    """Compare the gradient of a chip with that of an ideal network, for every layer and parameter.

    The references are the gradients of ``ideal_network`` by the same rule and by implicit differentiation. Thermal
    noise is of the chip: where the rule has a ``Langevin`` solver the ideal network relaxes by ``Alternating()``. The
    **effective bits** of a layer's contrast are

        c = sum_k w_k s_k    (weights of the contour; s_k as the chip's converters read it)
        bits = log2( rms(c_ideal) / rms(c_chip - c_ideal) )

    with the root mean square over units, samples and runs: how many bits of the signal that the rule lives on are left,
    below 0 where the error is the larger of the two. The error is everything that makes the chip another machine:
    converters, noise, and weights that are not what they should be. ``c`` is what the rule's ``error_vector`` gives, up
    to its sign.

    A chip is diagnosed on a copy, so that its clock, its counters and its random numbers stay where they are; so do
    ``.grad`` and the random state of the rule. The ideal network should have the chip's weights: the network from
    which it was fabricated, until something is written.

    Args:
        chip: or several, over which to average; any network of the same parameters will do.
        ideal_network: with the weights that the chip is meant to have.
        rule: on the chip.
        x, y: as of ``rule.backward``.
        batch_size: samples a run; None for all together. Noise of arrays is one draw for a batch.
        passes: runs a batch and chip, each with fresh noise.
        exact: rule of the exact gradient; None for an ``ImplicitGradient`` to a tolerance of 1e-6, with the solver of
            ``reference``.
        reference: rule on the ideal network, which meets the same random numbers where it draws them as ``rule`` does;
            None for ``rule``, with ``Alternating()`` in the place of ``Langevin``.

    Raises:
        ConfigError: no chip, other parameters than those of the ideal network, or numbers that are not positive.
    """
    chips = [chip] if isinstance(chip, Network) else list(chip)
    require_whole("diagnose: passes", passes, 1)
    if batch_size is not None:
        require_whole("diagnose: batch_size", batch_size, 1)
    if not chips or len(x) == 0 or len(x) != len(y):
        raise ConfigError(
            f"diagnose: got {len(chips)} chips, {len(x)} inputs and {len(y)} labels; needed at least one of each, and "
            "a label for every input"
        )
    expected = {name: p.shape for name, p in ideal_network.named_parameters()}
    for one in chips:
        if {name: p.shape for name, p in one.named_parameters()} != expected:
            raise ConfigError(
                "diagnose: got a chip with other parameters than the ideal network, needed the network that it was "
                "fabricated from; write diagnose(substrate.fabricate(network), network, rule, x, y)"
            )
    if reference is None:
        reference = _without_noise(rule)
    if exact is None:
        exact = ImplicitGradient(cost=rule.cost, solver=reference.solver, free=Stop(1e-6, 1000, block=10))
    totals = _Totals(parameters_by_layer(ideal_network), rule, reference)
    before, reference_before = rule.state_dict(), reference.state_dict()
    for copied in (one.clone() for one in chips):
        for part in _parts(len(x), len(x) if batch_size is None else batch_size):
            truth = gradients(ideal_network, exact, x[part], y[part])
            for _ in range(passes):
                totals.add(copied, ideal_network, truth, x[part], y[part])
    rule.load_state_dict(before)
    reference.load_state_dict(reference_before)
    return totals.diagnosis()


def _without_noise(rule: Rule) -> Rule:
    """The rule as it runs on a network without a temperature."""
    if isinstance(rule, Averaged):
        inner = _without_noise(rule.inner)
        return rule if inner is rule.inner else replace(rule, inner=inner)
    solvers = {name: getattr(rule, name, None) for name in ("solver", "nudged_solver")}
    plain: dict[str, Any] = {name: Alternating() for name, solver in solvers.items() if isinstance(solver, Langevin)}
    return replace(rule, **plain) if plain else rule


class _Totals:
    """What the runs of a diagnosis add up to."""

    def __init__(self, layers: dict[str, list[str]], rule: Rule, reference: Rule) -> None:
        self._rule, self._reference = rule, reference
        self._groups = {("layers", layer): names for layer, names in layers.items()}
        self._groups |= {("parameters", name): [name] for names in layers.values() for name in names}
        self._found: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
        self._contrasts: dict[str, list[float]] = {}
        self._shares: list[tuple[float, float]] = []

    def add(self, chip: Network, ideal: Network, truth: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        """One run: a batch on a chip, and on its ideal network with the same random numbers of the rule."""
        rule, reference = self._rule, self._reference
        state = rule.state_dict()
        watched, also = _Watched(rule), _Watched(reference)
        _draw_as(reference, state)
        expected = gradients(ideal, also, x, y)  # type: ignore[arg-type]
        rule.load_state_dict(state)
        found = gradients(chip, watched, x, y)  # type: ignore[arg-type]
        for (kind, name), names in self._groups.items():
            g = torch.cat([found[n].double().flatten() for n in names])
            for against, values in (("ideal", expected), ("exact", truth)):
                t = torch.cat([values[n].double().flatten() for n in names])
                agreed = match(g, t)
                figures = (agreed.cosine, agreed.norm_ratio, _sign_agreement(g, t))
                self._found.setdefault((kind, name, against), []).append(figures)
        self._shares.append(tuple(float(w.step.unconverged_share) for w in (watched, also)))  # type: ignore[arg-type]
        after = rule.state_dict()
        self._add_contrasts([(reference, ideal), (rule, chip)], state, x, y)
        rule.load_state_dict(after)  # so that the next run goes on from the first

    def _add_contrasts(self, runs: Sequence[tuple[Rule, Network]], state: dict[str, Any], x: Tensor, y: Tensor) -> None:
        """What the rules contrast, first on the ideal network and then on the chip."""
        errors = []
        for rule, network in runs:
            _draw_as(rule, state)
            try:
                errors.append(rule.error_vector(network, x, y)[1])
            except ConfigError:  # a rule without contrast
                return
        for name, c, read in zip(runs[0][1].names, *errors, strict=True):
            c, read = c.double(), read.double()
            sums = self._contrasts.setdefault(name, [0.0, 0.0])
            sums[0] += float(c.square().sum())
            sums[1] += float((read - c).square().sum())

    def diagnosis(self) -> Diagnosis:
        """Means over the runs."""
        rows: dict[str, dict[str, GradientDiagnosis]] = {"layers": {}, "parameters": {}}
        for kind, name in self._groups:
            bits = self._bits(name) if kind == "layers" else None
            ideal, exact = (_agreement(self._found[kind, name, against]) for against in ("ideal", "exact"))
            rows[kind][name] = GradientDiagnosis(ideal, exact, bits)
        shares = [statistics.fmean(values) for values in zip(*self._shares, strict=True)]
        return Diagnosis(rows["layers"], rows["parameters"], shares[0], shares[1], len(self._shares))

    def _bits(self, layer: str) -> float | None:
        if layer not in self._contrasts:
            return None
        signal, error = self._contrasts[layer]
        if error == 0.0:
            return math.inf
        return 0.5 * math.log2(signal / error) if signal else -math.inf


def _draw_as(rule: Rule, state: dict[str, Any]) -> None:
    """Let a rule go on with the random numbers of that state, where it has no others than those."""
    if rule.state_dict().keys() <= state.keys():
        rule.load_state_dict(state)


class _Watched:
    """A rule whose last step is kept."""

    step: RuleStep

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def backward(self, network: Network, x: Tensor, y: Tensor) -> RuleStep:
        """As of the rule."""
        self.step = self._rule.backward(network, x, y)
        return self.step


def _agreement(runs: list[tuple[float, float, float]]) -> Agreement:
    cosines, norms, signs = zip(*runs, strict=True)
    spread = float(np.std(cosines, ddof=1)) if len(cosines) > 1 else 0.0  # NaN where a cosine is
    return Agreement(statistics.fmean(cosines), spread, statistics.fmean(norms), statistics.fmean(signs))


def _sign_agreement(g: Tensor, t: Tensor) -> float:
    size = t.abs()
    total = float(size.sum())
    return float((size * (g.sign() == t.sign())).sum()) / total if total else float((g == 0).double().mean())


def _parts(samples: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, samples, size))


def _cells(agreement: Agreement) -> str:
    a = agreement
    return f"{a.cosine:6.3f} ({a.cosine_std:.3f})  {a.norm_ratio:4.2f}  {a.sign_agreement:5.3f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
