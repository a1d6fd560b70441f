"""How far a network is from having an energy: antisymmetry of its Jacobian, and angles between its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._connections import DenseConnection
from eqprop._directed import DirectedNetwork
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._names import lookup
from eqprop._network import Drive, Network, State
from eqprop._relax import relax
from eqprop._stop import Stop, Sweeps

_COORDINATES = {"activation": False, "membrane": True}  # whether the slopes of the activations enter
_PROBES = 32


@dataclass(frozen=True)
class FunctionalAsymmetry:
    """Frobenius norms of the parts ``S = (J + J^T)/2`` and ``A = (J - J^T)/2`` of a Jacobian, a sample each.

    Attributes:
        symmetric: ``s = |S|``, ``[batch]``.
        antisymmetric: ``a = |A|``, ``[batch]``.
    """

    symmetric: Tensor
    antisymmetric: Tensor

    @property
    def symmetry(self) -> Tensor:
        """The published measure ``s / (s + a)``, ``[batch]``: 1 for a symmetric Jacobian, 1/2 where ``s = a``.

        Source: Laborieux & Zenke 2024, of ``J`` in activation coordinates, its ``-I`` included.
        """
        return self.symmetric / (self.symmetric + self.antisymmetric)

    @property
    def share(self) -> Tensor:
        """``a^2 / |J|^2 = a^2 / (s^2 + a^2)``, ``[batch]``: what part of the Jacobian is antisymmetric."""
        return self.antisymmetric**2 / (self.symmetric**2 + self.antisymmetric**2)

    @property
    def ratio(self) -> Tensor:
        """``a / s``, ``[batch]``."""
        return self.antisymmetric / self.symmetric


@torch.no_grad()
def functional_asymmetry(
    network: Network,
    at: Tensor | tuple[State, Drive],
    *,
    coordinates: str = "activation",
    probes: int | None = None,
    generator: torch.Generator | None = None,
    free: Stop | Sweeps | None = None,
) -> FunctionalAsymmetry:
    """The antisymmetry of the Jacobian of a network's vector field at an equilibrium; any network of any size.

    With ``H = d inputs/ds`` and ``D = diag(rho'(z))`` at the state,

        activation   J = H - I      the field of the states, with the activation function bypassed (as published)
        membrane     J = H D - I    the field ``z <- inputs(rho(z))`` of the membranes

    In activation coordinates ``A = 0`` exactly where the weights are reciprocal; in membrane coordinates a tied network
    has ``A != 0`` too, unless all its slopes are equal.

    Networks of dense connections have a closed form, which costs about one product with every weight. All others are
    probed: for independent signs ``e`` (Rademacher) ``E |S e|^2 = |S|^2``, likewise for ``A``, with one Jacobian and
    one transposed Jacobian product a probe; each sample has probes of its own. The relative standard error of ``a^2``
    is at most ``sqrt(2 / probes)``, usually much less.

    Args:
        network: any network.
        at: inputs ``[batch, *input_shape]``, which are relaxed first; or ``(state, drive)`` of an equilibrium.
        coordinates: ``"activation"`` or ``"membrane"``.
        probes: number of probes a sample; None for the closed form where there is one, and 32 probes elsewhere.
        generator: of the probes, on the CPU; seeded with 0 where None.
        free: when that relaxation ends; by default at the precision of the dtype.

    Raises:
        ConfigError: unknown coordinates, or fewer than one probe.
    """
    membrane = lookup("coordinates", coordinates, _COORDINATES)
    if probes is not None and (not isinstance(probes, int) or probes < 1):
        raise ConfigError(f"probes: got {probes!r}, needed a whole number from 1 on, or None for the closed form")
    closed = _blocks(network) if probes is None else None
    state, drive = _equilibrium(network, at, free, needed=membrane or closed is None)
    slopes: State | None = None
    if membrane:
        z = network.inputs(state, drive)
        slopes = tuple(rho.derivative(v) for rho, v in zip(network.activations, z, strict=True))
    if closed is not None:
        squares = _closed_form(network, closed, slopes, len(drive.x))
    else:
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        squares = _probed(network, state, drive, slopes, _PROBES if probes is None else probes, generator)
    return FunctionalAsymmetry(*(v.sqrt().to(state[0].dtype) for v in squares))


def _equilibrium(
    network: Network, at: Tensor | tuple[State, Drive], free: Stop | Sweeps | None, needed: bool
) -> tuple[State, Drive]:
    if not isinstance(at, Tensor):
        return at
    drive = network.drive(at)
    state = network.initial_state(len(drive.x))
    if needed:
        tol = 1e-12 if state[0].dtype == torch.float64 else 1e-6
        stop = Stop(tol=tol, max_sweeps=2000) if free is None else free
        state = relax(network, state, drive, stop=stop).state
    return state, drive


def _scaled(slopes: State | None, vector: State) -> State:
    return vector if slopes is None else tuple(d * v for d, v in zip(slopes, vector, strict=True))


def _probed(
    network: Network, state: State, drive: Drive, slopes: State | None, probes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    symmetric = antisymmetric = torch.zeros(len(drive.x), dtype=state[0].dtype, device=state[0].device)
    for _ in range(probes):
        signs = tuple((2 * torch.randint(0, 2, s.shape, generator=generator) - 1).to(s) for s in state)
        forward = network.jvp_inputs(state, _scaled(slopes, signs), drive)
        backward = _scaled(slopes, network.vjp_inputs(state, signs, drive))
        for e, p, q in zip(signs, forward, backward, strict=True):
            symmetric = symmetric + (0.5 * (p + q) - e).square().flatten(1).sum(1)
            antisymmetric = antisymmetric + (0.5 * (p - q)).square().flatten(1).sum(1)
    return symmetric / probes, antisymmetric / probes


def _blocks(network: Network) -> dict[tuple[int, int], Tensor] | None:
    """The blocks ``H_ij`` by (post, pre) in float64, or None where a network has no dense matrices to show."""
    if not isinstance(network, GraphNetwork):
        return None
    blocks = network.jacobian_blocks().items()
    if not all(isinstance(c, DenseConnection) for _, (c, _) in blocks):
        return None
    operands = {ends: (c.operand(back=transposed), transposed) for ends, (c, transposed) in blocks}
    return {ends: (w.mT if transposed else w).detach().double() for ends, (w, transposed) in operands.items()}


def _closed_form(
    network: Network, blocks: dict[tuple[int, int], Tensor], slopes: State | None, batch: int
) -> tuple[Tensor, Tensor]:
    like = next(network.parameters())
    units = [math.prod(shape) for shape in network.shapes]
    total = torch.full((batch,), float(sum(units)), dtype=torch.float64, device=like.device)  # |J|^2 = |HD - I|^2
    twice = torch.zeros_like(total)  # 4 |A|^2
    d = None if slopes is None else [s.flatten(1).double() for s in slopes]
    for (i, j), block in blocks.items():
        back = blocks.get((j, i))
        square = block.square()
        if d is None:
            total = total + square.sum()
            # the difference itself: exactly 0 for reciprocal weights
            other = torch.zeros_like(block) if back is None else back.mT
            mismatch = (block - other).square().sum()
            twice = twice + (mismatch if back is not None else 2 * mismatch)
        else:
            size = d[j].square() @ square.sum(0)
            total = total + size
            twice = twice + 2 * size
            if back is not None:
                twice = twice - 2 * (d[i] * (d[j] @ (block * back.mT).mT)).sum(1)
        if i == j:
            total = total - 2 * (block.diagonal().sum() if d is None else d[i] @ block.diagonal())
    antisymmetric = (0.25 * twice).clamp(min=0)
    return (total - antisymmetric).clamp(min=0), antisymmetric  # S and A are orthogonal


def weight_angles(network: Network) -> dict[str, float]:
    """Degrees between each forward weight and the transpose of its feedback partner, as flat vectors, by its key.

    0 where tied, 90 where unrelated; NaN where either is all zeros. Connections without a reciprocal one, as in a loop,
    have no angle: ``functional_asymmetry`` sees those too.

    Raises:
        ConfigError: a network that is no graph of connections.
    """
    if not isinstance(network, GraphNetwork):
        raise ConfigError(
            f"weight_angles: {type(network).__name__} has no pairs of weights; write "
            "functional_asymmetry(network, x), which serves any network"
        )
    if not isinstance(network, DirectedNetwork):
        return {e.key: 0.0 for e in network._edges if e.tail != -1}
    keys = {id(connection): key for key, connection in network.connections.items()}
    return {
        keys[id(pair.forward)]: _angle(pair.forward.weight.detach(), pair.turned(pair.backward.weight.detach()))
        for pair in network.reciprocal_pairs()
    }


def _angle(a: Tensor, b: Tensor) -> float:
    """Kahan's form: exact near 0 and 180 degrees, where the arc cosine loses half the digits."""
    a, b = a.double(), b.double()
    if not bool(a.any()) or not bool(b.any()):
        return math.nan
    u, v = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))
