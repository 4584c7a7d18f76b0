"""The parent's ends of a child's pipes, as pipe transports of whatever loop it is.

Layer: below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiovfork._transport import SubprocessTransport


class PipeProtocol(asyncio.Protocol):
    """Passes what happens on one pipe to the subprocess transport, which owns the order of events."""

    def __init__(self, owner: SubprocessTransport, fd: int) -> None:
        self._owner = owner
        self._fd = fd

    def data_received(self, data: bytes) -> None:
        """Output of the child."""
        self._owner.pipe_data_received(self._fd, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The last event of this pipe."""
        self._owner.pipe_connection_lost(self._fd, exc)

    def pause_writing(self) -> None:
        """The child reads stdin more slowly than it is written."""
        self._owner.get_protocol().pause_writing()

    def resume_writing(self) -> None:
        """The buffer of stdin has room again."""
        self._owner.get_protocol().resume_writing()


def pipe_file(loop: asyncio.AbstractEventLoop, fd: int, *, writable: bool) -> io.FileIO:
    """Wrap the parent's end of a pipe for connect_pipe.

    asyncio's transports close the file. uvloop's let libuv close the descriptor and then close the file as
    well (UVSocketHandle._close): there the file must not close a number that may be somebody else's by then.
    """
    return io.FileIO(fd, "wb" if writable else "rb", closefd=isinstance(loop, asyncio.BaseEventLoop))


async def connect_pipe(
    loop: asyncio.AbstractEventLoop, protocol: PipeProtocol, file: io.FileIO
) -> asyncio.BaseTransport:
    """Give one end to the loop, which owns and closes it from then on, even if this fails."""
    if not file.writable():
        return (await loop.connect_read_pipe(lambda: protocol, file))[0]
    transport = (await loop.connect_write_pipe(lambda: protocol, file))[0]
    return transport if isinstance(loop, asyncio.BaseEventLoop) else _Stdin(transport)


class _Stdin(asyncio.Transport):  # whose pause_reading is not implemented, rather than missing, as asyncio's
    """A write pipe of uvloop that takes writes after its end as asyncio's does: they go nowhere.

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
