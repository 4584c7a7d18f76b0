"""Output that the collector reads for communicate() and read(): the same bytes, whatever was done before.

Each test runs on our Process; where asyncio's can do it as well, on that of a plugged loop, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import aiovfork
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES, PIPES, PLAIN, WAYS
from tests.support.finalizers import quiet_finalizers
from tests.support.window import rounds, until

PIPE = asyncio.subprocess.PIPE
MIB = 2**20
Create = Callable[..., Coroutine[Any, Any, Any]]

#: Our function on plain loops, asyncio's on plugged ones.
WAYS_TO_CREATE: dict[str, tuple[Any, Create]] = {
    **{f"ours-{name}": (factory, aiovfork.create_subprocess_exec) for name, factory in PLAIN.items()},
    **{way: (factory, asyncio.create_subprocess_exec) for way, factory in WAYS.items()},
}


@pytest.fixture(params=WAYS_TO_CREATE)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Create], Coroutine[Any, Any, None]]], None]:
    """Runs a body on each loop, with the function that creates a process there."""
    factory, create = WAYS_TO_CREATE[request.param]

    def run_body(body: Callable[[Create], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body(create))

    return run_body


Run = Callable[[Callable[[Create], Coroutine[Any, Any, None]]], None]


async def cancelled(coroutine: Coroutine[Any, Any, Any], turns: int = 3) -> None:
    """Start a coroutine, and cancel it after some rounds of the loop."""
    task = asyncio.ensure_future(coroutine)
    await rounds(turns)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def watched(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note what the loop is asked to watch from now on."""
    fds: list[int] = []
    port_of(loop)
    for name in ("add_reader", "add_writer"):
        method = getattr(loop, name)

        def noting(fd: int, *args: Any, method: Any = method) -> Any:
            fds.append(fd)
            return method(fd, *args)

        monkeypatch.setattr(loop, name, noting)
    return fds


# ---- who reads ----


@pytest.mark.parametrize("data", [None, b"small"])
async def test_the_loop_watches_no_pipe(monkeypatch: pytest.MonkeyPatch, data: bytes | None) -> None:
    """Pipes that are only captured, and little input, cost the loop no reader and no writer."""
    fds = watched(asyncio.get_running_loop(), monkeypatch)
    process = await aiovfork.create_subprocess_exec("cat", **PIPES)
    assert await process.communicate(data) == (data or b"", b"")
    assert not fds


@pytest.mark.parametrize("factory", WAYS.values(), ids=WAYS)
def test_the_loop_watches_no_output(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a plugged loop that holds for the output of asyncio's communicate(), too, and for read()."""

    async def body() -> None:
        fds = watched(asyncio.get_running_loop(), monkeypatch)
        process = await asyncio.create_subprocess_exec("echo", "out", stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out\n", b"")
        process = await asyncio.create_subprocess_exec("echo", "out", stdout=PIPE)
        assert process.stdout is not None
        assert await process.stdout.read() == b"out\n"
        await process.wait()
        assert not fds

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


async def test_an_untouched_child_is_read() -> None:
    """Where nobody asks for the output, the loop reads it soon, as asyncio: a child may write up to the limit."""
    script = "head -c 300000 /dev/zero; echo done >&2"
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", script, stdout=PIPE, stderr=PIPE, limit=2**19
    ) as process:
        assert await process.wait() == 0
        assert await process.communicate() == (bytes(300_000), b"done\n")


# ---- whole and in order ----


def test_huge_input_and_output_at_once(run: Run) -> None:
    """What goes through cat comes out the same, however large, in both directions at once."""
    data = random.Random(1).randbytes(24 * MIB)  # noqa: S311

    async def body(create: Create) -> None:
        process = await create("cat", **PIPES)
        stdout, stderr = await process.communicate(data)
        assert hashlib.sha256(stdout).digest() == hashlib.sha256(data).digest()
        assert (stderr, process.returncode) == (b"", 0)
        assert await process.stdout.read() == b""
        assert process.stdout.at_eof()
        assert process.stdin.is_closing()

    run(body)


def test_both_outputs_at_once(run: Run) -> None:
    """Neither stream waits for the other."""
    script = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo end >&2"

    async def body(create: Create) -> None:
        process = await create("sh", "-c", script, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (bytes(3_000_000), bytes(3_000_000) + b"end\n")

    run(body)


def test_readline_then_communicate(run: Run) -> None:
    """communicate() returns what comes after the lines that were read, buffered or not."""
    script = "echo one; echo two; read go; head -c 200000 /dev/zero; echo err >&2"

    async def body(create: Create) -> None:
        process = await create("sh", "-c", script, **PIPES)
        assert await process.stdout.readline() == b"one\n"
        assert await process.communicate(b"\n") == (b"two\n" + bytes(200_000), b"err\n")

    run(body)


def test_a_full_buffer_then_read(run: Run) -> None:
    """A reader whose pipe is paused, since its buffer is full, gives all of it to read()."""
    script = "head -c 400000 /dev/zero; echo end"

    async def body(create: Create) -> None:
        process = await create("sh", "-c", script, stdout=PIPE, limit=1000)
        pipe = process._transport.get_pipe_transport(1)
        await until(lambda: not pipe.is_reading())
        assert await process.stdout.readexactly(10) == bytes(10)
        assert await process.stdout.read() == bytes(399_990) + b"end\n"
        assert await process.wait() == 0

    run(body)


def test_written_before_communicate(run: Run) -> None:
    """What was written to stdin before, and did not fit into the pipe, comes before the input."""

    async def body(create: Create) -> None:
        process = await create("sh", "-c", "read go; cat", **PIPES)
        for piece in (b"\n", b"1" * 200_000, b"2" * 200_000):
            process.stdin.write(piece)
        assert await process.communicate(b"3" * 200_000) == (
            b"1" * 200_000 + b"2" * 200_000 + b"3" * 200_000,
            b"",
        )

    run(body)


async def test_closed_before_communicate() -> None:
    """stdin that was closed with something still to be written is written to its end."""
    process = await aiovfork.create_subprocess_exec("sh", "-c", "read go; cat", **PIPES)
    assert process.stdin is not None
    process.stdin.write(b"\n" + b"1" * 300_000)
    process.stdin.close()
    assert await process.communicate(b"nobody reads this") == (b"1" * 300_000, b"")


async def test_input_may_change_afterwards() -> None:
    """communicate() takes a snapshot of a bytearray, and of a memoryview of one."""
    for kind in (bytearray, memoryview):
        data = bytearray(b"x" * 300_000)
        process = await aiovfork.create_subprocess_exec("sh", "-c", "sleep 0; cat", **PIPES)
        communicating = asyncio.ensure_future(process.communicate(kind(data)))
        await rounds(1)
        data[:] = b"y" * len(data)
        assert await communicating == (b"x" * 300_000, b"")


# ---- children that behave badly ----


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exec >&-; cat >&2", (b"", b"x" * 300_000)),
        ("exec <&-; echo out", (b"out\n", b"")),
        ("echo out; exec >&-; exec 2>&-; head -c 1 >/dev/null", (b"out\n", b"")),
        ("true", (b"", b"")),
    ],
    ids=["closes stdout early", "closes stdin", "closes all output", "never reads"],
)
def test_pipes_that_end_early(run: Run, script: str, expected: tuple[bytes, bytes]) -> None:
    """Each pipe may end when it likes; input that nobody wants is no error."""

    async def body(create: Create) -> None:
        process = await create("sh", "-c", script, **PIPES)
        assert await process.communicate(b"x" * 300_000) == expected
        assert process.returncode == 0

    run(body)


async def test_a_stdin_that_breaks() -> None:
    """wait_closed() of stdin tells that the child did not take its input, or that it did."""
    process = await aiovfork.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    await process.communicate(b"x" * 300_000)
    assert process.stdin is not None
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await process.stdin.wait_closed()
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    await process.communicate(b"x" * 300_000)
    assert process.stdin is not None
    await process.stdin.wait_closed()


@pytest.mark.parametrize("patience", [0, 0.01, -1])
async def test_drain_timeout(patience: float) -> None:
    """With drain_timeout communicate() returns though a grandchild keeps the pipes, with all the child wrote."""
    child_end, parent_end = os.pipe()
    script = f"echo out; cat </dev/fd/{child_end} & head -c 60000 /dev/zero >&2; exit 3"
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", script, **PIPES, pass_fds=[child_end]
    ) as process:
        os.close(child_end)
        output = await process.communicate(b"x" * 300_000, drain_timeout=patience)
        assert output == (b"out\n", bytes(60_000))
        assert process.returncode == 3
        assert await process.communicate(drain_timeout=patience) == (b"", b"")
        await until(process._transport.is_closing)
    os.close(parent_end)


async def test_without_drain_timeout() -> None:
    """communicate() waits for a grandchild that holds the pipe, and returns what it wrote as well."""
    child_end, parent_end = os.pipe()
    script = f"echo out; (read line; echo later) </dev/fd/{child_end} & exit 0"
    process = await aiovfork.create_subprocess_exec("sh", "-c", script, stdout=PIPE, pass_fds=[child_end])
    os.close(child_end)
    communicating = asyncio.ensure_future(process.communicate())
    await process.wait()
    os.write(parent_end, b"\n")
    assert list(await communicating) == [b"out\nlater\n", None]
    os.close(parent_end)


@pytest.mark.parametrize("patience", ["1", float("nan"), b""])
async def test_a_drain_timeout_that_is_none(patience: Any) -> None:
    """A drain_timeout that is no number is refused, and nothing has been done."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        with pytest.raises((TypeError, ValueError), match="drain_timeout"):
            await process.communicate(b"in", drain_timeout=patience)
        assert await process.communicate(b"in", drain_timeout=float("inf")) == (b"in", b"")


# ---- cancelled ----


def test_cancelled_then_repeated(run: Run) -> None:
    """A cancelled communicate() can be repeated, again and again: nothing is lost, and nothing comes twice."""
    data = random.Random(2).randbytes(3 * MIB)  # noqa: S311

    async def body(create: Create) -> None:
        process = await create("cat", **PIPES)
        ours = isinstance(process, aiovfork.Process)
        for turns in range(1, 12):
            if not ours:  # asyncio's would write it again
                break
            await cancelled(process.communicate(data), turns)
            await rounds(turns % 4)
        stdout, stderr = await process.communicate(data)
        assert hashlib.sha256(stdout).digest() == hashlib.sha256(data).digest()
        assert stderr == b""

    run(body)


def test_output_of_a_cancelled_call(run: Run) -> None:
    """What a cancelled communicate() or read() has read is there for the next, on asyncio's Process as well."""

    async def body(create: Create) -> None:
        process = await create("sh", "-c", "echo one; echo err >&2; read go; echo two", **PIPES)
        told = asyncio.ensure_future(process.stderr.readline())
        await cancelled(process.stdout.read(), 5)
        assert await told == b"err\n"
        await cancelled(process.stdout.read(), 5)
        assert await process.communicate(b"\n") == (b"one\ntwo\n", b"")

    run(body)


def test_cancelled_then_readline(run: Run) -> None:
    """Lines that a cancelled communicate() has read can be read one by one."""

    async def body(create: Create) -> None:
        process = await create("sh", "-c", "seq 1000; echo err >&2; read go; echo end", **PIPES)
        before = aiovfork.stats().bytes_read
        communicating = asyncio.ensure_future(process.communicate())
        await rounds(3)
        communicating.cancel()
        await asyncio.wait([communicating])
        assert aiovfork.stats().bytes_read >= before
        assert not process.stdout.at_eof()
        lines = [await process.stdout.readline() for _ in range(1000)]
        assert lines == [b"%d\n" % number for number in range(1, 1001)]
        assert await process.stderr.readexactly(4) == b"err\n"
        if not process.stdin.is_closing():
            process.stdin.write(b"\n")
            assert await process.stdout.readuntil() == b"end\n"
        process.stdin.close()
        await process.stdout.read()
        await process.wait()

    run(body)


async def test_much_that_was_kept() -> None:
    """What a cancelled communicate() kept may be large: it is put into the reader's buffer in slices."""
    script = "head -c 3000000 /dev/zero; echo; echo err >&2; read go; echo end"
    async with await aiovfork.create_subprocess_exec("sh", "-c", script, **PIPES, limit=2**22) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        before = aiovfork.stats().bytes_read
        communicating = asyncio.ensure_future(process.communicate(b""))
        await rounds()
        communicating.cancel()
        await asyncio.wait([communicating])
        reading = asyncio.ensure_future(process.stdout.readline())
        await rounds(1)
        with pytest.raises(RuntimeError, match="already waiting"):
            await process.communicate()
        assert await reading == bytes(3_000_000) + b"\n"
        assert await process.stderr.readline() == b"err\n"
        assert aiovfork.stats().bytes_read >= before
        assert await process.communicate() == (b"" if process.stdin is None else b"end\n", b"")


async def test_input_goes_on_after_a_cancellation() -> None:
    """Input that a cancelled communicate() has taken is written all the same, as the loop finds room."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        assert process.stdout is not None
        await cancelled(process.communicate(b"x" * 500_000))
        assert await process.stdout.readexactly(500_000) == b"x" * 500_000
        assert process.stdin is not None
        # All of it may have been written before the cancellation: then stdin is closed.
        rest = b"" if process.stdin.is_closing() else b"y"
        process.stdin.write(rest)
        process.stdin.close()
        assert await process.communicate() == (rest, b"")


async def test_stdin_closed_after_a_cancellation() -> None:
    """Closing stdin after a cancelled communicate() closes it when the input of that has been written."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        await cancelled(process.communicate(b"x" * 500_000))
        assert process.stdin is not None
        process.stdin.close()
        assert await process.communicate() == (b"x" * 500_000, b"")


async def test_cancelled_when_all_was_read() -> None:
    """Cancelled while it waits for the exit, communicate() has all of the output: the next call returns it."""
    child_end, parent_end = os.pipe()
    script = f"echo out; exec >&-; read go </dev/fd/{child_end}; exit 5"
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", script, stdout=PIPE, pass_fds=[child_end]
    ) as process:
        os.close(child_end)
        pipe = process._transport.get_pipe_transport(1)
        assert pipe is not None
        communicating = asyncio.ensure_future(process.communicate())
        await until(pipe.is_closing)
        communicating.cancel()
        await asyncio.wait([communicating])
        assert communicating.cancelled()
        os.write(parent_end, b"\n")
        os.close(parent_end)
        assert list(await process.communicate()) == [b"out\n", None]
        assert process.returncode == 5


async def test_cancelled_while_the_result_is_filled() -> None:
    """Cancelled while a large result is put together off the loop, the next call returns it."""
    process = await aiovfork.create_subprocess_exec("head", "-c", str(30 * MIB), "/dev/zero", stdout=PIPE)
    pipe = process._transport.get_pipe_transport(1)
    assert pipe is not None
    communicating = asyncio.ensure_future(process.communicate())
    await until(pipe.is_closing)
    await process.wait()
    communicating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        assert len((await communicating)[0]) == 30 * MIB
        return
    stdout, _ = await process.communicate()
    assert len(stdout) == 30 * MIB


# ---- at the same time ----


async def test_wait_beside_communicate() -> None:
    """wait() beside communicate() returns at the exit, any number of times."""
    process = await aiovfork.create_subprocess_exec("cat", **PIPES)
    results = await asyncio.gather(process.wait(), process.communicate(b"in"), process.wait(), process.wait())
    assert list(results) == [0, (b"in", b""), 0, 0]


@pytest.mark.parametrize(
    "reader", ["communicate", "read", "readline", "readexactly", "readuntil", "read some"]
)
async def test_two_at_once(reader: str) -> None:
    """Who reads a stream that communicate() reads is refused, as with asyncio; the first one goes on."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        communicating = asyncio.ensure_future(process.communicate(b"x" * 300_000))
        await rounds(1)
        stdout: Any = process.stdout
        second = {
            "communicate": process.communicate,
            "read": stdout.read,
            "readline": stdout.readline,
            "readexactly": lambda: stdout.readexactly(1),
            "readuntil": lambda: stdout.readuntil(b"x"),
            "read some": lambda: stdout.read(10),
        }[reader]
        with pytest.raises(RuntimeError, match="already waiting for incoming data"):
            await second()
        assert await communicating == (b"x" * 300_000, b"")


async def test_communicate_beside_a_reader() -> None:
    """communicate() beside a coroutine that reads is refused; nothing has been written then."""
    async with await aiovfork.create_subprocess_exec("cat", **PIPES) as process:
        assert process.stdout is not None
        reading = asyncio.ensure_future(process.stdout.readline())
        await rounds(1)
        with pytest.raises(RuntimeError, match="already waiting"):
            await process.communicate(b"line\n")
        assert process.stdin is not None
        process.stdin.write(b"other\n")
        assert await reading == b"other\n"


@pytest.mark.parametrize("fd", [0, 1, 2])
async def test_a_pipe_closed_beside_communicate(fd: int) -> None:
    """A pipe that somebody closes while communicate() has it ends, and the others go on."""
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", "trap '' PIPE; cat; echo err >&2", **PIPES
    ) as process:
        communicating = asyncio.ensure_future(process.communicate(b"x" * 500_000))
        await rounds(1)
        pipe: Any = process._transport.get_pipe_transport(fd)
        getattr(pipe, "close" if fd else "abort")()
        stdout, stderr = await communicating
        assert len(stdout) <= 500_000
        assert stderr == (b"" if fd == 2 else b"err\n" if fd == 0 else stderr)
        if fd == 2:
            assert len(stdout) == 500_000


async def test_a_transport_closed_beside_communicate() -> None:
    """Closing the transport ends communicate() with what was read, and kills the child."""
    process = await aiovfork.create_subprocess_exec("sh", "-c", "echo out; exec cat", **PIPES)
    communicating = asyncio.ensure_future(process.communicate(b"x" * 500_000))
    await rounds(1)
    process._transport.close()
    stdout, stderr = await communicating
    assert b"out\n".startswith(stdout[:4])
    assert (stderr, process.returncode) == (b"", -9)


async def test_paused_beside_communicate() -> None:
    """Pausing a pipe that the collector has does not stop it."""
    process = await aiovfork.create_subprocess_exec("cat", **PIPES)
    pipe: Any = process._transport.get_pipe_transport(1)
    communicating = asyncio.ensure_future(process.communicate(b"x" * 300_000))
    await rounds(1)
    pipe.pause_reading()
    pipe.resume_reading()
    assert pipe.get_extra_info("pipe") is None
    assert await communicating == (b"x" * 300_000, b"")


# ---- ends ----


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
@pytest.mark.parametrize("plugged", [False, True])
def test_a_loop_that_ends_beside_communicate(factory: Any, *, plugged: bool) -> None:
    """A loop that is stopped and closed while the collector has pipes leaves nothing of them."""

    async def begin() -> None:
        process = await aiovfork.create_subprocess_exec("cat", **PIPES)
        task = asyncio.ensure_future(process.communicate(b"x" * 500_000))
        tasks.append(task)
        await rounds(1)

    tasks: list[Any] = []
    with quiet_finalizers():
        loop = factory()
        if plugged:
            aiovfork.install(loop)
        loop.run_until_complete(begin())
        tasks[0]._log_destroy_pending = False
        loop.close()
        tasks.clear()


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_an_interrupt_beside_communicate(factory: Any) -> None:
    """KeyboardInterrupt out of the loop, in the middle of communicate(): nothing is left, nothing hangs."""

    async def body() -> None:
        process = await aiovfork.create_subprocess_exec("cat", **PIPES)
        asyncio.get_running_loop().call_later(0.001, interrupt)
        async with process:
            await process.communicate(b"x" * 300_000)
            await process.wait()
            await asyncio.Event().wait()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())


@contextlib.contextmanager
def no_thread() -> Iterator[None]:
    """Let the collector be refused its thread."""

    def refuse(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    port: Any = port_of(asyncio.get_running_loop())
    port.collect = refuse
    try:
        yield
    finally:
        del port.collect


async def test_no_thread_for_the_collector() -> None:
    """Where the collector cannot be started the loop reads; a cancellation loses nothing there, too."""
    script = "echo one; read go; cat; echo err >&2"
    async with await aiovfork.create_subprocess_exec("sh", "-c", script, **PIPES) as process:
        with no_thread():
            await cancelled(process.communicate(b"\n" + b"x" * 300_000), 20)
            assert await process.communicate() == (b"one\n" + b"x" * 300_000, b"err\n")
        assert process.returncode == 0
    async with await aiovfork.create_subprocess_exec("sh", "-c", "cat; echo end", **PIPES) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with no_thread():
            await cancelled(process.stdout.read(), 10)
            process.stdin.write(b"in")
            process.stdin.close()
            assert await process.stdout.read() == b"inend\n"


async def test_drain_timeout_without_a_collector() -> None:
    """drain_timeout ends the reading of the loop as well."""
    child_end, parent_end = os.pipe()
    script = f"echo out; cat </dev/fd/{child_end} & exit 3"
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", script, stdout=PIPE, pass_fds=[child_end]
    ) as process:
        os.close(child_end)
        with no_thread():
            assert list(await process.communicate(drain_timeout=0.01)) == [b"out\n", None]
    os.close(parent_end)


def test_a_python_that_writes_to_both(run: Run) -> None:
    """Many children at once, each with its own output."""
    program = "import sys; sys.stdout.write(sys.argv[1] * 70000); sys.stderr.write(sys.argv[1])"

    async def body(create: Create) -> None:
        async def one(number: int) -> None:
            text = f"{number % 10}"
            process = await create(sys.executable, "-ISc", program, text, stdout=PIPE, stderr=PIPE)
            assert await process.communicate() == (text.encode() * 70_000, text.encode())

        await asyncio.gather(*[one(number) for number in range(12)])

    run(body)
