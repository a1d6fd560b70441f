"""Branching factor: how many spikes a spike leads to."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_whole
from snn._readouts_features import checked_train

METHODS = ("local", "global", "regression", "multistep")


def branching_factor(
    spikes: Tensor,
    mask: Tensor | None = None,
    method: str = "local",
    *,
    window_steps: int = 4,
    margin_steps: int = 25,
    bin_steps: int = 1,
    max_lag: int = 20,
) -> float:
    """Branching factor of a liquid's spikes; 1 is critical, less dies out, more grows.

    - ``"local"`` (NALSM, Ivanov & Michmizos 2021, as coded): for each spike of a neuron at ``t``, the spikes of its
      postsynaptic neurons in ``[t+1, t+w]`` over those of its presynaptic neurons in ``[t-w, t-1]``, at least 1;
      the mean over the spikes of a neuron with ``margin + w <= t < T - margin - w``, then over the neurons that have
      any, then over the samples that have any. Spikes of the input are not in the denominator: the more input, the
      larger.
    - ``"global"``: ``<A(t+1) / A(t)>`` over the bins with ``A(t) > 0``, of the number of spikes in a bin (Beggs &
      Plenz 2003). Input counts as offspring.
    - ``"regression"``: slope m of ``A(t+1) = m A(t) + h``, which takes a steady input out (Heyde & Seneta 1972).
      Biased towards 0 where only some of the neurons are seen.
    - ``"multistep"``: the slopes ``r_k`` of ``A(t+k)`` on ``A(t)`` for k up to ``max_lag`` bins, fitted by
      ``r_k = b m^k`` (Wilting & Priesemann 2018): not biased by neurons that are not seen.

    The slopes are those of deviations from each sample's own mean, pooled; on a sample of T bins that pulls m down by
    about ``(1 + 3 m) / T``.

    Args:
        spikes: ``[batch, time, neurons]``, of the liquid only.
        mask: bool ``[post, pre]``, which neurons are connected; needed for "local" and by nothing else.
        method: one of the four.
        window_steps: w of "local".
        margin_steps: steps that are left out at the start and at the end.
        bin_steps: steps in a bin of A, for all but "local"; the factor is that from bin to bin.
        max_lag: of "multistep", in bins.

    Returns:
        The factor, or NaN where nothing in range spikes (or A is constant).

    Raises:
        ConfigError: an unknown method, no mask for "local", or a train too short for the margins.
        DataError: a train or mask of another shape.
    """
    lookup("method", method, dict.fromkeys(METHODS))
    least = {"window_steps": window_steps, "bin_steps": bin_steps, "max_lag": max_lag}
    for name, value in least.items():
        require_whole(name, value, 1)
    require_whole("margin_steps", margin_steps, 0)
    steps = checked_train(spikes).shape[1]
    if method == "local":
        if mask is None:
            raise ConfigError('mask: got None for the method "local", needed the connections, bool [post, pre]')
        _require_steps(steps, 2 * (margin_steps + window_steps) + 1)
        return _local(spikes, mask, window_steps, margin_steps)
    lags = max_lag if method == "multistep" else 1
    _require_steps(steps, 2 * margin_steps + (lags + 2) * bin_steps)
    activity = _activity(spikes[:, margin_steps : steps - margin_steps], bin_steps)
    if method == "global":
        before, after = activity[:, :-1], activity[:, 1:]
        # a bin without spikes has no offspring; its ratio is no number and left out
        return _nanmean(after / torch.where(before > 0, before, math.nan))
    slopes = _slopes(activity, lags)
    return float(slopes[0]) if method == "regression" else _multistep(slopes)


def _local(spikes: Tensor, mask: Tensor, window: int, margin: int) -> float:
    batch, steps, neurons = spikes.shape
    if mask.shape != (neurons, neurons):
        raise DataError(f"mask: got shape {list(mask.shape)}, needed [{neurons}, {neurons}] (post, pre)")
    links = (mask != 0).to(device=spikes.device, dtype=torch.float32)
    total = torch.zeros(0, dtype=torch.float64, device=spikes.device)
    for sample in spikes.to(torch.float32):  # one at a time: [time, neurons] sums of a batch would take much memory
        children = _window_sums(sample @ links, window)  # of neuron n: the spikes of all m with mask[m, n]
        parents = _window_sums(sample @ links.T, window)
        t = torch.arange(margin + window, steps - margin - window, device=spikes.device)
        ratio = children[t + 1] / parents[t - window].clamp(min=1.0)
        own = sample[t]
        # 0 / 0 where a neuron has no spike: not a number, and left out of the mean
        each = (ratio * own).sum(0, dtype=torch.float64) / own.sum(0)
        total = torch.cat((total, each.nanmean()[None]))
    return _nanmean(total)


def _window_sums(counts: Tensor, window: int) -> Tensor:
    """``S[t] = Σ counts[t .. t + window - 1]``, as far as whole windows go."""
    return counts.unfold(0, window, 1).sum(2)


def _activity(spikes: Tensor, bin_steps: int) -> Tensor:
    """Spikes of all neurons in a bin, ``[batch, bins]``, float64; an incomplete last bin is left out."""
    total = spikes.sum(2, dtype=torch.float64)
    bins = total.shape[1] // bin_steps
    return total[:, : bins * bin_steps].reshape(len(total), bins, bin_steps).sum(2)


def _slopes(activity: Tensor, lags: int) -> np.ndarray:
    """Slope of ``A(t+k)`` on ``A(t)`` for k = 1 .. lags, over all samples."""
    slopes = []
    for lag in range(1, lags + 1):
        before, after = activity[:, :-lag], activity[:, lag:]
        before = before - before.mean(1, keepdim=True)
        slopes.append((before * (after - after.mean(1, keepdim=True))).sum() / before.square().sum())
    return torch.stack(slopes).cpu().numpy()


def _multistep(slopes: np.ndarray) -> float:
    """m of ``r_k = b m^k``, by least squares."""
    from scipy.optimize import least_squares

    if not np.isfinite(slopes).all():
        return math.nan
    lags = np.arange(1, len(slopes) + 1)
    first = np.clip(slopes[1] / slopes[0] if len(slopes) > 1 and slopes[0] > 0 else slopes[0], 0.01, 1.2)
    fitted = least_squares(
        lambda p: p[0] * p[1] ** lags - slopes,
        (np.clip(slopes[0] / first, 1e-3, 2.0), first),
        bounds=((-2.0, 0.0), (2.0, 1.5)),
    )
    return float(fitted.x[1])


def _nanmean(values: Tensor) -> float:
    return float(values.nanmean())


def _require_steps(steps: int, needed: int) -> None:
    if steps < needed:
        raise ConfigError(
            f"spikes: got {steps} steps, needed at least {needed} for these margins, windows and lags; write a "
            "smaller margin_steps, or run the liquid for longer"
        )
