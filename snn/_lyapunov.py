"""Lyapunov exponent of a driven liquid: what one flipped input spike grows into."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_generator, require_number, require_whole
from snn._readouts_features import checked_train
from snn._separation import exponential_trace


@dataclass(frozen=True, eq=False)
class LyapunovEstimate:
    """Growth of a perturbation by one input spike.

    Attributes:
        exponent_per_second: mean over the samples whose perturbation was there at both times; NaN without any.
        exponents_per_second: ``[batch]``; minus infinity where the perturbation died, NaN where it never came in.
        distances: ``[batch, time]``, between the two runs' states.
        died_share: samples whose perturbation reached the state and was gone after the horizon.
        missed_share: samples whose perturbation never reached the state by ``start_step``.
        start_step, stop_step: between which the growth was measured.
    """

    exponent_per_second: float
    exponents_per_second: Tensor
    distances: Tensor
    died_share: float
    missed_share: float
    start_step: int
    stop_step: int


def lyapunov_exponent(
    run: Callable[[Tensor], Tensor],
    spikes: Tensor,
    *,
    generator: torch.Generator,
    flip_step: int = 30,
    delay_steps: int = 5,
    horizon_steps: int = 30,
    tau_seconds: float | None = 0.03,
    dt_seconds: float = 1e-3,
) -> LyapunovEstimate:
    """Lyapunov exponent by one flipped spike, ``(1 / Dt) ln(|d(t0 + Dt)| / |d(t0)|)``, natural logarithm.

    In each sample one input channel, drawn among all of them, is flipped in the step ``flip_step`` (a spike removed, or
    one added); ``d`` is the difference of the liquid's states between both runs, ``t0 = flip_step + delay_steps`` and
    ``Dt = horizon_steps``. Legenstein & Maass 2007; Chrol-Cannon & Jin 2014. In a liquid the growth saturates, and
    thresholds make a perturbation either vanish or persist: look at ``distances`` and at the shares too.

    Args:
        run: the liquid: from input trains ``[batch, time, channels]`` to spikes or states ``[batch, time, neurons]``,
            deterministic (with the noise of both runs the same).
        spikes: input trains, bool or 0 and 1.
        generator: draws the channels; a CPU generator.
        tau_seconds: of the exponential that makes states of the returned spikes; None where ``run`` returns states.

    Raises:
        ConfigError: steps that do not lie within the trains.
        DataError: trains that are not 0 and 1, or a ``run`` that returns another shape.
    """
    require_generator(generator)
    for name, value, least in (
        ("flip_step", flip_step, 0),
        ("delay_steps", delay_steps, 0),
        ("horizon_steps", horizon_steps, 1),
    ):
        require_whole(name, value, least)
    require_number("dt_seconds", dt_seconds, above=0.0)
    batch, steps, channels = checked_train(spikes).shape
    start, stop = flip_step + delay_steps, flip_step + delay_steps + horizon_steps
    if stop >= steps:
        raise ConfigError(
            f"lyapunov_exponent: got trains of {steps} steps and growth measured up to step {stop}, needed it below "
            f"{steps}; write a smaller horizon_steps"
        )
    flipped = spikes.clone()
    rows = torch.arange(batch, device=spikes.device)
    at = torch.randint(channels, (batch,), generator=generator).to(spikes.device)
    if spikes.dtype != torch.bool and bool(((spikes != 0) & (spikes != 1)).any()):
        raise DataError("spikes: got values other than 0 and 1, needed spike trains; a current has no spike to flip")
    flipped[rows, flip_step, at] = (
        spikes[rows, flip_step, at] == 0 if spikes.dtype == torch.bool else (1 - spikes[rows, flip_step, at])
    )
    states = []
    for train in (spikes, flipped):
        state = run(train)
        if not isinstance(state, Tensor) or state.dim() != 3 or state.shape[:2] != (batch, steps):
            got = list(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise DataError(f"run: got {got} back, needed spikes or states [{batch}, {steps}, neurons]")
        if tau_seconds is not None:
            state = exponential_trace(state, tau_seconds=tau_seconds, dt_seconds=dt_seconds)
        states.append(state.double())
    distances = torch.linalg.vector_norm(states[0] - states[1], dim=2)
    before, after = distances[:, start], distances[:, stop]
    exponents = torch.log(after / before) / (horizon_steps * dt_seconds)
    exponents = torch.where(before > 0, exponents, math.nan)
    grown = exponents[exponents.isfinite()]
    return LyapunovEstimate(
        float(grown.mean()) if len(grown) else math.nan,
        exponents,
        distances,
        float(((before > 0) & (after == 0)).double().mean()),
        float((before == 0).double().mean()),
        start,
        stop,
    )
