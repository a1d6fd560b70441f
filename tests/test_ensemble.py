"""Ensembles: members that relax together get the numbers of separate runs, and do not disturb each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
import hardware
from benchmarks import _common, speed
from eqprop import ConfigError, DataError, DirectedNetwork, EquilibriumPropagation, HopfieldNetwork, Stop, Sweeps
from tests.helpers import seeded
from tests.test_device import ACCELERATORS, NoLook, assert_on, assert_solution_on, moved, no_look, valueless

__all__ = ["no_look"]  # a fixture

MEMBERS, BATCH, INPUTS, CLASSES = 3, 5, 7, 3
SWEEPS: dict[str, Any] = {"free": Sweeps(6), "nudged": Sweeps(5)}


def networks(cls: Any, dtype: torch.dtype = torch.float64, members: int = MEMBERS, **options: Any) -> Any:
    """Networks of one shape with weights and biases of their own."""
    made = [cls.mlp(INPUTS, 6, 5, CLASSES, generator=seeded(m), dtype=dtype, **options) for m in range(members)]
    for m, net in enumerate(made):
        with torch.no_grad():
            for bias in net.biases.values():
                bias.copy_(0.2 + 0.1 * torch.randn(bias.shape, generator=seeded(20 + m)))
    return made


def rules(members: int = MEMBERS, **options: Any) -> list[EquilibriumPropagation]:
    """Rules that differ in nudge and seed."""
    return [EquilibriumPropagation(beta=0.1 * (m + 1), seed=m, **SWEEPS | options) for m in range(members)]


def batches(steps: int, dtype: torch.dtype = torch.float64, members: int = MEMBERS) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch a member; the last is smaller."""
    generator = seeded(9)
    for step in range(steps):
        n = BATCH - (step == steps - 1)
        x = torch.rand(members, n, INPUTS, generator=generator, dtype=torch.float64).to(dtype)
        yield x, torch.randint(0, CLASSES, (members, n), generator=generator)


def rates(net: Any, members: int = MEMBERS) -> list[list[float]]:
    """One a connection, others a member."""
    return [[0.1 * (m + 1) + 0.02 * c for c in range(len(net.parameter_groups(1.0)))] for m in range(members)]


class Pair:
    """The same networks as an ensemble and one by one, with optimisers and schedules."""

    def __init__(self, apart: Any, together: Any, *, fused: bool = True, **options: Any) -> None:
        self.apart, self.together = apart, together
        optimiser = {k: options.pop(k) for k in ("momentum", "weight_decay") if k in options}
        self.rules, self.rule = rules(**options), eqprop.EnsembleRule(rules(**options))
        each = rates(apart[0])
        self.optimizer = eqprop.EnsembleSGD(together, each, fused=fused, **optimiser)
        self.optimizers = [
            torch.optim.SGD(net.parameter_groups(r), lr=1.0, **optimiser) for net, r in zip(apart, each, strict=True)
        ]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR
        self.schedules = [schedule(o, 4) for o in (*self.optimizers, self.optimizer)]

    def train(self, steps: int, tolerance: float, dtype: torch.dtype = torch.float64) -> None:
        """Both ways; every figure of every step must agree."""
        for step, (x, y) in enumerate(batches(steps, dtype)):
            self.optimizer.zero_grad()
            found = self.rule.backward(self.together, x, y)
            self.optimizer.step()
            for m, (net, rule) in enumerate(zip(self.apart, self.rules, strict=True)):
                self.optimizers[m].zero_grad()
                alone = rule.backward(net, x[m], y[m])
                self.optimizers[m].step()
                assert close(found.loss[m], alone.loss, tolerance) and close(found.output[m], alone.output, tolerance)
                assert torch.equal(found.sweeps[m], alone.sweeps)
                assert torch.equal(found.free.status[m], alone.free.status)
            if step % 3 == 2:
                for scheduler in self.schedules:
                    scheduler.step()
        for m, net in enumerate(self.apart):
            assert differences(net, self.together, m) < tolerance


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).detach().abs().max() < tolerance)


def differences(net: Any, together: Any, member: int) -> float:
    """Largest difference of a parameter."""
    pairs = [(p, together.get_parameter(name)[member].reshape(p.shape)) for name, p in net.named_parameters()]
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "tied": (HopfieldNetwork, {"activation": "hard_sigmoid"}, {}),
    "tied, momentum and decay": (
        HopfieldNetwork,
        {"activation": "tanh"},
        {"contour": "one-sided", "momentum": 0.9, "weight_decay": 1e-2},
    ),
    "decay alone, by gradients": (
        HopfieldNetwork,
        {"activation": "hard_sigmoid"},
        {"order": "alternating", "weight_decay": 1e-2, "fused": False},
    ),
    "random signs, momentum, by gradients": (
        HopfieldNetwork,
        {"activation": "sigmoid"},
        {"contour": "random-sign", "momentum": 0.5, "fused": False},
    ),
    "readout, decay alone": (
        HopfieldNetwork,
        {"activation": "tanh", "readout": 4},
        {"contour": "alternating-sign", "cost": "cross-entropy", "readout": "tangent", "weight_decay": 1e-2},
    ),
    "directed, to tolerance": (
        DirectedNetwork,
        {"activation": "hard_sigmoid", "feedback_angle": 60.0},
        {"readout": "tangent", "contour": "random-sign", "free": Stop(1e-3, 40, block=3), "solver": eqprop.Anderson()},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_members_train_as_they_would_alone(case: str) -> None:
    cls, shape, options = CASES[case]
    Pair(networks(cls, **shape), eqprop.ensemble(networks(cls, **shape)), **options).train(20, 1e-11)


def test_members_train_as_they_would_alone_in_single_precision() -> None:
    made = [networks(HopfieldNetwork, torch.float32) for _ in range(2)]
    Pair(made[0], eqprop.ensemble(made[1])).train(20, 1e-4, torch.float32)


SUBSTRATES: dict[str, Callable[[int], hardware.Substrate]] = {
    "ideal": lambda m: hardware.Substrate(),
    "adc": lambda m: hardware.Substrate(adc=hardware.OutputAdc(bits=3 + m)),
    "adc by layer, and dac": lambda m: hardware.Substrate(
        adc=hardware.OutputAdc(bits=(4, 5 + m, 6), low=-0.1, high=1.1), input_dac=hardware.InputDac(bits=2 + m)
    ),
    "read noise": lambda m: hardware.Substrate(fluctuations=(hardware.Fluctuation(0.05 + 0.1 * m),)),
    "shared noise, and adc": lambda m: hardware.Substrate(
        fluctuations=(hardware.Fluctuation(0.1, correlation=0.5), hardware.Fluctuation(0.1 * (m + 1), scope="chip")),
        adc=hardware.OutputAdc(bits=6),
    ),
    "noise a pass": lambda m: hardware.Substrate(fluctuations=(hardware.Fluctuation(0.1, scope="sample"),)),
}


def chips(substrate: str, cls: Any = HopfieldNetwork) -> Any:
    """Chips that have seen a batch before."""
    made = [
        SUBSTRATES[substrate](m).fabricate(net, seed=m)
        for m, net in enumerate(networks(cls, activation="hard_sigmoid"))
    ]
    for chip in made:
        rules(readout="tangent")[0].predict(chip, torch.full((2, INPUTS), 0.3, dtype=torch.float64))
    return made


@pytest.mark.parametrize("substrate", SUBSTRATES)
def test_chips_train_as_they_would_alone_and_go_on_so(substrate: str) -> None:
    apart, start = chips(substrate), chips(substrate)
    pair = Pair(apart, hardware.chip_ensemble(start))
    pair.train(8, 1e-11)
    x = torch.full((2, INPUTS), 0.4, dtype=torch.float64)
    for m, chip in enumerate(start):
        pair.together.store(m, chip)
        assert close(pair.rules[m].predict(chip, x), pair.rules[m].predict(apart[m], x), 1e-11)


def test_directed_chips_train_as_they_would_alone() -> None:
    made = [chips("read noise", DirectedNetwork) for _ in range(2)]
    Pair(made[0], hardware.chip_ensemble(made[1]), readout="tangent").train(6, 1e-11)


@pytest.mark.parametrize("kind", ["networks", "chips"])
def test_members_that_leave_do_not_change_the_others(kind: str) -> None:
    pair = (
        Pair(networks(HopfieldNetwork), eqprop.ensemble(networks(HopfieldNetwork)), momentum=0.5)
        if kind == "networks"
        else Pair(chips("shared noise, and adc"), hardware.chip_ensemble(chips("shared noise, and adc")), momentum=0.5)
    )
    pair.train(4, 1e-11)
    left = [2, 0]
    for part in (pair.together, pair.rule, pair.optimizer):
        part.keep(left)
    for x, y in batches(4, members=2):
        pair.optimizer.zero_grad()
        pair.rule.backward(pair.together, x, y)
        pair.optimizer.step()
        for place, m in enumerate(left):
            pair.optimizers[m].zero_grad()
            pair.rules[m].backward(pair.apart[m], x[place], y[place])
            pair.optimizers[m].step()
    assert pair.together.count == 2
    for place, m in enumerate(left):
        assert differences(pair.apart[m], pair.together, place) < 1e-11


def test_a_member_that_is_not_finite_poisons_nobody() -> None:
    made = networks(HopfieldNetwork, activation="tanh"), networks(HopfieldNetwork, activation="tanh")
    for nets in made:
        with torch.no_grad():
            nets[1].connection("input-hidden1").weight[0, 0] = math.nan
    together = eqprop.ensemble(made[1])
    optimizer, rule = eqprop.EnsembleSGD(together, [0.1] * MEMBERS), eqprop.EnsembleRule(rules())
    x, y = next(batches(2))
    found = rule.backward(together, x, y)
    optimizer.step()
    assert not torch.isfinite(found.loss[1]) and torch.isfinite(found.loss[[0, 2]]).all()
    for m in (0, 2):
        alone = torch.optim.SGD(made[0][m].parameters(), lr=0.1)
        rules()[m].backward(made[0][m], x[m], y[m])
        alone.step()
        assert differences(made[0][m], together, m) < 1e-11


def test_one_batch_may_serve_all_members() -> None:
    together, rule = eqprop.ensemble(networks(HopfieldNetwork)), eqprop.EnsembleRule(rules())
    x, y = next(batches(2))
    shared = rule.backward(together, x[0], y[0])
    each = rule.backward(together, x[:1].repeat(MEMBERS, 1, 1), y[:1].repeat(MEMBERS, 1))
    assert close(shared.loss, each.loss, 1e-14)
    rows = torch.nn.functional.one_hot(y[0], CLASSES).double()
    assert close(rule.backward(together, x[0], rows).loss, shared.loss, 1e-14)
    predicted = together.predict(x[0], stop=SWEEPS["free"])
    assert close(rule.predict(together, x[0]), predicted, 1e-14)


def test_members_come_back_as_networks() -> None:
    nets = networks(DirectedNetwork, readout=4)
    together = eqprop.ensemble(nets)
    assert isinstance(together, DirectedNetwork) and together.count == MEMBERS
    for m, net in enumerate(nets):
        member = together.member(m)
        assert type(member) is DirectedNetwork
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), member.parameters(), strict=True))
    assert eqprop.ensemble([together.member(1)]).count == 1
    with torch.no_grad():
        together.biases["output"].add_(1.0)
    assert not torch.equal(together.member(0).biases["output"], nets[0].biases["output"])
    with pytest.raises(ConfigError, match="save its members"):
        together.spec()


def test_an_energy_is_that_of_each_member() -> None:
    nets = networks(HopfieldNetwork, activation="tanh")
    together = eqprop.ensemble(nets)
    x = next(batches(2))[0]
    drive = together.drive(x)
    state = eqprop.relax(together, together.initial_state(BATCH), drive, stop=Sweeps(2)).state
    energy = together.energy(state, drive)
    for m, net in enumerate(nets):
        assert close(energy[m], net.energy(tuple(s[m] for s in state), net.drive(x[m])), 1e-12)


# -- what is refused ---------------------------------------------------------------------------------------------------


def _cnn() -> Any:
    return HopfieldNetwork.cnn((1, 4, 4), 2, units=(3,), generator=seeded())


NET = networks(HopfieldNetwork)[0]
ADC = hardware.Substrate(adc=hardware.OutputAdc(bits=4))
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: eqprop.ensemble([]), r"got no networks, needed at least one; write eqprop.ensemble"),
    "images": (lambda: eqprop.ensemble([_cnn()]), r"got layer 'input' of shape \(1, 4, 4\), needed dense layers"),
    "other sizes": (
        lambda: eqprop.ensemble([NET, HopfieldNetwork.mlp(INPUTS, 4, 5, CLASSES, dtype=torch.float64)]),
        r"got layers .*'hidden1': 4.* in network 1, needed .*'hidden1': 6.*write an ensemble for each",
    ),
    "another activation": (
        lambda: eqprop.ensemble(networks(HopfieldNetwork)[:1] + networks(HopfieldNetwork, activation="tanh")[:1]),
        r"got activations \['tanh', 'tanh', 'tanh'\] in network 1",
    ),
    "another precision": (
        lambda: eqprop.ensemble(networks(HopfieldNetwork)[:1] + networks(HopfieldNetwork, torch.float32)[:1]),
        "got precision torch.float32 in network 1, needed torch.float64",
    ),
    "another kind": (
        lambda: eqprop.ensemble(networks(HopfieldNetwork)[:1] + networks(DirectedNetwork)[:1]),
        "got class DirectedNetwork in network 1, needed HopfieldNetwork",
    ),
    "chips": (lambda: eqprop.ensemble([ADC.fabricate(NET)]), r"write hardware.chip_ensemble\(chips\)"),
    "no chips": (lambda: hardware.chip_ensemble([NET]), r"got HopfieldNetwork at place 0.*eqprop.ensemble"),
    "cells": (
        lambda: hardware.chip_ensemble([hardware.Substrate(cells=hardware.CellArray("pcm")).fabricate(NET)]),
        "got a substrate with cells=.*needed converters and fluctuations alone",
    ),
    "a noisy converter": (
        lambda: hardware.chip_ensemble([hardware.Substrate(adc=hardware.OutputAdc(noise_lsb=0.5)).fabricate(NET)]),
        "got adc with noise_lsb=0.5, needed 0.0",
    ),
    "some converters": (
        lambda: hardware.chip_ensemble([ADC.fabricate(NET), hardware.Substrate().fabricate(NET)]),
        "got chip 1 with .*'adc': False.*needed .*'adc': True",
    ),
    "another rule": (
        lambda: eqprop.EnsembleRule([eqprop.ContrastiveHebbian()]),  # type: ignore[list-item]
        "got ContrastiveHebbian for member 0, needed EquilibriumPropagation",
    ),
    "other sweeps": (
        lambda: eqprop.EnsembleRule([*rules()[:1], *rules(free=Sweeps(7))[:1]]),
        r"got free Sweeps\(n=7, tol=0.001\) for member 1, needed Sweeps\(n=6.*only beta and seed may differ",
    ),
    "one rule twice": (lambda: eqprop.EnsembleRule([rules()[0]] * 2), "got one object for two members"),
    "a complex contour": (
        lambda: eqprop.EnsembleRule(rules(contour="cauchy", points=6)),
        "got contour 'cauchy', needed 'centred'",
    ),
    "low precision": (lambda: eqprop.EnsembleRule(rules(products="bfloat16")), "got products 'bfloat16', needed none"),
    "rates": (
        lambda: eqprop.EnsembleSGD(eqprop.ensemble([NET]), [0.1, 0.2]),
        "got 2 for 1 members, needed one",
    ),
    "a negative rate": (lambda: eqprop.EnsembleSGD(eqprop.ensemble([NET]), [-0.1]), "needed rates and weight_decay"),
    "another number": (
        lambda: eqprop.EnsembleRule(rules()).backward(eqprop.ensemble([NET]), torch.ones(2, INPUTS), torch.ones(2)),
        "got an ensemble of 1 members for 3 rules",
    ),
    "an energy that is not there": (
        lambda: eqprop.EnsembleRule(rules()).backward(
            eqprop.ensemble(networks(DirectedNetwork)), torch.ones(2, INPUTS), torch.ones(2)
        ),
        "readout: 'contrast' needs an energy",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_an_ensemble_is_refused_with_a_remedy(what: str) -> None:
    make, text = REFUSED[what]
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (torch.ones(2, BATCH, INPUTS), torch.zeros(2, BATCH).long(), r"needed \[3, batch, 7\], or \[batch, 7\]"),
        (torch.ones(MEMBERS, BATCH, 8), torch.zeros(MEMBERS, BATCH).long(), r"got shape \(3, 5, 8\)"),
        (torch.ones(BATCH, INPUTS).int(), torch.zeros(BATCH).long(), "got torch.int32, needed a floating-point"),
        (torch.ones(MEMBERS, BATCH, INPUTS), torch.zeros(4).long(), r"got shape \(4,\), needed \(3, 5\), or \(5,\)"),
        (torch.ones(MEMBERS, BATCH, INPUTS), torch.full((MEMBERS, BATCH), 3), "got values from 3 to 3, needed 0 to 2"),
        (torch.ones(MEMBERS, BATCH, INPUTS) / 0, torch.zeros(MEMBERS, BATCH).long(), r"member and sample \[\[0, 0\]"),
    ],
)
def test_batches_that_do_not_fit_are_refused(x: Tensor, y: Tensor, text: str) -> None:
    with pytest.raises(DataError, match=text):
        eqprop.EnsembleRule(rules()).backward(eqprop.ensemble(networks(HopfieldNetwork)), x, y)


# -- accelerators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_step_stays_on_the_device_and_never_waits(accelerator: str, fused: bool, no_look: type[NoLook]) -> None:
    together = eqprop.ensemble(networks(HopfieldNetwork, torch.float32, activation="tanh"))
    with valueless(accelerator):
        moved(together, accelerator)
        x = torch.empty(MEMBERS, BATCH, INPUTS, device=accelerator)
        y = torch.empty(MEMBERS, BATCH, dtype=torch.int64, device=accelerator)
        rule = eqprop.EnsembleRule(rules(contour="random-sign", free=Stop(1e-4, 4, block=2)))
        optimizer = eqprop.EnsembleSGD(together, rates(networks(HopfieldNetwork)[0]), momentum=0.5, fused=fused)
        optimizer.zero_grad()
        step = rule.backward(together, x, y)
        optimizer.step()
        assert_on(accelerator, step.loss, step.output, step.sweeps, *together.parameters())
        for solution in (step.free, *step.nudged):
            assert_solution_on(accelerator, solution)


@pytest.mark.parametrize("fused", (True, False))
def test_frozen_parameters_of_the_members_stay_and_others_learn(fused: bool) -> None:
    nets = networks(eqprop.DirectedNetwork, activation="sigmoid", feedback_angle=60.0, readout=CLASSES)
    for net in nets:
        for pair in net.reciprocal_pairs():
            pair.backward.weight.requires_grad_(False)
        net.biases["hidden1"].requires_grad_(False)
        net.readout.bias.requires_grad_(False)
    together = eqprop.ensemble(nets)
    frozen = {n: p.detach().clone() for n, p in together.named_parameters() if not p.requires_grad}
    assert set(frozen) == {n for n, p in nets[0].named_parameters() if not p.requires_grad}
    assert {n for n, p in together.member(1).named_parameters() if not p.requires_grad} == set(frozen)
    before = {n: p.detach().clone() for n, p in together.named_parameters()}
    x, y = next(batches(2))
    optimizer = eqprop.EnsembleSGD(together, [0.1] * MEMBERS, momentum=0.5, fused=fused)
    eqprop.EnsembleRule(rules(readout="tangent")).backward(together, x, y)
    optimizer.step()
    for n, p in together.named_parameters():
        assert torch.equal(p, before[n]) == (n in frozen), n
    nets[1].biases["hidden1"].requires_grad_(True)
    with pytest.raises(eqprop.ConfigError, match="frozen parameters"):
        eqprop.ensemble(nets)


# -- the benchmark -----------------------------------------------------------------------------------------------------


def test_the_speed_suite_reports_gain_bounds_and_what_is_derived(tmp_path: Path) -> None:
    words = "--suite ensemble --network 12-6-3 --batch-size 2 --sweeps 1 --rounds 1 --device cpu".split()
    _common.run_main(speed.main, speed.options(), [*words, "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["headline"][0]["target"] == ">= 4" and summary["headline"][0]["unit"] == "x"
    assert set(summary["seconds_a_member_step"]) == {"separate", "ensemble", "products", "update", "copy"}
    # 2 B n_in n_1 each for drive and update; 3 sweeps of 2 products, and 2 gradients, between moving layers
    assert summary["operations_a_member_step"] == 2 * 2 * (2 * 12 * 6 + 6 * 3 * (6 + 2))
    bounds = summary["derived"]["gpus"]["h100"]
    assert bounds["1"]["set_by"] == "launches"
    assert bounds["64"]["member_steps_per_second"] == pytest.approx(64 * bounds["1"]["member_steps_per_second"])
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 1
