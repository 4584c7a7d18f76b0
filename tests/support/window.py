"""Spawns that stand in the window or in the queue, as long as a test wants them there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiovfork
from tests.support.hold import Hold

T = TypeVar("T")

#: How many workers may be in the window, while none is stuck (design: max(4, 2 * processors)).
BOUND = max(4, 2 * os.sysconf("SC_NPROCESSORS_ONLN"))


async def rounds(number: int = 3) -> None:
    """Let the loop turn: what was ready is done."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is so that nothing announces. pytest's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0)


async def in_queue(
    hold: Hold, spawn: Callable[[], Awaitable[T]]
) -> tuple[asyncio.Task[T], list[asyncio.Task[Any]]]:
    """Fill the window with children that are held in exec, and put a spawn into the queue behind them.

    Returns:
        The task that spawns, and those of the held children. Until the loop turns for some time (the window
        grows when its workers are stuck), the spawn is in the queue.
    """
    held: list[asyncio.Task[Any]] = []
    while True:
        while aiovfork.stats().in_flight < BOUND:
            held.append(asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)))
            await asyncio.sleep(0)
        before = aiovfork.stats().queued
        task = asyncio.ensure_future(spawn())
        await asyncio.sleep(0)
        if aiovfork.stats().queued > before:
            return task, held
        # The machine is so slow that the first ones count as stuck by now: once more, beside those.
        await task_cancelled(task)
        held.append(asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)))
        await asyncio.sleep(0)


async def task_cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def reaped(*tasks: asyncio.Task[Any]) -> list[int]:
    """Wait for spawns and for their children's exits; return the codes."""
    return [await (await task).wait() for task in tasks]


def children_in_window() -> list[int]:
    """Return the pids of children that have not reached exec: they still have the name of their worker."""
    found: list[int] = []
    for tid in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{tid}/children") as children:
                pids = list(map(int, children.read().split()))
            for pid in pids:
                with open(f"/proc/{pid}/comm") as comm:
                    if comm.read().strip() == "aiovfork":
                        found.append(pid)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


async def child_in_window(hold: Hold) -> int:
    """Wait until a child is held in exec, and return its pid: that of the only one there is."""
    await hold.reached.wait()
    (pid,) = children_in_window()
    return pid
