"""close(), __del__, `async with` and loops that end: what happens to a child that nobody wants any more.

The fixture no_leaks looks for descriptors, children, zombies, threads and tasks after each of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import sys
import warnings
import weakref
from typing import Any

import psutil
import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES, PIPES, PLAIN, Spawner, compare, in_thread
from tests.support.finalizers import quiet_finalizers
from tests.support.hold import held
from tests.support.protocols import Recorder

pytestmark = pytest.mark.usefixtures("engine_mode")


def test_close_kills_a_running_child() -> None:
    """transport.close() kills the child; the exit is still reported, and the pipes end."""

    async def body(spawn: Spawner) -> tuple[list[str], int | None, bool]:
        transport, protocol = await spawn.protocol_exec(Recorder, "cat")
        transport.close()
        closing = transport.is_closing()
        transport.close()
        await protocol.wait_for("lost")
        assert protocol.calls[0] == "made"
        assert protocol.calls[-1] == "lost"
        return sorted(protocol.calls), transport.get_returncode(), closing

    calls = ["exited", "lost", "made", "pipe lost 0", "pipe lost 1", "pipe lost 2"]
    assert compare(body) == (calls, -9, True)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="close() of asyncio on 3.11 polls, and may lose the status"
)
def test_close_of_a_process_through_its_transport() -> None:
    """process._transport.close() kills, and wait() tells."""

    async def body(spawn: Spawner) -> int:
        process = await spawn.exec("sleep", "1000", **PIPES)
        process._transport.close()  # type: ignore[attr-defined]
        return await process.wait()

    assert compare(body) == -9


def test_close_after_the_end_does_nothing() -> None:
    """transport.close() of an ended child is harmless."""

    async def body(spawn: Spawner) -> tuple[int, int | None]:
        process = await spawn.exec("sh", "-c", "exit 3")
        returncode = await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
        return returncode, process.returncode

    assert compare(body) == (3, 3)


def test_a_process_that_nobody_keeps_runs_on() -> None:
    """Dropping a Process while its loop lives does nothing to the child: it runs on and is reaped."""

    async def body(spawn: Spawner) -> bool:
        child_end, parent_end = os.pipe()
        process = await spawn.exec("sh", "-c", "read line; exit 0", stdin=child_end)
        os.close(child_end)
        pid = process.pid
        transport = weakref.ref(process._transport)  # type: ignore[attr-defined]
        spawn.forget()
        del process
        gc.collect()
        running: bool = psutil.pid_exists(pid)
        os.close(parent_end)
        while transport() is not None:  # until the loop, which holds it, has seen the exit
            await asyncio.sleep(0)
            gc.collect()
        assert not psutil.pid_exists(pid)
        return running

    assert compare(body)


@pytest.mark.parametrize("factory", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("stdio", [{}, PIPES], ids=["inherited", "pipes"])
def test_a_process_that_outlives_its_loop(factory: Any, stdio: dict[str, Any]) -> None:
    """A process dropped after its loop was closed is killed; __del__ does not touch the closed loop.

    Loops into which aiovfork is plugged do it when they close, see test_plugging_close.py.
    """
    with quiet_finalizers() as caught:
        with asyncio.Runner(loop_factory=factory) as runner:
            process = runner.run(aiovfork.create_subprocess_exec("sleep", "1000", **stdio))
        child = psutil.Process(process.pid)
        assert child.is_running()
        del process, runner
    assert any("SubprocessTransport" in str(warning.message) for warning in caught)
    child.wait(60)


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_a_loop_that_closes_while_a_spawn_hangs(factory: Any, tmp_path: pathlib.Path) -> None:
    """A loop may be closed under a spawn in the window: its worker kills and reaps the child."""

    async def body() -> None:
        async with held(tmp_path) as hold:
            hanging = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **PIPES))
            await hold.reached.wait()
            (child,) = psutil.Process().children()
            children.append(child)
            # Not awaited: asyncio.Runner cancels it, and closes the loop.
            tasks.append(hanging)
            raise KeyError

    children: list[psutil.Process] = []
    tasks: list[asyncio.Task[Any]] = []
    with quiet_finalizers():  # it may be over before it is cancelled: nobody closes that child
        with pytest.raises(KeyError), asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body())
        assert tasks.pop().done()
    children[0].wait(60)


def test_a_spawn_whose_loop_is_stopped_and_dropped() -> None:
    """A loop that never runs again, and is closed without a cancellation, leaves no child behind."""
    for factory in LOOP_FACTORIES.values():
        loop = factory()

        async def begin() -> None:
            asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", **PIPES))  # noqa: RUF006
            await asyncio.sleep(0)

        loop.run_until_complete(begin())
        loop.set_exception_handler(lambda _loop, _context: None)
        while tasks := asyncio.all_tasks(loop):  # none, if the child was that fast
            # asyncio's own complaint about an unfinished task is not the matter of this test.
            tasks.pop()._log_destroy_pending = False  # type: ignore[attr-defined]
            break
        with warnings.catch_warnings():
            # uvloop warns of what is open when the loop is closed, and hangs if that raises.
            warnings.simplefilter("ignore", ResourceWarning)
            loop.close()
            del loop, tasks
            gc.collect()


def test_without_a_running_loop() -> None:
    """Outside a running loop a spawn is a RuntimeError, as it is with asyncio."""

    def call() -> None:
        for module in (asyncio, aiovfork):
            coroutine: Any = module.create_subprocess_exec("true")
            with pytest.raises(RuntimeError, match="no running event loop"):
                coroutine.send(None)

    call()
    in_thread(call)


@pytest.mark.parametrize("leave", ["normally", "with an exception", "after the exit"])
async def test_async_with_kills_reaps_and_closes(leave: str) -> None:
    """Leaving `async with` ends what still runs, closes its pipes, and keeps the block's exception."""
    process = await aiovfork.create_subprocess_exec("cat", **PIPES)
    propagates = pytest.raises(KeyError) if leave == "with an exception" else contextlib.nullcontext()
    with propagates:
        async with process as entered:
            assert entered is process
            if leave == "with an exception":
                raise KeyError
            if leave == "after the exit":
                await process.communicate()
    assert process.returncode == (0 if leave == "after the exit" else -9)
    assert not os.path.exists(f"/proc/{process.pid}")


async def test_async_with_under_cancellation() -> None:
    """A task cancelled inside `async with` leaves it with the child reaped."""
    inside = asyncio.Event()
    processes: list[aiovfork.Process] = []

    async def block() -> None:
        async with await aiovfork.create_subprocess_exec("sleep", "1000", **PIPES) as process:
            processes.append(process)
            inside.set()
            await process.wait()

    running = asyncio.ensure_future(block())
    await inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert processes[0].returncode == -9


def test_async_with_of_a_coroutine_that_is_destroyed() -> None:
    """A coroutine that is closed inside `async with` cannot wait: its child is killed, and nothing is said."""

    async def block() -> None:
        async with await aiovfork.create_subprocess_exec("sleep", "1000", **PIPES):
            await asyncio.Event().wait()

    async def drive() -> None:
        coroutine = block()
        step = coroutine.send(None)
        while aiovfork.stats().alive == before:
            step._asyncio_future_blocking = False  # as a task does
            if step.done():
                step = coroutine.send(None)
            else:
                await asyncio.sleep(0)
        coroutine.close()

    before = aiovfork.stats().alive
    with quiet_finalizers(), asyncio.Runner(loop_factory=aiovfork.new_event_loop) as runner:
        runner.run(drive())
