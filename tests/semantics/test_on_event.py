"""on_event(): what callbacks hear of each child, when, where, and what their mistakes do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import aiovfork
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES, WAYS, LoopFactory, in_thread
from tests.support.hold import held


@contextlib.contextmanager
def noted() -> Iterator[list[Any]]:
    """Note all events."""
    events: list[aiovfork.Event] = []
    with aiovfork.on_event(events.append):
        yield events


async def test_a_child_is_told_of_twice() -> None:
    """A SpawnedEvent, then an ExitedEvent: with what the process says of pid, times, return code and rusage."""
    begun = time.monotonic()
    with noted() as events:
        async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE) as process:
            (spawned,) = events
            assert isinstance(spawned, aiovfork.SpawnedEvent)
            assert (spawned.program, spawned.pid) == ("cat", process.pid)
            assert spawned.spawn_info == process.spawn_info
            assert begun <= spawned.submitted < spawned.time <= time.monotonic()
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            _, exited = events
            assert isinstance(exited, aiovfork.ExitedEvent)
            assert exited[:3] == spawned[:3]
            assert (exited.pid, exited.returncode, exited.returncode_known) == (process.pid, 0, True)
            assert exited.rusage == process.rusage
            assert exited.rusage is not None
            assert spawned.time <= exited.time <= time.monotonic()
            assert exited.duration == exited.time - spawned.time
    assert len(events) == 2


async def test_a_child_that_is_killed() -> None:
    """The return code of a child that a signal has killed is -N, as everywhere."""
    with noted() as events:
        async with await aiovfork.create_subprocess_exec("sleep", "1000") as process:
            process.terminate()
            await process.wait()
    assert events[-1].returncode == -signal.SIGTERM


async def test_a_shell_command_names_the_shell() -> None:
    """The program of a shell command is the shell: the command may hold secrets."""
    with noted() as events:
        await (await aiovfork.create_subprocess_shell("exit 3")).wait()
    assert [event.program for event in events] == ["/bin/sh", "/bin/sh"]
    assert events[-1].returncode == 3


async def test_a_run_is_told_of_at_its_end() -> None:
    """run() has one report for start and end: both events come then, with the times at which they happened."""
    with noted() as events:
        done = await aiovfork.run("sh", "-c", "sleep 0.05; echo said")
    spawned, exited = events
    assert isinstance(spawned, aiovfork.SpawnedEvent)
    assert isinstance(exited, aiovfork.ExitedEvent)
    assert (spawned.program, spawned.pid, spawned.spawn_info) == ("sh", done.pid, done.spawn_info)
    assert spawned.time - spawned.submitted == pytest.approx(sum(done.spawn_info[3:6]) / 1e6)
    assert exited[:3] == spawned[:3]
    assert (exited.pid, exited.returncode, exited.rusage) == (done.pid, 0, done.rusage)
    assert exited.duration == exited.time - spawned.time > 0
    # Not duration: on a busy machine the worker sees exec some time after it was.
    assert exited.time - exited.submitted >= 0.05


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        (["yes"], {"max_output": 1000}, {-signal.SIGTERM, -signal.SIGPIPE}),
        (["sh", "-c", "exit 3"], {}, {3}),
    ],
    ids=["limit", "failure"],
)
async def test_a_run_that_does_not_end_well(
    command: list[str], options: dict[str, Any], expected: set[int]
) -> None:
    """However a run() ends, its child is told of once as spawned and once as exited."""
    reasons = (aiovfork.OutputLimitExceeded, aiovfork.ProcessFailed)
    with noted() as events, pytest.raises(reasons):
        await aiovfork.run(*command, **options)
    assert [type(event).__name__ for event in events] == ["SpawnedEvent", "ExitedEvent"]
    assert events[-1].returncode in expected


async def test_a_run_that_is_cancelled() -> None:
    """A run() that is cancelled while its child runs ends the child, and then tells of it: spawned and exited."""
    before = aiovfork.stats().alive
    with noted() as events:
        running = asyncio.ensure_future(aiovfork.run("sleep", "1000"))
        while aiovfork.stats().alive == before:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert [type(event).__name__ for event in events] == ["SpawnedEvent", "ExitedEvent"]
    assert events[-1].returncode == -signal.SIGTERM


async def test_a_run_that_does_not_start() -> None:
    """A run() whose program is not there, or that is cancelled in exec, is a FailedEvent, as any spawn."""
    with noted() as events:
        with pytest.raises(FileNotFoundError):
            await aiovfork.run("/no/such/program")
        running = asyncio.ensure_future(aiovfork.run("true"))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert isinstance(events[0], aiovfork.FailedEvent)
    # It may have run before it was cancelled.
    assert [type(event) for event in events[1:]] in (
        [aiovfork.FailedEvent],
        [aiovfork.SpawnedEvent, aiovfork.ExitedEvent],
    )


async def test_failures(tmp_path: pathlib.Path) -> None:
    """A spawn that fails, is refused, is cancelled or takes too long is told of once, with step and errno."""
    with noted() as events:
        with pytest.raises(FileNotFoundError):
            await aiovfork.create_subprocess_exec("/no/such/program")
        with pytest.raises(FileNotFoundError):
            await aiovfork.create_subprocess_exec("true", cwd="/no/such/folder")
        with pytest.raises(OSError, match="descriptor"):
            await aiovfork.create_subprocess_exec("true", pass_fds=[2**20])
        async with held(tmp_path) as hold:
            hanging = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
            await hold.reached.wait()
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            with pytest.raises(TimeoutError):
                await aiovfork.create_subprocess_exec(hold.path, spawn_timeout=1e-9)
    assert all(isinstance(event, aiovfork.FailedEvent) for event in events)
    assert [event.errno for event in events] == [
        errno.ENOENT,
        errno.ENOENT,
        errno.EBADF,
        errno.ECANCELED,
        errno.ETIMEDOUT,
    ]
    assert [event.step for event in events[:4]] == ["exec", "chdir", "dup fds", "exec"]
    assert [event.ticket == 0 for event in events] == [False, False, True, False, False]
    assert all(event.submitted <= event.time for event in events)


@pytest.mark.parametrize("factory", WAYS.values(), ids=WAYS)
def test_plugged_loops(factory: LoopFactory) -> None:
    """Children of asyncio's own functions, on loops into which aiovfork is plugged, are told of."""

    async def main() -> None:
        await (await asyncio.create_subprocess_exec("true")).wait()
        loop = asyncio.get_running_loop()
        with pytest.raises(FileNotFoundError):
            await loop.subprocess_exec(asyncio.SubprocessProtocol, "/no/such/program")

    with noted() as events, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
    assert [type(event).__name__ for event in events] == ["SpawnedEvent", "ExitedEvent", "FailedEvent"]


async def test_a_callback_that_fails_harms_nothing() -> None:
    """What a callback raises goes to the loop's exception handler; the others and the child go on."""

    def fail(event: aiovfork.Event) -> None:
        raise failure

    failure = RuntimeError("of the callback")
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    with aiovfork.on_event(fail), noted() as events:
        process = await aiovfork.create_subprocess_exec("echo", "said", stdout=aiovfork.PIPE)
        assert (await process.communicate())[0] == b"said\n"
        with pytest.raises(FileNotFoundError):
            await aiovfork.create_subprocess_exec("/no/such/program")
        with pytest.raises(OSError, match="descriptor"):
            await aiovfork.create_subprocess_exec("true", pass_fds=[2**20])
    assert len(events) == len(reported) == 4
    assert {id(context["exception"]) for context in reported} == {id(failure)}
    assert reported[0]["message"] == "a callback of aiovfork.on_event() failed"


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_an_interrupt_in_a_callback_is_the_loops(factory: LoopFactory) -> None:
    """KeyboardInterrupt leaves a callback and the loop; then the rest is told, and nothing twice."""

    def interrupt(event: aiovfork.Event) -> None:
        if isinstance(event, aiovfork.SpawnedEvent):
            raise KeyboardInterrupt

    async def main() -> int:
        return await (await aiovfork.create_subprocess_exec("true")).wait()

    with asyncio.Runner(loop_factory=factory) as runner, aiovfork.on_event(interrupt), noted() as events:
        loop = runner.get_loop()
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert loop.run_until_complete(task) == 0
        assert [type(event).__name__ for event in events] == ["SpawnedEvent", "ExitedEvent"]


async def test_the_context_is_the_callers() -> None:
    """A callback sees the context variables of the call that has started the child, and changes a copy."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    def look(event: aiovfork.Event) -> None:
        seen.append(variable.get())
        variable.set("the callback's")

    async def child(name: str) -> None:
        variable.set(name)
        await (await aiovfork.create_subprocess_exec("true")).wait()
        assert variable.get() == name

    with aiovfork.on_event(look):
        await asyncio.gather(child("one"), child("two"))
    assert sorted(seen) == ["one", "the callback's", "the callback's", "two"]


async def test_whom_it_tells() -> None:
    """A callback hears of the children that are asked for while it is set; then of nothing, as soon as removed."""
    with noted() as first:
        async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE):
            with noted() as second:
                await (await aiovfork.create_subprocess_exec("true")).wait()
                assert (len(first), len(second)) == (3, 2)
                async with await aiovfork.create_subprocess_exec("sleep", "1000"):
                    assert (len(first), len(second)) == (4, 3)
        assert (len(first), len(second)) == (6, 4)
    async with await aiovfork.create_subprocess_exec("true"):
        pass
    assert (len(first), len(second)) == (6, 4)


async def test_removing() -> None:
    """remove() may be called twice, and by a callback itself; the same function may be set twice."""
    events: list[aiovfork.Event] = []
    twice = [aiovfork.on_event(events.append), aiovfork.on_event(events.append)]
    with aiovfork.on_event(lambda _: twice[0].remove()) as own:
        assert all(subscription.active for subscription in (*twice, own))
        async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE):
            assert len(events) == 2
            assert not twice[0].active
        assert len(events) == 3
        for subscription in (*twice, *twice):
            subscription.remove()
    assert not own.active
    await (await aiovfork.create_subprocess_exec("true")).wait()
    assert len(events) == 3


async def test_nothing_is_kept() -> None:
    """What a port has noted for callbacks goes with the child; without a callback it notes nothing."""
    port = port_of(asyncio.get_running_loop())
    async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE):
        assert not port._observed
    with noted():
        async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE):
            assert port._observed
    assert not port._observed
    assert not port._untold


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_on_the_thread_of_the_loop(factory: LoopFactory) -> None:
    """The callback runs on the thread, and inside the loop, that has started the child."""
    seen = set()

    def look(event: aiovfork.Event) -> None:
        seen.add((threading.get_ident(), asyncio.get_running_loop()))

    async def main() -> tuple[int, asyncio.AbstractEventLoop]:
        await asyncio.gather(*[(await aiovfork.create_subprocess_exec("true")).wait() for _ in range(4)])
        return threading.get_ident(), asyncio.get_running_loop()

    def run() -> tuple[int, asyncio.AbstractEventLoop]:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    with aiovfork.on_event(look):
        assert seen == {in_thread(run), in_thread(run)}


@pytest.mark.parametrize("wrong", [None, 7, test_removing])
def test_wrong_callbacks(wrong: Any) -> None:
    """What cannot be called, and what would have to be awaited, is a TypeError at once."""
    with pytest.raises(TypeError, match="callback must be a function"):
        aiovfork.on_event(wrong)


async def test_any_callable_serves() -> None:
    """A partial, a method and an object with __call__ are callbacks."""

    class Counter:
        count = 0

        def __call__(self, event: aiovfork.Event) -> None:
            self.count += 1

    counter = Counter()
    for callback in (counter, counter.__call__, functools.partial(Counter.__call__, counter)):
        with aiovfork.on_event(callback):
            await (await aiovfork.create_subprocess_exec("true")).wait()
    assert counter.count == 6


def test_a_forked_process_inherits_it() -> None:
    """In the child of a fork() the callback hears of that process' children, and of none of the parent's."""
    program = (
        "import aiovfork, asyncio, os\n"
        "events = []\n"
        "aiovfork.on_event(events.append)\n"
        "async def child(): await (await aiovfork.create_subprocess_exec('true')).wait()\n"
        "async def parent():\n"
        "    async with await aiovfork.create_subprocess_exec('sleep', '1000') as process:\n"
        "        pid = os.fork()\n"
        "        if pid == 0:\n"
        "            events.clear()\n"
        "            asyncio._set_running_loop(None)\n"
        "            asyncio.new_event_loop().run_until_complete(child())\n"
        "            os._exit(0 if len(events) == 2 else 1)\n"
        "        assert os.waitpid(pid, 0)[1] == 0\n"
        "asyncio.run(parent())\n"
        "assert len(events) == 2\n"
    )
    env = {**os.environ, "AIOVFORK_PARK": "0"}  # no thread beside the one that forks
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning", "-c", program], check=True, env=env)
