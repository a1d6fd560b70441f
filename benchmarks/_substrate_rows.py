"""The rows of the substrate benchmark: what is trained on which chip, by which rule and at which rates.

Rates of ``devices`` are those of the ideal network, ``RATES``, times the factor with the best validation accuracy of
seed 0 after 300 steps of a batch: of 0.1, 0.3, 1 and 3 for all, of 0.01 and 0.03 too for ``pcm``, which dies at more.
``--search`` does the same over ``SEARCH``, for devices of your own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

import eqprop
from hardware import (
    Auxiliary,
    CellArray,
    Device,
    Fluctuation,
    OutputAdc,
    PathGains,
    Substrate,
    WritePath,
    WriteSettings,
    device,
)

BATCH = 64
SHALLOW, DEEP = (784, 256, 10), (784, 256, 256, 10)
RATES: dict[tuple[int, ...], tuple[float, ...]] = {SHALLOW: (0.3, 0.1), DEEP: (0.5, 0.3, 0.1)}
FREE, NUDGED = {SHALLOW: 10, DEEP: 20}, {SHALLOW: 6, DEEP: 10}
SEARCH = (0.01, 0.03, 0.1, 0.3, 1.0)
MISMATCH = (0, 5, 10, 20, 35, 50)
#: of their training, and another at which trained networks are looked at: on the few wrong images that make most of
#: their gradient the bias of the first hides that of a mismatch
MISMATCH_NUDGE, SMALL_NUDGE = 0.2, 0.02
#: weights of the ideal network reach +-0.25; cells hold somewhat more
WEIGHT_RANGE = 0.3
#: a chip that verifies a write at once: drift and accumulated noise of training start there, not at 20 s
VERIFIED_SECONDS = 1e-6


@dataclass(frozen=True)
class Row:
    """One configuration; each seed of it is a run, on the chip of that seed.

    Attributes:
        group: the comparison it belongs to.
        label: its name in tables and figures.
        sizes: units of the layers.
        substrate: of the chip; None trains the network itself.
        rule: settings of ``eqprop.EquilibriumPropagation``.
        directed: forward and feedback weights are two, equal at the start, each in an array of its own.
        homeostasis: coefficient per unit, or None.
        passes: gradients that are averaged for a step.
        write: settings of the write path; None leaves the weights to the optimiser.
        rate: factor on the learning rates of the ideal network.
        epochs: of training.
        cosine: learning rates fall along a cosine, epoch by epoch.
        series, x: the line of its group's figure that it belongs to, and where.
        note: what was assumed.
    """

    group: str
    label: str
    sizes: tuple[int, ...] = SHALLOW
    substrate: Substrate | None = None
    rule: dict[str, Any] = field(default_factory=dict)
    directed: bool = False
    homeostasis: float | None = None
    passes: int = 1
    write: dict[str, Any] | None = None
    rate: float = 1.0
    epochs: int = 5
    cosine: bool = False
    series: str = ""
    x: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Folder of the row."""
        kept = "".join(c if c.isalnum() or c in "-./" else "-" for c in f"{self.group}/{self.label}".replace(" %", ""))
        return "-".join(filter(None, kept.split("-")))

    def record(self) -> dict[str, Any]:
        """Plain JSON for config.json."""
        return {
            "row": self.name,
            "sizes": list(self.sizes),
            "substrate": None if self.substrate is None else self.substrate.spec(),
            "rule": make_rule(self, 0).spec(),
            "directed": self.directed,
            "write": None if self.write is None else WriteSettings(**self.write).spec(),
            "rates": list(make_rates(self)),
            "cosine": self.cosine,
        }


def rows() -> list[Row]:
    """All rows, in the order in which they are worth having."""
    return [*_devices(), *_mismatches(), *_mitigations()]


# Where the factor is not 1. One of 3 wins up to 0.7 points with the devices of the finest steps (idealized, ecram,
# ecram-mo); with all others, and with the ideal network, outputs die. So the ideal network's own rates are the highest.
_FACTORS: dict[str, float] = {"pcm": 0.03, "pcm, fresh read noise": 0.03}


def _devices() -> list[Row]:
    """In-situ training: every update goes through pulses on the cells, stochastic in number."""
    made = [Row("devices", "ideal")]
    names = ["idealized", "capacitor", "ecram", "ecram-mo", "reram-sb", "reram-es", "reram-array-om"]
    for name in names:
        made.append(_in_situ(name, CellArray(name, weight_range=WEIGHT_RANGE)))
    at_once: Device = replace(device("pcm"), first_read_seconds=VERIFIED_SECONDS)
    cells = CellArray(at_once, "one-sided", weight_range=WEIGHT_RANGE)
    note = f"each write verified after {VERIFIED_SECONDS:g} s"
    made.append(_in_situ("pcm", replace(cells, read_scope="sample"), f"{note}; read noise shared by the phases"))
    fresh = replace(cells, read_correlation=0.0)
    made.append(_in_situ("pcm, fresh read noise", fresh, f"{note}; read noise drawn in every phase"))
    # of gains 1 to 400, transfer rates 0.002 to 0.1 and rates of 0.3 and 1, the best by validation images of 3 seeds
    # after 400 steps; faster transfers kill outputs of some chips, of which one seed alone may show nothing
    for name, transfer in {"reram-sb": 0.02, "reram-array-om": 0.005}.items():
        array = CellArray(name, weight_range=WEIGHT_RANGE)
        auxiliary = Auxiliary(gain=25.0, lines=64, transfer_rate=transfer)  # 64 columns: all of A in 13 steps
        note = f"gain 25 and transfer rate {transfer:g} searched for by validation images"
        made.append(_in_situ(f"{name}, auxiliary array", array, note, auxiliary=auxiliary))
    return made


def _in_situ(label: str, cells: CellArray, note: str = "", **write: Any) -> Row:
    write = {"mode": "stochastic", **write}
    return Row(
        "devices", label, substrate=Substrate(cells=cells), write=write, rate=_FACTORS.get(label, 1.0), note=note
    )


def _mismatches() -> list[Row]:
    """Ways there and back that differ: in one array read both ways, or between two arrays."""
    contrast = {"beta": MISMATCH_NUDGE}
    tangent = contrast | {"readout": "tangent"}
    two = {"directed": True, "rate": 0.2}  # at the full rates their outputs die, even where nothing differs
    rules: list[tuple[str, dict[str, Any]]] = [
        ("contrast", {"rule": contrast}),
        ("tangent", {"rule": tangent}),
        ("AsymEP", {"rule": tangent | {"correction": "asymep"}}),
        ("tangent, two arrays", {"rule": tangent} | two),
        ("homeostasis, two arrays", {"rule": tangent, "homeostasis": 1.0} | two),
    ]
    made = []
    for label, settings in rules:
        for percent in MISMATCH:
            std = percent / 100
            if settings.get("directed"):  # both arrays of a pair err: their difference is as large as in one array
                substrate = Substrate(fluctuations=(Fluctuation(std / 2**0.5, "chip"),) if std else ())
            else:
                substrate = Substrate(paths=PathGains(cell_std=std))
            made.append(
                Row(
                    "mismatch",
                    f"{label} {percent} %",
                    DEEP,
                    substrate,
                    epochs=4,
                    cosine=True,  # at a constant rate single classes come and go from epoch to epoch
                    series=label,
                    x=float(percent),
                    **settings,
                )
            )
    return made


def _mitigations() -> list[Row]:
    """One noisy chip, and what may be done about it: conductances fluctuate by 1 % afresh in every phase, 8 bits."""
    noisy = Substrate(fluctuations=(Fluctuation(1e-2, "phase"),), adc=OutputAdc(8))
    differential = replace(noisy, adc=OutputAdc(8, differential=True, autorange=True))
    small = {"beta": 0.05}
    settings: list[tuple[str, dict[str, Any]]] = [
        ("ideal", {"rule": small, "substrate": None}),
        ("nothing", {"rule": small}),
        ("one-sided", {"rule": small | {"contour": "one-sided"}}),
        ("alternating sign", {"rule": small | {"contour": "alternating-sign"}}),
        ("twin arrays", {"rule": small, "substrate": replace(noisy, twin=True)}),
        ("differential ADC", {"rule": small, "substrate": differential}),
        ("16 dithered reads", {"rule": small, "substrate": replace(noisy, adc=OutputAdc(8, dither=True, reads=16))}),
        ("4 passes averaged", {"rule": small, "passes": 4}),
        ("larger nudge", {"rule": {"beta": 0.3}}),
        ("larger nudge, differential ADC", {"rule": {"beta": 0.3}, "substrate": differential}),
    ]
    return [Row("mitigations", label, epochs=3, **{"substrate": noisy, **own}) for label, own in settings]


# -- what a row stands for -------------------------------------------------------------------------------------------


def make_network(row: Row, seed: int) -> eqprop.HopfieldNetwork | eqprop.DirectedNetwork:
    """The row's ideal network with weights of ``seed``."""
    shared: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
    if row.directed:
        return eqprop.DirectedNetwork.mlp(*row.sizes, feedback_angle=0.0, **shared)
    return eqprop.HopfieldNetwork.mlp(*row.sizes, **shared)


def make_rule(row: Row, seed: int, stop: eqprop.Stop | None = None) -> eqprop.Rule:
    """Phases of fixed numbers of sweeps (noise leaves no residual that a tolerance could ask for), or to ``stop``."""
    regularisers: tuple[Any, ...] = ()
    if row.homeostasis is not None:
        regularisers = (eqprop.JacobianHomeostasis(row.homeostasis, per="unit"),)
    rule = eqprop.EquilibriumPropagation(
        free=stop or eqprop.Sweeps(FREE[row.sizes]),
        nudged=stop or eqprop.Sweeps(NUDGED[row.sizes]),
        regularisers=regularisers,
        seed=seed,
        **{"beta": 0.5, **row.rule},
    )
    return rule if row.passes == 1 else eqprop.Averaged(rule, row.passes)


def make_chip(row: Row, network: Any, seed: int) -> Any:
    """The chip of that seed, or the network itself."""
    return network if row.substrate is None else row.substrate.fabricate(network, seed=seed)


def make_rates(row: Row) -> tuple[float, ...]:
    """One a connection."""
    rates = RATES[row.sizes]
    # feedback follows the forward connections, at the rates of those that it faces
    return tuple(row.rate * r for r in (*rates, *(rates[1:] if row.directed else ())))


def make_optimizer(row: Row, chip: Any) -> torch.optim.Optimizer:
    """SGD, through the write path where the row has one."""
    optimizer = torch.optim.SGD(chip.parameter_groups(make_rates(row)), lr=0.1)
    if row.write is not None:
        WritePath(optimizer, chip, **row.write)
    return optimizer


def make_scheduler(row: Row, optimizer: torch.optim.Optimizer, epochs: int) -> Any:
    """Of the learning rates, stepped after each epoch; None for constant ones."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs) if row.cosine else None
