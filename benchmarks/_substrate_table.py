"""The decisive table: what a disturbance does to the gradient, by whether the phases share it, and by the nudge.

A network is put on chips with one fault each. Figures are those of ``hardware.diagnose``; a condition, nudge and seed
(of network, images and chip) leave one file. Noise of arrays, of scopes ``"sample"`` and ``"phase"`` alike, is one draw
for all ``BATCH`` samples of a batch, as if they relaxed at once: passes of one sample each, averaged, would have about
``sqrt(BATCH)`` less of its error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import eqprop
import hardware
from benchmarks._substrate_rows import BATCH, Row, make_network, make_optimizer, make_rule
from eqprop._checkpoints import atomic_write
from hardware import (
    CellArray,
    Device,
    FlickerNoise,
    Fluctuation,
    NudgeSource,
    OutputAdc,
    PowerLawDrift,
    ResistiveNetwork,
    SharedRail,
    Substrate,
    TelegraphNoise,
    Timing,
)
from hardware._curves import constant

TRAINED = Row("table", "hopfield", epochs=2)
NETWORKS = ("hopfield", "resistive")
NETWORK_TEXTS = {
    "hopfield": "784-256-10 Hopfield network, trained ideally for 2 epochs",
    "resistive": "784-128-10 resistive network, untrained, folded outputs with sense amplifiers of gain 100",
}
BETAS = (0.02, 0.1, 0.4)
HEAT_BETAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
BITS = (4, 6, 8, 9, 10, 11, 12, 13, 14, 16)
LEVELS = (1e-2, 1e-3, 1e-4)
BATCHES = 2
_OUTPUT_GAIN = 100.0
_RANGE: dict[str, Any] = {"g_min_siemens": 1e-7, "g_max_siemens": 1e-5}
_TELEGRAPH = TelegraphNoise(0.1, share=0.1)
_READ_SECONDS, _PHASE_SECONDS = 1.0, 1e-3

#: How to read the figures: those published or measured elsewhere, on other networks, are not to be reproduced, but to
#: be of one kind with.
REFERENCES = (
    f"here noise of arrays, shared or afresh, is one draw for the {BATCH} images of a batch: the mean over {BATCH} "
    f"passes of one image each has about {BATCH**0.5:g} times less of its error",
    "another network, 128-32-10 resistive, untrained, centred EP, layer 1, nudge 0.1 of the output's conductance (3 "
    "noise seeds): 1 % shared 0.996; afresh 1 % -0.07, 0.1 % 0.09, 0.01 % 0.86; ADC 8 bits 0.06, 10 bits 0.86, 12 bits "
    "0.97, 14 bits 0.997, 16 bits 0.999 (nudge 0.5: 8 bits 0.81, 10 bits 0.989); drift dispersion 1e-4 0.91, 1e-3 "
    "0.10; gain mismatch 10 % 0.995",
    "published: deep resistive networks tolerate noise behind activations up to about 5e-5, whatever the data set, "
    "rising as 1/sqrt(N) with N samples averaged (Peters & Talatchian 2025, arXiv 2503.22810)",
)


@dataclass(frozen=True)
class Condition:
    """A fault, as a substrate.

    Attributes:
        network: "hopfield" or "resistive".
        group: the kind of fault.
        label: its size.
        substrate: of the chip.
        betas: nudges at which to look; of a resistive network as a share of its outputs' conductance.
    """

    network: str
    group: str
    label: str
    substrate: Substrate
    betas: tuple[float, ...] = BETAS

    @property
    def file(self) -> str:
        """Stem of its files."""
        words = f"{self.network} {self.group} {self.label}".replace("%", "percent")
        return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).split())


@dataclass(frozen=True)
class SignedDrift(PowerLawDrift):
    """Power-law drift with exponents of either sign, so that a dispersion has nothing in common over the cells."""

    def coefficient(self, x: Tensor, normal: Tensor) -> Tensor:
        return torch.addcmul(self.nu_mean(x), self.nu_std(x), normal)


def conditions(kind: str) -> list[Condition]:
    """All faults of a kind of network."""
    made: list[tuple[str, str, Substrate]] = []
    for group, scope in (("shared by the phases", "sample"), ("afresh in each phase", "phase")):
        made += [(group, _percent(s), Substrate(fluctuations=(Fluctuation(s, scope),))) for s in LEVELS]
    slow = [("from 1 us to 1 s", FlickerNoise(1e-2)), ("from 1 ms to 1 s", FlickerNoise(1e-2, tau_min_seconds=1e-3))]
    made += [("1/f noise of 1 %, phases of 1 us", label, Substrate(fluctuations=(f,))) for label, f in slow]
    made.append(("telegraph noise, phases of 1 us", "10 % of cells by 10 %", Substrate(fluctuations=(_TELEGRAPH,))))
    # a resistive network has no bounds of its own: the range of each layer follows its free equilibrium
    own: dict[str, Any] = {"autorange": kind == "resistive"}
    converters = [("ADC", f"{bits} bits", OutputAdc(bits, **own)) for bits in BITS]
    converters.append(("ADC, dithered", "8 bits", OutputAdc(8, dither=True, **own)))
    converters.append(("ADC, differential", "8 bits", OutputAdc(8, differential=True, autorange=True)))
    made += [(group, label, Substrate(adc=adc)) for group, label, adc in converters]
    made += [("drift between phases, common", _percent(s), _drifting(kind, s, 0.0)) for s in LEVELS]
    made += [("drift between phases, dispersed", _percent(s), _drifting(kind, 0.0, s)) for s in LEVELS]
    for label, seconds in (("read 1 s after the write", 1.0), ("read 1 us after the write", 1e-6)):
        made.append(("drift of pcm", label, _pcm(kind, seconds)))
    made += [("nudge gain", _percent(s), Substrate(nudge=NudgeSource(gain_std=s))) for s in (0.01, 0.1)]
    for group in ("nudge offset", "nudge offset, one-sided"):
        made += [(group, f"{s:g}", Substrate(nudge=_offset(kind, s))) for s in (1e-4, 1e-3, 1e-2)]
    if kind == "hopfield":
        made += [("shared rail", _percent(s), Substrate(rail=SharedRail(share=s))) for s in (0.01, 0.1)]
        made += [("shared rail, as read", _percent(s), Substrate(rail=SharedRail(read_share=s))) for s in (0.01, 0.1)]
    heat = {"none", "ADC"}
    return [
        Condition(kind, group, label, substrate, HEAT_BETAS if group in heat else BETAS)
        for group, label, substrate in [("none", "", Substrate()), *made]
    ]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _cells(kind: str, cell: Device, **settings: Any) -> CellArray:
    if kind == "resistive":
        return CellArray(cell, "single", **_RANGE, **settings)
    return CellArray(cell, "one-sided", **settings)


def _drifting(kind: str, common: float, dispersed: float) -> Substrate:
    """Cells without other faults, whose conductances change by these shares from one phase to the next."""
    per_share = _READ_SECONDS / _PHASE_SECONDS
    law = SignedDrift(constant(common * per_share), constant(dispersed * per_share))
    cell = Device("drifting", 0.0, 25e-6, ageing=law, first_read_seconds=_READ_SECONDS)
    timing = Timing(phase_seconds=_PHASE_SECONDS, write_seconds=0.0)
    return Substrate(cells=_cells(kind, cell), timing=timing)


def _pcm(kind: str, read_seconds: float) -> Substrate:
    """The drift of phase-change memory alone, relaxations of 1 us, that time after the write."""
    cell = replace(hardware.device("pcm"), first_read_seconds=read_seconds)
    return Substrate(cells=_cells(kind, cell, programming=False, read_noise=False))


def _offset(kind: str, share: float) -> NudgeSource:
    """Offsets in units of what holds an output at 1."""
    scale = 1.0
    if kind == "resistive":
        scale = float(make_table_network(kind, 0).node_siemens()[-1].mean().detach()) / _OUTPUT_GAIN
    return NudgeSource(offset_std=share * scale)


def make_table_network(kind: str, seed: int) -> Any:
    """A network of that kind with the weights of ``seed``, untrained."""
    if kind == "hopfield":
        return make_network(TRAINED, seed)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"fold": True, "output_gain": _OUTPUT_GAIN, "generator": generator}
    return ResistiveNetwork.mlp(784, 128, 10, **_RANGE, **options)


def make_table(
    data: eqprop.DataSplits, out: Path, kind: str, *, seeds: int, epochs: int | None, progress: bool
) -> None:
    """Measure what is missing below ``out/table``, with a network of that kind."""
    for seed in range(seeds):
        todo = [(c, beta) for c in conditions(kind) for beta in c.betas if not _file(out, c, beta, seed).exists()]
        if not todo:
            continue
        network = trained(data, out, seed, epochs, progress) if kind == "hopfield" else make_table_network(kind, seed)
        network = network.double()
        x, y = _images(data, seed)
        x = x.flatten(1).double()
        for condition, beta in tqdm(todo, desc=f"table, {kind}, seed {seed}", disable=not progress):
            rule, exact = table_rules(condition, network, beta)
            chip = condition.substrate.fabricate(network, seed=seed)
            found = hardware.diagnose(chip, network, rule, x, y, batch_size=BATCH, exact=exact).record()
            record = {"network": kind, "group": condition.group, "label": condition.label, "beta": beta, "seed": seed}
            content = json.dumps(record | {"diagnosis": found}).encode()
            path = _file(out, condition, beta, seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, content, "a figure of the table")


def table_rules(
    condition: Condition, network: Any, beta: float
) -> tuple[eqprop.EquilibriumPropagation, eqprop.ImplicitGradient]:
    """The rule, with phases that end where the fault alone is to be seen, and that of the exact gradient."""
    stop: eqprop.Stop | eqprop.Sweeps = eqprop.Stop(1e-9, 1000, block=10)
    if condition.network == "resistive":
        beta, stop = network.nudge_siemens(beta), eqprop.Sweeps(8)  # each sweep brings it closer by hundreds
    contour = "one-sided" if condition.group.endswith("one-sided") else "centred"
    rule = eqprop.EquilibriumPropagation(beta=beta, contour=contour, free=stop, nudged=stop)
    return rule, eqprop.ImplicitGradient(free=stop)


def trained(data: eqprop.DataSplits, out: Path, seed: int, epochs: int | None, progress: bool) -> Any:
    """The ideally trained network of a seed."""
    folder = out / TRAINED.name / f"seed{seed}"
    wanted = TRAINED.epochs if epochs is None else epochs
    if not (folder / "summary.json").exists():
        under_way = (folder / "checkpoint").exists()
        network = make_network(TRAINED, seed)
        eqprop.Trainer(
            network,
            make_rule(TRAINED, seed),
            make_optimizer(TRAINED, network),
            data,
            epochs=wanted,
            batch_size=BATCH,
            seed=seed,
            out=folder,
            config=TRAINED.record(),
            resume=under_way,
            overwrite=not under_way,
            progress=progress,
            guard=None,
        ).fit()
    return eqprop.load(folder)


def _images(data: eqprop.DataSplits, seed: int) -> tuple[Tensor, Tensor]:
    shuffle = torch.Generator().manual_seed(1000 + seed)
    return next(data.train.batches(BATCHES * BATCH, generator=shuffle))


def _file(out: Path, condition: Condition, beta: float, seed: int) -> Path:
    return out / "table" / "measured" / f"{condition.file}-beta{beta:g}-seed{seed}.json"


def collect(out: Path) -> dict[tuple[str, str, str, float], list[dict[str, Any]]]:
    """Finished diagnoses by (network, group, label, beta), in the order of the conditions; one a seed."""
    found: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for kind in NETWORKS:
        for c in conditions(kind):
            for beta in c.betas:
                first = _file(out, c, beta, 0)
                paths = sorted(first.parent.glob(first.name.replace("seed0", "seed*")))
                if paths:
                    records = [json.loads(path.read_bytes()) for path in paths]
                    found[kind, c.group, c.label, beta] = [r["diagnosis"] for r in records]
    return found
