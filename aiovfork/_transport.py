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
from collections.abc import Callable
from typing import Any, cast

from aiovfork._cgroup import Cgroup
from aiovfork._collection import Collection, Kept
from aiovfork._compat import StreamProtocol, has_heard_of_exit, limit_of, logger
from aiovfork._errors import spawn_error, timeout_error
from aiovfork._events import NO_ENDS, Exited, Spawned, SpawnInfo, close_all
from aiovfork._lifecycle import (
    ALIVE,
    AWAITS_FAILURE,
    AWAITS_PIPES,
    AWAITS_SPAWN,
    OPEN,
    OVER,
    STEPS,
    UNCONNECTED,
    State,
    Step,
)
from aiovfork._options import Command, StrOrBytesPath
from aiovfork._pipes import SOON, Pipe, PipeProtocol, ReadPipe, Stage
from aiovfork._plan import Plan
from aiovfork._popen import PopenView
from aiovfork._port import CompletionPort
from aiovfork._streams import OutputReader
from aiovfork._terminal import Terminal, TerminalReadPipe, TerminalWritePipe
from aiovfork._write_pipe import WritePipe


def _call_now(callback: Callable[..., None], *args: Any) -> None:
    callback(*args)


class SubprocessTransport(asyncio.SubprocessTransport):
    """A child process, as asyncio.SubprocessTransport describes it."""

    # What most children never change lives on the class.
    _state = State.NEW
    _ticket = 0
    _spawned: Spawned | None = None
    _exited: Exited | None = None
    _started: asyncio.Future[None]
    _ended: asyncio.Future[None] | None = None
    _context: contextvars.Context | None = None
    _on_exit: Callable[[], None] | None = None
    _starting: asyncio.TimerHandle | None = None
    # What the protocol has heard; a record of the port may be delivered twice.
    _exit_told = False
    cgroup: Cgroup | None = None  # the child's own
    terminal: Terminal | None = None  # likewise
    _lives_on = False
    _end_told = False

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
        self._pipes: dict[int, Pipe] = {}
        self._ends: dict[int, int] = {}  # of the pipes, the parent's, by the child's number of each
        self._open_pipes: set[int] = set()
        self._exit_waiters: list[asyncio.Future[None]] = []

    def _way_to(self, protocol: asyncio.BaseProtocol) -> Callable[..., object]:
        if type(protocol) is StreamProtocol:
            # It runs no code of the application: two callbacks of the loop less for each child, one less for
            # each chunk of output.
            return _call_now
        # In the context of whoever asks for the child; the port's callback has none.
        if self._context is None:
            self._context = contextvars.copy_context()
        return functools.partial(self._loop.call_soon, context=self._context)

    # ---- the way to a running child ----

    async def start(self, plan: Plan) -> None:
        """Submit the plan and wait until the program runs; make its pipes, and tell the protocol.

        Raises:
            OSError: The spawn failed; nothing is left of it.
            TimeoutError: It took longer than spawn_timeout seconds; the child was killed before exec.
            asyncio.CancelledError: The child has been killed and reaped.
        """
        self._started = self._loop.create_future()
        timer = None
        try:
            self._move(Step.SUBMIT)
            # The core copies the plan. Ours ends with this coroutine: thousands of children may live.
            self._ticket = self._port.submit(plan, self)
            if self.terminal is not None:
                self.terminal.submitted()
            if self._command.options.spawn_timeout is not None:
                timeout = cast("float", self._command.spawn_timeout)
                timer = self._loop.call_later(timeout, self._port.cancel, self._ticket, -errno.ETIMEDOUT)
            await self._started
            if self.terminal is not None:
                self._connect_terminal(self.terminal)
            if self._ends:
                self._make_pipes()
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

    def _connect_terminal(self, terminal: Terminal) -> None:
        """Have a Process read it through the terminal itself; for another protocol it is stdin and stdout."""
        if self._schedule is _call_now:
            terminal.connect(limit_of(cast("StreamProtocol", self._protocol)))
        else:
            self._ends = terminal.ends
            self._open_pipes = set(self._ends)

    def _make_pipes(self) -> None:
        terminal = self.terminal
        is_terminal = terminal is not None and self._ends is terminal.ends
        reader = TerminalReadPipe if is_terminal else ReadPipe
        writer = TerminalWritePipe if is_terminal else WritePipe
        for fd in sorted(self._ends):
            make = reader if fd else writer
            self._pipes[fd] = make(self._loop, self._ends, fd, PipeProtocol(self, fd))
        if terminal is not None and is_terminal:
            terminal.share(self._pipes)
        if self._schedule is not _call_now:
            for pipe in self._pipes.values():
                pipe.start()

    def _make_readers(self, protocol: StreamProtocol) -> None:
        """Have the protocol read with readers that can lend their pipes, which are idle for now."""
        limit = limit_of(protocol)
        for fd, pipe in self._pipes.items():
            if isinstance(pipe, ReadPipe):
                pipe.lender = self
                reader = OutputReader(self._loop, limit, pipe)
                if fd == 1:
                    protocol.stdout = reader
                else:
                    protocol.stderr = reader
        # Behind the tasks that have been made by then: uvloop's timers come before them, if it is late.
        self._starting = self._loop.call_later(SOON, self._loop.call_soon, self._start_pipes)

    def _start_pipes(self) -> None:
        for pipe in self._pipes.values():
            pipe.start_or_fail()

    async def _undo(self) -> None:
        """After a failure or a cancellation: kill the child, if there is one, and wait until it is reaped.

        However often it is cancelled meanwhile: anyio does that again in every round of the loop.
        """
        if self._state is State.SUBMITTED and not self._ticket:
            # submit() was refused, or interrupted: if there is a child after all, spawned() ends it.
            self._move(Step.FAILED)
            return
        self.close()
        cancelled = None
        while self._state in (State.GIVEN_UP, State.UNDOING):
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
    # A signal handler may raise between any two byte codes. The port then delivers the record again: what was
    # done of it already is not done twice.

    def spawned(self, event: Spawned) -> None:
        """Note the child; whoever awaits start() goes on."""
        if self._state in AWAITS_SPAWN:
            self._spawned = event
            self._ticket = event.ticket
            if event.parent_end != NO_ENDS:
                self._ends = {fd: end for fd, end in enumerate(event.parent_end) if end >= 0}
                self._open_pipes = set(self._ends)
            self._move(Step.SPAWNED)
        if self._state is State.UNDOING:
            close_all(self._ends)
            self._port.dispose(self._ticket)
        else:
            self._wake(self._started)

    def failed(self, error: int, step: int, status: int) -> None:
        """Tell whoever awaits start() what went wrong."""
        given_up = self._state is not State.SUBMITTED
        if self._state in AWAITS_FAILURE:
            self._move(Step.FAILED)
        if not self._started.done():
            timeout = self._command.spawn_timeout
            if error == -errno.ETIMEDOUT and timeout is not None:
                exc: OSError = timeout_error(self._command, timeout, step)
            else:
                exc = spawn_error(self._command, error, step, status)
            self._started.set_exception(exc)
            if given_up:
                self._started.exception()  # nobody waits any more: no "never retrieved"
        self._wake(self._ended)

    def exited(self, event: Exited) -> None:
        """Note how the child ended and tell the protocol."""
        self._exited = event
        if self._state in ALIVE:
            self._move(Step.EXITED)
            if not event.known:
                logger.warning(
                    "child process pid %d exit status already read: will report returncode 255",
                    self.get_pid(),
                )
            if self._loop.get_debug():
                logger.info("%r exited with return code %r", self, event.returncode)
        if self.cgroup is not None:
            self.cgroup.leave_soon()
        if self.terminal is not None:
            self.terminal.exited()
        if self._pipes and self._state not in OVER:
            self._start_pipes()  # their ends come now, and the loop may be about to close
        try:
            self._call(self._tell_exit)  # or _connected() does
        finally:  # whatever the application's protocol is
            if self._on_exit is not None:
                self._on_exit()
            for waiter in self._exit_waiters:
                self._wake(waiter)
            self._exit_waiters = []
            self._wake(self._ended)
            self._finish_if_drained()

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- the protocol ----

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        if self._state in UNCONNECTED:
            return
        if self._schedule is _call_now:
            callback(*args)
        else:
            self._schedule(callback, *args)

    def _connected(self) -> None:
        """The protocol hears of the child, and of its exit if it was short."""
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
        if self.terminal is not None and self._ends is self.terminal.ends:
            self.terminal.writer = cast("Any", self._protocol).stdin
        if self._exited is not None:
            self._call(self._tell_exit)
        if self._pipes and self._schedule is _call_now:
            self._make_readers(cast("StreamProtocol", self._protocol))
        if self._loop.get_debug():
            logger.debug("process %r created: pid %s", self._command.called, self.get_pid())
        self._finish_if_drained()

    def _tell_exit(self) -> None:
        if self._exit_told:
            return
        if self._schedule is not _call_now:
            self._exit_told = True
            self._protocol.process_exited()
            return
        if not has_heard_of_exit(self._protocol):
            self._protocol.process_exited()
        self._exit_told = True  # late: to this protocol it can be told again

    def _tell_end(self) -> None:
        if not self._exit_told:  # an interrupt has kept it from being scheduled
            self._tell_exit()
        if not self._end_told:
            self._end_told = True
            self._protocol.connection_lost(None)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """From the protocol of a pipe."""
        self._call(self._protocol.pipe_data_received, fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """From the protocol of a pipe."""
        self._open_pipes.discard(fd)
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        if self._state in AWAITS_PIPES and not self._open_pipes:
            self._move(Step.PIPES_ENDED)
        if self._state is State.CLOSED:
            self._schedule(self._tell_end)

    # ---- asyncio.SubprocessTransport ----

    def get_pid(self) -> int:
        """Return the pid of the child."""
        return self._spawned.pid if self._spawned is not None else -1

    def get_returncode(self) -> int | None:
        """Return the exit code, -N for a child killed by signal N, or None while it runs."""
        return None if self._exited is None else self._exited.returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        """Return the transport of the parent's end of stdin (0), stdout (1) or stderr (2)."""
        return self._pipes.get(fd)

    def kept(self, *, shared: bool) -> Kept:
        """Return what output can be kept in."""
        return Kept(self._port, shared=shared)

    def collection(self, *fds: int) -> Collection:
        """Return what lends the pipes of some fds to the collector: those that are there and not closing."""
        pipes = {fd: self._pipes[fd] for fd in fds if fd in self._pipes and not self._pipes[fd].is_closing()}
        if self._starting and not any(
            pipe.stage is Stage.IDLE and fd not in pipes for fd, pipe in self._pipes.items()
        ):
            self._starting.cancel()
            self._starting = None
        return Collection(self._loop, self._port, self._ends, pipes)

    def end_pipe(self, fd: int) -> None:
        """Close a pipe, if it is there, at once."""
        if fd in self._pipes:
            self._pipes[fd].end(None)

    def send_signal(self, signal: int) -> None:
        """Signal the child through its pidfd.

        Raises:
            ProcessLookupError: The child has exited.
        """
        if self._state not in ALIVE:
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
        if self._exited is None or type(self._protocol) is not StreamProtocol:
            self.let_go_of_tree()
        state = self._state
        if state not in OPEN:
            return
        if state in ALIVE and self._loop.get_debug():
            logger.warning("Close running child process: kill %r", self)
        self._move(Step.CLOSE)
        if state is State.SUBMITTED:
            self._port.cancel(self._ticket)
            return
        for pipe in self._pipes.values():
            if pipe.stage is Stage.LENT:
                pipe.end(None)
            else:
                pipe.close()
        if not self._pipes:
            close_all(self._ends)
        if state in ALIVE and not self._lives_on:
            self._port.dispose(self._ticket)
        # After the exit somebody may read a terminal yet.
        if self.terminal is not None and (state in ALIVE or self._ends is self.terminal.ends):
            self.terminal.close()

    def let_live(self) -> None:
        """Nobody but the caller ends this child any more: no close(), no forgetting, no end of the loop."""
        self._lives_on = True
        self._port.let_live(self._ticket)
        if self.cgroup is not None:
            self.cgroup.let_live()

    def let_go_of_tree(self) -> None:
        """Give back what is held of a child's group and cgroup; what dies with the child is killed.

        close() does it, but not the one of a Process that asyncio calls after the exit by itself.
        """
        if self._exited is not None and self._exited.group_lives:
            self._port.dispose(self._ticket)
        if self.cgroup is not None and not self._lives_on:
            self.cgroup.end_soon()

    def is_closing(self) -> bool:
        """Return whether close was called, or the child and its pipes have ended."""
        return self._state not in OPEN

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol: any object with the methods of an asyncio.SubprocessProtocol."""
        self._protocol = cast("asyncio.SubprocessProtocol", protocol)
        self._schedule = self._way_to(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "subprocess" (what asyncio users read of a Popen), "spawn_info", "pidfd", "pty" or default.

        "pty" is the Terminal of a child that has one.
        """
        if name == "subprocess" and self._spawned is not None:
            return PopenView(self, self._command.popen_args)
        if name == "spawn_info" and self._spawned is not None:
            return self.spawn_info
        if name == "pidfd" and self.pidfd is not None:
            return self.pidfd
        if name == "pty" and self.terminal is not None:
            return self.terminal
        return default

    async def _wait(self) -> int:
        """Wait for the exit. asyncio.subprocess.Process.wait() is this."""
        if self._exited is None:
            waiter = self._loop.create_future()
            self._exit_waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._exit_waiters:  # one that is cancelled again and again must not pile up
                    self._exit_waiters.remove(waiter)
                raise
        assert self._exited is not None
        return self._exited.returncode

    # ---- beyond asyncio ----

    def when_exited(self, callback: Callable[[], None]) -> None:
        """Call it at the exit, which has not been seen yet; perhaps twice."""
        self._on_exit = callback

    @property
    def may_have_survivors(self) -> bool:
        """Whether somebody may live in the group or the cgroup of the child, which has exited."""
        return self._exited is not None and (self._exited.group_lives or self.cgroup is not None)

    def abandon(self, error: Exception) -> None:
        """Have start() undo the spawn, and raise error; nothing if the child runs already."""
        if self._state is State.SUBMITTED and not self._started.done():
            self._started.set_exception(error)
            self._started.exception()  # whoever was to hear of it may have been cancelled

    @property
    def port(self) -> CompletionPort:
        """The port that the child reports to."""
        return self._port

    @property
    def ticket(self) -> int:
        """What names the child there."""
        return self._ticket

    @property
    def pidfd(self) -> int | None:
        """The child's pidfd while its exit has not been seen; the transport's to close."""
        return self._spawned.pidfd if self._spawned is not None and self._exited is None else None

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child has used; None before its exit, or where somebody else reaped it."""
        return None if self._exited is None else self._exited.rusage

    @property
    def returncode_known(self) -> bool:
        """Whether the child has exited and its status is the true one."""
        return self._exited is not None and self._exited.known

    @property
    def spawn_info(self) -> SpawnInfo:
        """How the child was started."""
        assert self._spawned is not None
        return self._spawned.info()

    def records(self) -> tuple[Spawned, Exited]:
        """Return the port's records of the start and the exit, which both have been."""
        assert self._spawned is not None
        assert self._exited is not None
        return self._spawned, self._exited

    @property
    def program(self) -> StrOrBytesPath:
        """What was executed, as it was given; of a shell command, the shell."""
        return self._command.program

    def __repr__(self) -> str:
        info = [type(self).__name__, self._state.value]
        if self._spawned is not None:
            info.append(f"pid={self._spawned.pid}")
        if self._exited is not None:
            info.append(f"returncode={self._exited.returncode}")
        info += [f"{('stdin', 'stdout', 'stderr')[fd]}={pipe!r}" for fd, pipe in self._pipes.items()]
        return f"<{' '.join(info)}>"

    def __del__(self) -> None:
        """Kill and reap a child that nobody can wait for any more. Never touches the loop."""
        self.let_go_of_tree()
        if self._state in OVER:
            return
        close_all(self._ends)
        if self.terminal is not None:
            self.terminal.abandon()
        if self._exited is None and self._ticket and not self._lives_on:
            self._port.dispose(self._ticket)
        if self._state in OPEN and not self._lives_on:  # last: the warning may be an error
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=1)
