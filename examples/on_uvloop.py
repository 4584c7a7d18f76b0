"""On uvloop: the same calls. uvloop's own spawn is a fork() on the loop's thread; this one is not."""

import asyncio

import uvloop

import aiovfork
from aiovfork import PIPE


async def main() -> None:
    """Read a child's output through /dev/stdin, with a umask: uvloop's own spawn cannot do either."""
    loop = asyncio.get_running_loop()
    command = "umask; cat /dev/stdin"
    process = await aiovfork.create_subprocess_exec("sh", "-c", command, stdin=PIPE, stdout=PIPE, umask=0o077)
    output, _ = await process.communicate(b"through a real pipe\n")
    print("loop:", type(loop).__module__)
    print(output.decode() if output else "", end="")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
