"""The parent's ends of a child's pipes, as pipe transports of whatever loop it is.

Layer: below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

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
    if file.writable():
        return (await loop.connect_write_pipe(lambda: protocol, file))[0]
    return (await loop.connect_read_pipe(lambda: protocol, file))[0]
