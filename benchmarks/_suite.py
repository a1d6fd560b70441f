"""Suites of rows: each row and seed is a run folder of its own, trained once and gone on with where it stopped."""

from __future__ import annotations

import fnmatch
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

import eqprop
from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError, DataError, TrainingError


class _Named(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=_Named)


def matching(rows: Sequence[R], patterns: Sequence[str], example: str) -> list[R]:
    """The rows whose names match a pattern.

    Raises:
        ConfigError: patterns that match none; ``example`` is one that would.
    """
    chosen = [row for row in rows if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
    if patterns and not chosen:
        raise ConfigError(
            f"--rows: got {' '.join(patterns)}, which match none of {', '.join(row.name for row in rows)}; write "
            f"--rows '{example}'"
        )
    return chosen


def finished(folder: Path) -> int:
    """Epochs of the finished run in a folder; 0 where there is none."""
    path = folder / "result.json"
    return int(json.loads(path.read_bytes())["epochs"]) if path.exists() else 0


def trained(
    network: Any,
    rule: eqprop.Rule,
    optimizer: torch.optim.Optimizer,
    data: eqprop.DataSplits,
    folder: Path | None,
    **options: Any,
) -> tuple[eqprop.Trainer, str]:
    """The trainer when it is done, and why it stopped before its time: "" where it did not.

    A run that cannot succeed any more, and changes of weights that no cell can take (NaN), are results like others.
    What is wrong with the data themselves ends a run too, and the test after it. Without a folder it leaves no files,
    and begins anew.
    """
    under_way = folder is not None and (folder / "checkpoint").exists()
    trainer = eqprop.Trainer(
        network,
        rule,
        optimizer,
        data,
        out=folder,
        resume=under_way,
        overwrite=not under_way,
        checkpoint_every_steps=None if folder is None else 500,
        **options,
    )
    try:
        trainer.fit()
    except TrainingError as error:
        return trainer, str(error)
    except DataError as error:
        return trainer, f"Training stopped in epoch {trainer.epoch + 1}, step {trainer.step + 1}: {error}"
    return trainer, ""


def keep(folder: Path, record: dict[str, Any]) -> None:
    """Write the result of a row and seed, which makes them finished, and say so."""
    atomic_write(folder / "result.json", json.dumps(record, indent=1).encode(), "the result of a row")
    print(
        f"{record['row']} seed {record['seed']}: {record['accuracy_percent']:.2f} %, {record['seconds']:.0f} s "
        f"{record['stopped']}",
        flush=True,
    )


def results(out: Path) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Finished runs by row: their folders and records."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path in sorted(out.glob("*/*/seed*/result.json")):
        record = json.loads(path.read_bytes())
        found.setdefault(record["row"], []).append((path.parent, record))
    return found


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one."""
    return statistics.stdev(values) if len(values) > 1 else None


def first_cells(line: dict[str, Any]) -> list[str]:
    """The cells with which the line of a row begins: group, row, seeds and epochs, accuracy."""
    spread = line["accuracy_deviation"]
    return [
        line["group"],
        line["row"],
        f"{line['seeds']} x {line['epochs']}" + (" (stopped)" if line["stopped"] else ""),
        f"{line['accuracy_percent']:.2f}" + ("" if spread is None else f" +- {spread:.2f}"),
    ]


def cell(value: float | None) -> str:
    """A number in a table."""
    return "" if value is None else f"{value:.3f}"
