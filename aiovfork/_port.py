"""The completion port: one per event loop, through which its spawns report.

Layer: above plan and binding, below the transport. Thread: the loop's, but for cancel, kill and
dispose, which any thread may call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import weakref
from collections.abc import Sequence
from typing import Any, Final, Protocol

from aiovfork._binding import EVENT, EVENT_SIZE, ffi, lib
from aiovfork._errors import opening_failure, spawn_error
from aiovfork._events import Captured, Exited, Spawned, close_all, map_calls
from aiovfork._observe import Observation, Untold, subscriptions
from aiovfork._options import StrOrBytesPath
from aiovfork._plan import Plan, in_cgroup

_SPAWNED: Final[int] = lib.AVF_SPAWNED
_FAILED: Final[int] = lib.AVF_FAILED
_CAPTURED: Final[int] = lib.AVF_CAPTURED
# What a sink is told a record by.
_METHODS: Final = {_SPAWNED: "spawned", lib.AVF_EXITED: "exited", _CAPTURED: "captured"}
_CHILD_LIVES: Final[int] = lib.AVF_CHILD_LIVES
_FILLED, _TAKEN = 0, 1
_CGROUP_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Sink(Protocol):
    """Whom a ticket's events are for. Called on the loop's thread; what it raises is the loop's to report.

    An event may come again after an exception that came from nowhere, such as KeyboardInterrupt.
    """

    def spawned(self, event: Spawned) -> None:
        """The child runs its program."""

    def failed(self, error: int, step: int, status: int) -> None:
        """There is no child, and there was none or it has been reaped. error is -errno. The last event."""

    def exited(self, event: Exited) -> None:
        """The child is over. The last event; one that says group_lives holds the ticket until its release."""


class CaptureSink(Protocol):
    """Whom the events of a capture are for, as Sink. With a child of its own, failed() and exited() too."""

    def captured(self, event: Captured) -> None:
        """The capture is over. The last event, unless its child lives: then exited() follows."""


class CopySink(Protocol):
    """Whom it is for that a copy is done."""

    def copied(self) -> None:
        """What was kept is in its place. The last event."""


class CompletionPort:
    """Submits plans and dispatches what comes back, for one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        pointer = ffi.new("avf_port **")
        error = lib.avf_port_open(pointer)
        if error < 0:
            raise opening_failure(error)
        self._loop = weakref.ref(loop)
        self._port: Any = pointer[0]
        # The loop's reader keeps the port alive, and living children do. When all of them go, unclosed, so
        # does the port, before the transports' __del__ disposes of the children.
        self._finalizer = weakref.finalize(self, lib.avf_port_free, self._port)
        self._finalizer.atexit = False
        self._living_on: set[int] = set()  # tickets of children that this port's end does not end
        self._sinks: dict[int, Any] = {}  # of the kind that the ticket's events need
        self._batch: Any = lib.avf_port_batch(self._port)
        self._view = memoryview(ffi.buffer(self._batch.events))
        # Of avf_batch: filled, taken. A view is twice as fast as an attribute of cffi.
        self._counts = memoryview(ffi.buffer(self._batch, ffi.offsetof("avf_batch", "events"))).cast("i")
        self._strays: dict[int, int] = {}
        self._ending = 0, 0  # place in the batch, and ticket, of the last record that was a ticket's last one
        self._observed: dict[int, Observation] = {}
        self._untold = Untold()
        self._step = ffi.new("int32_t *")
        self._fd: int = lib.avf_port_fd(self._port)
        try:
            # Not in the caller's context: it would be kept, and seen, for as long as the port lives.
            contextvars.Context().run(loop.add_reader, self._fd, self._drain)
        except BaseException:
            self.close()
            raise

    def submit(self, plan: Plan, sink: Sink | CaptureSink, capture: Any = ffi.NULL) -> int:
        """Start a child, or queue it; its events go to sink. Returns the ticket.

        Args:
            plan: The child.
            sink: Whom its events are for.
            capture: An avf_capture: there is no spawned() then, and captured() comes at the end.

        Raises:
            OSError: The request could not be made: a bad descriptor, no memory, no thread.
        """
        observation = Observation(plan.command) if subscriptions else None
        if plan.command.cgroup is None:
            ticket: int = lib.avf_spawn(self._port, plan.block, len(plan.block), capture, self._step)
        else:
            ticket = self._spawn_into(plan.command.cgroup, plan.block, capture)
        if ticket < 0:
            error, step = ticket, self._step[0]
            if observation is not None:
                untold = Untold()  # what waits in the other one may not be acknowledged yet
                untold.note(observation, observation.failed(0, error, step))
                untold.tell(self._report)
            raise spawn_error(plan.command, error, step)
        if observation is not None:
            self._observed[ticket] = observation
        self._sinks[ticket] = sink
        return ticket

    def _spawn_into(self, cgroup: StrOrBytesPath | int, block: bytes, capture: Any) -> int:
        """Start a child in a cgroup. Its folder is open here until the core has duplicated it."""
        opened: dict[int, int] = {}
        try:
            if not isinstance(cgroup, int):
                # One call into C: an exception of a signal handler comes before or after it.
                opened.update(zip((0,), map(os.open, (cgroup,), (_CGROUP_FLAGS,)), strict=True))
            inside = in_cgroup(block, opened.get(0, cgroup))
            ticket: int = lib.avf_spawn(self._port, inside, len(inside), capture, self._step)
        except OSError as exc:
            self._step[0] = lib.AVF_STEP_CGROUP
            return -(exc.errno or errno.EIO)
        finally:
            close_all(opened)
        return ticket

    def collect(
        self, capture: Any, ends: dict[int, int], sink: CaptureSink, fds: Sequence[int] | None = None
    ) -> int:
        """Have a capture read and write ends of a child's pipes, which it takes. Returns a ticket.

        Args:
            capture: An avf_capture.
            ends: The ends, by the child's numbers of them.
            sink: Whom the end of the capture is for.
            fds: Which of them it takes; all, unless given.

        Raises:
            OSError: There is no memory or no thread for it; the ends are the caller's still.
        """
        chosen = tuple(ends) if fds is None else fds
        numbers = [ends[fd] if fd in chosen else -1 for fd in range(3)]
        # One call into C: an exception of a signal handler comes before or after it, and whoever finds a
        # number in ends may close it.
        start = functools.partial(lib.avf_capture_start, self._port, capture, numbers)
        take: Any = functools.partial(list, map(ends.pop, chosen))
        ticket, taken = map_calls(start, take)
        if ticket < 0:
            ends.update(zip(chosen, taken, strict=True))
        return self._noted(ticket, sink)

    def copy(self, capture: Any, stdout: Any, stderr: Any, sink: CopySink) -> int:
        """Have what a capture has kept put there, off the loop. Returns a ticket.

        Raises:
            OSError: There is no memory or no thread for it.
        """
        return self._noted(lib.avf_capture_copy(self._port, capture, stdout, stderr), sink)

    def detach(self, capture: Any, ticket: int) -> bool:
        """Let the child of a capture live on, unheard of. Returns False if it is over or has not begun."""
        if lib.avf_capture_detach(capture) < 0:
            return False
        self._sinks.pop(ticket, None)
        self._observed.pop(ticket, None)
        return True

    def _noted(self, ticket: int, sink: CaptureSink | CopySink) -> int:
        if ticket < 0:
            raise OSError(-ticket, os.strerror(-ticket))
        self._sinks[ticket] = sink
        return ticket

    def leave(self, ticket: int, sink: Any = None) -> None:
        """Nobody wants to hear of a ticket any more; gives it back if it is held.

        Args:
            ticket: The ticket; 0 if an exception has come between the submission and the note of the ticket.
            sink: Its sink.
        """
        if not ticket:
            ticket = next((known for known, its in self._sinks.items() if its is sink), 0)
        self._sinks.pop(ticket, None)
        self._observed.pop(ticket, None)
        self.release(ticket)

    @staticmethod
    def cancel(ticket: int, reason: int = -errno.ECANCELED) -> bool:
        """End a spawn that has not been delivered yet: it will fail with that reason, which is -errno.

        Returns False if it is too late for that.
        """
        return bool(lib.avf_cancel(ticket, reason) == 0)

    @staticmethod
    def pid(ticket: int) -> int | None:
        """Return the pid of a child that runs its program, or None."""
        pid: int = lib.avf_pid(ticket)
        return pid if pid > 0 else None

    @staticmethod
    def kill(ticket: int, signal: int) -> None:
        """Signal a living child through its pidfd.

        Raises:
            ProcessLookupError: Its exit has been delivered.
            OSError: The signal could not be sent (EINVAL, EPERM).
        """
        error = lib.avf_kill(ticket, signal)
        if error < 0:
            raise OSError(-error, os.strerror(-error))

    @staticmethod
    def kill_group(ticket: int, signal: int) -> bool:
        """Signal the process group that a child leads, also after its exit while the ticket is held.

        Returns False if the group has no member, or the child leads none. Zombies are members.

        Raises:
            OSError: The signal could not be sent (EINVAL, EPERM).
        """
        error = lib.avf_kill_group(ticket, signal)
        if error < 0 and error != -errno.ESRCH:
            raise OSError(-error, os.strerror(-error))
        return bool(error == 0)

    @staticmethod
    def pin(ticket: int) -> None:
        """Hold the ticket of a living child beyond its exit, and its pid: Exited.group_lives says so."""
        lib.avf_pin(ticket)

    @staticmethod
    def release(ticket: int) -> None:
        """Give back a ticket that Exited.group_lives holds. Idempotent; signals nobody."""
        lib.avf_release(ticket)

    def let_live(self, ticket: int) -> None:
        """Have a child, and its group, live on when this port closes."""
        if lib.avf_let_live(ticket) == 0:
            self._living_on.add(ticket)

    @staticmethod
    def dispose(ticket: int) -> None:
        """Kill a child, and have it reaped even if the port is closed."""
        lib.avf_dispose(ticket)

    @property
    def closed(self) -> bool:
        """Whether nothing can come back any more."""
        return self._port is None

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this is the port of that loop, and open."""
        return self._port is not None and self._loop() is loop

    def close(self) -> None:
        """Close; idempotent. Spawns under way are given up; children are killed, and reaped elsewhere.

        The memory stays until nobody refers to the port: a drain in another thread may be reading it, without
        the GIL.
        """
        port, self._port = self._port, None
        if port is None:
            return
        self._take_reader_out()
        lib.avf_port_close(port)
        for ticket in self._sinks.keys() - self._living_on:
            self.dispose(ticket)
        self._sinks.clear()
        self._observed.clear()

    def forget(self) -> None:
        """In the child of a fork, where the core has closed this port already: take it out of the loop.

        The descriptor is closed in this process, so the loop's selector cannot take the parent's registration
        out of the epoll that both share: epoll_ctl(2) fails, which selectors and libuv ignore. If the reader
        stayed in the loop, the next port, which may get the same number, would never be heard.
        """
        if self._port is not None:
            self._port = None
            self._sinks.clear()
            self._observed.clear()
            self._untold.clear()
            with contextlib.suppress(OSError):
                self._take_reader_out()

    def _take_reader_out(self) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._fd)

    def _drain(self) -> None:
        """Deliver what has come back. The reader's callback.

        An exception may come between any two byte codes: KeyboardInterrupt of a signal handler, MemoryError.
        So the core keeps each record until it is acknowledged here, and a sink may be told twice. What is
        left keeps no descriptor readable: the loop is asked to come back.
        """
        try:
            # One call, for CPython leaves the jump at the end of a loop out of the try block that it is in
            # (seen in 3.13), and that is where it runs signal handlers.
            self._deliver_batch()
        except BaseException:
            loop = self._loop()
            if loop is not None and not loop.is_closed():
                loop.call_soon(self._drain)
            raise

    def _deliver_batch(self) -> None:
        """Deliver a batch: one call into C."""
        port, counts = self._port, self._counts
        if port is None:
            return
        place, ticket = self._ending
        if place < counts[_TAKEN]:  # an exception came between
            self._sinks.pop(ticket, None)
        count = lib.avf_port_drain(port)
        if count < 0:
            self._report(OSError(-count, os.strerror(-count)))
            return
        for index in range(counts[_TAKEN], counts[_FILLED]):
            over = self._deliver(index * EVENT_SIZE)
            self._ending = index, over
            # A sink goes behind that: else the record would be a stray when it comes again.
            counts[_TAKEN] = index + 1
            self._sinks.pop(over, None)
            if self._strays:
                close_all(self._strays)
        if self._untold:
            self._untold.tell(self._report)

    def _deliver(self, at: int) -> int:
        """Give a record to its sink. One that raises is reported; the others get theirs.

        Returns the ticket if this was its last record, or 0.
        """
        ticket, kind, pid, pidfd, error, step, status, flags, *ends_and_times = EVENT.unpack_from(
            self._view, at
        )
        sink = self._sinks.get(ticket)
        if sink is None:
            self._deliver_stray(ticket, kind, flags, ends_and_times[:3])
            return 0
        record: Spawned | Exited | Captured | None = None
        if kind == _SPAWNED:
            stdin, stdout, stderr, *others = ends_and_times
            record = Spawned(ticket, pid, pidfd, flags, (stdin, stdout, stderr), *others)
        elif kind in _METHODS:
            record = Exited(status, flags, bytes(self._view[at + EVENT.size : at + EVENT_SIZE]))
            if kind == _CAPTURED:
                queue_ns, clone_ns, exec_ns, notes = ends_and_times[3:]
                record = Captured(ticket, pid, error, flags, queue_ns, clone_ns, exec_ns, record, notes)
        # First, for the sink may leave before the record comes again.
        if self._observed:
            self._observe(ticket, record, error, step)
        try:
            if record is not None:
                getattr(sink, _METHODS[kind])(record)
            elif kind == _FAILED:
                sink.failed(error, step, status)
            else:
                sink.copied()
        except MemoryError:  # no fault of the sink: again, when there is some
            raise
        except Exception as exc:  # noqa: BLE001  # of a protocol; reported
            self._report(exc)
        return 0 if kind == _SPAWNED or flags & _CHILD_LIVES else ticket

    def _deliver_stray(self, ticket: int, kind: int, flags: int, ends: list[int]) -> None:
        """End what nobody owns: an exception came between avf_spawn and the note of its sink, or later."""
        if kind == _SPAWNED:
            self._strays = {end: end for end in ends if end >= 0}  # closed once acknowledged
            self.dispose(ticket)
        elif kind == _CAPTURED and flags & _CHILD_LIVES:
            self.dispose(ticket)
        elif kind != _FAILED:
            self.release(ticket)
        self._observed.pop(ticket, None)

    def _observe(
        self, ticket: int, record: Spawned | Exited | Captured | None, error: int, step: int
    ) -> None:
        """Note what the callbacks of on_event() are to be told, if they hear of this child."""
        observation = self._observed.get(ticket)
        if observation is None:
            return
        if isinstance(record, (Spawned, Captured)):
            self._untold.note(observation, observation.spawned(record))
            if isinstance(record, Spawned) or record.exited is None:
                return
            record = record.exited
        if record is None:
            self._untold.note(observation, observation.failed(ticket, error, step))
        else:
            self._untold.note(observation, observation.exited(ticket, record))
        self._observed.pop(ticket, None)

    def _report(self, exc: BaseException, message: str = "an event of a subprocess failed") -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_exception_handler({"message": message, "exception": exc})
