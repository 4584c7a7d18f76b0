"""The protocol under lines(): a little of what a child writes, kept until it is asked for.

Layer: below lines(), beside the transport. Thread: the loop's.
"""

from __future__ import annotations

import array
import asyncio
import collections
import fcntl
import termios
from typing import Any, Final

from aiovfork._capture import Input
from aiovfork._compat import StreamProtocol
from aiovfork._splitting import CHUNK

#: Bytes that wait for the consumer before reading pauses; a loop reads up to 256 KiB more at once.
HIGH: Final = CHUNK
# What silence is, at least: a look at it must not be all that the loop does.
_MOMENT: Final = 0.001
#: Bytes that are kept of what nobody asked for.
TAIL: Final = 2**16


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        """The stream goes on."""
        self._kept += data[-TAIL:]
        if len(self._kept) > 2 * TAIL:  # not each time: it moves what stays
            del self._kept[:-TAIL]

    def value(self) -> bytes:
        """Return the last TAIL bytes."""
        return bytes(self._kept[-TAIL:])


class Reading(StreamProtocol):
    """Queues the chunks of the streams that are asked for, and drains the others.

    stdin is a StreamWriter, as that of a Process; or fed from `given`, and closed then.

    Args:
        loop: The loop.
        asked: The streams that are asked for: 1 stdout, 2 stderr.
        given: What the child reads from stdin; None: nothing is written.
        drain_timeout: Seconds to go on after the exit while somebody else holds a pipe: of silence for a
            stream that is asked for, at all for another one. None: to the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        asked: frozenset[int],
        given: Input | None,
        drain_timeout: float | None,
    ) -> None:
        super().__init__(limit=CHUNK, loop=loop)
        self.asked = asked
        self.tails = {fd: Tail() for fd in (1, 2) if fd == 2 or fd not in asked}  # noqa: PLR2004  # stderr
        self.open: set[int] = set()
        self.exited = False
        self.cut = False  # somebody still held a pipe when drain_timeout was over
        self._loop = loop
        self._given = given  # nobody changes it
        self._given_at = 0
        self._may_write = True
        self._drain_timeout = drain_timeout
        self.transport: Any = None  # a SubprocessTransport
        # The last of a stream is None.
        self._queue: collections.deque[tuple[int, bytes | None]] = collections.deque()
        self._queued = 0
        self._received = {1: 0, 2: 0}
        self._held_up = False
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._waiter: asyncio.Future[None] | None = None

    # ---- for the consumer ----

    @property
    def has_more(self) -> bool:
        """Whether take() has something."""
        return bool(self._queue)

    @property
    def over(self) -> bool:
        """Whether the child has ended and all its streams have."""
        return self.exited and not self.open

    def take(self) -> tuple[int, bytes | None]:
        """Return the next chunk, of at most 64 KiB, and its stream; None for a chunk is the stream's end."""
        fd, data = self._queue.popleft()
        if data is not None:
            self._queued -= len(data)
            if self._held_up and self._queued < HIGH:
                self._resume()
        return fd, data

    def discard(self) -> None:
        """Nobody asks any more: drain everything, so that a child that is to end does not wait for us."""
        self.asked = frozenset()
        self._queue.clear()
        self._queued = 0
        if self._held_up:
            self._resume()
        if self.exited:
            self._watch()

    async def wait(self) -> None:
        """Wait until something may have happened.

        Raises:
            RuntimeError: Another task waits already.
        """
        if self._waiter is not None:
            raise RuntimeError("another task is reading these lines")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """End wait()."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- asyncio.SubprocessProtocol ----

    def connection_made(self, transport: Any) -> None:
        """The child runs."""
        self.transport = transport
        self.open = {fd for fd in (1, 2) if transport.get_pipe_transport(fd) is not None}
        stdin = transport.get_pipe_transport(0)
        if stdin is not None:
            self.stdin = asyncio.StreamWriter(stdin, self, None, self._loop)
            self._feed()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """The child has written something."""
        assert isinstance(data, bytes)
        self._received[fd] += len(data)
        if fd in self.tails:
            self.tails[fd].add(data)
        if fd not in self.asked:
            return
        self._queue.extend((fd, data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
        self._queued += len(data)
        if self._queued >= HIGH and not self._held_up:
            self._held_up = True
            for pipe in self._asked_pipes():
                pipe.pause_reading()
        self.wake()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """The end of a stream."""
        if fd == 0:
            self._given = None
            super().pipe_connection_lost(fd, exc)
            return
        self.open.discard(fd)
        timer = self._timers.pop(fd, None)
        if timer is not None:
            timer.cancel()
        if fd in self.asked:
            self._queue.append((fd, None))
        self.wake()

    def process_exited(self) -> None:
        """The child has ended; its descendants may still hold the pipes."""
        self.exited = True
        self._watch()
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The child and all pipes are gone, or (the base class's way to say it) stdin is."""
        super().connection_lost(exc)
        self.wake()

    def pause_writing(self) -> None:
        """The child reads stdin more slowly than it is written."""
        self._may_write = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """The child has read most of it."""
        super().resume_writing()
        self._may_write = True
        self._feed()

    # ---- inside ----

    def _feed(self) -> None:
        given = self._given
        if given is None or self.stdin is None:
            return
        while self._may_write and not self.stdin.is_closing() and self._given_at < len(given):
            at, self._given_at = self._given_at, self._given_at + CHUNK
            self.stdin.write(given[at : at + CHUNK])
        if self._given_at >= len(given):
            self._given = None
            self.stdin.close()

    def _asked_pipes(self) -> list[Any]:
        pipes = [self.transport.get_pipe_transport(fd) for fd in self.asked & self.open]
        return [pipe for pipe in pipes if not pipe.is_closing()]

    def _resume(self) -> None:
        self._held_up = False
        for fd in self.open:
            pipe = self.transport.get_pipe_transport(fd)
            if not pipe.is_closing():
                pipe.resume_reading()
        if self.exited:
            self._watch()

    def _watch(self) -> None:
        """See to it that the streams end, after the child has."""
        for fd in self.open if self._drain_timeout is not None else ():
            timer = self._timers.pop(fd, None)
            if timer is not None:
                timer.cancel()
            if fd in self.asked:
                self._watch_silence(fd)
            else:
                self._timers[fd] = self._loop.call_later(self._drain_timeout or 0, self._cut, fd)

    def _watch_silence(self, fd: int) -> None:
        seconds = max(self._drain_timeout or 0, _MOMENT)
        self._timers[fd] = self._loop.call_later(seconds, self._look, fd, self._received[fd])

    def _look(self, fd: int, received: int) -> None:
        if fd not in self.open or self._held_up:  # _resume() looks again
            return
        if self._received[fd] != received or self._unread(fd):
            self._watch_silence(fd)
        else:  # what the loop has read and not delivered yet comes before that
            self._loop.call_soon(self._cut_if_silent, fd, received)

    def _cut_if_silent(self, fd: int, received: int) -> None:
        if fd in self.open and fd in self.asked:
            if self._received[fd] == received:
                self._cut(fd)
            else:
                self._watch_silence(fd)

    def _unread(self, fd: int) -> int:
        """Return how many bytes are in a pipe: a loop that was held up has not looked since."""
        pipe = self.transport.get_pipe_transport(fd).get_extra_info("pipe")
        count = array.array("i", [0])
        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
        return count[0]

    def _cut(self, fd: int) -> None:
        self.cut = True
        self.transport.get_pipe_transport(fd).close()
