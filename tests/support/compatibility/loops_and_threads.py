"""Several loops, and threads other than the main one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import sys
import threading
import warnings

import aiovfork
from tests.support.backends import Backend, Spawner, in_thread, run
from tests.support.compatibility.rows import Group, Since, name_of, yes

group = Group(__name__)


async def _hello(spawn: Spawner) -> bytes:
    return await spawn.output("echo", "hello")


@group.row("yes")
def other_thread(backend: Backend) -> str:
    """A loop in a thread that is not the main one, which has no loop."""
    return yes(in_thread(lambda: run(backend, _hello)) == b"hello\n")


@group.row("yes")
def loops_in_a_row(backend: Backend) -> str:
    """Loops one after the other (`asyncio.run` twice)."""
    return yes([run(backend, _hello) for _ in range(3)] == [b"hello\n"] * 3)


@group.row("yes", uvloop="`RuntimeError`")
def at_the_same_moment(backend: Backend) -> str:
    """Loops in two threads that spawn at the same moment."""
    main = threading.get_ident()
    forking, done = threading.Event(), threading.Event()

    def before_fork() -> None:
        # Called where a backend forks: the other thread may run then, here as ever, and it spawns.
        if threading.get_ident() == main:
            forking.set()
            done.wait()

    os.register_at_fork(before=before_fork)

    def other() -> bytes:
        forking.wait()
        try:
            return run(backend, _hello)
        finally:
            done.set()

    async def body(spawn: Spawner) -> bytes:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            found = pool.submit(other)
            await _hello(spawn)
            forking.set()
            return found.result()

    start = threading.Barrier(2)

    def several(_: int) -> list[bytes]:
        start.wait()
        return [run(backend, _hello) for _ in range(5)]

    found = [run(backend, body)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found += itertools.chain(*pool.map(several, range(2)))
    return yes(found == [b"hello\n"] * 11)


@group.row("yes", Since({"3.11": "`RuntimeError`", "3.14": "yes"}), "yes", differs="better")
def without_a_child_watcher(backend: Backend) -> str:
    """Nothing of the event loop policy, no child watcher, has to be active."""
    if sys.version_info < (3, 14):  # then there are none any more
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_child_watcher(asyncio.SafeChildWatcher())  # attached to no loop
    return yes(run(backend, _hello) == b"hello\n")


@group.row("`RuntimeError`")
def outside_of_a_loop(backend: Backend) -> str:
    """A spawn where no loop is running."""
    create = asyncio.create_subprocess_exec if backend.calls_asyncio else aiovfork.create_subprocess_exec
    try:
        create("true").send(None)
    except RuntimeError as exc:
        return name_of(exc)
    return "yes"
