"""The subprocess transport: sole owner of a child's life cycle on the asyncio side.

Theory of operation. A transport is in one of the states below, and only _STEPS moves it. What it still
waits for is what the state says: the spawn (SUBMITTED), its pipes (CONNECTING, EARLY_EXIT), the exit
(RUNNING), the ends of the pipes (DRAINING). Until the pipes are connected the protocol knows nothing of
the child, and what happens meanwhile is kept for it, so that connection_made always comes first. But for
connection_made, a protocol of the application is called through call_soon, as asyncio does it.

Layer: above the port. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import io
import os
import signal as signals
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from aiovfork._binding import RUSAGE, lib
from aiovfork._errors import spawn_error, timeout_error
from aiovfork._pipes import PipeProtocol, connect_pipe
from aiovfork._plan import Plan
from aiovfork._popen import PopenView
from aiovfork._port import CompletionPort, Spawned
from aiovfork._streams import StreamProtocol

if sys.platform != "linux":  # pragma: no cover
    raise ImportError("aiovfork needs Linux")

import resource
from asyncio.log import logger


class State(enum.Enum):
    """What the transport has seen of its child."""

    NEW = "new"
    SUBMITTED = "submitted"
    CONNECTING = "connecting"
    EARLY_EXIT = "exited while connecting"
    RUNNING = "running"
    DRAINING = "exited, pipes open"
    CLOSED = "closed"
    FAILED = "failed"

    # By identity: Enum's own is a Python function, and this is on the path of every spawn.
    __hash__ = object.__hash__


class _Step(enum.Enum):
    SUBMIT = enum.auto()
    SPAWNED = enum.auto()
    FAILED = enum.auto()
    CONNECTED = enum.auto()
    EXITED = enum.auto()
    PIPES_ENDED = enum.auto()

    __hash__ = object.__hash__


_STEPS: Final = {
    (State.NEW, _Step.SUBMIT): State.SUBMITTED,
    (State.SUBMITTED, _Step.SPAWNED): State.CONNECTING,
    (State.SUBMITTED, _Step.FAILED): State.FAILED,
    (State.CONNECTING, _Step.CONNECTED): State.RUNNING,
    (State.CONNECTING, _Step.EXITED): State.EARLY_EXIT,
    (State.EARLY_EXIT, _Step.CONNECTED): State.DRAINING,
    (State.RUNNING, _Step.EXITED): State.DRAINING,
    (State.DRAINING, _Step.PIPES_ENDED): State.CLOSED,
}
_ALIVE: Final = frozenset({State.CONNECTING, State.RUNNING})
_NO_ENDS: Final = (-1, -1, -1)


def _call_now(callback: Callable[..., None], *args: Any) -> None:
    callback(*args)


class SpawnInfo(NamedTuple):
    """How a child was started.

    Attributes:
        engine: The call that created it: "clone3", or libc's "clone".
        report: How its failure would have been told: by "memory" shared in vfork, or through a "pipe".
        fds_unshared: Whether the descriptor table was unshared in the child instead of copied by clone.
        queue_us: Microseconds from the call to the start of its worker thread.
        clone_us: Microseconds from there to the child's first instruction.
        exec_us: Microseconds from there to exec.
    """

    engine: str
    report: str
    fds_unshared: bool
    queue_us: float
    clone_us: float
    exec_us: float


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child process, as asyncio.SubprocessTransport describes it."""

    # What most children never change lives on the class.
    _state = State.NEW
    _closing = False
    _ticket = 0
    _event: Spawned | None = None
    _started: asyncio.Future[None]
    _ended: asyncio.Future[None] | None = None
    _spawn_timeout: float | None = None
    _returncode: int | None = None
    _exit_flags = 0
    _rusage: bytes | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: CompletionPort,
        protocol: asyncio.SubprocessProtocol,
        plan: Plan,
    ) -> None:
        self._loop = loop
        self._port = port
        self._protocol = protocol
        self._plan = plan
        self._schedule: Callable[..., object] = _call_now if type(protocol) is StreamProtocol else loop.call_soon
        self._pending: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._pipes: dict[int, asyncio.BaseTransport] = {}
        self._open_pipes: set[int] = set()
        self._exit_waiters: list[asyncio.Future[None]] = []

    # ---- the way to a running child ----

    async def start(self, spawn_timeout: float | None) -> None:
        """Submit the plan and wait until the program runs and its pipes are connected.

        Raises:
            OSError: The spawn failed; nothing is left of it.
            TimeoutError: It took longer than spawn_timeout seconds; the child was killed before exec.
            asyncio.CancelledError: The child has been killed and reaped.
        """
        self._started = self._loop.create_future()
        self._ticket = self._port.submit(self._plan, self)
        self._move(_Step.SUBMIT)
        timer = None
        if spawn_timeout is not None:
            self._spawn_timeout = spawn_timeout
            timer = self._loop.call_later(spawn_timeout, self._port.cancel, self._ticket, errno.ETIMEDOUT)
        try:
            await self._started
            if self._open_pipes:
                await self._connect_pipes()
        except BaseException:
            await self._undo()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        self._connected()

    async def _connect_pipes(self) -> None:
        assert self._event is not None
        ends = self._event.parent_end
        files = {fd: io.FileIO(ends[fd], "wb" if fd == 0 else "rb") for fd in sorted(self._open_pipes)}
        self._event = self._event._replace(parent_end=_NO_ENDS)
        try:
            for fd in list(files):
                self._pipes[fd] = await connect_pipe(self._loop, PipeProtocol(self, fd), files[fd])
                del files[fd]
        finally:
            for file in files.values():  # those that no transport owns
                file.close()

    async def _undo(self) -> None:
        """After a failure or a cancellation: kill the child, if there is one, and wait until it is reaped."""
        self.close()
        while self._state in (State.SUBMITTED, State.CONNECTING):
            self._ended = self._loop.create_future()
            await self._ended

    def _move(self, step: _Step) -> None:
        self._state = _STEPS[self._state, step]

    # ---- events of the port (Sink) ----

    def spawned(self, event: Spawned) -> None:
        """Note the child; whoever awaits start() goes on."""
        self._move(_Step.SPAWNED)
        self._event = event
        if event.parent_end != _NO_ENDS:
            self._open_pipes = {fd for fd in range(3) if event.parent_end[fd] >= 0}
        if self._closing:
            self._close_parent_ends()
            self._port.dispose(self._ticket)
        else:
            self._wake(self._started)

    def failed(self, error: int, step: int, status: int) -> None:
        """Tell whoever awaits start() what went wrong."""
        self._move(_Step.FAILED)
        if not self._started.done():
            if error == errno.ETIMEDOUT and self._spawn_timeout is not None:
                exc: OSError = timeout_error(self._plan, self._spawn_timeout, step)
            else:
                exc = spawn_error(self._plan, error, step, status)
            self._started.set_exception(exc)
        self._wake(self._ended)

    def exited(self, status: int, flags: int, rusage: bytes) -> None:
        """Note how the child ended and tell the protocol."""
        self._move(_Step.EXITED)
        self._returncode = os.waitstatus_to_exitcode(status)
        self._exit_flags = flags
        self._rusage = rusage
        if flags & lib.AVF_STATUS_UNKNOWN:
            logger.warning(
                "child process pid %d exit status already read: will report returncode 255", self.get_pid()
            )
        if self._loop.get_debug():
            logger.info("%r exited with return code %r", self, self._returncode)
        waiters, self._exit_waiters = self._exit_waiters, []
        self._call(self._protocol.process_exited)
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
        if self._state in (State.CONNECTING, State.EARLY_EXIT):
            self._pending.append((callback, args))
        else:
            self._schedule(callback, *args)

    def _connected(self) -> None:
        """The protocol hears of the child, then of all that has happened since."""
        self._move(_Step.CONNECTED)
        # Called, not scheduled: Process reads the streams that it makes. Its errors are the loop's to report,
        # as they would be from call_soon.
        try:
            self._protocol.connection_made(self)
        except Exception as exc:
            self._loop.call_exception_handler(
                {"message": "connection_made failed", "exception": exc, "transport": self, "protocol": self._protocol}
            )
        pending, self._pending = self._pending, []
        for callback, args in pending:
            self._schedule(callback, *args)
        if self._loop.get_debug():
            logger.debug("process %r created: pid %s", self._plan.program, self.get_pid())
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
            self._move(_Step.PIPES_ENDED)
            self._closing = True
            self._schedule(self._protocol.connection_lost, None)

    # ---- asyncio.SubprocessTransport ----

    def get_pid(self) -> int:  # type: ignore[override]  # typeshed says int | None since 3.13 only
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
        if self._returncode is not None or self._state not in _ALIVE:
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
        for pipe in self._pipes.values():
            pipe.close()
        self._close_parent_ends()
        if self._state is State.SUBMITTED:
            self._port.cancel(self._ticket)
        elif self._state in _ALIVE:
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

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "subprocess" (what asyncio users read of a Popen), "spawn_info", "pidfd" or default."""
        if name == "subprocess" and self._event is not None:
            return PopenView(self, self._plan.args)
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
        if self._rusage is None or self._exit_flags & (lib.AVF_STATUS_RECOVERED | lib.AVF_STATUS_UNKNOWN):
            return None
        utime_s, utime_us, stime_s, stime_us, *counts = RUSAGE.unpack(self._rusage)
        return resource.struct_rusage((utime_s + utime_us / 1e6, stime_s + stime_us / 1e6, *counts))

    @property
    def returncode_known(self) -> bool:
        """Whether the child has exited and its status is the true one."""
        return self._returncode is not None and not self._exit_flags & lib.AVF_STATUS_UNKNOWN

    @property
    def spawn_info(self) -> SpawnInfo:
        """How the child was started."""
        assert self._event is not None
        event = self._event
        return SpawnInfo(
            "clone3" if event.flags & lib.AVF_ENGINE_CLONE3 else "clone",
            "pipe" if event.flags & lib.AVF_REPORT_PIPE else "memory",
            bool(event.flags & lib.AVF_FDS_UNSHARED),
            event.queue_ns / 1e3,
            event.clone_ns / 1e3,
            event.exec_ns / 1e3,
        )

    def _close_parent_ends(self) -> None:
        """Close the ends of pipes that no pipe transport owns yet."""
        event = self._event
        if event is not None and event.parent_end != _NO_ENDS:
            self._event = event._replace(parent_end=_NO_ENDS)
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
        if self._state in (State.NEW, State.FAILED, State.CLOSED):
            return
        if not self._closing:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=1)
        self._close_parent_ends()
        if self._returncode is None and self._ticket:
            self._port.dispose(self._ticket)
