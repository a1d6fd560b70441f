"""Time a training step against the matrix products that it cannot avoid, and an epoch by its parts.

The unavoidable products of a step of centred EP are those of a perfect program: the input drive once, two products a
sweep and connection (one in each direction) in the free and the two nudged phases, and the weight gradients. The ratio
of the step to them is what the library costs beyond mathematics. All candidates take turns in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

import eqprop
from benchmarks._common import add_output_options, device_named, finish, new_parser, run_main, sizes
from benchmarks._speed_conv import conv_suite
from benchmarks._speed_ensemble import ensemble_suite
from benchmarks._speed_liquid import liquid_suite
from benchmarks._speed_substrate import substrate_suite
from benchmarks._timing import medians
from eqprop._complex import ComplexCostNudge, ComplexSystem


def products(layers: list[int], batch: int, sweeps: int, device: torch.device, *, stacked: bool) -> Callable[[], None]:
    """The unavoidable products of a step: one phase after another, or the two nudged phases as one batch."""
    weights = [torch.rand(b, a, device=device) for a, b in zip(layers[:-1], layers[1:], strict=True)]
    groups = [(batch, sweeps), (2 * batch, sweeps)] if stacked else [(batch, 3 * sweeps)]
    states = [[torch.rand(n, size, device=device) for size in layers] for n, _ in groups]
    first, inner = weights[0], weights[1:]

    def run() -> None:
        torch.mm(states[0][0], first.t())
        for (_, count), s in zip(groups, states, strict=True):
            for _ in range(count):
                for l, w in enumerate(inner, start=1):
                    torch.mm(s[l], w.t())
                    torch.mm(s[l + 1], w)
        torch.mm(states[0][1].t(), states[0][0])
        for s in states if stacked else states * 2:
            for l in range(1, len(layers) - 1):
                torch.mm(s[l + 1].t(), s[l])

    return run


def training_step(
    layers: list[int], batch: int, free: eqprop.Stop | eqprop.Sweeps, device: torch.device
) -> Callable[[], eqprop.RuleStep]:
    """One whole step: ``zero_grad``, ``rule.backward`` with ``.grad``, and SGD."""
    generator = torch.Generator().manual_seed(0)
    network = eqprop.HopfieldNetwork.mlp(*layers, generator=generator).to(device)
    x = torch.rand(batch, layers[0], generator=generator).to(device)
    y = torch.randint(0, layers[-1], (batch,), generator=generator).to(device)
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=free, nudged=free)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def run() -> eqprop.RuleStep:
        optimizer.zero_grad()
        step = rule.backward(network, x, y)
        optimizer.step()
        return step

    return run


def parts(layers: list[int], batch: int, sweeps: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """The parts of a step, each alone."""
    generator = torch.Generator().manual_seed(0)
    network = eqprop.HopfieldNetwork.mlp(*layers, generator=generator).to(device)
    x = torch.rand(batch, layers[0], generator=generator).to(device)
    y = torch.randint(0, layers[-1], (batch,), generator=generator).to(device)
    stop = eqprop.Sweeps(sweeps)
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=stop, nudged=stop)
    step = rule.backward(network, x, y)
    drive = network.drive(x)
    both = network.repeat_state(step.free.state, 2)
    wide = network.repeat_drive(drive, 2)
    beta = torch.full((2 * batch, 1), 0.5, device=device)
    target = torch.zeros(2 * batch, layers[-1], device=device)
    phase = eqprop.Phase(both, torch.full((2 * batch,), 1.0 / batch, device=device), 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def no_grad(function: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(function)

    def nudged() -> object:
        nudge = eqprop.CostNudge(network, eqprop.SquaredError(), target, beta)
        return eqprop.relax(network, both, wide, nudge, stop=stop)

    def gradient() -> None:
        optimizer.zero_grad()
        network.add_contrast_gradient([phase], drive.x)

    return {
        "input drive": no_grad(lambda: network.drive(x)),
        "free phase": no_grad(lambda: eqprop.relax(network, step.free.state, drive, stop=stop)),
        "nudged phases": no_grad(nudged),
        "gradient": no_grad(gradient),
        "optimiser": lambda: optimizer.step(),
    }


def step_suite(arguments: argparse.Namespace) -> None:
    """A step of centred EP against its products."""
    device = device_named(arguments.device)
    layers, batch, n = sizes(arguments.network), arguments.batch_size, arguments.sweeps
    # the tolerance is never met, so that every sweep is done and every block assessed
    fixed, tolerance = eqprop.Sweeps(n), eqprop.Stop(tol=0.0, max_sweeps=n, block=5)
    stopped = training_step(layers, batch, tolerance, device)
    sweeps = float(stopped().sweeps.double().mean())
    candidates: dict[str, Callable[[], object]] = {
        "products": products(layers, batch, n, device, stacked=False),
        "products, stacked": products(layers, batch, n, device, stacked=True),
        "step, Sweeps": training_step(layers, batch, fixed, device),
        "step, Stop": stopped,
    }
    candidates |= {f"part: {name}": f for name, f in parts(layers, batch, n, device).items()}
    times = medians(candidates, rounds=arguments.rounds)
    base = times["products"]
    print(f"{arguments.network}, batch {batch}, {n} sweeps a phase, {device}, {torch.get_num_threads()} thread(s)")
    for name, seconds in times.items():
        print(f"  {name:24s} {1e3 * seconds:8.3f} ms   {seconds / base:5.2f} x products")
    print(f"  sweeps a sample, three phases: {3 * n} with Sweeps, {sweeps:.1f} with Stop")
    steps = 60_000 // batch
    print(f"  an epoch of 60,000 samples is {steps} steps: about {steps * times['step, Sweeps']:.0f} s on this machine")
    ratios = {
        f"step with Sweeps({n})": (times["step, Sweeps"] / base, "<= 2.2"),
        "step with Stop(block=5)": (times["step, Stop"] / base, "<= 2.7"),
        "step with Sweeps, against stacked products": (times["step, Sweeps"] / times["products, stacked"], None),
    }
    finish(
        arguments,
        title=f"A training step against its unavoidable matrix products, {arguments.network}, batch {batch}",
        headline=[
            {"name": name, "value": value, "unit": "x products"} | ({"target": target} if target else {})
            for name, (value, target) in ratios.items()
        ],
        details={"seeds": [0], "median_seconds": times, "steps": 20 * arguments.rounds, "sweeps_with_stop": sweeps},
        device=device,
    )


def rule_suite(arguments: argparse.Namespace) -> None:
    """What homeostasis adds to a step of generalised EP, and a complex phase against a real one.

    784-256-256-10 with a softmax readout, sigmoid(4z - 2), 150 free and 20 nudged synchronous sweeps, batch 50.
    """
    device, batch = device_named(arguments.device), 50
    generator = torch.Generator().manual_seed(0)
    network = eqprop.DirectedNetwork.mlp(
        784, 256, 256, 10, activation="sigmoid", readout=10, feedback_angle=90.0, generator=generator
    ).to(device)
    x = torch.rand(batch, 784, generator=generator).to(device)
    y = torch.randint(0, 10, (batch,), generator=generator).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    shared = {"cost": "cross-entropy", "solver": eqprop.Synchronous(), "readout": "tangent", "beta": 0.05}
    shared |= {"free": eqprop.Sweeps(150), "nudged": eqprop.Sweeps(20)}

    def step(*regularisers: eqprop.Regulariser) -> Callable[[], None]:
        rule = eqprop.EquilibriumPropagation(regularisers=regularisers, **shared)  # type: ignore[arg-type]

        def run() -> None:
            optimizer.zero_grad()
            rule.backward(network, x, y)
            optimizer.step()

        return run

    homeostasis = eqprop.JacobianHomeostasis
    candidates: dict[str, Callable[[], object]] = {
        "step": step(),
        "step + homeostasis, activation": step(homeostasis(0.01)),
        "step + homeostasis, membrane": step(homeostasis(0.01, coordinates="membrane")),
        "step + homeostasis, 5 probes": step(homeostasis(0.01, estimator="symmetric")),
    }
    drive, state = network.drive(x), network.initial_state(batch)
    lifted, target = ComplexSystem(network), torch.nn.functional.one_hot(y, 10).to(x.dtype)
    pair_drive, pair_state = lifted.lift_drive(drive), lifted.lift_state(state)
    cost, beta = eqprop.cost("cross-entropy"), torch.full((batch, 1), 0.05, device=device)
    nudge = eqprop.CostNudge(network, cost, target, beta)
    pair_nudge = ComplexCostNudge(network, cost, target, torch.cat([0 * beta, beta]))
    options = {"solver": eqprop.Synchronous(), "stop": eqprop.Sweeps(20)}
    phases: dict[str, Callable[[], object]] = {
        "real phase": lambda: eqprop.relax(network, state, drive, nudge, **options),  # type: ignore[arg-type]
        "complex phase": lambda: eqprop.relax(lifted, pair_state, pair_drive, pair_nudge, **options),  # type: ignore[arg-type]
    }
    times = medians(candidates | phases, rounds=arguments.rounds, calls=3)
    print(f"784-256-256-10, batch {batch}, {device}, {torch.get_num_threads()} thread(s)")
    for name, seconds in times.items():
        print(f"  {name:32s} {1e3 * seconds:8.3f} ms")
    headline = [
        {"name": name, "value": 100 * (times[name] / times["step"] - 1), "unit": "%", "target": "<= 20"}
        for name in list(candidates)[1:]
    ]
    ratio = times["complex phase"] / times["real phase"]
    finish(
        arguments,
        title="Cost of homeostasis and of a complex phase, 784-256-256-10, batch 50",
        headline=[
            *headline,
            {"name": "complex phase against a real one", "value": ratio, "unit": "x", "target": "<= 3.5"},
        ],
        details={"seeds": [0], "median_seconds": times, "steps": 3 * arguments.rounds},
        device=device,
    )


SUITES = {
    "step": step_suite,
    "rules": rule_suite,
    "conv": conv_suite,
    "substrate": substrate_suite,
    "liquid": liquid_suite,
    "ensemble": ensemble_suite,
}
# what an option is where it is not given, by suite
DEFAULTS: dict[str, dict[str, int | str]] = {
    "step": {"network": "784-1024-10", "batch_size": 16, "sweeps": 15, "rounds": 15},
    "rules": {"network": "784-256-256-10", "batch_size": 50, "sweeps": 15, "rounds": 15},
    "conv": {"network": "128-256-512-512", "batch_size": 32, "sweeps": 5, "rounds": 7},
    "substrate": {"network": "784-256-10", "batch_size": 64, "sweeps": 15, "rounds": 15},
    "liquid": {"batch_size": 256, "sweeps": 250, "rounds": 5},
    "ensemble": {"network": "784-256-10", "batch_size": 16, "sweeps": 15, "rounds": 15},
}


def main(arguments: argparse.Namespace) -> None:
    """Run the chosen suite."""
    for name, value in DEFAULTS[arguments.suite].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    for name in ("rounds", "sweeps", "batch_size", "free_sweeps", "nudged_sweeps"):
        if getattr(arguments, name) < 1:
            raise eqprop.ConfigError(f"--{name.replace('_', '-')}: got {getattr(arguments, name)}, needed at least 1")
    SUITES[arguments.suite](arguments)


def options() -> argparse.ArgumentParser:
    """Command line of this script."""
    made = new_parser("benchmarks.speed", __doc__ or "")
    suite = made.add_argument_group("suite")
    suite.add_argument(
        "--suite",
        choices=SUITES,
        default="step",
        help="step: against products; rules: extra costs; conv: convolutional sweeps against raw convolutions; "
        "substrate: steps on chips against plain ones; liquid: runs against products, brian2 and norse; "
        "ensemble: networks that relax together against one after another",
    )
    suite.add_argument(
        "--network",
        help="units of each layer of step, substrate and ensemble (default: 784-1024-10; the last two: 784-256-10)",
    )
    suite.add_argument(
        "--batch-size", type=int, help="samples a step (default: 16; conv: 32; substrate: 64; liquid: 256)"
    )
    suite.add_argument("--sweeps", type=int, help="sweeps of each phase (default: 15; conv: 5; liquid: 250 steps)")
    suite.add_argument("--rounds", type=int, help="rounds of turns (default: 15; conv: 7; liquid: 5)")
    suite.add_argument("--free-sweeps", type=int, default=60, help="of the gradients that conv compares")
    suite.add_argument("--nudged-sweeps", type=int, default=15, help="of the gradients that conv compares")
    suite.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    add_output_options(made, Path("runs/speed"))
    return made


if __name__ == "__main__":
    run_main(main, options())
