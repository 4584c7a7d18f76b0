"""System calls that aiovfork makes and asyncio does not need: what a filter made for asyncio may not know.

The page docs/reference/system-calls.md holds the same rows, and the tests compare both with what strace sees.
"""

from __future__ import annotations

from typing import NamedTuple


class SystemCall(NamedTuple):
    """One system call, or one use of it."""

    name: str
    purpose: str
    refused: str  # what happens where a filter refuses it with an errno; where it kills, the process is over


SYSTEM_CALLS = (
    SystemCall(
        "clone3",
        "creates the child, with CLONE_VM, CLONE_VFORK and CLONE_PIDFD",
        "ENOSYS: clone takes its place; EPERM: glibc creates no thread any more, and so no worker",
    ),
    SystemCall(
        "clone",
        "the same, where clone3 is refused",
        "no child can be started",
    ),
    SystemCall(
        "waitid",
        "waits for a child by its pidfd (P_PIDFD): did it reach exec, how did it end",
        "no child can be started",
    ),
    SystemCall(
        "pidfd_send_signal",
        "sends every signal to a child: kill(), cancellation, deadlines, close()",
        "no child can be started",
    ),
    SystemCall(
        "ioctl",
        "PIDFD_GET_INFO: the exit status of a child that somebody else has reaped",
        "such a status is unknown: 255, with a warning",
    ),
    SystemCall(
        "kcmp",
        "tells whether two descriptors are one open file (fcntl does since Linux 6.10), so that spawns share "
        "a duplicate",
        "each spawn has duplicates of its own",
    ),
    SystemCall(
        "close_range",
        "CLOSE_RANGE_UNSHARE: gives the child its own table of descriptors (asyncio only closes with it)",
        "the table is copied, and /proc/self/fd tells what to close",
    ),
    SystemCall(
        "statx",
        "tells regular files from pipes, sockets and terminals",
        "every given file counts as a regular one",
    ),
    SystemCall(
        "sendmsg",
        "puts files into a socket (SCM_RIGHTS) for the child: given regular ones; all, where the process has "
        "many descriptors",
        "they are duplicated; the table is copied",
    ),
    SystemCall(
        "recvmsg",
        "takes these files out, in the child",
        "they are duplicated; the table is copied",
    ),
    SystemCall(
        "getsockopt",
        "SO_LINGER: asks whether closing the duplicate of a given socket could block; SO_COOKIE: whether a "
        "number that aiovfork keeps is still its own",
        "it is closed on the loop's thread; where many descriptors are open, the table is copied",
    ),
    SystemCall(
        "poll",
        "looks whether a child is over, on a worker or the reaper",
        "a worker may look again without a pause",
    ),
    SystemCall(
        "dup3",
        "puts the child's descriptors on their numbers (asyncio: dup2)",
        "no child can be started",
    ),
    SystemCall(
        "eventfd2",
        "wakes the loop when a child was started, or could not be",
        "no child can be started",
    ),
    SystemCall(
        "timerfd_create",
        "wakes the loop for spawns that wait in the queue",
        "no child can be started",
    ),
    SystemCall(
        "timerfd_settime",
        "sets that timer",
        "a spawn in the queue may wait for the next event of its loop",
    ),
    SystemCall(
        "clock_gettime",
        "asks the time in the child, where libc's way without a system call is out of reach",
        "the times of `spawn_info` are wrong",
    ),
    SystemCall(
        "nanosleep",
        "waits in the child while its program is still being written (ETXTBSY), and in the first probe",
        "such a program fails at once",
    ),
    SystemCall(
        "memfd_create",
        "hands a child's plan to the launcher: with user, group, extra_groups, capabilities",
        "a child with these options cannot be started",
    ),
    SystemCall(
        "execveat",
        "executes the launcher, for the same options",
        "a child with these options cannot be started",
    ),
    SystemCall(
        "setresuid",
        "sets the child's user (asyncio: setreuid)",
        "a child with user cannot be started",
    ),
    SystemCall(
        "setresgid",
        "sets the child's group (asyncio: setregid)",
        "a child with group cannot be started",
    ),
    SystemCall(
        "faccessat2",
        "asks whether the launcher could be executed, for `aiovfork doctor`",
        "the doctor says that it could not",
    ),
    SystemCall(
        "uname",
        "asks for the kernel's version, for `aiovfork doctor`",
        "the version is unknown",
    ),
    SystemCall(
        "prctl",
        "PR_SET_NAME: gives the worker's thread its name",
        "the thread has its creator's name",
    ),
)

#: What libc makes of a thread, any thread: a program with one thread may meet these for the first time here.
CALLS_OF_THREADS = (
    "clone3",
    "clone",
    "exit",
    "madvise",
    "mprotect",
    "rseq",
    "sched_getaffinity",
    "set_robust_list",
)
