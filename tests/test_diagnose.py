"""The diagnosis of a chip: what it says of known disturbances, and that it leaves the chip as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from eqprop import ConfigError, EquilibriumPropagation, HopfieldNetwork, Stop
from eqprop._diagnostics import compare_gradients, gradients
from hardware import Fluctuation, OutputAdc, PathGains, Substrate
from tests.helpers import seeded

TIGHT = Stop(1e-12, 2000, block=10)
RULE = EquilibriumPropagation(beta=0.05, free=TIGHT, nudged=TIGHT)
NOISY = Substrate(fluctuations=(Fluctuation(0.01, "phase"),), adc=OutputAdc(12))


def case(batch: int = 8) -> tuple[HopfieldNetwork, Tensor, Tensor]:
    net = HopfieldNetwork.mlp(6, 5, 4, 3, activation="sigmoid", generator=seeded(), dtype=torch.float64)
    x = torch.rand(batch, 6, generator=seeded(1), dtype=torch.float64)
    return net, x, torch.arange(batch) % 3


class Scaled:
    """A rule whose gradient is another's, times a factor, some signs turned."""

    def __init__(self, factor: float, turned: float = 0.0) -> None:
        self._factor, self._turned = factor, turned

    def __getattr__(self, name: str) -> Any:
        return getattr(RULE, name)

    def backward(self, network: Any, x: Tensor, y: Tensor) -> Any:
        step = RULE.backward(network, x, y)
        if isinstance(network, hardware.Chip):
            for p in network.parameters():
                assert p.grad is not None
                p.grad.mul_(self._factor)
                if self._turned:
                    largest = p.grad.abs() >= p.grad.abs().flatten().quantile(1 - self._turned)
                    p.grad[largest] *= -1
        return step


def test_an_ideal_chip_agrees_with_its_network_and_the_rule_with_the_exact_gradient() -> None:
    net, x, y = case()
    found = hardware.diagnose(Substrate().fabricate(net), net, RULE, x, y)
    assert list(found.layers) == ["hidden1", "hidden2", "output"]
    assert set(found.parameters) == {name for name, _ in net.named_parameters()}
    for row in (*found.layers.values(), *found.parameters.values()):
        assert row.ideal.cosine == pytest.approx(1.0, abs=1e-12)
        assert row.ideal.norm_ratio == pytest.approx(1.0, abs=1e-12) and row.ideal.sign_agreement == 1.0
        assert 0.99 < row.exact.cosine < 1.0  # the rule's own bias, of the order of beta squared
    assert all(row.effective_bits == math.inf for row in found.layers.values())
    assert found.unconverged_share == found.ideal_unconverged_share == 0.0 and found.runs == 1


def test_cosines_are_those_of_the_gradients() -> None:
    """Against a chip whose fault is static, so that two passes see the same."""
    net, x, y = case()
    chip = Substrate(paths=PathGains(cell_std=0.3)).fabricate(net, seed=2)
    found = hardware.diagnose(chip, net, RULE, x, y)
    ideal, own = gradients(net, RULE, x, y), gradients(chip, RULE, x, y)
    truth = eqprop.ImplicitGradient(free=TIGHT)
    against_truth = gradients(net, truth, x, y)
    for name, row in found.parameters.items():
        g, t, e = (v[name].flatten() for v in (own, ideal, against_truth))
        assert row.ideal.cosine == pytest.approx(float(torch.cosine_similarity(g, t, 0)), abs=1e-9)
        assert row.exact.cosine == pytest.approx(float(torch.cosine_similarity(g, e, 0)), abs=1e-5)
        expected = float((t.abs() * (g.sign() == t.sign())).sum() / t.abs().sum())
        assert row.ideal.sign_agreement == pytest.approx(expected)
    assert found.layers["hidden1"].ideal.cosine < 0.999


def test_norms_and_signs_are_told_apart() -> None:
    net, x, y = case()
    chip = Substrate().fabricate(net)
    doubled = hardware.diagnose(chip, net, Scaled(2.0), x, y)  # type: ignore[arg-type]
    turned = hardware.diagnose(chip, net, Scaled(-1.0), x, y)  # type: ignore[arg-type]
    some = hardware.diagnose(chip, net, Scaled(1.0, 0.1), x, y)  # type: ignore[arg-type]
    for layer in doubled.layers:
        assert doubled.layers[layer].ideal.norm_ratio == pytest.approx(2.0)
        assert doubled.layers[layer].ideal.cosine == pytest.approx(1.0)
        assert turned.layers[layer].ideal.cosine == pytest.approx(-1.0)
        assert turned.layers[layer].ideal.sign_agreement == 0.0
        # a tenth of the weights, but those that matter most
        assert some.layers[layer].ideal.sign_agreement < 0.85


@pytest.mark.parametrize("bits", [8, 12])
def test_effective_bits_are_those_of_the_contrast_as_read(bits: int) -> None:
    """By hand, from the equilibria; a bit more or less of the converter is one of the contrast."""
    net, x, y = case(64)
    found = []
    for n in (bits, bits + 1):
        chip = Substrate(adc=OutputAdc(n)).fabricate(net)
        ideal, read = (RULE.error_vector(network, x, y)[1] for network in (net, chip))
        row = hardware.diagnose(chip, net, RULE, x, y).layers
        for name, c, seen in zip(net.names, ideal, read, strict=True):
            expected = math.log2(float(c.square().mean().sqrt() / (seen - c).square().mean().sqrt()))
            assert row[name].effective_bits == pytest.approx(expected)
        found.append(row["output"].effective_bits or 0.0)
    assert found[1] - found[0] == pytest.approx(1.0, abs=0.35)


def test_runs_are_averaged_over_batches_passes_and_chips() -> None:
    net, x, y = case(8)
    chips = [NOISY.fabricate(net, seed=s) for s in range(2)]
    found = hardware.diagnose(chips, net, RULE, x, y, batch_size=4, passes=3)
    assert found.runs == 2 * 2 * 3
    assert all(row.ideal.cosine_std > 0 for row in found.layers.values())
    single = hardware.diagnose(Substrate().fabricate(net), net, RULE, x, y)
    assert all(row.ideal.cosine_std == 0 for row in single.layers.values())


def test_a_layer_without_a_gradient_has_no_cosine_in_any_number_of_runs() -> None:
    class Silent(Scaled):
        def backward(self, network: Any, x: Tensor, y: Tensor) -> Any:
            step = super().backward(network, x, y)
            network.zero_grad(set_to_none=False)
            return step

    net, x, y = case()
    silent: Any = Silent(1.0)
    for passes in (1, 2):
        found = hardware.diagnose(Substrate().fabricate(net), net, silent, x, y, passes=passes, reference=silent)
        layer = found.layers["hidden1"]
        assert math.isnan(layer.ideal.cosine) and layer.ideal.norm_ratio == 1.0
        assert layer.exact.cosine == 0.0


def test_a_diagnosis_leaves_chip_gradients_and_random_signs_as_they_were() -> None:
    net, x, y = case()
    chip: Any = NOISY.fabricate(net)
    rule = replace(RULE, contour="random-sign")
    for p in chip.parameters():
        p.grad = torch.ones_like(p)
    before, state = chip.get_extra_state().clone(), rule.state_dict()["generator"].clone()
    first = hardware.diagnose(chip, net, rule, x, y, passes=2)
    assert torch.equal(chip.get_extra_state(), before)
    assert torch.equal(rule.state_dict()["generator"], state)
    assert all(bool((p.grad == 1).all()) for p in chip.parameters())
    assert hardware.diagnose(chip, net, rule, x, y, passes=2) == first


def test_both_networks_meet_the_same_random_signs() -> None:
    net, x, y = case()
    rule = replace(RULE, contour="random-sign", beta=0.5)
    found = hardware.diagnose(Substrate().fabricate(net), net, rule, x, y, passes=3)
    assert all(row.ideal.cosine == pytest.approx(1.0, abs=1e-12) for row in found.layers.values())
    assert all(row.effective_bits == math.inf for row in found.layers.values())


def test_rules_without_a_contrast_have_no_effective_bits() -> None:
    net, x, y = case()
    found = hardware.diagnose(NOISY.fabricate(net), net, eqprop.ImplicitGradient(), x, y)
    assert all(row.effective_bits is None for row in found.layers.values())


def test_unconverged_samples_are_counted_on_each_side() -> None:
    net, x, y = case()
    chip = Substrate(thermal=hardware.ThermalNoise(std=0.01)).fabricate(net)
    rule = EquilibriumPropagation(beta=0.1, free=Stop(1e-6, 60), nudged=Stop(1e-6, 60))
    found = hardware.diagnose(chip, net, rule, x, y)
    assert found.unconverged_share == 1.0 and found.ideal_unconverged_share == 0.0


WALK = EquilibriumPropagation(
    beta=0.05, solver=eqprop.Langevin(dt=0.5, window=20), free=eqprop.Sweeps(80), nudged=eqprop.Sweeps(80)
)


@pytest.mark.parametrize(
    "rule",
    [
        WALK,
        eqprop.Averaged(eqprop.Averaged(WALK, 2), 2),
        replace(WALK, solver=eqprop.Alternating(), nudged_solver=WALK.solver),
        replace(WALK, contour="random-sign"),
    ],
    ids=["plain", "averaged", "nudged", "random sign"],
)
def test_a_chip_that_relaxes_in_time_is_diagnosed_against_a_network_without_noise(rule: eqprop.Rule) -> None:
    """Next to no noise: what is left is what its walk stops short of."""
    net, x, y = case()
    chip = Substrate(thermal=hardware.ThermalNoise(std=1e-9)).fabricate(net)
    before = rule.state_dict()
    found = hardware.diagnose(chip, net, rule, x, y)
    for row in found.layers.values():
        assert row.ideal.cosine > 0.9999 and row.ideal.norm_ratio == pytest.approx(1.0, abs=1e-2)
        assert row.exact.cosine > 0.99 and (row.effective_bits or 0.0) > 5
    after = rule.state_dict()
    assert after.keys() == before.keys()
    loud = Substrate(thermal=hardware.ThermalNoise(std=0.1)).fabricate(net)
    assert hardware.diagnose(loud, net, rule, x, y).layers["hidden1"].ideal.cosine < 0.9


def test_the_reference_rule_runs_on_the_ideal_network_alone() -> None:
    net, x, y = case()
    chip = Substrate().fabricate(net)
    larger = replace(RULE, beta=0.5)
    found = hardware.diagnose(chip, net, RULE, x, y, reference=larger)
    for name, row in found.parameters.items():
        g, t = (gradients(net, rule, x, y)[name].flatten() for rule in (RULE, larger))
        assert row.ideal.cosine == pytest.approx(float(torch.cosine_similarity(g, t, 0)), abs=1e-9) != 1.0
    signs = replace(RULE, contour="random-sign", beta=0.5)
    same = hardware.diagnose(chip, net, signs, x, y, passes=3, reference=replace(signs, beta=0.5))
    assert all(row.ideal.cosine == pytest.approx(1.0, abs=1e-12) for row in same.layers.values())


def test_a_diagnosis_prints_and_is_plain_json() -> None:
    net, x, y = case()
    found = hardware.diagnose(NOISY.fabricate(net), net, RULE, x, y, passes=2)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["layers"]["hidden1"]["ideal"]["cosine"] == found.layers["hidden1"].ideal.cosine
    text = str(found)
    assert "connections.hidden1-hidden2.weight" in text and "mean of 2 runs" in text
    assert f"{found.layers['output'].effective_bits:.1f}" in text
    exact = hardware.diagnose(Substrate().fabricate(net), net, RULE, x, y).record()
    assert exact["layers"]["output"]["effective_bits"] is None  # infinite is no JSON


def test_a_resistive_network_is_diagnosed_like_any_other() -> None:
    net = hardware.ResistiveNetwork.mlp(5, 4, 3, g_min_siemens=0.05, g_max_siemens=1.0, dtype=torch.float64)
    x, y = torch.rand(4, 5, generator=seeded(), dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    rule = EquilibriumPropagation(beta=net.nudge_siemens(0.01), free=eqprop.Sweeps(40), nudged=eqprop.Sweeps(40))
    exact = eqprop.ImplicitGradient(free=eqprop.Sweeps(40))
    shared, afresh = (
        hardware.diagnose(Substrate(fluctuations=(Fluctuation(1e-3, s),)).fabricate(net), net, rule, x, y, exact=exact)
        for s in ("sample", "phase")
    )
    for name in shared.layers:
        assert shared.layers[name].exact.cosine > max(0.999, afresh.layers[name].exact.cosine)
        assert (shared.layers[name].effective_bits or 0.0) > (afresh.layers[name].effective_bits or 0.0) + 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passes": 0}, "diagnose: passes"),
        ({"batch_size": 0}, "diagnose: batch_size"),
        ({"chip": []}, "got 0 chips"),
        ({"y": torch.arange(3)}, "8 inputs and 3 labels"),
        ({"chip": HopfieldNetwork.mlp(6, 4, 3)}, "other parameters than the ideal network"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(change: dict[str, Any], said: str) -> None:
    net, x, y = case()
    given: dict[str, Any] = {"chip": Substrate().fabricate(net), "ideal_network": net, "rule": RULE, "x": x, "y": y}
    with pytest.raises(ConfigError, match=said):
        hardware.diagnose(**(given | change))


def test_layers_gather_the_parameters_that_comparisons_of_layers_do() -> None:
    net, x, y = case()
    chip = Substrate(paths=PathGains(cell_std=0.3)).fabricate(net)
    layers = eqprop.compare_layers(chip, RULE, RULE, x, y)
    assert list(hardware.diagnose(chip, net, RULE, x, y).layers) == list(layers)
    assert set(compare_gradients(net, RULE, RULE, x, y)) == {"all", *dict(net.named_parameters())}
