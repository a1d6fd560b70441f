"""The same liquid in brian2, from the same buffers: an independent simulator to check against.

brian2 (Stimberg, Brette & Goodman, eLife 2019) integrates first, then fires, delivers and resets. A neuron that fires
first is therefore one step later here: its spikes of step ``t`` are brian2's of step ``t - 1``. Input is delivered at
the start of a step, before integration.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eqprop._errors import ConfigError, DataError
from snn._liquid import Liquid
from snn._neurons import by_type
from snn._neurons_izhikevich import Izhikevich
from snn._neurons_lif import LIF, NalsmLIF, NorseLIF, StepLIF
from snn._synapses import Delta, DoubleExponential, Exponential, NearestSpike, Synapse


def to_brian2(liquid: Liquid, *, target: str = "numpy") -> Brian2Liquid:
    """The liquid as a brian2 network; agrees spike for spike in float64.

    Input relays become neurons with a voltage, and nearest-spike synapses remember when they were last reached, one by
    one, as the paper has it: a check of the shortcuts that ``Liquid`` takes.

    Args:
        liquid: any whose neuron and synapses are of this package.
        target: of brian2's code generation: ``"numpy"``, or ``"cython"``, which compiles first.

    Raises:
        ConfigError: brian2 cannot be imported, or a model that it has no equations for here.
    """
    return Brian2Liquid(liquid, target)


class Brian2Liquid:
    """A brian2 network of one sample at a time.

    Attributes:
        network: brian2's ``Network``, for whoever wants to add monitors.
        neurons: its ``NeuronGroup`` of the liquid.
    """

    def __init__(self, liquid: Liquid, target: str) -> None:
        if target not in ("numpy", "cython"):
            raise ConfigError(f"target: got {target!r}, needed 'numpy' or 'cython'")
        if not liquid.fixed:
            raise ConfigError(
                f"to_brian2: got a {type(liquid).__name__}, needed a liquid whose weights stay as they are"
            )
        self._b = _brian2()
        self._liquid, self._target = liquid, target
        self._clock = self._b.Clock(liquid.dt_seconds * self._b.second)
        self._namespace: dict[str, Any] = {"ms": self._b.ms}
        self._source: Any = None
        self._helpers: list[Any] = []
        with _quiet(self._b, target):
            self.neurons = self._neurons()
            objects = [self.neurons, *self._helpers, *self._recurrent()]
            if liquid.input_weight is not None:
                objects += self._inputs(liquid.input_weight)
            self._monitor = self._b.SpikeMonitor(self.neurons)
            self.network = self._b.Network(objects, self._monitor)
            self.network.store()

    def run(
        self,
        inputs: Tensor | None = None,
        *,
        currents: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Spikes of one sample from rest, bool ``[time, neurons]``.

        Args:
            inputs: spikes ``[time, inputs]``.
            currents: ``[time, neurons]``.
            steps: of a liquid without both.
            generator: of the noise, as for ``Liquid.run`` at batch 1.

        Raises:
            DataError: shapes that do not fit, or input that is not 0 or 1.
        """
        b, liquid = self._b, self._liquid
        given = inputs if inputs is not None else currents
        length = len(given) if given is not None else steps
        if length is None:
            raise DataError("run: got neither inputs nor currents nor steps, needed one of them")
        extra = torch.zeros(length, liquid.neurons, dtype=torch.float64)
        if currents is not None:
            _require_shape("currents", currents, (length, liquid.neurons))
            extra += currents.double()
        if generator is not None:
            extra += liquid.noise_currents(length, 1, generator)[:, :, 0].double()
        with _quiet(b, self._target):
            self.network.restore()
            if inputs is not None:
                _require_shape("inputs", inputs, (length, liquid.inputs))
                if not bool(((inputs == 0) | (inputs == 1)).all()):
                    raise DataError("inputs: got values other than 0 and 1, needed spikes: brian2 delivers events")
                when, who = (part.numpy() for part in inputs.nonzero(as_tuple=True))
                self._source.set_spikes(who, when * liquid.dt_seconds * b.second, sorted=True)
            stimulus = b.TimedArray(extra.numpy(), dt=liquid.dt_seconds * b.second)
            self.network.run(length * liquid.dt_seconds * b.second, namespace=self._namespace | {"stimulus": stimulus})
        spikes = torch.zeros(length + 1, liquid.neurons, dtype=torch.bool)
        rows = np.round(np.asarray(self._monitor.t / b.second) / liquid.dt_seconds).astype(np.int64)
        spikes[torch.from_numpy(rows + liquid.neuron.fires_first), torch.as_tensor(np.array(self._monitor.i))] = True
        return spikes[:length]

    # -- parts -------------------------------------------------------------------------------------------------------

    def _neurons(self) -> Any:
        b, liquid = self._b, self._liquid
        text, options, values = _equations(liquid)
        text += _current_equations("rec", liquid.synapse) + _current_equations("inp", liquid.input_synapse)
        text += "\nitotal = irec + iinp + stimulus(t, i) : 1"
        regular = options.pop("regular", None)
        group = b.NeuronGroup(liquid.neurons, text, clock=self._clock, namespace={}, **options)
        for name, value in values.items():
            setattr(group, name, value)
        for kind, synapse in (("rec", liquid.synapse), ("inp", liquid.input_synapse)):
            for name, value in _times(kind, synapse, liquid).items():
                setattr(group, name, value * b.second)
        if regular is not None:
            self._helpers.append(group.run_regularly(regular, when="groups", order=1, clock=self._clock))
        ends = [_end_of_step(k, s) for k, s in (("rec", liquid.synapse), ("inp", liquid.input_synapse))]
        if any(ends):
            code = "\n".join(filter(None, ends))
            self._helpers.append(group.run_regularly(code, when="after_groups", order=1, clock=self._clock))
        return group

    def _recurrent(self) -> list[Any]:
        liquid = self._liquid
        made = self._synapses("rec", self.neurons, liquid.weight, liquid.synapse, plastic=liquid.short_term is not None)
        if liquid.delay_steps is not None:
            post, pre = liquid.weight.nonzero(as_tuple=True)
            steps = liquid.delay_steps[post, pre].double().numpy()
            made.pre.delay = steps * liquid.dt_seconds * self._b.second
        return [made]

    def _inputs(self, weight: Tensor) -> list[Any]:
        """A generator, relays with a voltage where the liquid has relays, and synapses of the input."""
        b, liquid = self._b, self._liquid
        source = b.SpikeGeneratorGroup(liquid.inputs, [], [] * b.second, clock=self._clock, when="start")
        self._source = source
        if liquid.relay is None:
            made = self._synapses("inp", source, weight, liquid.input_synapse)
            made.pre.when, made.pre.order = "start", 1
            return [source, made]
        relays = b.NeuronGroup(
            liquid.inputs,
            "dv/dt = -v/(64*ms) : 1",
            threshold="v >= 20",
            reset="v = 0",
            refractory=(liquid.relay.refractory_steps + 1) * liquid.dt_seconds * b.second,
            method="euler",
            clock=self._clock,
        )
        events = b.Synapses(source, relays, on_pre="v_post += 100", clock=self._clock)
        events.connect(j="i")
        events.pre.when, events.pre.order = "start", 1
        return [source, relays, events, self._synapses("inp", relays, weight, liquid.input_synapse)]

    def _synapses(self, kind: str, source: Any, weight: Tensor, synapse: Synapse, *, plastic: bool = False) -> Any:
        b, liquid = self._b, self._liquid
        post, pre = (part.numpy() for part in weight.nonzero(as_tuple=True))
        # what is reached in the slot after integration acts in the next step
        later = 0 if source is self._source else 1
        model, on_pre = "w : 1", f"i{kind}_post += w"
        channels = kind == "rec" and any(isinstance(getattr(synapse, n), tuple) for n in synapse.times)
        if isinstance(synapse, NearestSpike):
            model += f"\nlast : integer\ni{kind}_post = w*exp(-(t_in_timesteps - last)*dt/tau{kind}_syn) : 1 (summed)"
            model += f"\ntau{kind}_syn : second (shared)"
            on_pre = f"last = t_in_timesteps + {later}"
        elif isinstance(synapse, DoubleExponential):
            on_pre = f"h{kind}_post += w*ms*ms/(tau{kind}_rise_post*tau{kind}_decay_post)"
        elif channels:
            model += "\nexcites : 1"
            on_pre = f"i{kind}e_post += w*excites\ni{kind}i_post += w*(1 - excites)"
        if plastic:
            model += "\nu : 1\nr : 1\nuse : 1\nrecovery : second\nfacilitation : second\nbefore : second"
            on_pre = (
                "u = u*exp(-(t - before)/facilitation)\nr = 1 - (1 - r)*exp(-(t - before)/recovery)\n"
                "u += use*(1 - u)\n" + on_pre.replace("+= w", "+= w*u*r") + "\nr -= u*r\nbefore = t"
            )
        made = b.Synapses(source, self.neurons, model, on_pre=on_pre, clock=self._clock, namespace={"ms": b.ms})
        made.connect(i=pre, j=post)
        made.w = weight[post, pre].double().numpy()
        if isinstance(synapse, NearestSpike):
            made.last = -(2**30)
            setattr(made, f"tau{kind}_syn", synapse.tau_seconds * b.second)
        if channels and liquid.excitatory is not None:
            made.excites = liquid.excitatory[pre].double().numpy()
        if plastic and liquid.short_term is not None:
            made.r = 1.0
            made.use = liquid.short_term.use[post, pre].double().numpy()
            made.recovery = liquid.short_term.recovery_seconds[post, pre].double().numpy() * b.second
            made.facilitation = liquid.short_term.facilitation_seconds[post, pre].double().numpy() * b.second
        return made


def _equations(liquid: Liquid) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Equations, options of the group and initial values of the liquid's neuron; settings a neuron as parameters."""
    neuron, dt = liquid.neuron, liquid.dt_seconds
    bound = {
        n: np.broadcast_to(np.asarray(v.cpu() if isinstance(v, Tensor) else v, dtype=float).ravel(), (liquid.neurons,))
        for n, v in neuron.bind(liquid.excitatory, liquid.own).items()
    }
    text = "\n".join(f"{n} : 1 (constant)" for n in bound) + "\nrefrac : second\n"
    values: dict[str, Any] = dict(bound)
    second = _brian2().second
    if isinstance(neuron, NalsmLIF):
        values["refrac"] = (bound["refractory_steps"] + 1) * dt * second
        text += "dv/dt = -v/(tau_v_seconds*1000*ms) + itotal/dt : 1"
        options = {"threshold": "v >= threshold", "reset": "v = reset", "refractory": "refrac", "method": "euler"}
    elif isinstance(neuron, LIF):
        frozen = " (unless refractory)" if neuron.refractoriness == "frozen" else ""
        values |= {"v": bound["initial_voltage"], "refrac": bound["refractory_seconds"] * second}
        text += f"dv/dt = (rest + resistance*(itotal + bias) - v)/(tau_v_seconds*1000*ms) : 1{frozen}"
        options = {"threshold": "v > threshold", "reset": "v = reset", "method": "exponential_euler"}
        options |= {"refractory": "refrac"} if bound["refractory_seconds"].any() else {}
    elif isinstance(neuron, NorseLIF):
        values["v"] = bound["rest"]
        text += "dv/dt = (rest - v + itotal)/(tau_v_seconds*1000*ms) : 1"
        options = {"threshold": "v > threshold", "reset": "v = reset", "method": "euler"}
    elif isinstance(neuron, StepLIF):
        text += "v : 1"
        options = {"threshold": "v > threshold", "reset": "v = 0", "regular": "v = decay*v + gain*itotal"}
    elif isinstance(neuron, Izhikevich):
        values |= {"v": -65.0, "u": -65.0 * bound["b"]}
        slope = "0.04*v**2 + 5*v + 140 - u + itotal"
        options = {"threshold": "v >= peak", "reset": "v = c\nu += d"}
        if neuron.scheme == "euler":
            text += f"dv/dt = ({slope})/ms : 1\ndu/dt = a*(b*v - u)/ms : 1"
            options["method"] = "euler"
        else:
            text += "v : 1\nu : 1"
            options["regular"] = f"v += 0.5*dt/ms*({slope})\n" * 2 + "u += dt/ms*a*(b*v - u)"
    else:
        raise ConfigError(f"to_brian2: got {neuron!r}, needed a neuron of snn: there are no equations for another")
    return text, options, values


def _current_equations(kind: str, synapse: Synapse) -> str:
    """Equations of the current from one kind of synapses."""
    name, tau = f"i{kind}", f"tau{kind}"
    if isinstance(synapse, Exponential):
        if kind == "rec" and isinstance(synapse.tau_seconds, tuple):
            parts = "".join(f"\nd{name}{p}/dt = -{name}{p}/{tau}{p} : 1\n{tau}{p} : second (constant)" for p in "ei")
            return f"{parts}\n{name} = {name}e + {name}i : 1"
        return f"\nd{name}/dt = -{name}/{tau} : 1\n{tau} : second (constant)"
    if isinstance(synapse, DoubleExponential):
        times = "".join(f"\n{tau}_{part} : second (constant)" for part in ("rise", "decay"))
        return f"\n{name} : 1\nh{kind} : 1{times}"
    return f"\n{name} : 1"


def _end_of_step(kind: str, synapse: Synapse) -> str:
    """Statements behind the integration, for what has no differential equation."""
    if isinstance(synapse, Delta):
        return f"i{kind} = 0"
    if isinstance(synapse, DoubleExponential):
        rise, decay = (f"exp(-dt/tau{kind}_{part})" for part in ("rise", "decay"))
        return f"i{kind} = i{kind}*{rise} + h{kind}*dt/ms\nh{kind} = h{kind}*{decay}"
    return ""


def _times(kind: str, synapse: Synapse, liquid: Liquid) -> dict[str, Any]:
    """Time constants of a current, in seconds."""
    if isinstance(synapse, NearestSpike):
        return {}
    values = {}
    for name in synapse.times:
        seconds = getattr(synapse, name)
        key = f"tau{kind}" + name.removeprefix("tau").removesuffix("seconds").rstrip("_")
        if not isinstance(seconds, tuple):
            values[key] = seconds
        elif kind == "inp":
            values[key] = by_type("input_synapse", seconds, liquid.excitatory)[:, 0].cpu().numpy()
        elif isinstance(synapse, Exponential):
            values |= {f"{key}e": seconds[0], f"{key}i": seconds[1]}
        else:
            raise ConfigError(f"to_brian2: got {synapse!r}, needed one time: pairs are built of snn.Exponential only")
    return values


def _require_shape(name: str, values: Tensor, shape: tuple[int, int]) -> None:
    if tuple(values.shape) != shape:
        raise DataError(f"{name}: got shape {tuple(values.shape)}, needed {shape}: one sample, [time, channels]")


def _brian2() -> Any:
    """The module, without the warnings that it causes on the way in, and without its handler of Ctrl-C: that would stay
    for good, and take the keyboard interrupts of all that follows.

    Raises:
        ConfigError: it is not there, or does not go with this numpy.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import brian2
        if isinstance(signal.getsignal(signal.SIGINT), getattr(brian2, "_InterruptHandler", ())):
            signal.signal(signal.SIGINT, handler)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"brian2: got {type(error).__name__} ({error}) on import, needed brian2; write pip install brian2 (2.9, "
            "the last for Python 3.11, also needs 'numpy<2.4')"
        ) from error
    return brian2


@contextmanager
def _quiet(brian2: Any, target: str) -> Iterator[None]:
    """brian2's code generation set to ``target``, and back; its warnings about names and old calls left out."""
    before = brian2.prefs["codegen.target"]
    brian2.prefs["codegen.target"] = target
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        brian2.prefs["codegen.target"] = before
