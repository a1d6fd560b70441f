"""When a relaxation ends: at a tolerance, a sample each, or after a number of sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eqprop._errors import ConfigError


@dataclass(frozen=True)
class Stop:
    """Sweep until the residual of a sample is at most ``tol``, at most ``max_sweeps`` times.

    The residual, the mask of running samples and the contraction rate are computed once a ``block`` of sweeps; inside a
    block nothing waits for the device, and the boundaries of blocks do not depend on the batch.

    Args:
        tol: bound on ``max over units |update(s) - s|``.
        max_sweeps: then the sample is ``MAX_SWEEPS``.
        block: sweeps between two looks.

    Raises:
        ConfigError: a bound that is negative or not finite, or a number of sweeps that is not whole and positive.
    """

    tol: float = 1e-4
    max_sweeps: int = 500
    block: int = 10

    def __post_init__(self) -> None:
        if not _is_bound(self.tol) or not _is_count(self.max_sweeps) or not _is_count(self.block):
            raise ConfigError(
                f"Stop: got {self}, needed tol >= 0, max_sweeps >= 1, block >= 1: tol finite, the others whole numbers"
            )


@dataclass(frozen=True)
class Sweeps:
    """Exactly ``n`` sweeps, as papers do, for every sample; ``tol`` only decides what ``status`` says.

    The first and the last residual, and the last step back over two sweeps, are computed once, at the end.

    Raises:
        ConfigError: ``n`` is no whole number of at least 1, or ``tol`` is negative or not finite.
    """

    n: int
    tol: float = 1e-3

    def __post_init__(self) -> None:
        if not _is_count(self.n):
            raise ConfigError(f"Sweeps: got n={self.n}, needed a whole number of at least 1")
        if not _is_bound(self.tol):
            raise ConfigError(f"Sweeps: got tol={self.tol}, needed a finite number of at least 0")


def _is_bound(tol: object) -> bool:
    return isinstance(tol, int | float) and math.isfinite(tol) and tol >= 0.0


def _is_count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def require_stop(what: str, stop: object) -> None:
    """Raises ``ConfigError`` unless ``stop`` says when a relaxation ends."""
    if not isinstance(stop, Stop | Sweeps):
        raise ConfigError(f"{what}: got {stop!r}, needed eqprop.Stop(tol=1e-4) or eqprop.Sweeps(20)")
