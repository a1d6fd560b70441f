"""The ensemble suite of ``benchmarks.speed``: member-steps a second of ensembles against separate runs.

A step is ``zero_grad``, ``rule.backward`` (centred EP) and SGD, of members that differ in weights, data, nudge and
learning rate. The separate runs make the same steps one after another in the same process with the same threads. Two
bounds: the bare matrix products of the shapes of an ensemble's step, and for the update a copy of the weights, which
reads and writes each once, as an update must.

What a GPU would gain is derived, not measured: the time of a step is at least that of its operations at the published
peak, that of its weights' traffic at the published bandwidth, and that of its launches, of which each is assumed to
take ``LAUNCH_SECONDS``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import eqprop
from benchmarks._common import device_named, finish, sizes
from benchmarks._rates import GPUS
from benchmarks._timing import each_round, middle, ratio
from eqprop._ensemble_parts import NARROW
from eqprop._figures import BLUE, GREEN, GREY, ORANGE, RED, _tidy

MEMBERS = (1, 2, 4, 8, 16, 32, 64)
SHOWN = 32  # members of the headline
TARGET = 4.0
STEPS = 3  # of each run, one after another
LAUNCH_SECONDS = 5e-6  # assumed
# memory bandwidth in GB/s as the makers state it, of the parts whose peaks are in GPUS
BANDWIDTHS = {"h100": 3350.0, "h200": 4800.0, "a100": 2039.0, "l40s": 864.0, "rtx4090": 1008.0, "rtx3090": 936.0}
_FREE = ("view", "expand", "transpose", "slice", "select", "unsqueeze", "split", "permute", "detach", "t", "alias")


class Runs:
    """Steps of so many networks, together or one after another.

    Args:
        layers: units.
        batch: samples a step and member.
        sweeps: of each phase.
        members: number of networks.
        device: to compute on.
    """

    def __init__(self, layers: list[int], batch: int, sweeps: int, members: int, device: torch.device) -> None:
        seeded = [torch.Generator().manual_seed(m) for m in range(members)]
        self._networks = [eqprop.HopfieldNetwork.mlp(*layers, generator=g).to(device) for g in seeded]
        self._x = torch.stack([torch.rand(batch, layers[0], generator=g) for g in seeded]).to(device)
        self._y = torch.stack([torch.randint(0, layers[-1], (batch,), generator=g) for g in seeded]).to(device)
        self._rates = [1e-6 * (1 + m) for m in range(members)]
        stop = eqprop.Sweeps(sweeps)
        self._rules = [
            eqprop.EquilibriumPropagation(beta=0.3 + 0.2 * m / members, free=stop, nudged=stop) for m in range(members)
        ]

    def separate(self, members: int) -> Callable[[], None]:
        """``STEPS`` steps of each of the first networks, one network after another."""
        chosen = list(zip(self._networks, self._rules, self._x, self._y, self._rates, strict=True))[:members]
        runs = [(n, rule, x, y, torch.optim.SGD(n.parameters(), lr=lr)) for n, rule, x, y, lr in chosen]

        def run() -> None:
            for network, rule, x, y, optimizer in runs:
                for _ in range(STEPS):
                    optimizer.zero_grad()
                    rule.backward(network, x, y)
                    optimizer.step()

        return run

    def together(self, members: int, steps: int = STEPS) -> Callable[[], None]:
        """``STEPS`` steps of the first networks as an ensemble."""
        network = eqprop.ensemble(self._networks[:members])
        rule = eqprop.EnsembleRule(self._rules[:members])
        optimizer = eqprop.EnsembleSGD(network, self._rates[:members])
        x, y = self._x[:members].contiguous(), self._y[:members].contiguous()

        def run() -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                rule.backward(network, x, y)
                optimizer.step()

        return run


def products(
    layers: list[int], batch: int, sweeps: int, members: int, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Bare products of a step without the update, and those of the update, which add to the weights."""
    weights = [torch.rand(members, b, a, device=device) for a, b in itertools.pairwise(layers)]
    states = [[torch.rand(members, k * batch, n, device=device) for n in layers] for k in (1, 2)]

    def up(w: Tensor, s: Tensor) -> Tensor:
        return torch.bmm(w, s.mT) if w.shape[1] <= NARROW else torch.bmm(s, w.mT)

    def sweep() -> None:
        up(weights[0], states[0][0])
        for s in states:
            for _ in range(sweeps):
                for l, w in enumerate(weights[1:], start=1):
                    up(w, s[l])
                    torch.bmm(s[l + 1], w)

    def update() -> None:
        weights[0].baddbmm_(states[0][1].mT, states[0][0], alpha=1e-9)
        for l, w in enumerate(weights[1:], start=1):
            w.baddbmm_(states[1][l + 1].mT, states[1][l], alpha=1e-9)

    return sweep, update


def copy_of_weights(layers: list[int], members: int, device: torch.device) -> Callable[[], Tensor]:
    """Every weight read once and written once."""
    pairs = [torch.rand(2, members, b * a, device=device) for a, b in itertools.pairwise(layers)]

    def run() -> Tensor:
        for source, target in pairs:
            target.copy_(source)
        return target

    return run


class _Count(TorchDispatchMode):
    """Counts kernels: what reaches a device and is no mere view."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.kernels += func._overloadpacket.__name__ not in _FREE
        return func(*args, **(kwargs or {}))


def operations(layers: list[int], batch: int, sweeps: int) -> tuple[float, float]:
    """Floating-point operations and bytes of weights' traffic a member-step.

    The input's weights are read once and updated once (read, written); those between moving layers stay in a cache.
    """
    first, inner = layers[0] * layers[1], sum(a * b for a, b in itertools.pairwise(layers[1:]))
    multiply_accumulates = batch * (2 * first + inner * (3 * 2 * sweeps + 2))
    return 2.0 * multiply_accumulates, 4.0 * 3 * (first + inner)


def derived(layers: list[int], batch: int, sweeps: int, kernels: int) -> dict[str, dict[str, Any]]:
    """Member-steps a second of an ensemble that GPUs cannot exceed, by number of members, and what sets the bound."""
    operations_each, bytes_each = operations(layers, batch, sweeps)
    found: dict[str, dict[str, Any]] = {}
    for gpu, bandwidth in BANDWIDTHS.items():
        bounds = {
            members: {
                "launches": kernels * LAUNCH_SECONDS,
                "operations": members * operations_each / (GPUS[gpu][1] * 1e12),
                "memory": members * bytes_each / (bandwidth * 1e9),
            }
            for members in (*MEMBERS, 1024)
        }
        found[gpu] = {
            str(members): {"member_steps_per_second": members / max(b.values()), "set_by": max(b, key=lambda k: b[k])}
            for members, b in bounds.items()
        }
    return found


def ensemble_suite(arguments: argparse.Namespace) -> None:
    """Ensembles against separate runs, and against what bounds them."""
    device, batch, sweeps = device_named(arguments.device), arguments.batch_size, arguments.sweeps
    layers = sizes(arguments.network)
    runs = Runs(layers, batch, sweeps, max(MEMBERS), device)
    candidates: dict[str, Callable[[], object]] = {}
    for m in MEMBERS:
        sweep, update = products(layers, batch, sweeps, m, device)
        candidates |= {
            f"separate/{m}": runs.separate(m),
            f"ensemble/{m}": runs.together(m),
            f"products/{m}": sweep,
            f"update/{m}": update,
            f"copy/{m}": copy_of_weights(layers, m, device),
        }
    with _Count() as count:
        runs.together(1, steps=1)()
    rounds = each_round(candidates, rounds=arguments.rounds, calls=1, warm_up=1)
    times, ratios = middle(rounds), {m: ratio(rounds, f"separate/{m}", f"ensemble/{m}") for m in MEMBERS}
    each = {  # seconds a member-step
        name: [times[f"{name}/{m}"] / m / (STEPS if name in ("separate", "ensemble") else 1) for m in MEMBERS]
        for name in ("separate", "ensemble", "products", "update", "copy")
    }
    print(f"{arguments.network}, batch {batch}, {sweeps} sweeps a phase, {device}, {torch.get_num_threads()} thread(s)")
    print(
        "  members   separate   ensemble   products     update       copy   us a member-step      ensemble / separate"
    )
    for i, m in enumerate(MEMBERS):
        row = "".join(f"{1e6 * column[i]:11.1f}" for column in each.values())
        print(f"  {m:7d}{row}   {1 / each['ensemble'][i]:12,.0f} member-steps/s   {ratios[m]:5.2f} x separate")
    weights = 8.0 * sum(a * b for a, b in itertools.pairwise(layers))
    gpus = derived(layers, batch, sweeps, count.kernels)
    at = MEMBERS.index(SHOWN)
    bound = each["products"][at] + each["update"][at]
    h100 = gpus["h100"]
    arguments.run.save_figure("ensemble", draw(each, ratios, f"{arguments.network}, batch {batch}"))
    headline: list[dict[str, Any]] = [
        {"name": f"{SHOWN} members against {SHOWN} runs one after another", "value": ratios[SHOWN], "unit": "x",
         "target": f">= {TARGET:g}"},
        {"name": f"an ensemble of {SHOWN}", "value": 1 / each["ensemble"][at], "unit": "member-steps/s"},
        {"name": "separate runs", "value": 1 / each["separate"][at], "unit": "member-steps/s"},
        {"name": f"an ensemble of {SHOWN} against its bare products", "value": each["ensemble"][at] / bound,
         "unit": "x products"},
        {"name": f"the update of {SHOWN} against a copy of the weights", "value": each["update"][at] / each["copy"][at],
         "unit": "x copy"},
        {"name": "bandwidth of that copy", "value": 1e-9 * weights / each["copy"][at], "unit": "GB/s"},
        *(
            {"name": f"derived, at most, H100, {m} member{'s' if m != '1' else ''} ({h100[m]['set_by']})",
             "value": h100[m]["member_steps_per_second"], "unit": "member-steps/s"}
            for m in ("1", str(SHOWN), "1024")
        ),
    ]  # fmt: skip
    operations_each, bytes_each = operations(layers, batch, sweeps)
    finish(
        arguments,
        title=f"Ensembles against separate runs, {arguments.network}, batch {batch}, {sweeps} sweeps a phase",
        headline=headline,
        details={
            "seeds": list(range(max(MEMBERS))),
            "members": list(MEMBERS),
            "seconds_a_member_step": each,
            "ratio_to_separate_runs": {str(m): r for m, r in ratios.items()},
            "operations_a_member_step": operations_each,
            "weight_bytes_a_member_step": bytes_each,
            "derived": {
                "how": "the largest of operations at the published float32 peak, weights' traffic at the published "
                f"bandwidth, and {count.kernels} launches a step of {1e6 * LAUNCH_SECONDS:g} us each (assumed); a "
                "bound, not a measurement",
                "peak_tflop_per_second": {gpu: GPUS[gpu][1] for gpu in BANDWIDTHS},
                "bandwidth_gb_per_second": BANDWIDTHS,
                "gpus": gpus,
            },
            "steps": STEPS * arguments.rounds * sum(MEMBERS),
        },
        device=device,
    )


def draw(each: Mapping[str, Sequence[float]], ratios: Mapping[int, float], title: str) -> Figure:
    """Cost of a member-step over the number of members with its bounds, and the gain."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    cost, gain = figure.subplots(1, 2, width_ratios=(3, 2))
    lines = {
        "separate": ("runs one after another", GREY, "s-"),
        "ensemble": ("ensemble", BLUE, "o-"),
        "products": ("bare products, without the update", ORANGE, "^--"),
        "update": ("products of the update", GREEN, "v--"),
        "copy": ("a copy of the weights: least of an update", RED, ":"),
    }
    for name, (label, colour, style) in lines.items():
        cost.loglog(MEMBERS, [1e6 * v for v in each[name]], style, color=colour, label=label, markersize=5)
    cost.set_ylabel("time of a member-step (µs)")
    cost.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0.0, -0.18), ncols=2)
    gain.semilogx(MEMBERS, [ratios[m] for m in MEMBERS], "o-", color=BLUE, markersize=5)
    gain.axhline(TARGET, color=GREY, linestyle="--", linewidth=1)
    gain.annotate(f"target at {SHOWN} members", (1, TARGET), (0, 3), textcoords="offset points", fontsize="small")
    gain.set_ylabel("rate, to separate runs")
    gain.set_ylim(bottom=0)
    for axes in (cost, gain):
        axes.set_xlabel("members")
        axes.set_xticks(MEMBERS)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        _tidy(axes)
    figure.suptitle(title)
    return figure
