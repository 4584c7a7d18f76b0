"""Process: asyncio's, with what the pidfd, the rusage and structured concurrency add.

Layer: above the transport. Thread: the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from types import EllipsisType, TracebackType
from typing import Any, Self, SupportsFloat

from aiovfork._capture import Input, immutable
from aiovfork._checks import seconds
from aiovfork._collection import Collection, Kept
from aiovfork._compat import AsyncioProcess, StreamProtocol, logger
from aiovfork._errors import signal_name
from aiovfork._events import SpawnInfo
from aiovfork._members import Tree
from aiovfork._streams import OutputReader
from aiovfork._terminal import Terminal
from aiovfork._transport import SubprocessTransport
from aiovfork._tree import NOTHING_SAID, Ending, Teardown, TransportChild, kill, stop
from aiovfork._write_pipe import WritePipe


class Process(AsyncioProcess):
    """A child process: asyncio.subprocess.Process, and more.

    wait() returns at the exit, even if a grandchild keeps a pipe open (asyncio before 3.14 hangs). Signals go
    through the pidfd and cannot hit another process. A cancelled communicate() can be repeated and loses
    no output. `async with` kills, reaps and closes what still runs at the end of the block.
    """

    _transport: SubprocessTransport

    def __init__(
        self,
        transport: SubprocessTransport,
        protocol: StreamProtocol,
        loop: asyncio.AbstractEventLoop,
        ending: Ending = NOTHING_SAID,
    ) -> None:
        super().__init__(transport, protocol, loop)
        self._ending = ending
        self._input_taken = False

    @property
    def pidfd(self) -> int | None:
        """The child's pidfd until its exit was seen, then None. Duplicate it to keep it."""
        return self._transport.pidfd

    @property
    def pty(self) -> Terminal | None:
        """The child's terminal, with `pty=`: stdin, stdout and stderr are None as far as they are on it."""
        return self._transport.terminal

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child and its waited-for descendants used (getrusage(2)); None before the exit."""
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

    async def communicate(
        self,
        input: bytes | bytearray | memoryview | None = None,  # noqa: A002  # asyncio's name
        *,
        drain_timeout: SupportsFloat | None = None,
    ) -> tuple[bytes, bytes]:
        """Write input, close stdin, read stdout and stderr to their ends, and wait for the exit.

        As asyncio's since 3.12: stdin is closed even without input, and input is ignored where stdin is not
        PIPE. A child that does not want its input is no error. A thread reads and writes, not the loop. A
        terminal is not read.

        Args:
            input: What is written. A bytearray, or a memoryview of one, is copied before this returns
                to the loop: it may be changed afterwards.
            drain_timeout: Seconds to go on after the exit, if a descendant holds the pipes. They are closed
                then, and what was read is returned. None: until it lets them go, as asyncio.

        Cancellation: what has been read is kept, and input that the first call has taken is not written
        again, so a cancelled call can be repeated. Whoever reads a stream instead gets what was kept first.

        Returns:
            (stdout, stderr), None for a stream that is not PIPE (its type says bytes, as in typeshed).

        Raises:
            TypeError: input is not bytes, bytearray or memoryview, or drain_timeout no number. Nothing has
                been done then.
            ValueError: drain_timeout is not a number.
            RuntimeError: Another coroutine reads from stdout or stderr.
            OSError: The output could not be collected, for want of memory. What was read is kept.
        """
        data = None if input is None else immutable(input)
        patience = seconds(drain_timeout, "drain_timeout")
        readers = [reader for reader in (self.stdout, self.stderr) if isinstance(reader, OutputReader)]
        for reader in readers:
            reader.refuse_if_busy("communicate")
            if (exc := reader.exception()) is not None:
                raise exc
        output = await self._collected(data, readers, patience)
        stdout: Any = None if self.stdout is None else output[0]
        stderr: Any = None if self.stderr is None else output[1]
        return stdout, stderr

    async def _collected(
        self, data: Input | None, readers: list[OutputReader], patience: float | None
    ) -> tuple[bytes, bytes]:
        collection: Collection | None = None
        try:
            kept = await self._kept_of(readers)
            fds = [reader.fd for reader in readers]
            if self._feed(data):
                fds.append(0)
            self._log_each("read %s")
            collection = self._transport.collection(*fds)
            try:
                collection.start(kept.capture)
                await self._end_of(collection, patience)
            except BlockingIOError:  # no thread can be had (RLIMIT_NPROC)
                await self._read_here(readers, kept, patience)
            output = await kept.output()
        except asyncio.CancelledError:
            await self._end_cancelled()  # meanwhile the collector reads on: a child may have last words
            raise
        finally:
            if collection is not None:
                collection.stop()
        if collection.broken is not None:
            self._log("stdin got %r", collection.broken)
        self._log_each("close %s")
        for reader in readers:
            reader.kept = None
        kept.capture.free()
        return output

    async def _read_here(self, readers: list[OutputReader], kept: Kept, patience: float | None) -> None:
        """Read on the loop, as asyncio's communicate()."""
        if self.stdin is not None:
            self.stdin.close()
        reading = asyncio.gather(*(reader.read_here(kept) for reader in readers))
        try:
            if patience is not None:
                await self.wait()
                await asyncio.wait([reading], timeout=patience)
                for fd in range(3) if not reading.done() else ():
                    self._transport.end_pipe(fd)
            await reading
        finally:
            reading.cancel()
        await self.wait()

    async def _kept_of(self, readers: list[OutputReader]) -> Kept:
        """Return what the output is to be kept in: all of it that the readers have is there."""
        found = {reader.kept for reader in readers}
        kept = found.pop() if len(found) == 1 else None
        if kept is None or kept.spent:
            for reader in readers:
                await reader.settle()
            kept = self._transport.kept(shared=True)
        for reader in readers:
            reader.refuse_if_busy("communicate")  # once more: settle() may have waited
        for reader in readers:
            reader.hand_over(kept)
        return kept

    def _feed(self, data: Input | None) -> bool:
        """Write what there is room for and is not written yet. Returns whether there is more."""
        if self.stdin is None:
            return False
        if data is not None and not self._input_taken:
            self._input_taken = True
            self.stdin.write(data)
            self._log("feed stdin (%s bytes)", len(data))
        self._log("close stdin")
        pipe = self._transport.get_pipe_transport(0)
        assert isinstance(pipe, WritePipe)
        if pipe.get_write_buffer_size():
            return True
        pipe.close()
        return False

    async def _end_of(self, collection: Collection, patience: float | None) -> None:
        """Wait for the exit, and until the pipes have ended or the time after the exit is over."""
        if patience is None:
            await collection.wait()
            await self.wait()
            return
        await self.wait()
        timer = self._loop.call_later(patience, collection.cut)
        try:
            await collection.wait()
        finally:
            timer.cancel()

    def _log_each(self, what: str) -> None:
        if not self._loop.get_debug():
            return
        for name, stream in (("stdout", self.stdout), ("stderr", self.stderr)):
            if stream is not None:
                self._log(what, name)

    def _log(self, what: str, *args: object) -> None:
        """In debug mode, say what communicate() does in asyncio's words."""
        if self._loop.get_debug():
            logger.debug("<Process %d> communicate: " + what, self.pid, *args)

    def __repr__(self) -> str:
        """Name pid, program and status; the arguments may be secret."""
        code = self.returncode
        status = "running" if code is None else f"returncode={code}"
        if code is not None and not self.returncode_known:
            status += " (unknown)"
        elif code is not None and code < 0:
            status += f" ({signal_name(-code)})"
        return f"<{type(self).__name__} {self.pid} {self._transport.program!r} {status}>"

    async def __aenter__(self) -> Self:
        """Return the process."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child if it still runs, as `teardown` and `on_cancel` say; reap it, close its pipes.

        Where nothing was said at its creation, it is killed.
        """
        if exc_type is asyncio.CancelledError and self._ending.on_cancel == "detach":
            self._transport.let_live()
            return
        try:
            if exc_type is asyncio.CancelledError and self._ending.on_cancel is not None:
                await self._end_cancelled()
            elif exc_type is not GeneratorExit and self._ending.teardown is not None:
                await stop(self._child, self._ending.teardown)
        finally:
            self._transport.close()
            if self.pty is not None:
                self.pty.close()
            self._transport.let_go_of_tree()
        if exc_type is not GeneratorExit:  # the task was destroyed: no loop is there to wait in
            await self.wait()

    async def stop(
        self, *signals: int, patience: float | None = None, tree: Tree | EllipsisType | None = ...
    ) -> int:
        """End the child and its descendants: politely, then by force. Idempotent.

        Each signal is sent in turn, followed by SIGCONT, so that a stopped process hears it; after the last
        one's patience SIGKILL follows by itself. What is left out is as the child's `teardown` says, or else
        SIGTERM, 5 seconds, and the group that the child leads (its cgroup with `own_cgroup`). Works after the
        child's own exit too, for descendants that it has left behind.

        Args:
            signals: The signals to try. To kill at once, give SIGKILL.
            patience: Seconds that each of them is given.
            tree: "group" or "session": that which the child leads; a child that leads none is ended alone.
                "cgroup": its own cgroup. None: the child alone.

        Returns:
            The exit status, as wait() does, once the child was reaped and nobody in the tree is alive.
            Zombies are not alive. A descendant that may not be signalled (sudo) does not count.

        Raises:
            ValueError: A wrong value, or a tree that the child does not have.
            PermissionError: The child, or every member of its tree, has other credentials.

        Cancellation: SIGKILL to all at once; CancelledError propagates when the child was reaped.
        """
        default = self._ending.default
        teardown = Teardown(
            signals=signals or default.signals,
            patience=default.patience if patience is None else patience,
            tree=default.tree if isinstance(tree, EllipsisType) else tree,
        )
        await stop(self._child, teardown)
        return await self.wait()

    @property
    def _child(self) -> TransportChild:
        return TransportChild(self._transport, self.wait)

    async def _end_cancelled(self) -> None:
        """Do what on_cancel says. A child with other credentials is left: the cancellation is what counts."""
        if self._ending.on_cancel == "detach":
            self._transport.let_live()
        with contextlib.suppress(PermissionError):
            if self._ending.on_cancel == "stop":
                await stop(self._child, self._ending.default)
            elif self._ending.on_cancel == "kill":
                await kill(self._child, self._ending.default.tree)
