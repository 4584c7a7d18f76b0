"""Readers of a child's output that let the collector read what is wanted whole.

Layer: above collections, below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from aiovfork._collection import Collection, Kept
from aiovfork._compat import AsyncioStreamReader
from aiovfork._pipes import ReadPipe, Stage

# What a callback of the loop copies.
_SLICE: Final = 2**18


class Lender(Protocol):
    """Whose the pipes are: the subprocess transport."""

    def kept(self, *, shared: bool) -> Kept:
        """Return what output can be kept in."""

    def collection(self, *fds: int) -> Collection:
        """Return what lends the pipes of some fds."""


class OutputReader(AsyncioStreamReader):
    """asyncio's StreamReader of a pipe that is idle until somebody reads it.

    read() without a number has the collector read to the end; so has Process.communicate(). What was read
    when that is cancelled stays the reader's: it comes before what is in its buffer.
    """

    kept: Kept | None = None
    _busy = False

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, pipe: ReadPipe) -> None:
        super().__init__(limit=limit, loop=loop)
        self.set_transport(pipe)
        self.fd = pipe.fd
        self._pipe = pipe

    # ---- asyncio.StreamReader ----

    async def read(self, n: int = -1) -> bytes:
        """Read up to n bytes, or all to the end of the pipe, as asyncio's."""
        if n < 0:
            return await self._read_all()
        if n:
            await self._begin("read")
        return await super().read(n)

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read up to and with a separator, as asyncio's. readline() and `async for` call it."""
        await self._begin("readuntil")
        return await super().readuntil(separator)

    async def readexactly(self, n: int) -> bytes:
        """Read n bytes, as asyncio's."""
        await self._begin("readexactly")
        return await super().readexactly(n)

    def at_eof(self) -> bool:
        """Whether the pipe has ended and everything was read."""
        return self.kept is None and super().at_eof()

    # ---- kept output ----

    def refuse_if_busy(self, name: str) -> None:
        """Let one coroutine read at a time, as asyncio's.

        Raises:
            RuntimeError: Another one does.
        """
        if self._busy or self._waiter is not None or self._pipe.stage is Stage.LENT:
            message = f"{name}() called while another coroutine is already waiting for incoming data"
            raise RuntimeError(message)

    def hand_over(self, kept: Kept) -> None:
        """Put the buffer behind what is kept."""
        if self._buffer:
            kept.capture.feed(self.fd, self._buffer)
            self._buffer.clear()
            self._maybe_resume_transport()
        self.kept = kept

    async def settle(self) -> None:
        """Put what is kept before the buffer."""
        if self.kept is None:
            return
        self._busy = True
        try:
            data = memoryview((await self.kept.output())[self.fd - 1])
            buffer = bytearray()
            for at in range(0, len(data), _SLICE):
                buffer += data[at : at + _SLICE]
                await asyncio.sleep(0)
            buffer += self._buffer
            self._buffer, self.kept = buffer, None
        finally:
            self._busy = False

    async def read_here(self, kept: Kept) -> None:
        """Read to the end on the loop, for want of a collector, behind what was handed over."""
        self._pipe.start()
        while chunk := await super().read(_SLICE):
            kept.capture.feed(self.fd, chunk)

    async def _begin(self, name: str) -> None:
        if self.kept is None and self._pipe.stage is Stage.OPEN:
            return
        self.refuse_if_busy(name)
        await self.settle()
        self._pipe.start()

    async def _read_all(self) -> bytes:
        self.refuse_if_busy("read")
        exc = self.exception()
        if exc is not None:
            raise exc
        lender: Lender = self._pipe.lender
        if self._pipe.is_closing():
            await self.settle()
            return await super().read()
        kept = self.kept
        if kept is None or kept.shared or kept.spent:
            await self.settle()
            kept = lender.kept(shared=False)
        self.hand_over(kept)
        collection = lender.collection(self.fd)
        try:
            try:
                collection.start(kept.capture)
                await collection.wait()
            except BlockingIOError:  # no thread can be had (RLIMIT_NPROC)
                await self.read_here(kept)
            output = await kept.output()
        finally:
            collection.stop()
        self.kept = None
        kept.capture.free()
        return output[self.fd - 1]
