"""Work and memory of a call and of a training step, counted by torch in the code that runs, without values."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

import eqprop
from eqprop._graph import GraphNetwork

_SAMPLES = 8  # of the batches that are counted


def _product_in_place(z: torch.Size, a: torch.Size, b: torch.Size, **_: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


_IN_PLACE = {torch.ops.aten.addmm_: _product_in_place}  # which torch leaves out


def operations(function: Callable[[], object]) -> int:
    """Multiply-accumulates of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
        function()
    return int(counter.get_total_flops()) // 2


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes that tensors made in a call hold at one time; what a device's libraries take is not in it."""
    with _Peak() as counter:
        function()
    return counter.most


class _Peak(TorchDispatchMode):
    """Follows every storage from the operation that makes it until nothing refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if _has_storage(t)}
        for tensor in tree_iter(result):
            if not _has_storage(tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._alive or key in given:  # a view, or written in place
                continue
            self._alive[key] = weakref.ref(storage, self._gone(key, size))
            self._now += size
            self.most = max(self.most, self._now)
        return result

    def _gone(self, key: int, size: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            self._now -= size
            self._alive.pop(key, None)

        return forget


def _has_storage(value: Any) -> bool:
    """Whether a value is a tensor with memory of its own; a sparse one has parts instead, made before."""
    return isinstance(value, Tensor) and value.layout == torch.strided


# ---- a training step -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Multiply-accumulates a sample.

    Attributes:
        drive: of the clamped input, once a sample.
        sweep: of the free phase (backprop: the rest of the forward pass).
        once: in an evaluation beside them: feature maps of the first sweep, and the readout.
        nudged_sweep: of all nudged phases together (bptt: of one unrolled sweep; rbp: of the adjoint).
        rest: gradients, regularisers, and what phases prepare.
    """

    drive: int
    sweep: int
    once: int
    nudged_sweep: int
    rest: int


def count_step(network: GraphNetwork, rule: eqprop.Rule, nudged: int) -> Counts:
    """The parts of a step of the rule.

    Args:
        network: on any device; counted on a copy without values.
        rule: of the run; its own numbers of sweeps do not matter.
        nudged: sweeps of a nudged phase.
    """
    network = network.clone().to("meta")
    x, y = _batch(network, _SAMPLES)

    def step(free: int, nudged: int) -> int:
        return operations(lambda: with_sweeps(rule, free, nudged).backward(network, x, y))

    drive = operations(lambda: network.drive(x))
    if isinstance(rule, eqprop.Backprop):
        forward = operations(lambda: network.forward_pass(network.drive(x)))
        settled = operations(lambda: rule.predict(network, x))
        parts = (drive, forward - drive, settled - forward, 0, step(1, 1) - forward)
    else:
        unrolled = isinstance(rule, eqprop.TruncatedBPTT)  # its first and its last sweeps are unlike the others
        base = step(2, nudged if unrolled else 2)
        sweep = step(3, nudged if unrolled else 2) - base
        after = base - 2 * sweep - drive
        more = after // nudged if unrolled else step(2, 3) - base
        settled = operations(lambda: with_sweeps(rule, 2, 2).predict(network, x))
        parts = (drive, sweep, settled - 2 * sweep - drive, more, 0 if unrolled else after - 2 * more)
    return Counts(*(n // _SAMPLES for n in parts))


def sweep_operations(network: GraphNetwork) -> int:
    """Multiply-accumulates a sample of one free sweep."""
    network = network.clone().to("meta")
    x, _ = _batch(network, _SAMPLES)
    drive, start = network.drive(x), network.initial_state(_SAMPLES)

    def sweeps(n: int) -> int:
        return operations(lambda: eqprop.relax(network, start, drive, stop=eqprop.Sweeps(n)))

    return (sweeps(3) - sweeps(2)) // _SAMPLES


def _batch(network: GraphNetwork, samples: int) -> tuple[Tensor, Tensor]:
    return torch.empty(samples, *network.input_shape, device="meta"), torch.empty(
        samples, dtype=torch.int64, device="meta"
    )


def with_sweeps(rule: eqprop.Rule, free: int, nudged: int) -> eqprop.Rule:
    """The rule with phases of exactly so many sweeps, in full precision."""
    if isinstance(rule, eqprop.Backprop):
        return rule
    changes: dict[str, Any] = {"free": eqprop.Sweeps(free), "products": None, "cuda_graph": False}
    if isinstance(rule, eqprop.TruncatedBPTT):
        changes["steps"] = nudged
    else:
        changes["adjoint" if isinstance(rule, eqprop.RecurrentBackprop) else "nudged"] = eqprop.Sweeps(nudged)
    return dataclasses.replace(rule, **changes)


def step_memory(network: GraphNetwork, rule: eqprop.Rule, batch: int, nudged: int) -> dict[str, int]:
    """Bytes at the peak of a step beside parameters and their gradients, by what holds them.

    Memory does not grow with the number of sweeps (but for bptt, which is counted with all `nudged` of them).
    """
    network = network.clone().to("meta")
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    whole = with_sweeps(rule, 4, nudged if isinstance(rule, eqprop.TruncatedBPTT) else 4)
    bare = dataclasses.replace(whole, regularisers=())

    def at(samples: int, call: Callable[[Tensor, Tensor], object]) -> int:
        x, y = _batch(network, samples)
        return peak_bytes(lambda: call(x, y))

    def most(call: Callable[[Tensor, Tensor], object]) -> int:
        small, large = at(_SAMPLES, call), at(2 * _SAMPLES, call)
        return small + (large - small) * (batch - _SAMPLES) // _SAMPLES

    def free(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            bare.settle(network, network.drive(x), None)

    first = most(free)
    step = max(first, most(lambda x, y: bare.backward(network, x, y)))
    # not in proportion to the batch: a regulariser may take its probes together where they are few
    regular = max(step, at(batch, lambda x, y: whole.backward(network, x, y))) if rule.regularisers else step
    phased = isinstance(rule, eqprop.EquilibriumPropagation)
    return {
        "free phase: states, drive, feature maps": first,
        "nudged phases, stacked" if phased else "the way back": step - first,
        "homeostasis": regular - step,
    }
