"""Keyword arguments to plan bytes: a pure function, but for reading os.environ.

The layout is avf_plan in csrc/aiovfork.cdef. Layer: below the port. Thread: any.
"""

from __future__ import annotations

import array
import errno
import functools
import operator
import os
import subprocess
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from aiovfork._binding import PLAN, PLAN_STEP, lib
from aiovfork._environment import given_environment, own_environment, strings
from aiovfork._errors import spawn_failure
from aiovfork._options import Command, Options, StrOrBytesPath

_STDIO_INHERIT: Final[int] = lib.AVF_STDIO_INHERIT
_PLAN_CLOSE_FDS: Final[int] = lib.AVF_PLAN_CLOSE_FDS
_PLAN_VERSION: Final[int] = lib.AVF_PLAN_VERSION
_INT_MAX: Final = 2**31 - 1
_STDOUT: Final = 1
_STDERR: Final = 2
_STDIO: Final = (("stdin", "or DEVNULL"), ("stdout", "or DEVNULL"), ("stderr", "STDOUT or DEVNULL"))

assert lib.AVF_STDIO_PIPE == subprocess.PIPE
assert lib.AVF_STDIO_STDOUT == subprocess.STDOUT
assert lib.AVF_STDIO_DEVNULL == subprocess.DEVNULL


#: The child's pid stays its own after its exit, until CompletionPort.release().
PIN: Final[int] = lib.AVF_PLAN_PIN
#: Whoever kills the child because nobody can hear of it any more kills the process group that it leads too.
GROUP_DIES: Final[int] = lib.AVF_PLAN_GROUP_DIES


class Plan(NamedTuple):
    """One child, described for the core, and the command, which errors name."""

    block: bytes
    command: Command


def build(command: Command, *, flags: int = 0, cgroup_fd: int = -1) -> Plan:
    """Describe a child.

    Args:
        command: What was asked for.
        flags: PIN and GROUP_DIES.
        cgroup_fd: The directory of the cgroup (v2) that the child is born into; -1 is the caller's cgroup.

    Raises:
        TypeError: An argument is not str, bytes or os.PathLike, or a number is no integer.
        ValueError: A NUL in an argument, in env or in cwd, `=` in an env key, a negative number in pass_fds.
        SpawnError: A standard stream is no descriptor that could be open.
        OverflowError: A number that does not fit a C int.
    """
    args, stdin, stdout, stderr, options, _ = command
    argv = strings([os.fsencode(arg) for arg in args])
    executable = os.fsencode(command.program)
    if b"\0" in executable:
        raise ValueError("embedded null byte")
    if options.env is None:
        env_block, env_count, path = own_environment()
    else:
        env_block, env_count, path = given_environment(options.env)
    paths, path_count = _candidates(executable, path)
    if stderr == subprocess.STDOUT and stdout is None:
        stderr = _STDOUT  # given, so that it reaches stderr even if it is not inheritable by itself
    pass_fds = _pass_fds(options)
    fds = 2 * array.array("i", [fd for fd in pass_fds if fd > _STDERR]).tobytes() if pass_fds else b""
    close_fds = options.close_fds or bool(pass_fds)
    steps = _steps(options)

    paths_at = PLAN.size + len(steps) * PLAN_STEP.size + len(fds)
    argv_at = paths_at + len(paths)
    envp_at = argv_at + len(argv)
    step_block, step_strings = _encoded(steps, envp_at + len(env_block))
    header = PLAN.pack(
        envp_at + len(env_block) + len(step_strings),
        _PLAN_VERSION,
        flags | (_PLAN_CLOSE_FDS if close_fds else 0),
        _c_int(options.pipesize),
        _stdio(stdin, 0, pass_fds),
        _stdio(stdout, 1, pass_fds),
        _stdio(stderr, 2, pass_fds),
        len(steps),
        len(fds) // 8,
        0,
        paths_at,
        path_count,
        argv_at,
        len(args),
        envp_at,
        env_count,
        cgroup_fd,
        0,
    )
    return Plan(b"".join((header, step_block, fds, paths, argv, env_block, step_strings)), command)


def _c_int(value: int) -> int:
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return value


def _integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None


def _stdio(value: Any, number: int, pass_fds: Sequence[int]) -> int:
    if value is None:
        # A standard stream in pass_fds is passed even if it is not inheritable by itself.
        return number if number in pass_fds else _STDIO_INHERIT
    name, words = _STDIO[number]
    if not isinstance(value, int):
        given, value = value, value.fileno()  # AttributeError otherwise, as with Popen
        value = _integer(value, f"fileno() of {name}")
        if value < 0:  # a socket that is closed says -1, which would mean PIPE
            raise _bad_descriptor(f"{name} must be open, but fileno() of {given!r} is {value}")
    if value == subprocess.STDOUT and number == _STDOUT:
        raise ValueError("STDOUT can only be used for stderr")  # as Popen says since Python 3.13
    if value < 0 and (value < subprocess.DEVNULL or (value == subprocess.STDOUT and number != _STDERR)):
        raise _bad_descriptor(f"{name} must be a descriptor, a file, None, PIPE, {words}, not {value}")
    return _c_int(value)


def _bad_descriptor(note: str) -> OSError:
    return spawn_failure(lib.AVF_STEP_DUP_FDS, note, errno.EBADF, os.strerror(errno.EBADF))


# ---- options that are a step of the child ----


def _text(value: StrOrBytesPath | None) -> bytes | None:
    return None if value is None else strings([os.fsencode(value)])


def _switch(value: bool) -> int | None:  # it is the option's value
    return 0 if value else None


def _umask(value: int) -> int | None:
    value = _integer(value, "umask")
    if value == -1:
        return None
    if value < 0:
        raise ValueError(f"umask must not be negative: {value}")
    return _c_int(value)


def _process_group(value: int | None) -> int | None:
    if value is None:
        return None
    value = _integer(value, "process_group")
    if value < 0:
        raise ValueError(f"process_group must not be negative: {value}")
    return _c_int(value)


# Each option, its step, and what turns the option's value into the step's: a number, a string of which the
# step has the offset, or None where there is no such step. In the core's order of steps.
STEPS: Final[tuple[tuple[str, int, Callable[[Any], int | bytes | None]], ...]] = (
    ("cwd", lib.AVF_STEP_CHDIR, _text),
    ("umask", lib.AVF_STEP_UMASK, _umask),
    ("restore_signals", lib.AVF_STEP_RESTORE_SIGNALS, _switch),
    ("start_new_session", lib.AVF_STEP_SETSID, _switch),
    ("process_group", lib.AVF_STEP_SETPGID, _process_group),
)
#: The options that build() reads by itself.
BUILT_IN: Final = frozenset({"executable", "env", "close_fds", "pass_fds", "pipesize"})

_values: Final = operator.attrgetter(*(option for option, _, _ in STEPS))


def _chosen(values: tuple[Any, ...]) -> tuple[tuple[int, int | bytes], ...]:
    chosen = []
    for (_, step, encode), value in zip(STEPS, values, strict=True):
        encoded = encode(value)
        if encoded is not None:
            chosen.append((step, encoded))
    return tuple(chosen)


def _packed(steps: tuple[tuple[int, Any], ...]) -> bytes:
    return b"".join([PLAN_STEP.pack(step, 0, 0, value) for step, value in steps])


# Of most children, packed once: what create_subprocess_exec() does by default, and run().
_USUAL: Final = [
    (_values(options), _chosen(_values(options)), _packed(_chosen(_values(options))))
    for options in (Options(), Options(process_group=0))
]


def _steps(options: Options) -> tuple[tuple[int, int | bytes], ...]:
    """Return the declared steps with their values, in the core's order."""
    values = _values(options)
    for usual, steps, _ in _USUAL:
        if values == usual:
            return steps
    return _chosen(values)


def _encoded(steps: tuple[tuple[int, int | bytes], ...], strings_at: int) -> tuple[bytes, bytes]:
    """Return the steps as the core reads them, and their strings, which begin at an offset of the block."""
    for _, usual, block in _USUAL:
        if steps is usual:
            return block, b""
    packed, texts = [], b""
    for step, value in steps:
        if isinstance(value, bytes):
            packed.append(PLAN_STEP.pack(step, 0, 0, strings_at + len(texts)))
            texts += value
        else:
            packed.append(PLAN_STEP.pack(step, 0, 0, value))
    return b"".join(packed), texts


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
