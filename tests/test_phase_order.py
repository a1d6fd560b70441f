"""Signs that alternate and the order of phases: what they cancel of a substrate that drifts, and that runs resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError, EquilibriumPropagation, Network, Sweeps
from eqprop._diagnostics import match
from eqprop._residual_map import residual_map
from hardware import CellArray, Substrate, Timing
from tests.helpers import inputs, labels, network, seeded

NU, FIRST, PHASE = 0.05, 1e-3, 1e-5


def ep(**options: Any) -> EquilibriumPropagation:
    settings: dict[str, Any] = {"beta": 0.1, "free": Sweeps(80), "nudged": Sweeps(80)}
    return EquilibriumPropagation(**settings | options)


def flat(net: Network, rule: eqprop.Rule, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of a step of training, after which the rule's signs and turns have moved on."""
    net.zero_grad()
    rule.backward(net, x, y)
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])
    net.zero_grad()
    return found


def drifting(net: Network) -> Any:
    """A chip whose cells all drift alike, by 5e-4 of themselves from phase to phase."""
    pcm = hardware.device("pcm")
    curve = hardware.Polynomial
    ageing = hardware.PowerLawDrift(curve((NU,)), curve((0.0,)))
    device = replace(pcm, ageing=ageing, first_read_seconds=FIRST)
    cells = CellArray(device, "one-sided", programming=False, read_noise=False)
    return Substrate(cells=cells, timing=Timing(PHASE, 0.0)).fabricate(net)


def aged(net: Network, phases: float) -> Network:
    """The network as its cells are so many phases after their write."""
    made: Network = net.clone()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith("weight"):
                p.mul_((1 + phases * PHASE / FIRST) ** -NU)
    return made


# -- drift -------------------------------------------------------------------------------------------------------------


def test_a_drift_between_phases_biases_one_order_one_way_and_the_other_the_other() -> None:
    net = network("chain-sigmoid")
    x, y = inputs(net), labels()
    # the free phase is the first, the nudged ones come 2 and 3 phases after the write
    truth = flat(aged(net, 2.5), ep(), x, y)
    forward, reverse = (flat(drifting(net), ep(order=o), x, y) - truth for o in ("forward", "reversed"))
    assert float(forward.norm() / truth.norm()) > 0.02
    assert match(reverse, -forward).relative_error < 0.02
    assert float((forward + reverse).norm() / 2) < 0.01 * float(forward.norm())
    # half a phase's change of dE/dtheta, over 2 beta, for each of the two
    before, after = (nudged(aged(net, t), s, x, y) for t, s in ((2.0, 0.1), (3.0, 0.1)))
    assert match(forward, (before - after) / 0.2).relative_error < 0.02


def nudged(net: Network, beta: float, x: Tensor, y: Tensor) -> Tensor:
    """``dE/dtheta`` at one nudged equilibrium, batch mean."""
    rule = ep(beta=beta, contour="one-sided")
    found = rule.equilibria(net, x, y)
    net.zero_grad()
    net.add_contrast_gradient([found.phases[0]._replace(weights=torch.full((6,), 1 / 6).double())], found.drive.x)
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("contour", ["centred", "alternating-sign"])
def test_alternation_cancels_the_bias_of_a_drift_on_average(contour: str) -> None:
    net = network("chain-sigmoid")
    x, y = inputs(net), labels()
    fixed = ep(contour="centred") if contour == "centred" else ep(contour="one-sided")
    turns = ep(order="alternating") if contour == "centred" else ep(contour=contour)
    truth = flat(aged(net, 2.5), ep(), x, y)

    def error(rule: eqprop.Rule, steps: int) -> float:
        chip = drifting(net)
        mean = torch.stack([flat(chip, rule, x, y) for _ in range(steps)]).mean(0)
        return match(mean, truth).relative_error

    assert error(fixed, 4) > 0.02 and error(turns, 1) > 0.02
    assert error(turns, 2) < 0.2 * error(fixed, 2)
    assert error(turns, 4) < 0.2 * error(fixed, 4)


# -- the mathematics on an ideal network -------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["contrast", "tangent"])
def test_two_steps_of_alternating_sign_are_one_of_the_centred_contour(readout: str) -> None:
    net = network("chain-sigmoid")
    x, y = inputs(net), labels()
    rule = ep(contour="alternating-sign", readout=readout)
    first, second, third = (flat(net, rule, x, y) for _ in range(3))
    torch.testing.assert_close((first + second) / 2, flat(net, ep(readout=readout), x, y), rtol=1e-9, atol=1e-12)
    assert torch.equal(first, third) and not torch.equal(first, second)
    assert torch.equal(first, flat(net, ep(contour="one-sided", readout=readout), x, y))
    assert torch.equal(second, flat(net, ep(contour="one-sided", beta=-0.1, readout=readout), x, y))


@pytest.mark.parametrize("order", ["reversed", "alternating"])
def test_without_drift_the_order_of_phases_does_not_matter(order: str) -> None:
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    rule = ep(order=order)
    for _ in range(2):
        torch.testing.assert_close(flat(net, rule, x, y), flat(net, ep(), x, y), rtol=1e-10, atol=1e-13)


def test_phases_run_in_the_order_that_was_asked_for() -> None:
    class Seen(eqprop.HopfieldNetwork):
        stacks_phases = False
        outputs: list[float]

        def measure(self, state: Any, phase: int) -> Any:
            self.outputs.append(float(state[-1][0, 0].detach()))
            return state

    net = Seen.mlp(5, 4, 3, activation="tanh", generator=seeded())
    x, y = inputs(net, dtype=torch.float32), labels()  # the first sample's target is 1 in unit 0
    signs: dict[str, list[str]] = {}
    for order in ("forward", "reversed", "alternating"):
        rule, signs[order] = ep(order=order), []
        for _ in range(3):
            net.outputs = []
            rule.equilibria(net, x, y)
            free, first, second = net.outputs
            assert (first - free) * (second - free) < 0
            signs[order].append("+" if first > free else "-")
    assert signs == {"forward": ["+"] * 3, "reversed": ["-"] * 3, "alternating": ["+", "-", "+"]}


def test_a_safe_nudge_is_chosen_and_mapped_for_both_signs() -> None:
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    rule = ep(contour="alternating-sign", beta=0.01, free=eqprop.Stop(1e-9, 500), nudged=eqprop.Stop(1e-9, 500))
    flat(net, rule, x, y)
    with pytest.warns(eqprop.ContourWarning, match=r"beta from 0.01 to 0.005"):
        chosen = eqprop.choose_contour(net, rule, x, y, betas=(0.005,), tolerance=0.5)
    assert chosen.rule is not rule and chosen.rule.turn.steps == rule.turn.steps == 1
    found = residual_map(net, rule, x, y, resolution=5)
    assert sorted(b.real for b in found.nudges) == [-0.01, 0.01]


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"contour": "alternating-sign"}, {"order": "alternating"}])
def test_a_killed_run_resumes_with_the_sign_whose_turn_it_is(options: dict[str, Any], tmp_path: Path) -> None:
    images = torch.randint(0, 256, (48, 1, 5), generator=seeded(5), dtype=torch.uint8)
    split = eqprop.Split(images, torch.arange(48) % 3, classes=3)
    data: Any = SimpleNamespace(train=split, validation=split, test=split, classes=tuple("abc"))

    def make(out: Path, epochs: int, resume: bool = False) -> eqprop.Trainer:
        chip = drifting(network("chain-sigmoid").float())
        optimizer = torch.optim.SGD(chip.parameters(), lr=0.05)
        rule = ep(free=Sweeps(8), nudged=Sweeps(8), **options)
        return eqprop.Trainer(
            chip, rule, optimizer, data, epochs=epochs, batch_size=16, out=out, resume=resume,
            progress=False, guard=None,
        )  # fmt: skip

    whole = make(tmp_path / "whole", 2)
    whole.fit()
    make(tmp_path / "cut", 1).fit()  # three steps: the second epoch begins with the other sign
    resumed = make(tmp_path / "cut", 2, resume=True)
    resumed.fit()
    found, expected = resumed.network.state_dict(), whole.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_turn_is_in_the_state_of_the_rule() -> None:
    rule, other = ep(contour="alternating-sign"), ep(contour="alternating-sign")
    net = network("chain-tanh")
    x, y = inputs(net), labels()
    flat(net, rule, x, y)
    other.load_state_dict(rule.state_dict())
    assert torch.equal(flat(net, rule, x, y), flat(net, other, x, y))
    assert rule == other and "turn" not in repr(rule)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"order": "alternate"}, "did you mean 'alternating'"),
        ({"order": "alternating", "contour": "one-sided"}, "write contour='centred', or contour='alternating-sign'"),
        ({"order": "reversed", "contour": "cauchy", "points": 4}, "two phases of opposite sign"),
        ({"contour": "alternating-sign", "beta": 1.5}, "nudges reach -1.5"),
        ({"contour": "alternating"}, "alternating-sign"),
    ],
)
def test_orders_and_signs_that_cannot_be_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ep(**options)
