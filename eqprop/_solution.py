"""What a relaxation returns: an equilibrium, and how each sample reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eqprop._errors import ConvergenceError
from eqprop._network import State, System


class Status:
    """Outcome of a relaxation, a sample each (``Solution.status``, int8); the same under ``Stop`` and ``Sweeps``.

    ``OSCILLATING``: after 3 sweeps or more the state is that of two sweeps ago, within ``tol`` and within a thousandth
    of the last step, so that steps do not shrink (not for a solver with a memory). ``DIVERGED``: the residual is more
    than 1e4 times ``1 +`` that of the first sweep.
    """

    CONVERGED: ClassVar[int] = 0
    MAX_SWEEPS: ClassVar[int] = 1
    OSCILLATING: ClassVar[int] = 2
    DIVERGED: ClassVar[int] = 3
    NONFINITE: ClassVar[int] = 4

    TEXT: ClassVar[dict[int, str]] = {
        0: "converged",
        1: "ran out of sweeps: allow more (max_sweeps), or loosen tol",
        2: "oscillates with period 2: use Alternating() instead of Synchronous(), or GradientFlow(dt=0.5) or smaller",
        3: "diverges: use smaller weights, a bounded activation, or GradientFlow with a smaller dt",
        4: "became NaN or infinite: use smaller weights or learning rates; check the data",
    }


@dataclass(frozen=True)
class Solution:
    """An equilibrium and how it was reached; one value a sample (``[batch]`` or ``[model, batch]``).

    Attributes:
        state: the equilibrium, a tuple of ``[batch, *shape]``.
        residual: ``max |update(s) - s|`` over the units at the last sweep, in block order.
        sweeps: sweeps that the sample took (int32).
        status: one of ``Status`` (int8).
        rate: contraction of the residual a sweep, over the last block or (``Sweeps``, first block) from the first to
            the last sweep; 0 where the residual is 0, else NaN after a single sweep.
    """

    state: State
    residual: Tensor
    sweeps: Tensor
    status: Tensor
    rate: Tensor

    @property
    def error_estimate(self) -> Tensor:
        """``residual / (1 - rate)``: the distance to the fixed point, where a small step is not a small error.

        Infinite where the residual does not fall, NaN where the rate is. After few sweeps the rate is a mean over the
        transient, and under ``Sweeps`` always: there it is the order of the error, not a bound.
        """
        return self.residual / (1 - self.rate.clamp(0.0, 1.0))

    @property
    def converged(self) -> Tensor:
        """Mask of converged samples."""
        return self.status == Status.CONVERGED

    def split(self, parts: int, system: System) -> tuple[Solution, ...]:
        """The solutions of ``parts`` phases that relaxed as one batch."""
        if parts == 1:
            return (self,)
        states = [s.chunk(parts, dim=-len(h) - 1) for s, h in zip(self.state, system.shapes, strict=True)]
        rest = [t.chunk(parts, dim=-1) for t in (self.residual, self.sweeps, self.status, self.rate)]
        return tuple(Solution(tuple(s[k] for s in states), *(t[k] for t in rest)) for k in range(parts))

    def raise_for_status(self) -> Solution:
        """Itself, if every sample converged.

        Raises:
            ConvergenceError: names the samples, their residual and the remedy. Waits for the device.
        """
        failed = torch.nonzero(self.status.flatten() != Status.CONVERGED).flatten().tolist()
        if failed:
            first = failed[0]
            status = int(self.status.flatten()[first])
            raise ConvergenceError(
                f"{len(failed)} of {self.status.numel()} samples did not converge, batch indices {failed[:8]}; "
                f"sample {first} has residual {float(self.residual.flatten()[first]):.3g} after "
                f"{int(self.sweeps.flatten()[first])} sweeps and {Status.TEXT[status]}"
            )
        return self
