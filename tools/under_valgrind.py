"""A few spawns for valgrind, where vfork shares no memory and clone3 does not exist.

Run as `valgrind --error-exitcode=99 python tools/under_valgrind.py`. What is checked is that the
start-up probe noticed it: a failed exec is an error with its errno there too, never exit status 127.
"""

import asyncio
import signal
import sys

import aiovfork
from aiovfork import PIPE
from aiovfork._binding import probe


async def main() -> None:
    """One child that answers, one that cannot start, one that ends by a signal."""
    echo = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    output, _ = await echo.communicate(b"through valgrind")
    check(output == b"through valgrind", f"cat gave {output!r}")
    check(echo.returncode == 0, f"cat ended with {echo.returncode}")
    check(echo.spawn_info.report == "pipe", f"the report came through {echo.spawn_info.report}")

    try:
        missing = await aiovfork.create_subprocess_exec("/no/such/program")
    except FileNotFoundError as error:
        check(getattr(error, "step", None) == "exec", f"the error names step {getattr(error, 'step', None)}")
    else:
        sys.exit(f"a program that is not there ended with {await missing.wait()}")

    suicide = await aiovfork.create_subprocess_exec("sh", "-c", "kill -TERM $$")
    check(await suicide.wait() == -signal.SIGTERM, f"the killed child ended with {suicide.returncode}")


def check(fact: object, otherwise: str) -> None:
    """End the program with a message unless the fact holds."""
    if not fact:
        sys.exit(otherwise)


if __name__ == "__main__":
    check(not probe().memory_shared, "vfork shares memory here: this is not valgrind")
    asyncio.run(main())
    print("three spawns under valgrind: right")
