"""What is compared, behind one face: it is trained, and then answers under read noise of all its weights.

Read noise is the same for everything: a relative fluctuation ``w (1 + noise N(0, 1))`` of every weight, fixed ones too,
drawn afresh for each batch of test samples. Biases have none.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import snn
from benchmarks._comparison_data import View
from benchmarks._liquid_fits import fit

BUDGET = 10_010  # trained parameters: a linear readout of 1,000 neurons and ten classes
WIDTH = 1000
READOUTS = ("ridge", "softmax")
# Of the learning rates of whatever learns by gradients, the best on validation data, as the readouts of liquids choose
# their penalties: few units die of the rates that suit many.
FACTORS = (1.0, 0.3, 0.1)

State = dict[str, Tensor]


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


def best_trial(trial: Callable[[float], tuple[float, int, State]]) -> tuple[State, dict[str, Any]]:
    """Weights of the best of `FACTORS` on the learning rates, the first of equals, and what was chosen.

    Args:
        trial: trains anew at a factor; the share that is right on validation data in the best epoch, that epoch, and
            the weights after it.
    """
    best, kept, chosen = -1.0, State(), dict[str, Any]()
    for factor in FACTORS:
        right, epoch, state = trial(factor)
        if right > best:
            best, kept = right, state
            chosen = {"factor": factor, "epoch": epoch, "validation": right}
    return kept, chosen


class Linear(Machine):
    """A linear readout of features; here of the still input itself.

    Ridge regression or softmax, with its penalty, and of several features the one to read: all chosen on validation
    data, from which nothing else is learned. The clock counts all that were tried.
    """

    readout: snn.Readout
    feature = "input"

    def features(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        """``[batch, features]`` of what is given."""
        return x

    def given(self, at: slice) -> Tensor:
        return self.view.still[1][at]

    def training_features(self, clock: Clock) -> Mapping[str, Tensor]:
        """Of all training samples, by name."""
        return {self.feature: self._reading(self.view.still[0], clock)}

    def _reading(self, x: Tensor, clock: Clock) -> Tensor:
        with clock.running():
            return self.features(x, 0.0, torch.Generator())

    def train(self, clock: Clock) -> None:
        y, best = self.view.labels[0], -1.0
        train, validation = self.view.sides
        for feature, x in self.training_features(clock).items():
            sides = (x[train], y[train]), (x[validation], y[validation])
            for readout in READOUTS:
                with clock.running():
                    made, settings = fit(readout, *sides, self.seed, refit=False)
                if settings["validation"] > best:  # the first of equals
                    best, self.readout, self.feature = settings["validation"], made, feature
                    self.settings = {"feature": feature, "readout": readout} | settings

    def answers(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        features = self.features(x, noise, generator)
        read = copy.copy(self.readout)
        read.coef_ = noisy(self.readout.coef_, noise, generator)
        labels: Tensor = read.predict(features)
        return labels

    def trained_parameters(self) -> int:
        return self.readout.coef_.numel() + self.readout.intercept_.numel()

    def operations(self) -> float:
        return float(self.readout.coef_.numel())


class RandomRelu(Linear):
    """A linear readout of as many random ReLU features of the still input as the liquid has neurons."""

    made: snn.RandomReluFeatures
    feature = "random ReLU"

    def training_features(self, clock: Clock) -> Mapping[str, Tensor]:
        x = self.view.still[0]
        self.made = snn.RandomReluFeatures(x.shape[1], WIDTH, mean=x[self.view.sides[0]].mean(0), seed=self.seed)
        return {self.feature: self._reading(x, clock)}

    def features(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        return torch.relu_(torch.addmm(self.made.bias, x, noisy(self.made.weight, noise, generator).T))

    def fixed_parameters(self) -> int:
        return self.made.weight.numel()

    def operations(self) -> float:
        return super().operations() + self.made.weight.numel()


def right_answers(machine: Machine, noises: Sequence[float], batch: int, clock: Clock) -> dict[str, str]:
    """All test samples at each read noise: "1" for a right answer; the clock runs in the first pass alone."""
    y, found = machine.view.labels[1], {}
    for index, noise in enumerate(noises):
        generator = torch.Generator().manual_seed(1000 * machine.seed + index)
        right = ""
        for start in range(0, len(y), batch):
            at = slice(start, min(start + batch, len(y)))
            x = machine.given(at)
            with clock.running() if index == 0 else Clock().running():
                answers = machine.answers(x, noise, generator)
            right += "".join("1" if r else "0" for r in (answers == y[at]).tolist())
        found[f"{noise:g}"] = right
    return found


def accuracy(right: str) -> float:
    """In per cent, of answers of `right_answers`."""
    return 100.0 * right.count("1") / len(right)
