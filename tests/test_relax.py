"""The relaxation loop: stopping, statuses, freezing, batch independence, observers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import (
    Alternating,
    ConfigError,
    ConvergenceError,
    Drive,
    GradientFlow,
    HopfieldNetwork,
    Network,
    Solution,
    Status,
    Stop,
    Sweeps,
    Synchronous,
    Trajectory,
)
from tests.helpers import (
    NETWORKS,
    SOLVERS,
    TIGHT,
    State,
    distance,
    inputs,
    jacobian,
    linear_network,
    network,
    random_state,
    same,
    seeded,
)

every_network = pytest.mark.parametrize("name", NETWORKS)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def settle(net: Network, x: Tensor, stop: Any, solver: Any = None, **options: Any) -> Solution:
    return eqprop.relax(net, net.initial_state(len(x)), net.drive(x), solver=solver, stop=stop, **options)


def pair(coupling: float, device: torch.device, activation: str = "linear") -> HopfieldNetwork:
    """One unit against one unit: ``a = rho(x + c b)``, ``b = rho(c a)``."""
    net = HopfieldNetwork.mlp(1, 1, 1, activation=activation, output_activation=activation, dtype=torch.float64)
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(1.0)
        net.connection("hidden1-output").weight.fill_(coupling)
    return net.to(device)


def mixed_difficulty(device: torch.device) -> tuple[Network, Tensor]:
    """A network whose samples need different numbers of sweeps: saturated units settle at once."""
    net = network("chain-sigmoid", device)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.7)
    x = inputs(net, 8, device)
    x[:4] *= torch.tensor([0.0, 5.0, 20.0, 80.0], dtype=torch.float64, device=device)[:, None]
    return net, x


# -- exactly n sweeps --------------------------------------------------------------------------------------------------


@every_solver
def test_sweeps_makes_exactly_n_steps(solver: str, device: torch.device) -> None:
    net = network("triangle", device)
    x = inputs(net, 3, device)
    seen: list[int] = []
    solution = settle(net, x, Sweeps(7), SOLVERS[solver], observer=lambda k, s: seen.append(k))
    assert seen == list(range(1, 8))
    assert solution.sweeps.tolist() == [7, 7, 7] and solution.sweeps.dtype == torch.int32


def test_two_runs_of_sweeps_make_one_longer_run(device: torch.device) -> None:
    net = network("triangle", device)
    drive = net.drive(inputs(net, 3, device))
    first = eqprop.relax(net, net.initial_state(3), drive, stop=Sweeps(4)).state
    both = eqprop.relax(net, first, drive, stop=Sweeps(5)).state
    assert distance(both, eqprop.relax(net, net.initial_state(3), drive, stop=Sweeps(9)).state) == 0.0


def test_residual_of_sweeps_is_the_size_of_the_last_one(device: torch.device) -> None:
    net = network("triangle", device)
    x = inputs(net, 3, device)
    last, before = settle(net, x, Sweeps(6)), settle(net, x, Sweeps(5))
    change = torch.stack([(a - b).abs().amax(1) for a, b in zip(last.state, before.state, strict=True)]).amax(0)
    torch.testing.assert_close(last.residual, change, rtol=1e-12, atol=0.0)


def test_sweeps_calls_converged_what_is_within_its_tolerance(device: torch.device) -> None:
    net = network("triangle", device)
    x = inputs(net, 3, device)
    residual = float(settle(net, x, Sweeps(6)).residual[1])
    assert int(settle(net, x, Sweeps(6, tol=residual)).status[1]) == Status.CONVERGED
    assert int(settle(net, x, Sweeps(6, tol=0.99 * residual)).status[1]) == Status.MAX_SWEEPS


@every_network
@every_solver
def test_sweeps_do_not_depend_on_the_batch(name: str, solver: str, device: torch.device) -> None:
    """Permuted, a subset, and one sample alone; 1e-12 in float64 (products of other shapes round differently)."""
    net = network(name, device)
    x = inputs(net, 6, device)
    kind = SOLVERS[solver]
    # mixing amplifies rounding: near the solution its coefficients are those of noise
    bound = 1e-8 if solver.startswith("anderson") else 1e-12
    whole = settle(net, x, Sweeps(12), kind).state
    for index in ([3, 0, 5, 1, 4, 2], [4, 1], [2]):
        part = settle(net, x[index], Sweeps(12), kind).state
        assert distance(tuple(s[index] for s in whole), part) < bound


# -- to a tolerance ----------------------------------------------------------------------------------------------------


def test_stop_ends_at_the_first_block_that_is_within_the_tolerance(device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    solution = settle(net, x, Stop(1e-6, 200, block=3), throw=True)
    residuals = torch.stack([settle(net, x, Sweeps(n)).residual for n in range(1, 201)])
    ends = residuals[2::3] <= 1e-6  # after 3, 6, 9, ... sweeps
    first = 3 * (ends.to(torch.int8).argmax(0) + 1)
    assert solution.sweeps.tolist() == first.tolist()
    assert len(set(solution.sweeps.tolist())) > 2


def test_a_converged_sample_is_frozen(device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    solution = settle(net, x, Stop(1e-6, 200, block=3))
    for i, n in enumerate(solution.sweeps.tolist()):
        exactly = settle(net, x, Sweeps(n)).state
        assert distance(tuple(s[i] for s in solution.state), tuple(s[i] for s in exactly)) == 0.0


@every_solver
def test_stop_does_not_depend_on_the_batch(solver: str, device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    stop = Stop(1e-6, 200, block=3)
    whole = settle(net, x, stop, SOLVERS[solver])
    for index in ([7, 2, 0, 4, 1, 6, 3, 5], [5, 0, 2], [2]):
        part = settle(net, x[index], stop, SOLVERS[solver])
        assert part.sweeps.tolist() == whole.sweeps[index].tolist()
        assert part.status.tolist() == whole.status[index].tolist()
        assert distance(tuple(s[index] for s in whole.state), part.state) < 1e-8
        torch.testing.assert_close(part.residual, whole.residual[index], rtol=1e-3, atol=1e-12)


def test_the_number_of_sweeps_is_a_multiple_of_the_block_or_the_maximum(device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    solution = settle(net, x, Stop(1e-13, 20, block=6))
    assert set(solution.sweeps.tolist()) <= {6, 12, 18, 20} and 20 in solution.sweeps.tolist()


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_the_size_of_a_block_does_not_change_the_path(block: int, device: torch.device) -> None:
    net = network("chain-linear", device)
    x = inputs(net, 8, device)
    solution = settle(net, x, Stop(0.0, 25, block))
    assert solution.sweeps.tolist() == [25] * 8
    assert distance(solution.state, settle(net, x, Sweeps(25)).state) == 0.0


def test_a_tolerance_of_zero_is_met_where_the_sweep_changes_nothing(device: torch.device) -> None:
    net = network("one-layer", device)  # nothing feeds back: exact after one sweep
    solution = settle(net, inputs(net, 3, device), Stop(0.0, 50, block=5), throw=True)
    assert solution.residual.tolist() == [0.0] * 3 and solution.sweeps.tolist() == [5] * 3


def test_relaxing_twice_gives_the_same_bits(device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    assert same(settle(net, x, Stop(1e-6, 100)), settle(net, x, Stop(1e-6, 100)))


def test_arguments_are_not_changed(device: torch.device) -> None:
    net = network("triangle", device)
    state, drive = random_state(net), net.drive(inputs(net, 6, device))
    before = [t.detach().clone() for t in (*state, *drive.terms, drive.x)]
    eqprop.relax(net, state, drive, stop=Stop(1e-6, 50))
    assert all(torch.equal(a, b) for a, b in zip((*state, *drive.terms, drive.x), before, strict=True))


# -- statuses ----------------------------------------------------------------------------------------------------------


def test_converged_samples_say_so_and_have_a_small_residual(device: torch.device) -> None:
    net, x = mixed_difficulty(device)
    solution = settle(net, x, Stop(1e-7, 500))
    assert solution.status.tolist() == [Status.CONVERGED] * 8 and solution.status.dtype == torch.int8
    assert bool(solution.converged.all()) and float(solution.residual.max()) <= 1e-7


def test_too_few_sweeps_are_called_so(device: torch.device) -> None:
    net = pair(0.9, device)
    solution = settle(net, torch.ones(1, 1, device=device), Stop(1e-9, 13, block=5))
    assert solution.status.tolist() == [Status.MAX_SWEEPS] and solution.sweeps.tolist() == [13]


@pytest.mark.parametrize("block", [2, 3, 10])
def test_a_strongly_coupled_pair_oscillates_synchronously(block: int, device: torch.device) -> None:
    """Period 2: ``(1, 0) -> (0, 1) -> (1, 0)``."""
    net = pair(3.0, device, "sigmoid")
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(0.0)
        for b in net.biases.values():
            b.fill_(-1.0)
    x = torch.ones(1, 1, dtype=torch.float64, device=device)
    start = (
        torch.ones(1, 1, dtype=torch.float64, device=device),
        torch.zeros(1, 1, dtype=torch.float64, device=device),
    )
    solution = eqprop.relax(net, start, net.drive(x), solver=Synchronous(), stop=Stop(1e-6, 400, block))
    assert solution.status.tolist() == [Status.OSCILLATING]
    assert int(solution.sweeps) < 400
    assert float(solution.residual) > 0.5


def swinging(device: torch.device) -> tuple[HopfieldNetwork, State, Drive]:
    """The pair of the test above: network, start and drive."""
    net = pair(3.0, device, "sigmoid")
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(0.0)
        for b in net.biases.values():
            b.fill_(-1.0)
    one = torch.ones(1, 1, dtype=torch.float64, device=device)
    return net, (one, torch.zeros_like(one)), net.drive(one)


@pytest.mark.parametrize("stop", [Sweeps(15), Sweeps(16), Stop(1e-3, 15, block=15)], ids=str)
def test_period_2_is_seen_in_one_block(stop: Any, device: torch.device) -> None:
    net, start, drive = swinging(device)
    solution = eqprop.relax(net, start, drive, solver=Synchronous(), stop=stop)
    assert solution.status.tolist() == [Status.OSCILLATING] and float(solution.residual) > 0.5


def test_two_sweeps_are_too_few_to_see_period_2(device: torch.device) -> None:
    net, start, drive = swinging(device)
    solution = eqprop.relax(net, start, drive, solver=Synchronous(), stop=Sweeps(2))
    assert solution.status.tolist() == [Status.MAX_SWEEPS]


@pytest.mark.parametrize("coupling", [0.995, -0.995])
@pytest.mark.parametrize("stop", [Sweeps(9, tol=1e-2), Stop(1e-2, 60, block=20)], ids=str)
@pytest.mark.parametrize("solver", [Synchronous(), Alternating(), GradientFlow(1e-3)], ids=str)
def test_slow_convergence_is_no_oscillation(solver: Any, stop: Any, coupling: float, device: torch.device) -> None:
    """Eigenvalues of both signs near 1, the residual above tol, and what two sweeps change below it."""
    net = pair(coupling, device)
    x = torch.zeros(1, 1, dtype=torch.float64, device=device)
    start = tuple(torch.full((1, 1), v, dtype=torch.float64, device=device) for v in (0.3, -0.3))
    solution = eqprop.relax(net, start, net.drive(x), solver=solver, stop=stop)
    assert int(solution.status) in (Status.MAX_SWEEPS, Status.CONVERGED)


@pytest.mark.parametrize("stop", [Sweeps(15), Stop(1e-3, 15, block=15)], ids=str)
@pytest.mark.parametrize("solver", ["alternating", "synchronous"])
def test_divergence_is_seen_in_one_block(solver: str, stop: Any, device: torch.device) -> None:
    net = pair(3.0, device)
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64, device=device)
    solution = settle(net, x, stop, SOLVERS[solver])
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]


@pytest.mark.parametrize("solver", [Alternating(), GradientFlow(0.25)])
def test_the_remedies_for_oscillation_work(solver: Any, device: torch.device) -> None:
    net = pair(3.0, device, "sigmoid")
    with torch.no_grad():
        net.connection("input-hidden1").weight.fill_(0.0)
        for b in net.biases.values():
            b.fill_(-1.0)
    x = torch.ones(1, 1, dtype=torch.float64, device=device)
    start = (
        torch.ones(1, 1, dtype=torch.float64, device=device),
        torch.zeros(1, 1, dtype=torch.float64, device=device),
    )
    eqprop.relax(net, start, net.drive(x), solver=solver, stop=Stop(1e-6, 400), throw=True)


@pytest.mark.parametrize("solver", ["alternating", "synchronous", "gradient-flow"])
def test_large_linear_weights_diverge(solver: str, device: torch.device) -> None:
    net = pair(3.0, device)
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64, device=device)
    solution = settle(net, x, Stop(1e-6, 400, block=5), SOLVERS[solver])
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]  # zero input stays at zero
    assert int(solution.sweeps[0]) < 100 and bool(torch.isfinite(solution.state[0]).all())


@pytest.mark.parametrize("stop", [Stop(1e-6, 60, block=5), Sweeps(20)], ids=["stop", "sweeps"])
@every_solver
def test_a_sample_of_nan_is_named_and_leaves_the_others_untouched(solver: str, stop: Any, device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 5, device)
    clean = net.drive(x)
    broken = tuple(t.clone() for t in clean.terms)
    broken[0][3] = math.nan
    good = eqprop.relax(net, net.initial_state(5), clean, solver=SOLVERS[solver], stop=stop)
    bad = eqprop.relax(net, net.initial_state(5), Drive(broken, clean.x), solver=SOLVERS[solver], stop=stop)
    others = [0, 1, 2, 4]
    assert int(bad.status[3]) == Status.NONFINITE
    assert bad.status[others].tolist() == good.status[others].tolist()
    assert bad.sweeps[others].tolist() == good.sweeps[others].tolist()
    assert distance(tuple(s[others] for s in bad.state), tuple(s[others] for s in good.state)) == 0.0


def test_a_sample_that_breaks_keeps_its_last_finite_state(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 3, device)
    drive = net.drive(x)
    terms = (drive.terms[0].clone(), *drive.terms[1:])
    terms[0][1] = math.inf  # tanh(inf) = 1, finite; the linear output overflows only with an infinite weight
    terms[0][2] = math.nan
    start = random_state(net, 3)
    solution = eqprop.relax(net, start, Drive(terms, drive.x), stop=Stop(1e-6, 60))
    assert solution.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.NONFINITE]
    assert distance(tuple(s[2] for s in solution.state), tuple(s[2] for s in start)) == 0.0


def test_overflow_is_caught(device: torch.device) -> None:
    net = pair(1e3, device)
    x = torch.ones(1, 1, dtype=torch.float64, device=device)
    assert settle(net, x, Stop(1e-6, 400, block=100)).status.tolist() == [Status.NONFINITE]


@pytest.mark.parametrize("stop", [Stop(1e-9, 13), Sweeps(13, tol=1e-9)], ids=["stop", "sweeps"])
def test_throw_names_the_samples_their_residual_and_the_remedy(stop: Any, device: torch.device) -> None:
    net = pair(0.9, device)
    x = torch.tensor([[0.0], [1.0], [0.0], [2.0]], dtype=torch.float64, device=device)
    residual = float(settle(net, x, stop).residual[1])
    with pytest.raises(ConvergenceError) as caught:
        settle(net, x, stop, throw=True)
    text = str(caught.value)
    assert "2 of 4 samples did not converge, batch indices [1, 3]" in text
    assert f"sample 1 has residual {residual:.3g} after 13 sweeps" in text and "allow more (max_sweeps)" in text


@pytest.mark.parametrize("status", [s for s in range(5) if s != Status.CONVERGED])
def test_every_failure_has_a_remedy(status: int) -> None:
    solution = Solution((), torch.ones(1), torch.tensor([3]), torch.tensor([status]), torch.tensor([0.5]))
    with pytest.raises(ConvergenceError, match=r": (use|allow)"):
        solution.raise_for_status()


# -- rates and errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coupling", [0.3, 0.7, 0.95])
def test_rate_is_the_spectral_radius_of_a_linear_network(coupling: float, device: torch.device) -> None:
    net = pair(coupling, device)
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, device=device)
    assert settle(net, x, Stop(1e-9, 800), Synchronous()).rate.tolist() == pytest.approx([coupling] * 2, rel=1e-3)
    assert settle(net, x, Stop(1e-9, 800), Alternating()).rate.tolist() == pytest.approx([coupling**2] * 2, rel=1e-3)


def test_rate_within_the_first_block_is_that_of_the_block(device: torch.device) -> None:
    net = pair(0.5, device)
    x = torch.tensor([[1.0]], dtype=torch.float64, device=device)
    solution = settle(net, x, Stop(1e-3, 800, block=20))
    assert solution.sweeps.tolist() == [20]
    assert solution.rate.tolist() == pytest.approx([0.25], rel=0.05)


@pytest.mark.parametrize("n", [2, 9])
def test_rate_under_sweeps_is_that_from_the_first_to_the_last(n: int, device: torch.device) -> None:
    net = pair(0.5, device)
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64, device=device)
    first, last = settle(net, x, Sweeps(1)), settle(net, x, Sweeps(n))
    expected = (last.residual / first.residual) ** (1 / (n - 1))
    torch.testing.assert_close(last.rate, expected)
    assert bool(torch.isfinite(last.error_estimate).all()) and bool(first.rate.isnan().all())


@pytest.mark.parametrize("stop", [Stop(1e-9, 50), Stop(1e-9, 50, block=1), Sweeps(1), Sweeps(7)], ids=str)
def test_a_start_at_the_exact_fixed_point_has_a_rate_and_an_error_of_zero(stop: Any, device: torch.device) -> None:
    net = network("one-layer", device)
    drive = net.drive(inputs(net, 3, device))
    exact = eqprop.relax(net, net.initial_state(3), drive, stop=Sweeps(2)).state
    solution = eqprop.relax(net, exact, drive, stop=stop)
    assert solution.residual.tolist() == solution.rate.tolist() == solution.error_estimate.tolist() == [0.0] * 3
    assert solution.status.tolist() == [Status.CONVERGED] * 3


def test_rate_of_a_nonlinear_network_is_that_of_its_linearisation(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 1, device)
    solution = settle(net, x, Stop(1e-11, 2000), Synchronous())
    radius = float(torch.linalg.eigvals(jacobian(net, solution.state, x)).abs().max())
    assert float(solution.rate) == pytest.approx(radius, rel=0.02)


@pytest.mark.parametrize("solver", ["alternating", "synchronous"])
def test_error_estimate_bounds_the_error_of_a_linear_network(solver: str, device: torch.device) -> None:
    """``|s - s*| <= residual rate / (1 - rate)``; a small step is not a small error where the rate is near 1."""
    net = pair(0.97, device)
    x = torch.tensor([[1.0], [-3.0]], dtype=torch.float64, device=device)
    exact = settle(net, x, TIGHT)
    solution = settle(net, x, Stop(1e-4, 2000), SOLVERS[solver])
    error = torch.stack([(a - b).abs().amax(1) for a, b in zip(solution.state, exact.state, strict=True)]).amax(0)
    estimate = solution.error_estimate
    assert bool((error <= 1.01 * estimate).all()) and bool((error >= 0.4 * estimate).all())
    assert bool((error > 10 * solution.residual).all())


def test_a_warm_start_takes_fewer_sweeps(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x = inputs(net, 6, device)
    stop = Stop(1e-8, 500, block=1)
    cold = settle(net, x, stop)
    near = settle(net, x + 1e-3, stop).state
    warm = eqprop.relax(net, near, net.drive(x), stop=stop)
    assert distance(warm.state, cold.state) < 1e-6
    assert bool((warm.sweeps < 0.8 * cold.sweeps).all())


# -- observers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [Stop(1e-6, 23, block=5), Sweeps(9)], ids=["stop", "sweeps"])
@every_solver
def test_an_observer_sees_every_sweep_in_order(solver: str, stop: Any, device: torch.device) -> None:
    net = network("triangle", device)
    x = inputs(net, 3, device)
    seen: list[int] = []
    states: list[State] = []

    def watch(sweep: int, state: State) -> None:
        seen.append(sweep)
        states.append(tuple(s.clone() for s in state))

    solution = settle(net, x, stop, SOLVERS[solver], observer=watch)
    assert seen == list(range(1, int(solution.sweeps.max()) + 1))
    last = int(solution.sweeps.argmax())
    assert distance(tuple(s[last] for s in states[-1]), tuple(s[last] for s in solution.state)) < 1e-5


def test_a_trajectory_records_states_energies_and_steps(device: torch.device) -> None:
    net = network("triangle", device)
    x = inputs(net, 3, device)
    start = net.initial_state(3)
    seen = Trajectory(net, net.drive(x), states=True, start=start)
    eqprop.relax(net, start, net.drive(x), stop=Sweeps(5), observer=seen)
    assert len(seen.states) == 6 and seen.energy().shape == (6, 3) and seen.steps().shape == (5, 3)
    for k, state in enumerate(seen.states):
        if k:
            assert distance(state, settle(net, x, Sweeps(k)).state) == 0.0
            assert float(seen.steps()[k - 1].max()) == distance(state, seen.states[k - 1])
        torch.testing.assert_close(seen.energy()[k], net.energy(state, net.drive(x)).detach())


def test_a_trajectory_without_an_energy_says_so(device: torch.device) -> None:
    net = network("loop", device)
    drive = net.drive(inputs(net, 3, device))
    seen = Trajectory(net, drive)
    eqprop.relax(net, net.initial_state(3), drive, stop=Sweeps(1), observer=seen)
    with pytest.raises(ConfigError, match="needed a network that has one"):
        seen.energy()
    with pytest.raises(ConfigError, match="start=state"):
        seen.steps()


# -- precision and gradients -------------------------------------------------------------------------------------------


def test_bfloat16_products_make_a_small_error_and_leave_states_in_float32(device: torch.device) -> None:
    net = network("chain-tanh", device, torch.float32)
    x = inputs(net, 6, device, torch.float32)
    full, low = settle(net, x, Sweeps(40)), settle(net, x, Sweeps(40), products="bfloat16")
    assert all(s.dtype == torch.float32 for s in low.state)
    assert 1e-5 < distance(full.state, low.state) < 3e-2
    # states are not rounded to bfloat16 themselves
    assert any(not torch.equal(s, s.bfloat16().float()) for s in low.state)


def test_bfloat16_products_add_up_in_float32(device: torch.device) -> None:
    """A thousand inputs of 1 and one of 1/16: bfloat16 sums would lose the small one and every bias."""
    net = linear_network({"a>output": torch.ones(1, 1000, dtype=torch.float64)}, (1000, 1000, 1))
    net = net.float().to(device)
    with torch.no_grad():
        net.biases["output"].fill_(1 / 1024)
    state = (torch.ones(1, 1000, device=device), torch.zeros(1, 1, device=device))
    cache = net.new_cache(torch.bfloat16)
    with torch.no_grad():
        (z,) = net.block_inputs(state, net.drive(torch.zeros(1, 1000, device=device)), (1,), cache)
    assert float(z) == 1000 + 1 / 1024


def test_products_in_the_dtype_of_the_network_change_nothing(device: torch.device) -> None:
    net = network("chain-tanh", device, torch.float32)
    x = inputs(net, 6, device, torch.float32)
    assert same(settle(net, x, Sweeps(9)), settle(net, x, Sweeps(9), products="float32"))


@every_network
def test_nothing_is_recorded_by_default(name: str, device: torch.device) -> None:
    net = network(name, device)
    solution = settle(net, inputs(net, 3, device), Sweeps(3))
    assert not any(s.requires_grad for s in solution.state)


@every_network
@pytest.mark.parametrize("solver", ["alternating", "synchronous", "gradient-flow"])
def test_unrolled_sweeps_have_the_gradient_of_finite_differences(name: str, solver: str, device: torch.device) -> None:
    net = network(name, device)
    x = inputs(net, 2, device)
    weight = random_state(net, 2)

    def value() -> Tensor:
        state = settle(net, x, Sweeps(4), SOLVERS[solver], unroll=True).state
        return torch.stack([(s * w).sum() for s, w in zip(state, weight, strict=True)]).sum()

    dynamic = [p for n, p in net.named_parameters() if not n.startswith("readout")]
    gradients = torch.autograd.grad(value(), dynamic, allow_unused=True)
    generator = seeded(9)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(device) for p in dynamic]
    expected, h = 0.0, 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(dynamic, directions, strict=True):
                p.add_(d, alpha=sign * h)
            expected += sign * float(value()) / (2 * h)
            for p, d in zip(dynamic, directions, strict=True):
                p.sub_(d, alpha=sign * h)
    got = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-8)


# -- bad settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"tol": -1.0}, {"tol": math.nan}, {"tol": math.inf}, {"tol": "1e-4"}, {"max_sweeps": 0}, {"max_sweeps": 10.5}]
    + [{"block": 0}, {"block": 2.0}, {"block": True}],
)
def test_a_stop_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="needed tol >= 0, max_sweeps >= 1, block >= 1"):
        Stop(**options)


@pytest.mark.parametrize("tol", [math.nan, -1.0, math.inf, None])
def test_a_tolerance_of_sweeps_that_cannot_work_is_refused(tol: Any) -> None:
    with pytest.raises(ConfigError, match=f"Sweeps: got tol={tol}, needed a finite number of at least 0"):
        Sweeps(5, tol=tol)


@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_a_number_of_sweeps_that_cannot_work_is_refused(n: Any) -> None:
    with pytest.raises(ConfigError, match=f"Sweeps: got n={n}, needed a whole number of at least 1"):
        Sweeps(n)
