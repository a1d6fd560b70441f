"""A liquid whose weights are read from noisy cells."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._liquid import Liquid
from snn._neurons import Neuron, States
from snn._neurons_lif import StepLIF
from snn._prepared import Currents, Drive, Filter, Prepared
from snn._records import LiquidState, Recorder
from snn._resistive import Breakdown, ResistiveWeights, resistive_weights
from snn._synapses import Delta, Synapse

#: What one draw of read noise lasts for.
SCOPES = ("step", "sample", "run")


class ResistiveLiquid(Liquid):
    """A liquid with the weights of resistive cells, each read with multiplicative noise: ``G (1 + read_noise N(0,
    1))``.

    ``scope`` says how long a draw lasts:

    - ``"step"``, as published (Lin et al. 2023, and Wang et al. 2023 of the same group: at every access): drawn anew in
      every step of every sample. The sum of a row is then Gaussian with the variance ``read_noise^2 k^2 sum_j (G+^2 +
      G-^2) x_j^2``, independent from row to row and step to step; drawing that sum is the same law as drawing cells.
    - ``"sample"``: one draw of all cells a sample, as long as its state lasts; memory is batch x weights.
    - ``"run"``: one draw of all cells for all samples of a state.

    Nothing keeps a noisy conductance above 0 S: at a noise of 20 % one in three million would be below, at 50 % one in
    forty. Noise is drawn from the generator of ``run``, on its device; a draw of "sample" or "run" stays in the state
    and goes on with it. Change ``read_noise`` and ``scope`` at will between runs from rest.

    Args:
        neuron: model of all neurons.
        recurrent, entry: cells ``[neurons, neurons]`` and ``[neurons, inputs]``.
        synapse: one that adds spikes up.
        read_noise: share of the conductance; 0 for none, and then no generator is needed.
        scope: ``"step"``, ``"sample"`` or ``"run"``.
        dtype: of everything.
        options: of ``Liquid``, without those for delays and short-term plasticity.

    Raises:
        ConfigError: settings that cannot work together.
    """

    scale: Tensor
    input_scale: Tensor

    def __init__(
        self,
        neuron: Neuron,
        recurrent: ResistiveWeights,
        entry: ResistiveWeights,
        *,
        synapse: Synapse,
        read_noise: float = 0.0,
        scope: str = "step",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        for name in ("delay_steps", "short_term"):
            if options.get(name) is not None:
                raise ConfigError(f"{name}: got it for a ResistiveLiquid, needed a liquid without; write snn.Liquid")
        if synapse.filters_spikes or (options.get("input_synapse") or synapse).filters_spikes:
            raise ConfigError(f"synapse: got {synapse!r}, needed one that adds spikes up; write snn.Delta()")
        if any(isinstance(getattr(synapse, name), tuple) for name in synapse.times):
            raise ConfigError(f"synapse: got the pair of times of {synapse!r}, needed one time")
        super().__init__(neuron, recurrent.weight.to(dtype), entry.weight.to(dtype), synapse=synapse, **options)
        self.register_buffer("scale", recurrent.read_scale.to(dtype))
        self.register_buffer("input_scale", entry.read_scale.to(dtype))
        self.read_noise, self.scope = read_noise, scope
        self._check()

    @property
    def draws(self) -> bool:
        """Whether a run draws random numbers."""
        return super().draws or self.read_noise > 0.0

    @property
    def fixed(self) -> bool:
        return self.read_noise == 0.0

    def strengths(self, weights: str = "all") -> list[Tensor]:
        read = [self.scale] + ([self.input_scale] if weights == "all" else [])
        return super().strengths(weights) + read

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, read_noise={self.read_noise!r}, scope={self.scope!r}"

    def _check(self) -> None:
        require_number("read_noise", self.read_noise, least=0.0)
        lookup("scope", self.scope, dict.fromkeys(SCOPES))

    def _advance(
        self,
        made: Prepared,
        state: LiquidState,
        x: Tensor | None,
        extra: Tensor | None,
        steps: int,
        generator: torch.Generator | None,
        counts: Tensor,
        recorder: Recorder,
    ) -> None:
        self._check()
        if self.read_noise > 0.0 and generator is not None:
            made = copy.copy(made)
            if self.scope == "step":
                made.recurrence = _StepCurrents(self, made.recurrence, steps, counts.shape[1], generator)
                if made.drive is not None:
                    made.drive = _StepDrive(self, made.drive, generator)
            else:
                self._draw(state, counts.shape[1], generator)
                made.recurrence = _HeldCurrents(self, made.recurrence, state.extra["weight"])
                if made.drive is not None:
                    made.drive = _HeldDrive(made.drive, state.extra["input_weight"])
        super()._advance(made, state, x, extra, steps, generator if super().draws else None, counts, recorder)

    def _draw(self, state: LiquidState, batch: int, generator: torch.Generator) -> None:
        """Weights with noise, ``[samples or 1, post, pre]``, at the first step of a state."""
        if "weight" in state.extra:
            return
        copies = batch if self.scope == "sample" else 1
        for name, weight, scale in (
            ("weight", self.weight, self.scale),
            ("input_weight", self.input_weight, self.input_scale),
        ):
            if weight is not None:
                noise = _normal((copies, *weight.shape), generator, weight)
                state.extra[name] = torch.addcmul(weight, noise.mul_(self.read_noise), scale)


def rram_liquid(
    *,
    seed: int = 0,
    weight: float = 0.07,
    inputs: int = 256,
    neurons: int = 200,
    formed: float | Breakdown | None = None,
    variability: float | None = None,
    read_noise: float = 0.0,
    scope: str = "step",
    dtype: torch.dtype = torch.float32,
) -> ResistiveLiquid:
    """The liquid of the preset ``rram200``, with what may vary from chip to chip and from read to read.

    Args:
        seed: of the chip.
        weight: standard deviation of all weights; of the published 0.07 the liquid is all but silent on N-MNIST
            (16 x 16, one polarity, 50 steps), where ``benchmarks.rram`` takes 0.3.
        inputs, neurons: numbers.
        formed, variability: of ``resistive_weights``.
        read_noise, scope: of ``ResistiveLiquid``; the published noise is 0.02.
        dtype: float32 or float64.

    Raises:
        ConfigError: values that cannot be.
    """
    require_whole("seed", seed, 0)
    for name, count in (("inputs", inputs), ("neurons", neurons)):
        require_whole(name, count, 1)
    generator = torch.Generator().manual_seed(seed)
    recurrent, entry = (
        resistive_weights((neurons, n), std=weight, generator=generator, formed=formed, variability=variability)
        for n in (neurons, inputs)
    )
    return ResistiveLiquid(
        StepLIF(decay=0.9, threshold=5.0),
        recurrent,
        entry,
        synapse=Delta(),
        read_noise=read_noise,
        scope=scope,
        dtype=dtype,
    )


class _StepCurrents:
    """Arrivals of a liquid's spikes, each row with its share of read noise."""

    def __init__(
        self, liquid: ResistiveLiquid, base: Currents, steps: int, batch: int, generator: torch.Generator
    ) -> None:
        self.base, self.synapse, self.constants = base, liquid.synapse, getattr(base, "constants", {})
        self.weight, self.variance = liquid.weight, (liquid.scale * liquid.read_noise).square_()
        self.noise = iter(_normal((steps, liquid.neurons, batch), generator, liquid.weight))

    def initial(self, batch: int) -> States:
        return self.base.initial(batch)

    def current(self, state: States, spikes: Tensor, step: int, out: Tensor) -> Tensor:
        spread = torch.mm(self.variance, spikes).sqrt_()  # of spikes 0 or 1, which are their squares
        arrivals = torch.mm(self.weight, spikes, out=out).addcmul_(spread, next(self.noise))
        return self.synapse.receive(state, self.constants, arrivals)

    def decay(self, state: States) -> None:
        self.base.decay(state)


class _StepDrive:
    """Arrivals of the input, a chunk of steps at a time, each with its share of read noise."""

    def __init__(self, liquid: ResistiveLiquid, base: Drive, generator: torch.Generator) -> None:
        self.base, self.generator = base, generator
        self.variance = (liquid.input_scale * liquid.read_noise).square_()

    @property
    def filter(self) -> Filter:
        return self.base.filter

    def initial(self, batch: int) -> States:
        return self.base.initial(batch)

    def arrivals(self, x: Tensor, state: States, step: int) -> tuple[Tensor, Tensor]:
        drive, sent = self.base.arrivals(x, state, step)
        spread = (sent.to(drive.dtype).square() @ self.variance.T).sqrt_().transpose(1, 2)
        return drive + spread * _normal(tuple(drive.shape), self.generator, drive), sent


class _HeldCurrents(_StepCurrents):
    """Arrivals through weights with the noise of a sample, or of all."""

    def __init__(self, liquid: ResistiveLiquid, base: Currents, weight: Tensor) -> None:
        self.base, self.synapse, self.constants = base, liquid.synapse, getattr(base, "constants", {})
        self.weight = weight

    def current(self, state: States, spikes: Tensor, step: int, out: Tensor) -> Tensor:
        arrivals = out.copy_(_through(self.weight, spikes))
        return self.synapse.receive(state, self.constants, arrivals)


class _HeldDrive(_StepDrive):
    def __init__(self, base: Drive, weight: Tensor) -> None:
        self.base, self.weight = base, weight

    def arrivals(self, x: Tensor, state: States, step: int) -> tuple[Tensor, Tensor]:
        _, sent = self.base.arrivals(x, state, step)
        values = sent.to(self.weight.dtype).transpose(1, 2)  # [steps, inputs, batch]
        if len(self.weight) == 1:
            return self.weight[0] @ values, sent
        return torch.einsum("bni,tib->tnb", self.weight, values), sent


def _through(weight: Tensor, spikes: Tensor) -> Tensor:
    """``[neurons, batch]`` of ``weight [samples or 1, post, pre]`` and ``spikes [pre, batch]``."""
    if len(weight) == 1:
        return weight[0] @ spikes
    return torch.bmm(weight, spikes.T.unsqueeze(2)).squeeze(2).T


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Drawn in float32, where the generator is: one seed, the same noise in every precision."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(like)
