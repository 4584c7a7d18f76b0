"""lines() is interrupted: cancelled at any moment, destroyed, out of descriptors. Nobody is left, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES
from tests.support.window import rounds, until
from tests.support.witness import Witness


@pytest.mark.parametrize(
    "script", ["sleep 1000 & yes", "trap '' TERM; sleep 1000 & yes", "sleep 1000 & exit 0"]
)
async def test_cancelled_at_any_moment(script: str) -> None:
    """However far it has come, in the start, between lines, at the end: nobody of the group is left."""

    async def read(witness: Witness) -> None:
        options: dict[str, Any] = {"patience": 0, "drain_timeout": None, "pass_fds": [witness.fd]}
        async with aiovfork.lines("sh", "-c", script, **options) as output:
            entered.append(output)
            async for _ in output:
                await asyncio.sleep(0)

    for turns in [*range(30), *range(30, 300, 17)]:
        with Witness() as witness:
            entered: list[aiovfork.Lines[str]] = []
            task = asyncio.ensure_future(read(witness))
            await rounds(turns)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            if not entered:  # the start was undone: they were killed a moment ago
                witness.wait_gone()
            assert witness.nobody_lives()


async def test_cancelled_again_and_again() -> None:
    """A second cancellation does not wait for a program that ignores the signal: it kills at once."""
    with Witness() as witness:

        async def read() -> None:
            script = "trap '' TERM; echo on; sleep 1000 & while :; do wait; done"
            async with aiovfork.lines("sh", "-c", script, patience=1000, pass_fds=[witness.fd]) as output:
                async for _ in output:
                    started.set()

        started = asyncio.Event()
        task = asyncio.ensure_future(read())
        await started.wait()
        task.cancel()
        await rounds(10)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert witness.nobody_lives()


async def test_cancelled_after_the_time_is_over() -> None:
    """The program is being ended since its time is over, and ignores the signal; a cancellation kills at once."""
    said, say = os.pipe()
    os.set_blocking(said, False)
    with Witness() as witness, open(said, "rb", buffering=0) as pipe:
        script = "trap 'echo >&2' TERM; while :; do sleep 0.01; done"
        output = aiovfork.lines(
            "sh", "-c", script, timeout=1, patience=1000, pass_fds=[witness.fd], stderr=say
        )

        heard = asyncio.Event()

        async def block() -> None:
            async with output:
                os.close(say)
                await until(pipe.read)  # it has heard the signal
                heard.set()

        task = asyncio.ensure_future(block())
        before = asyncio.all_tasks() - {task}
        await heard.wait()
        await rounds(5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert witness.nobody_lives()
        assert asyncio.all_tasks() == before


async def test_cancelled_while_the_end_is_awaited() -> None:
    """A program that has closed its output and goes on is ended by a cancellation of the block's end."""
    with Witness() as witness:

        async def read() -> None:
            script = "exec >&- 2>&-; sleep 1000 & wait"
            async with aiovfork.lines("sh", "-c", script, pass_fds=[witness.fd]) as output:
                assert [line async for line in output] == []
                at_the_end.set()

        at_the_end = asyncio.Event()
        task = asyncio.ensure_future(read())
        await at_the_end.wait()
        await rounds(5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert witness.nobody_lives()


@pytest.mark.parametrize("loop", list(LOOP_FACTORIES))
def test_destroyed(loop: str) -> None:
    """A coroutine that is destroyed in the block waits for nothing; program and descendants are killed."""

    async def read(witness: Witness) -> None:
        async with aiovfork.lines("sh", "-c", "sleep 1000 & yes", pass_fds=[witness.fd]) as output:
            async for _ in output:
                await asyncio.sleep(0)
                if output.process.returncode is None and hold:
                    await hold[0]

    async def main(witness: Witness) -> None:
        hold.append(asyncio.get_running_loop().create_future())
        coroutine = read(witness)
        waiting = coroutine.send(None)
        while not hold[0]._asyncio_future_blocking and waiting is not hold[0]:
            if waiting is None:
                await asyncio.sleep(0)
            else:
                waiting._asyncio_future_blocking = False
                await asyncio.wait([waiting])
            waiting = coroutine.send(None)
        hold[0]._asyncio_future_blocking = False
        coroutine.close()
        witness.wait_gone()
        await until(lambda: aiovfork.stats().alive == 0)

    hold: list[asyncio.Future[None]] = []
    with Witness() as witness, asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
        runner.run(main(witness))


async def collect(output: aiovfork.Lines[Any], found: list[Any]) -> None:
    """Read all lines, and keep those that come before an exception."""
    async with output:
        async for line in output:
            found.append(line)  # noqa: PERF401  # a comprehension would lose them


async def test_killed_by_somebody() -> None:
    """A program that somebody kills has its lines until then, and is a failure."""
    found: list[str] = []
    with pytest.raises(aiovfork.ProcessFailed, match="SIGKILL") as info:
        await collect(aiovfork.lines("sh", "-c", "echo out; kill -9 $$"), found)
    assert found == ["out"]
    assert info.value.returncode == -signal.SIGKILL


async def test_a_stopped_program() -> None:
    """A program that is stopped hears the signal nevertheless."""
    with Witness() as witness:
        async with aiovfork.lines("sh", "-c", "echo on; kill -STOP $$", pass_fds=[witness.fd]) as output:
            assert await anext(output) == "on"
        assert witness.nobody_lives()
    assert output.returncode == -signal.SIGTERM


async def test_the_exit_comes_first() -> None:
    """A program that has ended before its lines are asked for has them all."""
    async with aiovfork.lines("sh", "-c", "seq 1000") as output:
        await output.process.wait()
        assert [int(line) async for line in output] == list(range(1, 1001))


async def test_anyios_cancellation() -> None:
    """A block that anyio cancels, in every round of the loop, is left with nobody behind."""
    anyio = pytest.importorskip("anyio")
    with Witness() as witness, contextlib.ExitStack() as stack:
        scope = stack.enter_context(anyio.CancelScope())
        async with aiovfork.lines("sh", "-c", "sleep 1000 & yes", pass_fds=[witness.fd]) as output:
            async for _ in output:
                scope.cancel()
                await asyncio.sleep(0)
    assert scope.cancelled_caught
