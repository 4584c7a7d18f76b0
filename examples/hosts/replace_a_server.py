"""Replace a server while it is being asked. The parent owns the socket; uvicorn takes it as descriptor 3."""

import asyncio
import collections
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiovfork

HERE = sys.path[0]  # the folder of this script, and of app.py
SERVER = (sys.executable, "-m", "uvicorn", "--fd", "3", "--log-level", "error", "--app-dir", HERE, "app:app")


@contextlib.asynccontextmanager
async def serving(listener: socket.socket) -> AsyncIterator[aiovfork.Process]:
    """Start a server on the parent's socket; at the end of the block let it finish its requests."""
    async with await aiovfork.create_subprocess_exec(*SERVER, fd_map={3: listener}) as process:
        yield process
        process.terminate()
        await process.wait()


async def ask(address: Any) -> int:
    """Return the pid of the server that answers. Before one is ready, the connection waits in the socket.

    A server that ends may close a connection of which it has read nothing yet: ask again, as browsers do.
    """
    answer = b""
    while not answer:
        reader, writer = await asyncio.open_connection(*address)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            answer = await reader.read()
        writer.close()
    return int(json.loads(answer.partition(b"\r\n\r\n")[2])["server"])


async def main() -> None:
    """Start one server, then another one, and end the first, while somebody asks all the time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answered = collections.defaultdict[int, asyncio.Event](asyncio.Event)
        enough = asyncio.Event()

        async def keep_asking() -> None:
            while not enough.is_set():
                answered[await ask(listener.getsockname())].set()

        async with asyncio.TaskGroup() as tasks, serving(listener) as new:
            async with serving(listener) as old:
                tasks.create_task(keep_asking())
                await answered[old.pid].wait()
                await answered[new.pid].wait()
            answered[new.pid].clear()  # it is alone now
            await answered[new.pid].wait()
            enough.set()
        print(f"served by {len(answered)} servers, each request was answered")


if __name__ == "__main__":
    asyncio.run(main())
