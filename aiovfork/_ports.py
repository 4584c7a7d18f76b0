"""Which loop has which completion port, and what becomes of them in the child of a fork.

Layer: above the port. Thread: that of the loop that is asked for.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable

from aiovfork._binding import lib
from aiovfork._port import CompletionPort

# Weak on both sides: a port refers to its loop through the transports of living children, and must not keep
# a closed one alive.
_ports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[CompletionPort]]
# No lock: each operation is one of a dict, which is atomic by the GIL, or by a lock of the dict's own; and
# each is on a key, a loop, that belongs to one thread. A lock of ours could deadlock: in any of them the
# garbage collector may find a forgotten loop, whose close() comes here. Only the child of a fork iterates,
# and it has one thread. close() beside a drain of another thread, which nobody should do, is safe: the
# drain goes on with a batch that lives as long as the port, and finds no sinks.
_ports = weakref.WeakKeyDictionary()
# The last one used: nearly always the one that is asked for. Replaced whole, so no thread sees half of it.
_latest: Callable[[], CompletionPort | None] = lambda: None  # noqa: E731


def port_of(loop: asyncio.AbstractEventLoop) -> CompletionPort:
    """Return the port of a running loop, opening it at the first use."""
    global _latest  # noqa: PLW0603
    port = _latest()
    if port is not None and port.serves(loop):
        return port
    known = _ports.get(loop)
    port = known() if known is not None else None
    if port is None or port.closed:
        port = CompletionPort(loop)
        _ports[loop] = weakref.ref(port)
    _latest = weakref.ref(port)
    return port


def close_port_of(loop: asyncio.AbstractEventLoop) -> None:
    """Close the port, if there is one, of a loop that is about to close. One that runs is about to refuse."""
    known = _ports.pop(loop, None) if not loop.is_running() else None
    port = known() if known is not None else None
    if port is not None:
        port.close()


def _after_fork_in_child() -> None:
    global _latest  # noqa: PLW0603  # it is of the parent's loop
    _latest = lambda: None  # noqa: E731
    # uvloop forks for its own children with a handler that runs this, perhaps before the core's. As long as
    # the core has not closed a port here, to take its reader out would take the parent's out.
    lib.avf_after_fork()
    for known in list(_ports.values()):
        port = known()
        if port is not None:
            port.forget()
    _ports.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
