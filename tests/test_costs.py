"""Costs: gradients against autograd, targets from labels, and a user's own function."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import ConfigError, Cost, DataError
from tests.helpers import seeded


def cubic(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().pow(3).sum(-1)


COSTS = {"squared-error": "squared-error", "cross-entropy": "cross-entropy", "function": cubic}
every = pytest.mark.parametrize("name", COSTS)


def output_and_target(device: torch.device) -> tuple[Tensor, Tensor]:
    output = torch.randn(5, 4, generator=seeded(), dtype=torch.float64).to(device)
    target = torch.rand(5, 4, generator=seeded(1), dtype=torch.float64).to(device)
    return output, target


@every
def test_gradient_is_the_one_of_autograd(name: str, device: torch.device) -> None:
    cost = eqprop.cost(COSTS[name])
    output, target = output_and_target(device)
    leaf = output.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cost.loss(leaf, target).sum(), leaf)
    torch.testing.assert_close(cost.gradient(output, target), expected, rtol=1e-12, atol=1e-14)


@every
def test_loss_is_one_value_a_sample_and_depends_on_it_alone(name: str, device: torch.device) -> None:
    cost = eqprop.cost(COSTS[name])
    output, target = output_and_target(device)
    loss = cost.loss(output, target)
    assert loss.shape == (5,)
    torch.testing.assert_close(loss[2:3], cost.loss(output[2:3], target[2:3]))


def test_squared_error_has_the_half(device: torch.device) -> None:
    loss = eqprop.cost("squared-error").loss(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assert loss.tolist() == [2.5]


def test_cross_entropy_is_the_one_of_torch(device: torch.device) -> None:
    output, _ = output_and_target(device)
    y = torch.tensor([0, 3, 1, 1, 2], device=device)
    cost = eqprop.cost("cross-entropy")
    expected = torch.nn.functional.cross_entropy(output, y, reduction="none")
    torch.testing.assert_close(cost.loss(output, cost.target(y, output)), expected)


def test_cross_entropy_of_certain_outputs_is_finite(device: torch.device) -> None:
    cost = eqprop.cost("cross-entropy")
    output = torch.tensor([[800.0, -800.0]], dtype=torch.float64, device=device)
    loss = cost.loss(output, cost.target(torch.tensor([1], device=device), output))
    assert float(loss) == pytest.approx(1600.0)


def test_gradient_of_a_function_leaves_its_arguments_alone(device: torch.device) -> None:
    output, target = output_and_target(device)
    before = output.clone()
    with torch.no_grad():
        gradient = eqprop.cost(cubic).gradient(output, target)
    assert torch.equal(output, before) and not output.requires_grad and not gradient.requires_grad


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_become_one_hot_rows_of_the_dtype_of_the_output(dtype: torch.dtype, device: torch.device) -> None:
    output, _ = output_and_target(device)
    y = torch.tensor([0, 3, 1, 1, 2], dtype=dtype, device=device)
    target = eqprop.cost("squared-error").target(y, output)
    assert target.dtype == output.dtype
    assert torch.equal(target, torch.nn.functional.one_hot(y.long(), 4).double())


def test_float_targets_pass_in_the_dtype_of_the_output(device: torch.device) -> None:
    output, target = output_and_target(device)
    passed = eqprop.cost("squared-error").target(target.float(), output)
    assert passed.dtype == torch.float64
    assert torch.equal(passed, target.float().double())


@pytest.mark.parametrize("bad", [[0, 1, 2, 4, 0], [0, 1, -1, 3, 0]])
def test_label_out_of_range_names_the_range(bad: list[int]) -> None:
    output, _ = output_and_target(torch.device("cpu"))
    with pytest.raises(DataError, match=rf"got values from {min(bad)} to {max(bad)}, needed 0 to 3"):
        eqprop.cost("squared-error").target(torch.tensor(bad), output)


@pytest.mark.parametrize("shape", [(4,), (5, 1), (5, 4)])
def test_labels_of_a_wrong_shape_name_the_right_one(shape: tuple[int, ...]) -> None:
    output, _ = output_and_target(torch.device("cpu"))
    with pytest.raises(DataError, match=r"needed \(5,\): one label a sample"):
        eqprop.cost("squared-error").target(torch.zeros(shape, dtype=torch.int64), output)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (4, 4)])
def test_float_targets_of_a_wrong_shape_name_the_right_one(shape: tuple[int, ...]) -> None:
    output, _ = output_and_target(torch.device("cpu"))
    with pytest.raises(DataError, match=r"needed \(5, 4\) or integer labels"):
        eqprop.cost("squared-error").target(torch.zeros(shape), output)


def test_targets_that_are_not_finite_are_refused() -> None:
    output, target = output_and_target(torch.device("cpu"))
    target[3, 1] = math.nan
    with pytest.raises(DataError, match=r"NaN or infinite.*\[3\]"):
        eqprop.cost("squared-error").target(target, output)


@pytest.mark.parametrize("y", [[0, 1, 2, 3, 0], torch.tensor(1)], ids=["list", "0-d"])
def test_targets_that_are_no_batch_are_refused(y: Tensor) -> None:
    output, _ = output_and_target(torch.device("cpu"))
    with pytest.raises(DataError, match="needed"):
        eqprop.cost("squared-error").target(y, output)


@pytest.mark.parametrize("function", [lambda o, t: (o - t).mean(), lambda o, t: (o - t) ** 2], ids=["mean", "no sum"])
def test_cost_function_of_a_wrong_shape_is_told_what_to_write(function: object) -> None:
    output, target = output_and_target(torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"needed \(5,\): one value a sample \(write \.sum\(-1\)"):
        eqprop.cost(function).loss(output, target)


def test_a_cost_object_passes_through() -> None:
    class Own(Cost):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return (output * target).sum(-1)

    own = Own()
    assert eqprop.cost(own) is own
    output, target = output_and_target(torch.device("cpu"))
    torch.testing.assert_close(own.gradient(output, target), target)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"got 'squared_error'.*did you mean 'squared-error'"):
        eqprop.cost("squared_error")


def test_something_that_is_no_cost_is_refused() -> None:
    with pytest.raises(ConfigError, match="got float, needed a name"):
        eqprop.cost(0.5)
