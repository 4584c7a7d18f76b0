"""The records that a port delivers, and what can be read from them.

Layer: beside the port. Thread: the loop's.
"""

from __future__ import annotations

import collections
import operator
import os
import resource
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from aiovfork._binding import RUSAGE, lib, step_name

NO_ENDS: Final = (-1, -1, -1)
#: Of a child in which every step of best_effort= was applied.
NO_NOTES: Final = bytes(4 * lib.AVF_NOTES)
_ALL_APPLIED: Final[Mapping[str, int]] = {}  # no mappingproxy, which cannot be pickled

_UNKNOWN: Final[int] = lib.AVF_STATUS_UNKNOWN
_NOT_OURS: Final[int] = lib.AVF_STATUS_RECOVERED | _UNKNOWN
_GROUP_LIVES: Final[int] = lib.AVF_GROUP_LIVES


def _not_applied(notes: bytes) -> Mapping[str, int]:
    """Return what avf_event.notes say: steps and errnos."""
    numbers = [note for (note,) in struct.iter_unpack("=i", notes) if note]
    shift = lib.AVF_NOTE_ERRNO_SHIFT
    return {step_name(note & (1 << shift) - 1): note >> shift for note in numbers}


class SpawnInfo(NamedTuple):
    """How a child was started.

    Attributes:
        engine: The call that created it: "clone3", or libc's "clone"; "launcher" if the child went on in a
            program of its own before exec, as user=, group=, extra_groups= and capabilities= need it.
        report: How its failure would have been told: by "memory" shared in vfork, or through a "pipe".
        fds_unshared: Whether the descriptor table was unshared in the child instead of copied by clone.
        queue_us: Microseconds from the call to the start by a worker thread.
        clone_us: Microseconds from there to the child's first instruction.
        exec_us: Microseconds from there to exec.
        not_applied: The steps of best_effort= that failed, with the errno of each.
    """

    engine: str
    report: str
    fds_unshared: bool
    queue_us: float
    clone_us: float
    exec_us: float
    not_applied: Mapping[str, int] = _ALL_APPLIED


class Spawned(NamedTuple):
    """A child has reached exec. Times are nanoseconds; the parent's ends are the receiver's to close."""

    ticket: int
    pid: int
    pidfd: int
    flags: int
    parent_end: tuple[int, int, int]
    queue_ns: int
    clone_ns: int
    exec_ns: int
    notes: bytes = NO_NOTES

    def info(self) -> SpawnInfo:
        """Return how the child was started."""
        engine = "clone3" if self.flags & lib.AVF_ENGINE_CLONE3 else "clone"
        return SpawnInfo(
            "launcher" if self.flags & lib.AVF_LAUNCHER else engine,
            "pipe" if self.flags & lib.AVF_REPORT_PIPE else "memory",
            bool(self.flags & lib.AVF_FDS_UNSHARED),
            self.queue_ns / 1e3,
            self.clone_ns / 1e3,
            self.exec_ns / 1e3,
            {} if self.notes == NO_NOTES else _not_applied(self.notes),
        )


class Exited(NamedTuple):
    """A child has been reaped."""

    status: int
    flags: int
    raw_rusage: bytes

    @property
    def returncode(self) -> int:
        """The exit code, or -N for a child killed by signal N."""
        return os.waitstatus_to_exitcode(self.status)

    @property
    def known(self) -> bool:
        """Whether the status is the child's own: False if somebody else took it and the kernel forgot it."""
        return not self.flags & _UNKNOWN

    @property
    def group_lives(self) -> bool:
        """Whether the ticket is held: the child led a process group that may have members yet.

        The receiver releases it: CompletionPort.release().
        """
        return bool(self.flags & _GROUP_LIVES)

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What the child used; None where somebody else reaped it."""
        if self.flags & _NOT_OURS:
            return None
        utime_s, utime_us, stime_s, stime_us, *counts = RUSAGE.unpack(self.raw_rusage)
        return resource.struct_rusage((utime_s + utime_us / 1e6, stime_s + stime_us / 1e6, *counts))


class Captured(NamedTuple):
    """A capture is over. Times are nanoseconds, and 0 without a child of its own."""

    ticket: int
    pid: int
    error: int
    flags: int
    queue_ns: int
    clone_ns: int
    exec_ns: int
    exit: Exited
    notes: bytes = NO_NOTES

    @property
    def exited(self) -> Exited | None:
        """How its child has ended; None while it lives, or where there is none."""
        return self.exit if self.pid > 0 and not self.flags & lib.AVF_CHILD_LIVES else None

    @property
    def limited(self) -> bool:
        """Whether there was more than the limit, so that the pipes were closed."""
        return bool(self.flags & lib.AVF_CAPTURE_LIMITED)

    @property
    def cut(self) -> bool:
        """Whether somebody still held a pipe when the time after the exit had passed."""
        return bool(self.flags & lib.AVF_CAPTURE_CUT)

    def info(self) -> SpawnInfo:
        """Return how the child was started."""
        return Spawned(self.ticket, self.pid, -1, self.flags, NO_ENDS, *self[4:7], self.notes).info()


def close_all(ends: dict[int, int], *fds: int) -> None:
    """Close ends of pipes, those of some fds or all that are there, and forget them.

    As one call into C: an exception of a signal handler comes before or after it, never between forgetting
    a number and closing it.
    """
    if ends:
        collections.deque(map(os.close, map(ends.pop, fds or tuple(ends))), maxlen=0)


def map_calls(*calls: Callable[[], Any]) -> list[Any]:
    """Call functions written in C, one after another: no exception of a signal handler comes in between."""
    return list(map(operator.call, calls))
