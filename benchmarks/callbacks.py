"""Times every callback of an event loop, and every step of a coroutine."""

import asyncio
import contextlib
import time
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar
from unittest import mock

_T = TypeVar("_T")
_now = time.perf_counter_ns


class CallbackTimes:
    """Nanoseconds that callbacks took: wall time, and CPU time where it was asked for.

    A callback counts if recording was on when it *began*: the one that switches it on does not count.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self.wall: list[int] = []
        self.cpu: list[int] = []
        self.recording = True
        self._with_cpu = cpu

    def clear(self) -> None:
        """Forget what was recorded."""
        self.wall.clear()
        self.cpu.clear()

    def timed(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Run a callback."""
        if not self.recording:
            callback(*arguments)
            return
        cpu_start = time.thread_time_ns() if self._with_cpu else 0
        start = _now()
        try:
            callback(*arguments)
        finally:
            self.wall.append(_now() - start)
            if self._with_cpu:
                self.cpu.append(time.thread_time_ns() - cpu_start)


def watched_loop(
    base: type[asyncio.AbstractEventLoop], times: CallbackTimes
) -> type[asyncio.AbstractEventLoop]:
    """A loop whose callbacks are timed where they are registered through the loop's public methods.

    For loops that are not the stdlib's: their handles are out of Python's reach, and so is what they do
    between two callbacks.
    """

    class WatchedLoop(base):  # type: ignore[valid-type,misc]  # a class of the caller's choice
        """The loop, with every registration wrapped."""

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_soon(times.timed, callback, *args, context=context)

        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_soon_threadsafe(times.timed, callback, *args, context=context)

        def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_later(delay, times.timed, callback, *args, context=context)

        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            return super().call_at(when, times.timed, callback, *args, context=context)

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            super().add_reader(fd, times.timed, callback, *args)

        def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
            super().add_writer(fd, times.timed, callback, *args)

    return WatchedLoop


@contextlib.contextmanager
def watched(
    base: type[asyncio.AbstractEventLoop], times: CallbackTimes
) -> Iterator[type[asyncio.AbstractEventLoop]]:
    """Time every callback of the loops made in this block, and yield their class.

    The stdlib's loop runs each callback through Handle._run, which is replaced meanwhile: nothing of
    the loop's own doing is missed.
    """
    if not issubclass(base, asyncio.BaseEventLoop):
        yield watched_loop(base, times)
        return
    run = asyncio.Handle._run  # noqa: SLF001  # the one place through which all callbacks pass

    def timed_run(handle: asyncio.Handle) -> None:
        times.timed(run, handle)

    with mock.patch.object(asyncio.Handle, "_run", timed_run):
        yield base


def with_timed_readers(
    base: type[asyncio.AbstractEventLoop], times: CallbackTimes
) -> type[asyncio.AbstractEventLoop]:
    """A loop on which only the callbacks given to add_reader are timed."""

    class ReaderTimedLoop(base):  # type: ignore[valid-type,misc]  # a class of the caller's choice
        """The loop, with its readers wrapped."""

        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            super().add_reader(fd, times.timed, callback, *args)

    return ReaderTimedLoop


@types.coroutine
def timed_steps(coroutine: Coroutine[Any, Any, _T], steps: list[int]) -> Generator[Any, Any, _T]:
    """Await a coroutine; the nanoseconds of each step, from one suspension to the next, go to steps."""
    error: BaseException | None = None
    while True:
        start = _now()
        try:
            awaited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result: _T = stop.value
            return result
        finally:
            steps.append(_now() - start)
        error = None
        try:
            yield awaited
        except BaseException as thrown:  # noqa: BLE001  # a cancellation goes on into the coroutine
            error = thrown
