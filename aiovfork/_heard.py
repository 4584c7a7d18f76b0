"""What the port tells of a child with a capture, and that child as something that can be stopped.

Layer: above the port. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib

from aiovfork._cgroup import Cgroup
from aiovfork._events import Captured, Exited, Spawned
from aiovfork._port import CompletionPort


class Heard:
    """What has been heard of a child. The port holds this sink, but not the call, whose end may come first.

    A record may be delivered again after an exception of a signal handler: each of these can be repeated.
    """

    failure: tuple[int, int, int] | None = None
    event: Captured | None = None
    exit: Exited | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiter = loop.create_future()

    def spawned(self, event: Spawned) -> None:
        """Never comes: captured() tells of the start, too."""

    def failed(self, error: int, step: int, status: int) -> None:
        """There is no child."""
        self.failure = error, step, status
        self.wake()

    def captured(self, event: Captured) -> None:
        """The capture is over, and so is the child, unless that happened before its time."""
        self.event = event
        self.exit = event.exited
        self.wake()

    def exited(self, event: Exited) -> None:
        """The child is over that has outlived its capture."""
        self.exit = event
        self.wake()

    def wake(self) -> None:
        """Wake whoever waits."""
        if not self.waiter.done():
            self.waiter.set_result(None)

    async def over(self) -> None:
        """Wait until the child is over, or did not start."""
        while self.exit is None and self.failure is None:
            if self.waiter.done():
                self.waiter = self._loop.create_future()
            await asyncio.wait([self.waiter])  # the call may wait for it too: not to be cancelled with this


class Child:
    """The child of a call, as stop() sees it."""

    def __init__(self, port: CompletionPort, ticket: int, heard: Heard, cgroup: Cgroup | None) -> None:
        self._port = port
        self._ticket = ticket
        self._heard = heard
        self.cgroup = cgroup

    @property
    def pid(self) -> int:
        """The child's pid. It runs its program, or has exited."""
        event = self._heard.event
        return self._port.pid(self._ticket) or -1 if event is None else event.pid

    @property
    def exited(self) -> bool:
        """Whether the exit was told, or that there was no start."""
        return self._heard.exit is not None or self._heard.failure is not None

    def kill(self, signal: int) -> None:
        """Signal the child. Nothing happens once it has exited."""
        with contextlib.suppress(ProcessLookupError):
            self._port.kill(self._ticket, signal)

    def kill_group(self, signal: int) -> bool:
        """Signal the group that the child leads, also after its exit."""
        return self._port.kill_group(self._ticket, signal)

    def pin(self) -> None:
        """Have the child's pid stay its own after the exit, until release()."""
        self._port.pin(self._ticket)

    def release(self) -> None:
        """Give back what is held of an exited child."""
        self._port.release(self._ticket)

    async def wait_exit(self) -> None:
        """Wait until the exit is told."""
        await self._heard.over()
