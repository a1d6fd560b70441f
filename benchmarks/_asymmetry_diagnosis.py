"""The error vectors of a trained row against the true adjoint, and how asymmetric its network has become."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    x, y = next(data.test.batches(200))
    double, x = network.clone().double(), x.double()
    stop = eqprop.Stop(tol=1e-10, max_sweeps=2000)
    exact = eqprop.EquilibriumPropagation(
        cost="cross-entropy", contour="derivative", readout="tangent", free=stop, nudged=stop
    )
    own = make_rule(row, seed, tol)
    found: dict[str, Any] = {
        "error_vector": own_error_vectors(row, seed, network, data, tol),
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


def own_error_vectors(
    row: Row, seed: int, network: Any, data: eqprop.DataSplits, tol: float
) -> dict[str, dict[str, float]]:
    """By layer, in float64: the error vectors of the row's own rule against the adjoint, on 200 test images."""
    x, y = next(data.test.batches(200))
    return _by_layer(eqprop.compare_error_vectors(network.clone().double(), make_rule(row, seed, tol), x.double(), y))


def diagnose_again(row: Row, folder: Path, record: dict[str, Any], data: eqprop.DataSplits) -> dict[str, Any] | None:
    """The record of a finished run with the error vectors of its own rule taken anew from its last checkpoint.

    What else the record says of the same network stays. None for a run that has no error vectors, or that stopped
    before its time: its last checkpoint is not the network that was diagnosed.
    """
    if not record.get("error_vector") or record["stopped"]:
        return None
    tol = float(eqprop.Run.open(folder).config["tol"])
    network = eqprop.load(folder)
    return record | {"error_vector": own_error_vectors(row, record["seed"], network, data, tol)}


def _by_layer(vectors: Mapping[str, eqprop.ErrorVectorMatch]) -> dict[str, dict[str, float]]:
    return {layer: match._asdict() for layer, match in vectors.items()}
