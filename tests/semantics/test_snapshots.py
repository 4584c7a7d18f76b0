"""Everything is a snapshot taken at the call: what the caller changes afterwards is not seen by the child.

Each spawn here has been called, but its child does not run yet: it hangs in exec, or waits in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiovfork
from tests.support.hold import held
from tests.support.view import STOPPED, View, look_at

pytestmark = pytest.mark.usefixtures("engine_mode")


@contextlib.asynccontextmanager
async def queued(
    tmp_path: pathlib.Path, *args: Any, **options: Any
) -> AsyncIterator[asyncio.Task[aiovfork.Process]]:
    """Call a spawn while every place in the window is taken; leaving the block gives the places free."""
    async with held(tmp_path) as hold:
        hanging = [asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)) for _ in range(30)]
        await asyncio.sleep(0)
        assert aiovfork.stats().queued > 0
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(*args, **options))
        await asyncio.sleep(0)
        yield spawning
        hold.release()
        for process in await asyncio.gather(*hanging):
            await process.wait()


async def _view(spawning: asyncio.Task[aiovfork.Process]) -> View:
    async with await spawning as process:
        return look_at(process.pid)


async def test_environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.environ may change while a spawn waits."""
    monkeypatch.setenv("AIOVFORK_TEST", "before")
    async with queued(tmp_path, *STOPPED) as spawning:
        monkeypatch.setenv("AIOVFORK_TEST", "after")
    assert b"AIOVFORK_TEST=before" in (await _view(spawning)).environ


async def test_a_passed_environment(tmp_path: pathlib.Path) -> None:
    """The mapping passed as env may change while a spawn waits."""
    env = {"A": "before"}
    async with queued(tmp_path, *STOPPED, env=env) as spawning:
        env["A"] = "after"
        env["B"] = "new"
    assert (await _view(spawning)).environ == (b"A=before",)


async def test_descriptors(tmp_path: pathlib.Path) -> None:
    """A descriptor may be closed, and its number be used for another file, while a spawn waits."""
    fds = [os.open("/dev/zero", os.O_RDONLY) for _ in range(2)]
    other = os.open("/dev/full", os.O_RDONLY)
    try:
        async with queued(tmp_path, *STOPPED, stdin=fds[0], pass_fds=[fds[1]]) as spawning:
            os.close(fds[0])
            os.dup2(other, fds[1])
    finally:
        os.close(other)
        os.close(fds[1])
    seen = (await _view(spawning)).fds
    assert (seen[0], seen[fds[1]]) == ("/dev/zero", "/dev/zero")


async def test_inherited_standard_descriptors(tmp_path: pathlib.Path) -> None:
    """The caller's own stdout may be redirected while a spawn waits that inherits it."""
    before = os.readlink("/proc/self/fd/1")
    saved = os.dup(1)
    other = os.open("/dev/full", os.O_WRONLY)
    try:
        async with queued(tmp_path, *STOPPED) as spawning:
            os.dup2(other, 1)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(other)
    assert (await _view(spawning)).fds[1] == before


async def test_signal_mask(tmp_path: pathlib.Path) -> None:
    """The calling thread may change its mask while a spawn waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        async with queued(tmp_path, *STOPPED) as spawning:
            signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR2])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (await _view(spawning)).signals("SigBlk") == {signal.SIGUSR1}


async def test_bytearray_like_arguments(tmp_path: pathlib.Path) -> None:
    """Argument objects are read at the call, and not held."""

    class Path:
        def __init__(self) -> None:
            self.text = "before"

        def __fspath__(self) -> str:
            return self.text

    path = Path()
    async with queued(tmp_path, *STOPPED, path) as spawning:
        path.text = "after"
    assert (await _view(spawning)).argv[-1] == b"before"


async def test_pass_fds_as_a_list(tmp_path: pathlib.Path) -> None:
    """The list passed as pass_fds may change while a spawn waits."""
    fd = os.open("/dev/zero", os.O_RDONLY)
    passed = [fd]
    try:
        async with queued(tmp_path, *STOPPED, pass_fds=passed) as spawning:
            passed.clear()
    finally:
        os.close(fd)
    assert (await _view(spawning)).fds[fd] == "/dev/zero"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cwd": "/"},
        {"umask": 0o077},
        {"start_new_session": True},
        {"process_group": 0},
        {"restore_signals": False},
        {"close_fds": False},
        {"pass_fds": [0]},
        {"env": {}},
        {"stdin": aiovfork.PIPE, "stdout": aiovfork.PIPE, "stderr": aiovfork.STDOUT, "pipesize": 8192},
    ],
    ids=str,
)
async def test_the_loop_runs_on_while_exec_hangs(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    """No option stalls the loop: it gives the hanging exec free itself, which it could not if it hung."""
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **options))
        await hold.reached.wait()
        assert not spawning.done()
        hold.release()
        async with await spawning as process:
            assert await process.wait() == 0
