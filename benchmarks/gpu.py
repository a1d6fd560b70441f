"""CPU against GPU: the same relaxations and gradients on both, and how much faster the GPU is.

Parity is measured in float64 (agreement to rounding) and float32; speed in float32, TF32 off, medians of turns. Needs a
CUDA device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import eqprop
from benchmarks._common import add_output_options, device_named, finish, new_parser, run_main
from benchmarks._timing import medians

NETWORKS = ([784, 1024, 10], [784, 512, 512, 10])
BATCHES = (16, 256, 2048)


def setting(
    layers: list[int], batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[eqprop.HopfieldNetwork, torch.Tensor, torch.Tensor]:
    """A seeded network and batch: the same numbers on every device."""
    generator = torch.Generator().manual_seed(0)
    network = eqprop.HopfieldNetwork.mlp(*layers, generator=generator, dtype=dtype).to(device)
    x = torch.rand(batch, layers[0], generator=generator, dtype=dtype)
    y = torch.randint(0, layers[-1], (batch,), generator=generator)
    return network, x.to(device), y.to(device)


def parity(layers: list[int], dtype: torch.dtype) -> float:
    """Largest difference between the gradients of the two devices, relative to their largest entry."""
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=eqprop.Sweeps(30), nudged=eqprop.Sweeps(30))
    found = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        network, x, y = setting(layers, 64, dtype, device)
        found.append({name: g.cpu() for name, g in eqprop.gradients(network, rule, x, y).items()})
    cpu, gpu = found
    return max(float((cpu[n] - gpu[n]).abs().max() / cpu[n].abs().max().clamp(min=1e-30)) for n in cpu)


def step(layers: list[int], batch: int, device: torch.device) -> Callable[[], object]:
    """One training step of centred EP."""
    network, x, y = setting(layers, batch, torch.float32, device)
    sweeps = eqprop.Sweeps(15)
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=sweeps, nudged=sweeps)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def run() -> None:
        optimizer.zero_grad()
        rule.backward(network, x, y)
        optimizer.step()

    return run


def main(arguments: argparse.Namespace) -> None:
    """Measure and report."""
    if not torch.cuda.is_available():
        raise eqprop.ConfigError("benchmarks.gpu: torch finds no CUDA device here, needed one; nothing was measured")
    device_named("cuda")  # switches TF32 off
    headline = []
    for layers in NETWORKS:
        name = "-".join(map(str, layers))
        for dtype, bound in ((torch.float64, "<= 1e-10"), (torch.float32, "<= 1e-3")):
            label = f"{name} {str(dtype).removeprefix('torch.')}: gradient difference, CPU and GPU"
            headline.append({"name": label, "value": parity(layers, dtype), "unit": "", "target": bound})
        for batch in BATCHES:
            times = medians({d: step(layers, batch, torch.device(d)) for d in ("cpu", "cuda")}, rounds=7, calls=5)
            label = f"{name} batch {batch}: speed-up of a step"
            headline.append({"name": label, "value": times["cpu"] / times["cuda"], "unit": "x"})
    finish(
        arguments,
        title="GPU against CPU: parity and speed",
        headline=headline,
        details={"seeds": [0], "cpu_threads": torch.get_num_threads()},
        device=torch.device("cuda"),
    )


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.gpu", __doc__ or "")
    add_output_options(made, Path("runs/gpu"))
    return made


if __name__ == "__main__":
    run_main(main, options())
