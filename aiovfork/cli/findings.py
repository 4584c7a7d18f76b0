"""What the doctor looks at: each fact of this kernel, sandbox and process as one finding with its meaning."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import aiovfork
from aiovfork import _binding
from aiovfork.cli import limits, rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Level = Literal["ok", "note", "degraded", "fatal"]
Facts = dict[str, int]

FLOOR = (5, 4)
FEW_FDS, FEW_PIDS = 64, 16
TRIAL_STATUS = 7


class Finding(NamedTuple):
    """One fact and its meaning."""

    level: Level
    name: str
    value: str
    meaning: str


def probed_facts() -> Facts:
    """Return what the core's probe finds on this kernel, in this sandbox."""
    return dataclasses.asdict(_binding.probe())


def all_findings(facts: Facts) -> list[Finding]:
    """Return every finding, the decisive ones first."""
    findings = [kernel(facts), *calls(facts), memory(facts), exits(facts), groups(facts)]
    if not any(finding.level == "fatal" for finding in findings):
        findings.append(asyncio.run(trial()))
        findings.append(named("launcher", rights.launcher(facts["launcher"])))
    findings.append(named("capabilities", rights.capabilities()))
    findings.append(named("cgroup", rights.cgroup(facts["clone3"])))
    findings.append(named("terminals", rights.terminals()))
    looks: tuple[Callable[[], Finding], ...] = (seccomp, processes, pids, descriptors, libc, uvloop)
    return [*findings, *forced(), *(look() for look in looks)]


def named(name: str, told: rights.Told) -> Finding:
    """Make a finding of what a function of rights has told."""
    level, value, meaning = told
    return Finding(level, name, value, meaning)


def refused(error: int) -> str:
    """Name an errno; the core's facts hold -errno."""
    return "works" if error == 0 else errno.errorcode.get(abs(error), str(error))


def kernel(facts: Facts) -> Finding:
    """Judge the kernel's age, by what it can do rather than by its number."""
    number = f"Linux {facts['kernel_major']}.{facts['kernel_minor']}, {facts['cpus']} CPUs"
    name = "kernel"
    if facts["probe_child"]:
        why = f"Not even the probe's own child could be started: {os.strerror(-facts['probe_child'])}."
        return Finding("fatal", name, f"{number}, {refused(facts['probe_child'])}", why)
    if facts["pidfd_wait"]:
        old = "is too old: waiting for a child by pidfd came with Linux 5.4"
        barred = "or its sandbox forbids waiting for a child by pidfd"
        young = (facts["kernel_major"], facts["kernel_minor"]) >= FLOOR
        why = f"This kernel {barred if young else old}, and exits are learned no other way."
        return Finding("fatal", name, f"{number}, {refused(facts['pidfd_wait'])}", why)
    if facts["pidfd_signal"] and facts["parent_suspended"]:
        why = "Something forbids to signal a child by pidfd. No child could be cancelled, so none is started."
        return Finding("fatal", name, f"{number}, {refused(facts['pidfd_signal'])}", why)
    return Finding(
        "ok", name, number, "Children are started and waited for by pidfd: no SIGCHLD handler, no polling."
    )


def calls(facts: Facts) -> Iterator[Finding]:
    """Judge the calls that have a slower substitute."""
    for name, good, bad in (
        (
            "clone3",
            "Children start by clone3.",
            "An old kernel or a seccomp filter refuses clone3: libc's clone replaces it, a little slower.",
        ),
        (
            "clear_sighand",
            "The kernel resets signal handlers in the child.",
            "The child resets its signal handlers one by one: 64 more calls for each spawn.",
        ),
        (
            "close_range",
            "The cost of a spawn does not depend on how many descriptors are open.",
            "Without close_range (Linux 5.9) a spawn takes longer the more descriptors are open.",
        ),
        (
            "kcmp",
            "Spawns that are under way at once share one duplicate of a file that they all use.",
            "Without kcmp each spawn has duplicates of its own: a burst needs more descriptors.",
        ),
    ):
        error = facts[name]
        yield Finding("degraded" if error else "ok", name, refused(error), bad if error else good)


def memory(facts: Facts) -> Finding:
    """Judge whether vfork behaves as vfork."""
    shared, suspended = bool(facts["memory_shared"]), bool(facts["parent_suspended"])
    value = (
        f"memory {'shared' if shared else 'copied'}, caller {'suspended' if suspended else 'not suspended'}"
    )
    if shared and suspended:
        return Finding(
            "ok", "vfork", value, "Only the worker thread waits for exec, and no memory is copied."
        )
    why = (
        "As under valgrind or QEMU's user mode, vfork is a fork here: correct, but slower with a large heap."
    )
    return Finding("degraded", "vfork", value, why)


def exits(facts: Facts) -> Finding:
    """Judge whether an exit status survives somebody else's waitpid."""
    error = facts["pidfd_info_exit"]
    if not error:
        why = "A child's exit status is known even if other code in this process reaps the child first."
        return Finding("ok", "pidfd_info_exit", "works", why)
    why = (
        "Before Linux 6.15 the exit status of a child that other code in this process reaps is lost; "
        "returncode_known says so."
    )
    return Finding("note", "pidfd_info_exit", refused(error), why)


def groups(facts: Facts) -> Finding:
    """Judge whether a process group can be signalled after its leader was reaped."""
    error = facts["pidfd_signal_group"]
    if not error:
        why = "A child's process group is signalled by the child's pidfd, even after the child has ended."
        return Finding("ok", "pidfd_signal_group", "works", why)
    why = (
        "Before Linux 6.9 a group has only a number: a child that leads one stays a zombie until its Process "
        "is stopped, closed or forgotten."
    )
    return Finding("note", "pidfd_signal_group", refused(error), why)


async def trial() -> Finding:
    """Start one real child and wait for it."""
    try:
        process = await aiovfork.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", f"raise SystemExit({TRIAL_STATUS})"
        )
        status = await process.wait()
    except OSError as error:
        where = getattr(error, "step", "?")
        return Finding(
            "fatal", "trial", refused(error.errno or 0), f"A real child could not be started: {where}."
        )
    info = process.spawn_info
    spent = f"queue {info.queue_us:.0f}, clone {info.clone_us:.0f}, exec {info.exec_us:.0f} µs"
    if status != TRIAL_STATUS:
        return Finding(
            "fatal",
            "trial",
            f"exit status {status}, not {TRIAL_STATUS}",
            "A real child did not end as it should.",
        )
    meaning = "A real child was started and reaped; these waits were a worker's, not the loop's."
    return Finding("ok", "trial", f"{info.engine}, report by {info.report}; {spent}", meaning)


def forced() -> Iterator[Finding]:
    """Report what the environment forces."""
    for variable in ("AIOVFORK_ENGINE", "AIOVFORK_REPORT"):
        if value := os.environ.get(variable):
            yield Finding("degraded", variable, value, "The environment overrides what the probe chose.")


def seccomp() -> Finding:
    """Report a system call filter."""
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    fields = dict(re.findall(r"^(Seccomp|NoNewPrivs):\s+(\d+)", status, re.MULTILINE))
    value = {"0": "none", "1": "strict", "2": "filter"}.get(fields.get("Seccomp", "0"), "unknown")
    if value == "none":
        return Finding("ok", "seccomp", value, "No filter stands between this process and the kernel.")
    meaning = (
        "Filters and no_new_privs of the thread that spawns hold for its children; refused calls show above."
    )
    return Finding("note", "seccomp", f"{value}, no_new_privs {fields.get('NoNewPrivs', '?')}", meaning)


def processes() -> Finding:
    """Report the limit on this user's processes and threads."""
    limit = limits.soft_limit(resource.RLIMIT_NPROC)
    meaning = (
        "Each spawn needs one process, and one thread until exec; past the limit it raises BlockingIOError."
    )
    if limit is not None and limit < FEW_PIDS:
        return Finding("degraded", "RLIMIT_NPROC", str(limit), meaning)
    return Finding("ok", "RLIMIT_NPROC", "unlimited" if limit is None else str(limit), meaning)


def pids() -> Finding:
    """Report the limit on the processes and threads of this cgroup."""
    room = limits.cgroup_room("pids", ("pids.max",), ("pids.current",))
    if room is None:
        return Finding("ok", "pids cgroup", "unlimited", "No cgroup bounds how many processes may run.")
    limit, left = room
    meaning = (
        "The container's processes and threads count together; past the limit a spawn raises BlockingIOError."
    )
    return Finding("degraded" if left < FEW_PIDS else "ok", "pids cgroup", f"{limit}, {left} left", meaning)


def descriptors() -> Finding:
    """Report the limit on open descriptors."""
    limit = limits.soft_limit(resource.RLIMIT_NOFILE)
    meaning = "Each living child holds one descriptor here (its pidfd) and one more for each pipe."
    if limit is None:
        return Finding("ok", "RLIMIT_NOFILE", "unlimited", meaning)
    left = limit - len(list(Path("/proc/self/fd").iterdir()))
    return Finding("degraded" if left < FEW_FDS else "ok", "RLIMIT_NOFILE", f"{limit}, {left} left", meaning)


def libc() -> Finding:
    """Report the C library of this interpreter."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        version = None
    meaning = "The child uses no C library until exec; the worker is a thread that the C library knows."
    return Finding("ok", "libc", version or _musl() or "unknown", meaning)


def _musl() -> str | None:
    """Return musl's version, which only its loader tells."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    loader = re.search(r"\S*/ld-musl-\S+", maps)
    if loader is None:
        return None
    told = subprocess.run([loader[0]], stderr=subprocess.PIPE, check=False, text=True).stderr
    version = re.search(r"^Version (\S+)", told, re.MULTILINE)
    return f"musl {version[1]}" if version else "musl"


def uvloop() -> Finding:
    """Report whether uvloop is there."""
    try:
        version = importlib.metadata.version("uvloop")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "ok", "uvloop", "not installed", "Not needed: aiovfork works on the stdlib's loop, too."
        )
    return Finding("ok", "uvloop", version, "aiovfork works on uvloop's loop as on the stdlib's.")
