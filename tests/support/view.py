"""What a child is, read from /proc while it stands still: nothing in the child has to run or be trusted.

The child is a shell that stops itself, so its standard descriptors may be anything, closed included.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.support.backends import Spawner

_STOP: Final = "kill -STOP $$"
#: A program that stops itself as soon as it runs.
STOPPED: Final = ("/bin/sh", "-c", _STOP)

#: Lines of /proc/pid/status that a child has from its parent, or from the options of its spawn.
_INHERITED: Final = [
    *(
        "Umask",
        "Uid",
        "Gid",
        "Groups",
        "NoNewPrivs",
        "Seccomp",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
    ),
    *("Cpus_allowed", "Mems_allowed", "SigBlk", "SigIgn", "THP_enabled"),
]
# glibc keeps 32 and 33 for itself. CPython 3.13 starts some children by posix_spawn(3), which makes them
# ignore both; that is looked at in a test of its own, not in every comparison.
_GLIBC_SIGNALS: Final = 0b11 << 31


@dataclasses.dataclass(frozen=True)
class View:
    """One child, described so that the descriptions of two equal children are equal."""

    argv: tuple[bytes, ...]
    executable: str
    cwd: str
    environ: tuple[bytes, ...]
    fds: dict[int, str]
    flags: dict[int, int]
    status: dict[str, str]
    session: str
    group: str
    nice: str
    limits: str
    oom_score_adj: str
    is_our_child: bool

    def signals(self, which: str) -> set[int]:
        """Return the signals of a mask, SigBlk or SigIgn, without glibc's own."""
        mask = int(self.status[which], 16)
        return {number for number in range(1, 65) if mask & 1 << number - 1}


def wait_stopped(pid: int) -> None:
    """Wait until a child has stopped itself. Reaps nothing."""
    state = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert state is not None
    assert state.si_code == os.CLD_STOPPED, f"the child did not stop: {state}"


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def read_status(text: str) -> dict[str, str]:
    """Split what /proc/pid/status says."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def target_of(path: str) -> str:
    """Return where a descriptor leads, without what differs from pipe to pipe."""
    target = os.readlink(path)
    return target.partition(":[")[0] if target.startswith(("pipe:", "socket:")) else target


def open_files(pid: int) -> tuple[dict[int, str], dict[int, int]]:
    """Return the descriptors of a process: where each leads, and the flags that open(2) would take."""
    numbers = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    fds = {number: target_of(f"/proc/{pid}/fd/{number}") for number in numbers}
    flags = {fd: int(_read(pid, f"fdinfo/{fd}").split(b"flags:")[1].split()[0], 8) for fd in fds}
    return fds, flags


def _relation(number: int, pid: int, mine: int) -> str:
    if number == pid:
        return "its own"
    return "inherited" if number == mine else str(number)


def look_at(pid: int) -> View:
    """Describe a child that has stopped itself."""
    wait_stopped(pid)
    status = read_status(_read(pid, "status").decode())
    stat = _read(pid, "stat").decode().rpartition(")")[2].split()
    fds, flags = open_files(pid)
    inherited = {name: status[name] for name in _INHERITED if name in status}
    inherited["SigIgn"] = f"{int(inherited['SigIgn'], 16) & ~_GLIBC_SIGNALS:016x}"
    return View(
        argv=tuple(_read(pid, "cmdline").split(b"\0")[:-1]),
        executable=os.readlink(f"/proc/{pid}/exe"),
        cwd=os.readlink(f"/proc/{pid}/cwd"),
        environ=tuple(_read(pid, "environ").split(b"\0")[:-1]),
        fds=fds,
        flags=flags,
        status=inherited,
        session=_relation(int(stat[3]), pid, os.getsid(0)),
        group=_relation(int(stat[2]), pid, os.getpgid(0)),
        nice=stat[16],
        limits=_read(pid, "limits").decode(),
        oom_score_adj=_read(pid, "oom_score_adj").decode(),
        is_our_child=int(stat[1]) == os.getpid(),
    )


async def view_of(spawn: Spawner, *args: Any, **options: Any) -> View:
    """Spawn a program that stops itself, STOPPED unless told, and describe it."""
    process = await spawn.exec(*(args or STOPPED), **options)
    return look_at(process.pid)
