"""Activation functions of attractor units, with the conjugate that turns each into an energy.

A unit's state is ``s = rho(z)``, where ``z`` is its total input (the membrane). With ``R`` the integral of ``rho``, the
energy of the unit is the convex conjugate ``rho*(s) = max_z [s z - R(z)]``, whose derivative is ``rho^-1``: so that
``d/ds [rho*(s) - s z] = 0`` exactly where ``s = rho(z)`` (Scellier & Bengio 2017, Sec. 2; Scurria et al. 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eqprop import _pairs
from eqprop._errors import ConfigError
from eqprop._names import lookup

# 16 Gauss-Legendre nodes on [-1, 1]: on an interval of length 2 the integral of y * logistic(y), whose nearest poles
# lie at +-i pi, is then exact to float64 rounding.
_NODES, _WEIGHTS = (
    (-0.9894009349916499, -0.9445750230732326, -0.8656312023878318, -0.7554044083550030)
    + (-0.6178762444026438, -0.4580167776572274, -0.2816035507792589, -0.0950125098376374)
    + (0.0950125098376374, 0.2816035507792589, 0.4580167776572274, 0.6178762444026438)
    + (0.7554044083550030, 0.8656312023878318, 0.9445750230732326, 0.9894009349916499),
    (0.0271524594117541, 0.0622535239386479, 0.0951585116824928, 0.1246289712555339)
    + (0.1495959888165767, 0.1691565193950025, 0.1826034150449236, 0.1894506104550685)
    + (0.1894506104550685, 0.1826034150449236, 0.1691565193950025, 0.1495959888165767)
    + (0.1246289712555339, 0.0951585116824928, 0.0622535239386479, 0.0271524594117541),
)


@dataclass(frozen=True)
class Activation:
    """An elementwise activation ``s = rho(z)``.

    Attributes:
        name: what ``activation(name)`` accepts.
        function: ``rho``; elementwise, any shape.
        inplace: the same, allowed to overwrite its argument.
        derivative: ``rho'(z)`` as a function of the input ``z``; at a kink, 0.
        integral: ``R(z)``, the antiderivative of ``rho``.
        conjugate: ``rho*(s)``, or None where ``rho`` is not monotone: the energy then lives in membrane coordinates.
        bounds: the closed interval that the states fill, or None where it is the whole line.
        smooth: continuously differentiable; slopes in beta are only seen on smooth activations.
        quadratic: ``rho* = s^2 / 2`` on ``bounds``; a squared-error nudge then has an exact block minimum.
        pair: ``rho`` of a complex input as a stacked real pair, or None where it is not holomorphic.
    """

    name: str
    function: Callable[[Tensor], Tensor] = field(repr=False)
    inplace: Callable[[Tensor], Tensor] = field(repr=False)
    derivative: Callable[[Tensor], Tensor] = field(repr=False)
    integral: Callable[[Tensor], Tensor] = field(repr=False)
    conjugate: Callable[[Tensor], Tensor] | None = field(repr=False)
    bounds: tuple[float, float] | None = None
    smooth: bool = True
    quadratic: bool = False
    pair: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def on_pair(self, z: Tensor) -> Tensor:
        """``rho`` of a complex ``z`` as a stacked real pair ``[2 * batch, ...]``; only where ``pair`` is given."""
        if self.pair is None:
            raise ConfigError(f"activation {self.name!r} is not holomorphic: it has no value at a complex input")
        return self.pair(z)

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # by name, so that networks can be copied and pickled, and a copy's activation is still the standard one
        if _ACTIVATIONS.get(self.name) is self:
            return activation, (self.name,)
        return super().__reduce_ex__(protocol)


def _half_square(s: Tensor) -> Tensor:
    return 0.5 * s * s


def _box(name: str, low: float, high: float) -> Activation:
    """Projection of the input onto ``[low, high]``: ``rho* = s^2 / 2`` inside the box."""

    def integral(z: Tensor) -> Tensor:
        s = z.clamp(low, high)
        return s * z - 0.5 * s * s

    return Activation(
        name,
        function=lambda z: z.clamp(low, high),
        inplace=lambda z: z.clamp_(low, high),
        derivative=lambda z: ((z > low) & (z < high)).to(z.dtype),
        integral=integral,
        conjugate=_half_square,
        bounds=(low, high),
        smooth=False,
        quadratic=True,
    )


def _softplus(z: Tensor) -> Tensor:
    # torch's own threshold of 20 is wrong by 2e-9, which float64 shows
    return torch.nn.functional.softplus(z, threshold=40)


def _sigmoid_derivative(z: Tensor) -> Tensor:
    s = torch.sigmoid(4 * z - 2)
    return 4 * s * (1 - s)


def _sigmoid_conjugate(s: Tensor) -> Tensor:
    return 0.25 * (torch.xlogy(s, s) + torch.xlogy(1 - s, 1 - s)) + 0.5 * s


def _tanh_conjugate(s: Tensor) -> Tensor:
    return 0.5 * (torch.xlogy(1 + s, 1 + s) + torch.xlogy(1 - s, 1 - s))


def _dsilu(z: Tensor) -> Tensor:
    # = z p(z)/2 + (1 - z/2) p(z - 2), in half the passes over memory
    q = (z - 2).sigmoid_()
    return torch.addcmul(q, z, torch.sigmoid(z) - q, value=0.5)


def _silu_derivative(y: Tensor) -> Tensor:
    p = torch.sigmoid(y)
    return p + y * p * (1 - p)


def _dsilu_integral(z: Tensor) -> Tensor:
    # rho(z) = [y logistic(y)](z) / 2 - [y logistic(y)](z - 2) / 2, so R(z) is half the integral of y logistic(y) over
    # [z - 2, z], up to a constant: a quadrature instead of a dilogarithm, which torch does not have.
    middle = z - 1
    total = torch.zeros_like(z)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        y = middle + node
        total = total + weight * y * torch.sigmoid(y)
    return 0.5 * total


_ACTIVATIONS = {
    a.name: a
    for a in (
        _box("hard_sigmoid", 0.0, 1.0),
        _box("relu6", 0.0, 6.0),
        Activation(
            "sigmoid",
            function=lambda z: torch.sigmoid(4 * z - 2),
            inplace=lambda z: z.mul_(4).sub_(2).sigmoid_(),
            derivative=_sigmoid_derivative,
            integral=lambda z: 0.25 * _softplus(4 * z - 2),
            conjugate=_sigmoid_conjugate,
            bounds=(0.0, 1.0),
            pair=_pairs.sigmoid,
        ),
        Activation(
            "dsilu",
            function=_dsilu,
            inplace=_dsilu,
            derivative=lambda z: 0.5 * (_silu_derivative(z) - _silu_derivative(z - 2)),
            integral=_dsilu_integral,
            conjugate=None,
            pair=_pairs.dsilu,
        ),
        Activation(
            "tanh",
            function=torch.tanh,
            inplace=torch.tanh_,
            derivative=lambda z: 1 - torch.tanh(z) ** 2,
            integral=lambda z: _softplus(2 * z) - z,
            conjugate=_tanh_conjugate,
            bounds=(-1.0, 1.0),
            pair=_pairs.tanh,
        ),
        Activation(
            "linear",
            function=lambda z: z,
            inplace=lambda z: z,
            derivative=torch.ones_like,
            integral=_half_square,
            conjugate=_half_square,
            quadratic=True,
            pair=lambda z: z,
        ),
    )
}


def activation(name: str | Activation) -> Activation:
    """The activation of that name; an ``Activation`` passes through, so that users can bring their own.

    ======================  =====================================  ==========
    name                    rho(z)                                 states
    ======================  =====================================  ==========
    ``hard_sigmoid``        ``clamp(z, 0, 1)``                     [0, 1]
    ``sigmoid``             ``1 / (1 + exp(-(4 z - 2)))``          [0, 1]
    ``dsilu``               ``z p(z)/2 + (1 - z/2) p(z - 2)``      about [-0.1, 1.1]
    ``tanh``                ``tanh(z)``                            [-1, 1]
    ``relu6``               ``clamp(z, 0, 6)``                     [0, 6]
    ``linear``              ``z``                                  the line
    ======================  =====================================  ==========

    (``p`` is the logistic function.) Constants of ``sigmoid`` and ``dsilu``: Laborieux & Zenke 2022 and 2024.

    Raises:
        ConfigError: unknown name; the nearest one is suggested.
    """
    if isinstance(name, Activation):
        return name
    if not isinstance(name, str):
        raise ConfigError(f"activation: got {type(name).__name__}, needed a name or an eqprop.Activation")
    return lookup("activation", name, _ACTIVATIONS)
