"""What the page "what your process may notice" says about a process that starts children is so."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import pathlib
import socket
import subprocess
import sys
import warnings
from typing import Any

import pytest

import aiovfork
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.native import compiled

_CLONE_NEWUSER = 0x10000000


def _children(task: int) -> list[int]:
    text = pathlib.Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii")
    return [int(pid) for pid in text.split()]


async def _beside_a_parked_worker() -> list[Any]:
    process = await aiovfork.create_subprocess_exec("sleep", "1000")
    tasks = [int(task) for task in os.listdir("/proc/self/task")]
    parents = [task for task in tasks if process.pid in _children(task)]
    libc = ctypes.CDLL(None, use_errno=True)
    unshared = 0 if libc.unshare(_CLONE_NEWUSER) == 0 else ctypes.get_errno()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    process.kill()
    await process.wait()
    return [
        len(parents),
        os.getpid() in parents,
        unshared,
        [type(warning.message).__name__ for warning in caught],
    ]


def test_a_parked_worker_is_a_thread() -> None:
    """While a child lives its worker does: fork() warns, a user namespace is refused, the worker has the child."""
    warned = ["DeprecationWarning"] if sys.version_info >= (3, 12) else []
    assert isolated(_beside_a_parked_worker, loop="asyncio") == [1, False, errno.EINVAL, warned]


@pytest.mark.parametrize("close_fds", [True, False])
async def test_what_a_child_that_hangs_in_exec_holds(close_fds: bool, tmp_path: pathlib.Path) -> None:
    """A child that hangs in exec holds a socket that its parent has closed with close_fds=False, and only then."""
    async with held(tmp_path) as hold:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        spawn = asyncio.create_task(aiovfork.create_subprocess_exec(hold.path, close_fds=close_fds))
        await hold.reached.wait()
        listener.close()
        if close_fds:
            socket.create_server(address).close()
        else:
            with pytest.raises(OSError, match="in use") as raised:
                socket.create_server(address)
            assert raised.value.errno == errno.EADDRINUSE
        spawn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawn
        socket.create_server(address).close()


@pytest.mark.parametrize(("module", "called"), [("asyncio", True), ("aiovfork", False)])
def test_a_hook_of_execve(module: str, called: bool, tmp_path: pathlib.Path) -> None:
    """A library in LD_PRELOAD that replaces execve and execv: CPython's child calls it, aiovfork's does not."""
    mark = tmp_path / "mark"
    program = (
        f"import asyncio, os, {module} as spawner\n"
        f"os.environ['EXECVE_MARK'] = {str(mark)!r}\n"
        "async def main():\n"
        "    process = await spawner.create_subprocess_exec('true', cwd='/')\n"
        "    assert await process.wait() == 0\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "LD_PRELOAD": compiled("execve_hook")}
    # The mark is asked for only after the imports: an editable install may start a build there.
    subprocess.run((sys.executable, "-c", program), env=environment, check=True, timeout=60)
    assert mark.exists() == called
