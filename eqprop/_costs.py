"""Costs: what the nudge pulls the output towards, and whose gradient every rule estimates.

A cost is a function of the network's *output*: the state of the output layer, or, where the network has a readout
outside its dynamics, ``R s_out + r``. ``beta > 0`` lowers the loss (the total energy is ``E + beta C``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from eqprop._pairs import Pair, softmax


class Cost:
    """Base of all costs. A subclass gives ``loss`` and, where it has a closed form, ``gradient``."""

    name = "cost"
    holomorphic = False

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """``C(output, target)`` a sample: ``[batch, outputs]``, ``[batch, outputs]`` -> ``[batch]``."""
        raise NotImplementedError

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """``dC / d output`` a sample, ``[batch, outputs]``; by automatic differentiation unless overridden."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            loss = self.loss(leaf, target)
            if not loss.requires_grad:
                raise ConfigError("cost function: got a value that does not depend on the output, needed one that does")
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
        return grad

    def pair_gradient(self, re: Tensor, im: Tensor, target: Tensor) -> Pair:
        """``dC / d output`` at the complex output ``re + i im`` (holomorphic costs only)."""
        raise ConfigError(f"cost {self.name!r} is not holomorphic: it has no gradient at a complex output")

    def target(self, y: Tensor, like: Tensor) -> Tensor:
        """Targets of the shape and dtype of ``like`` (``[batch, outputs]``): labels become one-hot rows.

        Raises:
            DataError: targets of another shape, labels outside ``0 .. outputs - 1``, or targets that are not finite
                (values are checked on the CPU; on an accelerator a check would wait for the device, and the data sets
                have checked their labels).
        """
        if not isinstance(y, Tensor):
            raise DataError(f"targets: got {type(y).__name__}, needed a tensor; write torch.as_tensor(y)")
        if y.dtype.is_floating_point:
            if y.shape != like.shape:
                raise DataError(f"targets: got shape {tuple(y.shape)}, needed {tuple(like.shape)} or integer labels")
            if y.device.type == "cpu" and not math.isfinite(float(y.detach().sum())):
                bad = torch.nonzero(~torch.isfinite(y).all(-1)).flatten().tolist()
                if bad:
                    raise DataError(
                        f"targets: got NaN or infinite values in samples {bad[:8]} of the batch, needed finite ones"
                    )
            return y.to(like.dtype)
        if y.shape != like.shape[:1]:
            raise DataError(f"labels: got shape {tuple(y.shape)}, needed {tuple(like.shape[:1])}: one label a sample")
        classes = like.shape[-1]
        if y.device.type == "cpu" and y.numel():
            low, high = (int(v) for v in torch.aminmax(y))
            if low < 0 or high >= classes:
                raise DataError(
                    f"labels: got values from {low} to {high}, needed 0 to {classes - 1} for {classes} outputs; "
                    f"relabel the data{f' or build the network with {high + 1} outputs' if low >= 0 else ''}"
                )
        return (y[:, None] == torch.arange(classes, device=y.device)).to(like.dtype)


@dataclass(frozen=True)
class SquaredError(Cost):
    """``C = 1/2 ||output - y||^2``. Nudges with ``beta > -1`` keep the energy bounded."""

    name = "squared-error"
    holomorphic = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(-1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        return output - target

    def pair_gradient(self, re: Tensor, im: Tensor, target: Tensor) -> Pair:
        return re - target, im


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """``C = -sum_i y_i log softmax(output)_i``, usually of a readout outside the dynamics."""

    name = "cross-entropy"
    holomorphic = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -(target * torch.log_softmax(output, -1)).sum(-1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.softmax(output, -1) * target.sum(-1, keepdim=True) - target

    def pair_gradient(self, re: Tensor, im: Tensor, target: Tensor) -> Pair:
        p_re, p_im = softmax(re, im)
        mass = target.sum(-1, keepdim=True)
        return p_re * mass - target, p_im * mass


@dataclass(frozen=True)
class FunctionCost(Cost):
    """A user's own cost, ``function(output, target) -> [batch]``; its gradient comes from autograd."""

    function: Callable[[Tensor, Tensor], Tensor]
    name = "function"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        loss = self.function(output, target)
        if loss.shape != output.shape[:1]:
            raise ConfigError(
                f"cost function: got a result of shape {tuple(loss.shape)}, needed {tuple(output.shape[:1])}: "
                "one value a sample (write .sum(-1), not .sum() or .mean())"
            )
        return loss


_COSTS = {c.name: c for c in (SquaredError(), CrossEntropy())}


def cost(name: str | Cost | Callable[[Tensor, Tensor], Tensor] | Any) -> Cost:
    """A cost from its name (``"squared-error"``, ``"cross-entropy"``), from a function, or itself.

    Raises:
        ConfigError: unknown name, or something that is neither a name, a ``Cost`` nor callable.
    """
    if isinstance(name, Cost):
        return name
    if isinstance(name, str):
        return lookup("cost", name, _COSTS)
    if callable(name):
        return FunctionCost(name)
    raise ConfigError(f"cost: got {type(name).__name__}, needed a name, an eqprop.Cost or a function(output, target)")
