"""Readouts of the liquid benchmark: one protocol for a liquid and for all its controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import snn
from benchmarks._liquid_data import Task, split
from benchmarks._liquid_features import INPUT, Arrays, feature
from eqprop._errors import DataError

READOUTS = ("softmax", "ridge", "nalsm")
AS_PUBLISHED = "nalsm"  # the readout of the published figures
LIQUID, OFF, RELU, PIXELS = "liquid", "recurrence off", "random ReLU", "pixels"
PLASTIC = {"nalsm": "NALSM", "stdp": "STDP"}  # arms of plastic liquids, by their rule
ARMS = (LIQUID, *PLASTIC.values(), OFF, RELU, PIXELS, INPUT)
OFFICIAL, HELD_OUT = "official test", "speaker held out"
# NALSM's cost and scale; the cost is convex, so that L-BFGS finds what 5,000 epochs of Adadelta are on the way to
_NALSM: dict[str, Any] = {"penalty": 5e-10, "scale": "share", "soft_targets": True}
# tried on validation data
_SOFTMAX: tuple[dict[str, Any], ...] = (
    {"penalty": 1e-3},
    {"penalty": 1e-2},
    _NALSM,
)
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


Place = tuple[str, str, str, int, str]  # the values of _PLACE
_PLACE = ("split", "feature", "readout", "samples", "arm")


@dataclass(frozen=True, eq=False)
class Sides:
    """Training, validation and test samples of a fit, positions in the training samples followed by the test ones."""

    train: Tensor
    validation: Tensor
    test: Tensor


def official(count: int, tests: int) -> list[Sides]:
    """The first `count` training samples, of which some validate, and all test samples."""
    train, validation = split(count)
    return [Sides(train, validation, torch.arange(tests) + count)]


def by_speaker(speakers: Tensor) -> list[Sides]:
    """Each speaker in turn is tested, the next one validates, the others train."""
    names = torch.unique(speakers).tolist()
    sides = []
    for test, validation in zip(names, [*names[1:], names[0]], strict=True):
        masks = ((speakers != test) & (speakers != validation), speakers == validation, speakers == test)
        sides.append(Sides(*(mask.nonzero()[:, 0] for mask in masks)))
    return sides


def fit(
    readout: str,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    seed: int = 0,
    *,
    refit: bool = True,
) -> tuple[snn.Readout, dict[str, Any]]:
    """A readout with the settings that did best on validation data, and these settings.

    Args:
        readout: one of `READOUTS`.
        train, validation: features ``[samples, features]`` and labels.
        seed: of the order of batches.
        refit: ridge regression learns once more from training and validation data; softmax never does.

    Raises:
        DataError: features that are all constant, as those of a silent liquid.
    """
    if readout == "ridge":
        ridge = snn.RidgeReadout(_PENALTIES, refit=refit, seed=seed).fit(*train, validation)
        return ridge, {"penalty": ridge.penalty_, "validation": max(ridge.validation_scores_.values())}
    tried = (_NALSM,) if readout == AS_PUBLISHED else _SOFTMAX
    fitted = [(snn.SoftmaxReadout(seed=seed, **settings).fit(*train, validation), settings) for settings in tried]
    made, settings = max(fitted, key=lambda pair: pair[0].validation_score_)  # the first of equals
    return made, {**settings, "epochs": made.best_epoch_, "validation": made.validation_score_}


def evaluate(
    readout: str, x: Tensor, y: Tensor, sides: Sequence[Sides], *, relu: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Fits a readout to each of the sides, and looks at its test samples once.

    Args:
        readout: one of `READOUTS`.
        x, y: features ``[samples, features]`` and labels.
        sides: which of them train, validate and test.
        relu: width of random ReLU features between the features and the readout; 0 for none.
        seed: of these.

    Returns:
        Accuracy in per cent, settings, and the answers: "1" for a right one, in the order of the test samples.
    """
    answers = ""
    chosen = []
    for one in sides:
        known = x[one.train]
        made = snn.RandomReluFeatures(x.shape[1], relu, mean=known.mean(0), seed=seed) if relu else _same
        train, validation, test = (made(known), y[one.train]), (made(x[one.validation]), y[one.validation]), x[one.test]
        if bool((known == known[0]).all()):
            # silent neurons say nothing: the commonest class is the best answer
            guess = int(torch.bincount(train[1]).argmax())
            right, settings = y[one.test] == guess, {"constant": True}
        else:
            fitted, settings = fit(readout, train, validation, seed)
            right = fitted.predict(made(test)) == y[one.test]
        answers += "".join("1" if r else "0" for r in right.tolist())
        chosen.append(settings)
    return {"accuracy_percent": 100 * answers.count("1") / len(answers), "settings": chosen, "right": answers}


def _same(x: Tensor) -> Tensor:
    return x


def fits(
    task: Task,
    train: Arrays,
    test: Arrays,
    neurons: int,
    seed: int,
    *,
    features: Sequence[str],
    readouts: Sequence[str],
    counts: Sequence[int],
    with_input: bool,
    plastic: str | None = None,
    held: Mapping[Place, dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Every figure of one network: a record a split, feature, readout, arm and number of training samples.

    Args:
        task: the data.
        train, test: features of both parts.
        neurons: of the liquid.
        seed: of the random features.
        features: the first gets a learning curve.
        readouts: names.
        counts: training samples of the learning curve, the last of them all there are.
        with_input: readouts of the input itself, which are the same for every seed.
        plastic: arm of the plastic liquid, if there is one.
        held: records that are there already, by `place_of`; given back as they are.

    Raises:
        DataError: constant features of the liquid itself, or data that no readout can be fitted to.
    """
    most, tests = counts[-1], len(next(iter(test.values())))
    y = torch.cat((task.train.labels[:most], task.test.labels[:tests]))
    speakers = None
    if task.train.speakers is not None and task.test.speakers is not None:
        speakers = torch.cat((task.train.speakers[:most], task.test.speakers[:tests]))
    for name in features:
        for arm in (LIQUID, *([plastic] if plastic else []), OFF, RELU, PIXELS if task.still else INPUT):
            if arm in (PIXELS, INPUT) and not with_input:
                continue
            x = _of(task, train, test, arm, name, neurons, most, tests)
            relu = 0 if arm != RELU else neurons * (1 if name != "bins" else len(train["liquid/bins"][0]) // neurons)
            for readout in readouts:
                plans = [
                    (OFFICIAL, n, [_moved(one, n, most) for one in official(n, tests)])
                    for n in (counts if name == features[0] else counts[-1:])
                ]
                if speakers is not None and len(torch.unique(speakers)) > 2:
                    plans.append((HELD_OUT, most, by_speaker(speakers)))
                for kind, n, sides in plans:
                    if known := (held or {}).get((kind, name, readout, n, arm)):
                        yield known
                        continue
                    try:
                        found = evaluate(readout, x, y, sides, relu=relu, seed=seed)
                    except DataError as error:
                        raise DataError(f"{arm}, {name}, {n} samples: {error}") from error
                    if arm == LIQUID and any(one.get("constant") for one in found["settings"]):
                        raise DataError(
                            f"{arm}, {name}, {n} samples: got features that are the same in all training samples, "
                            "needed some that vary; write another --weight or --input-weight"
                        )
                    width = relu or x.shape[1]
                    yield {
                        "split": kind, "feature": name, "readout": readout, "arm": arm, "samples": n, "width": width,
                    } | found  # fmt: skip


def _moved(sides: Sides, count: int, most: int) -> Sides:
    """Test samples come behind all training samples, not behind those of this fit."""
    return Sides(sides.train, sides.validation, sides.test - count + most)


def _of(task: Task, train: Arrays, test: Arrays, arm: str, name: str, neurons: int, most: int, tests: int) -> Tensor:
    if arm in (LIQUID, OFF, *PLASTIC.values()):
        return torch.cat([feature(found, arm, name, neurons) for found in (train, test)])
    if task.still and task.train.values is not None and task.test.values is not None:
        return torch.cat((task.train.values(torch.arange(most)), task.test.values(torch.arange(tests))))
    return torch.cat([feature(found, INPUT, name, task.channels) for found in (train, test)])


def place_of(record: Mapping[str, Any]) -> Place:
    """What a record is of: split, feature, readout, training samples and arm."""
    return record["split"], record["feature"], record["readout"], record["samples"], record["arm"]


# -- over networks -----------------------------------------------------------------------------------------------------


def lines(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line a split, feature, readout, number of samples and arm: mean and deviation over networks.

    ``less`` is what the liquid has more than that arm, in per cent of the test samples, and ``less_error`` its standard
    error over test samples, of answers that are averaged over networks first.
    """
    grouped: dict[Place, list[Mapping[str, Any]]] = {}
    for record in records:
        grouped.setdefault(place_of(record), []).append(record)
    made = []
    for key, own in grouped.items():
        accuracies = [r["accuracy_percent"] for r in own]
        line = dict(zip(_PLACE, key, strict=True)) | {
            "width": own[0]["width"],
            "networks": len(own),
            "accuracy_percent": statistics.fmean(accuracies),
            "deviation": statistics.stdev(accuracies) if len(own) > 1 else None,
            "constant": any(s.get("constant") for r in own for s in r["settings"]),
        }
        beside = grouped.get((*key[:4], LIQUID))
        if beside is not None and key[-1] != LIQUID:
            gain = _answers(beside) - _answers(own)
            line["less"] = 100 * float(gain.mean())
            line["less_error"] = 100 * float(gain.std()) / math.sqrt(len(gain))
        made.append(line)
    return made


def _answers(records: Sequence[Mapping[str, Any]]) -> Tensor:
    return torch.tensor([[float(c) for c in r["right"]] for r in records], dtype=torch.float64).mean(0)


def find(made: Sequence[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    """The line with these values."""
    return next((line for line in made if all(line[k] == v for k, v in wanted.items())), None)
