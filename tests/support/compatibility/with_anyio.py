"""anyio's processes, which call the loop's methods."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
from typing import Any

import anyio

from tests.support.backends import Spawner
from tests.support.compatibility.arguments import may_set_groups, opened
from tests.support.compatibility.rows import LOOPS, Group, each_once, name_of, yes
from tests.support.view import STOPPED, View, look_at
from tests.support.window import until

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
async def anyio_commands(_: Spawner) -> str:
    """`run_process` of a list, of a shell command as `str` and `bytes`, of a path."""
    commands: list[Any] = [["echo", b"a"], "echo a", b"echo a", pathlib.Path("echo a")]
    found = [(await anyio.run_process(command)).stdout for command in commands]
    return yes(found == [b"a\n"] * 4)


@group.row("yes")
async def anyio_output(_: Spawner) -> str:
    """Its result: `stdout`, `stderr`, `returncode`; `check` raises `CalledProcessError` with them."""
    script = "echo out; echo err >&2; exit 3"
    done = await anyio.run_process(script, check=False)
    found = [(done.stdout, done.stderr, done.returncode)]
    try:
        await anyio.run_process(script)
    except subprocess.CalledProcessError as exc:
        found.append((exc.stdout, exc.stderr, exc.returncode))
    return yes(found == [(b"out\n", b"err\n", 3)] * 2)


@group.row("yes")
async def anyio_input(_: Spawner) -> str:
    """`input`."""
    return yes((await anyio.run_process(["cat"], input=b"x" * 2**20)).stdout == b"x" * 2**20)


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
async def anyio_streams(_: Spawner) -> str:
    """`open_process`: its streams, `wait()`, `async with`."""
    async with await anyio.open_process(["cat"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(b"ping")
        answer = await process.stdout.receive()
        await process.stdin.aclose()
        return yes((answer, await process.wait(), process.returncode) == (b"ping", 0, 0))


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
async def anyio_cancelled(_: Spawner) -> str:
    """A cancelled `run_process` kills its child, and it is reaped."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "pid")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.run_process, f"echo $$ >{path}.new; mv {path}.new {path}; exec sleep 1000")
            await until(path.exists)
            pid = int(path.read_text())
            tasks.cancel_scope.cancel()
    # anyio cancels again and again, so what a task awaits in order to reap is cancelled too.
    await until(lambda: not os.path.exists(f"/proc/{pid}"))
    return "yes"


@group.row("yes")
async def anyio_cwd(_: Spawner) -> str:
    """`cwd`, `env`."""
    view = await _view(cwd="/usr", env={"A": "B"})
    return yes((view.cwd, view.environ) == (os.path.realpath("/usr"), (b"A=B",)))


@group.row("`ValueError`")
async def anyio_for_windows(_: Spawner) -> str:
    """`startupinfo`, `creationflags`."""
    return await _taken(startupinfo=object(), creationflags=8)


@group.row("yes")
async def anyio_session(_: Spawner) -> str:
    """`start_new_session`."""
    return yes((await _view(start_new_session=True)).session == "its own")


@group.row("yes")
async def anyio_pass_fds(_: Spawner) -> str:
    """`pass_fds`."""
    with opened("/dev/zero") as fd:
        return yes((await _view(pass_fds=[fd])).fds.get(fd) == "/dev/zero")


@group.row("`ValueError`", "yes", "`ValueError`", differs="worse")
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
