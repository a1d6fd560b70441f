"""Means over seeds with confidence intervals, and fronts of what no other point betters in one of two figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eqprop._errors import ConfigError
from eqprop._names import lookup

if TYPE_CHECKING:
    import pandas


def confidence_intervals(
    frame: pandas.DataFrame,
    value: str,
    *,
    by: Sequence[str] | None = None,
    over: str = "seed",
    level: float = 0.95,
) -> pandas.DataFrame:
    """Mean over the seeds of each config, with the interval ``mean +- t(level, n - 1) std / sqrt(n)`` (Student's t).

    The interval is of the mean, for draws that are about normal; of one seed there is none (NaN). What else varies
    within a config (settings or layers that ``by`` leaves out) is averaged within each seed first: it is no draw.

    Args:
        frame: see ``load_sweep``; rows without the figure (failed points, other layers) do not count.
        value: column to average.
        by: columns that tell configs apart; None for those of the config that vary, but ``over``, and ``layer``.
        over: column that is averaged over.
        level: share of such intervals that hold the true mean.

    Returns:
        A row a config: ``by``, ``n`` (seeds), ``mean``, ``std`` (of the seeds, with n - 1), ``low``, ``high``.

    Raises:
        ConfigError: unknown columns, one without numbers, or a level outside 0 to 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: got {level!r}, needed a share between 0 and 1, as 0.95")
    kept = with_value(frame, value)
    columns = varying(kept, over) if by is None else list(by)
    for name in columns:
        require_column(frame, name)
    rows = []
    groups = kept.groupby(columns, dropna=False, sort=True) if columns else [((), kept)]
    for key, group in groups:
        found = by_seed(group, value, over).to_numpy()
        mean, std, half = interval(found, level)
        shown = dict(zip(columns, key if isinstance(key, tuple) else (key,), strict=True))
        rows.append(shown | {"n": len(found), "mean": mean, "std": std, "low": mean - half, "high": mean + half})
    made: pandas.DataFrame = type(frame)(rows, columns=[*columns, "n", "mean", "std", "low", "high"])
    return made


def by_seed(frame: Any, value: str, over: str = "seed") -> Any:
    """A series of a value a seed, its mean over whatever else varies; of a value a row where there are no seeds."""
    numbers = frame[value].astype(np.float64)
    if over not in frame or frame[over].isna().all():
        return numbers
    return numbers.groupby(frame[over], dropna=False).mean()


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean, standard deviation (with n - 1), and half the confidence interval of the mean; NaN for one value."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return mean, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    return mean, std, student_t(level, n - 1) * std / math.sqrt(n)


def student_t(level: float, freedom: float) -> float:
    """Where Student's t is, in size, below it with probability ``level``."""
    from scipy.special import stdtrit  # scipy takes long to import

    return float(stdtrit(freedom, 0.5 + level / 2))


def pareto_front(x: np.ndarray, y: np.ndarray, *, maximise: tuple[bool, bool] = (False, False)) -> np.ndarray:
    """Indices of the points that no other betters in one of ``x`` and ``y`` and equals in the other; by rising ``x``.

    Both are better when lower, unless ``maximise`` says otherwise. NaNs are on no front.
    """
    a, b = (-v if up else v for v, up in zip((np.asarray(x, float), np.asarray(y, float)), maximise, strict=True))
    order = [int(i) for i in np.lexsort((b, a)) if np.isfinite(a[i]) and np.isfinite(b[i])]
    front: list[int] = []
    best, at = math.inf, math.nan
    for i in order:
        if b[i] < best or (b[i] == best and a[i] == at):  # equal points are all on it
            front.append(i)
            best, at = float(b[i]), float(a[i])
    return np.array(sorted(front, key=lambda i: float(x[i])), dtype=np.int64)


def varying(frame: Any, *but: str) -> list[str]:
    """Columns of the config that have more than one value, and ``layer`` where that is given."""
    names = [n for n in frame.attrs.get("config", []) if n in frame and frame[n].nunique(dropna=False) > 1]
    names += ["layer"] if "layer" in frame and frame["layer"].notna().any() else []
    return [n for n in names if n not in but]


def with_value(frame: Any, value: str) -> Any:
    """The rows in which a figure stands. Raises ConfigError for a column that is unknown or has no numbers."""
    require_column(frame, value)
    kept = frame[frame[value].notna()]
    if kept.empty or not all(isinstance(v, bool | int | float | np.number) for v in kept[value]):
        raise ConfigError(f"{value}: got a column without {'values' if kept.empty else 'numbers'}, needed numbers")
    return kept


def require_column(frame: Any, name: str) -> None:
    """Raises ConfigError for an unknown column, with the nearest right one."""
    lookup("column of the sweep", name, {str(n): n for n in frame.columns})
