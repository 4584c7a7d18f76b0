"""Standard input, output and error."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from tests.support.backends import PIPES, Spawner
from tests.support.compatibility.arguments import taken
from tests.support.compatibility.rows import Group, Since, name_of, yes
from tests.support.view import view_of
from tests.support.window import rounds

PIPE, STDOUT, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT, asyncio.subprocess.DEVNULL

group = Group(__name__)


def fd_of(transport: Any, number: int) -> int:
    """Return the descriptor of a pipe transport: asyncio's have a pipe, uvloop's a socket."""
    pipe = transport.get_pipe_transport(number)
    fd: int = (pipe.get_extra_info("pipe") or pipe.get_extra_info("socket")).fileno()
    return fd


def target(fd: str) -> str:
    """Return where a descriptor of this process leads; nowhere, where it is closed by now."""
    with contextlib.suppress(FileNotFoundError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return ""


@group.row("a pipe", uvloop="a socket pair")
async def pipe(spawn: Spawner) -> str:
    """What `PIPE` gives the child."""
    fds = (await view_of(spawn, **PIPES)).fds
    return {"pipe": "a pipe", "socket": "a socket pair"}[{fds[fd] for fd in range(3)}.pop()]


@group.row("yes", uvloop="no")
async def open_by_name(spawn: Spawner) -> str:
    """The child can open its streams as `/dev/stdin`, `/dev/stdout`, `/proc/self/fd/1`, `/dev/stderr`."""
    reader = await spawn.exec("cat", "/dev/stdin", **PIPES)
    found = []
    with contextlib.suppress(RuntimeError):  # uvloop's, where the child is gone before its input
        found.append(await reader.communicate(b"by name") == (b"by name", b""))
    script = "echo one >/dev/stdout && echo two >/proc/self/fd/1 && echo three >/dev/stderr"
    writer = await spawn.shell(script, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    found.append(await writer.communicate() == (b"one\ntwo\n", b"three\n"))
    return yes(found == [True, True], "some of them" if any(found) else "no")


@group.row("yes", uvloop="no, it is never closed")
async def closed_standard(spawn: Spawner) -> str:
    """A caller that has closed its own standard descriptors can close a child's stdin."""
    # libuv keeps a descriptor that it opens with its first pipe, and aborts if it has to close one below 3.
    await (await spawn.exec("true", **PIPES)).wait()
    for fd in range(3):
        os.close(fd)
    process: Any = await spawn.exec("sh", "-c", "cat; echo end", stdin=PIPE, stdout=PIPE)
    parent_end = os.readlink(f"/proc/self/fd/{fd_of(process._transport, 0)}")
    process.stdin.close()
    await rounds(20)
    if parent_end in map(target, os.listdir("/proc/self/fd")):
        return "no, it is never closed"
    return yes(await process.stdout.read() == b"end\n")


@group.row("`OSError`")
async def stdin_to_stdout(spawn: Spawner) -> str:
    """`stdin=STDOUT`."""
    return await taken(spawn, {"stdin": STDOUT})


@group.row(
    "`ValueError`", Since({"3.11": "`OSError`", "3.13": "`ValueError`"}), "`ValueError`", differs="better"
)
async def stdout_to_stdout(spawn: Spawner) -> str:
    """`stdout=STDOUT`."""
    return await taken(spawn, {"stdout": STDOUT})


_SINCE_312 = Since({"3.11": "no", "3.12": "yes"})


@group.row("yes", _SINCE_312, _SINCE_312, plugged=_SINCE_312, differs="better")
async def communicate_closes_stdin(spawn: Spawner) -> str:
    """`communicate()` without input closes stdin."""
    process: Any = await spawn.exec("cat", stdin=PIPE, stdout=PIPE)
    communicating = asyncio.ensure_future(process.communicate())
    await rounds(20)
    closed = process.stdin.is_closing()
    process.stdin.close()
    await communicating
    return yes(closed)


_ERROR_IN_311 = Since({"3.11": "`AttributeError`", "3.12": "yes"})


@group.row("yes", _ERROR_IN_311, _ERROR_IN_311, plugged=_ERROR_IN_311, differs="better")
async def communicate_without_a_pipe(spawn: Spawner) -> str:
    """`communicate(input)` without `stdin=PIPE` ignores the input."""
    process: Any = await spawn.exec("echo", "out", stdout=PIPE)
    return yes(await process.communicate(b"for nobody") == (b"out\n", None))


@group.row("yes", uvloop="`RuntimeError`")
async def communicate_with_a_child_that_has_gone(spawn: Spawner) -> str:
    """`communicate(input)` once the loop has seen that stdin is closed at the other end."""
    process: Any = await spawn.exec("echo", "out", stdin=PIPE, stdout=PIPE)
    while not process.stdin.is_closing():
        await asyncio.sleep(0)
    await rounds(20)
    return yes((await process.communicate(b"x" * 2**20))[0] == b"out\n")


@group.row("`ConnectionResetError`", uvloop="`RuntimeError`")
async def write_to_a_child_that_has_gone(spawn: Spawner) -> str:
    """`write()` and `drain()` then."""
    process: Any = await spawn.exec("true", stdin=PIPE)
    while not process.stdin.is_closing():
        await asyncio.sleep(0)
    await rounds(20)
    try:
        process.stdin.write(b"x")
        await process.stdin.drain()
    except (OSError, RuntimeError) as exc:
        return name_of(exc)
    return "nothing happens"


@group.row(
    "all of the output",
    "what had been read is lost",
    "what had been read is lost",
    differs="better",
)
async def communicate_again(spawn: Spawner) -> str:
    """What `communicate()` returns if it is called again after it was cancelled."""
    child_end, parent_end = os.pipe()
    told_end, telling_end = os.pipe()
    script = f"exec </dev/fd/{child_end}; echo first; echo >/dev/fd/{telling_end}; read line; echo last"
    process: Any = await spawn.exec("sh", "-c", script, stdout=PIPE, pass_fds=[child_end, telling_end])
    os.close(child_end)
    os.close(telling_end)
    communicating = asyncio.ensure_future(process.communicate())
    told = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(told_end, told.cancel)
    await asyncio.wait([told])
    asyncio.get_running_loop().remove_reader(told_end)
    os.close(told_end)
    await rounds(20)
    communicating.cancel()
    await asyncio.wait([communicating])
    assert communicating.cancelled()
    os.close(parent_end)
    stdout, _ = await process.communicate()
    return {b"first\nlast\n": "all of the output", b"last\n": "what had been read is lost"}[stdout]
