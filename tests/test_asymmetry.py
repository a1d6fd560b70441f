"""Functional asymmetry against dense Jacobians from torch.func, and angles between weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, Dense, DirectedNetwork, Network
from eqprop._asymmetry import FunctionalAsymmetry, functional_asymmetry, weight_angles
from eqprop._network import Drive
from tests.helpers import TIGHT, State, inputs, network, random_state, seeded

DENSE = ["chain-tanh", "triangle", "skip", "readout", "directed-0", "directed-40", "directed-free", "loop", "self-loop"]
USER = ["user-field", "user-energy", "user-function"]
COORDINATES = ["activation", "membrane"]


def equilibrium(net: Network, batch: int = 3) -> tuple[State, Drive]:
    drive = net.drive(inputs(net, batch, next(net.parameters()).device))
    return eqprop.relax(net, net.initial_state(batch), drive, stop=TIGHT).state, drive


def dense_jacobian(net: Network, state: State, drive: Drive, sample: int, coordinates: str) -> Tensor:
    """``H - I`` or ``H D - I`` of one sample, by reverse-mode differentiation of the field itself."""
    sizes = [s.shape[-1] for s in state]
    terms = tuple(t[sample : sample + 1] if t.dim() > 1 else t for t in drive.terms)
    one = Drive(terms, drive.x[sample : sample + 1])
    mine = tuple(s[sample : sample + 1] for s in state)

    def field(v: Tensor) -> Tensor:
        parts = v[None].split(sizes, -1)
        if coordinates == "membrane":
            parts = tuple(rho(p) for rho, p in zip(net.activations, parts, strict=True))
        return torch.cat(net.inputs(parts, one), -1)[0] - v

    at = net.inputs(mine, one) if coordinates == "membrane" else mine
    result: Tensor = torch.func.jacrev(field)(torch.cat(at, -1)[0].detach())
    return result.detach()


def exact(net: Network, state: State, drive: Drive, coordinates: str) -> tuple[Tensor, Tensor]:
    norms = []
    for k in range(len(drive.x)):
        j = dense_jacobian(net, state, drive, k, coordinates)
        norms.append(((0.5 * (j + j.mT)).norm(), (0.5 * (j - j.mT)).norm()))
    s, a = (torch.stack(v) for v in zip(*norms, strict=True))
    return s, a


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_the_closed_form_of_dense_networks_is_exact(name: str, coordinates: str, device: torch.device) -> None:
    net = network(name, device)
    state, drive = equilibrium(net)
    found = functional_asymmetry(net, (state, drive), coordinates=coordinates)
    s, a = exact(net, state, drive, coordinates)
    torch.testing.assert_close(found.symmetric, s, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.antisymmetric, a, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(found.symmetry, s / (s + a), rtol=1e-7, atol=0)
    torch.testing.assert_close(found.share, a**2 / (s**2 + a**2), rtol=1e-7, atol=1e-15)
    torch.testing.assert_close(found.ratio, a / s, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", [*DENSE, *USER])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_probes_average_to_the_dense_jacobian(name: str, coordinates: str, device: torch.device) -> None:
    """Within four of the standard errors that the docstring bounds; all samples together, for they are probed apart."""
    net = network(name, device)
    state, drive = equilibrium(net)
    probes = 300
    found = functional_asymmetry(net, (state, drive), coordinates=coordinates, probes=probes)
    for value, truth in zip((found.symmetric, found.antisymmetric), exact(net, state, drive, coordinates), strict=True):
        bound = 4 * math.sqrt(2 / probes) * truth**2
        assert bool(((value**2 - truth**2).abs() <= bound + 1e-15).all())


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_probes_converge_with_their_number(coordinates: str, device: torch.device) -> None:
    net = network("user-field", device)
    at = equilibrium(net, 1)
    truth = float(exact(net, *at, coordinates)[1])

    def one(probes: int, seed: int) -> float:
        found = functional_asymmetry(net, at, coordinates=coordinates, probes=probes, generator=seeded(seed))
        return float(found.antisymmetric)

    def error(probes: int) -> float:
        return math.hypot(*(one(probes, seed) - truth for seed in range(8)))

    assert error(256) < 0.25 * error(4)


def test_probes_are_seeded_and_apart_for_each_sample(device: torch.device) -> None:
    net = network("user-field", device)
    state, drive = equilibrium(net, 1)
    twice = net.repeat_state(state, 2), net.repeat_drive(drive, 2)
    first, again = (functional_asymmetry(net, twice, probes=2).antisymmetric for _ in range(2))
    other = functional_asymmetry(net, twice, probes=2, generator=seeded(1)).antisymmetric
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first[0]) != float(first[1])


def test_user_networks_are_probed_without_being_asked(device: torch.device) -> None:
    net = network("user-field", device)
    at = equilibrium(net)
    unasked = functional_asymmetry(net, at).antisymmetric
    torch.testing.assert_close(unasked, functional_asymmetry(net, at, probes=32).antisymmetric, rtol=0, atol=0)


@pytest.mark.parametrize("probes", [None, 3])
def test_reciprocal_weights_have_no_antisymmetry_in_activation_coordinates(
    probes: int | None, device: torch.device
) -> None:
    for name in ("chain-tanh", "triangle", "directed-0"):
        net = network(name, device)
        x = inputs(net, 3, device)
        found = functional_asymmetry(net, x, probes=probes)
        assert float(found.antisymmetric.max()) < 1e-15
        assert float(found.symmetry.min()) > 1 - 1e-15
        # membranes see the slopes, which differ from unit to unit
        assert float(functional_asymmetry(net, x, coordinates="membrane", probes=probes).antisymmetric.min()) > 1e-2


def test_asymmetry_grows_with_the_angle(device: torch.device) -> None:
    """``|A|^2 = sum_l |W_l - B_l^T|^2 / 2`` on a chain, and ``|W - B^T| = 2 |W| sin(angle / 2)``."""
    for angle in (0.0, 20.0, 60.0, 90.0, 180.0):
        net = DirectedNetwork.mlp(5, 7, 6, 3, activation="tanh", feedback_angle=angle, dtype=torch.float64).to(device)
        found = functional_asymmetry(net, inputs(net, 2, device))
        weights = sum(float(forward.weight.detach().square().sum()) for forward, _ in net.reciprocal_pairs())
        expected = math.sqrt(2 * weights) * math.sin(math.radians(angle / 2))
        assert found.antisymmetric.tolist() == pytest.approx([expected] * 2, abs=1e-14)


def test_an_input_is_relaxed_first(device: torch.device) -> None:
    net = network("directed-40", device)
    x = inputs(net, 3, device)
    found = functional_asymmetry(net, x, coordinates="membrane")
    at_rest = functional_asymmetry(net, equilibrium(net), coordinates="membrane")
    elsewhere = functional_asymmetry(net, (random_state(net, 3), net.drive(x)), coordinates="membrane")
    torch.testing.assert_close(found.antisymmetric, at_rest.antisymmetric, rtol=1e-9, atol=0)
    assert not torch.allclose(found.antisymmetric, elsewhere.antisymmetric, rtol=1e-3)


def test_single_precision_is_good_to_six_digits(device: torch.device) -> None:
    net = network("directed-40", device)
    state, drive = equilibrium(net)
    truth = functional_asymmetry(net, (state, drive), coordinates="membrane")
    low = net.float()
    at = tuple(s.float() for s in state), low.drive(drive.x.float())
    found = functional_asymmetry(low, at, coordinates="membrane")
    assert found.antisymmetric.dtype == torch.float32
    torch.testing.assert_close(found.antisymmetric.double(), truth.antisymmetric, rtol=1e-6, atol=0)


def test_measures_of_equal_parts() -> None:
    even = FunctionalAsymmetry(torch.tensor([2.0]), torch.tensor([2.0]))
    assert (float(even.symmetry), float(even.share), float(even.ratio)) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"coordinates": "state"}, "coordinates"), ({"probes": 0}, "probes: got 0"), ({"probes": 1.5}, "probes: got 1.5")],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    net = network("directed-40")
    with pytest.raises(ConfigError, match=message):
        functional_asymmetry(net, inputs(net, 2), **options)  # type: ignore[arg-type]


# -- angles between weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-3, 30.0, 90.0, 179.999, 180.0])
def test_weight_angles_are_those_asked_for(angle: float, dtype: torch.dtype, device: torch.device) -> None:
    net = DirectedNetwork.mlp(5, 40, 30, 10, feedback_angle=angle, generator=seeded(4), dtype=dtype).to(device)
    found = weight_angles(net)
    assert list(found) == ["hidden1-hidden2", "hidden2-output"]
    assert list(found.values()) == pytest.approx([angle] * 2, abs=1e-9 if dtype == torch.float64 else 2e-4)


def test_tied_weights_have_no_angle_between_them_and_loops_none_at_all() -> None:
    assert weight_angles(network("chain-tanh")) == {"hidden1-hidden2": 0.0, "hidden2-output": 0.0}
    assert weight_angles(network("loop")) == {}


def test_zero_weights_have_no_angle() -> None:
    layers = network("loop").layers
    net = DirectedNetwork(
        layers,
        [Dense("input", "a"), Dense("a", "b"), Dense("b", "output"), Dense("b", "a", "zeros")],
        feedback_angle=None,
    )
    found = weight_angles(net)
    assert list(found) == ["a-b"] and math.isnan(found["a-b"])


def test_angles_of_a_user_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="functional_asymmetry"):
        weight_angles(network("user-field"))
