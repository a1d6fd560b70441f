"""The substrate suite of ``benchmarks.speed``: what a chip adds to a training step.

Every candidate takes whole steps (``zero_grad``, ``rule.backward``, SGD) of the same network on the same batch: the
plain network, and the same once more as a control; a chip of the ideal substrate; full phase-change chips, of which
every cell, or one of every pair, is written again after each step and read afresh in each relaxation; and cells that
learn by stochastic pulses, few of them a step. Everyone takes several steps at a time, as in training: the first one
finds the data of another in the caches. Who begins a round changes from round to round. How far the control is from 1
is the error of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import eqprop
import hardware
from benchmarks._common import device_named, finish, sizes
from benchmarks._timing import Candidates, each_round, middle, ratio

#: a second plain network, whose ratio would be 1 without errors of the measurement
CONTROL = "plain, once more"
#: steps that a candidate takes at a time
CALLS = 6
TARGETS = {"ideal substrate": 1.05, "pcm, every cell written": 4.0, "sparse pulses": 2.5}
# rates of the optimiser: a rate at which cells of this kind learn digits well, and one that touches many of them
RATES = {"sparse pulses": 0.004, "many pulses": 0.05}


@dataclass
class Candidate:
    """Steps of one network, and what they wrote so far."""

    network: Any
    run: Callable[[], object]

    @property
    def cells(self) -> int:
        """Number of all cells."""
        return sum(a.conductance.numel() for a in getattr(self.network, "arrays", {}).values())

    @property
    def written(self) -> tuple[int, int]:
        """Cells written in closed loops, and pulses, so far."""
        counts = getattr(self.network, "counts", {"writes": 0, "pulses": 0})
        return counts["writes"], counts["pulses"]


def candidate(
    layers: list[int],
    batch: int,
    sweeps: int,
    device: torch.device,
    substrate: hardware.Substrate | None,
    *,
    rate: float = 0.004,
    stochastic: bool = False,
) -> Candidate:
    """Steps of centred EP on random data, on a chip where a substrate is given."""
    generator = torch.Generator().manual_seed(0)
    network: Any = eqprop.HopfieldNetwork.mlp(*layers, generator=generator)
    x = torch.rand(batch, layers[0], generator=generator).to(device)
    y = torch.randint(0, layers[-1], (batch,), generator=generator).to(device)
    network = (network if substrate is None else substrate.fabricate(network)).to(device)
    stop = eqprop.Sweeps(sweeps)
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=stop, nudged=stop)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    if stochastic:
        network.write_path(optimizer, mode="stochastic")

    def run() -> eqprop.RuleStep:
        optimizer.zero_grad()
        step = rule.backward(network, x, y)
        optimizer.step()
        return step

    return Candidate(network, run)


def substrate_suite(arguments: argparse.Namespace) -> None:
    """A step on chips against the same step of the plain network."""
    device, batch = device_named(arguments.device), arguments.batch_size
    layers = sizes(arguments.network)
    pcm, single = (hardware.Substrate(cells=hardware.CellArray("pcm", pairs)) for pairs in ("balanced", "one-sided"))
    pulsed = hardware.Substrate(cells=hardware.CellArray("reram-sb"))
    chips: dict[str, tuple[hardware.Substrate | None, dict[str, Any]]] = {
        "plain": (None, {}),
        CONTROL: (None, {}),
        "ideal substrate": (hardware.Substrate(), {}),
        "pcm, every cell written": (pcm, {}),
        "pcm, one cell of a pair": (single, {}),
        **{name: (pulsed, {"rate": rate, "stochastic": True}) for name, rate in RATES.items()},
    }
    made = {
        name: candidate(layers, batch, arguments.sweeps, device, substrate, **options)
        for name, (substrate, options) in chips.items()
    }
    times, ratios = _interleaved({name: one.run for name, one in made.items()}, arguments.rounds)
    shares = {name: _share(one) for name, one in made.items()}
    print(f"{arguments.network}, batch {batch}, {arguments.sweeps} sweeps a phase, {device}")
    for name, seconds in times.items():
        touched = f", {100 * shares[name]:.1f} % of the cells a step" if shares[name] else ""
        print(f"  {name:24s} {1e3 * seconds:8.3f} ms   {ratios[name]:5.2f} x plain{touched}")
    headline: list[dict[str, Any]] = []
    for name, value in ratios.items():
        if name == "plain":
            continue
        touched = f" ({100 * shares[name]:.2g} % of the cells a step)" if "pulses" in name else ""
        figure = {"name": name + touched, "value": value, "unit": "x plain step"}
        headline.append(figure | ({"target": f"<= {TARGETS[name]:g}"} if name in TARGETS else {}))
    finish(
        arguments,
        title=f"A training step on a chip against a plain one, {arguments.network}, batch {batch}",
        headline=headline,
        details={
            "seeds": [0],
            "median_seconds": times,
            "share_of_cells_touched_a_step": shares,
            "steps": arguments.rounds * CALLS * len(made),
        },
        device=device,
    )


def _share(one: Candidate, steps: int = 20) -> float:
    """Share of the cells that a step writes or pulses, the mean of some steps after those that were timed."""
    if not one.cells:
        return 0.0
    pulses = _touched(one)
    touched = 0.0
    for _ in range(steps):
        one.run()
        now = _touched(one)
        touched += sum(float((a != b).double().sum()) for a, b in zip(now, pulses, strict=True))
        pulses = now
    return touched / steps / one.cells


def _touched(one: Candidate) -> list[torch.Tensor]:
    return [a.written.clone() for a in one.network.arrays.values()]


def _interleaved(candidates: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of a step, and the median over rounds of its ratio to the plain step of the same round."""
    each = each_round(candidates, rounds=rounds, calls=CALLS, warm_up=2, order=_turned)
    return middle(each), {name: ratio(each, name, "plain") for name in candidates}


def _turned(candidates: Candidates, by: int) -> Candidates:
    """The candidates in another order: both directions in turn, so that not the same one always comes before another,
    and another one first in every second round."""
    names = list(candidates)
    start = by // 2 % len(names)
    names = names[start:] + names[:start]
    return {name: candidates[name] for name in (names if by % 2 == 0 else names[::-1])}
