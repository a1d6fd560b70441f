"""`benchmarks.noise`: which results are kept, and what its network disturbs; training itself is that of the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import noise
from benchmarks._common import run_main
from benchmarks._noise_points import Config, NoisyHopfieldNetwork


def script(out: Path, *given: str) -> None:
    assert run_main(noise.main, noise.options(), ["--out", str(out), *given], make_run=False) == 0


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int, int]]:
    """Training put in place by a note of (level, seed, epochs); the accuracy it returns is the number of epochs."""
    made: list[tuple[float, int, int]] = []

    def train(config: Config, folder: str | None) -> dict[str, float]:
        epochs = config.training.epochs
        made.append((config.network.noise_level, config.seed, epochs))
        return {"accuracy_percent": float(epochs), "first_layer_cosine": config.rule.beta}

    monkeypatch.setattr(noise, "train", train)
    return made


def test_a_resumed_run_trains_the_seeds_that_are_missing_and_no_others(
    tmp_path: Path, trained: list[tuple[float, int, int]]
) -> None:
    script(tmp_path, "--seeds", "1")
    assert trained == 3 * [(0.04, 0, 5)]
    script(tmp_path, "--seeds", "2", "--resume")
    assert trained[3:] == 3 * [(0.04, 1, 5)]


def test_an_overwritten_run_keeps_no_result_of_the_old_settings(
    tmp_path: Path, trained: list[tuple[float, int, int]]
) -> None:
    script(tmp_path, "--seeds", "2", "--epochs", "2")
    script(tmp_path, "--seeds", "1", "--epochs", "3", "--overwrite")
    assert trained[6:] == 3 * [(0.04, 0, 3)]
    kept = [json.loads(path.read_bytes())["accuracy_percent"] for path in (tmp_path / "results").iterdir()]
    assert kept == 3 * [3.0]


@torch.no_grad()
def test_noise_enters_the_input_of_every_unit_at_every_sweep() -> None:
    network = NoisyHopfieldNetwork.mlp(4, 3, 2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(20000, 4, generator=torch.Generator().manual_seed(1))
    drive, state = network.drive(x), network.initial_state(len(x))
    quiet = network.block_inputs(state, drive, range(2), network.new_cache())
    network.level, network.noise = 0.04, torch.Generator().manual_seed(2)
    first, second = (network.block_inputs(state, drive, range(2), network.new_cache()) for _ in range(2))
    for silent, one, other in zip(quiet, first, second, strict=True):
        torch.testing.assert_close((one - silent).std(0), torch.full(silent.shape[1:], 0.04), rtol=0.03, atol=0.0)
        assert torch.corrcoef(torch.stack([(one - silent).flatten(), (other - silent).flatten()]))[0, 1].abs() < 0.03
