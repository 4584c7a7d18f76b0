"""Exhausted limits: each failure is an OSError with its step, nothing is left, and the next spawn works."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pathlib
import re
import resource
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES, PIPES
from tests.support.errors import stdlib_type
from tests.support.isolated import isolated
from tests.support.native import compiled
from tests.support.window import rounds, until

_FDS: Final = 120
PIDS: Final = pathlib.Path("/sys/fs/cgroup/pids")


async def _attempt(**options: Any) -> list[Any]:
    """Spawn, and describe how it went: errno, type, step and the limit that the note names, or the exit code."""
    try:
        process = await aiovfork.create_subprocess_exec("true", **options)
    except OSError as exc:
        named = re.search(r"RLIMIT_\w+", "".join(getattr(exc, "__notes__", [])))
        return [exc.errno, stdlib_type(exc).__name__, getattr(exc, "step", None), named and named[0]]
    await process.communicate()
    return [process.returncode]


@contextlib.contextmanager
def _limited(what: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def _workers() -> Iterator[str]:
    """The threads of this process that are the core's: workers, the collector for a second after its last capture."""
    for task in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/self/task/{task}/comm") as file,
        ):
            if file.read().startswith("aiovfork"):
                yield task


async def _with_free_descriptors(free: int) -> dict[str, Any]:
    """Spawn with so many free descriptors, twice, then without a limit."""
    held = []
    with _limited(resource.RLIMIT_NOFILE, _FDS):
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(held.pop())
        found = [await _attempt(**PIPES)]
    await rounds(10)  # uvloop closes pipes in a later turn
    await until(lambda: not any(_workers()))  # one that has told of its failure still has descriptors
    with _limited(resource.RLIMIT_NOFILE, _FDS):
        found.append(await _attempt(**PIPES))
    for fd in held:
        os.close(fd)
    after = await aiovfork.create_subprocess_exec("true", **PIPES)
    await after.communicate()
    await rounds(10)
    return {"found": found, "after": [after.returncode, after.spawn_info.engine, after.spawn_info.report]}


async def _until_there_are_enough() -> list[Any]:
    found = [await _with_free_descriptors(40)]
    while not found[1:] or (found[-1]["found"][0] != [0] and len(found) < 30):
        found.append(await _with_free_descriptors(len(found) - 1))
    return found


def _check_too_few_descriptors(default: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    """Check outcomes with 0, 1, 2, ... free descriptors, of which the last worked. Returns the steps that failed."""
    steps = []
    for free, (first, second), after in (
        (free, each["found"], each["after"]) for free, each in enumerate(found)
    ):
        assert after == default["after"], (
            f"a passing failure with {free} free descriptors has changed what comes later"
        )
        assert first == second
        if first != [0]:
            assert first[:2] == [errno.EMFILE, "OSError"]
            assert first[2], f"no step with {free} free descriptors"
            assert first[3] == "RLIMIT_NOFILE", first
            steps.append(first[2])
    assert len(steps) == len(found) - 1
    return steps


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_too_few_descriptors_at_every_step(loop: str) -> None:
    """P6. With 0, 1, 2, ... free descriptors: EMFILE that names its step until there are enough; nothing is spoilt by it."""
    default, *found = isolated(_until_there_are_enough, loop=loop)
    assert {"pipe", "clone"} <= set(_check_too_few_descriptors(default, found))


def test_too_few_descriptors_for_the_first_spawn() -> None:
    """P6. The same where it is the first spawn of a process, which opens the port and probes the kernel: no lasting harm."""
    default = isolated(_with_free_descriptors, 40, loop="asyncio")
    found: list[Any] = []
    while not found or (found[-1]["found"][0] != [0] and len(found) < 30):
        found.append(isolated(_with_free_descriptors, len(found), loop="asyncio"))
    assert {"pipe", "clone"} < set(_check_too_few_descriptors(default, found))


def _becomes_somebody(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


async def _with_few_processes(
    limit: Callable[[int], contextlib.AbstractContextManager[None]], number: int
) -> list[Any]:
    """Spawn with 0, 1, 2, ... places for threads and processes left."""
    found: list[Any] = []
    for places in range(number):
        # A worker stays for up to 50 ms after its child, the collector for a second: each takes one of the places.
        while any(_workers()):
            await asyncio.sleep(0.01)
        with limit(places):
            found.append(await _attempt(**PIPES))
            several = await asyncio.gather(*(_attempt(**PIPES) for _ in range(12)))
        found.append([outcome for outcome in several if outcome != [0] and outcome[0] != errno.EAGAIN])
        found.append(await _attempt(**PIPES))
    return found


async def _with_few_processes_of_a_user(uid: int) -> list[Any]:
    _becomes_somebody(uid)
    mine = len(os.listdir("/proc/self/task"))
    return await _with_few_processes(lambda places: _limited(resource.RLIMIT_NPROC, mine + places), 4)


def _check_few_processes(found: list[Any]) -> None:
    eagain = [errno.EAGAIN, "BlockingIOError"]
    assert found[0] == [*eagain, "thread", "RLIMIT_NPROC"]
    assert found[3] == [*eagain, "clone", "RLIMIT_NPROC"]
    assert found[6] == found[9] == [0]
    assert found[1::3] == [[]] * 4, "a spawn beside others failed with something else than EAGAIN"
    assert found[2::3] == [[0]] * 4, "once there was room again, a spawn failed"


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_too_few_processes_for_a_user(loop: str) -> None:
    """P6. RLIMIT_NPROC: BlockingIOError at the thread, at the clone; then, with room for both, success."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user who has no other process")
    _check_few_processes(isolated(_with_few_processes_of_a_user, 3_000_000 + os.getpid(), loop=loop))


@pytest.fixture
def cgroup() -> Iterator[pathlib.Path]:
    """A group of the pids controller, cgroup v1."""
    group = PIDS / f"aiovfork-test-{os.getpid()}"
    if not (PIDS / "cgroup.procs").exists():
        pytest.skip(f"needs the pids controller of cgroup v1 at {PIDS}")
    try:
        group.mkdir()
    except OSError as exc:
        pytest.skip(f"needs to make a cgroup: {exc}")
    yield group
    group.rmdir()


async def _with_few_processes_in_a_group(group: str) -> list[Any]:
    directory = pathlib.Path(group)
    (directory / "cgroup.procs").write_text(str(os.getpid()))

    @contextlib.contextmanager
    def limited(places: int) -> Iterator[None]:
        (directory / "pids.max").write_text(str(len(os.listdir("/proc/self/task")) + places))
        yield
        (directory / "pids.max").write_text("max")

    try:
        return await _with_few_processes(limited, 4)
    finally:
        (PIDS / "cgroup.procs").write_text(str(os.getpid()))


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_too_few_processes_in_a_cgroup(loop: str, cgroup: pathlib.Path) -> None:
    """P6. pids.max: as RLIMIT_NPROC, and root is no exception."""
    _check_few_processes(isolated(_with_few_processes_in_a_group, str(cgroup), loop=loop))


async def _with_little_memory(first: bool) -> list[Any]:
    if not first:
        assert await _attempt(**PIPES) == [0]
    found = []
    for more in range(0, 2 << 20, 64 << 10):
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        with _limited(resource.RLIMIT_AS, size + more):
            try:
                outcome = await _attempt(**PIPES)
            except MemoryError:
                outcome = ["MemoryError"]
        found.append(outcome)
        assert await _attempt(**PIPES) == [0]
    return found


@pytest.mark.parametrize("first", [True, False], ids=["first spawn", "later spawn"])
def test_too_little_memory(first: bool) -> None:
    """P6. RLIMIT_AS: each failure is ENOMEM or EAGAIN with a step, or Python's own MemoryError; the next spawn works."""
    for outcome in isolated(_with_little_memory, first, loop="asyncio"):
        if outcome not in ([0], ["MemoryError"]):
            assert outcome[0] in {errno.ENOMEM, errno.EAGAIN}
            assert outcome[2]


async def _both_ways() -> list[Any]:
    found = [await _attempt(**PIPES)]
    try:
        await aiovfork.create_subprocess_exec("/no/such/program")
    except FileNotFoundError as exc:
        found.append([exc.errno])
    found.append(await _attempt(cwd="/", start_new_session=True, umask=0o22, pass_fds=[2]))
    return found


@pytest.mark.parametrize("kib", [64, 88, 96, 112, 120, 128, 256])
def test_much_static_tls(kib: int) -> None:
    """A preloaded library with much static TLS takes no worker its stack: pthread_create carves the one out of the other."""
    library = compiled("tls_hog", f"-DHOG={kib << 10}")
    found = isolated(_both_ways, loop="asyncio", env={"LD_PRELOAD": library})
    assert found == [[0], [errno.ENOENT], [0]]


async def _with_a_small_stack_limit() -> list[Any]:
    with _limited(resource.RLIMIT_STACK, 256 << 10):
        return await _both_ways()


def test_a_small_stack_limit() -> None:
    """RLIMIT_STACK, which is glibc's default size of a thread's stack, does not matter to workers."""
    assert isolated(_with_a_small_stack_limit, loop="asyncio") == [[0], [errno.ENOENT], [0]]
