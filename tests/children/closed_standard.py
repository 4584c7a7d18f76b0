"""Spawns from a process that has not all of its standard descriptors.

Usage: closed_standard.py LOOP RESULT CLOSE STDIN STDOUT STDERR. CLOSE lists numbers to close once the loop is
there; the others may be closed by whoever starts this. Each of the last three is "inherit", "pipe" or "null".
The free numbers are soon those of the loop, the port, workers' pipes. Writes what the table of the first child
and of a later one is, and that of a child of subprocess, as JSON to the file RESULT.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Final

sys.path.append(str(pathlib.Path(__file__).parents[2]))

import aiovfork
from tests.support.backends import LOOP_FACTORIES
from tests.support.view import STOPPED, open_files, wait_stopped

_KINDS: Final = {"inherit": None, "pipe": subprocess.PIPE, "null": subprocess.DEVNULL}


def _table(pid: int) -> dict[int, str]:
    wait_stopped(pid)
    return open_files(pid)[0]


async def _ours(stdio: dict[str, Any]) -> dict[int, str]:
    process = await aiovfork.create_subprocess_exec(*STOPPED, **stdio)
    try:
        return _table(process.pid)
    finally:
        process.kill()
        await process.communicate()


def _the_stdlibs(stdio: dict[str, Any]) -> dict[int, str]:
    with subprocess.Popen(STOPPED, **stdio) as process:
        try:
            return _table(process.pid)
        finally:
            process.kill()


async def _spawn(closed: str, stdio: dict[str, Any]) -> list[dict[int, str]]:
    if (
        closed
    ):  # the port, and what libuv opens at its first pipe and never closes below 3, have other numbers
        await (await aiovfork.create_subprocess_exec("true", stdin=subprocess.PIPE)).communicate()
    for number in map(int, closed):
        os.close(number)
    first = await _ours(stdio)
    busy = [
        await aiovfork.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    later = await _ours(stdio)
    for process in busy:
        await process.communicate()
        assert process.returncode == 0
    return [_the_stdlibs(stdio), first, later]


def main(loop: str, result: str, closed: str, *kinds: str) -> None:
    """Spawn, and write what was seen."""
    stdio = dict(zip(("stdin", "stdout", "stderr"), map(_KINDS.__getitem__, kinds), strict=True))
    with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop]) as runner:
        found = runner.run(_spawn(closed, stdio))
    pathlib.Path(result).write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
