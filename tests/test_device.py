"""What would fail on an accelerator fails here without one: device mixes, host reads, and waits inside a block.

Tensors without values stand in for those of an accelerator: fake ones on ``cuda`` (``FakeTensorMode``), and those of
torch's ``meta`` device. An operation that mixes devices or reads a value fails on them as it would fail, or wait, on
CUDA. What they let pass (``.cpu()``, a generator of another device, ...) the mode ``no_host_sync`` rejects. Where there
is no GPU, torch's autograd engine asks the CUDA driver for a context even for fake tensors: what differentiates
automatically then runs on ``meta`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C import DisableTorchFunction
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as disable_current_modes

import eqprop
from eqprop import (
    Anderson,
    Backprop,
    CostNudge,
    Drive,
    EquilibriumPropagation,
    HopfieldNetwork,
    ImplicitGradient,
    Network,
    RecurrentBackprop,
    Rule,
    Solution,
    Stop,
    Sweeps,
    Synchronous,
    Trajectory,
    TruncatedBPTT,
)
from eqprop import _linear_response as linear_response
from eqprop import _relax as relaxation
from eqprop._network import Cache
from tests.helpers import (
    NETWORKS,
    SOLVERS,
    HostSync,
    State,
    inputs,
    labels,
    network,
    no_host_sync,
    random_state,
    same,
    seeded,
)

CUDA = torch.device("cuda")
STOPS: dict[str, Any] = {"stop": Stop(1e-6, 5, block=2), "sweeps": Sweeps(3)}
# one of each kind, where every network with every solver would take minutes
KINDS = ("chain-hard_sigmoid", "triangle", "readout", "directed-40", "user-energy", "user-field")
every_network = pytest.mark.parametrize("name", NETWORKS)
every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_stop = pytest.mark.parametrize("stop", STOPS)


class NoLook:
    """In place of the one look at the device a block: always says that samples still run."""

    looks = 0
    immediate = True

    def __init__(self, running: Tensor) -> None:
        type(self).looks += 1

    def any(self) -> bool:
        return True


class LateLook:
    """An answer that comes one block late, as on an accelerator."""

    immediate = False

    def __init__(self, running: Tensor) -> None:
        self._answer = bool(running.any())

    def any(self) -> bool:
        return self._answer


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> type[NoLook]:
    monkeypatch.setattr(relaxation, "_Look", NoLook)
    NoLook.looks = 0
    return NoLook


def _autograd_runs_on_fake_cuda() -> bool:
    with FakeTensorMode():
        try:
            torch.ones(1, device="cuda", requires_grad=True).sum().backward()
        except RuntimeError:
            return False
    return True


NEEDS_AUTOGRAD = pytest.mark.skipif(
    not _autograd_runs_on_fake_cuda(), reason="torch's autograd needs a CUDA driver, even for fake tensors"
)
ACCELERATORS = ("cuda", "meta")


def pairs(names: Any, by_autograd: Callable[[str], bool]) -> Any:
    """Parametrisation by accelerator and name; fake CUDA is skipped with a word where torch cannot do it."""
    return pytest.mark.parametrize(
        ("accelerator", "name"),
        [
            pytest.param(a, n, marks=[NEEDS_AUTOGRAD] if a == "cuda" and by_autograd(n) else [])
            for a in ACCELERATORS
            for n in names
        ],
    )


def is_energy_function(name: str) -> bool:
    """Whether already the inputs of the network come from autograd."""
    return name == "user-energy"


def is_function(name: str) -> bool:
    """Whether gradients of the network come from autograd."""
    return name.startswith("user")


@contextmanager
def valueless(accelerator: str) -> Iterator[None]:
    """Tensors without values on an accelerator that need not be there, and no waiting for it."""
    with FakeTensorMode(allow_non_fake_inputs=False) if accelerator == "cuda" else nullcontext(), no_host_sync():
        yield


def problem(name: str, accelerator: str, dtype: torch.dtype = torch.float32) -> tuple[Network, Tensor, Tensor]:
    """A network on the accelerator, inputs and labels; to be called under ``valueless``."""
    with disable_current_modes(), DisableTorchFunction():
        net = NETWORKS[name]()
    moved(net, accelerator, dtype)
    x = torch.empty(4, *net.input_shape, device=accelerator)
    return net, x, torch.empty(4, dtype=torch.int64, device=accelerator)


def moved(net: Network, accelerator: str, dtype: torch.dtype = torch.float32) -> None:
    """``net.to(...)`` by hand, because modules cannot swap fake parameters."""
    for module in net.modules():
        for key, p in module.named_parameters(recurse=False):
            setattr(module, key, torch.nn.Parameter(torch.empty(p.shape, device=accelerator, dtype=dtype)))
        for key, b in module.named_buffers(recurse=False):
            setattr(module, key, torch.empty(b.shape, device=accelerator, dtype=dtype))


def assert_on(accelerator: str, *tensors: Tensor | None) -> None:
    assert tensors and all(t is not None and t.device.type == accelerator for t in tensors)


def assert_solution_on(accelerator: str, solution: Solution, dtype: torch.dtype = torch.float32) -> None:
    assert_on(accelerator, *solution.state, solution.residual, solution.sweeps, solution.status, solution.rate)
    assert all(s.dtype == dtype for s in solution.state)


# -- every public entry point on fake CUDA tensors ---------------------------------------------------------------------


@every_network
def test_to_moves_all_of_a_network(name: str) -> None:
    """Onto ``meta``, which cannot be left again: a tensor left behind would show."""
    net = NETWORKS[name]().to(device="meta", dtype=torch.float64)
    x = torch.empty(4, *net.input_shape, device="meta")
    assert all(p.dtype == torch.float64 for p in net.parameters())
    assert_on("meta", *net.parameters(), *net.clone().parameters(), *net.inputs(net.initial_state(4), net.drive(x)))


@pairs(NETWORKS, is_energy_function)
def test_networks_stay_on_their_device(name: str, accelerator: str) -> None:
    with valueless(accelerator):
        net, x, _ = problem(name, accelerator)
        drive, state = net.drive(x), net.initial_state(4)
        made = [*state, drive.x, *drive.terms, *net.inputs(state, drive), net.output(state), net.distance(state, state)]
        assert_on(accelerator, *made, *net.repeat_drive(drive, 3).terms, *net.repeat_state(state, 3))
        for block in net.blocks:
            assert_on(accelerator, *net.update(state, drive, None, block, net.new_cache()))
        assert_on(accelerator, eqprop.residual(net, state, drive))
        if net.has_energy:
            assert_on(accelerator, net.energy(state, drive))


@pairs(NETWORKS, is_function)
def test_jacobian_products_stay_on_the_device(name: str, accelerator: str) -> None:
    with valueless(accelerator):
        net, x, _ = problem(name, accelerator)
        drive, state = net.drive(x), net.initial_state(4)
        if not (accelerator == "cuda" and NEEDS_AUTOGRAD.args[0]):
            assert_on(accelerator, *net.jvp_inputs(state, state, drive))
        assert_on(accelerator, *net.vjp_inputs(state, state, drive))


@pairs(KINDS, is_energy_function)
@every_solver
@every_stop
def test_relaxation_stays_on_the_device(
    name: str, accelerator: str, solver: str, stop: str, no_look: type[NoLook]
) -> None:
    with valueless(accelerator):
        net, x, _ = problem(name, accelerator)
        seen = Trajectory(net, net.drive(x), start=net.initial_state(4))
        options: dict[str, Any] = {"solver": SOLVERS[solver], "stop": STOPS[stop]}
        solution = eqprop.relax(net, net.initial_state(4), net.drive(x), observer=seen, **options)
        assert_solution_on(accelerator, solution)
        assert_on(accelerator, solution.error_estimate, solution.converged, *solution.split(2, net)[1].state)
        assert_on(accelerator, seen.steps(), net.predict(x, **options))
        if net.has_energy:
            assert_on(accelerator, seen.energy())


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("products", [None, "bfloat16", "float16", "float32"])
def test_products_of_lower_precision_stay_on_the_device(products: str, dtype: torch.dtype, accelerator: str) -> None:
    with valueless(accelerator):
        net, x, _ = problem("triangle", accelerator, dtype)
        solution = eqprop.relax(net, net.initial_state(4), net.drive(x), stop=Sweeps(3), products=products)
        assert_solution_on(accelerator, solution, dtype)


def own_cost(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs().sum(-1)


FAST: dict[str, Any] = {"free": STOPS["stop"], "nudged": STOPS["sweeps"]}
EP = EquilibriumPropagation
RULES: dict[str, Callable[[str], Rule]] = {
    "ep-centred": lambda readout: EP(readout=readout, **FAST),
    "ep-one-sided": lambda readout: EP(readout=readout, contour="one-sided", **FAST),
    "ep-random-sign": lambda readout: EP(readout=readout, contour="random-sign", **FAST),
    "ep-tangent": lambda readout: EP(readout="tangent", **FAST),
    "ep-counted": lambda readout: EP(readout=readout, exclude_unconverged=True, **FAST),
    "ep-bfloat16": lambda readout: EP(readout=readout, products="bfloat16", contour="one-sided", **FAST),
    "ep-anderson": lambda readout: EP(readout=readout, solver=Anderson(), nudged_solver=Synchronous(), **FAST),
    "ep-cross-entropy": lambda readout: EP(readout=readout, cost="cross-entropy", **FAST),
    "ep-own-cost": lambda readout: EP(readout=readout, cost=own_cost, **FAST),
    "recurrent-backprop": lambda readout: RecurrentBackprop(free=STOPS["stop"], adjoint=STOPS["sweeps"]),
    "bptt": lambda readout: TruncatedBPTT(free=STOPS["stop"], steps=3),
}
BY_AUTOGRAD = ("ep-own-cost", "bptt")


@pytest.mark.parametrize(
    ("accelerator", "name", "rule"),
    [
        pytest.param(a, n, r, marks=[NEEDS_AUTOGRAD] if a == "cuda" and (is_function(n) or r in BY_AUTOGRAD) else [])
        for a in ACCELERATORS
        for n in KINDS
        for r in RULES
    ],
)
def test_rules_stay_on_the_device(name: str, accelerator: str, rule: str, no_look: type[NoLook]) -> None:
    with valueless(accelerator):
        net, x, y = problem(name, accelerator)
        made = RULES[rule]("contrast" if net.has_energy else "tangent")
        step = made.backward(net, x, y)
        assert_on(accelerator, step.loss, step.output, step.sweeps, *(p.grad for p in net.parameters()))
        for solution in (step.free, *step.nudged):
            assert_solution_on(accelerator, solution)
        assert_on(accelerator, made.predict(net, x), *eqprop.gradients(net, made, x, y).values())
        rows = torch.empty(4, 3, device=accelerator)
        assert_on(accelerator, made.backward(net, x, rows, start=step.free.state).loss)


@pytest.mark.parametrize("name", [n for n in NETWORKS if not n.startswith("user")])
def test_the_feed_forward_twin_stays_on_the_device(name: str) -> None:
    with valueless("meta"):
        net, x, y = problem(name, "meta")
        step = Backprop(cost="cross-entropy").backward(net, x, y)
        assert_on("meta", step.loss, step.output, *step.free.state, Backprop().predict(net, x))


@pairs(NETWORKS, is_function)
def test_the_implicit_gradient_stays_on_the_device(
    name: str, accelerator: str, no_look: type[NoLook], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GMRES looks at the device once a restart, by design: here it does one cycle, and no look."""

    def one_cycle(matvec: Any, b: Tensor, tol: float, max_iterations: int, restart: int) -> tuple[Tensor, Tensor]:
        return linear_response._gmres_cycle(matvec, b, 3, torch.finfo(b.dtype).tiny), b.norm(dim=1)

    monkeypatch.setattr(linear_response, "gmres", one_cycle)
    with valueless(accelerator):
        net, x, y = problem(name, accelerator)
        step = ImplicitGradient(free=STOPS["stop"]).backward(net, x, y)
        assert_on(accelerator, step.loss, step.adjoint_residual, *(p.grad for p in net.parameters()))


@pytest.mark.parametrize("name", ["conv-average", "conv-max", "conv-residual", "directed-conv-soft"])
def test_convolutional_networks_relax_and_learn_on_the_device(name: str, no_look: type[NoLook]) -> None:
    for accelerator in ACCELERATORS:
        with valueless(accelerator):
            net, x, y = problem(name, accelerator)
            for solver in (Synchronous(), Anderson()):
                options: dict[str, Any] = {"solver": solver, "stop": STOPS["stop"], "products": "bfloat16"}
                assert_solution_on(accelerator, eqprop.relax(net, net.initial_state(4), net.drive(x), **options))
            rules = ("ep-bfloat16", "recurrent-backprop") + (("bptt",) if accelerator == "meta" else ())
            for rule in rules:
                net.zero_grad()
                RULES[rule]("contrast" if net.has_energy else "tangent").backward(net, x, y)
                assert_on(accelerator, *(p.grad for p in net.parameters()))


COMPLEX: dict[str, Callable[[str], Rule]] = {
    "cauchy": lambda readout: EP(readout=readout, contour="cauchy", points=4, **FAST),
    "asymep": lambda readout: EP(readout="tangent", correction="asymep", **FAST),
    "asymep-cauchy": lambda readout: EP(readout="tangent", correction="asymep", contour="cauchy", points=4, **FAST),
    "dyadic": lambda readout: eqprop.DyadicEP(**FAST),
}
HOLOMORPHIC = ("chain-sigmoid", "directed-40", "conv-soft", "directed-conv-soft")


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("rule", COMPLEX)
@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_complex_and_corrected_phases_stay_on_the_device(
    name: str, rule: str, accelerator: str, no_look: type[NoLook]
) -> None:
    with valueless(accelerator):
        net, x, y = problem(name, accelerator)
        step = COMPLEX[rule]("contrast" if net.has_energy else "tangent").backward(net, x, y)
        assert_on(accelerator, step.loss, *(p.grad for p in net.parameters()))
        for solution in (step.free, *step.nudged):
            assert_solution_on(accelerator, solution)


class OnTheHost(TorchDispatchMode):
    """Rejects every result on the CPU: it would be copied to the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "cpu":
            raise HostSync(f"{func} made a tensor on the host")
        return result


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("name", ["directed-40", "conv-average", "conv-residual"])
def test_exact_homeostasis_makes_nothing_on_the_host(name: str, accelerator: str) -> None:
    with valueless(accelerator):
        net, x, _ = problem(name, accelerator)
        drive, state = net.drive(x), net.initial_state(4)
        with OnTheHost():
            loss = eqprop.JacobianHomeostasis(1.0, estimator="exact").apply(net, state, drive, 0.1)
        assert_on(accelerator, loss.total)
        with pytest.raises(HostSync, match="made a tensor on the host"), OnTheHost():
            torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", ["directed-40", "conv-soft", "directed-conv-max", "directed-conv-soft"])
def test_probes_of_homeostasis_end_on_the_device(name: str) -> None:
    with valueless("meta"):
        net, x, _ = problem(name, "meta")
        regulariser = eqprop.JacobianHomeostasis(1.0, estimator="symmetric")
        loss = regulariser.apply(net, net.initial_state(4), net.drive(x), 0.1)
        assert_on("meta", loss.total, *(p.grad for n, p in net.named_parameters() if n.count("conv1-conv2")))


class FakeSplit:
    """Data that live on the device."""

    def __len__(self) -> int:
        return 8

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(2):
            yield torch.empty(4, 5, device="cuda"), torch.empty(4, dtype=torch.int64, device="cuda")


def test_evaluation_looks_at_the_device_once_at_its_end(no_look: type[NoLook]) -> None:
    with valueless("cuda"):
        net, _, _ = problem("readout", "cuda")
        with pytest.raises(HostSync, match="tolist|item") as caught:
            eqprop.evaluate(net, FakeSplit(), EP(cost="cross-entropy", **FAST))
    assert "totals" in str(caught.traceback[1].statement)


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_an_optimiser_step_stays_on_the_device(accelerator: str, no_look: type[NoLook]) -> None:
    with valueless(accelerator):
        net, x, y = problem("chain-tanh", accelerator)
        assert isinstance(net, HopfieldNetwork)
        optimizer = torch.optim.SGD(net.parameter_groups(0.1), momentum=0.9)
        EP(**FAST).backward(net, x, y)
        optimizer.step()
        assert_on(accelerator, *net.parameters())


# -- no wait inside a block of sweeps, on values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "solver"), [*product(KINDS, SOLVERS), *((n, "alternating") for n in NETWORKS if n not in KINDS)]
)
@every_stop
@pytest.mark.parametrize("nudged", [False, True], ids=["free", "nudged"])
def test_nothing_waits_inside_a_relaxation(
    name: str, solver: str, stop: str, nudged: bool, no_look: type[NoLook], device: torch.device
) -> None:
    net = network(name, device)
    x, y = inputs(net, 4, device), labels(4, 3, device)
    drive, state = net.drive(x), net.initial_state(4)
    cost = eqprop.cost("squared-error")
    target = cost.target(y, net.output(state))
    with no_host_sync():
        beta = torch.full((4, 1), 0.1, dtype=torch.float64, device=device)
        nudge = CostNudge(net, cost, target, beta) if nudged else None
        eqprop.relax(net, state, drive, nudge, solver=SOLVERS[solver], stop=STOPS[stop])
    assert no_look.looks == (3 if stop == "stop" else 0)  # 5 sweeps in blocks of 2: one look each


@every_solver
def test_an_answer_one_block_late_changes_nothing(
    solver: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network("chain-sigmoid", device)
    x = inputs(net, 6, device)
    arguments: Any = (net, net.initial_state(6), net.drive(x))
    options: dict[str, Any] = {"solver": SOLVERS[solver], "stop": Stop(1e-7, 200, block=4)}
    seen: list[int] = []
    prompt = eqprop.relax(*arguments, **options)
    monkeypatch.setattr(relaxation, "_Look", LateLook)
    late = eqprop.relax(*arguments, **options, observer=lambda k, s: seen.append(k))
    assert bool(prompt.converged.all()) and same(prompt, late)
    assert len(seen) == int(prompt.sweeps.max()) + 4  # the block that runs while the answer is on its way


# -- the modes themselves can fail -------------------------------------------------------------------------------------

VIOLATIONS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda t: t.sum().item(),
    "float": lambda t: float(t.sum()),
    "int": lambda t: int(t.sum()),
    "bool": lambda t: bool((t > 0).any()),
    "if": lambda t: 1 if (t > 0).all() else 0,
    "index": lambda t: [1, 2, 3][t.sum().long() * 0],
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu(),
    "to cpu": lambda t: t.to("cpu"),
    "to cpu by keyword": lambda t: t.to(device=torch.device("cpu")),
    "numpy": lambda t: t.numpy(),
    "nonzero": lambda t: torch.nonzero(t),
    "where with one argument": lambda t: torch.where(t > 0),
    "masked_select": lambda t: torch.masked_select(t, t > 0),
    "index by a mask": lambda t: t[t > 0],
    "assignment by a mask": lambda t: t.clone().__setitem__(t > 0, torch.zeros_like(t)[t > 0]),
    "assignment of a number by a mask": lambda t: t.clone().__setitem__(t > 0, 0.0),
    "index of rows by a mask": lambda t: t[(t > 0).any(1), 0],
    "unique": lambda t: torch.unique(t),
    "equal": lambda t: torch.equal(t, t),
    "allclose": lambda t: torch.allclose(t, t),
    "in": lambda t: 0.5 in t,
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_the_mode_rejects_a_wait_on_values(violation: str, device: torch.device) -> None:
    t = torch.rand(3, 4, generator=seeded()).to(device)
    if not violation.startswith("numpy") or device.type == "cpu":
        VIOLATIONS[violation](t)  # legal without the mode
    with pytest.raises(HostSync), no_host_sync():
        VIOLATIONS[violation](t)


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_the_mode_rejects_a_wait_on_fake_cuda_tensors(violation: str) -> None:
    with FakeTensorMode():
        t = torch.rand(3, 4, device=CUDA)
        with pytest.raises(HostSync), no_host_sync():
            VIOLATIONS[violation](t)


def test_the_mode_sees_inside_other_functions_of_torch() -> None:
    """``_local_scalar_dense`` called by a C++ function, where no Python method is seen."""
    t = torch.rand(3, 4)
    with pytest.raises(HostSync, match="aten"), no_host_sync():
        torch.full((2,), 1.0).fill_(0.0).scatter_(0, torch.tensor([0]), 1.0).add_(1.0)
        torch.ops.aten._local_scalar_dense(t.sum())


FOREIGN: dict[str, Callable[[torch.Generator], Any]] = {
    "rand": lambda g: torch.rand(3, generator=g, device=CUDA),
    "randint": lambda g: torch.randint(0, 2, (3,), generator=g, device=CUDA),
    "normal_": lambda g: torch.empty(3, device=CUDA).normal_(generator=g),
    "bernoulli": lambda g: torch.bernoulli(torch.empty(3, device=CUDA), generator=g),
}


@pytest.mark.parametrize("draw", FOREIGN)
def test_the_mode_rejects_a_generator_of_another_device(draw: str) -> None:
    with FakeTensorMode(), pytest.raises(HostSync, match="a generator on cpu for tensors on cuda"), no_host_sync():
        FOREIGN[draw](seeded())


def test_the_mode_passes_what_does_not_wait() -> None:
    with valueless("cuda"):
        t = torch.rand(3, 4, device=CUDA)
        mask = t > 0.5
        torch.where(mask, t, 0.0).masked_fill(mask, 1.0)[:, [0, 2]].clone()[1:].add_(t[0, [0, 2]])
        assert_on("cuda", torch.randint(0, 2, (3,), generator=seeded()).to(CUDA), t[torch.tensor([0, 1], device=CUDA)])
        assert t.shape == (3, 4) and len(t) == 3


def test_fake_tensors_reject_a_mix_of_devices() -> None:
    with FakeTensorMode():
        with pytest.raises(RuntimeError, match="found"):
            torch.rand(3, device=CUDA) + torch.rand(3)
        with pytest.raises(DataDependentOutputException):
            torch.rand((), device=CUDA).item()


class Wasteful(HopfieldNetwork):
    """A network that breaks the rules in its update, in one way at a time."""

    fault: Callable[[Tensor], Any]

    def block_inputs(self, state: State, drive: Drive, block: Sequence[int], cache: Cache) -> list[Tensor]:
        type(self).fault(state[0])
        return super().block_inputs(state, drive, block, cache)


FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "early exit": lambda s: bool(s.isnan().any()),
    "logging": lambda s: float(s.mean()),
    "copy": lambda s: s.cpu(),
    "compaction": lambda s: s[s.sum(1) > 0],
    "noise of the wrong device": lambda s: s + torch.randn(s.shape, generator=seeded(), device=s.device),
    "a constant of the wrong device": lambda s: s + torch.ones(s.shape[-1]),
}


@pytest.mark.parametrize("fault", FAULTS)
@every_stop
def test_a_network_that_waits_or_mixes_devices_is_caught(fault: str, stop: str, no_look: type[NoLook]) -> None:
    class Faulty(Wasteful):
        pass

    Faulty.fault = staticmethod(FAULTS[fault])
    net = Faulty.mlp(5, 6, 3)
    with pytest.raises((HostSync, RuntimeError)) as caught, valueless("cuda"):
        moved(net, "cuda")
        eqprop.relax(net, net.initial_state(4), net.drive(torch.empty(4, 5, device="cuda")), stop=STOPS[stop])
    expected = "wrong device" in fault and "constant" in fault
    assert isinstance(caught.value, HostSync) != expected


def test_a_random_state_of_the_tests_is_on_the_device(device: torch.device) -> None:
    assert all(s.device.type == device.type for s in random_state(network("triangle", device)))
