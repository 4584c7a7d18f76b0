"""Seccomp filters in a few instructions, for the calling thread and everything that it starts afterwards.

There is no way back, so only in an interpreter of its own (tests.support.isolated).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from typing import Any, Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_RET_ALLOW: Final = 0x7FFF0000
_RET_ERRNO: Final = 0x00050000
# linux/bpf_common.h
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_SET: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
# struct seccomp_data: nr, arch, instruction_pointer, args[6]; the low halves of the arguments
_NUMBER: Final = 0
_ARGUMENT: Final = 16

#: Numbers of system calls; those from 424 on are the same everywhere.
SYSCALLS: Final[dict[str, int]] = {
    "clone3": 435,
    "close_range": 436,
    "pidfd_send_signal": 424,
    "faccessat2": 439,
    **{
        "x86_64": {
            "clone": 56,
            "memfd_create": 319,
            "setresuid": 117,
            "setresgid": 119,
            "execveat": 322,
            "execve": 59,
            "kcmp": 312,
            "chdir": 80,
            "nanosleep": 35,
            "waitid": 247,
            "pipe2": 293,
            "fcntl": 72,
            "epoll_ctl": 233,
            "dup3": 292,
            "umask": 95,
            "setsid": 112,
            "setpgid": 109,
            "rt_sigaction": 13,
            "prctl": 157,
            "openat": 257,
            "kill": 62,
            "wait4": 61,
            "sendmsg": 46,
            "recvmsg": 47,
            "socketpair": 53,
            "eventfd2": 290,
            "timerfd_create": 283,
            "timerfd_settime": 286,
            "clock_gettime": 228,
            "uname": 63,
            "ioctl": 16,
            "getsockopt": 55,
            "poll": 7,
            "statx": 332,
            "close": 3,
        },
        "aarch64": {
            "kill": 129,
            "wait4": 260,
            "sendmsg": 211,
            "recvmsg": 212,
            "socketpair": 199,
            "statx": 291,
            "close": 57,
            "clone": 220,
            "memfd_create": 279,
            "setresuid": 147,
            "setresgid": 149,
            "execveat": 281,
            "execve": 221,
            "kcmp": 272,
            "chdir": 49,
            "nanosleep": 101,
            "waitid": 95,
            "pipe2": 59,
            "fcntl": 25,
            "epoll_ctl": 21,
            "dup3": 24,
            "umask": 166,
            "setsid": 157,
            "setpgid": 154,
            "rt_sigaction": 134,
            "prctl": 167,
            "openat": 56,
            "eventfd2": 19,
            "timerfd_create": 85,
            "timerfd_settime": 86,
            "clock_gettime": 113,
            "uname": 160,
            "ioctl": 29,
            "getsockopt": 209,
            "poll": 73,  # ppoll
        },
    }.get(platform.machine(), {}),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _instruction(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def prctl(option: int, *args: int) -> int:
    """Call prctl(2) for this thread."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    result: int = libc.prctl(option, *(ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]))
    _check(result)
    return result


def _install(*instructions: bytes) -> None:
    program = _Program(len(instructions), b"".join(instructions))
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def refuse(calls: Mapping[str, int | str]) -> None:
    """Let system calls, by name, fail with an errno (a number, or its name)."""
    for name, error in calls.items():
        number = errno.__dict__[error] if isinstance(error, str) else error
        _install(
            _instruction(_LOAD_WORD, 0, 0, _NUMBER),
            _instruction(_JUMP_EQUAL, 0, 1, SYSCALLS[name]),
            _instruction(_RETURN, 0, 0, _RET_ERRNO | number),
            _instruction(_RETURN, 0, 0, _RET_ALLOW),
        )


def refuse_flag(name: str, argument: int, bit: int, error: str) -> None:
    """Let a system call fail where an argument has a bit set."""
    _install(
        _instruction(_LOAD_WORD, 0, 0, _NUMBER),
        _instruction(_JUMP_EQUAL, 0, 3, SYSCALLS[name]),
        _instruction(_LOAD_WORD, 0, 0, _ARGUMENT + 8 * argument),
        _instruction(_JUMP_SET, 0, 1, bit),
        _instruction(_RETURN, 0, 0, _RET_ERRNO | errno.__dict__[error]),
        _instruction(_RETURN, 0, 0, _RET_ALLOW),
    )
