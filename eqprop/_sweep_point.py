"""A point of a sweep, the job that computes one or several, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from eqprop._errors import ConfigError

Run = Callable[[Any], Mapping[str, Any]]
RunMany = Callable[[list[Any]], Sequence[Mapping[str, Any] | BaseException]]
STATUSES = ("done", "error", "timeout", "killed", "memory")


@dataclass(frozen=True)
class Point:
    """A config, as object and as JSON, under its key."""

    key: str
    config: Any
    plain: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes:
        status: "done", or why not: "error" (it raised), "timeout", "killed" (its process ended), "memory".
        result: plain JSON of what ``run`` returned.
        message, traceback: of a failure; where the process could not raise, what it printed last.
        wall_seconds: of the point, or its share of the batch it was run with.
        peak_memory_bytes: of its process; None where that is not its own.
        members: points that were run together.
    """

    key: str
    status: str = "done"
    result: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    traceback: str = ""
    wall_seconds: float | None = None
    peak_memory_bytes: int | None = None
    members: int = 1


@dataclass(frozen=True)
class Limits:
    """What a point may take; None for as much as it likes."""

    timeout_seconds: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "memory_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name}: got {value!r}, needed a number above 0, or None for no limit")


@dataclass(frozen=True)
class Job:
    """Points that one process computes, one after another or together.

    Attributes:
        keys, configs: of the points.
        run: for one config.
        run_many: for all configs at once; None to call ``run`` with the only one.
        threads: of the CPU.
        limits: of the whole job.
        folder: of the sweep, for processes on the same machine; None elsewhere.
        gpu: what the process sees as its only GPU; None to leave that as it is.
    """

    keys: tuple[str, ...]
    configs: tuple[Any, ...]
    run: Run
    run_many: RunMany | None = None
    threads: int = 1
    limits: Limits = Limits()
    folder: str | None = None
    gpu: str | None = None

    @property
    def name(self) -> str:
        """The first key: names its log and its process."""
        return self.keys[0]

    def failed(self, status: str, message: str, traceback: str = "", seconds: float | None = None) -> list[Outcome]:
        """Outcomes of a job that failed as a whole."""
        n = len(self.keys)
        each = None if seconds is None else seconds / n
        return [
            Outcome(key, status, message=message, traceback=traceback, wall_seconds=each, members=n)
            for key in self.keys
        ]


def plain_result(value: Any, where: str = "the result") -> Any:
    """What ``run`` returned as JSON; one number in a tensor or an array becomes a number, several a list.

    Raises:
        ConfigError: something that is no mapping, or holds what JSON cannot; names it.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_result(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_result(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ConfigError(
        f"{where}: got {type(value).__name__}, needed numbers, texts, None, tensors, lists, and mappings from names to "
        "these; return {'name_unit': number, ...}"
    )
