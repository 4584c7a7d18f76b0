"""asyncio.Runner and asyncio.run(): given a loop factory, asyncio's own functions use aiovfork."""

import asyncio
import sys
from asyncio.subprocess import PIPE

import aiovfork


async def main() -> None:
    """Call asyncio, not aiovfork."""
    process = await asyncio.create_subprocess_exec("uname", stdout=PIPE)
    output, _ = await process.communicate()
    loop = type(asyncio.get_running_loop()).__name__
    print(f"{output.decode().strip()} on {loop}: {aiovfork.stats().spawned} started by aiovfork")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:
        runner.run(main())
    with asyncio.Runner(loop_factory=aiovfork.new_uvloop_event_loop) as runner:
        runner.run(main())
    if sys.version_info >= (3, 12):
        asyncio.run(main(), loop_factory=aiovfork.new_event_loop)
