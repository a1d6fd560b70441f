"""Separation: how far apart a liquid's states are for different inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eqprop._errors import DataError
from hardware._device_checks import require_number
from snn._readouts import Array, checked_features, checked_labels, require_classes
from snn._readouts_features import checked_train


def exponential_trace(spikes: Tensor, *, tau_seconds: float = 0.03, dt_seconds: float = 1e-3) -> Tensor:
    """Filtered spikes at every step, ``x(t) = x(t - dt) exp(-dt / tau) + s(t)``, ``[batch, time, neurons]``."""
    require_number("tau_seconds", tau_seconds, above=0.0)
    require_number("dt_seconds", dt_seconds, above=0.0)
    keep = math.exp(-dt_seconds / tau_seconds)
    trace = checked_train(spikes).to(spikes.dtype if spikes.dtype.is_floating_point else torch.float32).clone()
    for step in range(1, trace.shape[1]):
        trace[:, step].add_(trace[:, step - 1], alpha=keep)
    return trace


def state_distance(u: Tensor, v: Tensor, *, tau_seconds: float = 0.03, dt_seconds: float = 1e-3) -> Tensor:
    """Distance of two liquid states over time, ``d(t) = |x_u(t) - x_v(t)|_2``, ``[batch, time]``.

    ``x`` are the spikes filtered by an exponential of ``tau`` (``exponential_trace``). Maass, Natschlaeger & Markram
    2002, section 3 (30 ms). What two different initial voltages make of one input is the noise floor of this number.

    Args:
        u, v: spikes of the liquid for two inputs, ``[batch, time, neurons]`` each.

    Raises:
        DataError: trains of different shapes.
    """
    checks = {"tau_seconds": tau_seconds, "dt_seconds": dt_seconds}
    x_u, x_v = (exponential_trace(train, **checks) for train in _pair(u, v))
    return torch.linalg.vector_norm(x_u - x_v, dim=2)


def train_distance(u: Tensor, v: Tensor, *, sigma_seconds: float = 0.005, dt_seconds: float = 1e-3) -> Tensor:
    """Distance of two input trains, ``[batch]``: ``|g * u - g * v|_2 / T`` with ``g(t) = exp(-(t / sigma)^2)``.

    The norm is over time and channels, ``sqrt(∫ ... dt)``, and T the duration, in seconds: the input distance of
    Maass, Natschlaeger & Markram 2002 (5 ms). The convolution runs on for five ``sigma`` before and after the train.

    Raises:
        DataError: trains of different shapes.
    """
    require_number("sigma_seconds", sigma_seconds, above=0.0)
    require_number("dt_seconds", dt_seconds, above=0.0)
    u, v = _pair(u, v)
    reach = math.ceil(5 * sigma_seconds / dt_seconds)
    times = torch.arange(-reach, reach + 1, device=u.device, dtype=torch.float64) * dt_seconds
    kernel = torch.exp(-((times / sigma_seconds) ** 2))
    difference = (u.double() - v.double()).transpose(1, 2).flatten(0, 1)[:, None]
    smooth = torch.nn.functional.conv1d(difference, kernel[None, None], padding=2 * reach)
    squares = smooth.square().sum((1, 2)).reshape(len(u), -1).sum(1)
    return (squares * dt_seconds).sqrt() / (u.shape[1] * dt_seconds)


def class_separation(features: Array, labels: Array) -> float:
    """Separation of the classes, ``Sep = C_d / (C_v + 1)`` (Goodman & Ventura 2006; Norton & Ventura 2010).

    With the mean state ``mu_l`` of each of n classes, ``C_d = (1/n^2) Σ_lm |mu_l - mu_m|_2`` over all ordered pairs,
    and ``C_v = (1/n) Σ_l mean_{o in l} |mu_l - o|_2``. It depends on the scale of the features; compare equal ones.

    Args:
        features: ``[samples, features]``.
        labels: ``[samples]``.

    Raises:
        DataError: features that are not finite, labels that do not match them, fewer classes than two.
    """
    x = checked_features(features).double()
    classes, codes = torch.unique(checked_labels(labels, len(x)).to(x.device), return_inverse=True)
    n = len(require_classes(classes))
    counts = torch.bincount(codes, minlength=n).double()
    means = x.new_zeros(n, x.shape[1]).index_add_(0, codes, x) / counts[:, None]
    # differences, not a product of means: the distance of nearly equal means keeps its digits
    between = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").sum() / n**2
    distances = torch.linalg.vector_norm(x - means[codes], dim=1)
    within = (x.new_zeros(n).index_add_(0, codes, distances) / counts).mean()
    return float(between / (within + 1.0))


def _pair(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if checked_train(u).shape != checked_train(v).shape:
        raise DataError(f"trains: got shapes {list(u.shape)} and {list(v.shape)}, needed equal ones")
    return u, v
