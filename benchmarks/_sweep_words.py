"""Words of the command line of sweeps: values of fields, random draws, and the figures that are asked for."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import eqprop
from eqprop._errors import ConfigError
from eqprop._names import lookup

_WORDS = {"none": None, "true": True, "false": False}
KINDS = ("curves", "map", "front")
_CURVES = ("x", "y", "by", "panels")
_PARTS: dict[str, tuple[str, ...]] = {
    "curves": _CURVES,
    "map": ("x", "y", "value", "panels", "best"),
    "front": (*_CURVES, "maximise"),
}


def named_values(option: str, words: Sequence[str]) -> dict[str, list[Any]]:
    """{"rule.beta": [0.05, 0.1]} of ["rule.beta=0.05,0.1"]. Raises ConfigError for other words."""
    found: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise ConfigError(f"{option}: got {word!r}, needed NAME=VALUE,VALUE,..., as {option} rule.beta=0.05,0.1")
        if name in found:
            raise ConfigError(f"{option}: got {name} twice; write all its values once, as {option} {name}=1,2")
        found[name] = values(text)
    return found


def values(text: str) -> list[Any]:
    """[8, 10] of "8,10"; numbers, none, true, false, tuples in brackets, and otherwise texts."""
    return [_value(part.strip()) for part in _split(text)]


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(found) if isinstance(found, list) else found


def draws(words: Sequence[str]) -> dict[str, Any]:
    """What `eqprop.random_points` draws from: NAME=log:LOW:HIGH, NAME=uniform:LOW:HIGH, or NAME=VALUE,VALUE,..."""
    found: dict[str, Any] = {}
    for name, given in named_values("--random", words).items():
        kind, *bounds = str(given[0]).split(":") if len(given) == 1 else ("", "")
        if kind in ("log", "uniform"):
            try:
                low, high = (float(bound) for bound in bounds)
            except ValueError as error:
                raise ConfigError(
                    f"--random: got {name}={given[0]}, needed two bounds, as {name}=log:1e-3:1"
                ) from error
            found[name] = (eqprop.log_uniform if kind == "log" else eqprop.uniform)(low, high)
        else:
            found[name] = given
    return found


@dataclass(frozen=True)
class Plot:
    """A figure that was asked for: its kind, and columns by their part in it."""

    kind: str
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file."""
        words = [self.kind, *(str(v) for v in self.parts.values())]
        return "-".join("".join(c if c.isalnum() else "_" for c in word) for word in words)

    def draw(self, frame: Any, title: str) -> Any:
        """The figure."""
        parts = dict(self.parts)
        if self.kind == "map":
            shown = parts.pop("value").split(",")
            return eqprop.sweep_map(frame, parts.pop("x"), parts.pop("y"), shown, **parts, title=title)
        x, y = parts.pop("x"), parts.pop("y")
        if self.kind == "front":
            best = tuple(str(parts.pop("maximise", "")).split(",")) if parts.get("maximise") else ()
            return eqprop.pareto_figure(frame, x, y, **parts, maximise=best, title=title)
        return eqprop.sweep_curves(frame, x, y, **parts, title=title)


def plot(words: Sequence[str]) -> Plot:
    """The figure of ["map", "x=...", "y=...", "value=..."]; curves if no kind is given."""
    kind = words[0] if words and "=" not in words[0] else "curves"
    lookup("--plot", kind, dict.fromkeys(KINDS))
    parts: dict[str, Any] = {}
    for word in words[1 if words and "=" not in words[0] else 0 :]:
        name, _, column = word.partition("=")
        lookup(f"--plot {kind}", name, dict.fromkeys(_PARTS[kind]))
        parts[name] = column
    needed = ("x", "y", "value") if kind == "map" else ("x", "y")
    missing = [name for name in needed if not parts.get(name)]
    if missing:
        raise ConfigError(f"--plot {kind}: needed {missing[0]}=COLUMN, as --plot x=rule.beta y=test_error_percent")
    return Plot(kind, parts)
