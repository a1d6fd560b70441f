"""The same liquid as a plain loop over norse's ``lif_step``: a second check, and what a user would write by hand."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from snn._liquid import Liquid
from snn._neurons_lif import NorseLIF
from snn._synapses import Exponential


def to_norse(liquid: Liquid, *, timing_only: bool = False) -> NorseLiquid:
    """The liquid's weights in norse's ``lif_step`` (Pehle & Pedersen 2021).

    Args:
        liquid: of ``NorseLIF`` neurons and ``Exponential(tau, "euler")`` synapses, which agree spike for spike.
        timing_only: takes any liquid's weights with norse's default neuron: the same products, other spikes.

    Raises:
        ConfigError: norse cannot be imported, or a liquid that norse's step is not that of.
    """
    return NorseLiquid(liquid, timing_only)


class NorseLiquid:
    """Weights and parameters of norse's recurrent LIF neurons."""

    def __init__(self, liquid: Liquid, timing_only: bool) -> None:
        if not liquid.fixed:
            raise ConfigError(
                f"to_norse: got a {type(liquid).__name__}, needed a liquid whose weights stay as they are"
            )
        self._norse = norse_lif()
        neuron, synapse = liquid.neuron, liquid.synapse
        extras = (
            liquid.relay,
            liquid.delay_steps,
            liquid.short_term,
            liquid.noise != 0.0 or None,
            *liquid.own.values(),
        )
        plain = all(part is None for part in extras) and liquid.input_synapse == synapse
        fits = isinstance(neuron, NorseLIF) and isinstance(synapse, Exponential) and synapse.method == "euler"
        if liquid.input_weight is None or not (timing_only or (fits and plain and _numbers_only(neuron, synapse))):
            raise ConfigError(
                f"to_norse: got {liquid.extra_repr()}, needed NorseLIF neurons, one Exponential(tau, 'euler') for all "
                "synapses, and neither relays, delays, plasticity nor noise; write to_norse(liquid, timing_only=True) "
                "for the same products with norse's neuron"
            )
        self._weights = liquid.input_weight, liquid.weight
        self._dt = liquid.dt_seconds
        like = liquid.weight
        self._parameters = self._norse.LIFParameters()
        if isinstance(neuron, NorseLIF) and isinstance(synapse, Exponential):
            self._parameters = self._norse.LIFParameters(
                tau_syn_inv=1.0 / like.new_tensor(synapse.tau_seconds),
                tau_mem_inv=1.0 / like.new_tensor(neuron.tau_v_seconds),
                v_leak=like.new_tensor(neuron.rest),
                v_th=like.new_tensor(neuron.threshold),
                v_reset=like.new_tensor(neuron.reset),
            )

    @torch.no_grad()
    def run(self, inputs: Tensor) -> Tensor:
        """Spikes from rest, bool ``[batch, time, neurons]``, for inputs ``[batch, time, inputs]``.

        Raises:
            DataError: inputs of another shape.
        """
        entries, recurrent = self._weights
        if inputs.dim() != 3 or inputs.shape[2] != entries.shape[1]:
            raise DataError(f"inputs: got shape {tuple(inputs.shape)}, needed [batch, time, {entries.shape[1]}]")
        zeros = recurrent.new_zeros(len(inputs), len(recurrent))
        state = self._norse.LIFState(z=zeros, v=zeros + self._parameters.v_leak, i=zeros.clone())
        x = inputs.to(recurrent)
        spikes = torch.empty(len(inputs), inputs.shape[1], len(recurrent), dtype=torch.bool, device=recurrent.device)
        for t in range(inputs.shape[1]):
            z, state = self._norse.lif_step(x[:, t], state, entries, recurrent, self._parameters, self._dt)
            spikes[:, t] = z.bool()
        return spikes


def _numbers_only(*parts: Any) -> bool:
    """Whether no setting is a pair."""
    return not any(isinstance(v, tuple) for p in parts for v in vars(p).values())


def norse_lif() -> Any:
    """norse's module of LIF steps.

    Raises:
        ConfigError: it is not there, or does not go with this torch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from norse.torch.functional import lif
    except ImportError as error:
        raise ConfigError(f"norse: got {error} on import, needed norse; write pip install norse") from error
    return lif
