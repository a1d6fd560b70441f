"""Networks that learn by equilibrium propagation in the comparison: centred, dense, tied, of one hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import eqprop
import hardware
from benchmarks._comparison_data import View
from benchmarks._comparison_machines import BUDGET, Clock, Machine, State, best_trial
from benchmarks._counting import count_step

# those of benchmarks.mnist
FREE, NUDGED, BETA, BATCH = 10, 6, 0.5, 16
RATES = (0.3, 0.05)


def hidden_within(inputs: int, budget: int = BUDGET, classes: int = 10) -> int:
    """Most hidden units with at most so many parameters, weights and biases of both layers; one at the least."""
    return max(1, (budget - classes) // (inputs + classes + 1))


class EpMachine(Machine):
    """A Hopfield network of one hidden layer, at the equal number of parameters or wider.

    The best factor on the learning rates and the best epoch on validation data are kept; the clock counts all that were
    tried. Read noise is that of a chip (``hardware.Fluctuation``), one draw for all
    phases of a pass, which may be there while it learns, too.

    Args:
        view, seed: data, and weights and order.
        hidden: units; None for as many as the budget allows.
        epochs: of training.
        training_noise: of the chip that it learns on; 0 for none.
        quiet: no progress bar.
    """

    def __init__(
        self,
        view: View,
        seed: int,
        *,
        hidden: int | None = None,
        epochs: int,
        training_noise: float = 0.0,
        quiet: bool = True,
    ) -> None:
        super().__init__(view, seed)
        self.epochs, self.quiet, self.training_noise = epochs, quiet, training_noise
        inputs, classes = view.still[0].shape[1], int(view.labels[0].max()) + 1
        self.hidden = hidden_within(inputs, classes=classes) if hidden is None else hidden
        self.network = eqprop.HopfieldNetwork.mlp(
            inputs, self.hidden, classes, gain=0.5, generator=torch.Generator().manual_seed(seed)
        )
        self.rule = eqprop.EquilibriumPropagation(
            beta=BETA, contour="centred", free=eqprop.Sweeps(FREE), nudged=eqprop.Sweeps(NUDGED), seed=seed
        )

    def train(self, clock: Clock) -> None:
        started = {name: value.clone() for name, value in self.network.state_dict().items()}

        def trial(factor: float) -> tuple[float, int, State]:
            self.network.load_state_dict(started)
            return self._trained(factor, clock)

        kept, chosen = best_trial(trial)
        self.settings = {"hidden": self.hidden, **chosen, "noise": self.training_noise}
        self.network.load_state_dict(kept)

    def _trained(self, factor: float, clock: Clock) -> tuple[float, int, State]:
        """Share that is right on validation data in the best epoch, that epoch, and the weights after it."""
        network: Any = self._on_chip(self.training_noise) if self.training_noise else self.network
        rates = [factor * rate for rate in RATES]
        optimizer = torch.optim.SGD(network.parameter_groups(rates), lr=rates[0])
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        generator = torch.Generator().manual_seed(self.seed)
        x, y = self.view.still[0], self.view.labels[0]
        train, validation = self.view.sides
        best, chosen, kept = -1.0, 0, network.state_dict()
        words = f"ep, {factor:g} x rates"
        for epoch in tqdm(range(self.epochs), desc=words, unit="epoch", leave=False, disable=self.quiet):
            with clock.running():
                for at in train[torch.randperm(len(train), generator=generator)].split(BATCH):
                    optimizer.zero_grad()
                    self.rule.backward(network, x[at], y[at])
                    optimizer.step()
                scheduler.step()
                right = float((self.rule.predict(network, x[validation]).argmax(1) == y[validation]).double().mean())
            if right > best:  # the first of equals
                best, chosen = right, epoch + 1
                kept = {name: value.clone() for name, value in network.state_dict().items()}
        return best, chosen, {name: kept[name] for name in self.network.state_dict()}

    def _on_chip(self, noise: float) -> Any:
        """A chip with the network's weights, ideal but for their read noise."""
        substrate = hardware.Substrate(fluctuations=(hardware.Fluctuation(noise, scope="sample"),))
        return substrate.fabricate(self.network, seed=self.seed)

    def given(self, at: slice) -> Tensor:
        return self.view.still[1][at]

    def answers(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        if noise == 0.0:
            return self.rule.predict(self.network, x).argmax(1)
        if getattr(self, "_chip", (None, None))[0] != noise:
            self._chip = (noise, self._on_chip(noise))
        return self.rule.predict(self._chip[1], x).argmax(1)

    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def operations(self) -> float:
        counts = count_step(self.network, self.rule, NUDGED)
        return float(counts.drive + FREE * counts.sweep + counts.once)
