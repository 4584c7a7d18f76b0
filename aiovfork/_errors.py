"""Failures of a spawn as the stdlib's exceptions, with the failing step added.

Layer: below the port. Thread: any.
"""

from __future__ import annotations

import builtins
import errno
import os
import signal
from typing import Any, Final, Protocol

from aiovfork._binding import lib, step_name
from aiovfork._explanations import NO_NUMBER, explained

# What people call in preexec_fn, and the options that do it.
_INSTEAD: Final = {
    "os.setsid": "start_new_session=True",
    "os.setpgid": "process_group=",
    "os.umask": "umask=",
    "os.chdir, os.fchdir": "cwd=",
    "os.chroot": "chroot=",
    "os.setuid": "user=",
    "os.setgid": "group=",
    "os.setgroups, os.initgroups": "extra_groups=",
    "resource.setrlimit": "rlimits=",
    "os.nice": "nice=",
    "os.sched_setaffinity": "cpu_affinity=",
    "os.sched_setscheduler": "scheduler=",
    "ioprio_set": "io_priority=",
    "writing oom_score_adj": "oom_score_adj=",
    "writing cgroup.procs": "cgroup=",
    "PR_SET_PDEATHSIG": "pdeathsig=",
    "PR_SET_NO_NEW_PRIVS": "no_new_privs=",
    "capset, PR_CAP_AMBIENT, PR_CAPBSET_DROP": "capabilities=",
    "os.unshare": "unshare=",
    "signal.pthread_sigmask": "signal_mask=",
    "signal.signal": "restore_signals=, default_signals=, ignored_signals=",
    "os.dup2": "stdin=, stdout=, stderr=, pass_fds=, fd_map=, listen_fds=",
    "TIOCSCTTY": "controlling_tty=, pty=",
    "os.tcsetpgrp": "foreground=",
}
PREEXEC_REPLACEMENTS: Final = (
    "preexec_fn is not supported: Python code cannot run in a child that shares its parent's memory. Options "
    f"do what it is used for: {'; '.join(f'{options} for {call}' for call, options in _INSTEAD.items())}. "
    "For libraries that you cannot change, a loop of new_event_loop(unsupported='native') hands their calls "
    "with preexec_fn to asyncio's or uvloop's own spawn, which forks the process"
)


class SpawnError(OSError):
    """A spawn failed.

    Every failing spawn raises it together with the type of the stdlib, as one exception: `except
    FileNotFoundError` works, and so does `except aiovfork.SpawnError`. errno, message and filename are those
    that subprocess.Popen has. It can be pickled.

    Attributes:
        step: The name of the step that failed; "none" where the spawn had not been started.
    """

    step: str = "none"

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how it is made again: ours have no name to be found by. A class that derives from them has."""
        made: tuple[Any, ...] = tuple(super().__reduce__())
        if type(self) not in _TYPES.values():
            return made
        _, arguments, *state = made
        return _made_again, (type(self).__name__, arguments), *state


def _types() -> dict[str, type[SpawnError]]:
    """Return SpawnError, and one for each kind of OSError of the stdlib: SpawnFileNotFoundError and so on."""
    found: dict[str, Any] = {"OSError": SpawnError}
    for name, kind in vars(builtins).items():
        if isinstance(kind, type) and issubclass(kind, OSError) and kind is not OSError:
            about = {"__module__": "aiovfork", "__doc__": f"A spawn failed with {name}."}
            found[name] = type(f"Spawn{name}", (SpawnError, kind), about)
    return found


_TYPES: Final = _types()


def _made_again(name: str, arguments: tuple[Any, ...]) -> SpawnError:
    """Unpickle. By name: the pickles for Python 2 would make an OSError of each of the stdlib's types."""
    return next(kind for kind in _TYPES.values() if kind.__name__ == name)(*arguments)


def spawn_failure(step: int, note: str, *arguments: Any) -> SpawnError:
    """Build the exception for OSError(*arguments), with what aiovfork knows beyond the stdlib.

    Args:
        step: An avf_step.
        note: What a traceback shows below the exception.
        arguments: errno and message, and a filename.
    """
    exc = _TYPES[type(OSError(*arguments)).__name__](*arguments)
    exc.step = step_name(step)
    exc.add_note(f"aiovfork: {note}")
    return exc


class Request(Protocol):
    """What errors name of a spawn."""

    @property
    def program(self) -> Any:
        """The program to execute, as it was given."""

    @property
    def cwd(self) -> Any:
        """The option cwd, as it was given."""

    @property
    def chroot(self) -> Any:
        """The option chroot, as it was given."""

    @property
    def cgroup(self) -> Any:
        """The option cgroup, as it was given."""


def spawn_error(request: Request, error: int, step: int, status: int = 0) -> SpawnError:
    """Build the exception of a spawn that failed at step.

    The filename is what was given as the program, cwd, chroot or cgroup if that step failed, else there is
    none.

    Args:
        request: What was to be started.
        error: -errno, or 0 for a child that was killed before it ran the program.
        step: An avf_step.
        status: With error 0: how the child died, a signal number or an exit code << 8.
    """
    program, name, number = request.program, step_name(step), -error
    kind = step & lib.AVF_STEP_MASK
    if step == lib.AVF_STEP_NONE:  # cancelled
        return spawn_failure(step, f"the spawn of {program!r} was given up", number, os.strerror(number))
    note = f"spawn of {program!r} failed at step {name!r}: {explained(step, number)}"
    if error == 0:
        how = (
            f"exited with {os.WEXITSTATUS(status)}"
            if os.WIFEXITED(status)
            else f"was killed by {signal_name(status)}"
        )
        message = f"child {how} before it ran {program!r}"
        return spawn_failure(step, note, errno.ECHILD, message)
    paths = {
        lib.AVF_STEP_EXEC: program,
        lib.AVF_STEP_CHDIR: request.cwd,
        lib.AVF_STEP_CHROOT: request.chroot,
        lib.AVF_STEP_CGROUP: request.cgroup,
    }
    path = paths.get(kind)
    return spawn_failure(step, note, number, os.strerror(number), *(() if path is None else (path,)))


def timeout_error(request: Request, seconds: float, step: int) -> SpawnError:
    """Build the exception of a spawn that took longer than spawn_timeout."""
    message = f"spawn of {request.program!r} took longer than {seconds:g} s"
    if step & lib.AVF_STEP_MASK < lib.AVF_STEP_CLONE:
        note = "no child had been started"
    else:
        note = f"the child was killed at step {step_name(step)!r}"
    return spawn_failure(step, note, errno.ETIMEDOUT, message)


def opening_failure(error: int) -> OSError:
    """Build the exception of a port that could not be opened."""
    reason = NO_NUMBER.get(-error)
    note = "opening the loop's completion port" + (f" ({reason})" if reason else "")
    exc = spawn_failure(lib.AVF_STEP_NONE, note, -error, os.strerror(-error))
    exc.step = "port"
    return exc


def terminal_failure(number: int) -> SpawnError:
    """Build the exception of a terminal that could not be made."""
    reason = {
        errno.ENOSPC: "kernel.pty.max is exhausted",
        errno.ENOENT: "there is no /dev/ptmx: is /dev/pts mounted?",
        **NO_NUMBER,
    }.get(number)
    note = "making a terminal" + (f" ({reason})" if reason else "")
    exc = spawn_failure(lib.AVF_STEP_NONE, note, number, os.strerror(number))
    exc.step = "pty"
    return exc


def signal_name(number: int) -> str:
    """Return the name of a signal, "SIGKILL", or "signal N" of one that has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
