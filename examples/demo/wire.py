"""How the demo talks to its helpers' processes: one JSON object per line, each request answered in order."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

Message = dict[str, Any]

ROOT = Path(__file__).parents[2]  # the checkout, from which `-m examples.demo.NAME` is found
LINE_LIMIT = 1 << 28  # a scene's samples travel in one line


class PartnerError(RuntimeError):
    """A process of the demo ended, hung or answered with an error."""


def requests() -> Iterator[Message]:
    """Yield what the demo asks of this process, until the demo closes its end."""
    for line in sys.stdin:
        yield decode(line)


def decode(line: str | bytes) -> Message:
    """Read one line."""
    message: Message = json.loads(line)
    return message


def reply(**message: Any) -> None:
    """Answer the demo."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Partner:
    """One process of the demo, seen from the demo; a fresh interpreter running a module of this package.

    It is started by plain asyncio: what is measured must not depend on what is being shown.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._name = name
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Self:
        """Start `python -m module arguments`."""
        command = (sys.executable, "-m", module, *arguments)
        # A session of its own: ^Z and ^C are for the demo, which then ends its partners in order.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=LINE_LIMIT, start_new_session=True, cwd=ROOT
        )
        return cls(" ".join((module.rpartition(".")[2], *arguments[:1])), process)

    def send(self, **message: Any) -> None:
        """Ask for something, without waiting for the answer."""
        self._stdin.write(json.dumps(message).encode() + b"\n")

    def interrupt(self) -> None:
        """Tell the process that it has done enough of what it does: SIGUSR1."""
        self._process.send_signal(signal.SIGUSR1)

    async def receive(self, patience: float = 60) -> Message:
        """Return the next answer.

        Raises:
            PartnerError: if none came within `patience` seconds, the process ended, or it reports an error.
        """
        try:
            async with asyncio.timeout(patience):
                line = await self._stdout.readline()
        except TimeoutError:
            raise PartnerError(f"{self._name}: no answer within {patience:.0f} s") from None
        if not line:
            raise PartnerError(f"{self._name}: ended early, exit status {await self._process.wait()}")
        message = decode(line)
        if "error" in message:
            raise PartnerError(f"{self._name}: {message['error']}")
        return message

    async def ask(self, patience: float = 60, **message: Any) -> Message:
        """Send a request and return its answer."""
        self.send(**message)
        return await self.receive(patience)

    async def close(self, patience: float = 5) -> None:
        """End the process: politely by closing its input, by SIGKILL if `patience` seconds do not do."""
        self._stdin.close()
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            with suppress(TimeoutError):  # asyncio waits for the pipe's end too, before CPython 3.14
                await asyncio.wait_for(self._process.wait(), patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.close(5 if kind is None else 1)
