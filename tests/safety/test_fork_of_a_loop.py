"""A loop that ran before a fork goes on in the forked process: gunicorn with preload, prefork servers."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import aiovfork
from tests.support.backends import WAYS
from tests.support.isolated import isolated

PIPE = asyncio.subprocess.PIPE


async def _output() -> str:
    process = await asyncio.create_subprocess_exec("echo", "here", stdout=PIPE)
    return (await process.communicate())[0].decode()


def _in_fork(loop: asyncio.AbstractEventLoop) -> str:
    """What a forked child reads from a child of its own, on the loop that it has inherited."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, loop.run_until_complete(_output()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def _fork_after(way: str, before: str) -> list[str]:
    loop: Any = WAYS[way]()
    asyncio.set_event_loop(loop)
    if before == "spawned":
        loop.run_until_complete(_output())
    else:
        loop.run_until_complete(asyncio.sleep(0))
    said = [_in_fork(loop), _in_fork(loop)]
    said.append(loop.run_until_complete(_output()))  # the parent's loop is as it was
    loop.close()
    assert not aiovfork.stats().alive
    return said


@pytest.mark.parametrize("before", ["ran", "spawned"])
@pytest.mark.parametrize("way", WAYS)
def test_a_loop_that_ran_before_the_fork(way: str, before: str) -> None:
    """In the forked process the loop starts children, and hears of them; so does the parent's, afterwards."""
    env = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}  # a parked worker is a thread
    assert isolated(_fork_after, way, before, check_leaks=False, env=env) == ["here\n"] * 3


def _beside_uvloops_own(before: str) -> list[str]:
    import uvloop  # noqa: PLC0415  # first: its handler of pthread_atfork is to be older than the core's

    async def ours() -> str:
        process = await aiovfork.create_subprocess_exec("echo", "ours", stdout=PIPE)
        return (await process.communicate())[0].decode()

    async def main() -> list[str]:
        said = []
        if before == "undone":
            installation = aiovfork.install()
            said.append(await _output())
            installation.undo()
        return [*said, await ours(), await _output(), await ours(), await _output()]

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("before", ["", "undone"])
def test_uvloops_own_children_beside_ours(before: str) -> None:
    """P11. uvloop forks for its own children, with a handler that runs Python: nobody stands, and we hear on."""
    found = isolated(_beside_uvloops_own, before, check_leaks=False)
    assert found[-4:] == ["ours\n", "here\n"] * 2
