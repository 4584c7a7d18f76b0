"""The parent's ends of a child's pipes, as pipe transports of a loop.

Layer: below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any, Protocol


class Owner(Protocol):
    """Whom the events of a child's pipes are for: the subprocess transport, which owns their order."""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """The child has written to its stdout (1) or stderr (2)."""

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """The last event of a pipe."""

    def get_protocol(self) -> Any:
        """Return the protocol, whose pause_writing and resume_writing are about stdin."""


class PipeProtocol(asyncio.Protocol):
    """Passes what happens on one pipe to its owner."""

    def __init__(self, owner: Owner, fd: int) -> None:
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
    """Give one end to the loop, which owns and closes it from then on, even if this fails."""
    if file.writable():
        return (await loop.connect_write_pipe(lambda: protocol, file))[0]
    return (await loop.connect_read_pipe(lambda: protocol, file))[0]
