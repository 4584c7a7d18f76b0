"""Keyword arguments to plan bytes: a pure function, but for reading os.environ.

The layout is avf_plan in csrc/aiovfork.cdef. Layer: below the port. Thread: any.
"""

from __future__ import annotations

import array
import dataclasses
import errno
import functools
import os
import subprocess
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final

from aiovfork._binding import PLAN, PLAN_STEP, lib
from aiovfork._environment import given_environment, own_environment, strings
from aiovfork._errors import with_step
from aiovfork._options import Options, Stdio, StrOrBytesPath

_STEP_CHDIR: Final[int] = lib.AVF_STEP_CHDIR
_STEP_UMASK: Final[int] = lib.AVF_STEP_UMASK
_STEP_RESTORE_SIGNALS: Final[int] = lib.AVF_STEP_RESTORE_SIGNALS
_STEP_SETSID: Final[int] = lib.AVF_STEP_SETSID
_STEP_SETPGID: Final[int] = lib.AVF_STEP_SETPGID
_STDIO_INHERIT: Final[int] = lib.AVF_STDIO_INHERIT
_PLAN_CLOSE_FDS: Final[int] = lib.AVF_PLAN_CLOSE_FDS
_PLAN_VERSION: Final[int] = lib.AVF_PLAN_VERSION
_RESTORE_SIGNALS_ONLY: Final = PLAN_STEP.pack(_STEP_RESTORE_SIGNALS, 0, 0)
_INT_MAX: Final = 2**31 - 1
_STDOUT: Final = 1
_STDERR: Final = 2
_STDIO: Final = (("stdin", "or DEVNULL"), ("stdout", "or DEVNULL"), ("stderr", "STDOUT or DEVNULL"))

assert lib.AVF_STDIO_PIPE == subprocess.PIPE
assert lib.AVF_STDIO_STDOUT == subprocess.STDOUT
assert lib.AVF_STDIO_DEVNULL == subprocess.DEVNULL


@dataclasses.dataclass(slots=True)
class Plan:
    """One child, described: the block (emptied once the core has a copy), and what errors name."""

    block: bytes
    program: StrOrBytesPath
    popen_args: tuple[StrOrBytesPath, ...] | StrOrBytesPath  # Popen.args: of a shell only the command
    cwd: StrOrBytesPath | None

    @property
    def called(self) -> StrOrBytesPath:
        """What asyncio's logs call it: argv[0], or the shell's command."""
        return self.popen_args[0] if isinstance(self.popen_args, tuple) else self.popen_args


def build(
    args: tuple[StrOrBytesPath, ...], stdin: Stdio, stdout: Stdio, stderr: Stdio, options: Options
) -> Plan:
    """Describe a child.

    Raises:
        TypeError: An argument is not str, bytes or os.PathLike.
        ValueError: A NUL in an argument, in env or in cwd, `=` in an env key, a negative number in pass_fds.
        OverflowError: A number that does not fit a C int.
    """
    program = args[0] if options.executable is None else options.executable
    argv = strings([os.fsencode(arg) for arg in args])
    executable = os.fsencode(program)
    strings([executable])
    if options.env is None:
        env_block, env_count, path = own_environment()
    else:
        env_block, env_count, path = given_environment(options.env)
    paths, path_count = _candidates(executable, path)
    steps, cwd = _steps(options)
    if stderr == subprocess.STDOUT and stdout is None:
        stderr = _STDOUT  # given, so that it reaches stderr even if it is not inheritable by itself
    pass_fds = _pass_fds(options)
    fds = array.array("i", [fd for fd in pass_fds if fd > _STDERR]).tobytes()
    close_fds = options.close_fds or bool(pass_fds)

    paths_at = PLAN.size + len(steps) + len(fds)
    argv_at = paths_at + len(paths)
    envp_at = argv_at + len(argv)
    cwd_at = envp_at + len(env_block)
    if cwd:
        # The first step is chdir; its value is the offset of the path, known only now.
        steps = PLAN_STEP.pack(_STEP_CHDIR, 0, cwd_at) + steps[PLAN_STEP.size :]
    header = PLAN.pack(
        cwd_at + len(cwd),
        _PLAN_VERSION,
        _PLAN_CLOSE_FDS if close_fds else 0,
        _c_int(options.pipesize),
        _stdio(stdin, 0, pass_fds),
        _stdio(stdout, 1, pass_fds),
        _stdio(stderr, 2, pass_fds),
        len(steps) // PLAN_STEP.size,
        len(fds) // 4,
        paths_at,
        path_count,
        argv_at,
        len(args),
        envp_at,
        env_count,
        0,
    )
    return Plan(b"".join((header, steps, fds, paths, argv, env_block, cwd)), program, args, options.cwd)


def _c_int(value: int) -> int:
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return value


def _stdio(value: Any, number: int, pass_fds: Sequence[int]) -> int:
    if value is None:
        # A standard stream in pass_fds is passed even if it is not inheritable by itself.
        return number if number in pass_fds else _STDIO_INHERIT
    if not isinstance(value, int):
        value = value.fileno()  # AttributeError otherwise, as with Popen
    if value == subprocess.STDOUT and number == _STDOUT:
        raise ValueError("STDOUT can only be used for stderr")  # as Popen says since Python 3.13
    if value < 0 and (value < subprocess.DEVNULL or (value == subprocess.STDOUT and number != _STDERR)):
        name, words = _STDIO[number]
        note = f"{name} must be a descriptor, a file, None, PIPE, {words}, not {value}"
        raise with_step(OSError(errno.EBADF, os.strerror(errno.EBADF)), "dup fds", note)
    return _c_int(value)


def _steps(options: Options) -> tuple[bytes, bytes]:
    """Return the declared steps, in the core's order, and cwd with its NUL (empty where there is none)."""
    if (
        options.restore_signals
        and options.cwd is None
        and options.umask == -1
        and not options.start_new_session
        and options.process_group is None
    ):
        return _RESTORE_SIGNALS_ONLY, b""
    steps, cwd = [], b""
    if options.cwd is not None:
        cwd = strings([os.fsencode(options.cwd)])
        steps.append((_STEP_CHDIR, 0))
    if options.umask != -1:
        if options.umask < 0:
            raise ValueError(f"umask must not be negative: {options.umask}")
        steps.append((_STEP_UMASK, _c_int(options.umask)))
    if options.restore_signals:
        steps.append((_STEP_RESTORE_SIGNALS, 0))
    if options.start_new_session:
        steps.append((_STEP_SETSID, 0))
    if options.process_group is not None:
        if options.process_group < 0:
            raise ValueError(f"process_group must not be negative: {options.process_group}")
        steps.append((_STEP_SETPGID, _c_int(options.process_group)))
    return b"".join([PLAN_STEP.pack(step, 0, value) for step, value in steps]), cwd


def _pass_fds(options: Options) -> Sequence[int]:
    fds: Iterable[int] = options.pass_fds
    if not fds:
        return ()
    fds = sorted(set(map(int, fds)))
    if fds and not options.close_fds:
        warnings.warn("pass_fds overriding close_fds.", RuntimeWarning, stacklevel=2)
    if fds and (fds[0] < 0 or fds[-1] > _INT_MAX):
        raise ValueError("bad value(s) in fds_to_keep")
    return fds


def _candidates(executable: bytes, path: bytes) -> tuple[bytes, int]:
    """Return the programs to try, in order, and their number."""
    if b"/" in executable:
        return executable + b"\0", 1
    prefixes = _prefixes(path)
    return b"".join([prefix + executable + b"\0" for prefix in prefixes]), len(prefixes)


@functools.lru_cache(maxsize=16)
def _prefixes(path: bytes) -> tuple[bytes, ...]:
    """Return what os.path.join puts before a program, for each entry of PATH."""
    entries = path.split(b":")
    return tuple(entry + b"/" if entry and not entry.endswith(b"/") else entry for entry in entries)
