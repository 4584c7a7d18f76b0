"""The four ways to start a process that the demo compares: a loop, and who spawns on it."""

from __future__ import annotations

import asyncio
import importlib.util
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiovfork

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of the demo's table."""

    name: str
    label: str
    on_uvloop: bool
    with_aiovfork: bool

    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop]:
        """Return what makes the loop."""
        if not self.on_uvloop:
            return asyncio.SelectorEventLoop
        import uvloop

        return uvloop.new_event_loop

    async def spawn(self, *argv: str) -> asyncio.subprocess.Process:
        """Start one child, its output in a pipe."""
        create = aiovfork.create_subprocess_exec if self.with_aiovfork else asyncio.create_subprocess_exec
        return await create(*argv, stdin=DEVNULL, stdout=PIPE)

    async def collect(self, *argv: str) -> tuple[int | None, bytes]:
        """Run one child to its end and return its exit status and all that it wrote."""
        if self.with_aiovfork:
            completed = await aiovfork.run(*argv, stderr=None, check=False)
            return completed.returncode, completed.stdout
        process = await self.spawn(*argv)
        output, _ = await process.communicate()
        return process.returncode, output


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("asyncio", "asyncio", on_uvloop=False, with_aiovfork=False),
        Backend("uvloop", "uvloop", on_uvloop=True, with_aiovfork=False),
        Backend("aiovfork", "aiovfork on asyncio", on_uvloop=False, with_aiovfork=True),
        Backend("aiovfork-uvloop", "aiovfork on uvloop", on_uvloop=True, with_aiovfork=True),
    )
}


def have_uvloop() -> bool:
    """Tell whether uvloop is installed."""
    return importlib.util.find_spec("uvloop") is not None
