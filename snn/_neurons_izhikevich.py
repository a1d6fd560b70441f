"""Izhikevich's simple model of spiking neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from snn._neurons import Neuron, Setting, States, Value, add_scaled, check_setting, reset_voltage

SCHEMES = ("half-steps", "euler")
#: Published firing patterns: a, b, c, d (Izhikevich 2003, figure 2).
PATTERNS: dict[str, tuple[float, float, float, float]] = {
    "regular-spiking": (0.02, 0.2, -65.0, 8.0),
    "intrinsically-bursting": (0.02, 0.2, -55.0, 4.0),
    "chattering": (0.02, 0.2, -50.0, 2.0),
    "fast-spiking": (0.1, 0.2, -65.0, 2.0),
    "low-threshold-spiking": (0.02, 0.25, -65.0, 2.0),
    "thalamo-cortical": (0.02, 0.25, -65.0, 0.05),
    "resonator": (0.1, 0.26, -65.0, 2.0),
}


@dataclass(frozen=True, repr=False)
class Izhikevich(Neuron):
    """``v' = 0.04 v^2 + 5 v + 140 - u + i``, ``u' = a (b v - u)``, in milliseconds and millivolts, threshold first.

    One step, in this order (Izhikevich, IEEE Trans. Neural Netw. 14:1569, 2003, and his ``net.m``):

    1. ``s = [v >= peak]``
    2. ``v <- c`` and ``u <- u + d`` where ``s``
    3. the current ``i`` of this step, with the arrivals of these spikes
    4. ``"half-steps"``: twice ``v <- v + dt/2 v'``, then ``u <- u + dt u'`` with the new ``v``, as in ``net.m``;
       ``"euler"``: both from the old values

    Voltages start at -65 mV and ``u`` at ``b v``.

    Attributes:
        a, b, c, d: of the firing pattern; see ``Izhikevich.pattern``.
        peak: voltage at which a spike is cut off, mV.
        scheme: ``"half-steps"`` or ``"euler"``.

    Raises:
        ConfigError: values that are not finite, or an unknown scheme.
    """

    a: Setting = 0.02
    b: Setting = 0.2
    c: Setting = -65.0
    d: Setting = 8.0
    peak: Setting = 30.0
    scheme: str = "half-steps"

    fires_first: ClassVar[bool] = True
    _fixed: ClassVar[tuple[str, ...]] = ("scheme",)

    def __post_init__(self) -> None:
        for name in self.settings:
            check_setting(f"Izhikevich.{name}", getattr(self, name))
        if self.scheme not in SCHEMES:
            raise ConfigError(f"Izhikevich.scheme: got {self.scheme!r}, needed 'half-steps' (of net.m) or 'euler'")

    @staticmethod
    def pattern(name: str) -> Izhikevich:
        """The neuron of a published firing pattern, one of ``PATTERNS``."""
        return Izhikevich(*lookup("firing pattern", name, PATTERNS))

    def constants(self, dt_seconds: float, value: Mapping[str, Value]) -> dict[str, Any]:
        return dict(value) | {"dt_ms": dt_seconds * 1e3}

    def initial(self, k: Mapping[str, Any], like: Tensor) -> States:
        v = torch.full_like(like, -65.0)
        return {"v": v, "u": v * k["b"]}

    def fire(self, state: States, k: Mapping[str, Any], spikes: Tensor) -> None:
        torch.ge(state["v"], k["peak"], out=spikes)
        reset_voltage(state["v"], spikes, k["c"])
        add_scaled(state["u"], k["d"], spikes)

    def integrate(self, state: States, k: Mapping[str, Any], current: Tensor) -> None:
        v, u, dt = state["v"], state["u"], k["dt_ms"]
        if self.scheme == "euler":
            recovery = (v * k["b"]).sub_(u).mul_(k["a"])
            v.add_(_slope(v, u, current), alpha=dt)
            u.add_(recovery, alpha=dt)
            return
        for _ in range(2):
            v.add_(_slope(v, u, current), alpha=0.5 * dt)
        u.add_((v * k["b"]).sub_(u).mul_(k["a"]), alpha=dt)


def _slope(v: Tensor, u: Tensor, current: Tensor) -> Tensor:
    """``v'`` in millivolts a millisecond."""
    return (v * 0.04).add_(5.0).mul_(v).add_(140.0).sub_(u).add_(current)
