"""Learning without weight symmetry: contours, initial angles, homeostasis, and every correction side by side.

Re-runs the comparisons of Laborieux & Zenke (2024) on Fashion-MNIST, 784-256-256-10 with a softmax readout. Each row
and seed is a run folder of its own below --out: a run that was interrupted goes on where it stopped, a finished one is
kept. `--report` draws the figures and the table from what is finished. The rows of `rules` all spend the same number of
evaluations of the field a step (see `_asymmetry_budget`); of the others the table shows what they spent.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import eqprop
from benchmarks._asymmetry_budget import price, sweeps_text
from benchmarks._asymmetry_rows import BUDGET, FREE, NUDGED, Row, make_network, make_optimizer, make_rule, rows
from benchmarks._common import add_output_options, finish, new_parser, run_main
from benchmarks._suite import cell, deviation, finished, first_cells, keep, matching, results, trained
from eqprop._errors import ConfigError
from eqprop._history import History

BATCH = 50
_TITLES = {"homeostasis-50": "homeostasis, 50 epochs", "rules": f"rules, {BUDGET} evaluations a step"}


def train(row: Row, seed: int, data: eqprop.DataSplits, out: Path, arguments: argparse.Namespace) -> None:
    """One row and seed; leaves `result.json` in its folder."""
    epochs = row.epochs if arguments.epochs is None else arguments.epochs
    if finished(out) >= epochs:
        return
    network, rule = make_network(row, seed), make_rule(row, seed, arguments.tol)
    trainer, stopped = trained(
        network,
        rule,
        make_optimizer(row, network),
        data,
        out,
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        config={"row": row.name, "rule": rule.spec(), "tol": arguments.tol},
        progress=False,
    )
    test = trainer.test()
    record = {
        "row": row.name,
        "seed": seed,
        "epochs": trainer.epoch,
        "accuracy_percent": 100 * test.accuracy,
        "test_converged_share": test.converged_share,
        "seconds": trainer.seconds,
        "stopped": stopped,
    }
    keep(out, record | diagnose(row, seed, network, data, arguments.tol))


def diagnose(row: Row, seed: int, network: Any, data: eqprop.DataSplits, tol: float) -> dict[str, Any]:
    """After training, in float64: the error vectors of the row's own rule, and of the exact response, against the
    adjoint.

    The exact response (``derivative``) shows the bias of asymmetry alone; the row's own rule adds that of its contour
    and removes what its correction removes. Unconverged samples are those of the row's own phases and sweeps.
    """
    if row.rule == "backprop":
        return {}
    x, y = next(data.test.batches(200))
    double, x = network.clone().double(), x.double()
    stop = eqprop.Stop(tol=1e-10, max_sweeps=2000)
    exact = eqprop.EquilibriumPropagation(
        cost="cross-entropy", contour="derivative", readout="tangent", free=stop, nudged=stop
    )
    own = make_rule(row, seed, tol)
    found: dict[str, Any] = {
        "error_vector": _by_layer(eqprop.compare_error_vectors(double, own, x, y)),
        "error_vector_exact_response": _by_layer(eqprop.compare_error_vectors(double, exact, x, y)),
        "unconverged_share": float(own.error_vector(double, x, y)[0].unconverged_share),
    }
    free = eqprop.relax(double, double.initial_state(len(x)), double.drive(x), stop=stop)
    for coordinates in ("activation", "membrane"):
        loss = eqprop.JacobianHomeostasis(1.0, coordinates=coordinates).loss(double, free.state, double.drive(x))
        found[f"asymmetry_{coordinates}"] = float(loss.total / loss.norm)
    if isinstance(network, eqprop.DirectedNetwork):
        found["weight_angle_degrees"] = eqprop.weight_angles(network)
    return found


def _by_layer(vectors: Mapping[str, eqprop.ErrorVectorMatch]) -> dict[str, dict[str, float]]:
    return {layer: match._asdict() for layer, match in vectors.items()}


def collect(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished runs by row."""
    return {row: [record | _spent(folder) for folder, record in runs] for row, runs in results(out).items()}


def _spent(folder: Path) -> dict[str, float]:
    """Seconds of training, over all processes that took part, and mean sweeps a sample (and nudged phase) and step."""
    if not (folder / "metrics.h5").exists():
        return {}
    history = History.read(folder / "metrics.h5")
    names = [name for name in ("free_sweeps", "nudged_sweeps") if name in history]
    means = {name: float(history[name].mean()) for name in names if len(history[name])}
    # a rule without a free or without a nudged phase has NaN there
    spent = {name: value for name, value in means.items() if not math.isnan(value)}
    return spent | ({"seconds": float(history["seconds"].sum())} if "seconds" in history else {})


def first_hidden(record: Mapping[str, Any]) -> float | None:
    """Error-vector cosine of the first hidden layer."""
    vectors = record.get("error_vector")
    return None if not vectors else float(next(iter(vectors.values()))["cosine"])


def summarise(found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A line a row: means over seeds, beside the published figure."""
    lines = []
    for row in rows():
        records = found.get(row.name, [])
        if not records:
            continue
        accuracies = [r["accuracy_percent"] for r in records]
        rule = make_rule(row, 0, 0.0)  # what it pays does not depend on seed and tolerance
        free, nudged = (_mean(records, lambda r, name=name: r.get(name)) for name in ("free_sweeps", "nudged_sweeps"))
        cosines = [c for r in records if (c := first_hidden(r)) is not None]
        lines.append(
            {
                "group": row.group,
                "row": row.label,
                "seeds": len(records),
                "epochs": max(r["epochs"] for r in records),
                "accuracy_percent": statistics.fmean(accuracies),
                "accuracy_deviation": deviation(accuracies),
                "first_hidden_cosine": statistics.fmean(cosines) if cosines else None,
                "exact_response_cosine": _mean(records, lambda r: _first(r, "cosine", "error_vector_exact_response")),
                "relative_error": _mean(records, lambda r: _first(r, "relative_error")),
                "asymmetry_activation": _mean(records, lambda r: r.get("asymmetry_activation")),
                "asymmetry_membrane": _mean(records, lambda r: r.get("asymmetry_membrane")),
                "unconverged_share": _mean(records, lambda r: r.get("unconverged_share")),
                "sweeps": None if free is None else sweeps_text(rule, free, nudged or 0.0),
                "evaluations_a_step": None if free is None else price(rule).evaluations(free, nudged or 0.0),
                "seconds_an_epoch": statistics.fmean(r["seconds"] / max(r["epochs"], 1) for r in records),
                "published": row.published,
                "stopped": [r["stopped"] for r in records if r["stopped"]],
            }
        )
    return lines


def _first(record: Mapping[str, Any], key: str, of: str = "error_vector") -> float | None:
    vectors = record.get(of)
    return None if not vectors else float(next(iter(vectors.values()))[key])


def _mean(records: list[dict[str, Any]], value: Any) -> float | None:
    values = [v for r in records if (v := value(r)) is not None]
    return statistics.fmean(values) if values else None


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    text = [
        "| group | row | seeds x epochs | accuracy % | first hidden cosine: own rule | exact response "
        "| relative error | S / norm (act. / memb.) "
        "| unconverged | sweeps a step | evaluations a step | s an epoch | published |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        cells = [
            *first_cells(line),
            cell(line["first_hidden_cosine"]),
            cell(line["exact_response_cosine"]),
            cell(line["relative_error"]),
            " / ".join(filter(None, (cell(line["asymmetry_activation"]), cell(line["asymmetry_membrane"])))),
            cell(line["unconverged_share"]),
            line["sweeps"] or "",
            "" if line["evaluations_a_step"] is None else f"{line['evaluations_a_step']:.0f}",
            f"{line['seconds_an_epoch']:.0f}",
            line["published"],
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def draw(lines: list[dict[str, Any]]) -> Figure:
    """A panel a group: accuracy with its deviation over seeds, and the first hidden layer's error-vector cosine."""
    groups = list(dict.fromkeys(line["group"] for line in lines))
    figure = Figure(figsize=(9, 0.4 + sum(0.75 + 0.24 * sum(v["group"] == g for v in lines) for g in groups)))
    figure.set_layout_engine("constrained", hspace=0.02)
    heights = [0.5 + sum(line["group"] == g for line in lines) for g in groups]
    axes = figure.subplots(len(groups), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (left, right), group in zip(axes, groups, strict=True):
        mine = [line for line in lines if line["group"] == group]
        places = list(range(len(mine)))
        for axis in (left, right):
            axis.set(yticks=places, yticklabels=[], ylim=(len(mine) - 0.5, -0.5))
            axis.grid(axis="y", color="0.9")
        accuracies = [v["accuracy_percent"] for v in mine]
        spreads = [v["accuracy_deviation"] or 0.0 for v in mine]
        # points: a bar from 0 would hide the differences, a cut one mislead
        left.errorbar(accuracies, places, xerr=spreads, fmt="o", capsize=3)
        ends = [a + sign * d for a, d in zip(accuracies, spreads, strict=True) for sign in (-1, 1)]
        margin = max(0.5, 0.05 * (max(ends) - min(ends)))
        left.set(xlim=(max(0.0, min(ends) - margin), min(100.0, max(ends) + margin)))
        left.set_yticklabels([v["row"] + (" (stopped)" if v["stopped"] else "") for v in mine])
        left.set_title(f"{_TITLES.get(group, group)}: test accuracy (%)", loc="left", fontsize="medium")
        cosines = [math.nan if v["first_hidden_cosine"] is None else v["first_hidden_cosine"] for v in mine]
        right.axvline(1.0, color="0.7", linewidth=0.8)
        right.plot(cosines, places, "o", color="tab:red")
        for place in (p for p, v in zip(places, cosines, strict=True) if math.isnan(v)):
            right.text(-0.17, place, "none of its own", color="0.5", va="center", fontsize="small")
        right.set(xlim=(-0.2, 1.05))
        right.tick_params(axis="y", length=0)
    axes[0, 1].set_title("error-vector cosine, first hidden layer", loc="left", fontsize="medium")
    return figure


def main(arguments: argparse.Namespace) -> None:
    """Train what is missing, then report what there is."""
    chosen = matching(rows(), arguments.rows, "angle/*")
    out = Path(arguments.out)
    if not arguments.report:
        data = eqprop.load_dataset("fashion-mnist", arguments.data)
        for seed in range(arguments.seeds):
            for row in chosen:
                train(row, seed, data, out / row.name / f"seed{seed}", arguments)
    lines = summarise(collect(out))
    if not lines:
        raise ConfigError(f"--report: found no finished run below {out.name}, needed at least one")
    print(table(lines))
    run = eqprop.Run.create(out / "report", {"rows": [line["row"] for line in lines]}, overwrite=True)
    run.save_figure("asymmetry", draw(lines))
    by_name = {(line["group"], line["row"]): line for line in lines}
    headline = []
    for label, target in (("off", "<= 0.5"), ("activation", ">= 0.9")):
        line = by_name.get(("homeostasis", label))
        if line is not None:
            name = f"first hidden cosine from 90 degrees, homeostasis {label}, {line['seeds']} seeds x {line['epochs']}"
            headline.append({"name": name, "value": line["first_hidden_cosine"], "unit": "", "target": target})
            headline.append({"name": f"accuracy, homeostasis {label}", "value": line["accuracy_percent"], "unit": "%"})
    headline = headline or [{"name": lines[0]["row"], "value": lines[0]["accuracy_percent"], "unit": "%"}]
    finish(
        arguments,
        title="Learning without weight symmetry, Fashion-MNIST 784-256-256-10",
        headline=headline,
        details={
            "rows": lines,
            "sweeps": {"free": FREE, "nudged": NUDGED},
            "budget": BUDGET,
            "seeds": list(range(arguments.seeds)),
        },
        device=torch.device("cpu"),
        run=run,
    )


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.asymmetry", __doc__ or "")
    suite = made.add_argument_group("suite")
    suite.add_argument(
        "--rows", nargs="+", metavar="PATTERN", default=["*"], help="rows to train, as 'angle/*' 'loop/*'"
    )
    suite.add_argument("--seeds", type=int, default=3, help="seeds a row")
    suite.add_argument("--epochs", type=int, metavar="N", help="epochs of every row (default: the row's own)")
    suite.add_argument("--data", metavar="DIR", help="folder with Fashion-MNIST (default: cache, or download)")
    suite.add_argument(
        "--tol", type=float, default=1e-6, help="the free phase ends early where all samples are within this residual"
    )
    suite.add_argument("--report", action="store_true", help="train nothing; table and figures of what is finished")
    add_output_options(made, Path("runs/asymmetry"))
    return made


if __name__ == "__main__":
    sys.exit(run_main(main, options(), make_run=False))
