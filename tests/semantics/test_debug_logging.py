"""What is logged: in debug mode what asyncio logs, and slow spawns; otherwise nothing."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aiovfork
from aiovfork._options import Command
from aiovfork._slow import log_if_slow
from tests.support.backends import Spawner, compare
from tests.support.hold import held

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL

#: asyncio's own remarks about the loop and about slow callbacks are not about processes.
_ABOUT_PROCESSES = re.compile(
    r"execute program|run shell command|process .* created|exited with return code|Close running"
)


_LEAVES_STDIN_OPEN = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio of 3.11 leaves stdin open then, and cat would wait"
)


def _records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Return what was logged about processes, without pids and what the transports call themselves."""
    found = []
    for record in caplog.records:
        message = record.getMessage()
        if _ABOUT_PROCESSES.search(message):
            message = re.sub(r"<\w*SubprocessTransport.*>", "<transport>", message)
            found.append((record.name, record.levelname, re.sub(r"pid \d+", "pid N", message)))
    caplog.clear()
    return found


async def _logged(
    spawn: Spawner, caplog: pytest.LogCaptureFixture, entry: str, *args: Any, **options: Any
) -> Any:
    spawn.loop.set_debug(enabled=True)
    process = await getattr(spawn, entry)(*args, stdin=PIPE, **options)
    process.stdin.close()
    await process.wait()
    return _records(caplog)


@pytest.mark.parametrize(
    ("entry", "args", "options"),
    [
        ("exec", ["cat"], {}),
        ("exec", ["/bin/cat", "-"], {"stdout": PIPE}),
        ("exec", [b"cat"], {"stdout": PIPE, "stderr": STDOUT}),
        ("exec", ["cat"], {"stdout": DEVNULL, "stderr": PIPE}),
        ("exec", ["called so"], {"executable": "/bin/cat"}),
        ("shell", ["cat; exit 3"], {}),
        ("shell", ["exec cat"], {"stdout": PIPE, "stderr": STDOUT}),
    ],
    ids=str,
)
def test_debug_mode_logs_as_asyncio_does(
    caplog: pytest.LogCaptureFixture, entry: str, args: list[Any], options: dict[str, Any]
) -> None:
    """What is executed, which pid it got and how it exited: same logger, level, order and words."""
    caplog.set_level(logging.DEBUG, logger="asyncio")
    records = compare(lambda spawn: _logged(spawn, caplog, entry, *args, **options))
    assert [level for _, level, _ in records] == ["DEBUG", "DEBUG", "INFO", "INFO"]
    assert {name for name, _, _ in records} == {"asyncio"}


@pytest.mark.parametrize(
    ("args", "data"),
    [
        pytest.param(["cat"], b"input", id="input"),
        pytest.param(["sh", "-c", "exec <&-; exec >&-; sleep 0"], b"x" * 2**20, id="unwanted"),
        pytest.param(["cat"], None, id="none", marks=_LEAVES_STDIN_OPEN),
    ],
)
def test_communicate_says_what_it_does(
    caplog: pytest.LogCaptureFixture, args: list[str], data: bytes | None
) -> None:
    """In debug mode communicate() tells of the input fed, the streams read and closed, in asyncio's words."""
    caplog.set_level(logging.DEBUG, logger="asyncio")

    async def body(spawn: Spawner) -> list[str]:
        spawn.loop.set_debug(enabled=True)
        process = await spawn.exec(*args, stdin=PIPE, stdout=PIPE)
        await process.communicate(data)
        said = [record.getMessage() for record in caplog.records if "communicate: " in record.getMessage()]
        # Whether the write still finds the pipe open is the kernel's to say.
        said = [message for message in said if "stdin got" not in message]
        caplog.clear()
        return [re.sub(r"<Process \d+>", "<Process N>", message) for message in sorted(said)]

    said = compare(body)
    assert "<Process N> communicate: close stdin" in said
    assert "<Process N> communicate: read stdout" in said


def test_closing_a_running_child_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """In debug mode close() of a transport whose child runs warns that it kills it."""
    caplog.set_level(logging.DEBUG, logger="asyncio")

    async def body(spawn: Spawner) -> Any:
        spawn.loop.set_debug(enabled=True)
        process = await spawn.exec("sleep", "1000")
        process._transport.close()  # type: ignore[attr-defined]
        await process.wait()
        return _records(caplog)

    assert compare(body)[-2] == ("asyncio", "WARNING", "Close running child process: kill <transport>")


def test_arguments_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The arguments of a program may be secrets: only its name is logged."""
    caplog.set_level(logging.DEBUG, logger="asyncio")
    records = compare(lambda spawn: _logged(spawn, caplog, "exec", "sh", "-c", "cat # secret"))
    assert "secret" not in str(records)


async def _start_and_wait(program: str, argument: str) -> None:
    await (await aiovfork.create_subprocess_exec(program, argument)).wait()


@pytest.mark.parametrize("call", [_start_and_wait, aiovfork.run], ids=["create", "run"])
async def test_a_slow_spawn_is_logged(
    caplog: pytest.LogCaptureFixture,
    tmp_path: pathlib.Path,
    call: Callable[[str, str], Coroutine[Any, Any, Any]],
) -> None:
    """In debug mode a spawn that takes as long as a slow callback is a warning that names the cause."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0.02
    said = []
    for debug in (False, True):
        loop.set_debug(debug)
        async with held(tmp_path) as hold:
            running = asyncio.ensure_future(call(hold.path, "secret"))
            await hold.reached.wait()
            reached = time.monotonic()
            while time.monotonic() < reached + 0.03:  # at least: it is the longest part
                await asyncio.sleep(0)
            hold.release()
            await running
        found = [record for record in caplog.records if record.getMessage().startswith("spawn of ")]
        assert len(found) == debug
        said += [(record.name, record.levelname, record.getMessage()) for record in found]
    name, level, message = said[0]
    assert (name, level) == ("asyncio", "WARNING")
    number = r"\d\.\d{3}"
    assert re.fullmatch(
        rf"spawn of '{tmp_path}/held-true' took {number} seconds \(queue {number}, clone {number}, exec {number}\): "
        r"its program or cwd is on a slow disk or network, or a security agent looks at each exec",
        message,
    )


async def test_a_spawn_that_is_not_slow_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Below loop.slow_callback_duration nothing is said of the time that a spawn took."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 1000.0
    await (await aiovfork.create_subprocess_exec("true")).wait()
    assert not [record for record in caplog.records if "took" in record.getMessage()]


@pytest.mark.parametrize(
    ("times", "others", "cause"),
    [
        ((200e3, 1e3, 1e3), 40, "it waited behind 40 others"),
        ((200e3, 1e3, 1e3), 1, "it waited behind 1 other"),
        ((200e3, 1e3, 1e3), 0, "its worker thread got no processor"),
        ((1e3, 200e3, 1e3), 0, "the kernel took long to create the process: processors or memory are short"),
    ],
)
async def test_causes_of_a_slow_spawn(
    caplog: pytest.LogCaptureFixture, times: tuple[float, float, float], others: int, cause: str
) -> None:
    """The cause that is named is that of the longest part: the queue, clone or exec."""
    info = aiovfork.SpawnInfo("clone3", "memory", True, *times)
    log_if_slow(asyncio.get_running_loop(), Command(("true",), None, None, None), info, others)
    assert caplog.records[0].getMessage().endswith(f"): {cause}")


@pytest.mark.parametrize("args", [["true"], ["/no/such/program"]], ids=str)
def test_nothing_is_logged_without_debug_mode(caplog: pytest.LogCaptureFixture, args: list[str]) -> None:
    """A spawn that works, or fails, logs nothing outside debug mode."""
    caplog.set_level(logging.DEBUG, logger="asyncio")

    async def body(spawn: Spawner) -> Any:
        try:
            await (await spawn.exec(*args)).wait()
        except FileNotFoundError:
            await asyncio.sleep(0)
        return _records(caplog)

    assert compare(body) == []
