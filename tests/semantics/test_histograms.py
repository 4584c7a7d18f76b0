"""The histograms of stats(): they say of the times what each child's spawn_info says."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import pathlib
import time

import pytest

import aiovfork
from tests.support.hold import held

BOUNDS_NS: list[float] = [*(2**power for power in range(10, 37)), math.inf]
BOUNDS = [bound / 1e9 for bound in BOUNDS_NS]


def added(before: aiovfork.Histogram, after: aiovfork.Histogram) -> aiovfork.Histogram:
    """What was counted between two moments."""
    buckets = tuple(
        (bound, count - old) for (bound, count), (_, old) in zip(after.buckets, before.buckets, strict=True)
    )
    return aiovfork.Histogram(after.count - before.count, after.sum - before.sum, buckets)


def cumulative(microseconds: list[float]) -> list[tuple[float, int]]:
    """How many of the times are at most as long as each bound."""
    times = [round(us * 1e3) for us in microseconds]
    return [(bound / 1e9, sum(ns <= bound for ns in times)) for bound in BOUNDS_NS]


async def test_histograms_agree_with_spawn_info(tmp_path: pathlib.Path) -> None:
    """Each child that reached exec is counted once, in the buckets of the times in its spawn_info."""
    before = aiovfork.stats()
    infos = []
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        reached = time.perf_counter()
        while time.perf_counter() < reached + 0.02:  # at least: one exec is far slower than the others
            await asyncio.sleep(0)
        hold.release()
        processes = [await spawning]
    # More than the window takes: some wait in the queue.
    processes += await asyncio.gather(*(aiovfork.create_subprocess_exec("true") for _ in range(40)))
    with pytest.raises(FileNotFoundError):
        await aiovfork.create_subprocess_exec("/no/such/program")
    for process in processes:
        infos.append(process.spawn_info)
        await process.wait()
    after = aiovfork.stats()
    for name in ("queue", "exec"):
        times = [getattr(info, f"{name}_us") for info in infos]
        histogram = added(getattr(before, f"{name}_time"), getattr(after, f"{name}_time"))
        assert histogram.count == len(infos) == after.spawned - before.spawned
        assert histogram.sum == pytest.approx(sum(times) / 1e6)
        assert list(histogram.buckets) == cumulative(times)
        times.sort()
        for q in (0, 0.5, 0.9, 1):
            true = times[max(math.ceil(q * len(times)) - 1, 0)] / 1e6
            assert true / 2 < histogram.quantile(q) < true * 2


async def test_a_run_is_counted_once() -> None:
    """The child of a run() is counted with the times in its result."""
    before = aiovfork.stats()
    infos = [(await aiovfork.run("echo", "said")).spawn_info for _ in range(3)]
    after = aiovfork.stats()
    for name in ("queue", "exec"):
        histogram = added(getattr(before, f"{name}_time"), getattr(after, f"{name}_time"))
        assert list(histogram.buckets) == cumulative([getattr(info, f"{name}_us") for info in infos])
    assert after.spawned - before.spawned == after.exited - before.exited == 3
    assert after.captures - before.captures == 3
    assert after.bytes_read - before.bytes_read == 3 * len("said\n")


def test_quantile() -> None:
    """A quantile is interpolated in its bucket; nan without times; nothing but 0 to 1 is accepted."""
    empty = tuple((bound, 0) for bound in BOUNDS)
    assert math.isnan(aiovfork.Histogram(0, 0.0, empty).quantile(0.5))
    one_bucket = tuple((bound, 8 if bound >= BOUNDS[3] else 0) for bound in BOUNDS)
    histogram = aiovfork.Histogram(8, 0.0, one_bucket)
    assert histogram.quantile(1) == BOUNDS[3]
    assert histogram.quantile(0.5) == pytest.approx((BOUNDS[2] + BOUNDS[3]) / 2)
    too_long = tuple((bound, 1 if bound == math.inf else 0) for bound in BOUNDS)
    assert aiovfork.Histogram(1, 100.0, too_long).quantile(0.5) == BOUNDS[-2]
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="q must be from 0 to 1"):
            histogram.quantile(wrong)


def test_histograms_are_values() -> None:
    """A histogram cannot be changed, and two of the same moment are equal."""
    stats = aiovfork.stats()
    assert stats == aiovfork.stats()
    assert len(stats.exec_time.buckets) == len(BOUNDS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.exec_time.count = 0  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_at_zero() -> None:
    """In the child of a fork() nothing has been timed."""
    pid = os.fork()
    if pid == 0:
        stats = aiovfork.stats()
        os._exit(stats.exec_time.count + stats.queue_time.count + stats.spawned)
    assert os.waitpid(pid, 0)[1] == 0
