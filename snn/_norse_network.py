"""A recurrent spiking network that is trained: norse's neurons, surrogate gradients through time, a linear readout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eqprop._errors import DataError
from hardware._device_checks import require_number, require_whole
from snn._norse import norse_lif


class NorseNetwork(nn.Module):
    """What a liquid is compared with: the same kind of network, of which every weight is learned.

    Hidden neurons are norse's ``lif_step`` (Pehle & Pedersen 2021): explicit Euler, threshold 1, reset to 0, and in the
    backward pass the surrogate gradient of SuperSpike (Zenke & Ganguli 2018). The scores are a linear map of each
    neuron's mean spikes a step.

    Args:
        inputs: channels.
        hidden: recurrent neurons.
        classes: scores.
        dt_seconds: a step of the input.
        tau_v_seconds, tau_synapse_seconds: leaks of voltage and current, at least a step.
        alpha: steepness of the surrogate.
        drive: initial standard deviation of a neuron's current in a step of mean input 1 a channel, over the square
            root of the channels: 1 over the square root of the mean input a step starts currents at the threshold.
        generator: of the initial weights, on the CPU.

    Raises:
        ConfigError: norse cannot be imported, or values that cannot be.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        classes: int = 10,
        *,
        dt_seconds: float = 5e-3,
        tau_v_seconds: float = 0.03,
        tau_synapse_seconds: float = 0.02,
        alpha: float = 25.0,
        drive: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        for name, count in (("inputs", inputs), ("hidden", hidden), ("classes", classes)):
            require_whole(name, count, 1)
        require_number("dt_seconds", dt_seconds, above=0.0)
        for name, seconds in (("tau_v_seconds", tau_v_seconds), ("tau_synapse_seconds", tau_synapse_seconds)):
            require_number(name, seconds, least=dt_seconds)
        require_number("alpha", alpha, above=0.0)
        require_number("drive", drive, above=0.0)
        self._norse = norse_lif()
        self.dt_seconds = dt_seconds
        self._parameters_of_norse = self._norse.LIFParameters(
            tau_syn_inv=torch.tensor(1.0 / tau_synapse_seconds),
            tau_mem_inv=torch.tensor(1.0 / tau_v_seconds),
            alpha=torch.tensor(alpha),
        )

        def normal(rows: int, columns: int, std: float) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(rows, columns, generator=generator))

        self.input_weight = normal(hidden, inputs, drive)
        self.weight = normal(hidden, hidden, 0.5 / math.sqrt(hidden))
        self.readout_weight = normal(classes, hidden, 1.0 / math.sqrt(hidden))
        self.readout_bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[batch, classes]`` of events a step, ``[batch, time, inputs]``."""
        return self.run(x)[0]

    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[batch, classes]``, and spikes of each neuron, ``[batch, hidden]``.

        Raises:
            DataError: inputs of another shape.
        """
        channels = self.input_weight.shape[1]
        if x.dim() != 3 or x.shape[2] != channels or x.shape[1] < 1:
            raise DataError(f"inputs: got shape {tuple(x.shape)}, needed [batch, time, {channels}]")
        zeros = x.new_zeros(len(x), len(self.weight), dtype=self.weight.dtype)
        state = self._norse.LIFState(z=zeros, v=zeros, i=zeros)
        counts, given = zeros, x.to(self.weight)
        p = self._parameters_of_norse
        for t in range(x.shape[1]):
            z, state = self._norse.lif_step(given[:, t], state, self.input_weight, self.weight, p, self.dt_seconds)
            counts = counts + z
        scores = nn.functional.linear(counts / x.shape[1], self.readout_weight, self.readout_bias)
        return scores, counts
