"""All that an option can change in a child, read from /proc while the child stands still (tests/native/witness.c)."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import psutil

from tests.support.view import read_status, target_of, wait_stopped

#: Those of CAP_... of /proc/pid/status.
CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_STATUS: Final = ("Uid", "Gid", "Groups", *CAPABILITIES, "NoNewPrivs", "Umask", "SigBlk", "SigIgn")
#: Of /proc/pid/ns; the last two are those of the child's children.
NAMESPACES: Final = ("mnt", "net", "ipc", "uts", "cgroup", "pid_for_children", "time_for_children")
_LIMITS: Final = re.compile(r"^Max (.*?)  +(\S+) +(\S+)", re.MULTILINE)
_GLIBC_SIGNALS: Final = 0b11 << 31  # 32 and 33


def state_of(pid: int) -> dict[str, Any]:
    """Describe a child that has stopped itself."""
    wait_stopped(pid)

    def read(name: str) -> str:
        with open(f"/proc/{pid}/{name}", errors="surrogateescape") as file:
            return file.read()

    status = read_status(read("status"))
    group, session, terminal, foreground = read("stat").rpartition(")")[2].split()[2:6]
    found: dict[str, Any] = {name: " ".join(status[name].split()) for name in _STATUS if name in status}
    for name in ("SigBlk", "SigIgn"):
        found[name] = int(found[name], 16) & ~_GLIBC_SIGNALS
    for name in CAPABILITIES:
        found[name] = int(found[name], 16)
    own = {str(pid): "its own", str(os.getsid(0)): "the caller's", str(os.getpgid(0)): "the caller's"}
    priority = psutil.Process(pid).ionice()
    return {
        **found,
        "session": own.get(session, session),
        "group": own.get(group, group),
        "terminal": int(terminal),
        "foreground": own.get(foreground, foreground),
        "limits": {name: tuple(both) for name, *both in _LIMITS.findall(read("limits"))},
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "policy": os.sched_getscheduler(pid),
        "priority": os.sched_getparam(pid).sched_priority,
        "cpus": os.sched_getaffinity(pid),
        "io": (int(priority.ioclass), priority.value),
        "oom_score_adj": int(read("oom_score_adj")),
        "pdeathsig": int(read("comm").removeprefix("pdeathsig ")),
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "root": os.readlink(f"/proc/{pid}/root"),
        "cgroup": read("cgroup").rpartition("0::")[2].strip(),
        "other namespaces": {
            name for name in NAMESPACES if _namespace(pid, name) != _namespace("self", name)
        },
        "fds": {int(fd): target_of(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")},
        "environ": read("environ").replace(f"LISTEN_PID={pid}\0", "LISTEN_PID=its own\0").split("\0")[:-1],
    }


def _namespace(pid: int | str, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except FileNotFoundError:  # the kernel has none of that kind
        return ""
