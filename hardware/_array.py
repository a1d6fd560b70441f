"""The arrays of a chip: what the weights of a connection really are at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from eqprop._connections import Connection
from eqprop._errors import ConfigError
from hardware._aged_cells import AgedCells
from hardware._fluctuations import Fluctuations
from hardware._mixing import Mixin
from hardware._moment import Moment as Moment
from hardware._streams import Streams

if TYPE_CHECKING:
    from hardware._substrate import Substrate


class Array(AgedCells):
    """What acts in the place of a weight ``[heads, tails, ...]``: its cells, their fluctuations, the gains of its ways.

    Attributes:
        noisy_inputs: whether read noise is left to the signals that the array makes of clamped inputs, see
            ``input_variances``; what acts is then the mean.
        twin: an array like this one with cells of its own, which acts in its place in nudged phases; or None.
    """

    _ahead: Tensor | None
    _back: Tensor | None

    def __init__(self, key: str, weight: Tensor, substrate: Substrate, streams: Streams, moment: Moment) -> None:
        super().__init__(key, weight, substrate.cells, streams, moment, substrate.temperature_kelvin)
        self.noisy_inputs = False
        self._joined: tuple[tuple[Tensor, Tensor], ...] = ()
        self.twin: Array | None = None
        if substrate.twin:
            self.twin = Array(f"{key}/twin", weight, replace(substrate, twin=False), streams, moment)
        like = weight if self.layout is None else self.conductance
        self.fluctuations = Fluctuations(substrate.fluctuations, key, like, streams, moment, self._draws)
        self._moving = self.fluctuations.moving
        self._moving |= substrate.cells is not None and substrate.cells.changes_between_phases
        gains = None if substrate.paths is None else substrate.paths.draw(key, streams, weight)
        self.register_buffer("_ahead", None if gains is None else gains[0], persistent=False)
        self.register_buffer("_back", None if gains is None else gains[1], persistent=False)

    def set_write_number(self, write: int) -> None:
        super().set_write_number(write)
        if self.twin is not None:
            self.twin.set_write_number(write)

    def forget(self) -> None:
        super().forget()
        for part in (getattr(self, "fluctuations", None), getattr(self, "twin", None)):
            if part is not None:
                part.forget()

    @property
    def moving(self) -> bool:
        """Whether two phases of a pass see different conductances."""
        return self._moving or self.twin is not None

    @property
    def now(self) -> Array:
        """The array that acts in this phase: itself, or its twin."""
        return self if self.twin is None or self._moment.phase == 0 else self.twin

    def follow(self, weight: Tensor, lasts: int = 0) -> bool:
        """Write what changed since the last look, to the twin too; returns whether cells were written."""
        written = super().follow(weight, lasts)
        return written if self.twin is None else self.twin.follow(weight, lasts) or written

    # -- what acts -----------------------------------------------------------------------------------------------------

    def effective(self, weight: Tensor, back: bool) -> Tensor:
        """What acts as the weight in this phase, on the way there or back."""
        if self.now is not self:
            return self.now.effective(weight, back)
        gain, acting = self._back if back else self._ahead, self._acting(weight)
        if gain is None:
            return acting
        gained: Tensor = self._kept(f"gained{back}", (acting,), lambda: acting * gain)
        return gained

    def both_ways(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What acts there and back in this phase."""
        return self.effective(weight, back=False), self.effective(weight, back=True)

    def join(self, phases: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let phases relax together that see this, ``both_ways`` each; none, to be of one phase again."""
        self._joined = tuple(phases)

    def joined(self, back: bool) -> Tensor | None:
        """What acts as the weight in phases that relax together, ``[phases, heads, tails]``.

        None where there are none, or all see the same.
        """
        if not self._joined:
            return None
        back = back and any(there is not again for there, again in self._joined)  # once where the ways are alike
        each = tuple(ways[back] for ways in self._joined)
        if all(one is each[0] for one in each):
            return None
        stacked: Tensor = self._kept(f"joined{back}", each, lambda: torch.stack(each))
        return stacked

    def input_variances(self) -> list[tuple[Tensor, dict[str, float]]]:
        """Variances of what acts on the way there, ``[heads, tails]``: read noise that was left to the signals. Each
        with the share of it that phases have in common, ``"sample"``, and that they have not, ``"phase"``, but 0."""
        if self.now is not self:
            return self.now.input_variances()
        if self.layout is None or self.device.reading is None:
            raise ConfigError(f"connection {self.key}: got no read noise, needed CellArray(read_noise=True)")
        noise, g = self.device.reading, self.undisturbed()
        growth, rho = self._growth(noise), self._correlation(noise)
        factors = self.fluctuations.factors(self._write, self.conductance)

        def made(share: Tensor | None) -> Tensor:
            far = None if factors else self._far_variance(noise, g)
            if far is not None:
                v = far * (float(growth) / self.scale) ** 2
            else:
                each = self._variance_of_each(noise, g)
                each = each if share is None else each * share
                for f in factors:
                    each = each * f * f
                v = each.sum(0).mul_(1.0 / self.scale**2)
            return v if self._ahead is None else v.mul_(self._ahead).mul_(self._ahead)

        stamp = (g, growth, *factors)
        if not isinstance(rho, Tensor):
            v = self._kept("input variance", stamp, partial(made, None))
            return [(v, {scope: share for scope, share in (("sample", rho), ("phase", 1.0 - rho)) if share > 0.0})]
        return [
            (self._kept(f"input variance {scope}", (*stamp, rho), partial(made, share)), {scope: 1.0})
            for scope, share in (("sample", rho), ("phase", 1.0 - rho))
        ]

    def _acting(self, weight: Tensor) -> Tensor:
        if self.layout is None:
            factors = self.fluctuations.factors(self._write, weight)
            stamp = (weight._version, weight.data_ptr(), weight.dtype, *factors)
            applied = lambda: self.fluctuations.applied(weight.detach(), self._write)  # noqa: E731
            fluctuating: Tensor = self._kept("acting", stamp, applied)
            return fluctuating
        # asked for many times in a phase, in which nothing moves
        moment = (self._write, self._moment.passes, self._moment.phase, self._moment.clock)
        found: Tensor = self._kept("acting now", moment, self._decoded_now)
        return found

    def _decoded_now(self) -> Tensor:
        g = self.conductance_now()
        exact = self._holds_requested and g is self._as_written
        decoded: Tensor = self._kept("acting", (g,), lambda: self.requested.detach() if exact else self.decoded(g))
        return decoded

    @torch.no_grad()
    def conductance_now(self) -> Tensor:
        """The conductances that act in this phase, ``[cells, *weight]`` siemens; see ``noisy_inputs``."""
        if self.now is not self:
            return self.now.conductance_now()
        layout, made = self.layout, self.device if self.layout is not None else None
        if layout is None or made is None:
            raise ConfigError(f"connection {self.key}: got no cells, needed Substrate(cells=CellArray(...))")
        g = self.undisturbed()
        if made.reading is not None:
            if self.noisy_inputs:
                moments = self._clipped(made.reading, g)
                g = g if moments is None else moments[0]
            else:
                g = self._read(made.reading, g)
        factors = self.fluctuations.factors(self._write, g)
        if not factors and not layout.wire_ohms:
            return g

        def disturbed() -> Tensor:
            h = self.fluctuations.applied(g, self._write)
            return h / (1 + h * layout.wire_ohms * self._wires()) if layout.wire_ohms else h

        result: Tensor = self._kept("disturbed", (g, *factors), disturbed)
        return result

    # -- inside --------------------------------------------------------------------------------------------------------

    def _wires(self) -> Tensor:
        """Wires between a cell and its two drivers: along its row and along its column."""
        heads, tails = self.requested.shape[0], self.requested[0].numel()
        rows = torch.arange(heads, device=self.requested.device)[:, None]
        columns = torch.arange(tails, device=self.requested.device)[None]
        return (rows + columns + 2).to(self.requested.dtype).reshape(self.requested.shape)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: Any) -> None:
        if strict and not hasattr(self, "auxiliary") and any(k.startswith(f"{prefix}auxiliary.") for k in state_dict):
            raise ConfigError(
                f"connection {self.key}: got a state with auxiliary cells, needed them on this chip first; write "
                "chip.write_path(optimizer, auxiliary=hardware.Auxiliary(...)), then chip.load_state_dict(...)"
            )
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)

    def extra_repr(self) -> str:
        if self.layout is None:
            return ""
        return f"{self.device.name}, {self.layout.mapping}, weights to {self.weight_range:.3g}"


class OnChip(Mixin, Connection):
    """Mixed into a connection's own class: it acts with what its array really does."""

    array: Array

    def operand(self, back: bool) -> Tensor:
        if (joined := self.array.joined(back)) is not None:
            return joined
        acting = self.array.effective(self.weight, back)
        if torch.is_grad_enabled() and self.weight.requires_grad:
            through: Tensor = _StraightThrough.apply(self.weight, acting)
            return through
        return acting


class _StraightThrough(Function):
    """The acting weight, with the gradient going to the parameter as if it were that."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, acting: Tensor) -> Tensor:
        return acting.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
