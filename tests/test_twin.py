"""Twin arrays: the free phase on one set of cells, nudged phases on another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, Sweeps
from eqprop._diagnostics import gradients, match
from hardware import CellArray, FlickerNoise, Fluctuation, PathGains, ResistiveNetwork, Substrate, Timing
from tests.helpers import inputs, labels, network, seeded

IDEAL = CellArray("pcm", programming=False, drift=False, read_noise=False)
PROGRAMMED = CellArray("pcm", drift=False, read_noise=False)


def ep(beta: float = 0.1, contour: str = "one-sided") -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, contour=contour, free=Sweeps(60), nudged=Sweeps(40))


def flat(net: eqprop.Network, rule: EquilibriumPropagation) -> Tensor:
    return torch.cat([g.flatten() for g in gradients(net, rule, inputs(net), labels()).values()])


@pytest.mark.parametrize("contour", ["one-sided", "centred"])
@pytest.mark.parametrize("name", ["chain-sigmoid", "conv-average"])
def test_twins_of_ideal_cells_give_the_same_bits(contour: str, name: str) -> None:
    net = network(name)
    one, two = (Substrate(cells=IDEAL, twin=t).fabricate(net) for t in (False, True))
    assert two.stacks_phases == one.stacks_phases
    for _ in range(2):
        assert torch.equal(flat(two, ep(contour=contour)), flat(one, ep(contour=contour)))


def test_each_phase_relaxes_on_its_own_set_of_cells() -> None:
    net: Any = network("chain-sigmoid")
    chip: Any = Substrate(cells=PROGRAMMED, twin=True).fabricate(net)
    seen = []
    for _ in range(2):
        drive = chip.drive(inputs(net))
        for phase in range(3):
            chip.begin_phase(phase)
            acting = chip.connection("hidden1-hidden2").operand(back=False).detach().clone()
            ahead = chip.connection("input-hidden1").operand(back=False).detach()
            seen.append(acting)
            z = chip.inputs(chip.initial_state(len(drive.x)), drive)[0]
            torch.testing.assert_close(z, chip.biases["hidden1"] + inputs(net) @ ahead.mT)
    first, second = seen[0], seen[1]
    assert not torch.equal(first, second)
    for k, expected in enumerate((first, second, second)):
        assert torch.equal(seen[k], expected) and torch.equal(seen[k + 3], expected)


def test_programming_noise_is_a_fixed_bias_of_the_contrast_that_grows_as_one_over_beta() -> None:
    """Passes repeat to the bit, so that no mean over them helps; a chip without twins has no such bias."""
    net = network("chain-sigmoid")
    twins, single = (Substrate(cells=PROGRAMMED, twin=t).fabricate(net, seed=1) for t in (True, False))
    first = flat(twins, ep())
    assert torch.equal(flat(twins, ep()), first)
    bias = {b: float((flat(twins, ep(b)) - flat(single, ep(b))).norm()) for b in (0.01, 0.001)}
    assert bias[0.001] / bias[0.01] == pytest.approx(10.0, rel=0.1)
    assert bias[0.01] > 3 * float(flat(single, ep(0.01)).norm())


def test_a_contrast_of_nudged_phases_compares_one_set_with_itself() -> None:
    net = network("chain-sigmoid")
    truth = flat(net, ep(contour="centred"))
    twins = Substrate(cells=PROGRAMMED, twin=True).fabricate(net, seed=1)
    assert match(flat(twins, ep(contour="centred")), truth).cosine > 0.9
    assert match(flat(twins, ep()), flat(net, ep())).cosine < 0.5


def test_no_time_lies_between_the_phases_of_twins() -> None:
    """Common drift is common: it moves both sets alike where it would have moved the second phase alone."""
    net = network("chain-sigmoid")
    timing = Timing(phase_seconds=1e-3, write_seconds=0.0)
    chips: list[Any] = [Substrate(cells=CellArray("pcm"), timing=timing, twin=t).fabricate(net) for t in (True, False)]
    times = []
    for chip in chips:
        chip.drive(inputs(net))
        clocks = []
        for phase in range(3):
            chip.begin_phase(phase)
            clocks.append(chip.clock_seconds)
        times.append([t - clocks[0] for t in clocks])
    assert times[0] == pytest.approx([0.0, 0.0, 1e-3]) and times[1] == pytest.approx([0.0, 1e-3, 2e-3])


def test_both_sets_are_written_alike_with_errors_of_their_own() -> None:
    net: Any = network("chain-sigmoid")
    chip: Any = Substrate(cells=PROGRAMMED, twin=True).fabricate(net)
    array = chip.arrays["hidden1-hidden2"]
    before = chip.counts["writes"]
    with torch.no_grad():
        chip.connection("hidden1-hidden2").weight[1, 2] += 0.05
    chip.drive(inputs(net))
    assert chip.counts["writes"] == before + 4  # the pairs of two sets
    assert torch.equal(array.requested, array.twin.requested)
    assert not torch.equal(array.conductance, array.twin.conductance)
    assert torch.equal(array.written, array.twin.written)


def test_twins_go_on_from_a_file() -> None:
    substrate = Substrate(
        cells=CellArray("pcm", "one-sided"),
        fluctuations=(Fluctuation(0.01, "write"), FlickerNoise(0.01)),
        paths=PathGains(cell_std=0.05),
        twin=True,
    )
    chip, other = (substrate.fabricate(network("chain-sigmoid"), seed=2) for _ in range(2))
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ep().backward(chip, inputs(chip), labels())
        optimizer.step()
    other.load_state_dict({n: v.clone() for n, v in chip.state_dict().items()})
    assert torch.equal(flat(other, ep()), flat(chip, ep()))


def test_a_resistive_network_may_have_twins() -> None:
    net = ResistiveNetwork.mlp(6, 5, 2, generator=seeded(), dtype=torch.float64)
    layout = replace(IDEAL, mapping="single", g_min_siemens=1e-7, g_max_siemens=3e-5)
    x, y = (
        torch.rand(3, 6, generator=seeded(1), dtype=torch.float64),
        torch.rand(3, 2, generator=seeded(2), dtype=torch.float64),
    )
    rule = EquilibriumPropagation(beta=net.nudge_siemens(0.1), contour="one-sided", free=Sweeps(8), nudged=Sweeps(8))
    found = []
    for cells, twin in ((layout, False), (layout, True), (replace(layout, programming=True), True)):
        chip = Substrate(cells=cells, twin=twin).fabricate(net)
        found.append(torch.cat([g.flatten() for g in gradients(chip, rule, x, y).values()]))
    assert torch.equal(found[0], found[1]) and match(found[2], found[0]).relative_error > 0.3


def test_twins_are_named_and_refused_where_they_would_part() -> None:
    substrate = Substrate(cells=CellArray("ecram"), twin=True)
    assert "twin arrays" in substrate.describe()
    chip: Any = substrate.fabricate(network("chain-sigmoid"))
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="on twin arrays"):
        chip.write_path(optimizer, mode="sign")
    chip.write_path(optimizer, mode="programmed")
    with pytest.raises(ConfigError, match="Substrate.twin: got 1"):
        Substrate(twin=1)  # type: ignore[arg-type]
