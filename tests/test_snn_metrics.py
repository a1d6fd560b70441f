"""Metrics of liquids, each against a case whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from snn import (
    branching_factor,
    class_separation,
    current_ratio,
    effective_rank,
    exponential_trace,
    kernel_quality,
    lyapunov_exponent,
    memory_capacity,
    numerical_rank,
    participation_ratio,
    state_distance,
    synaptic_operations,
    train_distance,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spikes_at(steps: int, *at: tuple[int, int], neurons: int = 1) -> Tensor:
    """One sample with spikes at (step, neuron)."""
    train = torch.zeros(1, steps, neurons, dtype=torch.bool)
    for step, neuron in at:
        train[0, step, neuron] = True
    return train


# ---- separation ----------------------------------------------------------------------------------------------------


def test_a_trace_decays_by_its_time_constant_from_every_spike() -> None:
    trace = exponential_trace(spikes_at(6, (1, 0), (4, 0)), tau_seconds=0.002, dt_seconds=1e-3)[0, :, 0]
    d = math.exp(-0.5)
    assert torch.allclose(trace, torch.tensor([0, 1, d, d**2, 1 + d**3, d + d**4]))


def test_states_are_as_far_apart_as_the_filtered_spikes_that_differ() -> None:
    u = torch.cat((spikes_at(50, (10, 0), (20, 1), neurons=2), spikes_at(50, (3, 0), neurons=2)))
    v = torch.cat((spikes_at(50, (20, 1), neurons=2), spikes_at(50, (3, 0), neurons=2)))
    distance = state_distance(u, v, tau_seconds=0.03)
    times = torch.arange(50)
    assert torch.allclose(distance[0], torch.where(times < 10, 0.0, torch.exp(-(times - 10) / 30.0)), atol=1e-6)
    assert not distance[1].any()
    with pytest.raises(DataError, match="trains: got shapes"):
        state_distance(u, v[:1])


@pytest.mark.parametrize("spikes", [1, 3])
def test_input_distance_of_far_spikes_is_the_norm_of_their_kernels(spikes: int) -> None:
    dt, sigma, seconds = 1e-4, 0.005, 0.5
    u = spikes_at(5000, *[(1000 * (k + 1), 0) for k in range(spikes)])
    expected = math.sqrt(spikes * sigma * math.sqrt(math.pi / 2)) / seconds  # integral of exp(-2 t^2 / sigma^2)
    found = train_distance(u, torch.zeros_like(u), sigma_seconds=sigma, dt_seconds=dt)
    assert found.tolist() == pytest.approx([expected], rel=1e-6)
    assert train_distance(u, u).tolist() == [0.0]
    # at the edge of the train the kernel is whole, too
    edge = train_distance(spikes_at(5000, (0, 0)), torch.zeros(1, 5000, 1), sigma_seconds=sigma, dt_seconds=dt)
    assert edge.tolist() == pytest.approx([expected / math.sqrt(spikes)], rel=1e-6)


def test_spikes_of_different_channels_do_not_cancel() -> None:
    u, v = spikes_at(200, (100, 0), neurons=2), spikes_at(200, (100, 1), neurons=2)
    one = train_distance(u, torch.zeros_like(u))
    assert torch.allclose(train_distance(u, v), one * math.sqrt(2))


def test_class_separation_of_two_classes_on_a_line() -> None:
    features = torch.tensor([[-1.0], [1.0], [9.0], [11.0], [10.0]])
    labels = torch.tensor([4, 4, 7, 7, 7])
    # means 0 and 10, |difference| 10 for both ordered pairs of 4; mean distances 1 and 2/3
    assert class_separation(features, labels) == pytest.approx((2 * 10 / 4) / ((1 + 2 / 3) / 2 + 1))
    with pytest.raises(DataError, match="got 1 classes"):
        class_separation(features, torch.zeros(5).long())


# ---- ranks ---------------------------------------------------------------------------------------------------------


def with_singular_values(values: list[float], rows: int, columns: int) -> Tensor:
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=seeded(1), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=seeded(2), dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


@pytest.mark.parametrize(("tolerance", "rank"), [(0.5, 1), (0.09, 2), (0.009, 3), (1e-5, 4), (None, 4)])
def test_rank_counts_singular_values_above_the_tolerance(tolerance: float | None, rank: int) -> None:
    states = with_singular_values([10.0, 1.0, 0.1, 0.001], 30, 20)
    assert kernel_quality(states, tolerance=tolerance).kernel_rank == rank
    if tolerance is not None:
        assert numerical_rank(states, tolerance=tolerance) == rank


@pytest.mark.parametrize("values", [[1.0], [3.0, 3.0, 3.0, 3.0], [4.0, 2.0, 1.0]])
def test_effective_rank_and_participation_ratio_are_their_formulas(values: list[float]) -> None:
    states = with_singular_values(values, 30, 20)
    p = np.array(values) / sum(values)
    assert effective_rank(states, centre=False) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    l = np.array(values) ** 2
    assert participation_ratio(states, centre=False) == pytest.approx(l.sum() ** 2 / (l**2).sum())


def test_centring_takes_the_common_state_out() -> None:
    states = torch.ones(40, 1) @ torch.full((1, 10), 100.0) + torch.randn(40, 1, generator=seeded()) @ torch.ones(1, 10)
    tilted = states + torch.outer(torch.randn(40, generator=seeded(3)), torch.linspace(-1, 1, 10))
    assert numerical_rank(tilted, tolerance=0.05) == 1 and numerical_rank(tilted, tolerance=0.05, centre=True) == 2
    assert effective_rank(states) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(DataError, match="got 40 that are all equal"):
        effective_rank(torch.ones(40, 3))
    with pytest.raises(DataError, match="got 4 that are all zeros.*silent"):
        kernel_quality(torch.zeros(4, 3))


def test_kernel_quality_sets_different_inputs_against_noisy_ones() -> None:
    different = torch.randn(30, 50, generator=seeded(), dtype=torch.float64)
    noisy = different[:1] + 1e-6 * torch.randn(30, 50, generator=seeded(1), dtype=torch.float64)
    quality = kernel_quality(different, noisy)
    assert (quality.kernel_rank, quality.generalisation_rank, quality.computational_performance) == (30, 1, 29)
    assert (quality.inputs, quality.neurons, quality.tolerance) == (30, 50, 1e-2)
    assert kernel_quality(different).computational_performance is None


# ---- branching -----------------------------------------------------------------------------------------------------


def local_by_definition(spikes: np.ndarray, mask: np.ndarray, w: int, margin: int) -> float:
    """The local ratio written out as loops over samples, neurons and spikes."""
    samples = []
    for sample in spikes:
        steps, neurons = sample.shape
        means = []
        for n in range(neurons):
            ratios = []
            for t in range(margin + w, steps - margin - w):
                if sample[t, n]:
                    after = sum(int(sample[t + 1 : t + w + 1, m].sum()) for m in range(neurons) if mask[m, n])
                    before = sum(int(sample[t - w : t, m].sum()) for m in range(neurons) if mask[n, m])
                    ratios.append(after / max(1, before))
            means.append(float(np.mean(ratios)) if ratios else math.nan)
        samples.append(np.nanmean(means))
    return float(np.mean(samples))


@pytest.mark.parametrize(("window", "margin"), [(4, 25), (1, 0), (3, 10)])
def test_local_branching_is_its_definition_written_out(window: int, margin: int, device: torch.device) -> None:
    generator = seeded()
    spikes = torch.rand(3, 90, 12, generator=generator) < torch.linspace(0.0, 0.4, 12)
    mask = torch.rand(12, 12, generator=generator) < 0.3
    found = branching_factor(
        spikes.to(device), mask.to(device), window_steps=window, margin_steps=margin, method="local"
    )
    assert found == pytest.approx(local_by_definition(spikes.numpy(), mask.numpy(), window, margin), rel=1e-6)


def test_local_branching_of_a_chain_of_relays_is_one_and_of_a_fork_two() -> None:
    # neuron k makes neuron k + 1 spike one step later, round a ring: one parent's and one child's spike a spike
    ring = spikes_at(80, *[(t, t % 10) for t in range(80)], neurons=10)
    mask = torch.roll(torch.eye(10), 1, 0).bool()  # [post, pre]: k + 1 from k
    assert branching_factor(ring, mask, window_steps=2) == 1.0
    fork = torch.cat((ring, ring), 2)  # each neuron drives its successor and its successor's twin
    both = torch.zeros(20, 20, dtype=torch.bool)
    both[:10, :10] = both[10:, :10] = mask
    # the first ten have two children and one parent, the twins no child and one parent
    assert branching_factor(fork, both, window_steps=2) == pytest.approx((2.0 + 0.0) / 2)
    assert branching_factor(fork[:, :, :10], mask, window_steps=2) == 1.0


def branching_process(m: float, steps: int, input_rate: float, seed: int) -> np.ndarray:
    """Activity of a branching process with Poisson offspring of mean m and Poisson input."""
    rng = np.random.default_rng(seed)
    activity = np.empty(steps, dtype=int)
    now = round(input_rate / (1 - m))
    for t in range(steps):
        now = rng.poisson(m * now + input_rate)
        activity[t] = now
    return activity


def as_spikes(activity: np.ndarray, share: float = 1.0) -> Tensor:
    """A train with that many spikes a step; with a share below 1 each is seen with that chance."""
    seen = np.random.default_rng(5).binomial(activity, share) if share < 1 else activity
    return torch.arange(seen.max()) < torch.from_numpy(seen)[None, :, None]


@pytest.mark.parametrize("m", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("method", ["regression", "multistep"])
def test_regressions_find_the_factor_of_a_driven_branching_process(method: str, m: float) -> None:
    spikes = as_spikes(branching_process(m, 20_000, 2.0, 1))
    error = 4 * math.sqrt((1 - m**2) / 20_000) + 4 / 20_000
    assert branching_factor(spikes, method=method) == pytest.approx(m, abs=max(error, 0.012))


def test_only_multistep_regression_is_not_misled_by_neurons_that_are_not_seen() -> None:
    spikes = as_spikes(branching_process(0.95, 60_000, 5.0, 2), share=0.1)
    assert branching_factor(spikes, method="multistep", max_lag=40) == pytest.approx(0.95, abs=0.02)
    assert branching_factor(spikes, method="regression") < 0.8


def test_global_branching_is_the_mean_ratio_and_counts_input_as_offspring() -> None:
    doubling = torch.arange(64) < torch.tensor([1, 2, 4, 8, 16, 32, 64])[None, :, None]
    assert branching_factor(doubling, method="global", margin_steps=0) == 2.0
    assert branching_factor(doubling, method="regression", margin_steps=0) == pytest.approx(2.0)
    pauses = torch.arange(4) < torch.tensor([4, 0, 2, 2, 0])[None, :, None]
    assert branching_factor(pauses, method="global", margin_steps=0) == pytest.approx((0 + 1 + 0) / 3)
    driven = as_spikes(branching_process(0.5, 20_000, 10.0, 3))
    assert branching_factor(driven, method="global") > 0.97  # a stationary process, though its m is 0.5


def test_bins_are_summed_before_the_ratio() -> None:
    spikes = torch.arange(8) < torch.tensor([1, 1, 2, 2, 4, 4, 8, 8, 7])[None, :, None]
    assert branching_factor(spikes, method="global", bin_steps=2, margin_steps=0) == 2.0


def test_silence_has_no_branching_factor_and_wrong_calls_are_named() -> None:
    silent = torch.zeros(1, 200, 3, dtype=torch.bool)
    for method in ("local", "global", "regression", "multistep"):
        assert math.isnan(branching_factor(silent, torch.ones(3, 3), method))
    with pytest.raises(ConfigError, match='mask: got None for the method "local"'):
        branching_factor(silent)
    with pytest.raises(ConfigError, match="method: got 'locl'.*did you mean 'local'"):
        branching_factor(silent, method="locl")
    with pytest.raises(ConfigError, match="got 50 steps, needed at least 59"):
        branching_factor(silent[:, :50], torch.ones(3, 3))
    with pytest.raises(DataError, match=r"mask: got shape \[3, 4\], needed \[3, 3\]"):
        branching_factor(silent, torch.ones(3, 4))


# ---- Lyapunov exponent ---------------------------------------------------------------------------------------------


def linear(factor: float, dtype: torch.dtype = torch.float64) -> Callable[[Tensor], Tensor]:
    """A run whose state is ``x <- factor x + spikes``: a perturbation grows by the factor each step."""

    def run(spikes: Tensor) -> Tensor:
        state, states = torch.zeros_like(spikes[:, 0], dtype=dtype), []
        for step in range(spikes.shape[1]):
            state = factor * state + spikes[:, step].to(dtype)
            states.append(state)
        return torch.stack(states, 1)

    return run


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_the_exponent_of_a_linear_system_is_the_logarithm_of_its_factor(factor: float, dtype: torch.dtype) -> None:
    spikes = (torch.rand(6, 80, 9, generator=seeded()) < 0.3).to(dtype)
    before = spikes.clone()
    found = lyapunov_exponent(linear(factor), spikes, generator=seeded(), tau_seconds=None, dt_seconds=2e-3)
    assert found.exponent_per_second == pytest.approx(math.log(factor) / 2e-3, abs=1e-6)
    assert (found.start_step, found.stop_step, found.died_share, found.missed_share) == (35, 65, 0.0, 0.0)
    assert not found.distances[:, :30].any() and torch.allclose(found.distances[:, 30], torch.ones(6).double())
    assert torch.equal(spikes, before)


def test_spikes_are_filtered_where_the_run_returns_spikes() -> None:
    spikes = torch.rand(4, 80, 9, generator=seeded()) < 0.3
    found = lyapunov_exponent(lambda s: s, spikes, generator=seeded(), tau_seconds=0.03)
    assert found.exponent_per_second == pytest.approx(-1 / 0.03, rel=1e-5)


def test_perturbations_that_die_or_never_come_in_are_counted() -> None:
    spikes = torch.zeros(8, 80, 2, dtype=torch.bool)
    at = torch.randint(2, (8,), generator=seeded(4))  # the channels that will be drawn

    def first_channel_for_a_while(train: Tensor) -> Tensor:
        state = linear(1.0)(train)[..., :1].clone()
        state[:, 50:] = 0.0
        return state

    found = lyapunov_exponent(first_channel_for_a_while, spikes, generator=seeded(4), tau_seconds=None)
    assert 0 < int((at == 0).sum()) < 8
    assert found.died_share == float((at == 0).double().mean()) and found.missed_share == float(
        (at == 1).double().mean()
    )
    assert math.isnan(found.exponent_per_second)
    assert (found.exponents_per_second[at == 0] == -math.inf).all() and found.exponents_per_second[
        at == 1
    ].isnan().all()


def test_wrong_trains_and_runs_are_named() -> None:
    spikes = torch.zeros(2, 80, 3)
    with pytest.raises(ConfigError, match="measured up to step 65, needed it below 60"):
        lyapunov_exponent(linear(1.0), spikes[:, :60], generator=seeded())
    with pytest.raises(DataError, match="got values other than 0 and 1"):
        lyapunov_exponent(linear(1.0), spikes + 0.5, generator=seeded())
    with pytest.raises(DataError, match=r"run: got \[2, 3\] back"):
        lyapunov_exponent(lambda s: s.sum(1), spikes, generator=seeded())
    with pytest.raises(ConfigError, match="generator: got None"):
        lyapunov_exponent(linear(1.0), spikes, generator=None)  # type: ignore[arg-type]


# ---- memory capacity -----------------------------------------------------------------------------------------------


def delay_line(length: int) -> Callable[[Tensor], Tensor]:
    def run(u: Tensor) -> Tensor:
        return torch.stack([torch.roll(u, k).index_fill(0, torch.arange(k), 0.0) for k in range(1, length + 1)], 1)

    return run


@pytest.mark.parametrize("length", [1, 5, 12])
def test_a_delay_line_remembers_as_many_inputs_as_it_is_long(length: int) -> None:
    found = memory_capacity(delay_line(length), delays=20, steps=3000, generator=seeded())
    assert found.by_delay[:length] == pytest.approx([1.0] * length, abs=1e-6)
    assert max(found.by_delay[length:]) < 0.02
    assert found.total == pytest.approx(length, abs=4 * found.floor) and found.floor == pytest.approx(20 / 900)


def test_any_mixture_of_a_delay_line_holds_the_same_memory_and_noise_takes_it_away() -> None:
    mix = torch.linalg.qr(torch.randn(6, 6, generator=seeded(3), dtype=torch.float64)).Q
    line = delay_line(6)
    mixed = memory_capacity(lambda u: line(u) @ mix, delays=12, steps=3000, generator=seeded())
    assert mixed.total == pytest.approx(6.0, abs=0.1)
    noise = 0.8 / math.sqrt(3) * torch.randn(3100, 6, generator=seeded(4), dtype=torch.float64)
    noisy = memory_capacity(lambda u: line(u) + noise, delays=12, steps=3000, generator=seeded())
    assert noisy.by_delay[:6] == pytest.approx([0.5] * 6, abs=0.1)  # as much noise as signal


def test_the_input_itself_is_no_memory() -> None:
    found = memory_capacity(lambda u: u[:, None], delays=5, steps=2000, generator=seeded())
    assert found.total < 5 * found.floor


@pytest.mark.parametrize(
    ("run", "more", "error", "words"),
    [
        (lambda u: u, {}, DataError, r"run: got \[1100\] back, needed states \[1100, variables\]"),
        (lambda u: torch.ones(len(u), 3), {}, DataError, "states: got constant ones.* silent"),
        (lambda u: u[:, None] / 0.0, {}, DataError, "states: got 1100 NaN or infinite"),
        (delay_line(3), {"delays": 0}, ConfigError, "delays: got 0"),
        (delay_line(3), {"steps": 5}, ConfigError, "steps: got 5"),
        (delay_line(3), {"penalties": (-1.0, 1.0)}, ConfigError, "penalties: got -1.0"),
    ],
)
def test_memory_capacity_names_what_is_wrong(run: Any, more: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        memory_capacity(run, generator=seeded(), **({"delays": 4, "steps": 1000} | more))


# ---- currents and operations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.strided, torch.sparse_coo])
def test_operations_are_spikes_times_fan_out_and_currents_are_weighted_by_spikes(layout: torch.layout) -> None:
    weights = torch.tensor([[0.0, 2.0, -1.0], [0.5, 0.0, -3.0]])
    counts = torch.tensor([[4, 1, 2], [0, 0, 1]])
    stored = weights if layout is torch.strided else weights.to_sparse()
    assert synaptic_operations(counts, stored).tolist() == [4 * 1 + 1 * 1 + 2 * 2, 2]
    assert current_ratio(counts, stored) == pytest.approx((4 * 0.5 + 1 * 2.0) / (3 * 4.0))
    assert current_ratio(counts[:, :2], weights[:, :2]) == math.inf
    assert math.isnan(current_ratio(torch.zeros(1, 3), weights))


def test_counts_that_do_not_fit_the_weights_are_named() -> None:
    with pytest.raises(DataError, match=r"weights: got shape \[2, 3\] for counts of 2 neurons, needed \[post, 2\]"):
        synaptic_operations(torch.ones(1, 2), torch.ones(2, 3))
    with pytest.raises(DataError, match="counts: got shape .* write spikes.sum.1. for a train"):
        current_ratio(torch.ones(1, 2, 3), torch.ones(2, 3))
    with pytest.raises(DataError, match="counts: got negative or NaN"):
        current_ratio(-torch.ones(1, 3), torch.ones(2, 3))
