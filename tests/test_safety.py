"""Safe nudges chosen from data, and residual maps over complex nudges."""

from __future__ import annotations

import cmath
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eqprop import (
    ConfigError,
    Cost,
    DirectedNetwork,
    EquilibriumPropagation,
    ImplicitGradient,
    Network,
    Stop,
    Sweeps,
    relax,
)
from eqprop._complex import ComplexCostNudge, ComplexSystem
from eqprop._error_vectors import compare_error_vectors
from eqprop._figures import stability_map
from eqprop._residual_map import ResidualMap, residual_map
from eqprop._safety import ContourWarning, choose_contour
from tests.helpers import TIGHT, inputs, labels, network, seeded

TANGENT: dict[str, Any] = {"readout": "tangent", "free": TIGHT, "nudged": TIGHT}
STRENGTH = 3.0


class ConstantForce(Cost):
    """``C = -3 sum output``: the nudge adds ``3 beta`` to the input of every output, whatever the state."""

    name = "constant-force"
    holomorphic = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return -STRENGTH * output.sum(-1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.full_like(output, -STRENGTH)

    def pair_gradient(self, re: Tensor, im: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(re, -STRENGTH), torch.zeros_like(im)


def single_layer(device: torch.device) -> tuple[Network, Tensor, Tensor]:
    """``s(beta) = tanh(z + 3 beta)``: the nearest pole lies at ``|pi i / 2 - z| / 3``, about 0.52."""
    net = DirectedNetwork.mlp(5, 3, activation="tanh", gain=0.1, generator=seeded(1), dtype=torch.float64).to(device)
    return net, inputs(net, 4, device), labels(4, 3, device)


def strongly_coupled(device: torch.device) -> tuple[Network, Tensor, Tensor]:
    net = DirectedNetwork.mlp(
        5, 8, 6, 3, activation="sigmoid", gain=1.2, feedback_angle=60.0, readout=3, generator=seeded(1),
        dtype=torch.float64,
    ).to(device)  # fmt: skip
    assert net.readout is not None
    with torch.no_grad():
        net.readout.weight.mul_(3.0)
    return net, inputs(net, 6, device), labels(6, 3, device)


def holomorphic(beta: float = 1.0, points: int = 4, **options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, contour="cauchy", points=points, **(TANGENT | options))


# -- the choice --------------------------------------------------------------------------------------------------------


def test_a_pole_inside_the_circle_halves_the_nudge_until_it_is_outside(device: torch.device) -> None:
    net, x, y = single_layer(device)
    z = float(net.inputs(net.initial_state(4), net.drive(x))[0].detach().abs().max())
    radius = abs(0.5j * math.pi - z) / STRENGTH
    assert 0.5 < radius < 0.6
    rule = holomorphic(cost=ConstantForce())
    with pytest.warns(
        ContourWarning,
        match="changed beta from 1 to 0.25 and points from 4 to 8: beta 0.5, .*; beta 0.25, 4 points.*above 0.01",
    ) as seen:
        choice = choose_contour(net, rule, x, y, tolerance=0.01)
    assert len(seen) == 1 and str(seen[0].message) == choice.reason
    assert seen[0].filename == __file__
    assert (choice.beta, choice.points) == (choice.rule.beta, choice.rule.points) == (0.25, 8)
    assert replace(choice.rule, beta=1.0, points=4) == rule
    assert {row.beta for row in choice.table if not row.safe} >= {1.0, 0.5} and choice.table[-1].safe


@pytest.mark.parametrize("points", [3, 4, 6, 8, 16])
def test_leakage_disagreement_and_error_are_those_of_the_closed_form(points: int, device: torch.device) -> None:
    net, x, y = single_layer(device)
    beta = 0.2
    z = net.inputs(net.initial_state(4), net.drive(x))[0].detach().cpu().numpy()
    circle = [beta * cmath.exp(2j * math.pi * k / points) for k in range(points)]
    s = [np.tanh(z + STRENGTH * b) for b in circle]
    response = sum(v / b for v, b in zip(s, circle, strict=True)).real / points
    mean = sum(s).real / points - np.tanh(z)
    leakage = np.linalg.norm(mean) / (beta * np.linalg.norm(response))
    true = STRENGTH * (1 - np.tanh(z) ** 2)
    row = choose_contour(
        net, holomorphic(beta, points, cost=ConstantForce()), x, y, tolerance=10.0, max_points=points
    ).table[0]
    assert row.points == points
    assert row.leakage == pytest.approx(leakage, rel=1e-6)
    if points % 2 == 0:
        half = sum(v / b for v, b in zip(s[::2], circle[::2], strict=True)).real / (points // 2)
        assert row.disagreement == pytest.approx(np.linalg.norm(half - response) / np.linalg.norm(response), rel=1e-9)
    error = np.linalg.norm(response - true) / np.linalg.norm(true)
    assert 0.7 * error < row.error < 30 * error


def test_a_network_odd_in_the_nudge_does_not_hide_its_error(device: torch.device) -> None:
    """``s(beta) = tanh(3 beta)`` on 6 points: leakage and N/2 only see even orders, of which there are none."""
    net, x, y = single_layer(device)
    row = choose_contour(net, holomorphic(0.3, 6, cost=ConstantForce()), 0 * x, y, tolerance=10.0).table[0]
    circle = [0.3 * cmath.exp(2j * math.pi * k / 6) for k in range(6)]
    response = sum(cmath.tanh(STRENGTH * b) / b for b in circle).real / 6
    error = abs(response - STRENGTH) / STRENGTH
    assert row.leakage < 1e-10 and row.disagreement < 1e-10
    assert row.circulation == pytest.approx(
        abs(sum(cmath.tanh(STRENGTH * b) * b for b in circle)) / 6 / 0.09 / response
    )
    assert 0.02 < error and 0.7 * error < row.error < 3 * error


@pytest.mark.parametrize(("contour", "order"), [("one-sided", 1), ("random-sign", 1), ("centred", 2)])
def test_a_real_contour_is_judged_by_half_the_nudge(contour: str, order: int, device: torch.device) -> None:
    net, x, y = single_layer(device)
    rule = EquilibriumPropagation(beta=0.004, contour=contour, cost=ConstantForce(), **TANGENT)
    choice = choose_contour(net, rule, x, y)
    (row,) = choice.table
    z = net.inputs(net.initial_state(4), net.drive(x))[0].detach()
    true = STRENGTH * (1 - torch.tanh(z) ** 2)
    _, error = rule.error_vector(net, x, y)
    measured = float((-error[0] - true).norm() / true.norm())
    assert math.isnan(row.leakage) and row.error == pytest.approx(measured, rel=0.05)
    assert row.error == pytest.approx(row.disagreement / (1 - 0.5**order))
    assert choice.rule is rule


def test_the_worst_layer_counts(device: torch.device) -> None:
    net, x, y = strongly_coupled(device)
    rule = EquilibriumPropagation(beta=0.02, contour="centred", cost="cross-entropy", **TANGENT)
    (row,) = choose_contour(net, rule, x, y).table
    whole, half = (replace(rule, beta=b).error_vector(net, x, y)[1] for b in (0.02, 0.01))
    ratios = [float((a - b).norm() / b.norm()) for a, b in zip(whole, half, strict=True)]
    assert row.disagreement == pytest.approx(max(ratios)) and min(ratios) < 0.9 * max(ratios)


@pytest.mark.parametrize(("contour", "points"), [("one-sided", 1), ("centred", 2), ("cauchy", 4)])
def test_the_error_that_is_promised_is_kept_on_a_strongly_coupled_network(
    contour: str, points: int, device: torch.device
) -> None:
    net, x, y = strongly_coupled(device)
    rule = EquilibriumPropagation(beta=0.8, contour=contour, points=points, cost="cross-entropy", **TANGENT)
    with pytest.warns(ContourWarning):
        choice = choose_contour(net, rule, x, y)
    assert choice.beta < 0.5
    exact = replace(rule, contour="derivative", points=2).error_vector(net, x, y)[1]

    def error(tried: EquilibriumPropagation) -> float:
        found = tried.error_vector(net, x, y)[1]
        return max(float((e - t).norm() / t.norm()) for e, t in zip(found, exact, strict=True))

    assert error(choice.rule) < 0.06 < 0.4 < error(rule)


def test_asymep_with_the_chosen_contour_is_within_the_tolerance_of_the_adjoint(device: torch.device) -> None:
    net, x, y = strongly_coupled(device)
    rule = holomorphic(0.5, cost="cross-entropy", correction="asymep")
    with pytest.warns(ContourWarning):
        chosen = choose_contour(net, rule, x, y, tolerance=1e-3).rule
    assert max(m.relative_error for m in compare_error_vectors(net, chosen, x, y).values()) < 1e-3
    assert chosen.correction == "asymep"


@pytest.mark.parametrize("name", ["chain-tanh", "directed-40"])
def test_a_good_choice_is_kept_without_a_word(name: str, device: torch.device) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rules = [holomorphic(0.2), EquilibriumPropagation(beta=0.05, contour="centred", **TANGENT)]
    for rule in [*rules, holomorphic(0.2, 6, correction="asymep"), holomorphic(0.05, 2), holomorphic(0.2, 5)]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            choice = choose_contour(net, rule, x, y)
        assert choice.rule is rule and len(choice.table) == 1 and choice.table[0].safe
        assert "nothing was changed" in choice.reason
    assert all(p.grad is None for p in net.parameters())


def test_points_grow_as_the_tolerance_shrinks(device: torch.device) -> None:
    net, x, y = single_layer(device)
    chosen = []
    for tolerance in (0.3, 1e-2, 1e-5, 1e-8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ContourWarning)
            choice = choose_contour(
                net, holomorphic(cost=ConstantForce()), x, y, betas=[0.2], tolerance=tolerance, max_points=64
            )
        chosen.append(choice.points)
    assert chosen == [4, 8, 16, 32]


def test_the_largest_safe_of_the_given_nudges_is_taken_in_any_order(device: torch.device) -> None:
    net, x, y = single_layer(device)
    with pytest.warns(ContourWarning, match="the largest nudge asked for is safe"):
        choice = choose_contour(net, holomorphic(0.01, cost=ConstantForce()), x, y, betas=[0.02, 0.1, 0.05])
    assert choice.beta == 0.1 and choice.table[0].beta == 0.1
    with pytest.warns(ContourWarning, match="from 0.1 to -0.01"):
        rule = EquilibriumPropagation(beta=0.1, contour="one-sided", cost=ConstantForce(), **TANGENT)
        assert choose_contour(net, rule, x, y, betas=[-0.005, -0.5, -0.01]).beta == -0.01


def test_lost_phases_speak_against_a_nudge_and_a_few_are_allowed(device: torch.device) -> None:
    """Too few sweeps for the nudged phases of some samples, however small their error."""
    net = network("directed-40", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = EquilibriumPropagation(beta=0.05, contour="centred", **(TANGENT | {"nudged": Sweeps(8)}))
    residuals = torch.stack([s.residual for s in rule.backward(net, x, y).nudged]).amax(0)
    rule = replace(rule, nudged=Sweeps(8, tol=float(residuals.sort().values[2])))
    with pytest.raises(ConfigError, match="25.0% of the samples lose a nudged phase"):
        choose_contour(net, rule, x, y, betas=[0.05])
    row = choose_contour(net, rule, x, y, betas=[0.05], max_unconverged=0.25).table[0]
    assert row.unconverged == 0.25 and row.residual == pytest.approx(float(residuals.max()))
    # with its samples left out of the gradient, they are left out of the error too
    excluded = choose_contour(net, replace(rule, exclude_unconverged=True), x, y, betas=[0.05], max_unconverged=0.25)
    assert excluded.table[0].unconverged == 0.25 and excluded.table[0].error != row.error


def test_samples_whose_free_phase_is_lost_do_not_count(device: torch.device) -> None:
    net = network("directed-40", device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    rule = EquilibriumPropagation(beta=0.05, contour="centred", **(TANGENT | {"free": Sweeps(8)}))
    residuals = rule.settle(net, net.drive(x), None).residual
    rule = replace(rule, free=Sweeps(8, tol=float(residuals.sort().values[2])), nudged=Sweeps(300, tol=1e-9))
    assert choose_contour(net, rule, x, y).table[0].unconverged == 0.0
    # hardly nudged and cut short, what the free phase lacks is lost in the nudged phases too
    rule = replace(rule, beta=1e-8, nudged=Sweeps(1))
    nudged = torch.stack([s.residual for s in rule.backward(net, x, y).nudged]).amax(0)
    lost, kept = nudged[residuals > rule.free.tol], nudged[residuals <= rule.free.tol]
    assert len(lost) == 1 and float(lost) > 1.01 * float(kept.max()), "a test of nothing"
    rule = replace(rule, nudged=Sweeps(1, tol=1.005 * float(kept.max())))
    row = choose_contour(net, rule, x, y, tolerance=1e9).table[0]
    assert row.unconverged == 0.0 and row.residual == pytest.approx(float(kept.max()))
    with pytest.raises(ConfigError, match="free phase converged on none of the 4 samples.*more sweeps"):
        choose_contour(net, replace(rule, free=Sweeps(8, tol=0.0)), x, y)


def test_random_signs_go_on_where_they_were(device: torch.device) -> None:
    net, x, y = single_layer(device)
    rule = EquilibriumPropagation(beta=0.5, contour="random-sign", cost=ConstantForce(), seed=3, **TANGENT)
    rule.backward(net, x, y)
    before = rule.generator.get_state()
    with pytest.warns(ContourWarning):
        choice = choose_contour(net, rule, x, y)
    assert torch.equal(rule.generator.get_state(), before)
    assert torch.equal(choice.rule.generator.get_state(), before)


def test_nothing_safe_is_an_error_that_tells_what_was_tried(device: torch.device) -> None:
    net, x, y = single_layer(device)
    with pytest.raises(ConfigError) as caught:
        choose_contour(net, holomorphic(cost=ConstantForce()), x, y, betas=[1.0, 0.9])
    text = str(caught.value)
    assert "no nudge of DirectedNetwork is safe on these 4 samples" in text
    assert "beta 1, 4 points: unconverged 0.0%" in text and "beta 0.9, 4 points" in text and "leakage" in text


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (ImplicitGradient(), {}, "ImplicitGradient has no nudge to choose"),
        (EquilibriumPropagation(contour="derivative", readout="tangent"), {}, "'derivative' has no nudge to choose"),
        (holomorphic(0.1), {"betas": []}, "betas: got none"),
        (holomorphic(0.1), {"tolerance": 0.0}, "tolerance: got 0.0"),
        (holomorphic(0.1), {"betas": 0.5}, "betas: got 0.5, needed several nudges"),
        (holomorphic(0.1), {"betas": (0.5, "a")}, "betas: got 'a' among them"),
        (holomorphic(0.1), {"max_points": 2.5}, "max_points: got 2.5, needed a whole number"),
        (holomorphic(0.1), {"max_unconverged": -1}, "max_unconverged: got -1, needed a share"),
        (holomorphic(0.1), {"betas": [0.0]}, "beta: got 0.0"),
        (holomorphic(0.1), {"betas": [1.5]}, "needed above -1"),
    ],
)
def test_bad_settings_are_refused(rule: Any, options: dict[str, Any], message: str) -> None:
    net, x, y = single_layer(torch.device("cpu"))
    with pytest.raises(ConfigError, match=message):
        choose_contour(net, rule, x, y, **options)


def test_a_kinked_activation_is_refused_for_a_circle() -> None:
    net = network("chain-hard_sigmoid")
    with pytest.raises(ConfigError, match="not holomorphic"):
        choose_contour(net, holomorphic(0.1), inputs(net, 2), labels(2, 3))


# -- residual maps -----------------------------------------------------------------------------------------------------


def directly(net: Network, rule: EquilibriumPropagation, x: Tensor, y: Tensor, beta: complex, sweeps: int) -> float:
    """The residual of one complex nudge, relaxed alone."""
    drive = net.drive(x)
    free = rule.settle(net, drive, None).state
    target = rule.loss_function.target(y, net.output(free))
    stacked = torch.tensor([beta.real] * len(x) + [beta.imag] * len(x), dtype=x.dtype, device=x.device)[:, None]
    nudge = ComplexCostNudge(net, rule.loss_function, target, stacked)
    system, drive = net.adjoint_dynamics(free, drive) if rule.correction else (net, drive)
    lifted = ComplexSystem(system)
    found = relax(lifted, lifted.lift_state(free), lifted.lift_drive(drive), nudge, stop=Sweeps(sweeps))
    return float(found.residual.max())


@pytest.mark.parametrize(("resolution", "correction"), [(8, None), (9, None), (9, "asymep")])
def test_the_map_is_symmetric_and_agrees_with_single_relaxations(
    resolution: int, correction: str | None, device: torch.device
) -> None:
    net, x, y = strongly_coupled(device)
    rule = holomorphic(0.1, cost="cross-entropy", correction=correction)
    found = residual_map(net, rule, x, y, radius=0.6, resolution=resolution, stop=Sweeps(12))
    assert found.log10_residual.shape == found.betas.shape == (resolution, resolution)
    assert torch.equal(found.log10_residual, found.log10_residual.flip(0))
    assert torch.equal(found.betas, found.betas.flip(0).conj())
    assert found.betas[0, 0] == complex(-0.6, -0.6) and found.betas[0, -1] == complex(0.6, -0.6)
    for i, j in ((0, 0), (1, 5), (resolution - 2, 5), (4, 4), (resolution - 1, 2)):  # below the axis too
        alone = directly(net, rule, x, y, complex(found.betas[i, j]), 12)
        # at beta = 0, which was relaxed already, a residual is rounding alone, another on every machine
        assert 10 ** float(found.log10_residual[i, j]) == pytest.approx(alone, rel=1e-8, abs=1e-14)


def test_the_map_does_not_depend_on_what_relaxes_together(device: torch.device) -> None:
    net, x, y = strongly_coupled(device)
    options: dict[str, Any] = {"radius": 0.3, "resolution": 7, "stop": Sweeps(10)}
    rule = holomorphic(0.1, cost="cross-entropy")
    maps = [residual_map(net, rule, x, y, rows=rows, **options).log10_residual for rows in (1, 20, 10000)]
    for other in maps[1:]:
        torch.testing.assert_close(10 ** maps[0], 10**other, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("correction", [None, "asymep"])
def test_small_nudges_settle_and_large_ones_do_not(correction: str | None, device: torch.device) -> None:
    net, x, y = strongly_coupled(device)
    rule = holomorphic(0.1, cost="cross-entropy", correction=correction, nudged=Stop(1e-6, 100))
    found = residual_map(net, rule, x, y, radius=2.0, resolution=41)
    assert (found.sweeps, found.tol) == (100, 1e-6)
    small = found.betas.abs() <= 0.11
    assert int(small.sum()) > 4
    assert bool((found.log10_residual[small] < -6).all())
    assert bool((found.log10_residual[found.betas.abs() > 1.5] > -6).any())


def test_a_linear_output_contracts_by_the_nudge(device: torch.device) -> None:
    """``s <- z - beta (s - y)``: the residual after n sweeps is ``|beta|^n max |z - y|``, in parts."""
    net = DirectedNetwork.mlp(5, 3, output_activation="linear", generator=seeded(1), dtype=torch.float64).to(device)
    x, y = inputs(net, 2, device), torch.zeros(2, 3, dtype=torch.float64, device=device)
    found = residual_map(net, holomorphic(0.5), x, y, radius=2.0, resolution=21, stop=Sweeps(9))
    size = float(net.inputs(net.initial_state(2), net.drive(x))[0].detach().abs().max())
    moved = found.betas.abs() > 0.3
    expected = (9 * found.betas.abs().log10() + math.log10(size))[moved]
    gap = expected - found.log10_residual[moved]
    assert float(gap.min()) > -1e-9 and float(gap.max()) < math.log10(2) / 2 + 1e-9
    far = residual_map(net, holomorphic(0.5), x, y, radius=1e3, resolution=4, stop=Sweeps(200))
    assert bool(far.log10_residual.isinf().all()) and not bool(far.log10_residual.isnan().any())


def test_the_map_knows_the_points_of_the_contour(device: torch.device) -> None:
    net, x, y = single_layer(device)
    options: dict[str, Any] = {"resolution": 4, "stop": Sweeps(2)}
    rules: dict[str, tuple[EquilibriumPropagation, list[complex]]] = {
        "cauchy": (
            holomorphic(0.4, 5, cost=ConstantForce()),
            [0.4 * cmath.exp(2j * math.pi * k / 5) for k in range(5)],
        ),
        "random-sign": (EquilibriumPropagation(beta=0.2, contour="random-sign", **TANGENT), [0.2, -0.2]),
        "derivative": (EquilibriumPropagation(contour="derivative", **TANGENT), []),
    }
    for rule, expected in rules.values():
        found = residual_map(net, rule, x, y, **options).nudges
        assert len(found) == len(expected) and all(min(abs(b - e) for e in expected) < 1e-15 for b in found)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (ImplicitGradient(), {}, "got ImplicitGradient"),
        (holomorphic(0.1), {"resolution": 1}, "resolution 1"),
        (holomorphic(0.1), {"radius": 0.0}, "radius 0.0"),
        (holomorphic(0.1, cost=lambda o, t: o.sum(-1)), {}, "no holomorphic extension"),
    ],
)
def test_bad_maps_are_refused(rule: Any, options: dict[str, Any], message: str) -> None:
    net, x, y = single_layer(torch.device("cpu"))
    with pytest.raises(ConfigError, match=message):
        residual_map(net, rule, x, y, **options)


@pytest.mark.parametrize("everywhere", [-9.0, 1.0, math.inf])
@pytest.mark.parametrize("nudges", [(), (0.5,), (0.5, -0.25 + 0.4j, -0.25 - 0.4j)])
def test_the_picture_shows_the_circle_and_survives_flat_maps(everywhere: float, nudges: tuple[complex, ...]) -> None:
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    grid = torch.complex(axis.expand(5, -1), axis[:, None].expand(-1, 5))
    figure = stability_map(ResidualMap(grid, torch.full((5, 5), everywhere), nudges, 1e-4, 50), title="flat")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_title() == "flat"
    marks = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(marks) == (len(nudges) > 0)
    if nudges:
        shown = np.asarray(marks[0].get_xydata())
        assert shown.tolist() == [[complex(b).real, complex(b).imag] for b in nudges]
        circle = np.asarray(axes.get_lines()[-2].get_xydata())
        assert np.linalg.norm(circle, axis=1) == pytest.approx(0.5)


def test_the_picture_marks_the_tolerance_and_what_blew_up(device: torch.device) -> None:
    net, x, y = strongly_coupled(device)
    rule = holomorphic(0.1, cost="cross-entropy", nudged=Stop(1e-4, 60))
    found = residual_map(net, rule, x, y, radius=1.0, resolution=21)
    found.log10_residual[0, 0] = math.inf
    figure = stability_map(found)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert "60 sweeps" in axes.get_title()
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"tolerance 0.0001", "|β| = 0.1, 4 points"}
    image = axes.get_images()[0]
    assert np.ma.masked_invalid(np.ma.asarray(image.get_array())).mask.sum() == 1
    assert image.get_extent() == pytest.approx([-1.05, 1.05, -1.05, 1.05])
