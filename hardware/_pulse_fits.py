"""A user's own device from measured responses to pulses.

The whole trace of each cell is fitted at once, with its starting point, so that neither noise of a reading nor of a
single pulse biases the steps; what remains from one reading to the next is then split into the two by its correlation.
All work is done on conductances scaled to 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.sparse import block_diag
from torch import Tensor

from eqprop._errors import DataError
from eqprop._names import lookup
from hardware._devices import Device
from hardware._pulse_response import PulseResponse
from hardware._step_laws import Cells, ConstantStep, Frame, LinearStep, PowerStep, SoftBounds, StepLaw
from hardware._table_fits import Array, as_array, measured, require_siemens

_FRAME = Frame(zero=0.5, low=0.0, high=1.0, unit=0.5)
_OWN = 3  # where the parameters of the law begin, after the start and the logarithms of both steps


@dataclass(frozen=True)
class _Kind:
    """A law with the parameters that differ from cell to cell: its bounds, if they are fitted, and its two shapes.

    ``limits`` holds first value, least and most of each of them, bounds first.
    """

    law: StepLaw
    limits: tuple[tuple[float, float, float], ...]
    bounds: bool
    made: Callable[[Array], StepLaw]


def _linear(shapes: Array) -> LinearStep:
    up, down = (float(v) for v in shapes.mean(0))
    return LinearStep(up, down, _spread((shapes - shapes.mean(0)).ravel()))


def _power(shapes: Array) -> PowerStep:
    up, down = (float(v) for v in shapes.mean(0))
    return PowerStep(up, down, _spread((shapes / shapes.mean(0)).ravel()))


_BOUNDS = ((-0.1, -2.0, 0.45), (1.1, 0.55, 3.0))
_KINDS = {
    "constant": _Kind(ConstantStep(), (), False, lambda shapes: ConstantStep()),
    "linear": _Kind(LinearStep(0.0, 0.0), ((0.1, 0.0, 1.0), (0.1, 0.0, 1.0)), False, _linear),
    "soft-bounds": _Kind(SoftBounds(), _BOUNDS, True, lambda shapes: SoftBounds()),
    "power": _Kind(PowerStep(1.0, 1.0), (*_BOUNDS, (1.0, 0.0, 5.0), (1.0, 0.0, 5.0)), True, _power),
}


def fit_pulse_response(
    pulses: Any,
    conductance_siemens: Any,
    *,
    kind: str = "soft-bounds",
    device: Device | None = None,
    name: str = "measured",
) -> Device:
    """The response to pulses from measured traces, by least squares: steps, their spread, asymmetry and noise.

    Spreads from cell to cell need several cells. With ``"constant"`` and ``"linear"`` the range that a cell showed is
    taken as its bounds; with ``"soft-bounds"`` and ``"power"`` they are fitted, for which pulses must come near them.

    Args:
        pulses: how many pulses precede each reading but the first, positive up and negative down, ``[readings - 1]``.
        conductance_siemens: ``[readings]``, or ``[cells, readings]`` for cells that saw the same pulses.
        kind: ``"constant"``, ``"linear"``, ``"soft-bounds"`` or ``"power"``.
        device: what to add it to; its range is replaced by the measured one.
        name: of a new device.

    Raises:
        DataError: lengths that do not fit, no up pulses, NaN, conductances that do not follow the pulses.
        ConfigError: an unknown kind.
    """
    law = lookup("kind of pulse response", kind, _KINDS)
    counts = as_array("pulses", pulses, (1,), 4)
    g = np.atleast_2d(as_array("conductance_siemens", conductance_siemens, (1, 2), 5))
    require_siemens("conductance_siemens", g)
    if g.shape[1] != len(counts) + 1:
        raise DataError(
            f"conductance_siemens: got {g.shape[1]} readings for {len(counts)} entries of pulses, needed "
            f"{len(counts) + 1}: the first reading comes before the first pulse"
        )
    if (counts != np.rint(counts)).any() or not (counts > 0).any():
        raise DataError("pulses: got none upwards or parts of pulses, needed whole numbers, up pulses above 0")
    low, high = float(g.min()), float(g.max())
    if high == low:
        raise DataError(f"conductance_siemens: got {low:.6g} S everywhere, needed readings that follow the pulses")
    y = (g - low) / (high - low)
    found = _fit(law, counts.astype(int), y, floor=-low / (high - low))
    prediction = _simulate(law, counts.astype(int), torch.from_numpy(found), torch.from_numpy(y)).numpy()
    explained = 1.0 - float(((y - prediction) ** 2).sum() / ((y - y.mean(1, keepdims=True)) ** 2).sum())
    if explained < 0.5:
        raise DataError(
            f"conductance_siemens: got traces of which kind={kind!r} explains {100 * explained:.0f} % of the variance, "
            f"needed at least 50 %; check the signs of pulses, or write kind= one of {', '.join(_KINDS)}"
        )
    response, (bottom, top) = _response(law, counts.astype(int), y, found)
    span = high - low
    base = measured(name, device, low, high)
    note = f"{kind}, fitted to {len(g)} cells of {g.shape[1]} readings, {100 * explained:.1f} % of the variance"
    return replace(
        base,
        g_min_siemens=max(low + bottom * span, 0.0),
        g_max_siemens=low + top * span,
        pulses=replace(response, note=note),
    )


def _fit(kind: _Kind, counts: Array, y: Array, floor: float) -> Array:
    """Parameters of each cell, ``[cells, 3 + limits]``: those of the mean trace first, then all cells from there."""
    step = float(np.abs(np.diff(y, axis=1)).mean()) / max(float(np.abs(counts).mean()), 1.0)
    first = np.array([0.5, *[np.log(max(step, 1e-6))] * 2, *(v for v, _, _ in kind.limits)])[None]
    if kind.bounds:
        first[0, _OWN] = max(first[0, _OWN], 0.5 * floor)
    mean = _solve(kind, counts, y.mean(0, keepdims=True), first, floor)
    return mean if len(y) == 1 else _solve(kind, counts, y, np.repeat(mean, len(y), 0), floor)


def _solve(kind: _Kind, counts: Array, y: Array, first: Array, floor: float) -> Array:
    """All cells in one sparse problem, a block each."""
    cells, width = first.shape
    seen = torch.from_numpy(y)
    least, most = np.full_like(first, -16.0), np.full_like(first, 2.0)
    first[:, 0], least[:, 0], most[:, 0] = y[:, 0], -0.5, 1.5
    for i, (_, low, high) in enumerate(kind.limits):
        least[:, _OWN + i], most[:, _OWN + i] = low, high
    if kind.bounds:
        least[:, _OWN] = np.maximum(floor, least[:, _OWN])  # no conductance below 0 S
    first = first.clip(least + 1e-6, most - 1e-6)
    delta = 1e-6

    def residuals(p: Array) -> Array:
        model = _simulate(kind, counts, torch.from_numpy(p.reshape(cells, width)), seen)
        return np.asarray((model.numpy() - y).ravel())

    def jacobian(p: Array) -> Any:
        table = torch.from_numpy(p.reshape(cells, width))
        lanes = table[:, None, :] + delta * torch.eye(width, dtype=torch.float64)
        lanes = torch.cat([table[:, None, :], lanes], 1)
        repeated = seen.repeat_interleave(width + 1, 0)
        model = _simulate(kind, counts, lanes.reshape(-1, width), repeated).reshape(cells, width + 1, -1)
        blocks = ((model[:, 1:] - model[:, :1]) / delta).mT.numpy()
        return block_diag(list(blocks), format="csr")

    fit = least_squares(
        residuals,
        first.ravel(),
        jacobian,
        bounds=(least.ravel(), most.ravel()),
        tr_solver="lsmr",
        x_scale="jac",
        ftol=1e-6,
        xtol=1e-6,
        max_nfev=100,
    )
    return np.asarray(fit.x).reshape(cells, width)


def _cells(kind: _Kind, p: Tensor, seen: Tensor) -> Cells:
    own, none = p[:, _OWN:], p.new_zeros(())
    low, high = (own[:, 0], own[:, 1]) if kind.bounds else (seen.amin(1), seen.amax(1))
    shapes = own[:, 2 * kind.bounds :]
    up_shape, down_shape = (shapes[:, 0], shapes[:, 1]) if shapes.shape[1] else (none, none)
    stuck = torch.zeros(len(p), dtype=torch.bool)
    return Cells(p[:, 1].exp(), p[:, 2].exp(), low, high, up_shape, down_shape, none, none, stuck, none)


def _simulate(kind: _Kind, counts: Array, p: Tensor, seen: Tensor) -> Tensor:
    """Mean traces, ``[cells, readings]``."""
    cells = _cells(kind, p, seen)
    trace = [p[:, 0]]
    for count in counts.tolist():
        trace.append(_advance(kind, cells, trace[-1], count))
    return torch.stack(trace, 1)


def _advance(kind: _Kind, cells: Cells, y: Tensor, count: int) -> Tensor:
    if count == 0:
        return y
    law = PulseResponse(kind.law, step=1.0)
    n = torch.tensor(abs(count)).expand(y.shape)
    return law.train(count > 0, y, n, cells, _FRAME, torch.Generator(), True, [len(y)] * abs(count))


def _response(kind: _Kind, counts: Array, y: Array, found: Array) -> tuple[PulseResponse, tuple[float, float]]:
    """The response of an array from the parameters of its cells, and its mean bounds."""
    seen, p = torch.from_numpy(y), torch.from_numpy(found)
    cells = _cells(kind, p, seen)
    low, high = cells.low_siemens.numpy(), cells.high_siemens.numpy()
    bottom, top = float(low.mean()), float(high.mean())
    zero, half = 0.5 * (bottom + top), 0.5 * (top - bottom)
    up, down = np.exp(found[:, 1]), np.exp(found[:, 2])
    shapes = found[:, _OWN + 2 * kind.bounds :]
    if not isinstance(kind.law, PowerStep):
        # the fit meant steps at 0.5 and slopes up to 0 and 1; the device means both from the middle of its own range
        at = torch.full_like(cells.low_siemens, zero)
        factors = np.stack([kind.law.factor(way, at, cells, _FRAME).numpy() for way in (True, False)], 1)
        up, down = up * factors[:, 0], down * factors[:, 1]
        shapes = shapes * (half / _FRAME.unit) / factors[:, : shapes.shape[1]]
    one_way = not (counts < 0).any()
    if one_way:
        down = up
    step = max(float(up.mean()), float(down.mean()))
    relative_up, relative_down = up / step, down / step
    asymmetry = float(relative_up.mean() - relative_down.mean())
    gain = 0.5 * (relative_up - relative_up.mean() + relative_down - relative_down.mean())
    tilt = 0.5 * (relative_up - relative_up.mean() - relative_down + relative_down.mean())
    pulse_noise, reading_noise = _noise(kind, cells, counts, y)
    response = PulseResponse(
        kind.made(shapes),
        step=step / half,
        step_spread=_spread(gain),
        asymmetry=min(max(asymmetry, -1.0), 1.0),
        asymmetry_spread=_spread(tilt),
        low_spread=_spread(low) / half,
        high_spread=_spread(high) / half,
        noise=pulse_noise / step,
        write_noise=reading_noise / step,
        one_way=one_way,
    )
    return response, (bottom, top)


def _noise(kind: _Kind, cells: Cells, counts: Array, y: Array) -> tuple[float, float]:
    """Standard deviation of one pulse and of one reading, from the errors of predicting a reading from the one before.

    Noise of a reading enters two errors, with opposite signs: their covariance is minus its variance.
    """
    seen = torch.from_numpy(y)
    nexts = [_advance(kind, cells, seen[:, k], int(n)) for k, n in enumerate(counts.tolist())]
    error = y[:, 1:] - torch.stack(nexts, 1).numpy()
    error = error - error.mean()
    reading = max(0.0, -float((error[:, 1:] * error[:, :-1]).mean()))
    pulse = max(0.0, float((error**2).mean()) - 2 * reading) / max(float(np.abs(counts).mean()), 1e-30)
    return pulse**0.5, reading**0.5


def _spread(values: Array) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
