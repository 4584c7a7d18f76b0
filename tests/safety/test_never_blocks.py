"""P7: the loop never blocks, and hung spawns starve nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiovfork
from aiovfork import DEVNULL, PIPE
from tests.support.backends import LOOP_FACTORIES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.window import BOUND, children_in_window, in_queue, reaped, rounds, task_cancelled, until

TRACER = pathlib.Path(__file__).parents[1] / "children" / "tracer.py"


@pytest.mark.usefixtures("engine_mode")
async def test_a_hung_exec_does_not_block_the_loop(tmp_path: pathlib.Path) -> None:
    """P7. While an exec hangs the loop turns, other spawns are made, and the hung one ends when it may."""
    async with held(tmp_path) as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        await rounds(100)
        assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
        assert not spawn.done()
        hold.release()
        assert await reaped(spawn) == [0]


@pytest.mark.usefixtures("engine_mode")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cwd": "/"},
        {"umask": 0o077},
        {"start_new_session": True},
        {"process_group": 0},
        {"restore_signals": False},
        {"close_fds": False},
        {"pass_fds": [0]},
        {"env": {}},
        {"stdin": PIPE, "stdout": PIPE, "stderr": aiovfork.STDOUT, "pipesize": 8192},
    ],
    ids=str,
)
async def test_the_loop_runs_on_while_exec_hangs(tmp_path: pathlib.Path, options: dict[str, Any]) -> None:
    """P7. No option stalls the loop: it gives the hanging exec free itself, which it could not if it hung."""
    async with held(tmp_path) as hold:
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, **options))
        await hold.reached.wait()
        assert not spawning.done()
        hold.release()
        async with await spawning as process:
            assert await process.wait() == 0


async def test_hung_execs_starve_nobody(tmp_path: pathlib.Path) -> None:
    """P7. With several times the bound of execs hanging, another spawn still gets through: the window grows."""
    async with held(tmp_path) as hold:
        number = 4 * BOUND
        hung = [asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)) for _ in range(number)]
        await rounds()
        assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
        assert aiovfork.stats().in_flight == number
        hold.release()
        assert await reaped(*hung) == [0] * number


async def test_an_idle_loop_hears_of_growth(tmp_path: pathlib.Path) -> None:
    """P7. A queued spawn gets its place though nothing else wakes the loop."""
    async with held(tmp_path) as hold:
        task, others = await in_queue(hold, lambda: aiovfork.create_subprocess_exec("true"))
        assert await reaped(task) == [0]
        hold.release()
        await reaped(*others)


async def _burst() -> list[int]:
    spawns = [aiovfork.create_subprocess_exec("true") for _ in range(6 * BOUND)]
    processes = await asyncio.gather(*spawns)
    assert [await process.wait() for process in processes] == [0] * len(spawns)
    stats = aiovfork.stats()
    return [stats.in_flight_peak, stats.queued_peak, stats.in_flight, stats.queued]


def test_the_window_is_bounded() -> None:
    """P7. Where nothing hangs, no more workers are in the window than the bound; the others wait in the queue."""
    peaks = []
    for _ in range(
        5
    ):  # on a busy machine a spawn that takes 20 ms counts as stuck, and others end before the last
        peak, queued, *left = isolated(_burst, loop="asyncio")
        assert left == [0, 0]
        if peak <= BOUND and queued >= 3 * BOUND:
            return
        peaks.append((peak, queued))
    pytest.fail(f"the bound is {BOUND}, in flight and queued were {peaks}")


@contextlib.asynccontextmanager
async def _many_waiting(number: int) -> AsyncIterator[list[aiovfork.Process]]:
    """Start children that all end when the block is left."""
    read_end, write_end = os.pipe()
    try:
        spawns = [
            aiovfork.create_subprocess_exec("cat", stdin=read_end, stdout=DEVNULL) for _ in range(number)
        ]
        processes = await asyncio.gather(*spawns)
        os.close(read_end)
        yield list(processes)
    finally:
        os.close(write_end)


async def _exit_at_once(number: int) -> list[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * number)), hard))
    async with _many_waiting(number) as processes:
        pass
    for process in processes:  # without the loop: it finds all of them at once
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    codes = await asyncio.gather(*(process.wait() for process in processes))
    stats = aiovfork.stats()
    return [len(codes), sum(codes), stats.exited, stats.alive, stats.alive_peak]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_more_exits_than_a_drain_holds(loop: str) -> None:
    """P7. 600 children that end at once are all reported: what does not fit into one drain is not lost."""
    assert isolated(_exit_at_once, 600, loop=loop) == [600, 0, 600, 0, 600]


async def _start_at_once(directory: str, number: int) -> list[int]:
    async with held(pathlib.Path(directory)) as hold:
        tasks = [
            asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path, stdin=PIPE))
            for _ in range(number)
        ]
        await until(lambda: aiovfork.stats().in_flight == number)
        hold.release()
        while aiovfork.stats().in_flight:  # without the loop: it finds all of them at once
            pass
        assert aiovfork.stats().spawned == 0
        codes = await reaped(*tasks)
    return [len(codes), sum(codes), aiovfork.stats().spawned]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_more_starts_than_a_drain_holds(loop: str, tmp_path: pathlib.Path) -> None:
    """P7. 100 spawns that succeed while the loop does not look, their children dead by then, are all reported."""
    assert isolated(_start_at_once, str(tmp_path), 100, loop=loop) == [100, 0, 100]


async def test_a_stopped_child_does_not_block() -> None:
    """P7. A stopped child is not taken for a dead one; it can be continued, and its exit is seen."""
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
    assert process.returncode is None
    process.send_signal(signal.SIGCONT)
    assert list(await process.communicate(b"goes on")) == [b"goes on", None]
    assert process.returncode == 0


@contextlib.contextmanager
def _traced(pid: int) -> Any:
    with subprocess.Popen(
        [sys.executable, str(TRACER), str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tracer:
        assert tracer.stdin is not None
        assert tracer.stdout is not None
        try:
            assert tracer.stdout.readline() == b"traced\n"
            yield tracer
        finally:
            tracer.stdin.close()


async def test_a_ptraced_child_neither_stalls_nor_spins_the_loop() -> None:
    """P7. A zombie that its tracer holds: its pidfd is readable, waitid has nothing. The loop waits, at no cost."""
    process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
    with _traced(process.pid):
        communicated = asyncio.ensure_future(process.communicate(b""))
        await until(lambda: not os.path.exists(f"/proc/{process.pid}/exe") or _state(process.pid) == "Z")
        # A loop that spins comes back from select(2) at once, and never gives the processor up by itself.
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in range(100):
            await asyncio.sleep(0.005)
        slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        assert process.returncode is None
    assert list(await communicated) == [None, None]
    assert [process.returncode, process.returncode_known] == [0, True]
    assert slept > 50, f"the loop was spinning: it has slept {slept} times in 100 timers"


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


async def test_a_child_that_is_traced_in_the_window(tmp_path: pathlib.Path) -> None:
    """P7. A tracer that seizes a child in the window blocks nothing; the child can be cancelled, and is reaped."""
    async with held(tmp_path) as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        (pid,) = children_in_window()
        with _traced(pid):
            assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
            spawn.cancel()
            await rounds()
        with pytest.raises(asyncio.CancelledError):
            await spawn


async def _fill(directory: str, number: int) -> list[int]:
    async with held(pathlib.Path(directory)) as hold:
        hung = [asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)) for _ in range(number)]
        await until(lambda: aiovfork.stats().in_flight == 256)
        with pytest.raises(TimeoutError) as info:
            await aiovfork.create_subprocess_exec("true", spawn_timeout=0.2)
        assert info.value.step == "none"  # type: ignore[attr-defined]
        peak = aiovfork.stats().in_flight_peak
        await task_cancelled(hung.pop())
        hold.release()
        assert await reaped(*hung) == [0] * (number - 1)
    assert await reaped(asyncio.ensure_future(aiovfork.create_subprocess_exec("true"))) == [0]
    return [peak, aiovfork.stats().in_flight]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_there_is_a_hard_cap_of_workers(loop: str, tmp_path: pathlib.Path) -> None:
    """P7. The window grows up to 256 workers; what is beyond waits, has its deadline, and goes on when they do."""
    assert isolated(_fill, str(tmp_path), 270, loop=loop) == [256, 0]
