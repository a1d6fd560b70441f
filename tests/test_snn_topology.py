"""Grids and presets: distances, probabilities, types, counts, and where they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import eqprop
import snn
from eqprop import ConfigError
from tests.helpers import seeded


def test_a_grid_connects_by_type_and_distance() -> None:
    """Counts of synapses in bins of distance, for each pair of types, within 4 standard deviations of ``P``."""
    grid = snn.Grid((12, 12, 12))
    wiring = grid.wire(seeded())
    distance = torch.cdist(wiring.positions, wiring.positions)
    p = torch.exp(-((distance / 3.0) ** 2))
    for letters, c in (("ee", 0.2), ("ei", 0.1), ("ie", 0.3), ("ii", 0.05)):
        pre, post = (wiring.excitatory == (letter == "e") for letter in letters)
        pairs = post[:, None] & pre[None, :] & (distance > 0)
        for low, high in ((0, 1.5), (1.5, 3), (3, 5), (5, 30)):
            chosen = pairs & (distance > low) & (distance <= high)
            expected = c * p[chosen].double()
            spread = float((expected * (1 - expected)).sum().sqrt())
            assert abs(int(wiring.mask[chosen].sum()) - float(expected.sum())) < 4 * spread


def test_no_neuron_reaches_itself_and_types_are_exact_and_shuffled() -> None:
    wiring = snn.Grid((10, 10, 10)).wire(seeded())
    assert not bool(wiring.mask.diagonal().any())
    assert int(wiring.excitatory.sum()) == 800
    assert 70 < int((~wiring.excitatory[:500]).sum()) < 130
    other = snn.Grid((10, 10, 10)).wire(seeded(1))
    assert not torch.equal(wiring.excitatory, other.excitatory) and not torch.equal(wiring.mask, other.mask)


def test_the_grid_of_nalsm_is_as_dense_as_theirs() -> None:
    """About 16,700 synapses of 1,000 neurons: 16.7 a neuron."""
    counts = [int(snn.Grid().wire(seeded(s)).mask.sum()) for s in range(3)]
    assert np.mean(counts) == pytest.approx(16700, rel=0.02)


def test_positions_are_those_of_the_grid() -> None:
    grid = snn.Grid((2, 3, 4))
    expected = [[x, y, z] for x in range(2) for y in range(3) for z in range(4)]
    assert grid.positions().tolist() == expected and grid.neurons == 24


def test_input_synapses_are_counted_exactly() -> None:
    mask = snn.input_mask(1000, 784, 0.15, seeded())
    assert int(mask.sum()) == 117_600
    spread = (117.6 * 0.85) ** 0.5
    assert abs(float(mask.sum(1).double().std()) - spread) < 0.15 * spread  # random places, not a pattern


DRAWN_BY_NONE = ("positions",)
TYPES_ARE_GIVEN = ("excitatory", "noise_scale", "input_weight")


# nalsm8000 is built by the code of nalsm1000, from 64 million pairs
@pytest.mark.parametrize("name", [name for name in snn.PRESETS if name != "nalsm8000"])
def test_a_seed_is_a_liquid(name: str) -> None:
    one, same, other = (snn.preset(name, seed=s) for s in (3, 3, 4))
    for (key, a), (_, b), (_, c) in zip(one.named_buffers(), same.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b)
        if a.shape != c.shape:  # another number of synapses
            continue
        assert key in DRAWN_BY_NONE or (name == "izhikevich2003" and key in TYPES_ARE_GIVEN) or not torch.equal(a, c)
    wide = snn.preset(name, seed=3, dtype=torch.float64)
    torch.testing.assert_close(wide.weight.float(), one.weight, rtol=0, atol=0)
    assert one.provenance and "20" in one.provenance


@pytest.mark.parametrize("name", ["maass2002", "nalsm1000", "izhikevich2003"])
def test_presets_obey_dale(name: str) -> None:
    liquid = snn.preset(name)
    assert liquid.excitatory is not None
    assert bool((liquid.weight[:, liquid.excitatory] >= 0).all())
    assert bool((liquid.weight[:, ~liquid.excitatory] <= 0).all())
    assert float((liquid.excitatory.double()).mean()) == 0.8


def test_nalsm_has_one_size_of_weights() -> None:
    liquid = snn.preset("nalsm1000", weight=0.7, inputs=2312)
    assert liquid.input_weight is not None and liquid.input_weight.shape == (1000, 2312)
    for values in (liquid.weight, liquid.input_weight):
        torch.testing.assert_close(values[values != 0].abs().unique(), torch.tensor([0.7]))
    signs = liquid.input_weight.sign().double()
    assert int((signs != 0).sum()) == int(0.15 * 1000 * 2312)
    assert abs(float(signs.sum())) < 4 * (0.15 * 1000 * 2312) ** 0.5


@pytest.mark.parametrize(("weight", "published"), [(0.4, 0.37), (0.8, 1.00), (1.2, 1.40)])
def test_nalsm_branches_as_published(weight: float, published: float) -> None:
    """Within 0.06, their means of ten networks and 20 images against those of three and 10 here (which deviate by less
    than 0.03); the scale of the encoding is that of all training images of MNIST, of which the digits are some."""
    digits = eqprop.load_dataset("digits", validation=0).train
    trains = snn.RateEncoder(share=True, full_scale=0.0501376).encode(digits.inputs(torch.arange(10) * 399))
    factors = []
    for seed in range(3):
        liquid = snn.preset("nalsm1000", seed=seed, weight=weight)
        spikes = liquid.run(trains, record=snn.Record(spikes=True)).recorded("spikes")
        factors.append(snn.branching_factor(spikes, liquid.synapses))
    assert sum(factors) / 3 == pytest.approx(published, abs=0.06)


def test_maass_has_their_constants() -> None:
    """Means of what is drawn, over the synapses of 20 liquids; delays, refractory periods and neurons as they are."""
    drawn: dict[str, list[torch.Tensor]] = {}
    for seed in range(20):
        liquid = snn.preset("maass2002", seed=seed, dtype=torch.float64)
        e, mask = liquid.excitatory, liquid.weight != 0
        assert e is not None and liquid.short_term is not None and liquid.delay_steps is not None
        assert int(e.sum()) == 108 and liquid.neurons == 135
        for name, post, pre in (("ee", e, e), ("ei", ~e, e), ("ie", e, ~e), ("ii", ~e, ~e)):
            chosen = mask & post[:, None] & pre[None, :]
            drawn.setdefault(name, []).append(liquid.weight[chosen])
            drawn.setdefault(name + "-use", []).append(liquid.short_term.use[chosen])
            drawn.setdefault(name + "-recovery", []).append(liquid.short_term.recovery_seconds[chosen])
            assert set(liquid.delay_steps[chosen].tolist()) == {15 if name == "ee" else 8}
        start = liquid.own["initial_voltage"]
        assert 13.5 <= float(start.min()) and float(start.max()) <= 15.0
    for name, mean in (("ee", 30.0), ("ei", 60.0), ("ie", -19.0), ("ii", -19.0)):
        values = torch.cat(drawn[name])
        assert float(values.mean()) == pytest.approx(mean, rel=0.1)
        assert float(values.std()) == pytest.approx(abs(mean), rel=0.15)  # a gamma distribution of shape 1
    assert float(torch.cat(drawn["ei-use"]).mean()) == pytest.approx(0.05, rel=0.1)
    assert float(torch.cat(drawn["ee-recovery"]).mean()) == pytest.approx(1.1, rel=0.1)
    assert float(torch.cat(drawn["ee-use"]).max()) <= 1.0 and float(torch.cat(drawn["ee-use"]).min()) > 0.0


REFUSED: dict[str, Any] = {
    "Grid.shape": lambda: snn.Grid((10, 10)),  # type: ignore[arg-type]
    "Grid.length": lambda: snn.Grid(length=0.0),
    "Grid.connection.ei": lambda: snn.Grid(connection=snn.ByPair(0.1, 1.1, 0.1, 0.1)),
    "Grid.excitatory_share": lambda: snn.Grid(excitatory_share=2.0),
    "generator: got None": lambda: snn.Grid().wire(None),  # type: ignore[arg-type]
    "density": lambda: snn.input_mask(10, 10, 1.5, seeded()),
    "did you mean 'nalsm1000'": lambda: snn.preset("nalsm-1000"),
    "seed": lambda: snn.preset("rram200", seed=-1),
    "inputs": lambda: snn.preset("rram200", inputs=0),
    "weight": lambda: snn.preset("rram200", weight=-1.0),
    "dtype": lambda: snn.preset("rram200", dtype=torch.float16),
}


@pytest.mark.parametrize("text", REFUSED)
def test_impossible_topologies_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        REFUSED[text]()
