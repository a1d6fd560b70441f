"""Directed networks: untied weights over any graph of layers, a vector field without an energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor

from eqprop._connections import Connection, Dense
from eqprop._convolution import Conv, ConvTranspose
from eqprop._errors import ConfigError
from eqprop._graph import GraphNetwork
from eqprop._initializers import at_angle
from eqprop._network import Layer
from eqprop._numbers import is_number


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
        connections: Sequence[Dense | Conv | ConvTranspose],
        *,
        readout: int | None = None,
        feedback_angle: float | None = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(layers, connections, readout=readout, generator=generator, dtype=dtype)
        if feedback_angle is None:
            return
        if not is_number(feedback_angle) or not 0.0 <= feedback_angle <= 180.0:
            raise ConfigError(f"feedback_angle: got {feedback_angle!r}, needed degrees from 0 to 180, or None")
        for pair in self.reciprocal_pairs():
            with torch.no_grad():
                drawn = pair.backward.weight
                drawn.copy_(at_angle(pair.turned(pair.forward.weight), feedback_angle, drawn))

    def reciprocal_pairs(self) -> list[ReciprocalPair]:
        """Pairs (forward, feedback) of connections that join the same two layers in opposite directions.

        Raises:
            ConfigError: two that have no weights in common to compare, as a convolution and a dense connection.
        """
        ends = {(e.pre, e.post): e.key for e in self._edges}
        pairs = [
            ReciprocalPair(self.connection(key), self.connection(ends[post, pre]))
            for (pre, post), key in ends.items()
            if pre < post and (post, pre) in ends
        ]
        for pair in pairs:
            if not pair.forward.mirrors(pair.backward):
                raise ConfigError(
                    f"feedback: got a forward weight {list(pair.forward.weight.shape)} with a feedback weight "
                    f"{list(pair.backward.weight.shape)} between the same layers that cannot be compared, needed a "
                    "Dense with a Dense, or a Conv with a ConvTranspose of the same kernel, stride, padding and "
                    "pooling; or write feedback_angle=None"
                )
        return pairs

    @staticmethod
    def _feedback(forward: Sequence[Dense | Conv]) -> list[Dense | Conv | ConvTranspose]:
        return [
            ConvTranspose(**{f.name: getattr(c, f.name) for f in fields(c)} | {"pre": c.post, "post": c.pre})
            if isinstance(c, Conv)
            else Dense(c.post, c.pre, c.initializer, c.gain)
            for c in forward
        ]


class ReciprocalPair(NamedTuple):
    """Two connections between the same two layers, in opposite directions, with weights of their own."""

    forward: Connection
    backward: Connection

    def turned(self, weight: Tensor) -> Tensor:
        """A weight of one end in the shape of the other's: dense ones are transposed, those of convolutions alike."""
        return weight.mT if self.forward.reverse == self.backward.reverse else weight
