"""The program that keeps a lease for lease.py: `python -m benchmarks.keeper FILE SECONDS`.

On its stdin it takes b"h" (hold the next exec; answers b"h" when it does); it writes b"x" when an exec
arrives, and lets it go on after the seconds. End of file ends it.
"""

import os
import select
import signal
import sys
import time

from tests.support.hold import SIGNAL, Lease


def keep(path: str, seconds: float) -> None:
    """Hold and let go, until the end of file."""
    wakeup, notice = os.pipe()
    os.set_blocking(notice, False)
    signal.set_wakeup_fd(notice)
    signal.signal(SIGNAL, lambda *_: None)  # somebody wants to exec
    lease = Lease(path)
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
            lease.take()
            release_at = None
            os.write(1, b"h")
        if release_at is not None and time.monotonic() >= release_at:
            lease.give_up()
            release_at = None


if __name__ == "__main__":
    keep(sys.argv[1], float(sys.argv[2]))
