"""Sweeps: a function over many configs, in many processes, that survives crashes, bad points and being killed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqprop._errors import ConfigError, RunFolderError
from eqprop._grid import fitted, require_config
from eqprop._sweep_config import code_version, plain, point_key, run_name
from eqprop._sweep_dask import Dask, is_client
from eqprop._sweep_folder import SweepFolder, SweepWarning
from eqprop._sweep_lock import only_sweep
from eqprop._sweep_point import Job, Limits, Outcome, Point, Run, RunMany
from eqprop._sweep_processes import Processes
from eqprop._sweep_progress import SweepProgress
from eqprop._sweep_table import load_sweep, show_failed, write_tables

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        folder: of the sweep.
        points: asked for, each counted once.
        computed: of these, in this call.
        done, failed: of these, so recorded now.
        configs: of these, by key (the column ``point`` of the table).
    """

    folder: Path
    points: int
    computed: int
    done: int
    failed: int
    configs: dict[str, Any] = field(repr=False)

    def table(self) -> pandas.DataFrame:
        """See ``load_sweep``."""
        return load_sweep(self.folder)


def sweep(
    run: Run,
    points: Iterable[Any],
    *,
    out: str | Path,
    n_jobs: int | None = None,
    engine: Any = "processes",
    timeout_seconds: float | None = None,
    memory_bytes: int | None = None,
    retry_failed: bool = False,
    version: str | None = None,
    threads: int = 1,
    gpus: Sequence[int | str] = (),
    run_many: RunMany | None = None,
    together: Callable[[Any], Hashable] | None = None,
    members: int = 32,
    completed: Callable[[Any], Any] | None = None,
    progress: bool = True,
) -> SweepReport:
    """Compute ``run(config)`` for every config that is not yet recorded in the folder ``out``.

    ::

        @dataclass(frozen=True)
        class Config:
            beta: float = 0.1
            seed: int = 0

        def run(config: Config) -> dict:
            ...
            return {"test_error_percent": 2.1, "gradient_cosine": {"hidden1": 0.99, "output": 1.0}}

        if __name__ == "__main__":
            eqprop.sweep(run, eqprop.grid(Config, beta=[0.1, 0.2], seed=range(5)), out="runs/map", n_jobs=2)

    **Files.** ``points/KEY.json`` holds a point's config, result and cost, or its traceback; ``table.csv`` and
    ``table.h5`` all of them (``load_sweep``); ``logs/KEY.txt`` what a point printed. Each file is written whole or not
    at all, by this process alone, which holds the folder's lock: kill any of its processes, at any time, call it again,
    and it computes what is missing. More points may join a folder; another function or class of config may not.

    **Failures.** A point that raises, hangs, dies or outgrows its memory is recorded as such, and the others go on.
    Programs and processes that it started end with it, however it ends.

    **Version.** The key of a point is a hash of its config and of ``version``: by default the version of this package,
    the name of ``run``, and its and ``run_many``'s source (not comments and layout). A point of another version is not
    this point: it is computed again, and the old file is kept, but not in the table. What ``run`` calls is not looked
    into: no hash of files can tell a change that matters from one that does not, and to throw away hours of results for
    a comment in a helper is no service. So say it: ``version="2"`` when such a change matters, or a fixed ``version``
    to keep what is there though ``run`` was edited. A point's file also notes the commit that it was computed by
    (``code``; "+" for a checkout with changes), and points of several commits are warned of.

    Args:
        run: a function at the top level of a module: config -> dict of numbers and texts, with units in the names; a
            mapping from layers to numbers for figures by layer. Series (lists) are kept in the point's file only.
        points: frozen dataclasses, as ``grid``, ``zipped`` and ``random_points`` return.
        out: folder of the sweep.
        n_jobs: processes at a time; None for one, or one a GPU.
        engine: "processes" of this machine, each made for its job; "dask" for ``n_jobs`` workers of dask.distributed on
            this machine; or a ``distributed.Client`` of a cluster, which has workers of its own (with a client, ``run``
            must be importable there). A recipe for Slurm, and how far limits reach there, is in
            ``eqprop/_sweep_dask.py``; what points print is kept by "processes" alone.
        timeout_seconds: wall time of a point.
        memory_bytes: resident memory of a point's process (of which Python and torch take about 0.3 GB) and of what it
            started.
        retry_failed: compute failed points again.
        version: of the code, in place of the default.
        threads: of the CPU, a process. Results then do not depend on ``n_jobs``.
        gpus: ids, handed out to the processes, each of which sees one (as ``cuda``); one given twice is shared.
        run_many: ``list of configs -> list of dicts`` (an exception for a member that failed) of points that are run
            together, as one batched relaxation. Its limits are those of a point, the time multiplied by their number.
            If it fails as a whole, its points are run one by one.
        together: points for which this gives the same value may be run together; None for all.
        members: most points that are run together; fewer where processes would have nothing to do.
        completed: config -> config, which fills in what depends on other fields, before a point gets its key: what is
            filled in and what is written out are then one point.
        progress: a line with points done, failed and running, and the time left.

    Raises:
        ConfigError: no points, configs that JSON cannot hold, a function that other processes cannot find.
        RunFolderError: the folder holds something else, or another process sweeps in it.

    Warns:
        SweepWarning: files of points that are damaged; they are kept as KEY.damaged and their points computed again.
            Points that were computed by several states of the code.
    """
    version = code_version(run, run_many) if version is None else version
    every = _points(points, version, completed)
    workers = _engine(engine, n_jobs, [str(gpu) for gpu in gpus])
    for name, value in (("threads", threads), ("members", members)):
        _require_count(name, value)
    template = Job((), (), run, threads=threads, limits=Limits(timeout_seconds, memory_bytes), folder=str(Path(out)))
    name, config = run_name(run), type(next(iter(every.values())).config).__qualname__.rpartition(".")[2]
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; a sweep needs a folder. Choose another one (out=..., --out).")
    SweepFolder.check(folder, run=name, config=config)  # before anything is made in it
    folder.mkdir(parents=True, exist_ok=True)
    with only_sweep(folder):
        held = SweepFolder.create(folder, run=name, config=config, version=version)
        recorded = held.read()
        for path, why in held.damaged.items():
            kept = held.set_aside(path)
            warnings.warn(
                f"{path} is damaged ({why}); it is kept as {kept.name}, and its point is computed again",
                SweepWarning,
                stacklevel=2,
            )
        statuses = {key: recorded[key].outcome.status for key in every if key in recorded}
        again = {key for key, status in statuses.items() if status != "done"} if retry_failed else set()
        missing = [point for key, point in every.items() if key not in statuses or key in again]
        done = sum(status == "done" for status in statuses.values())
        shown = SweepProgress(progress, len(every), done, len(statuses) - done - len(again))
        if held.others:
            shown.say(f"{folder}: {held.others} points of another version of the code are kept, but not in the table")
        computed = 0
        try:
            jobs = _jobs(missing, template, run_many, together, members, workers.n_jobs)
            with contextlib.closing(workers.results(jobs)) as results:  # closed: no process is left
                for found in results:
                    if found is not None:
                        job, outcomes = found
                        computed += _record(held, every, jobs, job, outcomes, shown, template)
                    shown.show(workers.running)
        finally:  # also after Ctrl-C: the table of what there is
            shown.close()
            recorded = held.read()
            if recorded:
                write_tables(held, recorded.values())
    mine = {key: recorded[key] for key in every if key in recorded}
    codes = sorted({r.code for r in mine.values() if r.code is not None})
    if len(codes) > 1:
        warnings.warn(
            f"{folder} has points that were computed by several states of the code ({', '.join(codes)}; "
            "points/KEY.json has each one's); if the changes between them matter, compute all again with version='2' "
            "(--code-version 2)",
            SweepWarning,
            stacklevel=2,
        )
    failed = sum(r.outcome.status != "done" for r in mine.values())
    if failed:
        advice = "retry_failed=True (--retry-failed) runs them again; points/KEY.json has the traceback"
        shown.say(f"{folder}: {failed} of {len(every)} points failed; {advice}\n{show_failed(mine)}")
    return SweepReport(
        folder, len(every), computed, len(mine) - failed, failed, {key: point.config for key, point in every.items()}
    )


def _points(points: Iterable[Any], version: str, completed: Callable[[Any], Any] | None = None) -> dict[str, Point]:
    """By key, each once."""
    found: dict[str, Point] = {}
    kinds: set[type] = set()
    for config in points:
        require_config(config)
        if isinstance(config, type):
            raise ConfigError("points: got a class, needed its objects; write eqprop.grid(Config, beta=[0.1, 0.2])")
        config = fitted(config)
        if completed is not None:
            config = fitted(completed(config))
        kinds.add(type(config))
        spec = plain(config, type(config).__name__)
        key = point_key(spec, version)
        found.setdefault(key, Point(key, config, spec))
    if not found:
        raise ConfigError("points: got none, needed at least one; write eqprop.grid(Config, beta=[0.1, 0.2])")
    if len(kinds) > 1:
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(f"points: got configs of {names}, needed one class; sweep each in a folder of its own")
    return found


def _engine(engine: Any, n_jobs: int | None, gpus: list[str]) -> Processes | Dask:
    if n_jobs is not None:
        _require_count("n_jobs", n_jobs)
    if gpus and engine != "processes":
        raise ConfigError("gpus: got ids for workers of dask; start each of them with CUDA_VISIBLE_DEVICES set")
    if gpus and n_jobs is not None and n_jobs > len(gpus):
        raise ConfigError(f"n_jobs: got {n_jobs} for {len(gpus)} gpus; give an id twice to share it, as gpus=(0, 0)")
    if is_client(engine):
        return Dask(engine, 0)
    if engine == "dask":
        return Dask(None, n_jobs or 1)
    if engine != "processes":
        raise ConfigError(f"engine: got {engine!r}, needed 'processes', 'dask' or a distributed.Client")
    return Processes(n_jobs or len(gpus) or 1, gpus)


def _require_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, needed a whole number of at least 1")


def _jobs(
    points: list[Point],
    template: Job,
    run_many: RunMany | None,
    together: Callable[[Any], Hashable] | None,
    members: int,
    n_jobs: int,
) -> deque[Job]:
    if run_many is None:
        return deque(_job([point], template) for point in points)
    groups: dict[Hashable, list[Point]] = {}
    for point in points:
        groups.setdefault(None if together is None else together(point.config), []).append(point)
    parts = {key: math.ceil(len(group) / members) for key, group in groups.items()}
    while sum(parts.values()) < min(n_jobs, len(points)):  # no process without a job
        largest = max(groups, key=lambda key: len(groups[key]) / parts[key])
        parts[largest] += 1
    batches = [batch for key, group in groups.items() for batch in _split(group, parts[key])]
    batches.sort(key=len, reverse=True)  # what takes longest begins first
    return deque(_job(batch, template, run_many) for batch in batches)


def _split(group: list[Point], parts: int) -> list[list[Point]]:
    """In as many parts, whose sizes differ by one at most."""
    ends = [len(group) * i // parts for i in range(parts + 1)]
    return [group[a:b] for a, b in itertools.pairwise(ends)]


def _job(batch: list[Point], template: Job, run_many: RunMany | None = None) -> Job:
    limit = template.limits.timeout_seconds
    limits = dataclasses.replace(template.limits, timeout_seconds=None if limit is None else limit * len(batch))
    keys, configs = tuple(p.key for p in batch), tuple(p.config for p in batch)
    return dataclasses.replace(template, keys=keys, configs=configs, run_many=run_many, limits=limits)


def _record(
    folder: SweepFolder,
    every: dict[str, Point],
    jobs: deque[Job],
    job: Job,
    outcomes: list[Outcome],
    shown: SweepProgress,
    template: Job,
) -> int:
    """Write what became of a job's points; a batch that failed is put back, point by point."""
    if job.run_many is not None and all(o.status != "done" for o in outcomes):
        jobs.extend(_job([every[key]], template) for key in job.keys)
        return 0
    for outcome in outcomes:
        folder.write(every[outcome.key], outcome)
        shown.done += outcome.status == "done"
        shown.failed += outcome.status != "done"
    return len(outcomes)
