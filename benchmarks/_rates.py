"""Rates that a plan counts with: of this machine, measured, or of a named GPU, a share of its peak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import eqprop
from benchmarks._counting import sweep_operations
from benchmarks._presets import SHAPE
from benchmarks._timing import medians
from eqprop._graph import GraphNetwork
from eqprop._names import lookup

# Dense peak rates in TFLOP/s as the makers state them: bfloat16, and float32 (the scripts switch TF32 off).
GPUS = {
    "h100": (989.0, 67.0),
    "h200": (989.0, 67.0),
    "a100": (312.0, 19.5),
    "l40s": (362.0, 91.6),
    "rtx4090": (165.0, 82.6),
    "rtx3090": (71.0, 35.6),
}
EFFICIENCY = 0.3  # share of the peak that is assumed; not measured
HERE = "here"


@dataclass(frozen=True)
class Rates:
    """Multiply-accumulates a second, and where they come from."""

    free: float
    full: float
    text: str


def rates_of(where: str, network: GraphNetwork, batch: int, products: str | None) -> Rates:
    """Rates of a named GPU, from its peak; or measured here, where `network` is.

    Raises:
        ConfigError: a GPU that is not in the table.
    """
    if where != HERE:
        half, full = lookup("--plan", where, GPUS)
        free = half if products else full
        text = f"{where}, {EFFICIENCY:.0%} of the dense peak assumed ({half:g} TFLOP/s bfloat16, {full:g} float32)"
        return Rates(free * 1e12 / 2 * EFFICIENCY, full * 1e12 / 2 * EFFICIENCY, text)
    samples = min(batch, 32)
    work = sweep_operations(network)
    x = torch.zeros(samples, *SHAPE, device=network_device(network))
    with torch.no_grad():
        drive = network.drive(x)
    start = network.initial_state(samples)

    def sweeps(n: int, low: str | None) -> Callable[[], object]:
        return lambda: eqprop.relax(network, start, drive, stop=eqprop.Sweeps(n), products=low)

    # a difference: what a relaxation does once is left out
    found = {}
    for low in dict.fromkeys((None, products)):
        times = medians({"two": sweeps(2, low), "six": sweeps(6, low)}, rounds=3, calls=1, warm_up=1)
        found[low] = 4 * work * samples / max(times["six"] - times["two"], 1e-9)
    device = network_device(network)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    shown = ", ".join(f"{rate / 1e9:,.0f} GMAC/s in {low or 'float32'}" for low, rate in found.items())
    return Rates(
        found[products], found[None], f"this machine ({name}), measured on sweeps of {samples} images: {shown}"
    )


def network_device(network: GraphNetwork) -> torch.device:
    """Where the parameters are."""
    return next(network.parameters()).device
