"""P10: cancelling leaks nothing and orphans nobody, whatever state the spawn is in.

That nothing is left, no child, descriptor or thread, is what the no_leaks fixture looks at after each test.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pathlib
import shutil
import signal
import warnings
from typing import Any

import psutil
import pytest

import aiovfork
from aiovfork import PIPE
from tests.support.backends import LOOP_FACTORIES, PIPES
from tests.support.hold import Hold, held
from tests.support.isolated import isolated
from tests.support.window import (
    BOUND,
    child_in_window,
    children_in_window,
    in_queue,
    reaped,
    rounds,
    task_cancelled,
    until,
)


@pytest.mark.parametrize("stdio", [{}, PIPES], ids=["inherited", "pipes"])
async def test_a_queued_spawn_is_cancelled(tmp_path: pathlib.Path, stdio: dict[str, Any]) -> None:
    """P10. Cancelled in the queue: it never starts."""
    started = aiovfork.stats().spawned
    async with held(tmp_path) as hold:
        task, others = await in_queue(hold, lambda: aiovfork.create_subprocess_exec("true", **stdio))
        await task_cancelled(task)
        hold.release()
        assert set(await reaped(*others)) == {0}
    assert aiovfork.stats().spawned == started + len(others)


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize("stdio", [{}, PIPES], ids=["inherited", "pipes"])
async def test_a_spawn_in_the_window_is_cancelled(tmp_path: pathlib.Path, stdio: dict[str, Any]) -> None:
    """P10. Cancelled in the window: the child is dead and reaped before CancelledError comes out."""
    async with held(tmp_path) as hold:
        task = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **stdio))
        pid = await child_in_window(hold)
        await task_cancelled(task)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert aiovfork.stats().in_flight == 0


@pytest.mark.usefixtures("engine_mode")
async def test_a_stopped_child_in_the_window_is_cancelled(tmp_path: pathlib.Path) -> None:
    """P7, P10. A child that somebody stopped in the window does not block the loop, and can be cancelled."""
    async with held(tmp_path) as hold:
        task = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        pid = await child_in_window(hold)
        os.kill(pid, signal.SIGSTOP)
        assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
        await task_cancelled(task)


@pytest.mark.parametrize("stdio", [{}, {"stdout": PIPE}, PIPES], ids=["inherited", "one pipe", "pipes"])
async def test_a_spawn_is_cancelled_at_any_moment(stdio: dict[str, Any]) -> None:
    """P10. However far a spawn has come when it is cancelled, nothing is left of it, or it is a living process."""
    ends = {"cancelled": 0, "spawned": 0}
    for turns in [*range(40), *range(40, 400, 9)]:
        task = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **stdio))
        await rounds(turns)
        task.cancel()
        try:
            process = await task
        except asyncio.CancelledError:
            ends["cancelled"] += 1
        else:
            ends["spawned"] += 1
            async with process:
                assert process.returncode is None
    assert ends["cancelled"]


async def test_cancelled_while_the_pipes_are_connected() -> None:
    """P10. Cancelled between the start of the child and its pipes: the child is killed and reaped."""
    loop = asyncio.get_running_loop()
    for at in range(12):
        task = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))
        before = aiovfork.stats().spawned
        await until(lambda before=before: aiovfork.stats().spawned > before)  # type: ignore[misc]
        # The transport goes on from here, callback by callback.
        for _ in range(at):
            loop.call_soon(lambda: None)
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            async with await task:
                pass


async def test_cancelled_twice(tmp_path: pathlib.Path) -> None:
    """P10. A second cancellation while the first one waits for the child's end leaves nothing either."""
    async with held(tmp_path) as hold:
        task = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **PIPES))
        await child_in_window(hold)
        task.cancel()
        await asyncio.sleep(0)
        await task_cancelled(task)
        await until(lambda: aiovfork.stats().in_flight == 0)
    await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true")))


@pytest.mark.usefixtures("engine_mode")
async def test_a_timeout_around_a_spawn(tmp_path: pathlib.Path) -> None:
    """P10. asyncio.timeout() and wait_for() around a hung exec raise TimeoutError after the child is reaped."""
    async with held(tmp_path) as hold:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await aiovfork.create_subprocess_exec(hold.path, **PIPES)
        assert not psutil.Process().children()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aiovfork.create_subprocess_exec(hold.path, **PIPES), 0.02)
        assert not psutil.Process().children()


@pytest.mark.usefixtures("engine_mode")
async def test_spawn_timeout_in_the_window(tmp_path: pathlib.Path) -> None:
    """P10. spawn_timeout= kills a child that hangs in exec; the exception names the step that it hung at."""
    seconds = 0.02
    async with held(tmp_path) as hold:
        while True:
            with pytest.raises(TimeoutError) as info:
                await aiovfork.create_subprocess_exec(hold.path, **PIPES, spawn_timeout=seconds)
            assert not psutil.Process().children()
            await rounds(10)  # the loop tells what signals have come
            if hold.reached.is_set():
                break
            seconds *= 2  # this machine is busy: the child was killed before it came to exec
    assert (info.value.errno, info.value.step) == (errno.ETIMEDOUT, "exec")  # type: ignore[attr-defined]
    assert info.value.__notes__


async def test_spawn_timeout_in_the_queue(tmp_path: pathlib.Path) -> None:
    """P10. spawn_timeout= counts in the queue too, and says so."""
    async with held(tmp_path) as hold:
        task, others = await in_queue(
            hold, lambda: aiovfork.create_subprocess_exec("true", spawn_timeout=1e-9)
        )
        with pytest.raises(TimeoutError) as info:
            await task
        hold.release()
        await reaped(*others)
    assert info.value.step == "none"  # type: ignore[attr-defined]


async def test_spawn_timeout_that_is_not_reached() -> None:
    """A deadline that the spawn meets is none of the running child's, and leaves no timer behind."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES, spawn_timeout=1000) as process:
        assert await process.communicate(b"late") == (b"late", b"")


def _close_in_the_middle(loop_name: str, program: str) -> dict[str, Any]:
    """Close a loop while spawns are in the window and in the queue, then look for writes to what comes after."""
    hold = Hold(program)

    async def spawn() -> list[asyncio.Task[Any]]:
        spawns = [aiovfork.create_subprocess_exec(program, **PIPES) for _ in range(BOUND + 4)]
        tasks = list(map(asyncio.ensure_future, spawns))
        await until(lambda: len(children_in_window()) >= BOUND)
        return tasks

    loop = LOOP_FACTORIES[loop_name]()
    loop.run_until_complete(spawn())
    loop.set_exception_handler(lambda loop, context: None)  # a pending task is destroyed: that is the case
    loop.close()
    del loop
    gc.collect()
    # If a worker wrote to the port's eventfd, which is closed by now, one of these would get it.
    strangers = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(100)]
    while (
        aiovfork.stats().in_flight
    ):  # nothing is released: the workers come back, since their children are killed
        pass
    touched = []
    for fd in strangers:
        with contextlib.suppress(BlockingIOError):
            touched.append((fd, os.eventfd_read(fd)))
        os.close(fd)
    hold.release()

    async def again() -> int:
        return await (await aiovfork.create_subprocess_exec("true")).wait()

    stats = aiovfork.stats()
    return {"touched": touched, "queued": stats.queued, "alive": stats.alive, "again": asyncio.run(again())}


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_loop_closed_in_the_middle_of_spawns(loop: str, tmp_path: pathlib.Path) -> None:
    """P10. Requests vanish, children are killed and reaped, and no worker writes to a descriptor of somebody else."""
    program = shutil.copy("/bin/true", tmp_path)
    found = isolated(_close_in_the_middle, loop, str(program))
    assert found == {"touched": [], "queued": 0, "alive": 0, "again": 0}


def _forget_a_child(loop_name: str) -> list[int]:
    async def spawn() -> int:
        return (await aiovfork.create_subprocess_exec("sleep", "1000", **PIPES)).pid

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
            pid = runner.run(spawn())
        del runner
        gc.collect()
    messages = [str(warning.message) for warning in caught]
    assert any(f"pid={pid}" in message for message in messages), messages
    return []


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_child_that_outlives_its_loop_is_nobodys_orphan(loop: str) -> None:
    """P10. Where a loop is closed and forgotten with a child alive, the child is killed and reaped, with a ResourceWarning."""
    assert isolated(_forget_a_child, loop) == []
