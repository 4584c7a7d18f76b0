"""Many children, 16 at a time: a TaskGroup for all, a Semaphore for the bound."""

import asyncio
from pathlib import Path

import aiovfork
from aiovfork import PIPE

FILES = sorted(Path(asyncio.__file__).parent.glob("*.py"))
AT_ONCE = asyncio.Semaphore(16)


async def lines_of(path: Path) -> int:
    """Count a file's lines with wc. When this is cancelled, `async with` kills and reaps the child."""
    async with AT_ONCE, await aiovfork.create_subprocess_exec("wc", "-l", path, stdout=PIPE) as process:
        output, _ = await process.communicate()
    if process.returncode or not output:
        raise RuntimeError(f"wc -l {path} ended with {process.returncode}")
    return int(output.split()[0])


async def main() -> None:
    """Count the lines of asyncio itself. One failure cancels, kills and reaps all the others."""
    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(lines_of(path)) for path in FILES]
    print(sum(count.result() for count in counts), "lines in", len(FILES), "files")
    stats = aiovfork.stats()
    print(f"{stats.spawned} children, at most {stats.alive_peak} alive at once, {stats.alive} now")


if __name__ == "__main__":
    asyncio.run(main())
