"""The caller's side of the terminal that a child runs on.

Layer: above the streams, below the subprocess transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import termios
from typing import Any, AnyStr, Final, SupportsFloat

from aiovfork._checks import seconds
from aiovfork._collection import Collection, Kept
from aiovfork._expect import Expected, ExpectEnded, ExpectTimeout, Pattern, Search
from aiovfork._pipes import PipeProtocol, ReadPipe
from aiovfork._port import CompletionPort
from aiovfork._ptmx import CC, READ, SLAVE, WRITE, Ends, close_ends, set_size, size_of
from aiovfork._pty import check_size
from aiovfork._streams import OutputReader
from aiovfork._write_pipe import WritePipe

_NO_KEY: Final = b"\0"  # _POSIX_VDISABLE


class TerminalReadPipe(ReadPipe):
    """What is shown, on its way from the terminal."""

    close_end = staticmethod(close_ends)


class TerminalWritePipe(WritePipe):
    """What is typed, on its way to the terminal.

    Its end is not the end of what the program reads: that is a key. The pipe of a Terminal hangs up when it
    is closed. The pipe of a transport then stays as it is, until the transport closes: while the program
    lives, one end of ours has to be open, or the terminal hangs up.
    """

    close_end = staticmethod(close_ends)

    def can_write_eof(self) -> bool:
        """Return False."""
        return False

    def write_eof(self) -> None:
        """Refuse it.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a terminal has a key for that: send_eof()")

    def close(self) -> None:
        """Hang up, after what has been written so far, or do nothing."""
        if self.lender is not None:
            super().write_eof()

    def lose(self, exc: Exception | None) -> None:
        """Close. Whoever waits until there is room waits no more."""
        self._clear()
        self._maybe_resume_protocol()
        super().lose(exc)

    def _still_full(self) -> None:
        """Drop what is left if nobody has the terminal open: else the loop would say that again and again."""
        poll = select.poll()
        poll.register(self._number, 0)
        if not poll.poll(0):
            return
        self._unwatch()
        self._clear()
        if self.is_closing():
            self.lose(None)
        else:
            self._maybe_resume_protocol()

    def _watch(self) -> None:
        # Not for reading: that is the other end's, and tells of output.
        if self._pieces:
            self._loop.add_writer(self._number, self._write_more)

    def _unwatch(self) -> None:
        if self._pieces:
            self._loop.remove_writer(self._number)


class TerminalReader(OutputReader):
    """An OutputReader that can be asked for a pattern."""

    async def find(self, search: Search[AnyStr]) -> Expected[AnyStr] | None:
        """Take what comes up to and with a pattern.

        Returns None at the end. Then, and when it is cancelled, it has taken nothing.
        """
        await self._begin("expect")
        while True:
            found = search.look(self._buffer, at_end=self._eof)
            if found is not None:
                expected, size = found
                del self._buffer[:size]
                self._maybe_resume_transport()
                return expected
            exc = self.exception()
            if exc is not None:
                raise exc
            if self._eof:
                return None
            await self._wait_for_data("expect")

    def unread(self, search: Search[Any]) -> bytes | str:
        """Return what is in the buffer, as a search sees it."""
        seen = search.seen(self._buffer, at_end=True)
        return seen if isinstance(seen, str) else bytes(seen)


class Terminal:
    r"""The terminal of a child: what its program shows is read here, what is written here is typed to it.

    It ends (the reader is at its end) when nobody has it open any more: the child has exited, and so has
    whomever it has left there. close() hangs up: the child's session gets SIGHUP. `async with process` does
    that at its end.

    Attributes:
        reader: What the program shows. A newline comes as "\r\n", unless the terminal is raw.
        writer: What is typed. Ctrl-C is b"\x03": interrupt() types it. Without raw, a line has to end with
            "\n", and one of more than 4095 bytes is cut by the kernel (termios(3), canonical mode).
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _reader: TerminalReader | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, port: CompletionPort, ends: Ends) -> None:
        self._loop = loop
        self._port = port
        self.ends = ends
        self._exited = self._ended = False
        self._pipes: dict[int, Any] = {}

    # ---- for the transport ----

    def submitted(self) -> None:
        """The core has the slave now."""
        if SLAVE in self.ends:
            close_ends(self.ends, SLAVE)

    def connect(self, limit: int) -> None:
        """Make the reader and the writer."""
        loop, ends = self._loop, self.ends
        pipe = TerminalReadPipe(loop, ends, READ, PipeProtocol(self, READ))
        typing = TerminalWritePipe(loop, ends, WRITE, PipeProtocol(self, WRITE))
        pipe.lender = typing.lender = self
        reader = TerminalReader(loop, limit, pipe)
        self._flow = asyncio.StreamReaderProtocol(reader, loop=loop)
        self.writer = asyncio.StreamWriter(typing, self._flow, reader, loop)
        self.reader = self._reader = reader
        self._pipes = {READ: pipe, WRITE: typing}  # last: from now on they close the ends
        pipe.start_soon()

    def share(self, pipes: dict[int, Any]) -> None:
        """Have the transport's own pipes: its protocol reads them."""
        self._pipes = pipes

    def exited(self) -> None:
        """The child has exited."""
        self._exited = True
        self._close_if_over()

    def abandon(self) -> None:
        """Close what nobody else closes: at the end of the transport. Never touches the loop."""
        if not self._pipes:
            close_ends(self.ends)

    # ---- what the pipes tell (Owner) ----

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002  # there is one
        """The program shows something."""
        assert self._reader is not None
        self._reader.feed_data(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """An end of ours is closed."""
        if fd == READ:
            self._ended = True
            self._flow.connection_lost(exc)
            self._close_if_over()
        else:
            self.close()

    def get_protocol(self) -> Any:
        """Return whom pause_writing and resume_writing are for."""
        return self._flow

    # ---- what the reader lends its pipe by (Lender) ----

    def kept(self, *, shared: bool) -> Kept:
        """Return what output can be kept in."""
        return Kept(self._port, shared=shared)

    def collection(self, *fds: int) -> Collection:
        """Return what lends the pipe to the collector, if it is not closing."""
        pipes = {fd: self._pipes[fd] for fd in fds if not self._pipes[fd].is_closing()}
        return Collection(self._loop, self._port, self.ends, pipes)

    # ---- for the application ----

    @property
    def size(self) -> tuple[int, int]:
        """Its rows and columns; (0, 0) once it is closed."""
        return size_of(self._master) if self._is_open else (0, 0)

    def resize(self, rows: int, cols: int) -> None:
        """Give it another size: the program that has the terminal gets SIGWINCH. Nothing once it is closed.

        Raises:
            ValueError: rows or cols is not between 1 and 65535.
            TypeError: One of them is no integer.
        """
        rows, cols = check_size(rows, cols)
        if self._is_open:
            set_size(self._master, rows, cols)

    def send_eof(self) -> None:
        """Type the key that ends the input, Ctrl-D: at the start of a line, the program reads the end.

        A program that reads keys one by one gets the key.
        """
        self._press(termios.VEOF)

    def interrupt(self) -> None:
        """Type the key that interrupts, Ctrl-C: whatever runs in the foreground gets SIGINT.

        A program that reads keys one by one gets the key.
        """
        self._press(termios.VINTR)

    async def expect(
        self,
        pattern: Pattern[AnyStr],
        timeout: SupportsFloat | None = None,  # noqa: ASYNC109  # what came until then is in the error
    ) -> Expected[AnyStr]:
        r"""Wait until the program shows something, and take it with all that came before.

        >>> await process.pty.expect("login: ", timeout=10)
        >>> process.pty.writer.write(b"guest\n")
        >>> shown = await process.pty.expect(re.compile(rb"\$ |# "))

        Args:
            pattern: Text, which is looked for in UTF-8, bytes, or a compiled pattern of either. A compiled
                one is tried whenever something has come: one that could go on, as `\d+`, is found as soon as
                there is the first of it. Let it end with what comes behind.
            timeout: Seconds; None: as long as it takes.

        Returns:
            What came before, and the match. What comes behind is there for the next one who reads.

        Raises:
            ExpectTimeout: It did not come in time; a TimeoutError. Its `before` is what came.
            ExpectEnded: It did not come before the end; an EOFError. Its `before` is what came.
            RuntimeError: Another coroutine reads, or lines() does.
            TypeError: The pattern is of another type.

        Cancellation, and any error: nothing was taken.
        """
        if self._reader is None:
            raise RuntimeError("lines() reads what the program shows")
        search = Search(pattern)
        limit = asyncio.timeout(seconds(timeout, "timeout"))
        try:
            async with limit:
                found = await self._reader.find(search)
        except TimeoutError:
            if timeout is None or not limit.expired():
                raise
            raise ExpectTimeout(pattern, self._reader.unread(search), float(timeout)) from None
        if found is None:
            raise ExpectEnded(pattern, self._reader.unread(search))
        return found

    def close(self) -> None:
        """Hang up: the child's session gets SIGHUP. What was not read is lost. Idempotent."""
        for pipe in self._pipes.values():
            pipe.end(None)
            if self._reader is not None:
                pipe.lose(None)  # now: there may be no round of the loop any more
        if not self._pipes:
            close_ends(self.ends)

    # ---- inside ----

    @property
    def _master(self) -> int:
        return self.ends[READ if READ in self.ends else WRITE]

    @property
    def _is_open(self) -> bool:
        return any(fd in self.ends and not pipe.is_closing() for fd, pipe in self._pipes.items())

    def _press(self, key: int) -> None:
        if not self._is_open:
            return
        with contextlib.suppress(termios.error):
            typed: bytes = termios.tcgetattr(self._master)[CC][key]
            if typed != _NO_KEY:
                self.writer.write(typed)

    def _close_if_over(self) -> None:
        # Not at the end alone: a program may close its terminal and open /dev/tty later. Were no end of ours
        # open then, its session would hang up.
        if self._exited and self._ended:
            self.close()

    def __repr__(self) -> str:
        state = "{}x{}".format(*self.size) if self._is_open else "closed"
        return f"<{type(self).__name__} {state}>"
