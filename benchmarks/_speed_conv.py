"""The convolutional suite of ``benchmarks.speed``: sweeps against their raw convolutions, and low precision.

128-256-512-512 of the published holomorphic and generalised networks. The raw work of a sweep is one convolution and
one transposed convolution a connection between layers that move, at full resolution, in the same precision; what the
library adds is pooling, its transpose, activations and sums.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

import eqprop
from benchmarks._common import device_named, finish
from benchmarks._timing import medians

CHANNELS = (128, 256, 512, 512)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BETA = 1.0


def network_of(pooling: str, device: torch.device) -> eqprop.HopfieldNetwork:
    """The published network with random weights."""
    made = eqprop.HopfieldNetwork.cnn(
        (3, 32, 32),
        *CHANNELS,
        padding=(1, 1, 1, 0),
        pooling=pooling,
        activation="dsilu",
        readout=10,
        generator=torch.Generator().manual_seed(0),
    )
    return made.to(device)


def raw_work(
    network: eqprop.HopfieldNetwork, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """One convolution and one transposed convolution for each pair of layers that move."""
    operands = []
    for (_, lower), (name, upper) in zip(
        list(network.layers.items())[1:], list(network.layers.items())[2:], strict=False
    ):
        weight = torch.rand(upper.shape[0], lower.shape[0], 3, 3, device=device, dtype=dtype)
        s = torch.rand(batch, *lower.shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        padding = 0 if name == f"conv{len(CHANNELS)}" else 1
        weight = weight.contiguous(memory_format=torch.channels_last)
        operands.append((s, weight, padding, torch.rand_like(functional.conv2d(s, weight, padding=padding))))

    def run() -> None:
        for s, weight, padding, b in operands:
            functional.conv2d(s, weight, padding=padding)
            functional.conv_transpose2d(b, weight, padding=padding)

    return run


def sweeps_of(
    network: eqprop.HopfieldNetwork, x: torch.Tensor, products: str | None, n: int
) -> Callable[[], eqprop.Solution]:
    """``n`` alternating sweeps of the free phase, the drive computed before."""
    with torch.no_grad():
        drive = network.drive(x)
    start = eqprop.relax(network, network.initial_state(len(x)), drive, stop=eqprop.Sweeps(2)).state
    return lambda: eqprop.relax(network, start, drive, stop=eqprop.Sweeps(n), products=products)


def cosines(
    network: eqprop.HopfieldNetwork, x: torch.Tensor, y: torch.Tensor, free: int, nudged: int
) -> dict[str, float]:
    """Per weight, the cosine of the gradient with bfloat16 products in the free phase to the one in float32."""
    found = [
        eqprop.gradients(
            network,
            eqprop.EquilibriumPropagation(
                cost="cross-entropy",
                beta=BETA,
                free=eqprop.Sweeps(free),
                nudged=eqprop.Sweeps(nudged),
                products=products,
            ),
            x,
            y,
        )
        for products in (None, "bfloat16")
    ]
    return {
        name.removeprefix("connections.").removesuffix(".weight"): torch.cosine_similarity(
            full.flatten().double(), found[1][name].flatten().double(), 0
        ).item()
        for name, full in found[0].items()
        if name.endswith("weight")
    }


def cpu_flags() -> list[str]:
    """What the processor has for products in bfloat16."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return sorted(words & {"amx_bf16", "amx_tile", "avx512_bf16"})


def conv_suite(arguments: argparse.Namespace) -> None:
    """Sweeps of the published network in both precisions against their raw work, and what low precision costs."""
    device, batch, n = device_named(arguments.device), arguments.batch_size, arguments.sweeps
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 32, 32, generator=generator).to(device)
    y = torch.randint(0, 10, (batch,), generator=generator).to(device)
    networks = {pooling: network_of(pooling, device) for pooling in ("soft", "max", "average")}
    candidates: dict[str, Callable[[], object]] = {}
    for name, dtype in PRECISIONS.items():
        candidates[f"raw, {name}"] = raw_work(networks["soft"], batch, dtype, device)
        for pooling, network in networks.items():
            products = None if name == "float32" else name
            candidates[f"{pooling} pooling, {name}"] = sweeps_of(network, x, products, n)
    times = medians(candidates, rounds=arguments.rounds, calls=1, warm_up=1)
    sweep = {name: seconds if name.startswith("raw") else seconds / n for name, seconds in times.items()}
    flags = cpu_flags() if device.type == "cpu" else []
    has_amx = "amx_bf16" in flags
    where = f"{device}, {torch.get_num_threads()} thread(s)" + (f", {', '.join(flags) or 'no bf16'}" if flags else "")
    print(f"128-256-512-512, batch {batch}, {where}")
    for name, seconds in sweep.items():
        raw = sweep[f"raw, {name.rpartition(', ')[2]}"]
        print(f"  {name:26s} {1e3 * seconds:8.2f} ms a sweep   {seconds / raw:5.2f} x raw")
    error = cosines(networks["soft"], x, y, arguments.free_sweeps, arguments.nudged_sweeps)
    print("  cosine of the gradient with a bfloat16 free phase: " + ", ".join(f"{k} {v:.5f}" for k, v in error.items()))
    fast = sweep["soft pooling, float32"] / sweep["soft pooling, bfloat16"]
    headline = [
        {"name": "sweep in float32 against bfloat16" + ("" if has_amx else " (this CPU has no AMX)"), "value": fast}
        | {"unit": "x"}
        | ({"target": ">= 3"} if has_amx else {}),
        {"name": "its raw convolutions alone", "value": sweep["raw, float32"] / sweep["raw, bfloat16"], "unit": "x"},
    ]
    headline += [
        {
            "name": f"sweep, {pooling} pooling, {name}",
            "value": sweep[f"{pooling} pooling, {name}"] / sweep[f"raw, {name}"],
            "unit": "x raw",
            "target": "<= 1.5",
        }
        for name in PRECISIONS
        for pooling in networks
    ]
    headline.append(
        {
            "name": f"least gradient cosine of a layer, bfloat16 free phase, beta {BETA:g}",
            "value": min(error.values()),
            "unit": "",
            "target": ">= 0.99",
        }
    )
    finish(
        arguments,
        title=f"Sweeps of a 128-256-512-512 network against their raw convolutions, batch {batch}",
        headline=headline,
        details={
            "seeds": [0],
            "median_seconds_a_sweep": sweep,
            "steps": arguments.rounds * n,
            "sweeps": {"free": arguments.free_sweeps, "nudged": arguments.nudged_sweeps},
            "cpu_flags": flags,
            "gradient_cosines": error,
        },
        device=device,
    )
