"""The transport of a child's stdin: writes without blocking, and keeps what does not fit into the pipe.

Layer: above the pipes. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import os
from typing import Final

from aiovfork._compat import logger
from aiovfork._pipes import Borrower, Pipe, Stage

#: Pieces to write at once.
_PIECES: Final = 64
_HIGH_WATER: Final = 64 * 1024
#: Writes to a lost pipe before a warning is logged, as asyncio.
_QUIET_WRITES: Final = 5


class WritePipe(Pipe, asyncio.Transport):
    """The end of stdin.

    Inherits asyncio.Transport, as asyncio's does: pause_reading exists and raises NotImplementedError.
    """

    is_input = True
    _lost_writes = 0
    _high = _HIGH_WATER
    _low = _HIGH_WATER // 4
    _protocol_paused = False

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ends: dict[int, int], fd: int, protocol: asyncio.BaseProtocol
    ) -> None:
        super().__init__(loop, ends, fd, protocol)
        self._pieces: collections.deque[memoryview] = collections.deque()  # of objects that nobody changes
        self._size = 0

    def is_closing(self) -> bool:
        """Whether it takes nothing more."""
        return self.stage is Stage.LENT or super().is_closing()

    def lend(self, borrower: Borrower) -> memoryview | None:
        """Give the descriptor away, and what is to be written."""
        super().lend(borrower)
        pieces = tuple(self._pieces)
        self._clear()
        # More than one: somebody has written faster than the child reads, and did not wait.
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def take_back(self, rest: memoryview) -> None:
        """Have both back."""
        super().take_back(rest)
        if rest:
            self._pieces.append(rest)
            self._size = len(rest)
        self._maybe_resume_protocol()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write without blocking; what does not fit into the pipe is written later.

        After the end of the pipe, data goes nowhere: a child may close its stdin, or exit, at any moment.

        Raises:
            TypeError: data is not bytes, bytearray or memoryview.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, bytearray or memoryview, not {type(data).__name__}")
        view = memoryview(data)
        if not view.nbytes:
            return
        if self.is_closing():
            if self._lost_writes >= _QUIET_WRITES:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self._lost_writes += 1
            return
        if not view.c_contiguous:
            data = view.tobytes()
            view = memoryview(data)
        view = view.cast("B")
        waiting = bool(self._pieces)
        if not waiting:
            try:
                written = os.write(self._number, view)
            except (BlockingIOError, InterruptedError):
                written = 0
            except OSError as exc:
                self._write_failed(exc)
                return
            if written == len(view):
                return
            view = view[written:]
        # The caller may change a bytearray as soon as this returns.
        self._pieces.append(view if type(view.obj) is bytes else memoryview(view.tobytes()))
        self._size += len(view)
        if self.stage is Stage.IDLE:
            self.start()
        elif not waiting:
            self._loop.add_writer(self._number, self._write_more)
        if self._size > self._high:
            self._pause_protocol()

    def _write_more(self) -> None:
        pieces = self._pieces
        try:
            written = os.writev(self._number, tuple(itertools.islice(pieces, _PIECES)))
        except (BlockingIOError, InterruptedError):
            self._still_full()
            return
        except OSError as exc:
            self._write_failed(exc)
            return
        self._size -= written
        while written:
            first = pieces[0]
            if written < len(first):
                pieces[0] = first[written:]
                break
            written -= len(first)
            pieces.popleft()
        if not pieces:
            self._loop.remove_writer(self._number)
        self._maybe_resume_protocol()  # it may write
        if not pieces and self.stage is Stage.CLOSING:
            self._unwatch()
            self.lose(None)

    def _still_full(self) -> None:
        """The loop says that it can be written, and it cannot."""

    def _write_failed(self, exc: OSError) -> None:
        self._lost_writes += 1
        self._fatal_error(exc, "Fatal write error on pipe transport", expected=True)

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def write_eof(self) -> None:
        """Close after what has been written so far."""
        if self.is_closing():
            return
        if self._pieces and not self._loop.is_closed():
            self.start()
            self.stage = Stage.CLOSING
        else:
            self.end(None)

    def close(self) -> None:
        """As write_eof."""
        self.write_eof()

    def abort(self) -> None:
        """Close at once."""
        self.end(None)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are still to be written."""
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return (low, high)."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause, and to resume, in bytes that are still to be written.

        Raises:
            ValueError: Not 0 <= low <= high.
        """
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        if self._size > high:
            self._pause_protocol()

    def _pause_protocol(self) -> None:
        if not self._protocol_paused:
            self._protocol_paused = True
            self._tell_flow("pause_writing")

    def _maybe_resume_protocol(self) -> None:
        if self._protocol_paused and self._size <= self._low:
            self._protocol_paused = False
            self._tell_flow("resume_writing")

    def _tell_flow(self, method: str) -> None:
        try:
            getattr(self._protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001  # of the application; reported
            context = {"exception": exc, "transport": self, "protocol": self._protocol}
            self._loop.call_exception_handler({"message": f"protocol.{method}() failed", **context})

    def _watch(self) -> None:
        # Nobody reads from this end: it becomes ready when the child's end is closed.
        self._loop.add_reader(self._number, self._reader_gone)
        if self._pieces:
            self._loop.add_writer(self._number, self._write_more)

    def _reader_gone(self) -> None:
        self._closed_by_peer()
        exc = BrokenPipeError() if self._pieces else None
        self.stage = Stage.CLOSING
        self._unwatch()
        self._clear()
        self.lose(exc)

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._number)
        if self._pieces:
            self._loop.remove_writer(self._number)

    def _clear(self) -> None:
        self._pieces.clear()
        self._size = 0

    def end(self, exc: Exception | None) -> None:
        """Close without waiting for anything; what was to be written is lost."""
        super().end(exc)
        self._clear()

    def _details(self) -> str:
        return f" bufsize={self._size}"
