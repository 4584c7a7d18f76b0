"""A SubprocessProtocol that notes what it is told, in order, and lets a test wait for it."""

from __future__ import annotations

import asyncio
from typing import Any


class Recorder(asyncio.SubprocessProtocol):
    """Notes calls as strings: connection_made, data 1, pipe lost 1, exited, lost."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.output: dict[int, bytes] = {1: b"", 2: b""}
        self.transport: Any = None
        self.returncode_at_exit: int | None = None
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def _note(self, call: str) -> None:
        # A run of data calls is one: how the kernel cuts output is no promise.
        if not (call.startswith("data") and self.calls[-1:] == [call]):
            self.calls.append(call)
        for expected, future in self._waiting.items():
            if expected == call and not future.done():
                future.set_result(None)

    async def wait_for(self, call: str) -> None:
        """Wait until a call has come."""
        if call not in self.calls:
            future = self._waiting.setdefault(call, asyncio.get_running_loop().create_future())
            await asyncio.shield(future)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The child runs."""
        self.transport = transport
        self._note("made")

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Output."""
        self.output[fd] += data
        self._note(f"data {fd}")

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """A pipe has ended."""
        del exc
        self._note(f"pipe lost {fd}")

    def process_exited(self) -> None:
        """The child has exited."""
        self.returncode_at_exit = self.transport.get_returncode()
        self._note("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        """Everything is over."""
        assert exc is None
        self._note("lost")
