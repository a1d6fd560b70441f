"""Resistive networks: circuit theory by independent solvers, gradients by finite differences, rules that serve."""

from __future__ import annotations

import itertools
import math
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import eqprop
from eqprop import (
    Activation,
    ConfigError,
    CostNudge,
    Drive,
    EquilibriumPropagation,
    ImplicitGradient,
    Phase,
    Rule,
    Stop,
    Sweeps,
    TruncatedBPTT,
    relax,
)
from eqprop._diagnostics import match
from hardware import Nodes, ResistiveNetwork
from tests.helpers import TIGHT, State, exact_loss, flat, inputs, labels, no_host_sync, seeded, slope

Matrix = NDArray[np.float64]
RANGE: dict[str, Any] = {"g_min_siemens": 0.05, "g_max_siemens": 1.0, "dtype": torch.float64}
TRIANGLE = [("input", "a"), ("a", "b"), ("b", "output"), ("output", "a")]
BRANCHES = [("input", "a"), ("input", "b"), ("a", "output"), ("b", "output")]
SKIP = [("input", "a"), ("a", "b"), ("b", "output"), ("input", "output")]


def graph(diodes: str, connections: list[tuple[str, str]], **options: Any) -> ResistiveNetwork:
    return ResistiveNetwork(
        {"input": 5, "a": Nodes(4, diodes), "b": Nodes(3, diodes), "output": 3}, connections, **RANGE, **options
    )


NETWORKS: dict[str, Callable[[], ResistiveNetwork]] = {
    "linear": lambda: ResistiveNetwork.mlp(5, 4, 3, 3, diodes="none", **RANGE),
    "diodes": lambda: ResistiveNetwork.mlp(5, 4, 3, 3, **RANGE),
    "held": lambda: ResistiveNetwork.mlp(5, 4, 3, diodes=(-0.05, 0.04), **RANGE),
    "one-layer": lambda: ResistiveNetwork.mlp(5, 3, **RANGE),
    "folded": lambda: ResistiveNetwork.mlp(5, 6, 3, fold=True, output_gain=4.0, **RANGE),
    "single-rail": lambda: ResistiveNetwork.mlp(5, 6, 3, doubled=False, rail_volts=None, input_volts=2.0, **RANGE),
    "triangle": lambda: graph("ground", TRIANGLE),
    "linear-skip": lambda: graph("none", SKIP, output_gain=2.0),
    "amplified": lambda: ResistiveNetwork.mlp(5, 4, 3, 3, amplification=3.0, **RANGE),
    "amplified-branches": lambda: graph("ground", BRANCHES, amplification={"a": 2.0, "b": 5.0}),
}
LINEAR = [n for n in NETWORKS if n.startswith(("linear", "one"))]
PASSIVE = [n for n in NETWORKS if not n.startswith("amplified")]
every = pytest.mark.parametrize("name", NETWORKS)


def settled(net: ResistiveNetwork, x: Tensor, nudge: Any = None, **options: Any) -> State:
    with torch.no_grad():
        made: dict[str, Any] = {"stop": TIGHT, "throw": True} | options
        return relax(net, net.initial_state(len(x)), net.drive(x), nudge, **made).state


def volts(state: State) -> Matrix:
    """All nodes as one vector a sample."""
    return torch.cat(state, 1).detach().cpu().numpy()


def nudge_of(net: ResistiveNetwork, y: Tensor, beta: float) -> CostNudge:
    return CostNudge(net, eqprop.SquaredError(), y, torch.full((len(y), 1), beta, dtype=y.dtype, device=y.device))


# -- an independent solver: Kirchhoff's equations, resistor by resistor ------------------------------------------------


def resistors(net: ResistiveNetwork, x: Tensor) -> list[tuple[float, int, int | None, float]]:
    """``(siemens, node, other node, or None for a source, its volts)`` of a passive network and one sample."""
    offset = dict(zip(net.names, itertools.accumulate([0, *(s[0] for s in net.shapes)]), strict=False))
    sources = [net.input_volts * float(v) for v in x]
    sources += [-v for v in sources]
    found: list[tuple[float, int, int | None, float]] = []
    for name, p in net.named_parameters():
        group, key = name.split(".")
        for (j, i), g in np.ndenumerate(p.detach().cpu().numpy()):
            if group == "biases":
                assert net.rail_volts is not None
                found.append((g, offset[key] + j, None, net.rail_volts * (1 - 2 * i)))
                continue
            pre, post = key.split("-")
            if pre == "input":
                found.append((g, offset[post] + j, None, sources[i]))
            else:
                found.append((g, offset[post] + j, offset[pre] + i, 0.0))
    return found


def equations(net: ResistiveNetwork, x: Tensor) -> tuple[Matrix, Matrix]:
    """``L v = i``: the matrix of nodal analysis and the currents of the sources."""
    n = sum(s[0] for s in net.shapes)
    matrix, current = np.zeros((n, n)), np.zeros(n)
    for g, a, b, source in resistors(net, x):
        matrix[a, a] += g
        if b is None:
            current[a] += g * source
        else:
            matrix[b, b] += g
            matrix[a, b] -= g
            matrix[b, a] -= g
    return matrix, current


def with_nudge(net: ResistiveNetwork, matrix: Matrix, current: Matrix, y: Tensor, beta: float) -> tuple[Matrix, Matrix]:
    """A resistor of ``beta`` from what a sense amplifier reads to its target, in units of its output."""
    matrix, current = matrix.copy(), current.copy()
    first, outputs = len(current) - net.shapes[-1][0], len(y)
    for k in range(outputs):
        reading = np.zeros(len(current))
        reading[first + k] = net.output_gain
        if net.fold:
            reading[first + k + outputs] = -net.output_gain
        matrix += beta * np.outer(reading, reading)
        current += beta * float(y[k]) * reading
    return matrix, current


def limits(net: ResistiveNetwork) -> tuple[Matrix, Matrix]:
    low, high = [], []
    for name in net.names:
        node = net.nodes[name]
        if isinstance(node.diodes, tuple):
            low += [node.diodes[0]] * node.units
            high += [node.diodes[1]] * node.units
        else:
            up = math.ceil(node.units / 2)
            ground = node.diodes == "ground"
            low += [0.0 if ground and i < up else -math.inf for i in range(node.units)]
            high += [0.0 if ground and i >= up else math.inf for i in range(node.units)]
    return np.array(low), np.array(high)


def solve_with_diodes(matrix: Matrix, current: Matrix, low: Matrix, high: Matrix) -> Matrix:
    """Every combination of open and conducting diodes, until one in which all currents go the right way."""
    choices = [[None, *(v for v in pair if math.isfinite(v))] for pair in zip(low, high, strict=True)]
    for held in itertools.product(*choices):
        free = np.array([h is None for h in held])
        v = np.array([0.0 if h is None else h for h in held])
        if free.any():
            rest = current[free] - matrix[np.ix_(free, ~free)] @ v[~free]
            v[free] = np.linalg.solve(matrix[np.ix_(free, free)], rest)
        net_current = current - matrix @ v
        within = (v >= low - 1e-12).all() and (v <= high + 1e-12).all()
        right = ((v > low) | (net_current <= 1e-12)) & ((v < high) | (net_current >= -1e-12))
        if within and right[~free].all():
            return v
    raise AssertionError("a convex problem has a solution")


# -- circuit theory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_network_solves_kirchhoffs_equations(name: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x = 2 * inputs(net, 3, device) - 1
    found = volts(settled(net, x))
    for v, sample in zip(found, x, strict=True):
        np.testing.assert_allclose(v, np.linalg.solve(*equations(net, sample)), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", PASSIVE)
@pytest.mark.parametrize("share", [None, 0.3, -0.3])
def test_equilibria_are_those_of_the_circuit_free_and_nudged(
    name: str, share: float | None, device: torch.device
) -> None:
    net = NETWORKS[name]().to(device)
    x, y = 2 * inputs(net, 4, device) - 1, torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    beta = 0.0 if share is None else math.copysign(net.nudge_siemens(abs(share)), share)
    found = volts(settled(net, x, None if share is None else nudge_of(net, y, beta)))
    conducting = 0
    for v, sample, target in zip(found, x, y, strict=True):
        matrix, current = with_nudge(net, *equations(net, sample), target, beta)
        expected = solve_with_diodes(matrix, current, *limits(net))
        np.testing.assert_allclose(v, expected, rtol=1e-10, atol=1e-12)
        conducting += int(((v == limits(net)[0]) | (v == limits(net)[1])).sum())
    assert (conducting > 0) == (name not in LINEAR)


@pytest.mark.parametrize("name", PASSIVE)
def test_the_energy_is_half_the_power_and_sources_deliver_it(name: str, device: torch.device) -> None:
    """Summed a resistor at a time; Tellegen: what resistors dissipate comes from sources (and diodes at a voltage)."""
    net = NETWORKS[name]().to(device)
    x = 2 * inputs(net, 3, device) - 1
    state = settled(net, x)
    energy = net.energy(state, net.drive(x)).detach()
    for v, sample, e in zip(volts(state), x, energy, strict=True):
        dissipated = delivered = 0.0
        for g, a, b, source in resistors(net, sample):
            drop = (source if b is None else v[b]) - v[a]
            dissipated += g * drop**2
            delivered += g * drop * source if b is None else 0.0
        matrix, current = equations(net, sample)
        delivered -= float(v @ (current - matrix @ v))
        assert float(e) == pytest.approx(0.5 * dissipated, rel=1e-12)
        assert dissipated == pytest.approx(delivered, rel=1e-10)


@every
@torch.no_grad()
def test_no_other_voltages_that_the_diodes_allow_have_less_power(name: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x = inputs(net, 1, device)
    state = settled(net, x)
    drive = net.drive(x)
    least = float(net.energy(state, drive)[0])
    for size in (1e-3, 1e-1, 1.0):
        for seed in range(20):
            step = [torch.randn(s.shape, generator=seeded(seed), dtype=s.dtype).to(device) for s in state]
            other = [s + size * d for s, d in zip(state, step, strict=True)]
            for l in range(len(other)):
                if (held := net._limits(l)) is not None:
                    other[l] = other[l].clamp(*held)
            assert float(net.energy(tuple(other), drive)[0]) > least


@pytest.mark.parametrize("name", PASSIVE)
def test_no_node_leaves_the_range_of_the_sources_and_raising_one_lowers_none(name: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x = 2 * inputs(net, 6, device) - 1
    v = volts(settled(net, x))
    highest = max(net.input_volts * float(x.abs().max()), net.rail_volts or 0.0)
    assert np.abs(v).max() < highest
    if not name.startswith("single"):
        return  # a doubled input raises one source and lowers another
    for i in range(x.shape[1]):
        raised = x.clone()
        raised[:, i] += 0.3
        change = volts(settled(net, raised)) - v
        assert change.min() >= -1e-14 and change.max() > 1e-4


class Injected:
    """A current into one node of a layer."""

    def __init__(self, layer: int, current: Tensor) -> None:
        self.layers: Set[int] = frozenset((layer,))
        self.current = current

    def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
        return rho(z + self.current)


@pytest.mark.parametrize("name", ["linear", "linear-skip"])
def test_transfer_resistances_are_reciprocal(name: str, device: torch.device) -> None:
    """One ampere into node i moves node j as one into j moves i (and that by the inverse of the nodal matrix)."""
    net = NETWORKS[name]().to(device)
    x = inputs(net, 1, device)
    rest = volts(settled(net, x))[0]
    columns = []
    for l, shape in enumerate(net.shapes):
        for i in range(shape[0]):
            current = torch.zeros(shape, dtype=torch.float64, device=device)
            current[i] = 1.0
            columns.append(volts(settled(net, x, Injected(l, current)))[0] - rest)
    transfer = np.stack(columns, 1)
    np.testing.assert_allclose(transfer, transfer.T, rtol=1e-10)
    np.testing.assert_allclose(transfer, np.linalg.inv(equations(net, x[0])[0]), rtol=1e-10)
    assert transfer.min() > 1e-4


@every
@torch.no_grad()
def test_kirchhoffs_current_law_holds_at_equilibrium_and_shows_what_is_missing_elsewhere(
    name: str, device: torch.device
) -> None:
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 3, device), torch.rand(3, 3, generator=seeded(5), dtype=torch.float64).to(device)
    drive = net.drive(x)
    nudge = nudge_of(net, y, net.nudge_siemens(0.2))
    free, nudged = settled(net, x), settled(net, x, nudge)
    assert float(net.kcl_residual(free, drive).max()) < 1e-12
    assert float(net.kcl_residual(nudged, drive, nudge).max()) < 1e-12
    assert float(net.kcl_residual(nudged, drive).min()) > 1e-4
    output = free[-1].clone()
    output[:, 0] += 0.01
    expected = 0.01 * net.node_siemens()[-1][0]
    torch.testing.assert_close(net.kcl_residual((*free[:-1], output), drive), expected.expand(3), rtol=1e-9, atol=1e-9)


def test_a_diode_carries_current_one_way_only(device: torch.device) -> None:
    """A node that its resistors pull up may not sit at the ground that only stops it from falling."""
    net = ResistiveNetwork.mlp(2, 2, 1, doubled=False, rail_volts=None, **RANGE).to(device)
    drive = net.drive(torch.ones(1, 2, dtype=torch.float64, device=device))
    zero = net.initial_state(1)
    currents = net.net_currents(zero, drive)[0][0]
    assert float(currents.min()) > 0  # both are pulled up: the first must rise, the second is held by its diode
    assert float(net.kcl_residual(zero, drive)) == pytest.approx(float(currents[0]))
    state = settled(net, torch.ones(1, 2, dtype=torch.float64, device=device))
    assert float(state[0][0, 0]) > 0.1 and float(state[0][0, 1]) == 0.0


def test_with_amplifiers_every_current_balances_and_backwards_it_is_divided_by_the_gain(device: torch.device) -> None:
    gain = 3.0
    net = ResistiveNetwork.mlp(5, 4, 3, diodes="none", amplification=gain, **RANGE).to(device)
    x = inputs(net, 2, device)
    hidden, output = settled(net, x)
    into, onward = net.connections["input-hidden1"].detach(), net.connections["hidden1-output"].detach()
    sources = torch.cat([x, -x], 1)
    drawn = (onward * (gain * hidden[:, None, :] - output[:, :, None])).sum(1)  # by the next layer
    rails = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device)

    def own(name: str, v: Tensor) -> Tensor:
        return (net.biases[name].detach() * (rails - v[:, :, None])).sum(-1)

    at_hidden = (into * (sources[:, None, :] - hidden[:, :, None])).sum(-1) + own("hidden1", hidden) - drawn / gain
    at_output = (onward * (gain * hidden[:, None, :] - output[:, :, None])).sum(-1) + own("output", output)
    assert float(at_hidden.abs().max()) < 1e-13 and float(at_output.abs().max()) < 1e-13


def test_a_chain_with_amplifiers_is_one_without_in_other_voltages(device: torch.device) -> None:
    """Voltages behind ``n`` amplifiers are ``A^n`` times those of the plain chain, with diodes to ground, no rails."""
    plain = ResistiveNetwork.mlp(5, 4, 3, 3, rail_volts=None, **RANGE).to(device)
    amplified = ResistiveNetwork.mlp(5, 4, 3, 3, rail_volts=None, amplification=3.0, **RANGE).to(device)
    amplified.load_state_dict(plain.state_dict())
    x = 2 * inputs(plain, 3, device) - 1
    for n, (v, w) in enumerate(zip(settled(plain, x), settled(amplified, x), strict=True)):
        torch.testing.assert_close(w, 3.0**n * v)


# -- ngspice -----------------------------------------------------------------------------------------------------------


def spice_voltages(net: ResistiveNetwork, x: Tensor, folder: Path) -> Matrix:
    """Node voltages of one sample by ngspice, with diodes of 1 nano-ohm."""
    count = sum(s[0] for s in net.shapes)
    lines = ["resistive network"]
    for n, (g, a, b, source) in enumerate(resistors(net, x)):
        other = f"n{b}" if b is not None else f"s{n}"
        if b is None:
            lines.append(f"V{n} s{n} 0 {source:.17g}")
        lines.append(f"R{n} n{a} {other} {1 / g:.17g}")
    for i, (low, high) in enumerate(zip(*limits(net), strict=True)):
        if math.isfinite(low):
            lines.append(f"BL{i} 0 n{i} I = max(({low:.17g} - V(n{i})) * 1e9, 0)")
        if math.isfinite(high):
            lines.append(f"BH{i} n{i} 0 I = max((V(n{i}) - {high:.17g}) * 1e9, 0)")
    lines += [".options reltol=1e-9 abstol=1e-15 vntol=1e-12", ".op", ".end"]
    circuit, raw = folder / "circuit.cir", folder / "circuit.raw"
    circuit.write_text("\n".join(lines) + "\n")
    subprocess.run(["ngspice", "-b", "-r", str(raw), str(circuit)], check=True, capture_output=True, timeout=60)
    head, values = raw.read_bytes().split(b"Binary:\n", 1)
    names = [line.split()[1] for line in head.decode().split("\nVariables:")[1].splitlines() if len(line.split()) == 3]
    table = dict(zip(names, np.frombuffer(values, "<f8"), strict=True))
    return np.array([table[f"v(n{i})"] for i in range(count)])


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
@pytest.mark.parametrize("name", PASSIVE)
def test_node_voltages_are_those_of_a_circuit_simulator(name: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    x = 2 * inputs(net, 2) - 1
    for v, sample in zip(volts(settled(net, x)), x, strict=True):
        np.testing.assert_allclose(spice_voltages(net, sample, tmp_path), v, atol=1e-6)


# -- the interface -----------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_it_conforms_and_no_check_is_skipped(name: str, seed: int, device: torch.device) -> None:
    report = eqprop.check_network(NETWORKS[name]().to(device), seed=seed)
    assert report.passed and all(c.deviation is not None for c in report.checks), str(report)


@every
def test_no_sweep_waits_for_the_host(name: str) -> None:
    net = NETWORKS[name]()
    x, y = inputs(net, 3), torch.rand(3, 3, generator=seeded(5), dtype=torch.float64)
    drive, state, nudge = net.drive(x), net.initial_state(3), nudge_of(net, y, 0.01)
    with torch.no_grad(), no_host_sync():
        cache = net.new_cache()
        for block in net.blocks:
            net.update(state, drive, None, block, cache)
            net.update(state, drive, nudge, block, cache)
        net.add_contrast_gradient([Phase(state, torch.ones(3, dtype=torch.float64), 1)], x)


@every
def test_a_whole_step_runs_on_a_device_without_values(name: str) -> None:
    """On ``meta`` whatever asks for a value or leaves the device fails."""
    net = NETWORKS[name]().to("meta")
    x, y = torch.empty(3, 5, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")
    with no_host_sync():
        for readout in ("contrast", "tangent"):
            EquilibriumPropagation(readout=readout, free=Sweeps(3), nudged=Sweeps(3)).backward(net, x, y)
        with torch.no_grad():
            net.kcl_residual(net.initial_state(3), net.drive(x))
        net.project()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in net.parameters())


@contextmanager
def largest_tensor() -> Iterator[list[int]]:
    sizes = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.append(max((t.numel() for t in (result,) if isinstance(t, Tensor)), default=0))
            return result

    with Watch():
        yield sizes


def test_gradients_and_energy_form_no_tensor_of_all_pairs_of_nodes_for_every_sample() -> None:
    net = ResistiveNetwork.mlp(30, 40, 20, **RANGE)
    x, y = inputs(net, 50), labels(50, 20)
    with largest_tensor() as sizes:
        eqprop.gradients(net, EquilibriumPropagation(beta=0.01, free=Sweeps(3), nudged=Sweeps(3)), x, y)
        net.energy(net.initial_state(50), net.drive(x))
    assert 0 < max(sizes) <= 2 * 50 * 60  # 40 x 60 conductances, 2 x 50 x 60 voltages; not 50 x 40 x 60


def test_copies_pickles_and_specs_settle_to_the_same_voltages() -> None:
    for name, make in NETWORKS.items():
        net = make()
        x = inputs(net)
        rebuilt = ResistiveNetwork.from_spec(net.spec()).double()
        rebuilt.load_state_dict(net.state_dict())
        for other in (net.clone(), pickle.loads(pickle.dumps(net)), rebuilt):
            assert np.array_equal(volts(settled(net, x)), volts(settled(other, x))), name
            with torch.no_grad():
                next(other.parameters()).mul_(0.5)
            assert not np.array_equal(volts(settled(net, x)), volts(settled(other, x))), name


def test_float32_keeps_every_voltage_to_rounding(device: torch.device) -> None:
    """In siemens as small as those of devices."""
    net = ResistiveNetwork.mlp(20, 10, 4, dtype=torch.float64).to(device)
    x = inputs(net, 5, device)
    exact = volts(settled(net, x))
    found = volts(settled(net.clone().float(), x.float(), stop=Sweeps(20)))
    assert np.abs(found - exact).max() < 3e-8


# -- gradients ---------------------------------------------------------------------------------------------------------


@every
def test_the_implicit_gradient_is_that_of_the_loss_by_finite_differences(name: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    truth = eqprop.gradients(net, ImplicitGradient(free=TIGHT), x, y)
    for key, p in net.named_parameters():
        picked = [(0, 0), (p.shape[0] - 1, p.shape[1] - 1), (1, p.shape[1] // 2)]
        for index in picked:
            step, value = 1e-5, float(p.detach()[index])
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    p[index] = value + sign * step
                losses.append(float(exact_loss(net, x, y)))
            with torch.no_grad():
                p[index] = value
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(truth[key][index]), rel=1e-5, abs=1e-9)


@every
@pytest.mark.parametrize("readout", ["contrast", "tangent"])
@pytest.mark.parametrize(("contour", "order"), [("one-sided", 1.0), ("centred", 2.0)])
def test_the_error_of_equilibrium_propagation_falls_with_the_order_of_the_contour(
    name: str, readout: str, contour: str, order: float, device: torch.device
) -> None:
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    truth = flat(eqprop.gradients(net, ImplicitGradient(free=TIGHT), x, y))
    betas = [net.nudge_siemens(share) for share in (0.01, 0.02, 0.04)]
    errors = []
    for beta in betas:
        rule = EquilibriumPropagation(beta=beta, contour=contour, readout=readout, free=TIGHT, nudged=TIGHT)
        errors.append(match(flat(eqprop.gradients(net, rule, x, y)), truth).relative_error)
    assert errors[-1] < 0.2
    assert slope(betas, errors) == pytest.approx(order, abs=0.1)


def test_a_contrast_is_half_the_difference_of_squared_drops_resistor_by_resistor(device: torch.device) -> None:
    net = NETWORKS["diodes"]().to(device)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    beta = net.nudge_siemens(0.2)
    rule = EquilibriumPropagation(beta=beta, free=TIGHT, nudged=TIGHT)
    found = eqprop.gradients(net, rule, x, y)["connections.hidden1-hidden2"]
    drops = []
    for b in (beta, -beta):
        tail, head, _ = settled(net, x, nudge_of(net, y, b))
        drops.append(tail[:, None, :] - head[:, :, None])
    expected = 0.5 * (drops[0] ** 2 - drops[1] ** 2).mean(0) / (2 * beta)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in NETWORKS])
def test_a_common_factor_of_all_conductances_changes_no_voltage_and_no_direction(
    name: str, device: torch.device
) -> None:
    """Drift in common mode is harmless where the nudge conductance drifts along, and only there."""
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    beta = net.nudge_siemens(0.1)
    drifted = net.clone()
    with torch.no_grad():
        for p in drifted.parameters():
            p.mul_(0.9)
    np.testing.assert_allclose(volts(settled(drifted, x)), volts(settled(net, x)), rtol=1e-10, atol=1e-13)
    tight: dict[str, Any] = {"free": TIGHT, "nudged": TIGHT}
    before = flat(eqprop.gradients(net, EquilibriumPropagation(beta=beta, **tight), x, y))
    along = flat(eqprop.gradients(drifted, EquilibriumPropagation(beta=0.9 * beta, **tight), x, y))
    alone = flat(eqprop.gradients(drifted, EquilibriumPropagation(beta=beta, **tight), x, y))
    torch.testing.assert_close(along * 0.9, before, rtol=1e-6, atol=1e-9)
    assert match(alone, before).relative_error > 1e-4


TO_ROUNDING: dict[str, Any] = {"free": TIGHT, "nudged": TIGHT}
SERVE: dict[str, Callable[[float], Rule]] = {
    "centred": lambda b: EquilibriumPropagation(beta=b, **TO_ROUNDING),
    "random sign": lambda b: EquilibriumPropagation(beta=b, contour="random-sign", **TO_ROUNDING),
    "derivative": lambda b: EquilibriumPropagation(readout="tangent", contour="derivative", **TO_ROUNDING),
    "AsymEP": lambda b: EquilibriumPropagation(beta=b, readout="tangent", correction="asymep", **TO_ROUNDING),
    "Dyadic": lambda b: eqprop.DyadicEP(beta=b, nudged=TIGHT),
    "recurrent backprop": lambda b: eqprop.RecurrentBackprop(free=TIGHT, adjoint=TIGHT),
    "BPTT": lambda b: TruncatedBPTT(free=TIGHT, steps=60),
    "continual": lambda b: eqprop.ContinualEP(rates=0.0, beta=b, free=TIGHT, nudged=Sweeps(60)),
    "oscillating": lambda b: eqprop.OscillatingEP(beta=b, points=2, sweeps=60),
}


@pytest.mark.parametrize("rule", SERVE)
@pytest.mark.parametrize("name", ["diodes", "folded", "triangle", "amplified"])
def test_every_rule_that_can_serve_gives_the_true_gradient(name: str, rule: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    made = SERVE[rule](net.nudge_siemens(1e-3))
    found = eqprop.compare_layers(net, made, ImplicitGradient(free=TIGHT), x, y)
    assert set(found) == set(net.names)
    assert max(m.relative_error for m in found.values()) < 5e-3


@pytest.mark.parametrize("rule", [eqprop.ContrastiveHebbian(**TO_ROUNDING), eqprop.CoupledLearning(**TO_ROUNDING)])
def test_rules_that_clamp_the_output_contrast_two_circuits(rule: Rule, device: torch.device) -> None:
    """Their gradient is that of the difference in power, which finite differences give."""
    net = NETWORKS["diodes"]().to(device)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    free = settled(net, x)
    hebbian = isinstance(rule, eqprop.ContrastiveHebbian)
    held = [y] if hebbian else [free[-1] - b * (free[-1] - y) for b in (0.1, -0.1)]
    weights = [1.0] if hebbian else [5.0, -5.0]

    class Hold:
        layers: Set[int] = frozenset((2,))

        def __init__(self, value: Tensor) -> None:
            self.value = value

        def apply(self, layer: int, z: Tensor, s: Tensor, rho: Activation) -> Tensor:
            return self.value

    @torch.no_grad()
    def contrast() -> float:
        drive = net.drive(x)
        powers = [w * net.energy(settled(net, x, Hold(v)), drive).mean() for v, w in zip(held, weights, strict=True)]
        rest = net.energy(settled(net, x), drive).mean() if hebbian else 0.0
        return float(sum(powers) - rest)

    found = eqprop.gradients(net, rule, x, y)["connections.hidden1-hidden2"]
    p = net.connections["hidden1-hidden2"]
    for index in ((0, 0), (2, 3)):
        value, ends = float(p.detach()[index]), []
        for sign in (1, -1):
            with torch.no_grad():
                p[index] = value + sign * 1e-5
            ends.append(contrast())
        with torch.no_grad():
            p[index] = value
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(found[index]), rel=1e-4, abs=1e-9)


def test_complex_nudges_are_refused_in_words(device: torch.device) -> None:
    net = NETWORKS["diodes"]().to(device)
    rule = EquilibriumPropagation(contour="cauchy", points=4, beta=0.01)
    with pytest.raises(ConfigError, match="not holomorphic.*contour='centred'"):
        rule.backward(net, inputs(net, 2, device), labels(2, 3, device))


# -- nudges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diodes", "folded", "amplified"])
def test_a_nudge_as_a_current_ends_where_the_conductance_does(name: str, device: torch.device) -> None:
    """A cost of your own acts as a current; for the same cost it is the same circuit, with more sweeps."""
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    beta = net.nudge_siemens(0.3)
    own = eqprop.cost(lambda output, target: 0.5 * (output - target).square().sum(-1))
    force = CostNudge(net, own, y, torch.full((4, 1), beta, dtype=torch.float64, device=device))
    np.testing.assert_allclose(
        volts(settled(net, x, force)), volts(settled(net, x, nudge_of(net, y, beta))), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", ["diodes", "folded"])
def test_other_costs_than_a_squared_error_have_their_true_gradient(name: str, device: torch.device) -> None:
    net = NETWORKS[name]().to(device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = EquilibriumPropagation(beta=net.nudge_siemens(1e-2), cost="cross-entropy", free=TIGHT, nudged=TIGHT)
    found = eqprop.compare_gradients(net, rule, ImplicitGradient(cost="cross-entropy", free=TIGHT), x, y)
    assert found["all"].relative_error < 1e-3


def test_sense_amplifiers_are_not_trained(device: torch.device) -> None:
    net = NETWORKS["folded"]().to(device)
    EquilibriumPropagation(beta=0.01).backward(net, inputs(net, 2, device), labels(2, 3, device))
    assert net.readout is not None and net.readout.weight.grad is None
    assert all(p.grad is not None for p in net.parameters())
    assert not any("readout" in n for n in [*dict(net.named_parameters()), *net.state_dict()])


@pytest.mark.parametrize("name", ["one-layer", "folded", "linear-skip"])
@pytest.mark.parametrize("share", [0.1, 3.0])
def test_a_share_of_the_outputs_own_conductance_moves_them_by_that_share_of_their_error(
    name: str, share: float, device: torch.device
) -> None:
    net = NETWORKS[name]().to(device)
    with torch.no_grad():  # equal nodes, so that the mean over outputs is each of them
        for p in net.parameters():
            p.fill_(0.3)
    x, y = inputs(net, 4, device), torch.rand(4, 3, generator=seeded(5), dtype=torch.float64).to(device)
    free = settled(net, x)
    nudge = nudge_of(net, y, net.nudge_siemens(share))
    last = len(free) - 1
    with torch.no_grad():
        moved = net.update(free, net.drive(x), nudge, (last,), net.new_cache())[0]
    before, after = net.output(free), net.output((moved,))
    torch.testing.assert_close(after - before, share / (1 + share) * (y - before), rtol=1e-8, atol=1e-10)


def test_a_negative_conductance_above_that_of_the_node_is_no_equilibrium(device: torch.device) -> None:
    net = NETWORKS["diodes"]().to(device)
    x, y = inputs(net, 2, device), torch.rand(2, 3, generator=seeded(5), dtype=torch.float64).to(device)
    beta = -1.1 * float(net.node_siemens()[-1].detach().max())
    solution = relax(net, net.initial_state(2), net.drive(x), nudge_of(net, y, beta))
    assert (solution.status == eqprop.Status.NONFINITE).all()


# -- conductances, and what is refused ---------------------------------------------------------------------------------


def test_conductances_start_and_stay_in_their_range(device: torch.device) -> None:
    net = ResistiveNetwork.mlp(5, 4, 3, initial_siemens=(2e-7, 1e-6), generator=seeded(3)).to(device)
    values = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert 2e-7 <= float(values.min()) < 3e-7 and 9e-7 < float(values.max()) <= 1e-6
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    handle = net.project_after(optimizer)
    for sign, bound in ((1.0, net.g_min_siemens), (-1.0, net.g_max_siemens)):
        for p in net.parameters():
            p.grad = torch.full_like(p, sign)
        optimizer.step()
        assert all(torch.equal(p, torch.full_like(p, bound)) for p in net.parameters())
    handle.remove()
    optimizer.step()
    assert float(next(net.parameters()).detach().min()) > net.g_max_siemens


def test_the_same_generator_gives_the_same_network() -> None:
    first, again, other = (ResistiveNetwork.mlp(5, 4, 3, generator=seeded(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)


def test_a_floating_node_is_named() -> None:
    net = ResistiveNetwork.mlp(5, 4, 3, g_min_siemens=0.0, g_max_siemens=1.0)
    with torch.no_grad():
        for key in ("connections.input-hidden1", "biases.hidden1"):
            net.get_parameter(key)[2] = 0.0
        net.get_parameter("connections.hidden1-output")[:, 2] = 0.0
    with pytest.raises(ConfigError, match=r"layer 'hidden1': nodes \[2\] float"):
        net.predict(torch.rand(2, 5, generator=seeded()))


def test_a_floating_node_is_at_ground_where_the_host_does_not_look(device: torch.device) -> None:
    net = ResistiveNetwork.mlp(5, 4, 3, g_min_siemens=0.0, g_max_siemens=1.0).to(device)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    drive = Drive(tuple(torch.zeros(s, device=device) for s in net.shapes), torch.rand(2, 5).to(device))
    state = relax(net, tuple(s + 1 for s in net.initial_state(2)), drive, stop=Sweeps(3)).state
    assert all(torch.equal(s, torch.zeros_like(s)) for s in state)


@pytest.mark.parametrize("bad", [-1e-9, math.nan])
def test_a_conductance_below_zero_is_refused_with_the_remedy(bad: float) -> None:
    net = ResistiveNetwork.mlp(5, 4, 3)
    with torch.no_grad():
        net.biases["hidden1"][1, 0] = bad
    with pytest.raises(ConfigError, match=r"biases.hidden1: got .* S, needed 0 or more; .*project_after"):
        net.drive(torch.rand(2, 5, generator=seeded()))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "empty range": (
        lambda: ResistiveNetwork.mlp(5, 3, g_min_siemens=1e-5, g_max_siemens=1e-5),
        "needed 0 <= g_min < g_max",
    ),
    "negative": (lambda: ResistiveNetwork.mlp(5, 3, g_min_siemens=-1e-5), "needed 0 <= g_min < g_max"),
    "infinite": (lambda: ResistiveNetwork.mlp(5, 3, g_max_siemens=math.inf), "needed 0 <= g_min < g_max"),
    "initial": (lambda: ResistiveNetwork.mlp(5, 3, initial_siemens=(0.0, 1e-6)), "within g_min_siemens=1e-07"),
    "volts": (lambda: ResistiveNetwork.mlp(5, 3, input_volts=0.0), "input_volts: got 0.0, needed a positive"),
    "rails": (lambda: ResistiveNetwork.mlp(5, 3, rail_volts=-1.0), "rail_volts: got -1.0"),
    "gain": (lambda: ResistiveNetwork.mlp(5, 3, output_gain=math.nan), "output_gain: got nan"),
    "units": (lambda: Nodes(0), "got 0 units"),
    "diodes": (lambda: Nodes(3, "diode"), "diodes: got 'diode'"),
    "order": (lambda: Nodes(3, (0.5, 0.5)), "low < high"),
    "output diodes": (lambda: ResistiveNetwork({"input": 5, "output": Nodes(3)}), "outputs are read as they are"),
    "sizes": (lambda: ResistiveNetwork.mlp(5), "needed at least input and output"),
    "alone": (lambda: ResistiveNetwork({"input": 5}), "at least one layer that moves"),
    "unknown": (
        lambda: ResistiveNetwork({"input": 5, "output": 3}, [("inputs", "output")]),
        "did you mean 'input'",
    ),
    "into sources": (
        lambda: ResistiveNetwork({"input": 5, "output": 3}, [("output", "input")]),
        "receive nothing",
    ),
    "within": (
        lambda: ResistiveNetwork({"input": 5, "output": 3}, [("input", "output"), ("output", "output")]),
        "split the layer in two",
    ),
    "twice": (
        lambda: ResistiveNetwork({"input": 5, "a": 2, "output": 3}, [("a", "output"), ("output", "a")]),
        "got it twice",
    ),
    "unreached": (
        lambda: ResistiveNetwork({"input": 5, "a": 2, "output": 3}, [("input", "output")]),
        "layer 'a': no connection reaches it",
    ),
    "pair": (lambda: ResistiveNetwork({"input": 5, "output": 3}, ["io"]), "needed a pair of names"),  # type: ignore[list-item]
    "amplifier": (lambda: ResistiveNetwork.mlp(5, 4, 3, amplification=0.0), "amplification of 'hidden1': got 0.0"),
    "no such amplifier": (
        lambda: ResistiveNetwork.mlp(5, 4, 3, amplification={"output": 2.0}),
        "amplification of hidden layer: got 'output'",
    ),
    "no energy": (lambda: graph("ground", TRIANGLE, amplification=2.0), "such a circuit has no energy"),
    "share": (lambda: ResistiveNetwork.mlp(5, 3).nudge_siemens(-0.1), "share: got -0.1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_in_words(what: str) -> None:
    make, text = REFUSED[what]
    with pytest.raises(ConfigError, match=text):
        make()


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [False, True])
def test_it_learns_to_read_digits(fold: bool, device: torch.device) -> None:
    data = eqprop.load_dataset("digits").train.subset(600, seeded()).to(device)
    net = ResistiveNetwork.mlp(784, 64, 10, fold=fold, output_gain=50.0, generator=seeded()).to(device)
    rule = EquilibriumPropagation(beta=net.nudge_siemens(0.1), free=Sweeps(5), nudged=Sweeps(5))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-7)
    net.project_after(optimizer)
    first = eqprop.evaluate(net, data, rule)
    for epoch in range(6):
        for x, y in data.batches(20, generator=seeded(epoch)):
            optimizer.zero_grad()
            rule.backward(net, x, y)
            optimizer.step()
    last = eqprop.evaluate(net, data, rule)
    assert last.loss < first.loss
    assert last.accuracy > 0.8, f"got {last.accuracy:.2f}"
    assert eqprop.evaluate(net, data, ImplicitGradient(free=Stop(1e-9))).accuracy == last.accuracy
