"""Generated files in the form of CIFAR-10, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_subset(folder: Path) -> Path:
    """Write cifar10_subset.npz, in which the mean colour tells the class, into the folder; returns that."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, n in (("train", 60), ("test", 30)):
        labels = np.arange(n) % 10
        images = 20 * labels[:, None, None, None] + draw.integers(0, 60, (n, 32, 32, 3))
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(folder / "cifar10_subset.npz", **arrays)
    return folder
