"""What aiovfork's Process and module add: pidfd, rusage, spawn_info, returncode_known, stats."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pathlib
import resource
import select
import signal
import sys
import time

import psutil
import pytest

import aiovfork
from aiovfork import _binding
from tests.support.hold import held

pytestmark = pytest.mark.usefixtures("engine_mode")


async def test_pidfd_is_the_childs() -> None:
    """pidfd refers to the child, is not inheritable, and becomes readable at its exit; then it is None."""
    async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE) as process:
        assert process.pidfd is not None
        assert not os.get_inheritable(process.pidfd)
        info = pathlib.Path(f"/proc/self/fdinfo/{process.pidfd}").read_text()
        assert f"Pid:\t{process.pid}\n" in info
        assert select.select([process.pidfd], [], [], 0) == ([], [], [])
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert process.pidfd is None


async def test_a_duplicate_of_the_pidfd_is_the_callers() -> None:
    """A duplicate of pidfd stays valid after the exit."""
    async with await aiovfork.create_subprocess_exec("sleep", "1000") as process:
        assert process.pidfd is not None
        mine = os.dup(process.pidfd)
    try:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(mine, 0)
    finally:
        os.close(mine)


async def test_rusage_is_that_of_the_child() -> None:
    """rusage is None until the exit, then what this child, and no other, has used."""
    program = "x = bytearray(60_000_000)\nimport time\nwhile time.process_time() < 0.1: pass\ninput()"
    async with (
        await aiovfork.create_subprocess_exec(sys.executable, "-ISc", program, stdin=aiovfork.PIPE) as busy,
        await aiovfork.create_subprocess_exec("true") as idle,
    ):
        assert busy.rusage is None
        assert busy.stdin is not None
        busy.stdin.write(b"\n")
        assert await busy.wait() == 0
        assert await idle.wait() == 0
        assert isinstance(busy.rusage, resource.struct_rusage)
        assert idle.rusage is not None
        assert busy.rusage.ru_utime + busy.rusage.ru_stime >= 0.1
        assert busy.rusage.ru_maxrss >= 60_000
        assert idle.rusage.ru_utime < busy.rusage.ru_utime
        assert idle.rusage.ru_minflt > 0
        # Linux counts what a child had before exec as well: the size of its parent, whose memory it was.
        assert idle.rusage.ru_maxrss > 0


async def test_rusage_agrees_with_wait4() -> None:
    """The fields are in the order of getrusage(2): the same program measured by os.wait4 has the like."""
    pid = os.posix_spawnp("true", ["true"], os.environ)
    _, _, expected = os.wait4(pid, 0)
    async with await aiovfork.create_subprocess_exec("true") as process:
        await process.wait()
        got = process.rusage
    assert got is not None
    assert got.ru_maxrss == pytest.approx(expected.ru_maxrss, rel=0.5)
    assert got.ru_minflt == pytest.approx(expected.ru_minflt, rel=0.5)
    assert (got.ru_nswap, got.ru_msgsnd, got.ru_msgrcv, got.ru_nsignals) == (0, 0, 0, 0)


async def test_spawn_info(engine_mode: tuple[str, str]) -> None:
    """spawn_info names the engine and report mode, and three times in microseconds."""
    begun = time.perf_counter()
    async with await aiovfork.create_subprocess_exec("true") as process:
        info = process.spawn_info
    assert (info.engine, info.report) == engine_mode
    times = (info.queue_us, info.clone_us, info.exec_us)
    assert all(microseconds > 0 for microseconds in times)
    assert sum(times) <= (time.perf_counter() - begun) * 1e6
    assert isinstance(info, aiovfork.SpawnInfo)


async def test_spawn_info_tells_where_the_time_went(tmp_path: pathlib.Path) -> None:
    """A slow exec shows as exec_us, in microseconds."""
    async with held(tmp_path) as hold:
        begun = time.perf_counter()
        spawning = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        reached = time.perf_counter()
        while time.perf_counter() < reached + 0.05:  # at least: a busy machine may make it more
            await asyncio.sleep(0)
        hold.release()
        async with await spawning as process:
            assert 0.05e6 <= process.spawn_info.exec_us <= (time.perf_counter() - begun) * 1e6


async def test_returncode_known() -> None:
    """returncode_known is False before the exit and True after it."""
    async with await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE) as process:
        assert process.returncode is None
        assert not process.returncode_known
    assert process.returncode_known
    assert process.returncode == -9


@pytest.mark.parametrize("exit_code", [0, 1, 77, 255])
async def test_the_status_survives_a_thief(exit_code: int, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's waitpid(-1) does not change the returncode (Linux 6.15), or it is marked as unknown."""
    async with await aiovfork.create_subprocess_exec(
        "sh", "-c", f"read line; exit {exit_code}", stdin=aiovfork.PIPE
    ) as process:
        transport = process._transport.get_pipe_transport(0)
        assert transport is not None
        fd = transport.get_extra_info("pipe").fileno()
        os.write(fd, b"\n")
        # The loop does not run until the thief has been.
        assert os.waitpid(-1, 0) == (process.pid, exit_code << 8)
        before = aiovfork.stats().stolen
        returncode = await process.wait()
        assert aiovfork.stats().stolen == before + 1
        assert process.rusage is None
        if _binding.probe().pidfd_info_exit == 0:
            assert (returncode, process.returncode_known) == (exit_code, True)
            assert not caplog.records
        else:
            assert (returncode, process.returncode_known) == (255, False)
            assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_signal_that_killed_survives_a_thief() -> None:
    """A stolen status that was a signal is told as that signal."""
    if _binding.probe().pidfd_info_exit:
        pytest.skip("this kernel does not tell the status of a reaped child")
    async with await aiovfork.create_subprocess_exec("sleep", "1000") as process:
        process.terminate()
        assert os.waitpid(process.pid, 0)[0] == process.pid
        assert await process.wait() == -signal.SIGTERM


async def test_status_with_sigchld_ignored() -> None:
    """SIGCHLD ignored makes the kernel reap children by itself: the returncode is true all the same."""
    if _binding.probe().pidfd_info_exit:
        pytest.skip("this kernel does not tell the status of a reaped child")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with await aiovfork.create_subprocess_exec("sh", "-c", "exit 9") as process:
            assert await process.wait() == 9
            assert process.returncode_known
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_recycled_pid_is_not_signalled() -> None:
    """kill() of a child that was reaped behind our back cannot hit the process that has its pid now."""
    process = await aiovfork.create_subprocess_exec("sleep", "1000")
    pid = process.pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    victim = _process_with_pid(pid)
    if victim is None:
        async with process:
            pass
        pytest.skip("cannot choose the pid of a process here")
    try:
        assert process.returncode is None, "the loop has not run since"
        for send in (process.kill, process.terminate):
            with contextlib.suppress(ProcessLookupError):  # the pidfd knows better than the loop
                send()
        assert await process.wait() in {-signal.SIGKILL, 255}
        with pytest.raises(ProcessLookupError):
            process.kill()
        assert psutil.Process(victim).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    finally:
        os.kill(victim, signal.SIGKILL)
        assert os.waitpid(victim, 0) == (victim, signal.SIGKILL)


def _process_with_pid(pid: int) -> int | None:
    """Start a process that has a pid, if the system lets us choose and nobody else takes it first."""
    for _ in range(200):
        try:
            pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            return None
        started = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
        if started == pid:
            return started
        os.kill(started, signal.SIGKILL)
        os.waitpid(started, 0)
    return None


async def test_stats_count(tmp_path: pathlib.Path) -> None:
    """stats() counts what was spawned, failed, exited, is alive and in flight, and the peaks."""
    before = aiovfork.stats()
    processes = [await aiovfork.create_subprocess_exec("cat", stdin=aiovfork.PIPE) for _ in range(3)]
    with pytest.raises(FileNotFoundError):
        await aiovfork.create_subprocess_exec("/no/such/program")
    during = aiovfork.stats()
    assert during.spawned == before.spawned + 3
    assert during.failed == before.failed + 1
    assert during.alive == before.alive + 3 <= during.alive_peak
    async with held(tmp_path) as hold:
        hanging = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        assert aiovfork.stats().in_flight == 1 <= aiovfork.stats().in_flight_peak
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
    for process in processes:
        async with process:
            pass
    after = aiovfork.stats()
    assert (after.exited, after.alive) == (before.exited + 3, before.alive)
    assert (after.in_flight, after.queued) == (0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.spawned = 0  # type: ignore[misc]


async def test_spawns_beyond_the_bound_wait_their_turn(tmp_path: pathlib.Path) -> None:
    """Of many hung spawns some queue; all run in the end, and a quick one is not starved by them."""
    async with held(tmp_path) as hold:
        hanging = [asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path)) for _ in range(30)]
        await hold.reached.wait()
        stats = aiovfork.stats()
        assert stats.in_flight + stats.queued == 30
        assert stats.queued > 0
        assert stats.queued_peak >= stats.queued
        async with await aiovfork.create_subprocess_exec("true") as quick:
            assert await quick.wait() == 0
        assert not any(spawn.done() for spawn in hanging)
        hold.release()
        for process in await asyncio.gather(*hanging):
            assert await process.wait() == 0
