"""What a write path asks of an optimiser and of the arrays of a chip."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from eqprop._errors import ConfigError
from hardware._array import Array


def require_optimizer(optimizer: object) -> None:
    """Raises ConfigError unless it is an optimiser that proposes one change a step."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"write path: got {type(optimizer).__name__}, needed an optimizer of torch.optim; write "
            "chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.1))"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(
            "write path: got LBFGS, which relaxes the network many times within a step, needed an optimizer that "
            "proposes one change a step; write torch.optim.SGD(chip.parameters(), lr=0.1)"
        )


def require_pulses(arrays: Mapping[str, Array], mode: str, *, twin: bool) -> None:
    """Raises ConfigError unless pulses can raise and lower the weights of all arrays, by their connection."""
    if twin:
        raise ConfigError(
            f"write path: got mode {mode!r} on twin arrays, which pulses would tell apart: what one set holds is not "
            "what the other does; write mode='programmed', or Substrate(twin=False)"
        )
    for key, array in arrays.items():
        law = array.device.pulses
        if law is None:
            raise ConfigError(
                f"write path: connection {key} is of {array.device.name!r}, whose response to pulses is not "
                "published, needed one that is; write mode='programmed', or device='reram-sb'"
            )
        if law.one_way and array.mapping.cells == 1:
            raise ConfigError(
                f"write path: pulses on {array.device.name!r} go one way, and a conductance in a single cell must "
                "also come down; write mode='programmed', or device='ecram'"
            )
        if law.one_way and array.layout is not None and array.layout.mapping == "balanced":
            raise ConfigError(
                f"write path: pulses on {array.device.name!r} go one way, and a balanced pair starts in the middle "
                "of its range; write CellArray(mapping='one-sided')"
            )
