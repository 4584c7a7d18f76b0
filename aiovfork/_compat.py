"""The private names of the stdlib that aiovfork uses; tests/project/test_canaries.py watches each of them.

Layer: lowest. Thread: any.
"""

from __future__ import annotations

import asyncio
import asyncio.log
import os
from asyncio.subprocess import SubprocessStreamProtocol as StreamProtocol  # documented nowhere
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = [
    "AsyncioProcess",
    "AsyncioStreamReader",
    "StreamProtocol",
    "environ_bytes",
    "has_heard_of_exit",
    "limit_of",
    "logger",
]

#: What asyncio logs to; only the logger's name is documented.
logger = asyncio.log.logger


class AsyncioProcess(asyncio.subprocess.Process):
    """asyncio's Process, with the private attributes that a subclass may use.

    Its wait() is a call of the transport's _wait().
    """

    _loop: asyncio.AbstractEventLoop
    _transport: Any


class AsyncioStreamReader(asyncio.StreamReader):
    """asyncio's StreamReader, with the private attributes that a subclass may use."""

    _loop: asyncio.AbstractEventLoop
    _buffer: bytearray
    _waiter: asyncio.Future[None] | None
    _eof: bool
    _maybe_resume_transport: Callable[[], None]
    _wait_for_data: Callable[[str], Awaitable[None]]


def limit_of(protocol: StreamProtocol) -> int:
    """Return the limit of the readers that a SubprocessStreamProtocol makes."""
    limit: Any = getattr(protocol, "_limit")  # noqa: B009  # private, and no attribute for type checkers
    return int(limit)


def environ_bytes() -> dict[bytes, bytes]:
    """Return the dict of bytes behind os.environ: comparing it costs a fraction of encoding it."""
    data: Any = getattr(os.environ, "_data", None)
    if type(data) is dict:
        return data
    return dict(os.environb)


def has_heard_of_exit(protocol: asyncio.SubprocessProtocol) -> bool:
    """Return whether a connected SubprocessStreamProtocol is done; process_exited() fails on None then."""
    transport: Any = getattr(protocol, "_transport", protocol)
    return transport is None
