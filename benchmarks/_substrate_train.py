"""Trains a row of the substrate benchmark on its chip, and says what came of it."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import eqprop
import hardware
from benchmarks._substrate_rows import (
    BATCH,
    SEARCH,
    SMALL_NUDGE,
    Row,
    make_chip,
    make_network,
    make_optimizer,
    make_rule,
    make_scheduler,
    rows,
)
from benchmarks._suite import finished, keep, trained

IDEAL = "devices/ideal"
#: when a chip is looked at again after the last write
LATER = {"1 s": 1.0, "1 day": 86400.0}
_LOOKED_AT = 256  # images of a diagnosis


def train(row: Row, seed: int, data: eqprop.DataSplits, out: Path, *, epochs: int | None, progress: bool) -> None:
    """One row and seed in its run folder below ``out``; a finished one is kept, an interrupted one goes on."""
    folder = out / row.name / f"seed{seed}"
    wanted = row.epochs if epochs is None else epochs
    if finished(folder) >= wanted:
        return
    network = make_network(row, seed)
    chip = make_chip(row, network, seed)
    initial = eqprop.evaluate(chip, data.validation, make_rule(row, seed)).accuracy
    chip, rule = make_chip(row, network, seed), make_rule(row, seed)  # the look took part of its noise
    optimizer = make_optimizer(row, chip)
    trainer, stopped = trained(
        chip,
        rule,
        optimizer,
        data,
        folder,
        scheduler=make_scheduler(row, optimizer, wanted),
        epochs=wanted,
        batch_size=BATCH,
        seed=seed,
        config=row.record() | {"data": {k: v for k, v in data.spec().items() if k != "source"}},
        progress=progress,
        guard=None,  # a chip that does not learn is a result
    )
    record = {
        "row": row.name,
        "seed": seed,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "stopped": stopped,
        "accuracy_percent": 100 * trainer.test().accuracy,
        "initial_validation_percent": 100 * initial,
        "validation_percent": [100 * (1 - e) for e in trainer.history.series.get("validation_error", [])],
    }
    keep(folder, record | after_training(row, seed, chip, data, out))


def after_training(row: Row, seed: int, chip: Any, data: eqprop.DataSplits, out: Path) -> dict[str, Any]:
    """The gradient that the trained chip gives, and of cells: accuracy later, and with ideal weights programmed."""
    found, rule = gradient(row, seed, chip, data), settled_rule(row, seed)
    if row.write is not None:
        counts = getattr(chip, "counts", {"pulses": 0, "limited": 0})
        found |= {name: counts[name] for name in ("pulses", "limited")} | {"later_percent": later(chip, rule, data)}
        learnt = out / IDEAL / f"seed{seed}"
        if row.substrate is not None and finished(learnt):
            programmed: Any = eqprop.load(learnt)
            found["programmed_percent"] = later(make_chip(row, programmed, seed), rule, data)
    return found


def gradient(row: Row, seed: int, chip: Any, data: eqprop.DataSplits) -> dict[str, Any]:
    """The gradient that a chip gives now: its diagnosis, and where the chip is another machine that of its own loss."""
    x, y = next(data.test.batches(_LOOKED_AT))
    rule, ideal = settled_rule(row, seed), make_network(row, seed)
    ideal.load_state_dict({name: p.detach() for name, p in chip.named_parameters()})
    found: dict[str, Any] = {"diagnosis": hardware.diagnose(chip, ideal, rule, x, y).record()}
    if row.group == "mismatch":  # what it holds still is the machine: the gradient of its own loss is the aim
        fine = eqprop.Stop(1e-6, 1000, block=10)
        truth = eqprop.ImplicitGradient(cost=rule.cost, free=fine)
        small = make_rule(replace(row, homeostasis=None, rule=row.rule | {"beta": SMALL_NUDGE}), seed, fine)
        for key, looked in (("cosine_with_own_gradient", rule), ("cosine_with_own_gradient_small_nudge", small)):
            own = eqprop.compare_layers(chip, looked, truth, x, y)
            found[key] = {layer: match.cosine for layer, match in own.items()}
    return found


def settled_rule(row: Row, seed: int) -> eqprop.Rule:
    """The rule itself, to where it has settled: what homeostasis adds is no estimate of the gradient."""
    return make_rule(replace(row, homeostasis=None), seed, eqprop.Stop(1e-5, 300, block=10))


def later(chip: Any, rule: eqprop.Rule, data: eqprop.DataSplits) -> dict[str, float]:
    """Test accuracy of a chip now and when nobody has written it for some time, in per cent."""
    copied = chip.clone()
    found = {"at once": 100 * eqprop.evaluate(copied, data.test, rule).accuracy}
    waited = 0.0
    for label, seconds in LATER.items():
        copied.wait(seconds - waited)
        waited = seconds
        found[label] = 100 * eqprop.evaluate(copied, data.test, rule).accuracy
    return found


def search(row: Row, data: eqprop.DataSplits, epochs: int, seeds: int) -> dict[str, float]:
    """Mean validation accuracy in per cent over seeds, by factor on the learning rates; test images take no part.

    One seed is not enough: rates at which outputs die on other chips may suit its own.
    """
    found = {}
    for factor in SEARCH:
        tried, accuracies = replace(row, rate=factor), []
        for seed in range(seeds):
            chip, rule = make_chip(tried, make_network(tried, seed), seed), make_rule(tried, seed)
            optimizer = make_optimizer(tried, chip)
            shuffle = torch.Generator().manual_seed(seed)
            for _ in range(epochs):
                for x, y in data.train.batches(BATCH, generator=shuffle):
                    optimizer.zero_grad()
                    rule.backward(chip, x, y)
                    optimizer.step()
            accuracies.append(100 * eqprop.evaluate(chip, data.validation, rule).accuracy)
        found[f"{factor:g}"] = statistics.fmean(accuracies)
    return found


def with_needed(chosen: list[Row]) -> list[Row]:
    """The rows, and before them the ideal one where a row programs its weights."""
    needed = any(row.write is not None for row in chosen)
    ideal = [row for row in rows() if row.name == IDEAL] if needed else []
    return [*ideal, *(row for row in chosen if row not in ideal)]
