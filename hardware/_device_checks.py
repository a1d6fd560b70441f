"""What devices ask of their parameters and of the tensors they are given.

Values of tensors are looked at on the CPU only: on an accelerator a look would wait for the device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._numbers import is_number as is_number
from eqprop._numbers import is_whole
from hardware._cell_draws import CellDraws


def require_number(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> None:
    """Raises ConfigError unless ``value`` is finite, ``least <= value <= most`` and ``value > above``."""
    if not is_number(value) or not (least <= value <= most and value > above):
        bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        bounds += [f"at most {most:g}"] * (most < math.inf)
        needed = " and ".join(bounds) or "any"
        raise ConfigError(f"{name}: got {value!r}, needed a finite number, {needed}")


def require_numbers(name: str, values: Any, count: int = 1) -> tuple[float, ...]:
    """A tuple of at least ``count`` finite numbers.

    Raises:
        ConfigError: something else.
    """
    try:
        numbers = tuple(values)
    except TypeError:
        numbers = ()
    if len(numbers) < count or not all(is_number(v) for v in numbers):
        raise ConfigError(f"{name}: got {values!r}, needed at least {count} finite numbers, as ({'0.1, ' * count})")
    return tuple(float(v) for v in numbers)


def require_whole(name: str, value: Any, least: int) -> None:
    """Raises ConfigError unless ``value`` is an int of at least ``least``."""
    if not is_whole(value, least):
        raise ConfigError(f"{name}: got {value!r}, needed a whole number of at least {least}")


def require_flags(owner: object, *names: str) -> None:
    """Raises ConfigError unless these attributes are True or False: a text such as "off" would count as True."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise ConfigError(f"{type(owner).__name__}.{name}: got {value!r}, needed True or False")


def require_generator(generator: Any) -> torch.Generator | CellDraws:
    """The generator itself, or what stands for one.

    Raises:
        ConfigError: something else, None above all: nothing here draws from a global source.
    """
    if not isinstance(generator, torch.Generator | CellDraws):
        raise ConfigError(
            f"generator: got {generator!r}, needed a torch.Generator; write torch.Generator().manual_seed(0)"
        )
    return generator


def require_conductance(name: str, g: Any) -> Tensor:
    """The tensor itself.

    Raises:
        DataError: no floating-point tensor, or (on the CPU) values that are not finite or are below 0 S.
    """
    if not isinstance(g, Tensor) or not g.dtype.is_floating_point:
        got = g.dtype if isinstance(g, Tensor) else type(g).__name__
        raise DataError(f"{name}: got {got}, needed a floating-point tensor in siemens; write torch.as_tensor([5e-6])")
    if g.device.type == "cpu" and g.numel():
        low, high = (float(v) for v in torch.aminmax(g.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"{name}: got NaN or infinite conductances, needed finite ones from 0 S on")
        if low < 0:
            raise DataError(
                f"{name}: got conductances down to {low:.6g} S, needed 0 S or more; "
                "a negative weight needs two cells: write it as the difference of two conductances"
            )
    return g


def require_seconds(name: str, seconds: Any) -> float | Tensor:
    """Seconds since the write, a number or a tensor.

    Raises:
        DataError: not finite, or before the write.
    """
    needed = (
        "needed finite seconds from 0 on, counted from the last write of the cell: it has no value before that; "
        "write seconds_since_write=0.0 for the moment of the write"
    )
    if isinstance(seconds, Tensor):
        if seconds.device.type == "cpu" and seconds.numel():
            low, high = (float(v) for v in torch.aminmax(seconds.detach()))
            if not (math.isfinite(high) and low >= 0):  # NaN is both the least and the greatest
                raise DataError(f"{name}: got {low:g} to {high:g}, {needed}")
        return seconds
    if not is_number(seconds) or seconds < 0:
        raise DataError(f"{name}: got {seconds!r}, {needed}")
    return float(seconds)


def require_counts(name: str, counts: Any, shape: torch.Size) -> Tensor:
    """Whole numbers of pulses that broadcast to ``shape``.

    Raises:
        DataError: something else.
    """
    tensor = torch.as_tensor(counts)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise DataError(f"{name}: got {tensor.dtype}, needed whole numbers of pulses; write {name}.round().long()")
    try:
        fits = torch.broadcast_shapes(tensor.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise DataError(f"{name}: got shape {tuple(tensor.shape)}, needed {tuple(shape)}: one number a cell")
    if tensor.device.type == "cpu" and tensor.numel() and int(tensor.min()) < 0:
        raise DataError(
            f"{name}: got {int(tensor.min())}, needed 0 pulses or more; down pulses are counted in down_counts"
        )
    return tensor


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator | CellDraws, like: Tensor) -> Tensor:
    """Standard normal numbers of that shape, with the dtype and on the device of ``like``.

    Drawn in float32 where the generator lives and then moved, so that one seed gives the same chip in every precision
    and on every device; or the cells' own.
    """
    if isinstance(generator, CellDraws):
        return generator.normal(like.expand(shape))
    drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(device=like.device, dtype=like.dtype)


def uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    """Numbers from the uniform distribution on [0, 1), as ``normal``."""
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(device=like.device, dtype=like.dtype)
