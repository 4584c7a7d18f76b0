"""The programs of a pipeline, while they run: one process group, kernel pipes between them, nothing copied.

A stage is a sink of the port. It is started like any child; the parent's ends of its pipes, if it has any, go
to a capture. The first stage leads the group. Its ticket is held after its exit (PIN), so its pid stays its
own: the others can join the group, and the group can be signalled, however early the first one ends.

Layer: above the capture and the stop of a tree. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import signal as signals
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from aiovfork._capture import Capture, Input
from aiovfork._cgroup import Cgroup
from aiovfork._errors import spawn_error, timeout_error
from aiovfork._events import NO_ENDS, Captured, Exited, Spawned, close_all
from aiovfork._options import Command
from aiovfork._plan import GROUP_DIES, build
from aiovfork._port import CompletionPort

# Bytes of a pipe between two programs: a third of the switches of context, and 256 such pipes fit into the
# pages that a user has for large ones (/proc/sys/fs/pipe-user-pages-soft).
_PIPE_SIZE: Final = 2**18


def enlarge(fd: int, pipesize: int) -> None:
    """Set the size of a pipe between two programs: what was asked for, or what pays.

    Raises:
        OSError: It cannot have the size that was asked for.
    """
    if pipesize != -1:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, pipesize)
        return
    with contextlib.suppress(OSError):  # the user's quota is used up: it stays as it is
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


class Stage:
    """One program: what the port has told of it."""

    ticket = 0
    started: Spawned | None = None
    failure: tuple[int, int, int] | None = None
    exit: Exited | None = None
    ended_at = 0.0
    capture: Capture | None = None
    captured_event: Captured | None = None
    cut = False  # somebody still held its pipes, and reading ended
    unwanted = False  # nobody asks any more
    group_dies = False  # the group that it leads is ended with it
    closed = False

    def __init__(self, port: CompletionPort, command: Command, wake: Callable[[], None]) -> None:
        self.port = port
        self.command = command
        self.ends: dict[int, int] = {}
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> bool:
        """Whether it has been submitted, and nothing is known yet."""
        return bool(self.ticket) and self.started is None and self.failure is None

    @property
    def alive(self) -> bool:
        """Whether it has been started, and its exit was not told."""
        return self.started is not None and self.exit is None

    @property
    def collecting(self) -> bool:
        """Whether its pipes are being read or written."""
        return self.capture is not None and self.captured_event is None and not self.cut

    # ---- events of the port; each may come twice ----

    def spawned(self, event: Spawned) -> None:
        """The program runs."""
        if self.started is None:
            self.started = event
            if event.parent_end != NO_ENDS:
                self.ends = {fd: end for fd, end in enumerate(event.parent_end) if end >= 0}
            self._stop_timer()
        if self.unwanted:
            close_all(self.ends)
            self._kill_all()
        self._wake()

    def failed(self, error: int, step: int, status: int) -> None:
        """There is no child."""
        self.failure = error, step, status
        self._stop_timer()
        self._wake()

    def exited(self, event: Exited) -> None:
        """The program is over."""
        if self.exit is None:
            self.ended_at = time.monotonic()
        self.exit = event
        if self.closed and event.group_lives:  # else that is up to Stages.release()
            self._kill_all()
            self.port.release(self.ticket)
        self._wake()

    def captured(self, event: Captured) -> None:
        """Its pipes are at their ends, or more came than the limit."""
        self.captured_event = event
        self._wake()

    # ---- what is done with it ----

    def submit(self, flags: int) -> None:
        """Have it started."""
        command = self.command
        plan = build(command, flags=flags)
        self.group_dies = bool(flags & GROUP_DIES)
        sys.audit("subprocess.Popen", command.program, list(command.args), command.cwd, command.options.env)
        self.ticket = self.port.submit(plan, self)
        if command.spawn_timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                command.spawn_timeout, self.port.cancel, self.ticket, -errno.ETIMEDOUT
            )

    def collect(self, data: Input | None, limit: int | None, *, truncate: bool) -> None:
        """Have its pipes read and written, if it has any.

        Raises:
            OSError: There is no thread for it.
            MemoryError: There is no memory.
        """
        if self.ends and self.capture is None:
            capture = Capture(data, limit=limit, truncate=truncate)
            self.port.collect(capture.pointer, self.ends, self)
            self.capture = capture

    def cut_short(self) -> None:
        """End the collection."""
        if self.capture is not None and self.collecting:
            ends = self.capture.take_back()
            if ends is not None:
                close_all(ends)
                self.cut = True

    def kill(self, signal: int) -> None:
        """Signal the program; nothing happens where there is none."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.port.kill(self.ticket, signal)

    def _kill_all(self) -> None:
        """Kill the program, and the group that is to die with it: it may have had children by now."""
        if self.group_dies:
            with contextlib.suppress(OSError):
                self.port.kill_group(self.ticket, signals.SIGKILL)
        with contextlib.suppress(PermissionError):
            self.kill(signals.SIGKILL)

    def error(self) -> OSError:
        """Return why it did not start."""
        assert self.failure is not None
        error, step, status = self.failure
        timeout = self.command.spawn_timeout
        if error == -errno.ETIMEDOUT and timeout is not None:
            return timeout_error(self.command, timeout, step)
        return spawn_error(self.command, error, step, status)

    def close(self) -> None:
        """Give everything back; a program that still runs is killed."""
        self._stop_timer()
        self.cut_short()
        close_all(self.ends)
        if self.capture is not None:
            self.capture.free()
        self.closed = True
        if self.pending or self.alive:
            self.unwanted = True
            self.port.dispose(self.ticket)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Stages:
    """All of them; for stop() they are one child, which leads the group and is over when all are."""

    cgroup: Cgroup | None = None

    def __init__(self, port: CompletionPort, commands: list[Command], *, leads: bool) -> None:
        self.port = port
        self.leads = leads
        self._loop = asyncio.get_running_loop()
        self._waiter = self._loop.create_future()
        self.all = [Stage(port, command, self.wake) for command in commands]

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.all)

    def wake(self) -> None:
        """Something has been heard."""
        if not self._waiter.done():
            self._waiter.set_result(None)

    async def heard(self) -> None:
        """Wait until something has been heard since the last time."""
        try:
            await self._waiter
        finally:
            self._waiter = self._loop.create_future()

    # ---- Stoppable ----

    @property
    def pid(self) -> int:
        """The pid of the first, which is the number of the group."""
        started = self.all[0].started
        return started.pid if started is not None else -1

    @property
    def exited(self) -> bool:
        """Whether nobody runs, or may yet."""
        return not any(stage.pending or stage.alive for stage in self.all)

    def kill(self, signal: int) -> None:
        """Signal each."""
        for stage in self.all:
            stage.kill(signal)

    def kill_group(self, signal: int) -> bool:
        """Signal the group."""
        first = self.all[0]
        return self.leads and first.started is not None and self.port.kill_group(first.ticket, signal)

    def pin(self) -> None:
        """It is."""

    def release(self) -> None:
        """Give back the group. Idempotent."""
        first = self.all[0]
        if first.exit is not None and first.exit.group_lives:
            self.port.release(first.ticket)

    async def wait_exit(self) -> None:
        """Wait until nobody runs."""
        while not self.exited:
            await self.heard()
