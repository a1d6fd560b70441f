"""Liquids in the comparison: the static one of NALSM with a linear readout of its spikes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

import snn
from benchmarks._comparison_data import View
from benchmarks._comparison_machines import Clock, Linear, noisy
from benchmarks._liquid_config import Config, make_liquid
from benchmarks._liquid_health import look, require_well
from snn._features import taken

_BATCH = 250


class LiquidMachine(Linear):
    """A static liquid, with its recurrent weights or without them, and a linear readout.

    It reads the neurons' counts or their filtered spikes at the end, a number a neuron either way; of several features
    of the config, those that did best on validation data.

    Args:
        view, seed: data, and the network.
        config: preset, weights and features of the liquid.
        recurrent: whether recurrent weights are there.
        quiet: no progress bar.
    """

    kind = "synaptic operations"

    def __init__(self, view: View, seed: int, config: Config, *, recurrent: bool, quiet: bool = True) -> None:
        super().__init__(view, seed)
        self.quiet, self.tau_seconds, self.tried = quiet, config.tau_seconds, config.features
        self.liquid = make_liquid(config, view.task, seed)
        if not recurrent:
            self.liquid.weight = torch.zeros_like(self.liquid.weight)
        seen = look(self.liquid, view.task, seed)
        if recurrent:
            require_well(seen, config.weight)
        self.health = seen.figures

    def training_features(self, clock: Clock) -> Mapping[str, Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in self.tried}
        starts = range(0, self.view.samples, _BATCH)
        for start in tqdm(starts, desc="features", unit="batch", leave=False, disable=self.quiet):
            at = torch.arange(start, min(start + _BATCH, self.view.samples))
            trains = self.view.task.train.trains(at, self.seed)
            with clock.running():
                made = self._run(self.liquid, trains, self.tried)
            for name, values in made.items():
                found[name].append(values)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def given(self, at: slice) -> Tensor:
        return self.view.task.test.trains(torch.arange(at.start, at.stop), self.seed)

    def features(self, x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
        liquid: snn.Liquid = self.liquid
        if noise:
            liquid = copy.deepcopy(self.liquid)
            liquid.weight = noisy(liquid.weight, noise, generator)
            if liquid.input_weight is not None:
                liquid.input_weight = noisy(liquid.input_weight, noise, generator)
        return self._run(liquid, x, (self.feature,))[self.feature]

    def _run(self, liquid: snn.Liquid, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """These features ``[batch, neurons]`` of trains ``[batch, time, channels]``."""
        tau = self.tau_seconds if "filter" in names else None
        found, _ = taken(liquid, x, x.shape[1], trace_seconds=tau)
        made = {"counts": found[:, : liquid.neurons], "filter": found[:, liquid.neurons :]}
        return {name: made[name] for name in names}

    def fixed_parameters(self) -> int:
        return sum(int((w != 0).sum()) for w in (self.liquid.weight, self.liquid.input_weight) if w is not None)

    def operations(self) -> float:
        spikes = self.health["synaptic_operations_recurrent"] + self.health["synaptic_operations_input"]
        return super().operations() + float(spikes)
