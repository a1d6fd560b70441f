"""The state of a chip says what its conductances stand for, whatever weights the chip was made with that loads it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from eqprop import ConfigError
from hardware import Auxiliary, CellArray, Fluctuation, OutputAdc, Substrate, ThermalNoise
from tests.helpers import inputs, network


def weights_that_act(chip: Any) -> list[torch.Tensor]:
    return [a.effective(chip.weight_of(k), back=False).clone() for k, a in chip.arrays.items()]


@pytest.mark.parametrize("twin", [False, True])
def test_a_chip_made_with_other_weights_loads_the_weights_and_not_their_conductances_alone(twin: bool) -> None:
    net, other = network("chain-tanh"), network("chain-tanh")
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(3.0)
    substrate = Substrate(cells=CellArray("ecram"), twin=twin)
    chip, loaded = (substrate.fabricate(n, seed=1) for n in (net, other))
    loaded.load_state_dict(chip.state_dict())
    x = inputs(net)
    for phase in (0, 1):
        for c in (chip, loaded):
            if phase == 0:
                c.drive(x)
            c.begin_phase(phase)
        for a, b in zip(weights_that_act(chip), weights_that_act(loaded), strict=True):
            assert torch.equal(a, b)


def test_auxiliary_cells_take_the_range_of_the_weights_that_were_loaded() -> None:
    net, other = network("chain-tanh"), network("chain-tanh")
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(3.0)
    chips: list[Any] = [Substrate(cells=CellArray("reram-sb")).fabricate(n) for n in (net, other)]
    for chip in chips:
        chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.1), auxiliary=Auxiliary())
    chips[1].load_state_dict(chips[0].state_dict())
    for a, b in zip(*(c.arrays.values() for c in chips), strict=True):
        assert a.auxiliary.reach == b.auxiliary.reach


def test_states_from_before_ranges_were_kept_load_as_they_did() -> None:
    net = network("chain-tanh")
    chip: Any = Substrate(cells=CellArray("pcm")).fabricate(net)
    loaded: Any = Substrate(cells=CellArray("pcm")).fabricate(net)
    state = chip.state_dict()
    state["_extra_state"] = state["_extra_state"][: 5 + len(chip.arrays)]
    loaded.load_state_dict(state)
    assert all(map(torch.equal, weights_that_act(chip), weights_that_act(loaded)))


@pytest.mark.parametrize("cells", [CellArray("ecram"), None])
def test_changes_that_a_write_path_cut_are_kept_and_older_states_have_none(cells: CellArray | None) -> None:
    net = network("chain-tanh")
    substrate = Substrate(cells=cells)
    chip: Any = substrate.fabricate(net)
    loaded: Any = substrate.fabricate(net)
    chip.get_buffer("_limited").fill_(7)
    loaded.load_state_dict(chip.state_dict())
    assert loaded.counts["limited"] == 7
    state = chip.state_dict()
    state["_extra_state"] = state["_extra_state"][:-1]
    loaded.load_state_dict(state)
    assert loaded.counts["limited"] == 0
    with pytest.raises(ConfigError, match="another substrate"):
        Substrate(cells=cells, adc=OutputAdc()).fabricate(net).load_state_dict(state)


def test_the_state_of_a_chip_with_other_arrays_is_refused() -> None:
    net = network("chain-tanh")
    with pytest.raises(ConfigError, match="other arrays than the 0"):
        Substrate().fabricate(net).load_state_dict(
            Substrate(fluctuations=(Fluctuation(0.1),)).fabricate(net).state_dict()
        )


@pytest.mark.parametrize("thermal", [None, ThermalNoise(1e-3, window_sweeps=3)])
def test_a_chip_can_be_copied_after_a_prediction_with_gradients_enabled(thermal: ThermalNoise | None) -> None:
    """Which leaves drives with graphs behind, that torch does not copy."""
    chip: Any = Substrate(cells=CellArray("pcm"), thermal=thermal).fabricate(network("triangle"), seed=1)
    chip.predict(inputs(chip))
    others = [chip.clone(), copy.deepcopy(chip), pickle.loads(pickle.dumps(chip))]
    expected = chip.predict(inputs(chip))
    for other in others:
        torch.testing.assert_close(other.predict(inputs(chip)), expected, rtol=0.0, atol=0.0)
