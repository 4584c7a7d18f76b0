"""Callbacks that are told of every child: aiovfork.on_event().

A spawn that is asked for while a callback is set has an Observation: who is to be told, in which context, and
what the first record said that the last one's event needs. The port makes the events, and tells them once
the records that they come from are acknowledged, so a record that is delivered twice is told once.

Layer: beside the port. Thread: the loop's; on_event and remove any.
"""

from __future__ import annotations

import collections
import contextvars
import errno
import inspect
import itertools
import resource
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeAlias

from aiovfork._binding import step_name
from aiovfork._events import Captured, Exited, Spawned, SpawnInfo
from aiovfork._options import Command, StrOrBytesPath


class SpawnedEvent(NamedTuple):
    """A child runs its program.

    Attributes:
        ticket: The number of the spawn, never used again in this process.
        program: What was executed, as it was given; of a shell command, the shell.
        submitted: When it was asked for, in seconds of time.monotonic().
        time: When its worker saw that the program runs, likewise.
        pid: The child's pid.
        spawn_info: How it was started.
    """

    ticket: int
    program: StrOrBytesPath
    submitted: float
    time: float
    pid: int
    spawn_info: SpawnInfo


class FailedEvent(NamedTuple):
    """A spawn has failed, was cancelled or took longer than spawn_timeout; there is no child.

    Attributes:
        ticket: The number of the spawn; 0 if it was refused before it had one.
        program: What was to be executed, as it was given.
        submitted: When it was asked for, in seconds of time.monotonic().
        time: When the loop heard of the failure, likewise.
        step: The name of the step that failed, as SpawnError.step, or during which it was cancelled; "none"
            if that was before the first.
        errno: Why, as SpawnError.errno: ECANCELED where it was cancelled, ETIMEDOUT after spawn_timeout,
            ECHILD where the child was killed before it ran the program.
    """

    ticket: int
    program: StrOrBytesPath
    submitted: float
    time: float
    step: str
    errno: int


class ExitedEvent(NamedTuple):
    """A child has exited and was reaped.

    Attributes:
        ticket: The number of the spawn.
        program: What was executed, as it was given.
        submitted: When it was asked for, in seconds of time.monotonic().
        time: When the loop heard of the exit, likewise.
        pid: The child's pid, which may be another process' by now.
        duration: Seconds from SpawnedEvent.time until then.
        returncode: The exit code, or -N for a child killed by signal N.
        returncode_known: Whether that is the true one, as Process.returncode_known.
        rusage: What the child used; None where somebody else reaped it.
    """

    ticket: int
    program: StrOrBytesPath
    submitted: float
    time: float
    pid: int
    duration: float
    returncode: int
    returncode_known: bool
    rusage: resource.struct_rusage | None


Event: TypeAlias = SpawnedEvent | FailedEvent | ExitedEvent
Callback: TypeAlias = Callable[[Event], object]
#: Arguments of contextvars.Context.run: one event for one callback.
Call: TypeAlias = tuple[contextvars.Context, Callback, Event]


class Subscription:
    """What on_event() returns; a context manager, which removes the callback at its end."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Final = callback
        """The callback."""
        subscriptions[self] = None

    @property
    def active(self) -> bool:
        """Whether the callback has not been removed."""
        return self in subscriptions

    def remove(self) -> None:
        """Tell the callback of nothing more. Idempotent; callable from any thread.

        Of what a loop is telling at this moment, the callback may still hear.
        """
        subscriptions.pop(self, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


#: Who hears of the spawns to come, in order. Each operation on it is one of a dict, which is atomic.
subscriptions: Final[dict[Subscription, None]] = {}


def on_event(callback: Callback) -> Subscription:
    """Have a function called for each child that this process starts, when it runs, fails to, and exits.

    Whichever function or loop of aiovfork starts them. It hears of the spawns that are asked for from now on:
    a SpawnedEvent and later an ExitedEvent, or a FailedEvent, each once. A run() has one report for start and
    end, so both of its events come at its end; none comes if it is detached or its task is destroyed. No
    ExitedEvent comes of children that outlive their loop, and no event of calls that are refused before there
    is a spawn, such as those with a wrong argument.

    The callback runs on the thread of the loop that has started the child, in a copy of the context of the
    call, and must not block. What it raises goes to the loop's exception handler and harms nothing. Where
    several loops run in several threads it is called in all of them. A forked process inherits it.

    Args:
        callback: Called with a SpawnedEvent, FailedEvent or ExitedEvent; not a coroutine function.

    Returns:
        The subscription. To hear no more, remove() it, or leave a `with` block of it.

    Raises:
        TypeError: callback cannot be called, or is a coroutine function.
    """
    if not callable(callback) or inspect.iscoroutinefunction(callback):  # type: ignore[redundant-expr]
        raise TypeError(f"callback must be a function that is called, not awaited: {callback!r}")
    return Subscription(callback)


class Observation:
    """One spawn of which callbacks will hear: who, in which context, and the events so far."""

    __slots__ = ("_pid", "_program", "_started", "_submitted", "context", "subscriptions")

    def __init__(self, command: Command) -> None:
        self.subscriptions = tuple(subscriptions)
        self.context = contextvars.copy_context()
        self._program = command.program
        self._submitted = self._started = time.monotonic()
        self._pid = -1

    def spawned(self, event: Spawned | Captured) -> SpawnedEvent:
        """Return what to tell now that the program runs, or has run."""
        self._pid = event.pid
        # Not the time of the record: it may come late, and for run() only at the end.
        self._started = self._submitted + (event.queue_ns + event.clone_ns + event.exec_ns) / 1e9
        return SpawnedEvent(
            event.ticket, self._program, self._submitted, self._started, event.pid, event.info()
        )

    def failed(self, ticket: int, error: int, step: int) -> FailedEvent:
        """Return what to tell of a failure, as a Sink hears of it."""
        number = -error if error else errno.ECHILD
        return FailedEvent(ticket, self._program, self._submitted, time.monotonic(), step_name(step), number)

    def exited(self, ticket: int, event: Exited) -> ExitedEvent:
        """Return what to tell of an exit."""
        now = time.monotonic()
        duration = max(now - self._started, 0.0)
        head = (ticket, self._program, self._submitted, now, self._pid, duration)
        return ExitedEvent(*head, event.returncode, event.known, event.rusage)


class Untold(dict[tuple[int, type[Event], Subscription], Call]):
    """What a port has to call once the records are acknowledged: by ticket, kind of event and callback."""

    def note(self, observation: Observation, event: Event) -> None:
        """Note the calls for an event; if its record is delivered again, they are noted once."""
        for subscription in observation.subscriptions:
            if subscription.active:
                call = (observation.context, subscription.callback, event)
                self[event.ticket, type(event), subscription] = call

    def tell(self, report: Callable[[BaseException, str], None]) -> None:
        """Call the callbacks; what they raise is reported.

        A call is taken out and made without a byte code between the two, at which an exception could come:
        each callback hears of each event once.
        """
        while self:
            try:
                calls = itertools.starmap(contextvars.Context.run, map(self.pop, tuple(self)))
                collections.deque(calls, maxlen=0)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:  # noqa: BLE001  # of the application; reported
                report(exc, "a callback of aiovfork.on_event() failed")
