"""Protocols and callers that misbehave: what they do to their own child, they do to no other."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
from typing import Any

import pytest

import aiovfork
from aiovfork._events import Exited
from tests.support.backends import LOOP_FACTORIES, WAYS, LoopFactory
from tests.support.isolated import isolated
from tests.support.protocols import Recorder
from tests.support.window import rounds, until

NO_PIPES: dict[str, Any] = {"stdin": None, "stdout": None, "stderr": None}
CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("CALLER", default="nobody")


class Mute:
    """A protocol that has connection_made and nothing else."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The child runs."""


class Raising(asyncio.SubprocessProtocol):
    """A protocol that raises when its child exits."""

    def process_exited(self) -> None:
        """Raise."""
        raise ZeroDivisionError


def complaints(loop: asyncio.AbstractEventLoop) -> list[BaseException]:
    """Collect what the loop's exception handler is told."""
    told: list[BaseException] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    return told


async def all_exits_at_once(processes: list[aiovfork.Process], write_end: int) -> None:
    """Let children that read from a pipe end, and the loop stand still until all of them have."""
    os.close(write_end)
    for process in processes:
        assert process.pidfd is not None
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("mistake", ["mute", "raising"])
async def test_a_bad_protocol_is_alone_with_it(mistake: str) -> None:
    """A protocol that cannot hear of its exit is reported; the exits that came together with it are told."""
    told = complaints(asyncio.get_running_loop())
    read_end, write_end = os.pipe()
    stdio: dict[str, Any] = {**NO_PIPES, "stdin": read_end}
    factory: Any = Mute if mistake == "mute" else asyncio.SubprocessProtocol
    bad, _ = await aiovfork.subprocess_exec(factory, "cat", **stdio)
    processes = [await aiovfork.create_subprocess_exec("cat", stdin=read_end) for _ in range(10)]
    if mistake == "raising":
        processes[3]._transport.set_protocol(Raising())
    os.close(read_end)
    await all_exits_at_once(processes, write_end)
    assert [await process.wait() for process in processes] == [0] * 10
    assert await bad._wait() == 0
    await rounds()
    # The mute one lacks connection_lost too.
    expected = [AttributeError, AttributeError] if mistake == "mute" else [ZeroDivisionError]
    assert [type(exc) for exc in told] == expected


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_an_interrupt_in_the_middle_of_a_batch(factory: LoopFactory) -> None:
    """KeyboardInterrupt of a signal handler while exits are told leaves the loop, which tells the rest later."""
    processes: list[aiovfork.Process] = []

    async def begin() -> None:
        read_end, write_end = os.pipe()
        processes.extend([await aiovfork.create_subprocess_exec("cat", stdin=read_end) for _ in range(10)])
        os.close(read_end)
        hit = processes[3]._transport
        exited = hit.exited

        def interrupted(event: Exited) -> None:
            exited(event)
            hit.exited = exited  # type: ignore[method-assign]  # once
            raise KeyboardInterrupt

        hit.exited = interrupted  # type: ignore[method-assign]  # as if the signal came while it ran
        await all_exits_at_once(processes, write_end)
        await asyncio.get_running_loop().create_future()

    async def end() -> list[int]:
        return [await process.wait() for process in processes]

    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        main = loop.create_task(begin())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main)
        assert runner.run(end()) == [0] * 10


def _collect_forgotten_loops(way: str) -> str:
    gc.set_threshold(1)
    for _ in range(60):
        loop: Any = WAYS[way]()
        loop.itself = loop
        del loop
        with asyncio.Runner(loop_factory=WAYS[way]) as runner:
            runner.run(asyncio.sleep(0))
    return "done"


@pytest.mark.parametrize("way", [way for way in WAYS if "asyncio" in way])
def test_loops_that_are_collected_while_others_open(way: str) -> None:
    """The garbage collector may close a forgotten loop at any moment: nothing waits for itself."""
    assert (
        isolated(_collect_forgotten_loops, way, check_leaks=False, env={"PYTHONWARNINGS": "ignore"}) == "done"
    )


async def test_connection_made_has_a_context_of_its_own() -> None:
    """What connection_made sets in its context is not seen by the caller, but by the calls that follow."""

    class Sets(Recorder):
        seen = ""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            CALLER.set(f"{CALLER.get()}'s protocol")

        def process_exited(self) -> None:
            super().process_exited()
            self.seen = CALLER.get()

    CALLER.set("caller")
    _, protocol = await aiovfork.subprocess_exec(Sets, "true", **NO_PIPES)
    assert CALLER.get() == "caller"
    await protocol.wait_for("lost")
    assert protocol.seen == "caller's protocol"


@pytest.mark.parametrize("exc", [ValueError, asyncio.CancelledError, GeneratorExit])
async def test_connection_made_that_raises(exc: type[BaseException]) -> None:
    """Whatever connection_made raises is reported, and no cancellation of the caller; the rest is told."""

    class Raises(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            raise exc

    told = complaints(asyncio.get_running_loop())
    transport, protocol = await aiovfork.subprocess_exec(Raises, "true", **NO_PIPES)
    await protocol.wait_for("lost")
    assert transport.get_returncode() == 0
    assert [type(found) for found in told] == [exc]


@pytest.mark.parametrize("how", ["close", "throw"])
async def test_a_coroutine_that_is_given_up(how: str) -> None:
    """A spawn whose coroutine is closed, or thrown into, is undone without a word."""
    told = complaints(asyncio.get_running_loop())
    spawning: Any = aiovfork.create_subprocess_exec("sleep", "1000")
    spawning.send(None)
    if how == "close":
        spawning.close()
    else:
        reaped = spawning.throw(ZeroDivisionError())
        reaped._asyncio_future_blocking = False  # we do for it what its task would do
        await asyncio.wait([reaped])
        with pytest.raises(ZeroDivisionError):
            spawning.send(None)
    await until(lambda: not aiovfork.stats().in_flight and not aiovfork.stats().alive)
    del spawning
    gc.collect()
    await rounds()
    assert not told


async def test_stdin_after_its_end() -> None:
    """After write_eof() stdin is closing, and what is written goes nowhere, on either loop."""
    process = await aiovfork.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert process.stdin is not None
    process.stdin.write(b"before")
    process.stdin.write_eof()
    assert process.stdin.is_closing()
    process.stdin.write(b"after")
    process.stdin.write_eof()
    assert (await process.communicate())[0] == b"before"
