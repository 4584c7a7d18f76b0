"""The drop-in: asyncio's own create_subprocess_exec and communicate(), from another module."""

import asyncio

import aiovfork
from aiovfork import PIPE


async def main() -> None:
    """Sort three lines in a child."""
    process = await aiovfork.create_subprocess_exec("sort", stdin=PIPE, stdout=PIPE)
    output, _ = await process.communicate(b"pear\napple\nfig\n")
    print(output.decode() if output else "", end="")
    print("exit status", process.returncode)


if __name__ == "__main__":
    asyncio.run(main())
