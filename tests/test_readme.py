"""The README's code example runs as it stands, and learns."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import eqprop

README = Path(__file__).resolve().parent.parent / "README.md"


def examples() -> list[str]:
    """The code blocks of the README, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_example_in_the_readme_trains_a_users_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    code = examples()[0]
    exec(compile(code, "README.md", "exec"), {})
    accuracy = float(capsys.readouterr().out.splitlines()[-1])
    assert accuracy > 0.8, "one epoch of the README's example should read four digits in five"


@pytest.mark.filterwarnings("ignore::eqprop.ContourWarning")
def test_the_convolutional_example_makes_a_rule_that_fills_every_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(0, 10, (8,), generator=generator)
    names: dict[str, Any] = {"eqprop": eqprop, "images": images, "labels": labels}
    exec(compile(examples()[1], "README.md", "exec"), names)
    step = names["rule"].backward(names["network"], images, labels)
    assert step.loss.isfinite() and all(p.grad is not None for p in names["network"].parameters())


def test_the_examples_of_chips_and_liquids_run_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = next(eqprop.load_dataset("digits").train.batches(8))
    network = eqprop.HopfieldNetwork.mlp(784, 16, 10, generator=torch.Generator().manual_seed(0))
    rule = eqprop.EquilibriumPropagation(beta=0.5)
    names: dict[str, Any] = {"torch": torch, "images": images, "labels": labels, "network": network, "rule": rule}
    chips, liquids = examples()[2:]
    exec(compile(chips, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "reram-sb" in printed and "cosine" in printed and "inference of a sample" in printed
    data, g = eqprop.load_dataset("digits"), torch.Generator().manual_seed(0)
    parts = {name: getattr(data, name).subset(n, g) for name, n in (("train", 200), ("validation", 50), ("test", 100))}
    names["data"] = dataclasses.replace(data, **parts)  # of the first example, and smaller
    exec(compile(liquids, "README.md", "exec"), names)
    (accuracy,) = ast.literal_eval(capsys.readouterr().out)
    assert accuracy > 0.6 and names["readout"].n_features_in_ == 1000


def test_the_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) < 150
