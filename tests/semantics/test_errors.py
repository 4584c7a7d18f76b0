"""Failed spawns: the exception is the stdlib's, the step is named, and the next spawn works."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import subprocess
from typing import Any

import pytest

from tests.support.backends import PIPES, Spawner, compare, compare_error, run_on_each

pytestmark = pytest.mark.usefixtures("engine_mode")


# What fails in exec or chdir: program and arguments, options, errno. The relative names are those of `files`.
FAILURES: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "a missing program": (["/no/such/program"], {}, errno.ENOENT),
    "a missing program on PATH": (["no-such-program"], {}, errno.ENOENT),
    "a missing relative program": (["./no-such-program"], {}, errno.ENOENT),
    "a program as bytes": ([b"/no/such/program"], {}, errno.ENOENT),
    "no program, no PATH": ([""], {"env": {"PATH": ""}}, errno.ENOENT),
    "no program": ([""], {"env": {"PATH": "/usr/bin:/bin"}}, errno.EACCES),
    "a missing executable": (["true"], {"executable": "/no/such/executable"}, errno.ENOENT),
    "a file below a file": (["/etc/passwd/program"], {}, errno.ENOTDIR),
    "a directory": (["/"], {}, errno.EACCES),
    "a file that is not executable": (["./plain"], {}, errno.EACCES),
    "text without #!": (["./text"], {}, errno.ENOEXEC),
    "an empty file": (["./empty"], {}, errno.ENOEXEC),
    "a damaged program": (["./damaged"], {}, errno.ENOEXEC),
    "a missing interpreter": (["./orphan"], {}, errno.ENOENT),
    "a loop of links": (["./loop"], {}, errno.ELOOP),
    "a name that is too long": (["x" * 300], {}, errno.ENAMETOOLONG),
    "an argument that is too long": (["true", "x" * 200_000], {}, errno.E2BIG),
    "an environment that is too long": (["true"], {"env": {"A": "x" * 200_000}}, errno.E2BIG),
    "a missing cwd": (["true"], {"cwd": "/no/such/directory"}, errno.ENOENT),
    "a missing cwd as bytes": (["true"], {"cwd": b"/no/such/directory"}, errno.ENOENT),
    "a missing cwd as a path": (["true"], {"cwd": pathlib.Path("/no/such/directory")}, errno.ENOENT),
    "an empty cwd": (["true"], {"cwd": ""}, errno.ENOENT),
    "a cwd that is a file": (["true"], {"cwd": "plain"}, errno.ENOTDIR),
    "a missing cwd and program": (["/no/such/program"], {"cwd": "/no/such/directory"}, errno.ENOENT),
}


@pytest.fixture(autouse=True)
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make files that cannot be executed, and go where they are."""
    monkeypatch.chdir(tmp_path)
    contents = {
        "text": b"echo no interpreter is named here\n",
        "plain": b"#!/bin/sh\n",
        "empty": b"",
        "orphan": b"#!/no/such/interpreter\n",
        "damaged": b"\x7fELF" + b"\xff" * 100,
    }
    for name, content in contents.items():
        pathlib.Path(name).write_bytes(content)
        os.chmod(name, 0o644 if name == "plain" else 0o755)
    os.symlink("loop", "loop")


@pytest.mark.parametrize("stdio", [{}, PIPES], ids=["inherited", "pipes"])
@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_spawn_raises_what_the_stdlib_raises(case: str, stdio: dict[str, int]) -> None:
    """Type, errno, message and filename, the program or cwd as it was given, are the stdlib's."""
    argv, options, number = FAILURES[case]
    raised = compare_error(lambda spawn: spawn.exec(*argv, **options, **stdio))
    assert raised.errno == number
    given = options.get("cwd") if case.startswith(("a missing cwd", "an empty cwd", "a cwd")) else None
    assert raised.filename == (given if given is not None else options.get("executable", argv[0]))


def test_a_path_as_the_program() -> None:
    """With a PathLike program the filename is that path: as it was given, or as str (CPython 3.13)."""

    async def body(spawn: Spawner) -> tuple[int | None, str]:
        with pytest.raises(FileNotFoundError) as info:
            await spawn.exec(pathlib.Path("/no/such/program"))
        return info.value.errno, os.fspath(info.value.filename)

    assert compare(body) == (errno.ENOENT, "/no/such/program")


def test_a_failed_spawn_with_a_protocol() -> None:
    """subprocess_exec raises as create_subprocess_exec does, and the protocol never hears of a child."""
    calls: list[str] = []

    class Protocol(asyncio.SubprocessProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            calls.append("connection_made")

        def process_exited(self) -> None:
            calls.append("process_exited")

        def connection_lost(self, exc: Exception | None) -> None:
            calls.append("connection_lost")

    raised = compare_error(lambda spawn: spawn.protocol_exec(Protocol, "/no/such/program"))
    assert raised.type is FileNotFoundError
    assert not calls


def test_a_missing_shell() -> None:
    """With executable=, a shell that is missing is the filename; without, it is the shell that complains."""
    raised = compare_error(lambda spawn: spawn.shell("true", executable="/no/such/shell"))
    assert (raised.type, raised.filename) == (FileNotFoundError, "/no/such/shell")

    async def body(spawn: Spawner) -> int:
        process = await spawn.shell("exec no-such-program", stderr=subprocess.DEVNULL)
        return await process.wait()

    assert compare(body) == 127


@pytest.mark.parametrize(
    ("options", "number", "step"),
    [
        ({"process_group": 1}, errno.EPERM, "setpgid"),
        ({"start_new_session": True, "process_group": 0}, errno.EPERM, "setpgid"),
        ({"pass_fds": [987]}, errno.EBADF, "dup fds"),
        ({"stdin": 987}, errno.EBADF, "dup fds"),
        ({"stdout": 987}, errno.EBADF, "dup fds"),
        ({"stderr": 987}, errno.EBADF, "dup fds"),
    ],
    ids=str,
)
def test_a_failure_of_another_step_has_no_filename(options: dict[str, Any], number: int, step: str) -> None:
    """A step that is about neither the program nor cwd raises OSError without a filename, and is named."""

    async def body(spawn: Spawner) -> object:
        with pytest.raises(OSError) as info:  # noqa: PT011  # which one is compared
            await spawn.exec("true", **options)
        if not spawn.backend.is_reference:
            assert info.value.step == step  # type: ignore[attr-defined]
        raise info.value

    raised = compare_error(body)
    assert (raised.errno, raised.filename) == (number, None)


@pytest.mark.parametrize("case", FAILURES)
def test_the_step_and_a_note_are_added(case: str) -> None:
    """What aiovfork knows beyond the stdlib is in exc.step and in a note that names program and step."""
    argv, options, _ = FAILURES[case]
    step = "chdir" if options.get("cwd") is not None else "exec"

    async def body(spawn: Spawner) -> None:
        with pytest.raises(OSError) as info:  # noqa: PT011  # which one is the other test's
            await spawn.exec(*argv, **options)
        assert info.value.step == step  # type: ignore[attr-defined]
        (note,) = info.value.__notes__
        assert step in note
        assert repr(options.get("executable", argv[0])) in note

    run_on_each(body)


def test_a_failed_spawn_does_no_harm_to_others() -> None:
    """Spawns before, beside and after a failed one work."""

    async def body(spawn: Spawner) -> list[Any]:
        before = await spawn.exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        results = await asyncio.gather(
            spawn.output("echo", "beside"),
            spawn.exec("/no/such/program", **PIPES),
            spawn.exec("true", cwd="/no/such/directory", **PIPES),
            spawn.output("echo", "beside"),
            return_exceptions=True,
        )
        after = await spawn.output("echo", "after")
        return [await before.communicate(b"before"), *map(str, results), after]

    results = compare(body)
    assert results[0] == (b"before", None)
    assert results[-1] == b"after\n"


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"stdin": 987, "cwd": "/no/such/directory", "process_group": 1}, errno.EBADF),
        ({"pass_fds": [987], "cwd": "/no/such/directory", "process_group": 1}, errno.EBADF),
        ({"cwd": "/no/such/directory", "process_group": 1}, errno.ENOENT),
        ({"start_new_session": True, "process_group": 0}, errno.EPERM),
        ({"process_group": 1}, errno.EPERM),
    ],
    ids=str,
)
def test_the_first_step_that_fails_is_reported(options: dict[str, Any], number: int) -> None:
    """Descriptors, then cwd, then session and group, then exec: the stdlib's order, told by what fails."""

    async def body(spawn: Spawner) -> int | None:
        with pytest.raises(OSError) as info:  # noqa: PT011  # the errno is compared
            await spawn.exec("/no/such/program", **options)
        # Of several failing steps asyncio before 3.12 names cwd in any case: filename is not compared.
        return info.value.errno

    assert compare(body) == number


def test_exit_code_127_is_the_programs_own() -> None:
    """A program may exit with 127: a failed exec is never reported like that."""

    async def body(spawn: Spawner) -> int:
        return await (await spawn.exec("sh", "-c", "exit 127")).wait()

    assert compare(body) == 127
