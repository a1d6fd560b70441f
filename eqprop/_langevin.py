"""Langevin dynamics: a relaxation in time whose nodes carry Johnson noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqprop._counter_noise import GOLDEN, normal_of, row_keys, scrambled, signed
from eqprop._cuda_graphs import CaptureError, capturing
from eqprop._errors import ConfigError
from eqprop._network import Bath, State
from eqprop._share import sample_numbers
from eqprop._solvers import Problem, Solver, Step
from eqprop._stop import Stop, Sweeps


@dataclass(frozen=True)
class Langevin:
    """Explicit Euler (Euler-Maruyama) of the noisy leaky dynamics, all layers at once:

        ds = (z - s) dt + sqrt(2 T dt) N(0, 1),  then projected on the range of the activation

    with ``z`` the total input, nudge included: ``z - s = -dE/ds`` for linear and box activations, whose states are
    distributed as ``exp(-(E + beta C) / T)`` as ``dt -> 0``. Other activations move by ``rho(z) - s`` and have the
    same noise. Time is in units of ``RC`` of a node, ``C dv = -dE/dv dt + sqrt(2 k T G) dW``, and ``T`` is
    ``k T_kelvin / C`` in squared units of the state: a node alone has ``<s^2> = T / (1 - dt / 2)``. Noise of different
    nodes is independent, as that of each node's own leak is; a clamped layer has none.

    The result is the mean over the last ``window`` of the ``Sweeps(n)``, and its residual the largest mean drift over
    the window: what the average still lacks to balance. An observer sees the walk itself, and after the last sweep the
    mean. Every relaxation has noise of its own, and no sample that of another; a chip gives it from its own streams.

    Args:
        dt: time step, ``0 < dt <= 1``.
        temperature: ``T``, the variance of a node alone; None for that of the chip (``hardware.ThermalNoise``).
        window: sweeps at the end over which the state is averaged.
        seed: of the noise on a network that is no chip; a run that is resumed goes on with the same numbers.

    Raises:
        ConfigError: numbers out of range; a ``Stop`` (under noise no tolerance is reached: write ``Sweeps(n)``), fewer
            sweeps than the window; no temperature at all, or two.

    Source: Langevin 1908; Johnson 1928, Nyquist 1928 (the noise of a conductance); of nodes read as a mean over time,
    Peters & Talatchian 2025.
    """

    dt: float = 0.1
    temperature: float | None = None
    window: int = 1
    seed: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 < self.dt <= 1.0:
            raise ConfigError(f"Langevin: got dt={self.dt}, needed 0 < dt <= 1; write Langevin(dt=0.1)")
        t = self.temperature
        if t is not None and not 0.0 <= t < math.inf:
            raise ConfigError(f"Langevin: got temperature={t}, needed a finite number of at least 0; write 1e-6, say")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
            raise ConfigError(f"Langevin: got window={self.window!r}, needed a whole number of sweeps of at least 1")
        self.generator.manual_seed(self.seed)

    def fitted(self, stop: Stop | Sweeps) -> Solver:
        """The solver of one relaxation of that length."""
        if not isinstance(stop, Sweeps):
            raise ConfigError(
                f"Langevin: got {stop}, but under noise no state reaches a tolerance; needed a number of sweeps: write "
                f"free=eqprop.Sweeps({max(200, 2 * self.window)}), and nudged=... alike"
            )
        if stop.n < self.window:
            raise ConfigError(f"Langevin: got {stop.n} sweeps for a window of {self.window}; write window={stop.n}")
        return _Averaged(self, stop.n - self.window, stop.n)

    def step(self, problem: Problem, state: State, memory: Bath | None) -> Step:
        if capturing():
            raise CaptureError("a replay would repeat the noise of its capture")
        system, drive, nudge, cache = problem
        bath = self._bath(problem) if memory is None else memory
        held = getattr(system.sourced(nudge), "held", ())
        pull = system.pull(state, drive, nudge, range(len(state)), cache)
        strength = math.sqrt(2.0 * bath.temperature * self.dt)
        new, image = [], []
        for l, (s, z) in enumerate(zip(state, pull, strict=True)):
            if l in held:
                new.append(z)
                image.append(z)
                continue
            image.append(system.within(l, z))
            moved = torch.lerp(s, z, self.dt)
            if strength:
                moved = moved.add_(bath.normal(l, s, len(system.shapes[l])), alpha=strength)
            new.append(system.within(l, moved))
        return Step(tuple(new), tuple(image), bath)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same noise."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undoes ``state_dict``."""
        self.generator.set_state(state["generator"])

    def _bath(self, problem: Problem) -> Bath:
        bath = problem.system.bath
        if bath is None:
            if self.temperature is None:
                raise ConfigError(
                    "Langevin: got a network without a temperature of its own; write Langevin(temperature=1e-6), or "
                    "make a chip with thermal=hardware.ThermalNoise(...)"
                )
            key = torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=self.generator)
            return _Bath(self.temperature, key)
        if self.temperature is not None:
            raise ConfigError(
                f"Langevin: got temperature={self.temperature:g} on a chip with {bath.temperature:.3g} of its own, "
                "needed one of them; write Langevin(temperature=None)"
            )
        bath.begin()
        return bath


class _Bath:
    """The noise of one relaxation on a network that has none."""

    def __init__(self, temperature: float, key: Tensor) -> None:
        self.temperature = temperature
        self._key, self._drawn = key, 0
        self._numbers: Tensor | None = None

    def begin(self) -> None:
        """Nothing to prepare."""

    def normal(self, layer: int, like: Tensor, dims: int) -> Tensor:
        """Standard normal numbers in the shape of ``like``, others at each call."""
        rows = math.prod(like.shape[:-dims])
        if self._numbers is None or len(self._numbers) != rows:
            self._numbers = sample_numbers(rows, like.device)
            self._key = self._key.to(self._numbers)
        self._drawn += 1
        moment = scrambled(self._key + signed(self._drawn * GOLDEN & (1 << 64) - 1))
        return normal_of(row_keys(self._numbers, moment), like)


class _Walk(NamedTuple):
    """Where an averaged walk is: the solver's memory, sweeps so far, and sums over the window."""

    inner: Bath
    sweeps: int
    places: State | None
    drifts: State | None


class _Averaged:
    """The steps of one relaxation, of which the last gives the mean over those after ``skipped``."""

    def __init__(self, solver: Langevin, skipped: int, sweeps: int) -> None:
        self._solver, self._skipped, self._sweeps = solver, skipped, sweeps

    def step(self, problem: Problem, state: State, memory: _Walk | None) -> Step:
        walk = _Walk(None, 0, None, None) if memory is None else memory  # type: ignore[arg-type]
        place, image, bath = self._solver.step(problem, state, walk.inner)
        done, window = walk.sweeps + 1, self._sweeps - self._skipped
        if done <= self._skipped or window == 1:
            return Step(place, image, _Walk(bath, done, None, None))
        drift = tuple(i - s for i, s in zip(image, state, strict=True))
        places, drifts = _plus(walk.places, place), _plus(walk.drifts, drift)
        if done == self._sweeps:
            image = tuple(torch.add(s, d, alpha=1 / window) for s, d in zip(state, drifts, strict=True))
            place = tuple(p / window for p in places)
        return Step(place, image, _Walk(bath, done, places, drifts))


def _plus(total: State | None, state: State) -> State:
    return state if total is None else tuple(t + s for t, s in zip(total, state, strict=True))
