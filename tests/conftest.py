"""Fixtures that every test file shares."""

from __future__ import annotations

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
# Workers run side by side (`pytest -n 2`), and results are compared bit for bit: one thread each.
torch.set_num_threads(1)

_CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


@pytest.fixture(params=["cpu", _CUDA])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device present; CUDA is skipped with a word where there is none."""
    return torch.device(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded CPU generator: the only source of randomness in a test."""
    return torch.Generator().manual_seed(0)
