"""Exceptions as the stdlib knows them."""

from __future__ import annotations

from typing import Any

import aiovfork


def stdlib_type(exc: BaseException) -> type[BaseException]:
    """Return the type of an exception; of a SpawnError the one of the stdlib that it is too."""
    kinds: Any = type(exc).__mro__
    found: type[BaseException] = next(kind for kind in kinds if not issubclass(kind, aiovfork.SpawnError))
    return found
