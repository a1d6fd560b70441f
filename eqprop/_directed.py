"""Directed networks: untied weights over any graph of layers, a vector field without an energy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from eqprop._connections import Dense, DenseConnection
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._initializers import at_angle
from eqprop._network import Layer


class DirectedNetwork(GraphNetwork):
    """Untied (non-reciprocal) weights: a vector field ``s_l <- rho_l(sum_pre W s_pre + b_l)``, no energy.

    ``DirectedNetwork.mlp(784, 256, 10)`` has a feedback connection beside each forward one between moving layers;
    ``feedback_angle`` sets the initial angle between them. Loops without any reciprocal connection are written as a
    graph: ``[Dense("input", "a"), Dense("a", "b"), Dense("b", "output"), Dense("output", "a")]``.

    Source: Scellier et al. 2018 (vector fields); Laborieux & Zenke 2024 (generalised holomorphic EP).

    Args:
        feedback_angle: degrees between a feedback weight and the transpose of its forward partner at the start, as
            flattened vectors of equal norm: 0 starts tied, 90 unrelated; None draws feedback weights independently.
    """

    def __init__(
        self,
        layers: dict[str, Layer],
        connections: Sequence[Dense],
        *,
        readout: int | None = None,
        feedback_angle: float | None = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(layers, connections, readout=readout, generator=generator, dtype=dtype)
        if feedback_angle is None:
            return
        if not 0.0 <= feedback_angle <= 180.0 or not math.isfinite(feedback_angle):
            raise ConfigError(f"feedback_angle: got {feedback_angle}, needed degrees from 0 to 180, or None")
        for forward, backward in self.reciprocal_pairs():
            with torch.no_grad():
                drawn = backward.weight
                drawn.copy_(at_angle(forward.weight.mT, feedback_angle, drawn))

    def reciprocal_pairs(self) -> list[tuple[DenseConnection, DenseConnection]]:
        """Pairs (forward, feedback) of connections that join the same two layers in opposite directions."""
        ends = {(pre, post): key for key, pre, post in self._edges}
        return [
            (self.connection(key), self.connection(ends[post, pre]))
            for (pre, post), key in ends.items()
            if pre < post and (post, pre) in ends
        ]

    @staticmethod
    def _feedback(pairs: list[tuple[str, str]], initializer: str, gain: float | str | None) -> list[Dense]:
        return [Dense(post, pre, initializer, gain) for pre, post in pairs[1:]]
