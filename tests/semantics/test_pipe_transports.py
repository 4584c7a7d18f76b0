"""The transports of a child's pipes, held against asyncio's."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES, PIPES, Spawner, compare, run_on_each
from tests.support.finalizers import quiet_finalizers
from tests.support.protocols import Recorder

#: Reads a line before anything else, so that what was written before stands in the pipe and in the transport.
ECHO = ["sh", "-c", "read go; exec cat"]
BIG = 2**18


class Heard(asyncio.Protocol):
    """Takes the place of a pipe's protocol: notes what the pipe says, and passes its end on."""

    def __init__(self, pipe: Any) -> None:
        self.calls: list[Any] = []
        self.lost = asyncio.get_running_loop().create_future()
        self._before = pipe.get_protocol()
        pipe.set_protocol(self)
        assert pipe.get_protocol() is self

    def data_received(self, data: bytes) -> None:
        """Output."""
        self.calls.append(data)

    def eof_received(self) -> None:
        """The child has closed its end."""
        self.calls.append("eof")

    def pause_writing(self) -> None:
        """Nothing is written for now."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call."""
        self.calls.append(type(exc))
        self.lost.set_result(None)
        self._before.connection_lost(exc)


def pipe_of(process: asyncio.subprocess.Process, fd: int) -> Any:
    """The transport of a pipe."""
    return process._transport.get_pipe_transport(fd)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "limits", [{}, {"high": 10}, {"low": 10}, {"high": 0}, {"high": 8, "low": 8}], ids=str
)
def test_write_buffer_limits(limits: dict[str, int]) -> None:
    """set_write_buffer_limits fills in what is not given, as asyncio's does."""

    async def body(spawn: Spawner) -> Any:
        pipe = pipe_of(await spawn.exec("cat", **PIPES), 0)
        pipe.set_write_buffer_limits(**limits)
        return pipe.get_write_buffer_limits(), pipe.get_write_buffer_size(), pipe.can_write_eof()

    compare(body)


def test_limits_that_make_no_sense() -> None:
    """A low-water mark above the high one is a ValueError."""

    async def body(spawn: Spawner) -> str:
        pipe = pipe_of(await spawn.exec("cat", **PIPES), 0)
        with pytest.raises(ValueError, match="must be >=") as info:
            pipe.set_write_buffer_limits(high=1, low=2)
        return str(info.value)

    compare(body)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_written_may_change_afterwards(kind: Any) -> None:
    """write() takes a snapshot: what the pipe has no room for yet is written as it was."""

    async def body(spawn: Spawner) -> bool:
        process = await spawn.exec(*ECHO, **PIPES)
        assert process.stdin is not None
        original = bytearray(b"\n" + b"x" * BIG)
        data = kind(original)
        process.stdin.write(data)
        original[:] = b"y" * len(original)
        if kind is bytearray:
            data[:] = original
        process.stdin.close()
        stdout, _ = await process.communicate()
        return stdout == b"x" * BIG

    assert compare(body)


def test_many_small_pieces() -> None:
    """What is written in many pieces while the pipe is full comes out whole and in order."""

    async def body(spawn: Spawner) -> None:
        process = await spawn.exec(*ECHO, **PIPES)
        assert process.stdin is not None
        process.stdin.write(b"\n" + b"-" * BIG)
        pieces = [b"%d," % number for number in range(1000)]
        for piece in pieces:
            process.stdin.write(piece)
        process.stdin.writelines(pieces)
        process.stdin.write(memoryview(bytes(range(256)))[::2])
        process.stdin.close()
        stdout, _ = await process.communicate()
        assert stdout == b"-" * BIG + b"".join(pieces * 2) + bytes(range(0, 256, 2))

    run_on_each(body)


def test_the_size_of_the_buffer() -> None:
    """get_write_buffer_size() counts what is still to be written; abort() throws it away and closes."""

    async def body(spawn: Spawner) -> Any:
        transport, protocol = await spawn.protocol_exec(Recorder, "sleep", "1000", stdout=None, stderr=None)
        pipe = transport.get_pipe_transport(0)
        pipe.write(b"x" * BIG)
        before = pipe.get_write_buffer_size()
        pipe.abort()
        found = pipe.get_write_buffer_size(), pipe.is_closing()
        await protocol.wait_for("pipe lost 0")
        return before, found

    assert compare(body) == (BIG - 2**16, (0, True))


def test_close_writes_what_was_taken() -> None:
    """close() and write_eof() of stdin close after what has been written; both can be repeated."""

    async def body(spawn: Spawner) -> Any:
        process = await spawn.exec(*ECHO, **PIPES)
        pipe = pipe_of(process, 0)
        pipe.write(b"\n" + b"x" * BIG)
        pipe.write_eof()
        pipe.close()
        pipe.write_eof()
        assert process.stdout is not None
        return pipe.is_closing(), len(await process.stdout.read())

    assert compare(body) == (True, BIG)


def test_writes_to_a_closed_pipe(caplog: pytest.LogCaptureFixture) -> None:
    """A write after the end goes nowhere; after some of them each is logged."""

    async def body(spawn: Spawner) -> list[str]:
        process = await spawn.exec("cat", **PIPES)
        pipe = pipe_of(process, 0)
        pipe.close()
        for _ in range(7):
            pipe.write(b"x")
        await process.wait()
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return said

    assert len(compare(body)) == 2


@pytest.mark.parametrize("rest", [b"", b"x" * BIG], ids=len)
def test_a_reader_that_goes(rest: bytes) -> None:
    """A child that closes its stdin is noticed without a write: BrokenPipeError, if something was to be written."""

    async def body(spawn: Spawner) -> Any:
        process = await spawn.exec("sh", "-c", "read go; exec <&-; exec sleep 1000", **PIPES)
        pipe = pipe_of(process, 0)
        heard = Heard(pipe)
        pipe.write(b"\n" + rest)
        await heard.lost
        process.kill()
        await process.wait()
        return heard.calls

    assert compare(body) == [BrokenPipeError if rest else type(None)]


def test_another_protocol_for_a_pipe() -> None:
    """Who calls set_protocol() of a pipe hears of data, of eof and of the end."""

    async def body(spawn: Spawner) -> Any:
        process = await spawn.exec("cat", **PIPES)
        stdin, stdout = pipe_of(process, 0), pipe_of(process, 1)
        heard = Heard(stdout)
        stdin.write(b"out")
        stdin.close()
        await heard.lost
        return heard.calls, stdout.is_closing(), stdout.is_reading()

    assert compare(body) == ([b"out", "eof", type(None)], True, False)


def test_a_pause_ends_with_the_pipe() -> None:
    """pause_reading() and resume_reading() are idempotent, and do nothing once the pipe is closed."""

    async def body(spawn: Spawner) -> Any:
        process = await spawn.exec("cat", **PIPES)
        pipe = pipe_of(process, 1)
        found = [pipe.is_reading()]
        for _ in range(2):
            pipe.pause_reading()
            found.append(pipe.is_reading())
        for _ in range(2):
            pipe.resume_reading()
            found.append(pipe.is_reading())
        pipe.pause_reading()
        pipe.close()
        pipe.resume_reading()
        pipe.close()
        return [*found, pipe.is_reading(), pipe.is_closing()]

    assert compare(body) == [True, False, False, True, True, False, True]


async def test_what_a_pipe_says_of_itself() -> None:
    """repr() names stage and descriptor; "pipe" is there while it is open, and closing that closes nothing."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        pipe = pipe_of(process, 0)
        file = pipe.get_extra_info("pipe")
        number = file.fileno()
        file.close()
        os.fstat(number)
        assert repr(pipe) == f"<WritePipe idle fd={number} bufsize=0>"
        assert pipe.get_extra_info("peername", "nothing") == "nothing"
        pipe_of(process, 1).pause_reading()
        assert " paused" in repr(pipe_of(process, 1))
        pipe_of(process, 1).resume_reading()
        assert await process.communicate(b"x") == (b"x", b"")
        assert repr(pipe) == f"<WritePipe closed fd={number} bufsize=0>"
        assert pipe.get_extra_info("pipe", "nothing") in ("nothing", file)
        pipe.abort()


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
@pytest.mark.parametrize("data", [b"", b"x" * BIG], ids=len)
def test_a_pipe_that_outlives_its_loop(factory: Any, data: bytes) -> None:
    """Closing a pipe, or a process, after the loop was closed closes the descriptors, and touches no loop."""

    async def begin() -> Any:
        process = await aiovfork.create_subprocess_exec("sleep", "1000", **PIPES)
        assert process.stdin is not None
        process.stdin.write(data)
        return process

    with quiet_finalizers(), asyncio.Runner(loop_factory=factory) as runner:
        process = runner.run(begin())
        pipes = [pipe_of(process, fd) for fd in range(3)]
        runner.close()
        pipes[0].close()
        process._transport.close()
        assert all(pipe.is_closing() for pipe in pipes)
        del process, pipes
