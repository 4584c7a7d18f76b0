"""Two deadlines: asyncio.timeout() for the child's work, spawn_timeout= for the time until it runs at all."""

import asyncio

import aiovfork
from aiovfork import PIPE


async def main() -> None:
    """Give up on a child that takes too long; nothing of it is left behind."""
    # Leaving the block, for whatever reason, kills, reaps and closes what still runs.
    async with await aiovfork.create_subprocess_exec("sleep", "60", stdout=PIPE, spawn_timeout=5) as process:
        try:
            async with asyncio.timeout(0.2):
                await process.communicate()
        except TimeoutError:
            print("takes too long")
    print("killed and reaped, return code", process.returncode)

    try:
        async with await aiovfork.create_subprocess_exec("sleep", "60", spawn_timeout=1e-6):
            print("ran: the loop was so late that it saw the start before the deadline")
    except TimeoutError:
        print("did not run within a microsecond: killed before it could start")
    print(aiovfork.stats().alive, "children alive")


if __name__ == "__main__":
    asyncio.run(main())
