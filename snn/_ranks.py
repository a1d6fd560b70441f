"""Ranks of a liquid's states: kernel quality, generalisation rank, and measures that do not saturate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import DataError
from hardware._device_checks import require_number
from snn._readouts import Array, checked_features


@dataclass(frozen=True)
class KernelQuality:
    """Ranks of the states for different inputs, and for noisy versions of one input.

    Attributes:
        kernel_rank: numerical rank for different inputs, ``r_K``.
        generalisation_rank: the same for noisy versions, ``r_G``; None where none were given.
        effective_rank, participation_ratio: of the states for different inputs.
        tolerance: of the ranks, relative to the largest singular value.
        inputs, neurons: shape of the states; no rank is above the smaller.
    """

    kernel_rank: int
    generalisation_rank: int | None
    effective_rank: float
    participation_ratio: float
    tolerance: float
    inputs: int
    neurons: int

    @property
    def computational_performance(self) -> int | None:
        """``r_K - r_G`` (Legenstein & Maass 2007); None without noisy versions."""
        return None if self.generalisation_rank is None else self.kernel_rank - self.generalisation_rank


def kernel_quality(
    states: Array, noisy: Array | None = None, *, tolerance: float | None = 1e-2, centre: bool = False
) -> KernelQuality:
    """Kernel quality and generalisation rank of Legenstein & Maass 2007, at a stated tolerance.

    ``r_K`` is the rank of the matrix of states for as many different inputs, ``r_G`` that for noisy versions of one
    input (or of one a class); a liquid should have a large one and a small other. With the tolerance of numpy's
    ``matrix_rank`` both are full for nearly every liquid, hence the default, and the effective rank and the
    participation ratio beside them.

    Args:
        states: ``[inputs, neurons]``, of different inputs.
        noisy: ``[inputs, neurons]``, of noisy versions.
        tolerance: share of the largest singular value below which one counts as zero; None for numpy's default,
            ``max(shape) eps``.
        centre: take the mean over inputs away first, from all matrices.

    Raises:
        DataError: states that are not finite, or all zeros (or, centred, all equal).
    """
    values = singular_values(states, centre=centre)
    x = checked_features(states, "states")
    used = max(x.shape) * torch.finfo(torch.float64).eps if tolerance is None else tolerance
    return KernelQuality(
        numerical_rank(states, tolerance=used, centre=centre),
        None if noisy is None else numerical_rank(noisy, tolerance=used, centre=centre),
        _effective(values),
        _participation(values),
        used,
        x.shape[0],
        x.shape[1],
    )


def numerical_rank(states: Array, *, tolerance: float = 1e-2, centre: bool = False) -> int:
    """Singular values of ``states`` above ``tolerance`` times the largest; errors as of ``kernel_quality``."""
    require_number("tolerance", tolerance, least=0.0, most=1.0)
    values = singular_values(states, centre=centre)
    return int((values > tolerance * values[0]).sum())


def effective_rank(states: Array, *, centre: bool = True) -> float:
    """``exp(-Σ p_i ln p_i)`` with ``p_i = s_i / Σ s``, of the singular values ``s`` (Roy & Vetterli 2007).

    From 1 (one direction) to the smaller dimension (all directions alike); it needs no tolerance.
    """
    return _effective(singular_values(states, centre=centre))


def participation_ratio(states: Array, *, centre: bool = True) -> float:
    """``(Σ l_i)^2 / Σ l_i^2`` of the eigenvalues ``l_i = s_i^2`` of the states' covariance (Gao et al. 2017)."""
    return _participation(singular_values(states, centre=centre))


def singular_values(states: Array, *, centre: bool) -> Tensor:
    """Singular values of ``[inputs, neurons]`` in float64, largest first.

    Raises:
        DataError: states that are not finite, or whose values are all zero.
    """
    x = checked_features(states, "states").double()
    if centre:
        x = x - x.mean(0)
    values = torch.linalg.svdvals(x)
    if not bool(values[0] > 0):
        what = "all equal" if centre else "all zeros"
        raise DataError(f"states: got {len(x)} that are {what}, needed different ones; is the liquid silent?")
    return values


def _effective(values: Tensor) -> float:
    p = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def _participation(values: Tensor) -> float:
    variances = (values / values[0]).square()
    return float(variances.sum() ** 2 / variances.square().sum())
