"""Gradients gathered on an auxiliary array before they reach the weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError
from hardware import Auxiliary, CellArray, Substrate
from hardware._touched import pulses_of
from tests.helpers import seeded

SOFT: Any = hardware.device("reram-sb")
QUIET = replace(SOFT, pulses=replace(SOFT.pulses, write_noise=0.0, noise=0.5))
GATHERED = Auxiliary(transfer_rate=0.05, lines=6, gain=0.3)


def chip_of(device: Any = QUIET, seed: int = 1) -> Any:
    net = eqprop.HopfieldNetwork.mlp(6, 30, activation="sigmoid", generator=seeded())
    return Substrate(cells=CellArray(device, weight_range=1.0, programming=False)).fabricate(net, seed=seed)


def weight_of(chip: Any) -> Tensor:
    weight: Tensor = chip.connection("input-output").weight
    return weight


def descend(chip: Any, gradient: Callable[[Tensor], Tensor], steps: int, lr: float = 0.05, **options: Any) -> Any:
    """Steps on a gradient; the path, and the mean of the weights over the second half."""
    optimizer = torch.optim.SGD(chip.parameters(), lr=lr)
    path = chip.write_path(optimizer, mode="stochastic", **options)
    weight = weight_of(chip)
    total = torch.zeros_like(weight)
    for n in range(steps):
        weight.grad = gradient(weight.detach())
        optimizer.step()
        total += weight.detach() * (n >= steps // 2)
    return path, total / (steps - steps // 2)


def noisy(goal: Tensor | None, seed: int) -> Callable[[Tensor], Tensor]:
    """The gradient of a square around the goal (none: of nothing), with noise of standard deviation 1."""
    generator = seeded(seed)

    def gradient(w: Tensor) -> Tensor:
        noise = torch.randn(w.shape, generator=generator)
        return noise if goal is None else w - goal + noise

    return gradient


def test_noise_pulls_weights_to_their_symmetry_points_but_not_through_an_auxiliary_array() -> None:
    left = {}
    for auxiliary in (None, GATHERED):
        chip = chip_of()
        start = weight_of(chip).detach().clone()
        _, mean = descend(chip, noisy(None, 2), 200, auxiliary=auxiliary)
        point = chip.arrays["input-output"].decoded(SOFT.symmetry_point_siemens(chip.arrays["input-output"].cells))
        away = start - point
        left[auxiliary] = float((away * (mean - point)).sum() / away.square().sum())
    assert left[None] < 0.2 and left[GATHERED] > 0.5


def test_an_auxiliary_array_finds_the_optimum_of_a_noisy_quadratic() -> None:
    """Least squares whose gradients are mostly noise: plain pulses stop half way."""
    reached = {}
    for auxiliary in (None, GATHERED):
        goal = 0.3 * torch.randn(30, 6, generator=seeded(4)).sign()
        _, mean = descend(chip_of(), noisy(goal, 3), 500, auxiliary=auxiliary)
        reached[auxiliary] = float((mean * goal).sum() / goal.square().sum())
    assert reached[None] < 0.6 and 0.85 < reached[GATHERED] < 1.1


def test_digits_are_learnt_better_through_an_auxiliary_array() -> None:
    """Cells of 67 states and batches of 4: whatever the rate, plain pulses are held at the symmetry points."""
    data = eqprop.load_dataset("digits")
    coarse = replace(SOFT, pulses=replace(SOFT.pulses, step=0.03, write_noise=0.0, noise=1.0))
    rule = eqprop.EquilibriumPropagation(beta=0.5, free=eqprop.Sweeps(6), nudged=eqprop.Sweeps(4))

    def accuracy(lr: float, auxiliary: Auxiliary | None) -> float:
        """The mean over chips, of which single ones differ by as much as is to be seen."""
        return sum(accuracy_of(seed, lr, auxiliary) for seed in range(1, 9)) / 8

    def accuracy_of(seed: int, lr: float, auxiliary: Auxiliary | None) -> float:
        net = eqprop.HopfieldNetwork.mlp(784, 16, 10, generator=seeded())
        chip: Any = Substrate(cells=CellArray(coarse, headroom=3.0, programming=False)).fabricate(net, seed=seed)
        optimizer = torch.optim.SGD(chip.parameters(), lr=lr)
        chip.write_path(optimizer, mode="stochastic", auxiliary=auxiliary)
        for _, (x, y) in zip(range(350), data.train.batches(4, generator=seeded()), strict=False):
            optimizer.zero_grad()
            rule.backward(chip, x, y)
            optimizer.step()
        return eqprop.evaluate(chip, data.test, rule).accuracy

    plain = max(accuracy(lr, None) for lr in (0.02, 0.05))
    assert accuracy(0.2, Auxiliary(transfer_rate=0.01, lines=784, gain=3.0)) > plain + 0.05


def test_changes_reach_the_weights_line_by_line() -> None:
    chip = chip_of()
    settings = Auxiliary(transfer_every=2, transfer_rate=1.0, lines=2, gain=1.0)
    optimizer = torch.optim.SGD(chip.parameters(), lr=1.0)
    path = chip.write_path(optimizer, mode="proportional", max_pulses=300, auxiliary=settings)
    weight = weight_of(chip)
    moved = []
    for _ in range(6):
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, -0.1)
        optimizer.step()
        moved.append((weight.detach() != before).any(0).nonzero().flatten().tolist())
    assert moved == [[], [0, 1], [], [2, 3], [], [4, 5]]
    assert path.reads == 6 and chip.counts["pulses"] < path.pulses
    by_row = chip_of()
    path = by_row.write_path(
        torch.optim.SGD(by_row.parameters(), lr=1.0), mode="proportional", auxiliary=replace(settings, by="row")
    )
    auxiliary = by_row.arrays["input-output"].auxiliary
    auxiliary.gather(pulses_of(torch.ones(30, 6), torch.full((30, 6), 20.0)))
    auxiliary.gather(pulses_of(torch.ones(30, 6), torch.full((30, 6), 20.0)))
    asked = auxiliary.transfer()
    assert asked[:2].abs().min() > 0 and not asked[2:].any()


def test_an_auxiliary_cell_rests_at_zero_and_holds_what_is_pulsed() -> None:
    chip = chip_of()
    chip.write_path(torch.optim.SGD(chip.parameters(), lr=1.0), auxiliary=Auxiliary())
    auxiliary = chip.arrays["input-output"].auxiliary
    assert float(auxiliary.value.abs().max()) < 1e-5
    cells = auxiliary.cells
    up, down = (SOFT.pulses.step_siemens(way, auxiliary.reference, cells, SOFT.frame) for way in (True, False))
    torch.testing.assert_close(up, down, rtol=1e-3, atol=0.0)
    auxiliary.gather(pulses_of(torch.ones(30, 6), torch.full((30, 6), 5.0)))
    assert float(auxiliary.value.median()) == pytest.approx(5 * auxiliary.step_size, rel=0.2)


READS: dict[str, dict[str, Any]] = {
    "exact": {},
    "noisy": {"read_std": 0.05},
    "coarse": {"adc_bits": 4},
    "off": {"zero_std": 0.1},
}


def test_reads_have_the_noise_and_the_levels_that_are_set() -> None:
    found = {}
    for name, options in READS.items():
        chip = chip_of()
        settings = Auxiliary(transfer_rate=1.0, lines=6, **options)
        chip.write_path(torch.optim.SGD(chip.parameters(), lr=1.0), auxiliary=settings)
        auxiliary = chip.arrays["input-output"].auxiliary
        auxiliary.gather(pulses_of(torch.ones(30, 6), torch.full((30, 6), 31.0)))
        found[name] = auxiliary.transfer()
    assert float((found["noisy"] - found["exact"]).std()) == pytest.approx(0.05, rel=0.25)
    assert float((found["off"] - found["exact"]).std()) == pytest.approx(0.1, rel=0.25)
    step = 1.0 / 8
    assert float((found["coarse"] - found["exact"]).abs().max()) <= 0.5 * step + 1e-6
    torch.testing.assert_close(found["coarse"] / step, (found["coarse"] / step).round())


def test_a_chip_with_an_auxiliary_array_goes_on_from_a_file_with_the_same_bits() -> None:
    settings = Auxiliary(transfer_every=3, lines=2, read_std=0.01, zero_std=0.05, adc_bits=10)

    def gradients(chip: Any, seed: int) -> None:
        descend(chip, lambda w: w + torch.randn(w.shape, generator=seeded(seed)), 4, auxiliary=settings)

    whole, cut = chip_of(SOFT), chip_of(SOFT)
    gradients(whole, 1)
    saved = {n: v.clone() for n, v in whole.state_dict().items()}
    cut.write_path(torch.optim.SGD(cut.parameters(), lr=0.1), auxiliary=settings).remove()
    cut.load_state_dict(saved)
    pickled = pickle.loads(pickle.dumps(whole))
    for chip in (whole, cut, pickled):
        gradients(chip, 2)
    for other in (cut, pickled):
        for name, value in whole.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
    assert any("auxiliary" in name for name in saved)


def test_a_path_without_an_auxiliary_array_takes_that_of_another_away() -> None:
    chip = chip_of()
    for settings, expected in ((GATHERED, True), (None, False)):
        path = chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.1), auxiliary=settings)
        path.remove()
        assert any("auxiliary" in name for name in chip.state_dict()) is expected


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Auxiliary(transfer_every=0), "transfer_every: got 0"),
        (lambda: Auxiliary(lines=0), "lines: got 0"),
        (lambda: Auxiliary(by="columns"), "did you mean 'column'"),
        (lambda: Auxiliary(transfer_rate=0.0), "transfer_rate: got 0.0"),
        (lambda: Auxiliary(read_std=-1.0), "read_std: got -1.0"),
        (lambda: Auxiliary(adc_bits=0), "adc_bits: got 0"),
        (lambda: Auxiliary(device="pcm"), "pulses go both ways"),
        (lambda: hardware.WriteSettings(mode="programmed", auxiliary=Auxiliary()), "mode of pulses"),
        (lambda: hardware.WriteSettings(auxiliary="pcm"), "needed hardware.Auxiliary"),  # type: ignore[arg-type]
    ],
)
def test_impossible_auxiliary_arrays_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
