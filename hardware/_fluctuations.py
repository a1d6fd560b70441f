"""The fluctuations of one array: factors of its conductances at a moment, and the states of those that have a past."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hardware._moment import Kept, Moment
from hardware._paths import Fluctuation
from hardware._scoped_draws import ScopedDraws, Weighted, mixed
from hardware._slow_noise import FlickerNoise, TelegraphNoise
from hardware._streams import Streams


class SlowState(nn.Module):
    """What a slow noise is at a moment; base of its two kinds.

    Attributes:
        clock: nanoseconds on the chip's clock for which the state holds.
    """

    clock: Tensor

    def __init__(self, name: str, like: Tensor, streams: Streams) -> None:
        super().__init__()
        self._name, self._streams = name, streams
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))  # on the CPU: it is looked at

    def at(self, clock: int) -> Tensor:
        """The factor of conductances at that time, which never goes back."""
        before = int(self.clock)
        if clock > before:
            self._advance(1e-9 * (clock - before), clock)
            self.clock.fill_(clock)
        return self._factor()

    def _advance(self, seconds: float, clock: int) -> None:
        raise NotImplementedError

    def _factor(self) -> Tensor:
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        clock = self.clock
        made = super()._apply(fn, recurse)
        self.clock = clock
        return made


class FlickerState(SlowState):
    """The Ornstein-Uhlenbeck processes of every cell, ``[n, cells, ...]``, with variance 1."""

    processes: Tensor

    def __init__(self, noise: FlickerNoise, name: str, like: Tensor, streams: Streams) -> None:
        super().__init__(name, like, streams)
        self._noise = noise
        shape = (len(noise.tau_seconds), *like.shape)
        self.register_buffer("processes", streams.normal(f"{name}.start", (), shape, like))

    def _advance(self, seconds: float, clock: int) -> None:
        x = self.processes
        rates = x.new_tensor([1.0 / tau for tau in self._noise.tau_seconds]).reshape(-1, *[1] * (x.dim() - 1))
        kept = torch.exp(-seconds * rates)
        fresh = torch.expm1(-2 * seconds * rates).neg_().sqrt_()
        numbers = self._streams.normal(f"{self._name}.step", (clock,), x.shape, x)
        x.mul_(kept).addcmul_(fresh, numbers)

    def _factor(self) -> Tensor:
        std = self._noise.relative_std * len(self.processes) ** -0.5
        return self.processes.sum(0).mul_(std).add_(1.0).clamp_(min=0.0)


class TelegraphState(SlowState):
    """Whether each cell is low, 1.0 or 0.0, and how fast its trap is."""

    low: Tensor
    speed: Tensor
    trapped: Tensor

    def __init__(self, noise: TelegraphNoise, name: str, like: Tensor, streams: Streams) -> None:
        super().__init__(name, like, streams)
        self._noise = noise
        draw = lambda what: streams.uniform(f"{name}.{what}", (), like.shape, like)  # noqa: E731
        self.register_buffer("trapped", (draw("trap") < noise.share).to(like.dtype), persistent=False)
        self.register_buffer("speed", 10 ** (noise.spread_decades * (0.5 - draw("speed"))), persistent=False)
        self.register_buffer("low", (draw("start") < noise.low_share).to(like.dtype))

    def _advance(self, seconds: float, clock: int) -> None:
        noise, p = self._noise, self._noise.low_share
        rate = 1.0 / noise.tau_high_seconds + 1.0 / noise.tau_low_seconds
        stays = (self.speed * (-seconds * rate)).exp_()
        chance = stays.mul_(self.low - p).add_(p)
        drawn = self._streams.uniform(f"{self._name}.step", (clock,), self.low.shape, self.low)
        self.low.copy_(drawn < chance)

    def _factor(self) -> Tensor:
        return (self.low * self.trapped).mul_(-self._noise.relative_amplitude).add_(1.0)


class Fluctuations(nn.Module):
    """The factors of an array's conductances.

    Args:
        parts: of the substrate.
        key: of the connection.
        like: conductances, or weights where there are no cells.
        streams, moment: of the chip.
        draws: of the array.
    """

    def __init__(
        self,
        parts: tuple[Fluctuation | FlickerNoise | TelegraphNoise, ...],
        key: str,
        like: Tensor,
        streams: Streams,
        moment: Moment,
        draws: ScopedDraws,
    ) -> None:
        super().__init__()
        self._parts, self._moment, self._draws, self._kept = parts, moment, draws, Kept()
        self.states = nn.ModuleDict()
        for n, part in enumerate(parts):
            name = f"fluctuation{n}/{key}"
            if isinstance(part, FlickerNoise) and part.moves:
                self.states[str(n)] = FlickerState(part, name, like, streams)
            elif isinstance(part, TelegraphNoise) and part.moves:
                self.states[str(n)] = TelegraphState(part, name, like, streams)

    @property
    def moving(self) -> bool:
        """Whether two phases of a pass see different factors."""
        return any(part.moves for part in self._parts)

    @torch.no_grad()
    def factors(self, write: int, like: Tensor) -> list[Tensor]:
        """The factors now, in the shape of ``like``; the same objects for as long as they hold still."""
        found = []
        for n, part in enumerate(self._parts):
            if isinstance(part, Fluctuation):
                if part.relative_std:
                    draws = self._draws(f"fluctuation{n}", part.scope, part.correlation, write, like)
                    stamp = (like.dtype, *(d for d, _ in draws))
                    found.append(self._kept(f"factor{n}", stamp, partial(_factor, draws, part.relative_std)))
            elif str(n) in self.states:
                clock, state = self._moment.clock, self.states[str(n)]
                if isinstance(state, SlowState):
                    found.append(self._kept(f"factor{n}", (clock,), partial(state.at, clock)))
        return found

    def applied(self, g: Tensor, write: int) -> Tensor:
        """``g`` times all factors."""
        for factor in self.factors(write, g):
            g = g * factor
        return g

    def forget(self) -> None:
        """Drop what is kept; states stay."""
        self._kept.clear()
        self._draws.forget()


def _factor(draws: Weighted, std: float) -> Tensor:
    return mixed(draws).mul(std).add_(1.0).clamp_(min=0.0)
