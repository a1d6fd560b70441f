"""The error vectors of a trained row against the true adjoint, and how asymmetric its network has become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import eqprop
from benchmarks._asymmetry_rows import Row, make_rule


def diagnose(row: Row, seed: int, network: Any, data: eqprop.DataSplits, tol: float) -> dict[str, Any]:
    """After training, in float64: the error vectors of the row's own rule, and of the exact response, against the
    adjoint.

    The exact response (``derivative``) shows the bias of asymmetry alone; the row's own rule adds that of its contour
    and removes what its correction removes. Unconverged samples are those of the row's own phases and sweeps.
    """
    if row.rule == "backprop":
        return {}
    double, x, y = _in_double(network, data)
    stop = eqprop.Stop(tol=1e-10, max_sweeps=2000)
    exact = eqprop.EquilibriumPropagation(
        cost="cross-entropy", contour="derivative", readout="tangent", free=stop, nudged=stop
    )
    own = make_rule(row, seed, tol)
    found: dict[str, Any] = {
        "error_vector": _own_error_vectors(row, seed, double, x, y, tol),
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


def diagnose_again(row: Row, folder: Path, record: dict[str, Any], data: eqprop.DataSplits) -> dict[str, Any] | None:
    """The record of a finished run with the error vectors of its own rule taken anew from its last checkpoint.

    What else the record says of the same network stays. None for a run that has no error vectors, or that stopped
    before its time: its last checkpoint is not the network that was diagnosed.
    """
    if not record.get("error_vector") or record["stopped"]:
        return None
    tol = float(eqprop.Run.open(folder).config["tol"])
    double, x, y = _in_double(eqprop.load(folder), data)
    return record | {"error_vector": _own_error_vectors(row, record["seed"], double, x, y, tol)}


def _in_double(network: Any, data: eqprop.DataSplits) -> tuple[Any, Tensor, Tensor]:
    """The network, and the 200 test images that are looked at, in float64."""
    x, y = next(data.test.batches(200))
    return network.clone().double(), x.double(), y


def _own_error_vectors(
    row: Row, seed: int, double: Any, x: Tensor, y: Tensor, tol: float
) -> dict[str, dict[str, float]]:
    """By layer: the error vectors of the row's own rule against the adjoint."""
    return _by_layer(eqprop.compare_error_vectors(double, make_rule(row, seed, tol), x, y))


def _by_layer(vectors: Mapping[str, eqprop.ErrorVectorMatch]) -> dict[str, dict[str, float]]:
    return {layer: match._asdict() for layer, match in vectors.items()}
