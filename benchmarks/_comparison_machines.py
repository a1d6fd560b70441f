"""What is compared, behind one face: it is trained, and then answers under read noise of all its weights.

Read noise is the same for everything: a relative fluctuation ``w (1 + noise N(0, 1))`` of every weight, fixed ones too,
drawn afresh for each batch of test samples. Biases have none.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import snn
from benchmarks._comparison_data import View
from benchmarks._liquid_fits import fit

BUDGET = 10_010  # trained parameters: a linear readout of 1,000 neurons and ten classes
WIDTH = 1000


class Clock:
    """CPU seconds of this process, of what is measured: of all threads, and blind to other programs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts what happens inside."""
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began


class Machine(ABC):
    """Something that learns a task.

    Attributes:
        kind: of its operations, "MAC" or "synaptic operations".
        epochs: of training; 1 where there are none.
        settings: what was chosen on validation data, and what it was trained with.
    """

    kind = "MAC"
    epochs = 1

    def __init__(self, view: View, seed: int) -> None:
        self.view, self.seed = view, seed
        self.settings: dict[str, Any] = {}

    @abstractmethod
    def train(self, clock: Clock) -> None:
        """Learn; the clock runs while it computes, not while data are made."""

    @abstractmethod
    def given(self, at: slice) -> Tensor:
        """What it gets of these test samples."""

    @abstractmethod
    def answers(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """Labels of a batch, under this read noise."""

    @abstractmethod
    def trained_parameters(self) -> int:
        """Numbers that were learned."""

    def fixed_parameters(self) -> int:
        """Weights that are there and were not."""
        return 0

    @abstractmethod
    def operations(self) -> float:
        """Of an inference."""


def noisy(weight: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """A reading of the weights; the same tensor where there is no noise."""
    if noise == 0.0:
        return weight
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
    return torch.addcmul(weight, weight, drawn, value=noise)


class Linear(Machine):
    """Ridge regression on features, its penalty chosen on validation data; here on the still input itself."""

    readout: snn.Readout

    def features(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """``[batch, features]`` of what is given."""
        return x

    def given(self, at: slice) -> Tensor:
        return self.view.still[1][at]

    def training_features(self, clock: Clock) -> Tensor:
        """Of all training samples."""
        return self._reading(self.view.still[0], clock)

    def _reading(self, x: Tensor, clock: Clock) -> Tensor:
        with clock.running():
            return self.features(x, 0.0, torch.Generator())

    def train(self, clock: Clock) -> None:
        x, y = self.training_features(clock), self.view.labels[0]
        train, validation = self.view.sides
        with clock.running():
            self.readout, self.settings = fit("ridge", (x[train], y[train]), (x[validation], y[validation]), self.seed)

    def answers(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        features = self.features(x, noise, generator).to(self.readout.coef_.dtype)
        scores = features @ noisy(self.readout.coef_, noise, generator).T + self.readout.intercept_
        return self.readout.classes_[scores.argmax(1)]

    def trained_parameters(self) -> int:
        return self.readout.coef_.numel() + self.readout.intercept_.numel()

    def operations(self) -> float:
        return float(self.readout.coef_.numel())


class RandomRelu(Linear):
    """A linear readout of as many random ReLU features of the still input as the liquid has neurons."""

    made: snn.RandomReluFeatures

    def training_features(self, clock: Clock) -> Tensor:
        x = self.view.still[0]
        self.made = snn.RandomReluFeatures(x.shape[1], WIDTH, mean=x[self.view.sides[0]].mean(0), seed=self.seed)
        return self._reading(x, clock)

    def features(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        return torch.relu_(torch.addmm(self.made.bias, x, noisy(self.made.weight, noise, generator).T))

    def fixed_parameters(self) -> int:
        return self.made.weight.numel()

    def operations(self) -> float:
        return super().operations() + self.made.weight.numel()


def accuracies(machine: Machine, noises: Sequence[float], batch: int, clock: Clock) -> dict[str, float]:
    """Accuracy in per cent at each read noise, over all test samples; the clock runs in the first pass alone."""
    y, found = machine.view.labels[1], {}
    for index, noise in enumerate(noises):
        generator = torch.Generator().manual_seed(1000 * machine.seed + index)
        right = 0
        for start in range(0, len(y), batch):
            at = slice(start, min(start + batch, len(y)))
            x = machine.given(at)
            with clock.running() if index == 0 else Clock().running():
                answers = machine.answers(x, noise, generator)
            right += int((answers == y[at]).sum())
        found[f"{noise:g}"] = 100.0 * right / len(y)
    return found
