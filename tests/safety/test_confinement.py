"""P3: a child has the mask and the confinement of the thread that asked for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import pathlib
import signal
import struct
import subprocess
from collections.abc import Callable
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
_STATUS: Final = [
    *("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"),
    *("Cpus_allowed", "Mems_allowed", "SigBlk", "SigIgn"),
]
_PR_CAPBSET_DROP: Final = 24
_PR_SET_TIMERSLACK: Final = 29
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_NET_RAW: Final = 13
_CAP_SYS_BOOT: Final = 22
_CAPABILITY_VERSION_3: Final = 0x20080522
_NUMBERS: Final = {
    "x86_64": {"ioprio_set": 251, "ioprio_get": 252, "capget": 125, "capset": 126, "unshare": 272},
    "aarch64": {"ioprio_set": 30, "ioprio_get": 31, "capget": 90, "capset": 91, "unshare": 97},
}
_IDLE_CLASS: Final = 3 << 13
# Mounts, cgroups, host name, IPC, network. Linux starts no thread for one that has left its namespace of pids.
_NAMESPACES: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000


def _syscall(name: str | int, *args: int) -> int:
    libc: Any = ctypes.CDLL(None, use_errno=True)
    number = _NUMBERS[os.uname().machine][name] if isinstance(name, str) else name
    result: int = libc.syscall(*map(ctypes.c_long, (number, *args)))
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
    found["ioprio"] = _syscall("ioprio_get", 1, pid)
    with open(f"/proc/{pid}/timerslack_ns") as file:
        found["timer slack"] = file.read().strip()
    names = os.listdir(f"/proc/{pid}/ns")
    return found | {f"{name} namespace": os.readlink(f"/proc/{pid}/ns/{name}") for name in names}


def _change_capabilities() -> None:
    """Lose one, and have another one that a program without privileges gets too."""
    prctl(_PR_CAPBSET_DROP, _CAP_SYS_BOOT)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    buffers = (ctypes.create_string_buffer(header, 8), sets)
    address, data = (ctypes.addressof(buffer) for buffer in buffers)
    assert _syscall("capget", address, data) == 0
    low = list(struct.unpack("=6I", sets.raw))
    low[2] |= 1 << _CAP_NET_RAW
    sets.raw = struct.pack("=6I", *low)
    assert _syscall("capset", address, data) == 0
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_NET_RAW)


def _leave_namespaces() -> None:
    assert _syscall("unshare", _NAMESPACES) == 0


#: The ways in which Linux can confine one thread, in an order in which none forbids the next.
CONFINEMENTS: Final[dict[str, Callable[[], object]]] = {
    "affinity": lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    "niceness": lambda: os.setpriority(os.PRIO_PROCESS, 0, 7),
    "policy": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "I/O class": lambda: _syscall("ioprio_set", 1, 0, _IDLE_CLASS),
    "timer slack": lambda: prctl(_PR_SET_TIMERSLACK, 123456),
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN]),
    **({"namespaces": _leave_namespaces, "capabilities": _change_capabilities} if os.geteuid() == 0 else {}),
    "no_new_privs": lambda: prctl(38, 1),
    "seccomp": lambda: refuse({"kcmp": "ENOSYS"}),
}


def _confine() -> None:
    """Confine this thread in each of these ways."""
    for confine in CONFINEMENTS.values():
        confine()


#: Makes a child go through the launcher.
LAUNCHED: Final[dict[str, Any]] = {"user": os.getuid()}


async def _ours(**options: Any) -> dict[str, Any]:
    process = await aiovfork.create_subprocess_exec(*STOPPED, **options)
    try:
        assert (process.spawn_info.engine == "launcher") is bool(options)
        return _confinement(process.pid)
    finally:
        process.kill()
        await process.wait()


def _the_stdlibs(**options: Any) -> dict[str, Any]:
    with subprocess.Popen(STOPPED, **options) as process:
        try:
            return _confinement(process.pid)
        finally:
            process.kill()


async def _confine_step_by_step() -> dict[str, list[Any]]:
    found = {"nothing": [_the_stdlibs(), await _ours()]}
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        other.submit(int).result()  # a thread from before
        for name, confine in CONFINEMENTS.items():
            confine()
            found[name] = [_the_stdlibs(), await _ours()]
            found[f"{name}, launched"] = [_the_stdlibs(**LAUNCHED), await _ours(**LAUNCHED)]
        for engine, report in MODES:
            _binding.force(engine, report)  # type: ignore[arg-type]
            found[f"{engine}, {report}"] = [_the_stdlibs(), await _ours()]
        run = asyncio.get_running_loop().run_in_executor
        found["the other thread"] = [
            await run(other, _the_stdlibs),
            await run(other, lambda: asyncio.run(_ours())),
        ]
    return found


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_a_thread_that_confines_itself_after_a_spawn_spawns_confined_children(loop: str) -> None:
    """P3. Affinity, niceness, policy, namespaces, capabilities, seccomp, ...: as subprocess' child, launched or not."""
    found = isolated(_confine_step_by_step, loop=loop, check_leaks=False)
    for name, (expected, ours) in found.items():
        assert ours == expected, name
    stages = [found[name][0] for name in ("nothing", *CONFINEMENTS)]
    for name, before, after in zip(CONFINEMENTS, stages[:-1], stages[1:], strict=True):
        assert before != after, f"{name} did not change"
    assert found["the other thread"] == found["nothing"]


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
