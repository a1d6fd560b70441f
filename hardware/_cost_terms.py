"""What an estimate says: terms, their sums, and how they print."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hardware._cost_constants import CostConstants


@dataclass(frozen=True)
class Term:
    """A part of the cost.

    Attributes:
        name: of the part.
        formula: what was multiplied, in words.
        count: of conversions, cells, pulses, products; of whatever the formula begins with.
        joules: energy.
        seconds: time that it adds (0 where it runs beside others).
    """

    name: str
    formula: str
    count: float
    joules: float
    seconds: float


@dataclass(frozen=True)
class Cost:
    """Terms and their sums.

    Attributes:
        what: of which they are.
        terms: in the order in which they happen.
    """

    what: str
    terms: tuple[Term, ...]

    @property
    def joules(self) -> float:
        """Energy of all terms."""
        return sum(t.joules for t in self.terms)

    @property
    def seconds(self) -> float:
        """Time of all terms."""
        return sum(t.seconds for t in self.terms)

    def __getitem__(self, name: str) -> Term:
        """The term of that name."""
        return {t.name: t for t in self.terms}[name]

    def __str__(self) -> str:
        width = max(len(t.name) for t in self.terms)
        lines = [f"{self.what}: {si(self.joules, 'J')}, {si(self.seconds, 's')}"]
        for t in self.terms:
            share = 100 * t.joules / self.joules if self.joules else 0.0
            lines.append(
                f"  {t.name:{width}}  {si(t.joules, 'J'):>10} {share:5.1f} %  {si(t.seconds, 's'):>10}  {t.formula}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Estimate:
    """Result of ``hardware.estimate``; prints as a table.

    Attributes:
        inference: of one sample.
        training_step: of one step of a batch.
        batch: samples of the step.
        phases: relaxations of one sample in it.
        constants: what parts were assumed to cost.
    """

    inference: Cost
    training_step: Cost
    batch: int
    phases: int
    constants: CostConstants

    def record(self) -> dict[str, Any]:
        """Plain JSON: terms, sums, and constants with their notes."""
        made: dict[str, Any] = {"batch": self.batch, "phases": self.phases}
        for name in ("inference", "training_step"):
            cost: Cost = getattr(self, name)
            made[name] = {"joules": cost.joules, "seconds": cost.seconds, "terms": [asdict(t) for t in cost.terms]}
        return made | {"constants": asdict(self.constants), "notes": dict(self.constants.NOTES)}

    def __str__(self) -> str:
        return f"{self.inference}\n{self.training_step}"


def si(value: float, unit: str) -> str:
    """A number with a prefix: 3.2e-9, "J" -> "3.2 nJ"."""
    if value == 0.0:
        return f"0 {unit}"
    power = min(max(math.floor(math.log10(abs(value)) / 3), -6), 2)
    return f"{value / 1000.0**power:.3g} {'afpnum kM'[power + 6].strip()}{unit}"
