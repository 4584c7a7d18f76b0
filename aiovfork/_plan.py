"""Keyword arguments to plan bytes: a pure function, but for reading os.environ and the databases of users.

The layout is avf_plan in csrc/aiovfork.cdef. Layer: below the port. Thread: any.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from typing import Any, Final, NamedTuple

from aiovfork._binding import PLAN, PLAN_STEP, ffi, lib
from aiovfork._descriptors import given, stream
from aiovfork._environment import given_environment, listening, own_environment
from aiovfork._options import Command
from aiovfork._steps import declared_by, packed
from aiovfork._values import c_int, strings

_PLAN_CLOSE_FDS: Final[int] = lib.AVF_PLAN_CLOSE_FDS
_PLAN_LISTEN: Final[int] = lib.AVF_PLAN_LISTEN
_PLAN_VERSION: Final[int] = lib.AVF_PLAN_VERSION
_TO_STDOUT: Final[int] = lib.AVF_STDIO_STDOUT
_INT_SIZE: Final = 4
_STDOUT: Final = 1
_INT_MAX: Final = 2**31 - 1
_CGROUP: Final = struct.Struct("=i")
_CGROUP_AT: Final[int] = ffi.offsetof("avf_plan", "cgroup_fd")

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
        cgroup_fd: The directory of the cgroup (v2) that the child is born into; -1 is the caller's cgroup, or
            that of the option cgroup, which the port opens.

    Raises:
        TypeError: An argument is not str, bytes or os.PathLike, or a number is no integer.
        ValueError: A NUL in an argument, in env or in cwd, `=` in an env key, a value that cannot be had.
        KeyError: There is no user or group of that name.
        SpawnError: A descriptor is none that could be open.
        OverflowError: A number that does not fit a C int.
    """
    args, stdin, stdout, stderr, options, *_ = command
    argv = strings([os.fsencode(arg) for arg in args])
    executable = os.fsencode(command.program)
    if b"\0" in executable:
        raise ValueError("embedded null byte")
    if options.env is None:
        env_block, env_count, path = own_environment()
    else:
        env_block, env_count, path = given_environment(options.env)
    paths, path_count = _candidates(executable, path)
    if stderr == _TO_STDOUT and stdout is None:
        stderr = _STDOUT  # given, so that it reaches stderr even if it is not inheritable by itself
    passed, fds, fd_count, close_others, listen_names = given(options)
    if listen_names is not None:
        env_block, env_count = listening(env_block, listen_names)
        flags |= _PLAN_LISTEN
    count, held, fields, offsets, block = declared_by(options)

    paths_at = PLAN.size + count * PLAN_STEP.size + len(fds) + len(held)
    argv_at = paths_at + len(paths)
    envp_at = argv_at + len(argv)
    end = envp_at + len(env_block)
    data = b""
    if block is None:
        block, data = packed(fields, offsets, end)
    header = PLAN.pack(
        end + len(data),
        _PLAN_VERSION,
        flags | (_PLAN_CLOSE_FDS if close_others else 0),
        c_int(options.pipesize),
        stream(stdin, 0, passed),
        stream(stdout, 1, passed),
        stream(stderr, 2, passed),
        count,
        fd_count,
        len(held) // _INT_SIZE,
        paths_at,
        path_count,
        argv_at,
        len(args),
        envp_at,
        env_count,
        cgroup_fd,
        0,
    )
    return Plan(b"".join((header, block, fds, held, paths, argv, env_block, data)), command)


def in_cgroup(block: bytes, cgroup_fd: Any) -> bytes:
    """Return a plan whose child is born into the cgroup of that folder.

    Raises:
        OSError: It is no descriptor that could be open.
    """
    if not 0 <= cgroup_fd <= _INT_MAX:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return b"".join((block[:_CGROUP_AT], _CGROUP.pack(cgroup_fd), block[_CGROUP_AT + _CGROUP.size :]))


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
