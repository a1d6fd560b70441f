"""Langevin dynamics: equipartition, the covariance of linear networks, averages over a window, bounds, chips."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

import eqprop
from eqprop import (
    ConfigError,
    DirectedNetwork,
    EquilibriumPropagation,
    GradientFlow,
    HopfieldNetwork,
    Langevin,
    Network,
    Stop,
    Sweeps,
)
from eqprop._share import Share, sharing
from hardware import Substrate, ThermalNoise
from tests.helpers import inputs, jacobian, labels, network, no_host_sync, seeded
from tests.test_device import problem, valueless

T = 0.01


def still(net: Network) -> Network:
    """Without any parameter: every node alone."""
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    return net


def linear(kind: str) -> Network:
    cls: Any = HopfieldNetwork if kind == "tied" else DirectedNetwork
    options = {} if kind == "tied" else {"feedback_angle": None}
    made = cls.mlp(2, 3, 2, activation="linear", gain=0.7, generator=seeded(3), dtype=torch.float64, **options)
    assert isinstance(made, Network)
    return made


def walked(net: Network, solver: Langevin, sweeps: int, samples: int = 20000) -> Tensor:
    """Final states, ``[samples, units]``."""
    like = next(net.parameters())
    x = torch.zeros(samples, *net.input_shape, dtype=like.dtype)
    found = eqprop.relax(net, net.initial_state(samples), net.drive(x), solver=solver, stop=Sweeps(sweeps))
    return torch.cat([s.flatten(1) for s in found.state], 1)


def map_of(net: Network) -> np.ndarray[Any, Any]:
    """``W`` of a linear network, ``s <- W s``, ``[units, units]``."""
    x = torch.zeros(1, *net.input_shape, dtype=torch.float64)
    return jacobian(net, net.initial_state(1), x).numpy()


def errors(found: Tensor, expected: np.ndarray[Any, Any]) -> Tensor:
    """Deviations of a sample covariance, each in its own standard errors."""
    sigma = torch.from_numpy(expected)
    diagonal = sigma.diagonal()
    error = ((diagonal[:, None] * diagonal + sigma**2) / len(found)).sqrt()
    return (torch.cov(found.T) - sigma) / error


# -- physics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.05, 0.2, 1.0])
def test_a_node_alone_has_the_variance_of_its_step_and_kt_over_c_as_steps_shrink(dt: float) -> None:
    net = still(HopfieldNetwork.mlp(1, 200, output_activation="linear", dtype=torch.float64))
    found = walked(net, Langevin(dt, T), math.ceil(8 / dt), 500)
    error = math.sqrt(2 / found.numel())
    assert float(found.var()) / (T / (1 - dt / 2)) == pytest.approx(1.0, abs=4 * error)
    assert abs(float(found.mean())) < 4 * math.sqrt(T / found.numel()) / (1 - dt / 2)
    if dt == 0.05:
        assert float(found.var()) / T == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", ["tied", "directed"])
@pytest.mark.parametrize("dt", [0.1, 0.5])
def test_a_linear_network_has_the_covariance_of_its_lyapunov_equation(kind: str, dt: float) -> None:
    net = linear(kind)
    m = np.eye(5) - map_of(net)
    assert (abs(m - m.T).max() > 0.1) == (kind == "directed")
    step = np.eye(5) - dt * m
    assert max(abs(linalg.eigvals(step))) < 1
    expected = linalg.solve_discrete_lyapunov(step, 2 * T * dt * np.eye(5))
    found = errors(walked(net, Langevin(dt, T), math.ceil(20 / dt)), expected)
    assert float(found.abs().max()) < 4.5


def test_without_energy_the_covariance_is_not_the_inverse_of_the_dynamics() -> None:
    """``T (I - W)^-1`` is that of tied weights alone; the walk of others is many standard errors away from it."""
    for kind in ("tied", "directed"):
        m, dt = np.eye(5) - map_of(linear(kind)), 0.1
        limit = linalg.solve_continuous_lyapunov(m, 2 * T * np.eye(5))
        assert np.allclose(limit, T * linalg.inv(m), rtol=1e-9) == (kind == "tied")
        # the same with the first order of the step
        inverse = T * linalg.inv(m - 0.5 * dt * m @ m)
        far = errors(walked(linear(kind), Langevin(dt, T), 200), 0.5 * (inverse + inverse.T)).abs().max()
        assert (float(far) < 4.5) == (kind == "tied") and (float(far) > 12) == (kind == "directed")


def test_the_bias_of_a_finite_step_is_of_its_first_order() -> None:
    m = np.eye(5) - map_of(linear("directed"))
    limit = linalg.solve_continuous_lyapunov(m, 2 * T * np.eye(5))
    biases = []
    for dt in (0.1, 0.05, 0.025):
        made = linalg.solve_discrete_lyapunov(np.eye(5) - dt * m, 2 * T * dt * np.eye(5))
        biases.append(linalg.norm(made - limit))
    assert biases[0] / biases[1] == pytest.approx(2.0, rel=0.1) and biases[1] / biases[2] == pytest.approx(2.0, rel=0.1)
    found = [walked(linear("directed"), Langevin(dt, T), math.ceil(20 / dt)) for dt in (0.8, 0.1)]
    coarse, fine = (float(torch.cov(v.T).trace()) - float(np.trace(limit)) for v in found)
    assert coarse > 4 * abs(fine)


@pytest.mark.parametrize("window", [1, 5, 40])
def test_the_mean_of_correlated_sweeps_has_the_predicted_variance(window: int) -> None:
    dt, net = 0.2, linear("tied")
    step = np.eye(5) - dt * (np.eye(5) - map_of(net))
    one = linalg.solve_discrete_lyapunov(step, 2 * T * dt * np.eye(5))
    lags = [np.linalg.matrix_power(step, k) @ one for k in range(window)]
    expected = window * one + sum((window - k) * (lags[k] + lags[k].T) for k in range(1, window))
    found = walked(net, Langevin(dt, T, window), 100 + window)
    assert float(errors(found, expected / window**2).abs().max()) < 4.5
    if window == 40:
        assert float(found.var(0).max()) < 0.5 * one.diagonal().max()


def test_a_node_between_diodes_is_distributed_as_boltzmann_has_it() -> None:
    """A box activation far beyond its bound sticks to it with ``exp(-(z - 1)(1 - s) / T)``, not with its own spread."""
    net: Any = still(HopfieldNetwork.mlp(1, 3, output_activation="hard_sigmoid", dtype=torch.float64))
    z = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    with torch.no_grad():
        net.biases["output"].copy_(z)
    found = walked(net, Langevin(0.002, T), 2500, 3000)
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
    weight = torch.exp(-((grid - z) ** 2) / (2 * T))
    mean = (grid * weight).sum(0) / weight.sum(0)
    std = (((grid - mean) ** 2 * weight).sum(0) / weight.sum(0)).sqrt()
    # projecting costs sqrt(T dt) at a bound
    assert float(((found.mean(0) - mean).abs() / std).max()) < 0.3
    assert float(found[:, 2].std()) < 0.3 * math.sqrt(T)


def test_a_nudged_output_is_distributed_by_the_total_energy() -> None:
    """``exp(-(E + beta C) / T)``: for a squared error ``T / (1 + beta)`` around the nudged equilibrium."""
    net = still(HopfieldNetwork.mlp(1, 50, output_activation="linear", dtype=torch.float64))
    target, beta = torch.full((2000, 50), 0.4, dtype=torch.float64), 1.0
    nudge = eqprop.CostNudge(net, eqprop.SquaredError(), target, torch.full((2000, 1), beta, dtype=torch.float64))
    drive = net.drive(torch.zeros(2000, 1, dtype=torch.float64))
    found = eqprop.relax(net, net.initial_state(2000), drive, nudge, solver=Langevin(0.05, T), stop=Sweeps(150))
    expected = T / (1 + beta) / (1 - 0.05 * (1 + beta) / 2)
    assert float(found.state[0].var()) / expected == pytest.approx(1.0, abs=4 * math.sqrt(2 / 1e5))
    assert float(found.state[0].mean()) == pytest.approx(beta * 0.4 / (1 + beta), abs=1e-3)


@pytest.mark.parametrize("name", ["chain-linear", "chain-tanh", "directed-40", "conv-soft"])
def test_at_zero_temperature_it_is_the_flow(name: str) -> None:
    net = network(name)
    drive, start = net.drive(inputs(net)), net.initial_state(6)
    a, b = (eqprop.relax(net, start, drive, solver=s, stop=Sweeps(37)) for s in (Langevin(0.3, 0.0), GradientFlow(0.3)))
    for p, q in zip(a.state, b.state, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.residual, b.residual, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_the_better_the_longer_its_states_are_averaged() -> None:
    net = network("chain-linear")
    x, y = inputs(net), labels()
    exact = eqprop.ImplicitGradient(free=Stop(1e-12, 2000))
    errors = [0.0, 0.0, 0.0]
    for n, window in enumerate((1, 10, 100)):
        for seed in range(4):
            walk = Langevin(0.3, 1e-4, window=window, seed=seed)
            rule = EquilibriumPropagation(beta=0.05, solver=walk, free=Sweeps(160), nudged=Sweeps(160))
            errors[n] += eqprop.compare_gradients(net, rule, exact, x, y)["all"].relative_error / 4
    # window 10 is about one correlation time of the slowest mode
    assert errors[0] > 0.05 and errors[2] < 0.6 * errors[0] and errors[2] < 0.8 * errors[1]


# -- the window, the residual, the stop --------------------------------------------------------------------------------


def test_the_window_is_the_mean_of_what_an_observer_sees() -> None:
    net = network("chain-tanh")
    drive = net.drive(inputs(net))
    seen: list[Tensor] = []
    whole = Langevin(0.2, 1e-3, window=1)
    eqprop.relax(
        net, net.initial_state(6), drive, solver=whole, stop=Sweeps(20), observer=lambda _, s: seen.append(s[0])
    )
    mean = eqprop.relax(net, net.initial_state(6), drive, solver=Langevin(0.2, 1e-3, window=8), stop=Sweeps(20))
    torch.testing.assert_close(mean.state[0], torch.stack(seen[12:]).mean(0))


def test_the_residual_of_an_average_falls_with_the_window() -> None:
    net = still(HopfieldNetwork.mlp(1, 20, output_activation="linear", dtype=torch.float64))
    drive = net.drive(torch.zeros(500, 1, dtype=torch.float64))
    residuals = [
        float(
            eqprop.relax(net, net.initial_state(500), drive, solver=Langevin(0.2, T, w), stop=Sweeps(1050))
            .residual.square()
            .mean()
            .sqrt()
        )
        for w in (1, 1000)
    ]
    assert residuals[1] < 0.2 * residuals[0]


def test_a_clamped_output_has_no_noise() -> None:
    net = network("chain-hard_sigmoid")
    rule = eqprop.ContrastiveHebbian(solver=Langevin(0.2, 1e-4), free=Sweeps(30), nudged=Sweeps(30))
    step = rule.backward(net, inputs(net), labels())
    expected = torch.nn.functional.one_hot(labels(), 3).double()
    assert torch.equal(step.nudged[0].state[-1], expected)
    assert float((step.nudged[0].state[0] - step.nudged[0].state[0].round()).abs().max()) > 0


def test_complex_nudges_walk_in_both_parts() -> None:
    net = network("chain-tanh")
    rule = EquilibriumPropagation(
        beta=0.4, contour="cauchy", points=3, solver=Langevin(0.3, 1e-6), free=Sweeps(40), nudged=Sweeps(40)
    )
    found = eqprop.gradients(net, rule, inputs(net), labels())
    assert all(torch.isfinite(g).all() for g in found.values())


# -- random numbers ----------------------------------------------------------------------------------------------------


def test_every_relaxation_and_sample_has_noise_of_its_own_and_a_seed_repeats_it() -> None:
    net = still(HopfieldNetwork.mlp(1, 400, output_activation="linear", dtype=torch.float64))
    walk, again = Langevin(1.0, 1.0, seed=5), Langevin(1.0, 1.0, seed=5)
    first, second = (walked(net, walk, 1, 4) for _ in range(2))
    assert torch.equal(walked(net, again, 1, 4), first)
    assert not torch.equal(walked(net, Langevin(1.0, 1.0, seed=6), 1, 4), first)
    rows = torch.cat([first, second])
    correlation = torch.corrcoef(rows) - torch.eye(8)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(400)


def test_a_rule_goes_on_with_its_noise_from_a_checkpoint() -> None:
    net = network("chain-tanh")
    x, y = inputs(net), labels()

    def make() -> EquilibriumPropagation:
        return EquilibriumPropagation(solver=Langevin(0.3, 1e-3), free=Sweeps(9), nudged=Sweeps(9))

    rule, other = make(), make()
    first = eqprop.gradients(net, rule, x, y)
    rule.backward(net, x, y)  # a step, after which the noise has moved on
    saved = rule.state_dict()
    expected = eqprop.gradients(net, rule, x, y)
    other.load_state_dict(saved)
    found = eqprop.gradients(net, other, x, y)
    assert all(torch.equal(found[n], expected[n]) and not torch.equal(first[n], expected[n]) for n in found)


def test_processes_that_share_a_batch_draw_the_noise_of_one() -> None:
    net = network("chain-tanh")
    x = inputs(net)

    def states(rows: slice, share: Share | None) -> Tensor:
        part = x[rows]
        run: Any = lambda: eqprop.relax(  # noqa: E731
            net, net.initial_state(len(part)), net.drive(part), solver=Langevin(0.3, 1e-3), stop=Sweeps(9)
        )
        if share is None:
            return run().state[0]
        with sharing(share):
            return run().state[0]

    apart = torch.cat([states(slice(0, 2), Share(0, 2, 6)), states(slice(2, 6), Share(2, 6, 6))])
    torch.testing.assert_close(apart, states(slice(0, 6), None), rtol=1e-12, atol=1e-12)


def test_no_step_waits_for_the_device() -> None:
    net = network("chain-hard_sigmoid")
    drive = net.drive(inputs(net))
    with no_host_sync():
        eqprop.relax(net, net.initial_state(6), drive, solver=Langevin(0.3, 1e-3, window=3), stop=Sweeps(9))


@pytest.mark.parametrize("accelerator", ["cuda", "meta"])
def test_it_runs_where_tensors_have_no_values(accelerator: str) -> None:
    """Nothing mixes devices, reads a value or waits."""
    with valueless(accelerator):
        net, x, _ = problem("chain-hard_sigmoid", accelerator)
        walk = Langevin(0.3, 1e-3, window=3)
        found = eqprop.relax(net, net.initial_state(4), net.drive(x), solver=walk, stop=Sweeps(9))
        assert all(s.device.type == accelerator for s in found.state)


# -- chips -------------------------------------------------------------------------------------------------------------


def test_a_chip_gives_temperature_and_noise() -> None:
    """``<v^2> = kT/C`` of its capacitance and temperature, at the time step that was asked for."""
    net = still(HopfieldNetwork.mlp(3, 200, output_activation="linear", dtype=torch.float64))
    thermal = ThermalNoise(1e-13, volts_per_unit=0.2, conductance_siemens=1e-6)
    chip: Any = Substrate(thermal=thermal, temperature_kelvin=350.0).fabricate(net)
    walk = thermal.langevin(1e-8)
    assert walk == Langevin(dt=0.1) and thermal.time_constant_seconds == pytest.approx(1e-7)
    assert thermal.langevin(1e-8, 5e-7).window == 50
    rule = EquilibriumPropagation(solver=walk, free=Sweeps(80), nudged=Sweeps(80))
    found = rule.equilibria(chip, torch.zeros(200, 3).double(), torch.zeros(200, 200).double())
    expected = 1.380649e-23 * 350.0 / 1e-13 / 0.04
    assert float(found.rest[0].var()) / (expected / 0.95) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 40000))
    other = found.phases[0].points[0]
    assert abs(float((found.rest[0] * other).mean())) < 0.05 * expected  # the last state decayed away
    assert chip.streams.drawn["thermal"] == 0 and chip.streams.drawn["langevin"] == 3 * 80


def test_a_chip_under_langevin_adds_no_noise_of_sweeps_but_does_again_afterwards() -> None:
    net = network("chain-tanh")
    chip: Any = Substrate(thermal=ThermalNoise(std=1e-3)).fabricate(net)
    x, y = inputs(net), labels()
    EquilibriumPropagation(solver=Langevin(0.2), free=Sweeps(9), nudged=Sweeps(9)).backward(chip, x, y)
    assert chip.streams.drawn["thermal"] == 0
    EquilibriumPropagation(free=Sweeps(9), nudged=Sweeps(9)).backward(chip, x, y)
    assert chip.streams.drawn["thermal"] > 0


def test_noise_of_a_chip_does_not_depend_on_the_batch_and_is_that_of_its_seed() -> None:
    net = network("chain-tanh")
    x = inputs(net)

    def states(seed: int, *rows: slice) -> Tensor:
        chip: Any = Substrate(thermal=ThermalNoise(std=1e-2)).fabricate(net, seed=seed)
        options: Any = {"solver": Langevin(0.2, window=4), "stop": Sweeps(30)}
        return torch.cat([chip.predict(x[r], **options) for r in rows])

    whole = states(1, slice(0, 6))
    torch.testing.assert_close(states(1, slice(0, 2), slice(2, 6)), whole, rtol=1e-10, atol=1e-12)
    assert float((states(2, slice(0, 6)) - whole).abs().max()) > 1e-4


@pytest.mark.parametrize(("contour", "points"), [("centred", 2), ("cauchy", 3)])
def test_rules_with_corrections_and_complex_nudges_walk_on_a_chip(contour: str, points: int) -> None:
    net = network("directed-40")
    chip: Any = Substrate(thermal=ThermalNoise(std=1e-4)).fabricate(net)
    rule = EquilibriumPropagation(
        beta=0.3, contour=contour, points=points, readout="tangent", correction="asymep",
        solver=Langevin(0.3), free=Sweeps(40), nudged=Sweeps(40),
    )  # fmt: skip
    found = eqprop.gradients(chip, rule, inputs(net), labels())
    assert all(torch.isfinite(g).all() for g in found.values()) and chip.streams.drawn["thermal"] == 0


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    net = network("chain-tanh")
    chip: Any = Substrate(thermal=ThermalNoise(std=1e-3)).fabricate(net)
    averaging: Any = Substrate(thermal=ThermalNoise(std=1e-3, window_sweeps=4)).fabricate(net)

    def go(where: Network, walk: Langevin, stop: Any = Sweeps(5)) -> None:  # noqa: B008
        eqprop.relax(where, where.initial_state(6), where.drive(inputs(net)), solver=walk, stop=stop)

    cases: list[tuple[Any, str]] = [
        (lambda: Langevin(0.0), "dt=0.0"),
        (lambda: Langevin(1.5), "dt=1.5"),
        (lambda: Langevin(0.1, -1.0), "temperature=-1.0"),
        (lambda: Langevin(0.1, 1.0, 0), "window=0"),
        (lambda: go(net, Langevin(0.1)), "without a temperature"),
        (lambda: go(net, Langevin(0.1, 1e-3), Stop()), "no state reaches a tolerance"),
        (lambda: go(net, Langevin(0.1, 1e-3, 6)), "5 sweeps for a window of 6"),
        (lambda: go(chip, Langevin(0.1, 1e-3)), "of its own, needed one of them"),
        (lambda: go(averaging, Langevin(0.1)), "window_sweeps=4"),
        (lambda: ThermalNoise(1e-12).langevin(1e-8), "conductance_siemens"),
        (lambda: ThermalNoise(1e-12, conductance_siemens=0.0), "conductance_siemens: got 0.0"),
        (lambda: ThermalNoise(1e-12, conductance_siemens=1e-6).langevin(1e-5), "needed at most one time constant"),
    ]
    for make, text in cases:
        with pytest.raises(ConfigError, match=text):
            make()
