"""What a spawn that cannot be raises."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
from typing import Any

import psutil

from tests.support.backends import PIPES, Spawner
from tests.support.compatibility.arguments import tools
from tests.support.compatibility.rows import Group, Since, each_once, name_of, yes
from tests.support.errors import stdlib_type
from tests.support.window import rounds, until

DEVNULL = asyncio.subprocess.DEVNULL

group = Group(__name__)


async def failure(spawn: Spawner, *args: Any, **options: Any) -> OSError:
    """Start what cannot be started, and return what that raises."""
    try:
        await spawn.exec(*args, **options)
    except OSError as exc:
        return exc
    raise AssertionError


def described(exc: OSError, given: object, called: str = "the given") -> str:
    """Return an exception in the page's words: its class, an errno that this does not tell, and its filename."""
    number = f" {errno.errorcode[exc.errno or 0]}" if stdlib_type(exc) is OSError else ""
    return f"{name_of(exc)}{number}, {({None: 'no', given: called})[exc.filename]} `filename`"


async def failures(
    spawn: Spawner, *calls: tuple[list[Any], dict[str, Any]], called: str = "the given"
) -> str:
    """Start what cannot be started, in several ways, and describe what that raises."""
    found = []
    for args, options in calls:
        given = options.get("cwd") or options.get("executable") or args[0]
        found.append(described(await failure(spawn, *args, **options), given, called))
    return each_once(found)


@group.row("`FileNotFoundError`, the given `filename`", uvloop="`FileNotFoundError`, no `filename`")
async def missing_program(spawn: Spawner) -> str:
    """A program, or `executable`, that is not there, or not in `PATH`."""
    programs: list[Any] = ["/no/such/program", "no-such-program"]
    return await failures(
        spawn, *(([program], {}) for program in programs), (["true"], {"executable": b"no-such"})
    )


@group.row("that path", Since({"3.11": "that path", "3.13": "a `str`"}), "`None`", differs="better")
async def missing_path(spawn: Spawner) -> str:
    """The `filename`, where the program was given as a path-like object."""
    filename = (await failure(spawn, pathlib.Path("/no/such/program"))).filename
    return {pathlib.Path: "that path", str: "a `str`", type(None): "`None`"}[
        pathlib.Path if isinstance(filename, pathlib.Path) else type(filename)
    ]


@group.row("`FileNotFoundError`, the `cwd` as `filename`", uvloop="`FileNotFoundError`, no `filename`")
async def missing_cwd(spawn: Spawner) -> str:
    """A `cwd` that is not there, whether or not the program is."""
    folder = {"cwd": "/no/such/folder"}
    return await failures(spawn, (["true"], folder), (["/no/such/program"], folder), called="the `cwd` as")


@group.row("`PermissionError`, the given `filename`", uvloop="`PermissionError`, no `filename`")
async def not_executable(spawn: Spawner) -> str:
    """A program that may not be executed, is a folder, or is followed by none in a search of `PATH`."""
    with tools("plain") as place:
        program = f"{place}/plain/tool"
        os.chmod(program, 0o644)
        search = {"env": {"PATH": f"{place}/plain:{place}/missing"}}
        return await failures(spawn, ([program], {}), (["/etc"], {}), (["tool"], search))


@group.row("`OSError` ENOEXEC, the given `filename`", uvloop="it is given to `/bin/sh`")
async def neither_elf_nor_script(spawn: Spawner) -> str:
    """A program that is neither ELF nor begins with `#!`."""
    with tools("text") as place:
        program = f"{place}/text/tool"
        pathlib.Path(program).write_text("exit 7\n")
        try:
            process = await spawn.exec(program)
        except OSError as exc:
            return described(exc, program)
        return {7: "it is given to `/bin/sh`"}[await process.wait()]


@group.row("`OSError` E2BIG, the given `filename`", uvloop="`OSError` E2BIG, no `filename`")
async def too_long(spawn: Spawner) -> str:
    """An argument that is too long for the kernel."""
    return await failures(spawn, (["true", "x" * 200_000], {}))


@group.row("yes", "no", "no", plugged="yes", differs="better")
async def step(spawn: Spawner) -> str:
    """The exception names the step that failed: in its attribute `step`, and in a note."""
    exc = await failure(spawn, "true", cwd="/no/such/folder")
    return yes(getattr(exc, "step", None) == "chdir" and "chdir" in exc.__notes__[0])


@group.row("yes")
async def nothing_is_left(spawn: Spawner) -> str:
    """When the exception comes out no child is left, and soon no descriptor."""
    await failure(spawn, "/no/such/program", **PIPES)
    await rounds(20)
    before = set(os.listdir("/proc/self/fd"))
    await failure(spawn, "/no/such/program", **PIPES)
    children = psutil.Process().children()
    await until(lambda: set(os.listdir("/proc/self/fd")) <= before)
    return yes(not children)


@group.row("`ValueError`", uvloop="it is taken")
async def no_strings(spawn: Spawner) -> str:
    """A NUL in the program, an argument, `executable`, `cwd` or `env`; `=` in a key of `env`; `PATH` in it twice."""
    attempts: list[tuple[list[str], dict[str, Any]]] = [
        (["true\0"], {}),
        (["true", "a\0b"], {}),
        (["true"], {"executable": "/bin/true\0"}),
        (["true"], {"cwd": "/\0"}),
        *((["true"], {"env": env}) for env in ({"A\0": "B"}, {"A": "\0B"}, {"A=B": "C"})),
        (["true"], {"env": {"PATH": "/bin", b"PATH": "/usr/bin"}}),
    ]
    found = []
    for args, options in attempts:
        try:
            process = await spawn.exec(*args, **options)
        except ValueError as exc:
            found.append(name_of(exc))
        else:
            found.append("it is taken" if await process.wait() == 0 else "it is taken, and fails")
    return each_once(found)


@group.row("`ValueError`", uvloop="`TypeError`")
async def shell_command_of_a_wrong_type(spawn: Spawner) -> str:
    """A shell command that is a list."""
    process = await spawn.shell(["true"])
    return str(await process.wait())
