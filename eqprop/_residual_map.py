"""Where in the complex plane of the nudge a network still settles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._complex import ComplexCostNudge, ComplexSystem
from eqprop._contours import contour
from eqprop._ep import EquilibriumPropagation
from eqprop._errors import ConfigError
from eqprop._network import Network
from eqprop._relax import relax
from eqprop._rule import Rule, at_equilibrium
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True)
class ResidualMap:
    """Residuals over a square of complex nudges; row 0 is the most negative imaginary part.

    Attributes:
        betas: the grid, complex, ``[resolution, resolution]``.
        log10_residual: of the largest residual over the batch at each point; infinite where a state blew up, and not
            below the rounding of the dtype.
        nudges: all points of the rule's contour, conjugates included.
        tol: residual below which the rule calls a phase converged.
        sweeps: that each point relaxed, at most.
    """

    betas: Tensor
    log10_residual: Tensor
    nudges: tuple[complex, ...]
    tol: float
    sweeps: int


@torch.no_grad()
def residual_map(
    network: Network,
    rule: Rule,
    x: Tensor,
    y: Tensor,
    *,
    radius: float = 1.0,
    resolution: int = 101,
    stop: Stop | Sweeps | None = None,
    rows: int = 4096,
) -> ResidualMap:
    """Residual of the nudged phase for ``beta`` on a grid over ``|Re|, |Im| <= radius``.

    Every point relaxes from the free equilibrium with the rule's solver and correction; many points relax as one batch.
    Only the upper half plane is computed: a real network answers a conjugate nudge with the conjugate state.

    Args:
        network, rule, x, y: as of ``rule.backward``; the activations and the cost must be holomorphic.
        radius: half the side of the square.
        resolution: points a side.
        stop: of each point; None for the rule's largest number of nudged sweeps, all of them, so that the map also
            shows how fast a point settles.
        rows: samples that relax together, for memory.

    Raises:
        ConfigError: a rule without nudges, activations or a cost that are not holomorphic, or a bad grid.
    """
    if not isinstance(rule, EquilibriumPropagation):
        raise ConfigError(f"residual_map: got {type(rule).__name__}, needed EquilibriumPropagation")
    if not isinstance(resolution, int) or resolution < 2 or not 0.0 < radius < math.inf:
        raise ConfigError(
            f"residual_map: got radius {radius}, resolution {resolution}; needed radius > 0 and a resolution of at "
            "least 2, as radius=1.0, resolution=101"
        )
    if stop is None:
        stop = Sweeps(rule.nudged.n if isinstance(rule.nudged, Sweeps) else rule.nudged.max_sweeps, rule.nudged.tol)
    drive = network.drive(x)
    free = rule.settle(network, drive, None)
    sample = at_equilibrium(network, rule.loss_function, free.state, y)
    system, drive = network.adjoint_dynamics(free.state, drive) if rule.correction == "asymep" else (network, drive)
    lifted = ComplexSystem(system)
    batch = len(sample.loss)
    axis = torch.linspace(-radius, radius, resolution, dtype=torch.float64)
    upper = axis[resolution // 2 :]  # includes 0 where the resolution is odd
    points = torch.complex(axis.expand(len(upper), -1), upper[:, None].expand(-1, resolution)).flatten()
    found = []
    for part in points.split(max(1, rows // batch)):
        k = len(part)
        beta = torch.cat([part.real, part.imag]).to(sample.loss).repeat_interleave(batch)[:, None]
        nudge = ComplexCostNudge(network, rule.loss_function, sample.target.repeat(k, 1), beta)
        solution = relax(
            lifted,
            lifted.lift_state(system.repeat_state(free.state, k)),
            lifted.lift_drive(system.repeat_drive(drive, k)),
            nudge,
            solver=rule.nudged_solver or rule.solver,
            stop=stop,
        )
        found.append(solution.residual.nan_to_num(nan=math.inf).reshape(k, batch).amax(1))
    residual = torch.cat(found).clamp(min=torch.finfo(sample.loss.dtype).eps).log10().cpu()
    half = residual.reshape(len(upper), resolution)
    below = half[1:] if resolution % 2 else half
    grid = torch.complex(axis.expand(resolution, -1), axis[:, None].expand(-1, resolution))
    nudges: tuple[complex, ...] = ()
    if rule.contour != "derivative":
        shape = contour(rule.contour, rule.beta, rule.points)
        signs = (1.0, -1.0) if shape.both_signs else (1.0,)
        nudges = tuple(complex(b * s) for b in shape.betas for s in signs)
        nudges += shape.complex_betas + tuple(b.conjugate() for b in shape.complex_betas)
    sweeps = stop.n if isinstance(stop, Sweeps) else stop.max_sweeps
    return ResidualMap(grid, torch.cat([below.flip(0), half]), nudges, rule.nudged.tol, sweeps)
