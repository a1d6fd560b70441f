"""Every rule, homeostasis, memory, bad input and run folders on convolutional networks, tied and untied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.profiler import ProfilerActivity, profile

import eqprop
from eqprop import (
    ConfigError,
    Conv,
    ConvTranspose,
    Dense,
    DirectedNetwork,
    Drive,
    DyadicEP,
    EquilibriumPropagation,
    HopfieldNetwork,
    ImplicitGradient,
    JacobianHomeostasis,
    KolenPollack,
    Layer,
    RecurrentBackprop,
    Rule,
    Stop,
    Sweeps,
    TruncatedBPTT,
)
from eqprop._diagnostics import match
from eqprop._graph import GraphNetwork
from tests.helpers import TIGHT, flat, inputs, labels, network, residual_network, seeded, slope


def cnn(kind: str, pooling: str, **options: Any) -> GraphNetwork:
    """``2x6x6 -> 2x6x6 -> 2x3x3 -> 3`` in float64, untied at 60 degrees."""
    cls = HopfieldNetwork if kind == "tied" else DirectedNetwork
    options = {"activation": "sigmoid", "gain": 0.5, "units": (3,)} | options
    if kind == "untied":
        options = {"feedback_angle": 60.0} | options
    net = cls.cnn((2, 6, 6), 2, 2, pooling=("none", pooling), generator=seeded(1), **options).double()
    with torch.no_grad():
        for bias in net.biases.values():
            bias.copy_(0.3 + 0.2 * torch.randn(bias.shape, generator=seeded(2)))
    return net


def problem(kind: str, pooling: str) -> tuple[GraphNetwork, Tensor, Tensor]:
    net = cnn(kind, pooling)
    return net, inputs(net, 4), labels(4)


def error(net: GraphNetwork, rule: Rule, truth: Rule, x: Tensor, y: Tensor) -> float:
    return match(flat(eqprop.gradients(net, rule, x, y)), flat(eqprop.gradients(net, truth, x, y))).relative_error


def ep(**options: Any) -> EquilibriumPropagation:
    return EquilibriumPropagation(free=TIGHT, nudged=TIGHT, **options)


# -- rules against the implicit gradient -------------------------------------------------------------------------------

CAUCHY: dict[str, Any] = {"contour": "cauchy", "points": 16, "beta": 0.05}
EXACT: list[tuple[str, str, str, Rule]] = [
    *(
        ("tied", p, f"cauchy {r}", ep(readout=r, **CAUCHY))
        for p in ("average", "soft")
        for r in ("contrast", "tangent")
    ),
    *(
        (kind, p, name, rule)
        for kind in ("tied", "untied")
        for p in ("average", "soft", "max")
        for name, rule in {
            "asymep cauchy": ep(readout="tangent", correction="asymep", **CAUCHY),
            "dyadic": DyadicEP(beta=1e-3, free=TIGHT, nudged=TIGHT),
            "recurrent": RecurrentBackprop(free=TIGHT, adjoint=TIGHT),
            "bptt": TruncatedBPTT(free=TIGHT, steps=100),
        }.items()
    ),
    *(("tied", p, "derivative", ep(readout="tangent", contour="derivative")) for p in ("average", "soft", "max")),
]


@pytest.mark.parametrize(("kind", "pooling", "name", "rule"), EXACT, ids=[" ".join(c[:3]) for c in EXACT])
def test_the_rule_is_exact(kind: str, pooling: str, name: str, rule: Rule) -> None:
    net, x, y = problem(kind, pooling)
    assert error(net, rule, ImplicitGradient(free=TIGHT), x, y) < 1e-10


@pytest.mark.parametrize("readout", ["contrast", "tangent", "asymep"])
@pytest.mark.parametrize("pooling", ["none", "average", "soft", "max"])
def test_the_bias_of_centred_nudges_falls_with_the_square_of_beta(pooling: str, readout: str) -> None:
    asymmetric = readout == "asymep"
    options = {"readout": "tangent", "correction": "asymep"} if asymmetric else {"readout": readout}
    net = cnn("untied" if asymmetric else "tied", pooling)
    x, y = inputs(net, 4), labels(4)
    betas = (0.04, 0.02, 0.01)
    errors = [error(net, ep(beta=b, **options), ImplicitGradient(free=TIGHT), x, y) for b in betas]
    assert slope(betas, errors) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("pooling", ["average", "soft"])
def test_without_a_correction_an_untied_network_has_the_same_wrong_gradient_on_every_contour(pooling: str) -> None:
    net, x, y = problem("untied", pooling)
    rules = (ep(readout="tangent", **CAUCHY), ep(readout="tangent", contour="derivative"))
    assert error(net, rules[0], rules[1], x, y) < 1e-10
    assert error(net, rules[0], ImplicitGradient(free=TIGHT), x, y) > 0.1


def test_a_residual_network_of_complex_states_is_exact() -> None:
    net = network("conv-residual")
    assert isinstance(net, GraphNetwork)
    x, y = inputs(net, 4), labels(4)
    assert error(net, ep(**CAUCHY), ImplicitGradient(free=TIGHT), x, y) < 1e-10


@pytest.mark.parametrize("pooling", ["average", "max", "soft"])
def test_bfloat16_products_in_the_free_phase_keep_the_gradient_of_every_layer(pooling: str) -> None:
    net = HopfieldNetwork.cnn((3, 12, 12), 8, 8, units=(3,), pooling=pooling, generator=seeded(1))
    x, y = torch.rand(16, 3, 12, 12, generator=seeded(3)), labels(16)
    stops: dict[str, Any] = {"free": Stop(1e-4, 60), "nudged": Stop(1e-4, 30)}
    full, low = (
        eqprop.gradients(net, EquilibriumPropagation(beta=0.5, products=p, **stops), x, y) for p in (None, "bfloat16")
    )
    for name, expected in full.items():
        assert match(low[name], expected).cosine >= 0.99, name
    assert any(not torch.equal(low[n], full[n]) for n in full)


# -- homeostasis -------------------------------------------------------------------------------------------------------


def with_feedback() -> DirectedNetwork:
    """Strided, 1x1 and average-pooled pairs, a dense pair, and a skip connection that nothing answers."""
    shapes = {"input": (2, 6, 6), "a": (2, 6, 6), "b": (3, 3, 3), "c": (3, 3, 3), "output": (3,)}
    kinds = {name: Layer(shape, None if name == "input" else "tanh") for name, shape in shapes.items()}
    point: dict[str, Any] = {"kernel": 1, "stride": 2, "padding": 0}
    made: list[Any] = [
        *(Conv("input", "a"), Conv("a", "b", pooling="average"), Conv("b", "c", kernel=3), Conv("a", "c", **point)),
        *(Dense("c", "output"), Dense("output", "c"), Dense("b", "output")),
        *(ConvTranspose("b", "a", pooling="average"), ConvTranspose("c", "b"), ConvTranspose("c", "a", **point)),
    ]
    return DirectedNetwork(kinds, made, feedback_angle=70.0, generator=seeded(1), dtype=torch.float64)


UNTIED: dict[str, Callable[[], GraphNetwork]] = {
    "average": lambda: cnn("untied", "average"),
    "graph": with_feedback,
}


def settled(net: GraphNetwork, batch: int = 1) -> tuple[tuple[Tensor, ...], Drive]:
    drive = net.drive(inputs(net, batch))
    return eqprop.relax(net, net.initial_state(batch), drive, stop=TIGHT).state, drive


def dense_asymmetry(net: GraphNetwork, state: Sequence[Tensor], drive: Drive) -> Tensor:
    """``2 ||A||_F^2`` of the dense Jacobian of one sample, in activation coordinates."""
    sizes = [s.numel() for s in state]

    def field(v: Tensor) -> Tensor:
        parts = [p.reshape(s.shape) for p, s in zip(v.split(sizes), state, strict=True)]
        return torch.cat([z.flatten() for z in net.inputs(tuple(parts), drive)])

    m = jacobian(field, torch.cat([s.flatten() for s in state]), create_graph=True)
    return 0.5 * (m - m.T).square().sum()


def collected(net: GraphNetwork) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", UNTIED)
def test_exact_homeostasis_is_that_of_the_dense_jacobian(name: str) -> None:
    net = UNTIED[name]()
    state, drive = settled(net)
    expected = dense_asymmetry(net, state, drive)
    found = torch.autograd.grad(0.35 * expected, list(net.parameters()), allow_unused=True)
    loss = JacobianHomeostasis(1.0, estimator="exact").apply(net, state, drive, 0.7)
    torch.testing.assert_close(loss.total, expected.detach(), rtol=1e-10, atol=1e-12)
    wanted = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(net.parameters(), found, strict=True)]
    )
    torch.testing.assert_close(collected(net), wanted, rtol=1e-9, atol=1e-11)
    assert float(loss.total) > 0.1


@pytest.mark.parametrize("estimator", ["symmetric", "published"])
@pytest.mark.parametrize("pooling", ["average", "soft", "max"])
def test_probes_agree_with_the_dense_jacobian_within_their_standard_error(pooling: str, estimator: str) -> None:
    net = cnn("untied", pooling)
    state, drive = settled(net)
    expected = dense_asymmetry(net, state, drive)
    truth = torch.autograd.grad(0.5 * expected, list(net.parameters()), allow_unused=True)
    draws, gradients = [], []
    for seed in range(30):
        net.zero_grad()
        one = JacobianHomeostasis(1.0, estimator=estimator, probes=20, seed=seed)
        draws.append(float(one.apply(net, state, drive, 1.0).total))
        gradients.append(collected(net))
    values = torch.tensor(draws)
    assert abs(float(values.mean() - expected.detach())) < 3 * float(values.std()) / 30**0.5
    wanted = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(net.parameters(), truth, strict=True)]
    )
    stacked = torch.stack(gradients)
    deviation = (stacked.mean(0) - wanted).square().sum()
    assert float(deviation) < 2.5 * float(stacked.var(0).sum()) / 30


def test_the_estimator_is_exact_where_there_is_a_closed_form_and_probes_elsewhere() -> None:
    auto = JacobianHomeostasis(1.0)
    for name, exact in (("average", True), ("none", True), ("soft", False), ("max", False)):
        net = DirectedNetwork.cnn(
            (2, 6, 6), 2, 2, units=(3,), pooling="none" if name == "none" else ("none", name), feedback_angle=60.0
        ).double()
        state, drive = settled(net, 2)
        one, other = (JacobianHomeostasis(1.0, seed=s).loss(net, state, drive).total for s in (0, 1))
        assert torch.equal(one, other) == exact
        assert torch.equal(auto.loss(net, state, drive).total, one)


def test_homeostasis_pulls_a_convolution_and_its_feedback_together() -> None:
    """A convolution faster than a dense pair: the Jacobian holds each of its weights up to 36 times."""
    net = cnn("untied", "none")
    before = eqprop.weight_angles(net)
    assert before == pytest.approx({"conv1-conv2": 60.0, "conv2-output": 60.0})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    state, drive = settled(net)
    for _ in range(100):
        optimizer.zero_grad()
        JacobianHomeostasis(1.0).apply(net, state, drive, 0.5)
        optimizer.step()
    after = eqprop.weight_angles(net)
    assert after["conv1-conv2"] < 1e-6 and after["conv2-output"] < 20.0
    eqprop.tie_weights(net)
    assert all(angle == pytest.approx(0.0, abs=1e-12) for angle in eqprop.weight_angles(net).values())
    assert float(JacobianHomeostasis(1.0).loss(net, state, drive).total) == pytest.approx(0.0, abs=1e-28)


@pytest.mark.parametrize("pooling", ["average", "soft", "max"])
def test_a_tied_network_and_an_untied_one_with_equal_weights_are_one(pooling: str) -> None:
    tied, untied = cnn("tied", pooling), cnn("untied", pooling, feedback_angle=0.0)
    weights = tied.state_dict()
    with torch.no_grad():
        for key, value in weights.items():
            untied.get_parameter(key).copy_(value)
        untied.connection("conv2-conv1").weight.copy_(weights["connections.conv1-conv2.weight"])
        untied.connection("output-conv2").weight.copy_(weights["connections.conv2-output.weight"].T)
    x = inputs(tied, 4)
    states = [eqprop.relax(n, n.initial_state(4), n.drive(x), stop=Sweeps(20)).state for n in (tied, untied)]
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert float(eqprop.functional_asymmetry(untied, x).antisymmetric.max()) < 1e-12


def test_kolen_pollack_shares_the_gradients_of_a_convolution_and_its_feedback() -> None:
    net, x, y = problem("untied", "soft")
    assert isinstance(net, DirectedNetwork)
    before = [(p.forward.weight - p.turned(p.backward.weight)).detach() for p in net.reciprocal_pairs()]
    rule = EquilibriumPropagation(
        readout="tangent", free=Sweeps(20), nudged=Sweeps(10), regularisers=(KolenPollack(0.2),)
    )
    rule.backward(net, x, y)
    torch.optim.SGD(net.parameters(), lr=0.5).step()
    for old, pair in zip(before, net.reciprocal_pairs(), strict=True):
        torch.testing.assert_close(pair.forward.weight - pair.turned(pair.backward.weight), 0.9 * old)


def both_ways(*connections: Any, feedback_angle: float | None = None) -> DirectedNetwork:
    """Two layers of 2x6x6 with those connections between them."""
    kinds = {"input": Layer((2, 6, 6)), "a": Layer((2, 6, 6), "tanh"), "output": Layer((2, 6, 6), "tanh")}
    made = [Conv("input", "a"), *connections]
    return DirectedNetwork(kinds, made, feedback_angle=feedback_angle, generator=seeded(1), dtype=torch.float64)


FOREIGN: dict[str, tuple[Any, ...]] = {
    "two convolutions": (Conv("a", "output"), Conv("output", "a")),
    "dense feedback": (Conv("a", "output"), Dense("output", "a")),
    "another kernel": (Conv("a", "output"), ConvTranspose("output", "a", kernel=1, padding=0)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_weights_of_connections_that_are_not_each_others_transpose_are_not_compared(case: str) -> None:
    """Also where their shapes agree: the transpose of a convolution is another convolution, turned round."""
    with pytest.raises(ConfigError, match=r"feedback: got .* needed a Dense with a Dense, or a Conv .* or write feedb"):
        both_ways(*FOREIGN[case], feedback_angle=30.0)
    net = both_ways(*FOREIGN[case])
    state, drive = settled(net)
    with pytest.raises(ConfigError, match=r"'exact' compares .* write estimator='symmetric'"):
        JacobianHomeostasis(1.0, estimator="exact").loss(net, state, drive)
    expected = float(dense_asymmetry(net, state, drive).detach())
    assert float(JacobianHomeostasis(1.0, probes=4000).loss(net, state, drive).total) == pytest.approx(
        expected, rel=0.05
    )


def test_a_strided_convolution_is_not_compared_with_one_that_averages() -> None:
    kinds = {"input": Layer((2, 8, 8)), "a": Layer((2, 8, 8), "tanh"), "output": Layer((2, 4, 4), "tanh")}
    made: list[Any] = [
        Conv("input", "a"),
        Conv("a", "output", stride=2),
        ConvTranspose("output", "a", pooling="average"),
    ]
    with pytest.raises(ConfigError, match="cannot be compared"):
        DirectedNetwork(kinds, made)


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that torch held at once on top of what was there before, from the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = call()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    del kept
    return peak


@pytest.mark.parametrize("name", ["conv-max", "directed-conv-soft"])
def test_memory_does_not_grow_with_the_number_of_sweeps(name: str) -> None:
    net = network(name, dtype=torch.float32)
    x, y = inputs(net, 8, dtype=torch.float32), labels(8)
    readout = "contrast" if net.has_energy else "tangent"

    def step(n: int) -> Callable[[], Any]:
        rule = EquilibriumPropagation(readout=readout, free=Sweeps(n), nudged=Sweeps(n // 5))
        return lambda: eqprop.gradients(net, rule, x, y)

    step(5)()  # what is prepared once
    few, many = peak_bytes(step(50)), peak_bytes(step(500))
    assert few > 3 * 4 * 8 * 2 * 36  # it does see the states of three phases
    assert abs(many - few) <= 0.02 * few


def test_the_measure_of_memory_sees_what_grows() -> None:
    net = network("conv-max", dtype=torch.float32)
    x, y = inputs(net, 8, dtype=torch.float32), labels(8)
    few, many = (
        peak_bytes(lambda n=n: eqprop.gradients(net, TruncatedBPTT(free=Sweeps(3), steps=n), x, y))  # type: ignore[misc]
        for n in (5, 25)
    )
    assert many > 2 * few


# -- bad input ---------------------------------------------------------------------------------------------------------


def tied(shapes: Sequence[Any], *connections: Any) -> HopfieldNetwork:
    kinds = {"input": Layer(shapes[0]), "a": Layer(shapes[1], "tanh"), "output": Layer(shapes[2], "tanh")}
    return HopfieldNetwork(kinds, [Conv("input", "a"), *connections])


SHAPES = ((2, 6, 6), (2, 6, 6), (3, 3, 3))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "odd": (
        lambda: HopfieldNetwork.cnn((3, 30, 30), 4, 4),
        r"got 15x15 before the pooling of layer conv2 \(of 15x15\), needed a positive multiple of its window 2",
    ),
    "too often": (lambda: HopfieldNetwork.cnn((3, 4, 4), 4, 4, 4), "got 1x1 before the pooling of layer conv3"),
    "kernel": (lambda: HopfieldNetwork.cnn((3, 4, 4), 4, kernel=7, padding=0), "before the pooling of layer conv1"),
    "flat input": (lambda: HopfieldNetwork.cnn((784,), 4), r"got input \(784,\) .* needed \(channels, height, width\)"),
    "no layer": (lambda: HopfieldNetwork.cnn((3, 4, 4)), "and at least one layer"),
    "too few values": (
        lambda: HopfieldNetwork.cnn((3, 8, 8), 4, 4, kernel=(3, 3, 3)),
        "got 3 values of kernel, needed one, or one for each of 2 layers",
    ),
    "too few poolings": (
        lambda: HopfieldNetwork.cnn((3, 8, 8), 4, 4, pooling=("max",)),
        "got 1 values of pooling, needed one, or one for each of 2 layers",
    ),
    "units": (lambda: HopfieldNetwork.cnn((3, 8, 8), 4, units=10), r"got units=10, needed .* units=\(10,\)"),  # type: ignore[arg-type]
    "stride": (lambda: HopfieldNetwork.cnn((3, 8, 8), 4, stride=0), "got stride=0, needed a whole number from 1 on"),
    "pool": (lambda: HopfieldNetwork.cnn((3, 8, 8), 4, pool=0), "got pool=0, needed a whole number from 2 on"),
    "padding": (lambda: Conv("a", "b", padding=-1), "connection a-b: got padding=-1, needed a whole number from 0 on"),
    "half a kernel": (lambda: Conv("a", "b", kernel=1.5), "got kernel=1.5, needed a whole number"),  # type: ignore[arg-type]
    "temperature": (lambda: Conv("a", "b", temperature=0.0), "got temperature=0.0, needed a number above 0"),
    "pooling": (lambda: Conv("a", "b", pooling="avg"), "pooling of a-b: got 'avg', needed one of .*average"),
    "wrong layer": (
        lambda: tied(SHAPES, Conv("a", "output")),
        r"connection a-output: got a layer of 3x3, needed 6x6, .* write Layer\(\(3, 6, 6\), \.\.\.\)",
    ),
    "window": (
        lambda: tied(((2, 6, 6), (2, 6, 6), (3, 2, 2)), Conv("a", "output", pooling="max", pool=4)),
        "got 6x6 after the convolution of 6x6, needed a multiple of the pooling window 4; change padding or stride",
    ),
    "large kernel": (
        lambda: tied(SHAPES, Conv("a", "output", kernel=9)),
        "got a kernel of 9 on 6x6 with padding 1, needed at most 8",
    ),
    "flat layer": (
        lambda: tied(((2, 6, 6), (2, 6, 6), 3), Conv("a", "output")),
        r"got shape \(3,\) of the layer to, needed \(channels, height, width\); write Dense",
    ),
    "tied feedback": (
        lambda: tied(SHAPES, Conv("a", "output", stride=2), ConvTranspose("output", "a", stride=2)),
        "connection output-a: got it twice",
    ),
    "only feedback": (
        lambda: tied(SHAPES, ConvTranspose("output", "a", stride=2)),
        r"ConvTranspose is feedback with weights of its own .* Conv\('a', 'output'\) already acts both ways",
    ),
    "feedback of the input": (
        lambda: DirectedNetwork(
            {"input": Layer((2, 3, 3)), "output": Layer((2, 3, 3), "tanh")}, [ConvTranspose("input", "output")]
        ),
        "connection input-output: ConvTranspose is feedback .* between layers that move",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_built_is_refused_with_what_could(case: str) -> None:
    build, text = BAD[case]
    with pytest.raises(ConfigError, match=text):
        build()


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_complex_contour_through_max_pooling_is_refused_with_what_to_use(kind: str) -> None:
    net, x, y = problem(kind, "max")
    rule = ep(readout="tangent", **CAUCHY)
    text = r"connection '\S+-\S+' has pooling='max', which is not holomorphic; write pooling='soft' or 'average', or"
    with pytest.raises(ConfigError, match=text):
        rule.backward(net, x, y)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("pooling", ["soft", "max"])
def test_exact_homeostasis_through_pooling_that_is_not_linear_is_refused_with_what_to_use(pooling: str) -> None:
    net = cnn("untied", pooling)
    state, drive = settled(net)
    with pytest.raises(ConfigError, match="convolutions with average or no pooling.*write estimator='symmetric'"):
        JacobianHomeostasis(1.0, estimator="exact").apply(net, state, drive, 1.0)
    assert all(p.grad is None for p in net.parameters())


def test_exact_homeostasis_of_convolutions_in_membrane_coordinates_is_refused() -> None:
    net = cnn("untied", "average")
    state, drive = settled(net)
    with pytest.raises(ConfigError, match="only dense ones in membrane coordinates; write estimator='symmetric'"):
        JacobianHomeostasis(1.0, estimator="exact", coordinates="membrane").loss(net, state, drive)
    assert float(JacobianHomeostasis(1.0, coordinates="membrane").loss(net, state, drive).total) > 0.0


def test_max_pooling_of_the_clamped_input_alone_keeps_a_network_holomorphic() -> None:
    net = HopfieldNetwork.cnn((2, 6, 6), 2, 2, pooling=("max", "none"), activation="tanh", generator=seeded(1)).double()
    x = inputs(net, 3)
    rows = torch.rand(3, 18, generator=seeded(4), dtype=torch.float64)
    assert net.holomorphic and net.affine
    assert error(net, ep(**CAUCHY), ImplicitGradient(free=TIGHT), x, rows) < 1e-10


# -- construction ------------------------------------------------------------------------------------------------------


def test_cnn_is_the_graph_that_it_says() -> None:
    net = DirectedNetwork.cnn(
        (3, 32, 32), 4, 6, units=(7, 10), kernel=(5, 3), stride=(2, 1), padding=(2, 1), pooling=("max", "average"),
        activation="tanh", output_activation="linear",
    )  # fmt: skip
    assert {n: (v.shape, v.activation and v.activation.name) for n, v in net.layers.items()} == {
        "input": ((3, 32, 32), None),
        "conv1": ((4, 8, 8), "tanh"),
        "conv2": ((6, 4, 4), "tanh"),
        "dense1": ((7,), "tanh"),
        "output": ((10,), "linear"),
    }
    ahead = {
        "input-conv1": (4, 3, 5, 5),
        "conv1-conv2": (6, 4, 3, 3),
        "conv2-dense1": (7, 96),
        "dense1-output": (10, 7),
    }
    back = {"conv2-conv1": (6, 4, 3, 3), "dense1-conv2": (96, 7), "output-dense1": (7, 10)}
    assert {k: tuple(net.connection(k).weight.shape) for k in net.connections} == ahead | back
    assert {n: tuple(b.shape) for n, b in net.biases.items()} == {
        "conv1": (4, 1, 1), "conv2": (6, 1, 1), "dense1": (7,), "output": (10,)
    }  # fmt: skip


@pytest.mark.parametrize("readout", [None, 3])
def test_without_dense_layers_the_last_convolution_is_the_output(readout: int | None) -> None:
    net = HopfieldNetwork.cnn((2, 4, 4), 3, 5, readout=readout, output_activation="linear")
    assert [net.layers[n].activation.name for n in net.names] == ["hard_sigmoid", "linear"]  # type: ignore[union-attr]
    assert net.predict(torch.rand(2, 2, 4, 4, generator=seeded())).shape == (2, 5 if readout is None else 3)


@pytest.mark.parametrize("cls", [HopfieldNetwork, DirectedNetwork])
def test_a_copy_can_be_described_as_the_original(cls: Any) -> None:
    net = residual_network(cls) if cls is HopfieldNetwork else with_feedback()
    assert eqprop.network_from_spec(net.clone().spec()).spec() == net.spec()


# -- run folders -------------------------------------------------------------------------------------------------------


def trained(out: Path, epochs: int, resume: bool = False) -> GraphNetwork:
    net = DirectedNetwork.cnn((1, 6, 6), 3, 3, units=(3,), pooling=("none", "soft"), generator=seeded(1))
    made = [
        eqprop.Split(torch.randint(0, 256, (n, 6, 6), generator=seeded(n), dtype=torch.uint8), labels(n), classes=3)
        for n in (12, 6, 6)
    ]
    data = SimpleNamespace(train=made[0], validation=made[1], test=made[2], classes=tuple("abc"))
    rule = EquilibriumPropagation(readout="tangent", free=Sweeps(6), nudged=Sweeps(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    eqprop.Trainer(
        net, rule, optimizer, data, epochs=epochs, batch_size=6, out=out, resume=resume, progress=False
    ).fit()
    return net


def test_a_run_of_a_convolutional_network_resumes_to_the_same_weights_and_loads(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", 2)
    trained(tmp_path / "parts", 1)
    parts = trained(tmp_path / "parts", 2, resume=True)
    again = eqprop.load(tmp_path / "parts")
    for (name, p), q, r in zip(whole.named_parameters(), parts.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(p, r), name
        assert p.stride() == q.stride() == r.stride(), name
