"""Programs whose exec waits for somebody: a lease on the file holds execve(2) until it is given up.

Nothing is slow by the clock here: a held child hangs in the window, from clone to exec, as long as its holder
wants, and can be killed there. Of this project's, the module imports nothing: benchmarks use it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pathlib
import select
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

#: Tells the holder that somebody wants to execute the program. The kernel's default for this, SIGIO, would end a
#: process that has no handler.
SIGNAL: Final = signal.SIGURG
# What somebody waits for here comes at once, or something is broken.
_PATIENCE: Final = 60.0


class Lease:
    """A lease on a program's file, which nobody can execute while it is held.

    The kernel ends it by itself, 45 seconds after somebody has come (/proc/sys/fs/lease-break-time).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.fcntl(self._fd, fcntl.F_SETSIG, SIGNAL)

    def take(self) -> None:
        """Hold the next exec.

        Raises:
            BlockingIOError: Somebody has the file open, and still has it after a minute.
        """
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as problem:
                # A child that is about to end may be that somebody, and the kernel does not tell when it has.
                if problem.errno != errno.EAGAIN or time.monotonic() > give_up:
                    raise
                time.sleep(0.0005)
            else:
                return

    def give_up(self) -> None:
        """Let those who wait in exec go on."""
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def close(self) -> None:
        """Give it up for good. Idempotent."""
        if self._fd >= 0:
            # Not by closing alone: a process that was forked meanwhile has this file open too.
            self.give_up()
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def copied(directory: pathlib.Path | str, program: str = "true") -> str:
    """Copy a program into a directory: a lease needs a file that nobody else has open."""
    source = shutil.which(program)
    assert source is not None
    return shutil.copy(source, f"{directory}/held-{program}")


class Hold:
    """A program that nobody can execute until release(), for a loop in the main thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Set once a child has reached exec (or somebody else the file).
        self.reached = asyncio.Event()
        self._lease = Lease(path)
        self._lease.take()

    def release(self) -> None:
        """Let the children that wait in exec go on. Idempotent."""
        self._lease.close()


@contextlib.asynccontextmanager
async def held(directory: pathlib.Path, program: str = "true") -> AsyncIterator[Hold]:
    """Copy a program into a directory and hold it; for the main thread."""
    hold = Hold(copied(directory, program))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(SIGNAL, hold.reached.set)
    try:
        yield hold
    finally:
        hold.release()
        loop.remove_signal_handler(SIGNAL)


@contextlib.contextmanager
def held_program(directory: pathlib.Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a program whose exec waits until the block ends, and a function that waits until somebody is there.

    For the main thread; as held(), without a loop.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.signal(SIGNAL, lambda *_: None)
    # Not a handler that writes: the kernel may choose another thread, and then select() here is not interrupted.
    woken_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def wait_reached() -> None:
        assert select.select([read_end], [], [], _PATIENCE)[0], "nobody executes the held program"

    try:
        with Lease(copied(directory)) as lease:
            yield lease.path, wait_reached
    finally:
        signal.set_wakeup_fd(woken_before)
        signal.signal(SIGNAL, before)
        os.close(read_end)
        os.close(write_end)
