"""Cancellation, timeouts, close() and __del__: nothing is left behind, wherever a spawn stands.

The fixture no_leaks looks for descriptors, children, zombies, threads and tasks after each of these.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
from typing import Any

import psutil
import pytest

import aiovfork
from tests.support.hold import held
from tests.support.window import until

PIPES: dict[str, Any] = {"stdin": aiovfork.PIPE, "stdout": aiovfork.PIPE, "stderr": aiovfork.PIPE}

pytestmark = pytest.mark.usefixtures("engine_mode")


async def test_cancelled_before_it_began() -> None:
    """A task that is cancelled before its first step starts nothing."""
    before = aiovfork.stats()
    spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("true", **PIPES))
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert aiovfork.stats().spawned == before.spawned


@pytest.mark.parametrize("steps", range(1, 8))
async def test_cancelled_after_some_steps_of_the_loop(steps: int) -> None:
    """Cancelled at any iteration after its start, a spawn ends in CancelledError, or it was over by then."""
    spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))
    for _ in range(steps):
        await asyncio.sleep(0)
    if spawning.cancel():
        with pytest.raises(asyncio.CancelledError):
            await spawning
        assert not psutil.Process().children()
    else:
        async with await spawning:
            pass


async def test_cancelled_while_exec_hangs(tmp_path: pathlib.Path) -> None:
    """A child that hangs in exec is killed and reaped before CancelledError propagates."""
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **PIPES))
        await hold.reached.wait()
        (child,) = psutil.Process().children()
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning
        assert not child.is_running()
        async with await aiovfork.create_subprocess_exec("true") as process:
            assert await process.wait() == 0


async def test_cancelled_while_pipes_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawn whose child runs, but whose pipes are not all connected, kills the child and closes them."""
    loop = asyncio.get_running_loop()
    connect = loop.connect_read_pipe
    running: list[psutil.Process] = []

    async def cancelling(*args: Any) -> Any:
        running.extend(psutil.Process().children())
        spawning.cancel()
        return await connect(*args)

    monkeypatch.setattr(loop, "connect_read_pipe", cancelling)
    spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert running
    assert not running[0].is_running()


async def test_cancelled_twice(tmp_path: pathlib.Path) -> None:
    """A second cancellation while the first is being honoured does not cut the clean-up short."""
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **PIPES))
        await hold.reached.wait()
        spawning.cancel()
        await asyncio.sleep(0)
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning


async def test_cancelled_in_every_round_of_the_loop() -> None:
    """A spawn that is cancelled again and again, as anyio does it, ends when its child has been reaped."""
    for _ in range(20):
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))
        await until(lambda: aiovfork.stats().in_flight or aiovfork.stats().alive)
        while not spawning.done():
            spawning.cancel()
            await asyncio.sleep(0)
        assert spawning.cancelled()
        assert not psutil.Process().children()


@pytest.mark.parametrize("cancelled", [False, True], ids=["waited for", "cancelled"])
async def test_a_loop_that_cannot_connect_a_pipe(monkeypatch: pytest.MonkeyPatch, *, cancelled: bool) -> None:
    """A spawn that fails after exec comes out when its child is reaped; cancelled meanwhile, as a cancellation."""

    async def refuse(*args: Any) -> None:
        transport, _ = await connect(*args)
        transport.close()
        refused.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # fs.epoll.max_user_watches

    connect = asyncio.get_running_loop().connect_write_pipe
    refused = asyncio.Event()
    monkeypatch.setattr(asyncio.get_running_loop(), "connect_write_pipe", refuse)
    spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", stdin=aiovfork.PIPE))
    await refused.wait()
    if cancelled:
        spawning.cancel()
    await asyncio.wait([spawning])
    assert not psutil.Process().children()
    assert spawning.cancelled() == cancelled
    if not cancelled:
        assert isinstance(spawning.exception(), OSError)


async def test_wait_for_and_timeout_scopes(tmp_path: pathlib.Path) -> None:
    """asyncio.timeout() and asyncio.wait_for() around a spawn become TimeoutError, with nothing left."""
    async with held(tmp_path) as hold:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await aiovfork.create_subprocess_exec(hold.path, **PIPES)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aiovfork.create_subprocess_exec(hold.path, **PIPES), 0.02)
        assert not psutil.Process().children()


async def test_a_task_group_ends_its_spawns(tmp_path: pathlib.Path) -> None:
    """One failing spawn of a TaskGroup cancels the others, the hung ones included."""
    async with held(tmp_path) as hold:

        async def fail() -> None:
            await hold.reached.wait()
            await aiovfork.create_subprocess_exec("/no/such/program")

        with pytest.raises(ExceptionGroup) as info:  # noqa: PT012  # the group is the statement
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(aiovfork.create_subprocess_exec(hold.path, **PIPES))
                group.create_task(fail())
        assert [type(exc) for exc in info.value.exceptions] == [FileNotFoundError]
        assert not psutil.Process().children()


async def test_spawn_timeout_while_exec_hangs(tmp_path: pathlib.Path) -> None:
    """spawn_timeout bounds the time to exec: TimeoutError, the child killed and reaped, the step named."""
    async with held(tmp_path) as hold:
        with pytest.raises(TimeoutError) as info:
            await aiovfork.create_subprocess_exec(hold.path, **PIPES, spawn_timeout=0.02)
        assert info.value.step == "exec"  # type: ignore[attr-defined]
        assert info.value.__notes__
        assert not psutil.Process().children()


async def test_spawn_timeout_is_about_exec_only() -> None:
    """A child that runs is not bound by spawn_timeout."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES, spawn_timeout=30) as process:
        assert process.returncode is None
        assert await process.communicate(b"late") == (b"late", b"")


async def test_spawn_timeout_in_the_queue(tmp_path: pathlib.Path) -> None:
    """spawn_timeout counts from the call, also for a spawn that waits for its turn."""
    async with held(tmp_path) as hold:
        spawns = [aiovfork.create_subprocess_exec(hold.path, spawn_timeout=0.05) for _ in range(40)]
        results = await asyncio.gather(*spawns, return_exceptions=True)
        assert {type(result) for result in results} == {TimeoutError}
        assert not psutil.Process().children()
