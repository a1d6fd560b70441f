"""Shared rails: the equilibria and contrasts that linear algebra predicts, and which contour cancels which part."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, HopfieldNetwork, ImplicitGradient, Network, Stop, Sweeps
from eqprop._diagnostics import gradients, match
from hardware import Fluctuation, OutputAdc, ResistiveNetwork, SharedRail, Substrate
from tests.helpers import inputs, jacobian, labels, network, seeded, slope

EXACT: dict[str, Any] = {"free": Stop(1e-13, 5000), "nudged": Stop(1e-13, 5000)}


def ep(beta: float = 0.1, **options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(beta=beta, **{**EXACT, **options})


def flat(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in gradients(net, rule, x, y).values()])


def linear() -> tuple[Any, Tensor, Tensor]:
    """2 inputs, 3 hidden and 2 output units, all linear."""
    net = HopfieldNetwork.mlp(2, 3, 2, activation="linear", gain=0.7, generator=seeded(3), dtype=torch.float64)
    with torch.no_grad():
        net.biases["hidden1"].add_(0.5)
    return net, inputs(net, 4), torch.rand(4, 2, generator=seeded(4), dtype=torch.float64)


class Algebra:
    """Equilibria and gradients of a railed linear network in closed form: ``(M + beta P) s = b + beta P y``."""

    def __init__(self, net: Network, rail: SharedRail, x: Tensor, y: Tensor) -> None:
        w = jacobian(net, net.initial_state(1), x[:1])
        each = torch.ones(5, 5).double() / 5
        if rail.scope == "layer":
            each = torch.block_diag(torch.ones(3, 3).double() / 3, torch.ones(2, 2).double() / 2)
        self.m = torch.eye(5).double() - w + rail.share * each
        self.seen = torch.eye(5).double() - rail.read_share * each
        self.p = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])).double()
        self.b = torch.cat([t.expand(4, n) for t, n in zip(net.drive(x).terms, (3, 2), strict=True)], 1).detach()
        self.y = torch.cat([torch.zeros(4, 3).double(), y], 1)
        self.rail = rail

    def state(self, beta: float) -> Tensor:
        source = self.b + beta * self.y - (self.rail.nudge_shift if beta else 0.0)
        return torch.linalg.solve(self.m + beta * self.p, source.T).T

    def gradient(self, betas: tuple[float, float]) -> Tensor:
        """Of the weight between hidden and output units: the contrast of what is read."""
        one, two = (self.state(b) @ self.seen.T for b in betas)
        contrast = -(one[:, 3:].T @ one[:, :3] - two[:, 3:].T @ two[:, :3]) / 4
        return contrast / (betas[0] - betas[1])


RAILS = {
    "share": SharedRail(0.05),
    "layer": SharedRail(0.05, scope="layer"),
    "read": SharedRail(read_share=0.05),
    "read, layer": SharedRail(read_share=0.05, scope="layer"),
    "shift": SharedRail(nudge_shift=0.02),
    "all": SharedRail(0.03, 0.02, nudge_shift=-0.01),
}


# -- linear networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RAILS)
def test_equilibria_and_contrasts_are_those_of_linear_algebra(name: str) -> None:
    net, x, y = linear()
    rail = RAILS[name]
    chip, algebra = Substrate(rail=rail).fabricate(net), Algebra(net, rail, x, y)
    found = ep().equilibria(chip, x, y)
    torch.testing.assert_close(torch.cat(found.free.state, 1), algebra.state(0.0), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.cat(found.rest, 1), algebra.state(0.0) @ algebra.seen.T, rtol=1e-9, atol=1e-11)
    for contour, betas in (("centred", (0.1, -0.1)), ("one-sided", (0.1, 0.0))):
        made = gradients(chip, ep(contour=contour), x, y)["connections.hidden1-output.weight"]
        torch.testing.assert_close(made, algebra.gradient(betas), rtol=1e-7, atol=1e-10)


def test_the_shift_of_states_has_the_sign_and_size_of_the_first_order() -> None:
    """``ds = -share m(s) (I - W)^-1 1``: where states are positive, a rail of finite impedance lowers them."""
    net, x, y = linear()
    ideal = Algebra(net, SharedRail(1e-4), x, y)
    found = torch.cat(ep().equilibria(Substrate(rail=SharedRail(1e-4)).fabricate(net), x, y).free.state, 1)
    free = torch.cat(ep().equilibria(net, x, y).free.state, 1)
    plain = ideal.m - 1e-4 / 5
    predicted = -1e-4 * free.mean(1, keepdim=True) * torch.linalg.solve(plain, torch.ones(5).double())
    assert match(found - free, predicted).relative_error < 1e-3
    assert float(free.mean()) > 0 and float((found - free).mean()) < 0


def test_a_shift_with_the_nudge_is_divided_by_beta_one_sided_and_lost_between_signs() -> None:
    net, x, y = linear()
    betas = (0.2, 0.1, 0.05, 0.025)

    def error(contour: str, beta: float) -> float:
        chip = Substrate(rail=SharedRail(nudge_shift=0.001)).fabricate(net)
        one, two = (flat(n, ep(beta, contour=contour), x, y) for n in (chip, net))
        return float((one - two).norm() / two.norm())

    one_sided, centred = ([error(c, b) for b in betas] for c in ("one-sided", "centred"))
    assert slope(betas, one_sided) == pytest.approx(-1.0, abs=0.1)
    assert abs(slope(betas, centred)) < 0.15 and max(centred) < 0.005 and one_sided[-1] > 20 * centred[-1]


def test_two_signs_do_not_lose_what_a_rail_mixes_into_the_readings() -> None:
    net, x, y = linear()
    exact = flat(net, ep(0.05), x, y)
    chip = Substrate(rail=SharedRail(read_share=0.1)).fabricate(net)
    errors = {c: match(flat(chip, ep(0.05, contour=c), x, y), flat(net, ep(0.05, contour=c), x, y))[1] for c in
              ("centred", "one-sided", "alternating-sign")}  # fmt: skip
    assert all(e > 0.02 for e in errors.values())
    small, large = (
        match(flat(Substrate(rail=SharedRail(read_share=r)).fabricate(net), ep(0.05), x, y), exact)[1]
        for r in (0.001, 0.002)
    )
    assert large / small == pytest.approx(2.0, rel=0.01)


# -- reciprocity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["chip", "layer"])
def test_a_rail_that_all_feel_alike_leaves_the_gradient_of_the_chip_exact(scope: str) -> None:
    """Not that of the network: it is another network. Units that feel it differently break reciprocity."""
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    tight: dict[str, Any] = {"free": Stop(1e-13, 5000)}

    def error(rail: SharedRail, rule: eqprop.Rule) -> float:
        chip = Substrate(rail=rail).fabricate(net)
        return match(flat(chip, rule, x, y), flat(chip, ImplicitGradient(**tight), x, y)).relative_error

    alike, apart = SharedRail(0.3, scope=scope), SharedRail(0.3, spread=0.5, scope=scope)
    assert error(alike, ep(0.01)) < 1e-3
    assert error(apart, ep(0.01)) > 0.01
    assert error(apart, ep(0.01, readout="tangent", correction="asymep")) < 1e-3
    railed = flat(Substrate(rail=alike).fabricate(net), ep(0.01), x, y)
    assert match(railed, flat(net, ep(0.01), x, y)).relative_error > 0.01


@pytest.mark.parametrize("scope", ["chip", "layer"])
@pytest.mark.parametrize("name", ["chain-tanh", "skip", "conv-average", "directed-40"])
def test_a_railed_chip_conforms(name: str, scope: str) -> None:
    rail = SharedRail(0.2, 0.1, nudge_shift=0.05, scope=scope)
    substrate = Substrate(rail=rail, fluctuations=(Fluctuation(0.05, "chip"),))
    assert eqprop.check_network(substrate.fabricate(network(name))).passed


def test_the_energy_is_all_that_spread_breaks() -> None:
    chip = Substrate(rail=SharedRail(0.2, spread=0.3)).fabricate(network("chain-tanh"))
    report = eqprop.check_network(chip, throw=False)
    failed = [c.name for c in report.checks if not c.passed]
    assert failed and all("energy" in n or "Phi" in n or "contrast" in n for n in failed)


# -- chips -------------------------------------------------------------------------------------------------------------


def test_complex_states_see_the_rail_in_both_parts_and_its_shift_in_the_real_one() -> None:
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    chip = Substrate(rail=SharedRail(0.1, nudge_shift=0.05, spread=0.2)).fabricate(net)
    circle = ep(0.1, contour="cauchy", points=8, readout="tangent", nudged=Sweeps(200))
    limit = ep(0.002, readout="tangent")
    assert match(flat(chip, circle, x, y), flat(chip, limit, x, y)).relative_error < 1e-3


@pytest.mark.parametrize("correction", [None, "asymep"])
def test_the_shift_reaches_every_kind_of_nudged_phase(correction: str | None) -> None:
    net = network("directed-40")
    x, y = inputs(net), labels()
    rule = ep(0.1, contour="one-sided", readout="tangent", correction=correction)
    off = flat(Substrate(rail=SharedRail(nudge_shift=0.05)).fabricate(net), rule, x, y)
    assert match(off, flat(net, rule, x, y)).relative_error > 0.1


def test_converters_read_what_the_rail_leaves() -> None:
    net = network("chain-tanh")
    chip: Any = Substrate(rail=SharedRail(read_share=0.5), adc=OutputAdc(24)).fabricate(net)
    chip.drive(inputs(net))
    state = tuple(s + 0.4 for s in chip.initial_state(6))
    for s in chip.measure(state, 0):
        torch.testing.assert_close(s, torch.full_like(s, 0.2), rtol=0.0, atol=1e-6)


def test_what_units_feel_is_drawn_once_a_chip() -> None:
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    rail = SharedRail(0.1, spread=0.2)
    chip: Any = Substrate(rail=rail).fabricate(net, seed=1)
    first, again, other = (flat(c, ep(), x, y) for c in (chip, chip, Substrate(rail=rail).fabricate(net, seed=2)))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert chip.streams.drawn["rail/hidden1"] == 1


def test_a_rail_in_ohms() -> None:
    assert SharedRail.from_ohms(2.0, 1e-5, 500, spread=0.1) == SharedRail(0.01, spread=0.1)


def test_a_rail_survives_a_file_and_says_so() -> None:
    substrate = Substrate(rail=RAILS["all"])
    assert Substrate.from_spec(json.loads(json.dumps(substrate.spec()))) == substrate
    for text in ("one for all units", "3 % of the mean activity", "readings by 2 %", "by -0.01 while a nudge is on"):
        assert text in substrate.describe()
    assert "not reciprocal" in Substrate(rail=SharedRail(0.1, spread=0.2)).describe()


def test_rails_that_cannot_be_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda: SharedRail(-0.1), "share: got -0.1"),
        (lambda: SharedRail(1.0), "share: got 1.0, needed below 1"),
        (lambda: SharedRail(0.1, spread=-1.0), "spread: got -1.0"),
        (lambda: SharedRail(0.1, scope="chips"), "did you mean 'chip'"),
        (lambda: SharedRail(), "does nothing"),
        (lambda: SharedRail.from_ohms(2.0, 0.0, 5), "node_siemens: got 0.0"),
        (lambda: Substrate(rail=0.1), "needed hardware.SharedRail"),  # type: ignore[arg-type]
        (lambda: Substrate(rail=SharedRail(0.1)).fabricate(ResistiveNetwork({"input": 2, "output": 2})), "other units"),
    ]
    for make, text in cases:
        with pytest.raises(ConfigError, match=text):
            make()
