"""Sweeps: bad points, kills at random moments, what a folder refuses; the table is that of an undisturbed sweep."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pebble
import pytest

import eqprop
from benchmarks._kills import _Folder, descendants, files, kill_parent, kill_tree, killed_sweep
from eqprop import ConfigError, RunFolderError, SweepWarning, _sweep_config, _sweep_folder
from eqprop._sweep import _jobs
from eqprop._sweep_config import code_state, code_version
from eqprop._sweep_folder import SweepFolder
from eqprop._sweep_group import resident_bytes
from eqprop._sweep_lock import LOCK
from eqprop._sweep_point import Job, Limits, Point
from eqprop._sweep_processes import Processes, process_context
from eqprop._sweep_progress import SweepProgress
from tests import sweep_points
from tests.sweep_points import Config, OtherConfig, Part, run, run_many, run_other

POINTS = eqprop.grid(Config, beta=[0.1, 0.2, 0.3], seed=range(2), **{"part.adc_bits": [8, 10]})
QUIET: dict[str, Any] = {"progress": False}


def statuses(out: Path) -> dict[str, str]:
    """By what the point was told to do."""
    return {r.config["what"]: r.outcome.status for r in SweepFolder.open(out).read().values()}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep."""
    out = tmp_path_factory.mktemp("calm")
    report = eqprop.sweep(run, POINTS, out=out, n_jobs=2, **QUIET)
    assert (report.points, report.computed, report.done, report.failed) == (12, 12, 12, 0)
    return out


# -- bad points ------------------------------------------------------------------------------------------------------

BAD = {
    "raise": ("error", "ValueError: a bad point"),
    "hang": ("timeout", "not finished after 8 s"),
    "hold": ("timeout", "not finished after 8 s"),
    "die": ("killed", "SIGKILL"),
    "leave": ("killed", "status 0"),
    "exit": ("error", "SystemExit: 3"),
    "grow": ("memory", "MiB, more than"),
    "no memory": ("memory", "DefaultCPUAllocator"),
    "no result": ("error", "needed a dict"),
    "object": ("error", r"the result\['value'\]: got object"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with every kind of bad point, and a good one at the end."""
    out = tmp_path_factory.mktemp("bad")
    points = eqprop.grid(Config, what=[*BAD, "compute"])
    limits: dict[str, Any] = {"timeout_seconds": 8, "memory_bytes": 1024 * 2**20}
    report = eqprop.sweep(run, points, out=out, n_jobs=3, **limits, **QUIET)
    assert (report.computed, report.done, report.failed) == (len(BAD) + 1, 1, len(BAD))
    return out


@pytest.mark.parametrize("what", BAD)
def test_a_bad_point_is_recorded_with_its_reason_and_the_others_go_on(bad: Path, what: str) -> None:
    records = SweepFolder.open(bad).read().values()
    outcome = next(r.outcome for r in records if r.config["what"] == what)
    status, message = BAD[what]
    assert outcome.status == status
    assert any(part in outcome.message for part in message.replace("\\", "").split("|"))
    assert statuses(bad)["compute"] == "done"


def test_a_traceback_is_kept_and_a_hanging_point_tells_where_it_hung(bad: Path) -> None:
    outcomes = {r.config["what"]: r.outcome for r in SweepFolder.open(bad).read().values()}
    assert 'raise ValueError("a bad point")' in outcomes["raise"].traceback
    assert "about to hang" in outcomes["hang"].traceback and "sweep_points.py" in outcomes["hang"].traceback


DIED = ("killed", "workers that had it died")
# what holds Python's lock is ended by dask alone, after minutes
ON_DASK = {what: told for what, told in (BAD | {"die": DIED, "leave": DIED}).items() if what != "hold"}


@pytest.fixture(scope="module")
def bad_on_dask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on workers of dask, and a good point for each of them."""
    pytest.importorskip("distributed")
    out = tmp_path_factory.mktemp("bad-on-dask")
    points = eqprop.grid(Config, what=[*ON_DASK, "compute", "environment"])
    limits: dict[str, Any] = {"timeout_seconds": 8, "memory_bytes": 1024 * 2**20}
    report = eqprop.sweep(run, points, out=out, engine="dask", n_jobs=2, **limits, **QUIET)
    assert (report.computed, report.done, report.failed) == (len(ON_DASK) + 2, 2, len(ON_DASK))
    return out


@pytest.mark.parametrize("what", ON_DASK)
def test_on_dask_a_bad_point_is_recorded_with_its_reason_too(bad_on_dask: Path, what: str) -> None:
    records = SweepFolder.open(bad_on_dask).read().values()
    outcome = next(r.outcome for r in records if r.config["what"] == what)
    status, message = ON_DASK[what]
    assert outcome.status == status and message.replace("\\", "") in outcome.message


def test_on_dask_the_memory_of_a_worker_is_no_points_own_and_has_no_other_limit(bad_on_dask: Path) -> None:
    outcomes = {r.config["what"]: r.outcome for r in SweepFolder.open(bad_on_dask).read().values()}
    assert all(outcome.peak_memory_bytes is None for outcome in outcomes.values())
    assert outcomes["environment"].result["dask_memory_limit"] == "None"


STARTED = {
    "child": "done",
    "child, hang": "timeout",
    "fork": "done",
    "fork, die": "killed",
    "fork, grow": "memory",
}


def test_what_a_point_starts_counts_and_ends_with_it(tmp_path: Path) -> None:
    marks, out = tmp_path / "marks", tmp_path / "s"
    points = eqprop.grid(Config, what=list(STARTED), marks=[str(marks)])
    eqprop.sweep(run, points, out=out, n_jobs=3, timeout_seconds=8, memory_bytes=1024 * 2**20, **QUIET)
    assert statuses(out) == STARTED
    assert len(children_of(marks)) == len(STARTED)
    await_true(lambda: all(resident_bytes(pid) in (None, 0) for pid in children_of(marks)), 5.0)


def test_a_forked_child_has_no_share_in_the_lock_of_workers(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    one = process_context(1).Process(  # type: ignore[attr-defined]
        target=sweep_points.leave_a_fork, args=(tmp_path / "lock", Config(what="fork", marks=str(marks)))
    )
    one.start()
    one.join()
    (child,) = children_of(marks)
    assert one.exitcode == 0 and resident_bytes(child)  # it outlives the worker
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(child, signal.SIGKILL)


def test_failed_points_run_again_only_when_asked(tmp_path: Path) -> None:
    flag = tmp_path / "marks"
    points = eqprop.grid(Config, what=["raise", "compute"], marks=[str(flag)])
    eqprop.sweep(run, points, out=tmp_path / "s", **QUIET)
    assert eqprop.sweep(run, points, out=tmp_path / "s", **QUIET).computed == 0
    again = eqprop.sweep(run, points, out=tmp_path / "s", retry_failed=True, **QUIET)
    assert (again.computed, again.done, again.failed) == (1, 1, 1)
    assert len(flag.read_text().splitlines()) == 3


def test_memory_of_this_process_is_found_and_that_of_an_ended_one_is_none() -> None:
    used = resident_bytes(os.getpid())
    assert used is not None and 2**26 < used < 2**36
    assert resident_bytes(2**22 + 1) is None


# -- kills -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sweeping(points: list[Config], out: Path) -> Iterator[BaseProcess]:
    one = process_context(1).Process(target=sweep_points.sweep_alone, args=(points, out))  # type: ignore[attr-defined]
    one.start()
    try:
        yield one
    finally:
        one.kill()
        one.join()


def marks_of(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def children_of(path: Path) -> list[int]:
    """What points started."""
    found = path.with_suffix(".children")
    return [int(line) for line in found.read_text().splitlines()] if found.exists() else []


def await_true(condition: Any, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("killed", ["the whole tree", "the parent alone"])
def test_a_sweep_killed_at_random_moments_ends_with_the_table_of_an_undisturbed_one(
    tmp_path: Path, killed: str
) -> None:
    marks, out, calm = tmp_path / "marks", tmp_path / "killed", tmp_path / "calm"
    points = eqprop.grid(Config, beta=[0.1, 0.2], seed=range(7), marks=[str(marks)])

    def start() -> BaseProcess:
        one: BaseProcess = process_context(1).Process(  # type: ignore[attr-defined]
            target=sweep_points.sweep_alone, args=(points, out)
        )
        one.start()
        return one

    def tree(pid: int) -> int:  # its workers are forks of the tests' server, which is no child of its own
        return kill_tree(pid, lambda pid: {pid} | {int(mark[0]) for mark in marks_of(marks)})

    kill = tree if killed == "the whole tree" else kill_parent
    eqprop.sweep(run, points, out=calm, n_jobs=1, **QUIET)
    marks.unlink()
    found = killed_sweep(start, len(points), 2, kill, out=out, calm=calm, rng=random.Random(0), delay_seconds=0.1)
    assert found.kills == 2 and found.at[0] >= 5 and found.at[1] >= 9
    assert (found.lost, found.twice, found.torn, found.tables) == (0, 0, 0, 0)
    assert len(list((out / "points").iterdir())) == len(points)  # and no temporary file


def test_what_kills_lose_and_tear_is_counted(tmp_path: Path, calm: Path) -> None:
    out = tmp_path / "s"
    shutil.copytree(calm, out)
    folder = _Folder(out)
    folder.look()
    lost, torn, *again, _ = files(out)
    lost.unlink()
    torn.write_text(torn.read_text()[:50])
    for path in again[:3]:
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    (out / "table.csv").write_text("")
    folder.look()
    torn.unlink()
    found = folder.found(len(POINTS), calm)
    assert (found.lost, found.twice, found.torn, found.tables) == (2, 4, 1, 1)  # what is torn was replaced too


def test_a_tree_of_processes_is_killed_whole() -> None:
    with subprocess.Popen(["bash", "-c", "(sleep 1234 & sleep 1234) & wait"], start_new_session=True) as one:
        await_true(lambda: len(descendants(one.pid)) == 4)
        family = descendants(one.pid)
        assert kill_tree(one.pid) == 4
    await_true(lambda: all(resident_bytes(pid) in (None, 0) for pid in family))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    points = eqprop.grid(Config, what=["child, hang"], seed=range(2), marks=[str(marks)])
    with sweeping(points, tmp_path / "s") as one:
        await_true(lambda: len(children_of(marks)) == 2)
        os.kill(one.pid, signal.SIGKILL)  # type: ignore[arg-type]
    pids = [int(mark[0]) for mark in marks_of(marks)] + children_of(marks)
    await_true(lambda: all(resident_bytes(pid) in (None, 0) for pid in pids), 20.0)


def test_an_interrupt_leaves_a_sound_folder_and_no_process(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
    marks, out = tmp_path / "marks", tmp_path / "s"
    points = eqprop.grid(Config, seed=[1, 2], marks=[str(marks)])
    points += eqprop.grid(Config, what=["child, hang"], marks=[str(marks)])

    def interrupt() -> None:
        await_true(lambda: len(marks_of(marks)) == 3 and children_of(marks))
        time.sleep(0.3)
        while not stopped.is_set():  # as a user does: one that falls into a destructor is lost
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            stopped.wait(15)

    stopped = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        eqprop.sweep(run, points, out=out, n_jobs=3, **QUIET)
    stopped.set()
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert statuses(out) == {"compute": "done"} and len(SweepFolder.open(out).read()) == 2
    assert len((out / "table.csv").read_text().splitlines()) > 2
    pids = [int(mark[0]) for mark in marks_of(marks)] + children_of(marks)
    await_true(lambda: all(resident_bytes(pid) in (None, 0) for pid in pids), 5.0)
    assert eqprop.sweep(run, points[:2], out=out, **QUIET).computed == 0  # the lock is free


@pytest.mark.parametrize("when", ["as it is launched", "when it is launched and not yet known"])
def test_an_interrupt_while_a_process_is_launched_ends_that_too(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    marks = tmp_path / "marks"
    points = eqprop.grid(Config, what=["child, hang"], seed=range(2), marks=[str(marks)])
    sweep = Processes(2).results(deque(Job((f"point-{c.seed}",), (c,), run) for c in points))
    launched: list[int] = []
    launch = pebble.common.process.launch_process

    def interrupted(*arguments: Any, **more: Any) -> Any:
        process: Any = launch(*arguments, **more)
        launched.append(process.pid)
        if len(launched) == 3:  # the first tries whether processes start
            await_true(lambda: len(children_of(marks)) == 2)
            if when != "as it is launched":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(pebble.common, "launch_process", interrupted)
    with pytest.raises(KeyboardInterrupt), contextlib.closing(sweep) as results:
        list(results)
    signal.signal(signal.SIGINT, before)
    pids = launched + children_of(marks)
    await_true(lambda: all(resident_bytes(pid) in (None, 0) for pid in pids), 5.0)
    assert len(pids) == 5 and not {p.pid for p in multiprocessing.active_children()} & set(launched)


def test_a_second_sweep_in_the_folder_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    out = tmp_path / "s"
    out.mkdir()
    with open(out / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"pid": 1234, "host": "here"}, file)
        file.flush()
        with pytest.raises(RunFolderError, match=r"another sweep is running.*process 1234 on here"):
            eqprop.sweep(run, POINTS, out=out, **QUIET)
    assert eqprop.sweep(run, POINTS[:1], out=out, **QUIET).done == 1


def test_on_dask_a_killed_worker_loses_nothing(tmp_path: Path, calm: Path) -> None:
    pytest.importorskip("distributed")
    marks, out = tmp_path / "marks", tmp_path / "dask"
    points = eqprop.grid(Config, beta=[0.1, 0.2, 0.3], seed=range(6), marks=[str(marks)])
    killed: list[int] = []

    def kill() -> None:
        await_true(lambda: len(marks_of(marks)) >= 4)
        killed.append(int(marks_of(marks)[-1][0]))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    report = eqprop.sweep(run, points, out=out, engine="dask", n_jobs=2, **QUIET)
    thread.join()
    messages = [r.outcome.message for r in SweepFolder.open(out).read().values() if r.outcome.status != "done"]
    assert killed and killed[0] != os.getpid() and report.done == len(points), messages
    eqprop.sweep(run, points, out=tmp_path / "calm", n_jobs=2, **QUIET)
    assert (out / "table.csv").read_bytes() == (tmp_path / "calm" / "table.csv").read_bytes()


# -- what is computed again, and what is not -------------------------------------------------------------------------


def test_no_point_is_computed_twice_and_more_points_may_join(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    few = eqprop.grid(Config, seed=range(2), marks=[str(marks)])
    more = eqprop.grid(Config, seed=range(4), marks=[str(marks)])
    assert eqprop.sweep(run, few + few, out=tmp_path / "s", **QUIET).points == 2
    report = eqprop.sweep(run, more, out=tmp_path / "s", **QUIET)
    assert (report.points, report.computed, report.done) == (4, 2, 4)
    assert Counter(mark[2] for mark in marks_of(marks)) == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_one_and_one_point_zero_are_one_point(tmp_path: Path) -> None:
    same = [Config(beta=1), Config(beta=1.0), *eqprop.grid(Config, beta=[1]), *eqprop.grid(Config, beta=[np.int64(1)])]
    nested = [Config(part=Part(noise=2)), Config(part=Part(noise=2.0))]
    assert eqprop.sweep(run, same + nested, out=tmp_path / "s", **QUIET).points == 2
    assert {type(r.config["beta"]) for r in SweepFolder.open(tmp_path / "s").read().values()} == {float}


def test_a_config_is_completed_before_it_gets_its_key(tmp_path: Path) -> None:
    def completed(config: Config) -> Config:
        return config if config.part else replace(config, part=Part(adc_bits=8))

    short, long = eqprop.grid(Config, seed=range(2)), eqprop.grid(Config, seed=range(2), part=[Part(adc_bits=8)])
    made = eqprop.sweep(run, short, out=tmp_path / "s", completed=completed, **QUIET)
    assert made.configs == eqprop.sweep(run, long, out=tmp_path / "s", **QUIET).configs and made.computed == 2
    records = SweepFolder.open(tmp_path / "s").read()
    assert set(records) == set(made.configs)
    assert {r.config["part"]["adc_bits"] for r in records.values()} == {8}
    together: dict[str, Any] = {"run_many": run_many, "together": lambda config: config.part.adc_bits}
    assert eqprop.sweep(run, short, out=tmp_path / "t", completed=completed, **together, **QUIET).done == 2


def test_points_of_another_version_of_the_code_are_computed_again_and_kept_apart(tmp_path: Path) -> None:
    out = tmp_path / "s"
    eqprop.sweep(run, POINTS[:2], out=out, version="1", **QUIET)
    assert eqprop.sweep(run, POINTS[:1], out=out, version="2", **QUIET).computed == 1
    assert len(SweepFolder.open(out).read()) == 1 and len(list((out / "points").iterdir())) == 3
    assert eqprop.sweep(run, POINTS[:2], out=out, version="1", **QUIET).computed == 0


def test_the_version_follows_the_source_of_run_but_not_its_comments() -> None:
    assert code_version(run) != code_version(run_other)
    assert "tests.sweep_points.run, source " in code_version(run)
    namespaces = []
    for body in ("    # a comment\n    return {'a':   1}\n", "    return {'a': 1}\n", "    return {'a': 2}\n"):
        namespaces.append(_compiled(f"def run(config):\n{body}"))
    same, also, other = (code_version(n) for n in namespaces)
    assert same == also != other


def test_the_version_follows_the_source_of_run_many() -> None:
    assert len({code_version(run), code_version(run, run_many), code_version(run, run_other)}) == 3


def test_points_of_several_states_of_the_code_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    for points, code in ((POINTS[:1], "a commit"), (POINTS[:2], "a commit"), (POINTS[:3], "another+")):
        monkeypatch.setattr(_sweep_folder, "code_state", lambda code=code: code)
        several = pytest.warns(SweepWarning, match=r"several states of the code \(a commit, another\+;")
        with several if code == "another+" else contextlib.nullcontext():
            assert eqprop.sweep(run, points, out=out, **QUIET).computed == 1
    assert sorted(str(r.code) for r in SweepFolder.open(out).read().values()) == ["a commit", "a commit", "another+"]


def test_a_point_notes_the_commit_of_the_checkout_or_the_version_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sweep_config, "commit_of_checkout", lambda: "0123456789ab+")
    assert code_state.__wrapped__() == "0123456789ab+"
    monkeypatch.setattr(_sweep_config, "commit_of_checkout", lambda: None)
    assert code_state.__wrapped__() == f"eqprop {eqprop.__version__}"


def _compiled(source: str) -> Any:
    import linecache

    name = f"<source {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    namespace: dict[str, Any] = {"__name__": "tests.compiled"}
    exec(compile(source, name, "exec"), namespace)
    return namespace["run"]


DAMAGES: dict[str, tuple[Any, str]] = {
    "truncated": (lambda text: text[:-40], r"damaged \(.*column"),
    "a number changed": (lambda text: text.replace("0.5", "0.6", 1), "its checksum is another"),
    "emptied": (lambda text: "", "Expecting value"),
    "a list": (lambda text: f"[{text}]", "is no mapping but a list"),
    "a key less": (
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "sha256"}),
        "lacks sha256",
    ),
    "another format": (lambda text: text.replace("sweep-point/1", "sweep-point/9"), "needed 'eqprop-sweep-point/1'"),
    "bytes": (lambda text: b"\x80" + text.encode(), "can't decode"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_point_is_named_kept_and_computed_again(tmp_path: Path, calm: Path, damage: str) -> None:
    out = tmp_path / "s"
    shutil.copytree(calm, out)
    whole = (out / "table.csv").read_bytes()
    path = sorted((out / "points").iterdir())[5]
    change, why = DAMAGES[damage]
    damaged = change(path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.warns(SweepWarning, match=path.name):
        assert len(set(eqprop.load_sweep(out)["point"])) == len(POINTS) - 1
    with pytest.warns(SweepWarning, match=f"{why}.*{path.stem}.damaged"):
        assert eqprop.sweep(run, POINTS, out=out, **QUIET).computed == 1
    assert path.with_suffix(".damaged").exists() and (out / "table.csv").read_bytes() == whole


def test_a_file_of_another_point_is_damaged_and_a_second_damage_is_kept_beside_the_first(
    tmp_path: Path, calm: Path
) -> None:
    out = tmp_path / "s"
    shutil.copytree(calm, out)
    first, other = sorted((out / "points").iterdir())[:2]
    for text, suffix in (("first", ".damaged"), ("second", ".damaged-2"), (other.read_text(), ".damaged-3")):
        first.write_text(text)
        why = f"is of point {other.stem}" if text.startswith("{") else "Expecting value"
        with pytest.warns(SweepWarning, match=f"{why}.*{first.stem}{suffix},"):
            eqprop.sweep(run, POINTS[:1], out=out, **QUIET)
        assert first.with_suffix(suffix).read_text() == text
    assert first.with_suffix(".damaged").read_text() == "first"


# -- several points at once, devices, progress -----------------------------------------------------------------------


def test_points_run_together_give_what_they_give_alone(tmp_path: Path) -> None:
    points = eqprop.grid(Config, seed=range(5), what=["compute", "raise"])
    eqprop.sweep(run, points, out=tmp_path / "s", run_many=run_many, together=lambda c: c.seed < 3, members=4, **QUIET)
    records = [r for r in SweepFolder.open(tmp_path / "s").read().values()]
    assert len(records) == 10
    for record in records:
        # of 6 points at most 4 together: 3 and 3; the other 4 make one batch
        assert record.outcome.members == (3 if record.config["seed"] < 3 else 4)
        if record.config["what"] == "raise":
            assert record.outcome.status == "error" and "one of them" in record.outcome.message
        else:
            assert record.outcome.result["together"] == record.outcome.members
            config = Config(seed=record.config["seed"])
            assert record.outcome.result["error_percent"] == run_other(config)["error_percent"]


def test_no_process_is_without_a_batch_also_of_what_is_missing(tmp_path: Path) -> None:
    points = eqprop.grid(Config, seed=range(9))
    settings: dict[str, Any] = {"out": tmp_path / "s", "run_many": run_many, "n_jobs": 2, **QUIET}
    eqprop.sweep(run, points[:5], **settings)
    assert sorted(batches(tmp_path / "s").values()) == [2, 2, 3, 3, 3]
    before = batches(tmp_path / "s").keys()
    eqprop.sweep(run, points, **settings)
    assert [n for key, n in batches(tmp_path / "s").items() if key not in before] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("sizes", "members", "n_jobs", "expected"),
    [
        ((7,), 32, 1, [7]),
        ((7,), 32, 3, [3, 2, 2]),
        ((3,), 32, 8, [1, 1, 1]),
        ((20, 2), 32, 4, [7, 7, 6, 2]),
        ((9,), 4, 2, [3, 3, 3]),
        ((1, 5), 32, 2, [5, 1]),
    ],
)
def test_groups_are_split_evenly(sizes: tuple[int, ...], members: int, n_jobs: int, expected: list[int]) -> None:
    points = [Point(f"{group}-{i}", group, {}) for group, n in enumerate(sizes) for i in range(n)]
    jobs = _jobs(points, Job((), (), run), run_many, lambda group: group, members, n_jobs)
    assert [len(job.keys) for job in jobs] == expected
    assert sorted(key for job in jobs for key in job.keys) == sorted(p.key for p in points)
    assert all(len(set(job.configs)) == 1 for job in jobs)


def batches(out: Path) -> dict[str, int]:
    """How many points each was run with."""
    return {key: r.outcome.members for key, r in SweepFolder.open(out).read().items()}


def test_points_of_a_batch_that_fails_as_a_whole_run_one_by_one(tmp_path: Path) -> None:
    points = eqprop.grid(Config, what=["compute", "sink", "raise"])
    report = eqprop.sweep(run, points, out=tmp_path / "s", run_many=run_many, **QUIET)
    assert statuses(tmp_path / "s") == {"compute": "done", "sink": "done", "raise": "error"} and report.computed == 3


def test_gpus_are_handed_out_and_threads_are_limited(tmp_path: Path) -> None:
    points = eqprop.grid(Config, seed=range(6), what=["environment"])
    eqprop.sweep(run, points, out=tmp_path / "s", gpus=(3, "5"), threads=2, **QUIET)
    results = [r.outcome.result for r in SweepFolder.open(tmp_path / "s").read().values()]
    assert {r["gpu"] for r in results} == {"3", "5"} and {r["threads"] for r in results} == {2}


def test_the_line_tells_done_failed_running_and_the_time_left() -> None:
    shown = SweepProgress(False, 60, 20, 10)
    assert shown.text(2, time.monotonic()).startswith("20 done, 10 failed, 2 running, ?")
    shown.done += 10
    assert shown.text(2, shown._begin + 30.0) == "30 done, 10 failed, 2 running, 01:00 left"
    shown.close()


# -- what is refused -------------------------------------------------------------------------------------------------


def nested() -> Any:
    def inner(config: Config) -> dict[str, Any]:
        return {}

    return inner


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"points": []}, "got none, needed at least one"),
        ({"points": [Config]}, "got a class, needed its objects"),
        ({"points": [Config(), OtherConfig()]}, "got configs of Config and OtherConfig"),
        ({"points": [{"beta": 1}]}, "got dict, needed a dataclass"),
        ({"points": [Config(part=object())]}, "part: got <object .*, needed a Part or None"),  # type: ignore[arg-type]
        ({"points": [Config(marks=Path("marks"))]}, r"marks: got PosixPath.*, needed a text"),  # type: ignore[arg-type]
        ({"points": [Config(part=Part(noise="much"))]}, r"part\.noise: got 'much', needed a number"),  # type: ignore[arg-type]
        ({"run": nested()}, "top level of a module"),
        ({"run": lambda config: {}}, "top level of a module"),
        ({"n_jobs": 0}, "n_jobs: got 0"),
        ({"threads": True}, "threads: got True"),
        ({"engine": "threads"}, "engine: got 'threads'"),
        ({"timeout_seconds": 0}, "timeout_seconds: got 0"),
        ({"memory_bytes": -1}, "memory_bytes: got -1"),
        ({"gpus": (0,), "n_jobs": 2}, "give an id twice"),
        ({"gpus": (0,), "engine": "dask"}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_made(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    settings: dict[str, Any] = {"run": run, "points": POINTS, "out": tmp_path / "s"} | changes
    with pytest.raises(ConfigError, match=text):
        eqprop.sweep(settings.pop("run"), settings.pop("points"), **settings, **QUIET)
    assert not (tmp_path / "s").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, calm: Path) -> None:
    with pytest.raises(RunFolderError, match=r"another sweep: of function tests.sweep_points.run, but .*run_other"):
        eqprop.sweep(run_other, POINTS, out=calm, **QUIET)
    with pytest.raises(RunFolderError, match="of config Config, but OtherConfig"):
        eqprop.sweep(run, [OtherConfig()], out=calm, **QUIET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"has config.json but no sweep"):
        eqprop.sweep(run, POINTS, out=tmp_path / "run", **QUIET)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        eqprop.sweep(run, POINTS, out=tmp_path / "file", **QUIET)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "sweep.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"sweep.json is damaged"):
        eqprop.sweep(run, POINTS, out=tmp_path / "torn", **QUIET)


def test_a_job_shares_its_time_among_its_points() -> None:
    job = Job(("a", "b"), (1, 2), run, limits=Limits(timeout_seconds=1.0))
    outcomes = job.failed("timeout", "late", seconds=3.0)
    assert [(o.key, o.wall_seconds, o.members) for o in outcomes] == [("a", 1.5, 2), ("b", 1.5, 2)]


def test_configs_that_mean_other_things_have_other_keys() -> None:
    from eqprop._sweep_config import plain, point_key

    keys = {point_key(plain(c), "1") for c in (Config(), Config(part=Part()), Config(beta=0.2), Config(seed=1))}
    assert len(keys) == 4
