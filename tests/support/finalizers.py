"""What objects say when they are collected."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_finalizers() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what the block has left, and fail if a __del__ raises.

    ResourceWarnings are recorded, and do not raise: of what is left open they are due; and uvloop warns of open
    pipes when a loop is closed, and hangs if that raises.
    """
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            yield caught
            gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not [event.exc_value for event in unraisable]
