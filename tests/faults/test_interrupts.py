"""Exceptions that come from nowhere: between any two byte codes of a delivery, and of a submission."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Coroutine
from types import CodeType, FrameType
from typing import Any

import psutil
import pytest

import aiovfork
from aiovfork import _ptmx, _running, _terminal
from aiovfork._collection import Collection
from aiovfork._options import Command
from aiovfork._plan import build
from aiovfork._port import CompletionPort
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES, LoopFactory

PACKAGE = os.path.dirname(aiovfork.__file__)
PIPE = asyncio.subprocess.PIPE


class Interrupt:
    """Raises once, before the n-th byte code of aiovfork in the calls of one function."""

    def __init__(self, inside: CodeType, number: int, exc: type[BaseException]) -> None:
        self.left = number
        self._inside = inside
        self._exc = exc
        self._depth = 0

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        """sys.settrace: follow the function, and what it calls of aiovfork."""
        if frame.f_code is self._inside:
            self._depth += 1
        elif not self._depth or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        if event == "opcode":
            self.left -= 1
            if not self.left:
                sys.settrace(None)
                raise self._exc
        elif event == "return" and frame.f_code is self._inside:
            self._depth -= 1
        return self._step


class Told(asyncio.SubprocessProtocol):
    """Notes what it is told, but for output."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.end = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The child runs."""
        self.calls.append("made")

    def process_exited(self) -> None:
        """It has exited."""
        self.calls.append("exited")

    def connection_lost(self, exc: Exception | None) -> None:
        """The last call."""
        self.calls.append("lost")
        self.end.set_result(None)


async def protocols() -> Any:
    """Children of protocols, with a pipe and without."""
    told = []
    for stdout in (None, PIPE):
        _, protocol = await aiovfork.subprocess_exec(Told, "true", stdin=None, stdout=stdout, stderr=None)
        await protocol.end
        told += protocol.calls
    return told


async def processes() -> Any:
    """Children with streams, several at once."""
    children = [aiovfork.create_subprocess_exec("echo", "said", stdout=PIPE) for _ in range(2)]
    found = [await process.communicate() for process in await asyncio.gather(*children)]
    silent = await aiovfork.create_subprocess_exec("true")
    return [*(output for output, _ in found), await silent.wait()]


async def failures() -> Any:
    """A program that is not there, and one that is given up."""
    missing = asyncio.ensure_future(aiovfork.create_subprocess_exec("/no/such/program", stdout=PIPE))
    given_up = asyncio.ensure_future(aiovfork.create_subprocess_exec("sleep", "1000", stdin=PIPE))
    await asyncio.sleep(0)
    given_up.cancel()
    found = await asyncio.gather(missing, given_up, return_exceptions=True)
    return [type(exc).__name__ for exc in found]


async def runs() -> Any:
    """Programs that are run from start to end, and one that is not there."""
    runs = [aiovfork.run("echo", "said"), aiovfork.run("sh", "-c", "exit 3", check=False)]
    echo, failed = await asyncio.gather(*runs)
    try:
        await aiovfork.run("/no/such/program")
    except OSError as exc:
        return [echo.stdout, failed.returncode, type(exc).__name__]


async def members() -> Any:
    """Members of a group, one at a time: one that is not there, one that leaves a descendant, one more."""
    async with aiovfork.ProcessGroup(limit=1) as group:
        missing = asyncio.ensure_future(group.start("/no/such/program"))
        first = asyncio.ensure_future(group.start_shell("sleep 1000 & exit 3"))
        (error,) = await asyncio.gather(missing, return_exceptions=True)
        second = await group.start("true")
    return [type(error).__name__, (await first).returncode, second.returncode]


async def observed() -> Any:
    """What a callback of on_event() is told of a child, and of one that does not come to be."""
    events: list[aiovfork.Event] = []
    with aiovfork.on_event(events.append):
        await (await aiovfork.create_subprocess_exec("true")).wait()
        with contextlib.suppress(FileNotFoundError):
            await aiovfork.create_subprocess_exec("/no/such/program")
        await told_of(events, 3)
    return [type(event).__name__ for event in events]


async def told_of(events: list[aiovfork.Event], count: int) -> None:
    """Wait for what an interrupt has kept back: it is told in the loop's next round."""
    for _ in range(1000):
        if len(events) >= count:
            break
        await asyncio.sleep(0)


async def observed_runs() -> Any:
    """The output of run(), small and so large that it is copied off the loop, and what a callback is told."""
    events: list[aiovfork.Event] = []
    with aiovfork.on_event(events.append):
        small = await aiovfork.run("echo", "said")
        large = await aiovfork.run("head", "-c", "100000", "/dev/zero")
        await told_of(events, 4)
    return [small.stdout, len(large.stdout), *(type(event).__name__ for event in events)]


async def survivors() -> Any:
    """A child that has left a descendant behind, which is still reached when it is stopped."""
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", "sleep 1000 > /dev/null & echo $!", stdout=PIPE, process_group=0
    ) as process:
        output, _ = await process.communicate()
        await process.stop(patience=1000)
        descendant = int(output)
        try:
            alive = psutil.Process(descendant).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            alive = False
    return [alive]


SCENARIOS: list[tuple[Callable[[], Coroutine[Any, Any, Any]], list[Any]]] = [
    (protocols, ["made", "exited", "lost"] * 2),
    (processes, [b"said\n", b"said\n", 0]),
    (failures, ["SpawnFileNotFoundError", "CancelledError"]),
    (runs, [b"said\n", 3, "SpawnFileNotFoundError"]),
    (survivors, [False]),
    (members, ["SpawnFileNotFoundError", 3, 0]),
    (observed, ["SpawnedEvent", "ExitedEvent", "FailedEvent"]),
    (observed_runs, [b"said\n", 100_000, *["SpawnedEvent", "ExitedEvent"] * 2]),
]


def left_over(descriptors: int) -> list[int]:
    """How many descriptors there are beyond so many, children, and spawns under way; empty if none of them."""
    stats = aiovfork.stats()
    found = [len(os.listdir("/proc/self/fd")) - descriptors, stats.alive, stats.in_flight]
    return found if any(found) else []


def with_interrupts(
    factory: LoopFactory,
    scenario: Callable[[], Coroutine[Any, Any, Any]],
    expected: list[Any],
    function: Callable[..., Any],
    exc: type[BaseException],
    stride: int = 1,
) -> int:
    """Run a scenario again and again, each time with an exception some byte codes later; return how many."""
    with contextlib.ExitStack() as at_end:
        runner = at_end.enter_context(asyncio.Runner(loop_factory=factory))
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: None)
        # Since 3.12 Python tells of byte codes only from the second call of a traced function on.
        sys.settrace(Interrupt(function.__code__, sys.maxsize, exc).trace)
        runner.run(scenario())
        sys.settrace(None)
        descriptors = len(os.listdir("/proc/self/fd"))
        gc.collect()
        gc.freeze()  # what there is already is not looked at again and again
        at_end.callback(gc.unfreeze)
        number = 0
        while True:
            number += stride
            interrupt = Interrupt(function.__code__, number, exc)
            task = loop.create_task(scenario())
            before = sys.gettrace()
            gc.collect()
            gc.disable()  # Python ignores what is raised in a __del__ of the run before
            sys.settrace(interrupt.trace)
            try:
                loop.run_until_complete(task)
            except exc:
                assert not interrupt.left
            finally:
                sys.settrace(before)
                gc.enable()
            assert loop.run_until_complete(task) == expected, f"with an exception at byte code {number}"
            for _ in range(100_000):  # what was given up is closed and reaped in a few rounds
                if not left_over(descriptors):
                    break
                loop.run_until_complete(asyncio.sleep(0))
            assert not left_over(descriptors), f"at byte code {number}"
            if interrupt.left > 0:
                return number


@pytest.mark.parametrize(
    ("exc", "stride"),
    [
        (KeyboardInterrupt, 11),
        pytest.param(KeyboardInterrupt, 2, marks=pytest.mark.slow),
        pytest.param(MemoryError, 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("scenario", "expected"), SCENARIOS, ids=lambda value: getattr(value, "__name__", "")
)
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_in_a_delivery(
    factory: LoopFactory,
    scenario: Callable[[], Coroutine[Any, Any, Any]],
    expected: list[Any],
    exc: type[BaseException],
    stride: int,
) -> None:
    """An exception before any byte code of a delivery loses no event, tells none twice and leaks nothing."""
    assert with_interrupts(factory, scenario, expected, CompletionPort._drain, exc, stride) > 100


async def one_process() -> Any:
    """A child, whose start may be interrupted."""
    try:
        process = await aiovfork.create_subprocess_exec("true", stdout=PIPE)
    except KeyboardInterrupt:
        return ["interrupted"]
    await process.communicate()
    return ["interrupted"]


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_in_a_submission(factory: LoopFactory) -> None:
    """An exception before any byte code of a submission leaves no child that nobody owns, and no descriptor."""
    assert (
        with_interrupts(factory, one_process, ["interrupted"], CompletionPort.submit, KeyboardInterrupt) > 10
    )


async def one_terminal() -> Any:
    """A child on a terminal, whose start may be interrupted."""
    with contextlib.suppress(KeyboardInterrupt):
        async with await aiovfork.create_subprocess_exec("echo", "said", pty=True) as process:
            assert process.pty is not None
            await process.pty.reader.read()
            await process.wait()
    return ["interrupted"]


async def run_on_terminal() -> Any:
    """A run on a terminal, which may be interrupted."""
    with contextlib.suppress(KeyboardInterrupt):
        await aiovfork.run("echo", "said", pty=True)
    return ["interrupted"]


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("scenario", "function"),
    [
        (one_terminal, _ptmx.open_terminal),
        (run_on_terminal, _ptmx.open_terminal),
        (one_terminal, _terminal.Terminal.connect),
    ],
    ids=["process", "run", "connect"],
)
@pytest.mark.filterwarnings("ignore:.*was never awaited")  # interrupted between its call and its await
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_in_a_terminals_life(
    factory: LoopFactory,
    scenario: Callable[[], Coroutine[Any, Any, Any]],
    function: Callable[..., Any],
    stride: int,
) -> None:
    """An exception before any byte code that makes or connects a terminal leaves no side of it open."""
    assert with_interrupts(factory, scenario, ["interrupted"], function, KeyboardInterrupt, stride) > 10


#: In the environment of whatever a run starts, and of what that starts.
MARK = "STARTED_BY_THE_TEST"


def living() -> list[int]:
    """The processes that a run has started, and their descendants."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get(MARK) == str(os.getpid())
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


async def ended_run(command: str, **options: Any) -> Any:
    """A run, which may be interrupted, or end as it should."""
    with contextlib.suppress(KeyboardInterrupt, aiovfork.ProcessTimeout, aiovfork.ProcessFailed):
        await aiovfork.run_shell(command, env={**os.environ, MARK: str(os.getpid())}, **options)
    return ["interrupted"]


async def short_run() -> Any:
    """One that ends by itself."""
    return await ended_run("echo said")


async def late_run() -> Any:
    """One that is stopped, with a descendant."""
    return await ended_run("sleep 1000 & sleep 1000", timeout=0.01)


async def failed_run() -> Any:
    """One whose descendant is stopped when it has failed."""
    return await ended_run("sleep 1000 & exit 1", drain_timeout=0)


@pytest.mark.parametrize(
    ("scenario", "stride"),
    [
        (short_run, 53),
        pytest.param(short_run, 3, marks=pytest.mark.slow),
        pytest.param(late_run, 41, marks=pytest.mark.slow),
        pytest.param(failed_run, 97, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was never awaited")  # interrupted between its call and its await
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_in_a_run(
    factory: LoopFactory, scenario: Callable[[], Coroutine[Any, Any, Any]], stride: int
) -> None:
    """An exception before any byte code of run() leaves no process, no descriptor and nobody who waits for one."""
    assert (
        with_interrupts(factory, scenario, ["interrupted"], _running.complete, KeyboardInterrupt, stride)
        > 100
    )
    while living():  # what was killed, and nobody waited for, may be about to die
        os.sched_yield()


async def one_capture() -> Any:
    """A child whose output is collected, given up once, and collected again."""
    async with await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE) as process:
        for rounds in (3, 1000):
            task = asyncio.ensure_future(process.communicate(b"x" * 100_000))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
    return ["ended"]


@pytest.mark.parametrize("function", [Collection.start, Collection.stop], ids=["start", "stop"])
@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_in_a_loan(factory: LoopFactory, function: Callable[..., Any]) -> None:
    """An exception before any byte code, where pipes go to the collector and come back, leaves none of them open."""
    assert with_interrupts(factory, one_capture, ["ended"], function, KeyboardInterrupt, stride=3) > 5


class NoSink:
    """Would be told of a child."""

    def spawned(self, event: object) -> None:
        """The child runs."""

    def failed(self, error: int, step: int, status: int) -> None:
        """There is none."""

    def exited(self, event: object) -> None:
        """It has exited."""


def no_child() -> bool:
    """Whether this process has neither a child nor a zombie."""
    return not psutil.Process().children()


@pytest.mark.parametrize("closed", ["by its loop", "by the collector"])
def test_a_port_that_ends_before_the_exit_of_a_stray(closed: str) -> None:
    """A child that nobody owns is killed as soon as the port hears of it, and reaped though the port ends then."""

    async def leave_a_stray() -> None:
        port = port_of(asyncio.get_running_loop())
        ticket = port.submit(build(Command(("sleep", "1000"), None, None, None)), NoSink())
        del port._sinks[ticket]  # as after an exception between avf_spawn() and the note of the sink
        while not aiovfork.stats().alive > before.alive:
            port._drain()
        if closed == "by its loop":
            port.close()
        else:
            port._finalizer()

    before = aiovfork.stats()
    asyncio.run(leave_a_stray())
    while aiovfork.stats().abandoned == before.abandoned or not no_child():
        os.sched_yield()
    assert aiovfork.stats().alive == before.alive
