"""Activations: closed forms against automatic differentiation and convex duality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, Dense, HopfieldNetwork, Layer
from tests.helpers import ACTIVATIONS

CONJUGATE = [a for a in ACTIVATIONS if eqprop.activation(a).conjugate is not None]
every = pytest.mark.parametrize("name", ACTIVATIONS)
monotone = pytest.mark.parametrize("name", CONJUGATE)


def away_from_kinks(device: torch.device) -> Tensor:
    """Inputs from -9 to 9 that miss the kinks at 0, 1 and 6."""
    return torch.linspace(-9.03, 9.01, 401, dtype=torch.float64, device=device)


@every
def test_derivative_is_the_one_of_autograd(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    z = away_from_kinks(device).requires_grad_()
    (expected,) = torch.autograd.grad(rho(z).sum(), z)
    torch.testing.assert_close(rho.derivative(z.detach()), expected, rtol=1e-12, atol=1e-14)


@every
def test_derivative_of_the_integral_is_the_activation(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    z = away_from_kinks(device).requires_grad_()
    (slope,) = torch.autograd.grad(rho.integral(z).sum(), z)
    torch.testing.assert_close(slope, rho(z.detach()), rtol=1e-12, atol=1e-12)


@monotone
def test_derivative_of_the_conjugate_is_the_inverse(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    assert rho.conjugate is not None
    z = torch.linspace(-2.03, 2.01, 201, dtype=torch.float64, device=device)
    z = z[rho.derivative(z) > 1e-3]  # where rho can be inverted
    s = rho(z).requires_grad_()
    (inverse,) = torch.autograd.grad(rho.conjugate(s).sum(), s)
    torch.testing.assert_close(inverse, z, rtol=1e-9, atol=1e-9)


@monotone
def test_fenchel_young_is_an_equality_at_the_image(name: str, device: torch.device) -> None:
    """``rho*(s) + R(z) = s z`` at ``s = rho(z)``, up to one constant (that of the antiderivative)."""
    rho = eqprop.activation(name)
    assert rho.conjugate is not None
    z = away_from_kinks(device)
    gap = rho.conjugate(rho(z)) + rho.integral(z) - rho(z) * z
    assert float(gap.max() - gap.min()) < 1e-10


@monotone
def test_fenchel_young_is_an_inequality_elsewhere(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    assert rho.conjugate is not None
    z = torch.linspace(-3, 3, 61, dtype=torch.float64, device=device)
    s = rho(torch.linspace(-2, 2, 41, dtype=torch.float64, device=device))
    zero = torch.zeros((), dtype=torch.float64, device=device)
    constant = rho.conjugate(rho(zero)) + rho.integral(zero)
    gap = rho.conjugate(s)[:, None] + rho.integral(z)[None] - s[:, None] * z[None] - constant
    assert float(gap.min()) > -1e-12
    assert float(gap.max()) > 0.1


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inplace_is_the_function_bit_for_bit(name: str, dtype: torch.dtype, device: torch.device) -> None:
    rho = eqprop.activation(name)
    z = away_from_kinks(device).to(dtype)
    assert torch.equal(rho.inplace(z.clone()), rho(z))


@every
def test_states_stay_within_the_bounds_and_reach_them(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    z = torch.linspace(-50, 50, 1001, dtype=torch.float64, device=device)
    s = rho(z)
    if rho.bounds is None:
        assert name in ("linear", "dsilu")
        return
    low, high = rho.bounds
    assert float(s.min()) >= low and float(s.max()) <= high
    assert float(s.min()) < low + 1e-9 and float(s.max()) > high - 1e-9


@monotone
def test_conjugate_and_its_inputs_are_finite_on_the_bounds(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    assert rho.conjugate is not None
    bounds = torch.tensor(rho.bounds or (-1.0, 1.0), dtype=torch.float64, device=device)
    assert bool(torch.isfinite(rho.conjugate(bounds)).all())


@every
def test_quadratic_means_half_a_square_inside_the_bounds(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    s = torch.linspace(0.1, 0.9, 9, dtype=torch.float64, device=device)
    is_half_square = rho.conjugate is not None and torch.allclose(rho.conjugate(s), 0.5 * s * s, rtol=1e-12)
    assert rho.quadratic == is_half_square


@every
def test_smooth_means_a_continuous_derivative(name: str, device: torch.device) -> None:
    rho = eqprop.activation(name)
    z = torch.linspace(-8, 8, 160_001, dtype=torch.float64, device=device)
    jump = float(rho.derivative(z).diff().abs().max())
    assert rho.smooth == (jump < 1e-3)


def test_monotone_activations_rise_and_dsilu_does_not(device: torch.device) -> None:
    z = away_from_kinks(device)
    falls = {name: bool((eqprop.activation(name).derivative(z) < 0).any()) for name in ACTIVATIONS}
    assert falls == {name: name == "dsilu" for name in ACTIVATIONS}


def test_sigmoid_has_the_published_constants(device: torch.device) -> None:
    z = away_from_kinks(device)
    torch.testing.assert_close(eqprop.activation("sigmoid")(z), 1 / (1 + torch.exp(-(4 * z - 2))))


def test_dsilu_is_the_difference_of_two_silus(device: torch.device) -> None:
    """``rho(z) = [silu(z) - silu(z - 2)] / 2``, with silu(y) = y logistic(y)."""
    z = away_from_kinks(device)
    silu = torch.nn.functional.silu
    torch.testing.assert_close(eqprop.activation("dsilu")(z), 0.5 * (silu(z) - silu(z - 2)), rtol=1e-12, atol=1e-12)


def test_your_own_activation_is_accepted(device: torch.device) -> None:
    own = eqprop.Activation(
        "softsign",
        function=lambda z: z / (1 + z.abs()),
        inplace=lambda z: z / (1 + z.abs()),
        derivative=lambda z: 1 / (1 + z.abs()) ** 2,
        integral=lambda z: z.abs() - torch.log1p(z.abs()),
        conjugate=lambda s: -torch.log1p(-s.abs()) - s.abs(),
        bounds=(-1.0, 1.0),
    )
    assert eqprop.activation(own) is own
    net = HopfieldNetwork(
        {"input": Layer(3), "a": Layer(4, own), "output": Layer(2, "linear")},
        [Dense("input", "a"), Dense("a", "output")],
        dtype=torch.float64,
    ).to(device)
    report = eqprop.check_network(net)
    assert report.passed, str(report)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got 'hardsigmoid'.*did you mean 'hard_sigmoid'"):
        eqprop.activation("hardsigmoid")


def test_something_that_is_no_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="got int, needed a name"):
        eqprop.activation(3)  # type: ignore[arg-type]
