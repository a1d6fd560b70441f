"""What a liquid asks of its weights and of the chunks of its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_whole

if TYPE_CHECKING:
    from snn._liquid import Liquid
    from snn._records import LiquidState

#: ``[batch, time, channels]``, or an iterable of such chunks in their order of time.
Chunks = Tensor | Iterable[Tensor]


def check_chunk(liquid: Liquid, x: Tensor | None, extra: Tensor | None, batch: int, state: LiquidState | None) -> None:
    """Shapes of a chunk of inputs and currents and, on a CPU, values.

    Raises:
        DataError: what does not fit the liquid or its state.
    """
    for name, values, width in (("inputs", x, liquid.inputs), ("currents", extra, liquid.neurons)):
        if values is None:
            continue
        if values.shape[2] != width:
            raise DataError(
                f"{name}: got shape {tuple(values.shape)}, needed [batch, time, {width}]"
                + (f"; write snn.preset(..., inputs={values.shape[2]})" if name == "inputs" else "")
            )
        seen = values.device.type == "cpu" and values.dtype != torch.bool
        if seen and not bool(torch.isfinite(values).all()):
            raise DataError(f"{name}: got NaN or infinite values, needed finite ones")
        events = name == "inputs" and (liquid.relay is not None or liquid.input_synapse.filters_spikes)
        if events and seen and not bool(((values == 0) | (values == 1)).all()):
            raise DataError(
                f"inputs: got values other than 0 and 1 (up to {float(values.max()):g}), needed spikes: this liquid's "
                "input synapses count events; give it an input_synapse=snn.Exponential() for currents"
            )
    if state is not None and (state.batch != batch or len(state.spikes) != liquid.neurons):
        raise DataError(
            f"state: got one of {state.batch} samples and {len(state.spikes)} neurons, needed {batch} samples and "
            f"{liquid.neurons} neurons"
        )


def chunks(
    inputs: Chunks | None, currents: Chunks | None, steps: int | None, batch: int | None
) -> Iterator[tuple[Tensor | None, Tensor | None, int, int]]:
    """Chunks of inputs and currents side by side, with their steps and samples."""
    if inputs is None and currents is None:
        if steps is None:
            raise ConfigError("run: got neither inputs nor currents nor steps, needed one of them; write steps=1000")
        require_whole("steps", steps, 1)
        yield None, None, steps, 1 if batch is None else batch
        return
    if steps is not None or batch is not None:
        raise ConfigError("run: got steps or batch beside inputs or currents, needed either: inputs say how long")
    first = None if inputs is None else iter([inputs] if isinstance(inputs, Tensor) else inputs)
    second = None if currents is None else iter([currents] if isinstance(currents, Tensor) else currents)
    end = object()
    while True:
        x = None if first is None else next(first, end)
        extra = None if second is None else next(second, end)
        if x is end and extra is end or (x is end and second is None) or (extra is end and first is None):
            return
        shapes = []
        for name, values in (("inputs", x), ("currents", extra)):
            if values is None:
                continue
            if not isinstance(values, Tensor) or values.dim() != 3 or not values.numel():
                got = "an end before the other's" if values is end else f"{tuple(getattr(values, 'shape', ()))}"
                raise DataError(f"{name}: got {got}, needed a tensor [batch, time, channels]")
            shapes.append(tuple(values.shape[:2]))
        if len(set(shapes)) > 1:
            raise DataError(f"currents: got {shapes[1]} samples and steps, needed {shapes[0]}, as inputs have")
        made: Any = (x, extra, shapes[0][1], shapes[0][0])
        yield made


def require_matrix(
    name: str, values: Any, rows: int | None, columns: int | None, dtype: torch.dtype | None = None
) -> None:
    fits = isinstance(values, Tensor) and values.dim() == 2 and values.dtype in (torch.float32, torch.float64)
    if fits and (rows not in (None, values.shape[0]) or columns not in (None, values.shape[1])):
        fits = False
    if not fits or (dtype is not None and values.dtype != dtype):
        got = f"{tuple(values.shape)} of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        shape = f"[{rows or 'neurons'}, {columns or 'any'}]"
        raise ConfigError(f"{name}: got {got}, needed {shape} of {dtype or 'float32 or float64'}")
    if values.device.type == "cpu" and not bool(torch.isfinite(values).all()):
        raise ConfigError(f"{name}: got NaN or infinite values, needed finite ones")


def require_dale(weight: Tensor, excitatory: Tensor) -> None:
    if weight.device.type != "cpu":
        return
    wrong = torch.where(excitatory.bool(), weight, -weight) < 0
    if bool(wrong.any()):
        post, pre = (int(i) for i in wrong.nonzero()[0])
        kind = "excitatory" if bool(excitatory[pre]) else "inhibitory"
        raise ConfigError(
            f"weight: got {float(weight[post, pre]):g} from the {kind} neuron {pre} to {post}, needed the sign of its "
            "type (Dale's law); write excitatory=None for weights of any sign"
        )
