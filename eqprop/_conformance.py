"""The conformance suite: what every network must satisfy, checked in float64 against automatic differentiation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eqprop._errors import ConfigError, EqPropError
from eqprop._network import Drive, Network, Phase, State
from eqprop._solvers import Alternating, Problem


class ConformanceError(EqPropError, AssertionError):
    """A network that breaks the contract of ``eqprop.Network``; names each check that failed and by how much."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check: the largest relative deviation, and the bound on it; None where it does not apply."""

    name: str
    deviation: float | None
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the deviation is within its bound (NaN is not)."""
        return self.deviation is None or self.deviation <= self.bound


@dataclass(frozen=True)
class Report:
    """All checks of a network; print it to read them."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(c.passed for c in self.checks)

    def __str__(self) -> str:
        return "\n".join(
            f"{'skipped' if c.deviation is None else 'passed ' if c.passed else 'FAILED '}  {c.name}"
            + ("" if c.deviation is None else f" (deviation {c.deviation:.2g}, bound {c.bound:.0e})")
            for c in self.checks
        )


def check_network(
    network: Network, *, x: Tensor | None = None, batch: int = 4, seed: int = 0, throw: bool = True
) -> Report:
    """Check a network, yours or ours, against its own specification; the network is not changed.

    Works on a float64 copy at random states, among them states on the bounds of the activations:

    1. ``inputs = dPhi/ds``, by autograd (with an energy)
    2. ``update = rho(inputs)``, block by block, and blocks cover every layer once
    3. ``vjp_inputs`` is the transposed Jacobian ``H^T`` of ``inputs``
    4. ``jvp_inputs`` is ``H``: ``<u, H v> = <H^T u, v>``
    5. ``adjoint_dynamics`` has the inputs ``z_0 + H^T (s - s_0)``
    6. ``inputs(a s + (1 - a) t) = a inputs(s) + (1 - a) inputs(t)`` (where ``affine`` is set)
    7. ``d energy/ds = rho^-1(s) - inputs`` inside the bounds (with an energy and monotone activations)
    8. the contrast gradient is ``sum_k w_k dE/dtheta`` (with an energy)
    9. the tangent gradient is ``(d inputs / d theta)^T direction``
    10. a sample's inputs do not depend on the rest of the batch, nor on copies of it
    11. nothing that is passed in is changed, and dtype and shapes are kept
    12. with products in bfloat16, what layers give each other stays within 5 %, for three units of four
    13. ``energy`` never rises over alternating sweeps (with an energy, exact blocks and monotone activations)

    A method that raises fails its check, whatever it raises.

    Args:
        network: any ``Network``.
        x: clamped input ``[batch, *input_shape]``; random in [0, 1] where None.
        batch: number of samples where ``x`` is None.
        seed: of the random states.
        throw: raise where a check fails.

    Raises:
        ConformanceError: lists the failed checks.
    """
    net: Network = network.clone().double()
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    if x is None:
        x = torch.rand(batch, *net.input_shape, generator=generator, dtype=torch.float64)
    x = x.to(device=device, dtype=torch.float64)
    if len(x) < 2:
        raise ConfigError(f"check_network: got {len(x)} sample, needed at least 2 to see that samples are independent")
    state = _random_state(net, len(x), generator, device)
    checks = []
    for name, bound, function in _CHECKS:
        value: float | None
        try:
            value = function(net, x, state)
        except Exception as error:  # of a user's own code: anything
            text = ": ".join([name, type(error).__name__, *str(error).splitlines()[:1]])
            checks.append(Check(text, math.inf, bound))
            continue
        checks.append(Check(name, value, bound))
    report = Report(tuple(checks))
    if throw and not report.passed:
        raise ConformanceError(f"{type(network).__name__} does not conform:\n{report}")
    return report


def _random_state(net: Network, batch: int, generator: torch.Generator, device: torch.device) -> State:
    """Random states; a tenth of the units on each bound, where kinks are."""
    state = []
    for shape, rho in zip(net.shapes, net.activations, strict=True):
        z = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
        s = rho(z)
        if rho.bounds is not None:
            u = torch.rand(batch, *shape, generator=generator, dtype=torch.float64)
            s = torch.where(u < 0.1, rho.bounds[0], torch.where(u > 0.9, rho.bounds[1], s))
        state.append(s.to(device))
    return tuple(state)


def _deviation(a: tuple[Tensor | None, ...], b: tuple[Tensor | None, ...]) -> float:
    """Largest difference, relative to the largest entry of ``b`` (at least 1e-6); a missing gradient counts as zero."""
    worst = 0.0
    for p, q in zip(a, b, strict=True):
        if p is None and q is None:
            continue
        p = torch.zeros_like(q) if p is None and q is not None else p
        q = torch.zeros_like(p) if q is None and p is not None else q
        if p is None or q is None or p.shape != q.shape:
            return math.inf
        if p.numel():
            difference = float((p - q).abs().max())
            worst = max(worst, difference / max(float(q.abs().max()), 1e-6)) if difference == difference else math.inf
    return worst


def _inputs_are_gradients(net: Network, x: Tensor, state: State) -> float | None:
    if not net.has_energy:
        return None
    drive = net.drive(x)
    leaves = tuple(s.clone().requires_grad_() for s in state)
    with torch.enable_grad():
        expected = torch.autograd.grad(net.phi(leaves, drive).sum(), leaves, allow_unused=True)
    with torch.no_grad():
        return _deviation(net.inputs(state, drive), expected)


def _update_is_activation_of_inputs(net: Network, x: Tensor, state: State) -> float | None:
    if sorted(l for block in net.blocks for l in block) != list(range(len(state))):
        return math.inf
    with torch.no_grad():
        drive, cache = net.drive(x), net.new_cache(None)
        worst = 0.0
        # two states under one cache: what is kept of the first must not reach the second
        for old in (state, tuple(0.5 * s for s in state)):
            z = net.inputs(old, drive)
            for block in (*net.blocks, tuple(range(len(state)))):
                new = net.update(old, drive, None, block, cache)
                worst = max(worst, _deviation(new, tuple(net.activations[l](z[l]) for l in block)))
    return worst


def _like(state: State, seed: int) -> State:
    """Normal random numbers in the shapes of a state."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(s.shape, generator=generator, dtype=s.dtype).to(s.device) for s in state)


def _transposed(net: Network, state: State, vector: State, drive: Drive) -> State:
    """``H^T v`` by autograd of ``inputs``, whatever the network says."""
    leaves = tuple(s.clone().requires_grad_() for s in state)
    with torch.enable_grad():
        found = torch.autograd.grad(net.inputs(leaves, drive), leaves, vector, allow_unused=True)
    return tuple(torch.zeros_like(s) if g is None else g for g, s in zip(found, state, strict=True))


def _vjp_is_transpose(net: Network, x: Tensor, state: State) -> float | None:
    drive, v = net.drive(x), _like(state, 1)
    expected = _transposed(net, state, v, drive)
    with torch.no_grad():
        return _deviation(net.vjp_inputs(state, v, drive), expected)


def _jvp_is_jacobian(net: Network, x: Tensor, state: State) -> float | None:
    drive, u, v = net.drive(x), _like(state, 4), _like(state, 5)
    back = _transposed(net, state, u, drive)
    with torch.no_grad():
        ahead = net.jvp_inputs(state, v, drive)
        return _deviation((_dot(u, ahead),), (_dot(back, v),))


def _dot(a: State, b: State) -> Tensor:
    """Inner product over units and samples: over units alone it would blame ``H`` for samples that mix."""
    return torch.stack([(p * q).sum() for p, q in zip(a, b, strict=True)]).sum()


def _adjoint_is_transposed(net: Network, x: Tensor, state: State) -> float | None:
    drive = net.drive(x)
    moved = tuple(0.1 * d for d in _like(state, 6))
    back = _transposed(net, state, moved, drive)
    with torch.no_grad():
        system, around = net.adjoint_dynamics(state, drive)
        there = tuple(s + d for s, d in zip(state, moved, strict=True))
        got = system.block_inputs(there, around, range(len(state)), system.new_cache(None))
        expected = tuple(z + b for z, b in zip(net.inputs(state, drive), back, strict=True))
        return _deviation(tuple(got), expected)


def _affine_where_set(net: Network, x: Tensor, state: State) -> float | None:
    if not net.affine:
        return None
    drive, other, a = net.drive(x), _like(state, 7), -0.5
    with torch.no_grad():
        between = tuple(a * s + (1 - a) * t for s, t in zip(state, other, strict=True))
        ends = zip(net.inputs(state, drive), net.inputs(other, drive), strict=True)
        return _deviation(net.inputs(between, drive), tuple(a * p + (1 - a) * q for p, q in ends))


def _energy_has_its_gradient(net: Network, x: Tensor, state: State) -> float | None:
    if not net.has_energy or any(rho.conjugate is None for rho in net.activations):
        return None
    drive = net.drive(x)
    # states made from known membranes, so that rho^-1 needs no formula; far out, 1 - |s| has no digits left
    membranes = tuple(z.clamp(-1.5, 1.5) for z in _like(state, 8))
    leaves = tuple(rho(z).clone().requires_grad_() for rho, z in zip(net.activations, membranes, strict=True))
    with torch.enable_grad():
        found = torch.autograd.grad(net.energy(leaves, drive).sum(), leaves, allow_unused=True)
    with torch.no_grad():
        interior = tuple(rho.derivative(z) > 0 for rho, z in zip(net.activations, membranes, strict=True))
        inputs = net.inputs(tuple(s.detach() for s in leaves), drive)
        expected = tuple((z - i).where(inside, 0.0) for z, i, inside in zip(membranes, inputs, interior, strict=True))
        got = tuple(None if g is None else g.where(inside, 0.0) for g, inside in zip(found, interior, strict=True))
    return _deviation(got, expected)


def _low_precision_is_close(net: Network, x: Tensor, state: State) -> float | None:
    drive, layers = net.drive(x), range(len(state))
    with torch.no_grad():
        # without the drive, beside which lost products might not show
        alone = net.inputs(tuple(torch.zeros_like(s) for s in state), drive)
        full = net.block_inputs(state, drive, layers, net.new_cache(None))
        low = net.block_inputs(state, drive, layers, net.new_cache(torch.bfloat16))
    worst = 0.0
    for p, q, d in zip(low, full, alone, strict=True):
        # of most units: where max pooling picks another unit of a window, some of them differ by more than rounding
        differences = (p - q).abs().flatten().sort().values
        most = float(differences[int(0.75 * (len(differences) - 1))])
        worst = max(worst, most / max(float((q - d).abs().max()), 1e-6)) if most == most else math.inf
    return worst


def _collected(net: Network, add: Callable[[], None]) -> tuple[Tensor | None, ...]:
    for p in net.parameters():
        p.grad = None
    with torch.no_grad():
        add()
        add()  # twice: gradients accumulate
    return tuple(None if p.grad is None else p.grad / 2 for p in net.parameters())


def _contrast_gradient(net: Network, x: Tensor, state: State) -> float | None:
    if not net.has_energy:
        return None
    generator = torch.Generator().manual_seed(2)
    folds = 3
    points = net.join_states([state, tuple(0.5 * s for s in state), tuple(0.9 * s for s in state)])
    weights = torch.randn(folds * len(x), generator=generator, dtype=torch.float64).to(x.device)
    phase = Phase(points, weights, folds)
    got = _collected(net, lambda: net.add_contrast_gradient([phase], net.drive(x).x))
    with torch.enable_grad():
        energy = -net.phi(points, net.drive(torch.cat([x] * folds)))
        expected = torch.autograd.grad((weights * energy).sum(), list(net.parameters()), allow_unused=True)
    return _deviation(got, expected)


def _tangent_gradient(net: Network, x: Tensor, state: State) -> float | None:
    generator = torch.Generator().manual_seed(3)
    direction = tuple(torch.randn(s.shape, generator=generator, dtype=s.dtype).to(s.device) for s in state)
    got = _collected(net, lambda: net.add_tangent_gradient(state, direction, net.drive(x).x))
    with torch.enable_grad():
        z = net.inputs(state, net.drive(x))
        expected = torch.autograd.grad(z, list(net.parameters()), direction, allow_unused=True)
    return _deviation(got, expected)


def _batch_independence(net: Network, x: Tensor, state: State) -> float | None:
    with torch.no_grad():
        whole = net.inputs(state, net.drive(x))
        first = net.inputs(tuple(s[:1] for s in state), net.drive(x[:1]))
        copies = net.inputs(net.repeat_state(state, 2), net.repeat_drive(net.drive(x), 2))
    parts = net.split_state(copies, 2)
    return max(_deviation(tuple(z[:1] for z in whole), first), *(_deviation(part, whole) for part in parts))


def _arguments_are_kept(net: Network, x: Tensor, state: State) -> float | None:
    drive = net.drive(x)
    kept: list[Tensor] = [x, *state, *drive.terms, drive.x, *net.parameters()]
    before = [t.detach().clone() for t in kept]
    with torch.no_grad():
        new = net.update(state, drive, None, range(len(state)), net.new_cache(None))
        z = net.inputs(state, drive)
        net.vjp_inputs(state, z, drive)
    for values in (new, z):
        if [(v.shape, v.dtype) for v in values] != [(s.shape, s.dtype) for s in state]:
            return math.inf
    return _deviation(tuple(t.detach() for t in kept), tuple(before))


def _energy_falls(net: Network, x: Tensor, state: State) -> float | None:
    monotone = all(rho.conjugate is not None for rho in net.activations)
    if not net.has_energy or not monotone or not _blocks_are_exact(net, net.drive(x), state):
        return None
    with torch.no_grad():
        problem = Problem(net, net.drive(x), None, net.new_cache(None))
        energy = net.energy(state, problem.drive)
        worst = 0.0
        for _ in range(10):
            state = Alternating().step(problem, state, None).state
            new = net.energy(state, problem.drive)
            worst = max(worst, float(((new - energy) / energy.abs().clamp(min=1)).max()))
            energy = new
    return worst


def _blocks_are_exact(net: Network, drive: Drive, state: State) -> bool:
    """Whether the input of a layer depends on no layer of its own block, so that its update is an exact minimum."""
    with torch.no_grad():
        z = net.inputs(state, drive)
        for block in net.blocks:
            moved = tuple(s * 0.5 + 0.1 if l in block else s for l, s in enumerate(state))
            other = net.inputs(moved, drive)
            if any(not torch.allclose(z[l], other[l], rtol=1e-10, atol=1e-10) for l in block):
                return False
    return True


_CHECKS: tuple[tuple[str, float, Callable[[Network, Tensor, State], float | None]], ...] = (
    ("inputs are the gradient of Phi", 1e-10, _inputs_are_gradients),
    ("update is the activation of inputs", 1e-10, _update_is_activation_of_inputs),
    ("vjp_inputs is the transposed Jacobian", 1e-10, _vjp_is_transpose),
    ("jvp_inputs is the Jacobian", 1e-10, _jvp_is_jacobian),
    ("adjoint dynamics have the transposed Jacobian", 1e-10, _adjoint_is_transposed),
    ("inputs are affine", 1e-10, _affine_where_set),
    ("energy has the gradient rho^-1(s) - inputs", 1e-10, _energy_has_its_gradient),
    ("contrast gradient is that of the energy", 1e-10, _contrast_gradient),
    ("tangent gradient is that of the inputs", 1e-10, _tangent_gradient),
    ("samples are independent", 1e-10, _batch_independence),
    ("arguments, dtypes and shapes are kept", 0.0, _arguments_are_kept),
    ("low precision is close to full", 5e-2, _low_precision_is_close),
    ("energy never rises", 1e-12, _energy_falls),
)
