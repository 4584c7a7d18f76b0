"""A process of the demo that holds exec: a lease on a private copy of an executable, given up late.

execve() of a leased file waits in the kernel until the holder gives the lease up, as it waits for a slow
network file system or a security agent. SIGIO, by which the kernel asks for the file, is blocked here and
fetched, so that the hold is counted from the moment at which exec was stopped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from examples.demo import wire

PATIENCE = 20.0  # seconds until somebody must have tried to execute the copy


def hold(copy: Path, seconds: float) -> None:
    """Answer twice: once the lease is held, and once it was given up."""
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        wire.reply(program=str(copy))
        if signal.sigtimedwait({signal.SIGIO}, PATIENCE) is None:
            wire.reply(error=f"nobody executed {copy} within {PATIENCE:.0f} s")
            return
        begin = time.monotonic()
        time.sleep(seconds)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        wire.reply(begin=begin, end=time.monotonic())
    finally:
        os.close(descriptor)


def main() -> None:
    """Hold one copy after the other, each for one execution."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    with tempfile.TemporaryDirectory(prefix="aiovfork-demo-") as folder:
        for number, request in enumerate(wire.requests()):
            # A fresh copy each time: a write lease is refused while anybody else has the file open.
            copy = Path(folder) / f"{Path(request['program']).name}-{number}"
            shutil.copy(request["program"], copy)
            try:
                hold(copy, request["seconds"])
            except OSError as error:
                wire.reply(refused=f"no lease on {copy}: {error.strerror}")


if __name__ == "__main__":
    main()
