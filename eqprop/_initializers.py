"""Initial weights by name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup

# name -> (which fan sets the scale, distribution, gain by default); std = gain / sqrt(fan)
_SCHEMES: dict[str, tuple[str, str, float]] = {
    "xavier_uniform": ("mean", "uniform", 1.0),
    "xavier_normal": ("mean", "normal", 1.0),
    "kaiming_uniform": ("in", "uniform", math.sqrt(2.0)),
    "kaiming_normal": ("in", "normal", math.sqrt(2.0)),
    "lecun_uniform": ("in", "uniform", 1.0),
    "lecun_normal": ("in", "normal", 1.0),
    "orthogonal": ("none", "orthogonal", 1.0),
    "zeros": ("none", "zeros", 1.0),
}


def initial_weight(
    shape: tuple[int, ...],
    *,
    initializer: str = "xavier_uniform",
    gain: float | str | None = None,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A weight ``[out, in, ...]`` drawn on the CPU, so that one seed gives the same weights on every device.

    Standard deviation ``gain / sqrt(fan)``, fan = inputs (lecun, kaiming) or the mean of inputs and outputs (xavier;
    Glorot & Bengio 2010). ``gain`` is a number or the name of a nonlinearity that ``torch.nn.init.calculate_gain``
    knows; the default is the scheme's own.

    Raises:
        ConfigError: unknown initialiser, or a gain that is no finite number of at least 0.
    """
    fan, distribution, default_gain = lookup("initializer", initializer, _SCHEMES)
    if gain is None:
        gain = default_gain
    elif isinstance(gain, str):
        try:
            gain = float(torch.nn.init.calculate_gain(gain))  # type: ignore[arg-type]
        except ValueError as error:
            raise ConfigError(f"gain: got {gain!r}, needed a number or a name: {error}") from error
    if not isinstance(gain, int | float) or not math.isfinite(gain) or gain < 0:
        raise ConfigError(f"gain: got {gain!r}, needed a finite number of at least 0 or a name; write gain=0.5")
    weight = torch.empty(shape, dtype=dtype)
    receptive = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * receptive, shape[0] * receptive
    std = gain / math.sqrt(fan_in if fan == "in" else 0.5 * (fan_in + fan_out))
    if distribution == "uniform":
        bound = math.sqrt(3.0) * std
        torch.nn.init.uniform_(weight, -bound, bound, generator=generator)
    elif distribution == "normal":
        torch.nn.init.normal_(weight, 0.0, std, generator=generator)
    elif distribution == "orthogonal":
        torch.nn.init.orthogonal_(weight, gain, generator=generator)
    else:
        weight.zero_()
    return weight


def at_angle(weight: Tensor, degrees: float, other: Tensor) -> Tensor:
    """A matrix of the norm of ``weight`` at exactly ``degrees`` to it, in the plane of ``weight`` and ``other``.

    ``B = cos(a) W + sin(a) |W| P / |P|``, where ``P`` is ``other`` less its projection on ``W``; zeros for zeros.

    Raises:
        ConfigError: an angle between 0 and 180 degrees to a single number.
    """
    if weight.numel() == 1 and 0.0 < degrees < 180.0:
        raise ConfigError(f"feedback_angle: got {degrees} between single weights, needed 0, 180 or None")
    angle = math.radians(degrees)
    norm = weight.norm()
    tiny = torch.finfo(weight.dtype).tiny
    unit = weight / norm.clamp(min=tiny)
    rest = other - (other * unit).sum() * unit
    return math.cos(angle) * weight + math.sin(angle) * norm * rest / rest.norm().clamp(min=tiny)
