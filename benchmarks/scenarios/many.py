"""Many: thousands of children alive at once (M1)."""

import asyncio
import dataclasses
import gc
import os
import resource
import subprocess
import tracemalloc
from typing import Any

import psutil

from benchmarks.conditions import raise_fd_limit
from benchmarks.scenarios.run import Clocks, Run
from benchmarks.spawners import Child

# What a child like cat costs the machine, page tables and kernel stack included, with room to spare.
_CHILD_BYTES = 1 << 20
# Processes and descriptors that others may need.
_SPARE = 1024


def _possible(count: int) -> int:
    """At most count, fewer where memory, descriptors or processes do not suffice."""
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        pids = int(file.read())
    limits = [
        count,
        raise_fd_limit() - _SPARE,
        pids // 2,
        int(psutil.virtual_memory().available * 0.8) // _CHILD_BYTES,
    ]
    if processes != resource.RLIM_INFINITY:
        limits.append(processes - _SPARE)
    return max(min(limits), 1)


async def _warm_up(run: Run) -> None:
    await dataclasses.replace(run.subject, options={"stdin": subprocess.DEVNULL}).spawn_and_wait()


async def _start(run: Run, count: int, **options: Any) -> list[Child]:
    """Start count children, at_a_time at once; all are alive when it returns."""
    subject = dataclasses.replace(run.subject, options={**run.subject.options, **options})
    children: list[Child] = []
    left = count

    async def take_turns() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            children.append(await subject.start())

    await asyncio.gather(*[take_turns() for _ in range(run.settings.at_a_time)])
    return children


async def _end(children: list[Child], write_end: int) -> Clocks:
    """Let all children read the end of their input, and wait for each."""
    waits = [asyncio.ensure_future(child.wait()) for child in children]
    await asyncio.sleep(0)
    clocks = Clocks()
    os.close(write_end)
    codes = await asyncio.gather(*waits)
    if any(codes):
        raise RuntimeError(f"{sum(map(bool, codes))} of {len(codes)} children did not end well")
    return clocks


async def many(run: Run) -> None:
    """Children that read from one pipe: the parent's memory and threads for each, and the wait for all."""
    count = _possible(run.settings.count)
    await _warm_up(run)
    me = psutil.Process()
    gc.collect()
    memory, threads = me.memory_info().rss, me.num_threads()
    read_end, write_end = os.pipe()
    clocks = Clocks()
    children = await _start(run, count, stdin=read_end)
    run.values["start_s"] = clocks.wall
    gc.collect()
    run.values["rss_bytes"] = (me.memory_info().rss - memory) / count
    run.values["threads"] = me.num_threads() - threads
    os.close(read_end)
    clocks = await _end(children, write_end)
    run.values["wait_us"] = clocks.wall / count * 1e6
    run.values["wait_cpu_us"] = clocks.cpu / count * 1e6
    run.values["count"] = count


async def objects(run: Run) -> None:
    """As many, but counts what Python's allocators hold for each child: Process and all it refers to."""
    count = _possible(run.settings.count)
    await _warm_up(run)
    read_end, write_end = os.pipe()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    children = await _start(run, count, stdin=read_end)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    run.values["python_bytes"] = (after - before) / count
    os.close(read_end)
    await _end(children, write_end)
    run.values["count"] = count
