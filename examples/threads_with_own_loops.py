"""Several threads, each with its own loop, all starting children at the same time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiovfork
from aiovfork import PIPE

THREADS, CHILDREN = 4, 8


async def children(thread: int) -> list[int]:
    """Run some children on the loop of this thread and return their output."""

    async def one(number: int) -> int:
        process = await aiovfork.create_subprocess_exec("echo", str(100 * thread + number), stdout=PIPE)
        output, _ = await process.communicate()
        return int(output or b"-1")

    return await asyncio.gather(*(one(number) for number in range(CHILDREN)))


def main() -> None:
    """No child watcher, no signal handler, no main thread is needed."""
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda thread: asyncio.run(children(thread)), range(THREADS))
        for thread, numbers in enumerate(results):
            print(f"thread {thread}: {' '.join(map(str, numbers))}")
    print(aiovfork.stats().spawned, "children in all")


if __name__ == "__main__":
    main()
