"""Blocks of sweeps as CUDA graphs: captured once on buffers of their own, then replayed without the host.

A sweep of a small network is a handful of short kernels, and the host takes longer to queue them than the device to run
them. What is captured must not look at a value, allocate on the host, or read a tensor that may be gone at a replay:
everything that enters a block from outside is a buffer of the block, into which it is copied before each replay, or a
tensor of a module, which is read in place, so that learning in place needs no new capture.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eqprop._blocks import Block, EagerSweeps, sweep_block
from eqprop._errors import ConfigError
from eqprop._leaves import Leaves, module_tensors
from eqprop._network import Drive, State, System
from eqprop._solvers import Problem, Solver

_WARM_UPS = 3  # as torch.cuda.make_graphed_callables does


class CaptureError(RuntimeError):
    """A block that cannot be captured; the text is the reason."""


def capturing() -> bool:
    """Whether a graph is being captured now; asks no driver where CUDA was never used, for sweeps ask it too."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class Backend(Protocol):
    """What captures: ``torch.cuda.CUDAGraph``, or a stand-in that needs no device.

    Attributes:
        device_type: where tensors must be.
    """

    device_type: str

    def capture(self, block: StaticBlock) -> tuple[Block, Callable[[], None]]:
        """What ``block()`` returns, as tensors that hold values only after a replay, and the replay.

        Their values last until the next replay of any capture.

        Raises:
            CaptureError: the block cannot be captured.
        """
        ...


class StaticBlock:
    """``n`` sweeps that read their system, drive, nudge, state and memory from buffers at fixed addresses.

    Attributes:
        buffers: one for each tensor from outside, of the same strides: kernels and results are those of an eager sweep.
    """

    def __init__(self, fixed: Leaves, moving: Leaves, products: torch.dtype | None, n: int) -> None:
        self._split, self._products, self._n = len(fixed.tensors), products, n
        with torch.inference_mode(False):  # not of a mode that they outlive; likewise below
            self.buffers = [t.detach().clone() for t in (*fixed.tensors, *moving.tensors)]
        self._system, self._drive, self._nudge, self._solver = fixed.reading(self.buffers[: self._split])
        self._state, self._memory = moving.reading(self.buffers[self._split :])
        self._modules = fixed.modules + moving.modules

    def __call__(self) -> Block:
        # The cache is made within the block. Weights in low precision are thus cast anew by every replay, one cast a
        # block, and cannot go stale as operands prepared outside would; and nothing that a network remembers from an
        # earlier block, at an address that may be gone, gets in.
        with torch.inference_mode(False), torch.no_grad():
            problem = Problem(self._system, self._drive, self._nudge, self._system.new_cache(self._products))
            return sweep_block(problem, self._solver, self._state, self._memory, self._n)

    def reads(self) -> list[Tensor]:
        """Every tensor from outside that the block may read."""
        return self.buffers + [t for module in self._modules for t in module_tensors(module)]

    def load_fixed(self, fixed: Leaves) -> None:
        """Copies what stays the same during a relaxation into its buffers."""
        _copy(self.buffers[: self._split], fixed.tensors)

    def load_moving(self, moving: Leaves) -> None:
        """Copies state and memory into their buffers."""
        _copy(self.buffers[self._split :], moving.tensors)


class _Captured(NamedTuple):
    block: StaticBlock
    result: Block
    replay: Callable[[], None]


class CudaGraphs:
    """Captured blocks of sweeps for ``eqprop.relax(..., graphs=...)``; keep one object for all relaxations of a run.

    A block is captured at the first relaxation with its network, shapes, dtypes, number of sweeps, solver, kind of
    nudge and precision, and replayed at every later one. Parameters may change in place, as optimisers do; one that
    lies elsewhere (``network.to(...)``, ``load_state_dict(..., assign=True)``) leads to a new capture. Results are
    those of eager sweeps. Pays where a sweep is shorter than its queueing: small layers, small batches.

    A block that cannot be captured runs eagerly, with one warning that says why. Settings of torch that choose kernels
    (``torch.set_float32_matmul_precision``, deterministic algorithms) are those of the capture: call ``clear()`` after
    changing one. A user's own function must keep its tensors as parameters, buffers or attributes of a module.

    Args:
        capacity: captured blocks that are kept; the one that was not used for longest goes first. A step of a rule
            takes one or two a phase, and as many again for another batch size.
        backend: in the place of ``torch.cuda.CUDAGraph``, for tests.

    Attributes:
        captures: blocks captured so far.

    Raises:
        ConfigError: a capacity that is no whole number of at least 1.
    """

    def __init__(self, capacity: int = 16, backend: Backend | None = None) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ConfigError(f"CudaGraphs: got capacity={capacity!r}, needed a whole number of at least 1")
        self.capacity, self.captures = capacity, 0
        self._backend: Backend = _TorchGraphs() if backend is None else backend
        self._kept: OrderedDict[Hashable, _Captured | None] = OrderedDict()  # None: could not be captured
        self._warned: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # graphs live in this process: a copy starts without any
        return CudaGraphs, (self.capacity,)

    def clear(self) -> None:
        """Frees all captured blocks."""
        self._kept.clear()

    def sweeps(
        self, system: System, drive: Drive, nudge: Any, solver: Solver, products: torch.dtype | None
    ) -> GraphedSweeps:
        """Runs the blocks of one relaxation.

        Raises:
            ConfigError: tensors that are not on the device of graphs, or an enabled ``torch.autocast``.
        """
        needed = self._backend.device_type
        if drive.x.device.type != needed:
            raise ConfigError(
                f"CUDA graphs: got inputs on {drive.x.device}, needed {needed}; move network and data there, or write "
                "cuda_graph=False (of a rule), graphs=None (of relax)"
            )
        if torch.is_autocast_enabled(needed):
            raise ConfigError(
                "CUDA graphs: got an enabled torch.autocast, which keeps casts of weights that a replay would not "
                "renew; needed none: write products='bfloat16'"
            )
        return GraphedSweeps(self, system, drive, nudge, solver, products)

    def captured(self, key: Hashable, block: Callable[[], StaticBlock]) -> _Captured | None:
        """The captured block of that key, or None where it cannot be captured."""
        if key not in self._kept:
            while len(self._kept) >= self.capacity:
                self._kept.popitem(last=False)
            self._kept[key] = self._capture(block())
        self._kept.move_to_end(key)
        return self._kept[key]

    def _capture(self, block: StaticBlock) -> _Captured | None:
        try:
            for tensor in block.reads():
                if tensor.device.type != self._backend.device_type:
                    raise CaptureError(f"it reads a tensor on {tensor.device}, whose value would stay that of now")
            result, replay = self._backend.capture(block)
        except CaptureError as error:
            self._warn("failed", f"CUDA graphs: a block of sweeps could not be captured and runs eagerly: {error}")
            return None
        self.captures += 1
        if self.captures > 4 * self.capacity:
            self._warn(
                "many",
                f"CUDA graphs: {self.captures} captures for a capacity of {self.capacity}, each slower than eager "
                "sweeps; use batches of one size (drop the last one), update parameters in place, or write "
                f"CudaGraphs(capacity={4 * self.capacity})",
            )
        return _Captured(block, result, replay)

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, RuntimeWarning, stacklevel=2)


class GraphedSweeps:
    """The blocks of one relaxation, each a replay: a ``Sweeper``."""

    def __init__(
        self,
        graphs: CudaGraphs,
        system: System,
        drive: Drive,
        nudge: Any,
        solver: Solver,
        products: torch.dtype | None,
    ) -> None:
        self._graphs, self._solver, self._products = graphs, solver, products
        self._parts = system, drive, nudge
        self._fixed = Leaves((system, drive, nudge, solver))
        self._loaded: list[StaticBlock] = []
        self._eager: EagerSweeps | None = None

    def __call__(self, state: State, memory: Any, n: int, done: int) -> Block:
        moving = Leaves((state, memory))
        captured = self._graphs.captured(
            (self._fixed.key, moving.key, self._products, n),
            lambda: StaticBlock(self._fixed, moving, self._products, n),
        )
        if captured is None:
            return self._eagerly()(state, memory, n, done)
        if captured.block not in self._loaded:
            captured.block.load_fixed(self._fixed)
            self._loaded.append(captured.block)
        captured.block.load_moving(moving)
        captured.replay()
        return captured.result

    def own(self, state: State) -> State:
        return tuple(s.clone() for s in state)

    def _eagerly(self) -> EagerSweeps:
        if self._eager is None:
            system, drive, nudge = self._parts
            self._eager = EagerSweeps(Problem(system, drive, nudge, system.new_cache(self._products)), self._solver)
        return self._eager


class _TorchGraphs:
    """``torch.cuda.CUDAGraph``: all that no test without a GPU reaches."""

    device_type = "cuda"

    def __init__(self) -> None:
        # one pool: blocks are replayed one at a time, so that they may share the memory of what none returns
        self._pools: dict[torch.device, tuple[Any, torch.cuda.Stream]] = {}

    def capture(self, block: StaticBlock) -> tuple[Block, Callable[[], None]]:
        device = block.buffers[0].device
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            if device not in self._pools:
                self._pools[device] = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            pool, stream = self._pools[device]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # libraries set themselves up, and pick kernels, at the first use on a stream: not possible in a capture
                for _ in range(_WARM_UPS):
                    block()
                result = self._record(graph, block, pool, stream)
            torch.cuda.current_stream().wait_stream(stream)
        return result, graph.replay

    def _record(self, graph: torch.cuda.CUDAGraph, block: StaticBlock, pool: Any, stream: torch.cuda.Stream) -> Block:
        reason: Exception | None = None
        try:
            # other threads, as those of data loaders, may go on allocating
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                try:
                    return block()
                except Exception as error:
                    reason = error  # the end of a broken capture fails too, and would hide it
                    raise
        except Exception as error:  # whatever it is: the warm-up has just done without it
            self._pools.pop(stream.device, None)  # a broken capture may leave both unusable
            raise CaptureError(_in_short(reason or error)) from error


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no text').splitlines()[0]}"


def _copy(buffers: list[Tensor], tensors: list[Tensor]) -> None:
    for buffer, tensor in zip(buffers, tensors, strict=True):
        buffer.copy_(tensor)
