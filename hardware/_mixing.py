"""Classes made of a mixin and the class of an object, so that the object stays what it was and becomes more."""

from __future__ import annotations

from functools import cache
from typing import Any


def mixed_class(mixin: type, base: type) -> type:
    """``class BaseOnChip(mixin, base)``, one and the same at every call."""
    made: type = _mixed_class(mixin, base)
    return made


@cache
def _mixed_class(mixin: Any, base: Any) -> type:
    return type(f"{base.__name__}OnChip", (mixin, base), {"__doc__": mixin.__doc__, "__module__": mixin.__module__})


def blank(mixin: type, base: type) -> Any:
    """An empty object of the mixed class, which no module holds by name: for copies and pickles."""
    made = mixed_class(mixin, base)
    return object.__new__(made)


class Mixin:
    """Base of mixins: objects of mixed classes can be copied and pickled."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        mixin, base = type(self).__bases__
        return blank, (mixin, base), self.__dict__
