"""When cells were last written: the numbers of moments against times a cell, and what a file holds of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import eqprop
from eqprop._errors import ConfigError
from hardware import CellArray, Substrate, _write_times
from hardware._write_times import WriteTimes
from tests.helpers import seeded


@pytest.mark.parametrize("room", [4, 4096])
def test_times_are_those_of_a_mask_on_whole_numbers(
    room: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_write_times, "_ROOM", room)  # so that moments are dropped again and again
    generator, shape = seeded(), (2, 5, 7)
    expected = torch.zeros(shape, dtype=torch.int64, device=device)
    times, clock = WriteTimes(expected.clone()), 0
    for step in range(60):
        clock += int(torch.randint(0, 3, (), generator=generator)) * 10**12 + step % 2  # some writes at one moment
        if step % 3 == 0:
            mask = (torch.rand(shape, generator=generator) < 0.3).to(device)
            times.restart(mask.to(torch.float32), clock)
            expected = torch.where(mask, clock, expected)
        elif step % 3 == 1:
            cells = torch.randint(0, expected.numel(), (step % 4,), generator=generator).to(device)
            times.restart(cells, clock)
            expected.view(-1)[cells] = clock
        elif step == 29:
            times.restart(None, clock)
            expected.fill_(clock)
        assert torch.equal(times.of_each, expected)
        assert times.span() == (int(expected.min()), int(expected.max()))
        since = (clock + 5 - expected).double() * 1e-9
        torch.testing.assert_close(times.seconds_since(clock + 5, torch.float64), since, rtol=1e-14, atol=0.0)
    assert int(times.seconds_since(0, torch.float32).abs().max()) == 0  # nothing is younger than now


def chip_of(layers: tuple[int, ...] = (6, 5, 3)) -> Any:
    net = eqprop.HopfieldNetwork.mlp(*layers, generator=seeded())
    return Substrate(cells=CellArray("pcm")).fabricate(net)


def test_a_file_holds_the_times_of_all_cells_and_a_precision_does_not_change_them() -> None:
    chip, x = chip_of(), torch.rand(2, 6, generator=seeded())
    for row in range(3):
        chip.drive(x)
        with torch.no_grad():
            chip.weight_of("input-hidden1")[row] += 0.01
        chip.wait(3e8)  # beyond what floating point holds to the nanosecond
    chip.drive(x)
    written = chip.arrays["input-hidden1"].written
    assert len(written.unique()) == 4 and int(written.max()) > 2**53
    other = chip_of()
    other.load_state_dict(chip.state_dict())
    assert torch.equal(other.arrays["input-hidden1"].written, written)
    assert torch.equal(chip.to(torch.float64).arrays["input-hidden1"].written, written)


def test_a_file_without_times_or_of_other_cells_is_refused() -> None:
    chip = chip_of()
    key = "connections.input-hidden1.array.written"
    state = chip.state_dict()
    at = state.pop(key)
    with pytest.raises((RuntimeError, ConfigError), match="written"):
        chip.load_state_dict(state)
    with pytest.raises((RuntimeError, ConfigError), match=r"written.*needed \(2, 5, 6\)"):
        chip.load_state_dict(state | {key: at[:1]})
