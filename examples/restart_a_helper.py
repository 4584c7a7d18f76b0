"""A helper that crashes after each answer is kept running: each request finds one that is ready."""

import asyncio

import aiovfork
from aiovfork import PIPE

HELPER = "echo ready; read -r request; echo answer to $request; exit 1"


async def says_ready(process: aiovfork.Process) -> None:
    """Wait for what the helper says when it can take a request."""
    assert process.stdout is not None
    async with asyncio.timeout(10):
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("this is not the helper")


async def ask(helper: aiovfork.Supervisor, request: str) -> str:
    """Ask the helper that is ready; if it is just ending, the next one."""
    while True:
        process = await helper.ready()
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdin.write(f"{request}\n".encode())
        if answer := await process.stdout.readline():
            return answer.decode().strip()
        await process.wait()


async def main() -> None:
    """Ask three times. The first restart comes after 0.1 s, the next ones after 0.2, 0.4, ... 30 s."""
    kept = aiovfork.supervise("sh", "-c", HELPER, stdin=PIPE, stdout=PIPE, ready=says_ready)
    async with kept as helper:
        for number in range(3):
            print(await ask(helper, f"question {number}"))
    print("no process is left:", helper.process is None)


if __name__ == "__main__":
    asyncio.run(main())
