"""The engine of many machines: jobs as tasks of dask.distributed, with unchanged user code.

On Slurm, one job that starts a scheduler and a worker a task (the `dask` command line, a file system that all see)::

    #!/bin/bash
    #SBATCH --ntasks=16 --cpus-per-task=2 --mem-per-cpu=2G --time=4:00:00
    export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
    dask scheduler --scheduler-file $SLURM_JOB_ID.json &
    srun dask worker --scheduler-file $SLURM_JOB_ID.json --nthreads 1 --nworkers 1 --no-dashboard &
    python my_sweep.py $SLURM_JOB_ID.json      # eqprop.sweep(run, points, out=..., engine=Client(scheduler_file=...))

A job that reaches its time limit is submitted again: what is recorded is not computed twice. GPUs: one worker each
(``srun --gpus-per-task=1``). `dask_jobqueue.SLURMCluster` does the same from Python, and grows and shrinks.

Limits of a point are kept by a thread of its worker, which ends the worker; its nanny starts another. What that means:

- The memory is that of the worker, which other points had before: some 0.45 GB before any, and what they left behind.
- A point that holds Python's lock and never gives it back stops that thread too. Dask gives up such a worker when it
  has not been heard of for ``distributed.scheduler.worker-ttl`` (5 minutes), and the point is tried once more: recorded
  as killed after twice that time, whatever ``timeout_seconds`` says. Engine "processes" ends it in time, from outside.
- A cluster of yours may have limits of its own (``--memory-limit`` of its workers): what they end is recorded as
  killed. The workers of engine="dask" have none.
- What a point starts (other processes) is neither counted nor ended.
- What a point prints goes where the worker's output goes, and not into the sweep's folder.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Generator
from typing import Any

from eqprop._errors import ConfigError
from eqprop._sweep_point import Job, Outcome
from eqprop._sweep_processes import process_context
from eqprop._sweep_worker import Watch, compute

_POLL_SECONDS = 0.1
_DYING_SECONDS = 15.0  # that a worker which ends itself is waited for; it may come back at the same address
_FETCH_SECONDS = 60.0  # of outcomes, small as they are; their worker may die before they are fetched


class Dask:
    """Computes jobs on a cluster.

    A worker that dies loses nothing: its points go to another. A point whose workers died is tried once more when
    nothing else runs, and recorded as killed if that one dies too. A point that outstays its limits ends its worker,
    which its nanny starts again.

    Args:
        client: of a cluster; None for workers on this machine, for the time of the sweep.
        n_jobs: workers of that.

    Attributes:
        n_jobs: as given; of a client the threads of its workers, at first sight.
        running: points that are being computed.
    """

    def __init__(self, client: Any, n_jobs: int) -> None:
        self.running, self._client = 0, client
        self.n_jobs = n_jobs if client is None else max(1, sum(client.nthreads().values()))
        self._topic = f"eqprop-sweep-{uuid.uuid4().hex}"

    def results(self, jobs: deque[Job]) -> Generator[tuple[Job, list[Outcome]] | None, None, None]:
        """As of ``Processes``."""
        if not jobs:
            return
        if self._client is not None:
            yield from self._results(self._client, jobs)
            return
        distributed = _distributed()
        import dask

        settings = {
            # a worker is given no task before it has ended the one before: what it dies of is the one that it had
            "distributed.scheduler.allowed-failures": 0,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.worker.multiprocessing-method": process_context(jobs[0].threads).get_start_method(),
        }
        with (
            dask.config.set(settings),
            distributed.LocalCluster(
                n_workers=self.n_jobs,
                threads_per_worker=1,
                memory_limit=0,  # none but those of the sweep
                dashboard_address=":0",  # None would be a fixed port, which another sweep here may have
                silence_logs=logging.CRITICAL,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield from self._results(client, jobs)

    def _results(self, client: Any, jobs: deque[Job]) -> Generator[tuple[Job, list[Outcome]] | None, None, None]:
        news: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        active: dict[str, tuple[Job, Any]] = {}
        begun: dict[str, float] = {}
        suspects: deque[Job] = deque()
        tried: set[str] = set()
        dying: dict[str, float] = {}  # workers that said so, by address: until when they are waited for
        client.subscribe_topic(self._topic, lambda event: news.put(tuple(event[1])))
        try:
            while jobs or active or suspects:
                if suspects and not jobs and not active:  # one at a time: what dies now is to blame
                    dying = _still_there(client, dying)
                    if dying:  # a point that went to one of them would die with it
                        time.sleep(_POLL_SECONDS)
                        yield None
                        continue
                    jobs.append(suspects.popleft())
                while jobs:
                    job = jobs.popleft()
                    key = f"{self._topic}-{job.name}-{uuid.uuid4().hex}"
                    future = client.submit(_on_cluster, job, self._topic, key, key=key, pure=False)
                    future.add_done_callback(lambda _, key=key: news.put(("end", key, None)))
                    active[key] = (job, future)
                self.running = sum(len(active[key][0].keys) for key in begun if key in active)
                try:
                    kind, key, detail = news.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    yield None
                    continue
                if key not in active:  # told before, as one that outstayed its limits
                    continue
                if kind == "begin":
                    begun[key] = time.monotonic()
                    continue
                job, future = active.pop(key)
                seconds = time.monotonic() - begun[key] if key in begun else None
                if kind != "end":
                    future.cancel()  # or it would be tried again elsewhere
                    message, address = detail
                    dying[address] = time.monotonic() + _DYING_SECONDS
                    yield job, job.failed(kind, message, seconds=seconds)
                    continue
                try:
                    found = future.result(timeout=_FETCH_SECONDS)
                except (Exception, asyncio.CancelledError) as error:  # what `run` raises comes as an outcome
                    if job.name in tried:
                        yield job, job.failed(*_why(error), seconds=seconds)
                    else:  # its worker died, perhaps through no fault of its own: again, later and alone
                        tried.add(job.name)
                        suspects.append(job)
                else:
                    yield job, found
        finally:
            self.running = 0
            client.unsubscribe_topic(self._topic)
            for _, future in active.values():
                future.cancel()


def _still_there(client: Any, dying: dict[str, float]) -> dict[str, float]:
    """Those that the scheduler has not missed yet."""
    if not dying:
        return {}
    known, now = client.nthreads(), time.monotonic()
    return {address: until for address, until in dying.items() if address in known and now < until}


def _why(error: BaseException) -> tuple[str, str]:
    """Status and message of a task that brought nothing back."""
    if type(error).__name__ == "KilledWorker":
        return "killed", "the workers that had it died, also the one that had nothing else"
    return "error", f"{type(error).__name__}: {error}"


def _on_cluster(job: Job, topic: str, key: str) -> list[Outcome]:
    """What a worker of the cluster does."""
    worker = _distributed().get_worker()
    worker.log_event(topic, ["begin", key, None])
    with Watch(job.limits, lambda status, message: worker.log_event(topic, [status, key, [message, worker.address]])):
        outcomes = compute(job)
    # the most that the worker had may have been another point's
    return [dataclasses.replace(outcome, peak_memory_bytes=None) for outcome in outcomes]


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            "engine='dask': needs dask.distributed, which is not installed; write pip install 'eqprop[dask]'"
        ) from error
    return distributed


def is_client(engine: object) -> bool:
    """Whether that is a client of a cluster."""
    return any(cls.__name__ == "Client" and cls.__module__.startswith("distributed") for cls in type(engine).__mro__)
