"""pass_fds and close_fds: which descriptors a child gets beside the standard ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import warnings
from collections.abc import Iterator

import pytest

from tests.support.backends import Spawner, compare, run_on_each
from tests.support.view import view_of

pytestmark = pytest.mark.usefixtures("engine_mode")


@contextlib.contextmanager
def opened(*paths: str, inheritable: bool = False) -> Iterator[list[int]]:
    """Open files, on numbers that are free whatever the loop has opened."""
    fds = []
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD if inheritable else fcntl.F_DUPFD_CLOEXEC, 200))
        os.close(fd)
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def test_passed_descriptors_keep_their_numbers() -> None:
    """pass_fds reach the child under the same numbers, and nothing else does."""

    async def body(spawn: Spawner) -> dict[int, str]:
        with opened("/dev/zero", "/dev/full", "/dev/null") as fds:
            return (await view_of(spawn, pass_fds=fds[:2])).fds

    assert list(compare(body).items())[3:] == [(200, "/dev/zero"), (201, "/dev/full")]


@pytest.mark.parametrize("kind", [tuple, list, set, frozenset, dict.fromkeys, reversed])
def test_any_collection_of_descriptors(kind: type) -> None:
    """pass_fds is any iterable of numbers, in any order, also twice the same."""

    async def body(spawn: Spawner) -> dict[int, str]:
        with opened("/dev/zero", "/dev/full") as fds:
            return (await view_of(spawn, pass_fds=kind([*fds, fds[0]]))).fds

    assert len(compare(body)) == 5


def test_high_numbers() -> None:
    """A descriptor with a high number passes, and those below it are closed."""

    async def body(spawn: Spawner) -> dict[int, str]:
        with opened("/dev/zero", "/dev/full", inheritable=True) as fds:
            high = 900
            os.dup2(fds[0], high)
            try:
                return (await view_of(spawn, pass_fds=[high])).fds
            finally:
                os.close(high)

    fds = compare(body)
    assert len(fds) == 4
    assert fds[900] == "/dev/zero"


def test_hundreds_of_descriptors() -> None:
    """Several hundred descriptors pass."""

    async def body(spawn: Spawner) -> int:
        with opened(*["/dev/zero"] * 300) as fds:
            return len((await view_of(spawn, pass_fds=fds)).fds)

    assert compare(body) == 303


def test_the_parents_descriptors_stay_uninheritable() -> None:
    """Passing a descriptor does not make it inheritable in the parent, for another spawn to pick up."""

    async def body(spawn: Spawner) -> None:
        with opened("/dev/zero") as (fd,):
            await view_of(spawn, pass_fds=[fd])
            assert not os.get_inheritable(fd)
            assert "/dev/zero" not in (await view_of(spawn, close_fds=False)).fds.values()

    compare(body)


def test_close_fds_closes_inheritable_descriptors() -> None:
    """By default an inheritable descriptor stays out of the child; with close_fds=False it gets in."""

    async def body(spawn: Spawner) -> list[bool]:
        with opened("/dev/zero", inheritable=True):
            views = [
                await view_of(spawn),
                await view_of(spawn, close_fds=True),
                await view_of(spawn, close_fds=False),
            ]
            return ["/dev/zero" in view.fds.values() for view in views]

    assert compare(body) == [False, False, True]


def test_nothing_of_ours_is_inherited() -> None:
    """Loop, port, pidfds and pipes of others are all close-on-exec: close_fds=False leaks none of them."""

    async def body(spawn: Spawner) -> dict[int, str]:
        others = [await spawn.exec("cat", stdin=-1, stdout=-1, stderr=-1) for _ in range(3)]
        fds = (await view_of(spawn, close_fds=False)).fds
        assert all(other.returncode is None for other in others)
        return fds

    compare(body)


def test_pass_fds_overrides_close_fds() -> None:
    """pass_fds with close_fds=False warns and closes, as the stdlib does."""

    async def body(spawn: Spawner) -> tuple[dict[int, str], list[str]]:
        with (
            opened("/dev/zero", "/dev/full", inheritable=True) as fds,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            view = await view_of(spawn, pass_fds=fds[:1], close_fds=False)
            return view.fds, [f"{warning.category.__name__}: {warning.message}" for warning in caught]

    fds, caught = compare(body)
    assert "/dev/full" not in fds.values()
    assert caught == ["RuntimeWarning: pass_fds overriding close_fds."]


def test_a_passed_descriptor_may_be_stdin_too() -> None:
    """One descriptor can be a standard one and a passed one."""

    async def body(spawn: Spawner) -> dict[int, str]:
        with opened("/dev/zero") as (fd,):
            return (await view_of(spawn, stdin=fd, pass_fds=[fd])).fds

    fds = compare(body)
    assert list(fds.values()).count("/dev/zero") == 2


def test_passed_descriptors_share_their_offset() -> None:
    """What is passed is the caller's open file, not another one of the same name."""

    async def body(spawn: Spawner) -> None:
        with opened("/etc/passwd") as (fd,):
            program = f"import os; os.lseek({fd}, 7, os.SEEK_SET)"
            process = await spawn.exec(sys.executable, "-ISc", program, pass_fds=[fd])
            assert await process.wait() == 0
            assert os.lseek(fd, 0, os.SEEK_CUR) == 7

    run_on_each(body)
