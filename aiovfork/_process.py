"""Process: asyncio's, with what the pidfd, the rusage and structured concurrency add.

Layer: above the transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

    from aiovfork._transport import SpawnInfo, SubprocessTransport


class Process(asyncio.subprocess.Process):
    """A child process. Everything of asyncio.subprocess.Process, and:

    wait() returns at the exit, even if a grandchild keeps a pipe open (asyncio before 3.14 hangs). Signals go
    through the pidfd and cannot hit another process. A cancelled communicate() can be repeated and loses
    no output. `async with` kills, reaps and closes what still runs at the end of the block.
    """

    _transport: SubprocessTransport

    def __init__(
        self,
        transport: SubprocessTransport,
        protocol: asyncio.subprocess.SubprocessStreamProtocol,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, loop)
        self._output: dict[int, list[bytes]] = {}
        self._input_written = False

    @property
    def pidfd(self) -> int | None:
        """The child's pidfd until its exit was seen, then None. Duplicate it to keep it."""
        return self._transport.pidfd

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child and its waited-for descendants used: None before the exit (getrusage(2))."""
        return self._transport.rusage

    @property
    def spawn_info(self) -> SpawnInfo:
        """Engine, report mode and the times to exec in microseconds."""
        return self._transport.spawn_info

    @property
    def returncode_known(self) -> bool:
        """Whether returncode is the child's true exit status.

        False before the exit; and after it only if somebody else reaped the child on a kernel before 6.15:
        returncode is 255 then, as asyncio has it.
        """
        return self._transport.returncode_known

    async def communicate(self, input: bytes | bytearray | memoryview | None = None) -> tuple[bytes | None, bytes | None]:  # type: ignore[override]  # noqa: A002  # asyncio's name
        """Write input, close stdin, read stdout and stderr to their ends, and wait for the exit.

        Cancellation: what has been read is kept, and what of input was accepted is not written again, so a
        cancelled call can be repeated.

        Returns:
            (stdout, stderr), None for a stream that is not PIPE.
        """
        async with asyncio.TaskGroup() as group:
            if self.stdin is not None:
                group.create_task(self._write_input(input))
            stdout = group.create_task(self._read_all(1, self.stdout))
            stderr = group.create_task(self._read_all(2, self.stderr))
        await self.wait()
        self._output.clear()
        return stdout.result(), stderr.result()

    async def _write_input(self, data: bytes | bytearray | memoryview | None) -> None:
        assert self.stdin is not None
        # A child that does not want all of its input is no error (as in Popen.communicate).
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if data is not None and not self._input_written:
                self._input_written = True
                self.stdin.write(data)
            await self.stdin.drain()
        self.stdin.close()

    async def _read_all(self, fd: int, stream: asyncio.StreamReader | None) -> bytes | None:
        if stream is None:
            return None
        chunks = self._output.setdefault(fd, [])
        while chunk := await stream.read(2**16):
            chunks.append(chunk)
        return b"".join(chunks)

    async def __aenter__(self) -> Self:
        """Return the process."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the child if it still runs, reap it, close its pipes."""
        self._transport.close()
        await self.wait()
