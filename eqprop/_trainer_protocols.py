"""What the trainer asks of a rule, of data and of its numbers, and how it refuses others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from eqprop._errors import ConfigError


class Rule(Protocol):
    """What the trainer asks of a learning rule. `state_dict()` / `load_state_dict()` are used where a rule has them."""

    def backward(self, network: Any, x: Tensor, y: Tensor) -> Any:
        """Fill `.grad`; return a step with `loss` (0-d), `output` [B, classes] and, if any, `free` and `nudged`."""


class Batches(Protocol):
    """What the trainer asks of a split of the data."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]: ...


def require_data(data: Any) -> None:
    """Raises ``ConfigError`` unless the data have the splits and classes that a trainer needs."""
    parts = [getattr(data, name, None) for name in ("train", "validation", "test")]
    if not all(hasattr(part, "batches") and hasattr(part, "__len__") for part in parts) or not hasattr(data, "classes"):
        raise ConfigError(
            f"data: got {type(data).__name__}, needed an eqprop.DataSplits, or an object with its train, validation "
            "and test (each with len() and batches(batch_size, generator=...)) and classes; write "
            "eqprop.load_dataset(...), or eqprop.DataSplits of eqprop.Split(images, labels)."
        )


def require_whole(name: str, value: Any) -> None:
    """Raises ``ConfigError`` unless the setting is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: got {value!r}, needed a whole number of at least 1.")
