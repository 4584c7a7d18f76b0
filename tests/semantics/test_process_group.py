"""ProcessGroup: processes that end with a block of code, each with all that it has started.

Members say on a pipe what they do, and hold it open, so a test knows whether one of them is alive still.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import pathlib
import resource
import shlex
import signal
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import aiovfork
from aiovfork import PIPE, ProcessGroup, Teardown, _binding
from aiovfork._cgroup import Cgroup
from tests.support.backends import LOOP_FACTORIES, LoopFactory
from tests.support.finalizers import quiet_finalizers
from tests.support.hold import held
from tests.support.speakers import Speakers
from tests.support.window import child_in_window, rounds, task_cancelled, until

# Ends by SIGTERM, and says so. It is ready once its descendant is, which SIGTERM ends too.
_DESCENDANT = "sh -c 'echo ready; exec sleep 1000' &"
POLITE = f"trap 'echo ending; exit 7' TERM; {_DESCENDANT} wait"
# Does not end by SIGTERM; nor does what it has started.
STUBBORN = "trap '' TERM; echo ready; sleep 1000 & wait"
# Neither, but the first one says that it has heard.
DEFIANT = (
    "trap 'echo told' TERM; sh -c 'trap \"\" TERM; echo ready; exec sleep 1000' & while :; do wait; done"
)
# Exits at once, and leaves one that sleeps.
LEAVES_ONE = "sleep 1000 & echo left"
LEAVES_STUBBORN = "trap '' TERM; sleep 1000 & echo left"
# As long as nobody should wait in a test.
FOR_EVER = Teardown(patience=1000)
AT_ONCE = Teardown(patience=0.01)


@pytest.fixture
def witness() -> Iterator[Speakers]:
    """A pipe for the members of a test."""
    with Speakers() as witness:
        yield witness


@pytest.fixture
def by_number() -> Iterator[None]:
    """Have groups signalled as before Linux 6.9: by number, their leaders unreaped meanwhile."""
    _binding.force(group="number")
    yield
    _binding.force()


class FailedError(Exception):
    """What a block fails with."""


# ---- leaving ----


async def test_leaving_waits(witness: Speakers) -> None:
    """A block that ends waits for its processes; their return codes are their own."""
    async with ProcessGroup() as group:
        first = await group.start("cat", stdin=PIPE, stdout=witness.fd)
        second = await group.start_shell("read -r line; exit 3", stdin=PIPE)
        assert list(group) == [first, second]
        assert first.stdin is not None
        assert second.stdin is not None
        for stdin in (first.stdin, second.stdin):
            asyncio.get_running_loop().call_soon(stdin.close)
    assert (first.returncode, second.returncode) == (0, 3)
    assert witness.all_gone()
    assert list(group) == []


async def test_leaving_ends_what_members_have_left(witness: Speakers) -> None:
    """What a process has left behind lives as long as the group: then it is ended, even if it ignores SIGTERM."""
    async with ProcessGroup(teardown=AT_ONCE) as group:
        for script in (LEAVES_ONE, LEAVES_STUBBORN):
            process = await group.start_shell(script, stdout=witness.fd)
            assert await process.wait() == 0
            assert await witness.line() == "left"
        assert list(group) == []
        assert not witness.all_gone()
    assert witness.all_gone()


async def test_an_exception_stops_all(witness: Speakers) -> None:
    """A block that is left by an exception ends its processes as they are told to, and the exception goes on."""
    with pytest.raises(FailedError):  # noqa: PT012  # it comes out of the block
        async with ProcessGroup(teardown=FOR_EVER) as group:
            process = await group.start_shell(POLITE, stdout=witness.fd)
            assert await witness.line() == "ready"
            raise FailedError
    assert process.returncode == 7
    assert await witness.line() == "ending"
    assert witness.all_gone()


async def test_all_are_stopped_at_once(witness: Speakers) -> None:
    """Every process is told to end before the first one has ended: none of these does until each was told."""
    script = f"exec 3<&0; trap 'echo told; read -r go <&3; exit 0' TERM; {_DESCENDANT} wait"
    number = 5
    gate, ours = os.pipe()
    all_ready = asyncio.Event()

    async def leave() -> None:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            for _ in range(number):
                await group.start_shell(script, stdin=gate, stdout=witness.fd)
            await all_ready.wait()
            raise FailedError

    with contextlib.ExitStack() as stack:
        stack.callback(os.close, gate)
        stack.callback(os.close, ours)
        leaving = asyncio.ensure_future(leave())
        assert await witness.lines(number) == ["ready"] * number
        all_ready.set()
        assert await witness.lines(number) == ["told"] * number
        os.write(ours, b"go\n" * number)
        with pytest.raises(FailedError):
            await leaving
    assert witness.all_gone()


async def test_sigkill_follows(witness: Speakers) -> None:
    """A process that ignores SIGTERM is killed when its patience is over, with what it has started."""
    with pytest.raises(FailedError):  # noqa: PT012  # it comes out of the block
        async with ProcessGroup(teardown=AT_ONCE) as group:
            process = await group.start_shell(STUBBORN, stdout=witness.fd)
            assert await witness.line() == "ready"
            raise FailedError
    assert process.returncode == -signal.SIGKILL
    assert witness.all_gone()


async def test_a_stopped_member_hears(witness: Speakers) -> None:
    """A process that somebody has stopped by SIGSTOP ends as politely as any other."""
    with pytest.raises(FailedError):  # noqa: PT012  # it comes out of the block
        async with ProcessGroup(teardown=FOR_EVER) as group:
            process = await group.start_shell(POLITE, stdout=witness.fd)
            assert await witness.line() == "ready"
            process.send_signal(signal.SIGSTOP)
            raise FailedError
    assert process.returncode == 7
    assert witness.all_gone()


@pytest.mark.usefixtures("by_number")
async def test_leaving_before_linux_6_9(witness: Speakers) -> None:
    """Where a group has only a number, too, what members have left behind ends with the block."""
    async with ProcessGroup(teardown=AT_ONCE) as group:
        for script in (LEAVES_ONE, LEAVES_STUBBORN, "echo left"):
            process = await group.start_shell(script, stdout=witness.fd)
            assert await process.wait() == 0
            assert await witness.line() == "left"
        assert list(group) == []
        assert not witness.all_gone()
    assert witness.all_gone()


@pytest.mark.parametrize("waiting", [False, True], ids=["in the block", "at its end"])
async def test_a_cancellation_stops_all(witness: Speakers, waiting: bool) -> None:
    """A task that is cancelled in the block, or while it waits at its end, ends the processes politely."""
    started = asyncio.Event()

    async def body() -> None:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            await group.start_shell(POLITE, stdout=witness.fd)
            started.set()
            if not waiting:
                await asyncio.sleep(1000)

    task = asyncio.ensure_future(body())
    await started.wait()
    assert await witness.line() == "ready"
    await task_cancelled(task)
    assert await witness.line() == "ending"
    assert witness.all_gone()


@pytest.mark.parametrize("cause", ["cancelled", "at its end", "failed", "stop"])
async def test_a_second_cancellation_kills(witness: Speakers, cause: str) -> None:
    """A cancellation while the processes are being ended is obeyed at once: they are killed."""
    processes = []
    ready = asyncio.Event()

    async def body() -> None:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            processes.append(await group.start_shell(DEFIANT, stdout=witness.fd))
            assert await witness.line() == "ready"
            ready.set()
            if cause == "failed":
                raise FailedError
            if cause == "stop":
                await group.stop()
            if cause == "cancelled":
                task.cancel()
                await asyncio.sleep(1000)
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.ensure_future(body())
    await ready.wait()
    assert await witness.line() == "told"
    await task_cancelled(task)
    assert processes[0].returncode == -signal.SIGKILL
    assert witness.all_gone()


@pytest.mark.parametrize("turns", range(1, 16))
async def test_a_second_cancellation_ends_what_members_have_left(witness: Speakers, turns: int) -> None:
    """What exited members have left behind is killed, in whatever round of the loop a second cancellation comes."""
    ready = asyncio.Event()

    async def body() -> None:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            for _ in range(4):
                await (await group.start_shell(LEAVES_STUBBORN, stdout=witness.fd)).wait()
                assert await witness.line() == "left"
            ready.set()
            await asyncio.sleep(1000)

    task = asyncio.ensure_future(body())
    await ready.wait()
    task.cancel()
    await rounds(turns)
    await task_cancelled(task)
    await witness.end()


# ---- inside other groups ----


async def test_inside_a_task_group(witness: Speakers) -> None:
    """In a TaskGroup: the failure of another task ends the processes, and is what is raised."""

    async def fail() -> None:
        assert await witness.line() == "ready"
        raise FailedError

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  # it comes out of the block
        async with asyncio.TaskGroup() as tasks, ProcessGroup(teardown=FOR_EVER) as group:
            process = await group.start_shell(POLITE, stdout=witness.fd)
            tasks.create_task(fail())
    assert [type(exc) for exc in raised.value.exceptions] == [FailedError]
    assert process.returncode == 7
    assert await witness.line() == "ending"
    assert witness.all_gone()


async def test_around_a_task_group(witness: Speakers) -> None:
    """Around a TaskGroup: its tasks start processes, and when one of them fails all processes end."""
    number = 3

    async def work(group: ProcessGroup) -> None:
        await (await group.start_shell(POLITE, stdout=witness.fd)).wait()

    async def fail() -> None:
        await until(lambda: len(list(group)) == number)
        assert await witness.lines(number) == ["ready"] * number
        raise FailedError

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  # it comes out of the block
        async with ProcessGroup(teardown=FOR_EVER) as group, asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(work(group))
            tasks.create_task(fail())
    assert [type(exc) for exc in raised.value.exceptions] == [FailedError]
    assert await witness.lines(number) == ["ending"] * number
    assert witness.all_gone()


@pytest.mark.parametrize("waiting", [False, True], ids=["in the block", "at its end"])
async def test_a_scope_of_anyio(witness: Speakers, waiting: bool) -> None:
    """A cancelled scope of anyio, which cancels again in every round of the loop, ends the processes politely."""
    with anyio.CancelScope() as scope:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            process = await group.start_shell(POLITE, stdout=witness.fd)
            assert await witness.line() == "ready"
            asyncio.get_running_loop().call_soon(scope.cancel)
            if not waiting:
                await anyio.sleep(1000)
    assert scope.cancelled_caught
    assert process.returncode == 7
    assert await witness.line() == "ending"
    assert witness.all_gone()


async def test_a_task_group_of_anyio(witness: Speakers) -> None:
    """In a task group of anyio, too, the failure of another task ends the processes."""

    async def fail() -> None:
        assert await witness.line() == "ready"
        raise FailedError

    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  # it comes out of the block
        async with anyio.create_task_group() as tasks, ProcessGroup(teardown=FOR_EVER) as group:
            await group.start_shell(POLITE, stdout=witness.fd)
            tasks.start_soon(fail)
    assert [type(exc) for exc in raised.value.exceptions] == [FailedError]
    assert await witness.line() == "ending"
    assert witness.all_gone()


@pytest.mark.parametrize("waiting", [False, True], ids=["in the block", "at its end"])
async def test_a_scope_of_anyio_is_patient_only_so_long(witness: Speakers, waiting: bool) -> None:
    """In a cancelled scope of anyio, SIGKILL comes when the patience is over, as elsewhere."""
    with anyio.CancelScope() as scope:
        async with ProcessGroup(teardown=AT_ONCE) as group:
            process = await group.start_shell(STUBBORN, stdout=witness.fd)
            assert await witness.line() == "ready"
            scope.cancel()
            if not waiting:
                await anyio.sleep(1000)
    assert process.returncode == -signal.SIGKILL
    assert witness.all_gone()


# ---- starting ----


async def test_only_in_the_block() -> None:
    """A start before the block, or after it, is a RuntimeError; a group can be entered once."""
    group = ProcessGroup()
    with pytest.raises(RuntimeError, match="not open"):
        await group.start("true")
    async with group:
        process = await group.start("true")
    assert process.returncode == 0
    for start in (group.start, group.start_shell):
        with pytest.raises(RuntimeError, match="not open"):
            await start("true")
    with pytest.raises(RuntimeError, match="once"):
        await group.__aenter__()


async def test_members_start_others_while_leaving_waits() -> None:
    """While the end of the block waits, what still runs may start more: the end waits for that, too."""
    codes = []

    async def follow(process: aiovfork.Process) -> None:
        codes.append(await process.wait())
        codes.append(await (await group.start_shell("exit 4")).wait())

    async with ProcessGroup() as group:
        first = await group.start("cat", stdin=PIPE)
        last = await group.start("cat", stdin=PIPE)
        assert first.stdin is not None
        assert last.stdin is not None
        following = asyncio.ensure_future(follow(first))
        following.add_done_callback(lambda _, stdin=last.stdin: stdin.close())  # type: ignore[misc]
        first.stdin.close()
    await following
    assert codes == [0, 4]


async def test_every_member_leads_a_group() -> None:
    """A member leads its own process group, or session; with process_group=None it stays in ours."""
    async with ProcessGroup() as group:
        own = await group.start("cat", stdin=PIPE)
        session = await group.start("cat", stdin=PIPE, start_new_session=True)
        ours = await group.start("cat", stdin=PIPE, process_group=None)
        assert [os.getpgid(process.pid) for process in (own, session, ours)] == [
            own.pid,
            session.pid,
            os.getpgid(0),
        ]
        assert os.getsid(session.pid) == session.pid
        await group.stop()
        assert [process.returncode for process in (own, session, ours)] == [-signal.SIGTERM] * 3


async def test_stdin_is_empty_by_default() -> None:
    """A member does not read what is the caller's: its stdin is /dev/null."""
    async with ProcessGroup() as group:
        process = await group.start_shell("readlink /proc/self/fd/0", stdout=PIPE)
        assert (await process.communicate())[0] == b"/dev/null\n"


async def test_a_failed_start() -> None:
    """A program that is not there is a SpawnError of the start; the group goes on, and the place is free."""
    async with ProcessGroup(limit=1) as group:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await group.start("/no/such/program")
        with pytest.raises(ValueError, match="null"):
            await group.start("nul\0")
        process = await group.start("true")
    assert process.returncode == 0


async def test_no_descriptors() -> None:
    """Where descriptors run out, a start fails with EMFILE, and the members are ended as ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ProcessGroup() as group:
        await group.start("sleep", "1000")
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        try:
            with contextlib.ExitStack() as stack:
                with contextlib.suppress(OSError):
                    while True:
                        stack.callback(os.close, os.dup(0))
                with pytest.raises(OSError, match="Too many open files") as raised:
                    await group.start("sleep", "1000", stdout=PIPE)
                assert raised.value.errno == errno.EMFILE
                await group.stop()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(group) == []


async def test_a_cancelled_start(tmp_path: pathlib.Path) -> None:
    """A start that is cancelled leaves no child, and the group goes on."""
    async with held(tmp_path) as hold, ProcessGroup(limit=1) as group:
        task = asyncio.ensure_future(group.start(hold.path))
        pid = await child_in_window(hold)
        await task_cancelled(task)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await (await group.start("true")).wait() == 0


@pytest.mark.parametrize("way", ["leave", "stop"])
async def test_a_start_under_way_is_abandoned(tmp_path: pathlib.Path, way: str) -> None:
    """A child whose exec hangs when all are stopped is killed: its start raises RuntimeError. Nobody waits for exec."""
    async with held(tmp_path) as hold:
        with contextlib.suppress(FailedError):
            async with ProcessGroup() as group:
                task = asyncio.ensure_future(group.start(hold.path, stdout=PIPE))
                pid = await child_in_window(hold)
                if way == "leave":
                    raise FailedError
                await group.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(RuntimeError, match="ProcessGroup"):
            await task


@pytest.mark.parametrize("stdio", [{}, {"stdout": PIPE, "stdin": PIPE}], ids=["inherited", "pipes"])
async def test_a_start_is_abandoned_at_any_moment(stdio: dict[str, Any]) -> None:
    """However far a start has come when the block fails, it raises RuntimeError, or its process has been ended."""
    ends = {"refused": 0, "ended": 0}
    for turns in [*range(40), *range(40, 200, 9)]:
        with contextlib.suppress(FailedError):
            async with ProcessGroup(teardown=FOR_EVER) as group:
                task = asyncio.ensure_future(group.start("sleep", "1000", **stdio))
                await rounds(turns)
                raise FailedError
        assert list(group) == []
        try:
            process = await task
        except RuntimeError:
            ends["refused"] += 1
        else:
            ends["ended"] += 1
            assert process.returncode is not None
    assert ends["refused"]


# ---- the limit ----


@pytest.mark.parametrize("limit", [1, 2])
async def test_the_limit(limit: int) -> None:
    """No more than limit processes live at once; those that wait are started first come, first served."""
    number = 7
    order: list[int] = []
    alive: list[aiovfork.Process] = []

    async def one(mine: int) -> None:
        process = await group.start("cat", stdin=PIPE)
        order.append(mine)
        alive.append(process)
        assert len(list(group)) <= limit
        await process.wait()

    async with ProcessGroup(limit) as group, asyncio.TaskGroup() as tasks:
        for mine in range(number):
            tasks.create_task(one(mine))
            await rounds(1)
        for _ in range(number):
            await until(lambda: alive)
            process = alive.pop(0)
            assert process.stdin is not None
            process.stdin.close()
    assert sorted(order) == list(range(number))
    if limit == 1:
        assert order == list(range(number))


async def test_a_start_that_waits_is_cancelled() -> None:
    """A start that waits for its turn can be cancelled, even when its turn has come; the next one gets it."""
    async with ProcessGroup(limit=1) as group:
        for late in (False, True):
            first = await group.start("sleep", "1000")
            waiting = asyncio.ensure_future(group.start("sleep", "1000"))
            following = asyncio.ensure_future(group.start("true"))
            await rounds()
            if late:
                first.kill()
                await first.wait()
            await task_cancelled(waiting)
            if not late:
                first.kill()
            assert await (await following).wait() == 0


@pytest.mark.parametrize("way", ["leave", "stop"])
async def test_a_start_that_waits_when_all_are_stopped(way: str) -> None:
    """A start that waits for its turn is refused when the block fails; after stop() its turn comes."""
    with contextlib.suppress(FailedError):
        async with ProcessGroup(limit=1) as group:
            await group.start("sleep", "1000")
            waiting = asyncio.ensure_future(group.start_shell("exit 5"))
            await rounds()
            if way == "leave":
                raise FailedError
            await group.stop()
            assert await (await waiting).wait() == 5
            return
    with pytest.raises(RuntimeError, match="not open"):
        await waiting


@pytest.mark.parametrize(
    ("limit", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_a_wrong_limit(limit: Any, error: type[Exception]) -> None:
    """A limit that admits nobody, or is no integer, is refused at once."""
    with pytest.raises(error):
        ProcessGroup(limit)


@pytest.mark.parametrize("teardown", ["group", None, 5, Teardown])
def test_a_wrong_teardown(teardown: Any) -> None:
    """What is no Teardown is refused at once, and not when something is to be ended."""
    with pytest.raises(TypeError, match="teardown"):
        ProcessGroup(teardown=teardown)


# ---- run() ----


async def test_run() -> None:
    """run() is aiovfork.run(): it returns what the program wrote, and raises what that raises."""
    async with ProcessGroup(limit=1) as group:
        assert (await group.run("cat", input=b"text")).stdout == b"text"
        assert (await group.run("echo", "text", encoding="utf-8")).stdout == "text\n"
        assert (await group.run("false", check=False)).returncode == 1
        with pytest.raises(aiovfork.ProcessFailed):
            await group.run("sh", "-c", "exit 3")
        with pytest.raises(aiovfork.ProcessTimeout):
            await group.run("sleep", "1000", timeout=0.01)
        with pytest.raises(aiovfork.OutputLimitExceeded):
            await group.run("echo", "text", max_output=2)
        with pytest.raises(FileNotFoundError):
            await group.run("/no/such/program")
        assert await (await group.start("true")).wait() == 0


async def test_run_waits_for_its_turn() -> None:
    """A run() counts for the limit, and waits for a place under it."""
    async with ProcessGroup(limit=1) as group:
        process = await group.start("cat", stdin=PIPE)
        running = asyncio.ensure_future(group.run("echo", "text"))
        await rounds(10)
        assert not running.done()
        assert process.stdin is not None
        process.stdin.close()
        assert (await running).stdout == b"text\n"


async def test_run_leaves_nothing(witness: Speakers) -> None:
    """What a program that ends well has left behind is ended when run() returns."""
    async with ProcessGroup(teardown=AT_ONCE) as group:
        await group.run("sh", "-c", LEAVES_STUBBORN, stdout=witness.fd)
        assert await witness.line() == "left"
        assert witness.all_gone()


@pytest.mark.parametrize("way", ["leave", "stop", "cancel"])
@pytest.mark.parametrize("check", [True, False])
async def test_run_is_stopped(witness: Speakers, way: str, check: bool) -> None:
    """The end of the group ends a program that is run: it tells so as of any that a signal ends, with its output."""
    script = f"echo output >&2; {POLITE}"
    with contextlib.suppress(FailedError):
        async with ProcessGroup(teardown=FOR_EVER) as group:
            running = asyncio.ensure_future(group.run("sh", "-c", script, stdout=witness.fd, check=check))
            assert await witness.line() == "ready"
            await until(lambda: not aiovfork.stats().in_flight)  # its worker may not know yet
            if way == "leave":
                raise FailedError
            await (task_cancelled(running) if way == "cancel" else group.stop())
    assert await witness.line() == "ending"
    assert witness.all_gone()
    if way != "cancel" and check:
        with pytest.raises(aiovfork.ProcessFailed) as raised:
            await running
        assert (raised.value.returncode, raised.value.stderr) == (7, b"output\n")
    elif way != "cancel":
        completed = await running
        assert (completed.returncode, completed.stderr) == (7, b"output\n")


@pytest.mark.parametrize("way", ["leave", "stop"])
async def test_a_run_that_ignores_the_signal(witness: Speakers, way: str) -> None:
    """The end of the group does not wait for the call of run(), nor that for the group, longer than patience."""
    with contextlib.suppress(FailedError):
        async with ProcessGroup(teardown=AT_ONCE) as group:
            running = asyncio.ensure_future(
                group.run("sh", "-c", STUBBORN, stdout=witness.fd, check=False, timeout=1000)
            )
            assert await witness.line() == "ready"
            await until(lambda: not aiovfork.stats().in_flight)
            if way == "leave":
                raise FailedError
            await group.stop()
    assert (await running).returncode == -signal.SIGKILL
    assert witness.all_gone()


@pytest.mark.parametrize("way", ["leave", "stop"])
async def test_a_run_under_way_is_abandoned(tmp_path: pathlib.Path, way: str) -> None:
    """A run() whose exec hangs when all are stopped raises RuntimeError; so does one that waits when all end."""
    async with held(tmp_path) as hold:
        with contextlib.suppress(FailedError):
            async with ProcessGroup(limit=1) as group:
                task = asyncio.ensure_future(group.run(hold.path))
                await child_in_window(hold)
                waiting = asyncio.ensure_future(group.run("echo", "text"))
                await rounds()
                if way == "leave":
                    raise FailedError
                await group.stop()
                assert (await waiting).stdout == b"text\n"
        with pytest.raises(RuntimeError, match="ProcessGroup"):
            await task
        if way == "leave":
            with pytest.raises(RuntimeError, match="ProcessGroup"):
                await waiting


@pytest.mark.parametrize("script", [STUBBORN, LEAVES_STUBBORN], ids=["alive", "left behind"])
async def test_a_second_cancellation_kills_a_run(witness: Speakers, script: str) -> None:
    """A cancellation while programs that are run are being ended kills them, and what they have started."""
    ready = asyncio.Event()

    async def body() -> None:
        async with ProcessGroup(teardown=FOR_EVER) as group:
            running.append(
                asyncio.ensure_future(group.run("sh", "-c", script, stdout=witness.fd, check=False))
            )
            assert await witness.line() in {"ready", "left"}
            ready.set()
            raise FailedError

    running: list[asyncio.Task[Any]] = []
    task = asyncio.ensure_future(body())
    await ready.wait()
    await rounds(10)
    await task_cancelled(task)
    assert witness.all_gone()
    with contextlib.suppress(RuntimeError):  # it was just being started
        assert (await running[0]).returncode in {-signal.SIGKILL, 0}


# ---- other trees ----


async def test_a_session(witness: Speakers) -> None:
    """With tree="session" each member leads a session, and descendants that change their group end with it."""
    script = "set -m; trap '' TERM; sh -c 'echo left; exec sleep 1000' & exit 0"
    async with ProcessGroup(teardown=Teardown(patience=0.01, tree="session")) as group:
        process = await group.start_shell(script, stdout=witness.fd)
        assert await witness.line() == "left"
        assert await process.wait() == 0
        done = await group.run("sh", "-c", "cut -d' ' -f6 /proc/$$/stat; echo $$")
        session, pid = done.stdout.split()
        assert session == pid
    assert witness.all_gone()


async def test_the_child_alone(witness: Speakers) -> None:
    """With tree=None the members alone are ended; descendants go on."""
    async with ProcessGroup(teardown=Teardown(tree=None)) as group:
        await group.start_shell("echo $$; exec sleep 1000", stdout=witness.fd)
        process = await group.start_shell("(echo $$; exec sleep 1000) & wait", stdout=witness.fd)
        await witness.lines(2)
        await group.stop()
        assert process.returncode == -signal.SIGTERM
    assert not witness.all_gone()
    os.killpg(process.pid, signal.SIGKILL)
    await witness.end()


async def test_a_cgroup(witness: Speakers) -> None:
    """With tree="cgroup" each member has a cgroup of its own, from which no descendant escapes."""
    try:
        Cgroup.create().remove()
    except OSError as exc:
        pytest.skip(f"cgroup v2 is not delegated here: {exc}")
    script = "setsid sh -c 'echo left; exec sleep 1000' & exit 0"
    async with ProcessGroup(teardown=Teardown(patience=1000, tree="cgroup")) as group:
        process = await group.start_shell(script, stdout=witness.fd)
        assert await witness.line() == "left"
        assert await process.wait() == 0
        assert not witness.all_gone()
    assert witness.all_gone()


# ---- what is kept ----


async def test_members_are_forgotten() -> None:
    """The group keeps nothing of a process that has exited, however many it starts."""
    async with ProcessGroup() as group:
        process = await group.start("true")
        known = weakref.ref(process)
        await process.wait()
        del process
        await rounds()
        gc.collect()
        assert known() is None


async def _run_many(number: int, script: str) -> None:
    async with ProcessGroup(limit=8) as group:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(number):
            await group.start_shell(script)
        while list(group):
            await next(iter(group)).wait()
        assert len(os.listdir("/proc/self/fd")) - before < 150


@pytest.mark.slow
@pytest.mark.parametrize("script", ["exit 0", "true & exit 0"], ids=["alone", "with descendants"])
async def test_ten_thousand_starts(script: str) -> None:
    """10,000 starts in one group leave nothing: no descriptor for each, nor where each has a descendant that ends later."""
    await _run_many(10_000, script)


async def test_many_short_descendants() -> None:
    """Descendants that outlive their leader, and end by themselves, are forgotten while the group goes on."""
    await _run_many(400, "true & exit 0")


@pytest.mark.usefixtures("by_number")
async def test_many_zombies() -> None:
    """Before Linux 6.9 every leader stays a zombie, until somebody has looked whether it has left descendants."""
    await _run_many(400, "exit 0")
    await _run_many(400, "true & exit 0")


# ---- those that live ----


async def test_signal(witness: Speakers) -> None:
    """signal() reaches every member with its descendants, and not those that have exited."""
    inner = "trap 'echo told; exit' USR1; echo ready; sleep 1000 & wait"
    script = f"trap 'echo told; exit' USR1; sh -c {shlex.quote(inner)} & wait"
    async with ProcessGroup() as group:
        await (await group.start("true")).wait()
        for _ in range(2):
            await group.start_shell(script, stdout=witness.fd)
        assert await witness.lines(2) == ["ready"] * 2
        group.signal(signal.SIGUSR1)
        assert await witness.lines(4) == ["told"] * 4


@pytest.mark.parametrize(("number", "error"), [(999, ValueError), (-1, ValueError), ("TERM", TypeError)])
async def test_a_wrong_signal(number: Any, error: type[Exception]) -> None:
    """A signal that does not exist is refused, whether somebody lives or not."""
    async with ProcessGroup() as group:
        with pytest.raises(error):
            group.signal(number)


async def test_stop_leaves_the_group_open(witness: Speakers) -> None:
    """stop() ends all, with what they have left behind; the group can start others."""
    async with ProcessGroup(teardown=FOR_EVER) as group:
        await group.stop()
        for _ in range(2):
            await (await group.start_shell(LEAVES_ONE, stdout=witness.fd)).wait()
            assert await witness.line() == "left"
            process = await group.start_shell(POLITE, stdout=witness.fd)
            assert await witness.line() == "ready"
            await asyncio.gather(group.stop(), group.stop())
            assert list(group) == []
            assert process.returncode == 7
            assert await witness.line() == "ending"
        assert witness.all_gone()


# ---- the end of everything ----


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
@pytest.mark.parametrize("closed_first", [False, True])
def test_a_destroyed_block(factory: LoopFactory, closed_first: bool) -> None:
    """A block whose coroutine is destroyed, before or after its loop is closed, kills and does not wait."""
    with Speakers() as witness:

        async def body() -> None:
            async with ProcessGroup(teardown=FOR_EVER) as group:
                await (await group.start_shell(LEAVES_STUBBORN, stdout=witness.fd)).wait()
                await group.start_shell(STUBBORN, stdout=witness.fd)
                assert sorted([await witness.line(), await witness.line()]) == ["left", "ready"]
                await asyncio.get_running_loop().create_future()

        loop = factory()
        loop.set_exception_handler(lambda _loop, context: None)  # "Task was destroyed but it is pending"
        with quiet_finalizers():
            coroutine = body()
            task = loop.create_task(coroutine)
            while loop.run_until_complete(asyncio.sleep(0)) is None and not _waits_for_ever(task):
                pass
            if closed_first:
                loop.close()
            coroutine.close()
            del task, coroutine
        if not closed_first:
            loop.close()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(witness.end())


def _waits_for_ever(task: asyncio.Task[None]) -> bool:
    frames = task.get_stack()
    return (
        bool(frames)
        and "create_future" in open(frames[-1].f_code.co_filename).readlines()[frames[-1].f_lineno - 1]
    )


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_block(factory: LoopFactory, kind: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit in the block end the processes, too, and come out."""
    with Speakers() as witness:

        async def body() -> None:
            async with ProcessGroup(teardown=FOR_EVER) as group:
                await group.start_shell(POLITE, stdout=witness.fd)
                assert await witness.line() == "ready"
                raise kind

        with asyncio.Runner(loop_factory=factory) as runner, pytest.raises(kind):
            runner.run(body())
        assert witness.all_gone()
