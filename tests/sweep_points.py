"""What the tests of sweeps sweep: cheap points, and bad ones. Imported by every process that computes some."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import eqprop
from eqprop._sweep_lock import join_workers


@dataclass(frozen=True)
class Part:
    """A nested part."""

    adc_bits: int | None = None
    noise: float = 0.0


@dataclass(frozen=True)
class Config:
    """A point."""

    beta: float = 0.1
    seed: int = 0
    part: Part | None = None
    what: str = "compute"
    marks: str = ""  # a file that is told which process computes which point


@dataclass(frozen=True)
class OtherConfig:
    """Of another sweep."""

    beta: float = 0.1


def figures(config: Config) -> dict[str, Any]:
    """What a good point returns."""
    bits = 8 if config.part is None or config.part.adc_bits is None else config.part.adc_bits
    return {
        "error_percent": 10 * config.beta + 1 / bits + config.seed / 7,
        "cosine": {"hidden1": 1 - config.beta / 3, "output": torch.tensor(0.5)},
        "losses": [0.5, 0.25],
    }


def mark(config: Config) -> None:
    """Which process computes which point."""
    if config.marks:
        add_line(Path(config.marks), f"{os.getpid()} {config.beta} {config.seed}")


def add_line(path: Path, text: str) -> None:
    """One write of one line: atomic, whoever is killed."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\n".encode())
    os.close(file)


def start(config: Config) -> None:
    """A process beside this one, which would outlive it: a program, or a fork."""
    if config.what.startswith("child"):
        child = subprocess.Popen(["sleep", "12345"]).pid
    else:
        child = os.fork()
        if child == 0:
            kept = [torch.ones(2**26) for _ in range(5)] if "grow" in config.what else []  # 1.25 GiB
            time.sleep(600)
            os._exit(len(kept))
    add_line(Path(config.marks).with_suffix(".children"), str(child))


def run(config: Config) -> dict[str, Any]:
    """20 ms of work, or whatever ``what`` says."""
    mark(config)
    time.sleep(0.02)
    if config.what == "raise":
        raise ValueError("a bad point")
    if config.what.startswith(("child", "fork")):
        start(config)
    if config.what.endswith("hang"):
        print("about to hang")
        time.sleep(60)
    if config.what == "hold":
        re.match("(a+)+$", "a" * 60 + "b")  # without end, and without giving Python's lock back
    if config.what == "fork, grow":
        time.sleep(60)
    if config.what.endswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.what == "leave":
        os._exit(0)
    if config.what == "exit":
        sys.exit(3)
    if config.what == "grow":
        kept = [torch.ones(2**26) for _ in range(5)]  # 1.25 GiB
        time.sleep(60)
        del kept
    if config.what == "no memory":
        torch.empty(2**50)
    if config.what == "no result":
        return None  # type: ignore[return-value]
    if config.what == "object":
        return {"value": object()}
    if config.what == "environment":
        found = {"threads": torch.get_num_threads(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        return found | {"dask_memory_limit": dask_memory_limit()}
    return figures(config)


def dask_memory_limit() -> str:
    """Of the worker that this is; "" where it is none."""
    try:
        from distributed import get_worker

        return str(get_worker().memory_manager.memory_limit)
    except (ImportError, ValueError):
        return ""


def run_other(config: Config) -> dict[str, Any]:
    """Another function."""
    return figures(config)


def run_many(configs: list[Config]) -> list[Any]:
    """All at once; members may fail alone, or together."""
    for config in configs:
        mark(config)
    if any(config.what == "sink" for config in configs):
        raise ValueError("all of them")
    made: list[Any] = []
    for config in configs:
        failed = config.what == "raise"
        made.append(ValueError("one of them") if failed else figures(config) | {"together": len(configs)})
    return made


def leave_a_fork(lock: Path, config: Config) -> None:
    """What a worker does that ends before its child."""
    kept = join_workers(lock)
    start(config)
    os._exit(kept is None)


def sweep_alone(points: list[Config], out: Path) -> None:
    """A sweep in a process of its own, which a test kills."""
    from multiprocessing import forkserver
    from typing import cast

    # this process was forked from the tests' server, which has torch: its own would take seconds to import it
    cast(Any, forkserver)._forkserver.ensure_running = cast(Any, forkserver).ensure_running = lambda: None
    eqprop.sweep(run, points, out=out, n_jobs=2, progress=False)
