"""Bad input: an error that says what was got, what was needed and what to write, and nothing changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import eqprop
from eqprop import (
    Backprop,
    ConfigError,
    DataError,
    Dense,
    DirectedNetwork,
    EnergyNetwork,
    EqPropError,
    EquilibriumPropagation,
    FieldNetwork,
    HopfieldNetwork,
    ImplicitGradient,
    Layer,
    Network,
    RecurrentBackprop,
    Stop,
    Sweeps,
    TruncatedBPTT,
)
from tests.helpers import NETWORKS, inputs, labels, layers, network

RULES: dict[str, Any] = {
    "ep": EquilibriumPropagation(),
    "ep-tangent": EquilibriumPropagation(readout="tangent"),
    "implicit": ImplicitGradient(),
    "recurrent": RecurrentBackprop(),
    "bptt": TruncatedBPTT(),
    "backprop": Backprop(),
}
every_rule = pytest.mark.parametrize("rule", RULES)


def refused(error: type[Exception], text: str, call: Callable[[], Any]) -> None:
    """The call raises exactly this kind of error, and its text matches."""
    with pytest.raises(error, match=text) as caught:
        call()
    assert isinstance(caught.value, EqPropError)


# -- data --------------------------------------------------------------------------------------------------------------


def spoiled(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[2, 1] = value
    return x


X = inputs(network("chain-tanh"), 4)
BAD_X: dict[str, tuple[Any, str]] = {
    "integers": ((X * 255).to(torch.uint8), r"got torch\.uint8, needed a floating-point tensor.*\.float\(\) / 255"),
    "a list": (X.tolist(), "got list, needed a floating-point tensor"),
    "too few features": (X[:, :4], r"got shape \(4, 4\), needed \[batch, 5\]"),
    "too many features": (torch.cat([X, X], 1), r"got shape \(4, 10\), needed \[batch, 5\]"),
    "no batch": (X[0], r"got shape \(5,\), needed \[batch, 5\]"),
    "a batch of batches": (X[None], r"got shape \(1, 4, 5\), needed \[batch, 5\]"),
    "a number": (X.sum(), r"got shape \(\), needed \[batch, 5\]"),
    "NaN": (spoiled(X, math.nan), r"got NaN or infinite values in samples \[2\] of the batch, needed finite ones"),
    "infinity": (spoiled(X, math.inf), r"got NaN or infinite values in samples \[2\]"),
}
BAD_Y: dict[str, tuple[Any, str]] = {
    "too large a label": (
        torch.tensor([0, 1, 2, 3]),
        r"got values from 0 to 3, needed 0 to 2 for 3 outputs; .* 4 outp",
    ),
    "a negative label": (torch.tensor([0, -1, 2, 1]), "got values from -1 to 2, needed 0 to 2"),
    "too few labels": (labels(3), r"got shape \(3,\), needed \(4,\): one label a sample"),
    "one-hot integers": (torch.eye(4, 3).long(), r"got shape \(4, 3\), needed \(4,\): one label a sample"),
    "a label": (torch.tensor(1), r"got shape \(\), needed \(4,\)"),
    "a list": ([0, 1, 2, 0], r"got list, needed a tensor; write torch\.as_tensor\(y\)"),
    "targets of another width": (torch.zeros(4, 2), r"got shape \(4, 2\), needed \(4, 3\) or integer labels"),
    "targets of another length": (torch.zeros(3, 3), r"got shape \(3, 3\), needed \(4, 3\)"),
    "targets of NaN": (spoiled(torch.zeros(4, 3), math.nan), r"got NaN or infinite values in samples \[2\]"),
}


@every_rule
@pytest.mark.parametrize("case", BAD_X)
def test_bad_inputs_are_named_and_grad_is_untouched(rule: str, case: str) -> None:
    net = network("chain-tanh")
    x, text = BAD_X[case]
    kept = with_grad(net)
    refused(DataError, f"input: {text}", lambda: RULES[rule].backward(net, x, labels(4)))
    assert_grad_is(net, kept)


@every_rule
@pytest.mark.parametrize("case", BAD_Y)
def test_bad_targets_are_named_and_grad_is_untouched(rule: str, case: str) -> None:
    net = network("chain-tanh")
    y, text = BAD_Y[case]
    kept = with_grad(net)
    refused(DataError, text, lambda: RULES[rule].backward(net, X, y))
    assert_grad_is(net, kept)


def with_grad(net: Network) -> dict[str, Tensor | None]:
    """Something to lose: a gradient in every second parameter."""
    for i, p in enumerate(net.parameters()):
        p.grad = torch.full_like(p, 7.0) if i % 2 else None
    return {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


def assert_grad_is(net: Network, kept: dict[str, Tensor | None]) -> None:
    for n, p in net.named_parameters():
        expected = kept[n]
        assert (p.grad is None) == (expected is None)
        assert expected is None or (p.grad is not None and torch.equal(p.grad, expected))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_names_a_wrong_input_shape(name: str) -> None:
    net = network(name)
    needed = ", ".join(map(str, net.input_shape))
    refused(DataError, rf"got shape \(4, 6\), needed \[batch, {needed}\]", lambda: net.drive(torch.zeros(4, 6)))


@pytest.mark.parametrize("name", ["chain-tanh", "readout", "user-field"])
def test_prediction_names_bad_inputs(name: str) -> None:
    net = network(name)
    for case in ("integers", "too few features", "NaN"):
        x, text = BAD_X[case]
        refused(DataError, text, lambda x=x: net.predict(x))  # type: ignore[misc]
        refused(DataError, text, lambda x=x: RULES["ep"].predict(net, x))  # type: ignore[misc]


@every_rule
def test_an_empty_batch_is_refused(rule: str) -> None:
    net = network("chain-tanh")
    kept = with_grad(net)
    refused(DataError, "got 0 samples, needed at least 1", lambda: RULES[rule].backward(net, X[:0], labels(0)))
    assert_grad_is(net, kept)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 8, 24), (2, 3, 64), (2, 8, 3, 8)])
def test_images_in_another_order_are_refused_and_not_reshaped(shape: tuple[int, ...]) -> None:
    net = HopfieldNetwork.cnn((3, 8, 8), 4, units=(2,))
    refused(DataError, r"needed \[batch, 3, 8, 8\]", lambda: net.predict(torch.rand(shape)))


def test_images_that_lack_nothing_but_dimensions_are_taken() -> None:
    colour, grey = HopfieldNetwork.cnn((3, 8, 8), 4, units=(2,)), HopfieldNetwork.cnn((1, 8, 8), 4, units=(2,))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(colour.predict(x.flatten(1)), colour.predict(x))
    torch.testing.assert_close(grey.predict(x[:, 0]), grey.predict(x[:, :1]))


@pytest.mark.parametrize(("label", "advice"), [(-1, "relabel the data$"), (7, "with 8 outputs$")])
def test_labels_out_of_range_come_with_advice_that_works(label: int, advice: str) -> None:
    net = HopfieldNetwork.mlp(4, 3, 2)
    y = torch.tensor([0, label])
    refused(DataError, advice, lambda: EquilibriumPropagation().backward(net, torch.rand(2, 4), y))


@pytest.mark.parametrize("temperature", [0.0, math.nan, True, "1"])
def test_a_temperature_that_cannot_be_is_refused(temperature: Any) -> None:
    text = "needed a number above 0"
    refused(ConfigError, text, lambda: eqprop.Conv("a", "b", pooling="soft", temperature=temperature))


def test_finite_inputs_with_an_infinite_sum_are_accepted() -> None:
    net = network("chain-tanh", dtype=torch.float32)
    assert bool(torch.isfinite(net.predict(torch.full((4, 5), 3e38), stop=Sweeps(2))).all())


@pytest.mark.parametrize("rule", [r for r in RULES if r != "backprop"])
@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("batch", r"got batches \(3,\) for 4 samples of input, .*write network\.initial_state\(4\)"),
        ("shapes", r"needed \[batch, \*shape\] for \(7,\), \(6,\), \(3,\); write network\.initial_state\(batch\)"),
        ("number", r"needed \[batch, \*shape\]"),
        ("layers", r"got batches \(3,\), \(4,\) for 4 samples"),
    ],
)
def test_a_start_that_does_not_fit_is_named(rule: str, case: str, text: str) -> None:
    net = network("chain-tanh")
    good, short = net.initial_state(4), net.initial_state(3)
    start = {"batch": short, "shapes": good[::-1], "number": good[:2], "layers": (good[0], short[1], good[2])}[case]
    kept = with_grad(net)
    refused(ConfigError, text, lambda: RULES[rule].backward(net, X, labels(4), start=start))
    assert_grad_is(net, kept)


# -- relaxation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"products": "bfloat"}, r"products: got 'bfloat', needed one of .*; did you mean 'bfloat16'\?"),
        ({"stop": 20}, r"stop: got 20, needed eqprop\.Stop\(tol=1e-4\) or eqprop\.Sweeps\(20\)"),
        ({"solver": "alternating"}, r"solver: got 'alternating', needed a solver, as eqprop\.Alternating\(\)"),
    ],
)
def test_relax_names_a_setting_that_it_cannot_use(options: dict[str, Any], text: str) -> None:
    net = network("chain-tanh")
    refused(ConfigError, text, lambda: eqprop.relax(net, net.initial_state(4), net.drive(X), **options))


def test_a_state_of_another_dtype_is_named() -> None:
    net = network("chain-tanh")
    state = tuple(s.float() for s in net.initial_state(4))
    text = r"state: got torch\.float32.* under a drive of torch\.float64, needed the same; write tuple\(s\.to\("
    refused(ConfigError, text, lambda: eqprop.relax(net, state, net.drive(X)))


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0, 0.0, math.nan, math.inf, "0.1", True])
@pytest.mark.parametrize("contour", ["centred", "one-sided", "random-sign"])
def test_a_nudge_of_nothing_is_refused(beta: Any, contour: str) -> None:
    refused(
        ConfigError,
        r"beta: got .*, needed a finite nudge other than 0; write beta=0\.1",
        lambda: EquilibriumPropagation(beta=beta, contour=contour),
    )


@pytest.mark.parametrize(
    ("beta", "contour"), [(1.0, "centred"), (-1.5, "centred"), (2.0, "random-sign"), (-1.0, "one-sided")]
)
def test_a_nudge_that_unbinds_the_energy_is_refused(beta: float, contour: str) -> None:
    refused(
        ConfigError,
        rf"beta: got {beta} with contour '{contour}', whose nudges reach -.*write beta=0\.1",
        lambda: EquilibriumPropagation(beta=beta, contour=contour),
    )


def test_a_large_positive_nudge_is_fine() -> None:
    assert EquilibriumPropagation(beta=5.0, contour="one-sided").beta == 5.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"contour": "centered"}, r"contour: got 'centered', needed one of .*; did you mean 'centred'\?"),
        ({"contour": "derivatve"}, r"contour: got 'derivatve', needed one of .*; did you mean 'derivative'\?"),
        ({"readout": "contrst"}, r"did you mean 'contrast'"),
        ({"cost": "cross_entropy"}, r"cost: got 'cross_entropy', needed .*; did you mean 'cross-entropy'\?"),
        ({"cost": 3}, r"cost: got int, needed a name, an eqprop\.Cost or a function\(output, target\)"),
    ],
)
def test_unknown_names_suggest_the_nearest(options: dict[str, Any], text: str) -> None:
    refused(ConfigError, text, lambda: EquilibriumPropagation(**options))


STOP = r"needed eqprop\.Stop\(tol=1e-4\) or eqprop\.Sweeps\(20\)"
SOLVER = r"needed a solver, as eqprop\.Alternating\(\)"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"free": 5}, f"free: got 5, {STOP}"),
        ({"free": None}, f"free: got None, {STOP}"),
        ({"nudged": 5}, f"nudged: got 5, {STOP}"),
        ({"solver": 5}, f"solver: got 5, {SOLVER}"),
        ({"solver": None}, f"solver: got None, {SOLVER}"),
        ({"solver": eqprop.Alternating}, f"solver: got <class .*, {SOLVER}"),
        ({"nudged_solver": "alternating"}, f"nudged_solver: got 'alternating', {SOLVER}"),
        ({"products": "int8"}, "products: got 'int8', needed one of float32, bfloat16, float16"),
        ({"regularisers": 5}, "regularisers: got 5, needed a tuple of objects with add_gradient"),
        ({"regularisers": (5,)}, r"regularisers: got \(5,\), needed a tuple"),
        ({"regularisers": eqprop.JacobianHomeostasis(0.01)}, r"write regularisers=\(eqprop\.JacobianHomeostasis"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_refused_when_a_rule_is_made(options: dict[str, Any], text: str) -> None:
    refused(ConfigError, text, lambda: EquilibriumPropagation(**options))


def test_a_list_of_regularisers_will_do() -> None:
    one = eqprop.JacobianHomeostasis(0.01)
    assert EquilibriumPropagation(regularisers=[one]).regularisers == (one,)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [(X, labels(4)), DataLoader(TensorDataset(X, labels(4)))], ids=["pair", "loader"])
def test_evaluation_of_something_without_batches_names_the_split(data: Any) -> None:
    text = rf"evaluate: got {type(data).__name__}, needed batches; write eqprop\.Split\(images, labels\)"
    refused(DataError, text, lambda: eqprop.evaluate(network("chain-tanh"), data, EquilibriumPropagation()))


@pytest.mark.parametrize("name", [n for n in NETWORKS if not network(n).has_energy])
def test_contrast_without_an_energy_names_the_tangent(name: str) -> None:
    net = network(name)
    kept = with_grad(net)
    text = rf"'contrast' needs an energy and {type(net).__name__} has none; write readout='tangent'"
    refused(ConfigError, text, lambda: EquilibriumPropagation().backward(net, X, labels(4)))
    assert_grad_is(net, kept)


def test_energy_of_a_network_without_one_names_what_to_use() -> None:
    net = network("loop")
    text = "DirectedNetwork has no energy; use readout='tangent', or a HopfieldNetwork"
    refused(ConfigError, text, lambda: net.energy(net.initial_state(4), net.drive(X)))


@every_rule
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda o, t: ((o - t) ** 2).mean(),
            r"got a result of shape \(\), needed \(4,\): one value a sample \(write \.su",
        ),
        (lambda o, t: (o - t) ** 2, r"got a result of shape \(4, 3\), needed \(4,\)"),
    ],
    ids=["mean", "no sum"],
)
def test_a_cost_function_of_a_wrong_shape_is_refused(rule: str, function: Any, text: str) -> None:
    net = network("chain-tanh")
    made = type(RULES[rule])(cost=function)
    kept = with_grad(net)
    refused(ConfigError, f"cost function: {text}", lambda: made.backward(net, X, labels(4)))
    assert_grad_is(net, kept)


def test_a_cost_that_ignores_the_output_is_refused() -> None:
    net = network("chain-tanh")
    kept = with_grad(net)
    rule = EquilibriumPropagation(cost=lambda output, target: target.sum(-1))
    refused(ConfigError, "does not depend on the output", lambda: rule.backward(net, X, labels(4)))
    assert_grad_is(net, kept)


def test_bptt_without_steps_is_refused() -> None:
    refused(ConfigError, "got steps=0, needed at least 1", lambda: TruncatedBPTT(steps=0))


# -- layers and graphs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0, -3, 2.5, None, "256", (), (3, 0), (3, 2.0)])
def test_a_layer_shape_that_cannot_be_is_refused(shape: Any) -> None:
    text = r"layer shape: got .*, needed positive whole numbers, as in Layer\(256, 'tanh'\)"
    refused(ConfigError, text, lambda: Layer(shape, "tanh"))


def test_an_unknown_activation_suggests_the_nearest() -> None:
    refused(ConfigError, r"got 'tahn', needed .*did you mean 'tanh'\?", lambda: Layer(3, "tahn"))


def graph(*connections: Any, cls: Any = HopfieldNetwork, **changes: Any) -> Network:
    made = layers(3, 4, 5, 2) | changes
    result: Network = cls(made, [Dense(*c.split(">")) if isinstance(c, str) else c for c in connections])
    return result


GOOD = ("input>a", "a>b", "b>output")


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: graph("inptu>a", *GOOD[1:]), r"connection from layer: got 'inptu', needed .*did you mean 'input'\?"),
        (lambda: graph(*GOOD[:2], "b>ouput"), r"connection to layer: got 'ouput', needed .*did you mean 'output'\?"),
        (
            lambda: graph(*GOOD, "a>input"),
            r"connection a-input: 'input' is the clamped input and receives nothing; swap",
        ),
        (lambda: graph(*GOOD, "a>b"), "connection a-b: got it twice, needed once"),
        (lambda: graph(*GOOD, "b>a"), "connection b-a: got it twice, needed once between two layers"),
        (
            lambda: graph(*GOOD, "a>a"),
            "connection a-a: a tied connection of a layer with itself .* use a DirectedNetwork",
        ),
        (
            lambda: graph("input>a", "a>b"),
            r"layer 'output': no connection reaches it; write Dense\('input', 'output'\)",
        ),
        (lambda: graph("input>a", "output>a", "b>a", cls=DirectedNetwork), r"layer 'b': no connection reaches it"),
        (lambda: graph(*GOOD, ("a", "output")), r"got \('a', 'output'\), needed Dense, Conv .*, as Dense\("),
        (lambda: graph(*GOOD, b=Layer(5)), "layer 'b': the first layer is the clamped input and has no activation"),
        (
            lambda: graph(*GOOD, input=Layer(3, "tanh")),
            "layer 'input': the first layer is the clamped input and has no",
        ),
        (lambda: graph(*GOOD, b=5), r"layer 'b': got int, needed Layer\(units, activation\)"),
        (lambda: graph(*GOOD, **{"my-layer": Layer(5, "tanh")}), r"got 'my-layer', needed a name without '\.' and '-'"),
        (
            lambda: HopfieldNetwork({"input": Layer(3)}, []),
            "needed the clamped input and at least one layer that moves",
        ),
        (lambda: HopfieldNetwork.mlp(784), r"got sizes \(784,\), needed at least input and output, as in mlp\(784, 1"),
        (
            lambda: HopfieldNetwork.mlp(3, 4, 2, initializer="xavier"),
            r"initializer: got 'xavier', .*did you mean 'xavier_",
        ),
        (lambda: HopfieldNetwork.mlp(3, 4, 2, gain="reluu"), "gain: got 'reluu', needed a number or a name"),
        (lambda: HopfieldNetwork.mlp(3, 4, 2, gain=math.nan), "gain: got nan, needed a finite number of at least 0"),
        (lambda: HopfieldNetwork.mlp(3, 4, 2, gain=-0.5), "gain: got -0.5, needed a finite number of at least 0"),
        (lambda: HopfieldNetwork.mlp(3, 4, 2, gain=[1.0]), r"gain: got \[1.0\], needed a finite number"),  # type: ignore[arg-type]
        (lambda: HopfieldNetwork.mlp(3, 4, 2, readout=0), "readout: got 0, needed a positive whole number"),
        (
            lambda: DirectedNetwork.mlp(3, 4, 2, feedback_angle=200.0),
            "got 200.0, needed degrees from 0 to 180, or None",
        ),
        (
            lambda: DirectedNetwork.mlp(3, 4, 2, feedback_angle="90"),
            "feedback_angle: got '90', needed degrees from 0 to 180, or None",
        ),
        (lambda: DirectedNetwork.mlp(3, 4, 2, feedback_angle=-1.0), "got -1.0, needed degrees from 0 to 180, or None"),
        (
            lambda: DirectedNetwork.mlp(3, 4, 2, feedback_angle=math.nan),
            "got nan, needed degrees from 0 to 180, or None",
        ),
        (lambda: eqprop.network_from_spec({"class": "HopfieldNetwrk"}), r"did you mean 'HopfieldNetwork'\?"),
        (
            lambda: HopfieldNetwork.mlp(3, 4, 2).connection("input-hidden"),
            r"connection: got 'input-hidden', .*'input-hidden1'",
        ),
    ],
)
def test_a_graph_that_cannot_be_is_refused(build: Callable[[], Any], text: str) -> None:
    refused(ConfigError, text, build)


def test_a_directed_layer_may_be_connected_both_ways_and_with_itself() -> None:
    assert eqprop.check_network(graph(*GOOD, "b>a", "a>a", cls=DirectedNetwork)).passed


# -- a user's own functions --------------------------------------------------------------------------------------------


class Returns(nn.Module):
    """A module that answers with something of a given kind."""

    def __init__(self, answer: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones((), dtype=torch.float64))
        self._answer = answer

    def forward(self, state: Any, x: Tensor) -> Any:
        return self._answer(tuple(self.w * s for s in state), x)


BOXES = layers(5, 6, 3, activation="hard_sigmoid")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda s, x: s[0].sum(), r"energy: got a result of shape \(\), needed \(4,\): one a sample"),
        (lambda s, x: s[0], r"energy: got a result of shape \(4, 6\), needed \(4,\)"),
    ],
    ids=["a scalar", "one a unit"],
)
def test_an_energy_of_a_wrong_shape_is_refused(answer: Any, text: str) -> None:
    net = EnergyNetwork(Returns(answer), BOXES)
    kept = with_grad(net)
    refused(ConfigError, text, lambda: EquilibriumPropagation().backward(net, X, labels(4)))
    assert_grad_is(net, kept)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            lambda s, x: (s[0], s[1][:, :2]),
            r"field: got \[\(4, 6\), \(4, 2\)\], needed a tuple of shapes \[\(4, 6\), \(4, 3\)\]",
        ),
        (lambda s, x: s[:1], r"field: got \[\(4, 6\)\], needed a tuple of shapes"),
        (lambda s, x: s[0], "field: got Tensor, needed a tuple of shapes"),
    ],
    ids=["a wrong width", "too few", "a tensor"],
)
def test_a_field_of_wrong_shapes_is_refused(answer: Any, text: str) -> None:
    net = FieldNetwork(Returns(answer), BOXES)
    kept = with_grad(net)
    rule = EquilibriumPropagation(readout="tangent")
    refused(ConfigError, text, lambda: rule.backward(net, X, labels(4)))
    assert_grad_is(net, kept)


@pytest.mark.parametrize("cls", [EnergyNetwork, FieldNetwork])
def test_a_function_that_is_no_module_is_told_what_to_be(cls: Any) -> None:
    text = "got function, needed a torch.nn.Module whose forward"
    refused(ConfigError, text, lambda: cls(lambda state, x: state, BOXES))


def test_a_function_without_parameters_is_refused() -> None:
    refused(ConfigError, "needed at least one to train", lambda: FieldNetwork(nn.Identity(), BOXES))


def test_an_energy_with_an_activation_that_is_no_bound_is_refused() -> None:
    text = "layer 'a': got activation 'tanh', needed 'linear', 'hard_sigmoid' or 'relu6'"
    refused(ConfigError, text, lambda: EnergyNetwork(Returns(lambda s, x: s), layers(5, 6, 3, activation="tanh")))


def test_a_bad_free_phase_leaves_its_mark_in_the_status_and_not_in_an_exception() -> None:
    """Failure is data first: NaN from a user's field is reported, not raised."""
    net = FieldNetwork(Returns(lambda s, x: tuple(v * math.nan for v in s)), BOXES)
    step = EquilibriumPropagation(readout="tangent", free=Stop(1e-4, 20)).backward(net, X, labels(4))
    assert step.free.status.tolist() == [eqprop.Status.NONFINITE] * 4
