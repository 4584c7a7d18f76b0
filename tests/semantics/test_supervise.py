"""supervise(): keeps one program running, by a policy, and ends it with the block.

Nothing waits by the clock: backoffs are of no time, or of so much that a test that waits for one would hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import aiovfork
from aiovfork import PIPE, Process, SupervisorEvent, Teardown, supervise
from tests.support.backends import LOOP_FACTORIES, LoopFactory
from tests.support.finalizers import quiet_finalizers
from tests.support.hold import held
from tests.support.speakers import Speakers
from tests.support.window import child_in_window, rounds, task_cancelled, until

AT_ONCE = (0.0, 0.0, 1.0)
FOR_EVER = (1000.0, 1000.0, 1.0)
PATIENT = Teardown(patience=1000)
# Ends by SIGTERM, and says so. It is ready once its descendant is, which SIGTERM ends too.
POLITE = "trap 'echo ending; exit 7' TERM; sh -c 'echo ready; exec sleep 1000' & wait"
DEFIANT = (
    "trap 'echo told' TERM; sh -c 'trap \"\" TERM; echo ready; exec sleep 1000' & while :; do wait; done"
)


@pytest.fixture
def witness() -> Iterator[Speakers]:
    """A pipe for all that a test starts."""
    with Speakers() as witness:
        yield witness


class Events:
    """Notes what a supervisor tells."""

    def __init__(self) -> None:
        self.told: list[SupervisorEvent] = []

    def __call__(self, event: SupervisorEvent) -> None:
        """Note an event."""
        self.told.append(event)

    @property
    def kinds(self) -> list[str]:
        """What has happened."""
        return [event.kind for event in self.told]


async def test_it_is_started_again(witness: Speakers) -> None:
    """A program that ends is started again, whatever its return code; leaving the block ends it."""
    events = Events()
    async with supervise("sh", "-c", POLITE, stdout=witness.fd, backoff=AT_ONCE, on_event=events) as helper:
        seen = []
        for number in range(3):
            process = await helper.ready()
            assert helper.process is process
            assert helper.restarts == number
            assert await witness.line() == "ready"
            seen.append(process)
            if number < 2:
                process.kill()
                await process.wait()
        assert len({process.pid for process in seen}) == 3
    assert helper.process is None
    assert seen[-1].returncode == 7
    assert await helper.wait() == 7
    assert await witness.line() == "ending"
    assert witness.all_gone()
    assert events.kinds == ["started", "ready", "exited", "waiting"] * 2 + ["started", "ready", "over"]
    assert [event.process for event in events.told if event.kind == "exited"] == seen[:2]


@pytest.mark.parametrize(
    ("restart", "code", "runs"),
    [
        ("always", 0, 4),
        ("always", 3, 4),
        ("on-failure", 0, 1),
        ("on-failure", 3, 4),
        ("never", 0, 1),
        ("never", 3, 1),
    ],
)
async def test_the_policies(restart: Any, code: int, runs: int) -> None:
    """always, on-failure and never do what they say; max_restarts bounds the restarts; wait() tells the end."""
    events = Events()
    async with supervise(
        "sh", "-c", f"exit {code}", restart=restart, backoff=AT_ONCE, max_restarts=3, on_event=events
    ) as helper:
        assert await helper.wait() == code
        assert helper.restarts == runs - 1
        with pytest.raises(RuntimeError, match="not kept running"):
            await helper.ready()
    assert events.kinds.count("started") == runs
    assert events.kinds[-2:] == ["exited", "over"]


@pytest.mark.parametrize(("restart", "runs"), [("always", 3), ("on-failure", 3), ("never", 1)])
async def test_a_program_that_cannot_be_started(restart: Any, runs: int) -> None:
    """A failed exec is a failure like another: the policy decides, and wait() raises the SpawnError."""
    events = Events()
    async with supervise(
        "/no/such/program", restart=restart, backoff=AT_ONCE, max_restarts=2, on_event=events
    ) as helper:
        with pytest.raises(aiovfork.SpawnError, match="/no/such/program"):
            await helper.wait()
        with pytest.raises(RuntimeError) as raised:
            await helper.ready()
    assert isinstance(raised.value.__cause__, FileNotFoundError)
    assert [kind for kind in events.kinds if kind != "waiting"] == ["failed"] * runs + ["over"]
    assert isinstance(events.told[0].error, FileNotFoundError)


async def test_a_program_that_can_be_started_later(tmp_path: pathlib.Path) -> None:
    """What cannot be started now is tried again, and runs once it can."""
    program = tmp_path / "program"

    def install(event: SupervisorEvent) -> None:
        if event.kind == "waiting":
            program.symlink_to("/bin/cat")

    async with supervise(program, stdin=PIPE, backoff=AT_ONCE, on_event=install) as helper:
        process = await helper.ready()
        assert process.returncode is None
        assert helper.restarts == 1


async def test_the_backoff_grows() -> None:
    """The delays begin with the first, grow by the factor, and end at the longest."""
    events = Events()
    backoff = (0.001, 0.005, 2.0)
    async with supervise("false", backoff=backoff, max_restarts=5, on_event=events) as helper:
        assert await helper.wait() == 1
    delays = [event.delay for event in events.told if event.kind == "waiting"]
    assert delays == pytest.approx([0.001, 0.002, 0.004, 0.005, 0.005])


async def test_a_calm_run_resets_the_backoff() -> None:
    """After a run of calm seconds, the delays and the count of restarts begin again."""
    events = Events()
    backoff = (0.001, 1.0, 2.0)
    async with supervise("false", backoff=backoff, calm=0, max_restarts=1, on_event=events) as helper:
        await until(lambda: helper.restarts >= 4)
    assert {event.delay for event in events.told if event.kind == "waiting"} == {0.001}


# ---- ready ----


async def test_ready_is_waited_for() -> None:
    """The program is ready when the coroutine function `ready` has returned; it gets the process."""

    async def says_so(process: Process) -> None:
        assert process.stdout is not None
        assert helper.process is process
        assert await process.stdout.readline() == b"go\n"

    async with supervise("cat", stdin=PIPE, stdout=PIPE, ready=says_so) as helper:
        waiting = [asyncio.ensure_future(helper.ready()) for _ in range(2)]
        await until(lambda: helper.process)
        await rounds()
        assert not any(task.done() for task in waiting)
        assert helper.process is not None
        assert helper.process.stdin is not None
        helper.process.stdin.write(b"go\n")
        assert await asyncio.gather(*waiting) == [helper.process] * 2


async def test_a_plain_function_may_say_ready() -> None:
    """`ready` may be a plain function: the program is ready when it has returned."""
    seen: list[Process] = []
    async with supervise("cat", stdin=PIPE, ready=seen.append) as helper:
        assert seen == [await helper.ready()]


@pytest.mark.parametrize("is_async", [False, True])
async def test_one_that_is_never_ready(witness: Speakers, is_async: bool) -> None:
    """If `ready` raises, the program is ended, and has failed."""

    class NotReadyError(Exception):
        pass

    def refuse(process: Process) -> None:
        raise NotReadyError

    async def refuse_later(process: Process) -> None:
        assert await witness.line() == "ready"
        raise NotReadyError

    events = Events()
    async with supervise(
        "sh",
        "-c",
        POLITE,
        stdout=witness.fd,
        restart="never",
        ready=refuse_later if is_async else refuse,
        on_event=events,
        teardown=Teardown(patience=0.01),
    ) as helper:
        with pytest.raises(NotReadyError):
            await helper.wait()
        assert witness.all_gone()
    assert events.kinds == ["started", "failed", "over"]
    assert isinstance(events.told[1].error, NotReadyError)


async def test_one_that_ends_before_it_is_ready() -> None:
    """A program that ends before it is ready has failed, even with 0; `ready` is cancelled, and may clean up."""
    ends = []

    async def never(process: Process) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ends.append(process.returncode)

    async with supervise(
        "true", restart="on-failure", ready=never, backoff=AT_ONCE, max_restarts=2
    ) as helper:
        with pytest.raises(RuntimeError, match="return code 0"):
            await helper.wait()
    assert ends == [0] * 3


# ---- leaving ----


@pytest.mark.parametrize("when", ["starting", "getting ready", "ready", "waiting"])
@pytest.mark.parametrize("how", ["left", "failed", "cancelled"])
async def test_leaving_at_any_time(tmp_path: pathlib.Path, witness: Speakers, when: str, how: str) -> None:
    """Whatever the supervisor does when the block is left, nothing of the program is left then."""

    class FailedError(Exception):
        pass

    async def never(process: Process) -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    def note(event: SupervisorEvent) -> None:
        if event.kind == when:
            reached.set()

    async def body(program: str) -> None:
        async with supervise(
            program,
            *("-c", "echo $$; exit 1" if when == "waiting" else "echo $$; sleep 1000 & wait"),
            stdout=witness.fd,
            backoff=FOR_EVER,
            ready=never if when == "getting ready" else None,
            on_event=note,
            teardown=PATIENT,
        ):
            await reached.wait()
            if how == "failed":
                raise FailedError
            if how == "cancelled":
                task.cancel()
                await asyncio.sleep(1000)

    reached = asyncio.Event()
    async with held(tmp_path, "sh") if when == "starting" else contextlib.nullcontext() as hold:
        task = asyncio.ensure_future(body("sh" if hold is None else hold.path))
        if hold is not None:
            await child_in_window(hold)
            reached.set()
        await asyncio.wait([task])
        assert witness.all_gone()
    if how == "failed":
        assert isinstance(task.exception(), FailedError)
    elif how == "cancelled":
        assert task.cancelled()
    else:
        task.result()


@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_a_second_cancellation_kills(witness: Speakers, how: str) -> None:
    """A cancellation while the program is being ended kills it at once."""
    seen = []
    heard = asyncio.Event()

    async def body() -> None:
        async with supervise("sh", "-c", DEFIANT, stdout=witness.fd, teardown=PATIENT) as helper:
            seen.append(await helper.ready())
            assert await witness.line() == "ready"
            heard.set()
            if how == "cancelled":
                task.cancel()
                await asyncio.sleep(1000)

    task = asyncio.ensure_future(body())
    await heard.wait()
    assert await witness.line() == "told"
    await task_cancelled(task)
    assert seen[0].returncode == -signal.SIGKILL
    assert witness.all_gone()


async def test_a_scope_of_anyio(witness: Speakers) -> None:
    """A cancelled scope of anyio ends the program politely."""
    with anyio.CancelScope() as scope:
        async with supervise("sh", "-c", POLITE, stdout=witness.fd, teardown=PATIENT) as helper:
            process = await helper.ready()
            assert await witness.line() == "ready"
            scope.cancel()
            await anyio.sleep(1000)
    assert scope.cancelled_caught
    assert process.returncode == 7


async def test_what_a_run_leaves_is_ended_before_the_next(witness: Speakers) -> None:
    """Descendants that a run has left behind are gone when the next one starts."""
    gone = []

    def note(event: SupervisorEvent) -> None:
        if event.kind == "exited":
            gone.append(witness.all_gone())

    script = "trap '' TERM; sleep 1000 & exit 0"
    async with supervise(
        "sh",
        "-c",
        script,
        stdout=witness.fd,
        restart="never",
        on_event=note,
        teardown=Teardown(patience=0.01),
    ) as helper:
        assert await helper.wait() == 0
    assert gone == [True]


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
@pytest.mark.parametrize("closed_first", [False, True])
def test_a_destroyed_block(factory: LoopFactory, closed_first: bool) -> None:
    """A block that is destroyed ends the program when the loop runs on; a loop that is closed has killed it."""
    script = DEFIANT if closed_first else POLITE
    with Speakers() as witness:

        async def body() -> None:
            async with supervise("sh", "-c", script, stdout=witness.fd, teardown=PATIENT) as helper:
                await helper.ready()
                assert await witness.line() == "ready"
                reached.append(True)
                await asyncio.get_running_loop().create_future()

        reached: list[bool] = []
        loop = factory()
        loop.set_exception_handler(lambda _loop, context: None)  # "Task was destroyed but it is pending"
        with quiet_finalizers():
            coroutine = body()
            task = loop.create_task(coroutine)
            loop.run_until_complete(until(lambda: reached))
            if closed_first:
                loop.close()
            coroutine.close()
            del task, coroutine
        if not closed_first:
            loop.run_until_complete(witness.end())
            loop.close()
        else:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(witness.end())


# ---- what an application does wrong ----


async def test_a_callback_that_raises() -> None:
    """What on_event raises goes to the exception handler of the loop; the program is kept running."""

    def fail(event: SupervisorEvent) -> None:
        raise ValueError(event.kind)

    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: contexts.append(context))
    async with supervise("true", restart="never", on_event=fail) as helper:
        assert await helper.wait() == 0
    assert [str(context["exception"]) for context in contexts] == ["started", "ready", "exited", "over"]


async def test_an_argument_that_cannot_be_had() -> None:
    """A NUL in an argument is no failure of a run, but an error that ready(), wait() and the block raise."""
    with pytest.raises(ValueError, match="null"):  # noqa: PT012  # it comes out of the block
        async with supervise("true", "nul\0") as helper:
            with pytest.raises(ValueError, match="null"):
                await helper.wait()
            with pytest.raises(RuntimeError):
                await helper.ready()


async def test_only_in_the_block() -> None:
    """Outside of the block nothing is ready; a Supervisor can be entered once."""
    helper = supervise("cat", stdin=PIPE)
    with pytest.raises(RuntimeError, match="not kept running"):
        await helper.ready()
    async with helper:
        await helper.ready()
    with pytest.raises(RuntimeError, match="not kept running"):
        await helper.ready()
    with pytest.raises(RuntimeError, match="once"):
        await helper.__aenter__()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"restart": "sometimes"}, ValueError),
        ({"backoff": (1, 2)}, ValueError),
        ({"backoff": (2, 1, 1)}, ValueError),
        ({"backoff": (1, 2, 0.5)}, ValueError),
        ({"backoff": (1, math.inf, 2)}, ValueError),
        ({"backoff": (1, math.nan, 2)}, ValueError),
        ({"backoff": "fast"}, ValueError),
        ({"calm": -1}, ValueError),
        ({"calm": math.nan}, ValueError),
        ({"max_restarts": -1}, ValueError),
        ({"max_restarts": 1.5}, TypeError),
        ({"ready": 1}, TypeError),
        ({"on_event": 1}, TypeError),
        ({"spawn_timeout": -1}, ValueError),
        ({"pipesize": "big"}, TypeError),
        ({"limit": 0}, ValueError),
        ({"limit": -5}, ValueError),
        ({"limit": "x"}, TypeError),
        ({"teardown": "group"}, TypeError),
        ({"teardown": None}, TypeError),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], error: type[Exception]) -> None:
    """A wrong argument is refused by the call, and not in each run."""
    with pytest.raises(error):
        supervise("true", **wrong)
