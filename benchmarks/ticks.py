"""Ticks of the kernel at a fixed interval, and how late a loop answers each of them.

A timerfd, since a timer of the loop is only as exact as the loop's own clock, and since a loop that
stands still for ten intervals has failed ten requests, not one: each tick counts, answered or not.
"""

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Iterator

_CLOCK_MONOTONIC = 1  # that of time.monotonic()
_ABSTIME = 1
_SECOND = 10**9


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


def _timerfd(first: int, interval: int) -> int:
    # os.timerfd_create came with 3.13.
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    spec = _Itimerspec(_Timespec(*divmod(interval, _SECOND)), _Timespec(*divmod(first, _SECOND)))
    if fd < 0 or libc.timerfd_settime(fd, _ABSTIME, ctypes.byref(spec), None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "timerfd")
    return fd


@contextlib.contextmanager
def ticks(interval: int, answers: list[int]) -> Iterator[None]:
    """Let the running loop answer a tick each interval; how late, goes to answers. All in nanoseconds."""
    loop = asyncio.get_running_loop()
    due = time.monotonic_ns()
    fd = _timerfd(due + interval, interval)

    def answer() -> None:
        nonlocal due
        now = time.monotonic_ns()
        for _ in range(int.from_bytes(os.read(fd, 8), "little")):
            due += interval
            answers.append(now - due)

    loop.add_reader(fd, answer)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)
