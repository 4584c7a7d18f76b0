"""P2, P8: what a child or a forked process writes, the parent does not act upon; nobody else's numbers are touched."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import aiovfork
from aiovfork._ports import port_of
from tests.support.backends import LOOP_FACTORIES
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.view import STOPPED, open_files, wait_stopped

NOBODY: Final = 65534


@contextlib.contextmanager
def _files_at(directory: str, numbers: range) -> Iterator[list[str]]:
    """Have a file of its own open at each of these numbers."""
    paths = []
    for number in numbers:
        path = f"{directory}/{number}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        if fd != number:
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
        paths.append(path)
    try:
        yield paths
    finally:
        for number in numbers:
            os.close(number)


async def _pass(directory: str, first: int) -> list[Any]:
    """Pass each choice of six neighbours, all of which the application has open."""
    numbers, wrong = range(first, first + 6), []
    with _files_at(directory, numbers) as paths:
        for choice in range(1, 1 << len(numbers)):
            given = [number for bit, number in enumerate(numbers) if choice >> bit & 1]
            process = await aiovfork.create_subprocess_exec(*STOPPED, stdin=given[-1], pass_fds=given)
            wait_stopped(process.pid)
            seen, _ = open_files(process.pid)
            process.kill()
            await process.wait()
            expected = {number: f"{directory}/{number}" for number in given}
            mine = [os.readlink(f"/proc/self/fd/{number}") for number in numbers]
            if mine != paths or expected != {n: path for n, path in seen.items() if n > 2}:
                wrong.append([given, mine, seen])
            if seen[0] != paths[given[-1] - first]:
                wrong.append([given, seen])
    return wrong


@pytest.mark.parametrize("first", [20, 240, 600], ids=["low", "about 256", "high"])
def test_numbers_that_the_child_moves_are_the_childs(first: int, tmp_path: pathlib.Path) -> None:
    """P8. Whatever the child does to get each file to its number, each arrives, and the parent's table stays as it is."""
    assert isolated(_pass, str(tmp_path), first, loop="asyncio") == []


POSITIONS: Final = ("stdin", "stdout", "stderr", "pass_fds")


async def _closed(directory: str, given: str, closed: str, first: bool) -> list[Any]:
    """Give an open file, and a closed number that its duplicate would get; or, first, the loop's port."""
    if not first:
        await (await aiovfork.create_subprocess_exec("true")).wait()
    fd = os.open(f"{directory}/given", os.O_RDWR | os.O_CREAT)
    number = os.dup(fd)  # the lowest one that is free
    os.close(number)
    options: dict[str, Any] = {}
    for position, value in ((given, fd), (closed, number)):
        if position == "pass_fds":
            options.setdefault("pass_fds", []).append(value)
        else:
            options[position] = value
    try:
        process = await aiovfork.create_subprocess_exec("true", **options)
        return [await process.wait()]
    except OSError as exc:
        return [exc.errno, exc.step]  # type: ignore[attr-defined]
    finally:
        os.close(fd)


@pytest.mark.parametrize("first", [True, False], ids=["first spawn", "later spawn"])
@pytest.mark.parametrize("closed", POSITIONS)
@pytest.mark.parametrize("given", POSITIONS)
def test_a_closed_number_is_refused(given: str, closed: str, first: bool, tmp_path: pathlib.Path) -> None:
    """P8. A number that is closed at the call is EBADF, also where the duplicate of another would get that number."""
    if given == closed != "pass_fds":
        pytest.skip("one stream, two numbers")
    found = isolated(_closed, str(tmp_path), given, closed, first, loop="asyncio")
    assert found == [errno.EBADF, "dup fds"]


def _shared_and_writable(pid: int | str) -> list[str]:
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps if " rw-s " in line and "io_uring" not in line]  # that is libuv's


def _os_fork(library: str, wait_for: int, close_first: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.close(close_first)
        os.read(wait_for, 1)
        os._exit(0)
    return pid


def _raw_fork(library: str, wait_for: int, close_first: int) -> int:
    pid: int = ctypes.CDLL(library).foreign_raw_fork(wait_for, close_first)
    return pid


FORKS: Final[dict[str, Callable[[str, int, int], int]]] = {"os.fork": _os_fork, "raw": _raw_fork}


async def _forked(library: str, fork: str, spawns_before: int) -> list[Any]:
    """Fork, before or after spawns; return what the forked process has mapped, and what a spawn beside it says."""
    port = port_of(asyncio.get_running_loop())
    for _ in range(spawns_before):
        await (await aiovfork.create_subprocess_exec("true")).wait()
    mine = len(_shared_and_writable("self"))
    wait_for, release = os.pipe()
    pid = FORKS[fork](library, wait_for, release)
    theirs = _shared_and_writable(pid)
    codes = [await (await aiovfork.create_subprocess_exec("true")).wait() for _ in range(2)]
    os.close(release)
    os.close(wait_for)
    os.waitpid(pid, 0)
    assert not port.closed
    return [mine > 0, theirs, codes]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("spawns_before", [0, 1])
@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_forked_process_has_no_memory_of_ours(loop: str, fork: str, spawns_before: int) -> None:
    """P2. No process that is forked, with handlers or without, can write where the parent reads how its spawns went.

    It may drop its privileges afterwards: what it wrote there would be believed by a parent that has kept them.
    """
    found = isolated(_forked, compiled("foreign"), fork, spawns_before, loop=loop)
    assert found == [True, [], [0, 0]]
