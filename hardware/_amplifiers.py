"""Amplifiers of a resistive network: gains behind its layers, what they do to the energy, and those that read outputs.

Behind a layer of gain ``A`` the next layer sees ``A v``, and the layer sees ``1/A`` of the current that the next one
draws: a controlled voltage source and a controlled current source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._wiring import Bank, is_positive


class SenseAmplifiers(nn.Linear):
    """The outputs ``gain v``, or ``gain (v[k] - v[k + outputs])``: a readout that is not trained, hence buffers."""

    def __init__(self, nodes: int, fold: bool, gain: float, dtype: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = nodes, nodes // 2 if fold else nodes
        eye = gain * torch.eye(self.out_features, dtype=dtype)
        self.register_buffer("weight", torch.cat([eye, -eye], 1) if fold else eye, persistent=False)
        self.register_buffer("bias", torch.zeros(self.out_features, dtype=dtype), persistent=False)


def output_resistance(resistance: Tensor, readout: nn.Linear | None) -> Tensor:
    """What 1 A into the sense amplifiers' inputs, one after another, moves their outputs by, times the gain; ohms.

    Args:
        resistance: of every output node, others held, ``[..., nodes]``.
        readout: the amplifiers; outputs share no node.
    """
    return resistance if readout is None else resistance @ readout.weight.square().mT


def amplifier_gains(names: tuple[str, ...], amplification: float | Mapping[str, float]) -> tuple[float, ...]:
    """The gain behind every layer that moves; 1 behind the output."""
    hidden = dict.fromkeys(names[:-1], 1.0)
    if isinstance(amplification, Mapping):
        for name, gain in amplification.items():
            lookup("amplification of hidden layer", name, hidden)
            hidden[name] = gain
    else:
        hidden = dict.fromkeys(hidden, amplification)
    for name, gain in hidden.items():
        if not is_positive(gain):
            raise ConfigError(f"amplification of {name!r}: got {gain!r}, needed a positive finite gain, as 4.0")
    return (*(float(g) for g in hidden.values()), 1.0)


def power_scales(names: tuple[str, ...], banks: Sequence[Bank], gains: Sequence[float]) -> tuple[float, ...]:
    """Factor of each layer's powers in the energy, 1 at the output: from a layer to the next it falls by the squared
    gain between them.

    Raises:
        ConfigError: paths of unequal gain between two layers, which leave no energy.
    """
    scales: dict[int, float] = {}
    for first in reversed(range(len(names))):
        pending = [] if first in scales else [first]
        scales.setdefault(first, 1.0)
        while pending:
            l = pending.pop()
            for key, tail, head in banks:
                if tail == -1 or l not in (tail, head):
                    continue
                other = head if l == tail else tail
                value = scales[l] / gains[tail] ** 2 if l == tail else scales[l] * gains[tail] ** 2
                if other not in scales:
                    scales[other] = value
                    pending.append(other)
                elif not math.isclose(scales[other], value, rel_tol=1e-9):
                    raise ConfigError(
                        f"amplification: two paths to {names[other]!r} have unequal gains (the last over {key}), and "
                        "such a circuit has no energy; write amplification=1.0, or connect layers in a chain"
                    )
    return tuple(scales[l] for l in range(len(names)))
