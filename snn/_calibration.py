"""Scaling the weights of a liquid until it branches as wanted, or to the critical weight of mean-field theory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError, ConvergenceError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from hardware._printed import Printed
from snn._branching import branching_factor
from snn._liquid import Liquid
from snn._records import Record

WEIGHTS = ("all", "recurrent")
_REACH = 64.0  # how far the scale may go, up or down


@dataclass(frozen=True, repr=False)
class Calibration(Printed):
    """What a calibration did.

    Attributes:
        scale: by which weights were multiplied.
        branching: factor reached.
        runs: of the liquid.
    """

    scale: float
    branching: float
    runs: int


def calibrate(
    liquid: Liquid,
    inputs: Tensor,
    *,
    branching: float = 1.0,
    weights: str = "all",
    method: str = "local",
    tolerance: float = 0.02,
    max_runs: int = 25,
    margin_steps: int = 25,
    seed: int = 0,
) -> Calibration:
    """Scales the weights of ``liquid`` in place, until its branching factor is ``branching`` on these inputs.

    The scale is bracketed by factors of 1.5 and then halved on a logarithmic axis, always on the same inputs (and
    noise). A silent liquid counts as branching by 0.

    Args:
        liquid: whose buffers are scaled.
        inputs: spikes ``[batch, time, inputs]`` like those to come: about 20 samples are enough.
        branching: wanted factor; 1 is critical.
        weights: ``"all"``, input weights too, as NALSM scales a static liquid, or ``"recurrent"``.
        method: of ``branching_factor``.
        tolerance: of the factor.
        max_runs: of the liquid, after which it fails.
        margin_steps: of ``branching_factor``: steps left out at both ends.
        seed: of the noise, where the liquid has any.

    Raises:
        ConvergenceError: no scale from 1/64 to 64 does it, or ``max_runs`` are not enough; the weights are then as
            before.
        ConfigError: a setting that cannot be.
    """
    lookup("weights", weights, dict.fromkeys(WEIGHTS))
    require_number("branching", branching, above=0.0)
    require_number("tolerance", tolerance, above=0.0)
    require_whole("max_runs", max_runs, 1)
    buffers = liquid.strengths(weights)
    before = [b.clone() for b in buffers]
    synapses = liquid.synapses
    tried: list[tuple[float, float]] = []

    def factor(scale: float) -> float:
        for buffer, original in zip(buffers, before, strict=True):
            torch.mul(original, scale, out=buffer)
        generator = torch.Generator().manual_seed(seed)
        run = liquid.run(inputs, record=Record(spikes=True), generator=generator, health="ignore")
        found = branching_factor(run.recorded("spikes"), synapses, method, margin_steps=margin_steps)
        tried.append((scale, 0.0 if math.isnan(found) else found))
        return tried[-1][1]

    def search() -> float:
        scale, found, low, high = 1.0, factor(1.0), 0.0, math.inf
        while abs(found - branching) > tolerance:
            low, high = (scale, high) if found < branching else (low, scale)
            scale = low * 1.5 if high == math.inf else high / 1.5 if low == 0.0 else math.sqrt(low * high)
            if len(tried) >= max_runs or not 1.0 / _REACH <= scale <= _REACH:
                seen = ", ".join(f"{f:.3g} at {s:.3g}" for s, f in sorted(tried))
                remedy = "write another branching, a wider tolerance, or more or stronger inputs"
                if liquid.draws and min(f for _, f in tried) > branching:
                    remedy = (
                        "its own noise, which does not shrink with the weights, branches by more: write a larger "
                        "branching, or a liquid with less noise"
                    )
                raise ConvergenceError(
                    f"calibrate: got branching factors {seen}, needed {branching:g} within {tolerance:g}; {remedy}"
                )
            found = factor(scale)
        return scale

    try:
        scale = search()
    except BaseException:
        for buffer, original in zip(buffers, before, strict=True):
            buffer.copy_(original)
        raise
    return Calibration(scale, tried[-1][1], len(tried))


def critical_weight(
    *, threshold: float, in_degree: float, mean_input: float = 0.0, amplitude: float = 1.0, refractory_steps: int = 0
) -> float:
    """Critical recurrent weight in mean-field theory: ``(theta - 2 I A (tau + 1)) / (beta N)``.

    Source: Freddi, Cicala, Marzetti & Basti, Sci. Rep. 2025.

    Args:
        threshold: theta, from rest to the spike.
        in_degree: ``beta N``, recurrent synapses a neuron.
        mean_input: I, mean input spikes that reach a neuron in a step.
        amplitude: A, current of one.
        refractory_steps: tau.

    Raises:
        ConfigError: values that cannot be, or an input that reaches the threshold by itself.
    """
    require_number("threshold", threshold, above=0.0)
    require_number("in_degree", in_degree, above=0.0)
    require_number("mean_input", mean_input, least=0.0)
    require_number("amplitude", amplitude)
    require_whole("refractory_steps", refractory_steps, 0)
    left = threshold - 2.0 * mean_input * amplitude * (refractory_steps + 1)
    if left <= 0:
        raise ConfigError(
            f"critical_weight: got an input of {mean_input:g} spikes a step of {amplitude:g} each, needed less than "
            f"{threshold / (2.0 * (refractory_steps + 1)):g} in all: the input alone reaches the threshold"
        )
    return left / in_degree


def calibrate_mean_field(liquid: Liquid, inputs: Tensor) -> Calibration:
    """Scales the recurrent weights in place, so that their mean size is ``critical_weight``.

    Input spikes, amplitude (the mean input weight, with its sign) and in-degree are those of ``liquid`` on these
    inputs; no run is needed. A start for weights, not a measurement: see ``calibrate``.

    Args:
        liquid: with a neuron that has a ``threshold`` and no synaptic memory to speak of.
        inputs: spikes ``[batch, time, inputs]``.

    Raises:
        ConfigError: a neuron without threshold, no recurrent or input weights, or an input that reaches the threshold
            by itself.
    """
    neuron, entries = liquid.neuron, liquid.input_weight
    threshold, reset = getattr(neuron, "threshold", None), getattr(neuron, "reset", 0.0)
    mask = liquid.synapses
    count = int(mask.sum())
    if not isinstance(threshold, float | int) or not isinstance(reset, float | int) or entries is None or not count:
        raise ConfigError(
            f"calibrate_mean_field: got {neuron!r} with {count} recurrent synapses, needed one threshold for all, "
            "recurrent weights and input weights; write snn.calibrate(liquid, inputs)"
        )
    reached = entries != 0
    rates = inputs.to(entries).mean((0, 1))
    spikes = float((reached.to(entries) @ rates).mean())
    amplitude = float(entries.sum()) / max(int(reached.sum()), 1)
    try:
        wanted = critical_weight(
            threshold=threshold - reset,
            in_degree=count / liquid.neurons,
            mean_input=spikes,
            amplitude=amplitude,
            refractory_steps=neuron.shortest_interval_steps(liquid.dt_seconds) - 1,
        )
    except ConfigError as error:
        raise ConfigError(f"{error}; write snn.calibrate(liquid, inputs), or a smaller input weight") from error
    scale = wanted / (float(liquid.weight.abs().sum()) / count)
    for strength in liquid.strengths("recurrent"):
        strength.mul_(scale)
    return Calibration(scale, math.nan, 0)
