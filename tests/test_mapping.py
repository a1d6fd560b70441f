"""How parameters become cells, and how cells are read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hardware
from eqprop import ConfigError
from hardware import CellArray, Streams, Substrate
from hardware._array import Array, Moment
from hardware._mapping import MAPPINGS
from tests.helpers import network, seeded

LOW, HIGH, REACH = 2e-6, 12e-6, 0.5


@pytest.mark.parametrize("name", MAPPINGS)
def test_what_is_written_is_read_back(name: str, device: torch.device) -> None:
    mapping = MAPPINGS[name](LOW, HIGH, REACH)
    low, high = mapping.bounds
    weight = low + (high - low) * torch.rand(7, 5, generator=seeded(), dtype=torch.float64).to(device)
    targets = mapping.targets(weight)
    assert targets.shape == (mapping.cells, 7, 5)
    assert float(targets.min()) >= LOW and float(targets.max()) <= HIGH
    torch.testing.assert_close(mapping.decoded(targets), weight, rtol=1e-12, atol=0.0)
    assert not mapping.outside(weight).any()


@pytest.mark.parametrize("name", MAPPINGS)
def test_what_is_out_of_range_is_clipped_and_known(name: str) -> None:
    mapping = MAPPINGS[name](LOW, HIGH, REACH)
    low, high = mapping.bounds
    weight = torch.tensor([low - 0.1 * (high - low), high + 0.1 * (high - low)], dtype=torch.float64)
    torch.testing.assert_close(mapping.decoded(mapping.targets(weight)), torch.tensor([low, high]).double())
    assert mapping.outside(weight).all()


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_cell_moves_the_parameter_the_way_of_its_sign(name: str) -> None:
    mapping = MAPPINGS[name](LOW, HIGH, REACH)
    g = torch.full((mapping.cells, 1), 5e-6, dtype=torch.float64)
    for c, sign in enumerate(mapping.signs):
        more = g.clone()
        more[c] += 1e-6
        moved = float(mapping.decoded(more) - mapping.decoded(g))
        assert moved == pytest.approx(sign * 1e-6 / mapping.scale)


def test_pairs_lie_where_their_mapping_says() -> None:
    weight = torch.tensor([0.25, -0.25, 0.0], dtype=torch.float64)
    middle, quarter = (LOW + HIGH) / 2, (HIGH - LOW) / 4
    expected = {
        "balanced": [[middle + quarter, middle - quarter, middle], [middle - quarter, middle + quarter, middle]],
        "one-sided": [[LOW + 2 * quarter, LOW, LOW], [LOW, LOW + 2 * quarter, LOW]],
    }
    for name, cells in expected.items():
        found = MAPPINGS[name](LOW, HIGH, REACH).targets(weight)
        torch.testing.assert_close(found, torch.tensor(cells, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_an_array_of_single_cells_holds_conductances() -> None:
    g = 1e-6 + 9e-6 * torch.rand(6, 4, generator=seeded())
    noisy = Substrate(cells=CellArray("pcm", "single"))
    array = Array("bank", g, noisy, Streams(1), Moment(phase_time=1000))
    assert array.conductance.shape == (1, 6, 4) and array.scale == 1.0
    found = array.effective(g, back=False)
    assert found.shape == g.shape
    assert 0.0 < float((found / g - 1).std()) < 0.5 and abs(float((found / g).mean()) - 1) < 0.3
    calm = Substrate(cells=CellArray("pcm", "single", programming=False, drift=False, read_noise=False))
    again = Array("bank", g, calm, Streams(1), Moment(phase_time=1000))
    torch.testing.assert_close(again.effective(g, back=True), g)
    assert "a cell for every conductance" in noisy.describe()


def test_single_cells_out_of_range_are_warned_of_in_siemens() -> None:
    g = torch.full((3, 3), 40e-6)
    with pytest.warns(RuntimeWarning, match=r"100 % .* 0 to 2.5e-05 S, and are clipped .*g_max_siemens=4e-05"):
        Array("bank", g, Substrate(cells=CellArray("pcm", "single")), Streams(1), Moment())


def test_single_cells_cannot_hold_signed_weights() -> None:
    net: Any = network("chain-tanh")
    with pytest.raises(ConfigError, match="one conductance cannot be negative"):
        Substrate(cells=CellArray("pcm", "single")).fabricate(net)
    with pytest.raises(ConfigError, match="did you mean 'single'"):
        hardware.CellArray(mapping="singel")
