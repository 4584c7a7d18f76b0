"""Stall: how long a spawn occupies the loop's thread (S1, S2, S3)."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable

from benchmarks.callbacks import timed_steps
from benchmarks.lease import held_program
from benchmarks.scenarios.run import Clocks, Run
from benchmarks.spawners import finish

_WARM_UP = 20
_WARM_UP_SECONDS = 2.0
# However slow a spawn is, so many are looked at before the time's budget counts.
_FEWEST = 5


def _nothing() -> None:
    pass


async def _sample(
    run: Run, one: Callable[[], Awaitable[None]], count: int, prepare: Callable[[], None] = _nothing
) -> None:
    """One spawn after the other: the sum, and the longest, of the callbacks that each of them caused."""
    sums: list[int] = []
    longest: list[int] = []
    clocks = Clocks()
    cpu = 0.0
    for _ in range(count):
        prepare()
        # From a callback that began after the preparation.
        await asyncio.sleep(0)
        cpu_start = time.thread_time()
        run.times.clear()
        await one()
        await asyncio.sleep(0)
        cpu += time.thread_time() - cpu_start
        sums.append(sum(run.times.wall))
        longest.append(max(run.times.wall))
        if clocks.wall > run.settings.budget and len(sums) >= _FEWEST:
            break
    run.record("sum", sums)
    run.record("longest", longest)
    run.values["samples"] = len(sums)
    run.values["cpu_us"] = cpu / len(sums) * 1e6


async def _warm_up(one: Callable[[], Awaitable[None]]) -> None:
    clocks = Clocks()
    for _ in range(_WARM_UP):
        await one()
        if clocks.wall > _WARM_UP_SECONDS:
            break


async def stall(run: Run) -> None:
    """One spawn at a time: all callbacks of the loop from the call to the end of the wait."""
    await _warm_up(run.subject.spawn_and_wait)
    await _sample(run, run.subject.spawn_and_wait, run.settings.count)


async def direct(run: Run) -> None:
    """One spawn at a time: the call up to its first suspension, and the readers that it caused.

    The tighter view of the same: without the steps of tasks and futures in between, which are the
    loop's. Only the callbacks of add_reader are in the run's times.
    """
    submits: list[int] = []
    totals: list[int] = []
    await _warm_up(run.subject.spawn_and_wait)
    clocks = Clocks()
    while len(totals) < run.settings.count:
        steps: list[int] = []
        run.times.clear()
        await finish(await timed_steps(run.subject.start(), steps))
        submits.append(steps[0])
        totals.append(steps[0] + sum(run.times.wall))
        if clocks.wall > run.settings.budget and len(totals) >= _FEWEST:
            break
    run.record("submit", submits)
    run.record("submit and drain", totals)
    run.values["samples"] = len(totals)


async def slow(run: Run) -> None:
    """As stall, with an exec that takes `seconds`."""
    with held_program(run.subject.command[0], run.settings.seconds) as held:
        slow_one = dataclasses.replace(run.subject, command=(held.path, *run.subject.command[1:]))
        await _warm_up(run.subject.spawn_and_wait)
        await _sample(run, slow_one.spawn_and_wait, run.settings.count, held.hold)


async def hung(run: Run) -> None:
    """As stall, beside a spawn whose exec does not return; that one is cancelled at the end.

    Where it stops the loop it would do so for ever: it is let go after `seconds`, and how long it took
    until the loop took part in life again is the result.
    """
    with held_program(run.subject.command[0], run.settings.seconds) as held:
        hung_one = dataclasses.replace(run.subject, command=(held.path, *run.subject.command[1:]))
        await _warm_up(run.subject.spawn_and_wait)
        held.hold()
        clocks = Clocks()
        task = asyncio.create_task(hung_one.start())
        await held.reached()
        run.values["stopped_s"] = clocks.wall
        await _sample(run, run.subject.spawn_and_wait, run.settings.count)
        run.values["still_hung"] = not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await finish(await task)
