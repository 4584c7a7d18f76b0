"""Cancellation: nothing is left behind, wherever a spawn stands. For one in the queue or in exec, see safety.

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
from tests.support.backends import PIPES
from tests.support.errors import stdlib_type
from tests.support.hold import held
from tests.support.window import until

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
        assert [stdlib_type(exc) for exc in info.value.exceptions] == [FileNotFoundError]
        assert not psutil.Process().children()
