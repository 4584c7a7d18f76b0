"""P3: a child has the mask and the confinement of the thread that asked for it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pathlib
import signal
import subprocess
from typing import Any, Final

import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES, in_thread
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.seccomp import prctl, refuse
from tests.support.view import STOPPED, read_status, wait_stopped
from tests.support.window import in_queue

MODES: Final = [(engine, report) for engine in ("clone3", "clone") for report in ("memory", "pipe")]
_STATUS: Final = (
    "NoNewPrivs Seccomp Seccomp_filters CapBnd CapAmb CapEff Cpus_allowed Mems_allowed SigBlk SigIgn".split()
)
_PR_CAPBSET_DROP: Final = 24
_CAP_SYS_BOOT: Final = 22
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_IOPRIO_GET: Final = {"x86_64": 252, "aarch64": 31}
_IDLE_CLASS: Final = 3 << 13


def _syscall(*args: int) -> int:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(*map(ctypes.c_long, args))
    return result


def _confinement(pid: int) -> dict[str, Any]:
    """Describe a child that has stopped itself."""
    wait_stopped(pid)
    with open(f"/proc/{pid}/status") as file:
        status = read_status(file.read())
    found: dict[str, Any] = {name: status[name] for name in _STATUS if name in status}
    # 32 and 33 are glibc's; subprocess' child inherits their being ignored, if posix_spawn started this process.
    found["SigIgn"] = int(found["SigIgn"], 16) & ~(0b11 << 31)
    found["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
    found["policy"] = os.sched_getscheduler(pid)
    found["ioprio"] = _syscall(_IOPRIO_GET[os.uname().machine], 1, pid)
    with open(f"/proc/{pid}/timerslack_ns") as file:
        found["timer slack"] = file.read().strip()
    return found


def _confine() -> None:
    """Confine this thread in the ways that Linux has for one thread."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, 0, 7)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    assert _syscall(_IOPRIO_SET[os.uname().machine], 1, 0, _IDLE_CLASS) == 0
    prctl(29, 123456)  # PR_SET_TIMERSLACK
    if os.geteuid() == 0:
        prctl(_PR_CAPBSET_DROP, _CAP_SYS_BOOT)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN])
    refuse({"kcmp": "ENOSYS"})


async def _ours() -> dict[str, Any]:
    process = await aiovfork.create_subprocess_exec(*STOPPED)
    try:
        return _confinement(process.pid)
    finally:
        process.kill()
        await process.wait()


def _the_stdlibs() -> dict[str, Any]:
    with subprocess.Popen(STOPPED) as process:
        try:
            return _confinement(process.pid)
        finally:
            process.kill()


async def _confine_after_a_spawn() -> list[Any]:
    before = await _ours()
    _confine()
    expected = _the_stdlibs()
    found = []
    for engine, report in MODES:
        _binding.force(engine, report)  # type: ignore[arg-type]
        found.append(await _ours())
    return [before, expected, found]


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_thread_that_confines_itself_after_a_spawn_spawns_confined_children(loop: str) -> None:
    """P3. Affinity, niceness, policy, I/O class, capabilities, seccomp: as the child of subprocess has them."""
    before, expected, found = isolated(_confine_after_a_spawn, loop=loop, check_leaks=False)
    assert before != expected, "the thread has not confined itself"
    assert found == [expected] * len(MODES)


async def _confine_while_older_workers_wait(directory: str) -> list[Any]:
    async with held(pathlib.Path(directory)) as hold:

        async def confine_and_spawn() -> dict[str, Any]:
            _confine()
            return await _ours()

        task, held_spawns = await in_queue(hold, confine_and_spawn)
        hold.release()
        found = await task
        for process in await asyncio.gather(*held_spawns):
            await process.wait()
    return [_the_stdlibs(), found]


def test_a_queued_spawn_is_not_started_by_a_worker_from_before_the_confinement(
    tmp_path: pathlib.Path,
) -> None:
    """P3. Workers that were born before their thread confined itself leave to others what was asked for since."""
    expected, found = isolated(
        _confine_while_older_workers_wait, str(tmp_path), loop="asyncio", check_leaks=False
    )
    assert found == expected


def test_each_thread_spawns_with_its_own_mask() -> None:
    """P3. Two loops in two threads with different signal masks: each child has the mask of its own."""

    def blocked_in_child(mine: signal.Signals) -> set[int]:
        signal.pthread_sigmask(signal.SIG_SETMASK, [mine])

        async def spawn() -> str:
            process = await aiovfork.create_subprocess_exec("cat", stdin=PIPE)
            with open(f"/proc/{process.pid}/status") as file:
                mask = read_status(file.read())["SigBlk"]
            await process.communicate(b"")
            return mask

        mask = int(asyncio.run(spawn()), 16)
        return {number for number in range(1, 65) if mask & 1 << number - 1}

    async def both() -> list[set[int]]:
        wanted = [signal.SIGUSR1, signal.SIGRTMAX]
        return await asyncio.gather(*(asyncio.to_thread(blocked_in_child, mine) for mine in wanted))

    found = in_thread(lambda: asyncio.run(both()))
    assert found == [{signal.SIGUSR1}, {signal.SIGRTMAX}]


async def _landlocked(directory: str) -> list[int]:
    async def read() -> int:
        process = await aiovfork.create_subprocess_exec("ls", directory, stdout=PIPE, stderr=PIPE)
        await process.communicate()
        assert process.returncode is not None
        return process.returncode

    codes = [await read()]
    # Handles reading of directories and allows it nowhere: struct landlock_ruleset_attr.
    rules = ctypes.create_string_buffer((1 << 3).to_bytes(8, "little"), 8)
    ruleset = _syscall(444, ctypes.addressof(rules), 8, 0)
    assert ruleset >= 0
    prctl(38, 1)
    assert _syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return [*codes, await read()]


def test_a_landlock_domain_holds_for_children(tmp_path: pathlib.Path) -> None:
    """P3. A thread that enters a Landlock domain after its first spawn keeps its children in it."""
    if _syscall(444, 0, 0, 1) < 1:  # LANDLOCK_CREATE_RULESET_VERSION
        pytest.skip("needs Landlock in the kernel")
    assert isolated(_landlocked, str(tmp_path), loop="asyncio", check_leaks=False) == [0, 2]
