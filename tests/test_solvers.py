"""Solvers: one fixed point, the right order of updates, convergence in the number of sweeps that theory gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import eqprop
from eqprop import (
    Alternating,
    Anderson,
    ConfigError,
    GradientFlow,
    HopfieldNetwork,
    Network,
    Status,
    Stop,
    Sweeps,
    Synchronous,
    Trajectory,
)
from eqprop._solvers import Problem, Step
from tests.helpers import (
    NETWORKS,
    SOLVERS,
    TIED,
    TIGHT,
    State,
    distance,
    inputs,
    linear_network,
    network,
    seeded,
    slope,
)

every_network = pytest.mark.parametrize("name", NETWORKS)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def settle(net: Network, x: Tensor, solver: Any, stop: Any, **options: Any) -> eqprop.Solution:
    return eqprop.relax(net, net.initial_state(len(x)), net.drive(x), solver=solver, stop=stop, **options)


def rotation(strength: float, sizes: tuple[int, int] = (6, 6)) -> HopfieldNetwork:
    """A linear pair of layers whose coupling has singular values from ``strength`` down to half of it."""
    q, _ = torch.linalg.qr(torch.randn(*sizes, generator=seeded(5), dtype=torch.float64))
    r, _ = torch.linalg.qr(torch.randn(*sizes, generator=seeded(6), dtype=torch.float64))
    values = torch.linspace(strength, strength / 2, sizes[0], dtype=torch.float64)
    return linear_network({"a>output": (q * values) @ r.T}, (6, *sizes))


@every_network
@every_solver
def test_every_solver_finds_the_fixed_point(name: str, solver: str, device: torch.device) -> None:
    net = network(name, device)
    x = inputs(net, 3, device)
    solution = settle(net, x, SOLVERS[solver], Stop(1e-12, 1000), throw=True)
    reference = settle(net, x, Alternating(), Stop(1e-15, 1000))
    assert float(eqprop.residual(net, solution.state, net.drive(x)).max()) < 1e-11
    if not name.endswith("conv-max"):  # has several: the first sweeps decide which unit of a window wins
        assert distance(solution.state, reference.state) < 1e-10


def test_alternating_takes_the_newest_values_block_by_block(device: torch.device) -> None:
    net = network("same-parity-skip", device)
    drive, state = net.drive(inputs(net, 3, device)), net.initial_state(3)
    expected = list(state)
    for block in net.blocks:
        z = net.inputs(tuple(expected), drive)
        for l in block:
            expected[l] = net.activations[l](z[l])
    got = eqprop.relax(net, state, drive, solver=Alternating(), stop=Sweeps(1)).state
    assert distance(got, tuple(expected)) < 1e-14


def test_alternating_in_reverse_takes_the_last_block_first(device: torch.device) -> None:
    net = network("same-parity-skip", device)
    drive, state = net.drive(inputs(net, 3, device)), net.initial_state(3)
    expected = list(state)
    for block in net.blocks[::-1]:
        z = net.inputs(tuple(expected), drive)
        for l in block:
            expected[l] = net.activations[l](z[l])
    got = eqprop.relax(net, state, drive, solver=Alternating(reverse=True), stop=Sweeps(1)).state
    forward = eqprop.relax(net, state, drive, solver=Alternating(), stop=Sweeps(1)).state
    assert distance(got, tuple(expected)) < 1e-14
    assert distance(got, forward) > 1e-3


def test_synchronous_takes_all_layers_from_the_same_old_state(device: torch.device) -> None:
    net = network("triangle", device)
    drive, state = net.drive(inputs(net, 3, device)), net.initial_state(3)
    for _ in range(3):
        z = net.inputs(state, drive)
        state = tuple(rho(v) for rho, v in zip(net.activations, z, strict=True))
    got = eqprop.relax(net, net.initial_state(3), drive, solver=Synchronous(), stop=Sweeps(3)).state
    assert distance(got, state) < 1e-14


def test_an_alternating_sweep_of_a_chain_is_worth_two_synchronous_ones(device: torch.device) -> None:
    """Contraction a sweep: sigma synchronously, sigma^2 alternately, sigma the largest singular value."""
    net = rotation(0.8).to(device)
    x = inputs(net, 3, device)
    rates = {s: settle(net, x, SOLVERS[s], Stop(1e-9, 300)).rate for s in ("synchronous", "alternating")}
    assert rates["synchronous"].tolist() == pytest.approx([0.8] * 3, rel=1e-3)
    assert rates["alternating"].tolist() == pytest.approx([0.64] * 3, rel=1e-3)


# -- gradient flow -----------------------------------------------------------------------------------------------------


def test_gradient_flow_converges_to_the_leaky_ode_with_order_one(device: torch.device) -> None:
    """``ds/dt = rho(input(s)) - s`` to t = 1, against an adaptive integrator."""
    net = network("directed-40", device)
    x = inputs(net, 1, device)
    drive, sizes = net.drive(x), [s[0] for s in net.shapes]

    def field(_: float, flat: np.ndarray) -> np.ndarray:
        state = tuple(torch.from_numpy(flat).to(device)[None].split(sizes, 1))
        with torch.no_grad():
            z = net.inputs(state, drive)
        images = [rho(v) - s for rho, v, s in zip(net.activations, z, state, strict=True)]
        return torch.cat(images, 1)[0].cpu().numpy()

    exact = solve_ivp(field, (0.0, 1.0), np.zeros(sum(sizes)), rtol=1e-11, atol=1e-13).y[:, -1]
    steps = [8, 16, 32, 64]
    errors = []
    for n in steps:
        state = settle(net, x, GradientFlow(1 / n), Sweeps(n)).state
        errors.append(float(np.abs(torch.cat(state, 1)[0].cpu().numpy() - exact).max()))
    assert errors[-1] < 5e-3
    assert slope([1 / n for n in steps], errors) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["chain-hard_sigmoid", "triangle", "user-energy"])
def test_gradient_flow_with_unit_step_is_a_synchronous_sweep(name: str, device: torch.device) -> None:
    net = network(name, device)
    x = inputs(net, 3, device)
    assert (
        distance(settle(net, x, GradientFlow(1.0), Sweeps(7)).state, settle(net, x, Synchronous(), Sweeps(7)).state)
        < 1e-14
    )


@pytest.mark.parametrize("name", [n for n in TIED if n != "chain-dsilu"])
def test_gradient_flow_lowers_the_energy(name: str, device: torch.device) -> None:
    """``dE/dt = (rho^-1(s) - z) (rho(z) - s) <= 0`` for monotone ``rho``; with a small step also in discrete time."""
    net = network(name, device)
    x = inputs(net, 3, device)
    state = tuple(torch.full_like(s, 0.3) for s in net.initial_state(3))
    seen = Trajectory(net, net.drive(x), start=state)
    eqprop.relax(net, state, net.drive(x), solver=GradientFlow(0.05), stop=Sweeps(60), observer=seen)
    assert float(seen.energy().diff(dim=0).max()) < 0.0


# -- Anderson ----------------------------------------------------------------------------------------------------------


def test_anderson_with_a_window_of_one_is_the_plain_sweep(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 3, device)
    mixed, plain = (settle(net, x, s, Sweeps(8)).state for s in (Anderson(window=1), Alternating()))
    assert distance(mixed, plain) < 1e-14


@pytest.mark.parametrize("sweep", [Alternating(), Synchronous()])
def test_anderson_solves_a_slow_linear_problem_in_a_fraction_of_the_sweeps(
    sweep: Alternating | Synchronous, device: torch.device
) -> None:
    net = rotation(0.98).to(device)
    x = inputs(net, 4, device)
    stop = Stop(1e-8, 3000, block=1)
    plain, mixed = settle(net, x, sweep, stop, throw=True), settle(net, x, Anderson(sweep=sweep), stop, throw=True)
    assert distance(plain.state, mixed.state) < 1e-6
    assert float(plain.sweeps.min()) > 300
    assert float((mixed.sweeps / plain.sweeps).max()) < 0.2


def test_anderson_with_a_full_window_solves_n_linear_equations_in_n_plus_two_sweeps(device: torch.device) -> None:
    """On a linear problem mixing is equivalent to GMRES (Walker & Ni 2011, Theorem 2.2)."""
    net = rotation(0.9, (3, 3)).to(device)
    with torch.no_grad():  # no reciprocal symmetry in the spectrum to help
        net.connection("a-output").weight.add_(0.05)
    x = torch.rand(4, 6, generator=seeded(8), dtype=torch.float64).to(device)
    solver = Anderson(window=10, sweep=Synchronous(), regularisation=1e-15)
    assert float(settle(net, x, solver, Sweeps(9)).residual.max()) < 1e-9
    assert float(settle(net, x, Synchronous(), Sweeps(9)).residual.max()) > 1e-3


def strong(seed: int, activation: str, gain: float, device: torch.device) -> Network:
    """A tied chain with coupling far beyond contraction: plain alternating sweeps still converge, by the energy."""
    return HopfieldNetwork.mlp(
        *(5, 7, 6, 3),
        activation=activation,
        output_activation=activation,
        gain=gain,
        generator=seeded(seed),
        dtype=torch.float64,
    ).to(device)


@dataclass(frozen=True)
class Unsafeguarded(Anderson):
    """Mixing without its safeguard: never back to plain sweeps."""

    patience: float = math.inf

    def step(self, problem: Problem, state: State, memory: Any) -> Step:
        step = super().step(problem, state, memory)
        return step._replace(memory=step.memory._replace(age=torch.zeros_like(step.memory.age)))


HARD = [("relu6", 1.0), ("hard_sigmoid", 1.0), ("sigmoid", 1.5), ("tanh", 0.6)]


@pytest.mark.parametrize(("activation", "gain"), HARD)
@pytest.mark.parametrize("window", [5, 10])
def test_anderson_converges_wherever_plain_sweeps_do(
    activation: str, gain: float, window: int, device: torch.device
) -> None:
    for seed in range(5):
        net = strong(seed, activation, gain, device)
        x, stop = inputs(net, 8, device), Stop(1e-8, 3000, 5)
        assert bool(settle(net, x, Alternating(), stop).converged.all())
        settle(net, x, Anderson(window=window), stop, throw=True)


def test_without_its_safeguard_mixing_fails_there(device: torch.device) -> None:
    failed = 0
    for seed in range(5):
        net = strong(seed, "relu6", 1.0, device)
        solution = settle(net, inputs(net, 8, device), Unsafeguarded(), Stop(1e-8, 1000, 5))
        failed += int((~solution.converged).sum())
    assert failed > 3


def path(net: Network, x: Tensor, solver: Any, stop: Any) -> tuple[list[State], eqprop.Solution]:
    """All states of a relaxation, the start first, and its solution."""
    states = [net.initial_state(len(x))]
    solution = settle(net, x, solver, stop, observer=lambda _, s: states.append(tuple(v.clone() for v in s)))
    return states, solution


def swept(net: Network, x: Tensor, state: State) -> State:
    return eqprop.relax(net, state, net.drive(x), stop=Sweeps(1)).state


def test_anderson_goes_back_to_its_best_iterate_where_the_residual_has_grown_by_patience(device: torch.device) -> None:
    seen = 0
    for seed in range(5):
        net = strong(seed, "relu6", 1.0, device)
        for x in inputs(net, 8, device).split(1):
            states, _ = path(net, x, Anderson(patience=2.0), Sweeps(12))
            sizes = [distance(swept(net, x, s), s) for s in states]
            # the first such iterate, before the other safeguard (no progress in 10 steps) may have acted
            grown = [k for k in range(1, 9) if sizes[k] > 2.0 * min(sizes[:k])]
            if grown:
                best = min(range(grown[0]), key=sizes.__getitem__)
                assert distance(states[grown[0] + 1], swept(net, x, states[best])) < 1e-12
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("name", ["one-layer", "chain-tanh", "chain-hard_sigmoid", "loop"])
@pytest.mark.parametrize("bias", [0.0, 9.0], ids=["as drawn", "saturated"])
def test_anderson_at_rest_stays_at_rest(name: str, bias: float, device: torch.device) -> None:
    """Saturated units have residuals of exactly zero: there is nothing to mix by."""
    net = network(name, device)
    with torch.no_grad():
        for key, p in net.named_parameters():
            p.add_(bias if "biases" in key else 0.0)
    x = inputs(net, 3, device)
    rest = settle(net, x, Alternating(), TIGHT, throw=True).state
    moved: list[float] = []
    options: dict[str, Any] = {"solver": Anderson(), "stop": Sweeps(9)}
    eqprop.relax(net, rest, net.drive(x), observer=lambda _, s: moved.append(distance(rest, s)), **options)
    assert len(moved) == 9 and max(moved) < 1e-12


def test_anderson_returns_the_plain_image_of_the_state_whose_residual_it_reports(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 1, device)
    states, solution = path(net, x, Anderson(), Stop(1e-6, 100, block=1))
    image = swept(net, x, states[-2])
    assert distance(solution.state, image) == 0.0 and distance(states[-1], image) > 0.0
    assert float(solution.residual) == distance(image, states[-2])


@pytest.mark.parametrize("sweep", [Alternating(), Synchronous()])
@pytest.mark.parametrize("block", [1, 5])
def test_what_anderson_calls_converged_is_within_twice_the_tolerance(
    sweep: Alternating | Synchronous, block: int, device: torch.device
) -> None:
    tol = 1e-4
    seen = 0
    for seed in range(10):
        net = strong(seed, "tanh", 0.7, device)
        x = inputs(net, 8, device)
        solution = settle(net, x, Anderson(sweep=sweep), Stop(tol, 300, block))
        again = eqprop.relax(net, solution.state, net.drive(x), solver=sweep, stop=Sweeps(1)).residual
        seen += int(solution.converged.sum())
        assert float(again[solution.converged].max()) <= 2 * tol
    assert seen > 40


def test_anderson_keeps_states_in_the_range_of_the_activations(device: torch.device) -> None:
    net = strong(0, "relu6", 1.0, device)
    lowest, highest = [], []

    def watch(_: int, state: State) -> None:
        lowest.append(min(float(s.min()) for s in state))
        highest.append(max(float(s.max()) for s in state))

    settle(net, inputs(net, 8, device), Anderson(), Sweeps(60), observer=watch)
    assert min(lowest) >= 0.0 and max(highest) <= 6.0


def test_anderson_recovers_from_an_iterate_that_is_not_finite(device: torch.device) -> None:
    """A field that overflows once: the bad iterate leaves no trace in the history."""
    net = network("chain-tanh", device)
    x = inputs(net, 4, device)

    @dataclass(frozen=True)
    class Glitch(Alternating):
        calls: tuple[list[int], ...] = ([],)

        def step(self, problem: Problem, state: State, memory: Any) -> Step:
            step = super().step(problem, state, memory)
            self.calls[0].append(1)
            if len(self.calls[0]) == 4:
                broken = tuple(s.index_fill(0, torch.tensor([1], device=s.device), math.nan) for s in step.state)
                return Step(broken, broken, None)
            return step

    solution = settle(net, x, Anderson(sweep=Glitch(calls=([],))), Stop(1e-10, 200, block=50), throw=True)
    assert distance(solution.state, settle(net, x, Alternating(), Stop(1e-14, 500)).state) < 1e-8


def test_anderson_treats_samples_one_by_one(device: torch.device) -> None:
    net = strong(0, "hard_sigmoid", 1.0, device)
    x = inputs(net, 8, device)
    whole = settle(net, x, Anderson(), Sweeps(25)).state
    for i in (0, 5):
        assert (
            distance(tuple(s[i : i + 1] for s in whole), settle(net, x[i : i + 1], Anderson(), Sweeps(25)).state) < 1e-9
        )


def test_a_sample_that_anderson_passes_twice_is_not_called_oscillating(device: torch.device) -> None:
    """A fall-back returns to an earlier state; plain sweeps would repeat themselves from there, mixing does not."""
    for seed in range(10):
        net = strong(seed, "relu6", 1.5, device)
        solution = settle(net, inputs(net, 8, device), Anderson(), Stop(1e-8, 400, 1))
        assert not bool((solution.status == Status.OSCILLATING).any())


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(window: int) -> None:
    with pytest.raises(ConfigError, match=f"got window={window}, needed at least 1"):
        Anderson(window=window)


@pytest.mark.parametrize("dt", [0.0, -0.1, 1.1, math.nan])
def test_a_step_out_of_range_is_refused(dt: float) -> None:
    with pytest.raises(ConfigError, match=r"needed 0 < dt <= 1; write GradientFlow\(dt=0.5\)"):
        GradientFlow(dt)
