"""Maps of a sweep: figures over two settings as colours and numbers, in small multiples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from eqprop._errors import ConfigError
from eqprop._figures import RED
from eqprop._names import lookup
from eqprop._sweep_figures import _finished, _groups, _multiples, _named, _note, _ordered, _text
from eqprop._sweep_statistics import confidence_intervals, require_column, with_value

if TYPE_CHECKING:
    import pandas

_MOST_NUMBERS = 150
_BEST = {"highest": np.nanargmax, "lowest": np.nanargmin}


def sweep_map(
    frame: pandas.DataFrame,
    x: str,
    y: str,
    value: str | Sequence[str],
    *,
    panels: str | None = None,
    best: str | Mapping[str, str] | None = None,
    over: str = "seed",
    title: str | None = None,
) -> Figure:
    """``value`` over ``x`` and ``y`` as colours and numbers, means over the seeds; white where there is nothing.

    Args:
        frame: see ``load_sweep``.
        x, y: columns, each of whose values is a column or a row of the map.
        value: column shown, or several, each with a scale of its own.
        panels: column with a map for each value, of one scale; a figure of no layer gets one map among the layers'.
        best: frame the "highest" or "lowest" mean of every row; for several figures by their names.
        over: column of the seeds.

    Raises:
        ConfigError: unknown columns, or no numbers.
    """
    values = [value] if isinstance(value, str) else list(value)
    if not values:
        raise ConfigError("value: got no column, needed at least one, as value='test_error_percent'")
    framed: dict[str, str] = {}
    if best is not None:
        framed = dict.fromkeys(values, best) if isinstance(best, str) else dict(best)
    for name, kind in framed.items():
        lookup("best: figure", name, dict.fromkeys(values))
        lookup("best", kind, _BEST)
    for name in (x, y):
        require_column(frame, name)
    kept = {name: with_value(frame, name) for name in values}
    ends, parts = {}, []
    for name, rows in kept.items():
        means = confidence_intervals(rows, name, by=[c for c in (x, y, panels) if c is not None], over=over)["mean"]
        ends[name] = float(means.min()), float(means.max())
        for label, part in _groups(rows, panels):
            words = [_named(name), label] if len(values) > 1 else [label]
            parts.append((", ".join(filter(None, words)), (name, part)))
    across, up = (_values_of(frame, kept.values(), name) for name in (x, y))
    images: list[Any] = []

    def draw(axes: Axes, drawn: tuple[str, Any]) -> None:
        name, part = drawn
        low, high = ends[name]
        found = confidence_intervals(part, name, by=[x, y], over=over)
        cells = {(_key(a), _key(b)): m for a, b, m in zip(found[x], found[y], found["mean"], strict=True)}
        grid = np.array([[cells.get((_key(a), _key(b)), math.nan) for a in across] for b in up], dtype=np.float64)
        images.append(axes.imshow(grid, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high))
        if grid.size <= _MOST_NUMBERS:
            _write_cells(axes, grid, low, high)
        if name in framed:
            _frame_best(axes, grid, framed[name])
        axes.set_xticks(range(len(across)), [_text(a) for a in across])
        axes.set_yticks(range(len(up)), [_text(b) for b in up])
        axes.set(xlabel=_named(x), ylabel=_named(y))

    size = (max(3.2, 0.62 * len(across) + 1.2), max(2.6, 0.42 * len(up) + 1.2))
    figure = _multiples(parts, panels, draw, size=size)
    drawn_in = list(figure.axes)
    if len(values) == 1:
        _bar(figure, images[0], drawn_in).set_label(_named(values[0]))
    else:
        for axes, image in zip(drawn_in, images, strict=True):
            _bar(figure, image, [axes])
    notes = [_note(kept[values[0]], {x, y, panels}, over, None)]
    if framed:
        notes.append(f"framed: {' or '.join(sorted(set(framed.values())))} of each row")
    return _finished(figure, title, "; ".join(filter(None, notes)), None)


def _values_of(frame: Any, kept: Any, name: str) -> list[Any]:
    """Of a column, in their order: those at which any of the figures stands."""
    shown = set().union(*({_key(v) for v in rows[name]} for rows in kept))
    return [v for v in _ordered(frame[name]) if _key(v) in shown]


def _key(value: Any) -> Any:
    """NaN equals no other NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _bar(figure: Figure, image: Any, axes: list[Any]) -> Any:
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.outline.set_visible(False)
    return bar


def _frame_best(axes: Axes, grid: np.ndarray, kind: str) -> None:
    for row, values in enumerate(grid):
        if not np.isnan(values).all():
            place = (int(_BEST[kind](values)) - 0.5, row - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=RED, linewidth=2.0, clip_on=False))


def _write_cells(axes: Axes, grid: np.ndarray, low: float, high: float) -> None:
    for (row, column), v in np.ndenumerate(grid):
        if not math.isnan(v):
            dark = (v - low) < 0.6 * (high - low)
            axes.text(column, row, f"{v:.3g}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
