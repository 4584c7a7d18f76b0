"""The subprocess transport: sole owner of a child's life cycle on the asyncio side.

The states and what moves them are in _lifecycle.py. But for connection_made, a protocol of the application
is called through call_soon, as asyncio does it.

Layer: above the port. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
import os
import resource
import signal as signals
import warnings
from asyncio.log import logger
from collections.abc import Callable
from typing import Any

from aiovfork._errors import spawn_error, timeout_error
from aiovfork._events import NO_ENDS, Exited, Spawned, SpawnInfo
from aiovfork._lifecycle import ALIVE, OVER, STEPS, UNCONNECTED, State, Step
from aiovfork._options import Command
from aiovfork._pipes import PipeProtocol, connect_pipe
from aiovfork._plan import Plan
from aiovfork._popen import PopenView
from aiovfork._port import CompletionPort
from aiovfork._uvloop import pipe_file, stdin_pipe


def _call_now(callback: Callable[..., None], *args: Any) -> None:
    callback(*args)


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child process, as asyncio.SubprocessTransport describes it."""

    # What most children never change lives on the class.
    _state = State.NEW
    _closing = False
    _ticket = 0
    _event: Spawned | None = None
    _started: asyncio.Future[None]
    _ended: asyncio.Future[None] | None = None
    _returncode: int | None = None
    _exit: Exited | None = None
    _context: contextvars.Context | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: CompletionPort,
        protocol: asyncio.SubprocessProtocol,
        command: Command,
    ) -> None:
        self._loop = loop
        self._port = port
        self._protocol = protocol
        self._command = command
        self._schedule = self._way_to(protocol)
        self._pending: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._pipes: dict[int, asyncio.BaseTransport] = {}
        self._open_pipes: set[int] = set()
        self._exit_waiters: list[asyncio.Future[None]] = []

    def _way_to(self, protocol: asyncio.BaseProtocol) -> Callable[..., object]:
        if type(protocol) is asyncio.subprocess.SubprocessStreamProtocol:
            # It runs no code of the application: two callbacks of the loop less for each child, one less for
            # each chunk of output.
            return _call_now
        # In the context of whoever asks for the child; the port's callback has none.
        if self._context is None:
            self._context = contextvars.copy_context()
        return functools.partial(self._loop.call_soon, context=self._context)

    # ---- the way to a running child ----

    async def start(self, plan: Plan) -> None:
        """Submit the plan and wait until the program runs and its pipes are connected.

        Raises:
            OSError: The spawn failed; nothing is left of it.
            TimeoutError: It took longer than spawn_timeout seconds; the child was killed before exec.
            asyncio.CancelledError: The child has been killed and reaped.
        """
        self._started = self._loop.create_future()
        # The core has a copy from here on. The plan ends with this coroutine: thousands of children may live.
        self._ticket = self._port.submit(plan, self)
        self._move(Step.SUBMIT)
        timer = None
        spawn_timeout = self._command.options.spawn_timeout
        if spawn_timeout is not None:
            timer = self._loop.call_later(spawn_timeout, self._port.cancel, self._ticket, errno.ETIMEDOUT)
        try:
            await self._started
            if self._open_pipes:
                await self._connect_pipes()
        except GeneratorExit:  # the task was destroyed: no loop is there to wait in, the core cleans up
            self.close()
            raise
        except BaseException:
            await self._undo()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        self._connected()

    async def _connect_pipes(self) -> None:
        assert self._event is not None
        for fd in sorted(self._open_pipes):
            ends = list(self._event.parent_end)
            file = pipe_file(self._loop, ends[fd], writable=fd == 0)
            ends[fd] = -1  # the loop's from here on
            self._event = self._event._replace(parent_end=(ends[0], ends[1], ends[2]))
            pipe = await connect_pipe(self._loop, PipeProtocol(self, fd), file)
            self._pipes[fd] = stdin_pipe(self._loop, pipe) if fd == 0 else pipe

    async def _undo(self) -> None:
        """After a failure or a cancellation: kill the child, if there is one, and wait until it is reaped.

        However often it is cancelled meanwhile: anyio does that again in every round of the loop.
        """
        self.close()
        cancelled = None
        while self._state in (State.SUBMITTED, State.CONNECTING):
            self._ended = self._loop.create_future()
            try:
                await self._ended
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    def _move(self, step: Step) -> None:
        self._state = STEPS[self._state, step]

    # ---- events of the port (Sink) ----

    def spawned(self, event: Spawned) -> None:
        """Note the child; whoever awaits start() goes on."""
        if self._state is State.SUBMITTED:
            self._move(Step.SPAWNED)
        self._event = event
        if event.parent_end != NO_ENDS:
            self._open_pipes = {fd for fd in range(3) if event.parent_end[fd] >= 0}
        if self._closing:
            self._close_parent_ends()
            self._port.dispose(self._ticket)
        else:
            self._wake(self._started)

    def failed(self, error: int, step: int, status: int) -> None:
        """Tell whoever awaits start() what went wrong."""
        if self._state is State.SUBMITTED:
            self._move(Step.FAILED)
        if not self._started.done():
            spawn_timeout = self._command.options.spawn_timeout
            if error == errno.ETIMEDOUT and spawn_timeout is not None:
                exc: OSError = timeout_error(self._command, spawn_timeout, step)
            else:
                exc = spawn_error(self._command, error, step, status)
            self._started.set_exception(exc)
            if self._closing:
                self._started.exception()  # nobody waits any more: no "never retrieved"
        self._wake(self._ended)

    def exited(self, event: Exited) -> None:
        """Note how the child ended and tell the protocol."""
        if self._exit is not None:  # told again: an exception came before the port had noted the first time
            return
        self._move(Step.EXITED)
        self._exit = event
        self._returncode = event.returncode
        if not event.known:
            logger.warning(
                "child process pid %d exit status already read: will report returncode 255", self.get_pid()
            )
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, self._returncode)
        waiters, self._exit_waiters = self._exit_waiters, []
        try:
            self._call(self._protocol.process_exited)
        finally:  # whatever the application's protocol is
            for waiter in waiters:
                self._wake(waiter)
            self._wake(self._ended)
            self._finish_if_drained()

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- the protocol ----

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        if self._state in UNCONNECTED:
            self._pending.append((callback, args))
        else:
            self._schedule(callback, *args)

    def _connected(self) -> None:
        """The protocol hears of the child, then of all that has happened since."""
        self._move(Step.CONNECTED)
        # Called, not scheduled: Process reads the streams that it makes. Its errors are the loop's to report,
        # and its context is not the caller's, as they would be from call_soon.
        try:
            if self._context is None:
                self._protocol.connection_made(self)
            else:
                self._context.run(self._protocol.connection_made, self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001  # of the application; reported
            self._loop.call_exception_handler(
                {"message": "connection_made failed", "exception": exc, "protocol": self._protocol}
            )
        pending, self._pending = self._pending, []
        for callback, args in pending:
            self._schedule(callback, *args)
        if self._loop.get_debug():
            logger.debug("process %r created: pid %s", self._command.called, self.get_pid())
        self._finish_if_drained()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """From the protocol of a pipe."""
        self._call(self._protocol.pipe_data_received, fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """From the protocol of a pipe."""
        self._open_pipes.discard(fd)
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        if self._state is State.DRAINING and not self._open_pipes:
            self._move(Step.PIPES_ENDED)
            self._closing = True
            self._schedule(self._protocol.connection_lost, None)

    # ---- asyncio.SubprocessTransport ----

    def get_pid(self) -> int:
        """Return the pid of the child."""
        return self._event.pid if self._event is not None else -1

    def get_returncode(self) -> int | None:
        """Return the exit code, -N for a child killed by signal N, or None while it runs."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        """Return the transport of the parent's end of stdin (0), stdout (1) or stderr (2)."""
        return self._pipes.get(fd)

    def send_signal(self, signal: int) -> None:
        """Signal the child through its pidfd.

        Raises:
            ProcessLookupError: The child has exited.
        """
        if self._returncode is not None or self._state not in ALIVE:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._port.kill(self._ticket, signal)

    def terminate(self) -> None:
        """Send SIGTERM, see send_signal."""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, see send_signal."""
        self.send_signal(signals.SIGKILL)

    def close(self) -> None:
        """Kill the child if it still runs, and close its pipes. Idempotent; the exit is still reported."""
        if self._closing:
            return
        self._closing = True
        if self._state in ALIVE and self._loop.get_debug():
            logger.warning("Close running child process: kill %r", self)
        if not self._loop.is_closed():
            for pipe in self._pipes.values():
                pipe.close()
        self._close_parent_ends()
        if self._state is State.SUBMITTED:
            self._port.cancel(self._ticket)
        elif self._state in ALIVE:
            self._port.dispose(self._ticket)

    def is_closing(self) -> bool:
        """Return whether close was called, or the child and its pipes have ended."""
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol."""
        assert isinstance(protocol, asyncio.SubprocessProtocol)
        self._protocol = protocol
        self._schedule = self._way_to(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "subprocess" (what asyncio users read of a Popen), "spawn_info", "pidfd" or default."""
        if name == "subprocess" and self._event is not None:
            return PopenView(self, self._command.popen_args)
        if name == "spawn_info" and self._event is not None:
            return self.spawn_info
        if name == "pidfd" and self.pidfd is not None:
            return self.pidfd
        return default

    async def _wait(self) -> int:
        """Wait for the exit. asyncio.subprocess.Process.wait() is this."""
        if self._returncode is None:
            waiter = self._loop.create_future()
            self._exit_waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._exit_waiters:  # one that is cancelled again and again must not pile up
                    self._exit_waiters.remove(waiter)
                raise
        assert self._returncode is not None
        return self._returncode

    # ---- beyond asyncio ----

    @property
    def pidfd(self) -> int | None:
        """The child's pidfd while its exit has not been seen; the transport's to close."""
        return self._event.pidfd if self._event is not None and self._returncode is None else None

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child has used; None before its exit, or where somebody else reaped it."""
        return None if self._exit is None else self._exit.rusage

    @property
    def returncode_known(self) -> bool:
        """Whether the child has exited and its status is the true one."""
        return self._exit is not None and self._exit.known

    @property
    def spawn_info(self) -> SpawnInfo:
        """How the child was started."""
        assert self._event is not None
        return self._event.info()

    def _close_parent_ends(self) -> None:
        """Close the ends of pipes that no pipe transport owns yet."""
        event = self._event
        if event is not None and event.parent_end != NO_ENDS:
            self._event = event._replace(parent_end=NO_ENDS)
            for fd in event.parent_end:
                if fd >= 0:
                    os.close(fd)

    def __repr__(self) -> str:
        info = [type(self).__name__, self._state.value]
        if self._event is not None:
            info.append(f"pid={self._event.pid}")
        if self._returncode is not None:
            info.append(f"returncode={self._returncode}")
        info += [f"{('stdin', 'stdout', 'stderr')[fd]}={pipe!r}" for fd, pipe in self._pipes.items()]
        return f"<{' '.join(info)}>"

    def __del__(self) -> None:
        """Kill and reap a child that nobody can wait for any more. Never touches the loop."""
        if self._state in OVER:
            return
        if not self._closing:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=1)
        self._close_parent_ends()
        if self._returncode is None and self._ticket:
            self._port.dispose(self._ticket)
