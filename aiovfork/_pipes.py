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


async def connect_pipe(
    loop: asyncio.AbstractEventLoop, protocol: PipeProtocol, file: io.FileIO
) -> asyncio.BaseTransport:
    """Give one end to the loop, which owns and closes it from then on."""
    connect = loop.connect_write_pipe if file.writable() else loop.connect_read_pipe
    transport, _ = await connect(lambda: protocol, file)  # type: ignore[arg-type]
    return transport
