"""Capture: the output of children in memory (T3, C2, B1, B2, B3)."""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil

from benchmarks.scenarios.run import Clocks, Run
from benchmarks.spawners import take_turns
from benchmarks.ticks import ticks

_INTERVAL_NS = 1_000_000
_CLEAR_PEAK = "5"  # proc_pid_clear_refs(5)
_MB = 1 << 20


async def captured(run: Run) -> None:
    """Children with a small output, at_a_time at once: how many a second, the loop's CPU time for each."""

    async def one() -> None:
        if await run.subject.output() != b"captured\n":
            raise RuntimeError("not all of the output came")

    await one()
    clocks = Clocks()
    await take_turns(one, run.settings.count, run.settings.at_a_time)
    wall, cpu = clocks.wall, clocks.cpu
    run.values["rate"] = run.settings.count / wall
    run.values["cpu_us"] = cpu / run.settings.count * 1e6


async def bulk(run: Run) -> None:
    """size_mb of output of one child into bytes: how fast, and the loop's CPU time."""
    size = run.settings.size_mb * _MB
    await _move(run, size, lambda: _output(run, size))


async def through(run: Run) -> None:
    """size_mb into a child that gives them back: how fast, and the loop's CPU time."""
    size = run.settings.size_mb * _MB
    data = os.urandom(_MB) * run.settings.size_mb
    await _move(run, size, lambda: _through(run, data))


async def _output(run: Run, size: int) -> bytes:
    output = await run.subject.output("head", "-c", str(size), "/dev/zero")
    if type(output) is not bytes or len(output) != size:
        raise RuntimeError("not all of the output came")
    return output


async def _through(run: Run, data: bytes) -> bytes:
    output = await run.subject.output("cat", data=data)
    # To compare them would cost the loop's CPU time.
    if len(output) != len(data):
        raise RuntimeError("not all of the output came")
    return output


async def _move(run: Run, size: int, one: Callable[[], Awaitable[bytes]]) -> None:
    """Do it once, on a loop that has captured something before, and look at one thing.

    At the rate and the loop's CPU time; at the longest callback; or at the lag, with ticks. Each by itself,
    since the watching costs CPU time of the loop's. The output is kept until then: to give back so much
    memory is no matter of the capture.
    """
    await run.subject.output("head", "-c", str(_MB), "/dev/zero")
    gc.collect()
    if run.settings.view == "lag":
        late: list[int] = []
        with ticks(_INTERVAL_NS, late):
            await asyncio.sleep(run.settings.seconds)
            run.record("idle", late)
            late.clear()
            output = await one()
            run.record("lag", late)
        del output
        return
    await asyncio.sleep(0)  # so that what is measured has callbacks of its own
    run.times.clear()
    clocks = Clocks()
    output = await one()
    wall, cpu = clocks.wall, clocks.cpu
    await asyncio.sleep(0)
    if run.settings.view == "callbacks":
        run.record("callbacks", run.times.wall)
        run.record("callbacks' cpu", run.times.cpu)
    else:
        run.values["gbps"] = size / wall / 1e9
        run.values["cpu_ms"] = cpu * 1e3
    del output


async def captures(run: Run) -> None:
    """`count` children alive at once, which then all write size_mb: the peak of the RSS against the sum."""
    size = run.settings.size_mb * _MB
    command = ("sh", "-c", f"read _; exec head -c {size} /dev/zero")
    await run.subject.output("true")
    gc.collect()
    before = psutil.Process().memory_info().rss
    _clear_peak()
    async with _released() as (read_end, release):
        outputs = asyncio.gather(
            *(run.subject.output(*command, stdin=read_end) for _ in range(run.settings.count))
        )
        # The kernel can only be asked again.
        while len(psutil.Process().children()) < run.settings.count and not outputs.done():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        clocks = Clocks()
        release()
        sizes = [len(output) for output in await outputs]
        wall, cpu = clocks.wall, clocks.cpu
    if sizes != [size] * run.settings.count:
        raise RuntimeError("not all of the output came")
    total = sum(sizes)
    run.values["peak_ratio"] = (_peak() - before) / total
    run.values["gbps"] = total / wall / 1e9
    run.values["cpu_us"] = cpu / run.settings.count * 1e6
    run.values["count"] = run.settings.count


@contextlib.asynccontextmanager
async def _released() -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """A descriptor whose readers wait until release() is called."""
    read_end, write_end = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read_end)
        release = contextlib.ExitStack()
        release.callback(os.close, write_end)
        stack.push(release)
        yield read_end, release.close


def _clear_peak() -> None:
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")


def _peak() -> int:
    """The highest RSS of this process since it was cleared, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
