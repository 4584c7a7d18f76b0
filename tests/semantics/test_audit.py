"""The audit event subprocess.Popen."""

from __future__ import annotations

import pathlib
import threading
from typing import Any

import psutil
import pytest

import aiovfork
from tests.support.audits import listening, recorded
from tests.support.backends import Raised, Spawner, compare, compare_error, in_thread


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["true"], {}),
        (["/bin/sh", "-c", "exit 0"], {"cwd": "/"}),
        ([b"true", "a", b"b"], {"env": {"PATH": "/bin", "A": "B"}}),
        (["called so", "x"], {"executable": "/bin/true", "cwd": b"/"}),
        ([pathlib.Path("/bin/true")], {"cwd": pathlib.Path("/"), "env": {b"A": b"B"}}),
    ],
    ids=str,
)
def test_the_event_of_exec(args: list[Any], options: dict[str, Any]) -> None:
    """sys.audit("subprocess.Popen", executable, args, cwd, env) is raised once, on the calling thread."""

    async def body(spawn: Spawner) -> list[Any]:
        with recorded("subprocess.Popen") as events:
            await spawn.exec(*args, **options)
        ((thread, (executable, argv, cwd, env)),) = events
        assert thread == threading.get_ident()
        return [executable, list(argv), cwd, env]

    expected = [options.get("executable", args[0]), args, options.get("cwd"), options.get("env")]
    assert compare(body) == expected
    assert in_thread(lambda: compare(body)) == expected


@pytest.mark.parametrize("options", [{}, {"executable": "/bin/bash"}], ids=str)
def test_the_event_of_shell(options: dict[str, Any]) -> None:
    """A shell command is audited as the shell with -c and the command."""

    async def body(spawn: Spawner) -> list[Any]:
        with recorded("subprocess.Popen") as events:
            await spawn.shell("exit 0", **options)
        ((_, (executable, argv, cwd, env)),) = events
        return [executable, list(argv), cwd, env]

    shell = options.get("executable", "/bin/sh")
    assert compare(body) == [shell, [shell, "-c", "exit 0"], None, None]


def test_a_failed_spawn_is_audited_too() -> None:
    """The event comes before the spawn, so a program that is missing is in the record."""

    async def body(spawn: Spawner) -> list[Any]:
        with recorded("subprocess.Popen") as events, pytest.raises(FileNotFoundError):
            await spawn.exec("/no/such/program")
        return [args for _, args in events]

    (event,) = compare(body)
    assert event[0] == "/no/such/program"


def test_a_hook_can_veto() -> None:
    """An exception of an audit hook propagates, and no child is started."""

    def veto(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            raise PermissionError(1, f"vetoed {args[0]}")

    async def body(spawn: Spawner) -> None:
        before = aiovfork.stats()
        try:
            with listening(veto):
                await spawn.exec("sleep", "1000", stdin=-1, stdout=-1)
        finally:
            assert not psutil.Process().children()
            assert aiovfork.stats() == before

    assert compare_error(body) == Raised(PermissionError, 1, None, "[Errno 1] vetoed sleep")
