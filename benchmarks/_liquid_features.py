"""Features of liquids over a data set, a batch at a time, kept in HDF5 files so that a killed run goes on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import snn
from benchmarks._liquid_data import Part, Task
from eqprop._checkpoints import atomic_write
from eqprop._errors import DataError
from eqprop._names import lookup
from snn._features import taken
from snn._health import Health

FORMAT = "eqprop-liquid-features/1"
FEATURES = ("counts", "filter", "bins")
INPUT = "input"  # the same features, of the input itself
_ENOUGH = 20  # samples that say whether a liquid is dead
_PLASTIC_TOGETHER = 50  # samples of a plastic liquid that a CPU runs at once: each has a copy of the weights
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """What is computed of a train.

    Attributes:
        names: of "counts" (spikes of each neuron), "filter" (at the end) and "bins" (counts in equal parts of time).
        bins: parts.
        tau_seconds: of the filter.
    """

    names: tuple[str, ...] = ("counts",)
    bins: int = 5
    tau_seconds: float = 0.03

    def __post_init__(self) -> None:
        for name in self.names:
            lookup("--feature", name, dict.fromkeys(FEATURES))

    @property
    def parts(self) -> int:
        """Parts of time that are counted by themselves."""
        return self.bins if "bins" in self.names else 1


class Cache:
    """A file a batch, each written whole or not at all; files of other settings count as absent.

    Args:
        folder: of the files.
        key: settings that decide the numbers.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()

    def read(self, name: str, count: int) -> Arrays | None:
        """The arrays of a batch of `count` samples, or None where they have to be computed."""
        try:
            with h5py.File(io.BytesIO((self.folder / f"{name}.h5").read_bytes()), "r") as file:
                if file.attrs.get("format") != FORMAT or file.attrs.get("key") != self.key:
                    return None
                found = {f"{arm}/{key}": data[()] for arm, group in file.items() for key, data in group.items()}
        except (OSError, KeyError, RuntimeError, AttributeError):  # absent or damaged
            return None
        return found if found and all(len(values) == count for values in found.values()) else None

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep the arrays of a batch. Raises RunFolderError where that is impossible."""
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.attrs["format"], file.attrs["key"] = FORMAT, self.key
            for key, values in arrays.items():
                file.create_dataset(key, data=values, compression="gzip", compression_opts=1, shuffle=True)
        atomic_write(self.folder / f"{name}.h5", buffer.getvalue(), "the features of a batch")


class NoCache(Cache):
    """Keeps no features: where the result of a point is enough."""

    def __init__(self) -> None:
        super().__init__(Path(), {})

    def read(self, name: str, count: int) -> Arrays | None:
        return None

    def write(self, name: str, arrays: Arrays) -> None:
        pass


def clear(folder: Path) -> None:
    """Remove the features and results of the run in a folder, and nothing else."""
    for pattern in ("features/seed-*/*.h5", "results/seed-*.json"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def of_liquid(
    liquid: snn.Liquid, trains: Tensor, wanted: Wanted, generator: torch.Generator | None = None
) -> tuple[Arrays, Health]:
    """Features of a batch of trains, and whether the liquid is well."""
    tau = wanted.tau_seconds if "filter" in wanted.names else None
    found, health = taken(liquid, trains, trains.shape[1], wanted.parts, tau, generator)
    width = wanted.parts * liquid.neurons
    made = {"bins" if "bins" in wanted.names else "counts": found[:, :width].to(torch.int16).cpu().numpy()}
    if tau is not None:
        made["filter"] = found[:, width:].cpu().numpy()
    return made, health


def of_trains(trains: Tensor, wanted: Wanted, dt_seconds: float) -> Arrays:
    """The same features of the input: what a readout gets without a liquid."""
    made: dict[str, snn.Feature] = {}
    if "bins" in wanted.names:
        made["bins"] = snn.TimeBins(wanted.bins, trains.shape[1])
    else:
        made["counts"] = snn.SpikeCounts()
    if "filter" in wanted.names:
        made["filter"] = snn.ExponentialFilter(wanted.tau_seconds, dt_seconds)
    found = {name: feature(trains).cpu().numpy() for name, feature in made.items()}
    return {n: v if n == "filter" else v.astype(np.int16) for n, v in found.items()}


def compute(
    liquids: Mapping[str, snn.Liquid],
    part: Part,
    count: int,
    wanted: Wanted,
    cache: Cache,
    *,
    prefix: str,
    seed: int,
    batch_size: int,
    with_input: bool,
    quiet: bool = False,
) -> Arrays:
    """Features of the first `count` samples, ``{"liquid/counts": [count, neurons], ...}``; from files where there are.

    Args:
        liquids: by name, run on the same trains. The first must be well.
        part: samples.
        count: of them.
        wanted: what is computed.
        cache: where batches are kept.
        prefix: of the names of batches.
        seed: of the encoder and of noise.
        batch_size: samples in a batch; full batches do not depend on `count`.
        with_input: features of the input too, under the name "input".

    Raises:
        DataError: a dead or saturated liquid, with the batch.
    """
    parts: dict[str, list[np.ndarray]] = {}
    starts = range(0, count, batch_size)
    bar = tqdm(total=count, desc=f"seed {seed} {prefix}", unit="sample", disable=quiet, leave=False)
    with bar:
        for start in starts:
            at = torch.arange(start, min(start + batch_size, count))
            name = f"{prefix}-{start:06d}"
            found = cache.read(name, len(at))
            if found is None:
                found = _batch(liquids, part, at, wanted, seed, prefix, with_input)
                cache.write(name, found)
            for key, values in found.items():
                parts.setdefault(key, []).append(values)
            bar.update(len(at))
    return {key: np.concatenate(values) for key, values in parts.items()}


def both_parts(
    liquids: Mapping[str, snn.Liquid],
    task: Task,
    counts: tuple[int, int],
    wanted: Wanted,
    cache: Cache,
    *,
    seed: int,
    batch_size: int,
    quiet: bool,
) -> tuple[Arrays, Arrays]:
    """Features of the first training and test samples of a data set, and of the input itself where it is no image;
    see ``compute``."""
    shared: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "with_input": not task.still, "quiet": quiet}
    train = compute(liquids, task.train, counts[0], wanted, cache, prefix="train", **shared)
    return train, compute(liquids, task.test, counts[1], wanted, cache, prefix="test", **shared)


def _batch(
    liquids: Mapping[str, snn.Liquid], part: Part, at: Tensor, wanted: Wanted, seed: int, prefix: str, with_input: bool
) -> Arrays:
    trains = part.trains(at, seed)
    found: Arrays = {}
    for index, (arm, liquid) in enumerate(liquids.items()):
        # noise belongs to the batch, so that a run that goes on repeats it
        number = int.from_bytes(hashlib.sha256(f"{seed} {prefix} {int(at[0])}".encode()).digest()[:6], "big")
        generator = torch.Generator().manual_seed(number)
        parts = [of_liquid(liquid, some, wanted, generator) for some in trains.split(_together(liquid, len(at)))]
        health = parts[0][1]
        # of fewer samples, as at the end of a part, many neurons may well be silent
        if index == 0 and len(at) >= _ENOUGH and health.fault is not None:
            raise DataError(f"{prefix} samples {int(at[0])} to {int(at[-1])}: {advice(health)}")
        found |= {f"{arm}/{key}": np.concatenate([made[key] for made, _ in parts]) for key in parts[0][0]}
    if with_input:
        dt_seconds = next(iter(liquids.values())).dt_seconds
        found |= {f"{INPUT}/{key}": values for key, values in of_trains(trains, wanted, dt_seconds).items()}
    return found


def _together(liquid: snn.Liquid, count: int) -> int:
    """Samples that run at once; what they give does not depend on it."""
    return count if liquid.fixed or liquid.weight.device.type != "cpu" else _PLASTIC_TOGETHER


def advice(health: Health) -> str:
    """What is wrong with a liquid, with the options of this script."""
    fault = (health.fault or "").partition("; write")[0]
    return f"{fault}; write a {'larger' if health.quiet else 'smaller'} --weight or --input-weight"


def feature(found: Mapping[str, np.ndarray], arm: str, name: str, neurons: int) -> Tensor:
    """One feature of an arm, float32 ``[samples, features]``."""
    if name == "counts" and f"{arm}/counts" not in found:
        bins = found[f"{arm}/bins"]
        return torch.from_numpy(bins.reshape(len(bins), -1, neurons).sum(1, dtype=np.float32))
    return torch.from_numpy(found[f"{arm}/{name}"]).float()
