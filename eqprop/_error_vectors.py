"""How good is a rule's error vector, layer by layer, against the true adjoint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._diagnostics import match
from eqprop._linear_response import LinearResponse
from eqprop._network import Network
from eqprop._rule import Rule, at_equilibrium, loss_gradient


class ErrorVectorMatch(NamedTuple):
    """Agreement of a layer's error vectors ``e`` (a sample each) with the true ``delta``.

    Attributes:
        cosine: ``<e, delta> / |e||delta|``, mean over samples.
        cosine_std: its standard deviation over samples (0 for a single one).
        relative_error: ``|e - delta| / |delta|`` of all samples as one vector.
        norm_ratio: ``|e| / |delta|``, likewise.
        relative_error_median: median over samples of a sample's own ``|e - delta| / |delta|``. ``|delta|`` may span
            orders of magnitude, so that a few samples near a bifurcation set the figure of all as one vector.
        relative_error_q90: the 90 % quantile of the same.
        samples: number of samples compared: those whose adjoint system was solved and whose errors are finite.
    """

    cosine: float
    cosine_std: float
    relative_error: float
    norm_ratio: float
    relative_error_median: float
    relative_error_q90: float
    samples: int


@torch.no_grad()
def compare_error_vectors(
    network: Network,
    rule: Rule,
    x: Tensor,
    y: Tensor,
    *,
    tol: float | None = None,
    max_iterations: int = 400,
    restart: int = 40,
) -> dict[str, ErrorVectorMatch]:
    """Agreement of ``rule.error_vector`` with the true adjoint, for each layer that moves, in their order.

    The adjoint solves ``delta = D (dC/ds + H^T delta)`` at the rule's own free equilibrium, by GMRES; the rule's error
    vector is minus its estimate of ``ds/dbeta``. ``.grad`` stays as it is. A sample with ``delta = 0`` in a layer
    has no cosine and no relative error of its own there.

    Args:
        network, rule, x, y: as of ``rule.backward``.
        tol, max_iterations, restart: of GMRES, as of ``ImplicitGradient``.

    Raises:
        ConfigError: a rule without an error vector.
    """
    taken, error = rule.error_vector(network, x, y)
    state, drive = taken.free.state, taken.drive
    sample = at_equilibrium(network, rule.loss_function, state, y)
    source = tuple(torch.zeros_like(s) for s in state[:-1])
    source += (loss_gradient(network, rule.loss_function, sample, state),)
    system = LinearResponse(network, state, drive, adjoint=True)
    delta, residual = system.solve(source, tol=tol, max_iterations=max_iterations, restart=restart)
    usable = residual <= torch.finfo(residual.dtype).eps ** 0.5
    for e in error:
        usable = usable & torch.isfinite(e).flatten(1).all(1)
    return {
        name: _match(e.flatten(1)[usable].double(), t.flatten(1)[usable].double())
        for name, e, t in zip(network.names, error, delta, strict=True)
    }


def _match(e: Tensor, t: Tensor) -> ErrorVectorMatch:
    size = t.norm(dim=1)
    cosines = (e * t).sum(1) / (e.norm(dim=1).clamp(min=torch.finfo(e.dtype).tiny) * size)
    cosines = cosines[size > 0]
    errors = ((e - t).norm(dim=1) / size)[size > 0]
    total = match(e, t)
    spread = float(cosines.std()) if len(cosines) > 1 else 0.0
    median, q90 = (float(errors.quantile(q)) if len(errors) else torch.nan for q in (0.5, 0.9))
    # of an empty set the mean is NaN
    return ErrorVectorMatch(float(cosines.mean()), spread, total.relative_error, total.norm_ratio, median, q90, len(e))
