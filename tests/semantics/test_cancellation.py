"""Cancellation: nothing is left behind, wherever a spawn stands. For one in the queue or in exec, see safety.

The fixture no_leaks looks for descriptors, children, zombies, threads and tasks after each of these.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib

import psutil
import pytest

import aiovfork
from aiovfork._ports import port_of
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


async def test_cancelled_when_the_child_runs() -> None:
    """Cancelled when the child runs, but before its awaiter goes on, a spawn kills it and closes its pipes."""
    spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))
    await asyncio.sleep(0)
    port = port_of(asyncio.get_running_loop())
    (transport,) = port._sinks.values()
    assert isinstance(transport, aiovfork.SubprocessTransport)
    while transport.get_pid() < 0:  # in one round of the loop: nobody else has a turn
        port._drain()
    child = psutil.Process(transport.get_pid())
    spawning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawning
    assert not child.is_running()


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


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> asyncio.Event:
    """Have the loop refuse to watch anything new (fs.epoll.max_user_watches); return what tells of it."""

    def refusing(*args: object) -> None:
        refused.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refused = asyncio.Event()
    monkeypatch.setattr(asyncio.get_running_loop(), name, refusing)
    return refused


@pytest.mark.parametrize("cancelled", [False, True], ids=["waited for", "cancelled"])
async def test_a_loop_that_cannot_watch_a_pipe(monkeypatch: pytest.MonkeyPatch, *, cancelled: bool) -> None:
    """A spawn that fails after exec comes out when its child is reaped; cancelled meanwhile, as a cancellation."""
    port_of(asyncio.get_running_loop())
    refused = refuse(monkeypatch, "add_reader")
    spawning = asyncio.ensure_future(aiovfork.subprocess_exec(asyncio.SubprocessProtocol, "sleep", "1000"))
    await refused.wait()
    if cancelled:
        spawning.cancel()
    await asyncio.wait([spawning])
    assert not psutil.Process().children()
    assert spawning.cancelled() == cancelled
    if not cancelled:
        assert isinstance(spawning.exception(), OSError)


async def test_a_loop_that_cannot_watch_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the streams of a child cannot be watched, reading them says it; the child is there to be ended."""
    port_of(asyncio.get_running_loop())
    refused = refuse(monkeypatch, "add_reader")
    async with await aiovfork.create_subprocess_exec("sleep", "1000", **PIPES) as process:
        await refused.wait()
        assert process.stdout is not None
        with pytest.raises(OSError, match="No space left"):
            await process.stdout.readline()


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
