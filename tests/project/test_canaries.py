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
