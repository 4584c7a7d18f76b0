"""run() where something goes wrong that is not the program's own fault."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pathlib
import resource
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Coroutine, Iterator
from typing import Any

import anyio
import psutil
import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES
from tests.support.isolated import isolated
from tests.support.speakers import Speakers
from tests.support.window import rounds, until

TRACER = pathlib.Path(__file__).parents[1] / "children" / "tracer.py"


def only_child() -> psutil.Process:
    """The one child that there is."""
    (child,) = psutil.Process().children()
    return child


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def group_of(pid: int) -> int:
    """Its process group; 0 if it is not there any more."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def session_of(pid: int) -> int:
    """Its session; 0 if it is not there any more."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


async def test_a_child_that_somebody_has_stopped() -> None:
    """A child that is stopped (SIGSTOP) and holds its pipes does not keep a deadline waiting."""
    task = asyncio.ensure_future(aiovfork.run("sleep", "1000", timeout=0.3))
    await until(lambda: aiovfork.stats().capturing == 1)
    only_child().send_signal(signal.SIGSTOP)
    with pytest.raises(aiovfork.ProcessTimeout):
        await task


async def test_a_ptraced_child() -> None:
    """A child whose tracer does not let it be reaped is waited for, and the result is whole when it is let go."""
    task = asyncio.ensure_future(aiovfork.run("sh", "-c", "echo ready; read x < /dev/null; exec sleep 1000"))
    await until(lambda: aiovfork.stats().capturing == 1)
    child = only_child()
    with subprocess.Popen(
        [sys.executable, TRACER, str(child.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        try:
            assert tracer.stdout.readline() == b"traced\n"
            child.kill()
            await until(lambda: child.status() == psutil.STATUS_ZOMBIE)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not task.done()
        finally:
            tracer.stdin.close()
        with pytest.raises(aiovfork.ProcessFailed, match="SIGKILL"):
            await task


async def test_anyios_cancellation() -> None:
    """anyio cancels again in each round of the loop: the group is killed at once, and the scope ends as it should."""
    with anyio.move_on_after(0.05) as scope:
        await aiovfork.run_shell("trap '' TERM; sleep 1000 & sleep 1000", patience=1000)
    assert scope.cancelled_caught
    assert not psutil.Process().children()


async def test_in_a_task_group() -> None:
    """One run that fails ends the others of its TaskGroup."""

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(aiovfork.run("sleep", "1000"))
            group.create_task(aiovfork.run_shell("sleep 0.05; exit 3"))

    with pytest.raises(ExceptionGroup) as info:
        await both()
    assert [type(exc) for exc in info.value.exceptions] == [aiovfork.ProcessFailed]
    assert not psutil.Process().children()


async def _without_descriptors() -> list[str]:
    await aiovfork.run("true")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        found = []
        for left in range(1, 9):
            os.close(taken.pop())
            try:
                done = await aiovfork.run("echo", "said", input=b"x")
                found.append(done.stdout.decode())
            except aiovfork.SpawnError as exc:
                found.append(os.strerror(exc.errno or 0))
            assert left
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return sorted(set(found))


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_no_descriptor_is_left(loop: str) -> None:
    """At RLIMIT_NOFILE run() fails as a spawn does, or works; nothing of it is left."""
    assert isolated(_without_descriptors, loop=loop) == ["Too many open files", "said\n"]


def _closed_with_runs_under_way(loop_name: str) -> list[int]:
    async def start() -> list[asyncio.Task[Any]]:
        commands = ["sleep 1000 & sleep 1000", "yes", "cat; sleep 1000", "sleep 1000 & exit 0"]
        runs = [aiovfork.run_shell(command, drain_timeout=None, input=b"x" * 100_000) for command in commands]
        tasks = list(map(asyncio.ensure_future, runs))
        await until(lambda: aiovfork.stats().capturing == len(commands))
        return tasks

    group = os.getpid()
    loop = LOOP_FACTORIES[loop_name]()
    loop.set_exception_handler(lambda loop, context: None)  # a pending task is destroyed: that is the case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = loop.run_until_complete(start())
        loop.close()
        del loop, tasks
        gc.collect()
    session = os.getsid(0)
    assert session == group

    def living() -> list[int]:
        return [pid for pid in psutil.pids() if pid != group and session_of(pid) == session and is_alive(pid)]

    for _ in range(10_000):
        if not living():
            break
        os.sched_yield()
    stats = aiovfork.stats()
    return [len(living()), stats.capturing, stats.alive]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_loop_that_is_closed_with_runs_under_way(loop: str) -> None:
    """P10. Where the loop is closed, each program and its group are ended, and everything is given back."""
    assert isolated(_closed_with_runs_under_way, loop, check_leaks=False) == [0, 0, 0]


def _fork_with_runs_under_way(loop_name: str) -> list[Any]:
    async def main() -> list[Any]:
        runs = [
            asyncio.ensure_future(aiovfork.run_shell("read x; echo $x", input=b"said\n")) for _ in range(3)
        ]
        runs.append(asyncio.ensure_future(aiovfork.run_shell("sleep 0.2; echo late")))
        await until(lambda: aiovfork.stats().capturing >= 1)
        pid = os.fork()
        if pid == 0:
            del runs[:]
            gc.collect()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        return [status, *[(await run).stdout.decode() for run in runs]]

    warnings.simplefilter("ignore", DeprecationWarning)
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
        return runner.run(main())


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_fork_with_runs_under_way(loop: str) -> None:
    """P11. A process that is forked meanwhile, and ends, takes nothing away from the runs of its parent."""
    expected = [0, "said\n", "said\n", "said\n", "late\n"]
    assert isolated(_fork_with_runs_under_way, loop, check_leaks=False) == expected


def _ends_with_runs_under_way() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(aiovfork.run_shell("sleep 1000 & sleep 1000"))
        await until(lambda: aiovfork.stats().capturing == 1)
        os.write(1, b"%d\n" % only_child().pid)
        os.kill(os.getpid(), signal.SIGINT)
        await task

    asyncio.run(main())


def test_ctrl_c_with_a_run_under_way() -> None:
    """Ctrl-C in asyncio.run() cancels, ends the group of the run, and the program ends with KeyboardInterrupt."""
    program = "from tests.faults.test_run_faults import _ends_with_runs_under_way as f; f()"
    root = pathlib.Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=False)
    assert ended.stderr.endswith(b"KeyboardInterrupt\n")
    leader = int(ended.stdout)
    assert not [pid for pid in psutil.pids() if is_alive(pid) and group_of(pid) == leader]


@types.coroutine
def _with_second(run: Coroutine[Any, Any, Any], exc: BaseException) -> Iterator[Any]:
    """Await a run; instead of a second cancellation it gets that exception, where it waits then."""
    steps = run.__await__()
    cancelled = False
    waits_for = steps.send(None)
    while True:
        try:
            yield waits_for
        except asyncio.CancelledError as first:
            waits_for = steps.throw(exc if cancelled else first)
            cancelled = True
        else:
            waits_for = steps.send(None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("max_output", [10, None])
async def test_interrupted_while_a_cancelled_run_ends(
    kind: type[BaseException], max_output: int | None
) -> None:
    """A cancelled run that is interrupted or destroyed while it is ended leaves nobody, also beyond max_output."""
    script = "trap 'trap \"\" TERM PIPE; head -c 100000 /dev/zero 2>/dev/null; echo told >&2' TERM; echo ready >&2; "
    with Speakers() as witness:

        async def body() -> None:
            run = aiovfork.run_shell(
                script + "while :; do sleep 0.01; done",
                max_output=max_output,
                stderr=witness.fd,
                patience=1000,
            )
            with pytest.raises(kind):
                await _with_second(run, kind())

        task = asyncio.ensure_future(body())
        assert await witness.line() == "ready"
        await until(lambda: aiovfork.stats().capturing)
        task.cancel()
        while await witness.line() != "told":  # the shell tells of its own child, too
            pass
        if max_output is not None:
            await until(lambda: not aiovfork.stats().capturing)
        await rounds()
        task.cancel()
        await task
        await witness.end()
        await until(lambda: not aiovfork.stats().alive)
