"""An ASGI application that runs helpers with asyncio's own function: the loop decides what starts them."""

import asyncio
import json
import os
import shlex
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from typing import Any

import aiovfork

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

HELPERS = {"/": ["uname"], "/slow": shlex.split(os.environ.get("SLOW_HELPER", "sleep 1000"))}
DEADLINE = float(os.environ.get("HELPER_DEADLINE", "60"))
_requests: set[asyncio.Task[Any]] = set()


async def run(command: list[str]) -> str:
    """Return the output of a helper. Kill it when it takes too long, or when this is cancelled."""
    async with asyncio.timeout(DEADLINE):
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
        try:
            return (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def answer(path: str) -> tuple[int, dict[str, Any]]:
    """Run the helper of a path. The answer names the loop and counts the children of aiovfork."""
    task = asyncio.current_task()
    assert task is not None
    _requests.add(task)
    try:
        output = await run(HELPERS[path])
    except TimeoutError:
        return 504, {"error": "the helper took too long"}
    finally:
        _requests.discard(task)
    loop = type(asyncio.get_running_loop()).__name__
    return 200, {"output": output, "loop": loop, "spawned": aiovfork.stats().spawned, "server": os.getpid()}


async def app(scope: Any, receive: Receive, send: Send) -> None:
    """Serve ASGI's HTTP and lifespan."""
    if scope["type"] == "http":
        status, body = await answer(scope["path"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # A server may end as soon as it has the answer, even if requests still have helpers that run.
    for task in _requests:
        if not task.cancelling():
            task.cancel()
    await asyncio.gather(*_requests, return_exceptions=True)
    await send({"type": "lifespan.shutdown.complete"})
