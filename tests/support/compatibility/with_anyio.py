"""anyio's processes, which call the loop's methods."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import anyio

from tests.support.backends import Spawner
from tests.support.compatibility.arguments import may_set_groups, opened
from tests.support.compatibility.rows import LOOPS, Group, each_once, name_of, yes
from tests.support.view import STOPPED, View, look_at

DEVNULL, PIPE, STDOUT = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT

group = Group(__name__, LOOPS)


async def _view(**options: Any) -> View:
    """Describe a child of anyio.open_process."""
    process = await anyio.open_process(STOPPED, **{"stdin": None, "stdout": None, "stderr": None, **options})
    try:
        return look_at(process.pid)
    finally:
        process.kill()
        await process.aclose()


async def _taken(**options: Any) -> str:
    """Give each of some options to run_process. Returns yes where it is taken, else the exception."""
    found = []
    for name, value in options.items():
        try:
            await anyio.run_process(["true"], **{name: value})
        except (ValueError, TypeError) as exc:
            found.append(name_of(exc))
        except PermissionError:
            found.append(yes(not may_set_groups()))  # it was tried
        else:
            found.append("yes")
    return each_once(found)


@group.row("yes")
async def anyio_stdio(_: Spawner) -> str:
    """`stdin`, `stdout`, `stderr`: `None`, `DEVNULL`, `STDOUT`, a file."""
    with opened("/dev/zero") as zero, open("/dev/full", "wb") as full:
        views = [
            await _view(),
            await _view(stdin=DEVNULL, stdout=full, stderr=STDOUT),
            await _view(stdin=zero, stdout=DEVNULL, stderr=full),
        ]
    found = [[view.fds[fd] for fd in range(3)] for view in views]
    inherited = [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
    expected = [["/dev/null", "/dev/full", "/dev/full"], ["/dev/zero", "/dev/null", "/dev/full"]]
    return yes(found == [inherited, *expected])


@group.row("pipes", uvloop="socket pairs")
async def anyio_pipes(_: Spawner) -> str:
    """What `PIPE`, the default of `open_process`, gives the child."""
    fds = (await _view(stdin=PIPE, stdout=PIPE, stderr=PIPE)).fds
    return {"pipe": "pipes", "socket": "socket pairs"}[{fds[fd] for fd in range(3)}.pop()]


@group.row("yes")
async def anyio_signals(_: Spawner) -> str:
    """`terminate()`, `kill()`, `send_signal()`."""
    found = []
    for send in ("terminate", "kill", "send_signal"):
        async with await anyio.open_process(["sleep", "1000"]) as process:
            getattr(process, send)(*((10,) if send == "send_signal" else ()))
            found.append(await process.wait())
    return yes(found == [-15, -9, -10])


@group.row("yes")
async def anyio_pass_fds(_: Spawner) -> str:
    """`pass_fds`."""
    with opened("/dev/zero") as fd:
        return yes((await _view(pass_fds=[fd])).fds.get(fd) == "/dev/zero")


@group.row("yes", uvloop="`ValueError`")
async def anyio_user(_: Spawner) -> str:
    """`user`, `group`, `extra_groups`."""
    return await _taken(user=os.getuid(), group=os.getgid(), extra_groups=os.getgroups())


@group.row("yes", uvloop="`ValueError`")
async def anyio_umask(_: Spawner) -> str:
    """`umask`."""
    return yes(int((await _view(umask=0o027)).status["Umask"], 8) == 0o027)


@group.row("`FileNotFoundError`, the given `filename`", uvloop="`FileNotFoundError`, no `filename`")
async def anyio_missing(_: Spawner) -> str:
    """A program that is not there."""
    try:
        await anyio.run_process(["/no/such/program"])
    except FileNotFoundError as exc:
        called = {"/no/such/program": "the given", None: "no"}[exc.filename]
        return f"{name_of(exc)}, {called} `filename`"
    return "yes"
