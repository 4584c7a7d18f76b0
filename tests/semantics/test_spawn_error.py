"""SpawnError: what every failing spawn raises, beside the stdlib's type."""

from __future__ import annotations

import copy
import errno
import os
import pathlib
import pickle
import traceback
from typing import Any

import pytest

import aiovfork
from aiovfork import _binding, _errors

# Arguments and options of spawns that fail, the stdlib's type of their error, and its step.
FAILING: list[tuple[list[Any], dict[str, Any], type[OSError], str]] = [
    (["/no/such/program"], {}, FileNotFoundError, "exec"),
    (["/"], {}, PermissionError, "exec"),
    (["true"], {"cwd": "/etc/passwd"}, NotADirectoryError, "chdir"),
    (["true"], {"process_group": 1}, PermissionError, "setpgid"),
    (["true"], {"pass_fds": [987]}, OSError, "dup fds"),
    (["true"], {"stdin": -5}, OSError, "dup fds"),
]


class Named:
    """What errors name."""

    program = "program"
    cwd = "cwd"
    chroot = None
    cgroup = None


async def failure(*args: Any, **options: Any) -> aiovfork.SpawnError:
    """The error of a spawn."""
    with pytest.raises(aiovfork.SpawnError) as info:
        await aiovfork.create_subprocess_exec(*args, **options)
    return info.value


@pytest.mark.parametrize(("args", "options", "kind", "step"), FAILING, ids=str)
async def test_it_is_both(args: list[Any], options: dict[str, Any], kind: type[OSError], step: str) -> None:
    """A failing spawn raises a SpawnError with its step, which is an instance of the stdlib's type."""
    exc = await failure(*args, **options)
    assert isinstance(exc, kind)
    assert exc.step == step
    plain = OSError(*exc.args) if exc.filename is None else OSError(exc.errno, exc.strerror, exc.filename)
    assert str(exc) == str(plain)
    assert repr(exc) == repr(plain).replace(type(plain).__name__, type(exc).__name__)


async def test_a_timeout_is_one_too(tmp_path: pathlib.Path) -> None:
    """spawn_timeout raises a SpawnError that is a TimeoutError."""
    exc = _errors.timeout_error(Named, 1.5, _binding.lib.AVF_STEP_EXEC)
    assert isinstance(exc, TimeoutError)
    assert isinstance(exc, aiovfork.SpawnError)
    assert "killed at step 'exec'" in exc.__notes__[0]


def test_a_child_that_is_killed_in_the_window() -> None:
    """The end of a child before exec is a SpawnError that is a ChildProcessError."""
    exc = _errors.spawn_error(Named, 0, _binding.lib.AVF_STEP_EXEC, 9)
    assert isinstance(exc, ChildProcessError)
    assert "SIGKILL" in str(exc)


@pytest.mark.parametrize(("args", "options", "kind", "step"), FAILING, ids=str)
@pytest.mark.parametrize("protocol", [None, *range(pickle.HIGHEST_PROTOCOL + 1)])
async def test_it_can_be_pickled(
    protocol: int | None, args: list[Any], options: dict[str, Any], kind: type[OSError], step: str
) -> None:
    """A copy, or what comes back from a pickle, has type, errno, filename, step and notes: Dask sends errors so."""
    exc = await failure(*args, **options)
    again = copy.copy(exc) if protocol is None else pickle.loads(pickle.dumps(exc, protocol))  # noqa: S301  # ours
    assert type(again) is type(exc)
    assert (again.errno, again.filename, again.step) == (exc.errno, exc.filename, step)
    assert (again.args, str(again), again.__notes__) == (exc.args, str(exc), exc.__notes__)


class Derived(aiovfork.SpawnError):
    """An application's."""


def test_a_class_of_the_applications_can_be_pickled() -> None:
    """A class that derives from SpawnError comes back from a pickle as itself."""
    exc = Derived(errno.ENOENT, os.strerror(errno.ENOENT), "program")
    exc.step = "exec"
    again = pickle.loads(pickle.dumps(exc))  # noqa: S301  # ours
    assert type(again) is Derived
    assert (again.errno, again.filename, again.step) == (errno.ENOENT, "program", "exec")


async def test_a_traceback_names_it() -> None:
    """A traceback ends with a name that says what happened, the stdlib's message, and the note."""
    lines = traceback.format_exception_only(await failure("/no/such/program"))
    assert lines == [
        "aiovfork.SpawnFileNotFoundError: [Errno 2] No such file or directory: '/no/such/program'\n",
        "aiovfork: spawn of '/no/such/program' failed at step 'exec': executing the program\n",
    ]


@pytest.mark.parametrize(
    ("step", "error", "said", "unsaid"),
    [
        ("CLONE", errno.EAGAIN, "RLIMIT_NPROC", "RLIMIT_NOFILE"),
        ("CLONE", errno.EMFILE, "RLIMIT_NOFILE", "RLIMIT_NPROC"),
        ("THREAD", errno.EAGAIN, "RLIMIT_NPROC", "CLONE_NEWPID"),
        ("THREAD", errno.EINVAL, "CLONE_NEWPID", "RLIMIT_NPROC"),
        ("PROBE", errno.EPERM, "filter", "before 5.4"),
        ("PROBE", errno.EINVAL, "emulator", "RLIMIT_NPROC"),
        ("PROBE", errno.ENOSYS, "Linux before 5.4", "RLIMIT_NPROC"),
        ("PIDFD", errno.ENOSPC, "max_user_watches", "RLIMIT_NOFILE"),
        ("PIDFD", errno.EMFILE, "RLIMIT_NOFILE", "max_user_watches"),
        ("PIPE", errno.EMFILE, "RLIMIT_NOFILE", "fs.file-max"),
        ("DUP_FDS", errno.EBADF, "not open", "RLIMIT_NOFILE"),
    ],
)
def test_the_note_names_the_right_limit(step: str, error: int, said: str, unsaid: str) -> None:
    """What a note takes for the reason depends on the errno, not on the step alone."""
    (note,) = _errors.spawn_error(Named, -error, getattr(_binding.lib, f"AVF_STEP_{step}")).__notes__
    assert said in note
    assert unsaid not in note


@pytest.mark.parametrize("step", ["NONE", "THREAD", "PROBE", "PIPE"])
def test_a_time_out_before_the_clone(step: str) -> None:
    """A spawn that ran out of time before its clone had no child, and does not speak of one that was killed."""
    (note,) = _errors.timeout_error(Named, 1, getattr(_binding.lib, f"AVF_STEP_{step}")).__notes__
    assert "killed" not in note
    assert "no child had been started" in note


def test_every_step_has_words() -> None:
    """Each step can be explained for each errno."""
    for step in range(_binding.lib.AVF_STEP_COUNT):
        for error in errno.errorcode:
            exc = _errors.spawn_error(Named, -error, step)
            assert exc.__notes__
            assert exc.errno == error
            assert os.strerror(error) in str(exc)
