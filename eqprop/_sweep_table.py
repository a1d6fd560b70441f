"""The table of a sweep: a row a point and, where results are given by layer, a row a point and layer.

Columns: `point` (its key), `status`, the fields of the config by dotted name, `layer` (where there are any), the
results. A figure of the whole network stands in the row without a layer, one of a layer in that layer's row, and
nowhere else, so that means over rows count every figure once. What differs from run to run of the same code (time,
memory) is not in it: the table of a sweep that was killed and resumed is that of an undisturbed one, byte for byte.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from eqprop._checkpoints import atomic_write
from eqprop._errors import ConfigError
from eqprop._sweep_config import flat
from eqprop._sweep_folder import Recorded, SweepFolder, SweepWarning

if TYPE_CHECKING:
    import pandas

FORMAT = "eqprop-sweep-table/1"
# by the last part of a column's name
UNITS = {
    "seconds": "s", "percent": "%", "siemens": "S", "volts": "V", "amperes": "A", "ohms": "ohm", "joules": "J",
    "watts": "W", "kelvin": "K", "bytes": "B", "hertz": "Hz", "bits": "bit", "degrees": "degree", "metres": "m",
    "farads": "F",
}  # fmt: skip
COSTS = ("wall_seconds", "peak_memory_bytes", "members")


def unit_of(column: str) -> str:
    """Unit of a column whose name ends in one, as `test_error_percent`; empty for none."""
    return UNITS.get(column.replace(".", "_").rpartition("_")[2], "")


@dataclass(frozen=True)
class Table:
    """Rows, the columns in order, and which of them come from the config."""

    rows: list[dict[str, Any]]
    columns: list[str]
    config: list[str]
    results: list[str]


def table_of(records: Iterable[Recorded], *, costs: bool = False) -> Table:
    """The table of recorded points, in the order of their configs."""
    points = [(flat(record.config), record.outcome) for record in records]
    configs = _union(config for config, _ in points)
    configs = [n for n in configs if not _says_nothing(n, configs, [c.get(n) for c, _ in points])]
    names = {n: f"config.{n}" if n in ("point", "status", "layer") else n for n in configs}
    taken = {"point", "status", "layer", *names.values(), *(COSTS if costs else ())}
    rows: list[dict[str, Any]] = []
    for config, outcome in points:
        own = {"point": outcome.key, "status": outcome.status} | {names[n]: config.get(n) for n in configs}
        whole, layers = _by_layer(outcome.result, taken)
        if costs:
            whole |= {name: getattr(outcome, name) for name in COSTS}
        rows.append(own | {"layer": None} | whole)
        rows += [own | {"layer": layer} | values for layer, values in layers.items()]
    order = _layer_order(outcome for _, outcome in points)
    rows.sort(key=lambda row: ([_sortable(row[n]) for n in names.values()], row["point"], order.get(row["layer"], -1)))
    known = {"point", "status", "layer", *names.values()}
    results = sorted({name for row in rows for name in row if name not in known})
    layered = ["layer"] if any(row["layer"] is not None for row in rows) else []
    columns = ["point", "status", *names.values(), *layered, *results]
    return Table(rows, columns, list(names.values()), results)


def _says_nothing(name: str, names: list[str], values: list[Any]) -> bool:
    """The class of a part that has but one, and the column of a part that holds None or has columns of its own."""
    found = {v for v in values if v is not None}
    if name.rpartition(".")[2] == "class":
        return len(found) < 2
    return not found and any(other.startswith(f"{name}.") for other in names)


def _by_layer(result: Mapping[str, Any], taken: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Figures of the whole, and of layers. Series and deeper mappings stay in the point's file."""
    whole: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    for key, value in result.items():
        name = f"result.{key}" if key in taken else key
        if isinstance(value, dict):
            for layer, item in value.items():
                if not isinstance(item, dict | list):
                    layers.setdefault(layer, {})[name] = item
        elif not isinstance(value, list):
            whole[name] = value
    return whole, layers


def _union(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names in the order of the fields; those of a part that only some points have, after their neighbours."""
    names: list[str] = []
    for config in configs:
        before = -1
        for name in config:
            if name in names:
                before = names.index(name)
            else:
                before += 1
                names.insert(before, name)
    return names


def _layer_order(outcomes: Iterable[Any]) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for outcome in sorted(outcomes, key=lambda o: o.key):
        for value in outcome.result.values():
            for layer in value if isinstance(value, dict) else ():
                found.setdefault(layer, len(found))
    return found


def _sortable(value: Any) -> tuple[int, float, str]:
    """None, then numbers, then texts."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, bool | int | float):
        return (1, -math.inf if math.isnan(value) else float(value), "")
    return (2, 0.0, str(value))


def write_tables(folder: SweepFolder, records: Iterable[Recorded]) -> None:
    """Write table.csv and table.h5. Raises RunFolderError where they cannot be written."""
    table = table_of(records)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow([_cell(row.get(name)) for name in table.columns])
    atomic_write(folder.folder / "table.csv", text.getvalue().encode(), "the table of the sweep")
    atomic_write(folder.folder / "table.h5", _hdf5(table, folder.identity), "the table of the sweep")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _hdf5(table: Table, identity: Mapping[str, str]) -> bytes:
    """One data set a column: float64 (NaN where empty), int64 or boolean where all cells are, else UTF-8 text."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as file:
        file.attrs["format"] = FORMAT
        file.attrs.update(identity)
        for name in table.columns:
            values = [row.get(name) for row in table.rows]
            data = file.create_dataset(name.replace("/", "|"), data=_array(values), track_times=False)
            data.attrs["unit"] = unit_of(name)
    return buffer.getvalue()


def _array(values: list[Any]) -> Any:
    kinds = {type(v) for v in values}
    if kinds == {bool}:
        return np.array(values)
    if kinds == {int} and all(abs(v) < 2**63 for v in values):
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)}:
        return np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)
    return np.array([_cell(v) for v in values], dtype=h5py.string_dtype())


def load_sweep(path: str | Path, *, costs: bool = False, varying: bool = False) -> pandas.DataFrame:
    """The table of a sweep's folder, also of one that is still running.

    Rows: a point, and a point and layer where results are given by layer; see ``point``, ``status`` ("done", or why a
    point failed: its figures are empty), the config's fields by dotted name, ``layer``, and the results. ``attrs`` has
    the names of the columns of "config" and of "results".

    Args:
        path: folder of the sweep.
        costs: also ``wall_seconds``, ``peak_memory_bytes`` and ``members`` (points that were run together).
        varying: of the config only the fields that have several values.

    Raises:
        RunFolderError: no sweep there. ConfigError: pandas is not installed.

    Warns:
        SweepWarning: files of points that are damaged, by name; they are left out.
    """
    pandas = require_pandas()
    folder = SweepFolder.open(path)
    records = folder.read()
    if folder.damaged:
        names = "; ".join(f"{path.name}: {why}" for path, why in folder.damaged.items())
        warnings.warn(f"{folder.folder}: left out what is damaged ({names})", SweepWarning, stacklevel=2)
    table = table_of(records.values(), costs=costs)
    frame = pandas.DataFrame({name: [row.get(name) for row in table.rows] for name in table.columns})
    kept = [n for n in table.config if not varying or frame[n].nunique(dropna=False) > 1]
    frame = frame.drop(columns=[n for n in table.config if n not in kept])
    frame.attrs = {"config": kept, "results": table.results}
    return frame


def require_pandas() -> Any:
    """The module. Raises ConfigError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "load_sweep: needs pandas, which is not installed; write pip install 'eqprop[sweep]'"
        ) from error
    return pandas


def show_failed(records: Mapping[str, Recorded], most: int = 5) -> str:
    """A line a failed point: its key, what it is and why."""
    failed = [r for r in records.values() if r.outcome.status != "done"]
    varying = _varying([flat(r.config) for r in records.values()])
    lines = []
    for record in failed[:most]:
        config = flat(record.config)
        which = ", ".join(f"{n}={json.dumps(config[n])}" for n in varying if config.get(n) is not None)
        outcome = record.outcome
        message = outcome.message.splitlines()[0][:200] if outcome.message else ""
        lines.append(f"  {outcome.key} ({which}) {outcome.status}: {message}")
    if len(failed) > most:
        lines.append(f"  and {len(failed) - most} more")
    return "\n".join(lines)


def _varying(configs: list[dict[str, Any]]) -> list[str]:
    names = [n for n in _union(configs) if n.rpartition(".")[2] != "class"]
    return [n for n in names if len({json.dumps(c.get(n)) for c in configs}) > 1]
