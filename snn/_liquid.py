"""A liquid: fixed random spiking neurons, driven by spikes, run without autograd for as long as its input lasts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eqprop._errors import ConfigError, DataError
from eqprop._names import lookup
from hardware._device_checks import require_number, require_whole
from snn._health import require_action
from snn._liquid_checks import Chunks, check_chunk, chunks, require_dale, require_matrix
from snn._neurons import Neuron
from snn._prepared import Fingerprint, Prepared
from snn._products import INPUT, RECURRENCE
from snn._records import LiquidState, Record, Recorder, Run
from snn._recurrence import ShortTerm
from snn._synapses import Relay, Synapse


class Liquid(nn.Module):
    """A reservoir of spiking neurons. Weights are buffers ``[post, pre]``; nothing here is differentiated.

    One step of ``dt_seconds``, with ``W s`` the arrivals of the spikes of this step where the neuron fires first, else
    of the step before (``delay_steps`` later yet), and of the input of this step::

        i <- synapse(W s) + input_synapse(W_in x) + currents + noise
        neuron: integrate i, fire, reset; see the neuron for the order

    Args:
        neuron: model of all neurons; pairs among its settings are (excitatory, inhibitory).
        weight: ``[neurons, neurons]``, float32 or float64: the precision of everything.
        input_weight: ``[neurons, inputs]``; None for a liquid that is driven by currents only.
        synapse: of the recurrent weights.
        input_synapse: of the input weights; None for the same.
        dt_seconds: a time step.
        excitatory: bool ``[neurons]``. Weights must then obey Dale's law: no negative ones from excitatory neurons, no
            positive ones from inhibitory ones. None for weights of any sign.
        positions: ``[neurons, 3]``, for plots, or None.
        relay: input neurons between the input and its synapses, or None.
        delay_steps: whole numbers ``[post, pre]``, or None.
        short_term: plasticity of the recurrent synapses, which are then those of these weights for good, or None.
        own: settings a neuron, ``[neurons]`` each, in place of those of ``neuron``.
        noise: standard deviation of a current drawn anew in every step, a number or ``[neurons]``; 0 for none.
        recurrence: ``"auto"``, ``"dense"`` or ``"sparse"``.
        input_product: ``"auto"``, ``"dense"`` or ``"events"``.
        chunk_bytes: room for the input drive of the steps that are multiplied at once.
        provenance: where the numbers come from.

    Raises:
        ConfigError: shapes, types or settings that cannot work together.
    """

    weight: Tensor
    input_weight: Tensor | None
    excitatory: Tensor | None
    positions: Tensor | None
    delay_steps: Tensor | None
    noise_scale: Tensor
    edges: Tensor | None

    def __init__(
        self,
        neuron: Neuron,
        weight: Tensor,
        input_weight: Tensor | None = None,
        *,
        synapse: Synapse,
        input_synapse: Synapse | None = None,
        dt_seconds: float = 1e-3,
        excitatory: Tensor | None = None,
        positions: Tensor | None = None,
        relay: Relay | None = None,
        delay_steps: Tensor | None = None,
        short_term: ShortTerm | None = None,
        own: Mapping[str, Tensor] | None = None,
        noise: float | Tensor = 0.0,
        recurrence: str = "auto",
        input_product: str = "auto",
        chunk_bytes: int = 2**26,
        provenance: str = "",
    ) -> None:
        super().__init__()
        require_number("dt_seconds", dt_seconds, above=0.0)
        require_whole("chunk_bytes", chunk_bytes, 1)
        lookup("recurrence", recurrence, dict.fromkeys(RECURRENCE))
        lookup("input_product", input_product, dict.fromkeys(INPUT))
        require_matrix("weight", weight, None, None)
        require_matrix("weight", weight, len(weight), len(weight))
        if input_weight is not None:
            require_matrix("input_weight", input_weight, len(weight), None, weight.dtype)
        for name, values in {"excitatory": excitatory, "positions": positions, **(own or {})}.items():
            if values is not None and len(values) != len(weight):
                raise ConfigError(f"{name}: got {len(values)} values, needed one for each of {len(weight)} neurons")
        if delay_steps is not None and (
            delay_steps.shape != weight.shape or delay_steps.is_floating_point() or bool((delay_steps < 0).any())
        ):
            raise ConfigError(
                f"delay_steps: got {tuple(delay_steps.shape)} of {delay_steps.dtype}, needed whole numbers of "
                f"steps from 0 on, of shape {tuple(weight.shape)}"
            )
        if excitatory is not None:
            require_dale(weight, excitatory)
        if synapse.filters_spikes and short_term is not None:
            raise ConfigError(
                f"short_term: got it with {synapse!r}, needed a synapse that adds spikes up; write snn.Exponential()"
            )
        for name in own or {}:
            lookup(f"own: setting of {type(neuron).__name__}", name, dict.fromkeys(neuron.settings))
        self.neuron, self.synapse, self.relay = neuron, synapse, relay
        self.input_synapse = synapse if input_synapse is None else input_synapse
        self.dt_seconds, self.chunk_bytes, self.provenance = dt_seconds, chunk_bytes, provenance
        self.recurrence, self.input_product = recurrence, input_product
        self.register_buffer("weight", weight.detach())
        self.register_buffer("input_weight", None if input_weight is None else input_weight.detach())
        self.register_buffer("excitatory", None if excitatory is None else excitatory.bool())
        self.register_buffer("positions", positions)
        self.register_buffer("delay_steps", delay_steps)
        self.delays = (0,) if delay_steps is None else tuple(int(d) for d in torch.unique(delay_steps))
        self.register_buffer("edges", None if short_term is None else torch.stack(weight.nonzero(as_tuple=True)))
        self._own = tuple(own or {})
        for name, values in (own or {}).items():
            self.register_buffer(f"own_{name}", values.to(weight.dtype))
        self._plastic = short_term is not None
        if short_term is not None:
            for name in ("use", "recovery_seconds", "facilitation_seconds"):
                values = getattr(short_term, name)
                require_matrix(f"short_term.{name}", values, len(weight), len(weight))
                self.register_buffer(f"short_term_{name}", values.to(weight.dtype))
        self.noise: float | None = None
        if isinstance(noise, Tensor):
            require_matrix("noise", noise[:, None], len(weight), 1)
            self.register_buffer("noise_scale", noise.to(weight.dtype))
        else:
            require_number("noise", noise, least=0.0)
            self.noise = float(noise)
        self.neuron.bind(self.excitatory, self.own)  # pairs without types fail here
        self._prepared: tuple[Fingerprint, Prepared] | None = None

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def neurons(self) -> int:
        """How many."""
        return len(self.weight)

    @property
    def inputs(self) -> int:
        """How many channels of input."""
        return 0 if self.input_weight is None else self.input_weight.shape[1]

    @property
    def draws(self) -> bool:
        """Whether a run draws random numbers, and so needs a generator."""
        return self.noise is None or self.noise > 0.0

    @property
    def fixed(self) -> bool:
        """Whether weights stay as they are during a run."""
        return True

    @property
    def own(self) -> dict[str, Tensor]:
        """Settings a neuron, ``[neurons]``."""
        return {n: getattr(self, f"own_{n}") for n in self._own}

    @property
    def short_term(self) -> ShortTerm | None:
        """Short-term plasticity of the recurrent synapses."""
        if not self._plastic:
            return None
        return ShortTerm(
            *(getattr(self, f"short_term_{n}") for n in ("use", "recovery_seconds", "facilitation_seconds"))
        )

    @property
    def synapses(self) -> Tensor:
        """Mask of the recurrent weights that are not 0, bool ``[post, pre]``."""
        return self.weight != 0

    def strengths(self, weights: str = "all") -> list[Tensor]:
        """Buffers in proportion to the strength of synapses, recurrent ones first.

        Args:
            weights: ``"recurrent"``, or ``"all"``, those from the inputs too.
        """
        return [self.weight] + ([self.input_weight] if weights == "all" and self.input_weight is not None else [])

    def settings(self) -> dict[str, Any]:
        """Arguments that make this liquid again; tensors are copies."""
        tensors = {
            "weight": self.weight,
            "input_weight": self.input_weight,
            "excitatory": self.excitatory,
            "positions": self.positions,
            "delay_steps": self.delay_steps,
        }
        names = ("neuron", "synapse", "input_synapse", "dt_seconds", "relay", "short_term", "recurrence")
        return {
            **{name: None if tensor is None else tensor.clone() for name, tensor in tensors.items()},
            **{name: getattr(self, name) for name in (*names, "input_product", "chunk_bytes", "provenance")},
            "own": {name: values.clone() for name, values in self.own.items()},
            "noise": self.noise_scale.clone() if self.noise is None else self.noise,
        }

    def extra_repr(self) -> str:
        """Shown by ``print``."""
        relay = "" if self.relay is None else f", relay={self.relay!r}"
        return (
            f"{self.neuron!r}, neurons={self.neurons}, inputs={self.inputs}, synapse={self.synapse!r}, "
            f"input_synapse={self.input_synapse!r}{relay}, dt_seconds={self.dt_seconds:g}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None}  # products are functions, which do not pickle

    # -- running -----------------------------------------------------------------------------------------------------

    def initial_state(self, batch: int) -> LiquidState:
        """Everything at rest, no spikes so far."""
        require_whole("batch", batch, 1)
        made, like = self._ready(), self.weight.new_zeros(self.neurons, batch)
        drive = {} if made.drive is None else made.drive.initial(batch)
        filtered = {} if made.drive is None else made.drive.filter.initial(like)
        extra = {} if made.learner is None else made.learner.initial(batch)
        return LiquidState(
            self.neuron.initial(made.neuron, like),
            made.recurrence.initial(batch),
            drive,
            filtered,
            like.clone(),
            extra=extra,
        )

    @torch.no_grad()
    def run(
        self,
        inputs: Chunks | None = None,
        *,
        currents: Chunks | None = None,
        steps: int | None = None,
        batch: int | None = None,
        state: LiquidState | None = None,
        record: Record | None = None,
        generator: torch.Generator | None = None,
        health: str = "raise",
    ) -> Run:
        """Runs as long as the input lasts; memory does not grow with it, apart from what is recorded over time.

        Args:
            inputs: spikes ``[batch, time, inputs]``, bool or 0 and 1 (any numbers where neither relays nor
                nearest-spike synapses need events), or an iterable of such chunks in their order of time.
            currents: ``[batch, time, neurons]``, added to the current of every step; a tensor or chunks that are as
                long as those of ``inputs``.
            steps, batch: of a liquid without both, which noise drives.
            state: to go on from, left as it is; None for rest.
            record: what to keep beside the counts.
            generator: source of the noise, on the CPU or the liquid's device.
            health: ``"raise"``, ``"warn"`` or ``"ignore"`` where the liquid is dead or saturated at the end.

        Raises:
            DataError: inputs or a state of the wrong shape, too few steps for a spike to end, or a dead or saturated
                liquid.
            ConfigError: noise without a generator, or nothing that says how long to run.
        """
        require_action(health)
        record = Record() if record is None else record
        needs_noise = self.draws
        if needs_noise and not isinstance(generator, torch.Generator):
            raise ConfigError(
                "generator: got None for a liquid with noise, needed a seeded source; write "
                "generator=torch.Generator().manual_seed(0)"
            )
        if inputs is not None and self.input_weight is None:
            raise DataError("inputs: got some for a liquid without input weights, needed None; write currents=...")
        made = self._ready()
        recorder: Recorder | None = None
        counts: Tensor | None = None
        state = None if state is None else state.clone()
        total = 0
        for x, extra, length, samples in chunks(inputs, currents, steps, batch):
            check_chunk(self, x, extra, samples, state)
            state = self.initial_state(samples) if state is None else state
            if recorder is None or counts is None:
                recorder, counts = self._recorder(record, samples), self.weight.new_zeros(self.neurons, samples)
            room = max(1, self.chunk_bytes // (self.neurons * samples * self.weight.element_size()))
            for start in range(0, length, room):
                part = slice(start, min(start + room, length))
                self._advance(
                    made,
                    state,
                    None if x is None else self._here(x[:, part]),
                    None if extra is None else self._here(extra[:, part]),
                    part.stop - part.start,
                    generator if needs_noise else None,
                    counts,
                    recorder,
                )
            total += length
        if recorder is None or counts is None or state is None:
            raise DataError("inputs: got no chunk, needed at least one [batch, time, inputs]")
        shortest = self.neuron.shortest_interval_steps(self.dt_seconds)
        if state.step < shortest:
            raise DataError(
                f"inputs: got {state.step} steps of {self.dt_seconds:g} s in all, needed at least {shortest}: less is "
                "shorter than a refractory period"
            )
        result = Run(counts.T, state, total, self.dt_seconds, made.interval_steps, **recorder.results())
        if health != "ignore":
            result.health.check(health)
        return result

    forward = run

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
        """A chunk of steps, in place; nothing here looks at values, unless inputs go by events on a CPU."""
        neuron, spikes, out = self.neuron, state.spikes, torch.empty_like(counts)
        drive: Tensor | None = None
        sent = x
        if x is not None and made.drive is not None:
            drive, sent = made.drive.arrivals(x, state.input, state.step)
        recorder.start(steps)
        if made.steps is not None and drive is not None and extra is None and generator is None:
            made.steps.run(state, drive, counts, recorder)
            recorder.finish(sent)
            return
        noise = None if generator is None else self.noise_currents(steps, counts.shape[1], generator)
        for t in range(steps):
            if neuron.fires_first:
                neuron.fire(state.neuron, made.neuron, spikes)
            current = made.recurrence.current(state.synapse, spikes, state.step, out)
            if drive is not None and made.drive is not None:
                arrived = made.drive.filter.receive(state.input_synapse, made.filter, drive[t])
                current = torch.add(current, arrived, out=out)
            if extra is not None:
                current = torch.add(current, extra[:, t].T, out=out)
            if noise is not None:
                current = torch.add(current, noise[t], out=out)
            neuron.integrate(state.neuron, made.neuron, current)
            if not neuron.fires_first:
                neuron.fire(state.neuron, made.neuron, spikes)
            made.recurrence.decay(state.synapse)
            if made.drive is not None:
                made.drive.filter.decay(state.input_synapse, made.filter)
            if made.learner is not None:
                made.learner.step(state, spikes, None if drive is None else drive[t])
            counts.add_(spikes)
            recorder.note(spikes, state.neuron["v"])
            state.step += 1
        recorder.finish(sent)

    def _here(self, values: Tensor) -> Tensor:
        """A chunk where the liquid is; chunks of a stream may come from the host."""
        return values if values.device == self.weight.device else values.to(self.weight.device)

    def noise_currents(self, steps: int, batch: int, generator: torch.Generator) -> Tensor:
        """``[steps, neurons, batch]`` of noise, drawn in float32: one seed, the same noise in every precision."""
        shape = (steps, self.neurons, batch)
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
        return drawn.to(self.weight).mul_(self.noise_scale[:, None] if self.noise is None else self.noise)

    def _ready(self) -> Prepared:
        """Constants and products, made again when a buffer or a setting changed."""
        now = Fingerprint(
            tuple(self.buffers()),
            tuple(b._version for b in self.buffers()),
            self._models(),
            (self.recurrence, self.input_product),
        )
        if self._prepared is None or not now.same(self._prepared[0]):
            self._prepared = (now, self._prepare())
        return self._prepared[1]

    def _models(self) -> tuple[Any, ...]:
        """Settings that constants depend on, beside the buffers."""
        return self.neuron, self.synapse, self.input_synapse, self.relay, self.dt_seconds

    def _prepare(self) -> Prepared:
        return Prepared(self)

    def _recorder(self, record: Record, batch: int) -> Recorder:
        keep = 0.0
        if record.trace_seconds is not None:
            keep = math.exp(-self.dt_seconds / record.trace_seconds)
        chosen = None
        if record.neurons is not None:
            bad = [n for n in record.neurons if not 0 <= n < self.neurons]
            if bad:
                raise ConfigError(f"Record.neurons: got {bad[0]}, needed indices from 0 to {self.neurons - 1}")
            chosen = torch.tensor(record.neurons, device=self.weight.device)
        return Recorder(record, keep, self.weight.new_empty(self.neurons, batch), chosen)
