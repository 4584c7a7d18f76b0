"""Read the output of a child line by line, while the child goes on writing."""

import asyncio
import sys

import aiovfork
from aiovfork import PIPE

CHILD = "for n in range(1, 6): print('line', n, flush=True)\ninput()\nprint('bye')"


async def main() -> None:
    """Answer the child after its fifth line. It waits for the answer, so its lines do come one by one."""
    process = await aiovfork.create_subprocess_exec(sys.executable, "-c", CHILD, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    async for line in process.stdout:
        print("got", line.decode().strip())
        if line == b"line 5\n":
            process.stdin.write(b"enough\n")
    print("exit status", await process.wait())


if __name__ == "__main__":
    asyncio.run(main())
