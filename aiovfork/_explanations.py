"""What each step of a spawn does, and what the reason of its failure is: the notes of errors.

Layer: below the errors. Thread: any.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

from aiovfork._binding import lib, step_name

_SEE_DOCTOR: Final = "`python -m aiovfork doctor` tells what is refused"
_FILTERED: Final = f"a filter of system calls refuses it: {_SEE_DOCTOR}"
_NOFILE: Final = "RLIMIT_NOFILE is exhausted"
_NFILE: Final = "fs.file-max is exhausted"
#: Where a number for a descriptor is needed.
NO_NUMBER: Final = {errno.EMFILE: _NOFILE, errno.ENFILE: _NFILE}
# Where a thread or a process is created.
_NOT_CREATED: Final = {
    errno.EAGAIN: "RLIMIT_NPROC or the pids cgroup is exhausted",
    errno.EMFILE: f"{_NOFILE}, and a child takes a descriptor: its pidfd",
    errno.ENFILE: f"{_NFILE}, and a child takes a descriptor: its pidfd",
    errno.EPERM: _FILTERED,
    errno.EACCES: _FILTERED,
    errno.EINVAL: "Linux refuses it to a thread that has called unshare(CLONE_NEWPID)",
}

_NOT_DELEGATED: Final = "the cgroup of this process is not delegated to its user"
_UNMAPPED: Final = "the user namespace has no such id"
_PROCESSES: Final = "RLIMIT_NPROC of the child's user is exhausted"
# Linux itself does not refuse such a step.
_NEVER: Final = dict.fromkeys((errno.ENOSYS, errno.EPERM, errno.EACCES), _FILTERED)


def _needs(capability: str, why: str = "it") -> str:
    return f"{why} needs CAP_SYS_{capability}"


_NICER: Final = f"{_needs('NICE', 'lower than before, which')} or RLIMIT_NICE"

#: What a step does, and what the reason of its failure is: by errno, or else the one of None.
EXPLAINED: Final[dict[int, tuple[str, Mapping[Any, str]]]] = {
    lib.AVF_STEP_PLAN: ("reading the request", {None: "it is not well-formed"}),
    lib.AVF_STEP_DUP_FDS: (
        "duplicating the given file descriptors",
        {errno.EBADF: "one of them is not open", **NO_NUMBER},
    ),
    lib.AVF_STEP_MEMORY: ("allocating memory for the request", {}),
    lib.AVF_STEP_THREAD: ("creating the worker thread", _NOT_CREATED),
    lib.AVF_STEP_PROBE: (
        "probing what the kernel allows",
        {
            **_NOT_CREATED,
            errno.ENOSYS: f"Linux before 5.4, or a filter of system calls that pretends so: {_SEE_DOCTOR}",
            errno.EINVAL: f"Linux before 5.4, or an emulator such as qemu-user: {_SEE_DOCTOR}",
        },
    ),
    lib.AVF_STEP_PIPE: ("creating the pipes", NO_NUMBER),
    lib.AVF_STEP_PIPESIZE: ("setting the size of a pipe", {errno.EPERM: "see /proc/sys/fs/pipe-max-size"}),
    lib.AVF_STEP_CGROUP: (
        "creating the child in its cgroup",
        {
            errno.ENOENT: "there is no such cgroup, or no cgroup v2 file system",
            errno.EBADF: "the descriptor is not the folder of a cgroup (v2)",
            errno.EOPNOTSUPP: "it is part of a threaded or invalid cgroup",
            errno.EACCES: _NOT_DELEGATED,
            errno.EPERM: f"{_NOT_DELEGATED}, or a filter of system calls refuses clone3",
            errno.EROFS: _NOT_DELEGATED,
            errno.EBUSY: "it, or the parent, gives controllers to its children: processes cannot be in it",
            errno.ENOSYS: "it needs clone3, which is refused here",
            **dict.fromkeys((errno.EINVAL, errno.E2BIG), "Linux before 5.7"),
        },
    ),
    lib.AVF_STEP_CLONE: ("creating the child", _NOT_CREATED),
    lib.AVF_STEP_WAIT: (
        "waiting for the child with waitid",
        dict.fromkeys((errno.ENOSYS, errno.EPERM, errno.EACCES), _FILTERED),
    ),
    lib.AVF_STEP_PIDFD: (
        "handing over the child",
        {errno.ENOSPC: "fs.epoll.max_user_watches is exhausted", **NO_NUMBER},
    ),
    lib.AVF_STEP_RECEIVE_FDS: ("receiving the given file descriptors in the child", NO_NUMBER),
    lib.AVF_STEP_DEVNULL: ("opening /dev/null in the child", {}),
    lib.AVF_STEP_PASS_FDS: (
        "putting the given file descriptors under the child's numbers",
        {errno.EBADF: "a number is above RLIMIT_NOFILE"},
    ),
    lib.AVF_STEP_CLOSE_FDS: (
        "closing file descriptors in the child",
        {None: "neither close_range(2) nor /proc works"},
    ),
    lib.AVF_STEP_OOM_SCORE_ADJ: (
        "setting oom_score_adj",
        {
            errno.EACCES: _needs("RESOURCE", "lower than ever before, which"),
            errno.ENOENT: "/proc is not there",
        },
    ),
    lib.AVF_STEP_UNSHARE: (
        "leaving namespaces with unshare",
        {
            errno.EPERM: _needs("ADMIN"),
            errno.ENOSPC: "a limit in /proc/sys/user is reached",
            errno.EINVAL: "this kernel does not have them",
        },
    ),
    lib.AVF_STEP_CHROOT: ("changing the root to the directory chroot", {errno.EPERM: _needs("CHROOT")}),
    lib.AVF_STEP_CHDIR: ("changing to the directory cwd", {}),
    lib.AVF_STEP_UMASK: ("setting the umask", _NEVER),
    lib.AVF_STEP_RESTORE_SIGNALS: ("making default what Python ignores, as restore_signals says", _NEVER),
    lib.AVF_STEP_DEFAULT_SIGNALS: ("making signals default", _NEVER),
    lib.AVF_STEP_IGNORED_SIGNALS: ("ignoring signals", _NEVER),
    lib.AVF_STEP_SETSID: ("starting a new session", _NEVER),
    lib.AVF_STEP_SETPGID: (
        "joining the process group",
        {
            errno.EPERM: "the child leads a session, or the group is in another session",
            errno.ESRCH: "there is no such group",
        },
    ),
    lib.AVF_STEP_CONTROLLING_TTY: (
        "taking controlling_tty as the controlling terminal",
        {
            errno.EBADF: "the child has no such descriptor",
            errno.ENOTTY: "it is no terminal",
            errno.EPERM: "it is the controlling terminal of another session",
        },
    ),
    lib.AVF_STEP_FOREGROUND: (
        "making the child's group the foreground of its terminal",
        {errno.ENXIO: "the child has no controlling terminal", errno.ENOTTY: "it is in another session"},
    ),
    lib.AVF_STEP_RLIMIT: (
        "setting a limit of rlimits",
        {errno.EPERM: _needs("RESOURCE", "above the hard limit, which")},
    ),
    lib.AVF_STEP_NICE: ("changing the niceness", dict.fromkeys((errno.EPERM, errno.EACCES), _NICER)),
    lib.AVF_STEP_SCHEDULER: (
        "setting the scheduling policy",
        {errno.EPERM: f"{_needs('NICE')} or RLIMIT_RTPRIO"},
    ),
    lib.AVF_STEP_CPU_AFFINITY: (
        "choosing the CPUs",
        {errno.EINVAL: "none of them is there, or in the cpuset of the child's cgroup"},
    ),
    lib.AVF_STEP_IO_PRIORITY: (
        "setting the I/O priority",
        {errno.EPERM: f"{_needs('NICE')} or CAP_SYS_ADMIN"},
    ),
    lib.AVF_STEP_LAUNCHER: (
        "executing the launcher, a program of the package that changes credentials",
        {
            errno.EACCES: "the package lies on a file system that is mounted noexec",
            errno.EPERM: _FILTERED,
            errno.ENOENT: "its file _launcher is missing",
            errno.EPROTO: "the package was replaced under the running process",
            errno.EFBIG: "RLIMIT_FSIZE is below the size of the child's arguments and environment",
        },
    ),
    lib.AVF_STEP_CAP_BOUNDING: (
        "dropping capabilities from the bounding set",
        {errno.EPERM: "it needs CAP_SETPCAP"},
    ),
    lib.AVF_STEP_SETGROUPS: (
        "setting the supplementary groups",
        {errno.EPERM: "it needs CAP_SETGID, and a user namespace that allows it", errno.EINVAL: _UNMAPPED},
    ),
    lib.AVF_STEP_SETGID: ("setting the group", {errno.EPERM: "it needs CAP_SETGID", errno.EINVAL: _UNMAPPED}),
    lib.AVF_STEP_SETUID: (
        "setting the user",
        {errno.EPERM: "it needs CAP_SETUID", errno.EINVAL: _UNMAPPED, errno.EAGAIN: _PROCESSES},
    ),
    lib.AVF_STEP_CAPABILITIES: (
        "setting the capabilities",
        {errno.EPERM: "the caller does not have one of them", errno.EINVAL: "this kernel does not know one"},
    ),
    lib.AVF_STEP_NO_NEW_PRIVS: ("setting no_new_privs", _NEVER),
    lib.AVF_STEP_PDEATHSIG: (
        "asking for a signal at the parent's death",
        {
            **_NEVER,
            errno.EAGAIN: "there is no room for one more worker that waits for its child",
            errno.EPERM: "Linux would forget it: its ids differ, or exec gives root's program more rights",
        },
    ),
    lib.AVF_STEP_SIGMASK: ("setting the signal mask", _NEVER),
    lib.AVF_STEP_EXEC: ("executing the program", {errno.EAGAIN: _PROCESSES}),
}


def explained(step: int, number: int) -> str:
    """Return what a step does, and why it fails with that errno, as far as that is known."""
    action, reasons = EXPLAINED.get(step & lib.AVF_STEP_MASK) or (step_name(step), {})
    reason = reasons.get(number, reasons.get(None))
    return action if reason is None else f"{action} ({reason})"
