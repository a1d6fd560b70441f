"""Points of a sweep: grids, zips and random draws over nested dataclasses, and what they refuse."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

import eqprop
from eqprop import ConfigError
from eqprop._sweep_config import flat, plain
from tests.sweep_points import Config, Part


@dataclass(frozen=True)
class Needy:
    """Has a field without a default, and a part that is always there."""

    needed: int
    part: Part = Part(adc_bits=4)
    rate: float | None = None
    rates: tuple[float, ...] = (0.1, 0.2)
    text: str = ""
    on: bool = False
    anything: Any = None
    either: float | tuple[float, ...] = 0.1


@dataclass
class Changeable:
    """Not frozen."""

    beta: float = 0.1


def test_a_grid_is_every_combination_with_the_last_name_fastest() -> None:
    points = eqprop.grid(Config, beta=[0.1, 0.2], seed=range(2), **{"part.adc_bits": [8, 10]})
    found = [(p.beta, p.seed, p.part.adc_bits) for p in points]
    assert found == [(b, s, a) for b in (0.1, 0.2) for s in (0, 1) for a in (8, 10)]
    assert all(p.part == Part(adc_bits=p.part.adc_bits) for p in points)


def test_an_object_gives_the_other_fields_and_points_combine() -> None:
    start = Needy(3, Part(adc_bits=6, noise=0.5))
    points = eqprop.grid(eqprop.zipped(start, needed=[1, 2], rate=[0.3, 0.4]), **{"part.noise": [0.0, 0.1]})
    assert [(p.needed, p.rate, p.part) for p in points] == [
        (n, r, Part(6, noise)) for n, r in ((1, 0.3), (2, 0.4)) for noise in (0.0, 0.1)
    ]
    assert eqprop.grid(Needy, needed=[7])[0] == Needy(7)


def test_a_part_may_be_absent_in_some_points() -> None:
    points = eqprop.grid(eqprop.grid(Config, part=[None, Part()]), **{"part.noise": [0.5]})
    assert [p.part and p.part.noise for p in points] == [0.5, 0.5]  # a name inside makes the part
    both = eqprop.grid(Config, part=[None, Part(8)], **{"part.noise": [0.5]})
    assert [p.part for p in both] == [None, Part(8, 0.5)]


def test_numbers_are_pythons_and_floats_where_floats_are_declared() -> None:
    (point,) = eqprop.grid(Needy, needed=np.arange(1), rate=[1], **{"part.noise": np.array([2])})
    assert (type(point.needed), type(point.rate), type(point.part.noise)) == (int, float, float)
    assert plain(point)["part"] == {"$class": "Part", "adc_bits": 4, "noise": 2.0}


def test_random_points_are_seeded_go_on_and_stay_within_bounds() -> None:
    draws: dict[str, Any] = {"beta": eqprop.log_uniform(1e-3, 1), "seed": range(5)}
    few, many = (eqprop.random_points(Config, n, draw_seed=1, **draws) for n in (20, 400))
    assert many[:20] == few and len(set(many)) == 400
    assert eqprop.random_points(Config, 20, draw_seed=2, **draws) != few
    # another field does not change the draws of those before it
    assert [p.beta for p in eqprop.random_points(Config, 20, draw_seed=1, **draws, marks=["a", "b"])] == [
        p.beta for p in few
    ]
    logs = np.log10([p.beta for p in many])
    assert -3 <= logs.min() and logs.max() <= 0
    # a uniform variable on 3 decades: mean -1.5, standard error 3 / sqrt(12 * 400)
    assert abs(logs.mean() + 1.5) < 4 * 3 / math.sqrt(12 * 400)
    assert {p.seed for p in many} == set(range(5))
    plainly = [p.beta for p in eqprop.random_points(Config, 400, draw_seed=1, beta=eqprop.uniform(2, 4))]
    assert 2 <= min(plainly) and max(plainly) <= 4 and abs(np.mean(plainly) - 3) < 4 * 2 / math.sqrt(12 * 400)


def test_child_seeds_are_those_of_numpys_seed_sequence_and_go_on() -> None:
    expected = [int(c.generate_state(1)[0]) for c in np.random.SeedSequence(7).spawn(3)]
    assert eqprop.child_seeds(3, 7) == expected == eqprop.child_seeds(9, 7)[:3]
    assert not set(eqprop.child_seeds(50, 0)) & set(eqprop.child_seeds(50, 1))


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("needed", "abc", "a whole number"),
        ("needed", 1.0, "a whole number"),
        ("needed", True, "a whole number"),
        ("needed", None, "a whole number"),
        ("rate", "abc", "a number or None"),
        ("rate", False, "a number or None"),
        ("rate", (0.1,), "a number or None"),
        ("part.noise", "1e", "a number"),
        ("part", 8, "a Part"),
        ("rates", 0.1, "a tuple"),
        ("text", 8, "a text"),
        ("on", 1, "True or False"),
    ],
)
def test_values_that_are_not_of_their_fields_type_are_named(field: str, value: Any, needed: str) -> None:
    text = f"^{field}: got {re.escape(repr(value))}, needed {needed}$"
    for make in (eqprop.grid, eqprop.zipped):
        with pytest.raises(ConfigError, match=text):
            make(Needy(1), **{field: [value]})
    with pytest.raises(ConfigError, match=text):
        eqprop.random_points(Needy(1), 2, draw_seed=0, **{field: [value]})


def test_items_are_looked_at_too_and_other_types_are_not() -> None:
    (point,) = eqprop.grid(Needy(1), rates=[(1, 0.5)], anything=[{"a": 1}], either=[[2, 3]])
    assert point.rates == (1.0, 0.5) and type(point.rates[0]) is float
    assert point.anything == {"a": 1} and point.either == [2.0, 3.0]
    with pytest.raises(ConfigError, match=r"rates\[1\]: got 'x', needed a number"):
        eqprop.grid(Needy(1), rates=[(0.1, "x")])
    with pytest.raises(ConfigError, match="either: got 'x', needed a number or a tuple"):
        eqprop.grid(Needy(1), either=["x"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: eqprop.grid(Config, bata=[1]), "got 'bata'.*did you mean 'beta'"),
        (lambda: eqprop.grid(Config, **{"part.adc_bit": [1]}), r"Part \(part\..*did you mean 'adc_bits'"),
        (lambda: eqprop.grid(Config, **{"beta.x": [1]}), "'beta', which holds 0.1; needed a dataclass there"),
        (lambda: eqprop.grid(Config, beta=[]), "beta: got no value, which makes an empty grid"),
        (lambda: eqprop.grid(Config, beta=cast(Any, 0.1)), r"beta: got 0.1.*write beta=\[0.1\]"),
        (lambda: eqprop.grid(Config, what="raise"), r"write what=\['raise'\]"),
        (lambda: eqprop.grid([], beta=[1]), "no config to vary"),
        (lambda: eqprop.grid(Changeable, beta=[1]), r"@dataclass\(frozen=True\)"),
        (lambda: eqprop.grid(dict, beta=[1]), "got dict, needed a dataclass"),
        (lambda: eqprop.grid(Needy, rate=[1]), "no value for 'needed', which has no default"),
        (lambda: eqprop.zipped(Config, beta=[1, 2], seed=[1]), "2 for beta, 1 for seed"),
        (lambda: eqprop.random_points(Config, 0, draw_seed=0), "got n = 0"),
        (lambda: eqprop.log_uniform(0, 1), "both above 0"),
        (lambda: eqprop.uniform(1, 1), "a lower and a higher bound"),
        (lambda: eqprop.child_seeds(0), "got 0"),
    ],
)
def test_mistakes_are_named(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_what_json_cannot_hold_is_named_by_its_field() -> None:
    with pytest.raises(ConfigError, match=r"config.part.noise: got complex"):
        plain(Config(part=Part(noise=1j)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"config.part\[1\]\['x'\]: got set"):
        plain(Config(part=[0, {"x": set()}]))  # type: ignore[arg-type]


def test_columns_are_dotted_names_and_lists_are_texts() -> None:
    found = flat(plain(Needy(1, rate=None)))
    assert found == {
        "needed": 1, "part.class": "Part", "part.adc_bits": 4, "part.noise": 0.0, "rate": None, "rates": "[0.1, 0.2]",
        "text": "", "on": False, "anything": None, "either": 0.1,
    }  # fmt: skip
