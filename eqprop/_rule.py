"""What every learning rule shares: settings of the free phase, the step it returns, prediction and evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eqprop._costs import Cost
from eqprop._costs import cost as cost_named
from eqprop._cuda_graphs import CudaGraphs
from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from eqprop._network import Drive, Network, State
from eqprop._relax import PRECISIONS, relax
from eqprop._solution import Solution
from eqprop._solvers import Alternating, Solver, require_solver
from eqprop._stop import Stop, Sweeps, require_stop


@dataclass(frozen=True)
class RuleStep:
    """What ``rule.backward`` returns; all tensors on the device of the network.

    Attributes:
        loss: batch-mean loss at the free equilibrium, 0-d.
        output: network output at the free equilibrium, ``[batch, outputs]``.
        free: free ``Solution``.
        drive: of the batch.
        nudged: a ``Solution`` a nudged phase.
        counted: samples that entered the gradient, ``[batch]`` mask; None for all.
        adjoint_residual: relative residual of the adjoint system, ``[batch]``, where a rule solved one.
        penalties: what regularisers say of themselves, 0-d, by the name that a history records.
    """

    loss: Tensor
    output: Tensor
    free: Solution
    drive: Drive
    nudged: tuple[Solution, ...] = ()
    counted: Tensor | None = None
    adjoint_residual: Tensor | None = None
    penalties: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def sweeps(self) -> Tensor:
        """Sweeps a sample, over all phases, ``[batch]``: the cost in the unit in which rules compare."""
        total = self.free.sweeps
        for solution in self.nudged:
            total = total + solution.sweeps
        return total

    @property
    def unconverged(self) -> Tensor:
        """Samples of which some phase, free or nudged, did not converge, ``[batch]`` mask."""
        return ~converged_everywhere(self.free, self.nudged)

    @property
    def unconverged_share(self) -> Tensor:
        """Share of unconverged samples in the batch, 0-d; no wait for the device."""
        return self.unconverged.to(self.free.residual.dtype).mean()


def converged_everywhere(free: Solution, nudged: Sequence[Solution]) -> Tensor:
    """Samples whose free and nudged phases all converged, ``[batch]`` mask."""
    mask = free.converged
    for solution in nudged:
        mask = mask & solution.converged
    return mask


class Regulariser(Protocol):
    """Changes ``.grad`` after a rule has filled it."""

    def add_gradient(self, network: Network, step: RuleStep) -> object:
        """Add to (or transform) the gradients of the network's parameters.

        What it returns goes into ``RuleStep.penalties`` where it has a mapping ``penalties`` of names to 0-d tensors.
        In several processes it acts on the gradients of the process's samples, before they are averaged: their mean
        must come out as if it had acted on the mean (see ``by_share`` in ``eqprop._share``).
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Base of all learning rules: small frozen objects with one call, ``backward``.

    Args:
        cost: ``"squared-error"``, ``"cross-entropy"``, an ``eqprop.Cost``, or a function ``(output, target) ->
            [batch]``.
        solver: of the free phase.
        free: when the free phase ends, ``Stop(...)`` or ``Sweeps(n)``.
        products: precision of the matrix products in the free phase, as ``"bfloat16"``; None for full.
        regularisers: change the gradient after the rule has given it, in their order, as ``JacobianHomeostasis(0.01)``.
            ``dataclasses.replace(rule, ...)`` makes a rule with the very same objects, which share their state (the
            draws of probes, the count of steps).
        cuda_graph: replay blocks of sweeps as CUDA graphs, see ``eqprop.CudaGraphs``; only on CUDA.

    Raises:
        ConfigError: a setting of a wrong kind, or an unknown name; the nearest one is suggested.
    """

    cost: str | Cost | Callable[[Tensor, Tensor], Tensor] = "squared-error"
    solver: Solver = Alternating()
    free: Stop | Sweeps = Stop(tol=1e-4, max_sweeps=200, block=5)
    products: str | None = None
    regularisers: tuple[Regulariser, ...] = ()
    cuda_graph: bool = False
    graphs: CudaGraphs | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", cost_named(self.cost))
        if not isinstance(self.cuda_graph, bool):
            raise ConfigError(f"cuda_graph: got {self.cuda_graph!r}, needed True or False")
        object.__setattr__(self, "graphs", CudaGraphs() if self.cuda_graph else None)
        if self.products is not None:
            lookup("products", self.products, PRECISIONS)
        # `nudged` belongs to subclasses; what they leave out takes no part
        for name in ("free", "nudged"):
            require_stop(name, getattr(self, name, self.free))
        for name in ("solver", "nudged_solver"):
            solver = getattr(self, name, None)
            if solver is not None or name == "solver":
                require_solver(name, solver)
        listed = isinstance(self.regularisers, tuple | list)
        if not listed or not all(callable(getattr(r, "add_gradient", None)) for r in self.regularisers):
            raise ConfigError(
                f"regularisers: got {self.regularisers!r}, needed a tuple of objects with add_gradient(network, step); "
                "write regularisers=(eqprop.JacobianHomeostasis(0.01),)"
            )
        object.__setattr__(self, "regularisers", tuple(self.regularisers))
        shares = [getattr(r, "shares_gradients", False) for r in self.regularisers]
        if any(shares[1:]):
            # its averaging of a pair's gradients would cancel whatever an earlier one did to their difference
            raise ConfigError(
                "regularisers: got KolenPollack after another, whose effect on asymmetry it would average away; write "
                "it first"
            )

    @property
    def loss_function(self) -> Cost:
        """The cost as an object."""
        return cost_named(self.cost)

    def backward(self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None) -> RuleStep:
        """Add the gradient of the batch-mean loss to ``.grad`` of the network's parameters.

        Args:
            network: any attractor network.
            x: clamped input ``[batch, *input_shape]``, floating point.
            y: labels ``[batch]`` (integers) or targets ``[batch, outputs]``.
            start: initial state of the free phase (a warm start); zeros where None.

        Raises:
            DataError: shapes, types or values that do not fit.
            ConfigError: the rule cannot work on this network; the message names one that can.
        """
        step = self._backward(network, x, y, start)
        penalties: dict[str, Tensor] = {}
        for regulariser in self.regularisers:
            found = getattr(regulariser.add_gradient(network, step), "penalties", {})
            # a second one of a kind has a name of its own: "homeostasis_norm/2"
            again = 1 + sum(name.partition("/")[0] in found for name in penalties) // max(len(found), 1)
            penalties |= {name if again == 1 else f"{name}/{again}": value for name, value in found.items()}
        return dataclasses.replace(step, penalties=penalties) if penalties else step

    def _backward(self, network: Network, x: Tensor, y: Tensor, start: State | None) -> RuleStep:
        """The rule's own gradient."""
        raise NotImplementedError

    def error_vector(
        self, network: Network, x: Tensor, y: Tensor, *, start: State | None = None
    ) -> tuple[RuleStep, State]:
        """The error of every layer's input that the rule takes for the true one; ``.grad`` stays as it is.

        Raises:
            ConfigError: the rule has none.
        """
        raise ConfigError(
            f"{type(self).__name__} has no error vector of its own; use eqprop.compare_gradients, or an "
            "EquilibriumPropagation rule"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same random numbers: tensors and plain values, nested."""
        own = {f"regulariser{i}": r.state_dict() for i, r in enumerate(self.regularisers)}
        return own | {name: solver.state_dict() for name, solver in self._drawing_solvers()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes ``state_dict``."""
        for i, r in enumerate(self.regularisers):
            r.load_state_dict(state[f"regulariser{i}"])
        for name, solver in self._drawing_solvers():
            solver.load_state_dict(state[name])

    def _drawing_solvers(self) -> list[tuple[str, Any]]:
        """Solvers that draw random numbers, by the name of their setting."""
        named = [(name, getattr(self, name, None)) for name in ("solver", "nudged_solver")]
        return [(name, solver) for name, solver in named if hasattr(solver, "state_dict")]

    def predict(self, network: Network, x: Tensor) -> Tensor:
        """Output at the free equilibrium, ``[batch, outputs]``."""
        with torch.no_grad():
            return network.output(self.settle(network, network.drive(x), None).state)

    def settle(self, network: Network, drive: Drive, start: State | None) -> Solution:
        """The free phase."""
        state = network.initial_state(len(drive.x)) if start is None else start
        network.begin_phase(0)
        options: dict[str, Any] = {"products": self.products, "graphs": self.graphs}
        return relax(network, state, drive, solver=self.solver, stop=self.free, **options)

    def spec(self) -> dict[str, Any]:
        """JSON-serialisable settings, for records."""
        described: dict[str, Any] = _plain(self)
        return {"rule": described.pop("kind")} | described


def _plain(value: Any) -> Any:
    """Settings as JSON: a dataclass becomes its kind and what it was made from."""
    if isinstance(value, Cost):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"kind": type(value).__name__} | fields
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__


class Sample(NamedTuple):
    """Loss and its gradient at a free equilibrium."""

    output: Tensor  # [batch, outputs]
    target: Tensor  # [batch, outputs]
    loss: Tensor  # [batch]


def at_equilibrium(network: Network, cost: Cost, state: State, y: Tensor) -> Sample:
    """Output, target and loss of a batch at ``state``.

    Raises:
        ConfigError: a cost that gives something other than one value a sample.
        DataError: labels that do not fit the output.
    """
    output = network.output(state)
    if len(output) == 0:
        raise DataError("batch: got 0 samples, needed at least 1")
    target = cost.target(y, output)
    return Sample(output, target, cost.loss(output, target))


def add_readout_gradient(network: Network, cost: Cost, sample: Sample, state: State, weight: Tensor) -> None:
    """Gradient of the readout outside the dynamics: exact at the free state, whatever the rule.

    Args:
        weight: of each sample, ``[batch]``.
    """
    if network.readout is None or not any(p.requires_grad for p in network.readout.parameters()):
        return
    force = cost.gradient(sample.output, sample.target) * weight[:, None]
    flat = state[-1].flatten(1)
    for parameter, gradient in ((network.readout.weight, force.mT @ flat), (network.readout.bias, force.sum(0))):
        if parameter.requires_grad:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def loss_gradient(network: Network, cost: Cost, sample: Sample, state: State) -> Tensor:
    """``dC / d s_out`` through the readout, ``[batch, *output_shape]``."""
    gradient = cost.gradient(sample.output, sample.target)
    if network.readout is not None:
        gradient = gradient @ network.readout.weight
    return gradient.reshape(state[-1].shape)
