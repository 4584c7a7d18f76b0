"""Processes that belong together: when one fails, the others end, each with all that it has started."""

import asyncio

import aiovfork

PARTS = {
    "server": "sleep 1000 & wait",  # it has a child of its own
    "worker": "sleep 1000 | cat",
    "import": "sleep 0.1; exit 3",
}


async def watch(name: str, process: aiovfork.Process) -> None:
    """Fail when a part of the application fails."""
    if await process.wait():
        raise RuntimeError(f"{name} failed with {process.returncode}")


async def main() -> None:
    """Start all parts. The group ends them in the order of signals: SIGTERM, and SIGKILL 2 seconds later."""
    processes = {}
    teardown = aiovfork.Teardown(patience=2.0)
    try:
        async with aiovfork.ProcessGroup(teardown=teardown) as group, asyncio.TaskGroup() as tasks:
            for name, command in PARTS.items():
                processes[name] = await group.start_shell(command)
                tasks.create_task(watch(name, processes[name]))
    except* RuntimeError as failures:
        print(*failures.exceptions)
    for name, process in processes.items():
        print(f"{name}: {process.returncode}")


if __name__ == "__main__":
    asyncio.run(main())
