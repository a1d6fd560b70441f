"""NALSM's network on a CPU with numba: a sample takes all steps before the next, so that its weights stay cached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn._neurons import Value
from snn._neurons_lif import NalsmLIF
from snn._plasticity import NalsmLearner
from snn._projection_compiled import Array, CompiledProjection, loops
from snn._projection_events import by_sample
from snn._records import LiquidState, Recorder
from snn._synapses import NearestSpike


class CompiledSteps:
    """What the steps of ``PlasticLiquid`` compute with ``CompiledProjection``, to the last bit.

    Those go through all samples in every step, and the weights of a batch do not fit in a cache near a core. Here a
    sample goes through all steps.

    Args:
        neuron: constants of ``NalsmLIF``.
        learner: of NALSM without gates by calcium.
    """

    def __init__(self, neuron: dict[str, Any], learner: NalsmLearner) -> None:
        self.learner = learner
        self.parts = [part for part in (learner.recurrent, learner.entry) if isinstance(part, CompiledProjection)]
        self.kind = self.parts[0].values.numpy().dtype
        count = self.parts[0].neurons
        names = ("keep", "threshold", "reset", "refractory_steps")
        self.neuron = tuple(_each(neuron[name], count, self.kind) for name in names)

    @classmethod
    def of(cls, model: object, neuron: dict[str, Any], learner: object) -> CompiledSteps | None:
        """The steps of this network, or None where it is not one that they are for."""
        if type(model) is not NalsmLIF or not isinstance(learner, NalsmLearner) or learner.rule.calcium is not None:
            return None
        parts = (learner.recurrent, learner.entry)
        if not all(isinstance(part, CompiledProjection) and type(part.synapse) is NearestSpike for part in parts):
            return None
        return cls(neuron, learner)

    def run(self, state: LiquidState, sent: Tensor, counts: Tensor, recorder: Recorder) -> None:
        """A chunk of steps, in place.

        Args:
            state: of the liquid.
            sent: spikes of the input, ``[steps, inputs, batch]``.
            counts: ``[neurons, batch]``, to which the spikes of the liquid are added.
            recorder: that takes them down.
        """
        rule, kind = self.learner.rule, self.kind
        steps, _, batch = sent.shape
        raster = np.empty((batch, steps, self.parts[0].neurons), kind)
        voltage = np.empty_like(raster) if recorder.record.voltage else raster[:, :0]
        named = [
            *((state.neuron, name) for name in ("v", "wait")),
            *((part, name) for part in (state.synapse, state.input_synapse) for name in ("x", "i")),
            *((state.extra, name) for name in ("trace", "input_trace")),
        ]
        moving = [state.spikes, *(of[name] for of, name in named)]
        values = [tensor.T.contiguous().numpy() for tensor in moving]
        level = state.extra["astrocyte"].numpy() if rule.astrocyte else np.zeros(batch, kind)
        scale = np.array([self.learner.fade**t for t in range(state.step, state.step + steps)])
        compiled = _compiled()
        assert compiled is not None  # as for CompiledProjection
        run, *inner = compiled
        run(
            *inner, sent.permute(2, 0, 1).contiguous().numpy(), raster, voltage, *values, level,
            by_sample(state.synapse), by_sample(state.input_synapse), *self.neuron, *self._rates(scale),
            *(part.topology for part in self.parts),
        )  # fmt: skip
        for tensor, array in zip(moving, values, strict=True):
            tensor.copy_(torch.from_numpy(array).T)
        state.step += steps
        spikes = torch.from_numpy(raster)
        counts.add_(spikes.sum(1).T)
        for t in range(steps):
            recorder.note(spikes[:, t].T, torch.from_numpy(voltage[:, t]).T if recorder.record.voltage else counts)

    def _rates(self, scale: Array) -> tuple[Any, ...]:
        """Rates of every step, and factors of all, rounded as torch rounds a number beside a tensor."""
        rule, learner, kind = self.learner.rule, self.learner, self.kind
        glia = rule.astrocyte
        gain, bias = (glia.gain, glia.bias) if glia else (0.0, 0.0)
        factors = [
            *(part.constants["keep"] for part in self.parts),
            rule.increment,
            learner.keep_trace,
            learner.dt_seconds / glia.tau_seconds if glia else 0.0,
            learner.fade,
        ]
        per_step = [(value * scale).astype(kind) for value in (rule.potentiation, gain, bias)]
        return *per_step, np.array(factors, kind), glia is not None


def _each(value: Value, count: int, kind: np.dtype[Any]) -> Array:
    return np.broadcast_to(np.asarray(value, kind).reshape(-1), (count,)).copy()


@functools.cache
def _compiled() -> tuple[Callable[..., None], ...] | None:
    """``_steps`` and the loops in it, or None without numba."""
    made = loops()
    if made is None:
        return None
    from numba import njit

    compiled = njit(nogil=True)
    return compiled(_steps), compiled(_receive), compiled(_add), *made


def _steps(
    receive: Any, add: Any, arrive: Any, change: Any, sent: Array, raster: Array, voltage: Array,
    spikes: Array, v: Array, wait: Array, x: Array, i: Array, x_in: Array, i_in: Array, trace: Array, trace_in: Array,
    level: Array, weight: Array, weight_in: Array, keep: Array, threshold: Array, reset: Array, blocked: Array,
    up: Array, gain: Array, bias: Array, factors: Array, astrocyte: bool, own: Any, entry: Any,
) -> None:  # fmt: skip
    """``NalsmLIF``, ``NearestSpike`` and ``NalsmLearner``, see there for each; states are ``[batch, ...]``."""
    keep_own, keep_in, increment, keep_trace, leak, fade = factors
    batch, neurons = v.shape
    number = weight.dtype.type
    none, one = number(0), number(1)
    sums, moved = np.zeros((1, neurons)), np.zeros((2, 1, neurons))
    worth, worth_in = np.empty_like(x[:1]), np.empty_like(x_in[:1])
    q, t = np.empty((1, 2, neurons), weight.dtype), np.empty((1, 2, neurons), weight.dtype)
    q_in, t_in = np.empty((1, 1, neurons), weight.dtype), np.empty((1, 1, neurons), weight.dtype)
    for b in range(batch):
        w, w_in, s, r, r_in = weight[b : b + 1], weight_in[b : b + 1], spikes[b], trace[b], trace_in[b]
        xs, xs_in, current, current_in, vs, waits = x[b], x_in[b], i[b], i_in[b], v[b], wait[b]
        for step in range(sent.shape[1]):
            arrived = sent[b, step]
            for n in range(neurons):
                s[n] = one if vs[n] >= threshold[n] and waits[n] < one else none
                waits[n] = max(waits[n] - one, none) + blocked[n] * s[n]
                vs[n] = (vs[n] - vs[n] * s[n]) + reset[n] * s[n]
            receive(arrive, w, xs, s, current, worth, sums, own)
            receive(arrive, w_in, xs_in, arrived, current_in, worth_in, sums, entry)
            vs[:] = vs * keep + (current + current_in)
            xs *= keep_own
            current *= keep_own
            xs_in *= keep_in
            current_in *= keep_in
            down = level[b] if astrocyte else up[step]
            q[0, 0], q[0, 1] = s * up[step], -(s * down)
            t[0, 0], t[0, 1] = -(r * down), r * up[step]
            q_in[0, 0], t_in[0, 0] = q[0, 0], t[0, 0]
            add(change, w, s, r, xs, s, q, t, current, moved, own)
            add(change, w_in, arrived, r_in, xs_in, s, q_in, t_in, current_in, moved, entry)
            r[:] = (r + increment * s) * keep_trace
            r_in[:] = (r_in + increment * arrived) * keep_trace
            if astrocyte:
                wanted = (s.sum() - arrived.sum()) * gain[step] + bias[step]
                level[b] = (level[b] + (wanted - level[b]) * leak) * fade
            raster[b, step] = s
            if voltage.shape[1]:
                voltage[b, step] = vs


def _receive(
    arrive: Any, weight: Array, x: Array, spikes: Array, current: Array, worth: Array, sums: Array, topology: Any
) -> None:
    """A step of ``CompiledProjection.receive``."""
    none = weight.dtype.type(0)
    for j in range(len(x)):
        worth[0, j] = spikes[j] - x[j] if spikes[j] != 0 else none
        x[j] = max(x[j], spikes[j])
    sums[:] = 0
    arrive(weight, worth, topology[2], topology[3], topology[4], sums)
    for n in range(len(current)):
        current[n] += weight.dtype.type(sums[0, n])


def _add(
    change: Any, weight: Array, sent: Array, trace: Array, x: Array, fired: Array, q: Array, t: Array,
    current: Array, moved: Array, topology: Any,
) -> None:  # fmt: skip
    """A step of ``CompiledProjection.change``."""
    moved[:] = 0
    rows = (sent.reshape(1, -1), trace.reshape(1, -1), x.reshape(1, -1), fired.reshape(1, -1))
    change(weight, *rows, q, t, *topology, moved)
    for n in range(len(current)):
        current[n] = (current[n] + weight.dtype.type(moved[0, 0, n])) + weight.dtype.type(moved[1, 0, n])
