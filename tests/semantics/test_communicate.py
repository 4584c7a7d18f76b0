"""communicate() and wait()."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

import aiovfork
from tests.support.backends import PIPES, Spawner, compare
from tests.support.window import rounds

PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT


@pytest.mark.parametrize(
    "data", [b"", b"x", b"line\n" * 3, bytearray(b"y" * 70_000), memoryview(b"z" * 300_000)], ids=len
)
def test_input_comes_back(data: bytes) -> None:
    """communicate(input) writes all of input, closes stdin and returns all of the output."""

    async def body(spawn: Spawner) -> tuple[bytes, bytes, int | None]:
        process = await spawn.exec("cat", **PIPES)
        stdout, stderr = await process.communicate(data)
        return stdout, stderr, process.returncode

    assert compare(body) == (bytes(data), b"", 0)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio of 3.11 leaves stdin open then, and cat would wait"
)
def test_no_input_closes_stdin() -> None:
    """communicate() without input is EOF for a child with stdin=PIPE."""

    async def body(spawn: Spawner) -> tuple[bytes, bytes]:
        process = await spawn.exec("cat", **PIPES)
        return await process.communicate()

    assert compare(body) == (b"", b"")


async def test_no_input_closes_stdin_on_every_python() -> None:
    """communicate() without input is EOF for the child, also where asyncio (3.11) would hang."""
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert list(await process.communicate()) == [b"", None]


@pytest.mark.parametrize(
    ("stdio", "expected"),
    [
        ({}, (None, None)),
        ({"stdout": PIPE}, (b"out\n", None)),
        ({"stderr": PIPE}, (None, b"err\n")),
        ({"stdout": PIPE, "stderr": STDOUT}, (b"out\nerr\n", None)),
        ({"stdout": PIPE, "stderr": PIPE}, (b"out\n", b"err\n")),
        ({"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}, (b"out\n", b"err\n")),
    ],
    ids=str,
)
def test_a_stream_that_is_not_piped_is_none(stdio: dict[str, int], expected: tuple[Any, Any]) -> None:
    """communicate() returns None for a stream that is not PIPE."""

    async def body(spawn: Spawner) -> tuple[Any, Any]:
        process = await spawn.shell("echo out; echo err >&2", **{"stdout": subprocess.DEVNULL, **stdio})
        return await process.communicate()

    if stdio.get("stdout") is None and stdio.get("stderr") is None:
        stdio = {**stdio, "stderr": subprocess.DEVNULL}
    assert compare(body) == expected


def test_much_of_everything_at_once() -> None:
    """Input and both outputs beyond the capacity of the pipes do not block each other."""

    async def body(spawn: Spawner) -> tuple[int, int, int]:
        program = (
            "from sys import *; d = stdin.buffer.read(); stderr.write('e' * 500_000); stdout.buffer.write(d)"
        )
        process = await spawn.exec(sys.executable, "-ISc", program, **PIPES)
        stdout, stderr = await process.communicate(b"i" * 700_000)
        return stdout.count(b"i"), stderr.count(b"e"), await process.wait()

    assert compare(body) == (700_000, 500_000, 0)


@pytest.mark.parametrize(
    "program", [["true"], ["sh", "-c", "exec <&-; echo out"], ["head", "-c", "1"]], ids=str
)
def test_a_child_that_does_not_want_its_input(program: list[str]) -> None:
    """BrokenPipeError and ConnectionResetError of stdin are swallowed; output and returncode come."""

    async def body(spawn: Spawner) -> tuple[bytes, int | None]:
        process = await spawn.exec(*program, stdin=PIPE, stdout=PIPE)
        stdout, _ = await process.communicate(b"x" * 300_000)
        return stdout, process.returncode

    assert compare(body)[1] == 0


def test_input_for_a_child_that_has_gone() -> None:
    """communicate(input) works, too, once the transport of stdin has noticed that nobody reads."""

    async def body(spawn: Spawner) -> tuple[bytes, int | None]:
        process = await spawn.exec("echo", "out", stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        while not process.stdin.is_closing():  # nothing else tells
            await asyncio.sleep(0)
        stdout, _ = await process.communicate(b"x" * 300_000)
        return stdout, process.returncode

    assert compare(body) == (b"out\n", 0)


def test_a_broken_pipe_is_raised_by_drain() -> None:
    """Outside communicate() a broken pipe is an exception of drain(), as in asyncio."""

    async def body(spawn: Spawner) -> bool:
        process = await spawn.exec("true", stdin=PIPE)
        assert process.stdin is not None
        await process.wait()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012  # how much fits is open
            for _ in range(100):
                process.stdin.write(b"x" * 2**16)
                await process.stdin.drain()
        return True

    assert compare(body)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio of 3.11 raises an AttributeError about None")
def test_input_without_a_pipe_is_ignored() -> None:
    """communicate(input) without stdin=PIPE runs on without it."""

    async def body(spawn: Spawner) -> tuple[Any, Any]:
        process = await spawn.exec("echo", "out", stdout=PIPE)
        return await process.communicate(b"nobody reads this")

    assert compare(body) == (b"out\n", None)


async def test_input_without_a_pipe_is_ignored_on_every_python() -> None:
    """communicate(input) without stdin=PIPE does the same on 3.11 as on later versions."""
    process = await aiovfork.create_subprocess_exec("echo", "out", stdout=PIPE)
    assert list(await process.communicate(b"nobody reads this")) == [b"out\n", None]


@pytest.mark.parametrize("data", ["text", 3, [b"x"]], ids=repr)
def test_input_that_is_not_bytes(data: Any) -> None:
    """Input that is not bytes-like is refused by the pipe's transport; the child is there to be ended."""

    async def body(spawn: Spawner) -> int:
        process = await spawn.exec("cat", **PIPES)
        with pytest.raises((TypeError, AssertionError)):  # the loop's own choice
            await process.communicate(data)
        assert process.returncode is None
        process.kill()
        return await process.wait()

    assert compare(body) == -9


def test_communicate_again_after_the_end() -> None:
    """A second communicate() returns at once, with nothing left to read."""

    async def body(spawn: Spawner) -> list[Any]:
        process = await spawn.exec("echo", "out", **PIPES)
        return [await process.communicate(), await process.communicate()]

    assert compare(body) == [(b"out\n", b""), (b"", b"")]


def test_output_read_before_is_not_repeated() -> None:
    """communicate() returns what the caller has not read itself."""

    async def body(spawn: Spawner) -> list[Any]:
        process = await spawn.exec("printf", "one\\ntwo\\n", **PIPES)
        assert process.stdout is not None
        return [await process.stdout.readline(), await process.communicate()]

    assert compare(body) == [b"one\n", (b"two\n", b"")]


async def test_a_cancelled_communicate_loses_no_output() -> None:
    """communicate() can be repeated after a cancellation: all output comes, input is written once."""
    script = "read first; echo $first; read second; echo $second; echo end >&2; read third; echo rest"
    async with await aiovfork.create_subprocess_exec("sh", "-c", script, **PIPES) as process:
        await _cancelled(process.communicate(b"a\nb\n"))
        stdout, stderr = await process.communicate(b"a\nb\n")
        assert (stdout, stderr) == (b"a\nb\nrest\n", b"end\n")
        assert process.returncode == 0


async def _cancelled(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Start a coroutine, and cancel it once it waits."""
    task = asyncio.ensure_future(coroutine)
    await rounds()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_wait_for_around_communicate() -> None:
    """asyncio.wait_for(communicate()) that times out leaves a process whose output is still whole."""
    child_end, parent_end = os.pipe()
    script = f"echo first; read line </dev/fd/{child_end}; echo second"
    try:
        process = await aiovfork.create_subprocess_exec("sh", "-c", script, stdout=PIPE, pass_fds=[child_end])
    finally:
        os.close(child_end)
    async with process:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.communicate(), 0.02)
        os.close(parent_end)
        assert list(await process.communicate()) == [b"first\nsecond\n", None]


async def test_wait_returns_at_exit_though_a_grandchild_keeps_the_pipe() -> None:
    """wait() is about the child, not about its pipes: asyncio up to 3.13 waits for the grandchild as well."""
    child_end, parent_end = os.pipe()
    try:
        async with await aiovfork.create_subprocess_exec(
            "sh", "-c", f"cat </dev/fd/{child_end} & exit 6", stdout=PIPE, pass_fds=[child_end]
        ) as process:
            os.close(child_end)
            # The grandchild lives, and holds stdout, until parent_end is closed.
            assert await process.wait() == 6
            assert process.stdout is not None
            assert not process.stdout.at_eof()
            os.close(parent_end)
            assert await process.stdout.read() == b""
    except BaseException:
        os.close(parent_end)
        raise


def test_wait_more_than_once() -> None:
    """wait() returns the same returncode any number of times, before and after the exit."""

    async def body(spawn: Spawner) -> list[int | None]:
        process = await spawn.exec("sh", "-c", "exit 8")
        return [
            await process.wait(),
            await process.wait(),
            process.returncode,
            await process._transport._wait(),  # type: ignore[attr-defined]
        ]

    assert compare(body) == [8, 8, 8, 8]
