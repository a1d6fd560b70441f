"""A liquid whose weights change while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eqprop._errors import ConfigError, DataError
from hardware._device_checks import require_number
from snn._liquid import Liquid
from snn._plastic_compiled import CompiledSteps
from snn._plasticity import Plasticity
from snn._prepared import Prepared
from snn._projection import PlasticDrive, PlasticRecurrence, Projection
from snn._projection_compiled import CompiledProjection, loops
from snn._projection_events import EventProjection
from snn._records import LiquidState


class PlasticLiquid(Liquid):
    """A copy of a liquid with a rule of plasticity; every sample of a batch has weights of its own.

    A run starts from ``weight`` and ``input_weight`` and leaves them as they are; its weights are in the state that it
    gives back, see ``weights``, from which a stream goes on. Memory is that of ``batch`` copies of the synapses that
    are there. On a CPU only the synapses of neurons that spike are touched, unless ``recurrence="dense"`` and
    ``input_product="dense"``, and where numba is installed by compiled loops, with the same numbers; NALSM's network
    then takes a sample through all steps before the next. On an accelerator all synapses are touched, and nothing is
    looked at.

    Args:
        liquid: without delays and short-term plasticity, with types of neurons, and with synapses of one time constant.
        plasticity: the rule.

    Raises:
        ConfigError: a liquid that cannot learn by this rule, or weights outside of its bounds.
    """

    mask: Tensor
    input_mask: Tensor | None

    def __init__(self, liquid: Liquid, plasticity: Plasticity) -> None:
        if not isinstance(plasticity, Plasticity):
            raise ConfigError(f"plasticity: got {plasticity!r}, needed a rule, as snn.NalsmPlasticity()")
        if liquid.delay_steps is not None or liquid.short_term is not None:
            raise ConfigError("PlasticLiquid: got a liquid with delays or short-term plasticity, needed one without")
        if liquid.excitatory is None:
            raise ConfigError(
                "PlasticLiquid: got neurons without types, needed them: the rule differs; write Liquid(excitatory=...)"
            )
        super().__init__(**liquid.settings())
        self.plasticity = plasticity
        self.register_buffer("mask", liquid.synapses)
        self.register_buffer("input_mask", None if self.input_weight is None else self.input_weight != 0)
        self._check_bounds()

    @property
    def synapses(self) -> Tensor:
        """Mask of the recurrent synapses, bool ``[post, pre]``; learning may have made a weight 0."""
        return self.mask

    @property
    def fixed(self) -> bool:
        return False

    def extra_repr(self) -> str:
        return f"{self.plasticity!r}, {super().extra_repr()}"

    def weights(self, state: LiquidState) -> tuple[Tensor, Tensor | None]:
        """Weights of every sample, recurrent and input (None where those do not learn), ``[batch, synapses]``.

        Synapses are in the order of ``mask.nonzero()`` and ``input_mask.nonzero()``; ``matrices`` puts them there.
        """
        entry = state.input_synapse.get("weight")
        return state.synapse["weight"].T, None if entry is None else entry.T

    def matrices(self, state: LiquidState) -> tuple[Tensor, Tensor | None]:
        """Means of the weights over the samples, ``[post, pre]``, recurrent and input."""
        recurrent, entry = self.weights(state)
        full, filled = torch.zeros_like(self.weight), self.input_weight
        full[self.mask] = recurrent.mean(0)
        if entry is not None and filled is not None and self.input_mask is not None:
            filled = torch.zeros_like(filled)
            filled[self.input_mask] = entry.mean(0)
        return full, filled

    def adopt(self, state: LiquidState) -> None:
        """Makes the weights of a state, their mean over its samples, those from which runs start."""
        recurrent, entry = self.matrices(state)
        self.weight.copy_(recurrent)
        if entry is not None and self.input_weight is not None:
            self.input_weight.copy_(entry)

    def frozen(self) -> Liquid:
        """A liquid with the present weights that does not learn."""
        return Liquid(**self.settings())

    def initialise(
        self, samples: Iterable[Tensor], *, weight: float | None = None, progress: bool = True, total: int | None = None
    ) -> None:
        """NALSM's initialisation: one sample after another, weights and traces carried on, rates that do not fade.

        Published: 50,000 samples of the training data, chosen at random, 20 ms each, from weights of the size of the
        limit (``weight=3.0``); the neurons and the astrocyte start anew with every sample.

        Args:
            samples: inputs ``[1, time, inputs]`` each.
            weight: size that all weights have first; None for the present ones.
            progress: a bar.
            total: number of samples, for the bar.

        Raises:
            DataError: a sample that is a batch.
            ConfigError: a size that is beyond the bounds of the rule.
        """
        if weight is not None:
            require_number("weight", weight, above=0.0)
            self.weight.copy_(self.weight.new_tensor(weight) * self.mask * self._signs())
            if self.input_weight is not None and self.input_mask is not None:
                self.input_weight.copy_(torch.where(self.input_weight < 0, -weight, weight) * self.input_mask)
            self._check_bounds()
        fading = self.plasticity
        self.plasticity = fading.unfading()
        last: LiquidState | None = None
        try:
            for x in tqdm(samples, total=total, desc="initialise", unit="sample", disable=not progress):
                if len(x) != 1:
                    raise DataError(f"samples: got a batch of {len(x)}, needed [1, time, inputs], one after another")
                state = self.initial_state(1)
                if last is not None:
                    _carry(last, state)
                last = self.run(x, state=state, health="ignore").state
            if last is not None:
                self.adopt(last)
        finally:
            self.plasticity = fading

    def _signs(self) -> Tensor:
        excitatory = torch.ones(self.neurons, dtype=torch.bool) if self.excitatory is None else self.excitatory
        return excitatory.to(self.weight).mul_(2.0).sub_(1.0)

    def _check_bounds(self) -> None:
        if self.weight.device.type != "cpu" or self.excitatory is None:
            return
        excitatory, inhibitory, entry = self.plasticity.bounds()
        parts = [
            ("weight", self.weight[:, self.excitatory], excitatory),
            ("weight", self.weight[:, ~self.excitatory], inhibitory),
        ]
        if self.plasticity.of_input and self.input_weight is not None:
            parts.append(("input_weight", self.input_weight, entry))
        for name, values, (low, high) in parts:
            if values.numel() and not low <= float(values.min()) <= float(values.max()) <= high:
                raise ConfigError(
                    f"{name}: got {float(values.min()):g} to {float(values.max()):g}, needed {low:g} to {high:g}, the "
                    f"bounds of {self.plasticity!r}; scale the weights or the limit"
                )

    def _models(self) -> tuple[Any, ...]:
        return *super()._models(), self.plasticity

    def _prepare(self) -> Prepared:
        made = super()._prepare()
        excitatory, inhibitory, of_input = self.plasticity.bounds()
        types = self.excitatory
        entry: Projection | None = None
        recurrent = self._kind(self.recurrence)(
            self.weight,
            self.mask,
            self.synapse,
            self.dt_seconds,
            None if types is None else ~types,
            (excitatory, inhibitory),
        )
        made.recurrence = PlasticRecurrence(recurrent)
        if self.plasticity.of_input and self.input_weight is not None and self.input_mask is not None:
            made.drive = PlasticDrive(
                entry := self._kind(self.input_product)(
                    self.input_weight, self.input_mask, self.input_synapse, self.dt_seconds, None, (of_input,)
                ),
                self.relay,
            )
        made.learner = self.plasticity.learner(recurrent, entry, self.dt_seconds)
        made.steps = CompiledSteps.of(self.neuron, made.neuron, made.learner)
        return made

    def _kind(self, how: str) -> type[Projection]:
        if how == "dense" or not self.plasticity.by_events or self.weight.device.type != "cpu":
            return Projection
        return EventProjection if loops() is None else CompiledProjection


def _carry(before: LiquidState, to: LiquidState) -> None:
    """Weights and traces, but nothing of neurons and rates, from one sample to the next."""
    parts: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
        (before.synapse, to.synapse, ("weight",)),
        (before.input_synapse, to.input_synapse, ("weight",)),
        (before.extra, to.extra, ("trace", "input_trace", "calcium")),
    ]
    for source, target, names in parts:
        for name in names:
            if name in source:
                target[name] = source[name]
