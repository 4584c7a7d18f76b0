"""Canaries: each private name of the stdlib that aiovfork relies on."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import pathlib
from typing import Any

import pytest

from aiovfork import _compat

PACKAGE = pathlib.Path(__file__).parents[2] / "aiovfork"
PIPE = asyncio.subprocess.PIPE


def test_environ_is_a_view_of_a_dict_of_bytes() -> None:
    """os.environ._data is a dict of bytes, and the one that os.environ writes to."""
    os.environ["AIOVFORK_CANARY"] = "value"
    try:
        assert type(os.environ._data) is dict  # type: ignore[attr-defined]
        assert _compat.environ_bytes() is os.environ._data  # type: ignore[attr-defined]
        assert _compat.environ_bytes()[b"AIOVFORK_CANARY"] == b"value"
    finally:
        del os.environ["AIOVFORK_CANARY"]


def test_the_logger_is_asyncios() -> None:
    """asyncio logs to the logger "asyncio", as is documented."""
    assert _compat.logger is logging.getLogger("asyncio")


def test_a_process_asks_its_transport() -> None:
    """Process keeps _transport and _loop, and wait() is the transport's _wait()."""

    class Transport(asyncio.SubprocessTransport):
        def get_pid(self) -> int:
            return 7

        async def _wait(self) -> int:
            return 5

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        transport: Any = Transport()
        protocol = _compat.StreamProtocol(limit=1, loop=loop)
        process: Any = _compat.AsyncioProcess(transport, protocol, loop)
        assert (process._transport, process._loop) == (transport, loop)
        assert runner.run(process.wait()) == 5


def test_a_stream_protocol_lets_its_transport_go() -> None:
    """After the exit and the ends of all pipes its _transport is None, and a second exit would fail on that."""

    class Transport(asyncio.SubprocessTransport):
        def get_pipe_transport(self, fd: int) -> None:
            return None

        def close(self) -> None:
            pass

    with asyncio.Runner() as runner:
        protocol = _compat.StreamProtocol(limit=1, loop=runner.get_loop())
        protocol.connection_made(Transport())
        assert not _compat.has_heard_of_exit(protocol)
        protocol.process_exited()
        assert _compat.has_heard_of_exit(protocol)
        with pytest.raises(AttributeError):
            protocol.process_exited()


def test_a_stream_reader_is_a_buffer_and_a_waiter() -> None:
    """A StreamReader keeps bytes in _buffer, whoever waits in _waiter, and resumes a pipe that it has paused.

    _wait_for_data waits for more of them, or for _eof.
    """

    class Pipe(asyncio.ReadTransport):
        calls: list[str] = []  # noqa: RUF012

        def pause_reading(self) -> None:
            self.calls.append("pause")

        def resume_reading(self) -> None:
            self.calls.append("resume")

    async def body() -> None:
        reader = _compat.AsyncioStreamReader(limit=4, loop=asyncio.get_running_loop())
        reader.set_transport(Pipe())
        assert reader._waiter is None
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        assert isinstance(reader._waiter, asyncio.Future)
        reader.feed_data(b"one\ntwo more than the limit")
        assert await reading == b"one\n"
        assert Pipe.calls == ["pause"]
        assert type(reader._buffer) is bytearray
        reader._buffer = bytearray(b"a")
        reader._buffer.clear()
        reader._maybe_resume_transport()
        assert Pipe.calls == ["pause", "resume"]
        reading = asyncio.ensure_future(reader._wait_for_data("name"))
        await asyncio.sleep(0)
        assert not reading.done()
        reader.feed_data(b"more")
        await reading
        assert reader._buffer == b"more"
        assert reader._eof is False
        reader._buffer.clear()
        reader.feed_eof()
        assert reader._eof is True
        assert reader.at_eof()
        assert await reader.read() == b""

    with asyncio.Runner() as runner:
        runner.run(body())


def test_read_and_readline_go_through_what_is_overridden() -> None:
    """readline() and `async for` call readuntil(), and read() calls read(n) until the end."""

    class Reader(_compat.AsyncioStreamReader):
        async def read(self, n: int = -1) -> bytes:
            called.append(f"read({'n' if n > 0 else ''})")
            return await super().read(n)

        async def readuntil(self, separator: Any = b"\n") -> bytes:
            called.append("readuntil")
            return await super().readuntil(separator)

    async def body() -> None:
        reader = Reader(limit=2**16, loop=asyncio.get_running_loop())
        reader.feed_data(b"one\ntwo\nthree\nrest")
        reader.feed_eof()
        assert await reader.readline() == b"one\n"
        async for line in reader:
            assert line == b"two\n"
            break
        assert await reader.read() == b"three\nrest"

    called: list[str] = []
    with asyncio.Runner() as runner:
        runner.run(body())
    assert called == ["readuntil", "readuntil", "read()", "read(n)", "read(n)"]


def test_a_stream_protocol_knows_its_limit() -> None:
    """A SubprocessStreamProtocol has the limit of the readers that it makes, and lets them be replaced."""
    with asyncio.Runner() as runner:
        protocol: Any = _compat.StreamProtocol(limit=17, loop=runner.get_loop())
        assert _compat.limit_of(protocol) == 17
        reader = asyncio.StreamReader(loop=runner.get_loop())
        protocol.stdout = reader
        protocol.pipe_data_received(1, b"data")
        protocol.pipe_connection_lost(1, None)
        assert runner.run(reader.read()) == b"data"


def test_no_other_module_reaches_into_another() -> None:
    """But for _compat.py, no module uses a private attribute of something that is not its own."""
    of_named_tuples = {"_make", "_replace", "_fields", "_field_defaults"}  # documented
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in PACKAGE.glob("*.py")
        if path.name != "_compat.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in of_named_tuples
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]
    assert not found
