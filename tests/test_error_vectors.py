"""Error vectors of rules against the true adjoint, layer by layer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, DirectedNetwork, EquilibriumPropagation, HopfieldNetwork, Network, Status, Stop, Sweeps
from eqprop._error_vectors import compare_error_vectors
from tests.helpers import TIGHT, inputs, labels, network, seeded

TANGENT: dict[str, Any] = {"readout": "tangent", "free": TIGHT, "nudged": TIGHT}
DERIVATIVE = EquilibriumPropagation(contour="derivative", **TANGENT)
CONTOURS: dict[str, dict[str, Any]] = {
    "one-sided": {"contour": "one-sided"},
    "centred": {"contour": "centred"},
    "cauchy-1": {"contour": "cauchy", "points": 1},
    "cauchy-3": {"contour": "cauchy", "points": 3},
    "cauchy-6": {"contour": "cauchy", "points": 6},
    "derivative": {"contour": "derivative"},
    "asymep": {"contour": "cauchy", "points": 4, "correction": "asymep"},
}


def untied(device: torch.device, angle: float = 90.0, **options: Any) -> Network:
    return DirectedNetwork.mlp(
        5, 8, 6, 3, activation="sigmoid", gain=0.6, feedback_angle=angle, generator=seeded(1), dtype=torch.float64,
        **options,
    ).to(device)  # fmt: skip


def data(net: Network, device: torch.device, batch: int = 5) -> tuple[Tensor, Tensor]:
    return inputs(net, batch, device), labels(batch, 3, device)


@pytest.mark.parametrize("cost", ["squared-error", "cross-entropy"])
def test_the_exact_response_of_a_tied_network_is_the_adjoint(cost: str, device: torch.device) -> None:
    net = HopfieldNetwork.mlp(
        5, 8, 6, 4, activation="sigmoid", readout=3, generator=seeded(1), dtype=torch.float64
    ).to(device)  # fmt: skip
    found = compare_error_vectors(net, replace(DERIVATIVE, cost=cost), *data(net, device))
    assert list(found) == ["hidden1", "hidden2", "output"]
    for m in found.values():
        assert m.cosine == pytest.approx(1.0, abs=1e-12) and m.cosine_std < 1e-12
        assert m.relative_error < 1e-8 and m.norm_ratio == pytest.approx(1.0, abs=1e-8)
        assert m.samples == 5


@pytest.mark.parametrize("name", ["untied", "loop"])
def test_asymep_on_a_contour_gives_the_adjoint_of_any_network(name: str, device: torch.device) -> None:
    net = untied(device) if name == "untied" else network("loop", device)
    rule = EquilibriumPropagation(beta=0.05, contour="cauchy", points=16, correction="asymep", **TANGENT)
    for m in compare_error_vectors(net, rule, *data(net, device)).values():
        assert m.cosine == pytest.approx(1.0, abs=1e-12) and m.relative_error < 1e-8


def test_unrelated_feedback_spoils_hidden_layers_and_the_more_the_larger_the_angle(device: torch.device) -> None:
    cosines = []
    for angle in (0.0, 30.0, 60.0, 90.0):
        net = untied(device, angle)
        found = compare_error_vectors(net, DERIVATIVE, *data(net, device))
        cosines.append(found["hidden1"].cosine)
    assert cosines[0] == pytest.approx(1.0, abs=1e-12)
    assert cosines[0] > cosines[1] > cosines[2] > cosines[3] and cosines[3] < 0.9
    assert found["hidden1"].relative_error > 0.5


@pytest.mark.parametrize("contour", CONTOURS)
@pytest.mark.parametrize("exclude", [False, True])
def test_the_error_vector_is_what_backward_reads(contour: str, exclude: bool, device: torch.device) -> None:
    """The gradient of a bias is the batch mean of its layer's error vector."""
    net = untied(device)
    x, y = data(net, device)
    rule = EquilibriumPropagation(**CONTOURS[contour], beta=0.2, exclude_unconverged=exclude, **TANGENT)
    step, error = rule.error_vector(net, x, y)
    assert all(p.grad is None for p in net.parameters())
    assert [e.shape for e in error] == [s.shape for s in step.free.state]
    gradients = eqprop.gradients(net, rule, x, y)
    for name, e in zip(net.names, error, strict=True):
        torch.testing.assert_close(gradients[f"biases.{name}"], e.mean(0), rtol=1e-12, atol=1e-15)
    whole = rule.backward(net, x, y)
    assert float((step.loss - whole.loss).abs().max()) < 1e-15 and len(step.nudged) == len(whole.nudged)


def test_a_contrast_rule_has_the_error_vector_of_its_equilibria(device: torch.device) -> None:
    net = network("chain-tanh", device)
    x, y = data(net, device)
    rule = EquilibriumPropagation(beta=0.1, free=TIGHT, nudged=TIGHT)
    for a, b in zip(
        rule.error_vector(net, x, y)[1], replace(rule, readout="tangent").error_vector(net, x, y)[1], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_cosine_is_a_mean_over_samples_and_errors_are_of_all_together(device: torch.device) -> None:
    net = untied(device)
    x, y = data(net, device, 4)
    rule = EquilibriumPropagation(beta=0.5, contour="one-sided", **TANGENT)
    whole = compare_error_vectors(net, rule, x, y)["hidden1"]
    single = [compare_error_vectors(net, rule, x[k : k + 1], y[k : k + 1])["hidden1"] for k in range(4)]
    cosines = torch.tensor([m.cosine for m in single], dtype=torch.float64)
    assert whole.cosine == pytest.approx(float(cosines.mean()), abs=1e-10)
    assert whole.cosine_std == pytest.approx(float(cosines.std()), abs=1e-10) and single[0].cosine_std == 0.0
    assert min(m.norm_ratio for m in single) < whole.norm_ratio < max(m.norm_ratio for m in single)


def test_the_median_error_is_not_set_by_the_largest_sample(device: torch.device) -> None:
    """One sample whose adjoint is a thousand times the others', and wrong, takes over the error of all together."""
    net = untied(device)
    x, y = data(net, device)

    class Wrong(EquilibriumPropagation):
        def error_vector(self, *args: Any, **kwargs: Any) -> Any:
            step, error = super().error_vector(*args, **kwargs)
            return step, tuple(e * torch.tensor([1.1, 1.1, 1.1, 1.1, 1e3]).to(e)[:, None] for e in error)

    rule = Wrong(contour="cauchy", points=16, beta=0.05, correction="asymep", **TANGENT)
    for m in compare_error_vectors(net, rule, x, y).values():
        assert m.relative_error > 10.0 and m.relative_error_median == pytest.approx(0.1, rel=1e-6)
        # linear between the fourth and the fifth of five
        assert m.relative_error_q90 == pytest.approx(0.1 + 0.6 * (999.0 - 0.1), rel=1e-6)


def test_a_sample_that_blew_up_is_left_out_and_counted(device: torch.device) -> None:
    net = untied(device)
    x, y = data(net, device)

    class Broken(EquilibriumPropagation):
        def error_vector(self, *args: Any, **kwargs: Any) -> Any:
            step, error = super().error_vector(*args, **kwargs)
            error[0][2, 1] = math.nan
            return step, error

    fine = compare_error_vectors(net, DERIVATIVE, x, y)
    broken = compare_error_vectors(net, Broken(contour="derivative", **TANGENT), x, y)
    assert {m.samples for m in broken.values()} == {4} and {m.samples for m in fine.values()} == {5}
    assert all(math.isfinite(m.cosine) for m in broken.values())


def test_a_layer_without_any_error_has_no_cosine(device: torch.device) -> None:
    """Nothing of the loss depends on the hidden layers of a chain that is cut above them."""
    net = untied(device)
    with torch.no_grad():
        net.connection("hidden2-output").weight.zero_()  # type: ignore[operator]
    found = compare_error_vectors(net, DERIVATIVE, *data(net, device))
    assert math.isnan(found["hidden1"].cosine) and math.isnan(found["hidden1"].relative_error_median)
    assert found["output"].relative_error < 1e-8 and found["output"].relative_error_q90 < 1e-8


def test_a_sample_without_any_error_has_no_cosine(device: torch.device) -> None:
    net = untied(device)
    x, _ = data(net, device)
    y = DERIVATIVE.predict(net, x)
    y[1:] = 0.0
    found = compare_error_vectors(net, DERIVATIVE, x, y)["hidden1"]
    others = compare_error_vectors(net, DERIVATIVE, x[1:], y[1:])["hidden1"]
    assert (found.samples, others.samples) == (5, 4)
    assert found[:6] == pytest.approx(others[:6], rel=1e-9)


def test_a_rule_without_an_error_vector_is_refused(device: torch.device) -> None:
    net = untied(device)
    with pytest.raises(ConfigError, match="ImplicitGradient has no error vector.*EquilibriumPropagation"):
        compare_error_vectors(net, eqprop.ImplicitGradient(), *data(net, device))


# -- unconverged samples -----------------------------------------------------------------------------------------------


def test_unconverged_samples_are_counted_over_all_phases(device: torch.device) -> None:
    net = untied(device)
    x, y = data(net, device)
    done = EquilibriumPropagation(beta=0.1, **TANGENT).backward(net, x, y)
    assert not bool(done.unconverged.any()) and float(done.unconverged_share) == 0.0
    rule = EquilibriumPropagation(beta=0.1, readout="tangent", free=TIGHT, nudged=Sweeps(4))
    residuals = torch.stack([s.residual for s in rule.backward(net, x, y).nudged])
    rule = replace(rule, nudged=Sweeps(4, tol=float(residuals.amax(0).median())))
    step = rule.backward(net, x, y)
    expected = torch.stack([s.status != Status.CONVERGED for s in (step.free, *step.nudged)]).any(0)
    assert int(expected.sum()) == 2
    assert torch.equal(step.unconverged, expected)
    assert float(step.unconverged_share) == pytest.approx(int(expected.sum()) / 5)
    counted = replace(rule, exclude_unconverged=True).backward(net, x, y).counted
    assert counted is not None and torch.equal(counted, ~expected)
    hasty = EquilibriumPropagation(beta=0.1, readout="tangent", free=Stop(1e-14, 1), nudged=TIGHT).backward(net, x, y)
    assert bool(hasty.unconverged.all())
