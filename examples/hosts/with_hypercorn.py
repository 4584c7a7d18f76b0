"""hypercorn on a loop of aiovfork: `python with_hypercorn.py`, or `python with_hypercorn.py uvloop`."""

import asyncio
import os
import signal
import sys

from app import app  # type: ignore[import-not-found]  # it lies beside this file
from hypercorn.asyncio import serve
from hypercorn.config import Config

import aiovfork

new_loop = aiovfork.new_uvloop_event_loop if "uvloop" in sys.argv else aiovfork.new_event_loop
PATIENCE = float(os.environ.get("PATIENCE", "10"))


async def main() -> None:
    """Serve until a signal comes. Then requests have PATIENCE seconds to end."""
    address = f"127.0.0.1:{os.environ.get('PORT', '8000')}"
    config = Config.from_mapping(bind=address, graceful_timeout=PATIENCE)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    await asyncio.wait([server, stopped := asyncio.create_task(stop.wait())], return_when="FIRST_COMPLETED")
    stopped.cancel()
    # On Python 3.12 and later hypercorn itself waits without a bound. The Runner cancels what is left.
    done, _ = await asyncio.wait([server], timeout=PATIENCE + 2)
    for task in done:
        task.result()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
