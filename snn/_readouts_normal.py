"""Least squares from streamed sums: memory for features squared, whatever the number of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from eqprop._errors import DataError


class NormalEquations:
    """The sums that ridge regression needs, ``Σ x``, ``Σ x x^T``, ``Σ x t^T`` and ``Σ t``, batch by batch, in float64.

    Features are shifted by the mean of the first batch, so that large offsets cost no digits. Two of them may be added
    where they have the same shift (``like``).
    """

    def __init__(self, like: NormalEquations | None = None) -> None:
        self.n = 0
        self._shift: Tensor = torch.empty(0) if like is None else like._shift
        self._low = self._high = self._x = self._t = self._xx = self._xt = torch.empty(0)

    def add(self, x: Tensor, targets: Tensor) -> None:
        """Add samples: features ``[n, features]`` and targets ``[n, targets]``, checked by the caller."""
        x, t = x.double(), targets.double()
        if not self.n:
            if not len(self._shift):
                self._shift = x.mean(0)
            self._low = self._high = x[0]
            self._x, self._t = torch.zeros_like(x[0]), torch.zeros_like(t[0])
            self._xx = x.new_zeros(x.shape[1], x.shape[1])
            self._xt = x.new_zeros(x.shape[1], t.shape[1])
        if x.shape[1] != len(self._x):
            raise DataError(f"features: got {x.shape[1]} a sample in a later batch, needed {len(self._x)}, as before")
        self._low = torch.minimum(self._low, x.amin(0))
        self._high = torch.maximum(self._high, x.amax(0))
        x = x - self._shift  # never in place: it may be the caller's
        self.n += len(x)
        self._x += x.sum(0)
        self._t += t.sum(0)
        self._xx.addmm_(x.T, x)
        self._xt.addmm_(x.T, t)

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """The sums over the samples of both, of which one was made ``like`` the other."""
        both = NormalEquations()
        both._shift = self._shift
        both.n = self.n + other.n
        both._low, both._high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)
        for name in ("_x", "_t", "_xx", "_xt"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    @property
    def constant(self) -> Tensor:
        """Features that had one value only, bool ``[features]``."""
        return self._low == self._high

    def solve(self, penalties: list[float]) -> tuple[Tensor, Tensor]:
        """Ridge solutions for several penalties, ``[penalties, targets, features]`` and ``[penalties, targets]``.

        With ``z = (x - mean) / std`` and centred targets, ``w = (Z^T Z / n + penalty I)^-1 Z^T T / n``, returned for
        features as they were given; constant ones get coefficient 0.
        """
        varies = ~self.constant
        mean_x, mean_t = self._x / self.n, self._t / self.n
        cov = (self._xx / self.n - torch.outer(mean_x, mean_x))[varies][:, varies]
        std = cov.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        cross = (self._xt / self.n - torch.outer(mean_x, mean_t))[varies] / std[:, None]
        correlation = cov / torch.outer(std, std)
        shape = (len(penalties), len(mean_t), len(varies))
        coef = torch.zeros(shape, dtype=torch.float64, device=cov.device)
        for i, penalty in enumerate(penalties):
            shifted = correlation.clone()
            shifted.diagonal().add_(penalty)
            w = torch.cholesky_solve(cross, torch.linalg.cholesky(shifted))
            coef[i][:, varies] = (w / std[:, None]).T
        return coef, mean_t - coef @ (mean_x + self._shift)
