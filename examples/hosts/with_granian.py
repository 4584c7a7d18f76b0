"""granian's workers on loops of aiovfork: `python with_granian.py`, or `python with_granian.py uvloop`."""

import asyncio
import os
import sys

from granian import Granian, loops
from granian.constants import Interfaces

import aiovfork

new_loop = aiovfork.new_uvloop_event_loop if "uvloop" in sys.argv else aiovfork.new_event_loop


@loops.register("auto")
def new_worker_loop() -> asyncio.AbstractEventLoop:
    """Make the loop of a worker process: granian's documentation calls this the initialization policy."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian(
        "app:app",
        interface=Interfaces.ASGI,
        port=int(os.environ.get("PORT", "8000")),
        # Longer than any request may take: the helpers of a worker that is killed live on.
        workers_kill_timeout=int(os.environ.get("PATIENCE", "90")),
    ).serve()
