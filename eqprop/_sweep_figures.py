"""Figures of a sweep: curves with bands, and fronts, in small multiples where asked; as matplotlib `Figure`s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eqprop._errors import ConfigError
from eqprop._figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, _tidy
from eqprop._sweep_statistics import confidence_intervals, pareto_front, require_column, varying, with_value
from eqprop._sweep_table import unit_of

if TYPE_CHECKING:
    import pandas

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_MARKERS = "os^Dvp"
_MOST_PANELS = 24


def sweep_curves(
    frame: pandas.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    panels: str | None = None,
    over: str = "seed",
    level: float = 0.95,
    title: str | None = None,
) -> Figure:
    """``y`` over ``x``: means over the seeds, with bands of confidence of the mean, and a dot a seed.

    Whatever else varies is averaged over too, and named in the figure: choose ``by`` and ``panels`` to tell it apart.
    Points without a number for ``x`` (as None, of an ideal machine) are on no curve; the figure says how many.

    Args:
        frame: see ``load_sweep``.
        x, y: columns; a wide range of positive ``x`` gets a logarithmic axis.
        by: column with a curve for each value. panels: column with a panel for each.
        over: column of the seeds. level: of the bands.

    Raises:
        ConfigError: unknown columns, or columns without numbers.
    """
    kept = with_value(with_value(frame, y), x)
    low, high = float(kept[y].min()), float(kept[y].max())

    def draw(axes: Axes, part: Any) -> None:
        for index, (label, rows) in enumerate(_groups(part, by)):
            found = confidence_intervals(rows, y, by=[x], over=over, level=level)
            colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index // len(_COLOURS) % len(_MARKERS)]
            axes.plot(found[x], found["mean"], marker=marker, markersize=4, color=colour, label=label)
            axes.plot(rows[x], rows[y], ".", color=colour, markersize=3, alpha=0.4)
            axes.fill_between(found[x], found["low"], found["high"], color=colour, alpha=0.18, linewidth=0)
        if _wide(kept[x]):
            axes.set_xscale("log")
        axes.set_ylim(
            low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0)
        )  # bands of two seeds are wide
        axes.set(xlabel=_named(x), ylabel=_named(y))
        _tidy(axes)

    figure = _multiples(_groups(kept, panels), panels, draw, size=(4.6, 3.4))
    notes = [_note(kept, {x, by, panels}, over, level), _left_out(frame, kept, x, y)]
    return _finished(figure, title, "; ".join(filter(None, notes)), by)


def pareto_figure(
    frame: pandas.DataFrame,
    x: str,
    y: str,
    *,
    by: str | None = None,
    panels: str | None = None,
    maximise: tuple[str, ...] = (),
    over: str = "seed",
    title: str | None = None,
) -> Figure:
    """Every config (means over the seeds) in the plane of two figures, and the front of those that none betters.

    Points that lack one of the two (as None bits, of an ideal machine) are not in it; the figure says how many.

    Args:
        frame: see ``load_sweep``.
        x, y: results; better when lower, unless named in ``maximise``.
        by: column by whose values points are coloured. panels: column with a panel for each.
        over: column of the seeds.

    Raises:
        ConfigError: unknown columns, or no numbers.
    """
    for name in maximise:
        require_column(frame, name)
    kept = with_value(with_value(frame, x), y)
    # configs are told apart by all that varies: a front of averages over settings is of no setting
    columns = list(dict.fromkeys([*varying(kept, over), *(c for c in (by, panels) if c is not None)]))

    def draw(axes: Axes, part: Any) -> None:
        a, b = (confidence_intervals(part, name, by=columns, over=over) for name in (x, y))
        for index, (label, rows) in enumerate(_groups(a, by)):
            colour = _COLOURS[index % len(_COLOURS)]
            axes.plot(rows["mean"], b.loc[rows.index, "mean"], "o", color=colour, markersize=5, alpha=0.8, label=label)
        front = pareto_front(a["mean"].to_numpy(), b["mean"].to_numpy(), maximise=(x in maximise, y in maximise))
        line: dict[str, Any] = {"color": "black", "linewidth": 1.0, "zorder": 0}
        axes.plot(
            a["mean"].iloc[front], b["mean"].iloc[front], "o-", markersize=9, fillstyle="none", label="front", **line
        )
        for values, scale in ((a["mean"], axes.set_xscale), (b["mean"], axes.set_yscale)):
            if _wide(values):
                scale("log")
        axes.set(xlabel=_named(x), ylabel=_named(y))
        _tidy(axes)

    better = [f"{name}: {'higher' if name in maximise else 'lower'} is better" for name in (x, y)]
    figure = _multiples(_groups(kept, panels), panels, draw, size=(4.6, 3.6))
    return _finished(figure, title, "; ".join(filter(None, [*better, _left_out(frame, kept, x, y)])), by)


def _multiples(
    parts: Sequence[tuple[str, Any]], what: str | None, draw: Callable[[Axes, Any], None], size: tuple[float, float]
) -> Figure:
    """A panel a part (title and what to draw), of one pair of axes; ``what`` tells the parts apart."""
    if len(parts) > _MOST_PANELS:
        raise ConfigError(f"panels: got {len(parts)} values of {what}, needed at most {_MOST_PANELS}")
    across = min(len(parts), 3)
    down = math.ceil(len(parts) / across)
    figure = Figure(figsize=(size[0] * across + 0.8, size[1] * down + 0.5), layout="constrained")
    all_axes = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    for index, (axes, (label, part)) in enumerate(zip(all_axes, parts, strict=False)):
        draw(axes, part)
        below = axes.get_xlabel()
        axes.label_outer()
        if index >= len(parts) - across:  # the last of its column, also above a gap
            axes.set_xlabel(below)
            axes.tick_params(labelbottom=True)
        if label:
            axes.set_title(label, fontsize=10)
    for axes in all_axes[len(parts) :]:
        axes.remove()
    return figure


def _groups(kept: Any, column: str | None) -> list[tuple[str, Any]]:
    """Rows by the values of a column, in their order, with a label each."""
    if column is None:
        return [("", kept)]
    require_column(kept, column)
    short = column.rpartition(".")[2]
    made = []
    for value in _ordered(kept[column]):
        rows = kept[kept[column].isna()] if _missing(value) else kept[kept[column] == value]
        made.append((_layer(value) if column == "layer" else f"{short} {_text(value)}", rows))
    return made


def _layer(value: Any) -> str:
    """A layer's name; of figures that are of no layer none."""
    return "" if value is None else str(value)


def _ordered(column: Any) -> list[Any]:
    """Values once each: numbers and texts by size, layers as they come, what is missing (often the ideal) last."""
    values = list(dict.fromkeys(None if _missing(v) else v for v in column))
    if column.name == "layer":
        return values
    return sorted(values, key=lambda v: (v is None, isinstance(v, str), 0 if v is None else v))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _named(column: str) -> str:
    """ "test error (%)" of "test_error_percent"."""
    unit = unit_of(column)
    words = column.rpartition("_")[0] if unit and "_" in column else column
    return words.replace("_", " ") + (f" ({unit})" if unit else "")


def _wide(values: Any) -> bool:
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    return bool(found.size) and float(found.min()) > 0 and float(found.max() / found.min()) >= 30


def _note(kept: Any, used: set[str | None], over: str, level: float | None) -> str:
    others = [n for n in varying(kept, over) if n not in used]
    seeds = f" and {over}" if over in kept and kept[over].nunique() > 1 else ""
    if others:
        text = f"mean over {', '.join(others)}{seeds}"
    else:
        text = f"mean over {over}" if seeds else ""
    return f"{text}; bands: {level:.0%} confidence of the mean" if level is not None and seeds else text


def _left_out(frame: Any, kept: Any, *columns: str) -> str:
    """Points that are done and in no row that is drawn, and which figure they lack."""
    shown = set(kept["point"])
    rows = frame[(frame["status"] == "done") & ~frame["point"].isin(shown)]
    counts = {}
    for column in columns:
        lacking = rows.groupby("point")[column].count() == 0
        if lacking.any():
            counts[column] = int(lacking.sum())
    return "; ".join(f"left out: {n} points without {column}" for column, n in counts.items())


def _finished(figure: Figure, title: str | None, note: str, by: str | None) -> Figure:
    labels: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labels.setdefault(label, handle)
    if by is not None and labels:
        figure.legend(labels.values(), labels.keys(), loc="outside right center", frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    if note:
        figure.supxlabel(note, fontsize=8, color=GREY)
    return figure
