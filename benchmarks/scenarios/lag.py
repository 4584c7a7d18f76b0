"""Lag: how late the loop does its other work while children are being started (L1)."""

import asyncio
import contextlib
import dataclasses
import gc
import random
import time
from collections.abc import AsyncIterator, Iterator

from benchmarks.lease import held_program
from benchmarks.scenarios.run import Clocks, Run
from benchmarks.ticks import ticks

_INTERVAL = 0.001
_INTERVAL_NS = 1_000_000
_SPAWNS_UNDER_WAY = 4
_now = time.perf_counter_ns


async def _heartbeat(late: list[int]) -> None:
    """Sleep for an interval, for ever; how late each awakening is goes to late."""
    while True:
        due = _now() + _INTERVAL_NS
        await asyncio.sleep(_INTERVAL)
        late.append(_now() - due)


async def _beat(between: list[int]) -> None:
    """Yield to the loop, for ever; the time of each turn of the loop goes to between."""
    last = _now()
    while True:
        await asyncio.sleep(0)
        now = _now()
        between.append(now - last)
        last = now


@contextlib.asynccontextmanager
async def _beside(task: "asyncio.Task[None]") -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def heartbeat(run: Run) -> None:
    """A heartbeat that sleeps for 1 ms.

    The stdlib's loop rounds a wait up to whole milliseconds, again after each interruption: this
    heartbeat is late whenever the loop has anything to do at all, with the spawner "nothing" too.
    """
    late: list[int] = []
    async with _beside(asyncio.create_task(_heartbeat(late))):
        await _idle_then_spawns(run, late)


async def tick(run: Run) -> None:
    """Ticks of the kernel, one a millisecond: the lag of a loop that answers requests."""
    late: list[int] = []
    with ticks(_INTERVAL_NS, late):
        await _idle_then_spawns(run, late)


async def _idle_then_spawns(run: Run, late: list[int]) -> None:
    """Record late first on the idle loop, then while per_second spawns a second are started."""
    await run.subject.spawn_and_wait()
    await asyncio.sleep(0.1)
    late.clear()
    await asyncio.sleep(run.settings.seconds)
    run.record("idle", late)
    late.clear()
    clocks = Clocks()
    await _start_steadily(run)
    run.values["rate"] = run.settings.count / clocks.wall
    run.record("lag", late)


async def _start_steadily(run: Run) -> None:
    """Start per_second children a second, whether the earlier ones have ended or not.

    Each at a random time of its slot: starts in step with the beat would all fall between two beats.
    """
    somewhere = random.Random(0)  # noqa: S311  # the same for everybody
    async with asyncio.TaskGroup() as group:
        clocks = Clocks()
        for slot in range(run.settings.count):
            delay = (slot + somewhere.random()) / run.settings.per_second - clocks.wall
            if delay > 0:
                await asyncio.sleep(delay)
            group.create_task(run.subject.spawn_and_wait())


async def beat(run: Run) -> None:
    """A sleep(0) beat, first on the idle loop, then with 4 spawns always under way."""
    between: list[int] = []
    await run.subject.spawn_and_wait()
    async with _beside(asyncio.create_task(_beat(between))):
        await asyncio.sleep(run.settings.seconds / 4)
        run.record("idle", between)
        between.clear()
        clocks = Clocks()
        spawned = 0

        async def spawn_on() -> None:
            nonlocal spawned
            while clocks.wall < run.settings.seconds:
                await run.subject.spawn_and_wait()
                spawned += 1

        await asyncio.gather(*[spawn_on() for _ in range(_SPAWNS_UNDER_WAY)])
        run.values["rate"] = spawned / clocks.wall
        run.record("lag", between)


async def burst(run: Run) -> None:
    """`count` spawns asked for in one turn of the loop: the callbacks until all have ended.

    The tasks exist beforehand and wait for one future, and recording begins with the callback after
    the one that sets it: the making of tasks is the measurement's own.
    """
    await run.subject.spawn_and_wait()
    start = asyncio.get_running_loop().create_future()

    async def one() -> None:
        await start
        await run.subject.spawn_and_wait()

    # How long a full collection takes is a matter of the application's heap: leave this one's alone.
    gc.collect()
    gc.freeze()
    pauses: list[int] = []
    run.times.recording = False
    tasks = [asyncio.create_task(one()) for _ in range(run.settings.count)]
    await asyncio.sleep(0)
    run.times.clear()
    with _gc_pauses(pauses):
        clocks = Clocks()
        run.times.recording = True
        start.set_result(None)
        await asyncio.wait(tasks)
        run.times.recording = False
        run.values["rate"] = run.settings.count / clocks.wall
    for task in tasks:
        task.result()
    run.record("callbacks", run.times.wall)
    run.record("callbacks' cpu", run.times.cpu)
    run.values["longest_gc_us"] = max(pauses, default=0) / 1000


@contextlib.contextmanager
def _gc_pauses(pauses: list[int]) -> Iterator[None]:
    """Record how long each garbage collection takes."""
    start = 0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal start
        if phase == "start":
            start = _now()
        else:
            pauses.append(_now() - start)

    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)


async def slow_lag(run: Run) -> None:
    """Ticks of 1 ms beside spawns whose exec takes `seconds`: who keeps answering?"""
    answers: list[int] = []
    kept: list[int] = []
    await run.subject.spawn_and_wait()
    with held_program(run.subject.command[0], run.settings.seconds) as held:
        slow_one = dataclasses.replace(run.subject, command=(held.path, *run.subject.command[1:]))
        with ticks(_INTERVAL_NS, answers):
            for _ in range(run.settings.count):
                held.hold()
                # What came due while this waited for the keeper is this scenario's own doing.
                await asyncio.sleep(_INTERVAL)
                answers.clear()
                await slow_one.spawn_and_wait()
                # Let the ticks be answered that came due in the meantime.
                await asyncio.sleep(_INTERVAL)
                kept += answers
    run.record("lag", kept)
