"""Recording audit events. A hook can never be removed: one is installed, and listens only when asked to."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_listeners: list[Callable[[str, tuple[Any, ...]], None]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for listener in _listeners:
        listener(event, args)


_installed: list[bool] = []


@contextlib.contextmanager
def listening(listener: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Have each audit event of this process told to a listener, whose exceptions veto it."""
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def recorded(name: str) -> Iterator[list[tuple[int, tuple[Any, ...]]]]:
    """Record the events of a name, with the thread that each came from."""
    events: list[tuple[int, tuple[Any, ...]]] = []

    def listener(event: str, args: tuple[Any, ...]) -> None:
        if event == name:
            events.append((threading.get_ident(), args))

    with listening(listener):
        yield events
