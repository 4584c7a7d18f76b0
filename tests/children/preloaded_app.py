"""The ASGI application of the examples, whose module has run a plugged loop before any server forks.

Requests are answered twice: by the server's loop, and by the loop that ran at import.
"""

import asyncio
import concurrent.futures
import json
import sys
from typing import Any

from app import run  # type: ignore[import-not-found]  # examples/hosts/app.py

import aiovfork

LOOP = aiovfork.new_uvloop_event_loop() if "uvloop" in sys.argv else aiovfork.new_event_loop()
ONE_AT_A_TIME = asyncio.Lock()
with concurrent.futures.ThreadPoolExecutor(1) as thread:  # uvicorn imports this in a loop that runs
    BEFORE = thread.submit(LOOP.run_until_complete, run(["uname"])).result()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve ASGI's HTTP and lifespan."""
    if scope["type"] == "http":
        here = await run(["uname"])
        async with ONE_AT_A_TIME:
            there = await asyncio.to_thread(LOOP.run_until_complete, run(["uname"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([BEFORE, here, there]).encode()})
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
