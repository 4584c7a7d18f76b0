"""Programs whose exec waits for the test: a lease on the file holds execve(2) until it is given up.

Nothing is slow by the clock here: a held child hangs in the window, from clone to exec, as long as the test
wants, and can be killed there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
from collections.abc import AsyncIterator


class Hold:
    """A program that nobody can execute until release()."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Set once a child has reached exec (or somebody else the file).
        self.reached = asyncio.Event()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # The default signal of a lease that somebody breaks, SIGIO, would end a process that has no handler.
        fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def release(self) -> None:
        """Let the children that wait in exec go on. Idempotent."""
        if self._fd >= 0:
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            os.close(self._fd)
            self._fd = -1


@contextlib.asynccontextmanager
async def held(directory: pathlib.Path, program: str = "true") -> AsyncIterator[Hold]:
    """Copy a program into a directory and hold it; for the main thread."""
    source = shutil.which(program)
    assert source is not None
    hold = Hold(shutil.copy(source, f"{directory}/held-{program}"))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGURG, hold.reached.set)
    try:
        yield hold
    finally:
        hold.release()
        loop.remove_signal_handler(signal.SIGURG)
