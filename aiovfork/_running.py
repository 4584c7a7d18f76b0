"""One call of run(): a sink of the port beside the transport, and what it comes to.

A call has one future, one request, and one record of the port, which comes when the child is over and its
output is whole. Whatever else happens, a deadline, a limit, a cancellation, leads to one place, end(): the
tree is stopped, and then the call tells what it has read.

Layer: above the capture and the stop of a tree. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

from aiovfork._capture import Capture, Input
from aiovfork._cgroup import Cgroup, own_cgroup
from aiovfork._errors import spawn_error, timeout_error
from aiovfork._events import Captured, Exited
from aiovfork._heard import Child, Heard
from aiovfork._options import Command
from aiovfork._outcome import Completed, OutputLimitExceeded, ProcessFailed, ProcessTimeout
from aiovfork._plan import GROUP_DIES, build
from aiovfork._ports import port_of
from aiovfork._ptmx import READ, SLAVE, Ends, close_ends, on_terminal, open_terminal
from aiovfork._slow import log_if_slow, under_way
from aiovfork._terms import Terms
from aiovfork._text import SLICE, decoded, escaped
from aiovfork._tree import Teardown, stop

_PIPE: Final = subprocess.PIPE
# Seconds to read on after the exit of a child that is ended, at most.
_DRAIN: Final = 0.5


async def complete(
    command: Command,
    data: Input | None,
    terms: Terms,
    begun: Callable[[Running], object] | None = None,
) -> Completed[Any]:
    """Run a command to its end, as run() describes it; begun() gets the call when its start begins."""
    running = Running(asyncio.get_running_loop(), command, data, terms)
    try:
        try:
            await running.start(begun)
            await running.heard.waiter
            return await running.result()
        except asyncio.CancelledError as exc:
            raise await running.cancelled(exc) from None
    except (Exception, asyncio.CancelledError):
        raise
    except (
        BaseException
    ):  # KeyboardInterrupt; GeneratorExit: the task was destroyed, no loop is there to wait in
        running.abandon()
        raise
    finally:
        running.close()


class Running:
    """One call, which owns its child. Whoever drops it ends the tree."""

    ticket = 0
    stopped = detached = closed = False
    cgroup: Cgroup | None = None
    # It stays until the end: where nobody has the master, the session hangs up, though the program may open
    # the terminal again.
    terminal: Ends | None = None
    others: int | None = None  # in debug mode: how many spawns were under way before
    timers: tuple[asyncio.TimerHandle, ...] = ()

    def __init__(
        self, loop: asyncio.AbstractEventLoop, command: Command, data: Input | None, terms: Terms
    ) -> None:
        self.began = loop.time()
        self.loop = loop
        self.command = command
        self.terms = terms
        self.port = port_of(loop)
        self.heard = Heard(loop)
        self.capture = Capture(
            data, limit=terms.limit, truncate=terms.truncate, drain_timeout=terms.drain_timeout
        )

    async def start(self, begun: Callable[[Running], object] | None) -> None:
        """Submit the child."""
        command, terms = self.command, self.terms
        tree = terms.teardown.tree
        if command.pty is not None:
            self.terminal = Ends()
            open_terminal(self.terminal, command.pty)
            command = on_terminal(command, self.terminal[SLAVE])
            self.capture.read_terminal(self.terminal[READ])
        plan = build(command, flags=0 if tree is None else GROUP_DIES)
        sys.audit("subprocess.Popen", command.program, list(command.args), command.cwd, command.options.env)
        if tree == "cgroup":
            self.cgroup = await own_cgroup(command)
            plan = build(command, flags=GROUP_DIES, cgroup_fd=self.cgroup.fd)
        if terms.timeout is not None and terms.timeout <= 0:
            raise ProcessTimeout(command.popen_args, terms.timeout)
        if self.loop.get_debug():
            self.others = under_way()
        if begun is not None:
            begun(self)
        self.ticket = self.port.submit(plan, self.heard, self.capture.pointer)
        if self.terminal is not None:
            close_ends(self.terminal, SLAVE)  # the core has it now
        if terms.timeout is not None:
            self.timers = (self.loop.call_later(terms.timeout, self.heard.wake),)
        if command.spawn_timeout is not None:
            timer = self.loop.call_later(
                command.spawn_timeout, self.port.cancel, self.ticket, -errno.ETIMEDOUT
            )
            self.timers = (*self.timers, timer)

    # ---- what it comes to ----

    async def result(self) -> Completed[Any]:
        """Return what run() returns, or raise what it raises. Something was heard, or the time is over."""
        event, terms = self.heard.event, self.terms
        if self.heard.failure is not None:
            raise self._not_started(*self.heard.failure)
        if event is None or self.heard.exit is None or event.error or event.limited:
            await self.end(terms.teardown)
            raise await self._reason(event)
        failed = bool(terms.check and self.heard.exit.returncode)
        if failed or terms.leaves_nothing or self.cgroup is not None:
            await self.end(terms.teardown)
        completed = await self._completed(self.heard.exit, event, lenient=failed)
        if failed:
            raise ProcessFailed(completed)
        return completed

    def _not_started(self, error: int, step: int, status: int) -> OSError:
        timeout = self.command.spawn_timeout
        if error == -errno.ETIMEDOUT and timeout is not None:
            return timeout_error(self.command, timeout, step)
        return spawn_error(self.command, error, step, status)

    async def _reason(self, event: Captured | None) -> Exception:
        """Return what to raise for a call that was ended; event is what had been heard before."""
        limit, args = self.terms.limit, self.command.popen_args
        completed = await self._known()
        if event is None:
            assert self.terms.timeout is not None
            return ProcessTimeout(args, self.terms.timeout, completed)
        if event.limited and limit is not None and completed is not None:
            stream = "stdout" if self.capture.total[0] > limit else "stderr"
            return OutputLimitExceeded(limit, stream, completed)
        exc = OSError(-event.error, os.strerror(-event.error))
        exc.add_note(f"aiovfork: collecting the output of {self.command.program!r}, which was ended")
        exc.completed = completed  # type: ignore[attr-defined]  # documented
        return exc

    async def _known(self) -> Completed[Any] | None:
        """Return what is known of a child that was ended; None if it had not been started."""
        if self.heard.event is None or self.heard.exit is None:
            return None
        return await self._completed(self.heard.exit, self.heard.event, lenient=True)

    async def _completed(self, exited: Exited, event: Captured, *, lenient: bool) -> Completed[Any]:
        """Return what is known of a child that is over.

        Raises:
            UnicodeError: The output is not text of the encoding; unless this is lenient.
            MemoryError: There is not enough for the output.
        """
        terms, capture = self.terms, self.capture
        duration = self.loop.time() - self.began
        outputs: tuple[Any, Any] | None = capture.at_hand()
        problem = None
        if terms.encoding is not None:
            try:
                outputs = await self._text(outputs, terms.encoding, lenient=lenient)
            except UnicodeError as exc:
                problem = exc
        stdout, stderr = outputs or await capture.output(self.port)
        completed: Completed[Any] = Completed(
            self.command.popen_args,
            stdout if self.command.stdout == _PIPE or self.command.pty is not None else None,
            stderr if self.command.stderr == _PIPE else None,
            started=event,
            exited=exited,
            duration=duration,
            drained=not (event.cut or event.limited or event.error),
            truncated=terms.limit is not None and max(capture.total) > terms.limit,
        )
        if problem is not None:
            problem.add_note(f"aiovfork: output of {self.command.program!r}: see errors=")
            problem.completed = completed  # type: ignore[attr-defined]  # documented
            try:
                raise problem
            finally:
                problem = None  # no circle by its traceback
        return completed

    async def _text(
        self, outputs: tuple[bytes, bytes] | None, encoding: str, *, lenient: bool
    ) -> tuple[str, str]:
        """Decode the outputs; large ones from the memory of the capture."""
        decode, errors = escaped if lenient else decoded, self.terms.errors
        pieces = self.capture.pieces
        stdout, stderr = outputs or (lambda: pieces(1, SLICE), lambda: pieces(2, SLICE))
        return await decode(stdout, encoding, errors), await decode(stderr, encoding, errors)

    # ---- an end before its time ----

    async def end(self, teardown: Teardown) -> None:
        """End what is left of the tree. Nothing of it lives when this returns, or raises.

        Raises:
            asyncio.CancelledError: It was cancelled meanwhile. Then it has killed at once.
        """
        if self._nothing_lives():
            return
        if self.heard.event is None:
            # However long run() was to wait for descendants that hold the pipes: now it does not.
            drain_timeout = self.terms.drain_timeout
            self.capture.hurry(_DRAIN if drain_timeout is None else min(drain_timeout, _DRAIN))
            self.port.cancel(self.ticket)
        try:
            await stop(self.child, teardown)
        finally:
            self.stopped = True

    @property
    def child(self) -> Child:
        """The child, as it can be stopped."""
        return Child(self.port, self.ticket, self.heard, self.cgroup)

    def _nothing_lives(self) -> bool:
        if self.stopped or not self.ticket or self.heard.failure is not None:
            return True
        return self.heard.exit is not None and not self.heard.exit.group_lives and self.cgroup is None

    async def cancelled(self, exc: asyncio.CancelledError) -> asyncio.CancelledError:
        """After a cancellation: end the tree, or let it go on. Returns what to raise."""
        teardown, on_cancel = self.terms.teardown, self.terms.on_cancel
        if on_cancel == "detach" and self.capture.detach(self.port, self.ticket):
            self.detached = True
            if self.cgroup is not None:
                self.cgroup.let_live()
            return exc
        try:
            await self.end(teardown if on_cancel == "stop" else dataclasses.replace(teardown, signals=()))
        except asyncio.CancelledError as again:
            exc = again
        except OSError as problem:  # of a program with other credentials
            exc.add_note(f"aiovfork: {self.command.program!r} could not be ended: {problem}")
        with contextlib.suppress(MemoryError):
            exc.completed = await self._known()  # type: ignore[attr-defined]  # documented
        return exc

    def abandon(self) -> None:
        """End the tree without waiting: the core kills and reaps."""
        if self.ticket and not self.detached:
            self.port.dispose(self.ticket)
        if self.cgroup is not None:
            self.cgroup.end_soon()
        self.close()

    def close(self) -> None:
        """Give everything back. Idempotent; a child that has not been ended is killed."""
        if self.closed:
            return
        for timer in self.timers:
            timer.cancel()
        self.capture.free()
        if self.terminal is not None:
            close_ends(self.terminal)
        if self.ticket and not self.detached and self.heard.exit is None and self.heard.failure is None:
            self.port.dispose(self.ticket)  # also where the capture has ended before the child
        self.port.leave(self.ticket, self.heard)
        if self.cgroup is not None:
            self.cgroup.leave_soon()
        if self.others is not None and self.heard.event is not None:
            log_if_slow(self.loop, self.command, self.heard.event.info(), self.others)
        self.closed = True

    def __del__(self) -> None:
        """An exception from nowhere, such as KeyboardInterrupt, may have come in the very end of the call."""
        if not self.closed and hasattr(self, "capture"):
            self.abandon()
