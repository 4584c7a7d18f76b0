"""What lines() gives: a running program as an iterator of its lines.

Layer: above the transport and the outcome, below lines(). Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from aiovfork._capture import Input
from aiovfork._joining import joined
from aiovfork._options import Command
from aiovfork._outcome import Completed, ProcessFailed, ProcessTimeout
from aiovfork._process import Process
from aiovfork._reading import Reading
from aiovfork._splitting import Form, Pieces
from aiovfork._starting import process_of
from aiovfork._terms import Terms
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import Ending, TransportChild, kill, kill_now, stop

LineT = TypeVar("LineT")

_FDS: Final = {"stdout": frozenset({1}), "stderr": frozenset({2}), "both": frozenset({1, 2})}
_NAMES: Final = {1: "stdout", 2: "stderr"}


class Lines(Generic[LineT]):
    """A program that runs, and its lines: `async with lines(...) as output: async for line in output`.

    lines() makes it, and says what it does.
    """

    def __init__(
        self,
        command: Command,
        source: str,
        form: Form,
        given: Input | None,
        terms: Terms,
    ) -> None:
        self._command = command
        self._source = source
        self._form = form
        self._splitters = {fd: form.splitter() for fd in _FDS[source]}
        self._left = set(self._splitters)  # the streams that have not ended
        self._given = given
        self._terms = terms
        self._reading: Reading | None = None
        self._transport: SubprocessTransport | None = None
        self._process: Process | None = None
        self._begun = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._timed_out = False
        self._ending: asyncio.Task[None] | None = None  # when the time is over
        # Lines that are cut already, and the stream that may have more in its last chunk.
        self._lines: Iterator[Any] = iter(())
        self._current: int | None = None
        self._long: list[Any] = []  # such lines, of which the first is in pieces
        self._fresh = True  # the loop has had its turn since the last step

    @property
    def process(self) -> Process:
        """The child. Its stdout and stderr are None, since they are read here.

        Raises:
            RuntimeError: It has not been started.
        """
        if self._process is None:
            raise RuntimeError("use `async with lines(...) as output`: the program has not been started")
        return self._process

    @property
    def pid(self) -> int:
        """The process ID of the child."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, -N for a child killed by signal N, or None while it runs."""
        return self.process.returncode

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        """What the child reads, with stdin=PIPE; else None."""
        return self.process.stdin

    @property
    def stderr_tail(self) -> bytes:
        """The last 64 KiB, at most, that the child has written to stderr so far."""
        return b"" if self._reading is None else self._reading.tails[2].value()

    # ---- the context ----

    async def __aenter__(self) -> Self:
        """Start the program."""
        if self._reading is not None:
            raise RuntimeError("lines() starts its program once; call it again")
        loop = asyncio.get_running_loop()
        self._begun = time.monotonic()
        reading = self._reading = Reading(loop, _FDS[self._source], self._given, self._terms.drain_timeout)
        self._given = None
        teardown = self._terms.teardown
        ending = Ending(teardown, own_cgroup=teardown.tree == "cgroup")
        timeout = self._terms.timeout
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                self._process = await process_of(loop, reading, self._command, ending)
        except TimeoutError:
            if timeout is None or not limit.expired():  # it is that of spawn_timeout
                raise
            raise ProcessTimeout(self._command.popen_args, timeout) from None
        self._transport = reading.transport
        if timeout is not None:
            left = self._begun + timeout - time.monotonic()
            self._deadline = loop.call_later(max(left, 0), self._time_is_over)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the exit if all lines were read; else end the program and its group."""
        reading, transport = self._running()
        if self._deadline is not None and exc is not None:
            self._deadline.cancel()
        if exc_type is GeneratorExit:  # the task was destroyed: no loop is there to wait in
            kill_now(self._child(), self._terms.teardown.tree)
            transport.close()
            if self._ending is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._ending.cancel()
            return
        failed = well = False
        try:
            if exc is None and (self._timed_out or not self._left):
                await self._finish(reading)
                failed = self._terms.check and self.returncode != 0
                well = not failed
        finally:
            if self._deadline is not None:
                self._deadline.cancel()
            if not well:
                await self._stop()
        if failed:
            raise ProcessFailed(self._completed())
        if well:
            self._child().release()  # whom the program has left running goes on
            transport.close()

    def _running(self) -> tuple[Reading, SubprocessTransport]:
        if self._reading is None or self._transport is None:
            raise RuntimeError("use `async with lines(...) as output`: the program has not been started")
        return self._reading, self._transport

    async def _finish(self, reading: Reading) -> None:
        if reading.stdin is not None:
            reading.stdin.close()
        while not reading.over and not self._timed_out:
            await reading.wait()
        if self._timed_out:
            await self._give_up()

    def _time_is_over(self) -> None:
        """End the program, whatever the block does; it is told when it asks for a line, or at its end."""
        reading, _ = self._running()
        if reading.over:
            return
        self._timed_out = True
        reading.discard()
        self._ending = asyncio.ensure_future(stop(self._child(), self._terms.teardown))
        reading.wake()

    async def _give_up(self) -> None:
        assert self._terms.timeout is not None
        await self._stop()
        raise ProcessTimeout(self._command.popen_args, self._terms.timeout, self._completed())

    async def _stop(self) -> None:
        reading, transport = self._running()
        reading.discard()
        try:
            await self._ended()
        finally:
            transport.close()
        await self.process.wait()  # returns at once

    async def _ended(self) -> None:
        """End the program and its group, or wait until that has been done."""
        teardown, ending = self._terms.teardown, self._ending
        if ending is None:
            await stop(self._child(), teardown)
            return
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError:
            ending.cancel()
            try:
                await kill(self._child(), teardown.tree)
            finally:
                while not ending.done():  # it has nobody to wait for any more
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([ending])
            raise
        if ending.cancelled():  # by whoever cancels all tasks of the loop
            await kill(self._child(), teardown.tree)
        else:
            ending.result()

    def _child(self) -> TransportChild:
        _, transport = self._running()
        return TransportChild(transport, self.process.wait)

    def _completed(self) -> Completed[Any]:
        reading, transport = self._running()
        started, exited = transport.records()
        stdout, stderr = (self._tail(reading, fd) for fd in (1, 2))
        return Completed(
            self._command.popen_args,
            stdout,
            stderr,
            started=started,
            exited=exited,
            duration=time.monotonic() - self._begun,
            drained=not reading.cut,
        )

    def _tail(self, reading: Reading, fd: int) -> Any:
        tail = reading.tails.get(fd)
        return None if tail is None else self._form.text(tail.value())

    # ---- the lines ----

    def __aiter__(self) -> Self:
        """Return itself: a second loop goes on where the first one ended."""
        return self

    async def __anext__(self) -> LineT:
        """Return the next line.

        Cancellation: nothing is lost; the next call returns that line.

        Raises:
            StopAsyncIteration: What is read here has ended.
            ProcessTimeout: timeout is over. The program has been ended.
            LineTooLong: A line is longer than max_line.
            UnicodeError: With errors="strict": the program has written what is no text.
        """
        for line in self._lines:
            return line  # type: ignore[no-any-return]  # of the type that lines() says
        if await self._cut_more():
            for line in self._lines:
                return line  # type: ignore[no-any-return]
        raise StopAsyncIteration

    async def _cut_more(self) -> bool:
        """Cut the next lines. Returns whether there are any.

        A step takes a chunk, or as many lines of it as one list holds, and before each of them the loop gets
        its turn. Nothing is awaited between a step and the note of what it found: a cancellation loses none.
        """
        reading, _ = self._running()
        while self._left:
            if self._timed_out:
                await self._give_up()
            if self._long:
                self._long[0] = await joined(self._long[0])
                self._offer(self._long)
                self._long = []
                return True
            if self._current is None and not reading.has_more:
                await reading.wait()
                self._fresh = True
                continue
            if not self._fresh:
                self._fresh = True
                await asyncio.sleep(0)
                continue
            self._fresh = False
            if self._step(reading):
                return True
        return False

    def _offer(self, lines: list[Any]) -> None:
        self._lines = iter(lines)
        if self._source == "both":
            assert self._current is not None
            self._lines = zip(itertools.repeat(_NAMES[self._current]), lines, strict=False)

    def _step(self, reading: Reading) -> bool:
        if self._current is None:
            self._current, data = reading.take()
            splitter = self._splitters[self._current]
            if data is None:
                splitter.end()
            else:
                splitter.feed(data)
        splitter = self._splitters[self._current]
        lines = splitter.next_lines()
        if lines and isinstance(lines[0], Pieces):
            self._long = lines
            return False
        if lines:
            self._offer(lines)
            return True
        if splitter.ended:
            self._left.discard(self._current)
        self._current = None
        return False
