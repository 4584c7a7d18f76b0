"""run_many(): many programs, some at a time, and nothing left of them however the loop over them ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import psutil
import pytest

import aiovfork
from tests.support.speakers import Speakers
from tests.support.window import until


def children() -> list[psutil.Process]:
    """The children of this process, of which none is another test's."""
    return psutil.Process().children()


async def collected(*args: Any, **options: Any) -> list[Any]:
    """What an iteration yields."""
    return [done async for done in aiovfork.run_many(*args, **options)]


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_results_in_order(limit: int) -> None:
    """Results come in the order of the commands, each with its place, whatever takes longer."""
    commands = [("sh", "-c", f"sleep 0.0{(7 * n) % 5}; echo {n}") for n in range(12)]
    found = await collected(commands, limit=limit)
    assert [done.index for done in found] == list(range(12))
    assert [int(done.stdout) for done in found] == list(range(12))


async def test_results_as_they_are_ready(tmp_path: pathlib.Path) -> None:
    """With ordered=False the first result is that of the first program that ends."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    commands = [("cat", fifo), ("sh", "-c", f"echo x > '{fifo}'"), ("echo", "last")]
    async with contextlib.aclosing(
        aiovfork.run_many([commands[0], commands[2]], limit=2, ordered=False)
    ) as results:
        assert (await anext(results)).index == 1
        with open(fifo, "wb", buffering=0) as file:
            file.write(b"now")
        done = await anext(results)
        assert (done.index, done.stdout) == (0, b"now")


async def test_no_more_than_the_limit_run_at_a_time(tmp_path: pathlib.Path) -> None:
    """limit bounds the programs that run, and what waits to be asked for: a slow reader stops the starts."""
    taken = 0

    def commands() -> Iterator[tuple[str, ...]]:
        nonlocal taken
        while True:  # as many as one wants
            taken += 1
            yield ("true",)

    before = aiovfork.stats()
    async with contextlib.aclosing(aiovfork.run_many(commands(), limit=3)) as results:
        await anext(results)
        # One is out; three may wait, and one may run or be about to.
        await until(lambda: aiovfork.stats().exited - before.exited == 5)
        for _ in range(100):
            await asyncio.sleep(0)
        assert taken == 5
        assert aiovfork.stats().spawned - before.spawned == 5
        for _ in range(20):
            await anext(results)


async def test_keywords_of_all_and_of_one() -> None:
    """Keywords hold for all commands; a command that is a dict has its own in their place."""
    commands: list[Any] = [
        ["sh", "-c", "echo $X; exit 3"],
        {"args": ("sh", "-c", "echo $X; pwd; exit 4"), "env": {"X": "own"}, "cwd": "/"},
        {"args": ["cat"], "input": "wörd", "encoding": "utf-8"},
    ]
    found = await collected(commands, limit=2, check=False, env={"X": "common"})
    assert [done.returncode for done in found] == [3, 4, 0]
    assert [done.stdout for done in found] == [b"common\n", b"own\n/\n", "wörd"]


async def test_commands_that_come_one_after_the_other() -> None:
    """An asynchronous iterable may take its time: results do not wait for the commands to come."""
    go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def commands() -> AsyncIterator[tuple[str, ...]]:
        yield ("echo", "first")
        await go_on
        yield ("echo", "second")

    found = []
    async for done in aiovfork.run_many(commands(), limit=8):
        found.append(done.stdout)
        if not go_on.done():
            go_on.set_result(None)
    assert found == [b"first\n", b"second\n"]


async def test_no_commands() -> None:
    """Nothing to do is nothing done."""
    assert await collected([], limit=1) == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_first_failure_ends_the_others(ordered: bool) -> None:
    """With check=True a program that fails is raised, after the programs that run have been ended with their groups."""
    commands: list[Any] = [("sleep", "1000"), ("sh", "-c", "sleep 1000 & sleep 1000"), ("sh", "-c", "exit 3")]
    with pytest.raises(aiovfork.ProcessFailed) as info:
        await collected(commands, limit=3, ordered=ordered)
    assert (info.value.returncode, info.value.index) == (3, 2)
    assert not children()


async def test_exceptions_as_results() -> None:
    """With return_exceptions=True one command's failure, of whatever kind, leaves the others alone."""
    commands: list[Any] = [
        ("false",),
        ("/no/such/program",),
        {"args": ("sleep", "1000"), "timeout": 0.05},
        {"args": ("yes",), "max_output": 10},
        ("echo", "fine"),
    ]
    found = await collected(commands, limit=2, return_exceptions=True)
    assert [type(result).__name__ for result in found] == [
        "ProcessFailed",
        "SpawnFileNotFoundError",
        "ProcessTimeout",
        "OutputLimitExceeded",
        "Completed",
    ]
    assert [result.index for result in found] == list(range(5))


async def test_the_iterable_fails() -> None:
    """What the iterable raises comes out, and what runs is ended."""

    def commands() -> Iterator[tuple[str, ...]]:
        yield ("sleep", "1000")
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await collected(commands(), limit=2)
    assert not children()


async def test_left_early() -> None:
    """A loop that is left by break ends what runs, at once with aclosing(), else when nobody has the generator."""
    commands = [("true",), *[("sleep", "1000")] * 5]
    async with contextlib.aclosing(aiovfork.run_many(commands, limit=4)) as results:
        async for _ in results:
            break
    assert not children()
    async for _ in aiovfork.run_many(commands, limit=4):
        break
    gc.collect()
    await until(lambda: not children())
    # The generator's end is a task of the loop's.
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_cancelled() -> None:
    """A cancelled loop ends what runs; a second cancellation does not wait for the first one's patience."""
    stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.01; done")
    before = aiovfork.stats().capturing
    task = asyncio.ensure_future(collected([stubborn] * 3, limit=2, patience=1000))
    await until(lambda: aiovfork.stats().capturing - before == 2)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children()


@pytest.mark.parametrize(
    ("commands", "options", "refused"),
    [
        ("true", {}, TypeError),
        ({"args": ["true"]}, {}, TypeError),
        (3, {}, TypeError),
        ([], {"limit": 0}, ValueError),
        ([], {"limit": 1.5}, TypeError),
        ([], {"timeout": "1"}, TypeError),
        ([], {"spawn_timeout": -1}, ValueError),
        ([], {"input": "text"}, TypeError),
    ],
    ids=str,
)
async def test_wrong_values(commands: Any, options: dict[str, Any], refused: type[Exception]) -> None:
    """A wrong value is refused by the call."""
    with pytest.raises(refused):
        aiovfork.run_many(commands, **{"limit": 1, **options})


@pytest.mark.parametrize(
    "command", ["true", b"true", {"cwd": "/"}, {"args": "true"}, 3, {"args": ["true"], "no": 1}, []], ids=str
)
async def test_wrong_commands(command: Any) -> None:
    """What is no command is a TypeError, and ends what runs."""
    with pytest.raises(TypeError):
        await collected([("sleep", "1000"), command], limit=2)
    assert not children()


async def test_many() -> None:
    """A thousand commands leave nothing behind."""
    before = aiovfork.stats()
    found = await collected((("echo", str(n)) for n in range(300)), limit=16, encoding="ascii")
    assert [int(done.stdout) for done in found] == list(range(300))
    assert aiovfork.stats().spawned - before.spawned == 300


async def test_a_session_that_nobody_leads() -> None:
    """tree="session" needs start_new_session=True: refused at the call."""
    with pytest.raises(ValueError, match="start_new_session"):
        aiovfork.run_many([["true"]], limit=1, tree="session")
    (done,) = [
        d async for d in aiovfork.run_many([["true"]], limit=1, tree="session", start_new_session=True)
    ]
    assert done.returncode == 0


def _fails_at_once() -> Iterator[tuple[str, ...]]:
    raise LookupError("no commands")
    yield ("true",)


async def _fails_later() -> AsyncIterator[tuple[str, ...]]:
    before = aiovfork.stats().exited
    yield ("true",)
    await until(lambda: aiovfork.stats().exited > before)
    for _ in range(10):  # its result has been handed out
        await asyncio.sleep(0)
    raise LookupError("no more")


@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize(
    ("commands", "raised"),
    [
        (_fails_at_once, LookupError),
        (_fails_later, LookupError),
        (lambda: [3], TypeError),
        (lambda: [{"x": 1}], TypeError),
    ],
    ids=["at once", "later", "no command", "no args"],
)
async def test_the_iterable_fails_when_nothing_runs(
    commands: Any, raised: type[Exception], return_exceptions: bool
) -> None:
    """What the iterable raises, or what is no command, comes out too when no program runs at that time."""
    with pytest.raises(raised):
        await collected(commands(), limit=2, return_exceptions=return_exceptions)


@pytest.mark.parametrize("inside", [False, True], ids=["in the iteration", "in its body"])
async def test_a_scope_of_anyio(inside: bool) -> None:
    """A cancelled scope of anyio, which cancels again in every round of the loop, ends the programs.

    Politely, unless the iteration is closed in that scope: that is a second cancellation.
    """
    # It is ready once its descendant is, which SIGTERM ends too.
    polite = ("sh", "-c", "trap 'echo ending; exit 7' TERM; sh -c 'echo ready; exec sleep 1000' & wait")
    commands = [*[("true",)] * inside, *[polite] * 3]
    with Speakers() as speakers:
        with anyio.CancelScope() as scope:
            async with contextlib.aclosing(
                aiovfork.run_many(commands, limit=2, patience=1000, stdout=speakers.fd)
            ) as results:
                if inside:
                    await anext(results)
                cancelling = asyncio.ensure_future(_cancel_when_ready(speakers, scope))
                async for _ in _nothing() if inside else results:
                    pass
        assert scope.cancelled_caught
        await cancelling
        if not inside:
            speakers.seal()
            assert await speakers.lines(2) == ["ending"] * 2
        assert speakers.all_gone()
    assert not children()


async def _nothing() -> AsyncIterator[None]:
    await asyncio.get_running_loop().create_future()
    yield


async def _cancel_when_ready(speakers: Speakers, scope: anyio.CancelScope) -> None:
    assert await speakers.lines(2) == ["ready"] * 2
    await until(lambda: not aiovfork.stats().in_flight)  # its worker may not know yet
    scope.cancel()


async def test_a_task_that_is_destroyed() -> None:
    """A coroutine that is destroyed while it waits for a result kills what runs; no task is left."""
    stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.01; done")
    before = aiovfork.stats().capturing
    tasks = asyncio.all_tasks()
    coroutine = collected([stubborn] * 3, limit=2, patience=1000)
    coroutine.send(None)
    await until(lambda: aiovfork.stats().capturing - before == 2)
    coroutine.close()
    del coroutine
    gc.collect()
    await until(lambda: not children())
    await until(lambda: asyncio.all_tasks() == tasks)
