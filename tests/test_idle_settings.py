"""Settings of a substrate that could have no effect, or a silent one, are refused with numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from eqprop import ConfigError, DataError, EquilibriumPropagation, Sweeps
from hardware import CellArray, Fluctuation, NudgeSource, OutputAdc, PathGains, Substrate
from tests.helpers import inputs, network

IDLE: list[tuple[Callable[[], object], str]] = [
    (lambda: OutputAdc(()), "bits: got ()"),
    (lambda: OutputAdc(8, dither="off"), "dither: got 'off'"),  # type: ignore[arg-type]
    (lambda: OutputAdc(8, differential=0), "differential: got 0"),  # type: ignore[arg-type]
    (lambda: OutputAdc(8, difference_range=0.1), "which nothing reads"),
    (lambda: OutputAdc(8, differential=True, autorange=True, difference_range=0.1), "which nothing reads"),
    (lambda: CellArray(drift="off"), "drift: got 'off'"),  # type: ignore[arg-type]
    (lambda: NudgeSource(mode="clamp", follows_cells=True), "mode='clamp'"),
    (lambda: Substrate(nudge=NudgeSource(follows_cells=True)), "without cells"),
    (lambda: Substrate(twin=True), "two arrays could differ"),
]


@pytest.mark.parametrize(("make", "text"), IDLE, ids=[t for _, t in IDLE])
def test_a_setting_without_effect_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert text in str(caught.value)


@pytest.mark.parametrize("part", [{"fluctuations": (Fluctuation(0.1),)}, {"paths": PathGains(0.1)}])
def test_twins_need_no_cells_where_something_else_differs(part: dict[str, Any]) -> None:
    assert Substrate(twin=True, **part).twin


def test_a_fluctuation_of_nothing_does_not_move() -> None:
    assert not Substrate(fluctuations=(Fluctuation(0.0),)).changes_between_phases
    assert Substrate(fluctuations=(Fluctuation(1e-9),)).changes_between_phases


def test_targets_beyond_the_converter_of_the_nudge_are_refused_and_those_within_are_not() -> None:
    net = network("chain-tanh")
    x = inputs(net)
    y = torch.ones(len(x), *net.shapes[-1], dtype=x.dtype)
    y[0] = -1.0
    rule = EquilibriumPropagation(beta=0.1, free=Sweeps(5), nudged=Sweeps(5))
    with pytest.raises(DataError, match=r"targets from -1 to 1, needed 0 to 1"):
        rule.backward(Substrate(nudge=NudgeSource(bits=8)).fabricate(net), x, y)
    rule.backward(Substrate(nudge=NudgeSource(bits=8, low=-1.0)).fabricate(net), x, y)
