"""A process of the demo: an asyncio HTTP server with a large heap, which starts helpers while it answers.

One interpreter per backend. The loop's thread serves requests, starts helpers, collects their output and runs
the heartbeat; nothing else happens in this process while a scene runs. Outputs are kept and judged later.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import mmap
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from examples.demo import wire
from examples.demo.backends import BACKENDS, Backend
from examples.demo.helpers import Helper, Programs, bulk_helper, helpers

BEAT = 0.001  # seconds between two beats of the heartbeat
PATIENCE, BULK_PATIENCE = 15.0, 25.0  # seconds that one helper may take
_WALL = 0x40000000  # waitid(2): children of clone() with no exit signal, too


class Heap:
    """The server's data: private 4 KiB pages, each touched, as a process that grew for days has them."""

    def __init__(self, size: int) -> None:
        self._pages = max(1, size // mmap.PAGESIZE)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, self._pages * mmap.PAGESIZE, flags=flags)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(self._pages):
            self._memory[page * mmap.PAGESIZE] = 1

    def visit(self, number: int) -> bytes:
        """Return the record of that number, and count the visit in it."""
        offset = number * 7919 % self._pages * mmap.PAGESIZE
        self._memory[offset] = visits = self._memory[offset] % 255 + 1
        return b"record %d visit %d\n" % (number, visits)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer `GET /record/N` on one connection until the client closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                number = int(head.split(b" ", 2)[1].removeprefix(b"/record/"))
                body = self.visit(number)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the show is over
        except ValueError:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        finally:
            writer.close()


@dataclass(slots=True)
class Score:
    """What happened in one scene."""

    lags: list[float] = field(default_factory=list)  # seconds, one for each beat that was due
    started: int = 0
    ended: int = 0
    ended_in_time: int = 0
    seconds: float = 0.0
    loop_cpu: float = 0.0
    process_cpu: float = 0.0
    rss: int = 0
    complaints: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Scene:
    """One stretch of the show: a heartbeat, and `at_once` lanes that start `rate` helpers a second in all."""

    backend: Backend
    work: itertools.cycle[Helper]
    rate: float
    at_once: int
    score: Score = field(default_factory=Score)
    outputs: list[tuple[Helper, int | None, bytes | None]] = field(default_factory=list)
    running: bool = True
    _due: float = 0.0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _clocks: tuple[float, float, float] = (0, 0, 0)

    def start(self) -> None:
        """Set heartbeat and lanes going."""
        self._due = time.monotonic()
        self._clocks = read_clocks()
        self._tasks = [asyncio.create_task(self._lane()) for _ in range(self.at_once)]
        self._tasks.append(asyncio.create_task(self._heartbeat()))

    async def stop(self) -> Score:
        """End the measurement, wait for the helpers under way and judge everything that they wrote."""
        score = self.score
        score.seconds, score.loop_cpu, score.process_cpu = (
            now - then for now, then in zip(read_clocks(), self._clocks, strict=True)
        )
        score.ended_in_time = score.ended
        self.running = False
        await asyncio.gather(*self._tasks)
        score.rss = resident_bytes()
        score.complaints += filter(None, (helper.complaint(code, out) for helper, code, out in self.outputs))
        score.complaints += lost_children(score)
        return score

    async def one(self, helper: Helper) -> None:
        """Start one helper and keep what it wrote."""
        process = None
        try:
            async with asyncio.timeout(PATIENCE):
                process = await self.backend.spawn(*helper.argv)
                self.score.started += 1
                output, _ = await process.communicate()
            self.score.ended += 1
            self.outputs.append((helper, process.returncode, output))
        except TimeoutError:
            self.score.complaints.append(f"{helper.kind} {helper.file}: not ended after {PATIENCE:.0f} s")
            if process is not None:
                with suppress(ProcessLookupError):
                    process.kill()
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), PATIENCE)
        except OSError as error:
            self.score.complaints.append(f"{helper.kind} {helper.file}: not started: {error}")

    async def bulk(self, helper: Helper) -> tuple[float, float]:
        """Run a helper that writes much, keep what it wrote, and return when it began and ended."""
        begin = time.monotonic()
        self.score.started += 1
        try:
            async with asyncio.timeout(BULK_PATIENCE):
                code, output = await self.backend.collect(*helper.argv)
            self.score.ended += 1
            self.outputs.append((helper, code, output))
        except (OSError, TimeoutError) as error:
            self.score.complaints.append(f"{helper.kind} {helper.file}: {error!r}")
        return begin, time.monotonic()

    async def _lane(self) -> None:
        while self.running:
            if self.rate:
                # Behind the rate nothing is made up for: the lanes bound how many run at once.
                self._due = due = max(self._due + 1 / self.rate, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
            await self.one(next(self.work))

    async def _heartbeat(self) -> None:
        """Note how late each beat is, including those that were due while the loop stood still."""
        due = time.monotonic() + BEAT
        while self.running:
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            while due <= now:
                self.score.lags.append(round(now - due, 6))
                due += BEAT


def read_clocks() -> tuple[float, float, float]:
    """Return the time, and the CPU used by this thread (the loop's) and by this process."""
    return time.monotonic(), time.thread_time(), time.process_time()


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * mmap.PAGESIZE


def lost_children(score: Score) -> list[str]:
    """Complain of children that did not end, and of any that nobody reaped."""
    complaints = []
    if score.ended < score.started:
        complaints.append(
            f"{score.started - score.ended} of {score.started} children did not end by themselves"
        )
    try:
        left = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return complaints
    return [*complaints, f"child {left.si_pid} was not reaped" if left else "a child still runs, unattended"]


async def requests() -> asyncio.StreamReader:
    """Return the demo's requests as a stream of lines."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def obey(backend: Backend, programs: Programs, heap: Heap) -> None:
    """Serve, and play the scenes that the demo asks for."""
    server = await asyncio.start_server(heap.serve, "127.0.0.1", 0)
    wire.reply(port=server.sockets[0].getsockname()[1], rss=resident_bytes(), pid=os.getpid())
    work = helpers(programs)
    scene = Scene(backend, itertools.cycle(work), 0, 0)
    async for line in await requests():
        request: dict[str, Any] = wire.decode(line)
        match request["do"]:
            case "start":
                scene = Scene(backend, itertools.cycle(work), request["rate"], request["at_once"])
                scene.start()
                wire.reply(started=True)
            case "spawn":
                await scene.one(replace(work[0], program=request["program"]))
                wire.reply(ended=True)
            case "bulk":
                begin, end = await scene.bulk(bulk_helper(programs))
                wire.reply(begin=begin, end=end)
            case "stop":
                wire.reply(**asdict(await scene.stop()))
    server.close()


def main() -> None:
    """Run the server until the demo closes its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("heap", type=int)
    parser.add_argument("sha256sum")
    parser.add_argument("gzip")
    parser.add_argument("head")
    arguments = parser.parse_args()
    backend = BACKENDS[arguments.backend]
    heap = Heap(arguments.heap)
    programs = Programs(arguments.sha256sum, arguments.gzip, arguments.head)
    with asyncio.Runner(loop_factory=backend.loop_factory()) as runner:
        runner.run(obey(backend, programs, heap))


if __name__ == "__main__":
    main()
