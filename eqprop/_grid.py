"""The points of a sweep: grids, zips and random draws over frozen dataclasses, nested ones by dotted names."""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from eqprop._errors import ConfigError
from eqprop._names import lookup


def grid(base: Any, /, **values: Iterable[Any]) -> list[Any]:
    """Every combination of ``values``, the last name varying fastest.

    ``grid(Config, beta=[0.1, 0.2], seed=range(5), **{"substrate.adc_bits": [8, 10]})`` makes 20 configs.

    Args:
        base: a frozen dataclass; one of its objects, which gives the other fields; or several objects, as ``zipped``
            and ``random_points`` return, each of which is combined with all values.
        values: the values of a field; ``a.b`` is the field ``b`` of the dataclass in field ``a``. A field that holds
            None and may hold one dataclass gets one with the defaults.

    Raises:
        ConfigError: an unknown field (with the nearest right one), no values, values that the dataclass refuses, or
            that are not of the field's type: of bools, numbers, texts and None; whole numbers become floats where
            these are declared.
    """
    columns = {name: _listed(name, given) for name, given in values.items()}
    bases = _bases(base)
    return [
        changed(one, dict(zip(columns, chosen, strict=True)))
        for one in bases
        for chosen in itertools.product(*columns.values())
    ]


def zipped(base: Any, /, **values: Iterable[Any]) -> list[Any]:
    """The first values of all fields together, then the second, and so on; otherwise as ``grid``.

    ``grid(zipped(Config, beta=[0.1, 0.2], lr=[0.3, 0.2]), seed=range(5))`` makes 10 configs.

    Raises:
        ConfigError: as ``grid``, and lists of different lengths.
    """
    columns = {name: _listed(name, given) for name, given in values.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{n} for {name}" for name, n in lengths.items())
        raise ConfigError(f"zipped: got {counts}; needed as many values for each field")
    rows = list(zip(*columns.values(), strict=True)) if columns else [()]
    return [changed(one, dict(zip(columns, row, strict=True))) for one in _bases(base) for row in rows]


@dataclass(frozen=True)
class Between:
    """A number drawn between two bounds, see ``uniform`` and ``log_uniform``."""

    low: float
    high: float
    log: bool

    def draw(self, generator: np.random.Generator) -> float:
        """One number."""
        share = float(generator.random())
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


def uniform(low: float, high: float) -> Between:
    """A number between ``low`` and ``high``, for ``random_points``. Raises ConfigError for bounds that are none."""
    return _between("uniform", low, high, log=False)


def log_uniform(low: float, high: float) -> Between:
    """A number whose logarithm is uniform, for ``random_points``. Raises ConfigError for bounds not above 0."""
    return _between("log_uniform", low, high, log=True)


def _between(name: str, low: float, high: float, *, log: bool) -> Between:
    if not (math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)):
        above = ", both above 0" if log else ""
        raise ConfigError(f"{name}: got {low!r} and {high!r}, needed a lower and a higher bound{above}")
    return Between(float(low), float(high), log)


def random_points(base: Any, n: int, /, *, draw_seed: int, **values: Between | Iterable[Any]) -> list[Any]:
    """``n`` random configs (of each base).

    ``random_points(Config, 50, draw_seed=0, beta=log_uniform(1e-3, 1), bits=[8, 10, 12])``. Every point is drawn with
    a generator of its own, a child of ``numpy.random.SeedSequence(draw_seed)``, and every field from a child of that:
    more points go on where fewer ended, and another field does not change the draws of the ones before it.

    Args:
        base: see ``grid``.
        n: how many.
        draw_seed: of the draws; the field ``seed`` of a config is a field like others.
        values: ``uniform`` or ``log_uniform`` bounds, or values of which one is chosen.

    Raises:
        ConfigError: as ``grid``.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"random_points: got n = {n!r}, needed a whole number of at least 1")
    sources = {name: v if isinstance(v, Between) else _listed(name, v) for name, v in values.items()}
    made = []
    for one in _bases(base):
        for point in np.random.SeedSequence(draw_seed).spawn(n):
            children = zip(sources.items(), point.spawn(len(sources)), strict=True)
            made.append(changed(one, {name: _drawn(source, child) for (name, source), child in children}))
    return made


def _drawn(source: Between | Sequence[Any], child: np.random.SeedSequence) -> Any:
    generator = np.random.default_rng(child)
    if isinstance(source, Between):
        return source.draw(generator)
    return source[int(generator.integers(len(source)))]


def child_seeds(n: int, root: int = 0) -> list[int]:
    """``n`` independent seeds below 2^32, children of ``numpy.random.SeedSequence(root)``; more of them go on.

    Raises:
        ConfigError: fewer than one, or a negative root.
    """
    if n < 1 or root < 0:
        raise ConfigError(f"child_seeds: got {n} of root {root}; needed at least 1, and a root of at least 0")
    return [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(root).spawn(n)]


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"{name}: got {given!r}, needed a list of values; write {name}=[{given!r}]")
    listed = list(given)
    if not listed:
        raise ConfigError(f"{name}: got no value, which makes an empty grid; needed at least one")
    return listed


def _bases(base: Any) -> list[Any]:
    several = isinstance(base, Iterable) and not isinstance(base, type | str | Mapping)
    bases = list(base) if several else [base]
    if not bases:
        raise ConfigError("points: got no config to vary, needed at least one")
    for one in bases:
        require_config(one)
    return bases


def require_config(given: Any) -> None:
    """Raises ConfigError for what is no frozen dataclass, nor an object of one."""
    cls = given if isinstance(given, type) else type(given)
    if not is_dataclass(cls):
        raise ConfigError(f"config: got {cls.__name__}, needed a dataclass; write @dataclass(frozen=True) above it")
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"config: got {cls.__name__}, which can change; write @dataclass(frozen=True) above it")


def changed(base: Any, changes: Mapping[str, Any], where: str = "") -> Any:
    """An object of a dataclass (or like an object of one), with other values for fields with dotted names."""
    cls = base if isinstance(base, type) else type(base)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls) if f.init}
    hints = _hints(cls)
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, _, rest = path.partition(".")
        lookup(f"field of {cls.__name__}{where and f' ({where})'}", head, known)
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            own[head] = _fitting(hints.get(head, Any), value, f"{where}{head}")
    for head, inner in nested.items():
        if head in own and own[head] is None:
            continue  # this point is without that part
        start = own.get(head, _current(base, known[head]))
        own[head] = changed(_part(start, hints.get(head), f"{where}{head}", inner), inner, f"{where}{head}.")
    try:
        return cls(**own) if isinstance(base, type) else replace(base, **own)
    except TypeError as error:
        missing = [n for n, f in known.items() if n not in own and f.default is f.default_factory is MISSING]
        if not isinstance(base, type) or not missing:
            raise
        raise ConfigError(
            f"{cls.__name__}: got no value for {missing[0]!r}, which has no default; write {missing[0]}=[...], or "
            f"give an object, {cls.__name__}({missing[0]}=...), in place of the class"
        ) from error


def _current(base: Any, field: Field[Any]) -> Any:
    """What the field holds; MISSING for a class whose field has no default."""
    if not isinstance(base, type):
        return getattr(base, field.name)
    factory: Callable[[], Any] | Any = field.default_factory
    return factory() if factory is not MISSING else field.default


def _part(value: Any, hint: Any, path: str, inner: Mapping[str, Any]) -> Any:
    """The dataclass (or object of one) that a nested name goes into."""
    if is_dataclass(value):
        return value
    allowed = [kind for kind in (typing.get_args(hint) or (hint,)) if isinstance(kind, type) and is_dataclass(kind)]
    if (value is None or value is MISSING) and len(allowed) == 1:
        return allowed[0]
    name = f"{path}.{next(iter(inner))}"
    raise ConfigError(
        f"{name}: got a field of {path!r}, which holds {'nothing' if value is MISSING else repr(value)}; needed a "
        f"dataclass there; write {path}=[...] with whole objects"
    )


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):  # names that only exist inside a function
        return {}


def fitted(config: Any, where: str = "") -> Any:
    """A config with whole numbers as floats where a float is declared: ``Config(beta=1)`` is ``Config(beta=1.0)``.

    Raises:
        ConfigError: a value that is not of its field's type, see ``grid``.
    """
    hints = _hints(type(config))
    changes: dict[str, Any] = {}
    for field in fields(config):
        name, value = f"{where}{field.name}", getattr(config, field.name)
        made = _fitting(hints.get(field.name, Any), value, name)
        if is_dataclass(made) and not isinstance(made, type):
            made = fitted(made, f"{name}.")
        if made is not value and field.init:
            changes[field.name] = made
    return replace(config, **changes) if changes else config


# types whose values are looked at; all values of others pass
_KINDS: dict[Any, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", types.NoneType: "None",
    tuple: "a tuple", list: "a list",
}  # fmt: skip


def _fitting(hint: Any, value: Any, name: str) -> Any:
    """NumPy's numbers as Python's, and whole numbers as floats where a float is declared: 1 and 1.0 are one point.

    Raises ConfigError for a value that is not of the declared type.
    """
    if isinstance(value, np.generic):
        value = value.item()
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    allowed = {typing.get_origin(one) or one: one for one in (typing.get_args(hint) if union else (hint,))}
    kind = next((known for known in _KINDS if isinstance(value, known)), type(value))
    if kind is int and float in allowed and int not in allowed:
        return float(value)
    if kind in (tuple, list) and not allowed.keys().isdisjoint((tuple, list)):  # JSON does not tell them apart
        item = _item(allowed.get(kind, allowed.get(tuple, allowed.get(list))))
        made = [_fitting(item, one, f"{name}[{i}]") for i, one in enumerate(value)]
        return value if all(a is b for a, b in zip(made, value, strict=True)) else kind(made)
    if kind in allowed or any(one not in _KINDS and not is_dataclass(one) for one in allowed):
        return value
    if any(isinstance(one, type) and is_dataclass(one) and isinstance(value, one) for one in allowed):
        return value
    needed = " or ".join(_KINDS.get(one) or f"a {one.__name__}" for one in allowed)
    raise ConfigError(f"{name}: got {value!r}, needed {needed}")


def _item(hint: Any) -> Any:
    """The type of the items of a sequence, where there is but one."""
    given = typing.get_args(hint)
    return given[0] if len(given) == 1 or (len(given) == 2 and given[1] is Ellipsis) else Any
