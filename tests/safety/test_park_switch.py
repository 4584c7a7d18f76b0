"""Parking of workers can be switched off."""

from __future__ import annotations

import os
import subprocess
import sys

import aiovfork
from tests.support.window import until


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))


async def test_a_parked_worker_is_woken() -> None:
    """park_workers(False) ends the threads that wait for living children, and the children live on."""
    before = threads()
    async with await aiovfork.create_subprocess_exec("sleep", "1000") as process:
        await until(lambda: threads() == before + 1)
        try:
            assert aiovfork.park_workers(enabled=False) is True
            await until(lambda: threads() == before)
            assert process.returncode is None
            async with await aiovfork.create_subprocess_exec("sleep", "1000"):
                await until(lambda: threads() == before)
            assert aiovfork.park_workers(enabled=True) is False
        finally:
            aiovfork.park_workers(enabled=True)


def test_the_environment_switches_it_off() -> None:
    """With AIOVFORK_PARK=0 it is off from the start."""
    for value, expected in (("0", "False"), ("1", "True"), ("", "True")):
        said = subprocess.check_output(
            [sys.executable, "-c", "import aiovfork; print(aiovfork.park_workers(True))"],
            env={**os.environ, "AIOVFORK_PARK": value},
            text=True,
        )
        assert said.strip() == expected
