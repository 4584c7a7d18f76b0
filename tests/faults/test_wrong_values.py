"""Wrong values: refused at once, with a sentence, and nothing is lost."""

from __future__ import annotations

import asyncio
import decimal
import errno
import fractions
import math
import socket
from typing import Any

import pytest

import aiovfork
from aiovfork._port import CompletionPort

PIPE = asyncio.subprocess.PIPE


@pytest.mark.parametrize("wrong", ["text", 5, [b"list"], object()], ids=lambda value: type(value).__name__)
async def test_input_that_is_not_bytes(wrong: Any) -> None:
    """communicate() of something else is a TypeError at once; the child and its output are still there."""
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    with pytest.raises(TypeError, match=f"input must be bytes, .* not {type(wrong).__name__}"):
        await process.communicate(wrong)
    assert (await process.communicate(b"right"))[0] == b"right"


@pytest.mark.parametrize(
    "right", [5, 5.5, decimal.Decimal(5), fractions.Fraction(5, 2), True, math.inf, 1e300]
)
async def test_a_timeout_is_any_real_number(right: Any) -> None:
    """spawn_timeout takes what float() makes a number of; infinity is none."""
    process = await aiovfork.create_subprocess_exec("true", spawn_timeout=right)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("5", TypeError),
        (b"5", TypeError),
        (5j, TypeError),
        (None.__class__, TypeError),
        (0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (decimal.Decimal("NaN"), ValueError),
        (-math.inf, ValueError),
    ],
    ids=repr,
)
async def test_a_wrong_timeout(wrong: Any, error: type[Exception]) -> None:
    """spawn_timeout of anything else is refused before anything is started."""
    before = aiovfork.stats()
    with pytest.raises(error, match="spawn_timeout must be"):
        await aiovfork.create_subprocess_exec("sleep", "1000", spawn_timeout=wrong)
    assert aiovfork.stats() == before


async def test_a_failure_after_the_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception between the submission and the wait for it leaves no child."""

    class Refusing(asyncio.SubprocessProtocol):
        """Some protocol."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    submit = CompletionPort.submit

    def interrupted(*args: Any) -> int:
        submit(*args)
        raise ZeroDivisionError

    monkeypatch.setattr(CompletionPort, "submit", interrupted)
    with pytest.raises(ZeroDivisionError):
        await aiovfork.subprocess_exec(Refusing, "sleep", "1000", stdout=PIPE)
    monkeypatch.undo()
    while aiovfork.stats().alive or aiovfork.stats().in_flight or aiovfork.stats().queued:
        await asyncio.sleep(0)
    assert not loop.is_closed()


async def test_any_object_is_a_protocol() -> None:
    """set_protocol() takes any object that has the methods, as asyncio's transports do."""

    class Duck:
        def __init__(self) -> None:
            self.end = asyncio.get_running_loop().create_future()

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            """Output."""

        def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
            """The end of a pipe."""

        def process_exited(self) -> None:
            """The exit."""

        def connection_lost(self, exc: Exception | None) -> None:
            self.end.set_result("lost")

    duck: Any = Duck()
    end: asyncio.Future[str] = duck.end
    transport, _ = await aiovfork.subprocess_exec(asyncio.SubprocessProtocol, "cat", stdout=None, stderr=None)
    transport.set_protocol(duck)
    assert transport.get_protocol() is duck
    stdin: Any = transport.get_pipe_transport(0)
    stdin.close()
    assert await end == "lost"


async def test_what_a_process_says_of_itself() -> None:
    """repr() of a process names pid, program and status, a signal by its name, and no argument."""
    process = await aiovfork.create_subprocess_exec("cat", "-", stdin=PIPE)
    assert repr(process) == f"<Process {process.pid} 'cat' running>"
    process.kill()
    await process.wait()
    assert repr(process) == f"<Process {process.pid} 'cat' returncode=-9 (SIGKILL)>"
    process = await aiovfork.create_subprocess_shell("kill -41 $$")
    await process.wait()
    assert repr(process) == f"<Process {process.pid} '/bin/sh' returncode=-41 (signal 41)>"
    shell = await aiovfork.create_subprocess_shell("true secret")
    await shell.wait()
    assert repr(shell) == f"<Process {shell.pid} '/bin/sh' returncode=0>"


class Numbered:
    """Some object whose fileno() is whatever it was given."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def fileno(self) -> Any:
        """Return it."""
        return self.number


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("number", [-1, -2, -3, -4])
async def test_a_negative_fileno(stream: str, number: int) -> None:
    """An object whose fileno() is -1 is closed, as a socket is: EBADF. It is not PIPE, whose number is -1."""
    options: Any = {stream: Numbered(number)}
    with pytest.raises(aiovfork.SpawnError) as caught:
        await aiovfork.create_subprocess_exec("true", **options)
    assert (caught.value.errno, caught.value.step) == (errno.EBADF, "dup fds")
    assert caught.value.__notes__[-1].endswith(f"fileno() of {options[stream]!r} is {number}")


async def test_a_closed_socket() -> None:
    """A socket that was closed before is refused, and the program not run."""
    given = socket.socket()
    given.close()
    options: Any = {"stdout": given}
    with pytest.raises(aiovfork.SpawnError, match="Bad file descriptor"):
        await aiovfork.create_subprocess_exec("true", **options)


@pytest.mark.parametrize("wrong", [1.5, "1", b"1", object()], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("option", ["umask", "process_group", "pipesize"])
async def test_a_number_that_is_no_integer(option: str, wrong: Any) -> None:
    """A TypeError that names the option, as the reference says; nothing is started."""
    options: Any = {option: wrong}
    with pytest.raises(TypeError, match=f"{option} must be an integer"):
        await aiovfork.create_subprocess_exec("true", **options)


@pytest.mark.parametrize("wrong", [1.5, "1", None], ids=lambda value: type(value).__name__)
async def test_a_fileno_that_is_no_integer(wrong: Any) -> None:
    """Likewise what an object gives as its descriptor."""
    options: Any = {"stdin": Numbered(wrong)}
    with pytest.raises(TypeError, match=r"fileno\(\) of stdin must be an integer"):
        await aiovfork.create_subprocess_exec("true", **options)
