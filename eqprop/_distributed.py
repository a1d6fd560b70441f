"""Training in several processes, a device each: the group of processes, what they tell each other, and its end.

``torchrun --nproc-per-node=2 -m benchmarks.mnist`` starts the processes and tells each its number; ``Workers`` does the
rest. Gradients travel by NCCL between GPUs and by gloo between CPUs, everything else by gloo.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from eqprop._errors import ConfigError, TrainingError
from eqprop._peers import Peers, described, first_line
from eqprop._share import Share

T = TypeVar("T")


class WorkerLost(TrainingError):
    """A process that takes part in a run has stopped, ended or does not answer."""


class Workers:
    """The processes that train one network together; of one process alone (``Workers.alone()``), nothing but itself.

    All of them run the same program and call the same methods in the same order. Where one is lost, the others end with
    a ``TrainingError`` that names it: at once where its end is seen, after ``timeout_s`` where it only hangs.

    Args:
        store: a ``torch.distributed`` store that all processes reach; ``from_environment`` finds that of torchrun.
        rank: number of this process, from 0.
        size: number of processes.
        device: of this process's network.
        timeout_s: longest wait for another process, in seconds: more than a step, an evaluation of one batch or the
            writing of a checkpoint takes.

    Raises:
        ConfigError: a number out of range, or ``torch.distributed`` set up elsewhere or missing.
        TrainingError: a process that does not come.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        device: str | torch.device = "cpu",
        *,
        timeout_s: float = 300.0,
    ) -> None:
        if size < 1 or not 0 <= rank < size or not timeout_s > 0:
            raise ConfigError(
                f"Workers: got rank {rank} of {size} and timeout_s={timeout_s}, needed 0 <= rank < size and a positive "
                "time"
            )
        self.rank, self.size, self.device, self.timeout_s = rank, size, torch.device(device), timeout_s
        self._broken = False
        self._turns = 0
        self._peers: Peers | None = None
        if size == 1:
            return
        if dist.is_initialized():
            raise ConfigError(
                "Workers: torch.distributed is set up already, needed to set it up here; make one Workers object and "
                "hand it on, without a call of init_process_group"
            )
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        try:
            self._peers = Peers(store, rank, size)
            wait = datetime.timedelta(seconds=timeout_s)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
            self._peers.meet()
        except RuntimeError as error:
            raise WorkerLost(
                f"Process {rank} of {size} did not find the others within {timeout_s:g} s: {first_line(error)}. Start "
                "all of them, with torchrun --nproc-per-node=N"
            ) from error

    @classmethod
    def alone(cls, device: str | torch.device = "cpu") -> Workers:
        """One process."""
        return cls(None, 0, 1, device)

    @classmethod
    def from_environment(cls, device: str | torch.device = "cpu", *, timeout_s: float = 300.0) -> Workers:
        """The processes that torchrun started, or this one alone where it did not.

        Args:
            device: ``"cuda"`` is the GPU of the process's number on its machine, and becomes torch's current one.

        Raises:
            ConfigError: one GPU for all processes, or an environment that is not whole. Others: see the class.
        """
        device = torch.device(device)
        size = _environment("WORLD_SIZE", 1)
        if size == 1:
            return cls.alone(device)
        if not dist.is_available():
            raise ConfigError("Workers: this torch was built without torch.distributed; train in one process")
        rank, local = _environment("RANK"), _environment("LOCAL_RANK", 0)
        if device.type == "cuda":
            found = torch.cuda.device_count()
            if device.index is not None or local >= found:
                raise ConfigError(
                    f"Workers: got {device} for process {local} of this machine with {found} GPUs, needed one GPU a "
                    "process; write --device cuda and at most as many processes as GPUs (--nproc-per-node)"
                )
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        wait = datetime.timedelta(seconds=timeout_s)
        try:
            store, rank, size = next(rendezvous("env://", rank, size, timeout=wait))
        except (RuntimeError, ValueError) as error:
            raise WorkerLost(
                f"Process {rank} of {size} cannot reach the meeting point of the processes ({first_line(error)}). "
                "Start all of them with torchrun --nproc-per-node=N"
            ) from error
        return cls(store, rank, size, device, timeout_s=timeout_s)

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes and prints for all."""
        return self.rank == 0

    def share(self, total: int) -> Share:
        """This process's part of a joint batch of ``total`` samples."""
        return Share.of(self.rank, self.size, total)

    # -- what processes tell each other ------------------------------------------------------------------------------

    def gather(self, value: Tensor) -> Tensor:
        """``[size, *shape]``: the tensor of every process, all of one shape; waits for the device."""
        if self.size == 1:
            return value.unsqueeze(0)
        own = value.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with self._talking():
            dist.all_gather(parts, own)
        return torch.stack(parts).to(value.device)

    def gather_objects(self, value: T) -> list[T]:
        """A plain value (numbers, strings, containers of them) of every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(values, value)
        return values

    def agree(self, value: T) -> T:
        """The plain value of process 0, for all."""
        return self.gather_objects(value)[0]

    def add_up(self, value: Tensor) -> None:
        """Replace a tensor by its sum over the processes, the same bits in all of them; waits until it is there."""
        if self.size == 1:
            return
        with self._talking():
            dist.all_reduce(value)
            if value.device.type == "cuda":
                self._wait_for_device()

    def broadcast(self, network: nn.Module) -> None:
        """Give every process the parameters and buffers of process 0."""
        if self.size == 1:
            return
        with self._talking(), torch.no_grad():
            for value in (*network.parameters(), *network.buffers()):
                dist.broadcast(value.detach(), 0)

    def in_turn(self, function: Callable[[], T], limit_s: float = 6 * 3600.0) -> T:
        """``function()`` in process 0, and only then in the others: for files that the first makes and all read.

        Args:
            limit_s: longest time that the first may take, in seconds.

        Raises:
            TrainingError: process 0 failed, in the others.
        """
        if self._peers is None:
            return function()
        self._turns += 1
        word = f"turn{self._turns}"
        if self.first:
            try:
                result = function()
            except BaseException as error:
                self._peers.say(word, described(error))
                raise
            self._peers.say(word)
            return result
        text = self._peers.wait_for([word], 0, limit_s)
        if text is None:
            raise self.lost("process 0 did not finish")
        if text:
            raise WorkerLost(f"process 0 of {self.size} stopped ({text})")
        return function()

    def _wait_for_device(self) -> None:
        # not inside CUDA: there, neither a signal nor the time would end the wait for a process that is lost
        event = torch.cuda.Event()
        event.record()
        deadline = time.monotonic() + 0.9 * self.timeout_s  # before NCCL itself ends the process, without a word
        while not event.query():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer within {0.9 * self.timeout_s:g} s")
            time.sleep(5e-5)

    # -- the end -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, the others learn why this process stops, and a launcher that ends it is answered with a message.

        torchrun ends the rest with SIGTERM when a process is lost. In the main thread the signal becomes the error
        that says so. From the loss on it is ignored, so that the message gets out: torchrun then waits up to 30 s.
        """
        if self._peers is None:
            yield
            return
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, self._on_signal) if main else None
        try:
            yield
        except _Stopped:
            raise self.lost("SIGTERM") from None
        except WorkerLost:
            raise
        except BaseException as error:
            self._peers.say("stopped", described(error))
            raise
        finally:
            if main:
                signal.signal(signal.SIGTERM, signal.SIG_IGN if self._broken else before)

    def lost(self, reason: str) -> WorkerLost:
        """The error to raise when the others do not answer: finds out who is missed."""
        self._broken = True
        self.close()  # closes the connections: who waits for this process learns of it
        missing = "" if self._peers is None else self._peers.missing()
        if reason == "SIGTERM":
            return WorkerLost(f"the launcher stopped the run (SIGTERM){'; ' if missing else ''}{missing}")
        return WorkerLost(missing or f"the connection between the processes broke ({reason})")

    def prints(self, error: BaseException) -> bool:
        """Whether this process should print the error: it is the first, or has seen what the first has not."""
        if self._peers is None or self.first:
            return True
        text = self._peers.wait_for(("stopped", "here"), 0, 2.0)
        return text is None or not (isinstance(error, WorkerLost) or text == described(error))

    def close(self) -> None:
        """Leave the group; the last call."""
        if self._peers is not None and dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(first_line(error)) from error

    def _on_signal(self, *_: object) -> None:
        if not self._broken:
            raise _Stopped


class _Stopped(BaseException):
    """SIGTERM arrived."""


def _environment(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise ConfigError(
            f"Workers: got {name}={text!r} in the environment, needed a number; start the processes with torchrun "
            "--nproc-per-node=N"
        )
    return int(text)
