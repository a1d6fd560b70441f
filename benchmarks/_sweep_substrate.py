"""`benchmarks.substrate` as a function of a config, for sweeps: a row of any chip, device and rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import eqprop
import hardware
from benchmarks import _sweep_data, _sweep_ensemble
from benchmarks._common import sizes
from benchmarks._ensemble import Member, Plan
from benchmarks._fewer_images import positions
from benchmarks._substrate_rows import (
    BATCH,
    RATES,
    WEIGHT_RANGE,
    Row,
    make_chip,
    make_network,
    make_optimizer,
    make_rates,
    make_rule,
    rows,
)
from benchmarks._substrate_train import gradient
from benchmarks._suite import trained
from benchmarks._sweep_data import Data
from benchmarks._sweep_ensemble import Alone, Found, Point, in_common, outcome, require_ep
from eqprop._errors import ConfigError, EqPropError
from eqprop._names import lookup

DIGITAL = "digital"


@dataclass(frozen=True)
class Net:
    """One of the benchmark's two networks; ``directed``: forward and feedback weights in two arrays, equal at first."""

    layers: str = "784-256-10"
    directed: bool = False


@dataclass(frozen=True)
class Rule:
    """Equilibrium propagation; ``homeostasis``: coefficient per unit; ``passes``: gradients averaged for a step."""

    beta: float = 0.5
    contour: str = "centred"
    points: int = 2
    readout: str = "contrast"
    correction: str | None = None
    homeostasis: float | None = None
    passes: int = 1


@dataclass(frozen=True)
class Chip:
    """A substrate, every part ideal unless it is given.

    Attributes:
        device: of the cells, by name (``hardware.DEVICES``); None for no cells.
        mapping: of weights to cells; None for "one-sided" where pulses go one way, else "balanced".
        cell_scope: when the device's own read noise is drawn: "phase" (afresh), "sample" (shared by the phases), ...
        verified_seconds: from a write to the read that verifies it; None for the device's own.
        read_noise: further relative noise of every conductance, drawn by ``noise_scope``: "phase", "sample", "chip".
        mismatch: relative difference of the ways there and back, in one array or between two (``network.directed``).
        adc_bits, adc_autorange, adc_differential, adc_dither, adc_reads: see ``hardware.OutputAdc``.
        dac_bits: of the input.
        nudge_gain, nudge_offset: standard deviations, see ``hardware.NudgeSource``.
        twin: free and nudged phases on two sets of cells.
    """

    device: str | None = None
    mapping: str | None = None
    cell_scope: str = "phase"
    verified_seconds: float | None = None
    read_noise: float = 0.0
    noise_scope: str = "phase"
    mismatch: float = 0.0
    adc_bits: int | None = None
    adc_autorange: bool = False
    adc_differential: bool = False
    adc_dither: bool = False
    adc_reads: int = 1
    dac_bits: int | None = None
    nudge_gain: float = 0.0
    nudge_offset: float = 0.0
    twin: bool = False


@dataclass(frozen=True)
class Training:
    """``write``: mode of the write path, or "digital" (the optimiser's weights, mapped anew); None for pulses where
    cells take them, else "programmed". ``rate``: factor on the ideal network's rates; None for the benchmark's own.
    """

    write: str | None = None
    rate: float | None = None
    epochs: int = 5
    batch_size: int = BATCH


@dataclass(frozen=True)
class Config:
    """One training."""

    network: Net = Net()
    rule: Rule = Rule()
    substrate: Chip | None = None
    training: Training = Training()
    data: Data = Data()
    seed: int = 0


def completed(config: Config) -> Config:
    """With rate, mapping and way of writing put in place of None; what cannot work is told before anything runs.

    Raises:
        ConfigError: names the field.
    """
    chip, training = config.substrate, config.training
    for name in ("epochs", "batch_size"):
        if getattr(training, name) < 1:
            raise ConfigError(f"training.{name}: got {getattr(training, name)}, needed at least 1")
    if training.rate is not None and not training.rate > 0:
        raise ConfigError(f"training.rate: got {training.rate}, needed a factor above 0")
    cells = None if chip is None or chip.device is None else hardware.device(chip.device)
    if cells is None and training.write not in (None, DIGITAL):
        raise ConfigError(
            f"training.write: got {training.write!r} without cells, needed a device; write substrate.device=ecram"
        )
    pulses = None if cells is None else cells.pulses
    own = "programmed" if pulses is None else "stochastic"
    write = training.write or (DIGITAL if cells is None else own)
    rate = _own_rate(config) if training.rate is None else training.rate
    training = dataclasses.replace(training, write=write, rate=rate)
    if chip is not None and cells is not None and chip.mapping is None:
        one_way = pulses is not None and pulses.one_way
        chip = dataclasses.replace(chip, mapping="one-sided" if one_way else "balanced")
    made = dataclasses.replace(config, substrate=chip, training=training)
    _sweep_data.require_data(config.data, config.network.layers)
    make_rule(row_of(made), made.seed)
    return made


def _own_rate(config: Config) -> float:
    """That of the benchmark's row with this device, or with two arrays."""
    if config.network.directed:
        return next(row.rate for row in rows() if row.directed)
    device = None if config.substrate is None else config.substrate.device
    return next((row.rate for row in rows() if row.name == f"devices/{device}"), 1.0)


def substrate_of(config: Config) -> hardware.Substrate | None:
    """What the network runs on."""
    chip = config.substrate
    if chip is None:
        return None
    fluctuations = [hardware.Fluctuation(chip.read_noise, chip.noise_scope)] if chip.read_noise else []
    if chip.mismatch and config.network.directed:  # both arrays err: their difference is as large as in one array
        fluctuations.append(hardware.Fluctuation(chip.mismatch / 2**0.5, "chip"))
    return hardware.Substrate(
        cells=_cells(chip),
        fluctuations=tuple(fluctuations),
        paths=hardware.PathGains(cell_std=chip.mismatch) if chip.mismatch and not config.network.directed else None,
        input_dac=None if chip.dac_bits is None else hardware.InputDac(chip.dac_bits),
        adc=_adc(chip),
        nudge=hardware.NudgeSource(gain_std=chip.nudge_gain, offset_std=chip.nudge_offset)
        if chip.nudge_gain or chip.nudge_offset
        else None,
        twin=chip.twin,
    )


def _cells(chip: Chip) -> hardware.CellArray | None:
    if chip.device is None:
        return None
    device: str | hardware.Device = chip.device
    if chip.verified_seconds is not None:
        device = dataclasses.replace(hardware.device(device), first_read_seconds=chip.verified_seconds)
    return hardware.CellArray(device, chip.mapping or "balanced", weight_range=WEIGHT_RANGE, read_scope=chip.cell_scope)


def _adc(chip: Chip) -> hardware.OutputAdc | None:
    if chip.adc_bits is None:
        return None
    return hardware.OutputAdc(
        chip.adc_bits,
        autorange=chip.adc_autorange,
        differential=chip.adc_differential,
        dither=chip.adc_dither,
        reads=chip.adc_reads,
    )


def row_of(config: Config) -> Row:
    """The row of the benchmark that the (completed) config is."""
    rule, training, chip = config.rule, config.training, config.substrate
    known = {"-".join(map(str, network)): network for network in RATES}
    lookup("network.layers", "-".join(map(str, sizes(config.network.layers))), known)
    another = config.network.directed or (chip is not None and chip.mismatch > 0)
    return Row(
        "mismatch" if another else "devices",
        "point",
        known[config.network.layers],
        substrate_of(config),
        {name: getattr(rule, name) for name in ("beta", "contour", "points", "readout", "correction")},
        directed=config.network.directed,
        homeostasis=rule.homeostasis,
        passes=rule.passes,
        write=None if training.write in (None, DIGITAL) else {"mode": training.write},
        rate=1.0 if training.rate is None else training.rate,
        epochs=training.epochs,
    )


def run(config: Config) -> dict[str, Any]:
    """Train on the chip of the seed, and test. Figures by layer, on 256 test images, before and after training: cosine
    and norm of the chip's gradient against the exact one of the ideal network with the same weights, its cosine to the
    same rule there, and effective bits; where the ways there and back differ also to the gradient of its own loss.
    """
    config = completed(config)
    row, seed = row_of(config), config.seed
    data = _sweep_data.load(config.data, seed)
    chip = make_chip(row, make_network(row, seed), seed)
    before = _looked_at(gradient(row, seed, chip, data), "before")
    trainer, stopped = trained(
        chip,
        make_rule(row, seed),
        make_optimizer(row, chip),
        data,
        None,
        epochs=config.training.epochs,
        batch_size=config.training.batch_size,
        seed=seed,
        progress=False,
        guard=None,  # a chip that does not learn is a result
    )
    test, errors = trainer.test(), trainer.history.series.get("train_error", [])
    return _figures(chip, before, test, _looked_at(gradient(row, seed, chip, data), "after"), errors, stopped)


def together(config: Config) -> Hashable:
    """What points must have in common to be trained as one ensemble: all but seed, nudge, learning rates, the bits of
    converters and the strength of read noise and, of two arrays, of their mismatch."""
    try:
        config = completed(config)
        same = in_common(make_rule(row_of(config), config.seed), substrate_of(config))
    except EqPropError:  # in no ensemble, or in no run: it will say so then
        return Alone(config)
    return (same, config.network, dataclasses.replace(config.training, rate=None), config.data)


def run_many(configs: Sequence[Config]) -> list[Found]:
    """What `run` returns of each, or raises, to rounding; see `_sweep_ensemble.run_many`."""
    return _sweep_ensemble.run_many(configs, run, together, _ensemble)


# -- inside ------------------------------------------------------------------------------------------------------------


def _ensemble(configs: Sequence[Config]) -> tuple[Plan, Callable[[Config], Point]]:
    first = completed(configs[0])
    data = _sweep_data.load(first.data, first.seed)
    whole, held = _sweep_data.load_whole(data), len(data.validation)
    training = first.training
    plan = Plan(whole.train, len(whole.classes), training.epochs, training.batch_size, held, guard=None)
    return plan, lambda config: _point(completed(config), whole, held)


def _point(config: Config, whole: eqprop.DataSplits, held: int) -> Point:
    row, seed = row_of(config), config.seed
    chip = make_chip(row, make_network(row, seed), seed)
    chosen = positions(whole.train, held, config.data.train, seed)
    member = Member(chip, require_ep(make_rule(row, seed)), make_rates(row), chosen, seed)
    before = _looked_at(gradient(row, seed, chip, whole), "before")

    def figures() -> dict[str, Any]:
        test = eqprop.evaluate(chip, whole.test, member.rule)
        after = _looked_at(gradient(row, seed, chip, whole), "after")
        return _figures(chip, before, test, after, member.errors, member.stopped)

    return Point(member, figures)


def _figures(
    chip: Any,
    before: dict[str, Any],
    test: eqprop.Evaluation,
    after: dict[str, Any],
    errors: Sequence[float],
    stopped: str,
) -> dict[str, Any]:
    return {
        **outcome(test, errors, stopped),
        "pulses": chip.counts["pulses"] if hasattr(chip, "counts") else 0,
        **before,
        **after,
    }


def _looked_at(found: dict[str, Any], when: str) -> dict[str, Any]:
    """What a chip's gradient is, as columns."""
    layers = found["diagnosis"]["layers"]
    figures = {
        "gradient_cosine": {layer: d["exact"]["cosine"] for layer, d in layers.items()},
        "gradient_norm_ratio": {layer: d["exact"]["norm_ratio"] for layer, d in layers.items()},
        "same_rule_cosine": {layer: d["ideal"]["cosine"] for layer, d in layers.items()},
        "effective_bits": {layer: d["effective_bits"] for layer, d in layers.items()},
        "unconverged_share": found["diagnosis"]["unconverged_share"],
    }
    if "cosine_with_own_gradient" in found:
        figures["own_gradient_cosine"] = found["cosine_with_own_gradient"]
    return {f"{name}_{when}": value for name, value in figures.items()}
