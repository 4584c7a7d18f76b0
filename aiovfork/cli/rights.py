"""What the options of a spawn may ask for here: the launcher, capabilities, cgroups, terminals.

Each function returns level, value and meaning of a finding.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from pathlib import Path
from typing import Literal, TypeAlias

import aiovfork
from aiovfork import _ptmx

Told: TypeAlias = tuple[Literal["ok", "note", "degraded"], str, str]

_CAPABILITIES = {
    "CAP_SETUID": (7, "user"),
    "CAP_SETGID": (6, "group, extra_groups"),
    "CAP_SETPCAP": (8, "capabilities with a bounding set"),
    "CAP_SYS_CHROOT": (18, "chroot"),
    "CAP_SYS_ADMIN": (21, "unshare"),
    "CAP_SYS_NICE": (23, "a negative nice, a real-time scheduler or io_priority"),
    "CAP_SYS_RESOURCE": (24, "rlimits above the hard ones, a lower oom_score_adj"),
}


def launcher(error: int) -> Told:
    """Judge whether user, group, extra_groups and capabilities can be had at all.

    Args:
        error: What the probe found: 0, or -errno.
    """
    if not error:
        error = asyncio.run(_trial())
    if not error:
        meaning = (
            "user, group, extra_groups and capabilities are set by a tiny program before the child's own."
        )
        return "ok", "works", meaning
    why = {
        errno.EACCES: "The package lies on a file system that is mounted noexec",
        errno.ENOENT: "The package's file _launcher is missing",
    }.get(-error, "The package's file _launcher cannot be executed")
    meaning = f"{why}: a spawn with user, group, extra_groups or capabilities fails."
    return "degraded", errno.errorcode.get(-error, str(error)), meaning


async def _trial() -> int:
    try:
        process = await aiovfork.create_subprocess_exec("true", user=os.geteuid())
        await process.wait()
    except OSError as exc:
        return -(exc.errno or errno.EIO)
    return 0


def capabilities() -> Told:
    """Report which options this process has the capabilities for."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^CapEff:\s+([0-9a-f]+)", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    missing = {name: options for name, (bit, options) in _CAPABILITIES.items() if not effective >> bit & 1}
    if not missing:
        return "ok", "all that options need", "No option is refused for want of a capability."
    lacks = "; ".join(f"{options} ({name})" for name, options in missing.items())
    return "note", f"{len(_CAPABILITIES) - len(missing)} of {len(_CAPABILITIES)}", f"Refused here: {lacks}."


def cgroup(clone3: int) -> Told:
    """Report whether children can be born into a cgroup (v2).

    Args:
        clone3: What the probe found: 0, or -errno.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    mount = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    if mount is None:
        return "note", "no cgroup v2", "cgroup, own_cgroup and tree='cgroup' need a cgroup v2 file system."
    if clone3:
        return "note", mount, "cgroup and own_cgroup need clone3, which is refused here."
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::")[2].strip()
    if not os.access(mount + own, os.W_OK):
        return (
            "note",
            mount,
            "The cgroup of this process is not delegated: own_cgroup and tree='cgroup' fail.",
        )
    return "ok", mount, "Children can be born into cgroups, and have one of their own."


def terminals() -> Told:
    """Make a terminal, as pty= does."""
    ends = _ptmx.Ends()
    try:
        with _ptmx.closed_at_the_end(ends):
            _ptmx.open_terminal(ends, aiovfork.Pty())
    except OSError as exc:
        why = "A child cannot have a terminal of its own (pty): is /dev/pts mounted, with /dev/ptmx?"
        return "note", errno.errorcode.get(exc.errno or 0, str(exc.errno)), why
    return "ok", "works", "A child can have a terminal of its own (pty)."
