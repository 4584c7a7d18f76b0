"""Where uvloop differs from asyncio, and the loop that is made of it. It is imported only when it is used.

Layer: above the pipes, below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import io
import os
from typing import Any


def pipe_file(loop: asyncio.AbstractEventLoop, fd: int, *, writable: bool) -> io.FileIO:
    """Wrap the parent's end of a pipe for connect_pipe.

    asyncio's transports close the file. uvloop's let libuv close the descriptor and then close the file as
    well (UVSocketHandle._close): there the file must not close a number that may be somebody else's by then.
    """
    return io.FileIO(fd, "wb" if writable else "rb", closefd=isinstance(loop, asyncio.BaseEventLoop))


def stdin_pipe(loop: asyncio.AbstractEventLoop, pipe: Any) -> asyncio.BaseTransport:
    """Return a write pipe of this loop as one that behaves as asyncio's."""
    return pipe if isinstance(loop, asyncio.BaseEventLoop) else _Stdin(pipe)


def new_loop(mixin: Any) -> asyncio.AbstractEventLoop:
    """Return a new uvloop.Loop with this mixin before it.

    Raises:
        ImportError: uvloop is not installed.
    """
    loop: asyncio.AbstractEventLoop = _loop_class(mixin)()
    # libuv opens a spare descriptor with a loop's first stream. Have it opened now: opened by the first spawn
    # it would look like a leak. If a future uvloop rejects this, ignore it: the loop still works.
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


class _Stdin(asyncio.Transport):
    """A write pipe of uvloop that takes writes after its end as asyncio's does: they go nowhere.

    Inherits asyncio.Transport, so pause_reading exists and raises NotImplementedError.

    uvloop's raises a RuntimeError. A child may close its stdin, or exit, at any moment, and asyncio's
    communicate() is ready for what drain() then raises, not for that.
    """

    def __init__(self, pipe: asyncio.WriteTransport) -> None:
        super().__init__()
        self._pipe = pipe
        self._ended = False

    def write(self, data: Any) -> None:
        """Write, unless the pipe is closing."""
        if not self.is_closing():
            self._pipe.write(data)

    def write_eof(self) -> None:
        """Close after what has been written, unless the pipe is closing."""
        if not self.is_closing():
            self._ended = True
            self._pipe.write_eof()

    def can_write_eof(self) -> bool:
        """As the pipe."""
        return self._pipe.can_write_eof()

    def is_closing(self) -> bool:
        """Whether it is closed, or will be after what has been written."""
        return self._ended or self._pipe.is_closing()

    def close(self) -> None:
        """Close after what has been written."""
        self._pipe.close()

    def abort(self) -> None:
        """Close at once."""
        self._pipe.abort()

    def get_write_buffer_size(self) -> int:
        """As the pipe."""
        return self._pipe.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """As the pipe."""
        pipe: Any = self._pipe  # typeshed does not know that it has them
        limits: tuple[int, int] = pipe.get_write_buffer_limits()
        return limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As the pipe."""
        self._pipe.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the pipe."""
        return self._pipe.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As the pipe."""
        return self._pipe.get_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As the pipe."""
        self._pipe.set_protocol(protocol)

    def __repr__(self) -> str:
        return repr(self._pipe)
