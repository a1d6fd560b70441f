"""How good is a gradient: against a ground truth, per parameter and per layer, and sweep by sweep against BPTT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eqprop._contours import Contour, contour
from eqprop._costs import Cost
from eqprop._costs import cost as cost_named
from eqprop._names import lookup
from eqprop._network import Drive, Network, State
from eqprop._nudge import CostNudge
from eqprop._relax import relax
from eqprop._rule import Rule, at_equilibrium
from eqprop._solvers import Alternating, Synchronous
from eqprop._stop import Stop, Sweeps


class GradientMatch(NamedTuple):
    """Agreement of a gradient ``g`` with a reference ``t``.

    ``cosine = <g, t> / |g||t|``; ``relative_error = |g - t| / |t|``; ``norm_ratio = |g| / |t|``. A reference of 0 has
    no direction: its cosine is NaN. If ``g`` is 0 too, error and ratio are 0 and 1, else both are infinite; a ``g`` of
    0 alone has cosine 0.
    """

    cosine: float
    relative_error: float
    norm_ratio: float


def match(g: Tensor, t: Tensor) -> GradientMatch:
    """The agreement of ``g`` with the reference ``t``, as flat vectors in float64."""
    g, t = g.detach().double().flatten(), t.detach().double().flatten()
    norm_g, norm_t = float(g.norm()), float(t.norm())
    if norm_t == 0.0:
        same = norm_g == 0.0
        return GradientMatch(math.nan, 0.0 if same else math.inf, 1.0 if same else math.inf)
    cosine = float(g @ t) / (norm_g * norm_t) if norm_g else 0.0
    return GradientMatch(cosine, float((g - t).norm()) / norm_t, norm_g / norm_t)


def gradients(network: Network, rule: Rule, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The gradient that a rule gives, by parameter name.

    ``.grad`` of the network is left as it was, and so is the state of the rule and of its regularisers: random signs,
    probes, counts of steps. A second call sees the same draws.
    """
    kept = {name: p.grad for name, p in network.named_parameters()}
    state = rule.state_dict() if hasattr(rule, "state_dict") else None  # a stand-in with a backward alone will do
    try:
        for p in network.parameters():
            p.grad = None
        rule.backward(network, x, y)
        return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in network.named_parameters()}
    finally:
        if state is not None:
            rule.load_state_dict(state)
        for name, p in network.named_parameters():
            p.grad = kept[name]


def compare_gradients(network: Network, rule: Rule, reference: Rule, x: Tensor, y: Tensor) -> dict[str, GradientMatch]:
    """Agreement of ``rule`` with ``reference`` for each parameter, and ``"all"`` for the whole gradient."""
    g, t = gradients(network, rule, x, y), gradients(network, reference, x, y)
    table = {name: match(g[name], t[name]) for name in g}
    table["all"] = match(*(torch.cat([v.double().flatten() for v in d.values()]) for d in (g, t)))
    return table


def compare_layers(network: Network, rule: Rule, reference: Rule, x: Tensor, y: Tensor) -> dict[str, GradientMatch]:
    """Agreement per layer, in their order: all parameters of the connections into a layer and its bias, as one vector.

    A tied connection counts to the layer that it was declared to enter.
    """
    g, t = gradients(network, rule, x, y), gradients(network, reference, x, y)
    return {
        layer: match(*(torch.cat([d[n].double().flatten() for n in names]) for d in (g, t)))
        for layer, names in parameters_by_layer(network).items()
    }


def parameters_by_layer(network: Network) -> dict[str, list[str]]:
    """Names of the parameters of each layer, in the order of the layers; the readout after them."""
    layers: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        parts = name.split(".")
        layer = parts[1].split("-")[-1] if parts[0] in ("connections", "biases") else parts[0]
        layers.setdefault(layer, []).append(name)
    order = {name: index for index, name in enumerate(network.names)}
    return dict(sorted(layers.items(), key=lambda item: order.get(item[0], len(order))))


@dataclass(frozen=True)
class IncrementMatch:
    """Step-by-step match of EP with BPTT (the gradient-descending-updates property).

    Attributes:
        cosine, relative_error: of the increment of EP at nudged sweep ``t`` against the gradient with respect to the
            parameters as used ``t`` sweeps before the end, all parameters as one vector; ``[sweeps]``.
        cumulative_cosine, cumulative_error: the same for the sums over sweeps up to ``t``.
    """

    cosine: Tensor
    relative_error: Tensor
    cumulative_cosine: Tensor
    cumulative_error: Tensor


def match_increments(
    network: Network,
    x: Tensor,
    y: Tensor,
    *,
    beta: float = 1e-3,
    cost: str | Cost = "squared-error",
    sweeps: int = 15,
    contour_name: str = "centred",
    alternating: bool = False,
    free: Stop | Sweeps | None = None,
) -> IncrementMatch:
    """Compare each sweep's increment of the EP gradient with the matching step of backpropagation through time.

    EP's increment at nudged sweep ``t`` is the tangent readout of ``sum_k w_k [s_k(t + 1) - s_k(t)]``; BPTT's is the
    gradient of the loss with respect to a copy of the parameters used only in the sweep ``t`` before the last, from a
    truly unrolled graph. They agree as ``beta -> 0`` on tied networks at a free equilibrium (Ernoult et al. 2019,
    Theorem 1). With alternating sweeps the nudged phase takes the blocks in reverse order; single increments may then
    regroup between the blocks of neighbouring sweeps, so that the sums are what to compare. Memory: ``sweeps`` copies
    of the parameters.

    Raises:
        ConfigError: no sweep to compare.
    """
    loss = cost_named(cost)
    free = Stop(tol=1e-12 if x.dtype == torch.float64 else 1e-7, max_sweeps=2000) if free is None else free
    solver = Alternating() if alternating else Synchronous()
    with torch.no_grad():
        drive = network.drive(x)
        rest = relax(network, network.initial_state(len(drive.x)), drive, solver=Alternating(), stop=free).state
        sample = at_equilibrium(network, loss, rest, y)
    shape = contour(lookup("contour", contour_name, {n: n for n in ("centred", "one-sided")}), beta)
    ep = _ep_increments(network, drive, rest, loss, sample.target, shape, sweeps, alternating)
    bptt = _bptt_steps(network, x, rest, loss, sample.target, sweeps, solver)
    single = [match(g, t) for g, t in zip(ep, bptt, strict=True)]
    total = [match(g, t) for g, t in zip(torch.stack(ep).cumsum(0), torch.stack(bptt).cumsum(0), strict=True)]
    return IncrementMatch(
        *(torch.tensor([getattr(m, f) for m in ms]) for ms in (single, total) for f in ("cosine", "relative_error"))
    )


def _ep_increments(
    network: Network,
    drive: Drive,
    rest: State,
    cost: Cost,
    target: Tensor,
    shape: Contour,
    sweeps: int,
    alternating: bool,
) -> list[Tensor]:
    batch = len(drive.x)
    responses: list[list[State]] = []
    for b in shape.betas:
        states: list[State] = [rest]
        nudge = CostNudge(network, cost, target, target.new_full((batch, 1), b))
        relax(
            network,
            rest,
            drive,
            nudge,
            solver=Alternating(reverse=True) if alternating else Synchronous(),
            stop=Sweeps(sweeps),
            observer=lambda _, s, into=states: into.append(s),  # type: ignore[misc]
        )
        responses.append(states)
    increments = []
    for t in range(sweeps):
        direction = []
        for l in range(len(rest)):
            steps = [w * (r[t + 1][l] - r[t][l]) for w, r in zip(shape.weights, responses, strict=True)]
            direction.append(-torch.stack(steps).sum(0) / batch)
        increments.append(_tangent_vector(network, rest, tuple(direction), drive.x))
    return increments


def _tangent_vector(network: Network, state: State, direction: State, x: Tensor) -> Tensor:
    kept = {name: p.grad for name, p in network.named_parameters()}
    try:
        for p in network.parameters():
            p.grad = None
        with torch.no_grad():
            network.add_tangent_gradient(state, direction, x)
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in _dynamic_parameters(network)]
        )
    finally:
        for name, p in network.named_parameters():
            p.grad = kept[name]


def _dynamic_parameters(network: Network) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in network.named_parameters() if not n.startswith("readout.")]


class _OneSweep(nn.Module):
    """One sweep as the forward of a module, so that ``functional_call`` can give each sweep parameters of its own."""

    def __init__(self, network: Network, solver: Alternating | Synchronous) -> None:
        super().__init__()
        self.network, self._solver = network, solver

    def forward(self, state: State, x: Tensor) -> State:
        drive = self.network.drive(x)
        return relax(self.network, state, drive, solver=self._solver, stop=Sweeps(1), unroll=True).state


def _bptt_steps(
    network: Network, x: Tensor, rest: State, cost: Cost, target: Tensor, sweeps: int, solver: Alternating | Synchronous
) -> list[Tensor]:
    """Gradient with respect to the parameters of each sweep, the last sweep first."""
    module = _OneSweep(network, solver)
    names = [f"network.{n}" for n, _ in _dynamic_parameters(network)]
    values = [p.detach() for _, p in _dynamic_parameters(network)]
    with torch.enable_grad():
        copies = [[v.clone().requires_grad_() for v in values] for _ in range(sweeps)]
        state = rest
        for parameters in copies:
            state = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (state, x))
        loss = cost.loss(network.output(state), target).mean()
        flat = torch.autograd.grad(loss, [p for parameters in copies for p in parameters], allow_unused=True)
    steps = []
    for t in range(sweeps):
        part = flat[t * len(values) : (t + 1) * len(values)]
        steps.append(
            torch.cat([(torch.zeros_like(v) if g is None else g).flatten() for g, v in zip(part, values, strict=True)])
        )
    return steps[::-1]
