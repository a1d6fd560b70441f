"""Errors of the scripts as those of sweeps: they name fields of a config, not options of a command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from eqprop._errors import ConfigError, DataError

_OPTION = re.compile(r"--([a-z0-9][a-z0-9-]*)( (?=\S))?")


def options(config: Any, renamed: Mapping[str, str] | None = None, prefix: str = "") -> dict[str, str]:
    """Fields of a config by the options of the script that have their names: {"free-sweeps": "rule.free_sweeps", ...}.

    Args:
        config: a dataclass, with dataclasses in its fields.
        renamed: options that have other names than their fields, as {"rule": "rule.name"}.
        prefix: of the fields.
    """
    made: dict[str, str] = {}
    for own in fields(config):
        value = getattr(config, own.name)
        if is_dataclass(value):
            made |= options(value, prefix=f"{prefix}{own.name}.")
        else:
            made[own.name.replace("_", "-")] = f"{prefix}{own.name}"
    return made | dict(renamed or {})


@contextmanager
def in_fields(names: Mapping[str, str]) -> Iterator[None]:
    """Raises errors that tell of options again, of the fields: "rule.beta=0.2" for "--beta 0.2"."""

    def named(found: re.Match[str]) -> str:
        field = names.get(found[1])
        return found[0] if field is None else field + ("=" if found[2] else "")

    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(_OPTION.sub(named, str(error))) from error


def require_device(name: str) -> None:
    """Raises ConfigError for what names no device. Whether it is here is for the process that computes to say."""
    try:
        torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: got {name!r}, needed cpu, cuda or cuda:N") from error


def require_held_out(images: int | None) -> None:
    """Raises ConfigError for a number of validation images that cannot be; None is the usual number."""
    if images is not None and images < 0:
        raise ConfigError(f"data.validation: got {images}, needed at least 0, or none for the usual number")
