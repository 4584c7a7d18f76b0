"""The lower level: a SubprocessProtocol hears of output and exit, a transport writes and signals."""

import asyncio
from typing import cast

import aiovfork


class Collect(asyncio.SubprocessProtocol):
    """Gathers what the child writes until it is gone and its pipes are closed."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.output = {1: b"", 2: b""}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep a piece of stdout (1) or stderr (2)."""
        self.output[fd] += data

    def process_exited(self) -> None:
        """Hear of the exit; output may still follow."""
        print("exited")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Hear that the child is gone and its pipes are closed."""
        self.done.set()


async def main() -> None:
    """Let a shell turn its input to upper case, complain, and exit with 3."""
    transport, seen = await aiovfork.subprocess_exec(Collect, "sh", "-c", "tr a-z A-Z; echo oh >&2; exit 3")
    stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    stdin.write(b"hello\n")
    stdin.close()
    await seen.done.wait()
    print(seen.output, "return code", transport.get_returncode())


if __name__ == "__main__":
    asyncio.run(main())
