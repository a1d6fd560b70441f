"""What a chip says of itself: clipping, costs of twin arrays, sources that hold nothing, energy of writes."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

import eqprop
from eqprop import ConfigError, EquilibriumPropagation, Sweeps
from hardware import CellArray, NudgeSource, OutputAdc, ResistiveNetwork, Substrate, Timing, estimate
from tests.helpers import inputs, labels, network, seeded

RULE = EquilibriumPropagation(beta=0.1, free=Sweeps(40), nudged=Sweeps(20))


def backward(net: Any, **parts: Any) -> Any:
    chip: Any = Substrate(**parts).fabricate(net)
    RULE.backward(chip, inputs(net), labels())
    return chip


# -- converters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 0.0, "high": 0.01}, r"% of the values of layer .* write OutputAdc\(low=.*, high="),
        (
            {"differential": True, "difference_range": 1e-6},
            r"% of the differences .* write OutputAdc\(difference_range=",
        ),
    ],
)
def test_a_range_that_clips_is_told_once_a_layer(options: dict[str, Any], text: str) -> None:
    net = network("chain-sigmoid")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        chip = backward(net, adc=OutputAdc(16, **options))
        RULE.backward(chip, inputs(net), labels())
    assert sorted(str(w.message).split("layer ")[1].split()[0] for w in told) == sorted(map(repr, net.names))
    with pytest.warns(RuntimeWarning, match=text):
        backward(net, adc=OutputAdc(16, **options))


@pytest.mark.parametrize("options", [{}, {"autorange": True}, {"differential": True, "difference_range": 0.5}])
def test_a_range_that_holds_what_is_read_is_told_nothing(options: dict[str, Any]) -> None:
    """Warnings are errors here; half of these units rest at a bound of their range."""
    net = network("chain-hard_sigmoid")
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(10.0)
    chip = backward(net, adc=OutputAdc(6, **options))
    state = RULE.backward(chip, inputs(net), labels()).free.state
    assert any(((s == 0.0) | (s == 1.0)).any() for s in state)


def test_reads_that_would_all_be_alike_are_refused() -> None:
    with pytest.raises(ConfigError, match="write dither=True"):
        OutputAdc(8, reads=16)
    assert OutputAdc(8, reads=16, noise_lsb=0.5).reads == OutputAdc(8, reads=16, dither=True).reads == 16


# -- twin arrays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contour", ["one-sided", "centred"])
@pytest.mark.parametrize("circuit", [False, True])
def test_twins_double_cells_and_writes_and_save_a_phase_of_time(contour: str, circuit: bool) -> None:
    net: Any = ResistiveNetwork.mlp(5, 6, 3, generator=seeded()) if circuit else network("chain-sigmoid")
    x = torch.rand(6, 5, generator=seeded(1), dtype=next(net.parameters()).dtype)
    beta = net.nudge_siemens(0.1) if circuit else 0.1
    rule = EquilibriumPropagation(beta=beta, contour=contour, free=Sweeps(20), nudged=Sweeps(10))
    cells = CellArray("idealized", programming=False, read_noise=False)
    cells = CellArray("ecram", "single", g_min_siemens=1e-7, g_max_siemens=1e-5) if circuit else cells
    one, two = (
        estimate(Substrate(cells=cells, twin=twin, timing=Timing(4e-6)).fabricate(net), rule, x).training_step
        for twin in (False, True)
    )
    for name in ("cells", "neurons"):
        assert two[name].count == 2 * one[name].count
        assert two[name].joules == pytest.approx(one[name].joules, rel=0.05)  # of one set a phase
    assert two["writes"].count == 2 * one["writes"].count and two["writes"].seconds == one["writes"].seconds
    assert two["writes"].joules == pytest.approx(2 * one["writes"].joules, rel=1e-5)
    phases = {"one-sided": 2, "centred": 3}[contour]
    assert one["cells"].seconds == pytest.approx(6 * phases * 4e-6)
    assert two["cells"].seconds == pytest.approx(6 * (phases - 1) * 4e-6)


def test_a_twin_says_once_which_phases_run_at_the_same_time() -> None:
    single, twin = (Substrate(cells=CellArray("pcm"), twin=t).describe() for t in (False, True))
    assert "\nphases run one after another" in single and "twin" not in single
    assert "the first of them at the same time" in twin and "further phases run one after another" in twin


# -- sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["current", "clamp"])
def test_a_source_that_holds_the_free_output_needs_a_free_phase(mode: str) -> None:
    net, rule = network("chain-tanh"), eqprop.OscillatingEP(beta=0.3, points=2)
    chip = Substrate(nudge=NudgeSource(mode=mode)).fabricate(net)
    with pytest.raises(ConfigError, match=f"mode='{mode}' and a rule without a free phase"):
        rule.backward(chip, inputs(net), labels())
    RULE.backward(chip, inputs(net), labels())
    with pytest.raises(ConfigError, match="without a free phase"):  # of this pass
        rule.backward(chip, inputs(net), labels())


def test_a_circuit_refuses_a_current_of_no_free_phase_too() -> None:
    net = ResistiveNetwork.mlp(5, 6, 3, generator=seeded())
    chip: Any = Substrate(nudge=NudgeSource(mode="current")).fabricate(net)
    rule = eqprop.OscillatingEP(beta=net.nudge_siemens(0.1), points=2)
    with pytest.raises(ConfigError, match="mode='current' and a rule without a free phase"):
        rule.backward(chip, torch.rand(6, 5, generator=seeded(1)), labels())


@pytest.mark.parametrize("mode", ["feedback", "current"])
def test_a_converter_makes_the_force_where_there_is_no_target(mode: str) -> None:
    net = network("readout")
    x, y = inputs(net), labels()

    def outputs(contour: str = "one-sided", **options: Any) -> torch.Tensor:
        chip: Any = Substrate(nudge=NudgeSource(**options)).fabricate(net)
        rule = EquilibriumPropagation(
            beta=0.3,
            cost="cross-entropy",
            contour=contour,
            points=4 if contour == "cauchy" else 2,
            free=Sweeps(60),
            nudged=Sweeps(60),
        )
        return rule.backward(chip, x, y).nudged[0].state[-1]

    coarse, fine, exact = (outputs(bits=bits, mode=mode) for bits in (3, 16, None))
    assert float((coarse - exact).abs().max()) > 1e-3 > 1e-4 > float((fine - exact).abs().max()) > 0.0
    if mode == "feedback":
        with pytest.raises(ConfigError, match="cost 'cross-entropy' without a target"):
            outputs("cauchy", bits=3)


# -- energy of writes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "mapping", "twin"),
    [("programmed", "balanced", False), ("programmed", "balanced", True), ("sign", "one-sided", False)],
)
def test_closed_loop_writes_cost_energy(mode: str, mapping: str, twin: bool) -> None:
    net = network("chain-sigmoid")
    layout = CellArray("pcm", mapping, read_noise=False, drift=False, weight_range=2.0)
    chip: Any = Substrate(cells=layout, twin=twin).fabricate(net)
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.5)
    path = chip.write_path(optimizer, mode=mode, pulse_joules=1e-12, write_joules=1e-9, refresh_share=0.3)
    before, made = path.energy_joules, chip.counts["writes"]
    assert before == pytest.approx(made * 1e-9)
    for _ in range(6):
        RULE.backward(chip, inputs(net), labels())
        optimizer.step()
    chip.predict(inputs(net))
    assert chip.counts["writes"] > made and path.energy_joules > before
    assert path.energy_joules == pytest.approx(path.pulses * 1e-12 + chip.counts["writes"] * 1e-9)
    with pytest.raises(ConfigError, match="write_joules: got nan"):
        chip.write_path(torch.optim.SGD(chip.parameters(), lr=0.5), mode=mode, write_joules=math.nan)
