"""Observers: what is recorded during a relaxation, passed in and called after every sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._network import Drive, Network, State


class Trajectory:
    """Records states, energies and step sizes of a relaxation, on its device; nothing waits for it.

    ``relax(..., observer=Trajectory(network, drive))``; then ``trajectory.energy()`` and so on.

    Args:
        network: what relaxes.
        drive: its drive; needed for energies.
        states: keep the state of every sweep (memory: sweeps x state).
        start: the initial state, counted as sweep 0, so that the first step has a size.
    """

    def __init__(self, network: Network, drive: Drive, *, states: bool = False, start: State | None = None) -> None:
        self._network, self._drive, self._keep = network, drive, states
        self.states: list[State] = []
        self._energies: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._last: State | None = None
        if start is not None:
            self(0, start)

    def __call__(self, sweep: int, state: State) -> None:
        with torch.no_grad():
            if self._keep:
                self.states.append(tuple(s.detach().clone() for s in state))
            if self._network.has_energy:
                self._energies.append(self._network.energy(state, self._drive))
            if self._last is not None:
                self._steps.append(self._network.distance(state, self._last))
        self._last = tuple(s.detach() for s in state)

    def energy(self) -> Tensor:
        """``E`` after each sweep, ``[sweeps, batch]`` (with the start, where one was given)."""
        if not self._energies:
            raise ConfigError("Trajectory.energy: got no energy, needed a network that has one and at least one sweep")
        return torch.stack(self._energies)

    def steps(self) -> Tensor:
        """``max |s_t - s_(t-1)|`` of each sweep after the first that was seen, ``[sweeps, batch]``."""
        if not self._steps:
            raise ConfigError("Trajectory.steps: got fewer than two states; write Trajectory(..., start=state)")
        return torch.stack(self._steps)
