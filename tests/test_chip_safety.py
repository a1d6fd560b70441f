"""What a chip refuses or says rather than do something else in silence: states, clipping, stuck cells, write paths."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hardware
from eqprop import ConfigError
from hardware import Auxiliary, CellArray, Device, ResistiveNetwork, Substrate, Timing
from tests.helpers import inputs, network, seeded


def chip_of(device: str | Device = "pcm", **options: Any) -> Any:
    return Substrate(cells=CellArray(device, **options)).fabricate(network("chain-tanh"), seed=1)


def sgd(chip: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(chip.parameters(), lr=1.0)


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        Substrate(cells=CellArray("hermes-pcm")),
        Substrate(cells=CellArray("pcm", headroom=3.0)),
        Substrate(cells=CellArray("pcm"), timing=Timing(phase_seconds=1e-3)),
    ],
    ids=["device", "headroom", "timing"],
)
def test_the_state_of_a_chip_of_another_substrate_is_refused_and_nothing_is_loaded(other: Substrate) -> None:
    chip: Any = other.fabricate(network("chain-tanh"), seed=1)
    before = {k: v.clone() for k, v in chip.state_dict().items()}
    with pytest.raises(ConfigError, match="another substrate"):
        chip.load_state_dict(chip_of().state_dict())
    assert all(torch.equal(v, before[k]) for k, v in chip.state_dict().items())


@pytest.mark.parametrize(
    "same",
    [
        Substrate.from_spec(json.loads(json.dumps(Substrate(cells=CellArray("pcm", weight_range=1)).spec()))),
        Substrate(cells=CellArray(hardware.device("pcm"), weight_range=1.0)),
    ],
    ids=["through JSON", "device and numbers written otherwise"],
)
def test_the_state_of_a_chip_of_the_same_substrate_is_loaded_however_that_was_written(same: Substrate) -> None:
    chip: Any = same.fabricate(network("chain-tanh"), seed=1)
    saved = chip_of(weight_range=1)
    saved.wait(5.0)
    chip.load_state_dict(saved.state_dict())
    assert chip.clock_seconds == saved.clock_seconds >= 5.0


# -- clipping ----------------------------------------------------------------------------------------------------------


def resistive() -> Any:
    net = ResistiveNetwork.mlp(4, 6, 2, generator=seeded())
    cells = CellArray("idealized", "single", g_min_siemens=net.g_min_siemens, g_max_siemens=net.g_max_siemens)
    return Substrate(cells=cells).fabricate(net)


@pytest.mark.parametrize(
    "made", [lambda: chip_of("idealized", weight_range=2.0), resistive], ids=["weights", "resistors"]
)
def test_weights_that_outgrow_their_cells_are_told_of_once_an_array(made: Callable[[], Any]) -> None:
    chip = made()
    x = torch.rand(3, 4, generator=seeded()) if isinstance(chip, ResistiveNetwork) else inputs(chip)
    chip.drive(x)
    with torch.no_grad():
        for p in chip.parameters():
            p.fill_(100.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        chip.drive(x)
    clipped = [str(w.message) for w in told]
    assert len(clipped) == len(chip.arrays) > 0
    assert all("100 % of the weights lie outside the range" in text for text in clipped)
    with torch.no_grad():
        for p in chip.parameters():
            p.fill_(200.0).view(-1)[0] = 0.0  # a cell to write
    chip.drive(x)  # where a warning would be an error


def test_a_few_weights_outside_the_range_are_counted_without_a_warning() -> None:
    chip = chip_of("idealized", weight_range=2.0)
    weight = next(iter(chip.arrays))
    with torch.no_grad():
        chip.weight_of(weight).view(-1)[:2] = 100.0
    chip.drive(inputs(chip))
    assert chip.counts["clipped"] == 2


# -- stuck cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["proportional", "stochastic", "sign"])
def test_pulses_leave_stuck_cells_as_they_are_seen(mode: str) -> None:
    chip = chip_of("reram-sb", stuck_share=0.3)  # whose writes are noisy
    optimizer = sgd(chip)
    chip.write_path(optimizer, mode=mode)
    before = {k: a.conductance.clone() for k, a in chip.arrays.items()}
    for p in chip.parameters():
        p.grad = torch.full_like(p, 0.02)
    optimizer.step()
    for key, array in chip.arrays.items():
        stuck = array.cells.stuck
        assert bool(stuck.any()) and torch.equal(array.conductance[stuck], before[key][stuck])
        assert not torch.equal(array.conductance[~stuck], before[key][~stuck])


@pytest.mark.parametrize("device", ["pcm", "reram-cmo", "capacitor"])
def test_stuck_cells_do_not_drift(device: str) -> None:
    chip = chip_of(device, stuck_share=0.3)
    for write in range(2):
        chip.drive(inputs(chip))
        chip.wait(1e4)
        chip.drive(inputs(chip))
        for array in chip.arrays.values():
            stuck, now = array.cells.stuck, array.undisturbed()
            assert bool(stuck.any()) and torch.equal(now[stuck], array.conductance[stuck])
            assert float((now - array.conductance)[~stuck].abs().max()) > 0.0
        if write == 0:
            with torch.no_grad():
                for p in chip.parameters():
                    p.mul_(0.9)


# -- write paths -------------------------------------------------------------------------------------------------------


def test_a_second_write_path_on_an_optimizer_is_refused_until_the_first_is_removed() -> None:
    chip = chip_of("ecram")
    optimizer = sgd(chip)
    path = chip.write_path(optimizer, mode="sign")
    with pytest.raises(ConfigError, match="applied twice.*remove"):
        chip.write_path(optimizer, mode="sign")
    path.remove()
    path.remove()
    chip.write_path(optimizer, mode="sign")


def test_one_optimizer_may_write_to_two_chips() -> None:
    chips = [chip_of("ecram"), chip_of("ecram")]
    optimizer = torch.optim.SGD([p for c in chips for p in c.parameters()], lr=1.0)
    paths = [c.write_path(optimizer, mode="sign") for c in chips]
    for c in chips:
        for p in c.parameters():
            p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(path.pulses > 0 for path in paths)


WRONG: dict[str, tuple[Callable[[Any], Any], dict[str, Any], str]] = {
    "lbfgs": (lambda chip: torch.optim.LBFGS(chip.parameters()), {}, "got LBFGS.*write torch.optim.SGD"),
    "none": (lambda chip: None, {}, "got NoneType, needed an optimizer"),
    "parameters": (lambda chip: list(chip.parameters()), {}, "got list, needed an optimizer"),
    "typo": (sgd, {"mod": "sign"}, "option: got 'mod'.*did you mean 'mode'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_write_path_can_be_made_of_is_refused(case: str) -> None:
    optimizer, options, message = WRONG[case]
    chip = chip_of("ecram")
    with pytest.raises(ConfigError, match=message):
        chip.write_path(optimizer(chip), **options)


def test_a_state_with_auxiliary_cells_asks_for_the_write_path_first() -> None:
    saved, chip = chip_of("reram-sb"), chip_of("reram-sb")
    saved.write_path(sgd(saved), auxiliary=Auxiliary())
    with pytest.raises(ConfigError, match=r"write_path\(.*, then chip.load_state_dict"):
        chip.load_state_dict(saved.state_dict())
    chip.write_path(sgd(chip), auxiliary=Auxiliary())
    chip.load_state_dict(saved.state_dict())
    with pytest.raises(ConfigError, match="write_path"):
        chip.spec()
