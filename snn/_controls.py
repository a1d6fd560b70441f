"""Controls that every figure of a liquid stands beside: the same readout without any dynamics."""

from __future__ import annotations

import torch
from torch import Tensor

from eqprop._errors import DataError
from hardware._device_checks import require_whole
from snn._encoders import channels


class RandomReluFeatures:
    """``max(0, W (x - mean) + b)`` with fixed random W and b: what a width gives without dynamics.

    A random layer with a trained linear readout (Rahimi & Recht 2008; an "extreme learning machine"). W is normal, of
    variance 1 an input, b normal with the standard deviation ``bias`` (0 by default: with centred inputs that was
    best).

    Args:
        inputs: values of a sample.
        width: features; that of the liquid it is compared with.
        mean: taken from the inputs, ``[inputs]``: the mean of the training data, or None for 0.
        bias: standard deviation of the biases.
        seed: of W and b, drawn on the CPU.
    """

    def __init__(
        self, inputs: int, width: int = 1000, *, mean: Tensor | None = None, bias: float = 0.0, seed: int = 0
    ) -> None:
        require_whole("inputs", inputs, 1)
        require_whole("width", width, 1)
        require_whole("seed", seed, 0)
        if mean is not None and mean.shape != (inputs,):
            raise DataError(f"mean: got shape {list(mean.shape)}, needed [{inputs}]; write x.mean(0)")
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(width, inputs, generator=generator, dtype=torch.float32)
        self.bias = bias * torch.randn(width, generator=generator, dtype=torch.float32)
        if mean is not None:
            self.bias -= self.weight @ mean.to(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``[batch, width]`` of values ``[batch, ...]``.

        Raises:
            DataError: values that are not finite floats, or another number of them.
        """
        rows = channels(x)
        if rows.shape[1] != self.weight.shape[1]:
            raise DataError(f"input: got {rows.shape[1]} values a sample, needed {self.weight.shape[1]}")
        weight, bias = self.weight.to(rows.device, rows.dtype), self.bias.to(rows.device, rows.dtype)
        return torch.relu_(torch.addmm(bias, rows, weight.T))
