"""Failures of a spawn as the stdlib's exceptions, with the failing step added.

Layer: below the port. Thread: any.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any, Final, Protocol

from aiovfork._binding import lib, step_name

PREEXEC_REPLACEMENTS: Final = (
    "preexec_fn is not supported: Python code cannot run in a child that shares its parent's memory. "
    "Use start_new_session=True for os.setsid, process_group= for os.setpgid, umask= for os.umask, "
    "cwd= for os.chdir, restore_signals= and the signal mask of the calling thread for signals, "
    "pass_fds= and stdin=, stdout=, stderr= for os.dup2"
)

_EXPLAINED: Final = {
    lib.AVF_STEP_PLAN: "the request was not well-formed",
    lib.AVF_STEP_DUP_FDS: "duplicating the given file descriptors",
    lib.AVF_STEP_MEMORY: "allocating memory for the request",
    lib.AVF_STEP_THREAD: "creating the worker thread",
    lib.AVF_STEP_PROBE: "probing what the kernel allows",
    lib.AVF_STEP_PIPE: "creating the pipes",
    lib.AVF_STEP_PIPESIZE: "setting the size of a pipe (see /proc/sys/fs/pipe-max-size)",
    lib.AVF_STEP_CLONE: "creating the child",
    lib.AVF_STEP_WAIT: "waiting for the child with waitid",
    lib.AVF_STEP_PIDFD: "handing over the child (fs.epoll.max_user_watches may be exhausted)",
    lib.AVF_STEP_RECEIVE_FDS: "receiving the given file descriptors in the child",
    lib.AVF_STEP_DEVNULL: "opening /dev/null in the child",
    lib.AVF_STEP_CHDIR: "changing to the directory cwd",
    lib.AVF_STEP_CLOSE_FDS: "closing file descriptors in the child (neither close_range nor /proc works)",
    lib.AVF_STEP_EXEC: "executing the program",
}
# Where a thread or a process is created: what an errno means.
_SEE_DOCTOR: Final = "`python -m aiovfork doctor` tells what is refused"
_NOT_CREATED: Final = {
    errno.EAGAIN: "RLIMIT_NPROC or the pids cgroup is exhausted",
    errno.EMFILE: "RLIMIT_NOFILE is exhausted, and a child takes a descriptor: its pidfd",
    errno.ENFILE: "fs.file-max is exhausted, and a child takes a descriptor: its pidfd",
    errno.EPERM: f"a filter of system calls refuses it: {_SEE_DOCTOR}",
    errno.EACCES: f"a filter of system calls refuses it: {_SEE_DOCTOR}",
    errno.EINVAL: "Linux refuses it to a thread that has called unshare(CLONE_NEWPID)",
}
_REASONS: Final = {
    lib.AVF_STEP_THREAD: _NOT_CREATED,
    lib.AVF_STEP_PROBE: {
        **_NOT_CREATED,
        errno.ENOSYS: f"Linux before 5.4, or a filter of system calls that pretends so: {_SEE_DOCTOR}",
        errno.EINVAL: f"Linux before 5.4, or an emulator such as qemu-user: {_SEE_DOCTOR}",
    },
    lib.AVF_STEP_CLONE: _NOT_CREATED,
    lib.AVF_STEP_WAIT: dict.fromkeys(
        (errno.ENOSYS, errno.EPERM, errno.EACCES), f"a filter of system calls refuses it: {_SEE_DOCTOR}"
    ),
}


class Request(Protocol):
    """What errors name of a spawn."""

    @property
    def program(self) -> Any:
        """The program to execute, as it was given."""

    @property
    def cwd(self) -> Any:
        """The option cwd, as it was given."""


def spawn_error(request: Request, error: int, step: int, status: int = 0) -> OSError:
    """Build the exception of a spawn that failed at step with errno = error.

    Type, errno, message and filename are those of subprocess.Popen: the program as it was given if exec
    failed, cwd if chdir failed, else no filename. The step is in `exc.step` and in a note.

    Args:
        request: What was to be started.
        error: An errno, or 0 for a child that was killed before it ran the program.
        step: An avf_step.
        status: With error 0: how the child died, a signal number or an exit code << 8.
    """
    name = step_name(step)
    exc: OSError
    if error == 0:
        how = (
            f"exited with {os.WEXITSTATUS(status)}"
            if os.WIFEXITED(status)
            else f"was killed by {_signal_name(status)}"
        )
        exc = ChildProcessError(errno.ECHILD, f"child {how} before it ran {request.program!r}")
    elif step == lib.AVF_STEP_EXEC:
        exc = OSError(error, os.strerror(error), request.program)
    elif step == lib.AVF_STEP_CHDIR:
        exc = OSError(error, os.strerror(error), request.cwd)
    else:
        exc = OSError(-error, os.strerror(-error))
    return with_step(
        exc, name, f"spawn of {request.program!r} failed at step {name!r}: {_EXPLAINED.get(step, name)}"
    )


def timeout_error(request: Request, seconds: float, step: int) -> TimeoutError:
    """Build the exception of a spawn that took longer than spawn_timeout."""
    name = step_name(step)
    exc = TimeoutError(errno.ETIMEDOUT, f"spawn of {request.program!r} took longer than {seconds:g} s")
    note = f"the child was killed at step {name!r}" if step != lib.AVF_STEP_NONE else "it was still queued"
    with_step(exc, name, note)
    return exc


def with_step(exc: OSError, name: str, note: str) -> OSError:
    """Add what aiovfork knows beyond the stdlib: `exc.step` and a note."""
    exc.step = name  # type: ignore[attr-defined]
    exc.add_note(f"aiovfork: {note}")
    return exc


def _explained(step: int, error: int, name: str) -> str:
    reason = _REASONS.get(step, {}).get(error)
    return _EXPLAINED.get(step, name) + (f" ({reason})" if reason else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
