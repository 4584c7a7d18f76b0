"""The fixture no_leaks itself: that it sees what it is there for."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

import aiovfork
from tests.support.backends import LOOP_FACTORIES, left_over_tasks
from tests.support.hold import held
from tests.support.leaks import Footprint, Workers, wait_same
from tests.support.window import child_in_window, reaped


def _descriptor() -> Iterator[None]:
    fd = os.open("/dev/null", os.O_RDONLY)
    yield
    os.close(fd)


def _closed_descriptor() -> Iterator[None]:
    saved = os.dup(0)
    os.close(0)
    yield
    os.dup2(saved, 0)
    os.close(saved)


def _child() -> Iterator[None]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        yield


def _zombie() -> Iterator[None]:
    pid = os.posix_spawnp("true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield
    os.waitpid(pid, 0)


def _thread() -> Iterator[None]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield
    end.set()
    thread.join()


def _umask() -> Iterator[None]:
    before = os.umask(0o123)
    yield
    os.umask(before)


def _variable() -> Iterator[None]:
    os.environ["AIOVFORK_LEAK"] = "1"
    yield
    del os.environ["AIOVFORK_LEAK"]


@pytest.mark.parametrize(
    ("leak", "says"),
    [
        (_descriptor, "leaked descriptor"),
        (_closed_descriptor, "closed somebody's descriptor 0"),
        (_child, "left a child"),
        (_zombie, "left a child"),
        (_thread, "left thread"),
        (_umask, "changed umask"),
        (_variable, r"changed \$AIOVFORK_LEAK"),
    ],
)
def test_a_leak_is_seen(leak: Callable[[], Iterator[None]], says: str) -> None:
    """Each kind of leak is reported while it is there, and only then."""
    before = Footprint.take()
    leaking = leak()
    next(leaking)
    try:
        found = wait_same(before, seconds=0)
    finally:
        assert next(leaking, None) is None
    assert any(re.match(says, line) for line in found)
    assert not wait_same(before)


async def test_a_worker_that_does_not_end_is_seen(tmp_path: pathlib.Path) -> None:
    """A worker is no leak of the test that left it, but it is told if it is still there much later."""
    workers = Workers()
    before = workers.look()
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await child_in_window(hold)
        assert workers.look().threads == before.threads
        assert not workers.overdue()
        assert workers.overdue(seconds=0)
        hold.release()
        assert await reaped(spawning) == [0]
    assert not workers.wait_ended()


@pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)
def test_a_task_is_seen(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A task that is unfinished when its loop stops is reported."""

    async def begin() -> asyncio.Task[bool]:
        return asyncio.ensure_future(asyncio.Event().wait())

    with asyncio.Runner(loop_factory=factory) as runner:
        task = runner.run(begin())
        assert task in left_over_tasks()
    assert task not in left_over_tasks()
