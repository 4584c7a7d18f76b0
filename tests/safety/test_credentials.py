"""P2 and P12: credentials, dumpability and setuid() beside children that share memory."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pathlib
import shutil
import stat
import sys
import threading
from typing import Any, Final

import psutil
import pytest

import aiovfork
from aiovfork import PIPE, _binding
from tests.support.backends import LOOP_FACTORIES
from tests.support.hold import held
from tests.support.isolated import isolated
from tests.support.seccomp import prctl
from tests.support.view import STOPPED, look_at, read_status
from tests.support.window import reaped, until

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_GET_THP_DISABLE: Final = 42
_NOBODY: Final = 65534


def _state() -> dict[str, Any]:
    """Return what belongs to the memory map or the credentials of this process."""
    with open("/proc/self/status") as file:
        status = read_status(file.read())
    names = (
        "Uid Gid Groups CapPrm CapEff CapInh CapBnd CapAmb NoNewPrivs Seccomp THP_enabled CoreDumping".split()
    )
    return {
        "dumpable": prctl(_PR_GET_DUMPABLE),
        "thp": prctl(_PR_GET_THP_DISABLE),
        "owner": os.stat("/proc/self/mem").st_uid,
        **{name: status[name] for name in names if name in status},
    }


async def _spawn_everything(unreadable: str, setuid: str) -> list[Any]:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    prctl(_PR_SET_DUMPABLE, 1)
    before = _state()
    found = []
    for engine, report in [("clone3", "memory"), ("clone", "memory"), ("clone3", "pipe"), ("clone", "pipe")]:
        _binding.force(engine, report)  # type: ignore[arg-type]
        for program in ("true", unreadable, setuid):
            for options in (
                {},
                {"cwd": "/", "umask": 0o77},
                {"start_new_session": True},
                {"process_group": 0},
            ):
                process = await aiovfork.create_subprocess_exec(program, **options)
                assert await process.wait() == 0
        for program in ("/no/such/program", "/etc/shadow", "/root/program"):
            with pytest.raises(OSError):  # noqa: PT011  # which one is not the point
                await aiovfork.create_subprocess_exec(program)
        found.append(_state())
    return [before, found]


def open_to_all(tmp_path: pathlib.Path) -> None:
    """Let everybody execute what lies in a folder of pytest's."""
    for directory in (tmp_path, *tmp_path.parents[:3]):  # one of them is each worker's of pytest-xdist
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)


def test_the_parent_stays_dumpable(tmp_path: pathlib.Path) -> None:
    """P2. Set-user-ID and unreadable programs, and every option: dumpability and credentials of the parent stay."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to install a set-user-ID program and to become somebody else")
    open_to_all(tmp_path)
    unreadable, setuid = (shutil.copy("/bin/true", tmp_path / name) for name in ("unreadable", "setuid"))
    os.chmod(unreadable, 0o111)
    os.chmod(setuid, 0o4755)
    before, found = isolated(
        _spawn_everything, str(unreadable), str(setuid), loop="asyncio", check_leaks=False
    )
    assert before["dumpable"] == 1
    assert before["owner"] == _NOBODY
    assert found == [before] * 4


async def _change_group_in_the_window(directory: str) -> list[str]:
    libc = ctypes.CDLL(None)  # os.setgid() would keep the GIL while it waits
    events: list[str] = []
    ended = threading.Event()
    tid: list[int] = []

    def change() -> None:
        tid.append(threading.get_native_id())
        libc.setgid(os.getgid())
        events.append("changed")
        ended.set()

    async with held(pathlib.Path(directory)) as hold:
        spawn = asyncio.ensure_future(aiovfork.create_subprocess_exec(hold.path))
        await hold.reached.wait()
        thread = threading.Thread(target=change)
        thread.start()
        await until(lambda: ended.is_set() or (tid and _sleeps_in_futex(tid[0])))
        events.append("released")
        hold.release()
        await asyncio.to_thread(thread.join)
        events += map(str, await reaped(spawn))
    return events


def _sleeps_in_futex(tid: int) -> bool:
    with open(f"/proc/self/task/{tid}/wchan") as wchan, open(f"/proc/self/task/{tid}/stat") as file:
        return "futex" in wchan.read() and ") S" in file.read()


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_setgid_waits_for_the_window(loop: str, tmp_path: pathlib.Path) -> None:
    """P12, P2. libc's setgid() in the parent returns only when no child is left that shares memory under the old ids."""
    assert isolated(_change_group_in_the_window, str(tmp_path), loop=loop) == ["released", "changed", "0"]


async def _drop_privileges() -> dict[str, str]:
    first = await aiovfork.create_subprocess_exec("true")
    await first.wait()
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    process = await aiovfork.create_subprocess_exec("cat", "/proc/self/status", stdout=PIPE)
    output, _ = await process.communicate()
    status = read_status((output or b"").decode())
    return {name: status[name].split()[0] for name in ("Uid", "Gid", "CapEff")}


@pytest.mark.parametrize("loop", LOOP_FACTORIES)
def test_dropped_privileges_are_dropped_in_children(loop: str) -> None:
    """P2, P3. A process that gives its privileges up after the first spawn has no child that still has them."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to have something to give up")
    found = isolated(_drop_privileges, loop=loop, check_leaks=False)
    assert found == {"Uid": str(_NOBODY), "Gid": str(_NOBODY), "CapEff": "0" * 16}


@pytest.mark.usefixtures("engine_mode")
async def test_a_child_shares_no_memory_after_exec() -> None:
    """P2. Once create_subprocess_exec has returned, the child has an address space of its own."""
    process = await aiovfork.create_subprocess_exec(*STOPPED)
    try:
        view = look_at(process.pid)
        assert pathlib.Path(view.executable).name != pathlib.Path(os.readlink("/proc/self/exe")).name
        with open(f"/proc/{process.pid}/maps") as maps:
            assert "_core" not in maps.read()
    finally:
        process.kill()
        await process.wait()


def _has_our_memory(pid: int) -> bool:
    """Ask the kernel: kcmp(2), KCMP_VM."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 312, "aarch64": 272}[os.uname().machine]
    return bool(libc.syscall(*map(ctypes.c_long, (number, os.getpid(), pid, 1, 0, 0))) == 0)


async def _look_at_a_launcher(directory: str) -> dict[str, Any]:
    async with held(pathlib.Path(directory)) as hold:
        spawn = asyncio.ensure_future(
            aiovfork.create_subprocess_exec(hold.path, user=_NOBODY, group=_NOBODY, extra_groups=[])
        )
        await hold.reached.wait()
        pid = psutil.Process().children()[0].pid
        with open(f"/proc/{pid}/status") as file:
            status = read_status(file.read())
        with open(f"/proc/{pid}/maps") as file:
            mapped = file.read()
        found = {
            "uid": status["Uid"].split()[0],
            "groups": status["Groups"],
            "shares our memory": _has_our_memory(pid),
            "Python is mapped": "_core." in mapped or os.path.realpath(sys.executable) in mapped,
            "descriptors": sorted(map(int, os.listdir(f"/proc/{pid}/fd")))[:3],
        }
        hold.release()
        await reaped(spawn)
    return found


def test_a_child_with_other_credentials_has_memory_of_its_own(tmp_path: pathlib.Path) -> None:
    """P2. A child that has become somebody else, and has not yet reached its program, shares no memory with us."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    open_to_all(tmp_path)
    found = isolated(_look_at_a_launcher, str(tmp_path), loop="asyncio")
    assert found == {
        "uid": str(_NOBODY),
        "groups": "",
        "shares our memory": False,
        "Python is mapped": False,
        "descriptors": [0, 1, 2],
    }
