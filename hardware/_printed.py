"""Settings that print what was set, and nothing else."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields


@dataclass(frozen=True, repr=False)
class Printed:
    """Base of settings: ``repr`` shows the fields that are not at their defaults."""

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            value = getattr(self, f.name)
            if default is MISSING or value != default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
