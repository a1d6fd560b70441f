"""Which contours and corrections give exact gradients: tied, untied and looped networks in float64.

Random networks with sigmoid(4z - 2), squared error and cross-entropy; the truth is implicit differentiation. Shows the
error of the Cauchy contour against the number of points and against beta, with and without AsymEP, and where plain
contours stall for want of symmetry.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import linregress

import eqprop
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._gradient_error import Problem, flat, relative_error
from eqprop import Dense, DirectedNetwork, HopfieldNetwork, Layer

EXACT = eqprop.Stop(tol=1e-15, max_sweeps=4000)
COSTS = ("squared-error", "cross-entropy")
KINDS = ("tied", "untied", "loop")
POINTS = (1, 2, 3, 4, 6, 8, 12, 16)
# each order N is fitted where its error is above rounding and beta^N still leads
CENTRED = (0.016, 0.008, 0.004, 0.002, 0.001)
FITTED = {1: CENTRED, 2: (0.2, 0.1, 0.05, 0.025), 4: (0.2, 0.1, 0.05, 0.025)}


def network(kind: str, cost: str, seed: int) -> HopfieldNetwork | DirectedNetwork:
    """A random 12-10-8-6 network: tied, untied at 90 degrees, or the loop a -> b -> c -> a."""
    shared: dict[str, Any] = {
        "generator": torch.Generator().manual_seed(seed),
        "dtype": torch.float64,
        "readout": 6 if cost == "cross-entropy" else None,
    }
    if kind == "loop":
        layers = {"x": Layer(12)} | {n: Layer(size, "sigmoid") for n, size in (("a", 10), ("b", 8), ("c", 6))}
        ends = [("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]
        return DirectedNetwork(layers, [Dense(a, b, gain=0.5) for a, b in ends], **shared)
    if kind == "tied":
        return HopfieldNetwork.mlp(12, 10, 8, 6, activation="sigmoid", **shared)
    return DirectedNetwork.mlp(12, 10, 8, 6, activation="sigmoid", feedback_angle=90.0, **shared)


def problem(kind: str, cost: str, seed: int) -> Problem:
    """The network of a seed and 8 random samples."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.rand(8, 12, generator=generator, dtype=torch.float64)
    return network(kind, cost, seed), x, torch.randint(0, 6, (8,), generator=generator)


def make_rule(
    cost: str, *, contour: str = "cauchy", readout: str = "tangent", **settings: Any
) -> eqprop.EquilibriumPropagation:
    """Equilibrium propagation whose phases end at the fixed point; settings: ``beta``, ``points``, ``correction``."""
    return eqprop.EquilibriumPropagation(
        cost=cost, contour=contour, readout=readout, free=EXACT, nudged=EXACT, **settings
    )


def truth_rule(cost: str) -> eqprop.ImplicitGradient:
    """Implicit differentiation at the fixed point."""
    return eqprop.ImplicitGradient(cost=cost, free=EXACT)


def measure(kind: str, cost: str, seed: int, correction: str | None) -> dict[str, list[float]]:
    """Relative gradient error of the Cauchy contour over points and over beta, and of the centred contour."""
    net, x, y = problem(kind, cost, seed)
    truth = flat(eqprop.gradients(net, truth_rule(cost), x, y))

    def error(beta: float, points: int) -> float:
        rule = make_rule(cost, beta=beta, points=points, correction=correction)
        return relative_error(flat(eqprop.gradients(net, rule, x, y)), truth)

    found = {"points": [error(0.05, n) for n in POINTS], "centred": [error(b, 2) for b in CENTRED]}
    return found | {f"N = {n}": [error(b, n) for b in FITTED[n]] for n in FITTED}


def slope(betas: Sequence[float], values: Sequence[float]) -> float:
    """Exponent p of error ~ beta^p."""
    return float(linregress([math.log(b) for b in betas], [math.log(v) for v in values]).slope)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest, over seeds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


Found = dict[tuple[str, str, str | None], list[dict[str, list[float]]]]


def draw(found: Found, exponents: dict[str, dict[str, float]]) -> Figure:
    """Error against the number of points at beta = 0.05, and the measured exponents of beta.

    A panel a cost, a colour a network, dashed without AsymEP; the last panel has medians, least and largest exponents.
    """
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    *axes, last = figure.subplots(1, len(COSTS) + 1, width_ratios=[1.0] * len(COSTS) + [0.7])
    axes[1].sharey(axes[0])
    colours = dict(zip(KINDS, ("tab:blue", "tab:orange", "tab:green"), strict=True))
    for axis, cost in zip(axes, COSTS, strict=True):
        for kind in KINDS:
            for correction, dashes in ((None, "--"), ("asymep", "-")):
                runs = found[kind, cost, correction]
                values = torch.tensor([r["points"] for r in runs], dtype=torch.float64)
                label = f"{kind}, {'AsymEP' if correction else 'plain'}"
                axis.semilogy(
                    POINTS, values.median(0).values, dashes, marker="o", ms=3, color=colours[kind], label=label
                )
                low, high = values.amin(0), values.amax(0)
                axis.fill_between(POINTS, low, high, color=colours[kind], alpha=0.12, linewidth=0)
        axis.set(xlabel="points N of the contour, beta = 0.05", title=cost)
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("relative gradient error")
    # below the panels: within, it would cover the plain curves of the loop, which stall at the top
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=2 * len(KINDS))
    labels = []
    for place, (name, of) in enumerate(exponents.items()):
        ends = [[of["median"] - of["min"]], [of["max"] - of["median"]]]
        last.errorbar([of["median"] - of["needed"]], [place], xerr=ends, fmt="o", ms=4, capsize=3, color="tab:purple")
        labels.append(f"{name}\n{of['median']:.3f} [{of['min']:.3f}, {of['max']:.3f}]")
    last.axvline(0.0, color="0.7", linewidth=0.8)
    last.set(yticks=range(len(exponents)), ylim=(len(exponents) - 0.5, -0.5))
    last.set_yticklabels(labels, fontsize=7)
    last.set_xlabel("p - needed, of error ~ beta^p")
    last.set_title("p: median [min, max]", fontsize=10)
    last.grid(True, axis="x", alpha=0.3)
    return figure


def main(arguments: argparse.Namespace) -> None:
    """Measure, draw and record."""
    if arguments.seeds < 1:
        raise eqprop.ConfigError(f"--seeds: got {arguments.seeds}, needed at least 1")
    seeds = range(arguments.seeds)
    found: Found = {
        (kind, cost, correction): [measure(kind, cost, seed, correction) for seed in seeds]
        for kind in KINDS
        for cost in COSTS
        for correction in (None, "asymep")
    }
    last = POINTS.index(16)

    def over(kinds: Sequence[str], correction: str | None, key: str, place: int) -> list[float]:
        return [r[key][place] for (k, _, c), runs in found.items() if k in kinds and c == correction for r in runs]

    untied = ("untied", "loop")
    corrected = [r for (k, _, c), runs in found.items() if k in untied and c == "asymep" for r in runs]
    tied = [r for (k, _, c), runs in found.items() if k == "tied" and c is None for r in runs]
    exponents = {
        f"{label}, N = {n}": (n, [slope(FITTED[n], r[f"N = {n}"]) for r in runs])
        for label, runs in (("tied", tied), ("untied and loop, AsymEP", corrected))
        for n in FITTED
    }
    centred = [slope(CENTRED, r["centred"]) for r in corrected]
    measured = {label: {"needed": float(n)} | spread(v) for label, (n, v) in exponents.items()}
    measured["untied and loop, AsymEP, centred"] = {"needed": 2.0} | spread(centred)
    arguments.run.save_figure("exactness", draw(found, measured))
    headline: list[dict[str, Any]] = [
        {
            "name": "worst error, tied, N = 16",
            "value": max(over(("tied",), None, "points", last)),
            "target": "<= 1e-10",
        },
        {
            "name": "worst error, untied and loop, AsymEP, N = 16",
            "value": max(over(untied, "asymep", "points", last)),
            "target": "<= 1e-10",
        },
        {
            "name": "worst error, untied and loop, centred AsymEP, beta = 1e-3",
            "value": max(over(untied, "asymep", "centred", -1)),
            "target": "<= 1e-5",
        },
        {
            "name": "its slope in beta: largest deviation from 2",
            "value": max(abs(v - 2) for v in centred),
            "target": "<= 0.1",
        },
        *(
            {
                "name": f"exponent of beta, {label}: deviation of the median",
                "value": abs(measured[label]["median"] - n),
                "target": "<= 0.1",
            }
            for label, (n, _) in exponents.items()
        ),
        *(
            {
                "name": f"plain contours without symmetry, N = 16, {cost}: error stalls at",
                "value": min(r["points"][last] for k in untied for r in found[k, cost, None]),
                "target": ">= 0.2",
            }
            for cost in COSTS
        ),
    ]
    finish(
        arguments,
        title="Exact gradients at a finite nudge, float64, against implicit differentiation",
        headline=[{"unit": ""} | figure for figure in headline],
        details={
            "seeds": list(seeds),
            "points": POINTS,
            "exponents_of_beta": measured,
            "median_error_over_points": {
                f"{kind}, {cost}, {correction or 'plain'}": torch.tensor([r["points"] for r in runs])
                .median(0)
                .values.tolist()
                for (kind, cost, correction), runs in found.items()
            },
        },
    )


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.exactness", __doc__ or "")
    made.add_argument_group("suite").add_argument("--seeds", type=int, default=16, help="random networks of each kind")
    add_output_options(made, Path("runs/exactness"))
    return made


if __name__ == "__main__":
    run_main(main, options())
