"""Puts sweeps side by side: every figure of the settings that they share, as means over the seeds and differences."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import eqprop
from benchmarks._common import new_parser, run_main
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError
from eqprop._sweep_statistics import by_seed, interval, require_column, student_t
from eqprop._sweep_table import require_pandas

MODULE = "benchmarks.compare"


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser(
        MODULE,
        __doc__ or "",
        f"example:\n  python -m {MODULE} runs/map-ideal runs/map-chip --values test_error_percent\n\n"
        "Differences are to the first sweep, with their 95 % confidence interval: of the differences seed by seed\n"
        "where both have at least two seeds in common (how many, tell the pairs), else of Welch's t (unequal\n"
        "variances); of one seed there is none.",
    )
    made.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="folders of sweeps; the first is compared with"
    )
    made.add_argument("--values", metavar="COLUMN,COLUMN", help="figures to compare (default: all numbers they share)")
    made.add_argument("--by", metavar="COLUMN,COLUMN", help="settings to compare by (default: shared ones that vary)")
    made.add_argument("--level", type=float, default=0.95, help="of the confidence intervals")
    made.add_argument("--csv", metavar="FILE", type=Path, help="also write the table there")
    made.set_defaults(threads=None, record=None)
    return made


def comparison(
    frames: dict[str, Any], values: Sequence[str] | None = None, by: Sequence[str] | None = None, level: float = 0.95
) -> Any:
    """A row a setting and figure; of each sweep ``n`` (seeds), mean and half interval, and the difference to the first.

    What two sweeps have by the same seeds shares initial weights, data and chips, so that their differences vary less
    than either: where they share two seeds or more, the difference is the mean of those of the pairs, with Student's
    interval, and ``pairs`` counts them; else it is that of the means, with Welch's.

    Args:
        frames: tables (see ``eqprop.load_sweep``) by the names of the sweeps.
        values: figures; None for all numbers that they share.
        by: columns by which they are compared; None for those that they share and that vary, but the seed.
        level: of the intervals.

    Raises:
        ConfigError: fewer than two sweeps, nothing in common, or unknown columns.
    """
    pandas = require_pandas()
    if len(frames) < 2:
        raise ConfigError("compare: got one sweep, needed at least two folders; write python -m benchmarks.compare A B")
    tables = list(frames.values())
    for name in (*(values or ()), *(by or ())):
        for frame in tables:
            require_column(frame, name)
    everything = pandas.concat([f.assign(**{_SWEEP: n}) for n, f in frames.items()], ignore_index=True)
    keys = _shared_settings(tables, everything) if by is None else list(by)
    names = _shared_figures(tables) if values is None else list(values)
    if not names:
        raise ConfigError("compare: these sweeps share no figure; needed results by the same names")
    rows = []
    for value in names:
        kept = everything[everything[value].notna()]
        for key, group in kept.groupby(keys, dropna=False, sort=True) if keys else [((), kept)]:
            parts = {n: by_seed(group[group[_SWEEP] == n], value) for n in frames}
            if sum(len(p) > 0 for p in parts.values()) > 1:
                shown = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
                rows.append(shown | {"figure": value} | _side_by_side(parts, level))
    if not rows:
        raise ConfigError(f"compare: no setting is in two of these sweeps (compared by {', '.join(keys) or 'nothing'})")
    return pandas.DataFrame(rows)


_SWEEP = "the sweep"


def _side_by_side(parts: dict[str, Any], level: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    first = next(iter(parts.values()))
    for index, (name, found) in enumerate(parts.items()):
        mean, _, half = interval(found.to_numpy(), level)
        row |= {f"{name}: n": len(found), f"{name}: mean": mean, f"{name}: ±": half}
        if index:
            pairs, difference, half = _difference(first, found, level)
            row |= {f"{name}: difference": difference, f"{name}: difference ±": half, f"{name}: pairs": pairs}
    return row


def _difference(first: Any, other: Any, level: float) -> tuple[int, float, float]:
    """Pairs, difference and half its interval, of two series by seed."""
    shared = first.index.intersection(other.index)  # rows without seeds are numbered through, and share nothing
    if len(shared) > 1:
        mean, _, half = interval((other[shared] - first[shared]).to_numpy(), level)
        return len(shared), mean, half
    a, b = first.to_numpy(), other.to_numpy()
    return 0, interval(b, level)[0] - interval(a, level)[0], welch(a, b, level)


def welch(a: np.ndarray, b: np.ndarray, level: float) -> float:
    """Half the confidence interval of the difference of two means with unequal variances; NaN for one value in one."""
    if min(len(a), len(b)) < 2:
        return math.nan
    u, v = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if u + v == 0.0:
        return 0.0
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return student_t(level, freedom) * math.sqrt(u + v)


def _shared_settings(tables: list[Any], everything: Any) -> list[str]:
    shared = [c for c in tables[0].attrs["config"] if all(c in t.attrs["config"] for t in tables) and c != "seed"]
    # what is fixed within every sweep tells sweeps apart, not settings
    varies = [c for c in shared if any(t[c].nunique(dropna=False) > 1 for t in tables)]
    layered = all("layer" in t for t in tables) and everything["layer"].notna().any()
    return varies + (["layer"] if layered else [])


def _shared_figures(tables: list[Any]) -> list[str]:
    def numbers(frame: Any) -> set[str]:
        return {
            c
            for c in frame.attrs["results"]
            if (kept := frame[c].dropna()).size and all(isinstance(v, int | float | np.number) for v in kept)
        }

    common = set.intersection(*(numbers(t) for t in tables))
    return [c for c in tables[0].attrs["results"] if c in common]


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names: the folder's, or as much of its path as tells it from the others."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("compare: got the same folder twice, needed two sweeps")


def main(arguments: argparse.Namespace) -> None:
    """Print, and write with --csv."""
    frames = {n: eqprop.load_sweep(f) for n, f in zip(names_of(arguments.folders), arguments.folders, strict=True)}
    wanted = {
        name: getattr(arguments, name).split(",") if getattr(arguments, name) else None for name in ("values", "by")
    }
    table = comparison(frames, **wanted, level=arguments.level)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    for name, frame in frames.items():
        failed = int(frame.drop_duplicates("point")["status"].ne("done").sum())
        if failed:
            print(f"{name}: {failed} points failed and are not in the means")
    if arguments.csv:
        atomic_write(arguments.csv, table.to_csv(index=False).encode(), "the comparison")


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
