"""A program that uses aiovfork as programs do, and prints what it has changed in its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import warnings
from typing import Any

import aiovfork


async def main(number: int) -> int:
    """Run a child that exits with a number."""
    process = await aiovfork.create_subprocess_exec("sh", "-c", f"exit {number}", stdout=aiovfork.PIPE)
    await process.communicate()
    assert process.returncode is not None
    return process.returncode


def watcher() -> Any:
    """Return the child watcher that the policy has made, on the versions that have such things."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(asyncio.get_event_loop_policy(), "_watcher", None)


if __name__ == "__main__":
    fds = len(os.listdir("/proc/self/fd"))
    returncodes = [asyncio.run(main(number)) for number in range(5)]
    print(  # it is a program
        json.dumps(
            {
                "returncodes": returncodes,
                "sigchld is default": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
                "wakeup fd": signal.set_wakeup_fd(-1),
                "watcher": repr(watcher()),
                "python threads": [thread.name for thread in threading.enumerate()],
                "descriptors left": len(os.listdir("/proc/self/fd")) - fds,
            }
        )
    )
