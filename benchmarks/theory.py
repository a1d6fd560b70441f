"""Check the theory on small float64 networks: slopes in beta, the match with BPTT, energies that fall.

Random chains with a smooth activation, several seeds. The true gradient is that of implicit differentiation. Writes a
figure of the gradient error against beta, and the measured slopes.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import linregress

import eqprop
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._gradient_error import Problem, flat, relative_error
from eqprop._solvers import Solver

BETAS = (0.016, 0.008, 0.004, 0.002, 0.001)
EXACT = eqprop.Stop(tol=1e-14, max_sweeps=4000)
COSTS = ("squared-error", "cross-entropy")


def chain(seed: int, cost: str) -> Problem:
    """A random tied chain 12-10-8-6 with sigmoid(4z - 2) and a batch of 8; cross-entropy through a readout."""
    generator = torch.Generator().manual_seed(seed)
    readout = 6 if cost == "cross-entropy" else None
    network = eqprop.HopfieldNetwork.mlp(
        12, 10, 8, 6, activation="sigmoid", output_activation="sigmoid", readout=readout, generator=generator
    ).double()
    x = torch.rand(8, 12, generator=generator, dtype=torch.float64)
    return network, x, torch.randint(0, 6, (8,), generator=generator)


def make_rule(
    cost: str,
    beta: float,
    *,
    contour: str = "centred",
    readout: str = "contrast",
    nudged_sweeps: int | None = None,
    alternating: bool = True,
) -> eqprop.EquilibriumPropagation:
    """Equilibrium propagation; nudged phases end at the fixed point, or after so many sweeps (back, if they alternate,
    as BPTT goes through them).
    """
    return eqprop.EquilibriumPropagation(
        beta=beta,
        contour=contour,
        readout=readout,
        cost=cost,
        free=EXACT,
        solver=_solver(alternating),
        nudged=EXACT if nudged_sweeps is None else eqprop.Sweeps(nudged_sweeps),
        nudged_solver=_solver(alternating, reverse=nudged_sweeps is not None),
    )


def _solver(alternating: bool, reverse: bool = False) -> Solver:
    return eqprop.Alternating(reverse=reverse) if alternating else eqprop.Synchronous()


def truth_rule(cost: str) -> eqprop.ImplicitGradient:
    """Implicit differentiation at the fixed point."""
    return eqprop.ImplicitGradient(cost=cost, free=EXACT)


def errors(seed: int, cost: str) -> dict[str, list[float]]:
    """Relative gradient error at each beta, by contour and readout; and of contrast against tangent."""
    network, x, y = chain(seed, cost)
    truth = flat(eqprop.gradients(network, truth_rule(cost), x, y))
    table: dict[str, list[float]] = {}
    for contour in ("one-sided", "centred"):
        found: dict[str, list[torch.Tensor]] = {}
        for readout in ("contrast", "tangent"):
            for beta in BETAS:
                rule = make_rule(cost, beta, contour=contour, readout=readout)
                found.setdefault(readout, []).append(flat(eqprop.gradients(network, rule, x, y)))
            table[f"{contour}, {readout}"] = [relative_error(g, truth) for g in found[readout]]
        table[f"{contour}, contrast against tangent"] = [
            float((a - b).norm() / truth.norm()) for a, b in zip(found["contrast"], found["tangent"], strict=True)
        ]
    return table


def slope(values: Sequence[float]) -> float:
    """Exponent p of error ~ beta^p."""
    return float(linregress([math.log(b) for b in BETAS], [math.log(v) for v in values]).slope)


def bptt_cosine(problem: Problem, rule: eqprop.EquilibriumPropagation, sweeps: int) -> float:
    """Cosine of a rule with BPTT through as many sweeps, of all parameters."""
    bptt = eqprop.TruncatedBPTT(steps=sweeps, cost=rule.cost, free=EXACT, solver=rule.solver)
    return eqprop.compare_gradients(problem[0], rule, bptt, *problem[1:])["all"].cosine


def worst_bptt_cosine(seed: int, *, alternating: bool) -> float:
    """Least cosine of EP (beta = 1e-3, K nudged sweeps) with BPTT through K sweeps, over K = 3, 5, 10."""
    problem = chain(seed, "squared-error")
    return min(
        bptt_cosine(problem, make_rule("squared-error", 1e-3, nudged_sweeps=k, alternating=alternating), k)
        for k in (3, 5, 10)
    )


def graphs(activation: str, generator: torch.Generator) -> dict[str, eqprop.HopfieldNetwork]:
    """A chain, a triangle, and a chain with a same-parity skip."""
    layers = {name: eqprop.Layer(8, activation) for name in ("a", "b", "c")}
    layers = {"x": eqprop.Layer(6)} | layers
    edges = [("x", "a"), ("a", "b"), ("b", "c")]
    made = {}
    for name, extra in {"chain": [], "triangle": [("a", "c")], "skip": [("x", "c"), ("a", "c")]}.items():
        connections = [eqprop.Dense(a, b) for a, b in edges + extra]
        made[name] = eqprop.HopfieldNetwork(layers, connections, generator=generator, dtype=torch.float64)
    return made


def energy_rise(seed: int) -> float:
    """Largest relative rise of the energy in one alternating sweep, free phase, over graphs and activations."""
    generator = torch.Generator().manual_seed(seed)
    worst = -math.inf
    for activation in ("hard_sigmoid", "sigmoid", "tanh", "relu6"):
        for network in graphs(activation, generator).values():
            drive = network.drive(torch.rand(16, 6, generator=generator, dtype=torch.float64))
            state = network.initial_state(16)
            trajectory = eqprop.Trajectory(network, drive, start=state)
            eqprop.relax(network, state, drive, stop=eqprop.Sweeps(50), observer=trajectory)
            energy = trajectory.energy()
            rise = (energy[1:] - energy[:-1]) / energy[1:].abs().clamp(min=1)
            worst = max(worst, float(rise.max()))
    return worst


def draw(tables: dict[str, list[dict[str, list[float]]]]) -> Figure:
    """Error against beta, a panel a cost; thin lines are seeds, thick ones medians."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True)
    colours = {"one-sided": "tab:orange", "centred": "tab:blue"}
    for axis, (cost, seeds) in zip(axes, tables.items(), strict=True):
        for contour, colour in colours.items():
            for readout, dashes in (("contrast", "-"), ("tangent", "--")):
                rows = [table[f"{contour}, {readout}"] for table in seeds]
                for row in rows:
                    axis.loglog(BETAS, row, dashes, color=colour, alpha=0.15, linewidth=0.8)
                middle = [statistics.median(column) for column in zip(*rows, strict=True)]
                axis.loglog(
                    BETAS, middle, dashes, color=colour, marker="o", markersize=3, label=f"{contour}, {readout}"
                )
        axis.set(xlabel="nudge strength beta", title=cost)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("relative gradient error")
    axes[-1].legend(fontsize=8)
    return figure


def main(arguments: argparse.Namespace) -> None:
    """Measure, draw and record."""
    if arguments.seeds < 1:
        raise eqprop.ConfigError(f"--seeds: got {arguments.seeds}, needed at least 1")
    seeds = list(range(arguments.seeds))
    tables = {cost: [errors(seed, cost) for seed in seeds] for cost in COSTS}
    slopes = {
        f"{name}, {cost}": [slope(row[name]) for row in rows] for cost, rows in tables.items() for name in rows[0]
    }
    synchronous = min(worst_bptt_cosine(seed, alternating=False) for seed in seeds)
    alternating = min(worst_bptt_cosine(seed, alternating=True) for seed in seeds)
    rise = max(energy_rise(seed) for seed in seeds)
    arguments.run.save_figure("gradient_error", draw(tables))

    def deviation(name: str, expected: int) -> float:
        found = [v for key, values in slopes.items() if key.startswith(name) for v in values]
        return max(abs(v - expected) for v in found)

    finish(
        arguments,
        title="Theory in float64: equilibrium propagation against implicit differentiation",
        headline=[
            *(
                {
                    "name": f"slope in beta, {what}: largest deviation from {p}",
                    "value": deviation(key, p),
                    "unit": "",
                    "target": "<= 0.1",
                }
                for what, key, p in (
                    ("one-sided contrast", "one-sided, contrast,", 1),
                    ("one-sided tangent", "one-sided, tangent,", 1),
                    ("centred contrast", "centred, contrast,", 2),
                    ("centred tangent", "centred, tangent,", 2),
                    ("contrast - tangent, centred", "centred, contrast against", 2),
                )
            ),
            {"name": "1 - cosine with BPTT, synchronous", "value": 1 - synchronous, "unit": "", "target": "<= 1e-4"},
            {"name": "1 - cosine with BPTT, alternating", "value": 1 - alternating, "unit": "", "target": "<= 1e-4"},
            {"name": "largest rise of the energy in a sweep", "value": rise, "unit": "", "target": "<= 1e-12"},
        ],
        details={
            "seeds": seeds,
            "betas": BETAS,
            "tolerance": EXACT.tol,
            "slopes": {k: {"mean": statistics.fmean(v), "min": min(v), "max": max(v)} for k, v in slopes.items()},
        },
    )


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.theory", __doc__ or "")
    made.add_argument_group("suite").add_argument("--seeds", type=int, default=8, help="random networks")
    add_output_options(made, Path("runs/theory"))
    return made


if __name__ == "__main__":
    run_main(main, options())
