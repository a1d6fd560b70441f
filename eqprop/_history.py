"""The series a run records, one value an epoch, and the HDF5 file that holds them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from eqprop._errors import RunFolderError

FORMAT = "eqprop-metrics/1"

# unit and meaning by the last component of a series' name
UNITS: dict[str, tuple[str, str]] = {
    "epoch": ("epoch", "number of the epoch, from 1"),
    "step": ("step", "training steps taken since the start of the run"),
    "seconds": ("second", "time spent in the epoch, validation included"),
    "train_loss": ("loss", "mean loss at the free equilibria met during the epoch"),
    "train_error": ("fraction", "share of training samples misclassified when they were met"),
    "validation_loss": ("loss", "mean loss on the validation split after the epoch"),
    "validation_error": ("fraction", "share of the validation split misclassified after the epoch"),
    "free_sweeps": ("sweep", "mean sweeps a sample in the free phase"),
    "nudged_sweeps": ("sweep", "mean sweeps a sample and nudged phase"),
    "unconverged_share": ("fraction", "share of samples whose free phase did not report convergence"),
    "unconverged_any_share": ("fraction", "share of samples of which some phase, free or nudged, did not converge"),
    "excluded_share": ("fraction", "share of samples left out of the gradient"),
    "homeostasis_norm": ("1", "first term of the homeostatic loss S, E ||M e||^2, mean over the samples of the epoch"),
    "homeostasis_symmetry": ("1", "second term of S, -E e^T M^2 e; S = norm + symmetry, and 0 is a symmetric Jacobian"),
    "residual_mean": ("state", "mean over samples of the free phase's last residual"),
    "residual_max": ("state", "largest residual of any sample's free phase"),
    "learning_rate": ("1", "learning rate of the parameter group during the epoch"),
    "norm": ("1", "Euclidean norm of the parameter, mean over sampled steps"),
    "gradient_norm": ("1", "Euclidean norm of the gradient, mean over sampled steps"),
    "update_ratio": ("1", "norm of a step's change over norm of the parameter, mean over sampled steps"),
    "saturated_share": ("fraction", "share of states at a bound of the activation, mean over sampled steps"),
    "dead_share": ("fraction", "share of units at their lower bound for every sample looked at in the epoch"),
}


@dataclass
class History:
    """Series of a run, one value an epoch.

    Names are paths: `train_error`, `learning_rate/0`, `layers/hidden1/dead_share`, `parameters/NAME/gradient_norm`.
    `history["train_error"]` is a float64 array [epochs]; `UNITS` gives unit and meaning by the last component.
    """

    series: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return max((len(values) for values in self.series.values()), default=0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.series)

    def __contains__(self, name: str) -> bool:
        return name in self.series

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.series:
            raise KeyError(f"no series {name!r}; recorded: {', '.join(sorted(self.series)) or 'none yet'}")
        return np.asarray(self.series[name], dtype=np.float64)

    def matching(self, prefix: str, suffix: str) -> dict[str, np.ndarray]:
        """Series named `prefix/NAME/suffix` (or `prefix/NAME` for an empty suffix), keyed by NAME."""
        found = {}
        for name in self.series:
            head, _, rest = name.partition("/")
            middle, _, tail = rest.rpartition("/") if suffix else (rest, "", "")
            if head == prefix and middle and tail == suffix:
                found[middle] = self[name]
        return found

    def append(self, values: Mapping[str, float]) -> None:
        """Add one epoch. A series that starts late or misses an epoch holds NaN there, so that all stay aligned."""
        length = len(self)
        for name in values:
            self.series.setdefault(name, [float("nan")] * length)
        for name, column in self.series.items():
            column.append(float(values.get(name, float("nan"))))

    def truncate(self, epochs: int) -> None:
        """Forget what came after `epochs` epochs (a resumed run repeats it)."""
        for column in self.series.values():
            del column[epochs:]

    def last(self) -> dict[str, float]:
        """The newest epoch."""
        return {name: column[-1] for name, column in self.series.items() if column}

    def to_bytes(self) -> bytes:
        """The HDF5 file: one float64 data set [epochs] a series, with attributes `unit` and `meaning`."""
        buffer = io.BytesIO()
        # in memory first: a full disk then fails in one plain write, not somewhere inside the HDF5 library
        with h5py.File(buffer, "w") as file:
            file.attrs["format"] = FORMAT
            for name, column in self.series.items():
                data = file.create_dataset(name, data=np.asarray(column, dtype=np.float64))
                unit, meaning = _unit(name)
                data.attrs["unit"] = unit
                data.attrs["meaning"] = meaning
        return buffer.getvalue()

    @classmethod
    def read(cls, path: str | Path) -> History:
        """Load a `metrics.h5`. Raises RunFolderError if it is damaged or not one of ours."""
        series: dict[str, list[float]] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                series[name] = [float(value) for value in item[()]]

        try:
            with h5py.File(io.BytesIO(Path(path).read_bytes()), "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise RunFolderError(f"{path} is not a metrics file of this package (no format {FORMAT!r}).")
                file.visititems(visit)
        except (OSError, KeyError, RuntimeError) as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(f"{path} is damaged and cannot be read as HDF5 ({error}).") from error
        return cls(series)


def _unit(name: str) -> tuple[str, str]:
    parts = name.split("/")
    for part in (parts[-1], parts[0]):
        if part in UNITS:
            return UNITS[part]
    return ("1", "")
