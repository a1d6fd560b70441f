"""Gains of the ways that signals take through an array, and fluctuations of its conductances."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hardware._device_checks import require_number
from hardware._printed import Printed
from hardware._streams import Streams, require_scope


@dataclass(frozen=True, repr=False)
class Fluctuation(Printed):
    """A relative fluctuation of every conductance: ``g <- g (1 + std N(0, 1))``, never below 0 S.

    What decides its harm to equilibrium propagation is whether the phases share it. With ``correlation = rho`` between
    phases the normal number is ``sqrt(rho) n_pass + sqrt(1 - rho) n_phase``.

    Attributes:
        relative_std: standard deviation, as a share of the conductance.
        scope: ``"chip"`` (device-to-device, drawn once), ``"write"`` (at each write), ``"sample"`` (one for all phases
            of a pass) or ``"phase"`` (drawn afresh in each). One draw is for all samples of a batch, whose errors do
            not average out: passes of one sample each have their own.
        correlation: between the phases of a pass, 0 to 1; of scope ``"phase"`` only.
    """

    relative_std: float
    scope: str = "phase"
    correlation: float = 0.0

    def __post_init__(self) -> None:
        require_number("Fluctuation.relative_std", self.relative_std, least=0.0)
        require_scope("Fluctuation", self.scope, ("chip", "write", "sample", "phase"))
        require_number(
            "Fluctuation.correlation", self.correlation, least=0.0, most=1.0 if self.scope == "phase" else 0.0
        )

    @property
    def moves(self) -> bool:
        """Whether two phases see different conductances."""
        return self.scope == "phase" and self.relative_std > 0.0


@dataclass(frozen=True, repr=False)
class PathGains(Printed):
    """Gains that make the way back through an array another than the way there: the end of reciprocity.

    Ahead, a connection acts with ``W_ij a_i``; back with ``W_ij b_j (1 + m_ij) back_gain``: ``a``, ``b`` are gains of
    the receiving units' amplifiers, ``m`` of the single cells. All are drawn once a chip. The way back of a
    convolution has an amplifier a channel.

    Attributes:
        ahead_std, back_std: relative standard deviation of the amplifiers' gains.
        cell_std: of the cells' gains on the way back, relative to that on the way there.
        back_gain: mean gain of the way back.
    """

    ahead_std: float = 0.0
    back_std: float = 0.0
    cell_std: float = 0.0
    back_gain: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ahead_std", "back_std", "cell_std"):
            require_number(f"PathGains.{name}", getattr(self, name), least=0.0)
        require_number("PathGains.back_gain", self.back_gain, above=0.0)

    def draw(self, key: str, streams: Streams, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of a weight ``[heads, tails, ...]`` on the way there and on the way back."""
        heads, tails, rest = like.shape[0], like.shape[1], (1,) * (like.dim() - 2)
        ones = like.new_ones((1,) * like.dim())
        there = ones
        if self.ahead_std:
            there = 1 + self.ahead_std * streams.normal(f"paths.ahead/{key}", (), (heads, 1, *rest), like)
        back = ones * self.back_gain
        if self.back_std:
            back = back * (1 + self.back_std * streams.normal(f"paths.back/{key}", (), (1, tails, *rest), like))
        if self.cell_std:
            back = back * (1 + self.cell_std * streams.normal(f"paths.cell/{key}", (), like.shape, like))
        return there, back
