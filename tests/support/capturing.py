"""Captures without what is built on them: a child of a capture's own, or one whose pipes it takes over."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any, Final

from aiovfork._capture import Capture
from aiovfork._events import Captured, Exited
from aiovfork._options import Command, Options
from aiovfork._plan import build
from aiovfork._ports import port_of

_USUAL: Final = Options()


class Run:
    """One child whose output is captured, and what has come of it. Also the sink of its records."""

    def __init__(
        self, *args: str, data: bytes | None = None, options: Options = _USUAL, **keywords: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.port: Final = port_of(loop)
        self.capture: Final = Capture(data, **keywords)
        self.over: asyncio.Future[Captured] = loop.create_future()
        self.exit: asyncio.Future[Exited] = loop.create_future()
        stdin = subprocess.DEVNULL if data is None else subprocess.PIPE
        plan = build(Command(args, stdin, subprocess.PIPE, subprocess.PIPE, options))
        self.ticket: Final = self.port.submit(plan, self, self.capture.pointer)

    def captured(self, event: Captured) -> None:
        """The capture is over."""
        if not self.over.done():
            self.over.set_result(event)

    def exited(self, event: Exited) -> None:
        """Its child, which had outlived it, has ended."""
        if not self.exit.done():
            self.exit.set_result(event)

    def failed(self, error: int, step: int, status: int) -> None:
        """There is no child."""
        if not self.over.done():
            self.over.set_exception(OSError(-error, f"step {step}, status {status}"))

    def spawned(self, event: object) -> None:
        """Never: a capture has one record."""
        raise AssertionError(event)

    async def output(self) -> tuple[bytes, bytes]:
        """Wait for the end, and return what was kept; the memory is given back."""
        await self.over
        try:
            return await self.capture.output(self.port)
        finally:
            self.capture.free()


async def output(*args: str, **keywords: Any) -> tuple[bytes, bytes]:
    """Return what a program has written to stdout and stderr."""
    return await Run(*args, **keywords).output()
