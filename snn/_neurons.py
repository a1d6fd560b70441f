"""What a neuron model is to a liquid: constants, state, a test for spikes and one step of integration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._device_checks import is_number
from hardware._printed import Printed

#: A setting of a neuron: one number for all, or a pair for excitatory and inhibitory neurons.
Setting = float | tuple[float, float]
#: The same bound to a liquid: a number, or one a neuron, ``[neurons, 1]``.
Value = float | Tensor
States = dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Neuron(Printed):
    """Base of neuron models: settings as data, and the two halves of a time step on tensors ``[neurons, batch]``.

    One step of a liquid is, with ``fires_first``: spikes by the voltage of the step before, arrivals of *these* spikes,
    integration; without: arrivals of the spikes of the step before, integration, spikes by the new voltage.

    A model of your own is a frozen dataclass with ``constants``, ``initial``, ``fire`` and ``integrate``; all work in
    place, on the device, and never look at values. Spikes are 0 or 1 in the dtype of the voltage: on a CPU that is
    several times faster than booleans, which do not vectorise beside floats.

    Attributes:
        fires_first: whether spikes are those of the voltage before the step.
    """

    fires_first: ClassVar[bool] = False

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that may differ from neuron to neuron."""
        return tuple(f.name for f in fields(self) if f.name not in self._fixed)

    _fixed: ClassVar[tuple[str, ...]] = ()

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        """What a step needs, from the bound settings, computed once a run."""
        raise NotImplementedError

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        """Fresh states in the shape, dtype and place of ``like [neurons, batch]``; the voltage is ``"v"``."""
        raise NotImplementedError

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        """Writes 0 or 1 into ``spikes`` and resets what fired."""
        raise NotImplementedError

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        """One step of the membrane under ``current [neurons, batch]``, which is left as it is."""
        raise NotImplementedError

    def interval_steps(self, dt_seconds: float, value: Mapping[str, Value]) -> Value:
        """Fewest steps between two spikes of each neuron, from the bound settings."""
        return 1.0

    def shortest_interval_steps(self, dt_seconds: float) -> int:
        """Fewest steps between two spikes of a neuron of either type."""
        named = {name: getattr(self, name) for name in self.settings}
        types = ({n: v[i] if isinstance(v, tuple) else v for n, v in named.items()} for i in range(2))
        return min(int(self.interval_steps(dt_seconds, one)) for one in types)

    def bind(self, excitatory: Tensor | None, own: Mapping[str, Tensor]) -> dict[str, Value]:
        """Settings of the neurons of a liquid: a number where all agree, else ``[neurons, 1]``.

        Args:
            excitatory: bool ``[neurons]``, for pairs.
            own: values a neuron, ``[neurons]``, in place of settings.

        Raises:
            ConfigError: a pair without types of neurons.
        """
        values: dict[str, Value] = {}
        for name in self.settings:
            setting = getattr(self, name)
            if name in own:
                values[name] = own[name][:, None]
            elif isinstance(setting, tuple):
                values[name] = by_type(f"{type(self).__name__}.{name}", setting, excitatory)
            else:
                values[name] = setting
        return values


def by_type(name: str, pair: tuple[float, float], excitatory: Tensor | None) -> Tensor:
    """``[neurons, 1]`` float64: the first of ``pair`` for excitatory neurons, the second for inhibitory ones.

    Raises:
        ConfigError: neurons without types.
    """
    if excitatory is None:
        raise ConfigError(
            f"{name}: got {pair!r} for excitatory and inhibitory neurons, needed types; write Liquid(excitatory=...)"
        )
    share = excitatory.to(torch.float64)[:, None]
    return share * pair[0] + (1.0 - share) * pair[1]


def in_place(values: Mapping[str, Value], like: Tensor) -> dict[str, Value]:
    """Tensors among ``values`` in the dtype of ``like``, where it lives."""
    return {n: v.to(like) if isinstance(v, Tensor) else v for n, v in values.items()}


def check_setting(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> None:
    """Raises ConfigError unless ``value`` is a finite number, or a pair of them, within the bounds."""
    numbers = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    fits = all(is_number(v) and (above is None or v > above) and (least is None or v >= least) for v in numbers)
    if not fits:
        bound = f" above {above:g}" if above is not None else f" of at least {least:g}" if least is not None else ""
        raise ConfigError(
            f"{name}: got {value!r}, needed a finite number{bound}, or a pair of them (excitatory, inhibitory)"
        )


def exponential(value: Value) -> Value:
    """``exp(value)`` of a number or a tensor."""
    return torch.exp(value) if isinstance(value, Tensor) else math.exp(value)


def steps_of(seconds: Value, dt_seconds: float) -> Value:
    """Whole steps in a time."""
    return torch.round(seconds / dt_seconds) if isinstance(seconds, Tensor) else float(round(seconds / dt_seconds))


def add_scaled(target: Tensor, scale: Value, tensor: Tensor) -> None:
    """``target += scale * tensor``."""
    if isinstance(scale, Tensor):
        target.addcmul_(tensor, scale)
    else:
        target.add_(tensor, alpha=scale)


def reset_voltage(v: Tensor, spikes: Tensor, to: Value) -> None:
    """``v <- to`` where a neuron fired, exactly: ``v (1 - s) + to s``."""
    v.addcmul_(v, spikes, value=-1.0)  # v - v = 0 without rounding
    if isinstance(to, Tensor) or to != 0.0:
        add_scaled(v, to, spikes)


def block(spikes: Tensor, wait: Tensor, blocked_steps: Value) -> None:
    """Takes back spikes of neurons that wait; then all wait one step less, and what fires waits ``blocked_steps``."""
    torch.gt(spikes, wait, out=spikes)  # 1 > wait only where it is 0: whole numbers
    wait.sub_(1.0).clamp_(min=0.0)
    add_scaled(wait, blocked_steps, spikes)
