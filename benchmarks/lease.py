"""A program whose exec the kernel holds up: by a lease on its file, kept by a process of its own.

The keeper must be a process: a loop that is stopped with the GIL held could not let go. It is this
module run as a program, with the file's path and the time in seconds that an exec is to take. On its
stdin it takes b"h" (hold the next exec; answers b"h" when it does); it writes b"x" when an exec
arrives, and lets it go on after the time. End of file ends it.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# The kernel ends a lease by itself after /proc/sys/fs/lease-break-time (45 s by default).
_PATIENCE = 10.0


class HeldProgram:
    """A copy of a program, and the keeper of its lease."""

    def __init__(self, path: str, keeper: subprocess.Popen[bytes]) -> None:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        self.path = path
        self._to_keeper = keeper.stdin.fileno()
        self._from_keeper = keeper.stdout.fileno()

    def hold(self) -> None:
        """Hold up the next exec. Blocks until that is certain."""
        os.write(self._to_keeper, b"h")
        while (answer := os.read(self._from_keeper, 1)) != b"h":
            if not answer:
                raise RuntimeError("the lease's keeper has ended")

    async def reached(self) -> None:
        """Wait until an exec of the program is being held up."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._from_keeper, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._from_keeper)
        if os.read(self._from_keeper, 1) != b"x":
            raise RuntimeError("the lease's keeper has ended")


@contextlib.contextmanager
def held_program(program: str, seconds: float) -> Iterator[HeldProgram]:
    """A copy of program, each exec of which takes so many seconds if hold() was called before it."""
    with tempfile.TemporaryDirectory(prefix="aiovfork-bench-") as folder:
        path = shutil.copy(program, folder)
        command = [sys.executable, "-P", __file__, path, str(seconds)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
            try:
                yield HeldProgram(path, keeper)
            finally:
                assert keeper.stdin is not None
                keeper.stdin.close()
                keeper.wait(_PATIENCE)


def _take(lease: int) -> None:
    """Take the lease as soon as nobody else has the file open (a child that is ending still may)."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as problem:
            # The kernel tells nobody when the last other user of the file goes: ask again.
            if problem.errno != errno.EAGAIN or time.monotonic() > give_up:
                raise
            time.sleep(0.0005)
        else:
            return


def keep(path: str, seconds: float) -> None:
    """The keeper."""
    wakeup, notice = os.pipe()
    os.set_blocking(notice, False)
    signal.set_wakeup_fd(notice)
    signal.signal(signal.SIGIO, lambda *_: None)  # sent when somebody wants to exec
    lease = os.open(path, os.O_RDONLY)
    release_at: float | None = None
    while True:
        timeout = None if release_at is None else max(0.0, release_at - time.monotonic())
        ready, _, _ = select.select([0, wakeup], [], [], timeout)
        if wakeup in ready:
            os.read(wakeup, 1)
            release_at = time.monotonic() + seconds
            os.write(1, b"x")
        if 0 in ready:
            if not os.read(0, 1):
                return
            _take(lease)
            release_at = None
            os.write(1, b"h")
        if release_at is not None and time.monotonic() >= release_at:
            fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            release_at = None


if __name__ == "__main__":
    keep(str(Path(sys.argv[1])), float(sys.argv[2]))
