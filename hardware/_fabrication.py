"""The cells of an array as chance made them, and whether the weights fit onto them."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._cell_array import CellArray
from hardware._devices import Device
from hardware._mapping import MAPPINGS, Mapping
from hardware._step_laws import Cells
from hardware._streams import Streams


def fabricated_cells(
    key: str, layout: CellArray, device: Device, streams: Streams, shape: tuple[int, ...], like: Tensor
) -> Cells:
    """Cells of that shape, a share of them stuck where the layout says so; on the CPU, in the precision of ``like``."""
    cells = device.fabricate_cells(shape, streams.generator(f"cells/{key}"), like.dtype)
    if layout.stuck_share is None:
        return cells
    draws = [streams.uniform(f"cells.{name}/{key}", (), shape, like.cpu()) for name in ("stuck", "at")]
    stuck = draws[0] < layout.stuck_share
    at = device.g_min_siemens + draws[1] * (device.g_max_siemens - device.g_min_siemens)
    return cells._replace(
        step_up_siemens=torch.where(stuck, 0.0, cells.step_up_siemens),
        step_down_siemens=torch.where(stuck, 0.0, cells.step_down_siemens),
        low_siemens=torch.where(stuck, at, cells.low_siemens),
        high_siemens=torch.where(stuck, at, cells.high_siemens),
        stuck=stuck,
    )


def mapping_of(key: str, layout: CellArray, device: Device, weight: Tensor) -> Mapping:
    """The mapping of a connection's initial weights.

    Raises:
        ConfigError: weights that are all 0, from which no range follows.
        DataError: weights that are not finite.
    """
    require_finite(key, weight)
    most = float(weight.abs().max())
    reach = layout.weight_range or layout.headroom * most
    single = layout.mapping == "single"
    if not (single or reach > 0.0):
        raise ConfigError(
            f"connection {key}: got weights that are all 0, needed a range for its cells; write "
            "CellArray(weight_range=1.0)"
        )
    return MAPPINGS[layout.mapping](device.g_min_siemens, device.g_max_siemens, reach)


def require_finite(key: str, weight: Tensor) -> None:
    """Raises DataError where weights of the connection are NaN or infinite."""
    bad = int((~weight.isfinite()).sum())
    if bad:
        raise DataError(
            f"connection {key}: got {bad} of {weight.numel()} weights that are NaN or infinite, needed finite ones, "
            "which cells can hold; write a smaller learning rate, or load the weights from before"
        )


def warn_where_clipped(key: str, mapping: Mapping, weight: Tensor, outside: Tensor, stacklevel: int) -> bool:
    """Warn where more than half of the weights lie outside the range; returns whether they do.

    Args:
        key: of the connection.
        mapping: of its weights.
        weight: that is to be written.
        outside: ``mapping.outside(weight)``.
        stacklevel: of the warning, from the caller on, who is 1.

    Warns:
        RuntimeWarning: where they do.
    """
    share = float(outside.double().mean())
    if share <= 0.5:
        return False
    most, (low, high) = float(weight.abs().max()), mapping.bounds
    if mapping.cells == 1:
        between, largest = f"{low:g} to {high:g} S", f"{most:.3g} S"
        remedy = f"CellArray(g_max_siemens={most:.2g}, mapping='single')"
    else:
        between, largest = f"+-{high:g}", f"{most:.3g}"
        remedy = f"CellArray(weight_range={most:.2g})"
    warnings.warn(
        f"connection {key}: {100 * share:.0f} % of the weights lie outside the range of its cells, "
        f"{between}, and are clipped (the largest is {largest}); write {remedy}",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )
    return True
