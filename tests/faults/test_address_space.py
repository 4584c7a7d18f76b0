"""Hidden costs of a thread: what living children, and the spawns that made them, take of the address space."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES
from tests.support.errors import stdlib_type
from tests.support.isolated import isolated


def _size() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize() >> 20


async def _grow(children: int, parks: bool) -> list[Any]:
    """Return by how many MiB the address space has grown with so many living children."""
    _binding.lib.avf_park(parks)
    process = await aiovfork.create_subprocess_exec("true", stdout=PIPE)
    await process.communicate()
    before = _size()
    processes = await asyncio.gather(
        *(aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE) for _ in range(children))
    )
    grown = _size() - before
    for living in processes:
        await living.communicate(b"")
    _binding.lib.avf_park(1)
    return [grown]


@pytest.mark.parametrize("parks", [True, False], ids=["parked", "not parked"])
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_worker_has_no_arena(loop: str, parks: bool) -> None:
    """P6. 40 living children take less than 64 MiB together: as much as one worker that allocates takes in glibc."""
    (grown,) = isolated(_grow, 40, parks, loop=loop)
    assert grown < 64


async def _under_a_limit(children: int) -> list[Any]:
    """Have living children, and all that comes with them, in little more than what the interpreter takes."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((_size() + 200) << 20, hard))
    processes = [
        await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE) for _ in range(children)
    ]
    failure = None
    try:
        await aiovfork.create_subprocess_exec("/no/such/program")
    except OSError as exc:
        failure = stdlib_type(exc).__name__
    codes = set()
    for process in processes:
        await process.communicate(b"")
        codes.add(process.returncode)
    return [sorted(codes, key=str), failure]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_living_children_under_a_limit(loop: str) -> None:
    """P6. RLIMIT_AS 200 MiB above what the interpreter has: 60 children can live at a time."""
    assert isolated(_under_a_limit, 60, loop=loop) == [[0], "FileNotFoundError"]
