"""uvloop's event loop with a mixin. uvloop is imported only when it is used.

Layer: lowest. Thread: any.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
from typing import Any


def new_loop(mixin: Any) -> asyncio.AbstractEventLoop:
    """Return a new uvloop.Loop with this mixin before it.

    Raises:
        ImportError: uvloop is not installed.
    """
    loop: asyncio.AbstractEventLoop = _loop_class(mixin)()
    # libuv opens a spare descriptor with a loop's first stream. Have it opened now: to whoever counts
    # descriptors around a child it would look like a leak. If a future uvloop rejects this, ignore it: the
    # loop still works.
    with contextlib.suppress(Exception):
        loop.connect_read_pipe(asyncio.Protocol, _NoPipe()).send(None)
    return loop


@functools.cache
def _loop_class(mixin: Any) -> Any:
    try:
        import uvloop  # noqa: PLC0415  # an extra
    except ImportError as exc:
        message = "new_uvloop_event_loop() needs uvloop: pip install 'aiovfork[uvloop]'"
        raise ImportError(message, name="uvloop") from exc
    about = {
        "__module__": mixin.__module__,
        "__doc__": "uvloop's event loop, with children started by aiovfork.",
    }
    return type("UvloopEventLoop", (mixin, uvloop.Loop), about)


class _NoPipe:
    """What cannot be connected; a loop learns that when it has made the stream."""

    def fileno(self) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
