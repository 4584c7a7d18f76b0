"""Many children, 16 at a time: a TaskGroup for all, a Semaphore for the bound."""

import asyncio
from pathlib import Path

import aiovfork
from aiovfork import PIPE

FILES = sorted(Path(asyncio.__file__).parent.glob("*.py"))
AT_ONCE = asyncio.Semaphore(16)


async def lines_of(path: Path) -> int:
    """Count a file's lines with wc."""
    async with AT_ONCE:
        process = await aiovfork.create_subprocess_exec("wc", "-l", path, stdout=PIPE)
        output, _ = await process.communicate()
    return int((output or b"0").split()[0])


async def main() -> None:
    """Count the lines of asyncio itself. One failure would cancel, kill and reap all the others."""
    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(lines_of(path)) for path in FILES]
    print(sum(count.result() for count in counts), "lines in", len(FILES), "files")
    stats = aiovfork.stats()
    print(f"{stats.spawned} children, at most {stats.alive_peak} alive at once, {stats.alive} now")


if __name__ == "__main__":
    asyncio.run(main())
