"""Contours: the nudges ``beta_k`` and weights ``w_k`` with ``sum_k w_k g(beta_k) ~ dg/dbeta`` at 0."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from eqprop._numbers import is_number, is_whole
from eqprop._share import drawn


class Points(NamedTuple):
    """Nudges drawn for a batch.

    ``betas`` and ``weights`` are ``[phases, batch]``; ``free_weight`` (``[batch]``, or None) weighs the free
    equilibrium.
    """

    betas: Tensor
    weights: Tensor
    free_weight: Tensor | None


@dataclass
class Turn:
    """How many steps a rule has made: whose turn it is, where something alternates from step to step."""

    steps: int = 0

    def next(self) -> int:
        """The number of this step, from 0 on."""
        self.steps += 1
        return self.steps - 1


@dataclass(frozen=True)
class Contour:
    """Nudges of fixed strength, one relaxation each.

    Attributes:
        betas, weights: of the phases with a real nudge.
        free_weight: of the free equilibrium.
        sign: ``"fixed"``; ``"random"``, drawn a sample, flips all of its nudges together; ``"alternating"`` flips those
            of every second step.
        complex_betas, complex_weights: of the phases in the upper half plane. Their conjugates are not relaxed: a real
            network answers a conjugate nudge with the conjugate state, so that only the real part is taken, with the
            weight doubled.
    """

    name: str
    betas: tuple[float, ...]
    weights: tuple[float, ...]
    free_weight: float = 0.0
    sign: str = "fixed"
    complex_betas: tuple[complex, ...] = ()
    complex_weights: tuple[complex, ...] = ()

    @property
    def both_signs(self) -> bool:
        """Whether every nudge also occurs with the other sign."""
        return self.sign != "fixed"

    def at(self, step: int, order: str = "forward") -> Contour:
        """The nudges of a step: in its order, and with its sign where that alternates.

        Args:
            step: number of the step; even ones have the signs of ``betas``.
            order: the last first if it is ``"reversed"``, or ``"alternating"`` and the step an odd one.
        """
        odd = step % 2 == 1
        made = self
        if order == "reversed" or (order == "alternating" and odd):
            made = replace(made, betas=made.betas[::-1], weights=made.weights[::-1])
        if self.sign == "alternating" and odd:  # 1 / sign = sign
            betas, weights = (tuple(-v for v in values) for values in (made.betas, made.weights))
            made = replace(made, betas=betas, weights=weights, free_weight=-made.free_weight)
        return made

    def points(self, batch: int, like: Tensor, generator: torch.Generator) -> Points:
        """The real nudges of ``batch`` samples."""
        signs = self.signs(batch, generator)
        ones = like.new_ones(batch) if signs is None else signs.to(device=like.device, dtype=like.dtype)
        betas = torch.stack([ones * b for b in self.betas])
        weights = torch.stack([ones * w for w in self.weights])
        return Points(betas, weights, ones * self.free_weight if self.free_weight else None)

    def signs(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """Those drawn for ``batch`` samples, -1 or 1, on the CPU, so that no device changes them; None for all 1."""
        if self.sign != "random":
            return None
        return 2 * drawn(lambda shape: torch.randint(0, 2, shape, generator=generator), (batch,)) - 1

    def complex_points(self, batch: int, like: Tensor) -> Points:
        """The complex nudges of ``batch`` samples as stacked pairs, ``[2 * phases * batch]``, phases within halves."""
        return Points(_stacked(self.complex_betas, batch, like), _stacked(self.complex_weights, batch, like), None)

    @property
    def lowest(self) -> float:
        """The least real part of a nudge."""
        reach = [b.real for b in self.complex_betas] + list(self.betas)
        return min(reach + [-b for b in reach]) if self.both_signs else min(reach)


def _stacked(values: tuple[complex, ...], batch: int, like: Tensor) -> Tensor:
    parts = [v.real for v in values] + [v.imag for v in values]
    return torch.cat([like.new_full((batch,), p) for p in parts])


def _one_sided(beta: float, points: int) -> Contour:
    return Contour("one-sided", (beta,), (1 / beta,), -1 / beta)


def _random_sign(beta: float, points: int) -> Contour:
    return Contour("random-sign", (beta,), (1 / beta,), -1 / beta, sign="random")


def _alternating_sign(beta: float, points: int) -> Contour:
    return Contour("alternating-sign", (beta,), (1 / beta,), -1 / beta, sign="alternating")


def _centred(beta: float, points: int) -> Contour:
    return Contour("centred", (beta, -beta), (0.5 / beta, -0.5 / beta))


def _cauchy(beta: float, points: int) -> Contour:
    if points == 1:
        return _one_sided(beta, points)
    real = [beta, -beta] if points % 2 == 0 else [beta]
    upper = [beta * cmath.exp(2j * math.pi * k / points) for k in range(1, (points + 1) // 2)]
    return Contour(
        "cauchy",
        tuple(real),
        tuple(1 / (points * b) for b in real),
        complex_betas=tuple(upper),
        complex_weights=tuple(2 / (points * b) for b in upper),
    )


CONTOURS = {
    "centred": _centred,
    "one-sided": _one_sided,
    "random-sign": _random_sign,
    "alternating-sign": _alternating_sign,
    "cauchy": _cauchy,
}


def contour(name: str, beta: float, points: int = 2) -> Contour:
    """The contour of that name at nudge strength ``beta``.

    ====================  =========================================  =================================================
    name                  derivative                                 error
    ====================  =========================================  =================================================
    ``one-sided``         ``(g(b) - g(0)) / b``                      O(b) (Scellier & Bengio 2017, Eq. 11); ``b < 0`` is
                                                                     the negative perturbation of Scellier et al. 2023
    ``random-sign``       the same, sign drawn a sample              O(b), of zero mean to first order
    ``alternating-sign``  the same, ``b`` and ``-b`` step by step    O(b), of opposite signs in two steps
    ``centred``           ``(g(b) - g(-b)) / 2b``                    O(b^2) (Laborieux et al. 2021, Eq. 8)
    ``cauchy``            ``1/N sum_k g(b_k) / b_k``,                O(b^N) (Laborieux & Zenke 2022, Eq. 10); ``N = 1``
                          ``b_k = b exp(2 pi i k / N)``              and 2 are one-sided and centred
    ====================  =========================================  =================================================

    Args:
        name: of the contour.
        beta: nudge strength.
        points: ``N`` of the Cauchy contour; the others have one or two nudges whatever it is.

    Raises:
        ConfigError: an unknown name, ``beta`` that is 0 or not finite, or no point.
    """
    make = lookup("contour", name, CONTOURS)
    if not is_number(beta) or beta == 0.0:
        raise ConfigError(f"beta: got {beta!r}, needed a finite nudge other than 0; write beta=0.1")
    if not is_whole(points, 1):
        raise ConfigError(f"points: got {points!r}, needed a whole number from 1 on, as in points=6")
    return make(float(beta), points)
