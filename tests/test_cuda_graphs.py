"""Blocks of sweeps that are captured and replayed: the same numbers, and nothing from outside but buffers and weights.

Without a GPU a tape on the CPU (``tests/graph_tape.py``) stands in for ``torch.cuda.CUDAGraph``; what chooses, fills
and replays captured blocks is the code that runs on CUDA. The real thing is compared with eager sweeps on a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop import (
    Alternating,
    Anderson,
    ConfigError,
    Conv,
    CostNudge,
    CoupledLearning,
    CudaGraphs,
    Dense,
    Drive,
    DyadicEP,
    HopfieldNetwork,
    Layer,
    Network,
    OscillatingEP,
    RecurrentBackprop,
    Rule,
    RuleStep,
    Solution,
    Stop,
    Sweeps,
    Synchronous,
)
from eqprop import _cuda_graphs as cuda_graphs
from eqprop import _relax as relaxation
from eqprop._cuda_graphs import CaptureError, StaticBlock
from eqprop._leaves import Leaves
from eqprop._network import Cache
from tests.graph_tape import Leak, TapeGraphs
from tests.helpers import NETWORKS, SOLVERS, HostSync, State, inputs, labels, network, same, seeded

KINDS = ("chain-hard_sigmoid", "triangle", "readout", "directed-40", "user-energy", "user-field")
KINDS_OF_STEPS = ("alternating", "synchronous", "gradient-flow", "anderson")
STOPS: dict[str, Any] = {"stop": Stop(1e-7, 30, block=4), "sweeps": Sweeps(5)}
EP = eqprop.EquilibriumPropagation
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeGraphs:
    """In the place of ``torch.cuda.CUDAGraph``, also in graphs that a rule makes."""
    made = TapeGraphs()
    monkeypatch.setattr(cuda_graphs, "_TorchGraphs", lambda: made)
    # on the CPU, and only there, inputs are looked at
    monkeypatch.setattr(Network, "clamped", lambda self, x: x.to(next(self.parameters()).dtype))
    return made


def relaxed(net: Network, x: Tensor, graphs: CudaGraphs | None, **options: Any) -> Solution:
    return eqprop.relax(net, net.initial_state(len(x)), net.drive(x), graphs=graphs, **options)


def images(pooling: str) -> HopfieldNetwork:
    """Two convolutions and an output."""
    sides = (8, 8) if pooling == "none" else (4, 2)
    shapes: list[Any] = [(2, 8, 8), (4, sides[0], sides[0]), (3, sides[1], sides[1]), 3]
    names = ["input", "a", "b", "output"]
    layers = {n: Layer(s, "sigmoid" if n != "input" else None) for n, s in zip(names, shapes, strict=True)}
    connections: list[Any] = [
        Conv("input", "a", pooling=pooling),
        Conv("a", "b", pooling=pooling),
        Dense("b", "output"),
    ]
    return HopfieldNetwork(layers, connections, generator=seeded(1), dtype=torch.float64)


MADE: dict[str, Callable[[], Network]] = {
    **{name: lambda name=name: network(name) for name in NETWORKS},  # type: ignore[misc]
    "max-pooled": lambda: images("max"),
    "soft-pooled": lambda: images("soft"),
}


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "solver"), [*product(KINDS, KINDS_OF_STEPS), ("max-pooled", "alternating"), ("soft-pooled", "synchronous")]
)
@pytest.mark.parametrize("stop", STOPS)
def test_replays_equal_eager_sweeps_bit_for_bit(name: str, solver: str, stop: str, tape: TapeGraphs) -> None:
    net = MADE[name]()
    graphs = CudaGraphs()
    options: dict[str, Any] = {"solver": SOLVERS[solver], "stop": STOPS[stop]}
    captures = 0
    for seed in (3, 5, 6):
        x = inputs(net, 4, seed=seed)
        assert same(relaxed(net, x, graphs, **options), relaxed(net, x, None, **options))
        captures = captures or graphs.captures
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)  # in place, as an optimiser does
    # other inputs and weights take no new capture; more sweeps than before may, under a solver with a memory
    assert 1 <= captures and (graphs.captures == captures or "anderson" in solver)
    assert tape.replays >= 3 and len(tape.tapes) == graphs.captures


FREE: dict[str, Any] = {"free": Stop(1e-7, 40, block=4)}
FAST: dict[str, Any] = {**FREE, "nudged": Stop(1e-7, 40, block=4)}
ASYM: dict[str, Any] = {"readout": "tangent", "correction": "asymep", **FAST}
RULES: dict[str, Callable[..., Rule]] = {
    "centred": lambda **k: EP(**FAST, **k),
    "random-sign": lambda **k: EP(contour="random-sign", **FAST, **k),
    "cross-entropy": lambda **k: EP(cost="cross-entropy", **FAST, **k),
    "own cost": lambda **k: EP(cost=lambda o, t: (o - t).abs().sum(-1), **FAST, **k),
    "bfloat16": lambda **k: EP(products="bfloat16", contour="one-sided", **FAST, **k),
    "anderson": lambda **k: EP(solver=Anderson(), nudged_solver=Synchronous(), **FAST, **k),
    "complex contour": lambda **k: EP(contour="cauchy", points=4, beta=0.3, **FAST, **k),
    "derivative": lambda **k: EP(contour="derivative", **FAST, **k),
    "asymep": lambda **k: EP(**ASYM, **k),
    "asymep, complex": lambda **k: EP(contour="cauchy", points=4, beta=0.3, **ASYM, **k),
    "dyadic": lambda **k: DyadicEP(nudged=Stop(1e-7, 40, block=4), **k),
    "coupled": lambda **k: CoupledLearning(**FAST, **k),
    "continual": lambda **k: eqprop.ContinualEP(rates=0.01, **FREE, **k),
    "oscillating": lambda **k: OscillatingEP(sweeps=5, **k),
    "recurrent backprop": lambda **k: RecurrentBackprop(**FREE, **k),
    "bptt": lambda **k: eqprop.TruncatedBPTT(steps=3, **FREE, **k),
}
PAIRS = [
    *(("chain-tanh", rule) for rule in RULES),
    *(("readout", rule) for rule in ("centred", "cross-entropy", "complex contour")),
    *(("directed-40", rule) for rule in ("asymep", "asymep, complex", "dyadic", "recurrent backprop", "oscillating")),
    *(("user-field", rule) for rule in ("asymep", "dyadic", "recurrent backprop")),
    *(("user-energy", rule) for rule in ("centred", "derivative")),
    *(("max-pooled", rule) for rule in ("centred", "bfloat16", "asymep")),
    *(("soft-pooled", rule) for rule in ("centred", "complex contour", "derivative", "asymep")),
]


def trained(net: Network, rule: Rule, after_step: Callable[[], None] = lambda: None) -> list[tuple[RuleStep, Any]]:
    """Three steps of plain SGD, on other data each: what the rule returned and the gradients."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    found = []
    for seed in (3, 5, 6):
        optimizer.zero_grad()
        step = rule.backward(net, inputs(net, 4, seed=seed), labels(4))
        found.append((step, [p.grad for p in net.parameters()]))
        optimizer.step()
        after_step()
    return found


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_a_rule_learns_the_same_with_graphs(
    name: str, rule: str, tape: TapeGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all its relaxations, also of systems that it makes anew at every step: a capture serves them all."""
    graphed = RULES[rule](cuda_graph=True)
    assert graphed.graphs is not None
    captures: list[int] = []
    with monkeypatch.context() as patch:
        if rule != "bptt":  # what is differentiated cannot be replayed
            patch.setattr(relaxation, "EagerSweeps", None)
        got = trained(MADE[name](), graphed, lambda: captures.append(graphed.graphs.captures))  # type: ignore[union-attr]
    expected = trained(MADE[name](), RULES[rule]())
    for (step, gradients), (eager, wanted) in zip(got, expected, strict=True):
        assert torch.equal(step.loss, eager.loss) and same(step.free, eager.free)
        assert all(same(a, b) for a, b in zip(step.nudged, eager.nudged, strict=True))
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))
    assert 1 <= captures[0] and (captures[-1] == captures[0] or rule == "anderson")


@pytest.mark.parametrize("products", [None, "bfloat16", "float16"])
def test_low_precision_operands_follow_the_weights(products: str | None, tape: TapeGraphs) -> None:
    net, graphs = network("chain-tanh"), CudaGraphs()
    x = inputs(net, 4)
    before = relaxed(net, x, graphs, stop=Sweeps(6), products=products)
    with torch.no_grad():
        net.get_parameter("connections.hidden1-hidden2.weight").mul_(-1.0)
    after = relaxed(net, x, graphs, stop=Sweeps(6), products=products)
    assert graphs.captures == 1 and not torch.equal(before.state[0], after.state[0])
    assert same(after, relaxed(net, x, None, stop=Sweeps(6), products=products))


def test_a_solution_outlives_later_replays(tape: TapeGraphs) -> None:
    """Results of a replay are overwritten by the next; what ``relax`` returns must not be."""
    net, graphs = network("triangle"), CudaGraphs()
    for stop in STOPS.values():
        solution = relaxed(net, inputs(net, 4), graphs, stop=stop)
        kept = copy.deepcopy(solution)
        relaxed(net, inputs(net, 4, seed=9), graphs, stop=stop)
        assert same(solution, kept)


def test_a_warm_start_and_other_targets_enter_a_replay(tape: TapeGraphs) -> None:
    net, graphs = network("readout"), CudaGraphs()
    x = inputs(net, 4)
    drive = net.drive(x)
    state = relaxed(net, x, None).state
    cost = eqprop.cost("cross-entropy")
    for shift, beta in ((0, 0.1), (1, 0.1), (1, -0.4)):
        target = cost.target((labels(4) + shift) % 3, net.output(state))
        nudge = CostNudge(net, cost, target, torch.full((4, 1), beta, dtype=torch.float64))
        got = eqprop.relax(net, state, drive, nudge, stop=Sweeps(4), graphs=graphs)
        assert same(got, eqprop.relax(net, state, drive, nudge, stop=Sweeps(4)))
        state = got.state
    assert graphs.captures == 1


# -- what takes a new capture ------------------------------------------------------------------------------------------


def replaced(net: Network) -> None:
    net.load_state_dict({k: 0.5 * v for k, v in net.state_dict().items()}, assign=True)


def rebound(net: Network) -> None:
    for p in net.parameters():
        p.data = 0.5 * p.data


def recast(net: Network) -> None:
    net.to(torch.float32).to(torch.float64)


@pytest.mark.parametrize("move", [replaced, rebound, recast])
def test_parameters_that_lie_elsewhere_take_a_new_capture(move: Callable[[Network], None], tape: TapeGraphs) -> None:
    net, graphs = network("triangle"), CudaGraphs()
    x = inputs(net, 4)
    relaxed(net, x, graphs)
    move(net)
    assert same(relaxed(net, x, graphs), relaxed(net, x, None))
    assert graphs.captures == 2


def test_what_differs_takes_a_capture_of_its_own(tape: TapeGraphs) -> None:
    net, graphs = network("readout"), CudaGraphs()
    x = inputs(net, 4)
    target = torch.eye(3, dtype=torch.float64)[labels(4)]
    beta = torch.full((4, 1), 0.1, dtype=torch.float64)
    variants: list[tuple[Network, Tensor, Any, dict[str, Any]]] = [
        (net, x, None, {"stop": Sweeps(4)}),
        (net, x, None, {"stop": Sweeps(5)}),
        (net, x, None, {"stop": Sweeps(4), "solver": Synchronous()}),
        (net, x, None, {"stop": Sweeps(4), "solver": Alternating(reverse=True)}),
        (net, x, None, {"stop": Sweeps(4), "products": "bfloat16"}),
        (net, x[:3], None, {"stop": Sweeps(4)}),
        (net.clone(), x, None, {"stop": Sweeps(4)}),
        (net.clone().float(), x.float(), None, {"stop": Sweeps(4)}),
        (net, x, CostNudge(net, eqprop.cost("squared-error"), target, beta), {"stop": Sweeps(4)}),
        (net, x, CostNudge(net, eqprop.cost("cross-entropy"), target, beta), {"stop": Sweeps(4)}),
    ]
    for repetition in range(2):
        for k, (which, given, nudge, options) in enumerate(variants):
            state, drive = which.initial_state(len(given)), which.drive(given)
            got = eqprop.relax(which, state, drive, nudge, graphs=graphs, **options)
            assert same(got, eqprop.relax(which, state, drive, nudge, **options))
            assert graphs.captures == (k + 1 if repetition == 0 else len(variants))


def test_the_capture_that_was_not_used_for_longest_goes_first(tape: TapeGraphs) -> None:
    net, graphs = network("triangle"), CudaGraphs(capacity=2)
    x = inputs(net, 4)
    for n, captures in ((1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)):
        relaxed(net, x, graphs, stop=Sweeps(n))
        assert graphs.captures == captures
    graphs.clear()
    relaxed(net, x, graphs, stop=Sweeps(2))
    assert graphs.captures == 5


def test_captures_without_end_are_called_slow_once(tape: TapeGraphs) -> None:
    net, graphs = network("one-layer"), CudaGraphs(capacity=1)
    x = inputs(net, 4)
    for n in range(1, 5):
        relaxed(net, x, graphs, stop=Sweeps(n))
    with pytest.warns(RuntimeWarning, match="5 captures for a capacity of 1.*batches of one size"):
        relaxed(net, x, graphs, stop=Sweeps(5))
    relaxed(net, x, graphs, stop=Sweeps(6))


# -- what a block may not do -------------------------------------------------------------------------------------------


class Faulty(HopfieldNetwork):
    """A network that breaks a rule of captures at every update."""

    fault: Callable[[Network, Tensor], Any]

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        z = super().block_inputs(state, drive, block, cache)
        return [v + type(self).fault(self, v) for v in z]


OUTSIDE = torch.ones(1, dtype=torch.float64)


def remember(net: Network, z: Tensor) -> float:
    OUTSIDE.copy_(z.sum())
    return 0.0


FAULTS: dict[str, tuple[Callable[[Network, Tensor], Any], type[Exception]]] = {
    "reads a tensor of nobody": (lambda net, z: OUTSIDE, Leak),
    "makes a tensor on the host": (lambda net, z: torch.tensor([1.0], dtype=z.dtype), Leak),
    "writes into the world": (remember, Leak),
    "draws": (lambda net, z: torch.rand_like(z), Leak),
    "draws from a generator": (lambda net, z: torch.rand(z.shape, generator=seeded()), Leak),
    "looks": (lambda net, z: float(z.sum()), HostSync),
    "branches on a value": (lambda net, z: 0.0 if (z > 0).any() else 1.0, HostSync),
    "compacts": (lambda net, z: z[z > 0].sum(), HostSync),
    "changes a parameter": (lambda net, z: next(net.parameters()).mul_(0.5).sum(), Leak),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_block_that_a_replay_would_not_repeat_is_caught(fault: str, tape: TapeGraphs) -> None:
    function, expected = FAULTS[fault]

    class This(Faulty):
        pass

    This.fault = staticmethod(function)
    net = This.mlp(5, 6, 3, dtype=torch.float64)
    with pytest.raises(expected):
        relaxed(net, inputs(net, 4), CudaGraphs(), stop=Sweeps(2))


def test_a_tensor_that_a_module_keeps_is_read_in_place(tape: TapeGraphs) -> None:
    class Scaled(Faulty):
        fault = staticmethod(lambda net, z: net.shift)

    net, graphs = Scaled.mlp(5, 6, 3, dtype=torch.float64), CudaGraphs()
    x = inputs(net, 4)
    for shift in (0.1, 0.2):
        net.shift = torch.tensor([shift], dtype=torch.float64)  # rebound: lies elsewhere, while the first still lives
        keep = net.shift
        assert same(relaxed(net, x, graphs, stop=Sweeps(3)), relaxed(net, x, None, stop=Sweeps(3)))
        net.shift.add_(0.3)
        assert same(relaxed(net, x, graphs, stop=Sweeps(3)), relaxed(net, x, None, stop=Sweeps(3)))
        assert keep is net.shift


class Remembering(HopfieldNetwork):
    """Keeps what it computed of a state and uses it again while the state is the same object, also between blocks."""

    computed = 0

    def new_cache(self, products: torch.dtype | None = None, paired: bool = False) -> Cache:
        return Cache({"inner": super().new_cache(products, paired), "of": None, "value": None})

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        kept = cache.content
        if kept["of"] is not state[0]:
            kept["of"], kept["value"] = state[0], state[0].sum(-1, keepdim=True)
            type(self).computed += 1
        z = super().block_inputs(state, drive, block, kept["inner"])
        return [v + 0.01 * kept["value"] for v in z]


def test_what_a_network_remembers_stays_within_a_block(tape: TapeGraphs) -> None:
    net, graphs = Remembering.mlp(5, 6, 4, 3, dtype=torch.float64), CudaGraphs()
    options: dict[str, Any] = {"stop": Stop(1e-9, 40, block=4), "solver": Alternating(reverse=True)}
    for seed in (3, 5):
        x = inputs(net, 4, seed=seed)
        before = Remembering.computed
        assert same(relaxed(net, x, graphs, **options), relaxed(net, x, None, **options))
    assert before < Remembering.computed and graphs.captures == 1


# -- fall-back, and what is refused ------------------------------------------------------------------------------------


class Broken:
    """A backend that can capture nothing."""

    device_type = "cpu"
    tried = 0

    def capture(self, block: StaticBlock) -> Any:
        self.tried += 1
        raise CaptureError("operation not permitted when stream is capturing")


def test_where_capture_fails_sweeps_are_eager_with_one_warning() -> None:
    net, backend = network("triangle"), Broken()
    graphs = CudaGraphs(backend=backend)
    x = inputs(net, 4)
    with pytest.warns(RuntimeWarning, match="runs eagerly: operation not permitted") as caught:
        solution = relaxed(net, x, graphs)
    assert len(caught) == 1 and graphs.captures == 0
    assert same(solution, relaxed(net, x, None))
    assert same(relaxed(net, x, graphs), solution) and backend.tried == 1  # no second warning, no second try
    assert same(relaxed(net, x, graphs, stop=Sweeps(3)), relaxed(net, x, None, stop=Sweeps(3))) and backend.tried == 2


def test_a_tensor_of_another_device_is_not_captured(tape: TapeGraphs) -> None:
    """A replay would not read it again: a scalar on the CPU becomes a constant of the kernel."""
    net, graphs = network("triangle"), CudaGraphs()
    x = inputs(net, 4)
    nudge: Any = Holder(torch.empty((), device="meta"))
    nudge.layers = frozenset()
    state, drive = net.initial_state(4), net.drive(x)
    with pytest.warns(RuntimeWarning, match="runs eagerly: it reads a tensor on meta"):
        got = eqprop.relax(net, state, drive, nudge, graphs=graphs)
    assert same(got, relaxed(net, x, None)) and not tape.tapes


def test_an_error_of_the_network_itself_is_not_taken_for_a_failed_capture(tape: TapeGraphs) -> None:
    class Refusing(Faulty):
        @staticmethod
        def fault(net: Network, z: Tensor) -> Any:
            raise ConfigError("this network refuses")

    net = Refusing.mlp(5, 6, 3)
    with pytest.raises(ConfigError, match="refuses"):
        relaxed(net, inputs(net, 4, dtype=torch.float32), CudaGraphs())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "CPU": (lambda: small(graphs=CudaGraphs()), r"got inputs on cpu, needed cuda.*cuda_graph=False"),
    "CPU, by a rule": (
        lambda: EP(cuda_graph=True).backward(network("triangle"), inputs(network("triangle"), 4), labels(4)),
        "got inputs on cpu, needed cuda",
    ),
    "no graphs": (lambda: small(graphs=True), r"got True, needed eqprop.CudaGraphs\(\)"),
    "observer": (lambda: small(graphs=taped(), observer=lambda k, s: None), "got an observer.*graphs=None"),
    "unroll": (lambda: small(graphs=taped(), unroll=True), "got unroll=True.*graphs=None"),
    "autocast": (lambda: autocast(lambda: small(graphs=taped())), "autocast.*products='bfloat16'"),
    "capacity": (lambda: CudaGraphs(capacity=0), "capacity=0, needed a whole number"),
    "capacity of a wrong kind": (lambda: CudaGraphs(capacity=True), "capacity=True"),
    "setting of a wrong kind": (lambda: EP(cuda_graph="yes"), "cuda_graph: got 'yes', needed True or False"),  # type: ignore[arg-type]
}


def small(**options: Any) -> Solution:
    net = network("triangle")
    return eqprop.relax(net, net.initial_state(4), net.drive(inputs(net, 4)), **options)


def taped() -> CudaGraphs:
    return CudaGraphs(backend=TapeGraphs())


def autocast(call: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return call()


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_where_there_can_be_none_are_refused(case: str) -> None:
    call, text = REFUSED[case]
    with pytest.raises(ConfigError, match=text):
        call()


def test_graphs_are_off_unless_asked_for_and_are_no_part_of_a_rule(tape: TapeGraphs) -> None:
    assert EP().graphs is None and EP().spec()["cuda_graph"] is False
    rule = EP(cuda_graph=True, **FAST)
    assert rule == EP(cuda_graph=True, **FAST) and "graphs" not in rule.spec() and rule.spec()["cuda_graph"]
    net = network("triangle")
    rule.backward(net, inputs(net, 4), labels(4))
    for copied in (copy.deepcopy(rule), dataclasses.replace(rule, beta=0.2)):
        assert rule.graphs and copied.graphs and rule.graphs.captures > 0 == copied.graphs.captures
    again = pickle.loads(pickle.dumps(CudaGraphs(capacity=3)))
    assert again.capacity == 3 and again.captures == 0


def test_captures_of_inference_mode_serve_outside_of_it(tape: TapeGraphs) -> None:
    net, graphs = network("triangle"), CudaGraphs()
    x = inputs(net, 4)
    with torch.inference_mode():
        relaxed(net, x, graphs)
    assert same(relaxed(net, x, graphs), relaxed(net, x, None)) and graphs.captures == 1


# -- keys --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    """Nested things, as a nudge may hold them."""

    tensor: Tensor
    other: Any = None


def ones(*shape: int, **options: Any) -> Tensor:
    return torch.ones(*shape, **options)


SHARED = ones(2)
FUNCTION = ones
MODULE = torch.nn.Linear(2, 2)
KEYS: dict[str, tuple[Callable[[], Any], Callable[[], Any], bool]] = {
    "values of tensors": (lambda: Holder(ones(2)), lambda: Holder(2 * ones(2)), True),
    "shape": (lambda: Holder(ones(2)), lambda: Holder(ones(3)), False),
    "dtype": (lambda: Holder(ones(2)), lambda: Holder(ones(2, dtype=torch.float64)), False),
    "strides": (lambda: [ones(2, 3)], lambda: [ones(3, 2).mT], False),
    "device": (lambda: [ones(2)], lambda: [ones(2, device="meta")], False),
    "plain values": (lambda: Holder(SHARED, {"a": 1}), lambda: Holder(SHARED, {"a": 2}), False),
    "kinds of plain values": (lambda: Holder(SHARED, 1), lambda: Holder(SHARED, True), False),
    "tuple and list": (lambda: (1, 2), lambda: [1, 2], False),
    "sets": (lambda: Holder(SHARED, {1, 2}), lambda: Holder(SHARED, {2, 1}), True),
    "kinds of objects": (lambda: Sweeps(3), lambda: Stop(3), False),
    "shared tensors": (lambda: [SHARED, SHARED], lambda: [SHARED, ones(2)], False),
    "which tensors are shared": (lambda: [SHARED, t := ones(2), t], lambda: [SHARED, ones(2), SHARED], False),
    "equal objects": (lambda: Holder(SHARED, Anderson(3)), lambda: Holder(SHARED, Anderson(3)), True),
    "functions": (lambda: Holder(SHARED, FUNCTION), lambda: Holder(SHARED, taped), False),
    "the same function": (lambda: Holder(SHARED, FUNCTION), lambda: Holder(SHARED, FUNCTION), True),
    "the same module": (lambda: MODULE, lambda: MODULE, True),
    "another module": (lambda: MODULE, lambda: torch.nn.Linear(2, 2), False),
    "a module in another mode": (lambda: MODULE.train(), lambda: MODULE.eval(), False),
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key_tells_apart_what_a_capture_cannot_serve(case: str) -> None:
    first, second, equal = KEYS[case]
    kept = first()
    key, other = Leaves(kept).key, Leaves(second())
    assert (key == other.key) == equal and (not equal or hash(key) == hash(other.key))


def test_a_copy_reads_other_tensors_and_shares_the_rest() -> None:
    a, b = ones(2), ones(3)
    value = Holder(a, (b, {"again": a, "module": MODULE, "function": ones}, Holder(b)))
    value.other[2].other = value  # a cycle
    leaves = Leaves(value)
    assert [t is u for t, u in zip(leaves.tensors, (a, b), strict=True)] == [True, True]
    new = [a + 1, b + 1]
    copied = leaves.reading(new)
    assert copied is not value and copied.tensor is new[0] and copied.other[0] is new[1]
    assert copied.other[1]["again"] is new[0] and copied.other[1]["module"] is MODULE
    assert copied.other[1]["function"] is ones and copied.other[2].other is copied
    assert value.tensor is a


# -- the calls of torch.cuda, in their order ---------------------------------------------------------------------------


class FakeCuda:
    """``torch.cuda`` as far as a capture uses it; notes what happens, and on which stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at_end: str | None = None) -> None:
        self.events: list[str] = []
        self.current = "main"
        self.pools = 0
        cuda = self

        class Stream:
            device = torch.device("cpu")

            def __init__(self, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: Any) -> None:
                cuda.events.append(f"{self.name} waits for {other.name}")

        class CUDAGraph:
            def replay(self) -> None:
                cuda.events.append("replay")

        @contextmanager
        def stream(new: Any) -> Iterator[None]:
            old, cuda.current = cuda.current, new.name
            try:
                yield
            finally:
                cuda.current = old

        @contextmanager
        def graph(_: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
            cuda.events.append(f"capture into pool {pool}")
            try:
                yield
            finally:
                cuda.events.append("end")
                if fail_at_end is not None:
                    cuda.current = "lost"  # torch leaves its stream behind where the end of a capture fails
                    raise RuntimeError(fail_at_end)

        @contextmanager
        def device(_: Any) -> Iterator[None]:
            yield

        def handle() -> int:
            self.pools += 1
            return self.pools

        for name, value in {"Stream": Stream, "CUDAGraph": CUDAGraph, "stream": stream, "graph": graph}.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", handle)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(self.current))


class FakeBlock:
    """Counts its runs; fails from the fourth on, which is the first of a capture, if told to."""

    def __init__(self, cuda: FakeCuda, fails: bool = False) -> None:
        self.buffers, self._cuda, self._fails, self._runs = [torch.ones(1)], cuda, fails, 0

    def __call__(self) -> str:
        self._cuda.events.append(f"sweep on {self._cuda.current}")
        self._runs += 1
        if self._fails and self._runs > 3:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return "result"


def test_a_block_is_warmed_up_on_the_stream_of_its_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    backend: Any = cuda_graphs._TorchGraphs()
    result, replay = backend.capture(FakeBlock(cuda))
    replay()
    assert result == "result" and cuda.events == [
        "side waits for main",
        *["sweep on side"] * 3,
        "capture into pool 1",
        "sweep on side",
        "end",
        "main waits for side",
        "replay",
    ]
    backend.capture(FakeBlock(cuda))
    assert cuda.events.count("capture into pool 1") == 2  # captures share their memory


def test_a_broken_capture_tells_where_it_began_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, fail_at_end="capture was invalidated")
    backend: Any = cuda_graphs._TorchGraphs()
    with pytest.raises(CaptureError, match=r"^RuntimeError: operation not permitted when stream is capturing$"):
        backend.capture(FakeBlock(cuda, fails=True))
    assert cuda.current == "main"
    with pytest.raises(CaptureError, match="^RuntimeError: capture was invalidated$"):
        backend.capture(FakeBlock(cuda))
    assert "capture into pool 2" in cuda.events  # not into that of the broken one


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rule"), [pytest.param(*pair, marks=GPU) for pair in PAIRS if pair[1] != "anderson"])
def test_cuda_graphs_give_the_gradients_of_eager_sweeps(name: str, rule: str) -> None:
    eager, graphed = RULES[rule](), RULES[rule](cuda_graph=True)
    nets = [MADE[name]().to("cuda") for _ in range(2)]
    captures = []
    for seed in (3, 5, 6):
        found = []
        for net, which in zip(nets, (eager, graphed), strict=True):
            net.zero_grad()
            which.backward(net, inputs(net, 4, "cuda", seed=seed), labels(4, 3, "cuda"))
            found.append([p.grad for p in net.parameters() if p.grad is not None])
            with torch.no_grad():
                for p in net.parameters():
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=0.05)
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        assert graphed.graphs is not None
        captures.append(graphed.graphs.captures)
    assert 1 <= captures[0] == captures[-1]


@pytest.mark.parametrize("solver", [pytest.param(s, marks=GPU) for s in KINDS_OF_STEPS if s != "anderson"])
@pytest.mark.parametrize("stop", STOPS)
def test_cuda_graphs_give_the_equilibria_of_eager_sweeps(solver: str, stop: str) -> None:
    net, graphs = network("chain-hard_sigmoid", "cuda"), CudaGraphs()
    for seed in (3, 5, 6):
        x = inputs(net, 4, "cuda", seed=seed)
        options: dict[str, Any] = {"solver": SOLVERS[solver], "stop": STOPS[stop]}
        got, expected = relaxed(net, x, graphs, **options), relaxed(net, x, None, **options)
        torch.testing.assert_close(got.state, expected.state, rtol=1e-9, atol=1e-11)
        assert torch.equal(got.status, expected.status)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)
    assert 1 <= graphs.captures <= 2


@pytest.mark.parametrize("fault", [pytest.param(f, marks=GPU) for f in ("looks", "compacts")])
def test_a_network_that_waits_runs_eagerly_on_cuda_too(fault: str) -> None:
    class This(Faulty):
        pass

    This.fault = staticmethod(FAULTS[fault][0])
    net, graphs = This.mlp(5, 6, 3, dtype=torch.float64).to("cuda"), CudaGraphs()
    sound, fresh = network("triangle", "cuda"), inputs(network("triangle"), 4, "cuda")
    x = inputs(net, 4, "cuda")
    with pytest.warns(RuntimeWarning, match="runs eagerly"):
        got = relaxed(net, x, graphs, stop=Sweeps(3))
    torch.testing.assert_close(got.state, relaxed(net, x, None, stop=Sweeps(3)).state)
    # the next capture does not suffer from the broken one
    torch.testing.assert_close(relaxed(sound, fresh, graphs).state, relaxed(sound, fresh, None).state)
    assert graphs.captures >= 1
