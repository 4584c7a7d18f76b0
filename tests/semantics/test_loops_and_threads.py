"""Loops and threads: any number of them, anywhere, one after the other and at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import aiovfork
from tests.support.backends import (
    LOOP_FACTORIES,
    OURS,
    Backend,
    LoopFactory,
    Spawner,
    compare,
    in_thread,
    run,
)

ASYNCIO_RUN = pathlib.Path(__file__).parents[1] / "children" / "asyncio_run.py"
FACTORIES = pytest.mark.parametrize("factory", LOOP_FACTORIES.values(), ids=LOOP_FACTORIES)


async def _some_work(name: str) -> list[bytes]:
    async def one(number: int) -> bytes:
        process = await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE, stdout=aiovfork.PIPE)
        stdout, _ = await process.communicate(b"%s %d" % (name.encode(), number))
        assert process.returncode == 0
        assert stdout is not None
        return stdout

    return await asyncio.gather(*[one(number) for number in range(8)])


def _expected(name: str) -> list[bytes]:
    return [b"%s %d" % (name.encode(), number) for number in range(8)]


def _run(factory: LoopFactory, name: str) -> list[bytes]:
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_some_work(name))


@FACTORIES
def test_loops_one_after_the_other(factory: LoopFactory) -> None:
    """Any number of loops in a row spawn, each closed before the next."""
    for number in range(5):
        assert _run(factory, f"loop {number}") == _expected(f"loop {number}")


@FACTORIES
def test_one_loop_run_many_times(factory: LoopFactory) -> None:
    """A loop that stops and runs again keeps spawning; a child may exit between two runs."""
    with asyncio.Runner(loop_factory=factory) as runner:
        process = runner.run(aiovfork.create_subprocess_exec("sh", "-c", "exit 3"))
        assert runner.run(_some_work("again")) == _expected("again")
        assert runner.run(process.wait()) == 3


@FACTORIES
def test_a_loop_of_another_thread(factory: LoopFactory) -> None:
    """A thread that is not the main one spawns on its own loop; the main thread needs none."""
    assert in_thread(lambda: _run(factory, "other")) == _expected("other")


def test_many_loops_at_once() -> None:
    """Loops of both kinds in several threads spawn at the same time, each hears of its own children."""
    names = [f"{kind} {number}" for number in range(3) for kind in LOOP_FACTORIES]
    start = threading.Barrier(len(names))

    def thread(name: str) -> list[bytes]:
        start.wait(60)
        return _run(LOOP_FACTORIES[name.split(maxsplit=1)[0]], name)

    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(thread, names)) == [_expected(name) for name in names]


@FACTORIES
def test_beside_a_loop_that_is_busy(factory: LoopFactory) -> None:
    """A loop that does not get to run does not delay another one's children."""
    held_up, go_on = threading.Event(), threading.Event()

    async def busy() -> int:
        process = await aiovfork.create_subprocess_exec("true")
        held_up.set()
        go_on.wait(60)
        return await process.wait()

    def thread() -> int:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(busy())

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(thread)
        assert held_up.wait(60)
        assert _run(factory, "meanwhile") == _expected("meanwhile")
        assert not future.done()
        go_on.set()
        assert future.result(10) == 0


def test_signals_are_sent_from_any_thread() -> None:
    """kill() only needs the pidfd: another thread may call it."""

    async def body(spawn: Spawner) -> int:
        process = await spawn.exec("sleep", "1000")
        in_thread(process.kill)
        return await process.wait()

    assert compare(body) == -9


@pytest.mark.parametrize("backend", OURS, ids=lambda backend: backend.name)
def test_both_kinds_of_spawn_on_one_loop(backend: Backend) -> None:
    """asyncio's own subprocesses and aiovfork's live side by side on one loop."""

    async def body(spawn: Spawner) -> None:
        theirs = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ours = await spawn.exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        outputs = await asyncio.gather(ours.communicate(b"ours"), theirs.communicate(b"theirs"))
        assert [stdout for stdout, _ in outputs] == [b"ours", b"theirs"]
        assert (ours.returncode, theirs.returncode) == (0, 0)

    run(backend, body)


def test_beside_subprocess_and_its_waits() -> None:
    """subprocess.run() in another thread, which waits for its own child, takes nothing from us."""
    stop = threading.Event()

    def thread() -> int:
        count = 0
        while not stop.is_set():
            assert subprocess.run(["true"], check=True).returncode == 0
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(thread)
        try:
            for factory in LOOP_FACTORIES.values():
                for number in range(5):
                    assert _run(factory, str(number)) == _expected(str(number))
        finally:
            stop.set()
        assert future.result(10) > 0


def test_a_program_with_asyncio_run() -> None:
    """asyncio.run() in a row works; no child watcher, SIGCHLD handler, wake-up fd or thread is left."""
    result = subprocess.run(
        [sys.executable, "-W", "error", ASYNCIO_RUN], stdout=subprocess.PIPE, check=True, timeout=60
    )
    found: dict[str, Any] = json.loads(result.stdout)
    # The descriptors of the last loop's port may wait for the loop to be collected.
    assert found.pop("descriptors left") <= 3
    assert found == {
        "returncodes": [0, 1, 2, 3, 4],
        "sigchld is default": True,
        "wakeup fd": -1,
        "watcher": "None",
        "python threads": ["MainThread"],
    }


@FACTORIES
def test_a_sigchld_handler_of_the_program_stays(factory: LoopFactory) -> None:
    """A handler for SIGCHLD, the program's own, stays installed and is called for the exits of children."""
    calls: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: calls.append(number))
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        assert _run(factory, "handler") == _expected("handler")
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert calls


@FACTORIES
def test_many_children_at_once(factory: LoopFactory) -> None:
    """A few hundred children alive at once are all told apart."""

    async def body() -> list[int]:
        script = "read line; exit $0"
        processes = await asyncio.gather(
            *[
                aiovfork.create_subprocess_exec("sh", "-c", script, str(number), stdin=aiovfork.PIPE)
                for number in range(200)
            ]
        )
        assert len({process.pid for process in processes}) == 200
        for process in reversed(processes):
            assert process.stdin is not None
            process.stdin.close()
        return await asyncio.gather(*[process.wait() for process in processes])

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(body()) == list(range(200))
