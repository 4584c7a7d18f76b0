"""The parent's ends of a child's pipes, as pipe transports: the same on every loop.

They do what asyncio's pipe transports do (Lib/asyncio/unix_events.py), with three differences. They are made
at once, where asyncio's take a coroutine, so nothing can happen between a child and its pipes. They are born
idle, and watched by the loop from start() on. Reads and writes go to add_reader and add_writer of any loop.

The number of a descriptor lives in one dictionary, `ends`, which the pipes of a child share with its
transport. Whoever takes it out closes it: that happens once.

Layer: below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import io
import os
import warnings
from typing import Any, Final, Protocol

from aiovfork._compat import logger
from aiovfork._events import close_all

#: Bytes to read at once, as asyncio: more than most pipes hold.
_READ_SIZE: Final = 256 * 1024
#: Seconds until a pipe is watched that nobody has asked for. As a timer, which can be cancelled, it costs the
#: loop no round where the pipe is lent before.
SOON: Final = 0.001


class Stage(enum.Enum):
    """How far a pipe has come."""

    IDLE = "idle"  # nobody has asked for it
    OPEN = "open"
    LENT = "lent"  # the collector has the descriptor
    CLOSING = "closing"  # it takes nothing more; connection_lost is to come
    CLOSED = "closed"


class Borrower(Protocol):
    """Who has the descriptor of a pipe."""

    def drop(self, pipe: Pipe) -> None:
        """Give it back: the pipe is to be closed."""


class Pipe(asyncio.BaseTransport):
    """What both directions have in common."""

    stage = Stage.IDLE
    is_input = False
    lender: Any = None  # who lends it
    close_end = staticmethod(close_all)
    _file: io.FileIO | None = None
    _borrower: Borrower

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ends: dict[int, int], fd: int, protocol: asyncio.BaseProtocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._ends = ends
        self.fd = fd
        self._number = ends[fd]
        self._protocol: Any = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "pipe", an object with the fileno() of the pipe, or default."""
        if name != "pipe":
            return super().get_extra_info(name, default)
        if self._file is None:
            if self.fd not in self._ends:
                return default
            # A view: if somebody closes it, the descriptor stays open.
            self._file = io.FileIO(self._number, "rb" if self.fd else "wb", closefd=False)
        return self._file

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol of this pipe."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol of this pipe."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self.stage in (Stage.CLOSING, Stage.CLOSED)

    def start(self) -> None:
        """Have the loop watch the pipe. Idempotent.

        Raises:
            OSError: The loop cannot (ENOSPC, ENOMEM).
        """
        if self.stage is Stage.IDLE:
            self._watch()
            self.stage = Stage.OPEN

    def start_soon(self) -> None:
        """Have the loop watch it, unless it is lent before."""
        if not self._loop.is_closed():
            self._loop.call_later(SOON, self.start_or_fail)

    def start_or_fail(self) -> None:
        """Have the loop watch it, or tell that it cannot."""
        try:
            self.start()
        except OSError as exc:
            self.end(exc)

    def lend(self, borrower: Borrower) -> memoryview | None:
        """Give the descriptor away. Returns what is to be written to it."""
        self._borrower = borrower
        before, self.stage = self.stage, Stage.LENT
        if before is Stage.OPEN:
            self._unwatch()
        return None

    def take_back(self, rest: memoryview) -> None:  # noqa: ARG002  # of stdin
        """Have the descriptor back, and what was not written."""
        if not self._loop.is_closed():
            self._unwatch()  # an exception of a signal handler may have kept lend() from it
        self.stage = Stage.IDLE
        self.start_soon()

    def _watch(self) -> None:
        raise NotImplementedError

    def _unwatch(self) -> None:
        """Idempotent."""
        self._loop.remove_reader(self._number)

    def _fatal_error(self, exc: OSError, message: str, *, expected: bool) -> None:
        if not expected:
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=True)
        self.end(exc)

    def ended(self, exc: Exception | None) -> None:
        """Its borrower has closed it. Can be repeated."""
        self.stage = Stage.CLOSING
        if not self._loop.is_closed():
            self._loop.call_soon(self.lose, exc)

    def end(self, exc: Exception | None) -> None:
        """Close without waiting for anything: the protocol hears of it in the next round of the loop."""
        if self.stage is Stage.LENT:
            self._borrower.drop(self)
        if self.stage is Stage.CLOSED:
            return
        if self._loop.is_closed():  # nobody is to hear of it
            self.stage = Stage.CLOSED
            self._close_file()
            return
        self.stage = Stage.CLOSING
        if self.fd in self._ends:  # else the number may be somebody else's by now
            self._unwatch()
        self._loop.call_soon(self.lose, exc)

    def lose(self, exc: Exception | None) -> None:
        """Close, and tell the protocol, which is the last that it hears. Idempotent."""
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._close_file()
            self._protocol = self.lender = None  # they know this

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        if self.fd in self._ends:
            self.close_end(self._ends, self.fd)

    def _closed_by_peer(self) -> None:
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stage.value} fd={self._number}{self._details()}>"

    def _details(self) -> str:
        return ""

    def __del__(self) -> None:
        """Close a pipe that nobody can close any more. Never touches the loop."""
        if self.fd in self._ends:
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=1)
            finally:  # the warning may be an error
                self._close_file()


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


class ReadPipe(Pipe, asyncio.ReadTransport):
    """The end of stdout or stderr."""

    _paused = False

    def is_reading(self) -> bool:
        """Whether data that comes will be read; of one that is idle, too."""
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Read nothing more until resume_reading."""
        if not self.is_reading():
            return
        self._paused = True
        if self.stage is Stage.OPEN:
            self._unwatch()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Undo pause_reading."""
        if not self._paused or self.is_closing():
            return
        self._paused = False
        if self.stage is Stage.OPEN:
            self._watch()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def close(self) -> None:
        """Close: what has not been read is lost, and the child's writes fail."""
        if not self.is_closing():
            self.end(None)

    def _watch(self) -> None:
        if not self._paused:
            self._loop.add_reader(self._number, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._number, _READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            if exc.errno != errno.EIO:
                self._fatal_error(exc, "Fatal read error on pipe transport", expected=False)
                return
            data = b""  # of a terminal that nobody has open (tty_ioctl(4))
        if data:
            self._protocol.data_received(data)
            return
        self._closed_by_peer()
        self.stage = Stage.CLOSING
        self._unwatch()
        try:
            self._protocol.eof_received()
        finally:
            self.lose(None)

    def _details(self) -> str:
        return " paused" if self._paused else ""
