"""Contours: the nudges ``beta_k`` and weights ``w_k`` with ``sum_k w_k g(beta_k) ~ dg/dbeta`` at 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup


class Points(NamedTuple):
    """Nudges drawn for a batch.

    ``betas`` and ``weights`` are ``[phases, batch]``; ``free_weight`` (``[batch]``, or None) weighs the free
    equilibrium.
    """

    betas: Tensor
    weights: Tensor
    free_weight: Tensor | None


@dataclass(frozen=True)
class Contour:
    """Nudges of fixed strength, one relaxation each; ``random_sign`` flips all of a sample's nudges together."""

    name: str
    betas: tuple[float, ...]
    weights: tuple[float, ...]
    free_weight: float
    random_sign: bool = False

    def points(self, batch: int, like: Tensor, generator: torch.Generator) -> Points:
        """The nudges of ``batch`` samples; signs are drawn on the CPU, so that they do not depend on the device."""
        ones = like.new_ones(batch)
        if self.random_sign:
            signs = torch.randint(0, 2, (batch,), generator=generator).to(device=like.device, dtype=like.dtype)
            ones = 2 * signs - 1
        betas = torch.stack([ones * b for b in self.betas])
        weights = torch.stack([ones * w for w in self.weights])  # 1 / sign = sign
        return Points(betas, weights, ones * self.free_weight if self.free_weight else None)


def _one_sided(beta: float) -> dict[str, Any]:
    return {"betas": (beta,), "weights": (1 / beta,), "free_weight": -1 / beta}


def _random_sign(beta: float) -> dict[str, Any]:
    return _one_sided(beta) | {"random_sign": True}


def _centred(beta: float) -> dict[str, Any]:
    return {"betas": (beta, -beta), "weights": (0.5 / beta, -0.5 / beta), "free_weight": 0.0}


_CONTOURS = {"centred": _centred, "one-sided": _one_sided, "random-sign": _random_sign}


def contour(name: str, beta: float) -> Contour:
    """The contour of that name at nudge strength ``beta``.

    ===============  ==================================  ======================
    name             derivative                          error
    ===============  ==================================  ======================
    ``one-sided``    ``(g(b) - g(0)) / b``               O(b) (Scellier & Bengio 2017, Eq. 11)
    ``random-sign``  the same, sign drawn a sample       O(b), of zero mean to first order
    ``centred``      ``(g(b) - g(-b)) / 2b``             O(b^2) (Laborieux et al. 2021, Eq. 8)
    ===============  ==================================  ======================

    Raises:
        ConfigError: an unknown name, or ``beta`` that is 0, not finite, or too large for a negative nudge.
    """
    make = lookup("contour", name, _CONTOURS)
    if not math.isfinite(beta) or beta == 0.0:
        raise ConfigError(f"beta: got {beta}, needed a finite nudge other than 0; write beta=0.1")
    made = make(float(beta))
    lowest = -abs(beta) if made.get("random_sign") else min(made["betas"])
    if lowest <= -1.0:
        raise ConfigError(
            f"beta: got {beta} with contour {name!r}, whose nudge reaches {lowest}; needed |beta| < 1, for at -1 a "
            "squared error is no longer held by the energy; write beta=0.1, or contour='one-sided' with beta > 0"
        )
    return Contour(name, **made)
