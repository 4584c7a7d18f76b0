"""A capture: the output of one child, read off the loop, until it is bytes.

Layer: above the port. Thread: the loop's; free() on any.
"""

from __future__ import annotations

import array
import asyncio
import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from aiovfork._binding import ffi, lib
from aiovfork._events import NO_ENDS, map_calls
from aiovfork._port import CompletionPort

Input: TypeAlias = bytes | bytearray | memoryview

#: What a callback of the loop may copy.
AT_HAND: Final[int] = lib.AVF_AT_HAND
_PIECE: Final = 2**20
_NO_ENDS: Final = array.array("i", NO_ENDS).tobytes()


def immutable(data: Input) -> Input:
    """Return data that nobody can change while a child reads it: a snapshot, unless it is that already.

    bytes, and a memoryview of bytes, are not copied.

    Raises:
        TypeError: It is neither bytes, bytearray nor memoryview.
    """
    if type(data) is bytes:
        return data
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"input must be bytes, bytearray or memoryview, not {type(data).__name__}")
    if isinstance(data, memoryview) and type(data.obj) is bytes and data.c_contiguous:
        return data
    return bytes(data)


class Capture:
    """What a child writes to stdout and stderr, and is given on stdin.

    It is under way from CompletionPort.submit() or collect() until captured() is called, or take_back(). What
    was read stays until free(), and can be had in between.
    """

    def __init__(
        self,
        data: Input | None = None,
        *,
        limit: int | None = None,
        truncate: bool = False,
        drain_timeout: float | None = None,
    ) -> None:
        """Describe a capture.

        Args:
            data: What is written to stdin, which is then closed; as immutable() returns it.
            limit: Bytes that are kept of stdout, and of stderr.
            truncate: Whether what comes after the limit is read and thrown away; else the capture ends there.
            drain_timeout: Seconds to read on after the exit, if somebody still holds a pipe. Only where the
                child is the capture's own.
        """
        pointer = lib.avf_capture_new()
        if pointer == ffi.NULL:
            raise MemoryError
        self.pointer: Any = pointer
        self._input: Any = None
        self._copies: tuple[Any, ...] = ()  # the results, and what keeps their memory in place
        self._copied: asyncio.Future[None] | None = None
        self._back: memoryview | None = None
        if data is not None:
            self.give(data)
        if limit is not None:
            pointer.limit = limit
            pointer.truncate = truncate
        if drain_timeout is not None and drain_timeout < math.inf:
            pointer.drain_ns = int(max(0.0, min(drain_timeout, 1e9)) * 1e9)

    def read_terminal(self, master: int) -> None:
        """Have it read a terminal as stdout, and type the input there. Before CompletionPort.submit()."""
        self.pointer.terminal = master

    def give(self, data: Input) -> None:
        """Set what is written to stdin. Not while it is under way."""
        self._input = ffi.from_buffer(data)
        self.pointer.input = self._input
        self.pointer.input_size = len(self._input)
        self.pointer.written = 0

    @property
    def length(self) -> tuple[int, int]:
        """How many bytes of stdout and of stderr were kept."""
        stdout, stderr = self.pointer.length
        return stdout, stderr

    @property
    def total(self) -> tuple[int, int]:
        """How many were read."""
        stdout, stderr = self.pointer.total
        return stdout, stderr

    @property
    def written(self) -> int:
        """How many bytes of the input were written."""
        written: int = 0 if self.pointer is None else self.pointer.written
        return written

    def feed(self, fd: int, data: Input) -> None:
        """Append what somebody else has read of stdout (1) or stderr (2). Not while it is under way."""
        if lib.avf_capture_feed(self.pointer, fd - 1, ffi.from_buffer(data), len(data)) < 0:
            raise MemoryError

    def take_back(self) -> dict[int, int] | None:
        """End a capture of collect() before its time. Waits for less than a millisecond.

        Returns:
            The parent's ends that are still open, the caller's from now on; None if the capture is over:
            captured() is about to be called, or was.
        """
        if self.pointer is None:  # free() has closed them: garbage is collected in any order
            return None
        ends = ffi.new("int32_t[3]")
        if lib.avf_capture_take_back(self.pointer, ends) < 0:
            return None
        return {fd: end for fd, end in enumerate(ends) if end >= 0}

    def have_back(self, ends: dict[int, int]) -> None:
        """As take_back(), but put the ends there. Can be repeated after an exception of a signal handler."""
        if self._back is None:
            self._back = memoryview(bytearray(_NO_ENDS)).cast("i")
        if self.pointer is not None:  # else as in take_back()
            lib.avf_capture_take_back(self.pointer, ffi.from_buffer("int32_t[3]", self._back))
        numbers = {fd: end for fd, end in enumerate(self._back) if end >= 0}
        map_calls(
            functools.partial(ends.update, numbers),
            functools.partial(operator.setitem, self._back, slice(None), memoryview(_NO_ENDS).cast("i")),
        )

    def hurry(self, drain_timeout: float) -> None:
        """Set drain_timeout while it is under way; after the exit it counts from now."""
        if self.pointer is not None:
            lib.avf_capture_hurry(self.pointer, int(drain_timeout * 1e9))

    def detach(self, port: CompletionPort, ticket: int) -> bool:
        """Let the child live on; what it writes is read and thrown away. Nothing can be had here any more.

        Returns False if the capture is over, or not a child's own.
        """
        if not port.detach(self.pointer, ticket):
            return False
        self.pointer = None
        return True

    def at_hand(self) -> tuple[bytes, bytes] | None:
        """Return what was kept, if it is small enough to be copied at once. Not while it is under way."""
        pointer = self.pointer
        stdout, stderr = pointer.length
        if stdout > AT_HAND or stderr > AT_HAND or self._copies:
            return None
        data = pointer.data
        return ffi.buffer(data[0], stdout)[:], ffi.buffer(data[1], stderr)[:]

    def pieces(self, fd: int, size: int = _PIECE) -> Iterator[bytes]:
        """Return what was kept of stdout (1) or stderr (2), copied, in pieces. Not while it is under way."""
        at = ffi.new("char **")
        offset = 0
        while (there := lib.avf_capture_piece(self.pointer, fd - 1, offset, at)) > 0:
            piece = ffi.buffer(at[0], min(there, size))[:]
            offset += len(piece)
            yield piece

    def partial(self) -> tuple[bytes, bytes]:
        """Return what was kept, copied here, however much it is. Not while it is under way."""
        return b"".join(self.pieces(1)), b"".join(self.pieces(2))

    async def output(self, port: CompletionPort) -> tuple[bytes, bytes]:
        """Return what was kept, copied off the loop if it is large. Not while it is under way.

        Cancellation: can be repeated.

        Raises:
            MemoryError: There is not enough for the result. What was kept is still there.
        """
        at_hand = self.at_hand()
        if at_hand is not None:
            return at_hand
        if not self._copies:
            stdout, stderr = (uninitialised(length) for length in self.pointer.length)
            to_stdout, to_stderr = ffi.from_buffer(stdout), ffi.from_buffer(stderr)
            self._copied = asyncio.get_running_loop().create_future()
            self._copies = (stdout, stderr, to_stdout, to_stderr)
            try:
                port.copy(self.pointer, to_stdout, to_stderr, _Copy(self._copied))
            except BaseException:
                self._copies = ()
                raise
        assert self._copied is not None
        await asyncio.shield(self._copied)
        return self._copies[0], self._copies[1]

    def free(self) -> None:
        """Give back the memory; idempotent. A child of its own that still runs is killed."""
        pointer, self.pointer = self.pointer, None
        if pointer is not None:
            lib.avf_capture_free(pointer)
            self._input = None

    def __del__(self) -> None:
        """Before the memory goes that the collector reads from and writes to."""
        if getattr(self, "pointer", None) is not None:
            self.free()


class _Copy:
    """The sink of a copy."""

    def __init__(self, done: asyncio.Future[None]) -> None:
        self._done = done

    def copied(self) -> None:
        """Wake whoever waits."""
        if not self._done.done():
            self._done.set_result(None)


@functools.cache
def _allocator() -> Callable[[None, int], bytes]:
    """PyBytes_FromStringAndSize(NULL, n): bytes that the caller fills before anybody else sees them.

    bytes(n) would do but for the time that it takes to write zeros where malloc gives memory that was used.
    """
    try:
        import ctypes  # noqa: PLC0415  # rarely needed, and absent from some builds of Python
    except ImportError:
        return lambda _, size: bytes(size)
    allocate = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
        ("PyBytes_FromStringAndSize", ctypes.pythonapi)
    )
    result: Callable[[None, int], bytes] = allocate
    return result


def uninitialised(size: int) -> bytes:
    """Return bytes that the caller fills before anybody else sees them."""
    # Up to one byte CPython has one object for all.
    return _allocator()(None, size) if size > 1 else bytes(size)
