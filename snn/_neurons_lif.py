"""Leaky integrate-and-fire neurons, each with the step of the work that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from snn._neurons import (
    Neuron,
    Setting,
    States,
    Value,
    add_scaled,
    block,
    check_setting,
    exponential,
    reset_voltage,
    steps_of,
)

REFRACTORINESS = ("blocked", "frozen")


@dataclass(frozen=True, repr=False)
class NalsmLIF(Neuron):
    """The current-based neuron of NALSM (Ivanov & Michmizos, NeurIPS 2021, and their code), threshold first.

    One step, in this order:

    1. ``s = [v >= threshold and wait <= 0]``
    2. ``v <- reset`` where ``s``
    3. the current ``i`` of this step, with the arrivals of these spikes
    4. ``v <- v + i - v dt / tau_v``: the leak is explicit Euler
    5. ``wait <- refractory_steps`` where ``s``, else ``wait - 1``

    Refractory neurons integrate; only their spikes are blocked. Two spikes are ``refractory_steps + 1`` steps apart at
    the least. Voltage has no unit; a current is what it adds to the voltage in a step.

    Attributes:
        tau_v_seconds: leak.
        threshold, reset: of the voltage.
        refractory_steps: steps without a spike after one.

    Raises:
        ConfigError: a time that is not positive, a threshold not above the reset, a refractory time below 0 steps.
    """

    tau_v_seconds: Setting = 0.064
    threshold: Setting = 20.0
    reset: Setting = 0.0
    refractory_steps: Setting = 2

    fires_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_setting("NalsmLIF.tau_v_seconds", self.tau_v_seconds, above=0.0)
        check_setting("NalsmLIF.refractory_steps", self.refractory_steps, least=0)
        _check_levels("NalsmLIF", self.threshold, self.reset)

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        return dict(value) | {"keep": 1.0 - dt_seconds / value["tau_v_seconds"]}

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        return {"v": torch.zeros_like(like), "wait": torch.zeros_like(like)}

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        torch.ge(state["v"], k["threshold"], out=spikes)
        block(spikes, state["wait"], k["refractory_steps"])
        reset_voltage(state["v"], spikes, k["reset"])

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        state["v"].mul_(k["keep"]).add_(current)

    def interval_steps(self, dt_seconds: float, value: Mapping[str, Value]) -> Value:
        return value["refractory_steps"] // 1.0 + 1.0


@dataclass(frozen=True, repr=False)
class LIF(Neuron):
    """Leaky integrate-and-fire with exact exponentials: the solution for a current that holds still during a step.

    One step, in this order:

    1. the current ``i``, with the arrivals of the spikes of the step before
    2. ``v <- v + (1 - exp(-dt / tau_v)) (rest + resistance (i + bias) - v)``; where ``refractoriness`` is ``"frozen"``
       only of neurons that are not refractory
    3. ``s = [v > threshold]`` of neurons that are not refractory
    4. ``v <- reset`` where ``s``

    A neuron may fire again ``refractory_seconds`` after a spike, in the step ``round(refractory_seconds / dt)`` later,
    which is the first that a frozen voltage moves in. With ``"blocked"`` the voltage integrates all the time. Units are
    yours: millivolts with nanoamperes and megaohms, as in the papers.

    Attributes:
        tau_v_seconds: membrane time constant.
        threshold, reset, rest: of the voltage.
        resistance: volts a unit of current.
        bias: a constant current.
        refractory_seconds: from a spike on; 0 for none.
        refractoriness: ``"frozen"`` or ``"blocked"``.
        initial_voltage: of all neurons.

    Raises:
        ConfigError: a time that is not positive, a threshold not above the reset, an unknown refractoriness.
    """

    tau_v_seconds: Setting = 0.03
    threshold: Setting = 1.0
    reset: Setting = 0.0
    rest: Setting = 0.0
    resistance: Setting = 1.0
    bias: Setting = 0.0
    refractory_seconds: Setting = 0.0
    initial_voltage: Setting = 0.0
    refractoriness: str = "frozen"

    _fixed: ClassVar[tuple[str, ...]] = ("refractoriness",)

    def __post_init__(self) -> None:
        check_setting("LIF.tau_v_seconds", self.tau_v_seconds, above=0.0)
        check_setting("LIF.refractory_seconds", self.refractory_seconds, least=0.0)
        for name in ("rest", "resistance", "bias", "initial_voltage"):
            check_setting(f"LIF.{name}", getattr(self, name))
        _check_levels("LIF", self.threshold, self.reset)
        if self.refractoriness not in REFRACTORINESS:
            raise ConfigError(
                f"LIF.refractoriness: got {self.refractoriness!r}, needed 'frozen' (the voltage stays at reset) or "
                "'blocked' (it integrates, without spikes)"
            )

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        steps = steps_of(value["refractory_seconds"], dt_seconds)
        blocked = (steps - 1.0).clamp(min=0.0) if isinstance(steps, Tensor) else max(steps - 1.0, 0.0)
        return dict(value) | {
            "approach": 1.0 - exponential(-dt_seconds / value["tau_v_seconds"]),
            "target": value["rest"] + value["resistance"] * value["bias"],
            "blocked_steps": blocked,
        }

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        return {"v": torch.zeros_like(like) + k["initial_voltage"], "wait": torch.zeros_like(like)}

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        torch.gt(state["v"], k["threshold"], out=spikes)
        block(spikes, state["wait"], k["blocked_steps"])
        reset_voltage(state["v"], spikes, k["reset"])

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        v = state["v"]
        change = (current * k["resistance"]).add_(k["target"]).sub_(v).mul_(k["approach"])
        if self.refractoriness == "frozen":
            change.mul_(torch.le(state["wait"], 0.0, out=torch.empty_like(v)))
        v.add_(change)

    def interval_steps(self, dt_seconds: float, value: Mapping[str, Value]) -> Value:
        steps = steps_of(value["refractory_seconds"], dt_seconds)
        return steps.clamp(min=1.0) if isinstance(steps, Tensor) else max(steps, 1.0)


@dataclass(frozen=True, repr=False)
class NorseLIF(Neuron):
    """The explicit Euler step of norse's ``lif_step`` (Pehle & Pedersen 2021), hard reset, no refractory period.

    One step, in this order:

    1. the current ``i``, with the arrivals of the spikes of the step before; ``Exponential(5e-3, method="euler")`` is
       the synapse that norse couples to it
    2. ``v <- v + dt / tau_v (rest - v + i)``
    3. ``s = [v > threshold]``
    4. ``v <- reset`` where ``s``

    Raises:
        ConfigError: a time that is not positive, a threshold not above the reset.
    """

    tau_v_seconds: Setting = 0.01
    threshold: Setting = 1.0
    reset: Setting = 0.0
    rest: Setting = 0.0

    def __post_init__(self) -> None:
        check_setting("NorseLIF.tau_v_seconds", self.tau_v_seconds, above=0.0)
        check_setting("NorseLIF.rest", self.rest)
        _check_levels("NorseLIF", self.threshold, self.reset)

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        return dict(value) | {"rate": dt_seconds / value["tau_v_seconds"]}

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        return {"v": torch.zeros_like(like) + k["rest"]}

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        torch.gt(state["v"], k["threshold"], out=spikes)
        reset_voltage(state["v"], spikes, k["reset"])

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        v = state["v"]
        add_scaled(v, k["rate"], (current + k["rest"]).sub_(v))


@dataclass(frozen=True, repr=False)
class StepLIF(Neuron):
    """The neuron of spatio-temporal backpropagation (Wu et al. 2018), by the step: decay, sum, threshold.

    One step, in this order:

    1. the current ``i``, with the arrivals of the spikes of the step before
    2. ``v <- decay v + gain i``
    3. ``s = [v > threshold]``
    4. ``v <- 0`` where ``s`` (their factor ``1 - s`` of the next step)

    Raises:
        ConfigError: a decay outside of 0..1 or a threshold that is not positive.
    """

    decay: Setting = 0.9
    threshold: Setting = 5.0
    gain: Setting = 1.0

    def __post_init__(self) -> None:
        check_setting("StepLIF.decay", self.decay, least=0.0)
        check_setting("StepLIF.gain", self.gain)
        check_setting("StepLIF.threshold", self.threshold, above=0.0)
        if max(_numbers(self.decay)) > 1.0:
            raise ConfigError(f"StepLIF.decay: got {self.decay!r}, needed a factor a step between 0 and 1")

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        return dict(value)

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        return {"v": torch.zeros_like(like)}

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        torch.gt(state["v"], k["threshold"], out=spikes)
        reset_voltage(state["v"], spikes, 0.0)

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        add_scaled(state["v"].mul_(k["decay"]), k["gain"], current)


def _numbers(setting: Setting) -> tuple[float, ...]:
    return setting if isinstance(setting, tuple) else (setting,)


def _check_levels(owner: str, threshold: Setting, reset: Setting) -> None:
    check_setting(f"{owner}.threshold", threshold)
    check_setting(f"{owner}.reset", reset)
    if min(_numbers(threshold)) <= max(_numbers(reset)):
        raise ConfigError(
            f"{owner}: got threshold={threshold!r} and reset={reset!r}, needed a threshold above the reset: "
            "a neuron would fire in every step"
        )
