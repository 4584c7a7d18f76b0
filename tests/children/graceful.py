"""A server as far as signals go: started with a way to plug in, it spawns, says so, and ends when told to.

    graceful.py LOOP SIGNALS PROGRAM [ARGUMENT...]

LOOP is a name of tests.support.backends.WAYS; SIGNALS is "runner" (asyncio.Runner's own handling of SIGINT) or
"handler" (SIGTERM and SIGINT cancel the main task, as servers do). It spawns PROGRAM with pipes, without a keeper,
and prints "spawning" before, "running PID" after.
"""

from __future__ import annotations

import asyncio
import pathlib
import signal
import sys

# What is installed is tested, not what lies beside the tests: the tree comes last.
sys.path.append(str(pathlib.Path(__file__).parents[2]))

from tests.support.backends import WAYS


async def main(signals: str, command: list[str]) -> None:
    """Spawn, and wait for the end."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    if signals == "handler":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
    print("spawning", flush=True)
    process = await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1)
    print("running", process.pid, flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    try:
        with asyncio.Runner(loop_factory=WAYS[sys.argv[1]]) as runner:
            runner.run(main(sys.argv[2], sys.argv[3:]))
    except (asyncio.CancelledError, KeyboardInterrupt) as exc:
        print(type(exc).__name__)
