"""Pipes of a child that are lent to the collector, and what it has read of them.

Layer: above the pipes, below the streams. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any, Final

from aiovfork._capture import Capture
from aiovfork._events import Captured
from aiovfork._pipes import Pipe, Stage
from aiovfork._port import CompletionPort

# As much as a pipe can hold: what an unprivileged process may give it (/proc/sys/fs/pipe-max-size).
_PIPE_SIZE: Final = 2**20


class Kept:
    """Output that was collected, until somebody has it."""

    def __init__(self, port: CompletionPort, *, shared: bool) -> None:
        """Make an empty one.

        Args:
            port: That of the loop.
            shared: Whether it is of more than one stream.
        """
        self.capture = Capture()
        self.shared = shared
        self.spent = False
        self._port = port

    async def output(self) -> tuple[bytes, bytes]:
        """Return what there is of stdout and of stderr. Nothing can be added from then on.

        Cancellation: can be repeated.
        """
        self.spent = True
        return self.capture.at_hand() or await self.capture.output(self._port)


class Collection:
    """Some pipes of one child, lent to the collector for one capture. A sink of the port."""

    _lent = False
    _ticket = 0
    _error = 0
    _input: Any = b""
    broken: Exception | None = None  # stdin had ended before all was written

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: CompletionPort,
        ends: dict[int, int],
        pipes: dict[int, Pipe],
    ) -> None:
        self._port = port
        self._ends = ends
        self._pipes = pipes  # those that have not ended
        self._over = loop.create_future()

    def start(self, capture: Capture) -> None:
        """Lend the pipes, until captured() or stop().

        Raises:
            OSError: There is no memory or no thread for it; the pipes are idle.
        """
        self._capture = capture
        if not self._pipes:
            self._wake()
            return
        self._lent = True
        for pipe in self._pipes.values():
            data = pipe.lend(self)
            if data is not None:
                self._input = data
                capture.give(data)
        try:
            self._ticket = self._port.collect(capture.pointer, self._ends, self, tuple(self._pipes))
        except OSError:
            self.stop()
            raise

    async def wait(self) -> None:
        """Wait until the pipes have ended.

        Raises:
            OSError: The collector could not go on (ENOMEM). What was read is kept.
        """
        await self._over
        if self._error:
            raise OSError(-self._error, os.strerror(-self._error))

    def captured(self, event: Captured) -> None:
        """All of them have ended."""
        self._lent = False
        self._error = event.error
        for pipe in self._pipes.values():
            pipe.ended(self._reason(pipe))
        self._pipes = {}
        self._wake()

    def stop(self) -> None:
        """Have back what has not ended; idempotent. The pipes are read again soon, if nobody lends them.

        An exception of a signal handler may come between any two byte codes: then it can be repeated, and is,
        by whoever closes a pipe. Whether it was lent at all is told by its end: it is here, or there.
        """
        if not self._lent:
            return
        self._capture.have_back(self._ends)
        for fd, pipe in self._pipes.items():
            if pipe.stage is not Stage.LENT:
                continue
            if fd in self._ends:
                pipe.take_back(self._input[self._capture.written :])
            else:
                pipe.ended(self._reason(pipe))
        self._pipes = {fd: pipe for fd, pipe in self._pipes.items() if fd in self._ends}
        self._lent = False
        self._port.leave(self._ticket)

    def cut(self) -> None:
        """End it here: take what is in the pipes that have not ended, and close them."""
        self.stop()
        pipes, self._pipes = self._pipes, {}
        for fd, pipe in pipes.items():
            if not pipe.is_input:
                with contextlib.suppress(BlockingIOError):
                    self._capture.feed(fd, os.read(self._ends[fd], _PIPE_SIZE))
            pipe.end(None)
        self._wake()

    def drop(self, pipe: Pipe) -> None:
        """Go on without a pipe, which somebody closes."""
        self.stop()
        self._pipes = {fd: other for fd, other in self._pipes.items() if other is not pipe}
        try:
            self.start(self._capture)
        except OSError as exc:
            self._error = -(exc.errno or 0)
            self._wake()

    def _reason(self, pipe: Pipe) -> Exception | None:
        """Why a pipe has ended: of stdin, whether that was before its time."""
        if pipe.is_input and self._capture.written < len(self._input):
            self.broken = BrokenPipeError()
        return self.broken if pipe.is_input else None

    def _wake(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
