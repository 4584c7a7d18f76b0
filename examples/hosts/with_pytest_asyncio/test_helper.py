"""pytest-asyncio: tests of code that knows nothing of aiovfork, on the loops that conftest.py names."""

import asyncio
from asyncio.subprocess import PIPE

import pytest

import aiovfork


async def helper() -> bytes:
    """Stand for the code under test."""
    process = await asyncio.create_subprocess_exec("uname", stdout=PIPE)
    return (await process.communicate())[0]


@pytest.mark.asyncio
async def test_helper() -> None:
    """Runs on each loop."""
    before = aiovfork.stats().spawned
    assert await helper() == b"Linux\n"
    assert aiovfork.stats().spawned == before + 1


@pytest.mark.asyncio(loop_factories=["aiovfork"])
async def test_helper_on_one_loop() -> None:
    """Runs on the one that it asks for."""
    assert type(asyncio.get_running_loop()) is aiovfork.EventLoop
    assert await helper() == b"Linux\n"
