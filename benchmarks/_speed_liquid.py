"""The liquid suite of ``benchmarks.speed``: a static liquid of 1,000 neurons against its products, brian2 and norse.

Trains are those of real digits. The products are those of a perfect dense program in the same precision: the recurrent
weights times the spikes of all samples once a step, the input weights times a chunk of steps at once. brian2 runs the
same liquid, a sample at a time, from code compiled beforehand; norse's ``lif_step``, in a plain loop, the same wiring
with the neuron and synapse of norse in place of NALSM's, as both sides then do. Before anything is timed, both must
agree with the liquid spike for spike.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import snn
from benchmarks._common import device_named, finish
from benchmarks._counting import peak_bytes
from benchmarks._speed_liquid_figures import scaling
from benchmarks._timing import each_round, medians, middle, ratio
from eqprop._data import load_dataset
from eqprop._errors import ConfigError

# edges of the grid; 1,000 is NALSM's, the rest keeps its density
GRIDS = {250: (5, 5, 10), 500: (5, 10, 10), 1000: (10, 10, 10), 2000: (10, 10, 20), 4000: (10, 20, 20)}
GRIDS |= {8000: (20, 20, 20)}
BATCHES = (1, 4, 16, 64, 256)
DURATIONS = (125, 250, 500, 1000, 2000)
SCALED_BATCH = 64  # of the points along neurons and duration
CHECKED = 2  # samples that other simulators must agree on
_PRODUCTS, _DENSE, _NORSE = "dense products", "liquid, dense", "norse"


@dataclass
class Comparison:
    """What takes turns, by name, with samples a call, and what is reported of it.

    Attributes:
        calls: candidates.
        samples: of each call.
        figures: name, over, under, what the unit is, target: the ratio of times a sample.
        notes: what could not be measured, and why.
        mismatches: spikes on which other simulators differ.
    """

    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    figures: list[tuple[str, str, str, str, str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mismatches: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, samples: int, call: Callable[[], object]) -> None:
        """A candidate."""
        self.calls[name], self.samples[name] = call, samples


def liquid_of(neurons: int, dtype: torch.dtype = torch.float32, inputs: int = 784) -> snn.Liquid:
    """The liquid of the preset nalsm1000 on a grid of another size."""
    generator = torch.Generator().manual_seed(0)
    settings = snn.preset("nalsm1000", inputs=inputs).settings()
    wiring = snn.Grid(GRIDS[neurons]).wire(generator)
    entries = snn.input_mask(len(wiring.mask), inputs, 0.15, generator)
    signs, size = snn.random_signs(tuple(entries.shape), generator), 0.8
    return snn.Liquid(
        **settings
        | {
            "weight": (wiring.mask * wiring.signs() * size).to(dtype),
            "input_weight": (entries * signs * size).to(dtype),
            "excitatory": wiring.excitatory,
            "positions": wiring.positions,
        }
    )


def with_norse_neurons(liquid: snn.Liquid) -> snn.Liquid:
    """The wiring of a NALSM liquid with norse's neuron and synapse, of about the same time constants and charges."""
    if not isinstance(liquid.neuron, snn.NalsmLIF) or liquid.input_weight is None:
        raise ConfigError(f"liquid: got {liquid.neuron!r}, needed a NALSM liquid with input")
    leak = 0.064
    gain = leak / liquid.dt_seconds  # norse divides a current by the leak's time
    decay = liquid.dt_seconds / -math.expm1(-1.0)  # a step keeps exp(-1) of a current
    return snn.Liquid(
        snn.NorseLIF(tau_v_seconds=leak, threshold=20.0),
        liquid.weight * gain,
        liquid.input_weight * gain,
        synapse=snn.Exponential(decay, "euler"),
        dt_seconds=liquid.dt_seconds,
    )


def densely(liquid: snn.Liquid) -> snn.Liquid:
    """The same liquid, which multiplies whole matrices."""
    return snn.Liquid(**liquid.settings() | {"recurrence": "dense", "input_product": "dense"})


def products(liquid: snn.Liquid, batch: int, steps: int) -> Callable[[], None]:
    """The dense products of a run: of the recurrent weights step by step, of the input weights in the same chunks."""
    weight, entry = liquid.weight, liquid.input_weight
    if entry is None:
        raise ConfigError("liquid: got one without input weights, needed some")
    generator = torch.Generator().manual_seed(0)
    chunk = max(1, liquid.chunk_bytes // (liquid.neurons * batch * weight.element_size()))
    x = torch.rand(liquid.inputs, min(chunk, steps) * batch, generator=generator).to(weight)
    spikes = torch.rand(liquid.neurons, batch, generator=generator).to(weight)
    out = torch.empty_like(spikes)

    def run() -> None:
        for start in range(0, steps, chunk):
            torch.mm(entry, x[:, : min(chunk, steps - start) * batch])
        for _ in range(steps):
            torch.mm(weight, spikes, out=out)

    return run


def trains(count: int, steps: int) -> Tensor:
    """Spikes of real digits, bool ``[count, steps, 784]``."""
    images = load_dataset("digits", None, validation=0).train
    encoder = snn.RateEncoder.nalsm(images.inputs(), steps=steps)
    at = torch.arange(count) % len(images)
    return encoder.encode(images.inputs(at), torch.arange(count))


def compared(x: Tensor, neurons: int, device: torch.device) -> Comparison:
    """All candidates on trains ``[batch, steps, inputs]``."""
    made, batch, record = Comparison(), len(x), snn.Record(spikes=True)
    single = liquid_of(neurons, inputs=x.shape[2]).to(device)
    double = liquid_of(neurons, torch.float64, x.shape[2])
    other, here = with_norse_neurons(double), x.to(device)

    def runs(liquid: snn.Liquid, given: Tensor, what: snn.Record | None = None) -> Callable[[], object]:
        return lambda: liquid.run(given, record=what, health="ignore")

    made.add(_PRODUCTS, batch, products(single, batch, x.shape[1]))
    made.add("liquid", batch, runs(single, here))
    made.add(_DENSE, batch, runs(densely(single), here))
    made.figures.append(("liquid against its dense products", "liquid", _PRODUCTS, "x products", "<= 1.5"))
    made.figures.append(("the same, multiplying whole matrices", _DENSE, _PRODUCTS, "x products", None))
    for kind, liquid, target in (("", double, ">= 20"), (", norse's neuron", other, None)):
        try:
            _brian2(made, liquid, x, kind, target)
        except ConfigError as error:
            made.notes.append(f"brian2{kind}: not measured, {error}")
    try:
        _norse(made, other, here, runs, record)
    except ConfigError as error:
        made.notes.append(f"norse: not measured, {error}")
    return made


def _brian2(made: Comparison, liquid: snn.Liquid, x: Tensor, kind: str, target: str | None) -> None:
    """brian2's cython target, a sample a call, against the liquid in the same precision.

    Raises:
        ConfigError: brian2, Cython or a compiler is missing.
    """
    name, ours = f"brian2{kind}", f"liquid{kind}, float64"
    try:
        other = snn.to_brian2(liquid, target="cython")
        made.mismatches[name] = _different(liquid, other.run, x)  # compiles
    except ConfigError:
        raise
    except Exception as error:  # whatever a compiler or Cython may raise
        raise ConfigError(
            f"its cython target failed with {type(error).__name__} ({str(error).strip().partition(chr(10))[0]}); it "
            "needs Cython and a C++ compiler"
        ) from error
    if ours not in made.calls:
        made.add(ours, len(x), lambda: liquid.run(x, health="ignore"))
    made.add(name, 1, lambda: other.run(x[0]))
    made.figures.append((f"faster a sample than {name}, cython, float64", name, ours, "x", target))


def _norse(
    made: Comparison, double: snn.Liquid, x: Tensor, runs: Callable[..., Callable[[], object]], record: snn.Record
) -> None:
    """norse's step in a loop, against the liquid with norse's neuron, at batch 1 and at that of ``x``."""
    check = snn.to_norse(double)
    made.mismatches[_NORSE] = _different(double, lambda one: check.run(one[None])[0], x.cpu())
    single = snn.Liquid(
        **double.settings()
        | {"weight": double.weight.float(), "input_weight": None if (w := double.input_weight) is None else w.float()}
    ).to(x.device)
    loop, whole = snn.to_norse(single), densely(single)
    for batch, target in ((1, ">= 3"), (len(x), ">= 1.3")):
        given, label = x[:batch], f"batch {batch}"
        made.add(f"{_NORSE}, {label}", batch, lambda given=given: loop.run(given))  # type: ignore[misc]
        made.add(f"norse's neuron, {label}", batch, runs(single, given, record))
        made.add(f"norse's neuron, dense, {label}", batch, runs(whole, given, record))
        ours, theirs = f"norse's neuron, {label}", f"{_NORSE}, {label}"
        made.figures.append((f"faster than a loop over norse's lif_step, {label}", theirs, ours, "x", target))
        made.figures.append(
            (f"the same, multiplying whole matrices, {label}", theirs, f"norse's neuron, dense, {label}", "x", None)
        )


def _different(liquid: snn.Liquid, other: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Spikes of the first samples that one of both has. Raises ConfigError where the liquid is silent."""
    found = liquid.run(x[:CHECKED], record=snn.Record(spikes=True), health="ignore").recorded("spikes")
    if not bool(found.any()):
        raise ConfigError(f"{CHECKED} samples of {x.shape[1]} steps: got no spike, needed some; write --sweeps 250")
    return sum(int((mine != other(one).cpu()).sum()) for mine, one in zip(found, x, strict=False))


# -- time and memory ---------------------------------------------------------------------------------------------------


def measured(liquid: snn.Liquid, x: Tensor, repeats: int, rounds: int) -> dict[str, float]:
    """Seconds and bytes of a run on trains that come ``repeats`` times, a chunk after another.

    Bytes are the most that tensors made in a run hold at one time: not the liquid, nor its trains.
    """

    def chunks() -> Iterator[Tensor]:
        for _ in range(repeats):
            yield x

    def run() -> object:
        return liquid.run(chunks(), health="ignore")

    seconds = medians({"run": run}, rounds=rounds, calls=1, warm_up=1)["run"]
    weights = sum(b.numel() * b.element_size() for b in (liquid.weight, liquid.input_weight) if b is not None)
    return {"seconds": seconds, "bytes": peak_bytes(run), "weight_bytes": weights}


def scaled(x: Tensor, device: torch.device, rounds: int) -> dict[str, dict[int, dict[str, float]]]:
    """Time and memory of a run, along neurons, batch and duration in steps; the others are those of the trains."""
    few, steps = x[:SCALED_BATCH].to(device), x.shape[1]
    found: dict[str, dict[int, dict[str, float]]] = {"neurons": {}, "batch": {}, "steps": {}}
    for neurons in GRIDS:
        liquid = liquid_of(neurons, inputs=x.shape[2]).to(device)
        found["neurons"][neurons] = measured(liquid, few, 1, rounds)
        if neurons == 1000:
            for batch in (b for b in BATCHES if b <= len(x)):
                found["batch"][batch] = measured(liquid, x[:batch].to(device), 1, rounds)
            for duration in DURATIONS:  # in chunks of a length, so that a run streams
                length = math.gcd(duration, steps)
                found["steps"][duration] = measured(liquid, few[:, :length], duration // length, rounds)
    return found


# -- the suite ---------------------------------------------------------------------------------------------------------


def liquid_suite(arguments: argparse.Namespace) -> None:
    """Ratios to the products, brian2 and norse; then time and memory along three axes."""
    device, rounds = device_named(arguments.device), arguments.rounds
    x = trains(arguments.batch_size, arguments.sweeps)
    made = compared(x, 1000, device)
    each = each_round(made.calls, rounds=rounds, calls=1, warm_up=1)
    times = middle(each)
    ratios = {figure[0]: _ratio(figure, made.samples, each) for figure in made.figures}
    print(f"{arguments.sweeps} steps, {device}, {torch.get_num_threads()} thread(s)")
    for name, seconds in times.items():
        print(f"  {name:34s} {1e3 * seconds / made.samples[name]:9.3f} ms a sample, batch {made.samples[name]}")
    for note in made.notes:
        print(f"  {note}")
    found = scaled(x, device, min(rounds, 3))
    arguments.run.save_figure("scaling", scaling(found, SCALED_BATCH, arguments.sweeps))
    finish(
        arguments,
        title=f"A liquid of 1,000 neurons against its products, brian2 and norse, batch {len(x)}, {x.shape[1]} steps",
        headline=[
            {"name": name, "value": ratios[name], "unit": unit} | ({"target": target} if target else {})
            for name, _, _, unit, target in made.figures
        ]
        + [
            {"name": f"spikes of {CHECKED} samples on which {name} differs", "value": count, "unit": "",
             "target": "<= 0"}
            for name, count in made.mismatches.items()
        ],
        details={
            "seeds": [0],
            "median_seconds": times,
            "samples_a_call": made.samples,
            "scaling": found,
            "not_measured": made.notes,
        },
        device=device,
    )  # fmt: skip


def _ratio(
    figure: tuple[str, str, str, str, str | None], samples: Mapping[str, int], each: list[dict[str, float]]
) -> float:
    """Time a sample of the one over that of the other, the median over rounds."""
    _, over, under, _, _ = figure
    return ratio(each, over, under) * samples[under] / samples[over]
