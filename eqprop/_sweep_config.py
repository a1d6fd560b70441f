"""What identifies a point of a sweep: its config as plain JSON, and the version of the code that computes it."""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any

from eqprop._errors import ConfigError
from eqprop._runs import commit_of_checkout

CLASS = "$class"  # names the class of a dataclass, beside its fields


def plain(value: Any, where: str = "config") -> Any:
    """A config as JSON: dataclasses (with their class), lists, dicts with text keys, texts, numbers and None.

    Raises:
        ConfigError: anything else; names the field.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
        return {CLASS: type(value).__qualname__.rpartition(".")[2]} | own
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(v, f"{where}[{key!r}]") for key, v in value.items()}
    if isinstance(value, bool | int | float | str):  # subclasses of them
        return value
    raise ConfigError(
        f"{where}: got {type(value).__name__}, needed what JSON can hold: numbers, texts, None, tuples, dicts with "
        "text keys, and frozen dataclasses of these; let run() make the object from such values"
    )


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plain config as columns: dotted names, lists as JSON text."""
    columns: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            columns |= flat(item, f"{name}.")
        elif key == CLASS:
            if prefix:  # of the whole config it says nothing
                columns[name.replace(CLASS, "class")] = item
        else:
            columns[name] = json.dumps(item) if isinstance(item, list | dict) else item
    return columns


def point_key(config: Any, version: str) -> str:
    """The name of a point: a hash of its config and of the version of the code."""
    text = json.dumps({"config": config, "version": version}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def run_name(run: Callable[..., Any]) -> str:
    """Module and name of the function; a script goes by its file's name.

    Raises:
        ConfigError: no function at the top level of a module, which another process could not find.
    """
    name = getattr(run, "__qualname__", "")
    if not name or "<" in name or "." in name:
        shown = name or type(run).__name__
        raise ConfigError(
            f"run: got {shown!r}, needed a function at the top level of a module, which other processes can import; "
            "write def run(config): ... there, and put what it needs into the config"
        )
    module = run.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else "interactive"
    return f"{module}.{name}"


def code_version(run: Callable[..., Any], run_many: Callable[..., Any] | None = None) -> str:
    """Version of the package, name of ``run``, and hashes of both sources without comments and layout."""
    import eqprop

    together = "" if run_many is None else f", of many {_source_hash(run_many)}"
    return f"eqprop {eqprop.__version__}, {run_name(run)}, source {_source_hash(run)}{together}"


def _source_hash(function: Callable[..., Any]) -> str:
    try:
        source = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):  # typed into an interpreter, or compiled
        return "unknown"
    return hashlib.sha256(source.encode()).hexdigest()[:12]


@functools.cache
def code_state() -> str:
    """What computes points now: the commit of this checkout, with "+" if it has changes, or the package's version."""
    import eqprop

    return commit_of_checkout() or f"eqprop {eqprop.__version__}"
