"""What the file of a chip holds besides its tensors: where it stands, and what its conductances stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eqprop._errors import ConfigError
from hardware._array import Array
from hardware._auxiliary import AuxiliaryCells
from hardware._digest import digest

if TYPE_CHECKING:
    from hardware._chip import Chip


def packed(chip: Chip) -> Tensor:
    """The counters of the chip and the ranges of its arrays, so that a resumed run goes on with the same numbers,
    and conductances stand for the weights that they stood for; the digest of its substrate, and changes cut so far."""
    m, arrays = chip._moment, chip.arrays.values()
    ranges = [0.0 if a.layout is None else a.mapping.weight_range for a in arrays]
    bits = torch.tensor(ranges, dtype=torch.float64).view(torch.int64).tolist()
    counters = [chip.seed, m.passes, m.phase, m.samples, m.clock, *(a._write for a in arrays)]
    return torch.tensor([*counters, *bits, digest(chip.substrate), int(chip.get_buffer("_limited"))])


def unpack(chip: Chip, state: Any) -> None:
    """Set a chip to what ``packed`` gave.

    Raises:
        ConfigError: the state of another chip: of other arrays, seed or substrate.
    """
    seed, *rest = [int(v) for v in state]
    # older states end with the digest, which alone is below 0, or have none
    limited = rest.pop() if len(rest) > 1 and rest[-2] < 0 else 0
    made_of = rest.pop() if rest and rest[-1] < 0 else None
    arrays = list(chip.arrays.values())
    if len(rest) not in (4 + len(arrays), 4 + 2 * len(arrays)):
        raise ConfigError(
            f"chip: got the state of a chip with other arrays than the {len(arrays)} of this one, needed one of "
            "the same substrate and network; write Substrate.from_spec(...) with the spec of the saved chip's"
        )
    if seed != chip.seed:
        raise ConfigError(
            f"chip: got the state of the chip with seed {seed}, needed that of seed {chip.seed}: its cells are "
            f"others; write substrate.fabricate(network, seed={seed})"
        )
    if made_of is not None and made_of != digest(chip.substrate):
        raise ConfigError(
            "chip: got the state of a chip of another substrate, needed that of one like this; write "
            "Substrate.from_spec(spec).fabricate(...) with the spec of the saved chip's substrate"
        )
    chip.get_buffer("_limited").fill_(limited)
    m = chip._moment
    m.passes, m.phase, m.samples, m.clock = rest[:4]
    ranges = torch.tensor(rest[4 + len(arrays) :], dtype=torch.int64).view(torch.float64).tolist()
    for n, array in enumerate(arrays):
        array.set_write_number(rest[4 + n])
        if ranges and array.layout is not None:  # which may follow from other initial weights
            _set_range(array, ranges[n])
        array.forget()


def _set_range(array: Array, weight_range: float) -> None:
    """Let conductances stand for weights up to that one, those of a twin and of auxiliary cells too."""
    for part in (array, array.twin):
        if part is not None:
            part.mapping = replace(part.mapping, weight_range=weight_range)
    auxiliary = getattr(array, "auxiliary", None)
    if isinstance(auxiliary, AuxiliaryCells) and auxiliary.settings.weight_range is None:
        auxiliary.reach = array.weight_range
